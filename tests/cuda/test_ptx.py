"""The executor of PTX: the value of every kind of instruction.

Faults that are planted: test_ptx_faults.py, test_ptx_column.py.
"""

import numpy as np
import pytest
from ptx.execute import why_missing
from ptx.parse import Unknown, parse
from ptx.texts import compute, run

pytestmark = pytest.mark.skipif(bool(why_missing()), reason=str(why_missing()))

KINDS = {"u32": "u4", "s32": "i4", "u64": "u8", "s64": "i8", "f32": "f4", "f64": "f8"}
KINDS |= {"b32": "u4", "b64": "u8"}
EDGES = {
    4: [0, 1, 2, 3, 7, 31, 32, 33, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 7, 0x12345678],
    8: [0, 1, 5, 63, 64, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 9, 0x123456789ABC],
}
FLOATS = [0.0, -0.0, 1.0, -2.5, 0.1, 3.5, -7.75, 100.0, 1e-40, 2.0**-127, np.inf, -np.inf, np.nan]


def edges(kind, column):
    """32 operands: the edges of their kind, in another order in each column."""
    rng = np.random.default_rng(column)
    if kind[0] == "f":
        return rng.choice(FLOATS, 32).astype(kind)
    return rng.choice(np.array(EDGES[int(kind[1])], "u8"), 32).astype(f"u{kind[1]}").view(kind)


def check(op, into, kinds, expected, columns=None):
    """op("{}, {}" are result and operands) against a function of Python's or NumPy's numbers."""
    columns = columns or [edges(kind, k) for k, kind in enumerate(kinds)]
    got = compute(op, into, kinds, columns)
    for row, a in zip(zip(*columns, strict=True), got, strict=True):
        numbers = row if kinds[0][0] == "f" else [int(x) for x in row]
        with np.errstate(all="ignore"):
            b = expected(*numbers)
            if into[0] != "f":
                b = int(b) % 2 ** (8 * int(into[1]))
                a = int(a) % 2 ** (8 * int(into[1]))
            else:
                b = np.array(b).astype(into)[()]
        assert a == b or (a != a and b != b), f"{op} of {row} is {a}, expected {b}"


def towards_zero(a, b):
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def integers(kind):
    """{instruction: (kinds of operands, function)}"""
    bits, k, wide = int(kind[1:]), KINDS[kind], f"{kind[0]}64"
    found = {
        f"add.{kind}": ([k] * 2, lambda a, b: a + b),
        f"sub.{kind}": ([k] * 2, lambda a, b: a - b),
        f"mul.lo.{kind}": ([k] * 2, lambda a, b: a * b),
        f"mul.hi.{kind}": ([k] * 2, lambda a, b: a * b >> bits),
        f"mad.lo.{kind}": ([k] * 3, lambda a, b, c: a * b + c),
        f"min.{kind}": ([k] * 2, min),
        f"max.{kind}": ([k] * 2, max),
        f"shr.{kind}": ([k, "u4"], lambda a, s: a >> s if s < bits else -(a < 0)),
    }
    if bits == 32:
        found[f"mul.wide.{kind}"] = [k] * 2, lambda a, b: a * b
        found[f"mad.wide.{kind}"] = [k, k, KINDS[wide]], lambda a, b, c: a * b + c
    if kind[0] == "s":
        found[f"neg.{kind}"] = [k], lambda a: -a
        found[f"abs.{kind}"] = [k], abs
    return found


def of_bits(bits):
    k = f"u{bits // 8}"
    found = {
        f"and.b{bits}": ([k] * 2, lambda a, b: a & b),
        f"or.b{bits}": ([k] * 2, lambda a, b: a | b),
        f"xor.b{bits}": ([k] * 2, lambda a, b: a ^ b),
        f"not.b{bits}": ([k], lambda a: ~a),
        f"mov.b{bits}": ([k], lambda a: a),
        f"shl.b{bits}": ([k, "u4"], lambda a, s: a << s if s < bits else 0),
        f"popc.b{bits}": ([k], int.bit_count),
        f"clz.b{bits}": ([k], lambda a: bits - a.bit_length()),
        f"bfe.u{bits}": (
            [k, "u4", "u4"],
            lambda a, at, n: a >> (at & 255) & ((1 << (n & 255)) - 1),
        ),
    }
    if bits == 32:
        found["shf.l.wrap.b32"] = [k] * 3, lambda a, b, s: (b << 32 | a) << (s & 31) >> 32
        found["shf.r.wrap.b32"] = [k] * 3, lambda a, b, s: (b << 32 | a) >> (s & 31)
    return found


INTEGERS = {}
for _kind in ("u32", "s32", "u64", "s64"):
    INTEGERS |= integers(_kind)
INTEGERS |= of_bits(32) | of_bits(64)


@pytest.mark.parametrize("op", INTEGERS)
def test_integers(op):
    kinds, expected = INTEGERS[op]
    into = KINDS[op.rpartition(".")[2]]
    if ".wide." in op:
        into = f"{into[0]}8"
    check(f"{op} {{}}, {{}};", "u4" if op[:4] in ("popc", "clz.") else into, kinds, expected)


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_divisions(kind):
    k = KINDS[kind]
    a, b = edges(k, 0), edges(k, 1)
    b[b == 0] = 3
    rest = lambda a, b: a - b * towards_zero(a, b)  # noqa: E731
    check(f"div.{kind} {{}}, {{}};", k, [k] * 2, towards_zero, [a, b])
    check(f"rem.{kind} {{}}, {{}};", k, [k] * 2, rest, [a, b])


def test_prmt():
    """Each half byte names one of the eight bytes of a and b; its highest bit asks for the sign."""

    def expected(a, b, which=0xF104):
        bytes_ = [(a, b)[k // 4] >> 8 * (k % 4) & 255 for k in range(8)]
        names = [which >> 4 * k & 15 for k in range(4)]
        found = [(bytes_[n & 7] >> 7) * 255 if n & 8 else bytes_[n] for n in names]
        return sum(byte << 8 * k for k, byte in enumerate(found))

    check("prmt.b32 {}, {}, 0xF104;", "u4", ["u4"] * 2, expected)


def test_lop3():
    """Its table says which of the eight rows of a, b, c give a one."""

    def expected(a, b, c, table=0xB8):
        rows = [4 * (a >> k & 1) + 2 * (b >> k & 1) + (c >> k & 1) for k in range(32)]
        return sum((table >> row & 1) << k for k, row in enumerate(rows))

    check("lop3.b32 {}, {}, 0xB8;", "u4", ["u4"] * 3, expected)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(("at", "count"), [(0, 8), (7, 3), (20, 40), (3, 255)])
def test_bits_put_into_others(bits, at, count):
    def expected(a, b):
        mask = (1 << count) - 1 << at
        return (b & ~mask) | (a << at & mask)

    kind = f"u{bits // 8}"
    check(f"bfi.b{bits} {{}}, {{}}, {at}, {count};", kind, [kind] * 2, expected)


FLOAT = {
    "add.{}": np.add,
    "sub.{}": np.subtract,
    "mul.{}": np.multiply,
    "div.rn.{}": np.divide,
    "min.{}": np.fmin,
    "max.{}": np.fmax,
    "neg.{}": np.negative,
    "abs.{}": np.abs,
    "sqrt.rn.{}": np.sqrt,
    "rcp.rn.{}": lambda a: a.dtype.type(1) / a,
    "copysign.{}": lambda a, b: np.copysign(b, a),
    "mov.{}": lambda a: a,
}
APPROXIMATE = {
    "ex2.approx.f32": np.exp2,
    "lg2.approx.f32": np.log2,
    "tanh.approx.f32": np.tanh,
    "rsqrt.approx.f32": lambda a: 1 / np.sqrt(a),
}


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("op", FLOAT)
def test_floats(op, kind):
    function = FLOAT[op]
    operands = function.nin if isinstance(function, np.ufunc) else function.__code__.co_argcount
    check(f"{op.format(kind)} {{}}, {{}};", KINDS[kind], [KINDS[kind]] * operands, function)


@pytest.mark.parametrize("op", APPROXIMATE)
def test_approximations(op):
    a = edges("f4", 0)
    with np.errstate(all="ignore"):
        expected = APPROXIMATE[op](a.astype("f8")).astype("f4")
    np.testing.assert_allclose(compute(f"{op} {{}}, {{}};", "f4", ["f4"], [a]), expected, 1e-6)


def test_fma_rounds_once():
    a, c = np.float32(1 + 2.0**-12), np.float32(-1)
    exact = np.float32(np.float64(a) * np.float64(a) + np.float64(c))
    columns = [np.full(32, x, "f4") for x in (a, a, c)]
    assert compute("fma.rn.f32 {}, {};", "f4", ["f4"] * 3, columns)[0] == exact
    assert exact != a * a + c


def test_ftz():
    """Numbers without a full mantissa are 0, going in and coming out."""
    small, least = np.float32(1e-40), np.float32(2.0**-126)
    a = np.where(np.arange(32) % 2, small, least).astype("f4")
    half = np.full(32, 0.5, "f4")
    assert compute("mul.ftz.f32 {}, {};", "f4", ["f4"] * 2, [a, half]).tolist() == [0] * 32
    got = compute("add.ftz.f32 {}, {};", "f4", ["f4"] * 2, [a, half * 0])
    assert got.tolist() == [least, 0] * 16


ORDERS = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b and a == a and b == b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
OF_FLOATS = {
    **{f"{name}u": lambda a, b, f=f: f(a, b) or a != a or b != b for name, f in ORDERS.items()},
    "num": lambda a, b: a == a and b == b,
    "nan": lambda a, b: a != a or b != b,
}
OF_UNSIGNED = dict(zip(("lo", "ls", "hi", "hs"), [*ORDERS.values()][2:], strict=True))


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64", "f32", "f64"])
def test_comparisons(kind):
    known = {"f": OF_FLOATS, "u": OF_UNSIGNED}.get(kind[0], {})
    for name, function in (ORDERS | known).items():
        op = f"setp.{name}.{kind} %p1, {{1}}; selp.b32 {{0}}, 1, 0, %p1;"
        check(op, "u4", [KINDS[kind]] * 2, function)


@pytest.mark.parametrize(("join", "function"), [("and", min), ("or", max), ("xor", int.__xor__)])
def test_joined_comparisons_and_predicates(join, function):
    odd = "and.b32 %r9, %r10, 1; setp.eq.s32 %p2, %r9, 1;"
    a, b = edges("i4", 0), edges("i4", 1)
    less, lane = [int(x) for x in a < b], np.arange(32) % 2
    wanted = [function(x, 1 - int(y)) for x, y in zip(less, lane, strict=True)]
    op = f"{odd} setp.lt.{join}.s32 %p1|%p3, {{1}}, !%p2; selp.b32 {{0}}, 1, 0, %p1;"
    assert compute(op, "u4", ["i4"] * 2, [a, b]).tolist() == wanted
    opposite = [function(1 - x, 1 - int(y)) for x, y in zip(less, lane, strict=True)]
    op = op.replace("1, 0, %p1", "1, 0, %p3")
    assert compute(op, "u4", ["i4"] * 2, [a, b]).tolist() == opposite
    op = f"{odd} setp.lt.s32 %p1, {{1}}; not.pred %p2, %p2; {join}.pred %p3, %p1, %p2;"
    op += "selp.b32 {0}, 1, 0, %p3;"
    assert compute(op, "u4", ["i4"] * 2, [a, b]).tolist() == wanted


WHOLE = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def nearest(kind, x):
    """x as an integer of that kind, as far as there is one."""
    bits = int(kind[1:])
    low, high = (0, 2**bits - 1) if kind[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return 0 if np.isnan(x) else low if x <= low else high if x >= high else int(x)


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_conversions(kind):
    k = KINDS[kind]
    for other in ("u32", "s32", "u64", "s64"):
        check(f"cvt.{other}.{kind} {{}}, {{}};", KINDS[other], [k], lambda a: a)
    for other in ("f32", "f64"):
        exact = np.dtype(KINDS[other]).type
        check(f"cvt.rn.{other}.{kind} {{}}, {{}};", KINDS[other], [k], exact)
        for name, function in WHOLE.items():
            check(
                f"cvt.{name}.{kind}.{other} {{}}, {{}};",
                *(k, [KINDS[other]]),
                lambda a, function=function: nearest(kind, function(a)),
            )


def test_conversions_of_the_lower_half():
    """A register of 8 bytes that is read as one of 4."""
    check("cvt.rn.f32.s32 {}, {};", "f4", ["i8"], lambda a: np.int64(a).astype("i4").astype("f4"))
    check("cvt.s64.s32 {}, {};", "i8", ["i8"], lambda a: np.int64(a).astype("i4"))


def test_conversions_of_floats():
    check("cvt.f64.f32 {}, {};", "f8", ["f4"], np.float64)
    check("cvt.rn.f32.f64 {}, {};", "f4", ["f8"], np.float32)
    for name, function in WHOLE.items():
        check(f"cvt.{name}.f32.f32 {{}}, {{}};", "f4", ["f4"], function)
    one = np.array([1 + 2.0**-11, 1 + 2.0**-12, -1 - 2.0**-11, np.inf] * 8, "f4")
    got = compute("cvt.rna.tf32.f32 {}, {};", "f4", ["f4"], [one])
    assert got[:4].tolist() == [1 + 2.0**-10, 1, -1 - 2.0**-10, np.inf]


def test_parts_of_registers():
    check("mov.b64 {}, {{{}}};", "u8", ["u4"] * 2, lambda low, high: high << 32 | low)
    check(
        "mov.b64 {{%r8, %r9}}, {1}; sub.u32 {0}, %r9, %r8;", "u4", ["u8"], lambda a: (a >> 32) - a
    )
    check("mov.b64 {{_, {0}}}, {1};", "u4", ["u8"], lambda a: a >> 32)


def test_special_registers():
    out = np.zeros((6, 64), "i4")
    names = ("%ctaid.x", "%nctaid.x", "%ntid.x", "%tid.y", "%laneid", "%dynamic_smem_size")
    stores = (
        f"mov.u32 %r1, {name}; st.global.u32 [%rd1+{256 * k}], %r1;" for k, name in enumerate(names)
    )
    where = "mov.u32 %r2, %ctaid.x; mad.lo.s32 %r2, %r2, 16, %r10; mul.wide.u32 %rd1, %r2, 4;"
    run(f"{where} add.s64 %rd1, %rd1, %rd10; {' '.join(stores)}", out, grid=4, threads=16, shared=5)
    blocks, lanes = np.divmod(np.arange(64), 16)
    np.testing.assert_array_equal(
        out, [blocks, lanes * 0 + 4, lanes * 0 + 16, lanes * 0, lanes, lanes * 0 + 20]
    )


# Memory


@pytest.mark.parametrize(("vector", "kind"), [("v2", "f32"), ("v4", "f32"), ("v2", "b64")])
@pytest.mark.parametrize("space", ["global", "shared", "generic"])
def test_vectors(vector, kind, space):
    """Moved from one array to another, by way of shared memory too."""
    count, size = int(vector[1]), int(kind[1:]) // 8
    a = np.arange(32 * count * size // 8, dtype="u8") * 0x0102030405060708
    b = np.zeros_like(a)
    registers = ", ".join(f"%{'rd' if size == 8 else 'f'}{k + 1}" for k in range(count))
    body = f"mul.lo.s64 %rd9, %rd9, {count * size // 8};"
    body += "add.s64 %rd20, %rd10, %rd9; add.s64 %rd21, %rd11, %rd9;"
    body += f"ld.global.{vector}.{kind} {{{registers}}}, [%rd20];"
    if space != "global":
        word = "" if space == "generic" else ".shared"
        at = "cvta.shared.u64 %rd22, %rd9;" if space == "generic" else "mov.u64 %rd22, %rd9;"
        clear = " ".join(f"mov.b{8 * size} {r}, 0;" for r in registers.split(", "))
        body += f"{at} st{word}.{vector}.{kind} [%rd22], {{{registers}}}; {clear}"
        body += f"ld{word}.{vector}.{kind} {{{registers}}}, [%rd22];"
    body += f"st.global.{vector}.{kind} [%rd21], {{{registers}}};"
    run(body, a, b, shared=32 * count * size // 4)
    np.testing.assert_array_equal(a, b)


def test_parts_of_words_in_memory():
    """Bytes and halves, with and without a sign."""
    a, out = np.array([0x8182, 0xFFFE], "u4"), np.zeros(5, "i4")
    names = ("u8", "s8", "u16", "s16")
    for k, name in enumerate(names):
        run(
            f"ld.global.{name} %r1, [%rd10]; st.global.u32 [%rd11+{4 * k}], %r1;", a, out, threads=1
        )
    run("mov.u32 %r1, 0x12345678; st.global.u8 [%rd11+17], %r1;", a, out, threads=1)
    assert out.tolist() == [0x82, -0x7E, 0x8182, -0x7E7E, 0x7800]


def test_local_and_static_shared_memory():
    """Each thread has its own of the first, a block of the second."""
    out = np.zeros(64, "i4")
    run(
        """
        mov.u64 %rd1, depot; cvta.local.u64 %rd1, %rd1; st.u32 [%rd1+4], %r10;
        mul.lo.s32 %r1, %r10, 4; mov.u32 %r2, room; add.s32 %r3, %r2, %r1;
        st.shared.u32 [%r3], %r10; bar.sync 0;
        sub.s32 %r4, 252, %r1; add.s32 %r4, %r4, %r2; ld.shared.u32 %r5, [%r4];
        ld.u32 %r6, [%rd1+4]; mad.lo.s32 %r5, %r5, 100, %r6;
        mul.wide.s32 %rd2, %r1, 1; add.s64 %rd2, %rd2, %rd10; st.global.u32 [%rd2], %r5;
        """,
        out,
        threads=64,
        declared=".local .align 8 .b8 depot[8]; .shared .align 4 .b8 room[256];",
    )
    assert out.tolist() == [100 * (63 - k) + k for k in range(64)]


@pytest.mark.parametrize("op", ["add.u32", "min.s32", "max.s32", "or.b32", "exch.b32", "inc.u32"])
def test_atomics(op):
    """All lanes at one word: what comes out, and what each has seen before."""
    start = 5
    word, seen = np.full(1, start, "i4"), np.zeros(32, "i4")
    more = ", 40" if op == "inc.u32" else ", %r10"
    run(
        f"atom.global.{op} %r1, [%rd10]{more}; mul.wide.s32 %rd1, %r10, 4;"
        "add.s64 %rd1, %rd1, %rd11; st.global.u32 [%rd1], %r1;",
        *(word, seen),
    )
    now, before = start, []
    for lane in range(32):
        before.append(now)
        after = {"add": now + lane, "min": min(now, lane), "max": max(now, lane)}
        after |= {"or": now | lane, "exch": lane, "inc": 0 if now >= 40 else now + 1}
        now = after[op.partition(".")[0]]
    assert seen.tolist() == before
    assert word.tolist() == [now]


def test_compare_and_swap():
    """A lock that each of 8 blocks takes once."""
    lock, count = np.zeros(1, "i4"), np.zeros(1, "i4")
    run(
        """
        again: atom.acquire.gpu.global.cas.b32 %r1, [%rd10], 0, 1; setp.ne.s32 %p1, %r1, 0;
        @%p1 bra again;
        ld.global.u32 %r2, [%rd11]; add.s32 %r2, %r2, 1; st.global.u32 [%rd11], %r2;
        atom.release.gpu.global.exch.b32 %r1, [%rd10], 0;
        """,
        *(lock, count),
        **{"threads": 1, "grid": 7, "cooperative": True, "seed": 1, "races": True},
    )
    assert count.tolist() == [7]


# What lanes do together, and conditions


@pytest.mark.parametrize(
    ("mode", "by", "clamp", "source"),
    [
        ("bfly", 5, 31, lambda k: k ^ 5),
        ("down", 3, 31, lambda k: k + 3 if k + 3 < 32 else k),
        ("up", 2, 0, lambda k: k - 2 if k >= 2 else k),
        ("idx", 7, 31, lambda k: 7),
        ("idx", 1, 0x181F, lambda k: k // 8 * 8 + 1),
        ("down", 2, 0x1C1F, lambda k: k + 2 if k % 4 < 2 else k),
    ],
)
def test_shuffles(mode, by, clamp, source):
    """Values of other lanes; the predicate says which have come from one."""
    op = f"shfl.sync.{mode}.b32 %r9|%p1, {{1}}, {by}, {clamp}, -1; mul.lo.u32 %r9, %r9, 2;"
    op += "selp.b32 %r8, 1, 0, %p1; or.b32 {0}, %r8, %r9;"
    got = compute(op, "u4", ["u4"], [np.arange(32)])
    inside = [source(k) != k or (mode == "idx" and by == k % 8) for k in range(32)]
    if mode == "idx":
        inside = [True] * 32
    assert got.tolist() == [2 * source(k) + inside[k] for k in range(32)]


def test_votes():
    a = np.arange(32, dtype="u4")
    even = "and.b32 %r9, {1}, 1; setp.eq.u32 %p1, %r9, 0;"
    got = compute(even + "vote.sync.ballot.b32 {0}, %p1, -1;", "u4", ["u4"], [a])
    assert got.tolist() == [0x55555555] * 32
    for name, of, wanted in (
        ("any", a, 1),
        ("all", a, 0),
        ("all", a * 2, 1),
        ("any", 2 * a + 1, 0),
    ):
        op = f"{even} vote.sync.{name}.pred %p2, %p1, -1; selp.b32 {{0}}, 1, 0, %p2;"
        assert compute(op, "u4", ["u4"], [of]).tolist() == [wanted] * 32


def test_mma():
    """D = A B + C, by the layout that the PTX ISA gives for m16n8k8."""
    rng = np.random.default_rng(0)
    A, B, C = (rng.integers(-8, 8, shape) / 4 for shape in ((16, 8), (8, 8), (16, 8)))
    g, j = np.divmod(np.arange(32), 4)
    a = [A[g, j], A[g + 8, j], A[g, j + 4], A[g + 8, j + 4], B[j, g], B[j + 4, g]]
    c = [C[g, 2 * j], C[g, 2 * j + 1], C[g + 8, 2 * j], C[g + 8, 2 * j + 1]]
    given, out = np.array(a + c, "f4").T.copy(), np.zeros((32, 4), "f4")
    loads = " ".join(f"ld.global.f32 %f{k}, [%rd1+{4 * k}];" for k in range(10))
    run(
        f"mul.wide.u32 %rd1, %r10, 40; add.s64 %rd1, %rd1, %rd10; {loads}\n"
        + "".join(f"mov.b32 %r{k}, %f{k};" for k in range(6))
        + "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f20, %f21, %f22, %f23}, "
        "{%r0, %r1, %r2, %r3}, {%r4, %r5}, {%f6, %f7, %f8, %f9};"
        "mul.lo.s64 %rd9, %rd9, 2; add.s64 %rd2, %rd9, %rd11;"
        "st.global.v4.f32 [%rd2], {%f20, %f21, %f22, %f23};",
        *(given.view("i4"), out.view("i4")),
    )
    D = A @ B + C
    wanted = [D[g, 2 * j], D[g, 2 * j + 1], D[g + 8, 2 * j], D[g + 8, 2 * j + 1]]
    np.testing.assert_array_equal(out, np.array(wanted, "f4").T)


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_lanes_go_their_own_ways(seed):
    """A loop of as many rounds as the lane's number, and an instruction under a condition."""
    out = np.zeros(64, "i4")
    run(
        """
        mov.u32 %r1, 0; mov.u32 %r2, 0;
        loop: setp.ge.s32 %p1, %r1, %r10; @%p1 bra done;
        add.s32 %r1, %r1, 1; add.s32 %r2, %r2, %r1; bra.uni loop;
        done: and.b32 %r3, %r10, 1; setp.eq.s32 %p2, %r3, 0; @!%p2 mov.u32 %r2, 7;
        mul.wide.s32 %rd1, %r10, 4; add.s64 %rd1, %rd1, %rd10; st.global.u32 [%rd1], %r2;
        """,
        *(out,),
        threads=50,
        seed=seed,
    )
    assert out[:50].tolist() == [k * (k + 1) // 2 if k % 2 == 0 else 7 for k in range(50)]
    assert not out[50:].any()


def test_blocks_run_at_once():
    """A counter that all blocks raise and wait for; one after the other would hang."""
    counter, out = np.zeros(1, "i4"), np.zeros(5, "i4")
    run(
        """
        red.release.gpu.global.add.u32 [%rd10], 1;
        look: ld.acquire.gpu.global.u32 %r1, [%rd10]; setp.lt.u32 %p1, %r1, 5; @%p1 bra look;
        mov.u32 %r2, %ctaid.x; mul.wide.u32 %rd1, %r2, 4; add.s64 %rd1, %rd1, %rd11;
        st.global.u32 [%rd1], %r1;
        """,
        *(counter, out),
        **{"threads": 1, "grid": 5, "cooperative": True, "seed": 3},
    )
    assert out.tolist() == [5] * 5


# Inline code, and what is not known


def test_registers_of_inline_code():
    """Each scope has its own, of the same name."""
    op = "{{ .reg .b32 t; add.s32 t, {1}, 1; mov.b32 %r8, t; }}"
    op += "{{ .reg .b32 t; add.s32 t, %r8, 1; mov.b32 {0}, t; }}"
    check(op, "u4", ["u4"], lambda a: a + 2)


@pytest.mark.parametrize(
    "instruction",
    [
        "add.rz.f32 %f1, %f2, %f3;",
        "add.sat.s32 %r1, %r2, %r3;",
        "membar.gl;",
        "fence.acq_rel.gpu;",
        "bar.sync 1, 32;",
        "bar.red.popc.u32 %r1, 0, %p1;",
        "@%p1 bar.sync 0;",
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f1}, {%r1}, {%r2}, {%f2};",
        "cp.async.ca.shared.global [%r1], [%rd10], 4;",
        "ld.global.f16 %r1, [%rd10];",
        "ld.shared::cluster.u32 %r1, [%r2];",
        "mov.u32 %r1, %smid;",
        "mov.u32 %r1, nowhere;",
        "cvt.rn.bf16.f32 %r1, %f1;",
        "call.uni f;",
        "dp4a.s32.s32 %r1, %r2, %r3, %r4;",
    ],
)
def test_what_is_not_known_is_refused_by_name(instruction):
    name = instruction.replace("@%p1 ", "").split()[0].rstrip(";")
    with pytest.raises(Unknown, match=rf"line \d+: .*{name}"):
        run(instruction, np.zeros(1, "i4"))


def test_one_kernel_is_needed():
    with pytest.raises(Unknown, match="PTX of one kernel is needed, this has 0"):
        parse(".version 9.0\n")
