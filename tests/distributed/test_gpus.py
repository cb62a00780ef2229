"""Ranks whose models are on GPUs: simulated ones, see tests/fake_streams.py."""

from io import StringIO
from types import SimpleNamespace

import gpu_jobs
import numpy as np
import pytest
import rank_jobs
from gpu_jobs import EXACT, NAMES, assert_same
from ranks import run_job

from rnnfast.distributed import gpu_sums
from rnnfast.trainer import take_gpu

WAYS = "nccl", "mpi", "host"


@pytest.fixture(scope="module")
def alone():
    """What one process computes on the CPU."""
    return {name: gpu_jobs.on_host(rank_jobs.language(None, name, "float64")) for name in NAMES}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.one_in(3)
def test_ranks_compute_what_one_process_computes(tmp_path, alone, way):
    for found in run_job(3, tmp_path, "gpu_jobs", "language", names=NAMES, way=way):
        for name, expected in alone.items():
            assert_same(found[name], expected, name)


@pytest.mark.parametrize("way", ["nccl", "host"])  # for MPI the host has waited
def test_numbers_are_wrong_where_nothing_waits_for_the_sums(tmp_path, alone, way):
    """So the simulated streams would show it."""
    runs = run_job(2, tmp_path, "gpu_jobs", "without_waiting", names=["rnnlm"], way=way)
    with pytest.raises(AssertionError, match="rnnlm"):
        assert_same(runs[0]["rnnlm"], alone["rnnlm"], "rnnlm")


def places(log, *what):
    return [k for k, (name, _) in enumerate(log) if name in what]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.one_in(3)
def test_sums_begin_behind_events_and_end_before_clipping(tmp_path, way):
    for log in run_job(2, tmp_path, "gpu_jobs", "order", way=way):
        (clip,), layers = places(log, "clip"), places(log, "TimeLSTM", "TimeEmbedding")
        begun = places(log, "sum", "to the host")
        assert len(layers) == 2
        if way == "mpi":  # MPI reads the GPU's memory: the host looks at the events
            begun = [k for k, event in enumerate(log) if event == ("record", "computing")]
        else:
            for k in begun:
                stream = log[k][1]
                assert log[k - 2 : k] == [("record", "computing"), ("wait", stream)]
        assert begun[0] < layers[0] and begun[-1] > layers[-1]
        assert max(begun) < clip
        *_, recorded = [k for k in places(log, "record") if log[k][1] != "computing"]
        waited = log.index(("wait", "computing"), recorded)
        assert max(begun) < recorded < waited < clip
        if way == "host":
            back = places(log, "to the GPU")
            assert len(back) == len(begun) and max(back) < recorded


def test_each_rank_takes_a_gpu_of_its_own(tmp_path):
    found = run_job(3, tmp_path / "enough", "gpu_jobs", "taken", gpus=4)
    assert found == [(rank, "nccl", "nccl") for rank in range(3)]
    few = run_job(3, tmp_path / "few", "gpu_jobs", "taken", gpus=2)
    assert [(number, way) for number, way, _ in few] == [(0, "host"), (1, "host"), (0, "host")]
    why = "RNNFAST_GPU_SUMS: 'nccl' is not possible, two ranks share a GPU"
    assert {error for *_, error in few} == {why}


@pytest.mark.parametrize(
    "sync", [{"every": 4}, {"half": True}, {"every": 4, "half": True}], ids=lambda sync: str(sync)
)
@pytest.mark.one_in(3)
def test_rounds_and_16_bits_and_checkpoints_on_gpus(tmp_path, sync):
    found, expected = (
        run_job(
            2, tmp_path / device, "gpu_jobs", "rounds",
            path=str(tmp_path / f"{device}.safetensors"), sync=sync, device=device,
        )
        for device in ("cuda", "cpu")
    )  # fmt: skip
    tolerance = 1e-6 if "half" in sync else EXACT
    for rank in range(2):
        for mine, theirs in zip(found[rank], expected[rank], strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=tolerance)


def test_wrong_ways_are_refused(tmp_path):
    with pytest.raises(TypeError, match="take_gpu: comm must be a communicator of mpi4py, got str"):
        take_gpu("world")
    for error in run_job(2, tmp_path, "gpu_jobs", "refused", way="smoke"):
        assert error == "RNNFAST_GPU_SUMS must be one of ('nccl', 'mpi', 'host'), got 'smoke'"


def test_an_mpi_that_does_not_know_gpus_says_so(tmp_path):
    assert run_job(1, tmp_path, "gpu_jobs", "known") == [False]  # the wheels of MPICH and Open MPI


@pytest.mark.parametrize(("status", "reached"), [(0, True), (600, False), (700, None)])
def test_an_error_of_the_gpu_is_no_event_to_wait_for(status, reached):
    """A broken context answers every question with its error."""

    class Runtime:
        CUDARuntimeError = RuntimeError

        def eventQuery(self, pointer):
            assert pointer == 5
            return status

    request = gpu_sums._Reached(Runtime(), SimpleNamespace(ptr=5))
    if reached is None:
        with pytest.raises(RuntimeError, match="700"):
            request.Test()
    else:
        assert request.Test() is reached


@pytest.mark.parametrize(("symbols", "expected"), [((), True), ((gpu_sums.OPEN_MPI,), False)])
def test_open_mpi_does_not_sum_on_gpus(monkeypatch, symbols, expected):
    library = SimpleNamespace(MPIX_Query_cuda_support=lambda: 1, **dict.fromkeys(symbols))
    maps = StringIO("7f0-7f1 r-xp 00 00:00 1 /usr/lib/libmpi.so.40\n")
    monkeypatch.setattr(gpu_sums.ctypes, "CDLL", lambda path: library)
    monkeypatch.setattr("builtins.open", lambda *args, **options: maps)
    assert gpu_sums.mpi_knows_gpus() is expected
