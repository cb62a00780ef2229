"""The RNN in CUDA; the equations are those of rnnfast/reference/rnn.py."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rnnfast.cuda import recurrence
from rnnfast.cuda.activations import activations
from rnnfast.cuda.cells import Cell


@dataclass(frozen=True)
class Rnn(Cell):
    nonlinearity: str = "tanh"

    name = "rnn"

    def __post_init__(self):
        if self.nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f'rnn: nonlinearity must be "tanh" or "relu", got {self.nonlinearity!r}'
            )

    @property
    def bounded(self):
        return self.nonlinearity == "tanh"

    def equations(self, gpu, dtype):
        _, tanh = activations(gpu, dtype)
        zero, RELU = np.dtype(dtype).type(0), self.nonlinearity == "relu"

        @gpu.device
        def step(x, a, states, w):
            h = x[0] + w[0] + a[0]
            if RELU:
                if h < zero:  # a NaN stays
                    h = zero
            else:
                h = tanh(h)
            return (h,), (h,), (states[0],)

        return None, step

    def equations_back(self, gpu, dtype):
        zero, one = (np.dtype(dtype).type(k) for k in (0, 1))
        RELU = self.nonlinearity == "relu"

        @gpu.device
        def step_back(dstates, through, gates, kept, w):
            h, da = gates[0], dstates[0]
            if RELU:
                if not h > zero:
                    da = zero
            else:
                da *= one - h * h
            return (da,), (da,), (zero,)

        return None, step_back


CELL = Rnn()  # without options
cell_of = lru_cache(typed=True)(Rnn)  # the same object for the same options


def forward(
    xs,
    state,
    params,
    *,
    train=True,
    lengths=None,
    reverse=False,
    h_mask=None,
    h_zoneout=None,
    nonlinearity="tanh",
):
    """See rnnfast.kernels."""
    cell, of_steps = cell_of(nonlinearity), (None, h_zoneout)
    return recurrence.forward(cell, xs, state, params, train, lengths, reverse, h_mask, of_steps)


def backward(dhs, dstate, params, cache, grads):
    """See rnnfast.kernels."""
    return recurrence.backward(Rnn, dhs, dstate, params, cache, grads)


def pack(params, *, precision=None, nonlinearity="tanh"):
    """See rnnfast.kernels."""
    return recurrence.pack(Rnn(nonlinearity), params, precision)
