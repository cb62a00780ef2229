"""A kernel's arguments go by their names: their types, and launches."""

import ast
from pathlib import Path

import pytest

pytest.importorskip("numba.cuda")

from rnnfast import cuda
from rnnfast.cuda.gru import GruAfter
from rnnfast.cuda.lstm import Lstm
from rnnfast.cuda.rnn import Rnn
from rnnfast.cuda.signatures import bind, by_name, signature_of


def a_kernel(A, Wh, initial, kept, ends, N, train):
    pass


@pytest.mark.parametrize(
    ("cell", "dtype", "expected"),
    [
        (Rnn(), "float32", "*f *f 1*f 1*f *i i i"),
        (Lstm(), "float32", "*f *f 2*f 2*f *i i i"),
        (GruAfter(), "float64", "*d *d 1*d 2*d *i i i"),
    ],
)
def test_types_by_name(cell, dtype, expected):
    assert signature_of(a_kernel, dtype, cell) == expected


def test_types_without_a_cell():
    def op_kernel(x, ids, size, lr, key0):
        pass

    assert signature_of(op_kernel, "d") == "*d *q q d Q"
    with pytest.raises(TypeError, match=r"got \['initial', 'kept'\]"):  # how many would they be?
        signature_of(a_kernel, "f")


def test_an_argument_without_a_type():
    def other_kernel(A, wages):
        pass

    with pytest.raises(TypeError, match=r"other_kernel: .*, got \['wages'\]"):
        signature_of(other_kernel, "float32", Rnn())


def b_kernel(x, N, t):
    pass


@pytest.fixture
def launched():
    return []


@pytest.fixture
def kernel(launched):
    return by_name(lambda *args: launched.append(args), b_kernel)


def test_launches_by_name(kernel, launched):
    """In any order, all at once or some of them before."""
    kernel(N=3, t=1, x="x", blocks=7)
    run = bind(kernel, t=2, blocks=8)
    other = bind(kernel, x="z", N=5, t=9, blocks=6)
    run(N=4, x="y")
    other()
    run(x="w", N=3)
    kernel(blocks=1, x="v", N=2, t=3)
    expected = (7, "x", 3, 1), (8, "y", 4, 2), (6, "z", 5, 9), (8, "w", 3, 2), (1, "v", 2, 3)
    assert launched == list(expected)


def test_names_that_a_kernel_does_not_have(kernel, launched):
    expected = r"b_kernel: arguments must be among blocks, x, N, t, got \['T', 'y'\]"
    with pytest.raises(TypeError, match=expected):
        bind(kernel, blocks=1, T=3, y="x")
    run = bind(kernel, blocks=1, N=3)
    with pytest.raises(TypeError, match=r"b_kernel\(\) missing 1 required keyword-only .* 't'"):
        run(x="x")
    with pytest.raises(TypeError, match=r"b_kernel\(\) got an unexpected keyword argument 'T'"):
        run(x="x", t=1, T=3)
    with pytest.raises(TypeError, match=r"b_kernel\(\) got an unexpected keyword argument 'N'"):
        run(x="x", t=1, N=3)  # which it has already
    with pytest.raises(TypeError, match=r"b_kernel\(\) takes 0 positional arguments"):
        kernel(1, "x", 3, 1)
    assert not launched


def test_no_call_names_more_than_python_passes_on():
    """Of more than 15 arguments by name Python makes a dict, which doubles what a launch takes."""
    found = {}
    for path in Path(cuda.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        found[path.name] = max((len(call.keywords) for call in calls), default=0)
    assert found["recurrence.py"] == 13
    assert max(found.values()) <= 15, found
