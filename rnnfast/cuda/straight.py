"""What the products of the frame share: intrinsics that are long and straight.

They emit their own instructions and hand registers on as tuples; so a kernel is short, compiles
fast, and every offset is a constant.
"""

from itertools import islice

from rnnfast.cuda.exchange import look, received
from rnnfast.cuda.numba_cuda import cgutils, intrinsic, types
from rnnfast.cuda.ptx import (
    F32,
    ZERO,
    add_up,
    address,
    beyond,
    load,
    only,
    store,
)
from rnnfast.cuda.whole import held_of, shared_place, thread_of

AT_ONCE = 32  # numbers that a thread loads before it adds them up


def floats(n):
    return types.UniTuple(types.float32, n)


def multiply_add(builder, a, b, c):
    """Numba contracts it to an FFMA."""
    return builder.fadd(builder.fmul(a, b), c)


def widths(start, n):
    """n floats from `start` as [(offset, width)] of the widest aligned vectors."""
    width = next(w for w in (4, 2, 1) if n % w == 0 and start % w == 0)
    return [(k, width) for k in range(0, n, width)]


def add_parts(builder, count, get):
    """The sums of lists get(0), get(1), ... of numbers, some of them at once in registers."""
    first, sums = get(0), None
    some = max(2, AT_ONCE // len(first))
    for start in range(0, count, some):
        parts = [get(k) if k else first for k in range(start, min(start + some, count))]
        parts = [add_up(builder, list(terms)) for terms in zip(*parts, strict=True)]
        sums = parts if sums is None else list(map(builder.fadd, sums, parts))
    return sums


def set_aside(builder, tile, first, numbers):
    """A thread's weights for registers; the others to shared memory, by fours, from first on.

    numbers: loads each weight when it is asked for the next one.
    """
    kept = list(islice(numbers, tile.weights))
    for k in range(0, tile.aside * tile.round, 4):
        four = [builder.bitcast(w, F32) for w in islice(numbers, 4)]
        store(builder, "st.shared", beyond(builder, first, k * tile.threads), four)
    return cgutils.pack_array(builder, kept)


def weights_of(builder, tile, W, first):
    """some(k, count): so many of a thread's weights from number k on, in fours; see set_aside."""
    W = cgutils.unpack_tuple(builder, W)

    def some(k, count):
        if k < tile.weights:
            return W[k : k + count]
        found = []
        for at in range(k - tile.weights, k - tile.weights + count, 4):
            found += load(builder, "ld.shared", beyond(builder, first, at * tile.threads), 4)
        return [builder.bitcast(w, W[0].type) for w in found]

    return some


def gathered(builder, first, count, step, width, apart=1):
    """`width` sums, `apart` floats apart, each of `count` floats in shared memory, `step` apart."""
    places = widths(step, width) if apart == 1 else [(c * apart, 1) for c in range(width)]

    def part(k):
        at = [(beyond(builder, first, k * step + c), w) for c, w in places]
        return [v for p, w in at for v in load(builder, "ld.shared", p, w)]

    return add_parts(builder, count, part)


def gather_sums(*what):
    """total(s, at): the sums of a unit and a row, gate by gate; `gathered` from s[at[2]] on."""
    width = what[2]

    @intrinsic
    def total(typing_context, s, at):
        def generate(context, builder, signature, args):
            first = shared_place(context, builder, signature, args, held_of(builder, args[1], 2))
            return cgutils.pack_array(builder, gathered(builder, first, *what))

        return floats(width)(s, at), generate

    return total


def put_floats(width):
    """put(s, at, values): floats side by side, from s[at[2]] on."""

    @intrinsic
    def put(typing_context, s, at, values):
        def generate(context, builder, signature, args):
            first = shared_place(context, builder, signature, args, held_of(builder, args[1], 2))
            found = cgutils.unpack_tuple(builder, args[2])
            for k, w in widths(width, width):
                store(builder, "st.shared", beyond(builder, first, k), found[k : k + w])
            return context.get_dummy_value()

        return types.void(s, at, values), generate

    return put


def fetch_shares(tile, start, apart):
    """fetch(x, i, s, at, tag): what came from x[i + at[3]] on, summed up, to s[start:].

    The first threads of a block fetch a four each of every `adders` sources, `apart` apart.
    """
    adders, fetches, sources = tile.adders, tile.fetches, tile.sources
    adding = adders * (tile.parcel // 4)

    @intrinsic
    def fetch(typing_context, x, i, s, at, tag):
        def generate(context, builder, signature, args):
            thread = thread_of(builder)
            base = address(context, builder, signature, args, 0)
            first = builder.gep(base, [held_of(builder, args[3], 3).long])
            with only(builder, thread < adding):
                places, last = [], None
                for k in range(fetches):
                    p = beyond(builder, first, k * adders * apart)
                    if (k + 1) * adders > sources:
                        last = thread < (sources - k * adders) * (tile.parcel // 4)
                        p = builder.select(last, p, first)
                    places.append(p)
                found = [look(builder, p) for p in places]
                found = received(builder, places, found, args[4])
                if last is not None:
                    found[-1] = [builder.select(last, v, ZERO) for v in found[-1]]
                sums = [add_up(builder, list(terms)) for terms in zip(*found, strict=True)]
                to = shared_place(context, builder, signature, args, thread * 4 + start, 2)
                store(builder, "st.shared", to, sums)
            return context.get_dummy_value()

        return types.void(x, i, s, at, tag), generate

    return fetch


def make_receiving(gpu, tile, start, apart):
    """receive(x, i, s, at, tag) and total(s, at) of a product on the way back.

    What came from the sources, `apart` floats apart from x[i] on, is added up from s[start] on,
    where in a local tile it lies already. at[3]: where the thread's first four begins.
    """
    cuda, fetch = gpu.cuda, fetch_shares(tile, start, apart)
    count = tile.sources if tile.local else tile.adders

    @gpu.device
    def receive(x, i, s, at, tag):
        """What came, to shared memory; the block meets."""
        fetch(x, i, s, at, tag)
        cuda.syncthreads()

    @intrinsic
    def total(typing_context, s, at):
        """What the thread's unit and row get from all sources."""

        def generate(context, builder, signature, args):
            own = thread_of(builder) + start
            first = shared_place(context, builder, signature, args, own)
            return gathered(builder, first, count, tile.parcel, 1)[0]

        return types.float32(s, at), generate

    return receive, total
