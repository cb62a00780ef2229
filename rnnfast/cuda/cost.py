"""What a step costs by the model: the planner's measure.

Of a plan: cycles of issue and wavefronts of shared memory of a multiprocessor, sectors of all of
them, each by formula (a test holds them to what the compiled kernels execute), and the time that
follows from the constants below.
"""

from dataclasses import dataclass

from rnnfast.cuda.tiles import WARP, FfmaBack, FfmaForward
from rnnfast.cuda.tiles_mma import MmaBack, MmaForward, MmaForward3


@dataclass(frozen=True)
class Constant:
    value: float
    unit: str
    source: str  # "modelled", or "measured" and where


# For an H100. benchmarks/cuda/calibrate.py fits them to a race of plans (benchmarks/cuda/sweep.py).
FITTED = "measured, fitted to benchmarks/results/gpu/sweep.json"
THREE = "measured, fitted to benchmarks/results/gpu/forward-3xtf32.md"
TWICE = "measured, from benchmarks/results/gpu-h200/sweep.json"
CONSTANTS = {
    "clock": Constant(1980, "cycles a us", "measured, by nvidia-smi under load"),
    "overlap": Constant(0.819, "cycles of a step for each that is counted", FITTED),
    "meeting": Constant(0.432, "us from the last number sent until all have come", FITTED),
    "meeting back": Constant(0.535, "the same backward", FITTED),
    "pass": Constant(0.196, "us of loads and barriers, one after the other, of a pass", FITTED),
    "local step": Constant(0.180, "us of barriers within a block", FITTED),
    "sectors": Constant(263_000, "sectors a us through L2, forward", FITTED),
    "sectors back": Constant(163_000, "the same backward, where parts of sectors are sent", FITTED),
    "sectors beyond": Constant(106_000, "the same where L2 does not hold what is sent", FITTED),
    "mma": Constant(7.39, "cycles of a quarter of a multiprocessor", FITTED),
    "mma of three": Constant(3.5, "the same, where three make a product of float32", THREE),
    "second of three": Constant(0.70, "us of the second product of a step, where both are", TWICE),
    "launch": Constant(4.96, "us between kernels of one stream", FITTED),
    "flop": Constant(33.8e6, "float32 operations a us of cuBLAS, forward", FITTED),
    "flop back": Constant(18.8e6, "the same backward, with few columns and many terms", FITTED),
    "flop tf32": Constant(109e6, "TF32 operations a us of cuBLAS, forward", FITTED),
    "flop tf32 back": Constant(59.7e6, "the same backward", FITTED),
    "L2": Constant(50e6, "bytes", "the GPU's data sheet"),
    "weights": Constant(2.5e6, "bytes a us of cuBLAS reading Wh", "modelled"),
}

# Instructions of a warp beside the product, fitted to counts
EACH_WARP, CELL, GATE, MEETING = 24, 36, 11, 12


@dataclass(frozen=True)
class Cost:
    issue: float  # cycles of a multiprocessor a step
    shared: float  # wavefronts of a multiprocessor a step
    sectors: float  # of all multiprocessors a step
    us: float  # a step


def segments(count, floats, row=8):
    """Sectors of `count` runs of floats, which begin anywhere if the rows they are of do."""
    whole = floats % 8 == row % 8 == 0
    return count * (floats / 8 if whole else 1 + (floats - 1) / 8)


def vectors(floats):
    """Accesses for some floats side by side."""
    return floats // next(w for w in (4, 2, 1) if floats % w == 0)


def _ffma_forward(t, cell_warps):
    rounds = 0 if t.local else -(-t.exchanged // 4 // t.threads)
    each = 2 * rounds + t.fours * t.rows * (1 + 4 * t.width) + t.rows * vectors(t.width)
    each += t.aside * t.round // 4
    added = t.parts * vectors(t.columns) + (t.parts - 1) * t.columns
    addresses = min(WARP, -(-WARP // t.across) + 1)
    waves = t.warps * (
        4 * rounds + t.fours * t.rows * -(-addresses // 8) + t.rows * t.width + t.aside * t.round
    ) + t.parts * -(-t.units * t.rows * t.columns // WARP)
    return each, added, waves, 0


def _mma_forward(t, cell_warps):
    mmas = t.groups * t.eights * 4 * t.tiles
    spread = 4 * t.tiles * t.eights
    each = 2 * mmas + 2 * t.groups * t.eights + spread + t.eights * t.aside * t.round // 4
    added = (2 * t.warps - 1) * t.columns
    waves = t.warps * (spread + t.eights * t.aside * t.round) + cell_warps * t.warps * t.columns
    return each, added, waves, mmas


def _mma_forward3(t, cell_warps):
    each, added, waves, mmas = _mma_forward(t, cell_warps)
    parts = 3 * (t.groups * 4 * t.round + 8 * t.groups * t.eights)  # of weights, and of h
    return each + 2 * (2 * mmas) + parts, added, waves, 3 * mmas  # two more of each mma


def _ffma_back(t, cell_warps):
    fours = t.rows * t.terms // 4
    each = fours * (1 + 4 * t.receivers + t.aside) + t.rows * t.receivers + t.aside * t.round // 4
    came = t.sources if t.local else t.adders
    each += 0 if t.local else 5 * t.fetches + 2
    waves = (
        t.warps * (fours * (1 + t.aside) + t.aside * t.round)
        + cell_warps * (came + t.columns)
        + (0 if t.local else t.parcel // 32)
    )
    waves += t.warps * t.rows * t.receivers if t.local else 0
    return each, 2 * came + vectors(t.columns), waves, 0


def _mma_back(t, cell_warps):
    mmas = t.eights * t.receivers * t.terms
    each = 2 * mmas + 2 * t.eights * t.terms + 20 * t.eights * t.receivers + 13 * t.fetches + 2
    each += t.eights * t.aside * t.round // 4
    waves = t.warps * t.eights * (2 * t.terms + t.aside * t.round)
    waves += cell_warps * (t.adders + t.columns)
    return each, 2 * t.adders + 2 * t.columns, waves + t.parcel // 32, mmas


# Of a kind of tile: instructions of each warp, of one with cells, wavefronts, mma of a warp
OF_TILE = {
    FfmaForward: _ffma_forward,
    FfmaBack: _ffma_back,
    MmaForward: _mma_forward,
    MmaForward3: _mma_forward3,
    MmaBack: _mma_back,
}


def of_frame(cell, plan, N, multiprocessors):
    """The Cost of a plan of the frame."""
    cell_warps = -(-plan.units * plan.rows // WARP)
    warps = plan.threads // WARP
    slowest = -(-warps // 4)  # warps of a scheduler, each a quarter of the multiprocessor
    issue = shared = mma = work = 0
    for t in plan.tiles:
        each, added, waves, mmas = OF_TILE[type(t)](t, cell_warps)
        each += EACH_WARP / len(plan.tiles) + MEETING
        added += CELL / len(plan.tiles) + GATE * t.columns
        issue += plan.passes * (each * warps + added * cell_warps) / 4
        work += plan.passes * (each * slowest + added * -(-cell_warps // 4))
        name = "mma of three" if t.arithmetic == "3xtf32" else "mma"
        mma += plan.passes * mmas * slowest * CONSTANTS[name].value
        shared += plan.passes * waves
    sectors = _sectors(cell, plan, N)
    turns = -(-plan.grid // multiprocessors)  # of blocks of a local plan, one after the other
    # Loads, products and sums of a step come one after the other: hardly any of it overlaps
    cycles = (work + shared + mma) * CONSTANTS["overlap"].value
    us = cycles / CONSTANTS["clock"].value + sectors / turns / CONSTANTS[_rate(plan)].value
    us = turns * (us + len(plan.tiles) * _pause(plan))
    if plan.arithmetic == "3xtf32":
        us += (len(plan.tiles) - 1) * CONSTANTS["second of three"].value
    return Cost(issue, shared, sectors, us)


def _rate(plan):
    """The name of the rate of its sectors."""
    if plan.tiles[0].forward:
        return "sectors"
    floats = plan.slots * plan.groups * plan.passes * sum(t.exchanged for t in plan.tiles)
    beyond = not plan.local and 4 * floats > CONSTANTS["L2"].value
    return "sectors beyond" if beyond else "sectors back"


def _pause(plan):
    """What a product of a step waits for, whatever it multiplies."""
    if plan.local:
        return CONSTANTS["local step"].value
    name = "meeting" if plan.tiles[0].forward else "meeting back"
    return CONSTANTS[name].value + plan.passes * CONSTANTS["pass"].value


def _sectors(cell, plan, N):
    """A step's: the cells' own arrays, and what the blocks exchange."""
    G, blocks, units = cell.gates, plan.blocks, plan.units
    runs = N * blocks
    arrays = 2 * G + 1 + len(cell.kept)  # gates in and out, hs or dhs, what is kept
    if not plan.tiles[0].forward:
        arrays += G * cell.separate
    own = arrays * segments(runs, units, plan.H)
    if plan.local:
        return own
    exchanged = 0
    for t in plan.tiles:
        all_passes = plan.passes * plan.groups
        if t.forward:
            read = blocks * t.exchanged / 8
            exchanged += all_passes * read + segments(runs, units)
        else:
            sent = segments(t.sources * blocks * t.rows, units)
            exchanged += all_passes * (sent + blocks * t.sources * t.parcel / 8)
    return own + exchanged


def of_steps(cell, forward, N, H, precision):
    """Microseconds a step of products and kernels one after the other."""
    products = len(cell.products)
    work = 2 * N * cell.gates * H * H
    name = "flop tf32" if precision == "tf32" else "flop"
    rate = CONSTANTS[name if forward else f"{name} back"]
    reading = 4 * cell.gates * H * H / CONSTANTS["weights"].value
    return 2 * products * CONSTANTS["launch"].value + max(work / rate.value, reading)
