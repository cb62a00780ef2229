"""Layer-normalised cells in CUDA, in steps: a product and a kernel for each, a block for a sample.

A row is normalised by the block that has it: its threads add up their parts in a fixed order. What
concerns x Wx and the gains of all steps comes before and after the recurrence, as operations on
whole arrays. The equations are in rnnfast/reference/norms.py.

    A, u (N, T, G*H)    x Wx and h Wh; gates (N, T, G*H), which become dA
    Ah (N, G*H)         h Wh of a step; on the way back dv (N, T, G*H)
    norms (N, T, K)     mean and scale of each group of x Wx, then of what else the cell normalises
"""

from functools import cache

import numpy as np

from rnnfast.cuda import zoneout
from rnnfast.cuda.steps import candidate_mask, make_add_up, seen_by
from rnnfast.cuda.tiles import WARP

THREADS = 4 * WARP
EPSILON = 1e-5


@cache
def sums(gpu, dtype):
    """Device functions (total, scale_of).

    total(s, tid, x): the sum of x over all threads of the block, to each of them. scale_of(mean
    square): 1 / sqrt(it + EPSILON).
    """
    cuda, sqrt = gpu.cuda, gpu.sqrt
    epsilon, one = (np.dtype(dtype).type(k) for k in (EPSILON, 1))

    add_up = make_add_up(gpu, THREADS)

    @gpu.device
    def total(s, tid, x):
        s[tid] = x
        add_up(s, tid)
        cuda.syncthreads()
        found = s[0]
        cuda.syncthreads()
        return found

    @gpu.device
    def scale_of(square):
        return one / sqrt(square + epsilon)

    return total, scale_of


def real_of(gpu, dtype):
    """The type of an array in shared memory."""
    return gpu.float32 if dtype == "float32" else gpu.float64


class Norms:
    """What the cells share: the work of a step, in the place of that of steps.py.

    Attributes
    ----------
    groups
        The gates of x Wx that are normalised together: (first, count), in units of H.
    own : int
        How many other rows of a sample are normalised in a step.
    make_step, make_back
        (gpu, H, ...) -> the kernels of one step.
    """

    def forward_steps(self, call, arrays, Wh, states, train):
        gpu, N, T, H = call.gpu, call.N, call.T, call.H
        columns = self.gates * H
        norms = call.empty(N, T, 2 * (len(self.groups) + self.own))
        for k, (first, count) in enumerate(self.groups):
            part = arrays.A[:, :, first * H : (first + count) * H]
            mean = part.mean(axis=2)
            norms[:, :, 2 * k] = mean
            square = ((part - mean[:, :, np.newaxis]) ** 2).mean(axis=2)
            norms[:, :, 2 * k + 1] = 1 / call.xp.sqrt(square + call.dtype.type(EPSILON))
        gates = u = call.nothing
        if train:
            gates, u = (call.empty(N, T, columns) for _ in range(2))
        Ah = call.empty(N, columns)
        c_next = call.empty(N, H) if "c" in self.states else call.nothing
        seen = seen_by(call, arrays, states[0])
        kernel = gpu.step_launch(
            self.make_step(gpu, H, call.masked, call.ragged, self.candidate, call.dtype.name),
            **{"blocks": N, "A": arrays.A, "Ah": Ah, "b": arrays.b, "states": states},
            **{"hs": arrays.hs, "kept": arrays.kept, "gates": gates, "u": u, "norms": norms},
            **{"m": arrays.m, "seen": seen, "c_next": c_next},
            **{"candidate_mask": candidate_mask(call, arrays)},
            **{"ends": arrays.ends, "N": N, "T": T, "train": train},
            **dict(zip(self.beside, arrays.norms, strict=True)),
        )
        arrays.of_norms = gates, u, norms
        product = gpu.step_product(seen, Wh, Ah)
        return [product, kernel, *zoneout.after(call, arrays, states, seen, train)]

    def back_steps(self, call, arrays, Wh, dstates, came):
        gpu, N, T, H = call.gpu, call.N, call.T, call.H
        columns, (gates, u, norms) = self.gates * H, arrays.of_norms
        dv = call.empty(N, T, columns)
        rows = call.empty(N, T, H)
        y = call.empty(N, T, H) if "c" in self.states else call.nothing
        kernel = gpu.step_launch(
            self.make_back(gpu, H, call.masked, call.ragged, self.candidate, call.dtype.name),
            **{"blocks": N, "dhs": arrays.dhs, "gates": gates, "u": u, "norms": norms},
            **{"dv": dv, "y": y, "rows": rows, "dstates": dstates, "came": came, "m": arrays.m},
            **{"candidate_mask": candidate_mask(call, arrays)},
            **{"kept": arrays.kept, "ends": arrays.ends, "N": N, "T": T},
            **dict(list(zip(self.beside, arrays.norms, strict=True))[1:]),
        )
        arrays.B, arrays.of_norms = dv, (gates, u, norms, y, rows)
        return [kernel, gpu.step_product(dv, Wh, came, turned=True)]


def input_grads(call, arrays, groups, gain):
    """du, the gradient of x Wx, and dgx; arrays.A is x Wx, dA the gates by now."""
    dA, _, norms, *_ = arrays.of_norms
    H, dgx, du = call.H, call.empty(*gain.shape), call.empty(*dA.shape)
    for k, (first, count) in enumerate(groups):
        part = slice(first * H, (first + count) * H)
        u_hat = normal(arrays.A[:, :, part], norms, k)
        d = dA[:, :, part]
        dgx[part] = (d * u_hat).sum(axis=(0, 1))
        d = d * gain[part]
        d = (
            d
            - d.mean(axis=2)[:, :, np.newaxis]
            - u_hat * (d * u_hat).mean(axis=2)[:, :, np.newaxis]
        )
        du[:, :, part] = d * norms[:, :, 2 * k + 1, np.newaxis]
    return du, dgx


def normal(u, norms, k):
    """u_hat of number k of the norms."""
    return (u - norms[:, :, 2 * k, np.newaxis]) * norms[:, :, 2 * k + 1, np.newaxis]
