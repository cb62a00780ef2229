"""Ranks on GPUs that are there: at least two of them, else these tests are skipped."""

import pytest
from gpu_jobs import NAMES, assert_same
from ranks import run_job

CLOSE = 1e-4  # in float32, after 100 updates


def gpus():
    """How many this machine has."""
    try:
        import cupy

        return cupy.cuda.runtime.getDeviceCount()
    except Exception:  # CuPy or the driver is missing
        return 0


pytestmark = pytest.mark.skipif(gpus() < 2, reason="needs two GPUs")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process computes on one GPU."""
    folder = tmp_path_factory.mktemp("alone")
    return run_job(1, folder, "gpu_jobs", "language", names=NAMES, real=True, dtype="float32")[0]


@pytest.mark.parametrize("way", [None, "nccl", "host"])
def test_two_gpus_compute_what_one_computes(tmp_path, alone, way):
    given = {"names": NAMES, "way": way, "real": True, "dtype": "float32"}
    runs = run_job(2, tmp_path, "gpu_jobs", "language", **given)
    for found in runs:
        for name, expected in alone.items():
            assert_same(found[name], expected, name, CLOSE)


def test_each_rank_has_its_own_gpu_and_nccl(tmp_path):
    found = run_job(2, tmp_path, "gpu_jobs", "taken", gpus=2, real=True)
    assert [number for number, *_ in found] == [0, 1]
    assert {way for _, way, _ in found} == {"nccl"}
