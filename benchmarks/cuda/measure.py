"""What the benchmarks of this folder share: the gate before a race, and the rows after it."""

from dataclasses import dataclass, field

import pytest

from benchmarks.cuda.contenders import RIVALS
from benchmarks.cuda.race import Result, race


@dataclass
class Measured:
    """A race and who took part; `out` says why somebody did not, `wrong` who failed the gate."""

    what: object  # the case or job
    contenders: dict = field(default_factory=dict)
    out: dict = field(default_factory=dict)
    wrong: dict = field(default_factory=dict)
    result: Result | None = None


def admit(measured, name, contender, why, make, gate):
    """Take a contender in: made by make(), run by gate(), which raises AssertionError if wrong."""
    if why is not None:
        measured.out[name] = why
        return
    try:
        made = make()
        made.prepare()
        gate(made)
        measured.contenders[name] = made
    except Exception as error:  # one that fails must not take the others' times with it
        measured.wrong[name] = f"{type(error).__name__}: {error}"


def go(measured, clock, config):
    """The race, unless --benchmark-disable is there or nobody is left."""
    if measured.contenders and not config.getoption("benchmark_disable"):
        measured.result = race(measured.contenders, clock, config.getoption("rounds"))


def wanted(names, ours, config):
    """{name: why it is left out, or None}."""
    peers = config.getoption("peers")
    return {
        name: None if name in ours or peers is None or name in peers else "not asked for"
        for name in names
    }


def row(measured, name):
    """What the results say of one contender: times and ratios; skips or fails for one without."""
    if name in measured.out:
        pytest.skip(measured.out[name])
    if name in measured.wrong:
        pytest.fail(f"{name} is not timed, {measured.wrong[name]}", pytrace=False)
    result, contender = measured.result, measured.contenders[name]
    if result is None:
        return None
    found = {
        "contender": name,
        "label": contender.label,
        "precision": contender.precision,
        "seconds": result.median(name),
        "host_seconds": result.host_median(name),
        "calls_per_round": result.calls[name],
    }
    rival = RIVALS.get(name)
    if rival in result.times:
        # this one's time / ours in the same precision: lower quartile, median, upper quartile
        found |= {"ratio": result.ratio(name, rival), "ratio_to": rival}
    return found
