"""How fast rnnfast is beside PyTorch and beside the book's way of computing; see README.md."""
