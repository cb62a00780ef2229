"""Files that are damaged on purpose: no reader crashes, hangs, or takes more than 10 times the
file's size and 64 MB; every field of a header that is not as it should be is a ValueError.
"""

import copy
import importlib.util
import itertools
import json
import os
import pickle
import re
import struct

import numpy as np
import pytest
from reading import read
from safetensors.numpy import save
from tiny import TS, XS, N, T, TwoLayerNet, V

from rnnfast import convert, data, io
from rnnfast.commands import inputs, settings
from rnnfast.io import headers
from rnnfast.models import LanguageModel, Rnnlm, load_model
from rnnfast.optim import SGD, Adam
from rnnfast.trainer import RnnlmTrainer, Trainer

HEAD = b"\x80\x03"
TWO_BYTES = "é" * 5_000_000  # two in a pickle, one in a bytes object


# Texts


def words(length):
    return " ".join(map("".join, itertools.product("abcdefghij", repeat=length)))


TEXTS = {
    "ends of lines": ("\n" * 3_000_000, "read"),
    "short words": ("ab " * 2_000_000, "read"),
    "one character of four bytes": ("\U0001f600" + "a\r\n" * 2_000_000, "read"),
    "words that all differ": (words(6), "a vocabulary of more than .* words is too large for a"),
    "a word": (" a" + "b" * 2_000_000, "a word of more than 1,048,576 characters at position"),
    "a long word": ("b" * 1_000_000 + " a a a a", "read"),
}


@pytest.mark.parametrize("reader", ["word", "valid"])
@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.one_in(4)
def test_texts_stay_within_the_file(name, reader, tmp_path):
    content, message = TEXTS[name]
    path = tmp_path / "text.txt"
    path.write_text(content, newline="")
    of_vocabulary = "vocabulary" in message and reader != "word"
    assert re.search("read" if of_vocabulary else message, read(reader, path))


def test_characters_that_all_differ(tmp_path):
    path = tmp_path / "text.txt"
    text = "".join(map(chr, [*range(32, 0xD800), *range(0xE000, 0x110000)]))
    path.write_text(text, encoding="utf-8")
    assert "characters is too large for a text of 1,112,032 characters" in read("char", path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Unix has pipes with a name")
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_has_no_end_is_not_opened(kind, tmp_path):
    """A pipe waits for who writes into it, and a device gives zeros for ever."""
    path = "/dev/zero"
    if kind == "pipe":
        os.mkfifo(path := str(tmp_path / "pipe"))
    readers = [data.read_text, io.load_weights, io.load_pickle, load_model, inputs.open_model]
    if importlib.util.find_spec("onnx"):
        readers.append(convert.from_onnx)
    for reader in readers:
        with pytest.raises(ValueError, match=f"{path}: must be a regular file, got a pipe or a de"):
            reader(path)


# Pickles


def pickles():
    latin = b"(X" + struct.pack("<I", 2 * len(TWO_BYTES)) + TWO_BYTES.encode() + b"q\x01"
    encode = b"c_codecs\nencode\nh\x01X\x06\x00\x00\x00latin1\x86R"
    wide = [np.zeros(s, "f2") for s in ((5, 1), (1, 1), (10**6, 1), (1,), (1, 1), (1,))]
    flat = [np.zeros(s, "f2") for s in ((10**6, 1), (1, 0), (10**6, 0), (0,), (1, 1), (1,))]
    return {
        "tuples in tuples as a key": (
            HEAD + b"})" + b"\x85" * 150_000 + b"K\x01s.",
            "it has the opcode EMPTY_DICT",
        ),
        "tuples in tuples": (HEAD + b"])" + b"\x85" * 90_000 + b"a.", "something else than arr"),
        "bytearray of a size": (
            HEAD + b"](cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85Re.",
            "something else than arrays",
        ),
        "lists": (HEAD + b"]" * 2_000_000, "it has too many parts"),
        "a memo": (b"\x80\x04K\x01" + b"\x94" * 2_000_000 + b".", "it has too many parts"),
        "one text encoded again and again": (
            HEAD + b"]" + latin + encode * 200 + b"e.",
            "its bytes are more than the file",
        ),
        "a number of many digits": (HEAD + b"]I" + b"9" * 10**6 + b"\na.", "not a pickled list"),
        "a model wider than its weights": (pickle.dumps(wide), "numbers are too few"),
        "weights without a width": (pickle.dumps(flat), "numbers are too few"),
    }


@pytest.mark.parametrize("name", pickles())
def test_pickles_stay_within_the_file(name, tmp_path):
    content, message = pickles()[name]
    path = tmp_path / "weights.pkl"
    path.write_bytes(content)
    assert message in read("pickle", path)


@pytest.mark.parametrize(
    "shape", [(-1,), (2, -1), [4], "4", (True, 4), (2.0, 2), ((((2,),),),), (2**70, 0), (2**62, 4)]
)
def test_shapes_of_arrays(shape, tmp_path):
    class Lies:
        def __reduce__(self):
            made = np.zeros(4, "f2").__reduce__()
            return made[0], made[1], (1, shape, np.dtype("f2"), False, bytes(8))

    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps([Lies()]))
    with pytest.raises(ValueError, match="not a pickled list of arrays"):
        io.load_pickle(path)


def test_axes_in_another_order(tmp_path):
    array = np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2)
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps([array], 5))
    np.testing.assert_array_equal(io.load_pickle(path)[0], array)


# Headers of weight files


def weight_header(**change):
    sizes = {"vocab_size": 5, "wordvec_size": 3, "hidden_size": 4}
    header = {"format": 1, "model": "Rnnlm", "sizes": sizes, "vocabulary": list("abcde")}
    return header | {"level": "char", "unknown": None} | change


def write_weights(path, header, **metadata):
    model = Rnnlm(5, 3, 4, rng=1)
    arrays = dict(zip(model.param_names, model.params, strict=True))
    source = header if isinstance(header, str) else json.dumps(header)
    path.write_bytes(save(arrays, {"rnnfast": source, **metadata}))


def large(text):
    return json.dumps(weight_header(vocabulary="HERE")).replace('"HERE"', text)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        (large("[" * 100_000 + "]" * 100_000), "nested too deeply"),
        (large('{"a":' * 100_000 + "1" + "}" * 100_000), "nested too deeply"),
        (large("[" + "[]," * 10**6 + "[]]"), "too many parts for the size of the file"),
        (large("[" + '{"":0},' * 500_000 + "[]]"), "too many parts for the size of the file"),
        (large('["😀", "' + "a" * 3_000_000 + '"]'), "vocabulary must have vocab_size = "),
        (large("1" * 5000), "damaged rnnfast header"),
    ],
    ids=["brackets", "brackets inside", "objects inside", "lists", "objects", "wide", "digits"],
)
def test_headers_stay_within_the_file(header, message, tmp_path):
    path = tmp_path / "weights.safetensors"
    write_weights(path, header)
    assert message in read("weights", path)


def test_safetensors_of_many_parts(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_weights(path, weight_header(), **{str(k): "" for k in range(400_000)})
    assert "too many parts for the size of the file" in read("weights", path)
    path.write_bytes(struct.pack("<Q", 2**20) + b'{"a":' + b"[" * (2**20 - 5) + b"1")
    assert "nested too deeply" in read("weights", path)
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}" * 50)
    assert "not a complete safetensors file" in read("weights", path)


@pytest.mark.parametrize("array", [np.zeros(10**6, "f4"), np.zeros(1, "f4")])
def test_sizes_that_the_file_does_not_hold(array, tmp_path):
    path = tmp_path / "weights.safetensors"
    sizes = {"vocab_size": 1, "wordvec_size": 1, "hidden_size": 1000, "layers": 1000}
    header = weight_header(model="LanguageModel", sizes=sizes, vocabulary=None)
    empty = {str(k): np.zeros(0, "f4") for k in range(3000)}
    path.write_bytes(save({"a": array, **empty}, {"rnnfast": json.dumps(header)}))
    assert "numbers are too few" in read("weights", path)


def test_a_type_that_numpy_does_not_have(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_weights(path, weight_header())
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"F32"', b'"I32"', 1))
    with pytest.raises(ValueError, match="arrays must be all float32"):
        load_model(path)
    head = json.dumps(
        {
            "a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
            "__metadata__": {"rnnfast": json.dumps(weight_header())},
        }
    ).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + bytes(4))
    with pytest.raises(ValueError, match="an array cannot be read"):
        load_model(path)


WRONG_WEIGHTS = [
    ("format", True, "format must be an integer"),
    ("format", 1.0, "format must be an integer from 0 to .*, got float 1.0"),
    ("format", "1", "format must be an integer from 0 to .*, got '1'"),
    ("format", None, "format must be an integer from 0 to .*, got null"),
    ("model", ["Rnnlm"], "model must be a string, got a list"),
    ("model", {"Rnnlm": 1}, "model must be a string, got an object"),
    ("model", 3, "model must be a string, got int 3"),
    ("sizes", [["vocab_size", 5]], "sizes must be an object, got a list"),
    ("sizes", "abc", "sizes must be an object, got 'abc'"),
    ("sizes", {"vocab_size": [5]}, "sizes.vocab_size must be a string, a finite number, true or f"),
    ("sizes", {"dropout": float("nan")}, "sizes.dropout must be a string, a finite number, true"),
    ("vocabulary", 5, "vocabulary must be a list, got int 5"),
    ("vocabulary", "abcde", "vocabulary must be a list, got 'abcde'"),
    ("vocabulary", {"a": 0}, "vocabulary must be a list, got an object"),
    ("vocabulary", [1, 2, 3, 4, 5], r"vocabulary\[0\] must be a string, got int 1"),
    ("vocabulary", ["a", "b", "c", "d", ["e"]], r"vocabulary\[4\] must be a string, got a list"),
    ("vocabulary", ["a", "b", "c", "d", ""], r"vocabulary\[4\] must not be empty"),
    ("vocabulary", ["a", "b", "c", "d", "d"], "vocabulary must be of distinct tokens"),
    ("vocabulary", ["a", "b", "c", "d", "\ud800"], r"vocabulary\[4\] must be a string of Unicode"),
    ("level", "sentence", "level must be one of 'char', 'word', got 'sentence'"),
    ("level", ["char"], "level must be one of 'char', 'word', got a list"),
    ("level", None, "level must be one of 'char', 'word', got null"),
    ("unknown", 3, "unknown must be a string, got int 3"),
    ("unknown", "x", "unknown must be one of the vocabulary, got 'x'"),
    ("prime", "x", "prime must be a list, got 'x'"),
    ("prime", [0, 1000], "prime must be ids of a vocabulary of [0-9]+, got int 1000"),
    ("checkpoint", [], "checkpoint must be an object, got a list"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG_WEIGHTS)
def test_fields_of_weight_files(name, value, message, tmp_path):
    path = tmp_path / "weights.safetensors"
    write_weights(path, weight_header(**{name: value}))
    for reader in (io.load_weights, io.load_header, load_model, Rnnlm(5, 3, 4).load_params):
        with pytest.raises(ValueError, match=rf"weights\.safetensors: damaged .*\({message}"):
            reader(path)


@pytest.mark.parametrize("name", ["format", "model", "sizes", "vocabulary"])
def test_fields_that_are_missing_or_twice(name, tmp_path):
    path = tmp_path / "weights.safetensors"
    header = weight_header()
    write_weights(path, {key: value for key, value in header.items() if key != name})
    with pytest.raises(ValueError, match=rf"damaged rnnfast header \({name} is missing\)"):
        load_model(path)
    source = json.dumps(header)
    write_weights(path, source[:-1] + f', "{name}": 1}}')
    with pytest.raises(ValueError, match=rf"damaged rnnfast header \({name} is given twice\)"):
        load_model(path)


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    path = tmp_path / "weights.safetensors"
    for vocabulary, match in (
        (dict(enumerate("abcde")), "vocabulary must be a list, got an object"),
        (["a", "a", "b", "c", "d"], "vocabulary must be of distinct tokens"),
    ):
        with pytest.raises(ValueError, match=match):
            Rnnlm(5, 3, 4).save_params(path, vocabulary)
    assert not path.exists()


# Checkpoints


def rnnlm_trainer():
    return RnnlmTrainer(LanguageModel(V, 5, 5, dropout=0.5, rng=1), Adam(), write=lambda line: None)


def net_trainer():
    return Trainer(TwoLayerNet(), SGD(), write=lambda line: None)


@pytest.fixture
def saved(tmp_path):
    """-> a function of a trainer that writes a checkpoint amid a fit: its arrays and header."""

    def make(trainer):
        def stop(step):
            trainer.save_checkpoint(tmp_path / "checkpoint", {"mine": [1]})
            trainer.stop()

        trainer.callbacks = [stop]
        if isinstance(trainer, RnnlmTrainer):
            trainer.fit(XS, TS, 1, N, T)
        else:
            trainer.fit(np.zeros((20, 2)), np.zeros(20, int), 1, 4)
        return io.load_arrays(tmp_path / "checkpoint")

    return make


def put(header, place, value):
    """A copy of a header with another value at a place, "a.b.0"."""
    header = copy.deepcopy(header)
    *path, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    inner = header
    for key in path:
        inner = inner[key]
    inner[last] = value
    return header


WRONG_CHECKPOINTS = [
    ("trainer", ["RnnlmTrainer"], r"checkpoint.trainer must be a string, got a list"),
    ("optimizer", {"Adam": {}}, "checkpoint.optimizer must be a list of 2, got an object"),
    ("optimizer.0", 3, r"checkpoint.optimizer\[0\] must be a string, got int 3"),
    ("optimizer.1", [1], r"checkpoint.optimizer\[1\] must be an object, got a list"),
    ("optimizer.1.lr", "0.1", r"checkpoint.optimizer\[1\].lr must be a number, got '0.1'"),
    ("optimizer.1.iter", -1, r"checkpoint.optimizer\[1\].iter must be an integer from 0"),
    ("optimizer.1.iter", 1.5, r"checkpoint.optimizer\[1\].iter must be an integer from 0"),
    ("optimizer.1.colour", 1, "checkpoint.optimizer: Adam: state must have"),
    (
        "random.0",
        10**6,
        r"checkpoint.random\[0\] must be an integer from 0 to 624, got int 1000000",
    ),
    ("random.0", -1, r"checkpoint.random\[0\] must be an integer"),
    ("random.1", 7, r"checkpoint.random\[1\] must be an integer from 0 to 1"),
    ("random.2", None, r"checkpoint.random\[2\] must be a number, got null"),
    ("progress", [], "checkpoint.progress must be an object, got a list"),
    ("progress.epoch", "0", "checkpoint.progress.epoch must be an integer from 0"),
    ("progress.iter", -1, "checkpoint.progress.iter must be an integer from 0"),
    ("seconds", None, "checkpoint.seconds must be a number, got null"),
    ("max_iter", 0, "checkpoint.max_iter must be an integer from 1"),
    ("progress.size", 4, "checkpoint.progress.size must be an object, got int 4"),
    ("progress.size.batch_size", 1.5, "checkpoint.progress.size.batch_size must be an integer"),
    ("current_epoch", True, "checkpoint.current_epoch must be an integer from 0"),
    ("eval_epochs", ["1"], r"checkpoint.eval_epochs\[0\] must be a number, got '1'"),
    ("eval_epochs", [0.5] * 99, "eval_epochs must be of . evaluations at most"),
    ("valid_list", 3.0, "checkpoint.valid_list must be a list, got float 3.0"),
    ("valid_list", [None], r"checkpoint.valid_list\[0\] must be a number, got null"),
    ("progress.valid", -1, "checkpoint.progress.valid must be an integer from 0"),
    ("eval_interval", 0, "checkpoint.eval_interval must be an integer from 1"),
    ("time_idx", "3", "checkpoint.time_idx must be an integer from 0"),
    ("time_idx", None, "checkpoint.time_idx is missing"),
    ("ppl_list", "123", "checkpoint.ppl_list must be a list, got '123'"),
    ("ppl_list", [1.0, "2"], r"checkpoint.ppl_list\[1\] must be a number, got '2'"),
    ("recurrent", [1], "checkpoint.recurrent must be an integer from 0"),
    ("dropout", 2, "checkpoint.dropout must be a list, got int 2"),
    ("dropout.0", [1], r"checkpoint.dropout\[0\] must be a list of 2, got a list"),
    ("dropout.0.0", -1, r"checkpoint.dropout\[0\]\[0\] must be an integer from 0"),
    ("dropout.0.1", [2**64, 0], r"checkpoint.dropout\[0\]\[1\]\[0\] must be an integer from 0"),
]


@pytest.mark.parametrize(("place", "value", "message"), WRONG_CHECKPOINTS)
def test_fields_of_checkpoints(place, value, message, saved, tmp_path):
    arrays, header = saved(rnnlm_trainer())
    other = tmp_path / "other"
    io.save_arrays(other, arrays, put(header, f"checkpoint.{place}", value))
    trainer = rnnlm_trainer()
    before = [param.tobytes() for param in trainer.model.params]
    random = np.random.get_state()[1].tobytes()
    with pytest.raises(ValueError, match=rf"other: damaged checkpoint \({message}"):
        trainer.load_checkpoint(other)
    assert [param.tobytes() for param in trainer.model.params] == before
    assert np.random.get_state()[1].tobytes() == random


def test_every_field_of_a_checkpoint_is_asked_for(saved, tmp_path):
    arrays, header = saved(rnnlm_trainer())
    optional = {"eval_epochs", "valid_list"}  # older checkpoints have none
    for name in header["checkpoint"].keys() - optional:
        fewer = {key: value for key, value in header["checkpoint"].items() if key != name}
        io.save_arrays(tmp_path / "other", arrays, {**header, "checkpoint": fewer})
        with pytest.raises(ValueError, match=rf"damaged checkpoint \(checkpoint.{name} is missing"):
            rnnlm_trainer().load_checkpoint(tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("random", np.zeros(624), r"the array random must be uint32 \(624,\)"),
        ("random", np.zeros(2, "u4"), r"the array random must be uint32 \(624,\)"),
        ("order", np.arange(4), "there is an array order"),
        ("colour", np.zeros(1), "there are arrays for colour"),
        ("state/x/0", np.zeros((N, 5), "f4"), "states must be no 'x/0'"),
        ("state/7/0", np.zeros((N, 5), "f4"), "states must be no '7/0'"),
        ("state/0/0", np.zeros((N, 5)), "state/0 must be float32, found float64"),
        ("state/0/0", np.zeros((N + 1, 5), "f4"), r"states must be of one N, found \[4, 5\]"),
        ("optimizer/m/0", np.zeros((2, 2), "f4"), "the optimiser's m must be arrays like the par"),
        ("optimizer/q/0", np.zeros((2, 2), "f4"), "the optimiser's arrays must be m, v"),
    ],
)
def test_arrays_of_checkpoints(name, array, message, saved, tmp_path):
    arrays, header = saved(rnnlm_trainer())
    io.save_arrays(tmp_path / "other", {**arrays, name: array}, header)
    with pytest.raises(ValueError, match=rf"damaged checkpoint \({message}"):
        rnnlm_trainer().load_checkpoint(tmp_path / "other")


def test_the_order_of_samples(saved, tmp_path):
    arrays, header = saved(net_trainer())
    for order in (None, arrays["order"][:-1], arrays["order"] + 1, arrays["order"].astype("f4")):
        others = {name: array for name, array in arrays.items() if name != "order"}
        others |= {} if order is None else {"order": order}
        io.save_arrays(tmp_path / "other", others, header)
        with pytest.raises(ValueError, match="the array order must be an order of the samples"):
            net_trainer().load_checkpoint(tmp_path / "other")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("extra", None, "extra must be an object, got null"),
        ("extra", [1], "extra must be an object, got a list"),
        ("extra.settings", ["hidden"], "extra.settings must be an object, got a list"),
        (
            "extra.settings.level",
            "x",
            "extra.settings.level must be one of 'char', 'word', got 'x'",
        ),
        ("extra.settings.model", ["rnnlm"], "extra.settings.model must be one of .*, got a list"),
        ("extra.settings.optimizer", "x", "extra.settings.optimizer must be one of 'adam'"),
        ("extra.settings.batch_size", 0, "extra.settings.batch_size must be an integer from 1"),
        ("extra.settings.hidden", True, "extra.settings.hidden must be an integer from 1"),
        ("extra.settings.lr", "fast", "extra.settings.lr must be of type float or null"),
        ("extra.settings.tie", 1, "extra.settings.tie must be of type bool, got int 1"),
        ("extra.settings.colour", 1, "extra.settings has 'colour'"),
        ("extra.texts", "0", "extra.texts must be a list of 3, got '0'"),
        ("extra.texts", ["0", 3, None], r"extra.texts\[1\] must be a string, got int 3"),
        ("extra.best", "low", "extra.best must be a number"),
        ("extra.curve", "abc", "extra.curve must be a list, got 'abc'"),
        ("extra.curve", [[1]], r"extra.curve\[0\] must be a list of 2, got a list"),
        ("extra.valid", [[1, "2"]], r"extra.valid\[0\]\[1\] must be a number, got '2'"),
        ("extra.lowest", None, "extra.lowest must be a number, got null"),
        ("extra.log_bytes", -5, "extra.log_bytes must be an integer from 0"),
        ("extra.log_bytes", "5", "extra.log_bytes must be an integer from 0"),
    ],
)
def test_what_train_adds_to_checkpoints(place, value, message, saved, tmp_path):
    arrays, header = saved(rnnlm_trainer())
    header["extra"] = {
        "settings": {"hidden": 8, "lr": 1, "epochs": 2},
        "texts": ["0", None, None],
        "best": float("inf"),
        "curve": [[0.5, 3.5]],
        "valid": [],
        "lowest": float("inf"),
        "log_bytes": 10,
    }
    io.save_arrays(tmp_path / "other", arrays, header)
    assert settings.stored_settings(tmp_path / "other", {})[0].lr == 1
    io.save_arrays(tmp_path / "other", arrays, put(header, place, value))
    with pytest.raises(ValueError, match=rf"not a checkpoint of `rnnfast train` \({message}"):
        settings.stored_settings(tmp_path / "other", {})


# Damage at random


@pytest.mark.parametrize("kind", ["weights", "checkpoint"])
def test_values_of_other_types_anywhere(kind, saved, tmp_path):
    """Each value of a header in turn becomes one of every type: an error that names it, or read."""
    path = tmp_path / "other"
    if kind == "weights":
        header = weight_header()
        model = Rnnlm(5, 3, 4, rng=1)
        arrays, read = model._named_params(), load_model
    else:
        arrays, header = saved(rnnlm_trainer())
        read = rnnlm_trainer().load_checkpoint

    def places(value, before):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield f"{before}{key}"
            if isinstance(inner, (dict, list)):
                yield from places(inner, f"{before}{key}.")

    for place in places(header, ""):
        for value in (None, True, -1, 10**30, 0.5, float("nan"), "", "x", [], [[]], {}, {"": None}):
            io.save_arrays(path, arrays, {"format": 1, **put(header, place, value)})
            try:
                read(path)
            except ValueError as error:
                assert str(error).startswith(f"{path}: ")


def test_a_surrogate_and_digits_in_json():
    for source in ('"\ud800"', "1" * 5000, '{"a": 1, "a": 2}', "nul", '{"a": ' * 3):
        with pytest.raises(headers.Wrong):
            headers.parse(source, 2**20)
