"""The frame's forward product in float32, by FFMA: weights in registers. Sizes: tiles.py."""

from functools import cache
from itertools import product

from rnnfast.cuda.exchange import look, received
from rnnfast.cuda.numba_cuda import cgutils, intrinsic, types
from rnnfast.cuda.ptx import (
    ZERO,
    address,
    beyond,
    least,
    load,
    load_weight,
    number,
    only,
    store,
)
from rnnfast.cuda.straight import floats, gather_sums, multiply_add, set_aside, weights_of
from rnnfast.cuda.whole import held, held_of, own_aside, shared_place, thread_of, wholes

IN_FLIGHT = 8  # fours that a thread loads before it stores the first


def load_weights(tile, start):
    """begin(Wh, block, s): a thread's weights [four][term][unit][gate], 0 for terms beyond H.

    What is set aside lies from s[start] on.
    """
    H, G, parts = tile.H, tile.G, tile.parts

    @intrinsic
    def begin(typing_context, Wh, block, s):
        def generate(context, builder, signature, args):
            (block,), thread = wholes(context, builder, signature, args, 1), thread_of(builder)
            part = (thread // tile.across).limited(parts - 1).long
            j = (block * tile.units + thread % tile.across * tile.own).limited(H - 1).long
            first_row = builder.mul(part, number(4))
            row = builder.gep(args[0], [builder.mul(first_row, number(G * H))])
            units = [builder.add(j, number(u)) for u in range(tile.own)]
            units = [least(builder, u, number(H - 1)) for u in units]  # beyond: any, never used
            columns = [builder.gep(row, [u]) for u in units]

            def numbers():
                for k in (4 * parts * i + r for i in range(tile.fours) for r in range(4)):
                    there = None
                    if 4 * (parts - 1) + k >= H:  # some threads are beyond the last term
                        inside = builder.add(first_row, number(k))
                        there = builder.icmp_signed("<", inside, number(H))
                    for column, gate in product(columns, tile.gates):
                        p = beyond(builder, column, k * G * H + gate * H)
                        p = p if there is None else builder.select(there, p, args[0])
                        w = load_weight(builder, p)
                        yield w if there is None else builder.select(there, w, ZERO)

            others = own_aside(context, builder, signature, args, start, 2)
            return set_aside(builder, tile, others, numbers())

        return floats(tile.weights)(Wh, block, s), generate

    return begin


def copy_rows(tile, base):
    """copy(x, i, s, tag): what the group exchanges, x[i:], to s[base:]."""
    fours, threads = tile.exchanged // 4, tile.threads
    rounds = -(-fours // threads)

    @intrinsic
    def copy(typing_context, x, i, s, tag):
        def generate(context, builder, signature, args):
            thread = thread_of(builder)
            first = address(context, builder, signature, args, 0)
            source = builder.gep(first, [(thread * 4).long])
            target = shared_place(context, builder, signature, args, thread * 4 + base, 2)
            left = thread < fours - (rounds - 1) * threads
            whole = rounds - (fours % threads != 0)
            for start in range(0, rounds, IN_FLIGHT):
                some = range(start, min(start + IN_FLIGHT, rounds))
                places = [beyond(builder, source, 4 * threads * r) for r in some]
                if some[-1] >= whole:
                    places[-1] = builder.select(left, places[-1], first)
                found = [look(builder, p) for p in places]
                found = received(builder, places, found, args[3])
                for r, four in zip(some, found, strict=True):
                    to = beyond(builder, target, 4 * threads * r)
                    with only(builder, None if r < whole else left):
                        store(builder, "st.shared", to, four)
            return context.get_dummy_value()

        return types.void(x, i, s, tag), generate

    return copy


def multiply_rows(tile, aside):
    """multiply(s, at, W): the sums [row][unit][gate] of this thread's terms, from s[at[0]] on."""

    @intrinsic
    def multiply(typing_context, s, at, W):
        def generate(context, builder, signature, args):
            x = shared_place(context, builder, signature, args, held_of(builder, args[1], 0))
            others = own_aside(context, builder, signature, args, aside)
            some = weights_of(builder, tile, args[2], others)
            width = tile.width
            sums = [ZERO] * (tile.rows * width)
            for i in range(tile.fours):
                W = some(i * tile.round, tile.round)
                for n in range(tile.rows):
                    at = beyond(builder, x, n * tile.row + 4 * tile.parts * i)
                    for r, v in enumerate(load(builder, "ld.shared", at, 4)):
                        for c in range(width):
                            w, k = W[r * width + c], n * width + c
                            sums[k] = multiply_add(builder, v, w, sums[k])
            return cgutils.pack_array(builder, sums)

        return floats(tile.rows * tile.width)(s, at, W), generate

    return multiply


def spread_sums(tile):
    """spread(s, at, sums): rows of a thread's sums, `tile.sums` floats apart, from s[at[1]] on."""
    used = tile.across * tile.parts  # threads beyond repeat the last part
    apart, width, piece = tile.sums, tile.width, tile.piece
    pieces = [(k // piece * piece * tile.across + k % piece, k) for k in range(width)]
    vector = next(w for w in (4, 2, 1) if piece % w == 0 and apart % w == 0)

    @intrinsic
    def spread(typing_context, s, at, sums):
        def generate(context, builder, signature, args):
            out = shared_place(context, builder, signature, args, held_of(builder, args[1], 1))
            values = cgutils.unpack_tuple(builder, args[2])
            with only(builder, None if used == tile.threads else thread_of(builder) < used):
                for n, (at, k) in product(range(tile.rows), pieces[::vector]):
                    to = beyond(builder, out, n * apart + at)
                    store(builder, "st.shared", to, values[n * width + k : n * width + k + vector])
            return context.get_dummy_value()

        return types.void(s, at, sums), generate

    return spread


@intrinsic
def unchanged(typing_context, h):
    """h as the product reads it."""
    return h(h), lambda context, builder, signature, args: args[0]


def find_places(tile, base):
    """place(row, unit): where the thread's terms and its sums lie in s; those of row and unit."""
    across, own, piece, columns = tile.across, tile.own, tile.piece, tile.columns
    start = base + tile.exchanged

    @intrinsic
    def place(typing_context, row, unit):
        def generate(context, builder, signature, args):
            row, unit = wholes(context, builder, signature, args, 0, 1)
            thread = thread_of(builder)
            part = (thread // across).limited(tile.parts - 1)
            sums = part * (tile.rows * tile.sums) + thread % across * piece + start
            first = unit % own * columns
            of_unit = first // piece * (piece * across) + unit // own * piece + first % piece
            of_unit += row.limited(tile.rows - 1) * tile.sums + start
            return held(builder, part * 4 + base, sums, of_unit)

        return types.UniTuple(types.int32, 3)(row, unit), generate

    return place


@cache
def make_forward(gpu, tile, base):
    """place, begin, run, total, seen of a forward product; its shared memory begins at s[base].

    run(x, i, s, W, at, tag): partial sums for h of the group's rows, from x[i] on, once it is
    there; the block meets.
    total(s, at): the sums of a unit and a row, gate by gate.
    """
    cuda, LOCAL, aside = gpu.cuda, tile.local, base + tile.scratch
    copy, multiply, spread = copy_rows(tile, base), multiply_rows(tile, aside), spread_sums(tile)

    @gpu.device
    def run(x, i, s, W, at, tag):
        if not LOCAL:
            copy(x, i, s, tag)
            cuda.syncthreads()
        spread(s, at, multiply(s, at, W))
        cuda.syncthreads()

    total = gather_sums(tile.parts, tile.rows * tile.sums, tile.columns)
    return find_places(tile, base), load_weights(tile, aside), run, total, unchanged
