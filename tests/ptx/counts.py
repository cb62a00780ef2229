"""What a step of each kernel costs an H100, counted from the compiled code.

    PYTHONPATH=tests:. python -m ptx.counts    the first table of benchmarks/results/cuda-counts.md

Forward and backward run for T = 2 and T = 4 with the column's own plan for 132 multiprocessors: the
difference is two steps, the rest comes before the first one. Of each multiprocessor, in cycles at
least, as nothing here knows time:

    issue    instructions of warps, over 4 schedulers
    shared   wavefronts of shared memory
    start    what is issued before the first step

and `sectors`, of 32 bytes of global memory, of all of them together. How far that goes: issue.py.
"""

import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

import rnnfast
from rnnfast import cuda
from rnnfast.kernels import get_float32_matmul_precision, load

from .gpu import PtxGpu
from .issue import issues
from .parse import LOOK

MULTIPROCESSORS, SCHEDULERS = 132, 4  # of an H100
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
SHAPES = ((20, 650), (64, 512), (32, 256), (1, 256), (20, 100), (20, 1000))
PRECISIONS = {"float32": "highest", "tf32": "high"}
VARIANTS = (("rnn", {}), ("lstm", {}), ("gru", {}), ("gru", {"reset_after": True}))
D = 8


@dataclass(frozen=True)
class Figures:
    """Of one direction; `loops`: (line of the PTX, wavefronts a step, those needed) of each."""

    issue: float
    shared: float
    sectors: float
    start: float
    blocks: int
    threads: int
    loops: tuple
    launches: int  # for four steps

    @property
    def conflicts(self):
        """Of the loop with the most: wavefronts over those needed."""
        return max((found / needed for _, found, needed in self.loops if needed), default=1.0)


@cache
def figures(cell, N, H, precision, options=()):
    """{"forward": Figures, "backward": Figures}; options: items of forward's keywords."""
    few, many = (_run(cell, N, H, T, precision, dict(options)) for T in (2, 4))
    return {direction: _figures(few[direction], many[direction]) for direction in few}


def _run(cell, N, H, T, precision, options):
    """{direction: the kernels that were launched}"""
    rng, columns = np.random.default_rng(0), GATES[cell] * H

    def normal(*shape):
        return rng.standard_normal(shape, dtype="f4")

    biases = (2, columns) if options.get("reset_after") else (columns,)
    params = normal(D, columns), normal(H, columns) / np.float32(H**0.5), normal(*biases)
    states = tuple(normal(N, H) for _ in range(1 + (cell == "lstm")))
    with on_an_h100(precision) as gpu:
        module = load(cell, "cuda")
        *_, kept = module.forward(normal(N, T, D), states, params, **options)
        forward = len(gpu.loaded)
        grads = tuple(np.full_like(p, np.nan) for p in params)
        module.backward(normal(N, T, H), None, params, kept, grads)
    found = {"forward": gpu.loaded[:forward], "backward": gpu.loaded[forward:]}
    return {direction: [k for k in of if k.grids] for direction, of in found.items()}


@contextmanager
def on_an_h100(precision):
    gpu, before = PtxGpu(stats=True, multiprocessors=MULTIPROCESSORS), cuda._runtime
    was = get_float32_matmul_precision()
    cuda.use(gpu)
    rnnfast.set_float32_matmul_precision(PRECISIONS[precision])
    try:
        yield gpu
    finally:
        rnnfast.set_float32_matmul_precision(was)
        cuda.use(before)


def _figures(few, many):
    """few, many: kernels of two and of four steps."""
    two, four = Counter(), Counter()
    for total, loaded in ((two, few), (four, many)):
        for kernel in loaded:
            total.update(_totals(kernel))
    blocks = max(max(kernel.grids) for kernel in many)
    share = min(MULTIPROCESSORS, blocks)
    step = Counter({key: (four[key] - two[key]) / 2 for key in four})
    loops = {key[1:] for key in step if key[0] == "loop"}
    return Figures(
        issue=step["issue"] / share / SCHEDULERS,
        shared=step["shared"] / share,
        sectors=step["sectors"],
        start=(two["issue"] - 2 * step["issue"]) / share / SCHEDULERS,
        blocks=blocks,
        threads=max(kernel.threads for kernel in many),
        loops=tuple(
            (line, step["loop", name, line] / share, step["needed", name, line] / share)
            for name, line in sorted(loops)
        ),
        launches=sum(len(kernel.grids) for kernel in many),
    )


def _totals(loaded):
    """Of all blocks and of each loop; of those that only wait what they do at first."""
    found, kernel = Counter(), loaded.kernel
    loops = _innermost_loops(kernel)
    busy = {loops.get(b.number) for b in kernel.blocks if any(map(_works, b.code))}
    waits = {loops.get(b.number) for b in kernel.blocks if b.kind == LOOK} - busy - {None}
    counted = [b for b in kernel.blocks if loops.get(b.number) not in waits]
    issued = issues(kernel)
    for block in counted:
        found["issue"] += sum(issued[block.number]) * int(loaded.executed[block.number])
    for block in counted:  # on the way into such a loop
        for head in waits.intersection(kernel.successors(block)):
            found["issue"] += sum(issued[head]) * int(loaded.executed[block.number])
    loop_of = {i.line: loops.get(block.number) for block in counted for i in block.code}
    sites = zip(loaded.program.sites, loaded.moved, loaded.needed, strict=True)
    for (line, space, _), moved, needed in sites:
        if line not in loop_of:
            continue
        if space != "shared":
            found["sectors"] += int(moved)
            continue
        found["shared"] += int(moved)
        if loop_of[line] is not None:
            head = kernel.blocks[loop_of[line]].line
            found["loop", loaded.name, head] += int(moved)
            found["needed", loaded.name, head] += int(needed)
    return found


def _works(i):
    """Whether it does what a thread that only waits does not."""
    return any(map(i.is_a, ("st", "red", "bar", "fma", "mma")))


def _innermost_loops(kernel):
    """{block: the one by which the smallest loop that it is in is entered}, by their numbers."""
    into = {block.number: [] for block in kernel.blocks}
    for block in kernel.blocks:
        for after in kernel.successors(block):
            if after in into:
                into[after].append(block.number)
    before, smallest = _always_before(into), {}
    for head, sources in into.items():
        for source in (s for s in sources if head in before[s]):  # it jumps back
            inside, rest = {head}, [source]
            while rest:
                block = rest.pop()
                if block not in inside:
                    inside.add(block)
                    rest += into[block]
            for block in inside:
                if block not in smallest or len(inside) < smallest[block][0]:
                    smallest[block] = len(inside), head
    return {block: head for block, (_, head) in smallest.items()}


def _always_before(into):
    """{block: those on every way to it from the first one, itself too}; into: whence one comes.

    A block that is never reached has itself alone.
    """
    first, *others = into
    before, changed = {first: {first}}, True
    while changed:
        changed = False
        for block in others:
            ways = [before[source] for source in into[block] if source in before]
            if ways:
                found = set.intersection(*ways) | {block}
                changed |= found != before.get(block)
                before[block] = found
    return {block: before.get(block, {block}) for block in into}


# The table

HEADINGS = (
    "",
    "N, H",
    "",
    "blocks x threads",
    "issue",
    "shared",
    "over needed",
    "sectors",
    "start",
)


def rows():
    """Of kernels that take all steps at once."""
    for N, H in SHAPES:
        for (cell, options), precision in product(VARIANTS, PRECISIONS):
            found = figures(cell, N, H, precision, tuple(options.items()))
            if precision == "float32":
                exact = found
            elif found == exact:  # no tensor cores
                continue
            for direction, f in found.items():
                if f.launches == 1:
                    name = " ".join((cell, *options, direction))
                    yield (
                        *(name, f"{N}, {H}", precision, f"{f.blocks} x {f.threads}"),
                        *(f"{f.issue:,.0f}", f"{f.shared:,.0f}", f"{f.conflicts:.2f}"),
                        *(f"{f.sectors:,.0f}", f"{f.start:,.0f}"),
                    )


def main():
    print("# The CUDA kernels, counted")
    print()
    print(
        "Printed by `python -m ptx.counts` (tests/ptx/counts.py), without a GPU. Of a step, with an"
    )
    print(
        "H100's plan: cycles of a multiprocessor at least (issue, shared memory), the loop with the"
    )
    print(
        "most wavefronts over those needed, sectors of all; cycles before the first step (start)."
    )
    print()
    print("| " + " | ".join(HEADINGS) + " |")
    print("|" + " --- |" * 4 + " ---: |" * (len(HEADINGS) - 4))
    for row in rows():
        print("| " + " | ".join(row) + " |")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
