"""ONNX files that are damaged on purpose: a ValueError, in time and within the file's memory."""

import numpy as np
import pytest
from onnx_models import FLOAT, H, Model
from reading import read

from rnnfast import convert

onnx = pytest.importorskip("onnx")
helper = onnx.helper


def field(number, content):
    """A field of a length: bytes, a text or a message in a message."""
    size, length = len(content), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def empty(number):
    """Very many fields that have nothing in them."""
    return bytes([number << 3 | 2, 0]) * 2_000_000


# graph is 7 of a model; of a graph node is 1, initializer 5, input 11; of a node input is 1
PARTS = {
    "nodes": field(7, empty(1)),
    "initializers": field(7, empty(5)),
    "attributes": field(7, field(1, empty(5))),
    "names": field(7, field(1, empty(1))),
    "inputs": field(7, empty(11)),
    "opsets": empty(8),
    "numbers": field(7, field(5, field(7, bytes(8_000_000)))),
    "numbers one by one": field(7, field(5, b"\x38\x00" * 2_000_000)),
    "dimensions": field(7, field(11, field(2, field(1, field(2, empty(1)))))),
    "groups": b"\x0b" * 1_000_000,
    "graphs in graphs": b"\x0a\x7f" * 1_000_000,
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.one_in(2)
def test_files_of_many_parts(name, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(PARTS[name])
    assert "not a complete ONNX model" in read("onnx", path)


def huge(model, op):
    """A state of 2**40 numbers or more."""
    h = model.constant("h", np.ones((1, 1, H)))
    if op == "ConstantOfShape":
        shape = model.constant("shape", [1, 2**36, H], "i8")
        return model.add(op, shape, value=helper.make_tensor("", FLOAT, [1], [1.0]))
    if op in ("Expand", "Tile"):
        return model.add(op, h, model.constant("shape", [1, 2**36, 1], "i8"))
    if op == "outer sum":  # of a row and a column
        a = model.constant("a", np.ones((1, 100_000, 1)))
        b = model.constant("b", np.ones((1, 1, 100_000)))
        return model.add("Add", a, b)
    if op == "doubling":
        for k in range(60):
            h = model.add("Concat", h, h, axis=1, output=f"h{k}")
        return h
    if op == "powers":  # an integer of 2**60 digits, a size of as many factors
        k = model.constant("k", [3], "i8")
        for _ in range(60):
            k = model.add("Mul", k, k, output=f"k{len(model.nodes)}")
        return model.add("Expand", h, model.add("Concat", k, k, k, axis=0))
    if op == "sizes":
        size = model.add("Shape", "X", start=1, end=2)
        for _ in range(60):
            size = model.add("Mul", size, size, output=f"s{len(model.nodes)}")
        return model.add("Expand", h, model.add("Concat", size, size, size, axis=0))
    if op == "gather":
        h = model.add("Expand", h, model.constant("shape", [1, 2**20, 1], "i8"))
        places = model.constant("places", np.zeros(1000), "i8")
        for k in range(40):
            h = model.add("Gather", h, places, axis=k % 2, output=f"g{k}")
        return h
    many = model.constant("many", np.ones(100_000), "i8")  # an axis for each
    return model.add("Reshape" if op == "reshape" else "Unsqueeze", h, many)


@pytest.mark.parametrize(
    "op",
    [
        "ConstantOfShape",
        "Expand",
        "Tile",
        "outer sum",
        "doubling",
        "powers",
        "sizes",
        "gather",
        "reshape",
        "unsqueeze",
    ],
)
def test_graphs_that_ask_for_more_than_there_is(op, tmp_path):
    """batch_size makes some of them small: all samples start alike."""
    model = Model(np.random.default_rng(0))
    model.recurrent(initial_h="start")
    gru = model.nodes.pop()
    model.add("Identity", huge(model, op), output="start")
    model.nodes.append(gru)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.made().SerializeToString())
    outcome = read("onnx", path)
    assert outcome.strip() == "read" or "GRU node 'it': initial_h" in outcome
    if op in ("ConstantOfShape", "Expand", "Tile"):
        with pytest.raises(ValueError, match="initial_h is of 68719476736 samples, too many"):
            convert.from_onnx(path, stateful=True)


def test_a_chain_of_many_nodes(tmp_path):
    model = Model(np.random.default_rng(0))
    below = model.recurrent(name="a")
    x = model.add("Squeeze", below, model.constant("axis", [1], "i8"))
    nodes = [
        helper.make_node("Identity", [x if k == 0 else f"i{k - 1}"], [f"i{k}"])
        for k in range(20_000)
    ]
    model.nodes += nodes
    model.recurrent(X="i19999", D=H)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.made().SerializeToString())
    assert read("onnx", path).strip() == "read"


def test_data_in_other_files(tmp_path, monkeypatch):
    """Read where the file is, once for as much as it holds, and from nowhere else."""
    model = Model(np.random.default_rng(0))
    model.recurrent()
    made = model.made()
    expected = convert.from_onnx(made).Wx
    path = tmp_path / "model.onnx"
    onnx.save(made, path, save_as_external_data=True, location="data", size_threshold=0)
    np.testing.assert_array_equal(convert.from_onnx(path).Wx, expected)
    alone = onnx.load(path, load_external_data=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"W cannot be read \(its data is in another file; give"):
        convert.from_onnx(alone)

    def changed(**places):
        other = onnx.ModelProto()
        other.CopyFrom(alone)
        for tensor in other.graph.initializer:
            for entry in tensor.external_data:
                entry.value = places.get(entry.key, entry.value)
        (tmp_path / "sub").mkdir(exist_ok=True)
        file = tmp_path / "sub" / "model.onnx"
        file.write_bytes(other.SerializeToString())
        return file

    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "data").write_bytes((tmp_path / "data").read_bytes())
    convert.from_onnx(changed())
    for places in (
        {"location": "../data"},
        {"location": str(tmp_path / "data")},
        {"location": "none"},
        {"location": ""},
        {"length": "7"},
        {"length": "-4"},
        {"length": "x"},
        {"offset": "x"},
        {"offset": "1000000000"},
    ):
        with pytest.raises(ValueError, match="GRU node 'it': W cannot be read"):
            convert.from_onnx(changed(**places))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda W: W.dims.__setitem__(0, -1), "W cannot be read"),
        (lambda W: W.dims.__setitem__(0, 2**40), "W cannot be read"),
        (lambda W: setattr(W, "data_type", 99), "W cannot be read"),
        (lambda W: setattr(W, "data_type", 0), "W cannot be read"),
        (lambda W: setattr(W, "data_type", onnx.TensorProto.STRING), "W cannot be read"),
        (lambda W: setattr(W, "raw_data", b"123"), "W cannot be read"),
        (lambda W: W.ClearField("raw_data"), "W cannot be read"),
    ],
)
def test_tensors_that_are_damaged(change, match):
    model = Model(np.random.default_rng(0))
    model.recurrent()
    change(model.constants[0])
    with pytest.raises(ValueError, match=rf"^from_onnx: GRU node 'it': {match}"):
        convert.from_onnx(model.made())


def test_random_damage(tmp_path):
    """Bytes changed in a model of everything: an error that says so, or another model."""
    rng = np.random.default_rng(3)
    model = Model(rng)
    h = model.constant("h", rng.normal(size=(1, 1, H)))
    size = model.add("Shape", "X", start=1, end=2)
    one = model.constant("one", [1], "i8")
    shape = model.add("Concat", one, size, one, axis=0)
    h = model.add("Expand", h, shape)
    y = model.recurrent("LSTM", name="a", ways=2, B="")
    y = model.add("Transpose", y, perm=(0, 2, 1, 3))
    y = model.add("Reshape", y, model.constant("target", [0, 0, -1], "i8"))
    model.recurrent("GRU", X=y, D=2 * H, initial_h=h)
    content = model.made().SerializeToString()
    small = [k for k in range(len(content)) if content[k : k + 1].isalnum() or content[k] < 64]
    path = tmp_path / "model.onnx"
    for _ in range(400):
        damaged = bytearray(content)
        for place in rng.choice(small, 2):
            damaged[place] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            convert.from_onnx(path, stateful=True, batch_size=2)
        except (TypeError, ValueError) as error:
            assert str(error)
