"""Weight files: exact round trip, damaged and foreign files, interrupted writes."""

import json
import os
import stat
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from rnnfast import io
from rnnfast.data import WordVocabulary
from rnnfast.io import files
from rnnfast.models import Rnnlm, load_model

SIZES = (5, 3, 4)


@pytest.fixture
def model():
    return Rnnlm(*SIZES, rng=1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "Rnnlm.safetensors"


def bits(model):
    return [param.tobytes() for param in model.params]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip_bit_for_bit(path, dtype):
    model = Rnnlm(*SIZES, rng=1, dtype=dtype)
    model.params[0][0, 0] = np.nextafter(dtype(1), dtype(2))
    model.save_params(path, ["a", "é", "\n", "세", '"'])
    loaded, vocabulary = load_model(path)
    assert type(loaded) is Rnnlm
    assert vocabulary == ["a", "é", "\n", "세", '"']
    assert bits(loaded) == bits(model)
    assert [param.dtype for param in loaded.params] == [np.dtype(dtype)] * 6
    assert loaded.sizes == {"vocab_size": 5, "wordvec_size": 3, "hidden_size": 4}


def test_load_params_into_a_model(path, model):
    model.save_params(path)
    other = Rnnlm(*SIZES, rng=2)
    identities = [id(param) for param in other.params]
    other.load_params(path)
    assert bits(other) == bits(model)
    assert [id(param) for param in other.params] == identities
    assert load_model(path)[1] is None


def test_a_vocabulary_and_what_its_tokens_are(path, model):
    model.save_params(path, WordVocabulary(["a", "b", "<unk>", "d", "<eos>"], "<unk>"))
    for weights in (io.load_weights(path), io.load_header(path)):
        assert weights.vocabulary == ["a", "b", "<unk>", "d", "<eos>"]
        assert (weights.level, weights.unknown) == ("word", "<unk>")
    assert io.load_header(path).params == {}
    model.save_params(path, list("abcde"))  # tokens alone are characters
    assert io.load_weights(path)[3:] == (list("abcde"), "char", None, None)


def test_frozen_weights_are_not_written(path, model):
    model.save_params(path)
    other = Rnnlm(*SIZES, rng=2)
    before = bits(other)
    other.lstm_layer.freeze()
    with pytest.raises(ValueError, match=r"lstm_Wx is read-only; unfreeze\(\) the model's layers"):
        other.load_params(path)
    assert bits(other) == before


def test_default_file_name(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    model.save_params()
    assert os.listdir() == ["Rnnlm.safetensors"]
    other = Rnnlm(*SIZES, rng=2)
    other.load_params()
    assert bits(other) == bits(model)


def test_same_model_same_bytes(tmp_path, model):
    files = [tmp_path / "1", tmp_path / "2"]
    for file in files:
        model.save_params(file, list("abcde"))
    assert files[0].read_bytes() == files[1].read_bytes()


def test_views_are_stored_by_value(path):
    block = np.arange(12.0).reshape(3, 4)
    io.save_weights(path, io.Weights({"t": block.T, "s": block[:, ::2]}, "M", {}, None))
    params = io.load_weights(path).params
    np.testing.assert_array_equal(params["t"], block.T)
    np.testing.assert_array_equal(params["s"], block[:, ::2])


def test_truncated_and_corrupt_files(path, model):
    model.save_params(path)
    whole = path.read_bytes()
    broken = [whole[:n] for n in (0, 4, 100, len(whole) - 1)]
    broken += [whole + b"x", b"\xff" * len(whole), b"{}" * 50]
    for content in broken:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"Rnnlm\.safetensors: not a complete safetensors"):
            load_model(path)


def test_missing_file(path, model):
    with pytest.raises(FileNotFoundError, match="Rnnlm"):
        load_model(path)
    with pytest.raises(IsADirectoryError):
        model.load_params(path.parent)
    with pytest.raises(IsADirectoryError, match="Is a directory") as caught:
        model.save_params(path.parent)
    assert caught.value.filename == str(path.parent)


def test_a_timeout_while_a_file_is_written(path, model, monkeypatch):
    def late(*given):
        raise TimeoutError("took too long")

    monkeypatch.setattr(os, "replace", late)
    with pytest.raises(TimeoutError, match="took too long"):
        model.save_params(path)
    assert os.listdir(path.parent) == []


def test_foreign_safetensors(path, model):
    save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="not one that rnnfast wrote"):
        load_model(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "weight format 99, this version reads 1"),
        ({"model": "Transformer"}, "model 'Transformer' is not known"),
        ({"sizes": {"vocab_size": 5}}, "lstm_Wh must be float32|embed_W must be float32"),
        ({"sizes": {"depth": 5}}, "sizes {'depth': 5} do not fit"),
        ({"sizes": None}, "damaged rnnfast header"),
        ({"vocabulary": ["a"]}, "vocabulary must have vocab_size = "),
    ],
)
def test_wrong_headers(path, model, change, message):
    header = {"format": 1, "model": "Rnnlm", "sizes": model.sizes, "vocabulary": None} | change
    arrays = dict(zip(model.param_names, model.params, strict=True))
    path.write_bytes(save(arrays, {"rnnfast": json.dumps(header)}))
    with pytest.raises(ValueError, match=message):
        load_model(path)


@pytest.mark.parametrize("header", ["{", "[]", "null", '{"format": 1}'])
def test_damaged_headers(path, header):
    path.write_bytes(save({"W": np.zeros(1)}, {"rnnfast": header}))
    with pytest.raises(ValueError, match="damaged rnnfast header"):
        io.load_weights(path)


def test_weights_that_do_not_fit_change_nothing(path, model):
    before = bits(model)
    names = model.param_names
    good = dict(zip(names, (param + 1 for param in model.params), strict=True))
    cases = [
        ({**good, "affine_b": np.zeros(6, np.float32)}, r"affine_b must be float32 \(5,\), found"),
        ({**good, "affine_b": np.zeros(5)}, r"affine_b must be float32 \(5,\), found float64"),
        ({**good, "extra": np.zeros(1)}, "found .*extra"),
        ({name: good[name] for name in names[:-1]}, "expected arrays .*affine_b"),
    ]
    for params, message in cases:
        io.save_weights(path, io.Weights(params, "Rnnlm", model.sizes, None))
        with pytest.raises(ValueError, match=message):
            model.load_params(path)
        assert bits(model) == before


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_interrupted_write_leaves_the_old_file(path, model, monkeypatch, failing):
    model.save_params(path)
    old = path.read_bytes()

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(KeyboardInterrupt):
        Rnnlm(*SIZES, rng=2).save_params(path)
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == [path.name]


def test_unwritable_folder(tmp_path, model):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError if os.name == "posix" else FileNotFoundError):
        model.save_params(tmp_path / "file" / "x.safetensors")


def test_two_threads_save_to_one_path(path, model):
    """Each writes a file of its own, and a reader finds one of them, whole."""
    model.save_params(path)

    def save():
        for _ in range(20):
            model.save_params(path)

    savers = [threading.Thread(target=save) for _ in range(2)]
    for saver in savers:
        saver.start()
    while any(saver.is_alive() for saver in savers):
        assert bits(load_model(path)[0]) == bits(model)
    assert os.listdir(path.parent) == [path.name]


def test_windows_is_asked_again_while_a_virus_scanner_reads(monkeypatch):
    """There a file that somebody has open cannot be replaced; elsewhere an error is final."""
    answers = []

    def replace(path, new):
        answers.append((path, new))
        if len(answers) < 3:
            raise PermissionError

    monkeypatch.setattr(files, "os", SimpleNamespace(name="posix", replace=replace))
    with pytest.raises(PermissionError):
        files.replace("a", "b")
    assert answers == [("a", "b")]
    files.os.name = "nt"
    files.replace("a", "b")
    assert answers == [("a", "b")] * 3
    answers.clear()
    monkeypatch.setattr(files, "PATIENCE", -1.0)
    with pytest.raises(PermissionError):
        files.replace("a", "b")


@pytest.mark.skipif(os.name != "posix", reason="the folder's name counts, too")
@pytest.mark.parametrize("name", ["f" * 251 + ".bin", "한" * 81 + ".bin"])
def test_long_names(tmp_path, model, name):
    model.save_params(tmp_path / name)
    assert bits(load_model(tmp_path / name)[0]) == bits(model)


@pytest.mark.skipif(os.name != "posix", reason="symbolic links and pipes")
def test_links_stay_and_pipes_are_refused(tmp_path, model):
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    (tmp_path / "elsewhere").mkdir()
    link.symlink_to(tmp_path / "elsewhere" / "weights")
    for _ in range(2):  # made, and replaced
        io.check_writable(link)
        model.save_params(link)
        assert link.is_symlink()
        assert os.listdir(tmp_path / "elsewhere") == ["weights"]
    assert bits(load_model(link)[0]) == bits(model)
    os.mkfifo(pipe)
    for write in (io.check_writable, model.save_params):
        with pytest.raises(ValueError, match="pipe: must be a regular file, got a pipe"):
            write(pipe)
    assert stat.S_ISFIFO(os.stat(pipe).st_mode)


def test_paths_are_not_bytes(path, model):
    model.save_params(path)
    for use in (model.save_params, io.check_writable, load_model, io.load_weights):
        with pytest.raises(TypeError, match="path must be a str or a PathLike of str, got b'"):
            use(os.fsencode(path))


@pytest.mark.parametrize("vocabulary", [["a", "b"], np.array(["a"] * 3), {"a", "b", "c"}])
def test_a_vocabulary_that_no_load_would_take(path, vocabulary):
    model = Rnnlm(vocab_size=3, wordvec_size=2, hidden_size=2, rng=0)
    with pytest.raises(ValueError, match="weights that could not be read again"):
        model.save_params(path, vocabulary)
    assert not path.exists()


def test_a_file_system_that_cannot_sync_folders(path, monkeypatch):
    whole = os.fsync

    def fsync(fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(22, "Invalid argument")
        whole(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    io.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
