"""Optimisers and gradient clipping, with the names of the book's common/optimizer.py.

The code is in rnnfast.training.
"""

from rnnfast.training.averaging import ASGD, NTASGD
from rnnfast.training.gradients import clip_grads, remove_duplicate
from rnnfast.training.optimizers import OPTIMIZERS, SGD, AdaGrad, Adam, Momentum, RMSprop

__all__ = [
    "ASGD",
    "NTASGD",
    "OPTIMIZERS",
    "SGD",
    "AdaGrad",
    "Adam",
    "Momentum",
    "RMSprop",
    "clip_grads",
    "remove_duplicate",
]
