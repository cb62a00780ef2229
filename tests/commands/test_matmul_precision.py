"""`rnnfast train --matmul-precision`."""

import numpy as np
from shell import LINES, QUIET, SMALL, losses, ok

from rnnfast import kernels
from rnnfast.models import load_model


def test_training_in_bfloat16(tmp_path, capsys):
    """Near the run in float32, the same one when it is resumed, and gone when the command ends."""
    text = tmp_path / "text.txt"
    text.write_text(LINES * 40, encoding="utf-8")
    arguments = ["train", str(text), *SMALL, *QUIET]
    exact, rough, again = (tmp_path / name for name in ("exact", "rough", "again"))
    ok(capsys, *arguments, "--epochs", "2", "--out", str(exact))
    medium = ["--matmul-precision", "medium"]
    ok(capsys, *arguments, *medium, "--epochs", "2", "--out", str(rough))
    assert kernels.get_float32_matmul_precision() == "highest"
    assert losses(rough) != losses(exact)
    np.testing.assert_allclose(losses(rough), losses(exact), rtol=0.005)

    ok(capsys, *arguments, *medium, "--epochs", "1", "--out", str(again))
    ok(capsys, "train", "--resume", "--epochs", "2", "--out", str(again), *QUIET)
    one, other = (load_model(out / "Rnnlm.safetensors")[0].params for out in (rough, again))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)

    lines = ok(
        capsys,
        *("train", "--resume", "--epochs", "3", "--matmul-precision", "highest"),
        *("--out", str(again), *QUIET),
    )
    assert "  --matmul-precision: medium before, highest now" in lines
