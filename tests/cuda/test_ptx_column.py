"""Faults that the executor of PTX has to find, planted in the column's own kernels.

They are found where the sanitizer's cases run them, so that a new kernel is among them by itself.
"""

import re
from collections import Counter
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from on_cuda import in_software
from ptx.execute import Fault, why_missing

from rnnfast.cuda import exchange, frame

sanitize = pytest.importorskip(
    "benchmarks.sanitize", reason="an installed rnnfast has no benchmarks"
)
pytestmark = pytest.mark.skipif(bool(why_missing()), reason=str(why_missing()))

OTHERS = {"ragged", "relu", "diagonal", "full"}  # the same kernels, or nearly
CASES = [name for name in sanitize.cases() if not OTHERS & set(name.split("-"))]
# Barriers and signals are the frame's, not a cell's: an LSTM is for all of one product, the GRU for
# those of two
ALIKE = {"rnn", "reset_after"}


DIFFERENT = [case for case in CASES if not ALIKE & set(case.split("-"))]


def later(case):
    """Every fourth one of those that differ is for the gate."""
    return pytest.mark.rest if case in DIFFERENT[::4] else pytest.mark.large


own = pytest.mark.parametrize("case", [pytest.param(case, marks=later(case)) for case in CASES])

# Barriers that may go without a race, by the case and the kernel.
UNNEEDED = {
    ("ops", "softmax_loss_kernel"): 1,  # the last half of a reduction is one thread's own
    ("row", "forward_kernel"): 1,  # of one sample, a thread clears the very places that it fills
    # after the last sum over a row nobody writes into its room
    ("lnlstm", "norm_step_kernel"): 1,
    ("lnlstm", "norm_step_back_kernel"): 1,
    ("lngru", "norm_step_kernel"): 1,
    ("lngru", "norm_step_back_kernel"): 1,
}


def outcome(case, change=None, seed=None, races=True):
    """-> what is wrong, or None; and the kernels with their counts."""
    with in_software(new=True, seed=seed, races=races, change_ptx=change) as gpu:
        try:
            error, tolerance = sanitize.cases()[case]()
        except Fault as fault:
            return str(fault), gpu.loaded
    return None if error <= tolerance else f"an error of {error}", gpu.loaded


class As(NamedTuple):
    """A kernel as it is: name, PTX, what of it is run (line -> operation), stores of padding."""

    name: str
    ptx: str
    run: dict
    padding: set


@cache
def as_they_are(case):
    """The kernels of a case that nothing was planted in; they are right.

    A kernel of lists is there for each count of arrays.
    """
    wrong, loaded = outcome(case)
    assert wrong is None
    found = []
    for kernel in loaded:
        blocks = zip(kernel.kernel.blocks, kernel.executed, strict=True)
        run = {i.line: i.op for block, n in blocks if n for i in block.code}
        run = {line: op for line, op in run.items() if op.startswith(("bar", "ld", "st"))}
        code = [i for block in kernel.kernel.blocks for i in block.code]
        marks = {i.operands[0] for i in code if "0f00000003" in i.operands}
        padding = {i.line for i in code if marks & set(i.operands)}
        found.append(As(kernel.name, kernel.ptx, run, padding))
    return found


def places(case, pattern):
    """(kernel, line, its PTX) of each instruction of this pattern that is run."""
    for name, ptx, run, _ in as_they_are(case):
        yield from ((name, line, ptx) for line, op in run.items() if re.match(pattern, op))


def planted(case, place, function, **options):
    """What is found when a line of a kernel is another one."""
    _, number, text = place

    def change(kernel, ptx):
        if ptx != text:
            return ptx
        lines = ptx.split("\n")
        lines[number - 1] = function(lines[number - 1])
        return "\n".join(lines)

    return outcome(case, change, **options)[0]


def is_padding(case, place):
    """Whether a store marks what nobody sends."""
    _, number, text = place
    return number in next(k.padding for k in as_they_are(case) if k.ptx == text)


def some(places, at_most=12):
    """Evenly among them."""
    found = list(places)
    return found[:: -(-len(found) // at_most) or 1]


@own
def test_each_barrier_of_the_column(case):
    """Without it there is a race, or a wrong result, in one of two schedules."""

    def without(line):
        return line.replace("bar.sync", "// bar.sync")

    unfound = Counter(
        place[0]
        for place in places(case, r"bar\.sync")
        if not any(planted(case, place, without, seed=seed) for seed in (None, 1))
    )
    words = case.split("-")
    assert unfound == {kernel: n for (word, kernel), n in UNNEEDED.items() if word in words}


@own
def test_what_blocks_exchange_is_strong(case):
    """A weak access to what another block sends or reads is a race.

    Back a block marks padding for itself, before a barrier.
    """
    padding = {place for place in places(case, r"st\.relaxed") if is_padding(case, place)}
    for place in {*places(case, r"(ld|st)\.relaxed")} - padding:
        found = planted(case, place, lambda line: line.replace(".relaxed.gpu", ""))
        assert found and "race" in found, place[:2]


@own
def test_each_number_that_the_column_sends(case):
    """Without it somebody waits for ever."""
    for place in places(case, r"st\.relaxed"):
        found = planted(case, place, lambda line: line.replace("st.", "// st."), races=False)
        assert found and ("nobody changes" in found or "deadlock" in found), place[:2]


@pytest.mark.parametrize("case", ["lstm-grid-float32", "lstm-grid-tf32", "gru-grid-float32"])
@pytest.mark.one_in(3)
def test_one_tag_for_all_steps(monkeypatch, case):
    """In some schedule a reader then takes what lies there from a step before."""

    def make_tag(gpu, slots):
        @gpu.device
        def tag(k):
            return np.int32(exchange.FIRST)

        return tag

    monkeypatch.setattr(frame, "make_tag", make_tag)
    assert any(outcome(case, seed=seed)[0] for seed in range(6))


def farther(bytes_):
    """An access that goes so much farther."""
    return lambda line: re.sub(r"(\[%\w+)(\+-?\d+)?\]", rf"\1+{bytes_}]", line)


@own
def test_indices_beyond_arrays_of_the_column(case):
    for place in some(places(case, r"(ld|st)\.global")):
        found = planted(case, place, farther(1 << 20), races=False)
        assert found and "bytes at offset" in found, place[:2]


@own
def test_misaligned_accesses_of_the_column(case):
    for place in some(places(case, r"(ld|st)\.\w+(\.\w+)*\.v[24]")):
        found = planted(case, place, farther(4), races=False)
        assert found and ("not aligned" in found or "bytes at offset" in found), place[:2]


@own
def test_shared_memory_of_the_column_that_nobody_writes(case):
    """Without all stores of a kernel; where it reads any."""
    for name in {name for name, *_ in places(case, r"ld\.shared")}:

        def without(kernel, ptx, name=name):
            return ptx.replace("st.shared", "// st.shared") if kernel == name else ptx

        found, _ = outcome(case, without)
        assert found and "shared memory that nobody wrote" in found, name
