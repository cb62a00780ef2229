"""Where a thread stands: integers of 32 bits, computed while an intrinsic emits its instructions.

Python's arithmetic without its compilation: Numba's front end takes some 20 ms for each function
that it types, whatever is in it. Nothing here is negative.
"""

from rnnfast.cuda.numba_cuda import cgutils, nvvmutils, types
from rnnfast.cuda.ptx import I32, I64, inline, ir, least


class Whole:
    """An integer in a register; with Python's own where it meets them."""

    def __init__(self, builder, value):
        self.builder, self.value = builder, value

    def _with(self, emit, other):
        return Whole(self.builder, emit(self.value, value_of(other)))

    def __add__(self, other):
        return self._with(self.builder.add, other)

    def __sub__(self, other):
        return self._with(self.builder.sub, other)

    def __mul__(self, other):
        return self._with(self.builder.mul, other)

    def __floordiv__(self, other):
        return self._unknown()._with(self.builder.udiv, other)

    def __mod__(self, other):
        return self._unknown()._with(self.builder.urem, other)

    def _unknown(self):
        """The same, to NVVM any number: what it knows to be small takes it more work in 16 bits."""
        return self._moved(side_effect=False)

    def _moved(self, side_effect):
        code = "mov.b32 $0, $1;"
        found = inline(self.builder, I32, code, "=r,r", [self.value], side_effect)
        return Whole(self.builder, found)

    __radd__, __rmul__ = __add__, __mul__

    def __lt__(self, other):
        """A bit, for the builder."""
        return self.builder.icmp_unsigned("<", self.value, value_of(other))

    def limited(self, most):
        """The smaller one of both."""
        return self._with(lambda a, b: least(self.builder, a, b), most)._unknown()

    def held(self):
        """In a register: nothing in a loop computes it anew; see ptx.hold."""
        return self._moved(side_effect=True).value

    @property
    def long(self):
        """In 64 bits, as the index of an element."""
        return self.builder.zext(self.value, I64)


def value_of(x):
    return x.value if isinstance(x, Whole) else ir.Constant(I32, x)


def thread_of(builder):
    return Whole(builder, nvvmutils.call_sreg(builder, "tid.x"))


def block_of(builder):
    return Whole(builder, nvvmutils.call_sreg(builder, "ctaid.x"))


def wholes(context, builder, signature, args, *which):
    """Arguments of an intrinsic, by their place."""
    return [
        Whole(builder, context.cast(builder, args[k], signature.args[k], types.int32))
        for k in which
    ]


def held(builder, *numbers):
    """A tuple of int32, held."""
    found = [Whole(builder, value_of(x)).held() for x in numbers]
    return cgutils.pack_array(builder, found)


def held_of(builder, at, k):
    """Number k of such a tuple."""
    return Whole(builder, builder.extract_value(at, k))


def shared_element(context, builder, signature, args, i, k=0):
    """The address of s[i], s being argument k, an array in shared memory."""
    base = context.make_array(signature.args[k])(context, builder, value=args[k]).data
    return builder.gep(base, [i.long])


def shared_place(context, builder, signature, args, i, k=0):
    """The same in 32 bits."""
    p = shared_element(context, builder, signature, args, i, k)
    return builder.ptrtoint(builder.addrspacecast(p, ir.PointerType(p.type.pointee, 3)), I32)


def own_aside(context, builder, signature, args, start, k=0):
    """Where in s the thread's weights begin that registers do not hold; see straight.set_aside."""
    own = thread_of(builder) * 4 + start
    return shared_place(context, builder, signature, args, own, k)
