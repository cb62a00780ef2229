"""Ranks that are killed at random moments: no run is lost, and its weights are the same.

    python tests/kills.py --kills 100 [--seed 4] [--out kills.json]

Runs of `rnnfast train` on two and three ranks, also in rounds, each resumed after every kill until
it is done. Then its weights are compared, bit by bit, with those of the same run that nobody
disturbed. A run that cannot be resumed, or has other weights, is an error that says so.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from cases import PATIENCE
from ranks import finished, launch, mpi_version
from shell import LINES, QUIET, SMALL

from rnnfast.io import load_weights

TEXT = LINES * 25
SOON = 30.0  # seconds
COMMAND = ["-m", "rnnfast", "train"]
SETTINGS = [*SMALL, *QUIET, "--epochs", "4", "--save-every", "0", "--dropout", "0.3"]
SETTINGS += ["--model", "custom"]
WAYS = {"every step": [], "rounds of 4": ["--sync-every", "4"]}
WEIGHTS, CHECKPOINT = "LanguageModel.safetensors", "checkpoint.safetensors"
MOST = 10  # kills of a run; then it may finish
VARIABLES = b"PMI_RANK", b"OMPI_COMM_WORLD_RANK"


def process_of(rank, folder):
    """The process id of a rank of the job that writes into a folder; None if there is none."""
    names = {b"%s=%d" % (name, rank) for name in VARIABLES}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(folder).encode() not in (place / "cmdline").read_bytes().split(b"\0"):
                continue
            if names & set((place / "environ").read_bytes().split(b"\0")):
                return int(place.name)
    return None


def written(path):
    """When a file was written last; None before that."""
    return path.stat().st_mtime_ns if path.exists() else None


def signalled(size, out, arguments, signum, rank, delay, env=None, trains=True):
    """-> exit code, stderr and seconds until the end of a job in which a rank gets a signal.

    None if the job had ended before. delay: seconds after the first checkpoint, or if not trains
    after the start.
    """
    before = written(out / CHECKPOINT)
    process = launch(size, *COMMAND, *arguments, "--out", str(out), env=env or {})
    until = time.monotonic() + PATIENCE
    while trains and written(out / CHECKPOINT) == before and process.poll() is None:
        assert time.monotonic() < until, "no checkpoint was written"
        time.sleep(0.01)
    time.sleep(delay)
    pid = process_of(rank, out)
    if pid is None or process.poll() is not None:
        assert finished(process)[0] == 0
        return None
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, signum)
    start = time.monotonic()
    code, _, err = finished(process)
    return code, err, time.monotonic() - start


def whole_run(text, out, size, more=()):
    """The weights of a run that nobody disturbs."""
    arguments = [text, *SETTINGS, *more, "--out", str(out)]
    code, _, err = finished(launch(size, *COMMAND, *arguments))
    assert (code, err) == (0, ""), err
    return load_weights(out / WEIGHTS).params


def killed_until_done(text, out, size, draw, expected, most, more=()):
    """Kill random ranks at random moments and resume, until the run is done.

    -> for each kill the rank, whether the job trained, and the seconds until it had ended.
    """
    fresh, resumed = [text, *SETTINGS, *more, "--force"], ["--resume", *QUIET]
    kills = []
    while len(kills) < most:
        rank, trains = draw.randrange(size), len(kills) % 3 != 2
        arguments = resumed if (out / CHECKPOINT).exists() else fresh
        given = signal.SIGKILL, rank, draw.random() / 2 if trains else 2 * draw.random()
        ended = signalled(size, out, arguments, *given, trains=trains)
        if ended is None:
            break
        code, err, seconds = ended
        if code == 0 or (out / WEIGHTS).exists():  # it had just finished its work
            break
        kills.append((rank, trains, seconds))
        assert seconds < SOON and (not trains or f"rank {rank} (process" in err), err
    arguments = resumed if (out / CHECKPOINT).exists() else fresh
    if not (out / WEIGHTS).exists():
        code, _, err = finished(launch(size, *COMMAND, *arguments, "--out", str(out)))
        assert (code, err) == (0, ""), err
    found = load_weights(out / WEIGHTS).params
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    return kills


def many_kills(folder, count, seed):
    """Runs until so many ranks were killed; -> what happened, as a dict."""
    text = folder / "text.txt"
    text.write_text(TEXT)
    cases = [(size, way) for size in (2, 3) for way in WAYS]
    expected = {
        (size, way): whole_run(str(text), folder / f"whole {size} {way}", size, WAYS[way])
        for size, way in cases
    }
    draw, kills, runs = random.Random(seed), [], 0
    while len(kills) < count:
        size, way = case = cases[runs % len(cases)]
        given = size, draw, expected[case], min(MOST, count - len(kills))
        kills += killed_until_done(str(text), folder / f"run {runs}", *given, WAYS[way])
        runs += 1
    return {
        "kills": len(kills),
        "in training": sum(trains for _, trains, _ in kills),
        "at the start": sum(not trains for _, trains, _ in kills),
        "of rank 0": sum(rank == 0 for rank, _, _ in kills),
        "runs that ended with the weights of an undisturbed one": runs,  # others are errors
        "longest seconds until a job had ended": round(max(s for *_, s in kills), 2),
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--out", help="JSON to write")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found = many_kills(Path(folder), options.kills, options.seed)
    text = json.dumps({"mpi": mpi_version(), "seed": options.seed, **found}, indent=1)
    print(text)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
