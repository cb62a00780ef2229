"""What the products of the frame share: intrinsics that are long and straight.

They emit their own instructions and hand registers on as tuples; so a kernel is short, compiles
fast, and every offset is a constant.
"""

from itertools import islice

from rnnfast.cuda.numba_cuda import cgutils, intrinsic, types
from rnnfast.cuda.ptx import (
    F32,
    ZERO,
    add_up,
    address,
    beyond,
    integer,
    load,
    number,
    shared_address,
    store,
)

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


def gather_sums(count, step, width, apart=1):
    """total(s, i): `width` sums, `apart` floats apart, each of s[i], s[i + step], ... `count`."""
    places = widths(step, width) if apart == 1 else [(c * apart, 1) for c in range(width)]

    @intrinsic
    def gather(typing_context, s, i):
        def generate(context, builder, signature, args):
            first = shared_address(context, builder, signature, args, 0)

            def part(k):
                at = [(beyond(builder, first, k * step + c), w) for c, w in places]
                return [v for p, w in at for v in load(builder, "ld.shared", p, w)]

            return cgutils.pack_array(builder, add_parts(builder, count, part))

        return floats(width)(s, i), generate

    return gather


def put_floats(width):
    """put(s, i, values): floats side by side."""

    @intrinsic
    def put(typing_context, s, i, values):
        def generate(context, builder, signature, args):
            first = shared_address(context, builder, signature, args, 0)
            found = cgutils.unpack_tuple(builder, args[2])
            for k, w in widths(width, width):
                store(builder, "st.shared", beyond(builder, first, k), found[k : k + w])
            return context.get_dummy_value()

        return types.void(s, i, values), generate

    return put


def fetch_shares(tile, apart):
    """fetch(x, i, at, thread): the sum of the fours at x[i + at], and `adders * apart` on, ..."""
    adders, fetches, sources = tile.adders, tile.fetches, tile.sources

    @intrinsic
    def fetch(typing_context, x, i, at, thread):
        def generate(context, builder, signature, args):
            base = address(context, builder, signature, args, 0)
            first = builder.gep(base, [integer(context, builder, signature, args, 2)])
            thread = integer(context, builder, signature, args, 3)
            found = []
            for k in range(fetches):
                p, there = beyond(builder, first, k * adders * apart), None
                if (k + 1) * adders > sources:
                    last = number((sources - k * adders) * (tile.parcel // 4))
                    there = builder.icmp_signed("<", thread, last)
                    p = builder.select(there, p, first)
                four = load(builder, "ld.global.cg", p, 4)
                if there is not None:
                    four = [builder.select(there, v, ZERO) for v in four]
                found.append(four)
            sums = [add_up(builder, list(terms)) for terms in zip(*found, strict=True)]
            return cgutils.pack_array(builder, sums)

        return floats(4)(x, i, at, thread), generate

    return fetch


def make_receiving(gpu, tile, received, apart):
    """receive(x, i, s, at) and total(s, at) of a product on the way back.

    What came from the sources, `apart` floats apart from x[i] on, is added up from s[received] on,
    where in a local tile it lies already. at[3]: where the thread's first four begins.
    """
    cuda, LOCAL = gpu.cuda, tile.local
    ADDING = tile.adders * (tile.parcel // 4)
    fetch, put_four = fetch_shares(tile, apart), put_floats(4)
    gather = gather_sums(tile.sources if LOCAL else tile.adders, tile.parcel, 1)

    @gpu.device
    def receive(x, i, s, at):
        """What came, to shared memory; the block meets."""
        if not LOCAL:
            thread = cuda.threadIdx.x
            if thread < ADDING:
                put_four(s, received + 4 * thread, fetch(x, i, at[3], thread))
            cuda.syncthreads()

    @gpu.device
    def total(s, at):
        """What the thread's unit and row get from all sources."""
        return gather(s, received + cuda.threadIdx.x)[0]

    return receive, total
