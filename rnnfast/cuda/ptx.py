"""What the kernels need and Numba does not offer, as inline PTX.

`p` is a pointer to global memory or an array in shared memory, `i` the index of an element.

    load4(s, i)        four floats of shared memory, i % 4 == 0
    fetch4(p, i)       four floats of global memory that another block may have written, i % 4 == 0
    publish(p, i, x)   store a float for other blocks: past L1, into L2
    arrive(p, i)       p[i] += 1, after everything that this block wrote before its last barrier
    arrived(p, i)      p[i]; what its arrivals announced can be read afterwards
    exp2, reciprocal   the fast approximations, within 2 ULP
    to_tf32(x)         x rounded to the 10 bits that a tensor core reads
    umulhi(a, b)       the upper 64 bits of a product of uint64
    mma(a0..a3, b0, b1, c0..c3)   D = A B + C on a tensor core: m16n8k8, TF32 in, float32 sums

PTX ISA: https://docs.nvidia.com/cuda/parallel-thread-execution/ (mma.m16n8k8, memory consistency).
"""

from rnnfast.cuda.numba_cuda import cgutils, intrinsic, ir, types

F32, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
MEMORY = "~{memory}"  # without it the compiler moves a volatile load out of a loop that waits


def _inline(builder, result, code, constraints, arguments, side_effect=True):
    kind = ir.FunctionType(result, [a.type for a in arguments])
    assembly = ir.InlineAsm(kind, code, constraints, side_effect=side_effect)
    return builder.call(assembly, arguments)


def _address(context, builder, kind, array, index, index_kind):
    """The address of array[index]; array is a pointer or one-dimensional and contiguous."""
    if isinstance(kind, types.CPointer):
        base = array
    else:
        base = context.make_array(kind)(context, builder, value=array).data
    return builder.gep(base, [context.cast(builder, index, index_kind, types.int64)])


def _shared_address(context, builder, kind, array, index, index_kind):
    address = _address(context, builder, kind, array, index, index_kind)
    shared = builder.addrspacecast(address, ir.PointerType(address.type.pointee, 3))
    return builder.ptrtoint(shared, I32)


FOUR = types.UniTuple(types.float32, 4)


def _four(builder, code, constraint, arguments, side_effect=True):
    """A tuple of four floats from an instruction that writes $0 to $3."""
    struct = ir.LiteralStructType([F32] * 4)
    constraints = f"=f,=f,=f,=f,{constraint}"
    result = _inline(builder, struct, code, constraints, arguments, side_effect)
    return cgutils.pack_array(builder, [builder.extract_value(result, i) for i in range(4)])


@intrinsic
def load4(typing_context, s, i):
    def generate(context, builder, signature, args):
        address = _shared_address(context, builder, signature.args[0], *args, signature.args[1])
        code = "ld.shared.v4.f32 {$0, $1, $2, $3}, [$4];"
        return _four(builder, code, f"r,{MEMORY}", [address])

    return FOUR(s, i), generate


@intrinsic
def fetch4(typing_context, p, i):
    def generate(context, builder, signature, args):
        address = _address(context, builder, signature.args[0], *args, signature.args[1])
        code = "ld.global.cg.v4.f32 {$0, $1, $2, $3}, [$4];"
        return _four(builder, code, f"l,{MEMORY}", [address])

    return FOUR(p, i), generate


@intrinsic
def publish(typing_context, p, i, x):
    def generate(context, builder, signature, args):
        address = _address(context, builder, signature.args[0], *args[:2], signature.args[1])
        code = "st.global.cg.f32 [$0], $1;"
        _inline(builder, ir.VoidType(), code, f"l,f,{MEMORY}", [address, args[2]])
        return context.get_dummy_value()

    return types.void(p, i, types.float32), generate


@intrinsic
def arrive(typing_context, p, i):
    def generate(context, builder, signature, args):
        address = _address(context, builder, signature.args[0], *args, signature.args[1])
        code = "red.release.gpu.global.add.u32 [$0], 1;"
        _inline(builder, ir.VoidType(), code, f"l,{MEMORY}", [address])
        return context.get_dummy_value()

    return types.void(p, i), generate


@intrinsic
def arrived(typing_context, p, i):
    def generate(context, builder, signature, args):
        address = _address(context, builder, signature.args[0], *args, signature.args[1])
        code = "ld.acquire.gpu.global.u32 $0, [$1];"
        return _inline(builder, I32, code, f"=r,l,{MEMORY}", [address])

    return types.int32(p, i), generate


def _unary(instruction, constraints):
    @intrinsic
    def function(typing_context, x):
        def generate(context, builder, signature, args):
            result = F32 if constraints.startswith("=f") else I32
            code = f"{instruction} $0, $1;"
            value = _inline(builder, result, code, constraints, args, side_effect=False)
            return value if result is F32 else builder.bitcast(value, F32)

        return types.float32(types.float32), generate

    return function


exp2 = _unary("ex2.approx.ftz.f32", "=f,f")
reciprocal = _unary("rcp.approx.ftz.f32", "=f,f")
to_tf32 = _unary("cvt.rna.tf32.f32", "=r,f")


@intrinsic
def umulhi(typing_context, a, b):
    def generate(context, builder, signature, args):
        return _inline(builder, I64, "mul.hi.u64 $0, $1, $2;", "=l,l,l", args, side_effect=False)

    return types.uint64(types.uint64, types.uint64), generate


@intrinsic
def mma(typing_context, a0, a1, a2, a3, b0, b1, c0, c1, c2, c3):
    def generate(context, builder, signature, args):
        ab = [builder.bitcast(a, I32) for a in args[:6]]
        code = (
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
            "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};"
        )
        return _four(builder, code, "r,r,r,r,r,r,f,f,f,f", [*ab, *args[6:]], side_effect=False)

    return FOUR(*[types.float32] * 10), generate
