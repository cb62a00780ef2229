"""Values and every gradient of converted layers against PyTorch's own."""

import warnings

import numpy as np
import pytest
from cases import assert_close, assert_grad_close

import rnnfast
from rnnfast import convert
from rnnfast.io import to_numpy

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.usefixtures("device", "one_torch_thread"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]

N, T, D, H = 4, 6, 3, 5
LENGTHS = np.array([3, 6, 1, 4])
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
KINDS = {
    "rnn": (torch.nn.RNN, {"nonlinearity": "tanh"}),
    "relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (torch.nn.LSTM, {}),
    "gru": (torch.nn.GRU, {}),
    "lstmp": (torch.nn.LSTM, {"proj_size": 2}),
}

each_kind = pytest.mark.parametrize("kind", KINDS)
both_ways = pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
depths = pytest.mark.parametrize("depth", [1, 2])
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def make_module(kind, both=False, depth=1, dtype="float64", **options):
    module, own = KINDS[kind]
    torch.manual_seed(2)
    made = module(D, H, depth, bidirectional=both, batch_first=True, **own, **options)
    return made.to(getattr(torch, dtype))


def run_torch(module, xs, starts, lengths, weights):
    """hs, final states, dxs, gradients of the starts, for the sum of everything, weighted."""
    xs = torch.from_numpy(xs).requires_grad_()
    starts = [torch.from_numpy(s).requires_grad_() for s in starts]
    x = xs
    if lengths is not None:
        x = torch.nn.utils.rnn.pack_padded_sequence(
            xs, torch.from_numpy(lengths), batch_first=True, enforce_sorted=False
        )
    hs, finals = module(x, tuple(starts) if len(starts) > 1 else starts[0])
    finals = finals if len(starts) > 1 else (finals,)
    if lengths is not None:
        hs, _ = torch.nn.utils.rnn.pad_packed_sequence(hs, batch_first=True, total_length=T)
    outputs = (hs, *finals)
    module.zero_grad()
    sum((y * torch.from_numpy(w)).sum() for y, w in zip(outputs, weights, strict=True)).backward()
    arrays = (*outputs, xs.grad, *(s.grad for s in starts))
    return [a.detach().numpy() for a in arrays]


def by_layer(states):
    """PyTorch's h (layers * directions, N, H), and c, in the order of layer.state."""
    return [state[k] for k in range(len(states[0])) for state in states]


def by_state(values, count):
    """The other way round."""
    values = [to_numpy(value) for value in values]
    return [np.stack(values[k::count]) for k in range(count)]


@each_kind
@both_ways
@depths
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@dtypes
def test_values_and_all_gradients(kind, both, depth, bias, lengths, dtype):
    ways = 2 if both else 1
    module = make_module(kind, both, depth, dtype, bias=bias)
    rng = np.random.default_rng(4)

    def randn(*shape):
        return rng.standard_normal(shape).astype(dtype)

    P = module.proj_size or H  # the width of h
    widths = (P, H) if kind in ("lstm", "lstmp") else (P,)
    count = len(widths)
    xs, starts = randn(N, T, D), [randn(ways * depth, N, width) for width in widths]
    weights = [randn(N, T, ways * P), *(randn(ways * depth, N, width) for width in widths)]
    expected = run_torch(module, xs, starts, lengths, weights)

    layer = convert.from_torch(module, stateful=True)
    layer.set_state(*by_layer(starts))
    hs = layer.forward(xs, lengths=lengths)
    finals = by_state(layer.state, count)
    dxs = layer.backward(weights[0], *by_layer(weights[1:]))
    got = [hs, *finals, dxs, *by_state(layer.dstate, count)]
    for k, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert a.dtype == b.dtype == dtype
        assert_close(a, b, f"[{k}]", TOLERANCE[dtype])
    grads = convert.to_torch(layer, grads=True)
    named = dict(module.named_parameters())
    assert list(grads) == list(named)
    for name, parameter in named.items():
        assert_grad_close(grads[name], parameter.grad.numpy(), name, TOLERANCE[dtype])


@each_kind
@both_ways
@depths
@dtypes
def test_pytorch_takes_what_we_give(kind, both, depth, dtype):
    module, other = (make_module(kind, both, depth, dtype) for _ in range(2))
    layer = convert.from_torch(module)
    for param in layer.params:
        param *= 0.9
    state = convert.to_torch(layer)
    other.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    xs = np.random.default_rng(0).normal(size=(N, T, D)).astype(dtype)
    with torch.no_grad():
        expected = other(torch.from_numpy(xs))[0].numpy()
    assert_close(layer.forward(xs), expected, tolerance=TOLERANCE[dtype])
    again = convert.from_torch(other)
    for p, q in zip(again.params, layer.params, strict=True):
        assert p.tobytes() == q.tobytes()


def test_a_part_of_a_larger_model():
    class Tagger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(7, D)
            self.encoder = torch.nn.GRU(D, H, batch_first=True)
            self.out = torch.nn.Linear(H, 2).half()  # does not matter

    tagger = Tagger()
    xs = np.random.default_rng(0).normal(size=(N, T, D)).astype("f4")
    layer = convert.from_torch(tagger.state_dict(), prefix="encoder.")
    expected = tagger.encoder(torch.from_numpy(xs))[0].detach().numpy()
    assert_close(layer.forward(xs), expected)
    with pytest.raises(ValueError, match=r"from_torch: .* unknown \['embedding.weight', 'encoder."):
        convert.from_torch(tagger.state_dict())
    with pytest.raises(TypeError, match=r"from_torch: source must be an nn.RNN, .*, got Tagger"):
        convert.from_torch(tagger)


def test_dropout_between_the_layers_is_the_modules():
    stack = convert.from_torch(make_module("lstm", depth=3, dropout=0.25))
    assert [drop.dropout_ratio for drop in stack.drop_layers] == [0.25, 0.25]
    with warnings.catch_warnings():  # of PyTorch: there is nothing between one layer
        warnings.simplefilter("ignore", UserWarning)
        module = make_module("lstm", dropout=0.25)
    assert not hasattr(convert.from_torch(module), "drop_layers")


def test_weights_are_not_shared():
    module = make_module("rnn")
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for param in convert.from_torch(module).params:
        param += 1
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_refused(dtype):
    with pytest.raises(TypeError, match=rf"weight_ih_l0 must be .*, got torch.{dtype}"):
        convert.from_torch(make_module("gru", dtype=dtype))


@pytest.mark.parametrize("P", [5, 6])
def test_a_projection_that_pytorch_does_not_have(P):
    layer = rnnfast.TimeLSTMP.create(D, H, proj_size=P, rng=0, device="cpu")
    with pytest.raises(ValueError, match=rf"proj_size must be below hidden_size = 5, got {P}"):
        convert.to_torch(layer)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch itself
def test_a_compiled_module():
    module = make_module("lstm")
    ours = convert.from_torch(torch.compile(module))
    for param, same in zip(ours.params, convert.from_torch(module).params, strict=True):
        np.testing.assert_array_equal(param, same)
