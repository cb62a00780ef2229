"""RNN, LSTM and GRU compared with cuDNN and the book: forward, training, NumPy arrays in and out.

An item is a case. First the results of all contenders are compared with float64. Then the
contenders are timed in turns: us for a time step by CUDA events, and us of the host for a call. For
rnnfast there are also the times of its own kernels, its plan and the predicted time. A contender
with wrong results is not timed; the others are.
"""

from functools import partial

from benchmarks.cuda import exact, launches, machine, plans
from benchmarks.cuda.contenders import (
    CONTENDERS,
    RIVALS,
    TRANSFERRED,
    TRANSFERS,
    Book,
    Case,
    check_results,
    why_not,
)
from benchmarks.cuda.race import race

# N, T, D, H; the most important first, because a run may be stopped early
SHAPES = (
    (20, 35, 650, 650),
    (20, 35, 100, 100),
    (64, 50, 512, 512),
    (32, 64, 256, 256),
    (1, 128, 256, 256),
    (128, 25, 1024, 1024),
    (8, 64, 128, 128),
    (1, 35, 100, 100),
    (1, 1, 512, 512),
)
DRY_SHAPES = ((2, 3, 4, 5),)
TINY = (2, 3, 4, 5)  # of the calls before the first item
CELLS = (("lstm", False), ("gru", True), ("rnn", False), ("gru", False))  # (cell, after)
MODES = ("training", "forward")


def take_part(case, contenders, gpu):
    """({name: contender with right results}, {name: why left out}, {name: what is wrong})."""
    made, out, wrong = {}, {}, {}
    for name, contender in contenders.items():
        if reason := why_not(contender, gpu, case):
            out[name] = reason
            continue
        made[name] = contender(case, gpu)
        made[name].prepare()
        made[name].run()
    expected = exact.results(case)
    for name in list(made):
        try:
            check_results(made[name], expected)
        except AssertionError as error:
            wrong[name] = str(error)
            del made[name]
    return made, out, wrong


def measure(kind, case, contenders, rounds):
    launches.watch()
    gpu, clock = machine.this_gpu(), machine.Events()
    made, out, wrong = take_part(case, contenders, gpu)
    result, found = race(made, clock, rounds), {}
    for name, contender in made.items():
        row = {
            "label": contender.label,
            "precision": contender.precision,
            "us_per_step": round(1e6 * result.median(name) / case.T, 3),
            "host_us_per_call": round(1e6 * result.host_median(name), 1),
            "calls": result.calls[name],
        }
        if (rival := RIVALS.get(name)) in made:
            row["ratio"] = [round(r, 3) for r in result.ratio(name, rival)]
        if contender.ours:
            contender.prepare()
            us = launches.times(contender.run, repeats=min(rounds, 5))
            row["kernels"] = {kernel: round(t / case.T, 3) for kernel, t in us.items()}
        found[name] = row
    label = case.cell + "_after" * case.after
    planned = {
        precision: plans.described(label, case.N, case.H, precision)
        for precision in plans.PRECISIONS
    }
    about = {
        "kind": kind,
        "cell": label,
        "shape": list(case.shape),
        "mode": case.mode,
        "left_out": out,
    }
    row = {**about, "contenders": found, "plans": planned}
    return {**row, "wrong": "; ".join(wrong.values())} if wrong else row


def begin(dry):
    """Imports PyTorch, starts cuDNN, compiles CuPy's kernels and ours that times need."""
    gpu = machine.this_gpu()
    for cell, after in CELLS:
        case = Case(cell, TINY, "training", after=after)
        for contender in CONTENDERS.values():
            # Ours compile kernels for this width, which no archive has
            if not contender.ours and not why_not(contender, gpu, case):
                peer = contender(case, gpu)
                peer.prepare()
                peer.run()
                peer.results()
    launches.whole(lambda: None, repeats=1)


def items(dry):
    rounds, found = 2 if dry else 7, {}
    for shape in DRY_SHAPES if dry else SHAPES:
        for cell, after in CELLS:
            for mode in MODES:
                case = Case(cell, shape, mode, after=after)
                them = dict(CONTENDERS)
                if shape not in TRANSFERRED and not dry:
                    del them[Book.name]  # its steps take milliseconds
                found[str(case)] = partial(measure, "cell", case, them, rounds)
    for shape in DRY_SHAPES if dry else TRANSFERRED:
        for mode in MODES:
            case = Case("lstm", shape, mode)
            found[f"{case} from NumPy"] = partial(measure, "transfers", case, TRANSFERS, rounds)
    return found
