"""A recurrence in steps: a product of arrays and a kernel for each, for what no frame holds.

    Ah (N, C)      what the products of a step gave, and then its first gates
    dA, dB as in cells.py; came (N, H): what came back to h through Wh, before h_mask
    states (N, H) each are replaced, step by step

The kernels take a thread for each unit of each sample. Of float32 or float64.
"""

import itertools
from functools import cache

import numpy as np

from rnnfast.cuda import zoneout
from rnnfast.cuda.cells import equations, equations_back
from rnnfast.cuda.signatures import bind, signature_of
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
def make_first(gpu, cell, H, dtype):
    """Where a step has two products: the gates of the first, and what the second multiplies."""
    place = make_place(gpu, H)
    first, _ = equations(gpu, cell, dtype)
    G, G1 = cell.gates, len(cell.products[0])
    constants_of, gates_of = constants(cell.biases, cell.peepholes, H), columns(G, H)
    sums_of, put_first = columns(G1, H), put_columns(G1, H)

    def first_kernel(A, Ah, b, Wp, states, seen, N, T, t):
        """seen (N, H)"""
        e, n, j, at = place(N, T, t)
        if e < N * H:
            row = n * G1 * H + j
            x, w = gates_of(A, G * (at - j) + j), constants_of(b, Wp, j)
            z, h = first(x, sums_of(Ah, row), take(states, e), w)
            put_first(Ah, row, z)
            seen[e] = h

    return gpu.kernel(first_kernel, signature_of(first_kernel, dtype, cell), THREADS)


@cache
def make_step(gpu, cell, H, ragged, dtype):
    """The step itself; Ah2 (N, C2) is of the second product, where there is one.

    candidate_mask (N, T, H) in this and the next two, where the cell has one.
    """
    place = make_place(gpu, H)
    _, step = equations(gpu, cell, dtype)
    zero = np.dtype(dtype).type(0)
    G, G1, G2, TWO = cell.gates, *(len(cell.products[k]) for k in (0, -1)), len(cell.products) > 1
    constants_of, gates_of = make_constants(gpu, cell, H), columns(G, H)
    sums_of, sums_of2, put_gates = columns(G1, H), columns(G2, H), put_columns(G, H)

    def step_kernel(A, Ah, Ah2, b, Wp, states, candidate_mask, hs, kept, ends, N, T, t, train):
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
            if ragged and not t < ends[n]:
                after = before
                shown = zero
            hs[at] = shown
            if train != 0:
                put(kept, at, keep)
                put_gates(A, gate, gates)
            put(states, e, after)

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
    """The step back: A becomes dA, dB (N, C) is of this step alone, through (N, H)."""
    place, arriving = make_place(gpu, H), make_arriving(gpu, masked)
    _, step_back = equations_back(gpu, cell, dtype)
    zero = np.dtype(dtype).type(0)
    G, G1, TWO, SEPARATE = cell.gates, len(cell.products[0]), len(cell.products) > 1, cell.separate
    nothing, nothing_back = (zero,) * G, (zero,) * G1
    constants_of, gates_of = make_constants(gpu, cell, H), columns(G, H)
    put_gates, put_terms = put_columns(G, H), put_columns(G1, H)

    def step_back_kernel(
        dhs, A, B, dB, b, Wp, dstates, came, through, m, candidate_mask, kept, ends, N, T, t
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
            dA, terms, after = step_back(dh, back, gates_of(A, gate), keep, w)
            if ragged and not t < ends[n]:
                dA = nothing
                terms = nothing_back
                after = before
            put_gates(A, gate, dA)
            if SEPARATE:
                put_gates(B, gate, terms)
            put_terms(dB, n * G1 * H + j, terms)
            put(dstates, e, after)

    return gpu.kernel(step_back_kernel, signature_of(step_back_kernel, dtype, cell), THREADS)


def weights_of(call, cell, Wh):
    """The columns of Wh of each product, contiguous."""
    if len(cell.products) == 1:
        return (Wh,)
    ends = [0]
    for gates in cell.products:
        assert gates[0] == ends[-1], "the gates of the products come one after the other"
        ends.append(gates[-1] + 1)
    parts = [Wh[:, a * call.H : b * call.H] for a, b in itertools.pairwise(ends)]
    return tuple(map(call.xp.ascontiguousarray, parts))


def given(call, **others):
    """What a kernel of one step is bound to, with the sizes of a launch."""
    return {"blocks": -(-call.N * call.H // THREADS), "N": call.N, "T": call.T, **others}


def candidate_mask(call, arrays):
    """What kernels take for it."""
    mask = arrays.of_steps[0]
    return call.nothing if mask is None else mask


def forward(call, cell, arrays, Wh, states, start, ahead, train):
    """All steps; states are replaced."""
    if cell.forward_steps:
        cell.forward_steps(call, arrays, Wh, states, start, ahead, train)
        return
    gpu, N, T, H, dtype = call.gpu, call.N, call.T, call.H, call.dtype.name
    W, *more = weights_of(call, cell, Wh)
    Ah = Ah2 = call.empty(N, W.shape[1])
    of_all = given(call, b=arrays.b, Wp=arrays.Wp, A=arrays.A, Ah=Ah, states=states)
    if more:
        (W2,) = more
        seen = call.empty(N, H)
        Ah2 = call.empty(N, W2.shape[1])
        first = bind(make_first(gpu, cell, H, dtype), **of_all, seen=seen)
    kernel = make_step(gpu, cell, H, call.ragged, dtype)
    outputs = {"hs": arrays.hs, "kept": arrays.kept, "train": train}
    mask = {"candidate_mask": candidate_mask(call, arrays)}
    step = bind(kernel, **of_all, Ah2=Ah2, ends=arrays.ends, **mask, **outputs)
    complete = cell.complete(call, arrays)
    zone_before, zone_after = zoneout.around(call, arrays, states, train)

    def multiply(h, W, out):
        gpu.matmul(h * arrays.m if call.masked else h, W, out=out)

    for t in range(start, start + ahead * T, ahead):
        if not cell.own_input:
            multiply(states[0], W, Ah)
        if more:
            first(t=t)
            multiply(seen, W2, Ah2)
        complete(Ah, states, t)
        zone_before()
        step(t=t)
        zone_after(t)


def back(call, cell, arrays, Wh, dstates, start, ahead):
    """All steps back; dstates are replaced, arrays.A becomes dA."""
    if cell.back_steps:
        cell.back_steps(call, arrays, Wh, dstates, start, ahead)
        return
    gpu, N, T, H = call.gpu, call.N, call.T, call.H
    ways = call.masked, call.ragged, call.dtype.name
    W, *more = weights_of(call, cell, Wh)
    dB, came = call.empty(N, W.shape[1]), call.zeros(N, H)
    through = came
    zone_before, zone_after = zoneout.around_back(call, arrays, dstates, came)
    of_all = given(call, b=arrays.b, Wp=arrays.Wp, A=arrays.A, dstates=dstates, came=came)
    of_all["candidate_mask"] = candidate_mask(call, arrays)
    of_all |= {"dhs": arrays.dhs, "kept": arrays.kept, "m": arrays.m, "ends": arrays.ends}
    if more:
        (W2,) = more
        dB2, through = call.empty(N, W2.shape[1]), call.empty(N, H)
        first_back = bind(make_first_back(gpu, cell, H, *ways), **of_all, dB2=dB2)
    kernel = make_step_back(gpu, cell, H, *ways)
    step_back = bind(kernel, **of_all, B=arrays.B, dB=dB, through=through)
    before, after = cell.complete_back(call, arrays, dB)

    for t in range(start, start + ahead * T, ahead):
        zone_before(t)
        if more:
            first_back(t=t)
            gpu.matmul(dB2, W2.T, out=through)
        before(dstates, came, t)
        step_back(t=t)
        gpu.matmul(dB, W.T, out=came)
        after(dstates, came, t)
        zone_after()
    if call.masked:
        came *= arrays.m
    dh = dstates[0]
    dh += came
