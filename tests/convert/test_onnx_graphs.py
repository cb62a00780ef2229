"""What an ONNX graph says of its recurrent nodes: nothing of it is ignored."""

import numpy as np
import pytest
from onnx_models import FLOAT, D, H, Model, N, T, helper, numpy_helper, onnx, ort

from rnnfast import convert

TOLERANCE = 1e-5


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def same(model, rng, n=N, t=T, state=(), more=None, **options):
    """The layer gives the Y that ONNX Runtime gives."""
    session = ort.InferenceSession(model.SerializeToString())
    xs = rng.normal(size=(n, t, D)).astype("f4")
    (Y,) = session.run(None, {"X": xs.swapaxes(0, 1), **(more or {})})
    layer = convert.from_onnx(model, **options)
    if state:
        layer.set_state(*state)
    got = layer.forward(xs)
    expected = Y.transpose(2, 0, 1, 3).reshape(n, t, -1)
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)


def refused(model, match, **options):
    with pytest.raises(ValueError, match=match):
        convert.from_onnx(model.made(), **options)


# Constants


def test_what_reaches_a_node_by_identity_is_a_constant(rng):
    model = Model(rng)
    B = rng.normal(size=(1, 6 * H))
    model.add("Identity", model.add("Identity", model.constant("b", B)), output="tied")
    model.add("Identity", model.constant("h", rng.normal(size=(1, N, H))), output="start")
    model.recurrent(B="tied", initial_h="start")
    same(model.made(), rng, stateful=True)


def test_weights_that_the_graph_puts_together(rng):
    model = Model(rng)
    halves = [model.constant(f"w{k}", rng.normal(0, 0.5, (D, 3 * H // 2))) for k in range(2)]
    W = model.add("Concat", *halves, axis=1)
    W = model.add(
        "Unsqueeze", model.add("Transpose", W, perm=(1, 0)), model.constant("0", [0], "i8")
    )
    both = model.constant("r", rng.normal(0, 0.5, (2, 3 * H, H)))
    R = model.add("Gather", both, model.constant("1", [1], "i8"), axis=0)
    b = [model.constant(f"b{k}", rng.normal(size=6 * H)) for k in range(2)]
    B = model.add("Reshape", model.add("Add", *b), model.constant("shape", [1, -1], "i8"))
    model.recurrent(W=W, R=R, B=B)
    same(model.made(), rng)


def test_a_start_that_follows_from_a_constant_and_sizes(rng):
    """For any number of samples, through what exporters write."""
    model = Model(rng)
    h = model.add("Tanh", model.constant("h", rng.normal(size=(2, 1, H))))
    size = model.add("Gather", model.add("Shape", "X"), model.constant("k", 1, "i8"))
    size = model.add("Unsqueeze", size, model.constant("0", [0], "i8"))
    minus, two = model.constant("minus", [-1], "i8"), model.constant("2", [2], "i8")
    shape = model.add("Concat", minus, size, minus, axis=0)
    ones = model.add(
        "ConstantOfShape",
        model.constant("3", [3], "i8"),
        value=helper.make_tensor("", onnx.TensorProto.INT64, [1], [1]),
    )
    equal = model.add("Equal", shape, model.add("Mul", ones, minus))
    h = model.add("Expand", h, model.add("Where", equal, ones, shape))
    h = model.add(
        "Slice", h, model.constant("one", [1], "i8"), two, model.constant("axis", [0], "i8")
    )
    model.recurrent(initial_h=h)
    for n in (1, 2, N):
        same(model.made(), rng, n=n, stateful=True, batch_size=n)
    match = "GRU node 'it': initial_h is a constant for any number .*; batch_size must"
    refused(model, match, stateful=True)


def test_tiled_and_split_starts(rng):
    model = Model(rng)
    state = model.constant("state", rng.normal(size=(2, 1, H)))
    h, c = model.add("Split", state, output=["h", "c"], axis=0)
    size = model.add("Shape", "X", start=1, end=2)
    one = model.constant("1", [1], "i8")
    repeats = model.add("Concat", one, size, one, axis=0)
    starts = [model.add("Tile", x, repeats, output=f"tiled {x}") for x in (h, c)]
    model.recurrent("LSTM", initial_h=starts[0], initial_c=starts[1])
    same(model.made(), rng, stateful=True, batch_size=N)


def test_a_node_that_is_damaged_is_not_folded(rng):
    for op, axes in (("Unsqueeze", [0, 0]), ("Squeeze", [0, 7]), ("Unsqueeze", [9])):
        model = Model(rng)
        h = model.constant("h", rng.normal(size=(1, N, H)))
        model.recurrent(initial_h=model.add(op, h, model.constant("axes", axes, "i8")))
        refused(model, f"initial_h must be a constant, .* what {op} node 'the", stateful=True)


def test_a_start_computed_from_an_input_is_refused(rng):
    for op in ("Tanh", "Softmax"):
        model = Model(rng)
        model.input("z", (1, N, H))
        model.recurrent(initial_h=model.add(op, "z", output="start"))
        refused(
            model,
            f"^from_onnx: GRU node 'it': initial_h must be a constant, or an input .* got 'start', "
            f"what {op} node 'the {op}' makes; give it in weights",
            stateful=True,
        )
        convert.from_onnx(model.made(), weights={"start": np.zeros((1, N, H), "f4")})
    model = Model(rng)
    below = model.recurrent(name="below")
    model.recurrent(
        X=model.add("Squeeze", below, model.constant("1", [1], "i8")), D=H, initial_h="below.h"
    )
    refused(model, "GRU node 'it': initial_h must .* got 'below.h', what GRU node 'below' makes")


# States that are given


def given(rng, order):
    """Two levels that start from rows of an input."""
    model = Model(rng)
    model.input("h", (2, "N", H))
    starts = [
        model.add(
            "Slice",
            "h",
            *[model.constant(f"{name}.{i}", [v], "i8") for i, v in enumerate((k, k + 1, 0))],
            output=f"{name}.start",
        )
        for k, name in zip(order, ("a", "it"), strict=True)
    ]
    below = model.recurrent("RNN", name="a", initial_h=starts[0])
    x = model.add("Squeeze", below, model.constant("axis", [1], "i8"))
    model.recurrent("RNN", X=x, D=H, initial_h=starts[1])
    return model


def test_given_states_are_rows_in_the_order_of_the_layers(rng):
    h = rng.normal(size=(2, N, H)).astype("f4")
    same(given(rng, (0, 1)).made(), rng, state=tuple(h), more={"h": h}, stateful=True)
    match = (
        "RNN node 'it': initial_h must be rows of an input in the order of the layers, each once"
    )
    for order in ((1, 0), (1, 1)):
        refused(given(rng, order), match, stateful=True)
    refused(given(rng, (0, 1)), "RNN node 'a': initial_h is an input of the model, 'a.start'; only")
    model = Model(rng)
    model.input("h", (1, "N", H))
    model.recurrent("LSTM", initial_h="h", initial_c="h")
    refused(model, "LSTM node 'it': initial_c must be rows of an input in the order", stateful=True)


def test_given_states_with_the_batch_first(rng):
    model = Model(rng)
    model.input("h", ("N", 2, H))
    model.recurrent(ways=2, initial_h=model.add("Transpose", "h", perm=(1, 0, 2)))
    h = rng.normal(size=(N, 2, H)).astype("f4")
    same(model.made(), rng, state=(h[:, 0], h[:, 1]), more={"h": h}, stateful=True)
    model = Model(rng, X=(T, H, D))
    model.input("h", (1, H, H))
    model.recurrent(initial_h=model.add("Transpose", "h", perm=(0, 2, 1)))
    refused(model, "initial_h must be a constant, or an input of the model", stateful=True)


# Lengths


def two_levels(rng, first, second):
    model = Model(rng)
    for name in ("lens", "others"):
        model.input(name, ("N",), onnx.TensorProto.INT32)
    below = model.recurrent(name="a", sequence_lens=first)
    x = model.add("Squeeze", below, model.constant("axis", [1], "i8"))
    model.recurrent(X=x, D=H, sequence_lens=second)
    return model


def test_all_nodes_have_the_same_lengths(rng):
    convert.from_onnx(two_levels(rng, "lens", "lens").made())
    for first, second, match in (
        ("lens", "others", "must be that of GRU node 'a', 'lens', got 'others'"),
        ("lens", "", "must be that of GRU node 'a', 'lens', got None"),
        ("", "lens", "must be that of GRU node 'a', None, got 'lens'"),
    ):
        refused(two_levels(rng, first, second), f"GRU node 'it': sequence_lens {match}")


def test_lengths_that_are_constants(rng):
    """All of the steps of X is what a layer does without lengths."""
    for value, X, fits in (
        (T, (T, N, D), True),
        (T - 1, (T, N, D), False),
        (T, ("T", N, D), False),
    ):
        model = Model(rng, X=X)
        model.recurrent(sequence_lens=model.constant("lens", [value] * N, "i4"))
        if fits:
            same(model.made(), rng)
        else:
            refused(model, "GRU node 'it': sequence_lens is a constant of the model; a layer is")


# Between two nodes


def test_dropout_between(rng):
    for training in (False, True):
        model = Model(rng)
        x = model.add("Squeeze", model.recurrent(name="a"), model.constant("axis", [1], "i8"))
        ratio, flag = model.constant("ratio", 0.5), model.constant("flag", training, bool)
        model.recurrent(X=model.add("Dropout", x, ratio, flag), D=H)
        if training:
            refused(
                model, r"must read what GRU node 'a' gives, .* \(Dropout node 'the Dropout' is\)"
            )
        else:
            same(model.made(), rng)


def test_an_attribute_that_is_not_known_on_the_way(rng):
    model = Model(rng)
    x = model.add("Reshape", model.recurrent(name="a"), model.constant("s", [0, 0, -1], "i8"))
    model.recurrent(X=x, D=N * H)
    refused(model, r"directions side by side and nothing in between \(the axes are not")
    model = Model(rng)
    x = model.add("Squeeze", model.recurrent(name="a"), model.constant("s", [1], "i8"), colour=1)
    model.recurrent(X=x, D=H)
    refused(model, r"nothing in between \(Squeeze node 'the Squeeze' is\)")


# Where nodes are


def test_nodes_in_subgraphs(rng):
    inner = Model(rng)
    inner.recurrent("LSTM", name="hidden")
    branches = {
        f"{name}_branch": helper.make_graph(
            inner.nodes if name == "else" else [helper.make_node("Identity", ["X"], ["hidden.Y"])],
            name,
            [],
            [helper.make_tensor_value_info("hidden.Y", FLOAT, None)],
        )
        for name in ("then", "else")
    }
    for beside in (False, True):
        model = Model(rng)
        model.input("flag", (), onnx.TensorProto.BOOL)
        model.add("If", "flag", **branches)
        if beside:
            model.recurrent()
        refused(
            model,
            "^from_onnx: LSTM node 'hidden' is in else_branch of If node 'the If', which .*: "
            "export the model without that, or give from_onnx the node alone, with its weights",
        )
    outer = helper.make_node(
        "If",
        ["flag"],
        ["y"],
        name="outer",
        **{name: helper.make_graph(model.nodes[:1], name, [], []) for name in branches},
    )
    model.nodes = [outer]
    refused(
        model, "LSTM node 'hidden' is in else_branch of If node 'the If' in .* of If node 'outer'"
    )
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in inner.constants}
    convert.from_onnx(inner.nodes[0], weights=weights)


def test_nodes_in_functions_and_of_other_domains(rng):
    model = Model(rng)
    model.recurrent("LSTM", name="in here")
    function = helper.make_function(
        "own", "Block", ["X"], ["it.Y"], model.nodes, [helper.make_opsetid("", 17)]
    )
    caller = Model(rng)
    caller.nodes = [helper.make_node("Block", ["X"], ["it.Y"], domain="own")]
    made = caller.made()
    made.functions.append(function)
    with pytest.raises(ValueError, match="LSTM node 'in here' is in the function 'Block', which"):
        convert.from_onnx(made)
    caller.nodes = [helper.make_node("DynamicQuantizeLSTM", ["X"], ["y"], domain="com.microsoft")]
    refused(caller, "DynamicQuantizeLSTM node that gives 'y' of the domain 'com.microsoft' cannot")


# What is wrong


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("direction", 1, "direction must be of type STRING, got INT"),
        ("direction", b"\xff", r"direction must be UTF-8 text, got b'\\xff'"),
        ("direction", [b"forward"], "direction must be of type STRING, got STRINGS"),
        ("hidden_size", 6.0, "hidden_size must be of type INT, got FLOAT"),
        ("hidden_size", [6], "hidden_size must be of type INT, got INTS"),
        ("layout", 0.0, "layout must be of type INT, got FLOAT"),
        ("layout", "0", "layout must be of type INT, got STRING"),
        ("linear_before_reset", 2, "linear_before_reset must be 0 or 1, got 2"),
        ("linear_before_reset", 1.0, "linear_before_reset must be of type INT, got FLOAT"),
        ("activations", "Tanh", "activations must be of type STRINGS, got STRING"),
        ("activations", [1, 2], "activations must be of type STRINGS, got INTS"),
        ("activations", [b"\xff", b"Tanh"], "activations must be UTF-8 text"),
        ("clip", [3.0], r"clip cannot be expressed, got \[3.0\]"),
        ("output_sequence", 1.5, "output_sequence must be of type INT, got FLOAT"),
        ("input_forget", 0, "input_forget cannot be expressed, got 0"),
    ],
)
def test_attributes_of_a_wrong_type(name, value, match, rng):
    model = Model(rng)
    model.recurrent()
    kept = [a for a in model.nodes[0].attribute if a.name != name]
    del model.nodes[0].attribute[:]
    model.nodes[0].attribute.extend([*kept, helper.make_attribute(name, value)])
    refused(model, f"^from_onnx: GRU node 'it': {match}")


def test_attributes_twice_or_by_reference(rng):
    model = Model(rng)
    model.recurrent()
    model.nodes[0].attribute.append(helper.make_attribute("hidden_size", H))
    refused(model, "GRU node 'it': hidden_size is given twice")
    model = Model(rng)
    model.recurrent()
    model.nodes[0].attribute[0].ref_attr_name = "outer"
    refused(model, "GRU node 'it': direction refers to a function's attribute")


def test_inputs_that_are_too_many_or_made_twice(rng):
    model = Model(rng)
    model.recurrent(initial_h=model.constant("h", np.zeros((1, N, H))))
    model.nodes[0].input.append("h")
    refused(model, "GRU node 'it': inputs must be at most 6, got 7")
    model = Model(rng)
    model.recurrent()
    model.add("Relu", "X", output="it.Y")
    refused(model, "Relu node 'the Relu': 'it.Y' is made twice")
    model = Model(rng)
    model.recurrent()
    model.add("Relu", "X", output="it.W")
    refused(model, "Relu node 'the Relu': 'it.W' is made twice")


def test_weights_that_no_node_reads(rng):
    model = Model(rng)
    model.recurrent()
    refused(model, "weights has 'it.w', which no node of the model reads", weights={"it.w": 1})


def test_weights_from_a_node_and_sparse_ones(rng):
    model = Model(rng)
    model.recurrent(W=model.add("Relu", "X", output="w"))
    refused(
        model, "GRU node 'it': W must be a constant .* got 'w', what Relu node 'the Relu' makes"
    )
    model = Model(rng)
    model.recurrent(W="w")
    made = model.made()
    values = helper.make_tensor("w", FLOAT, [1], [1.0])
    indices = helper.make_tensor("", onnx.TensorProto.INT64, [1], [0])
    sparse = helper.make_sparse_tensor(values, indices, [1, 3 * H, D])
    made.graph.sparse_initializer.append(sparse)
    with pytest.raises(ValueError, match=r"W must be a constant .*, got 'w', which is sparse"):
        convert.from_onnx(made)
