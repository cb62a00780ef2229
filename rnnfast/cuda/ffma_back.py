"""The frame's product on the way back in float32, by FFMA: a reduce-scatter. Sizes: tiles.py."""

from functools import cache

from rnnfast.cuda import exchange
from rnnfast.cuda.numba_cuda import intrinsic, types
from rnnfast.cuda.ptx import (
    ZERO,
    add_up,
    address,
    beyond,
    forget,
    least,
    load,
    load_weight,
    number,
    only,
    store,
)
from rnnfast.cuda.straight import (
    floats,
    make_receiving,
    multiply_add,
    put_floats,
    set_aside,
    weights_of,
)
from rnnfast.cuda.whole import held, held_of, own_aside, shared_place, thread_of, wholes


def load_weights(tile, start):
    """begin(Wh, block, s): a thread's weights [receiver][unit][gate].

    In the place of rows that lie beyond, the last: nobody receives it. In slices also in the place
    of such units: their dA is 0. What is set aside lies from s[start] on.
    """
    H, G = tile.H, tile.G
    whole = tile.slices == 1 or tile.blocks * tile.units <= H
    whole = whole and tile.slices * tile.of_slice <= tile.units

    @intrinsic
    def begin(typing_context, Wh, block, s):
        def generate(context, builder, signature, args):
            (block,), (slice_, k) = wholes(context, builder, signature, args, 1), who(builder, tile)
            j = block * tile.units + slice_ * tile.of_slice
            if tile.slices == 1:
                j = j.limited(max(0, H - tile.units))
            k, j, last = k.long, j.long, number(H - 1)
            units = [builder.add(j, number(u)) for u in range(tile.of_slice)]
            units = units if whole else [least(builder, u, last) for u in units]
            padding = [ZERO] * (tile.terms - len(units) * tile.columns)

            def numbers():
                for i in range(tile.receivers):
                    row = least(builder, builder.add(k, number(i * tile.across)), last)
                    start = builder.gep(args[0], [builder.mul(row, number(G * H))])
                    first = builder.gep(start, [j])
                    for u, unit in enumerate(units):
                        p = beyond(builder, first, u) if whole else builder.gep(start, [unit])
                        for gate in tile.gates:
                            yield load_weight(builder, beyond(builder, p, gate * H))
                    yield from padding

            others = own_aside(context, builder, signature, args, start, 2)
            return set_aside(builder, tile, others, numbers())

        return floats(tile.weights)(Wh, block, s), generate

    return begin


def who(builder, tile):
    """The thread's slice, and its first unit that receives."""
    thread = thread_of(builder)
    return (thread // tile.across).limited(tile.slices - 1), thread % tile.across


def find_places(tile, base):
    """place(block, group, row, unit): what the functions below need of a thread; held.

    Its first unit that receives; where its slice of dA begins in s; dA of row and unit; the first
    four that it fetches from the exchange; and, in the exchange (a local tile's lies in s), where
    what each of its receivers gets begins.
    """
    units, columns, blocks, parcel = tile.units, tile.columns, tile.blocks, tile.parcel
    sources, of_slice, received = tile.sources, tile.of_slice, base + tile.received

    @intrinsic
    def place(typing_context, block, group, row, unit):
        def generate(context, builder, signature, args):
            block, group, row, unit = wholes(context, builder, signature, args, 0, 1, 2, 3)
            slice_, k = who(builder, tile)
            thread, of_unit = thread_of(builder), unit // of_slice
            adder = thread // (parcel // 4)
            four = (thread - adder * (parcel // 4)) * 4
            fetched = ((group * blocks + block) * sources + adder) * parcel + four
            own = row * tile.row + of_unit * tile.terms + (unit - of_unit * of_slice) * columns
            if tile.slices == 1:  # the last block begins earlier, and what it has twice stays 0
                first_unit = block * units
                own += (first_unit - first_unit.limited(max(0, tile.H - units))) * columns
            if tile.local:
                first = slice_ * parcel + received
            else:
                first = (group * (blocks * sources) + block * tile.slices + slice_) * parcel
            places = []
            for i in range(tile.receivers):
                to = k + i * tile.across
                places.append(to // units * (sources * parcel) + to % units + first)
            return held(builder, k, slice_ * tile.terms + base, own + base, fetched, *places)

        kind = types.UniTuple(types.int32, 4 + tile.receivers)
        return kind(block, group, row, unit), generate

    return place


def send_shares(tile, aside):
    """send(x, i, s, W, at, tag): multiplies dA at s[at[1]], hands out what it gives from x[i] on.

    In a local tile into s.
    """
    inside = tile.receivers - tile.aside  # with weights in registers
    chains = max(1, 16 // (inside * max(tile.warps, 4)))  # sums in parallel

    @intrinsic
    def send(typing_context, x, i, s, W, at, tag):
        def generate(context, builder, signature, args):
            k, of_slice, _, _, *places = (
                held_of(builder, args[4], i) for i in range(4 + tile.receivers)
            )
            terms = shared_place(context, builder, signature, args, of_slice, 2)
            others = own_aside(context, builder, signature, args, aside, 2)
            some = weights_of(builder, tile, args[3], others)
            if tile.local:
                targets = [shared_place(context, builder, signature, args, p, 2) for p in places]
            else:
                base = address(context, builder, signature, args, 0)
                targets = [builder.gep(base, [p.long]) for p in places]

            def four_of(n, e):
                return load(builder, "ld.shared", beyond(builder, terms, n * tile.row + e), 4)

            def hand_out(n, r, value):
                to = beyond(builder, targets[r], n * tile.units)
                whole = (r + 1) * tile.across <= tile.H
                with only(builder, None if whole else k + r * tile.across < tile.H):
                    if tile.local:
                        store(builder, "st.shared", to, [value])
                    else:
                        exchange.send(builder, to, value, args[5])

            for n in range(tile.rows):
                sums = [[ZERO] * chains for _ in range(inside)]
                for e in range(0, tile.terms, 4):
                    four = four_of(n, e)
                    for r, receiver in enumerate(sums):
                        for q, w in enumerate(some(r * tile.round + e, 4)):
                            chain = q % chains
                            receiver[chain] = multiply_add(builder, four[q], w, receiver[chain])
                for r, receiver in enumerate(sums):
                    hand_out(n, r, add_up(builder, receiver))
            for r in range(inside, tile.receivers):  # a weight is read once for all rows
                forget(builder)
                sums = [ZERO] * tile.rows
                for e in range(0, tile.terms, 4):
                    W = some(r * tile.round + e, 4)
                    for n in range(tile.rows):
                        for v, w in zip(four_of(n, e), W, strict=True):
                            sums[n] = multiply_add(builder, v, w, sums[n])
                for n, value in enumerate(sums):
                    hand_out(n, r, value)
            return context.get_dummy_value()

        return types.void(x, i, s, W, at, tag), generate

    return send


@cache
def make_back(gpu, tile, base):
    """place, begin, put, send, receive, total of a product back; shared memory from s[base].

    put(s, at, values): dA of the thread's unit and row, to be multiplied.
    """
    aside, received = base + tile.scratch, base + tile.received
    begin, send = load_weights(tile, aside), send_shares(tile, aside)
    receive, total = make_receiving(gpu, tile, received, tile.parcel)
    return find_places(tile, base), begin, put_floats(tile.columns), send, receive, total
