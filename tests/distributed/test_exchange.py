"""What the exchange of gradients sends, and when."""

import pytest
import rank_jobs
from ranks import run_job

V, D, H = rank_jobs.V, 4, 8
FLOAT = 8


def _bytes(untied):
    """Of one step of `traffic_of`: loss and three numbers, bits of ids, rows, and all the rest."""
    rest = D * 4 * H + H * 4 * H + 4 * H + H * V + V
    rows = len(set(rank_jobs.TEXT_OF_FEW.tolist())) * D
    return 4 * FLOAT + -(-V // 8) + (rest + (rows if untied else V * D)) * FLOAT


def test_only_rows_of_an_embedding_that_were_read_are_sent(tmp_path):
    for found in run_job(2, tmp_path, "rank_jobs", "traffic_of"):
        assert (
            found["bytes"] == found["steps"] * _bytes(untied=True) < found["steps"] * _bytes(False)
        )
        assert found["steps"] == rank_jobs.FEW
        assert found["hidden"] > 0


@pytest.mark.parametrize("bucket", [1, 1 << 20], ids=["an array each", "one bucket"])
def test_sums_begin_while_backward_goes_on(tmp_path, bucket):
    """Of the layers above, sums are under way when a layer computes its gradient."""
    for found in run_job(2, tmp_path, "rank_jobs", "order_of", bucket=bucket):
        layers = found["under way"]
        assert list(layers) == ["TimeLSTM", "TimeEmbedding"]
        begun = [2, 2] if bucket > 1 else [4, 7]  # numbers, bits; W and b; Wx, Wh and b
        assert list(layers.values()) == begun
        assert found["params"] == found["expected"]
