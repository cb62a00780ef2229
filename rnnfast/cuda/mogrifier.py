"""The Mogrifier LSTM in CUDA; the equations are those of rnnfast/reference/mogrifier.py.

The step of the LSTM is that of lstm.py, in steps. Around it come the rounds: a product of arrays
and a kernel for each. With a rank the matrices Wm_i Wr_i are made once a call.

    y, rows (N, T, M) of each round: its factor, which becomes dA, and what it makes of x or h
    Wm lies where other cells have Wp
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from rnnfast.cuda import recurrence, steps
from rnnfast.cuda.activations import activations
from rnnfast.cuda.call import rows as all_rows
from rnnfast.cuda.lstm import Lstm
from rnnfast.cuda.signatures import bind, signature_of


@dataclass(frozen=True)
class Mogrifier(Lstm):
    """An LSTM whose x and h gate each other before each step."""

    name = "mogrifier"
    beside = ("Wm", "Wr")
    in_steps = True
    own_input = True

    def of(self, peepholes):
        return self

    def complete(self, call, arrays):
        gpu, N, M = call.gpu, call.N, matrices(call, arrays)
        run, arrays.rounds = [], []
        for i in range(len(M)):
            width = call.H if i % 2 else call.D
            y = rows = call.nothing
            if arrays.train:
                y, rows = (call.empty(N, call.T, width) for _ in range(2))
            arrays.rounds.append((y, rows))
            given = {**sizes(call, width), "y": y, "rows": rows, "train": arrays.train}
            made = call.empty(N, width)
            run.append((bind(make_round(gpu, width, call.dtype.name), **given, made=made), made))

        def complete(Ah, states, t):
            x, h = call.xp.ascontiguousarray(arrays.xs[:, t]), states[0]
            if call.masked:
                h = h * arrays.m
            for i, (kernel, made) in enumerate(run):
                if i % 2 == 0:  # the first round is number 1
                    kernel(a=gpu.matmul(h, M[i]), gated=x, t=t)
                    x = made
                else:
                    kernel(a=gpu.matmul(x, M[i].T), gated=h, t=t)
                    h = made
            gpu.matmul(h, arrays.Wh, out=Ah)
            Ah += gpu.matmul(x, arrays.Wx)

        return complete

    def complete_back(self, call, arrays, dB):
        gpu, N, M = call.gpu, call.N, matrices(call, arrays)
        arrays.left, arrays.dxs = arrays.kept[0], call.empty(N, call.T, call.D)
        if call.masked:
            arrays.left = arrays.left * arrays.m[:, np.newaxis]
        before, run = [arrays.xs, arrays.left], []
        for i, (y, rows) in enumerate(arrays.rounds):
            width, dA = y.shape[2], call.empty(N, y.shape[2])
            given = {**sizes(call, width), "y": y, "dA": dA, "ends": arrays.ends}
            kernel = make_round_back(gpu, width, call.ragged, call.dtype.name)
            run.append((bind(kernel, **given, gated=before[i % 2]), dA))
            before[i % 2] = rows

        def after(dstates, came, t):
            dx = gpu.matmul(dB, arrays.Wx.T)
            for i in reversed(range(len(M))):
                kernel, dA = run[i]
                if i % 2 == 0:
                    kernel(d=dx, t=t)
                    came += gpu.matmul(dA, M[i].T)
                else:
                    kernel(d=came, t=t)
                    dx += gpu.matmul(dA, M[i])
            arrays.dxs[:, t] = dx

        return lambda dstates, came, t: None, after

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
def make_round(gpu, M, dtype):
    """made (N, M) = y gated, with y = 2 sigmoid(a)."""
    place = steps.make_place(gpu, M)
    sigmoid, _ = activations(gpu, dtype)
    two = np.dtype(dtype).type(2)

    def round_kernel(a, gated, made, y, rows, N, T, t, train):
        e, _, _, at = place(N, T, t)
        if e < N * M:
            factor = two * sigmoid(a[e])
            value = factor * gated[e]
            made[e] = value
            if train != 0:
                y[at] = factor
                rows[at] = value

    return gpu.kernel(round_kernel, signature_of(round_kernel, dtype), steps.THREADS)


@cache
def make_round_back(gpu, M, ragged, dtype):
    """d (N, M), of what a round made, becomes that of what it gated (N, T, M); y becomes dA."""
    place = steps.make_place(gpu, M)
    zero, half, one = (np.dtype(dtype).type(k) for k in (0, 0.5, 1))

    def round_back_kernel(d, gated, y, dA, ends, N, T, t):
        e, n, _, at = place(N, T, t)
        if e < N * M:
            factor = y[at]
            back = d[e] * factor
            slope = back * gated[at] * (one - half * factor)
            if ragged and not t < ends[n]:
                back = zero
                slope = zero
            d[e] = back
            dA[e] = slope
            y[at] = slope

    return gpu.kernel(round_back_kernel, signature_of(round_back_kernel, dtype), steps.THREADS)


CELL = Mogrifier()


def forward(xs, state, params, *, train=True, lengths=None, reverse=False, h_mask=None):
    """See rnnfast.kernels."""
    return recurrence.forward(CELL, xs, state, params, train, lengths, reverse, h_mask)


def backward(dhs, dstate, params, cache, grads):
    """See rnnfast.kernels."""
    return recurrence.backward(Mogrifier, dhs, dstate, params, cache, grads)


def pack(params):
    """See rnnfast.kernels."""
    return recurrence.pack(CELL, params)
