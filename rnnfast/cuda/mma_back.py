"""The frame's product on the way back on tensor cores, in TF32: a reduce-scatter.

The terms are the block's columns, units of a gate after the other; the rows of a tile are units
that receive. Where a lane has what: mma.py.
"""

from functools import cache

from rnnfast.cuda import exchange
from rnnfast.cuda.mma import OUT, lane_of, load_fragments
from rnnfast.cuda.numba_cuda import cgutils, intrinsic, types
from rnnfast.cuda.ptx import (
    I32,
    MEMORY,
    VOID,
    ZERO,
    address,
    beyond,
    forget,
    inline,
    mma,
    only,
    rounded,
)
from rnnfast.cuda.straight import make_receiving, weights_of
from rnnfast.cuda.whole import held, held_of, own_aside, shared_place, thread_of, wholes


def put_terms(tile):
    """put(s, at, values): dA of the thread's unit and row, gate by gate, rounded."""

    @intrinsic
    def put(typing_context, s, at, values):
        def generate(context, builder, signature, args):
            first = shared_place(context, builder, signature, args, held_of(builder, args[1], 2))
            for k, value in enumerate(cgutils.unpack_tuple(builder, args[2])):
                at = beyond(builder, first, k * tile.units)
                code = "st.shared.b32 [$0], $1;"
                inline(builder, VOID, code, f"r,r,{MEMORY}", [at, rounded(builder, value)])
            return context.get_dummy_value()

        return types.void(s, at, values), generate

    return put


def send_shares(tile, aside):
    """send(x, i, s, W, at, tag): dA at s[at[1]] multiplied, from x[i + at[0]] on."""
    tiles = tile.wide // 16

    @intrinsic
    def send(typing_context, x, i, s, W, at, tag):
        def generate(context, builder, signature, args):
            base = address(context, builder, signature, args, 0)
            base = builder.gep(base, [held_of(builder, args[4], 0).long])
            warp, _, j = lane_of(thread_of(builder))
            terms = shared_place(context, builder, signature, args, held_of(builder, args[4], 1), 2)
            others = own_aside(context, builder, signature, args, aside, 2)
            some = weights_of(builder, tile, args[3], others)

            def word(at):
                p = beyond(builder, terms, at)
                return inline(builder, I32, "ld.shared.b32 $0, [$1];", f"=r,r,{MEMORY}", [p])

            for eight in range(tile.eights):
                if eight and tile.aside:
                    forget(builder)
                at = 8 * eight * tile.row
                right = [(word(at + 8 * k), word(at + 8 * k + 4)) for k in range(tile.terms)]
                for r in range(tile.receivers):
                    d, W = [ZERO] * 4, some(r * tile.round, tile.round)
                    for k, b in enumerate(right):
                        w = [
                            W[(half * tile.terms + k) * 2 + which]
                            for which in (0, 1)
                            for half in (0, 1)
                        ]
                        d = mma(builder, w, b, d)
                    inside = None
                    if (r + 1) * tile.warps > tiles:
                        inside = warp + r * tile.warps < tiles
                    for value, (n, u) in zip(d, OUT, strict=True):
                        there = inside
                        if 8 * eight + 6 + n >= tile.rows:  # of some lane
                            there = j * 2 + (8 * eight + n) < tile.rows
                            there = there if inside is None else builder.and_(inside, there)
                        at_k = (8 * eight + n) * tile.wide + r * tile.warps * 16 + u
                        to = beyond(builder, base, at_k)
                        with only(builder, there):
                            exchange.send(builder, to, value, args[5])
            return context.get_dummy_value()

        return types.void(x, i, s, W, at, tag), generate

    return send


def find_places(tile, base):
    """place(block, group, row, unit): what the functions below need of a thread; held.

    Where in the exchange what it sends begins, where in s the terms of its column; dA of row and
    unit; the first four that it fetches from the exchange.
    """
    rows, wide, blocks, of_row = tile.rows, tile.wide, tile.blocks, tile.units // 4

    @intrinsic
    def place(typing_context, block, group, row, unit):
        def generate(context, builder, signature, args):
            block, group, row, unit = wholes(context, builder, signature, args, 0, 1, 2, 3)
            thread = thread_of(builder)
            warp, g, j = lane_of(thread)
            sent = ((group * blocks + block) * rows + j * 2) * wide + warp * 16 + g
            adder = thread // (tile.parcel // 4)
            four = thread - adder * (tile.parcel // 4)
            n = four // of_row
            fetched = ((group * blocks + adder) * rows + n) * wide
            fetched += block * tile.units + (four - n * of_row) * 4
            return held(
                builder, sent, g * tile.row + j + base, row * tile.row + unit + base, fetched
            )

        return types.UniTuple(types.int32, 4)(block, group, row, unit), generate

    return place


def first_of(thread):
    """The first receiving unit and the first term of a thread."""
    warp, g, j = lane_of(thread)
    return warp * 16 + g, j


@cache
def make_back(gpu, tile, base):
    """place, begin, put, send, receive, total of a product back; shared memory from s[base]."""
    aside, received = base + tile.scratch, base + tile.received
    of_rows = [16 * tile.warps * r + half for r in range(tile.receivers) for half in (0, 8)]
    of_columns = [
        (gate, 8 * eight + 4 * which)
        for gate in tile.gates
        for eight in range(tile.units // 8)
        for which in (0, 1)
    ]
    most = 16 * (tile.warps - 1) + 7  # the largest first row of a thread
    begin = load_fragments(tile, of_rows, of_columns, first_of, most, aside)
    receive, total = make_receiving(gpu, tile, received, tile.rows * tile.wide)
    return find_places(tile, base), begin, put_terms(tile), send_shares(tile, aside), receive, total
