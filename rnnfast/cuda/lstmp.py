"""The LSTM with a projection in CUDA; the equations are those of rnnfast/reference/lstmp.py.

The step is that of lstm.py, in steps, with u in the place of h. Around it come the products with
Wproj, each with a kernel of the P numbers of h. Wproj lies where other cells have Wp. Zoneout of
zoneout.py comes last, of h in P numbers.

    u (N, T, H) of all steps; dh (N, T, P), all that comes to h of each step, on the way back
    rows (N, T, P): of the kernels, h before each step and then this dh
"""

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from rnnfast.cuda import recurrence, steps, zoneout
from rnnfast.cuda.call import rows as all_rows
from rnnfast.cuda.lstm import Lstm
from rnnfast.cuda.signatures import signature_of


@dataclass(frozen=True)
class Lstmp(Lstm):
    """An LSTM whose h is a projection."""

    name = "lstmp"
    kept = ("cp",)
    beside = ("Wproj",)
    in_steps = True

    def of(self, peepholes):
        return self

    def forward_steps(self, call, arrays, Wh, states, train):
        gpu, N, T, H, P, dtype = call.gpu, call.N, call.T, call.H, call.P, call.dtype.name
        (h, c), u, Ah, made = states, call.zeros(N, H), call.empty(N, 4 * H), call.empty(N, P)
        arrays.u, arrays.left = call.empty(N, T, H), call.nothing
        if train:
            arrays.left = call.empty(N, T, P)
        seen = steps.seen_by(call, arrays, h)
        step = gpu.step_launch(
            steps.make_step(gpu, self, H, False, call.ragged, dtype),
            **steps.given(call, A=arrays.A, Ah=Ah, Ah2=Ah, b=arrays.b, Wp=call.nothing),
            **{"m": call.nothing, "seen": call.nothing},
            **{"candidate_mask": steps.candidate_mask(call, arrays)},
            **{"states": (u, c), "hs": arrays.u, "kept": arrays.kept},
            **{"ends": arrays.ends, "train": train},
        )
        show = gpu.step_launch(
            make_show(gpu, P, call.masked, call.ragged, dtype),
            **{**sizes(call), "made": made, "h": h, "m": arrays.m, "seen": seen},
            **{"hs": arrays.hs, "rows": arrays.left, "ends": arrays.ends, "train": train},
        )
        product = gpu.step_product
        work = [product(seen, Wh, Ah), step, product(u, arrays.Wp, made), show]
        return work + zoneout.after(call, arrays, states, seen, train)

    def back_steps(self, call, arrays, Wh, dstates, came):
        gpu, N, T, H, P, dtype = call.gpu, call.N, call.T, call.H, call.P, call.dtype.name
        (dh, dc), du = dstates, call.empty(N, H)
        arrays.dh = all_dh = call.empty(N, T, P)
        if call.masked:
            arrays.left = arrays.left * arrays.m[:, np.newaxis]
        arrive = gpu.step_launch(
            make_arrive(gpu, P, call.masked, call.ragged, dtype),
            **{**sizes(call), "dhs": arrays.dhs, "dh": dh, "came": came, "m": arrays.m},
            **{"rows": all_dh, "ends": arrays.ends},
        )
        step_back = gpu.step_launch(  # all that comes to u is du
            steps.make_step_back(gpu, self, H, False, call.ragged, dtype),
            **steps.given(call, A=arrays.A, B=arrays.B, b=arrays.b, Wp=call.nothing),
            **{"dstates": (call.zeros(N, H), dc), "came": du, "through": du},
            **{"dhs": call.zeros(N, T, H), "m": call.nothing},
            **{"candidate_mask": steps.candidate_mask(call, arrays)},
            **{"kept": arrays.kept, "ends": arrays.ends},
        )
        product = gpu.step_product
        through_Wproj = product(all_dh, arrays.Wp, du, turned=True)
        return [arrive, through_Wproj, step_back, product(arrays.B, Wh, came, turned=True)]

    def other_grads(self, call, arrays, grads):
        """dWproj, from u and dh of all steps."""
        dWproj = call.target(grads[3])
        call.gpu.matmul(all_rows(arrays.u).T, all_rows(arrays.dh), out=dWproj)
        return {"beside": (dWproj,)}


def sizes(call):
    """Of a launch for (N, P)."""
    return {"blocks": -(-call.N * call.P // steps.THREADS), "N": call.N, "T": call.T}


@cache
def make_show(gpu, P, masked, ragged, dtype):
    """h becomes what was made of u, but of samples that have ended; hs and seen have it, too."""
    place = steps.make_place(gpu, P)
    zero = np.dtype(dtype).type(0)

    def show_kernel(made, h, m, seen, hs, rows, ends, N, T, t, train):
        e, n, _, at = place(N, T, t)
        if e < N * P:
            before = h[e]
            after = made[e]
            shown = after
            if ragged and not t < ends[n]:
                after = before
                shown = zero
            h[e] = after
            if masked:
                seen[e] = after * m[e]
            hs[at] = shown
            if train != 0:
                rows[at] = before

    return gpu.kernel(show_kernel, signature_of(show_kernel, dtype), steps.THREADS)


@cache
def make_arrive(gpu, P, masked, ragged, dtype):
    """rows (N, T, P): all that comes to h of step t; dh is what goes past it."""
    place = steps.make_place(gpu, P)
    zero = np.dtype(dtype).type(0)

    def arrive_kernel(dhs, dh, came, m, rows, ends, N, T, t):
        e, n, _, at = place(N, T, t)
        if e < N * P:
            back = came[e]
            if masked:
                back *= m[e]
            back += dh[e]
            arrived = back + dhs[at]
            past = zero
            if ragged and not t < ends[n]:
                past = back
                arrived = zero
            dh[e] = past
            rows[at] = arrived

    return gpu.kernel(arrive_kernel, signature_of(arrive_kernel, dtype), steps.THREADS)


CELL = Lstmp()  # without options
cell_of = lru_cache(typed=True)(Lstmp)  # the same object for the same options


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
    return recurrence.backward(Lstmp, dhs, dstate, params, cache, grads)


def pack(params, *, precision=None, cell_clip=None):
    """See rnnfast.kernels."""
    return recurrence.pack(Lstmp(cell_clip), params, precision)
