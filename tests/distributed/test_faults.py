"""Ranks that die, hang or cannot write: the job ends soon, says who it was, and loses nothing."""

import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from ranks import finished, launch, mpiexec
from shell import LINES, QUIET, SMALL

from rnnfast.io import load_weights

TEXT = LINES * 25
SOON = 30.0  # seconds
COMMAND = ["-m", "rnnfast", "train"]
SETTINGS = [*SMALL, *QUIET, "--epochs", "4", "--save-every", "0", "--dropout", "0.3"]
SETTINGS += ["--model", "custom"]
WEIGHTS, CHECKPOINT = "LanguageModel.safetensors", "checkpoint.safetensors"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds ranks in /proc")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return str(path)


def process_of(rank, folder):
    """The process id of a rank of the job that writes into a folder; None if there is none."""
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(folder).encode() not in (place / "cmdline").read_bytes().split(b"\0"):
                continue
            if f"PMI_RANK={rank}".encode() in (place / "environ").read_bytes().split(b"\0"):
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
    until = time.monotonic() + SOON
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


def whole_run(text, out, size):
    code, _, err = finished(launch(size, *COMMAND, text, *SETTINGS, "--out", str(out)))
    assert (code, err) == (0, "")
    return load_weights(out / WEIGHTS).params


def killed_until_done(text, out, size, random_, expected, most):
    """Kill random ranks at random moments and resume, until the run is done; -> number of kills."""
    fresh, resumed = [text, *SETTINGS, "--force"], ["--resume", "--sample", "0", "--no-plot"]
    kills = 0
    while kills < most:
        rank, trains = random_.randrange(size), kills % 3 != 2
        arguments = resumed if (out / CHECKPOINT).exists() else fresh
        given = signal.SIGKILL, rank, random_.random() / 2
        ended = signalled(size, out, arguments, *given, trains=trains)
        if ended is None:
            break
        code, err, seconds = ended
        if code == 0 or (out / WEIGHTS).exists():  # it had just finished its work
            break
        kills += 1
        assert seconds < SOON and (not trains or f"rank {rank} (process" in err), err
    arguments = resumed if (out / CHECKPOINT).exists() else fresh
    if not (out / WEIGHTS).exists():
        code, _, err = finished(launch(size, *COMMAND, *arguments, "--out", str(out)))
        assert (code, err) == (0, "")
    found = load_weights(out / WEIGHTS).params
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    return kills


def test_killed_runs_lose_nothing(tmp_path, text):
    mpiexec()
    expected = whole_run(text, tmp_path / "whole", 3)
    assert killed_until_done(text, tmp_path / "out", 3, random.Random(3), expected, most=3) > 0


@pytest.mark.parametrize(
    "most", [pytest.param(20, marks=pytest.mark.rest), pytest.param(100, marks=pytest.mark.large)]
)
def test_many_kills_lose_nothing(tmp_path, text, most):
    mpiexec()
    draw, kills, runs = random.Random(4), 0, 0
    expected = {size: whole_run(text, tmp_path / f"whole {size}", size) for size in (2, 3)}
    while kills < most:
        size = draw.choice((2, 3))
        out = tmp_path / f"run {runs}"
        kills += killed_until_done(text, out, size, draw, expected[size], most=10)
        runs += 1


def test_a_rank_that_hangs_is_named(tmp_path, text):
    env = {"RNNFAST_PATIENCE": "8"}  # a busy machine may stop a rank for seconds
    out, arguments = tmp_path / "out", [text, *SETTINGS, "--epochs", "1000"]
    code, err, seconds = signalled(3, out, arguments, signal.SIGSTOP, 1, 0.3, env)
    assert code != 0 and seconds < SOON
    assert err.startswith("rnnfast: rank 1 (process") and "has not answered for 8 s" in err


@pytest.mark.rest
def test_a_rank_that_hangs_ends_the_job_within_30_seconds(tmp_path, text):
    out, arguments = tmp_path / "out", [text, *SETTINGS, "--epochs", "1000"]
    for rank in (0, 2):
        more = ["--force"] if rank else []
        ended = signalled(3, out, [*arguments, *more], signal.SIGSTOP, rank, 0.3)
        assert ended[0] != 0 and ended[2] < SOON and f"rank {rank} (process" in ended[1]


LIMITED = """
import resource, signal, sys
from rnnfast.commands import together
from rnnfast.commands.main import main

limited, world = sys.argv.pop(1), together.world

def world_with_a_small_disk():
    ranks = world()  # MPI needs files, too
    if str(ranks.rank) == limited:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
    return ranks

together.world = world_with_a_small_disk
raise SystemExit(main())
"""


def test_a_full_disk_is_named_and_keeps_the_old_checkpoint(tmp_path, text):
    out = tmp_path / "out"
    mpiexec()
    arguments = ["train", text, *SETTINGS, "--epochs", "1", "--out", str(out)]
    code, _, err = finished(launch(3, "-c", LIMITED, "no rank", *arguments))
    assert (code, err) == (0, "")
    before = (out / CHECKPOINT).read_bytes()
    resume = ["train", "--resume", "--out", str(out), "--epochs", "2"]
    start = time.monotonic()
    code, _, err = finished(launch(3, "-c", LIMITED, "0", *resume))
    assert code != 0 and time.monotonic() - start < SOON
    assert "File too large" in err and "rank 0 (process" in err and err.count("rnnfast: ") == 1
    assert (out / CHECKPOINT).read_bytes() == before


def test_an_error_of_one_rank_is_named(tmp_path, text):
    missing = str(tmp_path / "missing.txt")
    quiet = [*SMALL, *QUIET, "--out", str(tmp_path / "out")]
    process = launch(2, *COMMAND, text, *quiet, then=(*COMMAND, missing, *quiet))
    start = time.monotonic()
    code, _, err = finished(process)
    assert code != 0 and time.monotonic() - start < SOON
    assert f"{missing}: No such file or directory: the job ends" in err
    assert err.startswith("rnnfast: rank 2 (process")
