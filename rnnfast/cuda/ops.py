"""The operations without a time loop in CUDA; their contract is rnnfast/reference/ops.py.

M rows, K inputs, N outputs, V vocabulary, D embedding width. With arrays on the GPU nothing waits
for it: a loss and a sum are 0-d arrays there, and ids and targets are not looked at: one outside
[0, V) gives a row of NaN instead of a ValueError, and no gradient. NumPy ids are checked.
"""

import importlib

from rnnfast.cuda import what_runs
from rnnfast.cuda.affine import affine_backward, affine_forward
from rnnfast.cuda.dropout import dropout_mask
from rnnfast.cuda.embedding import embedding_backward, embedding_forward
from rnnfast.cuda.mixture import (
    mixture_softmax,
    mixture_softmax_loss_backward,
    mixture_softmax_loss_forward,
)
from rnnfast.cuda.planner import make_plan
from rnnfast.cuda.softmax_loss import (
    affine_softmax_loss_backward,
    affine_softmax_loss_forward,
    softmax_loss_backward,
    softmax_loss_forward,
)
from rnnfast.cuda.updates import adam, adam_of_all, clip, scale, sgd, sgd_of_all, sum_of_squares

__all__ = [
    "adam",
    "adam_of_all",
    "affine_backward",
    "affine_forward",
    "affine_softmax_loss_backward",
    "affine_softmax_loss_forward",
    "clip",
    "dropout_mask",
    "embedding_backward",
    "embedding_forward",
    "graph",
    "mixture_softmax",
    "mixture_softmax_loss_backward",
    "mixture_softmax_loss_forward",
    "plans",
    "scale",
    "sgd",
    "sgd_of_all",
    "softmax_loss_backward",
    "softmax_loss_forward",
    "sum_of_squares",
    "to_device",
]


def plans(cell, N, H, precision):
    """How a float32 cell would run: ("forward", its Plan) and ("backward", its)."""
    module = importlib.import_module(f"rnnfast.cuda.{cell}")
    precision = "float32" if precision == "highest" else "tf32"
    for way in ("forward", "backward"):
        forward = way == "forward"
        yield way, make_plan(what_runs(), module.CELL, forward, N, H, "float32", precision)


def graph():
    """An empty CUDA graph, see graph.py; None where the runtime has none."""
    return what_runs().graph()


def to_device(x):
    """x as a CuPy array."""
    return what_runs().to_device(x)
