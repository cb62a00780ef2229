"""Mixtures of softmaxes and direct output connection: PyTorch modules, penalty, dropout, errors."""

import numpy as np
import pytest
from naive import numeric_gradient

from rnnfast import TimeDropout, TimeMixtureSoftmax, TimeMixtureSoftmaxWithLoss

N, T, D, V = 3, 4, 5, 11
EXACT = 1e-10  # float64 against PyTorch

pytestmark = pytest.mark.usefixtures("device")


def make(widths, mixtures, **options):
    """A mixture of inputs of these widths, float64, with inputs and targets."""
    rng = np.random.default_rng([*widths, *mixtures])
    W, b, prior_W = (rng.standard_normal(s) for s in ((D, V), (V,), (widths[-1], sum(mixtures))))
    latents = [
        (rng.standard_normal((H, K * D)) / np.sqrt(H), rng.standard_normal(K * D))
        for H, K in zip(widths, mixtures, strict=True)
    ]
    xs = [rng.standard_normal((N, T, H)) for H in widths]
    ts = rng.integers(V, size=(N, T))
    ts[1, 1:] = -1
    return TimeMixtureSoftmax(W, b, prior_W, latents, **options), xs, ts


def torch_module(torch, layer):
    """The papers' equations as a module: distributions of all inputs, weighted and added."""

    class DirectOutputConnection(torch.nn.Module):
        def __init__(self):
            super().__init__()
            W, b, prior_W, *latents = (torch.tensor(p) for p in layer.params)
            self.prior = torch.nn.Linear(*prior_W.shape, bias=False)
            self.prior.weight = torch.nn.Parameter(prior_W.T)
            self.decoder = torch.nn.Linear(*W.shape)
            self.decoder.weight, self.decoder.bias = map(torch.nn.Parameter, (W.T, b))
            self.latents = torch.nn.ModuleList()
            for latent_W, latent_b in zip(latents[::2], latents[1::2], strict=True):
                linear = torch.nn.Linear(*latent_W.shape)
                linear.weight = torch.nn.Parameter(latent_W.T)
                linear.bias = torch.nn.Parameter(latent_b)
                self.latents.append(torch.nn.Sequential(linear, torch.nn.Tanh()))

        def forward(self, xs):
            pi = self.prior(xs[-1]).softmax(-1)
            ps = [
                self.decoder(latent(x).unflatten(-1, (-1, D))).softmax(-1)
                for latent, x in zip(self.latents, xs, strict=True)
            ]
            return (pi[..., None] * torch.cat(ps, -2)).sum(-2), pi

        def grads(self):
            """In the order of the layer's params."""
            found = [self.decoder.weight.grad.T, self.decoder.bias.grad, self.prior.weight.grad.T]
            for linear, _ in self.latents:
                found += [linear.weight.grad.T, linear.bias.grad]
            return [grad.numpy() for grad in found]

    return DirectOutputConnection()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_ignored_step_does_not_reach_the_weights(bad):
    """Whatever the inputs are there: all gradients are those without it."""
    mixture, xs, ts = make((6, 7), (2, 3))
    layer, results = TimeMixtureSoftmaxWithLoss(mixture, balance=0.5), []
    for value in 1.0, bad:
        for x in xs:
            x[1, 1:] = value
        loss = layer.forward(xs, ts)
        results.append([loss, layer.penalty, *layer.backward()])
        results[-1] += [grad.copy() for grad in mixture.grads]
    for clean, got in zip(*results, strict=True):
        np.testing.assert_array_equal(got, clean)
        assert np.isfinite(got).all()
    assert all((dx[1, 1:] == 0).all() for dx in results[1][2:4])


@pytest.mark.parametrize("balance", [0.0, 0.3])
@pytest.mark.parametrize(
    ("widths", "mixtures"),
    [((6,), (1,)), ((6,), (3,)), ((7, 6), (2, 3)), ((4, 7, 6), (2, 1, 4))],
    ids=str,
)
def test_it_is_what_the_papers_say_in_pytorch(widths, mixtures, balance):
    torch = pytest.importorskip("torch")
    layer, xs, ts = make(widths, mixtures)
    module = torch_module(torch, layer)
    inputs = [torch.tensor(x, requires_grad=True) for x in xs]
    p, pi = module(inputs)
    targets = torch.tensor(ts).reshape(-1)
    expected = torch.nn.functional.nll_loss(p.log().reshape(-1, V), targets, ignore_index=-1)
    B = pi.reshape(-1, sum(mixtures))[targets >= 0].sum(0)
    penalty = balance * (B.std(unbiased=False) / B.mean()) ** 2
    (1.5 * (expected + (penalty if sum(mixtures) > 1 else 0))).backward()

    loss = TimeMixtureSoftmaxWithLoss(layer, balance=balance)
    given = xs if len(xs) > 1 else xs[0]
    np.testing.assert_allclose(layer.forward(given), p.detach().log().numpy(), rtol=EXACT)
    assert loss.forward(given, ts) == pytest.approx(float(expected.detach()), rel=EXACT)
    assert loss.penalty == pytest.approx(float(penalty.detach()), rel=EXACT, abs=EXACT)
    for grad in layer.grads:
        grad[...] = np.nan
    dxs = loss.backward(1.5)
    for dx, x in zip(dxs if len(xs) > 1 else [dxs], inputs, strict=True):
        np.testing.assert_allclose(dx, x.grad.numpy(), atol=EXACT)
    for grad, other in zip(layer.grads, module.grads(), strict=True):
        np.testing.assert_allclose(grad, other, atol=EXACT)


def test_gradients_are_the_numeric_ones_with_dropout():
    """One mask for all steps of a sample; the same one forward and backward."""
    drop = TimeDropout(0.4, 1, variational=True)
    layer, xs, ts = make((7, 6), (1, 2), drop=drop)
    loss = TimeMixtureSoftmaxWithLoss(layer, balance=0.2)

    def total():
        drop.step = 0
        return loss.forward(xs, ts) + loss.penalty

    total()
    layer.forward(xs)  # draws no mask, and changes none
    dxs = loss.backward()
    grads = [grad.copy() for grad in layer.grads]
    for dx, x in zip(dxs, xs, strict=True):
        np.testing.assert_allclose(dx, numeric_gradient(total, x), atol=1e-8)
    for grad, param in zip(grads, layer.params, strict=True):
        np.testing.assert_allclose(grad, numeric_gradient(total, param), atol=1e-8)
    assert loss.forward(xs, ts, train=False) != total() - loss.penalty
    assert drop.step == 1


def test_the_penalty_is_no_part_of_the_loss_and_of_no_evaluation():
    layer, (x,), ts = make((6,), (4,))
    plain, balanced = (TimeMixtureSoftmaxWithLoss(layer, balance=f) for f in (0, 10))
    assert balanced.forward(x, ts) == plain.forward(x, ts)
    assert balanced.penalty > 0
    dx = plain.backward()
    assert abs(balanced.backward() - dx).max() > 1e-3
    assert balanced.forward(2 * x, ts, train=False) == plain.forward(2 * x, ts)
    assert balanced.penalty == 0
    with pytest.raises(RuntimeError, match="backward needs the forward of a training step"):
        balanced.backward()


def test_targets_one_hot_or_none():
    layer, (x,), ts = make((6,), (3,))
    loss = TimeMixtureSoftmaxWithLoss(layer, balance=1)
    ts[ts < 0] = 0
    assert loss.forward(x, np.eye(V, dtype=int)[ts]) == loss.forward(x, ts)
    for x_, ts_ in ((x, np.full_like(ts, -1)), (x[:0], ts[:0]), (x[:, :0], ts[:, :0])):
        assert loss.forward(x_, ts_) == 0.0
        assert loss.penalty == 0.0
        dx = loss.backward()
        assert dx.shape == x_.shape
        assert not dx.any()
        assert not any(grad.any() for grad in layer.grads)
        assert layer.forward(x_).shape == (*x_.shape[:2], V)


def test_float32_and_one_step():
    """float32 against float64; the log probabilities of one step are those of the sequence."""
    layer, (x,), ts = make((6,), (3,))
    W, b, prior_W, *latent = (p.astype("f4") for p in layer.params)
    single = TimeMixtureSoftmax(W, b, prior_W, [latent])
    log_p = single.forward(x)
    assert log_p.dtype == np.float32
    np.testing.assert_allclose(log_p, layer.forward(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(single.forward(x[:, 1:2])[:, 0], log_p[:, 1], rtol=1e-5, atol=1e-5)
    losses = TimeMixtureSoftmaxWithLoss(layer), TimeMixtureSoftmaxWithLoss(single)
    assert losses[1].forward(x, ts) == pytest.approx(losses[0].forward(x, ts), rel=1e-6)
    np.testing.assert_allclose(losses[1].backward(), losses[0].backward(), atol=1e-6)


def test_create_and_repr():
    layer = TimeMixtureSoftmax.create(6, D, V, K=3, rng=0, dtype="f8")
    assert "H=6, K=3, D=5, V=11, float64" in repr(layer)
    assert [p.shape for p in layer.params] == [(D, V), (V,), (6, 3), (6, 3 * D), (3 * D,)]
    assert "H=(7, 6), K=(2, 3)" in repr(make((7, 6), (2, 3))[0])
    assert "balance=0.1" in repr(TimeMixtureSoftmaxWithLoss(layer, balance=0.1))


def test_bad_arguments():
    layer, (x,), ts = make((6,), (3,))
    W, b, prior_W, *latent = layer.params
    for latents, error, text in (
        ([], ValueError, "latents must have a pair for each input, got none"),
        (latent, TypeError, r"latents must be a sequence of pairs \(W, b\)"),
        (3, TypeError, r"latents must be a sequence of pairs \(W, b\), got int"),
        ([(latent[0][:, 1:], latent[1])], ValueError, r"latent_W must be \(H, K D\) with D = 5"),
        ([(latent[0], latent[1][1:])], ValueError, r"latent_b must be \(K D,\) = \(15,\)"),
        ([(latent[0][1:], latent[1])], ValueError, r"latent_W must be .* with H = 6"),
        ([latent, latent], ValueError, "as many vectors as prior_W has columns, 3, got 6"),
    ):
        with pytest.raises(error, match=text):
            TimeMixtureSoftmax(W, b, prior_W, latents)
    with pytest.raises(TypeError, match="drop must be a TimeDropout or None, got float"):
        TimeMixtureSoftmax(W, b, prior_W, [latent], drop=0.5)
    with pytest.raises(ValueError, match="balance must be finite, from 0 up, got -1"):
        TimeMixtureSoftmaxWithLoss(layer, balance=-1)
    with pytest.raises(ValueError, match="K must be from 1 up, got 0"):
        TimeMixtureSoftmax.create(6, D, V, K=0)
    loss = TimeMixtureSoftmaxWithLoss(layer)
    for call in (layer.forward, lambda xs: loss.forward(xs, ts)):
        with pytest.raises(
            ValueError, match=r"xs must be \(N, T, H\) = \(N, T, 6\), got \(3, 4, 5"
        ):
            call(x[:, :, 1:])
        with pytest.raises(ValueError, match="xs must be 1 arrays, got 2"):
            call([x, x])
    with pytest.raises(ValueError, match="ts must be ids"):
        loss.forward(x, ts[1:])
    with pytest.raises(ValueError, match=r"ts must be in \[0, 11\), got 11"):
        loss.forward(x, np.where(ts == ts[0, 0], V, ts))
