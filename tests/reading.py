"""Reads a file in a process of its own, and looks at the memory and the time it took."""

import subprocess
import sys

import pytest
from cases import PATIENCE

# Reads one file in a process of its own -> what came of it, and how much memory that took.
READ = """
import resource, sys
from rnnfast import io, models
from rnnfast.commands import inputs
from rnnfast.io import headers, pickles
from safetensors import safe_open
import json, numpy, pickletools
reader, path = sys.argv[1:]
if reader == "onnx":
    import onnx, google.protobuf.message
    from rnnfast import convert
    read = lambda: convert.from_onnx(path, stateful=True, batch_size=2)
elif reader in ("char", "word"):
    from rnnfast.commands import settings, texts
    told = settings.Settings(file=path, level=reader, batch_size=1, time_size=1)
    read = lambda: texts.Texts(told)
elif reader == "valid":
    from rnnfast.commands import settings, texts
    small = path + ".train"
    open(small, "w").write("a b\\n" * 9)
    told = settings.Settings(file=small, valid=path, level="word", batch_size=1, time_size=1)
    read = lambda: texts.Texts(told)
elif reader == "pickle":
    read = lambda: inputs.open_model(path, path)
else:
    read = lambda: models.load_model(path)
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))  # whatever else is run meanwhile
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read()
    outcome = "read"
except ValueError as error:
    outcome = str(error)[:500]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
print(outcome)
"""


def read(reader, path):
    """What a reader says of a file, after a look at the memory and the time it took."""
    resource = pytest.importorskip("resource")
    assert resource
    done = subprocess.run(
        [sys.executable, "-c", READ, reader, str(path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr[-500:]
    used, outcome = done.stdout.split("\n", 1)
    scale = 1 if sys.platform == "darwin" else 1024
    assert int(used) * scale <= 10 * path.stat().st_size + 64 * 2**20
    return outcome
