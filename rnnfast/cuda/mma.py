"""The frame's forward product on tensor cores, in TF32: weights in registers as mma fragments.

In an m16n8k8 the left side is Wh, 16 rows of it, the right side 8 samples. Lane 4 g + j of a warp
holds rows g and g + 8 at terms j and j + 4 of the left, column g at those terms of the right, and
of what comes out rows g, g + 8 at columns 2 j, 2 j + 1. A lane's terms are ordered so that one load
of 16 bytes gives two of them for each of two products, and four lanes cover 64 bytes.
"""

from functools import cache

from rnnfast.cuda.numba_cuda import cgutils, intrinsic, types
from rnnfast.cuda.ptx import (
    I32,
    ZERO,
    address,
    beyond,
    forget,
    integer,
    least,
    load,
    load_weight,
    mma,
    number,
    rounded,
    shared_address,
    store,
)
from rnnfast.cuda.straight import floats, gather_sums, set_aside, weights_of
from rnnfast.cuda.tiles import WARP

OUT = ((0, 0), (1, 0), (0, 8), (1, 8))  # column and row, after 2 j and g, of what mma gives a lane


def load_fragments(tile, rows, columns, most):
    """fragments(Wh, k, j, s, i): for each of `rows` and of `columns`, Wh[k + row, column], rounded.

    columns: (gate, unit after j); most: the largest k of a thread. 0 beyond H rows, the last unit
    in the place of what lies beyond. What is set aside lies from s[i] on.
    """
    H, G = tile.H, tile.G

    @intrinsic
    def fragments(typing_context, Wh, k, j, s, i):
        def generate(context, builder, signature, args):
            k, j = (integer(context, builder, signature, args, i) for i in (1, 2))
            first = builder.gep(args[0], [builder.mul(k, number(G * H))])
            units = {}
            for after in sorted({after for _, after in columns}):
                units[after] = least(builder, builder.add(j, number(after)), number(H - 1))

            def numbers():
                for row in rows:
                    start, there = beyond(builder, first, row * G * H), None
                    if most + row >= H:
                        there = builder.icmp_signed("<", builder.add(k, number(row)), number(H))
                        start = builder.select(there, start, args[0])
                    starts = {after: builder.gep(start, [unit]) for after, unit in units.items()}
                    for gate, after in columns:
                        w = load_weight(builder, beyond(builder, starts[after], gate * H))
                        w = w if there is None else builder.select(there, w, ZERO)
                        yield rounded(builder, w)

            others = shared_address(context, builder, signature, args, 3)
            return set_aside(builder, tile, others, numbers())

        return types.UniTuple(types.int32, tile.weights)(Wh, k, j, s, i), generate

    return fragments


def multiply_rows(tile):
    """multiply(x, i, at, W, s, aside): D[tile][eight of samples][4] of terms from x[i + at] on."""

    @intrinsic
    def multiply(typing_context, x, i, at, W, s, aside):
        def generate(context, builder, signature, args):
            base = address(context, builder, signature, args, 0)
            first = builder.gep(base, [integer(context, builder, signature, args, 2)])
            others = shared_address(context, builder, signature, args, 4)
            some = weights_of(builder, tile, args[3], others)
            tiles, eights = tile.tiles, tile.eights
            D = [[ZERO] * 4 for _ in range(tiles * eights)]
            for group in range(tile.groups):
                for eight in range(eights):
                    if eight and tile.aside:
                        forget(builder)
                    at = eight * 8 * tile.row + 32 * group * tile.warps
                    x = [
                        builder.bitcast(v, I32)
                        for half in (0, 16)
                        for v in load(builder, "ld.global.cg", beyond(builder, first, at + half), 4)
                    ]
                    for k in range(4):
                        W = some((4 * group + k) * tile.round, tile.round)
                        for m in range(tiles):
                            w = 2 * m
                            a = [W[w], W[w + 1], W[w + 2 * tiles], W[w + 2 * tiles + 1]]
                            of = m * eights + eight
                            D[of] = mma(builder, a, x[2 * k : 2 * k + 2], D[of])
            return cgutils.pack_array(builder, [v for d in D for v in d])

        return floats(4 * tile.tiles * tile.eights)(x, i, at, W, s, aside), generate

    return multiply


def spread_sums(tile):
    """spread(s, i, D): each sum to its sample's row and its column."""

    @intrinsic
    def spread(typing_context, s, i, D):
        def generate(context, builder, signature, args):
            first = shared_address(context, builder, signature, args, 0)
            D = iter(cgutils.unpack_tuple(builder, args[2]))
            for m in range(tile.tiles):
                for eight in range(tile.eights):
                    for n, u in OUT:
                        at = 4 * eight * tile.pair + n * tile.second + 16 * m + u
                        store(builder, "st.shared", beyond(builder, first, at), [next(D)])
            return context.get_dummy_value()

        return types.void(s, i, D), generate

    return spread


@cache
def make_forward(gpu, tile, base):
    """place, begin, run, total, seen of a forward product; its shared memory begins at s[base]."""
    cuda, hold, to_tf32 = gpu.cuda, gpu.hold, gpu.to_tf32
    row, sums, pair, second, rows = tile.row, tile.sums, tile.pair, tile.second, tile.rows
    units, aside = tile.units, base + tile.scratch
    of_lane = [16 * (k // 2) + 2 * (k % 2) + half for k in range(4) for half in (0, 1)]
    of_rows = [32 * tile.warps * group + term for group in range(tile.groups) for term in of_lane]
    of_columns = [
        (gate, 16 * part + after)
        for gate in tile.gates
        for part in range(units // 16)
        for after in (0, 8)
    ]
    most = 32 * (tile.warps - 1) + 12  # the largest first term of a thread
    weights = load_fragments(tile, of_rows, of_columns, most)
    multiply, spread = multiply_rows(tile), spread_sums(tile)
    gather = gather_sums(tile.warps, sums, tile.columns, units)

    @gpu.device
    def place(row_, unit):
        """Where the thread's terms lie in x, its sums in s, and those of its unit and row."""
        thread = cuda.threadIdx.x
        warp = thread // WARP
        g = thread % WARP // 4
        j = thread % 4
        n = min(row_, rows - 1)
        return (
            hold(g * row + 32 * warp + 4 * j),
            hold(base + warp * sums + j * pair + g),
            hold(base + n // 2 * pair + n % 2 * second + unit),
        )

    @gpu.device
    def begin(Wh, block, s):
        """The weights of this thread."""
        thread = cuda.threadIdx.x
        k = thread // WARP * 32 + 4 * (thread % 4)
        return weights(Wh, k, block * units + thread % WARP // 4, s, aside + 4 * thread)

    @gpu.device
    def run(x, i, s, W, at):
        """Partial sums for h of the group's rows, from x[i] on; the block meets."""
        spread(s, at[1], multiply(x, i, at[0], W, s, aside + 4 * cuda.threadIdx.x))
        cuda.syncthreads()

    @gpu.device
    def total(s, at):
        """The sums of a unit and a row, gate by gate."""
        return gather(s, at[2])

    return place, begin, run, total, to_tf32
