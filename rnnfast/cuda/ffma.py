"""The frame's forward product in float32, by FFMA: weights in registers. Sizes: tiles.py."""

from functools import cache
from itertools import product

from rnnfast.cuda.numba_cuda import cgutils, intrinsic, types
from rnnfast.cuda.ptx import (
    I32,
    ZERO,
    address,
    beyond,
    integer,
    least,
    load,
    load_weight,
    number,
    shared_address,
    store,
)
from rnnfast.cuda.straight import floats, gather_sums, multiply_add, set_aside, weights_of

IN_FLIGHT = 8  # fours that a thread loads before it stores the first


def load_weights(tile):
    """weights(Wh, part, j, s, i): [four][term][unit][gate], 0 for terms beyond H.

    j: the first unit; what is set aside lies from s[i] on.
    """
    H, G, parts = tile.H, tile.G, tile.parts

    @intrinsic
    def weights(typing_context, Wh, part, j, s, i):
        def generate(context, builder, signature, args):
            part, j = (integer(context, builder, signature, args, k) for k in (1, 2))
            first_row = builder.mul(part, number(4))
            row = builder.gep(args[0], [builder.mul(first_row, number(G * H))])
            units = [builder.add(j, number(u)) for u in range(tile.own)]
            units = [least(builder, u, number(H - 1)) for u in units]  # beyond: any, never used
            starts = [builder.gep(row, [u]) for u in units]

            def numbers():
                for k in (4 * parts * i + r for i in range(tile.fours) for r in range(4)):
                    there = None
                    if 4 * (parts - 1) + k >= H:  # some threads are beyond the last term
                        inside = builder.add(first_row, number(k))
                        there = builder.icmp_signed("<", inside, number(H))
                    for start, gate in product(starts, tile.gates):
                        p = beyond(builder, start, k * G * H + gate * H)
                        p = p if there is None else builder.select(there, p, args[0])
                        w = load_weight(builder, p)
                        yield w if there is None else builder.select(there, w, ZERO)

            others = shared_address(context, builder, signature, args, 3)
            return set_aside(builder, tile, others, numbers())

        return floats(tile.weights)(Wh, part, j, s, i), generate

    return weights


def copy_rows(tile):
    """copy(x, i, s, thread): what the group exchanges, x[i:], to the beginning of s; past L1."""
    fours, threads = tile.exchanged // 4, tile.threads
    rounds = -(-fours // threads)

    @intrinsic
    def copy(typing_context, x, i, s, j, thread):
        def generate(context, builder, signature, args):
            thread = integer(context, builder, signature, args, 4)
            first = address(context, builder, signature, args, 0)
            target = shared_address(context, builder, signature, args, 2)
            mine = builder.mul(thread, number(4))
            source = builder.gep(first, [mine])
            target = builder.add(target, builder.trunc(builder.mul(mine, number(4)), I32))
            left = builder.icmp_signed("<", thread, number(fours - (rounds - 1) * threads))
            whole = rounds - (fours % threads != 0)
            for start in range(0, rounds, IN_FLIGHT):
                some = range(start, min(start + IN_FLIGHT, rounds))
                found = []
                for r in some:
                    p = beyond(builder, source, 4 * threads * r)
                    p = p if r < whole else builder.select(left, p, first)
                    found.append(load(builder, "ld.global.cg", p, 4))
                for r, four in zip(some, found, strict=True):
                    to = beyond(builder, target, 4 * threads * r)
                    if r < whole:
                        store(builder, "st.shared", to, four)
                    else:
                        with builder.if_then(left):
                            store(builder, "st.shared", to, four)
            return context.get_dummy_value()

        return types.void(x, i, s, j, thread), generate

    return copy


def multiply_rows(tile):
    """multiply(s, i, W, aside): the sums [row][unit][gate] of this thread's terms, from s[i] on."""

    @intrinsic
    def multiply(typing_context, s, i, W, aside):
        def generate(context, builder, signature, args):
            x = shared_address(context, builder, signature, args, 0)
            others = shared_address(context, builder, signature, args, 0, 3)
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

        return floats(tile.rows * tile.width)(s, i, W, aside), generate

    return multiply


def spread_sums(tile):
    """spread(s, i, sums): rows of this thread's sums, `tile.sums` floats apart."""
    apart, width, piece = tile.sums, tile.width, tile.piece
    pieces = [(k // piece * piece * tile.across + k % piece, k) for k in range(width)]
    vector = next(w for w in (4, 2, 1) if piece % w == 0 and apart % w == 0)

    @intrinsic
    def spread(typing_context, s, i, sums):
        def generate(context, builder, signature, args):
            out = shared_address(context, builder, signature, args, 0)
            values = cgutils.unpack_tuple(builder, args[2])
            for n in range(tile.rows):
                for at, k in pieces[::vector]:
                    to = beyond(builder, out, n * apart + at)
                    store(builder, "st.shared", to, values[n * width + k : n * width + k + vector])
            return context.get_dummy_value()

        return types.void(s, i, sums), generate

    return spread


@cache
def unchanged(gpu):
    @gpu.device
    def seen(h):
        """h as the product reads it."""
        return h

    return seen


@cache
def make_forward(gpu, tile, base):
    """place, begin, run, total, seen of a forward product; its shared memory begins at s[base]."""
    cuda, hold = gpu.cuda, gpu.hold
    own, across, columns, parts = tile.own, tile.across, tile.columns, tile.parts
    rows, apart, units, last = tile.rows, tile.sums, tile.units, tile.H - 1
    start, aside, piece = base + tile.exchanged, base + tile.scratch, tile.piece
    weights, copy, multiply = load_weights(tile), copy_rows(tile), multiply_rows(tile)
    spread, gather = spread_sums(tile), gather_sums(parts, rows * apart, columns)
    ALL, LOCAL = tile.threads == across * parts, tile.local

    @gpu.device
    def place(row, unit):
        """Where the thread's terms and its sums lie in s, and those of its unit and row."""
        thread = cuda.threadIdx.x
        part = min(thread // across, parts - 1)
        sums = start + part * rows * apart + thread % across * piece
        first = unit % own * columns
        of_unit = first // piece * piece * across + unit // own * piece + first % piece
        of_unit += start + min(row, rows - 1) * apart
        return hold(base + 4 * part), hold(sums), hold(of_unit)

    @gpu.device
    def begin(Wh, block, s):
        """The weights of this thread."""
        thread = cuda.threadIdx.x
        part = min(thread // across, parts - 1)
        j = min(block * units + thread % across * own, last)
        return weights(Wh, part, j, s, aside + 4 * thread)

    @gpu.device
    def run(x, i, s, W, at):
        """Partial sums for h of the group's rows, from x[i] on; the block meets."""
        thread = cuda.threadIdx.x
        if not LOCAL:
            copy(x, i, s, base, thread)
            cuda.syncthreads()
        sums = multiply(s, at[0], W, aside + 4 * thread)
        if ALL or thread < across * parts:  # threads beyond the last part repeat it
            spread(s, at[1], sums)
        cuda.syncthreads()

    @gpu.device
    def total(s, at):
        """The sums of a unit and a row, gate by gate."""
        return gather(s, at[2])

    return place, begin, run, total, unchanged(gpu)
