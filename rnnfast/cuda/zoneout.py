"""Zoneout around the kernels of one step, for cells in steps; see rnnfast/reference/lstm.py.

    share (N, T, H): what a step keeps of a state
    old (N, H): the state before the step
    past (N, H): on the way back, what goes past the step to the state before

The kernels take a thread for each unit of each sample. H is the width of the state: of the h of an
lstmp that is P.
"""

from functools import cache

import numpy as np

from rnnfast.cuda import steps
from rnnfast.cuda.signatures import signature_of


def after(call, arrays, states, seen, train):
    """The work after the kernel of a step: the states become mixtures of new and old ones."""
    work = []
    if train and call.peepholes and arrays.of_steps[2] is not None:
        arrays.c_new = call.empty(call.N, call.T, call.H)
    for k, share in enumerate(arrays.of_steps[1:]):
        if share is not None:
            state, shown = states[k], k == 0
            new = None if shown else arrays.c_new
            ways = call.masked, call.ragged, call.dtype.name
            width = state.shape[1]
            kernel = make_zone(call.gpu, width, shown, new is not None, *ways)
            given = {"share": share, "old": call.gpu.copy(state), "state": state}
            given |= {"m": arrays.m, "seen": seen, "hs": arrays.hs, "ends": arrays.ends}
            given["c_new"] = call.nothing if new is None else new
            work.append(call.gpu.step_launch(kernel, **steps.given(call, width, **given)))
    return work


def before_back(call, arrays, dstates, came):
    """The work before a step back: dstates become those of the new states, which the step has made.

    What had come to h is among them by then, so `came` becomes 0, and arrays.dhs is 0 from now on.
    Also (dstate, past) for each state: after the last step they have to be added.
    """
    work, pasts, (_, of_h, of_c) = [], [], arrays.of_steps
    ways = call.masked, call.ragged, call.dtype.name
    given = {"came": came, "m": arrays.m, "dhs": arrays.dhs, "ends": arrays.ends}
    for k, share in enumerate((of_h, of_c)):
        if share is not None:
            width = dstates[k].shape[1]
            past = call.zeros(call.N, width)
            own = {"share": share, "past": past, "dstate": dstates[k]}
            kernel = make_zone_back(call.gpu, width, k == 0, *ways)
            own = steps.given(call, width, **given, **own)
            work.append(call.gpu.step_launch(kernel, **own))
            pasts.append((dstates[k], past))
    if of_h is not None:
        arrays.dhs = call.zeros(*arrays.dhs.shape)
    return work, pasts


@cache
def make_zone(gpu, H, shown, kept, masked, ragged, dtype):
    """shown: of h, which hs and seen have, too. kept: of c, whose new one c_new (N, T, H) keeps."""
    place = steps.make_place(gpu, H)
    one = np.dtype(dtype).type(1)

    def zone_kernel(share, old, state, c_new, m, seen, hs, ends, N, T, t):
        e, n, _, at = place(N, T, t)
        if e < N * H:
            if kept:
                c_new[at] = state[e]
            on = True
            if ragged:
                on = t < ends[n]
            if on:
                z = share[at]
                value = z * old[e] + (one - z) * state[e]
                state[e] = value
                old[e] = value
                if shown:
                    hs[at] = value
                    if masked:
                        seen[e] = value * m[e]

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
            d = dstate[e] + past[e]
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
