"""Times contenders on a GPU in turns.

The method is that of benchmarks/race.py. A round times one block of calls of each contender; the
next round has the opposite order. A ratio is the median of the ratios of all rounds. The time of a
block is measured by CUDA events, from its first call to its last one. If the host is slower than
the GPU, this is the host's time; the host's time is therefore also in the results.
"""

import gc
from dataclasses import dataclass

import numpy as np

BLOCK = 0.008  # seconds of a block of calls; a longer call is a block by itself
ROUNDS = 7
MIN_ROUNDS = 3
BUDGET = 1.5  # seconds; a longer race has fewer rounds, but at least MIN_ROUNDS
MOST_CALLS = 200


@dataclass
class Result:
    """Seconds of a call: for each contender a list with one number for each round."""

    times: dict
    host: dict  # the same for the host: a call has returned, the GPU may still be working
    calls: dict

    def median(self, name):
        return float(np.median(self.times[name]))

    def host_median(self, name):
        return float(np.median(self.host[name]))

    def ratio(self, peer, name):
        """Time of peer / time of name: lower quartile, median and upper quartile of the rounds."""
        values = np.array(self.times[peer]) / np.array(self.times[name])
        return [float(q) for q in np.percentile(values, (25, 50, 75))]


def race(contenders, clock, rounds=ROUNDS):
    """Times `run()` of each of {name: contender} in turns -> Result.

    clock.time(run, calls) returns the seconds of a call, for the GPU and for the host. Before each
    block a contender's `prepare()` is called, which makes global settings (its precision). It is
    not timed.
    """
    if not contenders:
        return Result({}, {}, {})
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
    """Seconds of a call that is not the first."""
    contender.prepare()
    clock.time(contender.run, 2)
    return max(clock.time(contender.run, 1)[0], 1e-6)
