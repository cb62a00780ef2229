"""What ranks tell each other: in pieces of what MPI can count, and while one of them works long."""

import numpy as np
import pytest
from ranks import run_job


@pytest.mark.parametrize("most", [16, 1 << 30])
def test_what_is_larger_than_mpi_can_count_travels_in_pieces(tmp_path, most):
    for found in run_job(3, tmp_path, "rank_jobs", "in_pieces", most=most):
        first, expected = found["first"], found["expected"]
        assert first.keys() == expected.keys()
        for name in expected:
            np.testing.assert_array_equal(first[name], expected[name], err_msg=name)
            assert getattr(first[name], "shape", None) == getattr(expected[name], "shape", None)
        square = np.arange(20.0).reshape(4, 5)
        for array, shape in zip(found["broadcast"], [(4, 5), (4, 5), (0,)], strict=True):
            np.testing.assert_array_equal(array, square if array.size else [])
            assert array.shape == shape
        assert found["every"] == ["", "x" * 30, "x" * 60]
        rows = [row for rank in range(3) for row in np.arange(rank * 7).reshape(-1, 7)]
        np.testing.assert_array_equal(found["rows"], rows)
        assert (found["calls"] > 50) == (most == 16)


@pytest.mark.rest
def test_work_that_takes_longer_than_the_patience_does_not_end_the_job(tmp_path):
    for found in run_job(2, tmp_path, "rank_jobs", "long_work", patience=3.0, seconds=5.0):
        assert found == ("done", [2.0], False)
