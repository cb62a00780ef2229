"""Faults that the executor of PTX has to find, planted in small kernels."""

import re

import numpy as np
import pytest
from ptx.execute import Fault, why_missing
from ptx.texts import run

pytestmark = pytest.mark.skipif(bool(why_missing()), reason=str(why_missing()))
FOUND = r"race: (read|write) of byte .* that is not ordered with it|that nobody wrote"
seeds = pytest.mark.parametrize("seed", [None, 1, 2])

# A value goes to another warp by shared memory, then to another block by global memory.
EXCHANGE = """
    mov.u32 %r1, %ctaid.x; mul.lo.s32 %r2, %r10, 4;
    st.shared.u32 [%r2], %r10;
    bar.sync 0;
    xor.b32 %r3, %r2, 128; ld.shared.u32 %r4, [%r3];
    bar.sync 0;
    add.s32 %r5, %r4, 1000; st.shared.u32 [%r2], %r5;
    mad.lo.s32 %r6, %r1, 64, %r10; mul.wide.s32 %rd1, %r6, 4; add.s64 %rd2, %rd1, %rd11;
    st.global.cg.u32 [%rd2], %r5;
    bar.sync 0;
    setp.ne.s32 %p1, %r10, 0; @%p1 bra together;
    red.release.gpu.global.add.u32 [%rd10], 1;
    look: ld.acquire.gpu.global.u32 %r7, [%rd10]; setp.lt.u32 %p2, %r7, 2; @%p2 bra look;
    together: bar.sync 0;
    xor.b32 %r6, %r6, 64; mul.wide.s32 %rd3, %r6, 4; add.s64 %rd3, %rd3, %rd11;
    ld.global.cg.u32 %r8, [%rd3]; add.s64 %rd4, %rd1, %rd12; st.global.u32 [%rd4], %r8;
"""


def exchange(body, seed, **options):
    """Runs it with races watched; what the blocks have got of each other."""
    counter, between, out = np.zeros(1, "i4"), np.zeros(128, "i4"), np.zeros(128, "i4")
    size = {"threads": 64, "grid": 2, "cooperative": True, "shared": 64}
    run(body, counter, between, out, seed=seed, races=True, **size, **options)
    return out.tolist()


@seeds
def test_nothing_is_wrong_without_a_fault(seed):
    assert exchange(EXCHANGE, seed) == [(k % 64 ^ 32) + 1000 for k in range(128)]


@seeds
@pytest.mark.parametrize("number", range(4))
def test_each_barrier_is_needed(number, seed):
    """The second one keeps a write from a read that came before, the last one is what acquires."""
    at = [m.span() for m in re.finditer(r"bar\.sync 0;", EXCHANGE)][number]
    with pytest.raises(Fault, match=FOUND):
        exchange(EXCHANGE[: at[0]] + EXCHANGE[at[1] :], seed)


@seeds
@pytest.mark.parametrize("word", ["release", "acquire"])
def test_release_and_acquire_are_needed(word, seed):
    with pytest.raises(Fault, match=r"race: read of byte \d+ of argument 1, with a write by block"):
        exchange(EXCHANGE.replace(word, "relaxed"), seed)


@pytest.mark.parametrize(
    ("partner", "change", "found"),
    [
        (4, "", None),
        (4, "bar.warp.sync 0xffffffff;", FOUND),
        (128, "", FOUND),
    ],
    ids=["right", "no barrier", "another warp"],
)
@seeds
def test_a_barrier_of_a_warp_orders_its_lanes(partner, change, found, seed):
    body = f"""
        mul.lo.s32 %r2, %r10, 4; st.shared.u32 [%r2], 0; bar.sync 0;
        st.shared.u32 [%r2], %r10;
        bar.warp.sync 0xffffffff;
        xor.b32 %r3, %r2, {partner}; ld.shared.u32 %r4, [%r3];
        mul.wide.s32 %rd1, %r2, 1; add.s64 %rd1, %rd1, %rd10; st.global.u32 [%rd1], %r4;
    """.replace(change or " ", " ")
    out = np.zeros(64, "i4")
    options = {"threads": 64, "shared": 64, "races": True, "seed": seed}
    if found:
        with pytest.raises(Fault, match=found):
            run(body, out, **options)
    else:
        run(body, out, **options)
        assert out.tolist() == [k ^ 1 for k in range(64)]


def test_a_lane_may_write_what_others_read_before_a_shuffle():
    """Their values have come, as the shuffle has them; a write before it may not have."""
    body = """
        ld.global.u32 %r1, [%rd10]; shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;
        setp.eq.s32 %p1, %r10, 0; @%p1 st.global.u32 [%rd10], 7;
    """
    run(body, np.zeros(1, "i4"), races=True)
    with pytest.raises(Fault, match=r"race: write .* with a read by block 0, thread"):
        run(
            body.replace("shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;", ""),
            np.zeros(1, "i4"),
            races=True,
        )
    later = "setp.eq.s32 %p1, %r10, 5; @%p1 st.global.u32 [%rd10], 7; mov.u32 %r1, %r10;"
    later += "shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1; ld.global.u32 %r1, [%rd10];"
    with pytest.raises(Fault, match=r"race: read .* with a write by block 0, thread 5"):
        run(later, np.zeros(1, "i4"), races=True)


def test_blocks_that_do_not_run_at_once_know_nothing_of_each_other():
    body = "mov.u32 %r1, %ctaid.x; st.global.u32 [%rd10], %r1;"
    with pytest.raises(
        Fault, match=r"race: write of byte 0 of argument 0, with a write by block 0"
    ):
        run(body, np.zeros(1, "i4"), grid=2, threads=1, races=True)
    run(body, np.zeros(1, "i4"), grid=2, threads=1)  # races are looked for where they are asked for


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "st.global.u32 [%rd10+16], %r10;",
            "write of 4 bytes at offset 16 of argument 0, which has 16",
        ),
        ("ld.global.u32 %r1, [%rd10+-4];", "read of 4 bytes at offset -4 of argument 0"),
        ("ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd11+16];", "at offset 16 of argument 1"),
        ("ld.global.v2.f32 {%f1, %f2}, [%rd10+12];", "read of 8 bytes at offset 12 of argument 0"),
        ("mov.u64 %rd1, 0; ld.global.u32 %r1, [%rd1];", "at address 0, in no array"),
        ("ld.shared.u32 %r1, [48];", "read of 4 bytes at offset 48 of shared memory, which has 48"),
        ("mov.u32 %r1, -4; st.shared.u32 [%r1], 0;", "write of 4 bytes .* of shared memory"),
        ("ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd11+4];", "which is not aligned to them"),
        ("ld.global.v2.f32 {%f1, %f2}, [%rd10+4];", "read of 8 bytes at .* not aligned"),
        ("st.shared.u32 [2], 0;", "write of 4 bytes at address 0x2, which is not aligned"),
        ("red.global.add.u32 [%rd10+400], 1;", "write of 4 bytes at offset 400 of argument 0"),
        ("mov.u32 %r1, 0; div.u32 %r2, %r10, %r1;", "division by zero"),
        ("trap;", r"trap \(block 0, thread 0, line \d+\): .*trap"),
    ],
)
def test_what_a_thread_does_wrong(body, message):
    """Each is said with its instruction."""
    with pytest.raises(Fault, match=message) as caught:
        run(body, np.zeros(4, "i4"), np.zeros(5, "i4"), threads=1, shared=12)
    assert body.split(";")[-2].strip() in str(caught.value)


def test_arrays_that_are_parts_of_one():
    """Their alignment is that of a GPU's allocation; overlapping ones have one history."""
    whole = np.zeros(64, "i4")
    load = "ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd10];"
    run(load, whole[4:12], threads=1)
    with pytest.raises(Fault, match="not aligned"):
        run(load, whole[5:13], threads=1)
    body = "setp.eq.s32 %p1, %r10, 0; @%p1 st.global.u32 [%rd10+16], 1;"
    body += "@!%p1 ld.global.u32 %r1, [%rd11];"
    with pytest.raises(Fault, match="of argument 0 and argument 1"):
        run(body, whole[:8], whole[4:12], threads=2, races=True)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("ld.shared.u32 %r1, [4];", "read of shared memory that nobody wrote, byte 4"),
        (
            "ld.global.nc.u32 %r1, [%rd10]; st.global.u32 [%rd10], 1;",
            "which the kernel reads with ld.g",
        ),
        (
            "st.global.u32 [%rd10], 1; ld.global.nc.u32 %r1, [%rd10];",
            "ld.global.nc of byte 0 of argument",
        ),
    ],
)
def test_what_is_watched_with_races(body, message):
    with pytest.raises(Fault, match=message):
        run(body, np.zeros(4, "i4"), threads=1, shared=12, races=True)


def test_shared_memory_that_nobody_wrote_is_nan():
    out = np.zeros(2, "f4")
    run("ld.shared.f32 %f1, [4]; st.global.f32 [%rd10], %f1;", out.view("i4"), threads=1, shared=2)
    assert np.isnan(out[0])


WAITS = "look: ld.acquire.gpu.global.u32 %r1, [%rd10]; setp.eq.s32 %p1, %r1, 0; @%p1 bra look;"
SHUFFLE = "shfl.sync.bfly.b32 %r2, %r10, 1, 31, -1;"
LATE = "setp.ne.s32 %p2, %r10, 0; @%p2 bra other;"


@seeds
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (WAITS, "threads wait for what nobody changes any more"),
        (
            f"{LATE} {WAITS} other: bar.sync 0;",
            "nobody changes any more|barrier to which others never",
        ),
        (f"{LATE} bar.sync 0; other: bar.sync 0;", "threads of a block wait at two barriers"),
        pytest.param(
            "loop: bra.uni loop;",
            "threads go on and on|nobody changes",
            marks=pytest.mark.rest,  # a hundred million blocks
        ),
        (f"{LATE} {WAITS} other: {SHUFFLE}", "nobody changes|deadlock: lanes wait"),
        (f"{LATE} bar.sync 0; other: {SHUFFLE}", "deadlock"),
        (SHUFFLE.replace("-1;", "1;"), "not meant for all"),
    ],
)
def test_waiting_for_ever(body, message, seed):
    with pytest.raises(Fault, match=message):
        run(body, np.zeros(1, "i4"), threads=8, seed=seed)


def test_a_wait_that_is_bounded_by_time():
    """%globaltimer goes on with the rounds: here far enough for the trap."""
    body = """
        mov.u64 %rd1, %globaltimer; add.s64 %rd1, %rd1, 1000000000;
        look: ld.acquire.gpu.global.u32 %r1, [%rd10]; setp.ne.s32 %p1, %r1, 0; @%p1 bra done;
        mov.u64 %rd2, %globaltimer; setp.lt.u64 %p2, %rd2, %rd1; @%p2 bra look;
        trap;
        done:
    """
    with pytest.raises(Fault, match="trap"):
        run(body, np.zeros(1, "i4"), threads=1, tick=1_000_000)
    with pytest.raises(Fault, match="nobody changes"):
        run(body, np.zeros(1, "i4"), threads=1)
    run(body, np.ones(1, "i4"), threads=1, tick=1_000_000)


def test_blocks_that_wait_for_those_that_run_later():
    body = "red.release.gpu.global.add.u32 [%rd10], 1;" + WAITS.replace(
        "eq.s32 %p1, %r1, 0", "lt.s32 %p1, %r1, 2"
    )
    run(body, np.zeros(1, "i4"), threads=1, grid=2, cooperative=True)
    with pytest.raises(Fault, match="nobody changes any more"):
        run(body, np.zeros(1, "i4"), threads=1, grid=2)
    with pytest.raises(AssertionError, match="8 blocks at once"):
        run(body, np.zeros(1, "i4"), threads=1, grid=8, cooperative=True)


def test_tensor_cores_need_rounded_operands_and_all_lanes():
    body = """
        mov.b32 %r1, 0f3F801000; mov.f32 %f1, 0f00000000;
        cvt.rna.tf32.f32 %r1, %r1;
        mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f2, %f3, %f4, %f5},
            {%r1, %r1, %r1, %r1}, {%r1, %r1}, {%f1, %f1, %f1, %f1};
    """
    run(body, np.zeros(1, "i4"))
    with pytest.raises(Fault, match="mma: an operand is not rounded to TF32"):
        run(body.replace("cvt.rna.tf32.f32 %r1, %r1;", ""), np.zeros(1, "i4"))
    with pytest.raises(Fault, match="mma without all lanes"):
        run(body, np.zeros(1, "i4"), threads=16)
