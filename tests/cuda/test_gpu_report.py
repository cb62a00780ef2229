"""The tables of benchmarks/gpu.sh, from results that are written by hand."""

import json
import sys

import pytest

pytest.importorskip("benchmarks", reason="an installed rnnfast has no benchmarks")

from benchmarks.cuda import report


def written(folder, name, **results):
    items = {item: {"seconds": 1.0, "result": result} for item, result in results.items()}
    (folder / f"{name}.json").write_text(json.dumps({"suite": name, "items": items}))


def a_cell(kind, **more):
    ours = {"label": "rnnfast", "us_per_step": 2.0, "host_us_per_call": 69.0}
    ours["kernels"] = {"forward_kernel": 1.25}
    peer = {"label": "PyTorch (cuDNN)", "us_per_step": 1.0, "host_us_per_call": 30.0}
    peer["ratio"] = [0.4, 0.5, 0.6]
    planned = {"float32": {"forward": {"plan": "grid", "predicted": 1.5}}}
    row = {"kind": kind, "cell": "lstm", "shape": [20, 35, 100, 100], "mode": "forward"}
    return row | {"contenders": {"rnnfast": ours, "cudnn": peer}, "plans": planned} | more


def test_tables(tmp_path, monkeypatch, capsys):
    assert "|" not in report.markdown(tmp_path)  # nothing was measured
    on_gpu = a_cell("cell", cell="gru")
    on_gpu["contenders"]["rnnfast"]["host_us_per_call"] = 20.0
    written(tmp_path, "cells", a=a_cell("cell"), b=a_cell("transfers"), c=on_gpu)
    written(tmp_path, "micro", launch={"us": 2.25}, other={"us": 1})
    words = {"words_per_second": 12345, "valid_perplexity": 200.0}
    epoch = {"label": "rnnfast", "seconds": 4.0, "seconds_of_40_epochs": 160.0, **words}
    written(tmp_path, "language", epoch=epoch, cudnn={"left_out": "no PyTorch"})
    key = {"cell": "lstm", "direction": "forward", "N": 20, "H": 650, "precision": "tf32"}
    chosen = key | {"plan": "A", "rank": 0, "predicted": 1.5, "us_per_step": 2.0}
    best = key | {"plan": "B", "rank": 3, "predicted": 1.75, "us_per_step": 1.25}
    written(tmp_path, "sweep", a=chosen, b=best, c=key | {"plan": "C", "rank": 1})
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path), "--into", str(page)])
    report.main()
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert capsys.readouterr().out.strip() in text
    assert "| LSTM | 20, 35, 100, 100 | 2 \\* | 1 | ▼ 0.50 | 1.25 | 1.5 |" in text
    assert "| GRU | 20, 35, 100, 100 | 2 | 1 | ▼ 0.50 | 1.25 | 1.5 |" in text
    assert "### With NumPy arrays in and out: inference (forward)" in text
    assert "| launch, us | 2.25 |" in text
    assert "| rnnfast | 4.0 | 160 | 12,345 | 200.00 |" in text
    assert "| lstm forward | 20, 650 | tf32 | B | 2 | 2.00 | 1.50 | 1.25 | 1.75 |" in text
