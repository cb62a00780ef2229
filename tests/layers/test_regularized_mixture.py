"""Past decode and adversarial noise with a mixture of softmaxes, against PyTorch, to 1e-10."""

import numpy as np
import pytest

from rnnfast.layers import (
    PastDecode,
    TimeMixtureSoftmax,
    TimeMixtureSoftmaxWithLoss,
    TimeRegularizedMixtureSoftmaxWithLoss,
)

N, T, H, BELOW, D, V = 2, 4, 6, 5, 3, 7
KS = (2, 3)  # softmaxes of the layer below and of the last one
CLOSE = {"rtol": 0, "atol": 1e-10}

pytestmark = pytest.mark.usefixtures("device")


def made(dtype=np.float64, past_decode=0.0, **options):
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype)

    latents = [(draw(w, K * D), draw(K * D)) for w, K in zip((BELOW, H), KS, strict=True)]
    mixture = TimeMixtureSoftmax(draw(D, V), draw(V), draw(H, sum(KS)), latents)
    weights = draw(D, D), draw(D), draw(V)
    past = PastDecode(mixture, *weights, factor=past_decode) if past_decode else None
    return TimeRegularizedMixtureSoftmaxWithLoss(mixture, past=past, **options)


def batch(dtype=np.float64):
    rng = np.random.default_rng(1)
    xs = [rng.standard_normal((N, T, width)).astype(dtype) for width in (BELOW, H)]
    ts, previous = rng.integers(0, V, (2, N, T))
    ts[1, 2] = -1
    return xs, ts, previous


CASES = {
    "past": {"past_decode": 0.7},
    "noise": {"adversarial": 0.4},
    "both, and balance": {"past_decode": 0.7, "adversarial": 0.4, "balance": 0.3},
    "none": {},
}
cases = pytest.mark.parametrize("options", CASES.values(), ids=CASES)


@cases
@pytest.mark.parametrize("dout", [1.0, -2.5])
def test_loss_penalty_and_gradients_are_those_of_pytorch(options, dout):
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    layer, (xs, ts, previous) = made(**options), batch()
    factor, size = options.get("past_decode", 0), options.get("adversarial", 0)
    leaves = [torch.tensor(x, requires_grad=True) for x in (*xs, *layer.mixture.params)]
    below, last, W, b, prior_W, W1, b1, W2, b2 = leaves
    past = [] if layer.past is None else layer.past.params
    U, c, d = of_past = [torch.tensor(p, requires_grad=True) for p in past] or [None] * 3

    latents = torch.cat([torch.tanh(below @ W1 + b1), torch.tanh(last @ W2 + b2)], dim=2)
    hs = latents.reshape(N * T, sum(KS), D)
    log_pi = F.log_softmax((last @ prior_W).reshape(N * T, -1), dim=1)
    scores = hs @ W + b
    t = torch.tensor(ts).reshape(-1)
    counted = t >= 0

    def cross_entropy(scores):
        log_p = torch.logsumexp(log_pi[:, :, None] + F.log_softmax(scores, dim=2), dim=1)
        return F.nll_loss(log_p[counted], t[counted]), log_p

    loss, log_p = cross_entropy(scores)
    penalty = torch.zeros(())
    if factor:
        decoded = torch.tanh(log_p[counted].exp() @ W.T @ U + c) @ W + d
        read = torch.tensor(previous).reshape(-1)[counted]
        penalty = penalty + factor * F.cross_entropy(decoded, read)
    if size:
        with torch.no_grad():
            w = W.T[t.clamp(min=0)][:, None]
            noise = -size * w.norm(dim=2, keepdim=True) * hs / hs.norm(dim=2, keepdim=True)
            noise = torch.where((w * hs).sum(dim=2, keepdim=True) > 0, noise, 0.0)
        moved = (hs * noise).sum(dim=2)[:, :, None] * F.one_hot(t.clamp(min=0), V)[:, None]
        penalty = penalty + cross_entropy(scores + moved)[0] - loss
    if balance := options.get("balance"):
        B = log_pi.exp()[counted].sum(dim=0)
        penalty = penalty + balance * B.var(correction=0) / B.mean() ** 2
    (dout * (loss + penalty)).backward()

    assert layer.forward(xs, ts, previous=previous) == pytest.approx(loss.item(), abs=1e-12)
    assert layer.penalty == pytest.approx(penalty.item(), abs=1e-12)
    dxs = layer.backward(dout)
    for found, leaf in zip([*dxs, *layer.mixture.grads], leaves, strict=True):
        np.testing.assert_allclose(found, leaf.grad.numpy(), **CLOSE)
    for found, leaf in zip(layer.past.grads if past else [], of_past, strict=bool(past)):
        np.testing.assert_allclose(found, leaf.grad.numpy(), **CLOSE)


@cases
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_ignored_step_does_not_reach_the_weights(options, bad):
    """Whatever the inputs are there: loss, penalty and gradients are those without it."""
    layer, (xs, ts, previous), results = made(**options), batch(), []
    for value in 1.0, bad:
        for x in xs:
            x[1, 2] = value
        results.append([layer.forward(xs, ts, previous=previous), layer.penalty, *layer.backward()])
        past = [] if layer.past is None else layer.past.grads
        results[-1] += [grad.copy() for grad in (*layer.mixture.grads, *past)]
    for clean, got in zip(*results, strict=True):
        np.testing.assert_array_equal(got, clean)
        assert np.isfinite(got).all()
    assert all((dx[1, 2] == 0).all() for dx in results[1][2:4])


@cases
def test_in_float32_and_without_training(options):
    found = []
    for dtype in np.float32, np.float64:
        layer, (xs, ts, previous) = made(dtype, **options), batch(dtype)
        loss = layer.forward(xs, ts, previous=previous)
        found.append([loss, layer.penalty, *layer.backward(), *layer.mixture.grads])
        plain = TimeMixtureSoftmaxWithLoss(layer.mixture).forward(xs, ts)
        assert loss == plain
        assert layer.forward(xs, ts, train=False) == pytest.approx(plain, rel=1e-6)
    for a, b in zip(*found, strict=True):
        assert getattr(a, "dtype", np.float32) == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)


def test_wrong_calls():
    layer, (xs, ts, previous) = made(past_decode=0.5), batch()
    with pytest.raises(TypeError, match="previous must be a NumPy array, got NoneType"):
        layer.forward(xs, ts)
    with pytest.raises(ValueError, match=r"previous must be \(N, T\) = \(2, 4\), got \(2, 3\)"):
        layer.forward(xs, ts, previous=previous[:, 1:])
    with pytest.raises(RuntimeError, match="backward needs the forward of a training step"):
        layer.backward()
    with pytest.raises(ValueError, match="adversarial must be finite, from 0 up, got -1"):
        made(adversarial=-1)
    with pytest.raises(ValueError, match="past must have the same mixture, got another layer"):
        TimeRegularizedMixtureSoftmaxWithLoss(made().mixture, past=layer.past)
