"""Ranks that die, hang or cannot write: the job ends soon, says who it was, and loses nothing."""

import random
import signal
import sys
import time

import pytest
from kills import (
    CHECKPOINT,
    COMMAND,
    SETTINGS,
    SOON,
    TEXT,
    killed_until_done,
    many_kills,
    signalled,
    whole_run,
)
from ranks import finished, launch, mpiexec
from shell import QUIET, SMALL

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds ranks in /proc")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return str(path)


def test_killed_runs_lose_nothing(tmp_path, text):
    mpiexec()
    expected = whole_run(text, tmp_path / "whole", 3)
    assert killed_until_done(text, tmp_path / "out", 3, random.Random(3), expected, most=3)


@pytest.mark.parametrize(
    "count", [pytest.param(10, marks=pytest.mark.rest), pytest.param(100, marks=pytest.mark.large)]
)
def test_many_kills_lose_nothing(tmp_path, count):
    mpiexec()
    assert many_kills(tmp_path, count, seed=4)["kills"] == count


@pytest.mark.rest
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


@pytest.mark.rest
def test_an_error_of_one_rank_is_named(tmp_path, text):
    missing = str(tmp_path / "missing.txt")
    quiet = [*SMALL, *QUIET, "--out", str(tmp_path / "out")]
    process = launch(2, *COMMAND, text, *quiet, then=(*COMMAND, missing, *quiet))
    start = time.monotonic()
    code, _, err = finished(process)
    assert code != 0 and time.monotonic() - start < SOON
    assert f"{missing}: No such file or directory: the job ends" in err
    assert err.startswith("rnnfast: rank 2 (process")
