"""`TrainingStep`: as the loop that it stands for, bit by bit; on a GPU from a recorded graph.

Without a GPU on the device of tests/fake_cuda.py, whose graph computes what a launch would.
"""

import copy
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import fake_cuda
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import rnnfast
from rnnfast import kernels, models, optim, trainer
from rnnfast.checks import is_cupy, namespace

V, N, T, H = 11, 3, 4, 5
AWD = {"layers": 2, "input_dropout": 0.4, "between_dropout": 0.25, "output_dropout": 0.4}
AWD |= {"embedding_dropout": 0.1, "weight_drop": 0.5, "alpha": 2.0, "beta": 1.0}
AWD |= {"variational_dropout": True, "tie_weights": True, "last_hidden_size": None}
MODELS = {
    "Rnnlm": lambda: models.Rnnlm(V, H, H, rng=0),
    "SimpleRnnlm": lambda: models.SimpleRnnlm(V, H, H, rng=0),
    "BetterRnnlm": lambda: models.BetterRnnlm(V, H, H, rng=0),
    "GRU": lambda: models.LanguageModel(V, H, H, cell="gru", layers=2, dropout=0.3, rng=0),
    "AWD-LSTM": lambda: models.LanguageModel(V, H, 6, rng=0, **AWD),
    "AWD-LSTM-MoS": lambda: models.LanguageModel(
        V, H, 6, rng=0, mixtures=2, latent_dropout=0.3, **AWD
    ),
    "DOC": lambda: models.LanguageModel(
        V, H, 6, rng=0, layers=2, mixtures=2, mixtures_below=1, balance=0.1
    ),
    "past decode": lambda: models.LanguageModel(V, H, H, past_decode=0.1, rng=0),
    "adversarial": lambda: models.LanguageModel(V, H, H, adversarial=0.1, rng=0),
    "zoneout": lambda: models.LanguageModel(
        V, H, H, h_zoneout=0.1, c_zoneout=0.2, recurrent_dropout=0.3, rng=0
    ),
    "Mogrifier": lambda: models.LanguageModel(V, H, H, cell="mogrifier", rng=0),
    "LSTMP": lambda: models.LanguageModel(V, H, H, cell="lstmp", proj_size=3, rng=0),
    "sLSTM": lambda: models.LanguageModel(V, H, H, cell="slstm", rng=0),
    "layer norm": lambda: models.LanguageModel(V, H, H, cell="lnlstm", rng=0),
}
OPTIMIZERS = {
    "SGD": lambda: optim.SGD(lr=1.0),
    "weight decay": lambda: optim.SGD(lr=1.0, weight_decay=0.1),
    "Momentum": lambda: optim.Momentum(lr=0.1),
    "Nesterov": lambda: optim.Nesterov(lr=0.1),
    "AdaGrad": lambda: optim.AdaGrad(lr=0.1),
    "RMSprop": lambda: optim.RMSprop(lr=0.01),
    "Adam": lambda: optim.Adam(lr=0.01),
}


class Graph:
    """What rnnfast.cuda.graph.Graph does, of a step, on the device of fake_cuda.

    A launch computes what was captured, from the addresses and with the numbers of then: the arrays
    are the same objects, `step` of each mask is that of then, plus the launches before.
    """

    made = 0  # of all tests

    def __init__(self, model, optimizer, wrong=None):
        self.model, self.optimizer, self.wrong = model, optimizer, wrong
        self.launches, self.rehearsed = 0, False
        Graph.made += 1

    def memory(self):
        return copy.copy(NOTHING)

    def rehearse(self, function):
        self.rehearsed = True
        return function()

    def _arrays(self):
        of_optimizer = [x for name in self.optimizer.arrays for x in getattr(self.optimizer, name)]
        states = [x for layer in self.model.recurrent_layers for x in layer.state]
        return [*self.model.params, *self.model.grads, *of_optimizer, *states]

    def _counts(self):
        return [*(drop.step for drop in self.model.drop_layers), getattr(self.optimizer, "iter", 0)]

    def _count(self, values):
        *steps, updates = values
        for drop, step in zip(self.model.drop_layers, steps, strict=True):
            drop.step = step
        if hasattr(self.optimizer, "iter"):
            self.optimizer.iter = updates

    def capture(self, function):
        assert self.rehearsed
        self.function, self.counts = function, self._counts()
        self.read = [layer.state for layer in self.model.recurrent_layers]
        arrays = self._arrays()
        before = [array.copy() for array in arrays]
        self.result = function()
        for array, old in zip(arrays, before, strict=True):
            array[...] = old  # nothing is computed yet
        if self.wrong is not None:
            raise self.wrong

    def launch(self):
        now = self._counts()
        self._count([count + self.launches for count in self.counts])
        for layer, state in zip(self.model.recurrent_layers, self.read, strict=True):
            layer._keep(*state)
        found = self.function()
        self._count(now)
        self.result = found
        self.launches += 1


class Nothing:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False


NOTHING = Nothing()


@pytest.fixture
def graphs(monkeypatch):
    """Layers are made on the GPU; graphs(model, optimizer, wrong) says whose graphs are to come."""
    real = "cuda" in kernels.devices()
    if not real:
        fake_cuda.install(monkeypatch)

    def of(model, optimizer, wrong=None):
        if not real or wrong is not None:
            made = lambda: Graph(model, optimizer, wrong)  # noqa: E731
            monkeypatch.setattr(kernels.load("ops", "cuda"), "graph", made, raising=False)

    with rnnfast.device("cuda"):
        yield of


def batches(count, N=N, T=T, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, V, (count, 2, N, T))


def plain(model, optimizer, max_grad, xs, ts):
    """The loop of the book."""
    loss = model.forward(xs, ts)
    model.backward()
    params, grads = optim.remove_duplicate(model.params, model.grads)
    norm = optim.clip_grads(grads, max_grad) if max_grad else None
    optimizer.update(params, grads)
    return loss, norm


def number(x):
    return None if x is None else float(x)


class Pair:
    """A step and the book's loop, with equal models."""

    def __init__(self, graphs, make, optimizer=OPTIMIZERS["SGD"], max_grad=0.25, wrong=None):
        self.book, self.model, self.max_grad = make(), make(), max_grad
        self.of_book, self.optimizer = optimizer(), optimizer()
        graphs(self.model, self.optimizer, wrong)
        self.step = trainer.TrainingStep(self.model, self.optimizer, max_grad)
        self.recorded = []

    def train(self, pairs, put=lambda x: x):
        for xs, ts in pairs:
            expected = plain(self.book, self.of_book, self.max_grad, put(xs), put(ts))
            found = self.step(put(xs), put(ts))
            self.recorded.append(self.step.recorded)
            assert list(map(number, found)) == list(map(number, expected))
        self.check()

    def check(self):
        for mine, book in zip(
            (*self.model.params, *self.model.grads),
            (*self.book.params, *self.book.grads),
            strict=True,
        ):
            assert_array_equal(mine.get(), book.get())
        for mine, book in zip(self.model.get_state(), self.book.get_state(), strict=True):
            for a, b in zip(mine, book, strict=True):
                assert (a is None) == (b is None)
                if a is not None:
                    assert_array_equal(a.get(), b.get())
        steps = [[drop.step for drop in model.drop_layers] for model in (self.model, self.book)]
        assert steps[0] == steps[1]

    def each(self, change):
        """Changes both in the same way."""
        change(self.model, self.optimizer)
        change(self.book, self.of_book)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_every_model(graphs, make):
    """The first iteration runs, the second is recorded, the others are launches."""
    pair = Pair(graphs, make)
    pair.train(batches(6))
    assert pair.recorded == [False, False, True, True, True, True]


@pytest.mark.parametrize("max_grad", [None, 0.25])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_optimizer(graphs, optimizer, max_grad):
    pair = Pair(graphs, MODELS["BetterRnnlm"], optimizer, max_grad)
    pair.train(batches(7))
    assert pair.recorded[-3:] == [True] * 3


def test_an_average_is_never_recorded(graphs):
    """Each update has another weight in it."""
    pair = Pair(graphs, MODELS["Rnnlm"], lambda: optim.ASGD(0.01, start=2))
    pair.train(batches(5))
    assert not any(pair.recorded)


def test_ids_on_the_gpu(graphs):
    pair = Pair(graphs, MODELS["Rnnlm"])
    pair.train(batches(4), kernels.load("ops", "cuda").to_device)
    assert pair.recorded == [False, False, True, True]


def fall(model, optimizer):
    optimizer.lr /= 4


def reset(model, optimizer):
    model.reset_state()


def other_state(model, optimizer):
    model.set_state([tuple(h[::-1] for h in state) for state in model.get_state()])


def other_weights(model, optimizer):
    model.layers[0].params[0][...] *= 0.5


def ratio(model, optimizer):
    for drop in model.drop_layers:
        drop.dropout_ratio = 0.1


def masks(model, optimizer):
    model.drop_layers[0].set_mask_state(40, (7, 8))


def evaluate(model, optimizer):
    before = model.get_state()
    model.reset_state()
    model.forward(*batches(1, N=2, T=3)[0], False)
    model.set_state(before)


def beside(model, optimizer):
    """An iteration that the step does not see: masks are drawn, weights change."""
    plain(model, optimizer, None, *batches(1, seed=9)[0])


def ratio_of_numpy(model, optimizer):
    for drop in model.drop_layers:
        drop.dropout_ratio = np.float32(0.1)


def array_of_a_layer(model, optimizer):
    layer = model.recurrent_layers[0]
    layer.Wx = layer.Wx * 2


def other_array(model, optimizer):
    layer = model.recurrent_layers[0]
    i = next(i for i, p in enumerate(model.params) if p is layer.params[0])
    model.params[i] = layer.params[0] = layer.params[0] * 2


CHANGES = {  # between two iterations, and whether the graph holds
    fall: False,
    reset: True,
    other_state: True,
    other_weights: True,
    ratio: False,
    ratio_of_numpy: False,
    array_of_a_layer: False,
    masks: False,
    evaluate: True,
    beside: False,
    other_array: False,
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changes_between_iterations(graphs, change):
    pair = Pair(graphs, MODELS["BetterRnnlm"])
    pair.train(batches(4))
    pair.each(change)
    pair.train(batches(5, seed=1))
    if change is beside:
        again = [False, True, True, True, True]  # the settings are the same: it is recorded at once
    else:
        again = [True] * 5 if CHANGES[change] else [False, False, True, True, True]
    assert pair.recorded == [False, False, True, True, *again]


def test_a_ratio_that_falls_by_numbers_of_numpy(graphs):
    pair = Pair(graphs, MODELS["BetterRnnlm"])
    for value in np.linspace(0.5, 0.1, 5, dtype="f"):
        pair.each(lambda model, _, value=value: setattr(model.drop_layers[0], RATIO, value))
        pair.train(batches(1))
    assert not any(pair.recorded)


RATIO = "dropout_ratio"


def test_frozen_layers_are_not_trained_by_a_graph(graphs):
    pair = Pair(graphs, MODELS["Rnnlm"])
    pair.train(batches(4))
    pair.each(lambda model, _: model.freeze())
    with pytest.raises(RuntimeError, match="frozen"):
        pair.train(batches(1))


@pytest.mark.skipif("cuda" not in kernels.devices(), reason="there is no CUDA GPU")
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_graph_writes_no_memory_of_others(graphs, make):
    """What the layers free after it was recorded goes to others, who keep what they have there."""
    pair = Pair(graphs, make)
    pair.train(batches(4))
    pair.each(evaluate)
    xp, sizes = namespace(pair.model.params[0]), range(512, 1 << 14, 512)
    others = [xp.full(size, 7, np.uint8) for size in sizes for _ in range(20)]
    pair.train(batches(3, seed=1))
    assert pair.recorded[-3:] == [True] * 3
    assert all((other == 7).all() for other in others)


def test_high_precision_is_another_step(graphs, high):
    pair = Pair(graphs, MODELS["Rnnlm"])
    pair.train(batches(3))
    rnnfast.set_float32_matmul_precision("highest")
    pair.train(batches(3))
    assert pair.recorded == [False, False, True] * 2


def test_another_bound_of_the_norm(graphs):
    pair = Pair(graphs, MODELS["Rnnlm"])
    pair.train(batches(3))
    pair.max_grad = pair.step.max_grad = 0.01
    pair.train(batches(3))
    assert pair.recorded == [False, False, True] * 2


@pytest.mark.parametrize("max_grad", [0, -1.0, float("nan"), "0.25"])
def test_a_bound_that_is_none(max_grad):
    model = models.Rnnlm(V, H, H, rng=0, device="cpu")
    with pytest.raises((TypeError, ValueError), match="TrainingStep: max_grad"):
        trainer.TrainingStep(model, optim.SGD(1.0), max_grad)


def test_another_thread_records_again(graphs):
    pair = Pair(graphs, MODELS["Rnnlm"])
    pair.train(batches(3))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(pair.train, batches(3)).result()
    assert pair.recorded == [False, False, True] * 2


def test_other_sizes(graphs):
    """Of the last batch, or where lengths vary."""
    pair = Pair(graphs, MODELS["BetterRnnlm"])
    pair.train([*batches(3), *batches(1, T=3), *batches(1, T=2), *batches(3)])
    assert pair.recorded == [False, False, True, False, False, False, False, True]


@pytest.mark.parametrize("which", [0, 1])
def test_wrong_ids(graphs, which):
    """As without a graph: ValueError before anything changes, and it goes on."""
    pair = Pair(graphs, MODELS["Rnnlm"])
    pair.train(batches(3))
    wrong = batches(1)[0]
    wrong[which][1, 2] = V
    for step in (pair.step, partial(plain, pair.book, pair.of_book, pair.max_grad)):
        with pytest.raises(ValueError, match=r"must be in \[0, 11\)"):
            step(*wrong)
    with pytest.raises(TypeError):
        pair.step(batches(1)[0][0] * 0.5, batches(1)[0][1])
    pair.check()
    pair.train(batches(3, seed=1))
    assert pair.recorded[-1]


def test_targets_to_ignore(graphs):
    pair = Pair(graphs, MODELS["Rnnlm"])
    some = batches(4)
    some[:, 1, :, 0] = -1
    pair.train(some)
    assert pair.recorded == [False, False, True, True]


@pytest.mark.parametrize("wrong", [RuntimeError("not now"), MemoryError("full")], ids=repr)
def test_what_cannot_be_captured_runs_as_it_is(graphs, wrong):
    pair = Pair(graphs, MODELS["BetterRnnlm"], wrong=wrong)
    before = Graph.made
    pair.train(batches(6))
    assert not any(pair.recorded)
    assert Graph.made - before == 1  # it is tried once


def test_a_signal_while_recording(graphs):
    """It goes to the caller; the model is as after the iteration, which was computed."""
    pair = Pair(graphs, MODELS["BetterRnnlm"], wrong=KeyboardInterrupt())
    pair.train(batches(1))
    xs, ts = batches(1, seed=1)[0]
    with pytest.raises(KeyboardInterrupt):
        pair.step(xs, ts)
    plain(pair.book, pair.of_book, pair.max_grad, xs, ts)
    pair.check()


class Counting(models.Rnnlm):
    calls = 0

    def forward(self, *args, **keywords):
        self.calls += 1
        return super().forward(*args, **keywords)


class Watched:
    """An optimiser of the caller's."""

    lr, calls = 1.0, 0

    def update(self, params, grads):
        self.calls += 1
        optim.SGD(self.lr).update(params, grads)


def test_code_of_the_callers_runs_each_time(graphs):
    def listening():
        model = MODELS["Rnnlm"]()
        layer, calls = model.recurrent_layers[0], []
        forward = layer.forward
        layer.forward = lambda *args, **keywords: calls.append(1) or forward(*args, **keywords)
        model.calls = calls
        return model

    pair = Pair(graphs, lambda: Counting(V, H, H, rng=0))
    pair.train(batches(4))
    assert pair.model.calls == 4
    pair = Pair(graphs, listening)
    pair.train(batches(4))
    assert len(pair.model.calls) == 4
    optimizer = Watched()
    step = trainer.TrainingStep(MODELS["Rnnlm"](), optimizer)
    for xs, ts in batches(4):
        step(xs, ts)
    assert optimizer.calls == 4


def test_masks_of_the_host_are_drawn_each_time(graphs):
    """TimeDropout without rng, as the book's, asks np.random."""

    def make():
        model = MODELS["BetterRnnlm"]()
        for drop in model.drop_layers:
            drop.set_mask_state(0, None)
        return model

    pair = Pair(graphs, make)
    for xs, ts in batches(4):
        np.random.seed(0)
        expected = plain(pair.book, pair.of_book, pair.max_grad, xs, ts)
        np.random.seed(0)
        assert list(map(number, pair.step(xs, ts))) == list(map(number, expected))
        assert not pair.step.recorded
    pair.check()


@pytest.mark.parametrize("restart_every", [None, 2])
def test_the_trainer_launches_graphs(graphs, restart_every):
    """Losses, lines and weights of a fit are those of the CPU's; a new fit begins anew."""
    ids = np.arange(121) % V
    results = []
    for device in ("cpu", "cuda"):
        model = models.BetterRnnlm(V, H, H, rng=0, device=device)
        optimizer, seen, recorded = optim.SGD(1.0), [], []
        graphs(model, optimizer)
        fit = trainer.RnnlmTrainer(model, optimizer, write=lambda line: None)
        fit.callbacks = [
            lambda step, seen=seen: seen.append(step.loss),
            lambda step, fit=fit, recorded=recorded: recorded.append(fit._step.recorded),
        ]
        for _ in range(2):
            fit.fit(ids[:-1], ids[1:], 2, N, T, 0.25, 4, restart_every=restart_every)
        results.append((seen, [np.asarray(p.get() if is_cupy(p) else p) for p in model.params]))
        expected = [False, False] + [device == "cuda"] * 18
        assert recorded == expected * 2
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-4)
    for a, b in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-5)


def test_the_cpu_has_no_graphs():
    model = models.Rnnlm(V, H, H, rng=0, device="cpu")
    seen = []
    step = trainer.TrainingStep(
        model, optim.SGD(1.0), 0.25, check=lambda loss, norm: seen.append(norm)
    )
    for xs, ts in batches(4):
        loss, norm = step(xs, ts)
        assert isinstance(loss, float)
        assert seen[-2:] == [None, norm]
        assert not step.recorded
    assert namespace(model.params[0]) is np
