"""Training: loops, optimisers, callbacks, checkpoints, evaluation."""
