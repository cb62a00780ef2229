"""The frame's product on the way back in float32, by FFMA: a reduce-scatter. Sizes: tiles.py."""

from functools import cache

from rnnfast.cuda.numba_cuda import cgutils, intrinsic, ir, types
from rnnfast.cuda.ptx import (
    I32,
    I64,
    ZERO,
    add_up,
    address,
    beyond,
    forget,
    inline,
    integer,
    least,
    load,
    load_weight,
    number,
    shared_address,
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


def load_weights(tile):
    """weights(Wh, k, j, s, i): [receiver][unit][gate] of rows k, k + across, ..., units from j on.

    In the place of rows that lie beyond, the last: nobody receives it. In slices also in the place
    of such units: their dA is 0. What is set aside lies from s[i] on.
    """
    H, G = tile.H, tile.G
    whole = tile.slices == 1 or tile.blocks * tile.units <= H
    whole = whole and tile.slices * tile.of_slice <= tile.units

    @intrinsic
    def weights(typing_context, Wh, k, j, s, i):
        def generate(context, builder, signature, args):
            k, j = (integer(context, builder, signature, args, i) for i in (1, 2))
            last = number(H - 1)
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

            others = shared_address(context, builder, signature, args, 3)
            return set_aside(builder, tile, others, numbers())

        return floats(tile.weights)(Wh, k, j, s, i), generate

    return weights


def find_places(tile):
    """places(k, first): where in the exchange what the thread's receivers get begins.

    first: where what this source sends to the first block of the group begins.
    """
    units, apart = tile.units, tile.sources * tile.parcel

    @intrinsic
    def places(typing_context, k, first):
        def generate(context, builder, signature, args):
            k, first = (integer(context, builder, signature, args, i) for i in (0, 1))
            found = []
            for i in range(tile.receivers):
                unit = builder.add(k, number(i * tile.across))
                block, rest = builder.udiv(unit, number(units)), builder.urem(unit, number(units))
                at = builder.add(builder.mul(block, number(apart)), builder.add(first, rest))
                found.append(
                    inline(builder, I32, "mov.b32 $0, $1;", "=r,r", [builder.trunc(at, I32)])
                )
            return cgutils.pack_array(builder, found)

        return types.UniTuple(types.int32, tile.receivers)(k, first), generate

    return places


def send_shares(tile):
    """send(x, now, places, k, s, i, W, aside): multiplies dA at s[i], hands out what it gives.

    To x[now + place], in a local tile to s[place].
    """
    inside = tile.receivers - tile.aside  # with weights in registers
    chains = max(1, 16 // (inside * max(tile.warps, 4)))  # sums in parallel
    code = "st.shared" if tile.local else "st.global.cg"

    @intrinsic
    def send(typing_context, x, now, places, k, s, i, W, aside):
        def generate(context, builder, signature, args):
            k = integer(context, builder, signature, args, 3)
            if tile.local:
                base = shared_address(context, builder, signature, (*args[:5], number(0)), 4)
            else:
                base = address(context, builder, signature, args, 0)
            terms = shared_address(context, builder, signature, args, 4)
            others = shared_address(context, builder, signature, args, 4, 7)
            some = weights_of(builder, tile, args[6], others)
            targets = []
            for place in cgutils.unpack_tuple(builder, args[2]):
                if tile.local:
                    targets.append(builder.add(base, builder.shl(place, ir.Constant(I32, 2))))
                else:
                    targets.append(builder.gep(base, [builder.sext(place, I64)]))

            def four_of(n, e):
                return load(builder, "ld.shared", beyond(builder, terms, n * tile.row + e), 4)

            def hand_out(n, r, value):
                to = beyond(builder, targets[r], n * tile.units)
                if (r + 1) * tile.across <= tile.H:
                    store(builder, code, to, [value])
                    return
                unit = builder.add(k, number(r * tile.across))
                with builder.if_then(builder.icmp_signed("<", unit, number(tile.H))):
                    store(builder, code, to, [value])

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

        return types.void(x, now, places, k, s, i, W, aside), generate

    return send


@cache
def make_back(gpu, tile, base):
    """place, begin, put, send, receive, total of a product back; shared memory from s[base]."""
    cuda, hold = gpu.cuda, gpu.hold
    units, columns, across, terms, row = (
        *(tile.units, tile.columns, tile.across, tile.terms, tile.row),
    )
    of_slice, slices = tile.of_slice, tile.slices
    received, aside = base + tile.received, base + tile.scratch
    parcel, sources, blocks, fours = tile.parcel, tile.sources, tile.blocks, tile.parcel // 4
    LOCAL, WHOLE, last = tile.local, slices == 1, max(0, tile.H - units)
    weights, places, send_ = load_weights(tile), find_places(tile), send_shares(tile)
    put_ = put_floats(columns)
    receive, total = make_receiving(gpu, tile, received, parcel)

    @gpu.device
    def place(block, group, row_, unit):
        """What the functions below need of a thread and of its unit and row."""
        thread = cuda.threadIdx.x
        slice_ = min(thread // across, slices - 1)
        k = thread - thread // across * across
        if LOCAL:
            first = received + slice_ * parcel
        else:
            first = (group * blocks * sources + block * slices + slice_) * parcel
        adder = thread // fours
        four = 4 * (thread - adder * fours)
        fetched = ((group * blocks + block) * sources + adder) * parcel + four
        of_unit = unit // of_slice
        own = row_ * row + of_unit * terms + (unit - of_unit * of_slice) * columns
        if WHOLE:  # the last block begins earlier, and what it has twice stays 0
            own += (block * units - min(block * units, last)) * columns
        return (
            hold(k),
            hold(base + slice_ * terms),
            hold(base + own),
            hold(fetched),
            places(k, first),
        )

    @gpu.device
    def begin(Wh, block, s):
        """The weights of this thread."""
        thread = cuda.threadIdx.x
        slice_ = min(thread // across, slices - 1)
        k = thread - thread // across * across
        j = block * units + slice_ * of_slice
        if WHOLE:
            j = min(j, last)
        return weights(Wh, k, j, s, aside + 4 * thread)

    @gpu.device
    def put(s, at, values):
        """dA of the thread's unit and row, to be multiplied."""
        put_(s, at[2], values)

    @gpu.device
    def send(x, i, s, W, at):
        """Multiplies what was put, and hands it out from x[i] on."""
        send_(x, i, at[4], at[0], s, at[1], W, aside + 4 * cuda.threadIdx.x)

    return place, begin, put, send, receive, total
