"""What torch.onnx.export writes is read with ONNX Runtime's values, whichever way it writes it."""

import io
import itertools
import logging
import warnings

import numpy as np
import pytest

from rnnfast import convert

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

N, T, D, H = 3, 4, 5, 6
TOLERANCE = 1e-5
STATES = ("none", "zeros", "learned", "given")
BIASES = ("random", "zero", "tied", "none")
pytestmark = pytest.mark.usefixtures("one_torch_thread")


class Module(torch.nn.Module):
    """A recurrent module as people write it, with what it starts from."""

    def __init__(self, cell, layers, both, states, bias, batch_first):
        super().__init__()
        torch.manual_seed(0)
        options = {"bidirectional": both, "batch_first": batch_first, "bias": bias != "none"}
        self.rnn = getattr(torch.nn, cell)(D, H, layers, **options)
        for name, param in self.rnn.named_parameters():
            if bias == "zero" and "bias" in name:
                torch.nn.init.zeros_(param)
            if bias == "tied" and "bias_hh" in name:
                param.data.copy_(getattr(self.rnn, name.replace("hh", "ih")))
        self.states, self.axis = states, 0 if batch_first else 1
        self.count = layers * (2 if both else 1)
        self.kinds = 2 if cell == "LSTM" else 1
        self.start = torch.nn.Parameter(torch.randn(self.kinds, self.count, 1, H))

    def forward(self, x, *given):
        if self.states == "none":
            return self.rnn(x)
        size = x.shape[self.axis]
        if self.states == "learned":
            given = [self.start[k].expand(-1, size, -1).contiguous() for k in range(self.kinds)]
        if self.states == "zeros":
            given = [torch.zeros(self.count, size, H)] * self.kinds
        return self.rnn(x, tuple(given) if self.kinds == 2 else given[0])


def export(module, dynamic, dynamo):
    """-> the bytes of a model, and how the inputs behind x are called."""
    x = torch.randn((N, T, D) if module.axis == 0 else (T, N, D))
    kinds = range(module.kinds if module.states == "given" else 0)
    given = [torch.randn(module.count, N, H) for _ in kinds]
    names = ["x", "h", "c"][: 1 + len(given)]
    options = {}
    axes = [{module.axis: "N", 1 - module.axis: "T"}, *[{1: "N"}] * len(given)]
    if dynamic and dynamo:
        N_ = torch.export.Dim("N", min=1, max=64)  # T stays: PyTorch's own trace fixes it
        axes = [{k: N_ for k, name in one.items() if name == "N"} for one in axes]
        options["dynamic_shapes"] = (axes[0], *([tuple(axes[1:])] if given else []))
    elif dynamic:
        options["dynamic_axes"] = dict(zip(names, axes, strict=True))
    file = io.BytesIO()
    with warnings.catch_warnings():  # of PyTorch, about its exporters
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            args = (x, *given)
            torch.onnx.export(
                module.eval(),
                args,
                file,
                input_names=names,
                dynamo=dynamo,
                verbose=False,
                **options,
            )
        finally:
            logging.disable(logging.NOTSET)
    return file.getvalue()


def check(content, module, path, sizes):
    """The layer that is read from a file gives what ONNX Runtime gives, states included."""
    path.write_bytes(content)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for n, t in sizes:
        xs = rng.normal(size=(n, t, D)).astype("f4")
        given = [
            rng.normal(size=(module.count, n, H)).astype("f4") for _ in session.get_inputs()[1:]
        ]
        first = xs if module.axis == 0 else xs.swapaxes(0, 1)
        names = [one.name for one in session.get_inputs()]
        hs, *finals = session.run(None, dict(zip(names, (first, *given), strict=True)))
        stateful = module.states in ("learned", "given")
        layer = convert.from_onnx(path, stateful=stateful, batch_size=n)
        if given:
            layer.set_state(*(state[k] for k in range(module.count) for state in given))
        got = layer.forward(xs, train=False)
        expected = hs if module.axis == 0 else hs.swapaxes(0, 1)
        np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)
        for k, final in enumerate(finals):
            got = np.stack(layer.state[k :: module.kinds])
            np.testing.assert_allclose(got, final, rtol=0, atol=TOLERANCE)


GRID = itertools.product(("RNN", "LSTM", "GRU"), (1, 2), (False, True), STATES, (False, True))
GRID = [  # every bias and both places of the batch with each of the rest but one
    (cell, layers, both, states, BIASES[(k + k // 8) % 4], bool(k // 2 % 2), dynamic)
    for k, (cell, layers, both, states, dynamic) in enumerate(GRID)
]


@pytest.mark.parametrize(
    ("cell", "layers", "both", "states", "bias", "batch_first", "dynamic"), GRID
)
@pytest.mark.one_in(2)
def test_traced(cell, layers, both, states, bias, batch_first, dynamic, tmp_path):
    module = Module(cell, layers, both, states, bias, batch_first)
    sizes = [(N, T), (5, 7), (1, 1)] if dynamic else [(N, T)]
    check(export(module, dynamic, dynamo=False), module, tmp_path / "model.onnx", sizes)


@pytest.mark.parametrize(
    ("cell", "layers", "both", "states", "bias", "batch_first", "dynamic"),
    [
        ("LSTM", 2, True, "given", "tied", True, True),
        ("GRU", 2, True, "learned", "random", True, True),
        ("GRU", 1, False, "zeros", "zero", False, False),
    ],
)
@pytest.mark.one_in(3)
def test_dynamo(cell, layers, both, states, bias, batch_first, dynamic, tmp_path):
    pytest.importorskip("onnxscript")
    module = Module(cell, layers, both, states, bias, batch_first)
    sizes = [(N, T), (5, T)] if dynamic else [(N, T)]
    check(export(module, dynamic, dynamo=True), module, tmp_path / "model.onnx", sizes)


def test_dynamo_writes_the_steps_of_an_rnn(tmp_path):
    pytest.importorskip("onnxscript")
    content = export(Module("RNN", 1, False, "none", "none", True), False, dynamo=True)
    with pytest.raises(
        ValueError, match=r"GRU node, but .*\. Tanh node '.*' may be .*dynamo=False"
    ):
        convert.from_onnx(onnx.load_from_string(content))


def test_a_learned_state_needs_a_batch_size_and_a_stateful_layer(tmp_path):
    """Where the model leaves N open; where it does not, another one is refused."""
    free = onnx.load_from_string(
        export(Module("GRU", 1, False, "learned", "random", True), True, False)
    )
    match = r"GRU node '.*': initial_h is a constant for any number of samples; batch_size must"
    with pytest.raises(ValueError, match=match):
        convert.from_onnx(free, stateful=True)
    with pytest.raises(ValueError, match="initial_h is a constant other than zeros; only a layer"):
        convert.from_onnx(free, batch_size=3)
    with pytest.raises(ValueError, match="batch_size must be from 1 up, got 0"):
        convert.from_onnx(free, stateful=True, batch_size=0)
    given = onnx.load_from_string(
        export(Module("GRU", 1, False, "given", "random", True), True, False)
    )
    with pytest.raises(
        ValueError, match=r"GRU node '.*': initial_h is an input of the model, 'h';"
    ):
        convert.from_onnx(given)


STARTS = {
    "a vector": lambda m, x: m.row.expand(2, x.size(0), H),
    "repeated": lambda m, x: m.two.unsqueeze(1).repeat(1, x.shape[0], 1),
    "stacked": lambda m, x: torch.stack(
        [m.row.expand(x.size(0), H), m.two[1].expand(x.size(0), H)]
    ),
    "joined": lambda m, x: torch.cat([m.two[:1], m.two[1:]])[:, None].expand(2, x.size(0), H),
    "bounded": lambda m, x: torch.sigmoid(m.two[:, None]).expand(2, x.size(0), H),
    "through a layer": lambda m, x: m.linear(m.two[:, None]).expand(2, x.size(0), H),
    "a number": lambda m, x: torch.full((2, x.size(0), H), 0.3),
    "zeros beside x": lambda m, x: x.new_zeros(2, x.size(0), H),
}
RUNNING = {
    "of the input": lambda m, x: m.first(x[:, 0]).expand(2, -1, -1),
    "of its mean": lambda m, x: x.mean((1, 2))[None, :, None].expand(2, -1, H),
    "drawn": lambda m, x: torch.randn(2, x.size(0), H),
}


class Started(torch.nn.Module):
    """A GRU behind a convolution, of whose output a file tells no shape."""

    def __init__(self, start):
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.conv = torch.nn.GRU(D, H, 2), torch.nn.Conv1d(D, D, 3, padding=1)
        self.linear, self.first = torch.nn.Linear(H, H), torch.nn.Linear(D, H)
        self.row = torch.nn.Parameter(torch.randn(H))
        self.two = torch.nn.Parameter(torch.randn(2, H))
        self.start = start

    def below(self, x):
        return self.conv(x.transpose(1, 2)).permute(2, 0, 1)

    def forward(self, x):
        return self.rnn(self.below(x), self.start(self, x).contiguous())[0]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_starts_that_follow_from_parameters(start, dynamic):
    module = Started(start)
    content = exported(module, (3, 4, D), dynamic)
    for n, t in [(3, 4), (5, 7)] if dynamic else [(3, 4)]:
        xs = np.random.default_rng(1).normal(size=(n, t, D)).astype("f4")
        (expected,) = ort.InferenceSession(content).run(None, {"x": xs})
        model = onnx.load_from_string(content)
        layer = convert.from_onnx(model, stateful=True, batch_size=n)
        below = module.below(torch.from_numpy(xs)).detach().numpy().swapaxes(0, 1)
        got = layer.forward(np.ascontiguousarray(below)).swapaxes(0, 1)
        np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("start", RUNNING.values(), ids=RUNNING)
def test_starts_that_do_not(start, dynamic):
    model = onnx.load_from_string(exported(Started(start), (3, 4, D), dynamic))
    match = "GRU node '/rnn/GRU': initial_h must be a constant, or an input of the model or rows"
    with pytest.raises(ValueError, match=match):
        convert.from_onnx(model, stateful=True, batch_size=3)


def test_zero_states_behind_a_convolution_need_no_batch_size():
    """As every module has that is given none."""

    class Plain(Started):
        def forward(self, x):
            return self.rnn(self.below(x))[0]

    for dynamic in (False, True):
        content = exported(Plain(None), (3, 4, D), dynamic)
        assert not convert.from_onnx(onnx.load_from_string(content)).stateful


class Between(torch.nn.Module):
    """Two levels with something in between."""

    def __init__(self, between, both=False, **options):
        super().__init__()
        self.a = torch.nn.LSTM(D, H, bidirectional=both, batch_first=True, **options)
        self.b = torch.nn.LSTM(2 * H if both else H, H, batch_first=True)
        self.between = between

    def forward(self, x):
        return self.b(self.between(self.a(x)[0]))[0]


def exported(module, shape, dynamic):
    options = {"dynamic_axes": {"x": {0: "N", 1: "T"}}} if dynamic else {}
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (torch.randn(shape),), file, dynamo=False, input_names=["x"], **options
        )
    return file.getvalue()


KEPT = {
    "nothing": lambda y: y,
    "reshape to its own shape": lambda y: y.reshape(y.shape),
    "view with a rest": lambda y: y.view(y.shape[0], y.shape[1], -1),
    "there and back": lambda y: y.transpose(0, 2).transpose(2, 0),
    "another axis and back": lambda y: y.unsqueeze(1).squeeze(1),
    "in its own type": lambda y: y.float(),
    "all of it": lambda y: y[:, :],
}
LOST = {
    "numbers": lambda y: y.reshape(4, 3, H),
    "samples as steps": lambda y: y.transpose(0, 1),
    "all samples in one": lambda y: y.reshape(1, -1, H),
    "the other way": lambda y: y.flip(1),
    "in another type and back": lambda y: y.half().float(),
    "doubled": lambda y: y * 2,
    "normed": lambda y: torch.nn.functional.layer_norm(y, (H,)),
    "from the second step on": lambda y: y[:, 1:],
    "the last step": lambda y: y[:, -1:],
    "every sample the first": lambda y: y[:1].expand(y.shape[0], -1, -1),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("between", KEPT.values(), ids=KEPT)
def test_moves_that_keep_the_axes_apart(between, dynamic):
    content = exported(Between(between), (3, 4, D), dynamic)
    xs = np.random.default_rng(1).normal(size=(3, 4, D)).astype("f4")
    (expected,) = ort.InferenceSession(content).run(None, {"x": xs})
    got = convert.from_onnx(onnx.load_from_string(content)).forward(xs)
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("between", LOST.values(), ids=LOST)
def test_what_else_is_between_is_refused(between, dynamic):
    model = onnx.load_from_string(exported(Between(between), (3, 4, D), dynamic))
    with pytest.raises(
        ValueError, match=r"LSTM node '/b/LSTM' must read what LSTM node '/a/LSTM' "
    ):
        convert.from_onnx(model)


def test_directions_in_another_order_are_refused():
    module = Between(
        lambda y: y.reshape(3, 4, 2, H).transpose(2, 3).reshape(3, 4, 2 * H), both=True
    )
    for dynamic in (False, True):
        with pytest.raises(ValueError, match="directions side by side and nothing in between"):
            convert.from_onnx(onnx.load_from_string(exported(module, (3, 4, D), dynamic)))


def test_with_an_embedding_below_sizes_are_followed(tmp_path):
    """N of a learned state comes from the ids, and what is between is as large as they are."""

    class Tagger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(9, D)
            self.rnn = torch.nn.GRU(D, H, 2, batch_first=True)
            self.h = torch.nn.Parameter(torch.randn(2, 1, H))

        def forward(self, ids):
            return self.rnn(self.embed(ids), self.h.expand(2, ids.shape[0], H).contiguous())[0]

    ids = torch.arange(12).reshape(3, 4) % 9
    tagger, file = Tagger().eval(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(tagger, (ids,), file, dynamo=False, input_names=["ids"])
    layer = convert.from_onnx(onnx.load_from_string(file.getvalue()), stateful=True)
    got = layer.forward(tagger.embed(ids).detach().numpy())
    np.testing.assert_allclose(got, tagger(ids).detach().numpy(), rtol=0, atol=TOLERANCE)
