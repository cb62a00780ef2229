"""Training by several processes over MPI: ranks, and the gradients that they exchange."""
