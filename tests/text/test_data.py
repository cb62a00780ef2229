"""Vocabulary, corpora and batches, against naive loops."""

import os
import sys

import numpy as np
import pytest

from rnnfast import data
from rnnfast.data import (
    CharVocabulary,
    WordVocabulary,
    load_ptb,
    load_text,
    load_vocabulary,
    python_docs,
    read_text,
    sequence_batch,
)
from rnnfast.models import Rnnlm


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


def test_what_a_model_reads_first():
    assert CharVocabulary("abc").prime == []
    assert CharVocabulary("abc", prime=np.array([2, 0])).prime == [2, 0]
    for wrong in ([3], [0, -1]):
        with pytest.raises(ValueError, match=r"CharVocabulary: prime must be ids in \[0, 3\), got"):
            CharVocabulary("abc", prime=wrong)
    with pytest.raises(TypeError, match="CharVocabulary: prime must be an integer, got float"):
        CharVocabulary("abc", prime=[0.5])
    vocabulary = CharVocabulary("abc")
    vocabulary.set_prime(np.array([1, 1]))
    with pytest.raises(ValueError, match=r"CharVocabulary: prime must be ids in \[0, 3\), got"):
        vocabulary.set_prime([0, 3])
    assert vocabulary.prime == [1, 1]


def test_words_and_ends_of_lines():
    """The last word of a line and <eos> stay two words, with or without a space between them."""
    vocabulary = WordVocabulary.from_text(" a b a \nc\n\n바다 b\n")
    assert vocabulary.tokens == ["a", "b", "<eos>", "c", "바다"]
    ids = vocabulary.encode("a c\nb \n바다")
    assert ids.dtype == np.int32
    assert ids.tolist() == [0, 3, 2, 1, 2, 4]
    assert vocabulary.decode(ids) == "a c\nb\n바다"
    assert vocabulary.encode(vocabulary.decode([2, 2, 0, 1, 2])).tolist() == [2, 2, 0, 1, 2]
    assert list(vocabulary.pieces(iter([0, 1, 2, 3]))) == ["a", " b", "\n", "c"]
    assert vocabulary.encode("").tolist() == []
    with pytest.raises(ValueError, match=r"word 'x' at position 1 is not among .* 5 words"):
        vocabulary.encode("a x")


def test_unknown_tokens():
    words = WordVocabulary.from_text("a b a", unknown="<unk>")
    assert words.tokens == ["a", "b", "<unk>"]
    assert words.encode("b c a").tolist() == [1, 2, 0]
    assert WordVocabulary.from_text("<unk> b", unknown="<unk>").tokens == ["<unk>", "b"]
    rare = WordVocabulary.from_text("a b a c", unknown="<unk>", min_count=2)
    assert rare.tokens == ["a", "<unk>"]
    assert rare.encode("a b a c").tolist() == [0, 1, 0, 1]
    characters = CharVocabulary.from_text("가나", unknown="\ufffd")
    assert characters.decode(characters.encode("나다가")) == "나\ufffd가"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: WordVocabulary.from_text("a", min_count=2), ValueError, "needs a token as unkn"),
        (lambda: WordVocabulary.from_text("a", min_count=0), ValueError, "from 1 up, got 0"),
        (
            lambda: WordVocabulary.from_text("a b a", unknown="<unk>", min_count=3),
            ValueError,
            r"min_count must leave a token, got 3; the most frequent one occurs 2 times",
        ),
        (lambda: WordVocabulary.from_text(b"a"), TypeError, "text must be a str, got bytes"),
        (lambda: WordVocabulary(["a"]).encode(None), TypeError, "text must be a str, got None"),
        (lambda: WordVocabulary(["a"], "b"), ValueError, "must be one of the tokens, got 'b'"),
        (lambda: WordVocabulary(["a", ""]), ValueError, "strings that are not empty"),
        (lambda: CharVocabulary([1]), ValueError, "strings that are not empty"),
    ],
)
def test_wrong_vocabularies(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_load_text(tmp_path):
    path, other, blank = (tmp_path / name for name in ("a.txt", "b.txt", "blank.txt"))
    path.write_text("one two\none\n", encoding="utf-8")
    other.write_text("one three\n", encoding="utf-8")
    blank.write_text(" ", encoding="utf-8")
    ids, words = load_text(path)
    assert (ids.tolist(), words.tokens) == ([0, 1, 2, 0, 2], ["one", "two", "<eos>"])
    with pytest.raises(ValueError, match=r"b\.txt: word 'three' at position 1"):
        load_text(other, words)
    ids, words = load_text(path, level="word", unknown="<unk>")
    assert load_text(other, words)[0].tolist() == [0, 3, 2]
    assert load_text(path, level="char")[0].tolist()[:4] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"blank\.txt: there is no word in it"):
        load_text(blank)
    with pytest.raises(ValueError, match=r"level must be one of .*, got 'byte'"):
        load_text(path, level="byte")


def test_load_ptb(tmp_path, monkeypatch):
    (tmp_path / "ptb.train.txt").write_text(" a <unk> N \n b a\n", encoding="utf-8")
    (tmp_path / "ptb.valid.txt").write_text("b N\n", encoding="utf-8")
    (tmp_path / "ptb.test.txt").write_text("c\n", encoding="utf-8")
    corpus, word_to_id, id_to_word = load_ptb("train", tmp_path)
    assert corpus.tolist() == [0, 1, 2, 3, 4, 0, 3]
    assert word_to_id == {"a": 0, "<unk>": 1, "N": 2, "<eos>": 3, "b": 4}
    assert id_to_word == {i: word for word, i in word_to_id.items()}
    assert load_ptb("val", tmp_path)[0].tolist() == [4, 2, 3]
    with pytest.raises(ValueError, match=r"ptb\.test\.txt: word 'c'"):
        load_ptb("test", tmp_path)
    with pytest.raises(ValueError, match=r"split must be one of .*, got 'dev'"):
        load_ptb("dev", tmp_path)
    monkeypatch.setenv("RNNFAST_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match="`rnnfast data ptb` gets it"):
        load_ptb()


def test_penn_treebank_itself():
    """RNNFAST_TEST_DATA names a folder that has ptb/ptb.train.txt and so on."""
    if not os.environ.get("RNNFAST_TEST_DATA"):
        pytest.skip("RNNFAST_TEST_DATA is not set")
    folder = os.path.join(os.environ["RNNFAST_TEST_DATA"], "ptb")
    corpora = {split: load_ptb(split, folder) for split in ("train", "valid", "test")}
    assert [len(c) for c, _, _ in corpora.values()] == [929_589, 73_760, 82_430]
    corpus, word_to_id, id_to_word = corpora["train"]
    assert len(word_to_id) == 10_000
    assert corpus[:30].tolist() == list(range(30))  # as the book shows it
    assert [id_to_word[i] for i in (0, 1, 2)] == ["aer", "banknote", "berlitz"]
    assert (word_to_id["car"], word_to_id["happy"], word_to_id["lexus"]) == (3856, 4428, 7426)


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
    korean = tmp_path / "korean"
    korean.write_bytes("나 보기가".encode("cp949"))
    with pytest.raises(ValueError, match="iconv -f CP949 -t UTF-8 OLD > NEW for a Korean text"):
        read_text(korean)


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


@pytest.mark.parametrize("cls", data.VOCABULARIES.values())
def test_parts_are_the_whole(cls, monkeypatch):
    """Wherever a text is cut to be read: ids, counts and the position of what is not known."""
    text = "one  two\r\n\nthree\u2003four\n one\n"
    known, ids = cls.from_text(text), cls.from_text(text).encode(text)
    for part in 1, 2, 5:
        monkeypatch.setattr("rnnfast.text.parts.PART", part)
        assert cls.from_text(text).tokens == known.tokens
        np.testing.assert_array_equal(known.encode(text), ids)
        assert known.count_unknown(text + " x y x") == 3
        np.testing.assert_array_equal(known.encode(f"x {text}", "skip")[-len(ids) :], ids)
        with pytest.raises(ValueError, match=f"'x' at position {len(ids)} is not among"):
            known.encode(text + "x")


def test_tokens_shorter_than_a_character():
    """A vocabulary of one's own may have more tokens than characters."""

    class Bytes(data.Vocabulary):
        level = "byte"

        @staticmethod
        def split(text):
            return [f"{byte:02x}" for byte in text.encode()]

    text = "a\u20ac\U0001f600"
    vocabulary = Bytes.from_text(text)
    assert vocabulary.tokens == Bytes.split(text)
    assert vocabulary.encode(text).tolist() == list(range(8))


def test_vocabulary_of_a_weight_file(tmp_path):
    model = Rnnlm(vocab_size=3, wordvec_size=2, hidden_size=2, rng=0)
    path = tmp_path / "Rnnlm.safetensors"
    model.save_params(path, WordVocabulary(["a", "b", "<unk>"], "<unk>", prime=[1, 0]))
    found = load_vocabulary(path)
    assert type(found) is WordVocabulary
    assert (found.tokens, found.unknown, found.prime) == (["a", "b", "<unk>"], "<unk>", [1, 0])
    model.save_params(path)
    with pytest.raises(ValueError, match=r"Rnnlm\.safetensors: the file has no vocabulary"):
        load_vocabulary(path)


def test_wrong_arguments_of_helpers(tmp_path):
    ids = np.arange(20)
    with pytest.raises(ValueError, match="sequence_batch: xs and ts must be equally long, got 20"):
        sequence_batch(ids, ids[:7], 2, 3, 0)
    with pytest.raises(ValueError, match="sequence_batch: batch_size must be from 1 up, got 0"):
        sequence_batch(ids, ids, 0, 3, 0)
    path = tmp_path / "text.txt"
    path.write_text("a b\n")
    with pytest.raises(TypeError, match="load_text: vocabulary must be a Vocabulary, got str"):
        load_text(path, "char")
    assert CharVocabulary.from_text("aab", unknown="?", min_count=np.int64(2)).tokens == ["a", "?"]
    for wrong in (np.array([0.0, 1.0]), [0.5]):
        with pytest.raises(TypeError, match="decode: ids must be integers, got float64"):
            CharVocabulary("ab").decode(wrong)
    with pytest.raises(TypeError, match="decode: ids must not be masked"):
        CharVocabulary("ab").decode(np.ma.masked_equal([0, 1], 1))
