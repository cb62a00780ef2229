"""The time that a step of a recurrence in steps takes on the host.

    python -m benchmarks.cuda.step_cost

The difference between a call of many steps and one of a few, for each step more: what a call costs
once is not in it. A GPU as fast as this, or faster, would wait for the host. It may not be slower,
or the host waits for it: the widths are small.
"""

import time
from unittest import mock

import numpy as np

from benchmarks.cuda.host_cost import calls_wanted, settle
from benchmarks.machine import cpu_name
from rnnfast import cuda
from rnnfast.cuda import planner
from rnnfast.layers.cells import RECURRENT

N, D, H = 4, 64, 64
FEW, MANY = 5, 205  # steps
CALLS = 300
VARIANTS = [  # cell, options of the layer, whether it has an h_mask, arguments of forward
    *((cell, {}, masked, {}) for cell in ("rnn", "lstm", "gru") for masked in (False, True)),
    ("gru", {"reset_after": True}, False, {}),
    ("lstm", {}, False, {"h_zoneout": 0.1, "c_zoneout": 0.1}),
    ("lstm", {"peepholes": "full"}, False, {}),
    ("mogrifier", {"rounds": 5}, False, {}),
    ("lstmp", {"proj_size": 32}, False, {}),
    ("lnlstm", {}, False, {}),
    ("lngru", {}, False, {}),
]


def in_steps(gpu, cell, forward, N, H, dtype, precision):
    """Replaces the planner."""
    found = planner.candidates(gpu, cell, forward, N, H, "float32")
    return next(plan for plan in found if plan.kind == "steps")


def name_of(cell, options, masked, ways):
    words = [f"{key}={value}" for key, value in options.items()]
    return ", ".join([cell, *words, *["h_mask"] * masked, *ways])


def calls_of(cell, options, masked, ways, T):
    """forward() and backward() of a layer, with arrays on the GPU."""
    to_device, rng = cuda.what_runs().to_device, np.random.default_rng(0)
    layer = RECURRENT[cell].create(D, H, rng=rng, device="cuda", **options)
    P = options.get("proj_size", H)
    xs, dhs, mask = (
        to_device(rng.standard_normal(s).astype("f")) for s in ((N, T, D), (N, T, P), (N, P))
    )
    ways = dict(ways)
    for name, share in ways.items():
        ways[name] = to_device((rng.random((N, T, H)) < share).astype("f"))
    if masked:
        ways["h_mask"] = mask
    return lambda: layer.forward(xs, **ways), lambda: layer.backward(dhs)


def measure(calls):
    """(name, us of a step forward, us of a step back)."""
    prepared = []
    with mock.patch.object(planner, "make_plan", in_steps):
        for variant in VARIANTS:
            for T in (FEW, MANY):
                prepared.append(calls_of(*variant, T))
                for run in prepared[-1]:
                    run()  # compiles
        settle()
        shortest = np.full((len(prepared), 2), np.inf)
        for _ in range(calls):
            for k, runs in enumerate(prepared):
                for way, run in enumerate(runs):
                    start = time.perf_counter_ns()
                    run()
                    spent = time.perf_counter_ns() - start
                    shortest[k, way] = min(shortest[k, way], spent)
                    settle()
    steps = (shortest[1::2] - shortest[::2]) / (1e3 * (MANY - FEW))
    for variant, (forward, back) in zip(VARIANTS, steps, strict=True):
        yield name_of(*variant), forward, back


def main():
    calls = calls_wanted(__doc__, CALLS)
    print(f"{cuda.what_runs().name}, {cpu_name()}; N, D, H = {N}, {D}, {H}\n")
    print("| cell | us of a step, forward | back |\n| --- | ---: | ---: |")
    for name, forward, back in measure(calls):
        print(f"| {name} | {forward:.1f} | {back:.1f} |", flush=True)


if __name__ == "__main__":
    main()
