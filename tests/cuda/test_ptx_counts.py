"""What is counted of a kernel: on kernels whose figures are known, and on the column's own."""

import numpy as np
import pytest
from ptx import counts
from ptx.execute import why_missing
from ptx.issue import issues
from ptx.parse import parse
from ptx.texts import run, text

pytestmark = pytest.mark.skipif(bool(why_missing()), reason=str(why_missing()))


def counted(body, *arrays, **options):
    return run(body, *(arrays or [np.zeros(4096, "i4")]), stats=True, **options).loaded[0]


@pytest.mark.parametrize(
    ("where", "kind", "sectors"),
    [
        ("mul.lo.s64 %rd1, %rd9, 0;", "u32", 1),  # all lanes at one word
        ("shr.u64 %rd1, %rd9, 1;", "u32", 4),  # side by side
        ("mul.lo.s64 %rd1, %rd9, 4;", "u32", 32),  # each in a sector of its own
        ("mul.lo.s64 %rd1, %rd9, 2;", "v4.f32", 16),
    ],
)
def test_sectors(where, kind, sectors):
    into = "{%f1, %f2, %f3, %f4}" if kind == "v4.f32" else "%r1"
    kernel = counted(f"{where} add.s64 %rd1, %rd1, %rd10; ld.global.{kind} {into}, [%rd1];")
    assert (kernel.requests.tolist(), kernel.moved.tolist()) == ([1], [sectors])


@pytest.mark.parametrize(
    ("where", "kind", "wavefronts", "needed"),
    [
        ("mul.lo.s32 %r1, %r10, 0;", "f32", 1, 1),
        ("mul.lo.s32 %r1, %r10, 4;", "f32", 1, 1),
        ("mul.lo.s32 %r1, %r10, 8;", "f32", 2, 1),
        ("mul.lo.s32 %r1, %r10, 128;", "f32", 32, 1),  # one bank
        ("mul.lo.s32 %r1, %r10, 132;", "f32", 1, 1),  # a word more: all banks
        ("mul.lo.s32 %r1, %r10, 16;", "v4.f32", 4, 4),
        ("and.b32 %r1, %r10, 1; mul.lo.s32 %r1, %r1, 64;", "v4.f32", 1, 1),  # two addresses
    ],
)
def test_wavefronts(where, kind, wavefronts, needed):
    into = "{%f1, %f2, %f3, %f4}" if kind == "v4.f32" else "%f1"
    kernel = counted(f"{where} ld.shared.{kind} {into}, [%r1];", shared=1100)
    assert (kernel.moved.tolist(), kernel.needed.tolist()) == ([wavefronts], [needed])


def test_what_is_issued():
    """By instruction; 64-bit integers cost two where both of their halves are used."""
    body = """
        mov.u32 %r1, %ctaid.x; cvt.s64.s32 %rd1, %r1;
        fma.rn.f32 %f1, %f2, %f3, %f4; ex2.approx.f32 %f1, %f1;
        add.s64 %rd2, %rd1, 5; cvt.u32.u64 %r2, %rd2; add.s32 %r3, %r2, %r1;
        mul.lo.s64 %rd3, %rd1, 12; add.s64 %rd4, %rd10, %rd3; ld.global.u32 %r4, [%rd4];
        div.s32 %r5, %r4, %r3;
        add.s32 %r6, %r5, 16; ld.shared.u32 %r7, [%r6];
        bar.sync 0;
    """
    found = [n for block in issues(parse(text(body, 1))) for n in block]
    start = 0, 1, 0  # %tid.x, eight times that, the pointer
    assert found == [*start, 0, 0, 1, 2, 1, 0, 1, 4, 2, 1, 20, 0, 1, 1, 1]


LOOPS = """
    mov.u32 %r1, 0;
    step: mov.u32 %r2, 0;
    inner: mul.lo.s32 %r3, %r10, 8; ld.shared.f32 %f1, [%r3]; fma.rn.f32 %f2, %f1, %f1, %f2;
    add.s32 %r2, %r2, 1; setp.lt.s32 %p1, %r2, 5; @%p1 bra inner;
    look: ld.acquire.gpu.global.u32 %r4, [%rd10]; setp.ne.s32 %p2, %r4, 0; @%p2 bra look;
    ld.shared.f32 %f3, [%r10]; st.shared.f32 [%r10], %f3;
    add.s32 %r1, %r1, 1; setp.lt.s32 %p3, %r1, 3; @%p3 bra step;
"""


def test_loops():
    """Wavefronts of each, without those of a loop inside; one that only waits is left out."""
    kernel = counted(LOOPS.replace("[%r10]", "[0]"), shared=64)
    totals = counts._totals(kernel)
    found = {key[0]: [] for key in totals if isinstance(key, tuple)}
    for key, n in sorted(totals.items(), key=str):
        if isinstance(key, tuple):
            found[key[0]].append(n)
    assert found == {"loop": [6, 30], "needed": [6, 15]}
    assert totals["shared"] == 36
    assert totals["sectors"] == 0
    assert kernel.times("ld.acquire") == [3]


TURNED = """
    mov.f32 %f1, 0f3f800000; mov.f32 %f2, %f1; fma.rn.f32 %f2, %f1, %f1, %f2; bra entered;
    look: ld.acquire.gpu.global.u32 %r4, [%rd10]; add.s32 %r5, %r5, 1;
    entered: setp.lt.s32 %p2, %r5, REPEATS; @%p2 bra look;
    st.global.u32 [%rd10+4], %r4;
"""


def test_a_loop_that_lies_before_its_beginning():
    """However often it only looks, it counts once."""
    few, many = (
        counts._totals(counted(f"mov.u32 %r5, 0; {TURNED.replace('REPEATS', str(n))}"))
        for n in (0, 7)
    )
    assert few["issue"] == many["issue"] > 0
    assert few["sectors"] == many["sectors"] > 0


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("precision", ["float32", "tf32"])
@pytest.mark.one_in(6)
def test_figures_of_the_column(cell, precision):
    """The same each time; no fewer instructions and sectors than the products need."""
    N, H = 3, 200
    found = counts.figures(cell, N, H, precision)
    counts.figures.cache_clear()
    assert found == counts.figures(cell, N, H, precision)
    for direction in ("forward", "backward"):
        f = found[direction]
        products = N * H * H * counts.GATES[cell] / 32  # warp instructions of a step
        share = counts.SCHEDULERS * min(counts.MULTIPROCESSORS, f.blocks)
        if precision == "float32":
            assert f.issue * share > products
        assert f.start > 0
        assert f.shared > 0
        assert f.sectors * 8 >= N * H * (counts.GATES[cell] + 1)
        assert f.conflicts >= 1
        assert f.blocks <= counts.MULTIPROCESSORS
    assert counts.cuda._runtime is None
