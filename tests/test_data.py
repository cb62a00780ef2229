"""Vocabulary, corpora and batches, against naive loops."""

import sys

import numpy as np
import pytest

from rnnfast.data import CharVocabulary, python_docs, read_text, sequence_batch


def test_ids_in_order_of_first_appearance():
    vocabulary = CharVocabulary.from_text("hello, 세계 hello")
    assert vocabulary.tokens == ["h", "e", "l", "o", ",", " ", "세", "계"]
    ids = vocabulary.encode("hello 세")
    assert ids.dtype == np.int32
    assert ids.tolist() == [0, 1, 2, 2, 3, 5, 6]
    assert vocabulary.decode(ids) == "hello 세"
    assert vocabulary.decode([]) == ""


def test_unknown_characters_and_ids_are_named():
    vocabulary = CharVocabulary.from_text("abc")
    with pytest.raises(ValueError, match="'x' at position 2 is not among the vocabulary's 3"):
        vocabulary.encode("abxc")
    for wrong in (3, -1):
        with pytest.raises(ValueError, match=rf"id {wrong} is outside 0 \.\. 2"):
            vocabulary.decode([0, wrong])
    with pytest.raises(ValueError, match="distinct"):
        CharVocabulary("aba")


def test_read_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("\ufeffüber\r\nzwei".encode())
    assert read_text(path) == "über\nzwei"


def test_read_text_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "missing")
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(ValueError, match="empty: the file is empty"):
        read_text(empty)
    latin = tmp_path / "latin"
    latin.write_bytes("gr\xfcn".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin: not UTF-8 text \(byte 0xfc"):
        read_text(latin)


def test_python_docs():
    pytest.importorskip("pydoc_data.topics")
    text = python_docs()
    assert len(text) > 300_000
    assert text.index('The "assert" statement') < text.index('The "while" statement')
    assert text == python_docs()


def test_python_docs_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ModuleNotFoundError, match=r"pydoc_data\.topics.*name a text file"):
        python_docs()


@pytest.mark.parametrize(("length", "N", "T"), [(23, 3, 4), (7, 7, 1), (10, 1, 3), (11, 2, 13)])
def test_batches_against_a_naive_loop(length, N, T):
    xs = np.arange(100, 100 + length, dtype=np.int32)
    ts = xs + 1000
    for step in range(4):
        batch_x, batch_t = sequence_batch(xs, ts, N, T, step * T)
        expected = np.empty((N, T), dtype=np.int32)
        for n in range(N):
            for t in range(T):
                expected[n, t] = xs[(n * (length // N) + step * T + t) % length]
        np.testing.assert_array_equal(batch_x, expected)
        np.testing.assert_array_equal(batch_t, expected + 1000)
        assert batch_x.dtype == np.int32
