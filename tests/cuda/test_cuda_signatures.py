"""The types of a kernel's arguments follow from their names."""

import pytest

pytest.importorskip("numba.cuda")

from rnnfast.cuda.cells import signature_of
from rnnfast.cuda.gru import GruAfter
from rnnfast.cuda.lstm import Lstm
from rnnfast.cuda.rnn import Rnn


def a_kernel(A, Wh, initial, kept, counters, ends, N, train):
    pass


@pytest.mark.parametrize(
    ("cell", "dtype", "expected"),
    [
        (Rnn(), "float32", "*f *f 1*f 1*f *i *i i i"),
        (Lstm(), "float32", "*f *f 2*f 2*f *i *i i i"),
        (GruAfter(), "float64", "*d *d 1*d 2*d *i *i i i"),
    ],
)
def test_by_name(cell, dtype, expected):
    assert signature_of(a_kernel, cell, dtype) == expected


def test_an_argument_without_a_type():
    def other_kernel(A, wages):
        pass

    with pytest.raises(TypeError, match=r"other_kernel: .*, got \['wages'\]"):
        signature_of(other_kernel, Rnn(), "float32")
