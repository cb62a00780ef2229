"""The frame's forward product on tensor cores: weights in registers as mma fragments.

In TF32, or in float32 by three products in TF32.

In an m16n8k8 the left side is Wh, 16 rows of it, the right side 8 samples. Lane 4 g + j of a warp
holds rows g and g + 8 at terms j and j + 4 of the left, column g at those terms of the right, and
of what comes out rows g, g + 8 at columns 2 j, 2 j + 1. A lane's terms are ordered so that one load
of 16 bytes gives two of them for each of two products, and four lanes cover 64 bytes.
"""

from functools import cache

from rnnfast.cuda.exchange import look, received
from rnnfast.cuda.ffma import unchanged
from rnnfast.cuda.numba_cuda import cgutils, intrinsic, types
from rnnfast.cuda.ptx import (
    F32,
    I32,
    ZERO,
    address,
    beyond,
    forget,
    least,
    load_weight,
    mma,
    number,
    parted,
    rounded,
    store,
)
from rnnfast.cuda.straight import floats, gather_sums, set_aside, weights_of
from rnnfast.cuda.tiles import WARP
from rnnfast.cuda.whole import held, held_of, own_aside, shared_place, thread_of, wholes

OUT = ((0, 0), (1, 0), (0, 8), (1, 8))  # column and row, after 2 j and g, of what mma gives a lane


def load_fragments(tile, rows, columns, first_of, most, start):
    """begin(Wh, block, s): a thread's Wh[k + row, column] of `rows` and `columns`.

    Rounded to TF32, unless their parts are multiplied.

    first_of(thread): k, and the first unit of the thread in its block; most: the largest k.
    columns: (gate, unit after that). 0 beyond H rows, the last unit in the place of what lies
    beyond. What is set aside lies from s[start] on.
    """
    H, G, in_tf32 = tile.H, tile.G, tile.arithmetic == "tf32"

    @intrinsic
    def begin(typing_context, Wh, block, s):
        def generate(context, builder, signature, args):
            (block,), (k, j) = (
                wholes(context, builder, signature, args, 1),
                first_of(thread_of(builder)),
            )
            k, j = k.long, (block * tile.units + j).long
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
                        yield rounded(builder, w) if in_tf32 else builder.bitcast(w, I32)

            others = own_aside(context, builder, signature, args, start, 2)
            return set_aside(builder, tile, others, numbers())

        return types.UniTuple(types.int32, tile.weights)(Wh, block, s), generate

    return begin


def halves(builder, numbers):
    """The TF32 parts of float32 numbers, and what is left of each."""
    return tuple(zip(*[parted(builder, builder.bitcast(v, F32)) for v in numbers], strict=True))


def three_products(builder, a, b, c):
    """[c + a b] of halves."""
    (high_a, low_a), (high_b, low_b) = a, b
    c = mma(builder, low_a, high_b, c)
    c = mma(builder, high_a, low_b, c)
    return mma(builder, high_a, high_b, c)


def multiply_rows(tile, aside):
    """multiply(x, i, s, W, at, tag): D[tile][eight of samples][4] of terms from x[i + at[0]] on.

    A part of them is 32 terms of eight samples; the parts to come are loaded meanwhile.
    """
    parts = [(group, eight) for group in range(tile.groups) for eight in range(tile.eights)]
    # split: a product takes this of its factors, of Wh once for `together` eights of samples
    multiply_add, split, together = mma, lambda builder, numbers: numbers, 1
    if tile.arithmetic == "3xtf32":
        multiply_add, split, together = three_products, halves, tile.eights

    @intrinsic
    def multiply(typing_context, x, i, s, W, at, tag):
        def generate(context, builder, signature, args):
            base = address(context, builder, signature, args, 0)
            first = builder.gep(base, [held_of(builder, args[4], 0).long])
            others = own_aside(context, builder, signature, args, aside, 2)
            some = weights_of(builder, tile, args[3], others)
            tiles, eights = tile.tiles, tile.eights
            D = [[ZERO] * 4 for _ in range(tiles * eights)]

            def places(group, eight):
                at = eight * 8 * tile.row + 32 * group * tile.warps
                return [beyond(builder, first, at + half) for half in (0, 16)]

            def looks(part):
                return [look(builder, p) for p in places(*part)]

            def there(some_parts, found):
                """Of each part its eight numbers."""
                of_all = [p for part in some_parts for p in places(*part)]
                fours = received(builder, of_all, [four for f in found for four in f], args[5])
                return [fours[k] + fours[k + 1] for k in range(0, len(fours), 2)]

            at_once = parts[: tile.at_once]
            ready = there(at_once, [looks(part) for part in at_once])
            coming, there_now = {}, []
            for k, (group, eight) in enumerate(parts):
                if k < len(ready):
                    x = ready[k]
                else:
                    (x,) = there([parts[k]], [coming.pop(k)])
                if k + len(ready) < len(parts):
                    coming[k + len(ready)] = looks(parts[k + len(ready)])
                there_now.append([builder.bitcast(v, I32) for v in x])
                if len(there_now) < together:
                    continue
                if eight >= together and tile.aside:
                    forget(builder)
                for term in range(4):
                    W = some((4 * group + term) * tile.round, tile.round)
                    right = [split(builder, x[2 * term : 2 * term + 2]) for x in there_now]
                    for m in range(tiles):
                        w = 2 * m
                        left = [W[w], W[w + 1], W[w + 2 * tiles], W[w + 2 * tiles + 1]]
                        left = split(builder, left)
                        for n, b in enumerate(right, m * eights + eight + 1 - together):
                            D[n] = multiply_add(builder, left, b, D[n])
                there_now = []
            return cgutils.pack_array(builder, [v for d in D for v in d])

        return floats(4 * tile.tiles * tile.eights)(x, i, s, W, at, tag), generate

    return multiply


def spread_sums(tile):
    """spread(s, at, D): each sum to its sample's row and its column, from s[at[1]] on."""

    @intrinsic
    def spread(typing_context, s, at, D):
        def generate(context, builder, signature, args):
            first = shared_place(context, builder, signature, args, held_of(builder, args[1], 1))
            D = iter(cgutils.unpack_tuple(builder, args[2]))
            for m in range(tile.tiles):
                for eight in range(tile.eights):
                    for n, u in OUT:
                        at = 4 * eight * tile.pair + n * tile.second + 16 * m + u
                        store(builder, "st.shared", beyond(builder, first, at), [next(D)])
            return context.get_dummy_value()

        return types.void(s, at, D), generate

    return spread


def find_places(tile, base):
    """place(row, unit): where the thread's terms lie in x, its sums in s; those of row and unit."""

    @intrinsic
    def place(typing_context, row, unit):
        def generate(context, builder, signature, args):
            row, unit = wholes(context, builder, signature, args, 0, 1)
            warp, g, j = lane_of(thread_of(builder))
            n = row.limited(tile.rows - 1)
            return held(
                builder,
                g * tile.row + warp * 32 + j * 4,
                warp * tile.sums + j * tile.pair + g + base,
                n // 2 * tile.pair + n % 2 * tile.second + unit + base,
            )

        return types.UniTuple(types.int32, 3)(row, unit), generate

    return place


def lane_of(thread):
    """Its warp, and g and j of the lane, which is 4 g + j."""
    return thread // WARP, thread % WARP // 4, thread % 4


def first_of(thread):
    """The first term and unit of a thread."""
    warp, g, j = lane_of(thread)
    return warp * 32 + j * 4, g


@cache
def make_forward(gpu, tile, base):
    """place, begin, run, total, seen of a forward product; its shared memory begins at s[base].

    run(x, i, s, W, at, tag): partial sums for h of the group's rows, from x[i] on, once it is
    there; the block meets.
    total(s, at): the sums of a unit and a row, gate by gate.
    """
    cuda, aside = gpu.cuda, base + tile.scratch
    of_lane = [16 * (k // 2) + 2 * (k % 2) + half for k in range(4) for half in (0, 1)]
    of_rows = [32 * tile.warps * group + term for group in range(tile.groups) for term in of_lane]
    of_columns = [
        (gate, 16 * part + after)
        for gate in tile.gates
        for part in range(tile.units // 16)
        for after in (0, 8)
    ]
    most = 32 * (tile.warps - 1) + 12  # the largest first term of a thread
    begin = load_fragments(tile, of_rows, of_columns, first_of, most, aside)
    multiply, spread = multiply_rows(tile, aside), spread_sums(tile)

    @gpu.device
    def run(x, i, s, W, at, tag):
        spread(s, at, multiply(x, i, s, W, at, tag))
        cuda.syncthreads()

    total = gather_sums(tile.warps, tile.sums, tile.columns, tile.units)
    seen = gpu.to_tf32 if tile.arithmetic == "tf32" else unchanged
    return find_places(tile, base), begin, run, total, seen
