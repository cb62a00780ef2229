"""Optimisers, learning-rate schedules and clipping: the book's common/optimizer.py, and more.

The code is in rnnfast.training.
"""

from rnnfast.training.averaging import ASGD, NTASGD
from rnnfast.training.gradients import clip_grads, remove_duplicate
from rnnfast.training.optimizers import (
    OPTIMIZERS,
    SGD,
    AdaGrad,
    Adam,
    Momentum,
    Nesterov,
    RMSprop,
)
from rnnfast.training.schedules import Cosine, Schedule, StepDecay, WarmUp

__all__ = [
    "ASGD",
    "NTASGD",
    "OPTIMIZERS",
    "SGD",
    "AdaGrad",
    "Adam",
    "Cosine",
    "Momentum",
    "Nesterov",
    "RMSprop",
    "Schedule",
    "StepDecay",
    "WarmUp",
    "clip_grads",
    "remove_duplicate",
]
