"""Tuples of numbers in registers: intrinsics that read and write several arrays or columns at once.

take(pointers, i)               (p[i], ...) for a tuple of pointers
put(pointers, i, values)        p[i] = value for each of them
columns(n, step)(p, i)          (p[i], p[i + step], ...), n of them
put_columns(n, step)(p, i, v)   the same the other way round
constants(n, m, step)(p, q, i)  n columns of p and m of q, in one tuple
add_first(values, x)            the tuple with x added to its first number
"""

from rnnfast.cuda.numba_cuda import cgutils, intrinsic, types
from rnnfast.cuda.ptx import address, beyond, integer, number


@intrinsic
def take(typing_context, pointers, i):
    def generate(context, builder, signature, args):
        at = [integer(context, builder, signature, args, 1)]
        bases = cgutils.unpack_tuple(builder, args[0])
        return cgutils.pack_array(builder, [builder.load(builder.gep(p, at)) for p in bases])

    return types.UniTuple(pointers.dtype.dtype, pointers.count)(pointers, i), generate


@intrinsic
def put(typing_context, pointers, i, values):
    def generate(context, builder, signature, args):
        at = [integer(context, builder, signature, args, 1)]
        bases, found = (cgutils.unpack_tuple(builder, args[k]) for k in (0, 2))
        for p, value in zip(bases, found, strict=True):
            builder.store(value, builder.gep(p, at))
        return context.get_dummy_value()

    return types.void(pointers, i, values), generate


def columns(n, step):
    @intrinsic
    def get(typing_context, p, i):
        def generate(context, builder, signature, args):
            first = address(context, builder, signature, args, 0)
            found = [builder.load(beyond(builder, first, k * step)) for k in range(n)]
            return cgutils.pack_array(builder, found)

        return types.UniTuple(p.dtype, n)(p, i), generate

    return get


def put_columns(n, step):
    @intrinsic
    def set_(typing_context, p, i, values):
        def generate(context, builder, signature, args):
            first = address(context, builder, signature, args, 0)
            for k, value in enumerate(cgutils.unpack_tuple(builder, args[2])):
                builder.store(value, beyond(builder, first, k * step))
            return context.get_dummy_value()

        return types.void(p, i, types.UniTuple(p.dtype, n)), generate

    return set_


def constants(n, m, step):
    @intrinsic
    def get(typing_context, p, q, i):
        def generate(context, builder, signature, args):
            at = integer(context, builder, signature, args, 2)
            found = []
            for base, count in ((args[0], n), (args[1], m)):
                first = builder.gep(base, [at])
                found += [
                    builder.load(builder.gep(first, [number(k * step)])) for k in range(count)
                ]
            return cgutils.pack_array(builder, found)

        return types.UniTuple(p.dtype, n + m)(p, q, i), generate

    return get


@intrinsic
def add_first(typing_context, values, x):
    def generate(context, builder, signature, args):
        found = cgutils.unpack_tuple(builder, args[0])
        return cgutils.pack_array(builder, [builder.fadd(found[0], args[1]), *found[1:]])

    return values(values, values.dtype), generate
