"""The `rnnfast` command as tests call it, in this process and in a new one."""

import json
import os
import re
import subprocess
import sys

import numpy as np
from cases import PATIENCE

from rnnfast.commands.main import main

LINE = re.compile(r"\| epoch \d+ \| iter \d+ / \d+ \| time \d+\[s\] \| perplexity \d+\.\d\d")
SMALL = ["--hidden", "12", "--embedding", "6", "--batch-size", "4", "--time-size", "10"]


def command(*arguments, before=""):
    """argv that runs the CLI in a new Python, after the statements `before`."""
    run = f"{before}\nfrom rnnfast.commands.main import main\nraise SystemExit(main())"
    return [sys.executable, "-c", run, *arguments]


def run(*arguments, before=""):
    return subprocess.run(
        command(*arguments, before=before),
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )


def read_log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


LINES = "the cat sat on the mat\nthe dog sat on the rug\na bird sang\n"
QUIET = ["--sample", "0", "--no-plot"]


def ok(capsys, *arguments, warning=None):
    """The lines that a command prints that does what it should, but for a `warning` on stderr."""
    code = main(list(arguments))
    captured = capsys.readouterr()
    assert code == 0
    if warning is None:
        assert captured.err == ""
    else:
        assert captured.err.startswith("rnnfast: warning: ") and warning in captured.err
    return captured.out.splitlines()


def failing(capsys, *arguments):
    """The one line on stderr of a command that fails."""
    assert main(list(arguments)) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("rnnfast: ") and captured.err.count("\n") == 1
    return captured.err


def no_such_file(path="no such file"):
    """What this system says of a path where nothing is."""
    try:
        os.stat(path)
    except FileNotFoundError as error:
        return error.strerror


def losses(folder):
    return [(e["epoch"], e["iter"], e["loss"]) for e in read_log(folder) if e["event"] == "train"]


def naive_logs(model, ids):
    model.reset_state()
    scores = model.predict(np.array([ids]))[0].astype(np.float64)
    model.reset_state()
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return [logs[i, ids[i + 1]] for i in range(len(ids) - 1)]
