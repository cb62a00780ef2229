"""The speed of rnnfast compared with PyTorch and with the book's code; see README.md."""
