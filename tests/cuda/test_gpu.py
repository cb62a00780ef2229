"""What only a GPU shows: streams, memory shared with other libraries, kernels kept on disk."""

import os

import numpy as np
import pytest
from cases import CELLS, assert_close, assert_grad_close, assert_same_bits, cells, make_problem
from on_cuda import plan_as, steps

import rnnfast
from rnnfast import cuda, io, kernels
from rnnfast.cuda import aligned, cublas, replays
from rnnfast.cuda.precision import tf32_tolerance

pytestmark = pytest.mark.skipif(
    "cuda" not in kernels.devices(), reason="there is no usable CUDA device"
)
SHAPES = ((20, 9, 100, 100), (20, 9, 130, 300), (130, 3, 120, 128))  # row, grid, steps


@pytest.fixture
def cupy():
    return pytest.importorskip("cupy")


@cells
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_stream_of_its_own(cupy, cell, shape):
    """The work is queued on the current stream: it waits for what was queued there before."""
    problem = make_problem(cell, shape)
    module = kernels.load(cell.name, "cuda")
    expected = problem.run(module)
    here, dhs, state, dstate, params = (
        tuple(map(cupy.asarray, arrays))
        for arrays in ((problem.xs,), (problem.dhs,), problem.state, problem.dstate, problem.params)
    )

    def work(times):
        """Forward and backward of what a long product has to end for."""
        slow = cupy.ones((4096, 4096), "f")
        for _ in range(times):
            slow = slow @ slow * 1e-4
        hs, _, cache = module.forward(here[0] + 0 * slow[0, 0], state, params)
        grads = tuple(map(cupy.empty_like, params))
        dxs, _ = module.backward(dhs[0], dstate, params, cache, grads)
        return hs, dxs, grads

    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        work(1)  # CuPy compiles its own kernels when they are first needed
        stream.synchronize()
        hs, dxs, grads = work(20)
        assert not stream.done  # nothing has waited
    stream.synchronize()
    np.testing.assert_array_equal(hs.get(), expected.hs)
    np.testing.assert_array_equal(dxs.get(), expected.dxs)
    for g, e in zip(grads, expected.grads, strict=True):
        np.testing.assert_array_equal(g.get(), e)


@pytest.mark.parametrize("shape", [(3, 5), (0, 5)], ids=str)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_copies(cupy, shape, dtype):
    """Memory of its own, on the current stream."""
    values = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        x = cupy.asarray(values)
        y = cuda.what_runs().copy(x)
        x[...] = 7
    stream.synchronize()
    assert y.dtype == values.dtype
    np.testing.assert_array_equal(y.get(), values)


@cells
def test_two_streams_at_once(cupy, cell):
    """Two recurrences whose blocks cannot all be on the GPU together."""
    problem = make_problem(cell, (20, 200, 130, 300))
    module = kernels.load(cell.name, "cuda")
    state, params = (tuple(map(cupy.asarray, a)) for a in (problem.state, problem.params))
    xs, results = cupy.asarray(problem.xs), []
    for _ in range(2):
        with cupy.cuda.Stream(non_blocking=True):
            results.append(module.forward(xs, state, params, train=False)[0])
    cupy.cuda.runtime.deviceSynchronize()
    assert (results[0] == results[1]).all()


@cells
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_same_bits_from_run_to_run(cell, shape):
    problem, module = make_problem(cell, shape), kernels.load(cell.name, "cuda")
    expected = problem.run(module)
    for _ in range(5):
        assert_same_bits(problem.run(module), expected)


@pytest.mark.parametrize("interface", ["__cuda_array_interface__", "__dlpack__"])
def test_arrays_of_other_libraries(cupy, interface):
    """Whoever lends its memory gets CuPy arrays back, of the same values."""

    class Lender:
        def __init__(self, array):
            self.array = array
            if interface == "__cuda_array_interface__":
                self.__cuda_array_interface__ = array.__cuda_array_interface__
            else:
                self.__dlpack__, self.__dlpack_device__ = array.__dlpack__, array.__dlpack_device__

    problem = make_problem(CELLS[1], (3, 4, 5, 7))
    layer = rnnfast.TimeLSTM(*(Lender(cupy.asarray(p)) for p in problem.params))
    hs = layer.forward(Lender(cupy.asarray(problem.xs)))
    assert isinstance(hs, cupy.ndarray)
    assert_close(io.to_numpy(hs), rnnfast.TimeLSTM(*problem.params).forward(problem.xs))


@pytest.mark.parametrize("interface", ["__cuda_array_interface__", "__dlpack__"])
def test_what_another_stream_writes_is_waited_for(cupy, interface):
    """By DLPack, and by version 3 of the interface: both are told the owner's stream."""
    theirs, ours = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))

    class Lender:
        def __init__(self, array):
            self.array = array
            if interface == "__dlpack__":
                self.__dlpack_device__ = array.__dlpack_device__

        def __dlpack__(self, **keywords):
            with theirs:  # the stream that its owner works on
                return self.array.__dlpack__(**keywords)

        @property
        def __cuda_array_interface__(self):
            with theirs:
                return self.array.__cuda_array_interface__

    problem = make_problem(CELLS[1], (3, 4, 5, 7))
    layer = rnnfast.TimeLSTM(*map(cupy.asarray, problem.params))
    expected = layer.forward(cupy.asarray(problem.xs)).get()
    xs = cupy.zeros_like(cupy.asarray(problem.xs))
    later = cupy.asarray(problem.xs)
    cupy.cuda.runtime.deviceSynchronize()
    with theirs:
        slow = cupy.ones((4096, 4096), "f")
        for _ in range(10):
            slow = slow @ slow * 1e-4
        xs += later + 0 * slow[0, 0]
    with ours:
        hs = layer.forward(Lender(xs))
        np.testing.assert_array_equal(hs.get(), expected)


def test_tensors_of_torch(cupy):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    problem = make_problem(CELLS[2], (3, 4, 5, 7))
    layer = rnnfast.TimeGRU(*(torch.from_numpy(p).cuda() for p in problem.params))
    hs = layer.forward(torch.from_numpy(problem.xs).cuda())
    expected = rnnfast.TimeGRU(*problem.params).forward(problem.xs)
    assert_close(torch.from_dlpack(hs).cpu().numpy(), expected)


def test_compiled_kernels_are_kept(cupy, monkeypatch, tmp_path):
    """A second runtime finds what the first has compiled, and compiles nothing."""
    from rnnfast.cuda.runtime import Gpu

    def add_kernel(x, y, n):
        x[0] = x[0] + y[0][0] + y[1][0] + n

    def add():
        x = cupy.ones(4, "f")
        Gpu().kernel(add_kernel, "*f 2*f i", 1)(blocks=1, x=x, y=(x[1:], x[2:]), n=5)
        return x[0].get()

    monkeypatch.setenv("RNNFAST_CACHE", str(tmp_path))
    assert add() == 8
    files = sorted(os.listdir(tmp_path))
    assert files
    monkeypatch.setattr(Gpu, "compile", lambda *_: pytest.fail("compiled again"))
    assert add() == 8
    assert sorted(os.listdir(tmp_path)) == files


def test_blocks_that_cannot_be_on_the_gpu_at_once(cupy):
    from rnnfast.cuda.runtime import Gpu

    def nothing_kernel(x):
        x[0] = x[0]

    gpu, x = Gpu(), cupy.ones(4, "f")
    run = gpu.kernel(nothing_kernel, "*f", 1024, shared=30_000, cooperative=True)
    run(blocks=gpu.multiprocessors, x=x)
    blocks = gpu.multiprocessors + 1
    expected = rf"its {blocks} blocks of 1024 threads have to be .* and {blocks - 1} can be"
    with pytest.raises(RuntimeError, match=expected):
        run(blocks=blocks, x=x)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_products(cupy, dtype):
    """cuBLAS asked directly gives what CuPy does, of matrices as they lie."""
    gpu, rng = cuda.what_runs(), np.random.default_rng(0)
    a, b, out = (
        cupy.asarray(rng.standard_normal(s).astype(dtype)) for s in [(9, 8), (8, 7), (9, 9)]
    )
    for left in (a, cupy.asfortranarray(a), a[::-1], a[:, ::2]):
        for right in (b, b[:, 2:], cupy.asfortranarray(b), b[:, :1], b[:, ::3]):
            right = right[: left.shape[1]]
            N = right.shape[1]
            expected = left.get() @ right.get()
            for target in (None, out[:, :N], out[:N].T, out[:, :N].copy()):
                found = gpu.matmul(left, right, out=target)
                assert target is None or found is target
                np.testing.assert_allclose(found.get(), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def copied(monkeypatch, high):
    """TF32, where copies pay however small a product is."""
    monkeypatch.setattr(aligned, "SAVED", 1.0)
    monkeypatch.setattr(aligned, "SAVED_ONCE", 1.0)
    monkeypatch.setattr(cublas, "LEAST", 0)
    aligned.copies.cache_clear()
    yield
    aligned.copies.cache_clear()


@pytest.mark.parametrize("shape", [(8, 6, 5), (9, 7, 5), (9, 40, 5), (350, 10, 13)], ids=str)
def test_products_in_tf32_by_copies(cupy, copied, shape):
    """Also where copies are longer than what they are of: cuBLAS reads nothing beyond that."""
    (M, N, K), gpu, rng = shape, cuda.what_runs(), np.random.default_rng(0)
    a, b = (rng.standard_normal(s).astype("f4") for s in ((M, K), (K, N)))
    dirt = cupy.full(1 << 16, np.nan, "f4")
    del dirt  # to the pool, which copies come from
    for left in (cupy.asarray(a), cupy.asfortranarray(cupy.asarray(a))):
        for right in (cupy.asarray(b), cupy.asfortranarray(cupy.asarray(b))):
            assert type(gpu.bind(left, right, cupy.empty((M, N), "f4"))) is aligned.Aligned
            found = gpu.matmul(left, right)
            tolerance = tf32_tolerance(M, 1, K, N)
            assert_close(found.get(), a.astype("f8") @ b, "a b", tolerance * K)


@cells
def test_recurrences_in_tf32_by_copies(cupy, copied, cell):
    """And forward's copies of xs are those that backward reads."""
    shape = N, T, D, H = 5, 3, 7, 6
    problem = make_problem(cell, shape)
    got = problem.run(kernels.load(cell.name, "cuda"))
    expected = problem.astype("float64").run(kernels.load(cell.name, "reference"))
    tolerance = 2 * tf32_tolerance(N, T, D, H)
    for (name, x), (_, y) in zip(got.arrays(), expected.arrays(), strict=True):
        assert_close(x, y, name, tolerance)
    for (name, x), (_, y) in zip(got.named_grads(), expected.named_grads(), strict=True):
        assert_grad_close(x, y, name, tolerance)


STEPPED = [cell for cell in CELLS if cell.in_steps or cell.name in ("lstm", "gru")]


@pytest.mark.parametrize("cell", STEPPED, ids=lambda cell: cell.name)
def test_steps_that_come_again_are_one_launch(cupy, monkeypatch, cell):
    """With the same bits, whatever numbers are in the arrays."""
    gpu = cuda.what_runs()
    plan_as(monkeypatch, steps)
    graphs = replays.Replays(cupy)
    monkeypatch.setattr(gpu, "run_steps", graphs)
    module, results = kernels.load(cell.name, "cuda"), []
    for seed in (0, 1):
        problem = make_problem(cell, (3, 24, 5, 7), seed=seed, states=False)
        expected = problem.run(module)
        here = [tuple(map(cupy.asarray, a)) for a in (problem.params, problem.poisoned_grads())]
        xs, dhs = cupy.asarray(problem.xs), cupy.asarray(problem.dhs)
        params, grads = here
        for _ in range(4):
            hs, _, cache = module.forward(xs, None, params)
            dxs, _ = module.backward(dhs, None, params, cache, grads)
            results.append([x.get() for x in (hs, dxs, *grads)])
            del hs, cache, dxs
        for again in results[1:]:
            for a, b in zip(results[0], again, strict=True):
                np.testing.assert_array_equal(a, b)
        assert_close(results[0][0], expected.hs, "hs")
        results.clear()
    assert sum(graph is not None for graph in graphs.known().values()) >= 2
