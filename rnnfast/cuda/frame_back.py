"""The kernel of all steps back, for every cell; see frame.py."""

from functools import cache

import numpy as np

from rnnfast.cuda.cells import equations_back
from rnnfast.cuda.exchange import make_padding
from rnnfast.cuda.frame import make_clear, make_common, make_product
from rnnfast.cuda.signatures import signature_of
from rnnfast.cuda.tuples import add_first, columns, constants, put, put_columns, take


@cache
def make_frame_back(gpu, cell, masked, ragged, plan):
    """The kernel of all steps back, for launches of plan.grid blocks."""
    cuda, hold, zero, float32 = gpu.cuda, gpu.hold, gpu.zero, gpu.float32
    H, G, ROWS, PASSES = plan.H, cell.gates, plan.rows, plan.passes
    BLOCKS, LOCAL, TWO, MANY = plan.blocks, plan.local, len(plan.tiles) > 1, PASSES > 1
    SEPARATE = cell.separate
    tag, own_steps, who, *memory = make_common(gpu, cell, ragged, plan)
    keep_constants, constants_again, remember, recall = memory
    first_back, step_back = equations_back(gpu, cell, "float32")
    SIZE = plan.tiles[-1].exchanged
    TERMS = plan.tiles[-1].scratch if LOCAL else plan.tiles[-1].received
    place, begin, put_terms, send, receive, total = make_product(gpu, plan.tiles[-1], 0)
    clear = make_clear(plan.threads, 0, TERMS)  # what nobody has written is 0
    padding = make_padding(plan.tiles[-1])
    BASE = clear2 = place2 = begin2 = put_terms2 = send2 = receive2 = total2 = padding2 = None
    if TWO:
        BASE = plan.tiles[-1].shared
        clear2 = make_clear(plan.threads, BASE, plan.tiles[0].received)
        padding2 = make_padding(plan.tiles[0])
        place2, begin2, put_terms2, send2, receive2, total2 = make_product(gpu, plan.tiles[0], BASE)
    SLOTS, SIZE2 = plan.slots, plan.tiles[0].exchanged
    constants_of, gates_of = constants(cell.biases, cell.peepholes, H), columns(G, H)
    put_gates = put_columns(G, H)
    nothing, nothing_back = (zero,) * G, (zero,) * len(cell.products[0])
    nothing_first = (zero,) * len(cell.products[-1])

    def back_kernel(dhs, A, B, Wh, b, Wp, initial, m, kept, final, x, x2, ends, N, T, start, ahead):
        s = cuda.shared.array(0, float32)
        block, group, row, u, j, n0 = who()
        mine = (row < ROWS) & (j < H)
        keep_constants(s, 0, constants_of(b, Wp, min(j, H - 1)))
        W = begin(Wh, block, s)
        own = place(block, group * PASSES, row, u)
        clear(s)
        if TWO:
            W2 = begin2(Wh, block, s)
            own2 = place2(block, group, row, u)
            clear2(s)
        for r in range(PASSES):
            n = n0 + r * ROWS
            if mine & (n < N):
                dstates = take(initial, n * H + j)
                if MANY:
                    remember(s, r, dstates)
        cuda.syncthreads()
        apart = (SLOTS - 1) * (cuda.gridDim.x // BLOCKS) * PASSES * SIZE
        now = apart
        for r in range(PASSES):
            padding(x, (group * PASSES + r) * SIZE, block)
            if not TWO:
                padding(x, apart + (group * PASSES + r) * SIZE, block)
        if TWO:
            padding2(x2, group * SIZE2, block)
        t, steps = own_steps(ends, n0 - row, N, T, start, ahead)
        at = (n0 * T + t) * H + j
        gate = G * at - (G - 1) * j
        further = hold(ahead * H)
        further_gate = hold(ahead * G * H)
        k = np.int32(0)
        while k < steps:
            for r in range(PASSES):
                n = n0 + r * ROWS
                live = mine & (n < N)
                i = at + r * ROWS * T * H
                i_gate = gate + r * ROWS * T * G * H
                if live:
                    gates = gates_of(A, i_gate)
                    keep = take(kept, i)
                    above = dhs[i]
                    if ragged:
                        on = t < ends[n]
                    if masked:
                        mask = m[n * H + j]
                if not LOCAL and k > 0:  # dh comes from the step before
                    receive(x, now + r * SIZE, s, own, tag(k - 1))
                if live:
                    if MANY:
                        dstates = recall(s, r)
                    if LOCAL or k > 0:
                        came = total(s, own)
                        if masked:
                            came *= mask
                        dstates = add_first(dstates, came)
                through = zero
                if TWO:
                    if live:
                        w = constants_again(s, 0)
                        terms2 = first_back(add_first(dstates, above), gates, keep, w)
                        if ragged and not on:
                            terms2 = nothing_first
                        put_terms2(s, own2, terms2)
                    cuda.syncthreads()
                    send2(x2, 0, s, W2, own2, tag(k))
                    if LOCAL:
                        cuda.syncthreads()
                    else:
                        receive2(x2, 0, s, own2, tag(k))
                    if live:
                        through = total2(s, own2)
                        if masked:
                            through *= mask
                if live:
                    before = dstates
                    w = constants_again(s, 0)
                    dA, dB, dstates = step_back(add_first(before, above), through, gates, keep, w)
                    if ragged and not on:
                        dA = nothing
                        dB = nothing_back
                        dstates = before
                    put_terms(s, own, dB)
                    if MANY:
                        remember(s, r, dstates)
                cuda.syncthreads()
                send(x, apart - now + r * SIZE, s, W, own, tag(k))
                if LOCAL or r < PASSES - 1:  # the next pass writes where this one reads
                    cuda.syncthreads()
                if live:
                    put_gates(A, i_gate, dA)
                    if SEPARATE:
                        put_gates(B, i_gate, dB)
            k = np.int32(k + 1)
            t = np.int32(t + ahead)
            at += further
            gate += further_gate
            now = apart - now
        for r in range(PASSES):  # and that of the first state from the last step
            n = n0 + r * ROWS
            if k > 0 and not LOCAL:
                if r > 0:
                    cuda.syncthreads()
                receive(x, now + r * SIZE, s, own, tag(k - 1))
            if mine & (n < N):
                if MANY:
                    dstates = recall(s, r)
                if k > 0:
                    came = total(s, own)
                    if masked:
                        came *= m[n * H + j]
                    dstates = add_first(dstates, came)
                put(final, n * H + j, dstates)

    signature = signature_of(back_kernel, "float32", cell)
    return gpu.kernel(back_kernel, signature, plan.threads, plan.shared, cooperative=not LOCAL)
