"""Weights that the book's save_params pickled: read as arrays; everything else is refused."""

import os
import pickle
import struct
from io import BytesIO

import numpy as np
import pytest

from rnnfast import io
from rnnfast.io import pickles
from rnnfast.models import BetterRnnlm, Rnnlm, load_model

SIZES = (5, 3, 4)
PROTOCOLS = range(6)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "Rnnlm.pkl"


def halves(model):
    """What the book writes: every one of params, in float16 (a view keeps its order)."""
    return [param.astype(np.float16) for param in model.params]


def renamed(content, old, new):
    """A pickle of protocol 0 to 3 with another module's name."""
    return content.replace(b"c" + old + b"\n", b"c" + new + b"\n")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("model", [Rnnlm(*SIZES, rng=1), BetterRnnlm(5, 4, 4, rng=1)])
def test_the_books_pickles(path, protocol, model):
    path.write_bytes(pickle.dumps(halves(model), protocol))
    other = type(model)(*model.sizes.values(), rng=2)
    identities = [id(param) for param in other.params]
    other.load_params(path)
    for param, half in zip(other.params, halves(model), strict=True):
        np.testing.assert_array_equal(param, half.astype(np.float32))
    assert [id(param) for param in other.params] == identities


def test_a_tied_matrix_may_be_left_out_but_must_not_differ(path):
    model, other = BetterRnnlm(5, 4, 4, rng=1), BetterRnnlm(5, 4, 4, rng=2)
    arrays = halves(model)
    path.write_bytes(pickle.dumps(arrays[:7] + arrays[8:]))
    other.load_params(path)
    np.testing.assert_array_equal(other.params[7], arrays[0].T.astype(np.float32))
    arrays[7] = arrays[7] + np.float16(1)
    path.write_bytes(pickle.dumps(arrays))
    before = [param.tobytes() for param in other.params]
    with pytest.raises(ValueError, match=r"Rnnlm\.pkl: array 8 must be tied to another"):
        other.load_params(path)
    assert [param.tobytes() for param in other.params] == before


@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_names_of_both_numpy_generations(path, module):
    content = pickle.dumps(halves(Rnnlm(*SIZES, rng=1)), 3)
    for old in (b"numpy._core.multiarray _reconstruct", b"numpy.core.multiarray _reconstruct"):
        old = old.replace(b" ", b"\n")
        content = renamed(content, old, module + b"\n_reconstruct")
    path.write_bytes(content)
    assert [a.shape for a in io.load_pickle(path)][:2] == [(5, 3), (3, 16)]


class Cupy:
    """Pickles as a CuPy array does: a call of cupy._core.core.array with a NumPy array."""

    def __init__(self, array):
        self.array = array

    def __reduce__(self):
        return np.asarray, (self.array,)


@pytest.mark.parametrize("module", [b"cupy._core.core", b"cupy.core.core"])
def test_cupy_arrays(path, module):
    arrays = [Cupy(half) for half in halves(Rnnlm(*SIZES, rng=1))]
    content = renamed(pickle.dumps(arrays, 3), b"numpy\nasarray", module + b"\narray")
    assert b"asarray" not in content
    path.write_bytes(content)
    Rnnlm(*SIZES, rng=2).load_params(path)


def test_big_endian_and_fortran_order(path):
    arrays = [np.arange(6, dtype=">f4").reshape(2, 3), np.asfortranarray(np.eye(2, 3))]
    for protocol in PROTOCOLS:
        path.write_bytes(pickle.dumps(arrays, protocol))
        for read, written in zip(io.load_pickle(path), arrays, strict=True):
            np.testing.assert_array_equal(read, written)


class Harm:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def harmful(marker):
    """Pickles that run code, where the reader lets them."""
    touch = f"touch {marker}"
    yield from (
        [Harm(os.system, (touch,))],
        Harm(eval, (f"open({str(marker)!r}, 'w')",)),
        [np.zeros(1), Harm(open, (str(marker), "w"))],
        [Harm(getattr, (np.ndarray, "tofile"))],
        [Harm(np.load, (str(marker),))],
        {"a": Harm(os.mkdir, (str(marker),))},
        [Harm(pickle.loads, (pickle.dumps(Harm(os.system, (touch,))),))],
    )


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_nothing_in_a_pickle_runs(path, tmp_path, protocol):
    marker, model = tmp_path / "harmed", Rnnlm(*SIZES, rng=1)
    for content in harmful(marker):
        path.write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(ValueError, match=r"Rnnlm\.pkl: not a pickled list of arrays"):
            io.load_pickle(path)
        with pytest.raises(ValueError, match=r"Rnnlm\.pkl: not a"):
            model.load_params(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        None,
        {"W": np.zeros(2)},
        [np.zeros(2), "text"],
        [np.zeros(2, int)],
        [np.array([{}], object)],
        [np.zeros(2, "f4,f4")],
        [np.datetime64("2020-01-01")],
        [np.float32],
        [[np.zeros(2)]],
        [np.zeros(3, np.complex64)],
    ],
    ids=repr,
)
def test_other_pickles(path, content):
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="not a pickled list of arrays"):
        io.load_pickle(path)


HEAD = b"\x80\x03"
BY_HAND = {
    "empty": HEAD,
    "cut": pickle.dumps([np.ones(50)])[:-40],
    "no pickle": HEAD + b"\xff" * 20,
    "class as an array": HEAD + b"]cnumpy\nndarray\na.",
    "array without a state": HEAD + b"]cnumpy\nndarray\n)Ra.",
    "changes a name": HEAD + b"cnumpy\nndarray\n}X\x01\x00\x00\x00aK\x01sb.",
    "makes a class": HEAD + b"cnumpy\nndarray\n)\x81.",
    "dtype of a class": HEAD + b"cnumpy\ndtype\ncnumpy\nndarray\n\x85R.",
    "state of a dtype": HEAD
    + b"cnumpy\ndtype\nX\x02\x00\x00\x00f2\x85R(K\x03X\x01\x00\x00\x00|tb.",
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.__new__\x93.",
    "huge memo": HEAD + b"K\x01r\xff\xff\xff\x7f.",
    "huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.",
    "persistent": HEAD + b"K\x01Q.",
    "extension": HEAD + b"\x82\x01.",
    "deep": HEAD + b"]" * 100_000 + b"a" * 99_999 + b".",
}


@pytest.mark.parametrize("content", BY_HAND.values(), ids=BY_HAND)
def test_pickles_made_by_hand(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a pickled list of arrays"):
        io.load_pickle(path)
    path.write_bytes(pickle.dumps([np.ones(2)]))  # and nothing of it stays
    assert io.load_pickle(path)[0].tolist() == [1, 1]


def test_random_damage_is_always_a_value_error(path):
    whole = pickle.dumps(halves(Rnnlm(2, 2, 2, rng=1)), 3)
    rng = np.random.default_rng(0)
    for _ in range(500):
        content = bytearray(whole)
        for place in rng.integers(2, len(content), 3):
            content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            io.load_pickle(path)
        except ValueError as error:
            assert "not a pickled list of arrays" in str(error)


def test_pickles_that_do_not_fit_change_nothing(path):
    model = Rnnlm(*SIZES, rng=1)
    before, arrays = [param.tobytes() for param in model.params], halves(model)
    for wrong, message in [
        (arrays[:-1], "expected 6 arrays, found 5"),
        ([*arrays, arrays[0]], "expected 6 arrays, found 7"),
        ([*arrays[:-1], np.zeros(6, np.float16)], r"affine_b must be \(5,\), found \(6,\)"),
    ]:
        path.write_bytes(pickle.dumps(wrong))
        with pytest.raises(ValueError, match=rf"Rnnlm\.pkl: {message}"):
            model.load_params(path)
    assert [param.tobytes() for param in model.params] == before


def test_pickles_are_not_written(path):
    for name in (path, str(path).upper(), path.with_suffix(".pickle")):
        with pytest.raises(ValueError, match=r"weights are saved as \.safetensors"):
            Rnnlm(*SIZES).save_params(name)
    assert os.listdir(path.parent) == []


def test_the_content_decides_not_the_name(tmp_path):
    """Also where the length of a safetensors header has the bytes that a pickle begins with."""
    model = Rnnlm(*SIZES, rng=1)
    pickled = tmp_path / "pickled.safetensors"
    pickled.write_bytes(pickle.dumps(halves(model), 3))
    Rnnlm(*SIZES).load_params(pickled)
    file, lengths = tmp_path / "weights.safetensors", set()
    for n in range(300):
        model.save_params(file, ["a" * (n + 1), "b", "c", "d", "e"])
        lengths.add(file.read_bytes()[:2])
        other = Rnnlm(*SIZES)
        other.load_params(file)
        np.testing.assert_array_equal(other.params[0], model.params[0])
    assert lengths & {b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5"}
    model.save_params(file)
    os.rename(file, tmp_path / "renamed.pkl")
    Rnnlm(*SIZES).load_params(tmp_path / "renamed.pkl")


def test_the_reader_knows_no_other_names():
    """A change of NumPy's way to pickle shows here, not at a user's."""
    for protocol in PROTOCOLS:
        names = set()

        class Reader(pickle.Unpickler):
            def find_class(self, module, name, names=names):
                names.add((module, name))
                return super().find_class(module, name)

        Reader(BytesIO(pickle.dumps([np.eye(2)], protocol))).load()
        assert names
        for module, name in names:
            assert pickles.find(module, name)


def test_a_pickle_has_no_model(tmp_path):
    path = tmp_path / "Rnnlm.pkl"
    path.write_bytes(pickle.dumps(halves(Rnnlm(*SIZES, rng=1))))
    with pytest.raises(ValueError, match=r"Rnnlm\.pkl: a pickle has no model.* load_params"):
        load_model(path)
