"""Measuring contenders on a GPU side by side: correct first, then timed in turns.

As in benchmarks/race.py a round times one block of calls of every contender, the order turns around
from round to round, and a ratio is the median over rounds of the ratio within a round. The time of
a block is what CUDA events say, from its first call to its last; it holds the host's time
where the host is the slower one, which is told beside it.
"""

import gc
from dataclasses import dataclass

import numpy as np

BLOCK = 0.008  # seconds of calls in a block; one call where that takes longer
ROUNDS = 7
MIN_ROUNDS = 3
BUDGET = 1.5  # seconds; beyond it a race has fewer rounds, down to MIN_ROUNDS
MOST_CALLS = 200


@dataclass
class Result:
    """Seconds a call, a list over rounds for each contender."""

    times: dict
    host: dict  # the same until a call has come back, the GPU may still be at work
    calls: dict

    def median(self, name):
        return float(np.median(self.times[name]))

    def host_median(self, name):
        return float(np.median(self.host[name]))

    def ratio(self, peer, name):
        """Peer's time / name's time: lower quartile, median, upper quartile over the rounds."""
        values = np.array(self.times[peer]) / np.array(self.times[name])
        return [float(q) for q in np.percentile(values, (25, 50, 75))]


def race(contenders, clock, rounds=ROUNDS):
    """Times `run()` of each of {name: contender} in turns -> Result.

    clock.time(run, calls) gives seconds a call, of the GPU and of the host. A contender's
    `prepare()`, which sets what is global (its precision), is called before each block, untimed.
    """
    gc.collect()
    gc.disable()
    try:
        single = {name: _single_call(c, clock) for name, c in contenders.items()}
        calls = {
            name: min(MOST_CALLS, max(1, round(BLOCK / seconds)))
            for name, seconds in single.items()
        }
        warm = {name: 1 + calls[name] // 5 for name in contenders}
        a_round = sum((warm[name] + calls[name]) * single[name] for name in contenders)
        rounds = min(rounds, max(MIN_ROUNDS, int(BUDGET / a_round)))
        times, host = {name: [] for name in contenders}, {name: [] for name in contenders}
        for i in range(rounds):
            for name in list(contenders)[:: -1 if i % 2 else 1]:
                contender = contenders[name]
                contender.prepare()
                clock.time(contender.run, warm[name])
                seconds, of_host = clock.time(contender.run, calls[name])
                times[name].append(seconds)
                host[name].append(of_host)
    finally:
        gc.enable()
    return Result(times, host, calls)


def _single_call(contender, clock):
    """Seconds of a warm call."""
    contender.prepare()
    clock.time(contender.run, 2)
    return max(clock.time(contender.run, 1)[0], 1e-6)
