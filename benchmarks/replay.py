"""Passes the times of a race to pytest-benchmark."""


class Replay:
    """A clock that advances by times measured before.

    pytest-benchmark times one function after another, but we need them in turns. So the race
    measures, and pytest-benchmark gets its times round by round, for its table and its JSON.
    """

    now = 0.0

    def __repr__(self):
        return "benchmarks.race"  # the timer's name in the JSON

    def __call__(self):
        return self.now

    def play(self, benchmark, times):
        times = list(times)
        upcoming = iter(times)

        def advance():
            self.now = next(upcoming)

        def rewind():
            self.now = 0.0

        benchmark.pedantic(advance, setup=rewind, rounds=len(times))


replay = Replay()
