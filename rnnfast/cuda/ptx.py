"""What the kernels need and Numba does not offer, as inline PTX: instructions, and intrinsics.

The first half is for intrinsics (tuples.py, straight.py, ffma.py, mma.py): each function emits one
instruction through the builder of llvmlite. The second half is for kernels:

    exp2, reciprocal   the fast approximations, within 2 ULP
    to_tf32(x)         x rounded to the 10 bits that a tensor core reads
    umulhi(a, b)       the upper 64 bits of a product of uint64
    hold(i)            i in a register of 32 bits: nothing in a loop computes it anew

PTX ISA: https://docs.nvidia.com/cuda/parallel-thread-execution/ (mma.m16n8k8, memory consistency).
"""

import contextlib

from rnnfast.cuda.numba_cuda import intrinsic, ir, types

F32, I32, I64, VOID = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.VoidType()
ZERO = ir.Constant(F32, 0.0)
MEMORY = "~{memory}"  # without it the compiler moves a volatile load out of a loop that waits


# Instructions


def inline(builder, result, code, constraints, arguments, side_effect=True):
    kind = ir.FunctionType(result, [a.type for a in arguments])
    assembly = ir.InlineAsm(kind, code, constraints, side_effect=side_effect)
    return builder.call(assembly, arguments)


def number(n):
    return ir.Constant(I64, n)


def integer(context, builder, signature, args, k):
    """Argument k of an intrinsic, an integer, in 64 bits."""
    return context.cast(builder, args[k], signature.args[k], types.int64)


def address(context, builder, signature, args, k, i=None):
    """Of p[i]: arguments k, a pointer or an array of one axis in shared memory, and i or k + 1."""
    kind, base = signature.args[k], args[k]
    if not isinstance(kind, types.CPointer):
        base = context.make_array(kind)(context, builder, value=base).data
    i = k + 1 if i is None else i
    return builder.gep(base, [integer(context, builder, signature, args, i)])


def beyond(builder, p, floats):
    """The address some floats after p, which is a pointer or an address in shared memory."""
    if isinstance(p.type, ir.PointerType):
        return builder.gep(p, [number(floats)])
    return builder.add(p, ir.Constant(I32, 4 * floats))


def _letter(p):
    return "l" if isinstance(p.type, ir.PointerType) else "r"


def load(builder, code, p, width=1, memory=True):
    """[float] * width from an instruction such as "ld.shared"; width is 1, 2 or 4."""
    kind = f".v{width}.f32" if width > 1 else ".f32"
    names = ", ".join(f"${i}" for i in range(width))
    into = f"{{{names}}}" if width > 1 else "$0"
    result = ir.LiteralStructType([F32] * width) if width > 1 else F32
    constraints = ",".join(["=f"] * width + [_letter(p)] + [MEMORY] * memory)
    found = inline(builder, result, f"{code}{kind} {into}, [${width}];", constraints, [p])
    return [builder.extract_value(found, i) for i in range(width)] if width > 1 else [found]


def store(builder, code, p, values):
    """1, 2 or 4 floats by an instruction such as "st.shared"."""
    width = len(values)
    kind = f".v{width}.f32" if width > 1 else ".f32"
    names = ", ".join(f"${i}" for i in range(1, width + 1))
    source = f"{{{names}}}" if width > 1 else "$1"
    constraints = ",".join([_letter(p)] + ["f"] * width + [MEMORY])
    inline(builder, VOID, f"{code}{kind} [$0], {source};", constraints, [p, *values])


def forget(builder):
    """What was read from shared memory is read again: it does not stay in registers, nor spill."""
    inline(builder, VOID, "bar.warp.sync 0xffffffff;", MEMORY, [])


def load_weight(builder, p):
    """One float that no kernel writes meanwhile."""
    return load(builder, "ld.global.nc", p, memory=False)[0]


def rounded(builder, x):
    """x for a tensor core: 32 bits, as an integer."""
    return inline(builder, I32, "cvt.rna.tf32.f32 $0, $1;", "=r,f", [x], side_effect=False)


TF32 = 0xFFFFE000  # the bits of float32 that a tensor core reads


def parted(builder, x):
    """Two numbers for a tensor core, whose sum is x but for its last two bits, as integers.

    They are made in this place and not before a loop, where they would take registers.
    """
    bits = builder.bitcast(x, I32)
    high = inline(builder, I32, f"and.b32 $0, $1, {TF32:#x};", "=r,r", [bits])
    low = builder.fsub(x, builder.bitcast(high, F32))  # exact
    return high, builder.and_(builder.bitcast(low, I32), ir.Constant(I32, TF32))


def mma(builder, a, b, c):
    """[c + a b] on a tensor core: m16n8k8, TF32 in, float32 sums."""
    code = (
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};"
    )
    four = ir.LiteralStructType([F32] * 4)
    constraints = ",".join(["=f"] * 4 + ["r"] * 6 + ["f"] * 4)
    found = inline(builder, four, code, constraints, [*a, *b, *c], side_effect=False)
    return [builder.extract_value(found, i) for i in range(4)]


def least(builder, a, b):
    return builder.select(builder.icmp_signed("<", a, b), a, b)


def only(builder, there):
    """A context whose instructions run where the bit `there` is set; always where it is None."""
    return contextlib.nullcontext() if there is None else builder.if_then(there)


def add_up(builder, terms):
    """The sum of them, in pairs."""
    while len(terms) > 1:
        pairs = [builder.fadd(a, b) for a, b in zip(terms[::2], terms[1::2], strict=False)]
        terms = pairs + terms[len(terms) // 2 * 2 :]
    return terms[0]


# Intrinsics


def _unary(instruction):
    @intrinsic
    def function(typing_context, x):
        def generate(context, builder, signature, args):
            return inline(builder, F32, f"{instruction} $0, $1;", "=f,f", args, side_effect=False)

        return types.float32(types.float32), generate

    return function


exp2 = _unary("ex2.approx.ftz.f32")
reciprocal = _unary("rcp.approx.ftz.f32")


@intrinsic
def to_tf32(typing_context, x):
    def generate(context, builder, signature, args):
        return builder.bitcast(rounded(builder, args[0]), F32)

    return types.float32(types.float32), generate


@intrinsic
def umulhi(typing_context, a, b):
    def generate(context, builder, signature, args):
        return inline(builder, I64, "mul.hi.u64 $0, $1, $2;", "=l,l,l", args, side_effect=False)

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic
def hold(typing_context, i):
    def generate(context, builder, signature, args):
        narrow = context.cast(builder, args[0], signature.args[0], types.int32)
        return inline(builder, I32, "mov.b32 $0, $1;", "=r,r", [narrow])

    return types.int32(i), generate
