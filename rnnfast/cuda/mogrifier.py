"""The Mogrifier LSTM in CUDA; the equations are those of rnnfast/reference/mogrifier.py.

The step of the LSTM is that of lstm.py, in steps. Around it come the rounds: a product of arrays
and a kernel for each. With a rank the matrices Wm_i Wr_i are made once a call.

    y, rows (N, T, M) of each round: its factor, which becomes dA, and what it makes of x or h
    Wm lies where other cells have Wp
"""

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np

from rnnfast.cuda import recurrence, steps
from rnnfast.cuda.activations import activations
from rnnfast.cuda.call import rows as all_rows
from rnnfast.cuda.lstm import Lstm
from rnnfast.cuda.signatures import signature_of


@dataclass(frozen=True)
class Mogrifier(Lstm):
    """An LSTM whose x and h gate each other before each step."""

    name = "mogrifier"
    beside = ("Wm", "Wr")
    in_steps = True
    own_input = True

    def of(self, peepholes):
        return self

    def complete(self, call, arrays, Ah, states, seen):
        gpu, N, M, work = call.gpu, call.N, matrices(call, arrays), []
        arrays.rounds, x, h = [], arrays.xs, seen
        for i in range(len(M)):
            width = call.H if i % 2 else call.D
            y = rows = call.nothing
            if arrays.train:
                y, rows = (call.empty(N, call.T, width) for _ in range(2))
            arrays.rounds.append((y, rows))
            a, made = call.empty(N, width), call.empty(N, width)
            given = {**sizes(call, width), "a": a, "made": made, "y": y, "rows": rows}
            kernel = make_round(gpu, width, i == 0, call.dtype.name)
            if i % 2 == 0:  # the first round is number 1
                product, gated, x = gpu.step_product(h, M[i], a), x, made
            else:
                product, gated, h = gpu.step_product(x, M[i], a, turned=True), h, made
            launch = gpu.step_launch(kernel, **given, gated=gated, train=arrays.train)
            work += [product, launch]
        of_x = gpu.step_product(x, arrays.Wx, Ah, add=True)
        return [*work, gpu.step_product(h, arrays.Wh, Ah), of_x]

    def complete_back(self, call, arrays, dstates, came):
        gpu, N, M = call.gpu, call.N, matrices(call, arrays)
        arrays.left, arrays.dxs = arrays.kept[0], call.empty(N, call.T, call.D)
        if call.masked:
            arrays.left = arrays.left * arrays.m[:, np.newaxis]
        before, work = [arrays.xs, arrays.left], []
        for i, (y, rows) in enumerate(arrays.rounds):
            width, dA = y.shape[2], call.empty(N, y.shape[2])
            d, other = (came, arrays.dxs) if i % 2 else (arrays.dxs, came)
            given = {**sizes(call, width), "y": y, "dA": dA, "d": d, "ends": arrays.ends}
            kernel = make_round_back(gpu, width, i % 2 == 0, call.ragged, call.dtype.name)
            launch = gpu.step_launch(kernel, **given, gated=before[i % 2])
            work.append((launch, gpu.step_product(dA, M[i], other, turned=i % 2 == 0, add=True)))
            before[i % 2] = rows
        of_x = gpu.step_product(arrays.B, arrays.Wx, arrays.dxs, turned=True)
        return [], [of_x, *itertools.chain(*reversed(work))]

    def other_grads(self, call, arrays, grads):
        """dWm, dWr and dxs; and what met Wx and Wh, in the place of xs and of h.

        In fresh arrays: a gradient may lie over a weight that is still to be read.
        """
        gpu, Wm, Wr = call.gpu, arrays.Wp, arrays.Wr
        x, h, dM = arrays.xs, arrays.left, call.empty(len(arrays.rounds), call.H, call.D)
        for i, (dA, rows) in enumerate(arrays.rounds):
            if i % 2 == 0:
                gpu.matmul(all_rows(h).T, all_rows(dA), out=dM[i])
                x = rows
            else:
                gpu.matmul(all_rows(dA).T, all_rows(x), out=dM[i])
                h = rows
        arrays.xs, arrays.left = x, h
        if call.rounds[1] is None:
            return {"beside": (dM,), "dxs": arrays.dxs}
        dWm, dWr = call.empty(*Wm.shape), call.empty(*Wr.shape)
        for i, d in enumerate(dM):
            gpu.matmul(d, Wr[i].T, out=dWm[i])
            gpu.matmul(Wm[i].T, d, out=dWr[i])
        return {"beside": (dWm, dWr), "dxs": arrays.dxs}


def matrices(call, arrays):
    """M_1 ... M_r, each (H, D)."""
    if call.rounds[1] is None:
        return list(arrays.Wp)
    return [call.gpu.matmul(*pair) for pair in zip(arrays.Wp, arrays.Wr, strict=True)]


def sizes(call, width):
    """Of a launch for (N, width)."""
    return {"blocks": -(-call.N * width // steps.THREADS), "N": call.N, "T": call.T}


@cache
def make_round(gpu, M, of_all, dtype):
    """made (N, M) = y gated, with y = 2 sigmoid(a).

    of_all: gated is (N, T, M), else of the step.
    """
    place = steps.make_place(gpu, M)
    sigmoid, _ = activations(gpu, dtype)
    two = np.dtype(dtype).type(2)

    def round_kernel(a, gated, made, y, rows, N, T, t, train):
        e, _, _, at = place(N, T, t)
        if e < N * M:
            factor = two * sigmoid(a[e])
            value = factor * gated[at if of_all else e]
            made[e] = value
            if train != 0:
                y[at] = factor
                rows[at] = value

    return gpu.kernel(round_kernel, signature_of(round_kernel, dtype), steps.THREADS)


@cache
def make_round_back(gpu, M, of_all, ragged, dtype):
    """d, of what a round made, becomes that of what it gated (N, T, M); y becomes dA.

    of_all: d is (N, T, M), else of the step.
    """
    place = steps.make_place(gpu, M)
    zero, half, one = (np.dtype(dtype).type(k) for k in (0, 0.5, 1))

    def round_back_kernel(d, gated, y, dA, ends, N, T, t):
        e, n, _, at = place(N, T, t)
        if e < N * M:
            place_of_d = at if of_all else e
            factor = y[at]
            back = d[place_of_d] * factor
            slope = back * gated[at] * (one - half * factor)
            if ragged and not t < ends[n]:
                back = zero
                slope = zero
            d[place_of_d] = back
            dA[e] = slope
            y[at] = slope

    return gpu.kernel(round_back_kernel, signature_of(round_back_kernel, dtype), steps.THREADS)


CELL = Mogrifier()


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
):
    """See rnnfast.kernels."""
    of_steps = candidate_mask, h_zoneout, c_zoneout
    return recurrence.forward(CELL, xs, state, params, train, lengths, reverse, h_mask, of_steps)


def backward(dhs, dstate, params, cache, grads):
    """See rnnfast.kernels."""
    return recurrence.backward(Mogrifier, dhs, dstate, params, cache, grads)


def pack(params, *, precision=None):
    """See rnnfast.kernels."""
    return recurrence.pack(CELL, params, precision)
