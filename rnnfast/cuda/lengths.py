"""What a kernel asks about samples of different lengths: `ends` (N,), where `ragged` says so.

Without lengths every function here comes down to a constant.
"""


def make_at_work(gpu, ragged):
    """at_work(ends, n, t): whether sample n takes part in step t."""

    @gpu.device
    def at_work(ends, n, t):
        return not ragged or t < ends[n]

    return at_work


def make_own_steps(gpu, ragged):
    """own_steps(ends, n, T, first, ahead): the first step of sample n, and how many it takes."""

    @gpu.device
    def own_steps(ends, n, T, first, ahead):
        if ragged:
            T = ends[n]
            if ahead < 0:
                first = T - 1
        return first, T

    return own_steps
