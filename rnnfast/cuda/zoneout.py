"""Zoneout around the kernels of one step, for cells in steps; see rnnfast/reference/lstm.py.

    share (N, T, H): what a step keeps of a state
    past (N, H): on the way back, what goes past the step to the state before

The kernels take a thread for each unit of each sample.
"""

from functools import cache

import numpy as np

from rnnfast.cuda import steps
from rnnfast.cuda.signatures import bind, signature_of


def around(call, arrays, states, train):
    """before() and after(t), round step t: the states become mixtures of new and old ones."""
    parts = []
    for k, share in enumerate(arrays.of_steps[1:]):
        if share is not None:
            old, state, shown = call.empty(call.N, call.H), states[k], k == 0
            kernel = make_zone(call.gpu, call.H, shown, call.ragged, call.dtype.name)
            given = {"share": share, "old": old, "state": state, "ends": arrays.ends}
            given["hs"] = arrays.hs if shown else call.nothing
            parts.append((old, state, bind(kernel, **steps.given(call, **given))))
    if train and call.peepholes and arrays.of_steps[2] is not None:
        arrays.c_new = call.empty(call.N, call.T, call.H)

    def before():
        for old, state, _ in parts:
            old[...] = state

    def after(t):
        if arrays.c_new is not None:
            arrays.c_new[:, t] = states[1]
        for *_, kernel in parts:
            kernel(t=t)

    return before, after


def around_back(call, arrays, dstates, came):
    """before(t) and after(), round step t on the way back: dstates become those of new states.

    What had come to h is among them by then, so `came` becomes 0, and arrays.dhs is 0 from now on.
    """
    parts, (_, of_h, of_c) = [], arrays.of_steps
    ways = call.masked, call.ragged, call.dtype.name
    given = {"came": came, "m": arrays.m, "ends": arrays.ends}
    for k, share in enumerate((of_h, of_c)):
        if share is not None:
            past, shown = call.empty(call.N, call.H), k == 0
            own = {"dhs": arrays.dhs if shown else call.nothing, "share": share, "past": past}
            kernel = make_zone_back(call.gpu, call.H, shown, *ways)
            own["dstate"] = dstates[k]
            parts.append((dstates[k], past, bind(kernel, **steps.given(call, **given, **own))))
    if of_h is not None:
        arrays.dhs = call.zeros(call.N, call.T, call.H)

    def before(t):
        for *_, kernel in parts:
            kernel(t=t)

    def after():
        for dstate, past, _ in parts:
            dstate += past

    return before, after


@cache
def make_zone(gpu, H, shown, ragged, dtype):
    """shown: of h, which hs has, too."""
    place = steps.make_place(gpu, H)
    one = np.dtype(dtype).type(1)

    def zone_kernel(share, old, state, hs, ends, N, T, t):
        e, n, _, at = place(N, T, t)
        if e < N * H:
            on = True
            if ragged:
                on = t < ends[n]
            if on:
                z = share[at]
                value = z * old[e] + (one - z) * state[e]
                state[e] = value
                if shown:
                    hs[at] = value

    return gpu.kernel(zone_kernel, signature_of(zone_kernel, dtype), steps.THREADS)


@cache
def make_zone_back(gpu, H, shown, masked, ragged, dtype):
    """shown: of h, whose gradient also comes from dhs and through Wh."""
    place = steps.make_place(gpu, H)
    zero = np.dtype(dtype).type(0)

    def zone_back_kernel(share, dstate, past, came, m, dhs, ends, N, T, t):
        e, n, _, at = place(N, T, t)
        if e < N * H:
            on = True
            if ragged:
                on = t < ends[n]
            d = dstate[e]
            if shown:
                back = came[e]
                if masked:
                    back *= m[e]
                d += back
                came[e] = zero
            kept = zero
            if on:
                if shown:
                    d += dhs[at]
                kept = share[at] * d
                d -= kept
            past[e] = kept
            dstate[e] = d

    return gpu.kernel(zone_back_kernel, signature_of(zone_back_kernel, dtype), steps.THREADS)
