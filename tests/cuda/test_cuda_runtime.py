"""What the cuda column does around kernels: find a GPU, compile, keep, launch, multiply.

None of it needs a GPU: drivers, cuBLAS and CuPy are stand-ins that say what they were asked.
"""

import functools
import importlib
import os
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cases import PATIENCE

from rnnfast import cuda
from rnnfast.cuda import kept, runtime
from rnnfast.cuda.runtime import Gpu

needs_numba = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed"
)


def python(code, *options, **environment):
    """What `code` prints in a fresh interpreter."""
    root = str(Path(cuda.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, **environment}
    command = [sys.executable, *options, "-c", code]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# The GPU, and why there is none


@needs_numba
@pytest.mark.parametrize(("text", "expected"), [("90", (9, 0)), ("120", (12, 0))])
def test_the_compute_capability(monkeypatch, text, expected):
    """CuPy has it outside of a device's attributes."""
    attributes = {"MultiProcessorCount": 132, "MaxSharedMemoryPerBlockOptin": 232448}
    device = SimpleNamespace(id=0, attributes=attributes, compute_capability=text)
    fake = SimpleNamespace(
        Device=lambda: device,
        runtime=SimpleNamespace(getDeviceProperties=lambda _: {"name": b"a GPU"}),
        cublas=SimpleNamespace(gemmEx=None),
        device=SimpleNamespace(get_cublas_handle=None),
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=fake, ndarray=None))
    gpu = Gpu()
    assert gpu.compute_capability == expected
    assert (gpu.multiprocessors, gpu.shared_memory, gpu.name) == (132, 232448, "a GPU")


@pytest.fixture
def machine(monkeypatch):
    """A machine with CuPy, whose driver does what the attribute `starts` says."""
    found = SimpleNamespace(starts=lambda: 1, made=[], compute_capability=(9, 0))

    def make():
        time.sleep(0.01)  # long enough for another thread to ask, too
        found.made.append(
            SimpleNamespace(compute_capability=found.compute_capability, name="a GPU")
        )
        return found.made[-1]

    runtime = SimpleNamespace(getDeviceCount=lambda: found.starts(), getDevice=lambda: 0)
    fake = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr("rnnfast.cuda.runtime.Gpu", make)
    monkeypatch.setattr(cuda, "_gpus", {})
    monkeypatch.setattr(cuda, "_get_device", None)
    return found


def test_a_failure_that_passes_is_not_kept(machine):
    def busy():
        raise RuntimeError("all CUDA-capable devices are\n busy")

    machine.starts = busy
    assert cuda.available() == "CUDA does not start: all CUDA-capable devices are busy"
    machine.starts = lambda: 0
    assert cuda.available() == "there is no NVIDIA GPU"
    machine.starts = lambda: 1
    assert cuda.available() is None
    machine.starts = busy  # what runs is not asked again
    assert cuda.available() is None


@pytest.mark.parametrize(("missing", "name"), [("numba_cuda", "numba-cuda"), ("cupy", "CuPy")])
def test_no_cuda_without_the_extra(machine, monkeypatch, missing, name):
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: asked != missing or None)
    assert cuda.available() == f'{name} is not installed: pip install "rnnfast[cuda]"'


def test_a_gpu_that_is_too_old(machine):
    machine.compute_capability = (7, 5)
    reason = "a GPU has compute capability 7.5, 8.0 is needed"
    assert cuda.available() == reason
    with pytest.raises(RuntimeError, match=reason):
        cuda.what_runs()


def test_a_device_has_one_runtime_in_all_threads(machine):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cuda.what_runs(), range(4)))
    assert len(machine.made) == 1
    assert all(gpu is machine.made[0] for gpu in found)


# numba-cuda


@needs_numba
@pytest.mark.parametrize("old", ["0.24.0", "0.30.3", "0.30"])
def test_a_numba_cuda_that_is_too_old(monkeypatch, old):
    from rnnfast.cuda import numba_cuda

    monkeypatch.setattr("importlib.metadata.version", lambda _: old)
    with pytest.raises(ImportError, match=f"numba-cuda {old} is installed, 0.30.4 or newer"):
        importlib.reload(numba_cuda)
    monkeypatch.undo()
    assert importlib.reload(numba_cuda).NEEDED == "0.30.4"


@needs_numba
def test_numba_may_warn_while_it_is_imported():
    """Beside NumPy 2.5 it does; under -W error that was the end of the column."""
    code = """
import sys, warnings

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "numba.cuda.extending":
            found.append(name)
            where = {"category": DeprecationWarning, "filename": "x.py", "lineno": 1}
            warnings.warn_explicit("generic units", module="numba.cuda.np.helpers", **where)

found = []
sys.meta_path.insert(0, Finder())
import rnnfast.cuda.numba_cuda
assert found
try:
    warnings.warn("still an error", DeprecationWarning)
except DeprecationWarning as error:
    print(error)
"""
    assert python(code, "-W", "error") == "still an error"


@needs_numba
def test_an_empty_cuda_home_is_none():
    code = """
from rnnfast.cuda import numba_cuda
from numba.cuda.cuda_paths import get_cuda_home
print(get_cuda_home("nvvm"))
"""
    assert python(code, CUDA_HOME="", CUDA_PATH="/there") == os.path.join("/there", "nvvm")
    assert python(code, CUDA_HOME="", CUDA_PATH="") == "None"
    assert python(code, CUDA_HOME="/here", CUDA_PATH="/there") == os.path.join("/here", "nvvm")


@needs_numba
def test_the_compiler_s_device_is_its_own(monkeypatch):
    """Who asks Numba for the device meanwhile, in another thread, gets the driver's answer."""
    from rnnfast.cuda import numba_cuda
    from rnnfast.cuda.runtime import Compiler

    monkeypatch.setattr(numba_cuda.dispatcher, "get_current_device", lambda: "the driver's")

    def asked():
        return numba_cuda.dispatcher.get_current_device()

    def compiles(capability):
        with Compiler(capability)._device_of_the_compiler():
            time.sleep(0.05)
            return asked().compute_capability

    with ThreadPoolExecutor(3) as pool:
        with Compiler((8, 0))._device_of_the_compiler():
            assert asked().compute_capability == (8, 0)
            assert pool.submit(asked).result() == "the driver's"
        others = [(9, 0), (8, 0), (12, 0)]
        assert list(pool.map(compiles, others)) == others
    assert asked() == "the driver's"


# Kernels that are kept


def kernel_of(*held, n=None):
    """A kernel whose closure holds these."""

    def kernel(x):
        return held, n

    return kernel


def recursive(depth):
    def kernel(x):
        return kernel(x) + depth

    return kernel


class Equations:
    def __init__(self, step):
        self.step = step


UNLIKE = [
    (1, 2),
    (1, 1.0),
    (1, True),
    (1.5, np.float32(1.5)),
    (np.float32(1), np.float64(1)),
    ((1, 2), (2, 1)),
    ((1, 2), [1, 2]),
    ({"a": 1}, {"a": 2}),
    (np.arange(2000), np.where(np.arange(2000) == 1000, -1, np.arange(2000))),
    (np.zeros(2, "f4"), np.zeros(2, "f8")),
    (kernel_of(1), kernel_of(2)),
    (kernel_of(kernel_of((1, kernel_of(3)))), kernel_of(kernel_of((1, kernel_of(4))))),
    (kernel_of(n=3), recursive(3)),
    (recursive(3), recursive(4)),
    (functools.partial(kernel_of, 1), functools.partial(kernel_of, 2)),
    (Equations(kernel_of(1)), Equations(kernel_of(2))),
    (Equations(kernel_of(1)).step, Equations(kernel_of(1)).__init__),
]


@pytest.mark.parametrize(("a", "b"), UNLIKE)
def test_fingerprints_tell_kernels_apart(a, b):
    prints = [repr(kept.fingerprint(kernel_of(x))) for x in (a, b)]
    assert prints[0] != prints[1]
    assert "at 0x" not in "".join(prints)  # an address is another one in the next process


def test_fingerprints_of_what_is_made_twice():
    def made():
        return kernel_of(Equations(recursive(2)), (np.float32(0.1), np.arange(3)), {"a": math_exp})

    math_exp = np.exp
    assert kept.fingerprint(made()) == kept.fingerprint(made())


def test_what_has_no_value_has_no_fingerprint():
    with pytest.raises(TypeError, match=r"fingerprint: <object object at .* cannot be told"):
        kept.fingerprint(kernel_of(object()))


@needs_numba
def test_fingerprints_tell_intrinsics_and_device_functions_apart():
    """Numba writes both as their names alone."""
    from rnnfast.cuda import numba_cuda

    def load(count, places):
        def fetch(typingctx, pointer):
            def codegen(context, builder, signature, arguments):
                return count, places

            return pointer(pointer), codegen

        return numba_cuda.intrinsic(fetch)

    def print_of(*arguments):
        return repr(kept.fingerprint(kernel_of(load(*arguments))))

    assert print_of(4, (0, 1)) == print_of(4, (0, 1))
    assert len({print_of(4, (0, 1)), print_of(8, (0, 1)), print_of(4, (1, 0))}) == 3

    def device(n, **options):
        return numba_cuda.cuda.jit(device=True, **options)(kernel_of(n))

    found = [kept.fingerprint(d) for d in (device(1), device(2), device(1, fastmath=True))]
    assert len(set(map(repr, found))) == 3
    assert found[0] == kept.fingerprint(device(1))


def test_kernels_are_kept_on_disk(monkeypatch, tmp_path):
    monkeypatch.setenv("RNNFAST_CACHE", str(tmp_path / "a" / "b"))
    assert kept.Kept().get("one", lambda: b"code") == b"code"
    assert kept.Kept().get("one", lambda: pytest.fail("compiled again")) == b"code"
    assert kept.Kept().get("two", lambda: b"") == b""


def test_processes_that_compile_a_kernel_at_once(monkeypatch, tmp_path):
    """Each gives it a name of its own, and the last one's file is there: name and code fit."""
    monkeypatch.setenv("RNNFAST_CACHE", str(tmp_path))

    def kernel(x):
        pass

    class Process(runtime.Compiler):
        def __init__(self, name, meanwhile=None):
            self.name, self.meanwhile, self.compute_capability = name, meanwhile, (9, 0)

        def compile(self, *arguments):
            if self.meanwhile:
                monkeypatch.setattr(runtime, "KEPT", kept.Kept())  # of that process
                self.meanwhile.cubin(kernel, "*f", 32)
            return self.name, f".entry {self.name}(".encode(), ""

    Process("slow", Process("fast")).cubin(kernel, "*f", 32)
    (path,) = tmp_path.iterdir()
    name, code = Process("none").cubin(kernel, "*f", 32)
    assert code == path.read_bytes() == f".entry {name}(".encode()


def test_a_cache_folder_that_cannot_be_written(monkeypatch, tmp_path):
    """One warning; then each kernel is compiled once and stays in memory."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RNNFAST_CACHE", str(tmp_path / "file" / "folder"))
    store = kept.Kept()
    with pytest.warns(RuntimeWarning, match=r"cannot be kept.*RNNFAST_CACHE") as found:
        assert store.get("one", lambda: b"1") == b"1"
        assert store.get("two", lambda: b"2") == b"2"
    assert len(found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.get("one", lambda: pytest.fail("compiled again")) == b"1"
        assert store.get("three", lambda: b"3") == b"3"


def test_threads_that_ask_at_once_compile_once(monkeypatch, tmp_path):
    monkeypatch.setenv("RNNFAST_CACHE", str(tmp_path))
    store, made = kept.Kept(), []

    def make():
        time.sleep(0.02)
        made.append(1)
        return b"code"

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: store.get("one", make), range(4))) == {b"code"}
    assert len(made) == 1
