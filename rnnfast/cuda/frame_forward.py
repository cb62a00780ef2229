"""The kernel of all steps forward, for every cell; see frame.py."""

from functools import cache

import numpy as np

from rnnfast.cuda.cells import equations
from rnnfast.cuda.exchange import make_padding, send, send_nothing
from rnnfast.cuda.frame import make_clear, make_common, make_product
from rnnfast.cuda.numba_cuda import intrinsic, types
from rnnfast.cuda.ptx import address
from rnnfast.cuda.signatures import signature_of
from rnnfast.cuda.tuples import columns, constants, put, put_columns, take
from rnnfast.cuda.whole import shared_element, wholes


def make_publish(tile, base):
    """publish(x, i, s, row, j, value, tag): h of a row and a unit, for all blocks at x[i:].

    In a local tile at s[base:].
    """

    @intrinsic
    def publish(typing_context, x, i, s, row, j, value, tag):
        def generate(context, builder, signature, args):
            row, j = wholes(context, builder, signature, args, 3, 4)
            at = row * tile.row + j
            if tile.local:
                to = shared_element(context, builder, signature, args, at + base, 2)
                builder.store(args[5], to)
            else:
                to = address(context, builder, signature, args, 0)
                send(
                    builder,
                    builder.gep(to, [at.long]),
                    args[5],
                    args[6],
                    tile.arithmetic == "tf32",
                )
            return context.get_dummy_value()

        return types.void(x, i, s, row, j, types.float32, tag), generate

    return publish


@cache
def make_frame_forward(gpu, cell, masked, ragged, plan):
    """The kernel of all steps forward, for launches of plan.grid blocks."""
    cuda, hold, zero, float32 = gpu.cuda, gpu.hold, gpu.zero, gpu.float32
    H, G, ROWS, PASSES = plan.H, cell.gates, plan.rows, plan.passes
    BLOCKS, LOCAL, TWO, MANY = plan.blocks, plan.local, len(plan.tiles) > 1, PASSES > 1
    # The sums of a product on tensor cores have no other barrier between, if it is the only one
    BETWEEN = LOCAL or (plan.arithmetic != "float32" and not TWO)
    tag, own_steps, who, *memory = make_common(gpu, cell, ragged, plan)
    keep_constants, constants_again, remember, recall = memory
    first, step = equations(gpu, cell, "float32")
    place, begin, run, total, seen = make_product(gpu, plan.tiles[0], 0)
    publish, SIZE = make_publish(plan.tiles[0], 0), plan.tiles[0].exchanged
    clear, padding = make_clear(plan.threads, 0, SIZE), make_padding(plan.tiles[0])
    ROW = plan.tiles[0].row
    BASE = SIZE2 = place2 = begin2 = run2 = total2 = publish2 = clear2 = padding2 = ROW2 = None
    if TWO:
        BASE, SIZE2 = plan.tiles[0].shared, plan.tiles[1].exchanged
        place2, begin2, run2, total2, _ = make_product(gpu, plan.tiles[1], BASE)
        publish2 = make_publish(plan.tiles[1], BASE)
        clear2, padding2 = make_clear(plan.threads, BASE, SIZE2), make_padding(plan.tiles[1])
        ROW2 = plan.tiles[1].row
    SLOTS = plan.slots
    constants_of, gates_of = constants(cell.biases, cell.peepholes, H), columns(G, H)
    put_gates = put_columns(G, H)

    def forward_kernel(
        A, Wh, b, Wp, initial, m, hs, kept, final, x, x2, ends, N, T, start, ahead, train
    ):
        s = cuda.shared.array(0, float32)
        block, group, row, u, j, n0 = who()
        mine = (row < ROWS) & (j < H)
        keep_constants(s, 0, constants_of(b, Wp, min(j, H - 1)))
        W = begin(Wh, block, s)
        own = place(row, u)
        if TWO:
            W2 = begin2(Wh, block, s)
            own2 = place2(row, u)
        if LOCAL:  # the padding of h
            clear(s)
            if TWO:
                clear2(s)
            cuda.syncthreads()
        now = group * PASSES * SIZE
        then = now + (SLOTS - 1) * (cuda.gridDim.x // BLOCKS) * PASSES * SIZE
        for r in range(PASSES):
            n = n0 + r * ROWS
            if mine & (n < N):
                states = take(initial, n * H + j)
                if MANY:
                    remember(s, r, states)
                h = states[0]
                if masked:
                    h *= m[n * H + j]
                publish(x, now + r * SIZE, s, row, j, seen(h), tag(0))
            elif mine and not LOCAL:  # a sample that there is not
                send_nothing(x, now + r * SIZE + row * ROW + j)
                if TWO:
                    send_nothing(x2, group * SIZE2 + row * ROW2 + j)
                else:
                    send_nothing(x, then + r * SIZE + row * ROW + j)
            padding(x, now + r * SIZE, block)
            if not TWO:
                padding(x, then + r * SIZE, block)
        if TWO:
            padding2(x2, group * SIZE2, block)
        if LOCAL:
            cuda.syncthreads()
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
                    a = gates_of(A, i_gate)
                    if masked:
                        mask = m[n * H + j]
                    if ragged:
                        on = t < ends[n]
                run(x, now + r * SIZE, s, W, own, tag(k))
                if TWO:
                    if live:
                        w = constants_again(s, 0)
                        z, h = first(a, total(s, own), states, w)
                        if masked:
                            h *= mask
                        publish2(x2, group * SIZE2, s, row, j, seen(h), tag(k))
                    if LOCAL:
                        cuda.syncthreads()
                    run2(x2, group * SIZE2, s, W2, own2, tag(k))
                if live:
                    w = constants_again(s, 0)
                    before = states
                    if MANY:
                        before = recall(s, r)
                    if TWO:
                        gates, states, keep = step(a, z + total2(s, own2), before, w)
                    else:
                        gates, states, keep = step(a, total(s, own), before, w)
                    h = states[0]
                    shown = h
                    if ragged and not on:
                        states = before
                        h = before[0]
                        shown = zero
                    if masked:
                        h *= mask
                    publish(x, then + r * SIZE, s, row, j, seen(h), tag(k + 1))
                    if MANY:
                        remember(s, r, states)
                if BETWEEN:
                    cuda.syncthreads()
                if live:
                    hs[i] = shown
                    # Without the sample A stays 0: back its group may take fewer steps
                    if train != 0 and (not ragged or on):
                        put(kept, i, keep)
                        put_gates(A, i_gate, gates)
            k = np.int32(k + 1)
            t = np.int32(t + ahead)
            at += further
            gate += further_gate
            now, then = then, now
        for r in range(PASSES):
            n = n0 + r * ROWS
            if mine & (n < N):
                if MANY:
                    states = recall(s, r)
                put(final, n * H + j, states)

    signature = signature_of(forward_kernel, "float32", cell)
    return gpu.kernel(forward_kernel, signature, plan.threads, plan.shared, cooperative=not LOCAL)
