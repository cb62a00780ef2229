"""precision.tf32_tolerance against products whose operands lose what TF32 has no room for."""

import numpy as np
import pytest
from cases import assert_close, assert_grad_close, cells, make_problem

from rnnfast import kernels
from rnnfast.cuda.precision import tf32_tolerance

SHAPES = ((3, 4, 5, 7), (20, 12, 60, 60), (1, 64, 128, 128), (9, 5, 8, 300))


def low(x, way):
    """float32 numbers as tensor cores see them: cut off, or rounded to the nearest."""
    bits = x.astype("f4").view("u4") + np.uint32(0 if way == "cut" else 0x1000)
    return (bits & np.uint32(0xFFFFE000)).view("f4").astype("f8")


class Low(np.ndarray):
    """float64 arrays whose products, and nothing else, are in TF32."""

    way = "cut"

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **keywords):
        inputs = [np.asarray(x).view(np.ndarray) for x in inputs]
        if ufunc is np.matmul:
            inputs = [low(x, self.way) for x in inputs]
        if out is not None:
            keywords["out"] = tuple(x.view(np.ndarray) for x in out)
        result = getattr(ufunc, method)(*inputs, **keywords)
        return out[0] if out is not None else np.asarray(result).view(Low)


def lowered(problem):
    """The same problem, computed in TF32."""
    made = problem.astype("float64")
    made.xs, made.dhs = made.xs.view(Low), made.dhs.view(Low)
    for name in ("state", "dstate", "params"):
        setattr(made, name, tuple(x.view(Low) for x in getattr(made, name)))
    return made


@cells
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("way", ["cut", "rounded"])
@pytest.mark.one_in(4)
def test_what_tf32_costs(monkeypatch, cell, shape, way):
    """The tolerance holds, and a tenth of it does not: it says something."""
    monkeypatch.setattr(Low, "way", way)
    problem, module = make_problem(cell, shape), kernels.load(cell.name, "reference")
    if cell.name == "slstm":
        problem.dstate = without_jumps(problem, module)
    got, expected = lowered(problem).run(module), problem.astype("float64").run(module)
    tolerance = tf32_tolerance(*shape)
    compare(got, expected, tolerance)
    with pytest.raises(AssertionError, match="off by"):
        compare(got, expected, tolerance / 10)


def without_jumps(problem, module):
    """An slstm's dstate with the dm of a loss that does not depend on the scale exp(m) of c and n.

    With any other dm the gradients jump where m goes over from one of its arguments to the other.
    """
    _, (_, c, n, _), _ = module.forward(problem.xs, problem.state, problem.params)
    dh, dc, dn, _ = problem.dstate
    return dh, dc, dn, dc * c + dn * n


def compare(got, expected, tolerance):
    for (name, a), (_, b) in zip(got.arrays(), expected.arrays(), strict=True):
        assert_close(a, b, name, tolerance)
    for (name, a), (_, b) in zip(got.named_grads(), expected.named_grads(), strict=True):
        assert_grad_close(a, b, name, tolerance)


def test_the_tolerance_is_about_four_parts_of_a_thousand():
    assert 3.5e-3 < tf32_tolerance(1, 35, 100, 100) < tf32_tolerance(20, 35, 650, 650) < 5e-3
    assert tf32_tolerance(1, 1, 1, 1) > 1e-3
