"""Several ranks compute what one process computes."""

import numpy as np
import pytest
import rank_jobs
from ranks import run_job

RANKS = [
    pytest.param(2, id="2 ranks"),
    pytest.param(3, id="3 ranks"),
    pytest.param(4, id="4 ranks"),
]
EXACT, ROUNDED = 1e-12, 1e-6  # of float64 and float32, after 100 updates


def assert_same(found, expected, tolerance, name):
    """Weights, losses, norms, perplexities and accuracies of a rank are those of one process."""
    assert found.keys() == expected.keys()
    for key in expected:
        for mine, theirs in zip(found[key], expected[key], strict=True):
            mine, theirs = np.array(mine, float), np.array(theirs, float)
            allowed = {"rtol": 10 * tolerance, "atol": tolerance}
            np.testing.assert_allclose(mine, theirs, **allowed, err_msg=f"{name}: {key}")


def assert_equal(found, other):
    """Bit for bit."""
    for mine, theirs in zip(found["params"], other["params"], strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert found["losses"] == other["losses"] and found["measures"] == other["measures"]


@pytest.fixture(scope="module")
def alone():
    """What one process computes, by dtype."""
    return {dtype: rank_jobs.language_all(None, dtype) for dtype in ("float64", "float32")}


@pytest.mark.parametrize("size", RANKS)
@pytest.mark.one_in(3)
def test_language_models_in_float64(tmp_path, alone, size):
    runs = run_job(size, tmp_path, "rank_jobs", "language_all", dtype="float64")
    for name, expected in alone["float64"].items():
        assert len(expected["losses"]) == rank_jobs.UPDATES
        for found in runs:
            assert_same(found[name], expected, EXACT, name)
            assert_equal(found[name], runs[0][name])


def test_gradients_that_travel_where_they_lie(tmp_path, alone):
    for found in run_job(2, tmp_path, "rank_jobs", "in_place"):
        for name in found:
            assert_same(found[name], alone["float64"][name], EXACT, name)


@pytest.mark.rest
def test_language_models_in_float32(tmp_path, alone):
    runs = run_job(3, tmp_path, "rank_jobs", "language_all", dtype="float32")
    for name, expected in alone["float32"].items():
        for found in runs:
            assert_same(found[name], expected, ROUNDED, name)


@pytest.mark.parametrize("size", RANKS[:2])
@pytest.mark.one_in(2)
def test_models_of_samples(tmp_path, size):
    runs = run_job(size, tmp_path, "rank_jobs", "samples_all")
    for name, expected in rank_jobs.samples_all(None).items():
        for found in runs:
            assert_same(found[name], expected, EXACT, name)


def test_a_run_has_the_same_bits_each_time(tmp_path):
    given = {"name": "awd", "dtype": "float32", "optimizer": "Adam"}
    once, again = (
        run_job(3, tmp_path / folder, "rank_jobs", "language", **given) for folder in "ab"
    )
    for found, other in zip(once, again, strict=True):
        assert_equal(found, other)


@pytest.mark.parametrize("size", RANKS[:2])
@pytest.mark.one_in(2)
def test_schedules_and_validation(tmp_path, size):
    """Rates, validations, the end by patience and the weights of the best epoch."""
    runs = run_job(size, tmp_path, "rank_jobs", "validated")
    expected = rank_jobs.validated(None)
    assert any(len(one["means"]) < 12 for one in expected.values())  # patience ends some
    for name, one in expected.items():
        for found in runs:
            assert_same(found[name], one, EXACT, name)
            assert found[name]["means"] == runs[0][name]["means"]


def test_validation_after_rounds(tmp_path):
    """Within an epoch ranks have different weights, after it they do not."""
    runs = run_job(2, tmp_path, "rank_jobs", "validated", every=2)
    for name, found in runs[0].items():
        assert found["means"] == runs[1][name]["means"]
        for mine, theirs in zip(found["params"], runs[1][name]["params"], strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_schedules_must_be_the_same(tmp_path):
    for said in run_job(2, tmp_path, "rank_jobs", "other_schedules"):
        assert said.startswith(
            "fit: the schedule must be the same on all ranks, got WarmUp(epochs=1"
        )
