"""What only a GPU shows: streams, memory shared with other libraries, kernels kept on disk."""

import os

import numpy as np
import pytest
from cases import CELLS, assert_close, assert_same_bits, cells, make_problem

import rnnfast
from rnnfast import io, kernels

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
    state, params = (tuple(map(cupy.asarray, a)) for a in (problem.state, problem.params))
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        slow = cupy.ones((4096, 4096), "f")
        for _ in range(10):
            slow = slow @ slow * 1e-4
        xs = cupy.asarray(problem.xs) + 0 * slow[0, 0]
        hs, _, cache = module.forward(xs, state, params)
        grads = tuple(map(cupy.empty_like, params))
        dstate = tuple(map(cupy.asarray, problem.dstate))
        dxs, _ = module.backward(cupy.asarray(problem.dhs), dstate, params, cache, grads)
        assert not stream.done  # nothing has waited
    stream.synchronize()
    np.testing.assert_array_equal(hs.get(), expected.hs)
    np.testing.assert_array_equal(dxs.get(), expected.dxs)
    for g, e in zip(grads, expected.grads, strict=True):
        np.testing.assert_array_equal(g.get(), e)


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


def test_tensors_of_torch(cupy):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    problem = make_problem(CELLS[2], (3, 4, 5, 7))
    layer = rnnfast.TimeGRU(*(torch.from_numpy(p).cuda() for p in problem.params))
    hs = layer.forward(torch.from_numpy(problem.xs).cuda())
    expected = rnnfast.TimeGRU(*problem.params).forward(problem.xs)
    assert_close(torch.from_dlpack(hs).cpu().numpy(), expected)


def test_compiled_kernels_are_kept(monkeypatch, tmp_path):
    """A second runtime finds what the first has compiled, and compiles nothing."""
    from rnnfast.cuda import lstm
    from rnnfast.cuda.runtime import Gpu

    monkeypatch.setenv("RNNFAST_CACHE", str(tmp_path))
    lstm.row_forward(Gpu(), 9, False)
    files = sorted(os.listdir(tmp_path))
    assert files

    def compile_again(*_):
        pytest.fail("compiled again")

    monkeypatch.setattr(Gpu, "compile", compile_again)
    lstm.row_forward(Gpu(), 9, False)
    assert sorted(os.listdir(tmp_path)) == files
