"""ONNX models read and written, against ONNX Runtime and the onnx package's own node tests."""

import io
import os
import warnings

import numpy as np
import pytest
from cases import assert_close

import rnnfast
from rnnfast import convert
from rnnfast.io import to_numpy

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.usefixtures("device")

N, T, D, H = 4, 6, 3, 5
LENGTHS = np.array([3, 6, 0, 4], np.int64)
GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
DIRECTIONS = ("forward", "reverse", "bidirectional")
directions = pytest.mark.parametrize("direction", DIRECTIONS)


@pytest.fixture
def rng():
    return np.random.default_rng(8)


def start(model):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what it cannot do is an exception, too
    content = model if isinstance(model, bytes) else model.SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(model, **inputs):
    return start(model).run(None, inputs)


# The onnx package's node tests


def node_tests():
    with np.errstate(all="ignore"):  # ONNX's own products have been seen to warn, of nothing
        from onnx.backend.test.case.node import _NodeTestCases, gru, lstm, rnn

    assert gru and lstm and rnn  # importing them makes the cases
    return [case for case in _NodeTestCases if case.model.graph.node[0].op_type in GATES]


NODE_TESTS = node_tests()


def test_all_node_tests_are_here():
    names = {case.name for case in NODE_TESTS}
    assert len(names) == len(NODE_TESTS) >= 18
    assert {case.model.graph.node[0].op_type for case in NODE_TESTS} == set(GATES)


@pytest.mark.parametrize("case", NODE_TESTS, ids=lambda case: case.name)
def test_node_tests(case):
    """Their weights are inputs like X."""
    graph = case.model.graph
    names = [[v.name for v in values] for values in (graph.input, graph.output)]
    ((inputs, outputs),) = case.data_sets
    given, expected = (
        dict(zip(n, a, strict=True)) for n, a in zip(names, (inputs, outputs), strict=True)
    )
    weights = {name: given[name] for name in ("W", "R", "B", "P") if name in given}
    assert given.keys() <= {*weights, "X", "sequence_lens", "initial_h", "initial_c"}
    layer = convert.from_onnx(case.model, weights=weights, stateful=True)

    layout = next((a.i for a in graph.node[0].attribute if a.name == "layout"), 0)

    def batch_second(array):
        return array.swapaxes(0, 1) if layout else array

    starts = [batch_second(given[n]) for n in ("initial_h", "initial_c") if n in given]
    if starts:
        layer.set_state(*by_layer(starts))
    xs = given["X"] if layout else given["X"].swapaxes(0, 1)
    hs = layer.forward(xs, lengths=given.get("sequence_lens"), train=False)
    Y = ours_as_Y(hs, ways=len(given["W"]))
    got = {"Y": Y.transpose(2, 0, 1, 3) if layout else Y}
    got |= {n: batch_second(y) for n, y in by_state(layer, len(given["W"])).items()}
    for name, value in expected.items():
        assert_close(got[name], value, name)


def by_layer(states):
    """h (directions, N, H), and c, in the order of layer.state."""
    return [state[k] for k in range(len(states[0])) for state in states]


def by_state(layer, ways):
    """The other way round, by ONNX's names."""
    state = [to_numpy(value) for value in layer.state]
    count = len(state) // ways
    return {f"Y_{'hc'[k]}": np.stack(state[k::count]) for k in range(count)}


def ours_as_Y(hs, ways):
    """(N, T, ways * H) as (T, ways, N, H)."""
    return hs.reshape(*hs.shape[:2], ways, -1).transpose(1, 2, 0, 3)


# Models of others


def random_node(op, direction, rng, dtype="f4", bias=True, P=False, states=True, **attributes):
    """A model of one node with weights as initializers, its inputs for N, T, D."""
    ways, G = 2 if direction == "bidirectional" else 1, GATES[op]
    helper, f = onnx.helper, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    shapes = {"W": (ways, G * H, D), "R": (ways, G * H, H)}
    if bias:
        shapes["B"] = (ways, 2 * G * H)
    if P:
        shapes["P"] = (ways, 3 * H)
    weights = {n: rng.normal(0, 0.5, shape).astype(dtype) for n, shape in shapes.items()}
    inputs = {"X": rng.normal(size=(T, N, D)).astype(dtype), "sequence_lens": LENGTHS.astype("i4")}
    outputs = ["Y", "Y_h", "Y_c"][: 3 if op == "LSTM" else 2]
    if states:
        for name in ("initial_h", "initial_c")[: len(outputs) - 1]:
            inputs[name] = rng.normal(size=(ways, N, H)).astype(dtype)
    names = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
    there = {*weights, *inputs}
    names = [n if n in there else "" for n in names[: 8 if op == "LSTM" else 6]]
    node = helper.make_node(
        op, names, outputs, name="it", direction=direction, hidden_size=H, **attributes
    )
    kinds = {"sequence_lens": onnx.TensorProto.INT32}
    graph = helper.make_graph(
        [node],
        "one node",
        [helper.make_tensor_value_info(n, kinds.get(n, f), a.shape) for n, a in inputs.items()],
        [helper.make_tensor_value_info(n, f, None) for n in outputs],
        [onnx.numpy_helper.from_array(a, n) for n, a in weights.items()],
    )
    opset = [helper.make_opsetid("", 14)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8), inputs, weights


VARIANTS = {
    "rnn": ("RNN", {}),
    "relu": ("RNN", {"relu": True}),
    "lstm": ("LSTM", {}),
    "lstm, named activations": ("LSTM", {"named": True}),
    "peepholes": ("LSTM", {"P": True}),
    "gru": ("GRU", {"linear_before_reset": 0}),
    "gru, reset after": ("GRU", {"linear_before_reset": 1}),
}
variants = pytest.mark.parametrize(("op", "options"), VARIANTS.values(), ids=VARIANTS)


def with_activations(options, direction):
    ways = 2 if direction == "bidirectional" else 1
    options = dict(options)
    if options.pop("relu", False):
        options["activations"] = ["Relu"] * ways
    if options.pop("named", False):
        options["activations"] = ["Sigmoid", "Tanh", "Tanh"] * ways
    return options


@directions
@variants
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_read_equals_onnx_runtime(op, options, direction, bias, rng):
    options = with_activations(options, direction)
    lengths = np.maximum(LENGTHS, 1)  # with none ONNX Runtime forgets the initial state
    model, inputs, _ = random_node(op, direction, rng, bias=bias, **options)
    inputs["sequence_lens"] = lengths.astype("i4")
    Y, *finals = run(model, **inputs)

    layer = convert.from_onnx(model, stateful=True)
    layer.set_state(*by_layer([inputs[n] for n in inputs if n.startswith("initial")]))
    hs = layer.forward(inputs["X"].swapaxes(0, 1), lengths=inputs["sequence_lens"])
    assert_close(ours_as_Y(hs, ways=Y.shape[1]), Y, "Y")
    for got, final in zip(by_state(layer, Y.shape[1]).values(), finals, strict=True):
        assert_close(got, final)


def test_lengths_of_zero_from_zero_states(rng):
    model, inputs, _ = random_node("LSTM", "bidirectional", rng, states=False)
    Y, *finals = run(model, **inputs)
    layer = convert.from_onnx(model)
    hs = layer.forward(inputs["X"].swapaxes(0, 1), lengths=LENGTHS)
    assert_close(ours_as_Y(hs, ways=2), Y)
    for got, final in zip(by_state(layer, 2).values(), finals, strict=True):
        assert_close(got, final)


def test_a_node_alone_and_a_file(tmp_path, rng):
    model, _, weights = random_node("GRU", "forward", rng)
    path = tmp_path / "gru.onnx"
    path.write_bytes(model.SerializeToString())
    for source, more in ((path, {}), (str(path), {}), (model.graph.node[0], {"weights": weights})):
        same_bits(*(convert.from_onnx(s, stateful=True, **more) for s in (source, model)))


def test_constants_may_be_nodes(rng):
    model, _, weights = random_node("RNN", "forward", rng)
    other = onnx.ModelProto()
    other.CopyFrom(model)
    del other.graph.initializer[:]
    for name, array in weights.items():
        value = onnx.numpy_helper.from_array(array)
        other.graph.node.insert(0, onnx.helper.make_node("Constant", [], [name], value=value))
    same_bits(*(convert.from_onnx(source, stateful=True) for source in (other, model)))


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("layout", [0, 1])
def test_constant_initial_states(direction, layout, rng):
    model, inputs, _ = random_node("LSTM", direction, rng, layout=layout)
    starts = {n: a for n, a in inputs.items() if n.startswith("initial")}
    given = {n: a.swapaxes(0, 1) if layout else a for n, a in starts.items()}
    layer = convert.from_onnx(model, weights=given, stateful=True)
    for got, expected in zip(layer.state, by_layer(list(starts.values())), strict=True):
        assert_close(got, expected, tolerance=0)
    with pytest.raises(ValueError, match=r"LSTM node 'it': initial_h is a constant other than ze"):
        convert.from_onnx(model, weights=given)
    zeros = {n: np.zeros_like(a) for n, a in given.items()}
    assert set(convert.from_onnx(model, weights=zeros).state) == {None}
    with pytest.raises(ValueError, match=r"initial_h must be \(directions, N, H\) = \(., N, 5\)"):
        bad = {"initial_h": np.ones((3, 3, 3), "f4")}
        convert.from_onnx(model, weights=bad, stateful=True)


@pytest.mark.parametrize(("cell", "both"), [("LSTM", True), ("GRU", False)])
def test_what_pytorch_exports(cell, both, rng):
    """Two levels, with an embedding below and a product above that are left to the reader."""
    torch = pytest.importorskip("torch")

    class Tagger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(7, D)
            self.rnn = getattr(torch.nn, cell)(D, H, 2, bidirectional=both, batch_first=True)
            self.out = torch.nn.Linear(2 * H if both else H, 2)

        def forward(self, ids):
            return self.out(self.rnn(self.embedding(ids))[0])

    tagger, file = Tagger().eval(), io.BytesIO()
    ids = torch.arange(N * T).reshape(N, T) % 7
    with warnings.catch_warnings():  # of PyTorch, about its exporters
        warnings.simplefilter("ignore")
        torch.onnx.export(tagger, (ids,), file, dynamo=False)
    stack = convert.from_onnx(onnx.load_from_string(file.getvalue()))
    xs = tagger.embedding(ids)
    expected = tagger.rnn(xs)[0]
    assert_close(stack.forward(xs.detach().numpy()), expected.detach().numpy())


# Models of ours


def make(rng, kind, way="forward", D=D, H=H, dtype="f4", bias=True, peepholes=False, **options):
    G = GATES[kind.upper()]
    b = ((2, G * H) if options.get("reset_after") else (G * H,)) if bias else None
    both = way == "bidirectional"
    weights = []
    for k in range(2 if both else 1):
        weights += [rng.normal(0, 0.5, size).astype(dtype) for size in ((D, G * H), (H, G * H))]
        weights.append(None if b is None else rng.normal(0, 0.5, b).astype(dtype))
        if peepholes:
            name = f"Wp{k + 1}" if both else "Wp"
            options[name] = rng.normal(0, 0.5, (3, H)).astype(dtype)
    cls = getattr(rnnfast, f"Time{'Bi' if both else ''}{kind.upper()}")
    layer = cls(*weights, stateful=True, **options)
    return rnnfast.TimeReverse(layer) if way == "reverse" else layer


LAYERS = {
    "rnn": ("rnn", {}),
    "relu": ("rnn", {"nonlinearity": "relu"}),
    "lstm": ("lstm", {}),
    "peepholes": ("lstm", {"peepholes": True}),
    "gru": ("gru", {}),
    "gru, z keeps": ("gru", {"z_keeps": True}),
    "gru, reset after": ("gru", {"reset_after": True}),
    "gru, both": ("gru", {"reset_after": True, "z_keeps": True}),
}
layers = pytest.mark.parametrize(("kind", "options"), LAYERS.values(), ids=LAYERS)


def same_bits(layer, other):
    assert type(layer) is type(other)
    if hasattr(layer, "parts"):
        for a, b in zip(layer.parts, other.parts, strict=True):
            same_bits(a, b)
        return
    assert layer._options == other._options
    for p, q in zip(layer.params, other.params, strict=True):
        assert p.dtype == q.dtype and p.shape == q.shape and p.tobytes() == q.tobytes()


def check(layer, rng, lengths=None, states=True):
    """ONNX Runtime on what is written gives what the layer gives, and it reads back."""
    model = convert.to_onnx(layer, lengths=lengths is not None, states=states)
    onnx.checker.check_model(model, full_check=True)
    session = start(model)
    xs = rng.normal(size=(N, T, D)).astype("f4")
    names = [i.name for i in session.get_inputs()]
    inputs = {"xs": xs}
    if lengths is not None:
        inputs["lengths"] = lengths
    layer.reset_state()
    if states:
        shapes = [(N, part.Wh.shape[0]) for part in flat(layer) for _ in part.states]
        starts = [rng.normal(size=shape).astype("f4") for shape in shapes]
        inputs |= zip(names[len(inputs) :], starts, strict=True)
        layer.set_state(*starts)
    assert names == list(inputs)
    hs = layer.forward(xs, lengths=lengths, train=False)
    outputs = session.run(None, inputs)
    for k, (got, expected) in enumerate(zip(outputs, (hs, *layer.state), strict=True)):
        assert_close(got, expected, f"output {k}")
    return model, [o.name for o in session.get_outputs()]


def flat(layer):
    return [p for part in layer.parts for p in flat(part)] if hasattr(layer, "parts") else [layer]


@directions
@layers
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
def test_written_equals_onnx_runtime(kind, options, direction, bias, lengths, rng):
    layer = make(rng, kind, direction, bias=bias, **options)
    model, _ = check(layer, rng, lengths)
    check(layer, rng, lengths, states=False)
    if kind != "gru" or options.get("z_keeps"):
        same_bits(convert.from_onnx(model, stateful=True), layer)


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
def test_a_stack_of_all_kinds(lengths, rng):
    stack = rnnfast.TimeStack(
        [
            make(rng, "lstm", "bidirectional", peepholes=True),
            make(rng, "rnn", "reverse", D=2 * H, H=4),
            make(rng, "gru", D=4, H=6, z_keeps=True),
        ],
        dropout_ratio=0.5,  # in training alone
    )
    model, names = check(stack, rng, lengths)
    assert names == ["hs", "h_n_0", "c_n_0", "h_n_1", "c_n_1", "h_n_2", "h_n_3"]
    read = convert.from_onnx(model, stateful=True)
    assert read.drop_layers == []
    same_bits(read, stack)
    check(read, rng, lengths)


def test_names_of_inputs_and_outputs(rng):
    layer = make(rng, "lstm")
    _, outputs = check(layer, rng, LENGTHS)
    assert outputs == ["hs", "h_n", "c_n"]
    graph = convert.to_onnx(layer, lengths=True, states=True).graph
    assert [i.name for i in graph.input] == ["xs", "lengths", "h_0", "c_0"]
    assert [i.name for i in convert.to_onnx(layer).graph.input] == ["xs"]


def test_float64_is_written_and_read(rng):
    """ONNX Runtime 1.32 does not run it."""
    for kind, options in LAYERS.values():
        layer = make(rng, kind, "bidirectional", dtype="f8", **options)
        model = convert.to_onnx(layer)
        onnx.checker.check_model(model, full_check=True)
        read, xs = convert.from_onnx(model), rng.normal(size=(N, T, D))
        assert_close(read.forward(xs), layer.forward(xs))
        if kind != "gru" or options.get("z_keeps"):
            same_bits(read, layer)


def test_the_file_is_written_at_once(tmp_path, rng, monkeypatch):
    path = tmp_path / "model.onnx"
    model = convert.to_onnx(make(rng, "gru"), path)
    assert path.read_bytes() == model.SerializeToString()
    assert os.listdir(tmp_path) == ["model.onnx"]
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        convert.to_onnx(make(rng, "lstm"), path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["model.onnx"]


# What is wrong


@pytest.mark.parametrize(
    ("op", "attributes", "match"),
    [
        ("LSTM", {"clip": 3.0}, "clip cannot be expressed, got 3.0"),
        ("LSTM", {"input_forget": 1}, "input_forget must be 0, got 1"),
        (
            "LSTM",
            {"activations": ["HardSigmoid", "Tanh", "Tanh"]},
            r"activations must be \('sigmoid', 'tanh', 'tanh'\), got \('hardsigmoid',",
        ),
        ("GRU", {"activations": ["Sigmoid", "Relu"]}, "activations must be"),
        ("RNN", {"activations": ["Affine"]}, r"activations must be \('tanh',\) or \('relu',\)"),
        ("RNN", {"activations": ["Tanh", "Tanh"]}, "activations must be"),
        ("RNN", {"activation_alpha": [0.1]}, "activation_alpha cannot be expressed"),
        ("RNN", {"activation_beta": [0.1]}, "activation_beta cannot be expressed"),
        ("GRU", {"layout": 2}, "layout must be 0 or 1, got 2"),
        ("GRU", {"of_a_later_opset": 2}, "of_a_later_opset cannot be expressed, got 2"),
    ],
)
def test_attributes_that_a_layer_cannot_express(op, attributes, match, rng):
    model, _, _ = random_node(op, "forward", rng, **attributes)
    with pytest.raises(ValueError, match=f"^from_onnx: {op} node 'it': {match}"):
        convert.from_onnx(model)


def test_directions_with_different_activations(rng):
    model, _, _ = random_node("RNN", "bidirectional", rng, activations=["Tanh", "Relu"])
    with pytest.raises(ValueError, match="RNN node 'it': activations must be"):
        convert.from_onnx(model)


def test_wrong_attributes_and_weights(rng):
    def edit(weights=(), **attributes):
        model, _, own = random_node("LSTM", "forward", rng, P=True)
        for attribute in model.graph.node[0].attribute:
            if attribute.name in attributes:
                value = attributes[attribute.name]
                new = onnx.helper.make_attribute(attribute.name, value)
                attribute.CopyFrom(new)
        return model, {n: a(own[n]) for n, a in dict(weights).items()}

    for (model, weights), error, match in (
        (edit(direction="sideways"), ValueError, "direction must be 'forward' or .*'sideways'"),
        (edit(hidden_size=4), ValueError, "hidden_size must be 5, got 4"),
        (
            edit({"W": lambda W: W[:, 1:]}),
            ValueError,
            r"W must be \(directions, 4\*H, D\) = \(1, 20, 3\), got \(1, 19, 3\)",
        ),
        (
            edit({"R": lambda R: np.concatenate((R, R))}),
            ValueError,
            r"R must be \(directions, 4\*H, H\) = \(1, 20, 5\), got \(2, 20, 5\)",
        ),
        (edit({"B": lambda B: B[0]}), ValueError, "B must be of 2 dimensions"),
        (edit({"P": lambda P: P[:, 1:]}), ValueError, r"P must be .* \(1, 15\), got \(1, 14\)"),
        (edit({"W": lambda W: W[:0]}), ValueError, "W must be of 3 dimensions, sizes from 1 up"),
        (
            edit({"B": lambda B: B.astype("f8")}),
            TypeError,
            "B must be a float32 array, got float64",
        ),
        (edit({"R": lambda R: R.astype("f2")}), TypeError, "R must be an array of float32 or .*16"),
        (edit({"R": lambda R: R.tolist()}), TypeError, "R must be an array of float32 .* got list"),
    ):
        with pytest.raises(error, match=f"^from_onnx: LSTM node 'it':? ?{match}"):
            convert.from_onnx(model, weights=weights)


def test_weights_that_are_no_constants(rng):
    model, inputs, _ = random_node("GRU", "forward", rng)
    with pytest.raises(ValueError, match=r"W must be a constant of the model or in weights, got '"):
        convert.from_onnx(model.graph.node[0])
    with pytest.raises(ValueError, match="sequence_lens is a constant of the model; a layer is"):
        convert.from_onnx(model, weights={"sequence_lens": inputs["sequence_lens"]})
    node = onnx.helper.make_node("GRU", ["X", "W"], ["Y"])
    with pytest.raises(ValueError, match="R is missing"):
        convert.from_onnx(node, weights={"W": np.ones((1, 6, 2))})


def test_sources_that_are_no_models(tmp_path):
    relu = onnx.helper.make_node("Relu", ["x"], ["y"])
    with pytest.raises(ValueError, match="node must be an RNN, LSTM or GRU, got 'Relu'"):
        convert.from_onnx(relu)
    with pytest.raises(ValueError, match="the model has no RNN, LSTM or GRU node"):
        convert.from_onnx(onnx.ModelProto())
    with pytest.raises(TypeError, match=r"source must be a path, a ModelProto or a .*, got dict"):
        convert.from_onnx({})
    with pytest.raises(FileNotFoundError):
        convert.from_onnx(tmp_path / "missing.onnx")
    path = tmp_path / "damaged.onnx"
    path.write_bytes(b"\xff" * 99)
    with pytest.raises(ValueError, match=r"damaged.onnx: not a complete ONNX model"):
        convert.from_onnx(path)


def test_nodes_that_are_not_on_top_of_each_other(rng):
    """Another order of the axes, or something between, would be silently lost."""
    stack = rnnfast.TimeStack([make(rng, "lstm", "bidirectional"), make(rng, "gru", D=2 * H)])
    match = "GRU node 'GRU_.*' must read what LSTM node 'LSTM_.*' gives, directions side by side"

    def refused(change):
        model = convert.to_onnx(stack)
        nodes = {node.op_type: node for node in reversed(model.graph.node)}
        between = [n for n in model.graph.node if n.op_type == "Transpose"][1]
        change(model.graph, nodes, between)
        with pytest.raises(ValueError, match=match):
            convert.from_onnx(model)

    def other_axes(graph, nodes, between):
        between.attribute[0].ints[:] = (2, 0, 1, 3)

    def no_axes(graph, nodes, between):
        between.attribute[0].ints[:] = (0, 0, 1, 7)

    def an_activation(graph, nodes, between):
        between.op_type = "Relu"

    def the_same_input(graph, nodes, between):
        nodes["GRU"].input[0] = nodes["LSTM"].input[0]

    def a_circle(graph, nodes, between):
        between.input[0] = nodes["Reshape"].output[0]

    for change in (other_axes, no_axes, an_activation, the_same_input, a_circle):
        refused(change)


def test_layers_that_onnx_cannot_express(rng):
    with pytest.raises(ValueError, match=r"to_onnx: full peepholes \(Wp\) cannot be expressed"):
        convert.to_onnx(make(rng, "lstm", Wp=np.ones((3, H, H), "f4")))
    with pytest.raises(ValueError, match=r"to_onnx: cell_clip cannot be expressed, got 3.0"):
        convert.to_onnx(make(rng, "lstm", cell_clip=3))
    with pytest.raises(TypeError, match=r"to_onnx: layer must be a TimeRNN, .*, got TimeAffine"):
        convert.to_onnx(rnnfast.TimeAffine(np.ones((2, 2)), np.ones(2)))
    mixed = rnnfast.TimeStack([make(rng, "rnn"), make(rng, "rnn", D=H, dtype="f8")])
    with pytest.raises(ValueError, match="to_onnx: all levels must have one dtype, got"):
        convert.to_onnx(mixed)


def test_damaged_models(rng, tmp_path):
    """A byte changed or the rest missing: an error that says so, or another model."""
    stack = rnnfast.TimeStack([make(rng, "lstm", "bidirectional"), make(rng, "gru", D=2 * H)])
    content, path = convert.to_onnx(stack).SerializeToString(), tmp_path / "damaged.onnx"
    for k in range(150):
        damaged = bytearray(content)
        at = int(rng.integers(len(content)))
        if k % 2:
            del damaged[at:]
        else:
            damaged[at] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            convert.from_onnx(path)
        except (TypeError, ValueError) as error:
            assert str(error)
