"""The LSTM in CUDA; the equations are those of rnnfast/reference/lstm.py."""

from dataclasses import dataclass, replace
from functools import cache, lru_cache
from math import isfinite

import numpy as np

from rnnfast.cuda import recurrence, steps
from rnnfast.cuda.activations import activations
from rnnfast.cuda.call import rows
from rnnfast.cuda.cells import Cell
from rnnfast.cuda.signatures import signature_of


@dataclass(frozen=True)
class Lstm(Cell):
    """Gates f, g, i, o; peephole: with a Wp (3, H)."""

    clip: float | None = None
    peephole: bool = False

    name = "lstm"
    gates = 4
    states = ("h", "c")
    kept = ("hp", "cp")
    biases = 4
    beside = ("Wp",)

    def __post_init__(self):
        if self.clip is not None and not (self.clip > 0 and isfinite(self.clip)):
            raise ValueError(f"{self.name}: cell_clip must be positive and finite, got {self.clip}")

    @property
    def peepholes(self):
        return 3 * self.peephole

    def make_renew(self, gpu, dtype):
        """renew(A_f, A_g, A_i, c, m): the gates before the new c, with it; and c's bounds alone.

        m: the factor of g, if the cell has a candidate mask.
        """
        sigmoid, tanh = activations(gpu, dtype)
        CLIP, CANDIDATE = self.clip is not None, self.candidate
        low, high = (np.dtype(dtype).type(k * (self.clip or 0)) for k in (-1, 1))

        @gpu.device
        def bounded(c):
            if CLIP:
                if c < low:
                    c = low
                if c > high:
                    c = high
            return c

        @gpu.device
        def renew(A_f, A_g, A_i, c, m):
            f = sigmoid(A_f)
            g = tanh(A_g)
            i = sigmoid(A_i)
            seen = g
            if CANDIDATE:
                seen *= m
            return f, g, i, bounded(f * c + seen * i)

        return renew, bounded

    def equations(self, gpu, dtype):
        sigmoid, tanh = activations(gpu, dtype)
        renew, _ = self.make_renew(gpu, dtype)
        PEEPHOLES, KEEPS_H = self.peephole, "hp" in self.kept

        @gpu.device
        def step(x, a, states, w):
            h_prev, c_prev = states
            A_f = x[0] + w[0] + a[0]
            A_i = x[2] + w[2] + a[2]
            if PEEPHOLES:
                A_f += c_prev * w[4]
                A_i += c_prev * w[5]
            f, g, i, c = renew(A_f, x[1] + w[1] + a[1], A_i, c_prev, w[-1])
            A_o = x[3] + w[3] + a[3]
            if PEEPHOLES:
                A_o += c * w[6]
            o = sigmoid(A_o)
            if KEEPS_H:
                return (f, g, i, o), (o * tanh(c), c), (h_prev, c_prev)
            return (f, g, i, o), (o * tanh(c), c), (c_prev,)

        return None, step

    def equations_back(self, gpu, dtype):
        _, tanh = activations(gpu, dtype)
        _, bounded = self.make_renew(gpu, dtype)
        zero, one = (np.dtype(dtype).type(k) for k in (0, 1))
        low, high = (np.dtype(dtype).type(k * (self.clip or 0)) for k in (-1, 1))
        PEEPHOLES, CLIP, CELL = self.peephole, self.clip is not None, self.kept.index("cp")
        CANDIDATE = self.candidate

        @gpu.device
        def step_back(dstates, through, gates, kept, w):
            f, g, i, o = gates
            c_prev = kept[CELL]
            seen = g
            if CANDIDATE:
                seen *= w[-1]
            c = bounded(f * c_prev + seen * i)
            tanh_c = tanh(c)
            dh, dc = dstates
            dA_o = dh * tanh_c * o * (one - o)
            dc = dc + dh * o * (one - tanh_c * tanh_c)
            if PEEPHOLES:
                dc += dA_o * w[6]
            if CLIP and (c <= low or c >= high):
                dc = zero
            dA_f = dc * c_prev * f * (one - f)
            dA_g = dc * i * (one - g * g)
            if CANDIDATE:
                dA_g *= w[-1]
            dA_i = dc * seen * i * (one - i)
            dc = dc * f
            if PEEPHOLES:
                dc += dA_f * w[4] + dA_i * w[5]
            dA = (dA_f, dA_g, dA_i, dA_o)
            return dA, dA, (zero, dc)

        return None, step_back

    def of(self, peepholes):
        if peepholes == "full":
            return WholeLstm(self.clip, candidate=self.candidate, zoned=self.zoned)
        return replace(self, peephole=True) if peepholes else self

    def other_grads(self, call, arrays, grads):
        """dWp, from dA and c before each step; c after a step is c before the one that follows.

        With c_zoneout o has seen another c, which is kept.
        """
        if not call.peepholes:
            return {}
        dA, cp, c = arrays.A, arrays.kept[1], arrays.c_new
        if c is None:
            c = self.cells_after(call, arrays, cp)
        dWp, (dA_f, _, dA_i, dA_o) = call.target(grads[3]), blocks(dA)
        for k, (cell, dA_k) in enumerate(((cp, dA_f), (cp, dA_i), (c, dA_o))):
            if call.peepholes == "diagonal":
                dWp[k] = (cell * dA_k).sum(axis=(0, 1))
            else:
                dWp[k] = call.gpu.matmul(rows(cell).T, rows(dA_k))
        return {"beside": (dWp,)}

    def cells_after(self, call, arrays, cp):
        """c (N, T, H) after each step."""
        _, cT = arrays.final
        c = call.empty(call.N, call.T, call.H)
        if arrays.reverse:
            c[:, 1:], c[:, 0] = cp[:, :-1], cT
        else:
            c[:, :-1], c[:, -1] = cp[:, 1:], cT
            if call.ragged:
                last = call.xp.arange(call.T) == arrays.ends[:, np.newaxis] - 1
                c = call.xp.where(last[:, :, np.newaxis], cT[:, np.newaxis], c)
        return c


class WholeLstm(Lstm):
    """With a Wp (3, H, H). What it gives is added to the products and to dc, in steps.

    What has to meet it before, the new c and on the way back dA_o, a kernel of its own computes.
    """

    in_steps = True

    def complete(self, call, arrays, Ah, states, seen):
        gpu, Wp, c, c_next = call.gpu, arrays.Wp, states[1], call.empty(call.N, call.H)
        (Ah_f, _, Ah_i, Ah_o), product = blocks(Ah), gpu.step_product
        kernel = gpu.step_launch(
            make_cell_kernel(gpu, self, call.H, call.dtype.name),
            **steps.given(call, A=arrays.A, Ah=Ah, b=arrays.b, c=c, c_next=c_next),
            candidate_mask=steps.candidate_mask(call, arrays),
        )
        before = [product(c, Wp[0], Ah_f, add=True), product(c, Wp[1], Ah_i, add=True)]
        return [*before, kernel, product(c_next, Wp[2], Ah_o, add=True)]

    def complete_back(self, call, arrays, dstates, came):
        gpu, Wp, (dh, dc), dA_o = call.gpu, arrays.Wp, dstates, call.empty(call.N, call.H)
        kernel = gpu.step_launch(
            make_output_kernel(gpu, self, call.H, call.masked, call.ragged, call.dtype.name),
            **steps.given(call, A=arrays.A, cp=arrays.kept[1], dh=dh, dA_o=dA_o, came=came),
            **{"dhs": arrays.dhs, "m": arrays.m, "ends": arrays.ends},
            candidate_mask=steps.candidate_mask(call, arrays),
        )
        dA_f, _, dA_i, _ = blocks(arrays.A)
        to_c = {"out": dc, "turned": True, "add": True}
        before = [kernel, gpu.step_product(dA_o, Wp[2], **to_c)]
        return before, [gpu.step_product(dA, W, **to_c) for dA, W in ((dA_f, Wp[0]), (dA_i, Wp[1]))]


@cache
def make_cell_kernel(gpu, cell, H, dtype):
    """c_next (N, H): the c that step t will give."""
    place = steps.make_place(gpu, H)
    renew, _ = cell.make_renew(gpu, dtype)
    zero, CANDIDATE = np.dtype(dtype).type(0), cell.candidate

    def cell_kernel(A, Ah, b, c, c_next, candidate_mask, N, T, t):
        e, n, j, at = place(N, T, t)
        if e < N * H:
            gate, row = 4 * (at - j) + j, n * 4 * H + j
            m = zero
            if CANDIDATE:
                m = candidate_mask[at]
            _, _, _, c_next[e] = renew(
                A[gate] + b[j] + Ah[row],
                A[gate + H] + b[H + j] + Ah[row + H],
                A[gate + 2 * H] + b[2 * H + j] + Ah[row + 2 * H],
                c[e],
                m,
            )

    return gpu.kernel(cell_kernel, signature_of(cell_kernel, dtype, cell), steps.THREADS)


@cache
def make_output_kernel(gpu, cell, H, masked, ragged, dtype):
    """dA_o (N, H) of step t."""
    place = steps.make_place(gpu, H)
    _, tanh = activations(gpu, dtype)
    _, bounded = cell.make_renew(gpu, dtype)
    zero, one = (np.dtype(dtype).type(k) for k in (0, 1))
    CANDIDATE = cell.candidate

    def output_kernel(dhs, A, dA_o, cp, dh, came, m, candidate_mask, ends, N, T, t):
        e, n, j, at = place(N, T, t)
        if e < N * H:
            gate = 4 * (at - j) + j
            o = A[gate + 3 * H]
            back = came[e]
            if masked:
                back *= m[e]
            g = A[gate + H]
            if CANDIDATE:
                g *= candidate_mask[at]
            tanh_c = tanh(bounded(A[gate] * cp[at] + g * A[gate + 2 * H]))
            dA = (dh[e] + back + dhs[at]) * tanh_c * o * (one - o)
            if ragged and not t < ends[n]:
                dA = zero
            dA_o[e] = dA

    return gpu.kernel(output_kernel, signature_of(output_kernel, dtype, cell), steps.THREADS)


def blocks(A):
    """A (..., 4H) as its blocks f, g, i, o."""
    H = A.shape[-1] // 4
    return [A[..., k * H : (k + 1) * H] for k in range(4)]


CELL = Lstm()  # without options
cell_of = lru_cache(typed=True)(Lstm)  # the same object for the same options


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
    c_zoneout=None,
    cell_clip=None,
):
    """See rnnfast.kernels."""
    cell, of_steps = cell_of(cell_clip), (candidate_mask, h_zoneout, c_zoneout)
    return recurrence.forward(cell, xs, state, params, train, lengths, reverse, h_mask, of_steps)


def backward(dhs, dstate, params, cache, grads):
    """See rnnfast.kernels."""
    return recurrence.backward(Lstm, dhs, dstate, params, cache, grads)


def pack(params, *, precision=None, cell_clip=None):
    """See rnnfast.kernels."""
    return recurrence.pack(Lstm(cell_clip), params, precision)
