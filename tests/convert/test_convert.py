"""Gate orders, names and errors of rnnfast.convert, against the equations, without a framework.

What PyTorch, Keras and ONNX Runtime say is in test_convert_torch.py, _keras.py and _onnx.py.
"""

import subprocess
import sys

import numpy as np
import pytest
from cases import assert_close

import rnnfast
from rnnfast import convert
from rnnfast.convert import common

pytestmark = pytest.mark.usefixtures("device")

N, T, D, H = 3, 4, 2, 5


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gate_weights(rng, gates, rows=H):
    """By gate: W (rows, D) and b (rows,) for x, U (rows, H) and c (rows,) for h."""
    sizes = {"W": (rows, D), "U": (rows, H), "b": (rows,), "c": (rows,)}
    return {
        gate: {name: rng.normal(0, 0.6, size) for name, size in sizes.items()} for gate in gates
    }


def pre(weights, x, h):
    return x @ weights["W"].T + weights["b"] + h @ weights["U"].T + weights["c"]


def lstm_literally(w, xs):
    """https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html"""
    h, c, hs = np.zeros((N, H)), np.zeros((N, H)), []
    for t in range(T):
        i, f, o = (sigmoid(pre(w[gate], xs[:, t], h)) for gate in "ifo")
        g = np.tanh(pre(w["g"], xs[:, t], h))
        c = f * c + i * g
        h = o * np.tanh(c)
        hs.append(h)
    return np.stack(hs, 1)


def gru_literally(w, xs, reset_after=True):
    """https://docs.pytorch.org/docs/stable/generated/torch.nn.GRU.html; Cho et al. 2014."""
    h, hs = np.zeros((N, H)), []
    for t in range(T):
        r, z = (sigmoid(pre(w[gate], xs[:, t], h)) for gate in "rz")
        n = w["n"]
        seen = r * (h @ n["U"].T + n["c"]) if reset_after else (r * h) @ n["U"].T + n["c"]
        candidate = np.tanh(xs[:, t] @ n["W"].T + n["b"] + seen)
        h = (1 - z) * candidate + z * h
        hs.append(h)
    return np.stack(hs, 1)


def rnn_literally(w, xs, f=np.tanh):
    h, hs = np.zeros((N, H)), []
    for t in range(T):
        h = f(pre(w["h"], xs[:, t], h))
        hs.append(h)
    return np.stack(hs, 1)


def state_dict(w, order, suffix="_l0"):
    stacked = {name: np.concatenate([w[gate][name] for gate in order]) for name in "WUbc"}
    names = {"weight_ih": "W", "weight_hh": "U", "bias_ih": "b", "bias_hh": "c"}
    return {f"{name}{suffix}": stacked[short] for name, short in names.items()}


@pytest.mark.parametrize(
    ("order", "literally", "options"),
    [
        ("ifgo", lstm_literally, {}),
        ("rzn", gru_literally, {}),
        ("h", rnn_literally, {}),
        ("h", lambda w, xs: rnn_literally(w, xs, lambda a: a.clip(0)), {"nonlinearity": "relu"}),
    ],
    ids=["lstm", "gru", "rnn", "relu"],
)
def test_torch_gates_literally(order, literally, options, rng):
    w, xs = gate_weights(rng, order), rng.normal(size=(N, T, D))
    state = state_dict(w, order)
    layer = convert.from_torch(state, **options)
    assert_close(layer.forward(xs), literally(w, xs))
    back = convert.to_torch(layer)
    assert list(back) == list(state)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        np.testing.assert_array_equal(back[name], state[name])
        assert back[name].flags.c_contiguous
    if order == "rzn":
        np.testing.assert_array_equal(back["bias_hh_l0"], state["bias_hh_l0"])
    else:
        both = state["bias_ih_l0"] + state["bias_hh_l0"]
        np.testing.assert_array_equal(back["bias_ih_l0"], both)
        assert not back["bias_hh_l0"].any()


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("order", ["ifgo", "zrn", "h"])
def test_keras_gates_literally(order, reset_after, rng):
    """https://github.com/keras-team/keras, keras/src/layers/rnn: the order of the splits."""
    w, xs = gate_weights(rng, order), rng.normal(size=(N, T, D))
    kernel, recurrent, b, c = (np.concatenate([w[g][n] for g in order]).T for n in "WUbc")
    bias = np.stack((b, c)) if order == "zrn" and reset_after else b + c
    weights = [kernel, recurrent, bias]
    layer = convert.from_keras(weights, reset_after=reset_after)
    literally = {"ifgo": lstm_literally, "h": rnn_literally}.get(
        order, lambda w, xs: gru_literally(w, xs, reset_after)
    )
    assert_close(layer.forward(xs), literally(w, xs))
    for got, expected in zip(convert.to_keras(layer), weights, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_blocks_go_where_their_gate_is():
    W = np.repeat(np.arange(4), 2)[None]  # i f g o
    assert common.reorder(W, common.TORCH["lstm"], common.OURS["lstm"]).tolist() == [
        [1, 1, 2, 2, 0, 0, 3, 3]
    ]
    for order in (common.TORCH, common.KERAS, common.ONNX):
        for kind, gates in order.items():
            assert sorted(gates) == sorted(common.OURS[kind])


def make(rng, kind="lstm", both=False, dtype="f8", D=D, H=H, bias=True, **options):
    G = {"rnn": 1, "gru": 3, "lstm": 4}[kind]
    b = ((2, G * H) if options.get("reset_after") else (G * H,)) if bias else None
    weights = []
    for _ in range(2 if both else 1):
        weights += [rng.normal(0, 0.5, size).astype(dtype) for size in ((D, G * H), (H, G * H))]
        weights.append(None if b is None else rng.normal(0, 0.5, b).astype(dtype))
    return getattr(rnnfast, f"Time{'Bi' if both else ''}{kind.upper()}")(*weights, **options)


def same_bits(layer, other):
    assert type(layer) is type(other)
    for p, q in zip(layer.params, other.params, strict=True):
        assert p.dtype == q.dtype and p.tobytes() == q.tobytes()


TORCH_LAYERS = {
    "rnn": {"kind": "rnn"},
    "lstm": {"kind": "lstm"},
    "lstm without a bias": {"kind": "lstm", "bias": False},
    "gru": {"kind": "gru", "reset_after": True, "z_keeps": True},
    "gru without a bias": {"kind": "gru", "reset_after": True, "z_keeps": True, "bias": False},
}


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("case", TORCH_LAYERS.values(), ids=TORCH_LAYERS)
def test_there_and_back_bit_for_bit(case, dtype, both, rng):
    width = 2 * H if both else H
    case = {"both": both, "dtype": dtype, **case}
    layers = [make(rng, **case), make(rng, D=width, **case)]
    stack = rnnfast.TimeStack(layers)
    for layer in (stack, layers[0]):
        state = convert.to_torch(layer, prefix="encoder.")
        found = convert.from_torch({"other": None, **state}, prefix="encoder.")
        same_bits(found, layer)
    same_bits(convert.from_keras(convert.to_keras(layers[0])), layers[0])


def test_names_of_two_levels_and_directions(rng):
    options = {"kind": "gru", "both": True, "reset_after": True}
    state = convert.to_torch(rnnfast.TimeStack([make(rng, **options), make(rng, D=10, **options)]))
    assert list(state) == [
        f"{what}_l{k}{way}"
        for k in (0, 1)
        for way in ("", "_reverse")
        for what in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]
    assert state["weight_ih_l1_reverse"].shape == (3 * H, 2 * H)


@pytest.mark.parametrize("bias", [True, False])
def test_a_gru_whose_z_renews_is_turned_round(bias, rng):
    xs = rng.normal(size=(N, T, D))
    layer = make(rng, "gru", reset_after=True, bias=bias)
    before = [p.copy() for p in layer.params]
    for other in (
        convert.from_torch(convert.to_torch(layer)),
        convert.from_keras(convert.to_keras(layer)),
    ):
        assert other._options == {"reset_after": True, "z_keeps": True}
        assert_close(other.forward(xs), layer.forward(xs))
    for p, q in zip(layer.params, before, strict=True):
        np.testing.assert_array_equal(p, q)
    dhs = rng.normal(size=(N, T, H))
    assert_close(other.backward(dhs), layer.backward(dhs))
    theirs = convert.from_torch(convert.to_torch(layer, grads=True))
    for got, expected in zip(theirs.params, other.grads, strict=True):
        assert_close(got, expected)


class Module:
    """What is looked at of a PyTorch module."""

    mode, dropout = "RNN_RELU", 0.25

    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state


def test_what_a_module_knows(rng):
    layers = [make(rng, "rnn", nonlinearity="relu"), make(rng, "rnn", D=H, nonlinearity="relu")]
    module = Module(convert.to_torch(rnnfast.TimeStack(layers)))
    stack = convert.from_torch(module, rng=1)
    assert [layer._options for layer in stack.layers] == [{"nonlinearity": "relu"}] * 2
    assert [drop.dropout_ratio for drop in stack.drop_layers] == [0.25]
    assert convert.from_torch(module, dropout_ratio=0).drop_layers == []
    state_only = convert.from_torch(module.state, dropout_ratio=0.5, stateful=True)
    assert [layer._options for layer in state_only.layers] == [{"nonlinearity": "tanh"}] * 2
    assert [drop.dropout_ratio for drop in state_only.drop_layers] == [0.5]
    assert state_only.stateful and not stack.stateful


def test_weights_are_copies(rng):
    layer = make(rng, "rnn")
    state, weights = convert.to_torch(layer), convert.to_keras(layer)
    for other in (convert.from_torch(state), convert.from_keras(weights)):
        for p in other.params:
            p += 1
    same_bits(convert.from_torch(state), layer)
    same_bits(convert.from_keras(weights), layer)


def test_frozen_weights_can_be_read(rng):
    layer = make(rng)
    layer.freeze()
    state = convert.to_torch(layer)
    same_bits(convert.from_torch(state), layer)
    assert all(array.flags.writeable for array in state.values())


def test_the_device_that_is_asked_for(rng):
    state = convert.to_torch(make(rng))
    assert convert.from_torch(state, device="cpu").device == "cpu"
    assert convert.from_torch(state).device == rnnfast.get_device()


# What is wrong


class Tensor:
    """A bfloat16 tensor, which cannot be made a NumPy array."""

    dtype = "torch.bfloat16"

    def detach(self):
        raise AssertionError("not before its dtype is looked at")


def lstm_state(rng):
    return state_dict(gate_weights(rng, "ifgo"), "ifgo")


BAD_STATE_DICTS = {
    "nothing": (lambda s: {}, {}, ValueError, r"missing \['weight_hh_l0', 'weight_ih_l0'\]"),
    "a list": (
        lambda s: list(s),
        {},
        TypeError,
        r"source must be an nn.RNN, nn.LSTM, nn.GRU or a state dict, got li",
    ),
    "one missing": (
        lambda s: {k: v for k, v in s.items() if k != "bias_hh_l0"},
        {},
        ValueError,
        r"missing \['bias_hh_l0'\], unknown \[\]",
    ),
    "a foreign one": (
        lambda s: {**s, "fc.weight": s["bias_hh_l0"]},
        {},
        ValueError,
        r"\(see prefix\); missing \[\], unknown \['fc.weight'\]",
    ),
    "a prefix that was not given": (
        lambda s: {f"_orig_mod.{name}": s[name] for name in s},
        {},
        ValueError,
        r"\(prefix may be '_orig_mod\.'\); missing \['weight_hh_l0', 'weight_ih_l0'\]",
    ),
    "another prefix": (
        lambda s: s,
        {"prefix": "rnn."},
        ValueError,
        r"missing \['rnn.weight_hh_l0', 'rnn.weight_ih_l0'\]",
    ),
    "projections": (
        lambda s: {**s, "weight_hr_l0": s["weight_hh_l0"]},
        {},
        ValueError,
        r"weight_hr_l0 must be \(P, H\) = \(5, 5\), got \(20, 5\)",
    ),
    "a projection of three gates": (
        lambda s: (
            {"weight_hr_l0": s["weight_hh_l0"][:5], "weight_hh_l0": np.ones((15, 5))}
            | {"weight_ih_l0": np.ones((15, 3))}
        ),
        {},
        ValueError,
        r"weight_hh_l0 must be \(4H, P\), as of an LSTM, got \(15, 5\)",
    ),
    "two gates": (
        lambda s: {**s, "weight_hh_l0": np.ones((10, 5))},
        {},
        ValueError,
        r"weight_hh_l0 must be of the size H x H \(RNN\).*, got \(10, 5\)",
    ),
    "a wrong shape": (
        lambda s: {**s, "weight_ih_l0": s["weight_ih_l0"][:-1]},
        {},
        ValueError,
        r"weight_ih_l0 must be \(G\*H, D\) = \(20, 2\), got \(19, 2\)",
    ),
    "a wrong bias": (
        lambda s: {**s, "bias_hh_l0": s["bias_hh_l0"][None]},
        {},
        ValueError,
        r"bias_hh_l0 must be \(G\*H,\) = \(20,\), got \(1, 20\)",
    ),
    "a vector": (
        lambda s: {**s, "weight_ih_l0": s["bias_hh_l0"]},
        {},
        ValueError,
        r"weight_ih_l0 must be \(G\*H, D\), sizes from 1 up, got \(20,\)",
    ),
    "float16": (
        lambda s: {k: v.astype("f2") for k, v in s.items()},
        {},
        TypeError,
        r"weight_ih_l0 must be an array of float32 or float64 \(convert .*\), got float16",
    ),
    "bfloat16": (
        lambda s: {**s, "weight_hh_l0": Tensor()},
        {},
        TypeError,
        "weight_hh_l0 must be .*, got torch.bfloat16",
    ),
    "a mixture": (
        lambda s: {**s, "weight_ih_l0": s["weight_ih_l0"].astype("f4")},
        {},
        TypeError,
        "weight_ih_l0 must be a float64 array, got float32",
    ),
    "an object": (
        lambda s: {**s, "weight_ih_l0": [[1.0]]},
        {},
        TypeError,
        "weight_ih_l0 must be .*, got list",
    ),
    "relu": (
        lambda s: s,
        {"nonlinearity": "relu"},
        ValueError,
        "nonlinearity is for an RNN, got weights of kind 'lstm'",
    ),
}


@pytest.mark.parametrize(
    ("change", "arguments", "error", "match"), BAD_STATE_DICTS.values(), ids=BAD_STATE_DICTS
)
def test_bad_state_dicts(change, arguments, error, match, rng):
    with pytest.raises(error, match=rf"^from_torch: .*{match}"):
        convert.from_torch(change(lstm_state(rng)), **arguments)


BAD_KERAS_WEIGHTS = {
    "one": (lambda w: w[:1], ValueError, "weights must be kernel, .*, got 1 arrays"),
    "five": (lambda w: [*w, *w[:2]], ValueError, ".* got 5 arrays"),
    "a wrong kernel": (
        lambda w: [w[0][:, 1:], *w[1:]],
        ValueError,
        r"kernel must be \(D, G\*H\) = \(2, 15\), got \(2, 14\)",
    ),
    "the other bias": (
        lambda w: [*w[:2], w[2][0]],
        ValueError,
        r"bias must be with reset_after=True \(2, 3H\) = \(2, 15\), got \(15,\)",
    ),
    "a mixture": (
        lambda w: [*w[:2], w[2].astype("f4")],
        TypeError,
        "bias must be a float64 array, got float32",
    ),
    "transposed": (
        lambda w: [w[0], w[1].T, w[2]],
        ValueError,
        r"recurrent_kernel must be of the size .*, got \(15, 5\)",
    ),
    "backward": (
        lambda w: [*w, w[0], w[1][1:], w[2]],
        ValueError,
        r"backward recurrent_kernel must be \(H, G\*H\) = \(5, 15\), got \(4, 15\)",
    ),
}


@pytest.mark.parametrize(
    ("change", "error", "match"), BAD_KERAS_WEIGHTS.values(), ids=BAD_KERAS_WEIGHTS
)
def test_bad_keras_weights(change, error, match, rng):
    weights = convert.to_keras(make(rng, "gru", reset_after=True))
    with pytest.raises(error, match=rf"^from_keras: {match}"):
        convert.from_keras(change(weights))


def test_what_pytorch_and_keras_cannot_express(rng):
    for write in (convert.to_torch, convert.to_keras):
        name = write.__name__
        for Wp in (np.ones((3, H)), np.ones((3, H, H))):
            with pytest.raises(ValueError, match=rf"{name}: peepholes \(Wp\) cannot be expressed"):
                write(make(rng, Wp=Wp))
        with pytest.raises(ValueError, match=f"{name}: cell_clip cannot be expressed, got 3.0"):
            write(make(rng, cell_clip=3))
        with pytest.raises(TypeError, match=f"{name}: layer must be a TimeRNN.*, got LSTM"):
            write(rnnfast.LSTM(*make(rng).params))
    with pytest.raises(ValueError, match="to_torch: a GRU with reset_after=False cannot be"):
        convert.to_torch(make(rng, "gru"))
    with pytest.raises(ValueError, match="no layer that only reads backwards"):
        convert.to_torch(rnnfast.TimeReverse(make(rng)))
    for unlike in (make(rng, "rnn", D=H), make(rng, D=H, H=4), make(rng, D=H, both=True)):
        with pytest.raises(ValueError, match=r"to_torch: PyTorch stacks .* level 1 is not as the"):
            convert.to_torch(rnnfast.TimeStack([make(rng), unlike]))
    with pytest.raises(ValueError, match=r"to_keras: layer must be one of TimeStack.layers"):
        convert.to_keras(rnnfast.TimeStack([make(rng), make(rng, D=H)]))


def test_no_framework_is_imported():
    frameworks = "torch", "keras", "tensorflow", "onnx", "google.protobuf"
    code = f"""
import sys, rnnfast
assert "rnnfast.convert" not in sys.modules
from rnnfast import convert
import numpy as np
W, b = np.ones((2, 2)), np.ones(2)
convert.to_torch(convert.from_keras([W, W, b]))
convert.to_keras(convert.from_torch({{"weight_ih_l0": W, "weight_hh_l0": W}}))
print([m for m in {frameworks} if m in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_without_the_onnx_package(monkeypatch, rng):
    monkeypatch.setitem(sys.modules, "onnx", None)
    for call in (lambda: convert.to_onnx(make(rng)), lambda: convert.from_onnx("model.onnx")):
        with pytest.raises(ModuleNotFoundError, match=r'pip install "rnnfast\[onnx\]"'):
            call()
