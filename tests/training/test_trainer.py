"""The training loop: golden losses, truncated BPTT over batches, reproducibility, hooks."""

import math
import os
import re
import sys

import numpy as np
import pytest
from tiny import CLASSES, POINTS, TEXT, TS, XS, N, T, TwoLayerNet, V, train, train_net

from rnnfast import plot
from rnnfast.data import load_ptb
from rnnfast.layers.freezing import frozen
from rnnfast.models import Rnnlm
from rnnfast.optim import SGD, Adam
from rnnfast.trainer import (
    Plateau,
    RnnlmTrainer,
    Trainer,
    check_divergence,
    eval_accuracy,
    eval_perplexity,
    perplexity,
)

# Ten iterations of the model below (float64, SGD(5.0), clipping at 0.25), as computed by PyTorch's
# automatic differentiation; the book's own code gives the same in float32, to 3e-7.
GOLDEN = [
    2.5649493774661103,
    2.666923388072993,
    2.4581093598942174,
    2.6579403183369874,
    2.640768727932264,
    2.4707262154772844,
    2.4689815914477324,
    2.5109838385744907,
    2.5486658137387206,
    2.621328852995607,
]
FLOAT64_TOLERANCE = 1e-11
FLOAT32_TOLERANCE = 5e-6


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float64, FLOAT64_TOLERANCE), (np.float32, FLOAT32_TOLERANCE)]
)
def test_ten_golden_losses(dtype, tolerance):
    _, steps = train(dtype=dtype)
    losses = [step.loss for step in steps]
    assert len(losses) == 10
    np.testing.assert_allclose(losses, GOLDEN, rtol=0, atol=tolerance)


@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_same_seed_same_losses_bit_for_bit(optimizer):
    runs = [train(dtype=np.float32, optimizer=optimizer(0.1), epochs=2) for _ in range(2)]
    losses = [[step.loss for step in steps] for _, steps in runs]
    assert losses[0] == losses[1]
    params = [[param.tobytes() for param in trainer.model.params] for trainer, _ in runs]
    assert params[0] == params[1]


def test_state_is_carried_over_batches_and_epochs():
    """With a learning rate of 0 the losses are those of one pass over each sample's own text."""
    trainer, steps = train(optimizer=SGD(0.0), epochs=2)
    model, iterations = trainer.model, len(steps)
    positions = np.arange(N)[:, np.newaxis] * (len(XS) // N) + np.arange(iterations * T)
    model.reset_state()
    scores = model.predict(XS[positions % len(XS)]).reshape(N, iterations, T, V)
    log_p = scores - np.log(np.exp(scores).sum(axis=3, keepdims=True))
    targets = TS[positions % len(XS)].reshape(N, iterations, T, 1)
    expected = -np.take_along_axis(log_p, targets, axis=3).mean(axis=(0, 2, 3))
    np.testing.assert_allclose([step.loss for step in steps], expected, rtol=0, atol=1e-12)


def test_clipping():
    """An iteration moves the weights by lr * max_grad where the gradient is longer than that."""

    def moved(max_grad):
        np.random.seed(1)
        before = Rnnlm(V, 5, 8, dtype=np.float64).params
        trainer, (step,) = train(XS[: N * T], TS[: N * T], optimizer=SGD(1.0), max_grad=max_grad)
        pairs = zip(trainer.model.params, before, strict=True)
        return math.sqrt(sum(((new - old) ** 2).sum() for new, old in pairs)), step.grad_norm

    length, norm = moved(None)
    assert norm is None
    assert moved(0.01) == (pytest.approx(0.01, rel=1e-3), pytest.approx(length, rel=1e-9))
    assert moved(100.0) == (pytest.approx(length, rel=1e-9), pytest.approx(length, rel=1e-9))


def test_perplexity_lines_and_list():
    """At iterations 1, 1 + interval, ...: exp of the mean loss since the last time."""
    lines = []
    trainer, steps = train(epochs=2, eval_interval=4, write=lines.append)
    losses = [step.loss for step in steps]
    groups = [losses[0:1], losses[1:5], losses[5:9], losses[9:11], losses[11:15], losses[15:19]]
    expected = [math.exp(sum(group) / len(group)) for group in groups]
    assert trainer.ppl_list == pytest.approx(expected, rel=1e-12)
    assert [step.perplexity for step in steps if step.perplexity] == trainer.ppl_list
    beginning, _, end = lines[0].partition("[s]")
    assert re.fullmatch(r"\| epoch 1 \| iter 1 / 10 \| time \d+", beginning)
    assert end == f" | perplexity {expected[0]:.2f}"
    assert lines[5].startswith("| epoch 2 | iter 9 / 10 | time ")
    assert [(step.epoch, step.iter) for step in steps[9:11]] == [(1, 10), (2, 1)]
    assert trainer.current_epoch == 2
    assert train(eval_interval=None)[0].ppl_list == []


def test_lines_go_to_stdout(capsys):
    np.random.seed(1)
    RnnlmTrainer(Rnnlm(V, 5, 8), SGD(0.1)).fit(XS, TS, 1, N, T)
    line = r"\| epoch 1 \| iter 1 / 10 \| time \d+\[s\] \| perplexity 13\.00\n"
    assert re.fullmatch(line, capsys.readouterr().out)


def test_a_callback_can_stop():
    np.random.seed(1)
    steps, lines, more = [], [], []
    trainer = RnnlmTrainer(Rnnlm(V, 5, 8), SGD(0.1), write=lines.append)
    trainer.report_to([steps.append, lambda step: step.iter == 3 and trainer.stop()])
    trainer.fit(XS, TS, 2, N, T)
    assert [step.iter for step in steps] == [1, 2, 3] and len(lines) == 1
    trainer.report_to([], more.append)
    trainer.fit(XS, TS, 1, N, T)
    assert len(steps) == 3 and (len(lines), len(more)) == (1, 1)
    trainer.stop()
    assert trainer.stopped


def test_a_stop_between_two_fits_ends_the_next_one():
    steps = []
    trainer = RnnlmTrainer(Rnnlm(V, 5, 8, rng=0), SGD(0.1), write=lambda line: None)
    trainer.report_to([steps.append])
    trainer.stop()
    trainer.fit(XS, TS, 2, N, T)
    assert len(steps) == 1 and trainer.stopped
    trainer.fit(XS, TS, 1, N, T)
    assert len(steps) == 11 and not trainer.stopped


def test_bad_arguments():
    with pytest.raises(ValueError, match="equally long, got 249 and 248"):
        train(XS, TS[:-1])
    with pytest.raises(ValueError, match="4 x 6 needs at least 24 ids, got 23"):
        train(XS[:23], TS[:23])
    for options, error, message in [
        ({"max_grad": -1}, ValueError, "max_grad must be positive or None, got -1"),
        ({"max_grad": math.nan}, ValueError, "max_grad must be positive or None, got nan"),
        ({"max_grad": "1"}, TypeError, "max_grad must be a real number, got str"),
        ({"eval_interval": 0}, ValueError, "eval_interval must be from 1 up, got 0"),
        ({"epochs": -1}, ValueError, "max_epoch must be from 0 up, got -1"),
        ({"epochs": 1.5}, TypeError, "max_epoch must be an integer, got float"),
    ]:
        with pytest.raises(error, match=f"fit: {message}"):
            train(**options)
    for xs in (XS.astype(float), XS.reshape(3, 83), "text", None):
        with pytest.raises(ValueError, match=r"fit: xs must be integer ids \(length,\), got"):
            train(xs)
    trainer, _ = train()
    for wrong in (0, -3):
        with pytest.raises(ValueError, match=f"batch_size must be from 1 up, got {wrong}"):
            trainer.fit(XS, TS, 1, wrong, T)
        with pytest.raises(ValueError, match=f"time_size must be from 1 up, got {wrong}"):
            eval_perplexity(trainer.model, XS, 1, wrong)
    with pytest.raises(ValueError, match="corpus must be integer ids"):
        eval_perplexity(trainer.model, XS / 2, 1, 1)


def test_eval_perplexity():
    """The book's average of batch losses, state carried, the tail dropped."""
    model = train()[0].model
    held_out = TEXT[:60]
    model.reset_state()
    scores = model.predict(held_out[np.newaxis, :56])[0]
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    expected = math.exp(-log_p[np.arange(56), held_out[1:57]].mean())
    assert eval_perplexity(model, held_out, 1, 7) == pytest.approx(expected, rel=1e-12)
    assert model.get_state()[0][0] is None
    two = [eval_perplexity(model, half, 1, 29) for half in (held_out[:30], held_out[29:59])]
    assert eval_perplexity(model, held_out, 2, 29) == pytest.approx(
        math.sqrt(two[0] * two[1]), rel=1e-12
    )
    with pytest.raises(ValueError, match="1 x 60 needs at least 61 ids, got 60"):
        eval_perplexity(model, held_out, 1, 60)


def test_perplexity():
    assert perplexity(0.0) == 1.0
    assert perplexity(1000.0) == math.inf
    assert math.isnan(perplexity(math.nan))


def test_divergence_is_an_error():
    step = train()[1][0]
    check_divergence(step)
    for loss in (math.nan, math.inf, 1000.0):
        with pytest.raises(RuntimeError, match=f"epoch 1, iter 1 .loss {loss:.6g}"):
            check_divergence(step._replace(loss=loss))
    with pytest.raises(RuntimeError, match="gradient norm nan"):
        check_divergence(step._replace(grad_norm=math.nan))


def test_plot_without_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "rnnfast\[plot\]"'):
        train()[0].plot()


def test_plot_shows_the_curve(monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    monkeypatch.setattr(pyplot, "show", lambda: None)
    trainer, _ = train(eval_interval=4)
    trainer.plot(ylim=(0, 20))
    (line,) = pyplot.gca().lines
    assert line.get_ydata().tolist() == trainer.ppl_list
    assert line.get_xdata().tolist() == pytest.approx([0.1, 0.5, 0.9])  # iterations 1, 5, 9 of 10
    assert pyplot.gca().get_xlabel() == "epoch" and pyplot.gca().get_title() == "Perplexity"
    assert pyplot.gca().get_ylim() == (0, 20)
    pyplot.close()


def test_a_curve_over_fits_with_other_intervals_and_batches(monkeypatch, tmp_path):
    """Each evaluation stays where it was, whatever the last fit was given."""
    shown = []
    monkeypatch.setattr(plot, "show_curve", lambda epochs, values, *_: shown.append(epochs[:]))
    trainer, _, _ = train_net(epochs=1, eval_interval=4)  # 6 iterations
    trainer.plot()
    train_net(trainer, epochs=1, eval_interval=None)
    trainer.plot()
    train_net(trainer, epochs=1, batch_size=25, eval_interval=1)  # 2 iterations
    trainer.plot()
    ends = [1 / 6, 5 / 6, 2.5, 3]
    assert shown == [pytest.approx(ends[:2])] * 2 + [pytest.approx(ends)]

    first, _ = train(epochs=1, eval_interval=4)
    first.callbacks = [lambda step: step.iter == 6 and first.stop()]
    first.fit(XS, TS, 1, N, T, eval_interval=5)  # of 10: a language model's list begins anew
    first.save_checkpoint(tmp_path / "half")
    second, _ = train()
    second.load_checkpoint(tmp_path / "half")
    second.fit(XS, TS, 1, N, T, eval_interval=None)
    second.plot()
    assert shown[-1] == pytest.approx([1.1, 1.6])
    RnnlmTrainer(Rnnlm(V, 5, 8), SGD(0.1)).plot()
    assert shown[-1] == []


def test_eval_accuracy():
    """The share of right guesses, batch by batch with the state carried on, against a loop."""
    model = train()[0].model
    xs, ts = TEXT[:-1], TEXT[1:]
    right, batches = 0, len(xs) // (2 * 7)
    for sample in range(2):
        model.reset_state()
        for k in range(batches * 7):
            place = (sample * (len(xs) // 2) + k) % len(xs)
            scores = model.predict(xs[place].reshape(1, 1))
            right += scores[0, 0].argmax() == ts[place]
    model.reset_state()
    accuracy = eval_accuracy(model, TEXT, 2, 7)
    assert accuracy == pytest.approx(right / (batches * 2 * 7))
    assert accuracy > 1 / V
    with pytest.raises(ValueError, match="eval_accuracy: a batch of 9 x 90 needs"):
        eval_accuracy(model, TEXT, 9, 90)


def test_evaluation_freezes_and_unfreezes(monkeypatch):
    model = train()[0].model
    seen = []
    forward = model.forward

    def watched(xs, ts, train_flg=True):
        seen.append((model.params[1].flags.writeable, train_flg))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return forward(xs, ts, train_flg)

    monkeypatch.setattr(model, "forward", watched)
    with pytest.raises(KeyboardInterrupt):
        eval_perplexity(model, TEXT, 2, 7)
    assert seen == [(False, False)] * 3
    assert model.params[1].flags.writeable
    assert model.get_state()[0][0] is None
    model.lstm_layer.freeze()
    with frozen(model):
        pass
    assert not model.params[1].flags.writeable  # who froze it unfreezes it


def test_evaluation_of_a_model_without_the_flag():
    """The book's own classes on our layers: forward(xs, ts) and nothing else."""
    model = train()[0].model

    class Books:
        reset_state = staticmethod(model.reset_state)

        def forward(self, xs, ts):
            return model.forward(xs, ts)

    assert eval_perplexity(Books(), TEXT, 2, 7) == pytest.approx(eval_perplexity(model, TEXT, 2, 7))


def test_the_books_weights_on_penn_treebank():
    """136.08, as the book's own code says; RNNFAST_TEST_DATA has ptb/ and Rnnlm.pkl (ch06)."""
    folder = os.environ.get("RNNFAST_TEST_DATA")
    if not folder or not os.path.exists(os.path.join(folder, "Rnnlm.pkl")):
        pytest.skip("RNNFAST_TEST_DATA with ptb and Rnnlm.pkl is not set")
    model = Rnnlm()
    model.load_params(os.path.join(folder, "Rnnlm.pkl"))
    corpus, _, _ = load_ptb("test", os.path.join(folder, "ptb"))
    assert eval_perplexity(model, corpus) == pytest.approx(136.08, abs=0.05)


def test_plateau():
    """The learning rate falls when a perplexity is not better than all before it."""
    optimizer = SGD(20.0)
    plateau = Plateau(optimizer)
    seen = [(plateau.update(ppl), optimizer.lr) for ppl in (9.0, 8.0, 8.0, 7.5, math.nan, 7.6)]
    assert seen == [(True, 20), (True, 20), (False, 5), (True, 5), (False, 1.25), (False, 0.3125)]
    assert plateau.best == 7.5
    resumed = Plateau(optimizer, best=7.5)
    assert (resumed.update(7.6), resumed.update(7.4), resumed.best) == (False, True, 7.4)
    with pytest.raises(ValueError, match=r"factor must be from 1 up, got 0\.5"):
        Plateau(optimizer, 0.5)
    with pytest.raises(TypeError, match="Plateau: best must be a real number, got str"):
        Plateau(optimizer, best="7")


# Trainer


def naive_losses(epochs, batch_size, lr, max_grad):
    """The book's loop, its formulas written out; x and t themselves are shuffled."""
    W1, b1, W2, b2 = TwoLayerNet().params
    x, t, losses = POINTS, CLASSES, []
    for _ in range(epochs):
        order = np.random.permutation(np.arange(len(x)))
        x, t = x[order], t[order]
        for i in range(len(x) // batch_size):
            bx = x[i * batch_size : (i + 1) * batch_size]
            bt = t[i * batch_size : (i + 1) * batch_size]
            h = 1 / (1 + np.exp(-(bx @ W1 + b1)))
            p = np.exp(h @ W2 + b2)
            p /= p.sum(axis=1, keepdims=True)
            losses.append(-np.log(p[np.arange(batch_size), bt]).mean())
            p[np.arange(batch_size), bt] -= 1
            p /= batch_size
            dh = p @ W2.T * h * (1 - h)
            grads = [bx.T @ dh, dh.sum(axis=0), h.T @ p, p.sum(axis=0)]
            norm = math.sqrt(sum((grad**2).sum() for grad in grads))
            rate = min(1.0, max_grad / (norm + 1e-6))
            for param, grad in zip((W1, b1, W2, b2), grads, strict=True):
                param -= lr * rate * grad
    return losses


def test_trainer_against_the_books_loop():
    np.random.seed(3)
    expected = naive_losses(2, 8, 2.0, 0.1)
    np.random.seed(3)
    trainer, losses, lines = train_net(eval_interval=4)
    assert len(losses) == 12
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-12)
    groups = [losses[0:1], losses[1:5], losses[5:7], losses[7:11]]
    assert trainer.loss_list == pytest.approx([sum(g) / len(g) for g in groups], rel=1e-12)
    beginning, _, end = lines[1].partition("[s]")
    assert re.fullmatch(r"\| epoch 1 \| iter 5 / 6 \| time \d+", beginning)
    assert end == f" | loss {trainer.loss_list[1]:.2f}"
    assert lines[2].startswith("| epoch 2 | iter 1 / 6 | time ")
    train_net(trainer, 1)  # goes on counting
    assert (trainer.current_epoch, len(trainer.loss_list)) == (3, 5)


def test_trainer_checks_its_arguments():
    trainer = Trainer(TwoLayerNet(), SGD(2.0))
    for arguments, message in [
        ((POINTS, CLASSES[:-1]), r"equally long, got \(50, 2\) and \(49,\)"),
        ((POINTS, 3), "equally long"),
        ((POINTS, CLASSES, 1, 51), "a batch of 51 needs as many samples, got 50"),
        ((POINTS, CLASSES, 1, 0), "batch_size must be from 1 up, got 0"),
    ]:
        with pytest.raises(ValueError, match=f"fit: .*{message}"):
            trainer.fit(*arguments)
    assert trainer.loss_list == []


@pytest.mark.parametrize(
    ("optimizer", "callbacks", "message"),
    [
        (SGD, (), "optimizer must have an update, as SGD.* has, got the class SGD"),
        (0.1, (), "optimizer must have an update, as SGD.* has, got float"),
        (SGD(0.1), print, "callbacks must be a list of functions, got builtin_function_or_method"),
        (SGD(0.1), None, "callbacks must be a list of functions, got NoneType"),
        (SGD(0.1), [print, 3], r"callbacks\[1\] must be a function, got int"),
    ],
)
@pytest.mark.parametrize("kind", [Trainer, RnnlmTrainer])
def test_what_a_trainer_is_made_of(kind, optimizer, callbacks, message):
    with pytest.raises(TypeError, match=f"^{kind.__name__}: {message}$"):
        kind(TwoLayerNet(), optimizer, callbacks=callbacks)


def test_trainer_plot(monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    monkeypatch.setattr(pyplot, "show", lambda: None)
    trainer, _, _ = train_net(eval_interval=2)
    trainer.plot()
    assert pyplot.gca().lines[0].get_ydata().tolist() == trainer.loss_list
    assert pyplot.gca().get_ylabel() == "loss"
    pyplot.close()
