"""Measuring contenders side by side: first checked, then timed in turns.

The speed of a machine drifts with its temperature and with other processes. Therefore contenders
are not timed one after the other: each round times one block of calls of each contender, and a
ratio is the median over rounds of the ratio within a round. The order is reversed in every other
round. A pause precedes each block, because the worker threads of PyTorch and OpenBLAS keep spinning
after a call, those of OpenBLAS for tens of milliseconds, and would occupy the cores of the next
contender.

The machine must be idle otherwise: one busy process can make PyTorch's barriers a hundred times
slower, which changes all ratios. Therefore a result contains the load by other processes.

The clock drifts, too, so the ceiling of the processor is measured in every round.

The two CPUs of a virtual machine may be cores that share a cache or cores that do not. The host
chooses, and its choice changes within seconds. Without a shared cache, data that the other core has
written cost four times as much. Therefore each block, of all contenders, waits until a barrier is
as fast as between near cores. Blocks for which this did not happen in time are recorded.
"""

import gc
import os
import time
from collections import deque
from dataclasses import dataclass

import numpy as np

from rnnfast.cpu import _runtime

PAUSE = 0.2  # seconds
BLOCK = 0.03  # seconds of calls in a block; one call if that takes longer
ROUNDS = 9
MIN_ROUNDS = 5
LONG = 0.1  # seconds; a call that takes longer needs no untimed one before it
BUDGET = 8.0  # seconds; a longer race has fewer rounds, down to MIN_ROUNDS

# |error| <= TOLERANCE * (1 + |ref|) for hs and dxs, relative 2-norm for weights' gradients.
TOLERANCE = 1e-5
PEER_TOLERANCE = 1e-3  # enough to see that a peer computes the same


class Ceiling:
    """FMAs in registers on all threads: no kernel can do more operations per second."""

    rounds = 400_000  # independent FMAs in a call, about a millisecond

    def measure(self, calls=10):
        """Operations per second in the best of some calls, after the same pause as all blocks.

        The best, because a worker may wake up on the core of its caller and stay there for some
        milliseconds.
        """
        time.sleep(PAUSE)
        return max(self._rate() for _ in range(calls))

    def _rate(self):
        start = time.perf_counter()
        operations = _runtime.fma(self.rounds)
        return operations / (time.perf_counter() - start)


class Cores:
    """The distance between the cores of our threads, measured by the time of a barrier."""

    NEAR = 4.0  # times the fastest barrier so far; between caches it is ten times
    TRIES = 5  # maximum number of pauses
    LATELY = 20  # waits: if most of them were fruitless, the next ones are one pause

    def __init__(self):
        self.least = float("inf")
        self.barriers = []  # ns, before each block
        self.lately = deque(maxlen=self.LATELY)  # whether the cores were near, after each wait

    def wait(self):
        """Pause until the cores are near."""
        hopeless = len(self.lately) == self.LATELY and sum(self.lately) < self.LATELY / 2
        for _ in range(1 if hopeless else self.TRIES):
            time.sleep(PAUSE)
            ns = min(_runtime.meet(500) for _ in range(3))
            if 0 < ns < self.least:
                self.least = ns
            if near := ns <= self.NEAR * self.least:
                break
        self.lately.append(near)
        self.barriers.append(ns)


cores = Cores()  # one for all races, because it learns the time of near cores


@dataclass
class Result:
    """Seconds per call, a list over rounds for each contender."""

    times: dict
    calls: dict
    others_cores: float | None  # mean number of cores used by other processes; None if unknown
    ceiling: np.ndarray  # maximum operations per second, in each round
    ceiling_best: tuple  # the same, the best of several before and after the rounds
    far: float  # share of the blocks that started with cores far from each other

    def median(self, name):
        return float(np.median(self.times[name]))

    def ratio(self, peer, name):
        """Peer's time / name's time: lower quartile, median, upper quartile over the rounds."""
        return self.quartiles(np.array(self.times[peer]) / np.array(self.times[name]))

    @staticmethod
    def quartiles(values):
        return [float(q) for q in np.percentile(values, (25, 50, 75))]


def check(name, got, expected, tolerance=TOLERANCE):
    """AssertionError unless [hs] or [hs, dxs, *grads] agrees with the float64 reference."""
    assert len(got) == len(expected), f"{name}: {len(got)} results, not {len(expected)}"
    for i, (value, ref) in enumerate(zip(got, expected, strict=True)):
        what = ("hs", "dxs", "dWx", "dWh", "db")[i]
        assert value.shape == ref.shape, f"{name}: {what} is {value.shape}, not {ref.shape}"
        if i < 2:
            error = largest_error(value, ref)
        else:
            error = float(np.linalg.norm(value - ref) / np.linalg.norm(ref))
        assert error <= tolerance, f"{name}: {what} is off by {error:.2g}, over {tolerance:g}"


def largest_error(value, ref):
    """max |error| / (1 + |ref|); NaN where a value is NaN."""
    return float(np.max(np.abs(value - ref) / (1 + np.abs(ref))))


def race(contenders, rounds=ROUNDS):
    """Time `run()` of each of {name: contender}, and the ceiling, in turns -> Result."""
    ceiling = Ceiling()
    gc.collect()
    gc.disable()  # a garbage collection would be counted in an arbitrary block
    try:
        single = {name: _single_call(contender.run) for name, contender in contenders.items()}
        calls = {name: max(1, round(BLOCK / seconds)) for name, seconds in single.items()}
        warm = {name: 0 if single[name] > LONG else 1 + calls[name] // 10 for name in contenders}
        round_time = sum(PAUSE + (warm[name] + calls[name]) * single[name] for name in contenders)
        rounds = min(rounds, max(MIN_ROUNDS, int(BUDGET / round_time)))
        times = {name: [] for name in contenders}
        before, rates = ceiling.measure(), []
        cores.barriers.clear()
        others = OtherProcesses()
        for i in range(rounds):
            rates.append(ceiling.measure())
            for name in list(contenders)[:: -1 if i % 2 else 1]:
                times[name].append(_block(contenders[name].run, calls[name], warm[name]))
    finally:
        gc.enable()
    busy = others.cores()
    far = np.mean(np.array(cores.barriers) > Cores.NEAR * cores.least)
    best = (before, ceiling.measure())
    return Result(times, calls, busy, np.array(rates), best, float(far))


def _single_call(run):
    return min(_block(run, calls=1, warm=warm) for warm in (0, 1))


def _block(run, calls, warm):
    cores.wait()
    for _ in range(warm):  # wakes the threads, fills the caches
        run()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


class OtherProcesses:
    """The load by other processes from now on; Linux only."""

    def __init__(self):
        self.start = self._now()

    def cores(self):
        """Mean number of cores used by other processes since the start, or None if unknown."""
        if self.start is None:
            return None
        wall, busy = (now - then for now, then in zip(self._now(), self.start, strict=True))
        return max(0.0, busy / wall)

    @staticmethod
    def _now():
        """Wall time, and the CPU time of all other processes, including a hypervisor's steal."""
        try:
            with open("/proc/stat", encoding="ascii") as file:
                ticks = [int(field) for field in file.readline().split()[1:9]]
        except OSError:
            return None
        user, nice, system, _idle, _iowait, irq, softirq, steal = ticks
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        own = os.times()
        return time.perf_counter(), busy - own.user - own.system
