"""Padded batches of sequences of different lengths."""

import numpy as np
import pytest

from rnnfast.data import pad_sequences
from rnnfast.sequences import SequenceTagger


@pytest.mark.parametrize("sides", [(), (3,), (2, 3)])
@pytest.mark.parametrize("time_size", [None, 7])
def test_every_sequence_is_at_its_beginning(sides, time_size):
    rng = np.random.default_rng(0)
    sequences = [rng.normal(size=(length, *sides)) for length in (4, 0, 5, 1)]
    xs, lengths = pad_sequences(sequences, value=9.5, time_size=time_size)
    assert xs.shape == (4, time_size or 5, *sides) and xs.dtype == np.float64
    assert lengths.tolist() == [4, 0, 5, 1] and lengths.dtype == np.intp
    for row, sequence, length in zip(xs, sequences, lengths, strict=True):
        np.testing.assert_array_equal(row[:length], sequence)
        assert (row[length:] == 9.5).all()


def test_dtypes():
    short = np.array([1], np.int8)
    assert pad_sequences([short, np.array([2], np.int16)])[0].dtype == np.int16
    assert pad_sequences([short, []])[0].dtype == np.int8  # an empty list says nothing of it
    assert pad_sequences([short], dtype="float32")[0].dtype == np.float32
    assert pad_sequences([[0.1]], dtype="float32")[0][0, 0] == np.float32(0.1)
    xs, _ = pad_sequences([np.ones((2, 3), np.float32), []])
    assert xs.shape == (2, 2, 3) and xs.dtype == np.float32


def test_a_model_takes_both():
    """Each sample alone has the outputs that it has in the padded batch."""
    rng = np.random.default_rng(1)
    sequences = [rng.integers(0, 6, length) for length in (3, 5, 1)]
    model = SequenceTagger(6, 2, 3, 4, rng=0, dtype=np.float64, device="cpu")
    xs, lengths = pad_sequences(sequences)
    ys = model.predict(xs, lengths=lengths)
    for y, sequence in zip(ys, sequences, strict=True):
        alone = model.predict(sequence[np.newaxis])[0]
        np.testing.assert_allclose(y[: len(sequence)], alone, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("sequences", "options", "error", "message"),
    [
        ([], {}, ValueError, "sequences must hold at least one, got none"),
        (3, {}, TypeError, "sequences must be a list of arrays, got int"),
        ("ab", {}, TypeError, "sequences must be a list of arrays, got str"),
        (["ab"], {}, TypeError, "sequences[0] must be real numbers, got <U2"),
        ([[1], 2], {}, ValueError, "sequences[1] must be (length, ...), got ()"),
        ([[1, [2]]], {}, ValueError, "sequences[0] must be one array, got a ragged list"),
        (
            [[1], np.ma.masked_equal([1, 2], 2)],
            {},
            TypeError,
            "sequences[1] must not be masked, got a MaskedArray; give sequences[1].filled()",
        ),
        (
            [np.ones((1, 3)), np.ones((1, 2))],
            {},
            ValueError,
            "sequences[1] must be (length, ...) = (length, 3), got (1, 2)",
        ),
        (
            [np.ones(2), np.ones((1, 2))],
            {},
            ValueError,
            "sequences[1] must be (length, ...) = (length,), got (1, 2)",
        ),
        ([[1, 2]], {"time_size": 1}, ValueError, "time_size must be from 2 up, got 1"),
        ([np.ones(2, "i8")], {"value": 0.5}, ValueError, "value must fit into int64, got 0.5"),
        ([[1, 2]], {"value": "a"}, TypeError, "value must be a real number, got str"),
        ([[1]], {"value": -1, "dtype": "u1"}, ValueError, "value must fit into uint8, got -1"),
        ([[0], [300]], {"dtype": "u1"}, ValueError, "sequences[1] must fit into uint8, got 300"),
        ([[1]], {"dtype": "U1"}, TypeError, "dtype must be one of real numbers, got <U1"),
    ],
)
def test_bad_arguments(sequences, options, error, message):
    with pytest.raises(error) as caught:
        pad_sequences(sequences, **options)
    assert str(caught.value) == f"pad_sequences: {message}"


def test_large_padding_is_exact():
    xs, _ = pad_sequences([[1], [1, 2]], value=2**60 + 1)
    assert xs[0, 1] == 2**60 + 1
