"""Reads a file in a process of its own, and looks at the memory and the time it took."""

import atexit
import json
import selectors
import subprocess
import sys
from functools import cache

import pytest
from cases import PATIENCE

# Imports once what all readers need. For each line [reader, path] a fork of it reads that file
# -> [the memory that took, what came of it], or nothing if the fork died.
READ = """
import json, os, resource, sys
import numpy, pickletools
from rnnfast import io, models
from rnnfast.commands import inputs, settings, texts
from rnnfast.io import headers, pickles
from safetensors import safe_open
if sys.argv[1:] == ["onnx"]:
    import onnx, google.protobuf.message
    from rnnfast import convert


def open_with(reader, path):
    if reader == "onnx":
        return convert.from_onnx(path, stateful=True, batch_size=2)
    small = {"batch_size": 1, "time_size": 1}
    if reader in ("char", "word"):
        return texts.Texts(settings.Settings(file=path, level=reader, **small))
    if reader == "valid":
        train = path + ".train"
        with open(train, "w") as file:
            file.write("a b\\n" * 9)
        return texts.Texts(settings.Settings(file=train, valid=path, level="word", **small))
    if reader == "pickle":
        return inputs.open_model(path, path)
    return models.load_model(path)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def look(reader, path):
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))  # whatever else is run meanwhile
    before = peak()
    try:
        open_with(reader, path)
        outcome = "read"
    except ValueError as error:
        outcome = str(error)[:500]
    print(json.dumps([peak() - before, outcome]), flush=True)


for line in sys.stdin:
    fork = os.fork()
    if fork == 0:
        try:
            look(*json.loads(line))
        finally:
            os._exit(0)
    _, status = os.waitpid(fork, 0)
    print(json.dumps(status), flush=True)
"""


@cache
def _reader(kind):
    """The process whose forks read."""
    process = subprocess.Popen(
        [sys.executable, "-c", READ, kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,  # a line in a buffer is not seen by the selector
    )
    atexit.register(process.kill)
    return process


def _answer(process):
    """The next line that it writes."""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        assert selector.select(PATIENCE), "nothing comes"
    return json.loads(process.stdout.readline())


def read(reader, path):
    """What a reader says of a file, after a look at the memory and the time it took."""
    pytest.importorskip("resource")
    process = _reader("onnx" if reader == "onnx" else "others")
    process.stdin.write(json.dumps([reader, str(path)]).encode() + b"\n")
    found = _answer(process)
    assert isinstance(found, list), f"the reader ended with status {found}"
    assert _answer(process) == 0
    used, outcome = found
    scale = 1 if sys.platform == "darwin" else 1024
    assert used * scale <= 10 * path.stat().st_size + 64 * 2**20
    return outcome
