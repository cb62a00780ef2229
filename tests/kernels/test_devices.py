"""kernels.py: which device and how many threads; fork, and two Python threads at once."""

import os
import re
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cases import PATIENCE, assert_same_bits, cells, make_problem

import rnnfast
from rnnfast import kernels
from rnnfast.cpu import _runtime

NO_CUDA = "is not installed|there is no NVIDIA GPU|CUDA does not start"  # cuda.available()
cuda_is_missing = pytest.mark.skipif("cuda" in rnnfast.devices(), reason="there is a cuda device")


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """No test sees the device of another, nor what the environment of this run asks for."""
    monkeypatch.setattr(kernels, "_default", None)
    monkeypatch.delenv("RNNFAST_DEVICE", raising=False)
    yield
    _runtime.set_num_threads(0)


def python(code, **environment):
    """Runs `code` in a fresh interpreter and returns what it printed; a key=None is unset."""
    env = {k: v for k, v in {**os.environ, **environment}.items() if v is not None}
    path = [os.path.dirname(os.path.dirname(rnnfast.__file__)), env.get("PYTHONPATH", "")]
    env["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Devices


def test_devices():
    usable = rnnfast.devices()
    assert isinstance(usable, tuple)
    assert [name for name in usable if name != "cuda"] == ["cpu", "reference"]


def test_the_arrays_decide():
    assert rnnfast.get_device() == "auto"
    assert kernels.resolve(None, np.ones(3)) == "cpu"
    assert kernels.resolve("auto", np.ones(3), None) == "cpu"
    assert kernels.resolve(None) == "cpu"


@pytest.fixture
def fake_cupy():
    """An array that says it is CuPy's; nothing else of CuPy is needed to see that."""
    return type("ndarray", (), {"__module__": "cupy"})()


@cuda_is_missing
def test_cupy_arrays_ask_for_cuda(fake_cupy):
    with pytest.raises(RuntimeError, match=NO_CUDA):
        kernels.resolve(None, fake_cupy)
    with pytest.raises(ValueError, match="NumPy or all CuPy"):
        kernels.resolve(None, np.ones(3), fake_cupy)


def test_argument_context_setting_environment_in_that_order(monkeypatch):
    monkeypatch.setenv("RNNFAST_DEVICE", "reference")
    assert (rnnfast.get_device(), kernels.resolve(None)) == ("reference", "reference")
    rnnfast.set_device("cpu")
    assert (rnnfast.get_device(), kernels.resolve(None)) == ("cpu", "cpu")
    with rnnfast.device("reference"):
        assert (rnnfast.get_device(), kernels.resolve(None)) == ("reference", "reference")
        assert kernels.resolve("cpu") == "cpu"
        with rnnfast.device("auto"):
            assert (rnnfast.get_device(), kernels.resolve(None)) == ("auto", "cpu")
        assert rnnfast.get_device() == "reference"
    assert rnnfast.get_device() == "cpu"
    rnnfast.set_device("auto")  # explicitly: the environment is not asked any more
    assert rnnfast.get_device() == "auto"


def test_the_context_ends_with_an_exception():
    with pytest.raises(KeyError), rnnfast.device("reference"):
        raise KeyError
    assert rnnfast.get_device() == "auto"


def test_the_context_is_one_threads_own():
    with rnnfast.device("reference"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(rnnfast.get_device).result() == "auto"

        def inside():
            with rnnfast.device("cpu"):
                ready.set()
                done.wait(10)

        ready, done = threading.Event(), threading.Event()
        future = pool.submit(inside)
        assert ready.wait(10)
        assert rnnfast.get_device() == "reference"
        done.set()
        future.result()


def test_a_layer_binds_when_it_is_made():
    weights = [np.ones(size, "f") for size in ((3, 4), (4, 4), 4)]
    with rnnfast.device("reference"):
        inside = rnnfast.TimeRNN(*weights)
    assert inside.device == "reference"
    assert rnnfast.TimeRNN(*weights).device == "cpu"
    assert rnnfast.TimeRNN(*weights, device="reference").device == "reference"


def enter(name):
    with rnnfast.device(name):
        pass


WAYS_TO_ASK = [rnnfast.set_device, enter, kernels.resolve, lambda name: kernels.load("rnn", name)]


@pytest.mark.parametrize("ask", WAYS_TO_ASK)
def test_unknown_devices(ask):
    for name in ("gpu", "CPU", ""):
        with pytest.raises(ValueError, match=f"device must be one of .*'reference'.* got '{name}'"):
            ask(name)
    for name in (3, True, b"cpu"):
        with pytest.raises(TypeError, match=f"device must be a str, got {type(name).__name__}"):
            ask(name)
    assert rnnfast.get_device() == "auto"


@cuda_is_missing
@pytest.mark.parametrize("ask", WAYS_TO_ASK)
def test_cuda_is_missing(ask):
    with pytest.raises(RuntimeError, match=f"device 'cuda' is not usable: .*({NO_CUDA})"):
        ask("cuda")
    assert rnnfast.get_device() == "auto"


def test_load():
    for device in ("cpu", "reference"):
        for name in (*kernels.CELLS, "ops"):
            assert kernels.load(name, device).__name__ == f"rnnfast.{device}.{name}"
    with pytest.raises(ValueError, match=r"load: name must be one of .* got 'transformer'"):
        kernels.load("transformer", "cpu")
    with pytest.raises(ValueError, match=r"load: device must be one of .* got 'auto'"):
        kernels.load("rnn", "auto")


def test_device_of_the_environment():
    code = "import rnnfast; print(rnnfast.get_device())"
    assert python(code, RNNFAST_DEVICE="reference") == "reference"
    assert python(code, RNNFAST_DEVICE="") == "auto"
    code = """
import rnnfast
try:
    rnnfast.get_device()
except ValueError as error:
    print(error)
"""
    assert "RNNFAST_DEVICE must be one of" in python(code, RNNFAST_DEVICE="gpu")


def test_show_config(capsys):
    kernels.set_num_threads(3)
    rnnfast.set_device("reference")
    assert rnnfast.show_config() is None
    text = capsys.readouterr().out
    assert f"rnnfast {rnnfast.__version__}" in text
    lines = {line[:20].strip(): line[20:] for line in text.splitlines()}
    assert np.__version__ in lines["NumPy"]
    assert lines["instruction set"].startswith(f"{_runtime.simd()} (usable: ")
    assert all(name in lines["instruction set"] for name in _runtime.simds())
    assert lines["threads"].split()[0] == str(rnnfast.get_num_threads())
    assert lines["device"].startswith("reference (usable: ")
    if "cuda" not in rnnfast.devices():
        assert re.search(NO_CUDA, lines["cuda"])


def test_show_config_where_the_chosen_device_is_missing():
    text = python("import rnnfast; rnnfast.show_config()", RNNFAST_DEVICE="cuda")
    assert "device            cuda" in text


# Import


def test_import_is_light():
    heavy = ("numba", "cupy", "matplotlib", "tqdm", "torch", "safetensors", "scipy", "pandas")
    heavy += ("rnnfast.trainer",)
    code = f"import sys, rnnfast; print([m for m in {heavy} if m in sys.modules])"
    assert python(code) == "[]"


# Instruction sets and threads


@pytest.mark.parametrize("simd", _runtime.simds())
def test_instruction_set_of_the_environment(simd):
    code = "from rnnfast.cpu import _runtime; print(_runtime.simd())"
    assert python(code, RNNFAST_SIMD=simd) == simd


def test_the_best_instruction_set_is_the_default():
    code = "from rnnfast.cpu import _runtime; print(_runtime.simd())"
    assert python(code, RNNFAST_SIMD=None) == _runtime.simds()[0]
    assert _runtime.simds()[-1] == "portable"


def test_unknown_instruction_sets():
    simd = _runtime.simd()
    for name in ("mmx", ""):
        with pytest.raises(ValueError, match="portable"):
            _runtime.set_simd(name)
    with pytest.raises(TypeError):
        _runtime.set_simd(3)
    assert _runtime.simd() == simd


def test_threads_of_the_environment():
    code = "import rnnfast; print(rnnfast.get_num_threads())"
    assert python(code, RNNFAST_NUM_THREADS="2", OMP_NUM_THREADS="1") == "2"
    assert python(code, RNNFAST_NUM_THREADS=None, OMP_NUM_THREADS="1") == "1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RNNFAST_SIMD", "mmx"),
        ("RNNFAST_NUM_THREADS", "0"),
        ("RNNFAST_NUM_THREADS", "-1"),
        ("RNNFAST_NUM_THREADS", "two"),
    ],
)
def test_environment_that_cannot_be_followed(name, value):
    code = """
try:
    import rnnfast
except ValueError as error:
    print(error)
"""
    assert re.fullmatch(f"{name} must be .*, got '{value}'", python(code, **{name: value}))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_threads_within_the_affinity():
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import rnnfast
print(rnnfast.get_num_threads())
"""
    assert python(code, RNNFAST_NUM_THREADS=None, OMP_NUM_THREADS=None) == "1"


def test_set_num_threads():
    for n in (1, 2, np.int64(3), 7):
        rnnfast.set_num_threads(n)
        assert rnnfast.get_num_threads() == n


@pytest.mark.parametrize("n", [True, 2.0, "2", None, np.float32(1), np.bool_(True)])
def test_thread_counts_of_a_wrong_type(n):
    before = rnnfast.get_num_threads()
    with pytest.raises(TypeError, match=f"n must be an int, got {type(n).__name__}"):
        rnnfast.set_num_threads(n)
    assert rnnfast.get_num_threads() == before


@pytest.mark.parametrize("n", [0, -1, np.int64(-3), -(10**30), 10**30])
def test_thread_counts_of_a_wrong_value(n):
    before = rnnfast.get_num_threads()
    with pytest.raises(ValueError, match=rf"n must be .*, got {n}"):
        rnnfast.set_num_threads(n)
    assert rnnfast.get_num_threads() == before


# Fork, and several Python threads


BIG = (20, 9, 64, 100)  # enough work for several threads


@cells
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork(cell):
    """The child computes the same bits after the parent has started its threads, and ends."""
    kernels.set_num_threads(2)
    module, p = kernels.load(cell.name, "cpu"), make_problem(cell, BIG)
    expected = p.run(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # "this process is multi-threaded"
        pid = os.fork()
    if pid == 0:
        try:
            assert_same_bits(p.run(module), expected)
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert wait(pid, PATIENCE) == 0
    assert_same_bits(p.run(module), expected)


def wait(pid, seconds):
    """The exit status of a child; one that hangs is killed and gives None."""
    watchdog = threading.Timer(seconds, os.kill, (pid, 9))
    watchdog.start()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    watchdog.cancel()
    return status if status != -9 else None


@cells
@pytest.mark.one_in(3)
def test_two_python_threads_at_once(cell):
    module = kernels.load(cell.name, "cpu")
    problems = [make_problem(cell, BIG, seed=seed) for seed in range(2)]
    expected = [p.run(module) for p in problems]
    start = threading.Barrier(2)

    def work(k):
        start.wait(PATIENCE)
        for _ in range(10):
            assert_same_bits(problems[k].run(module), expected[k])

    for threads in (1, 2, 3):
        kernels.set_num_threads(threads)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(work, range(2), timeout=PATIENCE))
