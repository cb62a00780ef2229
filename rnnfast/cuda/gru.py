"""The GRU in CUDA; the equations are those of rnnfast/reference/gru.py.

r comes before the candidate's product, or with reset_after after it. That makes two cells: one has
two products a step, the other a single one and an array more for what goes back to h Wh.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rnnfast.cuda import recurrence
from rnnfast.cuda._bound import multiply
from rnnfast.cuda.activations import activations
from rnnfast.cuda.cells import Cell


@dataclass(frozen=True)
class Gru(Cell):
    """Gates z, r and the candidate; z is how much is renewed, also where z_keeps."""

    z_keeps: bool = False

    name = "gru"
    gates = 3

    def unit(self, gpu, dtype):
        """Device functions update, renew, renew_back and reset_back, wherever r comes."""
        sigmoid, _ = activations(gpu, dtype)
        one, KEEPS, CANDIDATE = np.dtype(dtype).type(1), self.z_keeps, self.candidate

        @gpu.device
        def update(a):
            """z from its pre-activation."""
            if KEEPS:
                a = -a
            return sigmoid(a)

        @gpu.device
        def renew(z, h, h_hat, m):
            """The new h; m: the factor of h_hat, if the cell has a candidate mask."""
            if CANDIDATE:
                h_hat *= m
            return (one - z) * h + z * h_hat

        @gpu.device
        def renew_back(dh, z, h, h_hat, m):
            """dA_z, dA_h and what goes straight to dh of the step before."""
            dA_h = dh * z * (one - h_hat * h_hat)
            if CANDIDATE:
                dA_h *= m
                h_hat *= m
            dA_z = dh * (h_hat - h) * z * (one - z)
            if KEEPS:
                dA_z = -dA_z
            return dA_z, dA_h, dh * (one - z)

        @gpu.device
        def reset_back(dr, r):
            """dA_r."""
            return dr * r * (one - r)

        return update, renew, renew_back, reset_back


@dataclass(frozen=True)
class GruBefore(Gru):
    """The book's: the candidate's product is of r h, which is kept."""

    kept = ("hp", "rh")
    biases = 3
    products = ((0, 1), (2,))

    def equations(self, gpu, dtype):
        sigmoid, tanh = activations(gpu, dtype)
        update, renew, _, _ = self.unit(gpu, dtype)

        @gpu.device
        def first(x, a, states, w):
            z = update(x[0] + w[0] + a[0])
            r = sigmoid(x[1] + w[1] + a[1])
            return (z, r), r * states[0]

        @gpu.device
        def step(x, a, states, w):
            z, r, a_h = a
            h = states[0]
            h_hat = tanh(x[2] + w[2] + a_h)
            return (z, r, h_hat), (renew(z, h, h_hat, w[-1]),), (h, r * h)

        return first, step

    def equations_back(self, gpu, dtype):
        _, _, renew_back, reset_back = self.unit(gpu, dtype)

        @gpu.device
        def first_back(dstates, gates, kept, w):
            _, dA_h, _ = renew_back(dstates[0], gates[0], kept[0], gates[2], w[-1])
            return (dA_h,)

        @gpu.device
        def step_back(dstates, through, gates, kept, w):
            z, r, h_hat = gates
            dA_z, dA_h, dh = renew_back(dstates[0], z, kept[0], h_hat, w[-1])
            dA_r = reset_back(through * kept[0], r)
            return (dA_z, dA_r, dA_h), (dA_z, dA_r), (dh + through * r,)

        return first_back, step_back


@dataclass(frozen=True)
class GruAfter(Gru):
    """cuDNN's, PyTorch's and Keras': q = h Wh_h + b1_h is kept; b is (2, 3H)."""

    kept = ("hp", "q")
    biases = 6
    separate = True

    def equations(self, gpu, dtype):
        sigmoid, tanh = activations(gpu, dtype)
        update, renew, _, _ = self.unit(gpu, dtype)

        @gpu.device
        def step(x, a, states, w):
            h = states[0]
            z = update(x[0] + w[0] + (a[0] + w[3]))
            r = sigmoid(x[1] + w[1] + (a[1] + w[4]))
            q = a[2] + w[5]
            h_hat = tanh(x[2] + w[2] + r * q)
            return (z, r, h_hat), (renew(z, h, h_hat, w[-1]),), (h, q)

        return None, step

    def equations_back(self, gpu, dtype):
        _, _, renew_back, reset_back = self.unit(gpu, dtype)

        @gpu.device
        def step_back(dstates, through, gates, kept, w):
            z, r, h_hat = gates
            dA_z, dA_h, dh = renew_back(dstates[0], z, kept[0], h_hat, w[-1])
            dA_r = reset_back(dA_h * kept[1], r)
            return (dA_z, dA_r, dA_h), (dA_z, dA_r, dA_h * r), (dh,)

        return None, step_back

    def other_grads(self, call, arrays, grads):
        if not call.biased:
            return {}
        db = call.target(grads[2])
        multiply([call.sum_of_rows(x, db[k]) for k, x in enumerate((arrays.A, arrays.B))])
        return {"db": db}


@lru_cache(typed=True)
def cell_of(reset_after, z_keeps):
    """The same object for the same options."""
    return (GruAfter if reset_after else GruBefore)(z_keeps)


CELL = GruBefore()  # without options


def forward(
    xs,
    state,
    params,
    *,
    train=True,
    lengths=None,
    reverse=False,
    h_mask=None,
    candidate_mask=None,
    h_zoneout=None,
    reset_after=False,
    z_keeps=False,
):
    """See rnnfast.kernels."""
    cell, of_steps = cell_of(reset_after, z_keeps), (candidate_mask, h_zoneout)
    return recurrence.forward(cell, xs, state, params, train, lengths, reverse, h_mask, of_steps)


def backward(dhs, dstate, params, cache, grads):
    """See rnnfast.kernels."""
    return recurrence.backward(Gru, dhs, dstate, params, cache, grads)


def pack(params, *, precision=None, reset_after=False, z_keeps=False):
    """See rnnfast.kernels."""
    return recurrence.pack(cell_of(reset_after, z_keeps), params, precision)
