"""The frame's product on the way back on tensor cores, in TF32: a reduce-scatter.

The terms are the block's columns, units of a gate after the other; the rows of a tile are units
that receive. Where a lane has what: mma.py.
"""

from functools import cache

from rnnfast.cuda.mma import OUT, load_fragments
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
    integer,
    mma,
    number,
    rounded,
    shared_address,
    store,
)
from rnnfast.cuda.straight import make_receiving, weights_of
from rnnfast.cuda.tiles import WARP


def put_terms(tile):
    """put(s, i, values): dA of a unit, gate by gate, rounded."""

    @intrinsic
    def put(typing_context, s, i, values):
        def generate(context, builder, signature, args):
            first = shared_address(context, builder, signature, args, 0)
            for k, value in enumerate(cgutils.unpack_tuple(builder, args[2])):
                at = beyond(builder, first, k * tile.units)
                code = "st.shared.b32 [$0], $1;"
                inline(builder, VOID, code, f"r,r,{MEMORY}", [at, rounded(builder, value)])
            return context.get_dummy_value()

        return types.void(s, i, values), generate

    return put


def send_shares(tile):
    """send(x, now, at, thread, s, i, W, aside): dA at s[i] multiplied, from x[now + at] on."""
    tiles = tile.wide // 16

    @intrinsic
    def send(typing_context, x, now, at, thread, s, i, W, aside):
        def generate(context, builder, signature, args):
            base = address(context, builder, signature, args, 0)
            base = builder.gep(base, [integer(context, builder, signature, args, 2)])
            thread = integer(context, builder, signature, args, 3)
            warp = builder.lshr(thread, number(5))
            sample = builder.shl(builder.and_(thread, number(3)), number(1))
            terms = shared_address(context, builder, signature, args, 4)
            others = shared_address(context, builder, signature, args, 4, 7)
            some = weights_of(builder, tile, args[6], others)

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
                        number_of = builder.add(warp, number(r * tile.warps))
                        inside = builder.icmp_signed("<", number_of, number(tiles))
                    for value, (n, u) in zip(d, OUT, strict=True):
                        there = inside
                        if 8 * eight + 6 + n >= tile.rows:  # of some lane
                            row = builder.add(sample, number(8 * eight + n))
                            there = builder.icmp_signed("<", row, number(tile.rows))
                            there = there if inside is None else builder.and_(inside, there)
                        at_k = (8 * eight + n) * tile.wide + r * tile.warps * 16 + u
                        to = beyond(builder, base, at_k)
                        if there is None:
                            store(builder, "st.global.cg", to, [value])
                        else:
                            with builder.if_then(there):
                                store(builder, "st.global.cg", to, [value])
            return context.get_dummy_value()

        return types.void(x, now, at, thread, s, i, W, aside), generate

    return send


@cache
def make_back(gpu, tile, base):
    """place, begin, put, send, receive, total of a product back; shared memory from s[base]."""
    cuda, hold = gpu.cuda, gpu.hold
    units, rows, wide, received = tile.units, tile.rows, tile.wide, base + tile.received
    aside = base + tile.scratch
    row, blocks, fours, of_row = tile.row, tile.blocks, tile.parcel // 4, units // 4
    of_rows = [16 * tile.warps * r + half for r in range(tile.receivers) for half in (0, 8)]
    of_columns = [
        (gate, 8 * eight + 4 * which)
        for gate in tile.gates
        for eight in range(units // 8)
        for which in (0, 1)
    ]
    most = 16 * (tile.warps - 1) + 7  # the largest first row of a thread
    weights = load_fragments(tile, of_rows, of_columns, most)
    put_, send_ = put_terms(tile), send_shares(tile)
    receive, total = make_receiving(gpu, tile, received, rows * wide)

    @gpu.device
    def place(block, group, row_, unit):
        """What the functions below need of a thread and of its unit and row."""
        thread = cuda.threadIdx.x
        warp = thread // WARP
        g = thread % WARP // 4
        j = thread % 4
        sent = ((group * blocks + block) * rows + 2 * j) * wide + 16 * warp + g
        adder = thread // fours
        four = thread - adder * fours
        n = four // of_row
        fetched = ((group * blocks + adder) * rows + n) * wide
        return (
            hold(sent),
            hold(base + g * row + j),
            hold(base + row_ * row + unit),
            hold(fetched + block * units + 4 * (four - n * of_row)),
        )

    @gpu.device
    def begin(Wh, block, s):
        """The weights of this thread."""
        thread = cuda.threadIdx.x
        k = thread // WARP * 16 + thread % WARP // 4
        return weights(Wh, k, block * units + thread % 4, s, aside + 4 * thread)

    @gpu.device
    def put(s, at, values):
        """dA of the thread's unit and row, to be multiplied."""
        put_(s, at[2], values)

    @gpu.device
    def send(x, i, s, W, at):
        """Multiplies what was put, and hands it out from x[i] on."""
        thread = cuda.threadIdx.x
        send_(x, i, at[0], thread, s, at[1], W, aside + 4 * thread)

    return place, begin, put, send, receive, total
