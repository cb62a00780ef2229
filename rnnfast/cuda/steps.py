"""A recurrence in steps: a product of arrays and a kernel for each, for what no frame holds.

    Ah (N, C)      what the products of a step gave, and then its first gates
    dA, dB as in cells.py; came (N, H): what came back to h through Wh, before h_mask
    states (N, H) each are replaced, step by step; so is seen, h times h_mask, by who makes h

A step is a list of launches and products, `work`. All of them are bound to their arrays before the
first step: then the host has little more to do for a step than to call the driver and cuBLAS.
A GPU that is faster than that would wait for it.

The kernels take a thread for each unit of each sample. Of float32 or float64.
"""

import itertools
from functools import cache

import numpy as np

from rnnfast.cuda import zoneout
from rnnfast.cuda.cells import equations, equations_back
from rnnfast.cuda.signatures import signature_of
from rnnfast.cuda.tiles import WARP
from rnnfast.cuda.tuples import add_first, columns, constants, put, put_columns, take

THREADS = 8 * WARP


def make_place(gpu, H):
    """place(N, T, t): of a thread its element, sample, unit, and their index at step t."""
    cuda = gpu.cuda

    @gpu.device
    def place(N, T, t):
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        n = e // H
        j = e - n * H
        return e, n, j, (n * T + t) * H + j

    return place


def make_add_up(gpu, threads):
    """add_up(s, tid): s[:threads], which each thread has written one of, added up in thread 0's."""
    cuda, half = gpu.cuda, threads // 2

    @gpu.device
    def add_up(s, tid):
        width = half
        while width > 0:
            cuda.syncthreads()
            if tid < width:
                s[tid] += s[tid + width]
            width //= 2

    return add_up


def make_constants(gpu, cell, H):
    """constants_of(b, Wp, j, candidate_mask, at): of a unit, with its mask."""
    of_unit = constants(cell.biases, cell.peepholes, H)

    @gpu.device
    def without(b, Wp, j, candidate_mask, at):
        return of_unit(b, Wp, j)

    @gpu.device
    def with_mask(b, Wp, j, candidate_mask, at):
        return (*of_unit(b, Wp, j), candidate_mask[at])

    return with_mask if cell.candidate else without


@cache
def make_first(gpu, cell, H, masked, dtype):
    """Where a step has two products: the gates of the first, and what the second reads."""
    place = make_place(gpu, H)
    first, _ = equations(gpu, cell, dtype)
    G, G1 = cell.gates, len(cell.products[0])
    constants_of, gates_of = constants(cell.biases, cell.peepholes, H), columns(G, H)
    sums_of, put_first = columns(G1, H), put_columns(G1, H)

    def first_kernel(A, Ah, b, Wp, states, m, seen2, N, T, t):
        """seen2 (N, H)"""
        e, n, j, at = place(N, T, t)
        if e < N * H:
            row = n * G1 * H + j
            x, w = gates_of(A, G * (at - j) + j), constants_of(b, Wp, j)
            z, h = first(x, sums_of(Ah, row), take(states, e), w)
            put_first(Ah, row, z)
            if masked:
                h *= m[e]
            seen2[e] = h

    return gpu.kernel(first_kernel, signature_of(first_kernel, dtype, cell), THREADS)


@cache
def make_step(gpu, cell, H, masked, ragged, dtype):
    """The step itself; Ah2 (N, C2) is of the second product, where there is one.

    candidate_mask (N, T, H) in this and the next two, where the cell has one.
    """
    place = make_place(gpu, H)
    _, step = equations(gpu, cell, dtype)
    zero = np.dtype(dtype).type(0)
    G, G1, G2, TWO = cell.gates, *(len(cell.products[k]) for k in (0, -1)), len(cell.products) > 1
    constants_of, gates_of = make_constants(gpu, cell, H), columns(G, H)
    sums_of, sums_of2, put_gates = columns(G1, H), columns(G2, H), put_columns(G, H)

    def step_kernel(
        A, Ah, Ah2, b, Wp, states, m, seen, candidate_mask, hs, kept, ends, N, T, t, train
    ):
        e, n, j, at = place(N, T, t)
        if e < N * H:
            before, gate = take(states, e), G * (at - j) + j
            x = gates_of(A, gate)
            w = constants_of(b, Wp, j, candidate_mask, at)
            if TWO:
                a = sums_of(Ah, n * G1 * H + j) + sums_of2(Ah2, n * G2 * H + j)
            else:
                a = sums_of(Ah, n * G1 * H + j)
            gates, after, keep = step(x, a, before, w)
            shown = after[0]
            on = True
            if ragged:
                on = t < ends[n]
            if not on:
                after = before
                shown = zero
            hs[at] = shown
            if train != 0 and on:  # else A stays 0, as in the frame
                put(kept, at, keep)
                put_gates(A, gate, gates)
            put(states, e, after)
            if masked:
                seen[e] = after[0] * m[e]

    return gpu.kernel(step_kernel, signature_of(step_kernel, dtype, cell), THREADS)


def make_arriving(gpu, masked):
    """arriving(dstates, came, m, e): the gradients of the states, with what came back to h."""

    @gpu.device
    def arriving(dstates, came, m, e):
        dh = came[e]
        if masked:
            dh *= m[e]
        return add_first(take(dstates, e), dh)

    return arriving


@cache
def make_first_back(gpu, cell, H, masked, ragged, dtype):
    """Where a step has two products: dB2 (N, C2), what goes back through the second."""
    place, arriving = make_place(gpu, H), make_arriving(gpu, masked)
    first_back, _ = equations_back(gpu, cell, dtype)
    zero = np.dtype(dtype).type(0)
    G, G2 = cell.gates, len(cell.products[1])
    nothing = (zero,) * G2
    constants_of, gates_of = make_constants(gpu, cell, H), columns(G, H)
    put_terms = put_columns(G2, H)

    def first_back_kernel(
        dhs, A, b, Wp, dstates, came, m, candidate_mask, kept, dB2, ends, N, T, t
    ):
        e, n, j, at = place(N, T, t)
        if e < N * H:
            keep = take(kept, at)
            w = constants_of(b, Wp, j, candidate_mask, at)
            dh = add_first(arriving(dstates, came, m, e), dhs[at])
            terms = first_back(dh, gates_of(A, G * (at - j) + j), keep, w)
            if ragged and not t < ends[n]:
                terms = nothing
            put_terms(dB2, n * G2 * H + j, terms)

    return gpu.kernel(first_back_kernel, signature_of(first_back_kernel, dtype, cell), THREADS)


@cache
def make_step_back(gpu, cell, H, masked, ragged, dtype):
    """The step back: A becomes dA, and B dB where the cell has it apart; through (N, H)."""
    place, arriving = make_place(gpu, H), make_arriving(gpu, masked)
    _, step_back = equations_back(gpu, cell, dtype)
    zero = np.dtype(dtype).type(0)
    G, TWO, SEPARATE = cell.gates, len(cell.products) > 1, cell.separate
    nothing = (zero,) * G
    constants_of, gates_of = make_constants(gpu, cell, H), columns(G, H)
    put_gates = put_columns(G, H)

    def step_back_kernel(
        dhs, A, B, b, Wp, dstates, came, through, m, candidate_mask, kept, ends, N, T, t
    ):
        e, n, j, at = place(N, T, t)
        if e < N * H:
            gate, keep = G * (at - j) + j, take(kept, at)
            w = constants_of(b, Wp, j, candidate_mask, at)
            back = zero
            if TWO:
                back = through[e]
                if masked:
                    back *= m[e]
            before = arriving(dstates, came, m, e)
            dh = add_first(before, dhs[at])
            dA, dB, after = step_back(dh, back, gates_of(A, gate), keep, w)
            on = True
            if ragged and not t < ends[n]:
                on = False
                dA = nothing
                after = before
            put_gates(A, gate, dA)
            if SEPARATE:
                if not on:
                    dB = nothing
                put_gates(B, gate, dB)
            put(dstates, e, after)

    return gpu.kernel(step_back_kernel, signature_of(step_back_kernel, dtype, cell), THREADS)


def columns_of(call, cell, x):
    """x (..., G*H), Wh or dB, of each product of a step."""
    ends = [0]
    for gates in cell.products:
        assert gates[0] == ends[-1], "the gates of the products come one after the other"
        ends.append(gates[-1] + 1)
    return [x[..., a * call.H : b * call.H] for a, b in itertools.pairwise(ends)]


def given(call, width=None, **others):
    """What a kernel of one step is bound to, with the sizes of a launch for (N, width or H)."""
    blocks = -(-call.N * (width or call.H) // THREADS)
    return {"blocks": blocks, "N": call.N, "T": call.T, **others}


def candidate_mask(call, arrays):
    """What kernels take for it."""
    mask = arrays.of_steps[0]
    return call.nothing if mask is None else mask


def seen_by(call, arrays, h):
    """What the products with Wh read: h itself, or with an h_mask an array of its own."""
    return h * arrays.m if call.masked else h


def forward(call, cell, arrays, Wh, states, start, ahead, train):
    """All steps; states are replaced."""
    if cell.forward_steps:
        work = cell.forward_steps(call, arrays, Wh, states, train)
    else:
        work = forward_work(call, cell, arrays, Wh, states, train)
    call.gpu.run_steps(work, start, ahead, call.T)


def forward_work(call, cell, arrays, Wh, states, train):
    """The work of a step."""
    gpu, N, H, masked, dtype = call.gpu, call.N, call.H, call.masked, call.dtype.name
    launch, product, work = gpu.step_launch, gpu.step_product, []
    W, *more = columns_of(call, cell, Wh)
    Ah = Ah2 = call.empty(N, W.shape[1])
    seen = seen_by(call, arrays, states[0])
    of_all = given(call, b=arrays.b, Wp=arrays.Wp, A=arrays.A, Ah=Ah, states=states, m=arrays.m)
    if not cell.own_input:
        work.append(product(seen, W, Ah))
    if more:
        (W2,) = more
        seen2, Ah2 = call.empty(N, H), call.empty(N, W2.shape[1])
        work.append(launch(make_first(gpu, cell, H, masked, dtype), **of_all, seen2=seen2))
        work.append(product(seen2, W2, Ah2))
    work += cell.complete(call, arrays, Ah, states, seen)
    kernel = make_step(gpu, cell, H, masked, call.ragged, dtype)
    outputs = {"seen": seen, "hs": arrays.hs, "kept": arrays.kept, "train": train}
    mask = {"candidate_mask": candidate_mask(call, arrays)}
    work.append(launch(kernel, **of_all, Ah2=Ah2, ends=arrays.ends, **mask, **outputs))
    return work + zoneout.after(call, arrays, states, seen, train)


def back(call, cell, arrays, Wh, dstates, start, ahead):
    """All steps back; dstates are replaced, arrays.A becomes dA."""
    came = call.zeros(call.N, call.P)
    work, pasts = zoneout.before_back(call, arrays, dstates, came)
    if cell.back_steps:
        work += cell.back_steps(call, arrays, Wh, dstates, came)
    else:
        work += back_work(call, cell, arrays, Wh, dstates, came)
    call.gpu.run_steps(work, start, ahead, call.T)
    for dstate, past in pasts:
        dstate += past
    if call.masked:
        came *= arrays.m
    dh = dstates[0]
    dh += came


def back_work(call, cell, arrays, Wh, dstates, came):
    """The work of a step, without zoneout."""
    gpu, N, H = call.gpu, call.N, call.H
    launch, product, work = gpu.step_launch, gpu.step_product, []
    ways = call.masked, call.ragged, call.dtype.name
    W, *more = columns_of(call, cell, Wh)
    dB, *_ = columns_of(call, cell, arrays.B)
    through = came
    of_all = given(call, b=arrays.b, Wp=arrays.Wp, A=arrays.A, dstates=dstates, came=came)
    of_all["candidate_mask"] = candidate_mask(call, arrays)
    of_all |= {"dhs": arrays.dhs, "kept": arrays.kept, "m": arrays.m, "ends": arrays.ends}
    if more:
        (W2,) = more
        dB2, through = call.empty(N, W2.shape[1]), call.empty(N, H)
        work.append(launch(make_first_back(gpu, cell, H, *ways), **of_all, dB2=dB2))
        work.append(product(dB2, W2, through, turned=True))
    before, after = cell.complete_back(call, arrays, dstates, came)
    kernel = make_step_back(gpu, cell, H, *ways)
    step = launch(kernel, **of_all, B=arrays.B, through=through)
    return [*work, *before, step, product(dB, W, came, turned=True), *after]
