"""Launches and products of the cuda column: what the driver and cuBLAS are handed.

Both are stand-ins that read the arguments from memory as the real ones do; no GPU is needed.
"""

import ctypes
import math
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from fake_cublas import Blas, Matrix, c_function

from rnnfast.cuda import launch, replays, runtime
from rnnfast.cuda._bound import StepLaunch, described
from rnnfast.cuda._bound import multiply as multiply_all
from rnnfast.cuda._bound import run as run_steps
from rnnfast.cuda.runtime import Gpu
from rnnfast.cuda.signatures import by_name, tokens

# Launches


class Driver:
    """Reads a kernel's arguments as their letters say; `seconds` is how long it takes to begin."""

    status = 0

    def __init__(self, letters, seconds=0.0, blocks=2):
        self.letters, self.seconds, self.blocks = letters, seconds, blocks
        self.calls, self.attributes = [], []
        numbers = "p" + 7 * "u"
        self.functions = {
            "cuLaunchKernel": c_function(numbers + "ppp", self.plain),
            "cuLaunchCooperativeKernel": c_function(numbers + "pp", self.cooperative),
        }

    def plain(self, kernel, *rest):
        *where, stream, arguments, extra = rest
        assert extra is None
        return self.launch("plain", kernel, (*where, stream), arguments)

    def cooperative(self, kernel, *rest):
        *where, arguments = rest
        return self.launch("cooperative", kernel, where, arguments)

    def launch(self, how, kernel, where, arguments):
        time.sleep(self.seconds)
        types = {"i": "i4", "f": "f4", "d": "f8", "q": "i8", "Q": "u8"}
        values, places = [], []
        if self.letters:
            places = (ctypes.c_void_p * len(self.letters)).from_address(arguments)
        for letter, place in zip(self.letters, places, strict=True):
            dtype = np.dtype(types.get(letter, "u8"))
            values.append(np.frombuffer(ctypes.string_at(place, dtype.itemsize), dtype)[0])
        self.calls.append((how, kernel, tuple(where), values))
        return self.status

    def funcSetAttribute(self, *arguments):
        self.attributes.append(arguments)

    def occupancyMaxActiveBlocksPerMultiprocessor(self, kernel, threads, shared):
        self.asked = kernel, threads, shared
        return self.blocks

    def CUDADriverError(self, status):
        return RuntimeError(f"the driver says {status}")


def array(address):
    return SimpleNamespace(data=SimpleNamespace(ptr=address))


def made(signature, driver, threads=128, shared=0, cooperative=False, cooperates=1):
    """A Launch of this driver, on a device of 7 multiprocessors and its stream 77."""

    class Module:
        def load(self, code):
            assert code == b"cubin"

        def get_function(self, name):
            assert name == "mangled"
            return SimpleNamespace(ptr=1234)

    attributes = {"MultiProcessorCount": 7, "CooperativeLaunch": cooperates}
    module = SimpleNamespace(Module=Module)
    device = SimpleNamespace(attributes=attributes)
    stream = SimpleNamespace(ptr=77)
    namespace = SimpleNamespace(
        driver=driver,
        function=module,
        Device=lambda: device,
        get_current_stream=lambda: stream,
    )
    cupy = SimpleNamespace(cuda=namespace)
    of = tokens(signature)
    with mock.patch.object(launch, "function", lambda library, name: driver.functions[name]):
        return launch.Launch(
            cupy, "mangled", "a_kernel", b"cubin", of, threads, shared, cooperative
        )


def test_arguments_of_a_launch():
    driver = Driver("**iqQfd**")
    run = made("*f *d i q Q f d 2*f", driver, threads=96)
    pair = array(2**63 + 8), array(16)
    for n in (-3, np.int32(5)):
        run(11, array(2**60), array(0), n, -(2**40), 2**64 - 1, 0.1, 0.1, pair)
        how, kernel, where, values = driver.calls.pop()
        assert (how, kernel) == ("plain", 1234)
        assert where == (11, 1, 1, 96, 1, 1, 0, 77)
        assert values == [
            2**60,
            0,
            n,
            -(2**40),
            2**64 - 1,
            np.float32(0.1),
            0.1,
            2**63 + 8,
            16,
        ]
    assert driver.attributes == []


def test_an_address_stands_for_an_array():
    driver = Driver("***")
    made("*f 2*f", driver)(1, 2**63 + 4, (array(8), 0))
    assert driver.calls[0][3] == [2**63 + 4, 8, 0]


def test_a_number_beyond_float32_is_infinite():
    driver = Driver("ff")
    made("f f", driver)(1, 1e39, np.float64(-1e300))
    assert driver.calls[0][3] == [math.inf, -math.inf]


@pytest.mark.parametrize(
    "arguments",
    [
        *((array(1),), (array(1), 2, 3), ((array(1),), 2)),
        *((array(1), 2.0), (array(1), None), (array(1), 2**31), (2.0, 1), (-1, 1), (None, 1)),
    ],
)
def test_arguments_that_a_kernel_does_not_have(arguments):
    driver = Driver("*i")
    with pytest.raises((TypeError, AttributeError, OverflowError)):
        made("*f i", driver)(1, *arguments)
    assert not driver.calls


def test_more_parameters_than_there_is_room_for():
    made("i 63*f", Driver(""))
    with pytest.raises(ValueError, match="a_kernel: a kernel may have 64 parameters"):
        made("i 64*f", Driver(""))


def test_tuples_of_another_length():
    driver = Driver("***")
    run = made("3*f", driver)
    for count in (2, 4):
        with pytest.raises(TypeError, match=f"a tuple of 3 expected, got {count}"):
            run(1, (array(1),) * count)
    assert not driver.calls


def test_shared_memory_is_asked_for():
    small, large = Driver(""), Driver("")
    made("", small, shared=48 * 1024)(1)
    assert small.attributes == []
    made("", large, shared=200_000)(1)
    assert large.attributes == [(1234, 8, 200_000)]
    assert large.calls[0][2][6] == 200_000


def test_blocks_that_have_to_run_at_once():
    driver = Driver("i")
    run = made("i", driver, threads=256, shared=100_000, cooperative=True)
    assert driver.asked == (1234, 256, 100_000)
    run(14, 1)
    assert driver.calls[0][:3] == ("cooperative", 1234, (14, 1, 1, 256, 1, 1, 100_000, 77))
    expected = "a_kernel: its 15 blocks of 256 threads have to be on the GPU at once, and 14 can be"
    with pytest.raises(RuntimeError, match=expected):
        run(15, 1)
    assert len(driver.calls) == 1


@pytest.mark.parametrize("options", [{"cooperates": 0}, {"driver": Driver("i", blocks=0)}])
def test_a_device_on_which_no_block_may_wait(options):
    options = {"driver": Driver("i"), **options}
    with pytest.raises(RuntimeError, match="and 0 can be"):
        made("i", cooperative=True, **options)(1, 1)


def test_threads_that_launch_at_once():
    """The driver reads the arguments while others run."""
    driver = Driver("*i", seconds=0.005)
    run = made("*f i", driver)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: run(n, array(100 + n), n), range(1, 9)))
    assert len(driver.calls) == 8
    for _, _, where, values in driver.calls:
        assert values == [100 + where[0], where[0]]


class Lost(Driver):
    """A driver after a kernel has failed: every call says so."""

    status = 719


def test_an_error_of_an_earlier_kernel_names_those_that_ran(monkeypatch):
    monkeypatch.setattr(launch, "launched", launch.deque(maxlen=3))
    earlier = made("i", Driver("i"))
    for label in ("row", "grid", "step", "loss"):
        earlier.label = label
        earlier(1, 1)
    with pytest.raises(RuntimeError) as found:
        made("i", Lost("i"))(7, 1)
    assert str(found.value).startswith("a_kernel, 7 blocks of 128: the driver says 719")
    assert str(found.value).endswith("are grid, step, loss")
    gpu = Gpu.__new__(Gpu)

    def asnumpy(x):
        raise RuntimeError("cudaErrorLaunchFailure")

    gpu.xp = SimpleNamespace(asnumpy=asnumpy)
    with pytest.raises(RuntimeError, match=r"waiting for the GPU: cudaError.*loss"):
        gpu.to_host(None)


# Products


def laid_out(way, rows, columns, dtype, rng):
    """A random matrix as it may lie: (the array, whether cuBLAS reads it there)."""
    if way == "rows":
        return rng.standard_normal((rows, columns)).astype(dtype), True
    if way == "columns":
        return rng.standard_normal((columns, rows)).astype(dtype).T, True
    if way == "part":
        return rng.standard_normal((rows, columns + 3)).astype(dtype)[:, 1 : columns + 1], True
    if way == "part of columns":
        return rng.standard_normal((columns, rows + 2)).astype(dtype)[:, :rows].T, True
    if way == "backwards":
        whole = rng.standard_normal((rows, columns)).astype(dtype)[::-1]
        return whole, rows == 1
    whole = rng.standard_normal((2 * rows, 2 * columns)).astype(dtype)[::2, ::2]
    return whole, 1 in whole.shape


WAYS = ("rows", "columns", "part", "part of columns", "backwards", "every other")


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (1, 1, 1)], ids=str)
def test_products_of_matrices_as_they_lie(shape, dtype):
    """Copies are made of those that cuBLAS cannot read, and of no others."""
    (M, K, N), rng = shape, np.random.default_rng(0)
    for of_a in WAYS:
        for of_b in WAYS:
            for of_out in (*WAYS, None):
                blas = Blas()
                a, reads_a = laid_out(of_a, M, K, dtype, rng)
                b, reads_b = laid_out(of_b, K, N, dtype, rng)
                out = None if of_out is None else laid_out(of_out, M, N, dtype, rng)[0]
                given = None if out is None else Matrix(out)
                found = blas.products()(Matrix(a), Matrix(b), given, False)
                assert given is None or found is given
                np.testing.assert_allclose(found.plain, a @ b, rtol=1e-5, atol=1e-5)
                assert blas.copies == (not reads_a) + (not reads_b), (of_a, of_b, of_out)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_products_of_sequences(dtype):
    """(N, T, K) is a matrix of N*T rows, without a copy where it is contiguous."""
    rng = np.random.default_rng(0)
    whole, b = (rng.standard_normal(s).astype(dtype) for s in ((3, 4, 10), (5, 2)))
    contiguous = np.ascontiguousarray(whole[:, :, :5])
    step = np.ascontiguousarray(whole[:, 0, :5])[:, np.newaxis]
    ways = (contiguous, 0), (step, 0), (whole[:, :, :5], 0), (contiguous[::-1], 1)
    for a, copies in ways:
        T = a.shape[1]
        for out in (None, np.empty((3, T, 2), dtype), np.empty((T, 3, 2), dtype).swapaxes(0, 1)):
            blas = Blas()
            given = None if out is None else Matrix(out)
            found = blas.products()(Matrix(a), Matrix(b), given, False)
            np.testing.assert_allclose(found.plain, a @ b, rtol=1e-5, atol=1e-5)
            assert blas.copies == copies


def test_sums_are_never_in_tf32():
    blas = Blas()
    x, total = Matrix(np.ones((2, 3, 2), "f4")), Matrix(np.empty(2, "f4"))
    add_up, ones = blas.products().bind_sum(x, total)
    add_up(ones, x, total)
    assert blas.computed == [68]


def test_products_with_nothing_in_them():
    blas = Blas()
    for M, N in ((0, 4), (3, 0)):
        a, b = Matrix(np.ones((M, 2), "f4")), Matrix(np.ones((2, N), "f4"))
        assert blas.products()(a, b, None, False).shape == (M, N)
    assert not blas.computed


@pytest.mark.parametrize(
    ("dtype", "low", "how"),
    [("f4", False, 68), ("f4", True, 77), ("f8", False, 70), ("f8", True, 70)],
)
def test_the_precision_of_a_product(dtype, low, how):
    """It is said with the call: CuPy's setting is one for all threads."""
    blas = Blas()
    blas.products()(*(Matrix(np.ones((2, 2), dtype)) for _ in range(2)), None, low)
    assert blas.computed == [how]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_products_that_are_bound(dtype):
    """What lies as it did is multiplied without another look; an address stands for an array."""
    blas, rng = Blas(), np.random.default_rng(0)
    products = blas.products()
    a, b, wide = (rng.standard_normal(s).astype(dtype) for s in ((2, 3, 5), (4, 5), (2, 3, 6)))
    turned, parts = np.empty((2, 3, 4), dtype), np.full((5, 6), np.nan, dtype)
    first, second = slice(0, 4), slice(4, 6)
    multiply = products.bind(*map(Matrix, (a, b, turned)), False, turned=True)
    of_part = [
        products.bind(*map(Matrix, (a, wide, parts)), False, over_rows=True, columns=part)
        for part in (first, second)
    ]
    total, said = np.empty(6, dtype), []
    add_up, ones = products.bind_sum(Matrix(wide), Matrix(total))
    for _ in range(2):
        multiply(Matrix(a), Matrix(b), turned.ctypes.data)
        np.testing.assert_allclose(turned, a @ b.T, rtol=1e-5, atol=1e-5)
        work = [(run, Matrix(a), wide.ctypes.data, Matrix(parts)) for run in of_part]
        work += (add_up, ones, Matrix(wide), Matrix(total)), (lambda *_: said.append(_), 1, 2, 3)
        multiply_all(work)
        expected = np.einsum("ntk,ntm->km", a, wide)
        np.testing.assert_allclose(parts, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(total, wide.sum(axis=(0, 1)), rtol=1e-5, atol=1e-5)
        for x in (a, b, wide):
            x[...] = rng.standard_normal(x.shape)
    assert blas.copies == 0
    assert said == [(1, 2, 3)] * 2  # of a runtime whose products are no cuBLAS's
    assert len(blas.streams) == 4  # set for each call, not for each product of many


def test_a_thread_has_a_handle_of_its_own():
    blas = Blas()
    products = blas.products()
    a, b = (Matrix(np.ones((2, 2), "f4")) for _ in range(2))
    for _ in range(2):
        products(a, b, None, False)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(products, a, b, None, False).result()
    assert len(blas.handles) == 3
    assert blas.handles.count(threading.get_ident()) == 1


def test_an_error_of_cublas():
    blas = Blas()
    blas.status = 13
    a, b = (Matrix(np.ones((2, 2), "f4")) for _ in range(2))
    with pytest.raises(RuntimeError, match="cuBLAS says 13"):
        blas.products()(a, b, None, False)


def test_what_is_filled_is_made_once_and_kept():
    """Another stream may be reading it; a larger one is made beside it."""
    blas = Blas()
    products, blas.waited = blas.products(), []
    small = products.filled(1, 5, np.dtype("f4"))
    assert small.shape == (8,) and small.plain.all()
    assert products.filled(1, 8, np.dtype("f4")) is small
    assert products.filled(1, 9, np.dtype("f4")).shape == (16,)
    assert products.filled(1, 1, np.dtype("f8")).dtype == "f8"
    assert blas.waited == [8, 16, 1]


# The work of a step, bound once


def gpu_of(blas=None):
    """A Gpu with nothing but this cuBLAS."""
    gpu = Gpu.__new__(Gpu)
    gpu._products = blas and blas.products()
    return gpu


def step_of(driver):
    """A kernel of this driver, whose third value is t."""
    return by_name(made("2*f i *f q", driver), lambda states, t, x, n: None)


def test_launches_of_all_steps():
    """Only t is another in each; a function of t may be among them."""
    driver, said = Driver("**i*q"), []
    kernel = step_of(driver)
    work = [
        gpu_of().step_launch(kernel, blocks=3, states=(array(8), 16), x=array(24), n=5),
        said.append,
        gpu_of().step_launch(kernel, blocks=4, states=(array(8), 16), x=array(32), n=6),
    ]
    run_steps(work, 4, -2, 3)
    assert said == [4, 2, 0]
    assert [(where[0], where[-1]) for _, _, where, _ in driver.calls] == [(3, 77), (4, 77)] * 3
    expected = [[8, 16, t, *rest] for t in said for rest in ((24, 5), (32, 6))]
    assert [values for *_, values in driver.calls] == expected
    driver.calls.clear()
    work[0](7)
    run_steps(work, 0, 1, 0)
    assert [values[2] for *_, values in driver.calls] == [7]


def test_a_step_names_its_arguments():
    kernel, given = step_of(Driver("**i*q")), {"blocks": 1, "states": (1, 2), "x": 3}
    with pytest.raises(TypeError, match="n"):
        gpu_of().step_launch(kernel, **given)
    with pytest.raises(TypeError, match="a tuple of 2 expected, got 1"):
        gpu_of().step_launch(kernel, **given | {"states": (1,)}, n=1)
    for place in (0, 2, 3, 4, -1):
        with pytest.raises(ValueError, match=f"a_kernel: parameter {place} is no int32"):
            StepLaunch(kernel.launch, place, 1, (1, 2), 3, 4, 5)


def test_an_error_in_a_step_ends_the_steps():
    said, kernel = [], step_of(Lost("**i*q"))
    lost = gpu_of().step_launch(kernel, blocks=1, states=(1, 2), x=3, n=4)
    with pytest.raises(RuntimeError, match="a_kernel, 1 blocks of 128: the driver says 719"):
        run_steps([said.append, lost], 0, 1, 5)
    blas = Blas()
    blas.status = 13
    a, b, out = (Matrix(np.ones((2, 2), "f4")) for _ in range(3))
    with pytest.raises(RuntimeError, match="cuBLAS says 13"):
        run_steps([said.append, gpu_of(blas).step_product(a, b, out)], 0, 1, 5)
    assert said == [0, 0]


def test_a_signal_ends_the_steps():
    """No Python runs between them that would see it."""
    said, interrupt = [], getattr(ctypes.CDLL(None), "raise")
    with pytest.raises(KeyboardInterrupt):
        run_steps([said.append, interrupt], int(signal.SIGINT), 0, 3)
    assert len(said) == 1


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_products_of_all_steps(dtype):
    """Of arrays of one step and of all, and of some of their columns; one may add to its result."""
    blas, rng = Blas(), np.random.default_rng(0)
    gpu, N, T, K, M = gpu_of(blas), 3, 4, 5, 2
    xs, ys, W, U, h = (
        rng.standard_normal(s).astype(dtype)
        for s in ((N, T, K + 1), (N, T, M), (K, M), (M, K), (N, K))
    )
    sums, expected = np.full((N, M), np.nan, dtype), ys.copy()
    part = xs[..., 1:]
    work = [
        gpu.step_product(*map(Matrix, (part, W, sums))),
        gpu.step_product(*map(Matrix, (part, U, sums)), turned=True, add=True),
        gpu.step_product(*map(Matrix, (h, W, ys)), add=True),
    ]
    for t in (0, 2):
        run_steps(work, t, -1, 1)
        np.testing.assert_allclose(sums, part[:, t] @ (W + U.T), rtol=1e-5, atol=1e-5)
        expected[:, t] += h @ W
        np.testing.assert_allclose(ys, expected, rtol=1e-5, atol=1e-5)
    blas.streams.clear()
    run_steps(work, T - 1, -1, T)
    assert len(blas.streams) == 1  # set for all steps at once
    np.testing.assert_allclose(ys, expected + (h @ W)[:, np.newaxis], rtol=1e-5, atol=1e-5)
    work[0](1)
    np.testing.assert_allclose(sums, part[:, 1] @ W, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("precision", "how"), [("highest", 68), ("high", 77), ("medium", 77)])
def test_the_precision_of_a_step(monkeypatch, precision, how):
    monkeypatch.setattr(runtime, "get_float32_matmul_precision", lambda: precision)
    blas = Blas()
    a, b, out = (Matrix(np.ones((2, 2), "f4")) for _ in range(3))
    run_steps([gpu_of(blas).step_product(a, b, out)], 0, 1, 2)
    assert blas.computed == [how] * 2


# Steps that come again


def test_what_steps_are_told_apart_by():
    """Blocks and all arguments but t; of a product sizes, places and what is added; the order."""
    gpu, kernel = gpu_of(Blas()), step_of(Driver("**i*q"))
    given = {"blocks": 3, "states": (array(8), 16), "x": array(24), "n": 5}
    a, b, out = (Matrix(np.ones((4, 4), "f4")) for _ in range(3))

    def launch(**more):
        return gpu.step_launch(kernel, **given | more)

    def product(*arrays, **how):
        return gpu.step_product(*arrays, **how)

    launched = launch()
    work = [launched, product(a, b, out)]
    same = [launch(), product(a, b, out)]
    launched(9)  # t is no matter
    assert described(work, 0, 1, 8) == described(same, 0, 1, 8)
    others = [
        [launch(blocks=4), work[1]],
        [launch(x=array(32)), work[1]],
        [launch(states=(array(8), 24)), work[1]],
        [launch(n=6), work[1]],
        [work[0], product(b, a, out)],
        [work[0], product(a, b, out, turned=True)],
        [work[0], product(a, b, out, add=True)],
        [work[0], product(a[:, :2], b[:2], out)],
        work[::-1],
        work[:1],
    ]
    found = {described(work, 0, 1, 8), *(described(each, 0, 1, 8) for each in others)}
    found |= {described(work, *order) for order in ((1, 1, 8), (0, -1, 8), (0, 1, 9))}
    assert len(found) == len(others) + 4
    assert described([*work, print], 0, 1, 8) is None


class Graphs:
    """A CuPy whose streams capture: a graph says what its launch would do again."""

    def __init__(self, status=0):
        self.capturing, self.captures, self.launched = False, 0, []
        self.error = RuntimeError("capture is not supported") if status else None
        self.stream = SimpleNamespace(ptr=77, is_capturing=lambda: self.capturing)
        self.cuda = SimpleNamespace(
            get_current_stream=lambda: self.stream, Stream=lambda non_blocking: self
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False

    def begin_capture(self):
        self.captures += 1
        if self.error is not None:
            raise self.error

    def end_capture(self):
        number = self.captures
        return SimpleNamespace(launch=lambda stream: self.launched.append((number, stream)))


def test_steps_are_launched_as_a_graph_from_the_third_time_on():
    """The first time they run, the second time they are captured and launched."""
    cupy, driver = Graphs(), Driver("**i*q")
    kernel, graphs = step_of(driver), replays.Replays(cupy)

    def work(x):
        return [gpu_of().step_launch(kernel, blocks=3, states=(1, 2), x=x, n=5)]

    counts = []
    for x in (24, 24, 24, 32, 24):
        graphs(work(x), 0, 1, 20)
        counts.append((len(driver.calls), cupy.captures, len(cupy.launched)))
    assert counts == [(20, 0, 0), (40, 1, 1), (40, 1, 2), (60, 1, 2), (60, 1, 3)]
    assert all(launch == (1, cupy.stream) for launch in cupy.launched)
    driver.calls.clear()
    for steps in (replays.LEAST - 1, replays.MOST + 1):
        for _ in range(3):
            graphs(work(24), 0, 1, steps)
    assert len(driver.calls) == 3 * (replays.LEAST + replays.MOST)
    driver.calls.clear()
    cupy.capturing = True  # the caller captures it
    graphs(work(24), 0, 1, 20)
    assert len(driver.calls) == 20


def test_graphs_that_are_kept(monkeypatch):
    monkeypatch.setattr(replays, "KEPT", 2)
    cupy, kernel = Graphs(), step_of(Driver("**i*q"))
    graphs = replays.Replays(cupy)
    for x in (1, 1, 2, 2, 1, 3, 3, 1, 2, 2):
        graphs([gpu_of().step_launch(kernel, blocks=3, states=(1, 2), x=x, n=5)], 0, 1, 20)
    assert [number for number, _ in cupy.launched] == [1, 2, 1, 3, 1, 4]
    assert len(graphs.known()) == 2


def test_steps_that_cannot_be_captured_run_each_time():
    cupy, driver = Graphs(status=1), Driver("**i*q")
    kernel, graphs = step_of(driver), replays.Replays(cupy)
    for _ in range(3):
        graphs([gpu_of().step_launch(kernel, blocks=3, states=(1, 2), x=9, n=5)], 0, 1, 20)
    assert len(driver.calls) == 60
    assert cupy.captures == 1  # that it cannot be is remembered


def test_each_thread_has_graphs_of_its_own():
    cupy, kernel = Graphs(), step_of(Driver("**i*q"))
    graphs = replays.Replays(cupy)

    def twice(_):
        for _ in range(2):
            graphs([gpu_of().step_launch(kernel, blocks=3, states=(1, 2), x=9, n=5)], 0, 1, 20)

    twice(0)
    with ThreadPoolExecutor(1) as pool:
        list(pool.map(twice, [0]))
    assert cupy.captures == 2
