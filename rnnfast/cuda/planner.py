"""Which kernel runs a recurrence, and how it is cut: one rule, readable as a table.

    kind    when                                   the recurrence runs as
    row     H <= ROW_UNITS                         a block for each sample, weights in registers
    grid    the weights fit into the shared        one kernel on the whole GPU for all steps;
            memory of the GPU, N <= GRID_ROWS      blocks exchange their part of each step
    steps   else, and every float64                matrix products and a kernel a step

Nothing here was tuned on a GPU yet.
"""

from dataclasses import dataclass
from functools import cache

from rnnfast.cuda.product import THREADS, WARP, Tile, up

ROW_UNITS = 100  # a lane keeps up to this many weights in registers; 101 spill on sm_80
GRID_ROWS = 128
PASS_ROWS = 8  # rows of a product at a time: 4 sums each in registers


@dataclass(frozen=True)
class Plan:
    kind: str  # "row", "grid" or "steps"
    blocks: int
    threads: int
    shared: int = 0  # floats of dynamic shared memory
    # of a grid:
    groups: int = 1  # of samples; each has all units
    rows: int = 0  # samples of a group
    units: int = 0  # of a block
    state: int = 0  # where in shared memory a float for each sample and unit lies
    tiles: tuple = ()  # of its products, one after the other in a step

    def __str__(self):
        text = f"{self.kind}: {self.blocks} blocks x {self.threads} threads"
        if self.kind == "grid":
            text += (
                f", {self.units} units x {self.rows} samples a block, "
                f"{self.shared * 4 // 1024} KB shared, {self.tiles[0].precision}"
            )
        return text


@cache
def make_plan(gpu, products, N, H, dtype, precision):
    """The plan for a recurrence of N samples and H units.

    products: what a step multiplies, as (terms, columns) in units of H: an LSTM's forward is
    ((1, 4),), its backward ((4, 1),); None where no kernel does it in one: full peepholes.
    precision: "float32" or "tf32".
    """
    if dtype == "float64" or products is None:
        return _steps(N, H)
    if H <= ROW_UNITS:
        return Plan("row", N, up(4 * H, WARP))
    return (N <= GRID_ROWS and _grid(gpu, products, N, H, precision)) or _steps(N, H)


def _steps(N, H):
    return Plan("steps", -(-N * H // THREADS), THREADS)


def _grid(gpu, products, N, H, precision):
    """Of the grids that fit, the one whose blocks multiply least; then the most groups."""
    best, least = None, None
    for groups in range(min(N, gpu.multiprocessors), 0, -1):
        units = -(-H // (gpu.multiprocessors // groups))
        plan = grid_plan(products, N, H, precision, groups, units)
        if plan.tiles[0].C <= 4 * WARP and 4 * plan.shared <= gpu.shared_memory:
            work = plan.rows * sum(tile.stride * tile.C for tile in plan.tiles)
            if best is None or work < least:
                best, least = plan, work
    return best


def grid_plan(products, N, H, precision, groups, units):
    """A grid of `groups` groups of samples and blocks of `units` units, whether it fits or not."""
    rows = -(-N // groups)
    groups = -(-N // rows)
    blocks = -(-H // units)
    tiles = tuple(
        Tile(terms * H, columns * units, min(rows, PASS_ROWS), precision)
        for terms, columns in products
    )
    rows = up(rows, tiles[0].NR)
    state = sum(t.weights for t in tiles) + max(t.room for t in tiles)
    shared = state + up(rows * units, 4)
    return Plan("grid", groups * blocks, THREADS, shared, groups, rows, units, state, tiles)
