"""Which kernel runs a recurrence, and how it is cut: of all plans that fit, the fastest by cost.py.

kind     the recurrence runs as
row      one kernel for all steps, weights in registers (frame.py): a block has all units of
         a sample, or of some
grid     the same, where blocks that meet in each step have the units between them
steps    matrix products and a kernel a step (steps.py): what fits no frame, every float64
"""

from dataclasses import dataclass, replace
from functools import cache
from itertools import product

from rnnfast.cuda import cost
from rnnfast.cuda.steps import THREADS
from rnnfast.cuda.tiles import WARP, FfmaBack, FfmaForward, up
from rnnfast.cuda.tiles_mma import MmaBack, MmaForward, MmaForward3

REGISTERS = 65536  # of a multiprocessor
MOST_REGISTERS = 255  # of a thread
MOST_SHARED = 58_112  # floats of shared memory of a block on the GPUs that have most
MOST_ROWS = 32  # of a product: sums of so many rows lie in registers
SPARE, SPARE_TF32, SPARE_AGAIN = 40, 28, 20  # in float32, on tensor cores, of a second product
SPARE_PASSES = 16  # of three products on tensor cores in several passes
LOCAL_UNITS = 256
CROWDED = 232  # registers by the model with which a forward product was seen to spill
SIZES = (64, 128, 256, 384, 512, 1024)  # threads of a block


@dataclass(frozen=True)
class Plan:
    kind: str
    grid: int  # blocks
    threads: int
    us: float | None = None  # a step, by the model
    # of a row or a grid:
    H: int = 0
    blocks: int = 1  # of a group
    groups: int = 1
    units: int = 0  # of a block
    rows: int = 0  # samples of a block, in each of
    passes: int = 1
    tiles: tuple = ()  # of its products, one after the other in a step
    cell_constants: int = 0  # numbers that a thread keeps in shared memory: its unit's constants,
    cell_states: int = 0  # and with several passes its states in each

    @property
    def local(self):
        return self.blocks == 1

    @property
    def slots(self):
        """Parts of memory that the exchanges of steps use in turn; see exchange.py."""
        return 2 if len(self.tiles) == 1 else 1

    @property
    def arithmetic(self):
        """Of its products: float32, tf32, or 3xtf32, which is float32 on tensor cores."""
        return self.tiles[0].arithmetic

    @property
    def constants(self):
        """Where in shared memory the constants of the cells lie."""
        return up(sum(tile.shared for tile in self.tiles), 4)

    @property
    def memory(self):
        """Where their states do, if there are several passes."""
        return self.constants + self.cell_constants * self.threads

    @property
    def shared(self):
        """Floats of shared memory."""
        passes = self.passes if self.passes > 1 else 0
        return self.memory + passes * self.cell_states * self.threads

    @property
    def registers(self):
        """Of a thread: what follows from the sizes, and what kernels were seen to need beside."""
        kept = sum(tile.weights for tile in self.tiles)
        more = SPARE if self.arithmetic == "float32" else SPARE_TF32
        more += SPARE_AGAIN * (len(self.tiles) - 1)
        more += SPARE_PASSES * (self.arithmetic == "3xtf32" and self.passes > 1)
        return kept + max(tile.registers - tile.weights for tile in self.tiles) + more

    def fits(self, gpu):
        return (
            self.units * self.rows <= self.threads
            and (self.local or self.grid <= gpu.multiprocessors)
            and 4 * self.shared <= gpu.shared_memory
            and self.registers <= registers_of(self.threads)
        )

    def __str__(self):
        text = f"{self.kind}: {self.grid} blocks x {self.threads} threads"
        if self.kind != "steps":
            of = f" in {self.passes} passes" if self.passes > 1 else ""
            text += f", {self.units} units x {self.rows} samples a block{of}, {self.arithmetic}"
        return text if self.us is None else f"{text}, {self.us:.2f} us a step by the model"


def registers_of(threads):
    """Of a thread, where its block is alone on a multiprocessor: dealt to four warps at a time."""
    fours = -(-threads // (4 * WARP))
    return min(MOST_REGISTERS, REGISTERS // (4 * WARP * fours) // 8 * 8)


ON_TENSOR_CORES = {
    ("tf32", True): MmaForward,
    ("tf32", False): MmaBack,
    ("3xtf32", True): MmaForward3,
}


def frame_plan(
    cell, forward, N, H, arithmetic, units, rows, threads, *, passes=1, own=None, slices=1, aside=0
):
    """A plan of the frame, whether it fits or not. own, slices, aside: see tiles.py."""
    blocks, groups = -(-H // units), -(-N // (rows * passes))
    tiles = []
    for gates in cell.products if forward else cell.products[::-1]:
        sizes = (H, cell.gates, gates, units, rows, threads, blocks)
        if arithmetic != "float32":
            tiles.append(ON_TENSOR_CORES[arithmetic, forward](*sizes, aside=aside))
        elif forward:
            tiles.append(FfmaForward(*sizes, own or max(1, 4 // len(gates)), aside=aside))
        else:
            tiles.append(FfmaBack(*sizes, slices, aside=aside))
    kept = cell.constants, len(cell.states)
    sizes = H, blocks, groups, units, rows, passes, tuple(tiles), *kept
    return Plan("row" if blocks == 1 else "grid", blocks * groups, threads, None, *sizes)


def steps_plan(cell, forward, N, H, precision):
    us = cost.of_steps(cell, forward, N, H, precision)
    return Plan("steps", -(-N * H // THREADS), THREADS, us)


def candidates(gpu, cell, forward, N, H, precision):
    """Every plan that fits, with the time by the model; "tf32" may run in float32, too.

    In float32 also by three products on tensor cores.
    """
    found = [steps_plan(cell, forward, N, H, precision)]
    if cell.in_steps:
        return found
    kinds = [_local(cell, forward, N, H), _grids(gpu, cell, forward, N, H, "float32")]
    others = "tf32" if precision == "tf32" else "3xtf32"
    if (others, forward) in ON_TENSOR_CORES and (cell.bounded or others == "tf32"):
        kinds.append(_grids(gpu, cell, forward, N, H, others))
    for plans in kinds:
        plans = list(plans)
        fitting = [plan for plan in plans if plan.fits(gpu)]
        if not fitting or (len(cell.products) > 1 and not forward):
            # None of a kind in registers alone; or two exchanges: fewer, larger blocks shorten them
            aside = map(_with_weights_aside, plans)
            fitting += [plan for plan in aside if plan.fits(gpu) and plan not in fitting]
        for plan in (_eased(plan, gpu) for plan in fitting):
            us = cost.of_frame(cell, plan, N, gpu.multiprocessors).us
            found.append(replace(plan, us=us))
    return found


def _with_weights_aside(plan):
    """The plan with as few rounds of weights in shared memory as registers ask for."""
    while plan.registers > registers_of(plan.threads):
        tile = max(plan.tiles, key=lambda tile: tile.weights)
        if tile.weights <= tile.round or not tile.may_lie_aside:
            break
        more = replace(tile, aside=tile.aside + 1)
        plan = replace(plan, tiles=tuple(more if t is tile else t for t in plan.tiles))
    return plan


def _eased(plan, gpu):
    """With a round of weights in shared memory where masks and lengths find no register left."""
    tile = plan.tiles[0]
    alone = len(plan.tiles) == 1 and isinstance(tile, FfmaForward) and not tile.aside
    if alone and plan.registers > CROWDED and tile.weights > tile.round:
        eased = replace(plan, tiles=(replace(tile, aside=1),))
        return eased if eased.fits(gpu) else plan
    return plan


def _local(cell, forward, N, H):
    """Plans where a block has all units."""
    if H <= LOCAL_UNITS:
        for threads, rows in product(SIZES, (1, 2, 4)):
            if rows <= N:
                yield from _ways(cell, forward, N, H, "float32", H, rows, threads, 1)


def _grids(gpu, cell, forward, N, H, arithmetic):
    """Plans of blocks that meet: groups of samples, units a block, passes, threads."""
    most = gpu.multiprocessors
    multiples = (1, 2, 4, 8, 16) if arithmetic == "float32" else (16,)
    for together in sorted({-(-N // groups) for groups in range(1, min(N, most) + 1)}):
        least = -(-H // max(1, most // -(-N // together)))
        for units in sorted({up(least, multiple) for multiple in multiples}):
            for passes in range(1, 9 if len(cell.products) == 1 else 2):
                rows = -(-together // passes)
                if units < H and rows <= MOST_ROWS and (passes == 1 or rows >= 4):
                    for threads in SIZES[:-1]:
                        sizes = N, H, arithmetic, units, rows, threads, passes
                        yield from _ways(cell, forward, *sizes)


def _ways(cell, forward, N, H, arithmetic, units, rows, threads, passes):
    """What a tile leaves open: units of a thread, slices of units."""
    if units * rows > threads or H * cell.gates * units > MOST_REGISTERS * threads + MOST_SHARED:
        return
    sizes = cell, forward, N, H, arithmetic, units, rows, threads
    if arithmetic != "float32":
        yield frame_plan(*sizes, passes=passes)
    elif forward:
        for own in (1, 2, 4):
            if own <= units:
                yield frame_plan(*sizes, passes=passes, own=own)
    else:
        for slices in (1, 2, 3, 4, 5, 8, 10) if units == H else (1, 2, 4):
            if slices <= units and threads // slices >= min(H, WARP):
                yield frame_plan(*sizes, passes=passes, slices=slices)


@cache
def make_plan(gpu, cell, forward, N, H, dtype, precision):
    """The plan of N samples and H units, forward or back.

    precision: "float32" or "tf32".
    """
    if dtype == "float64":
        # The model is of float32
        return replace(steps_plan(cell, forward, N, H, precision), us=None)
    return min(candidates(gpu, cell, forward, N, H, precision), key=lambda plan: plan.us)
