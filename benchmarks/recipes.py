"""Seconds for an epoch of a recipe on Penn Treebank, by rnnfast and by PyTorch for the same layers.

    python -m benchmarks.recipes awd-lstm mogrifier --out benchmarks/results/recipes.json

The models have the recipe's sizes, its dropout and its penalties, and a vocabulary of 10,000. An
iteration is forward, backward, clipping and an update by SGD, with a batch of the recipe's size.
An epoch is as many iterations as the 929,589 words of the training text make. First both are
compared, at small sizes without dropout, so that it is known that they compute the same.
"""

import argparse
import json
from dataclasses import dataclass, replace

import numpy as np

from benchmarks import model_contenders
from benchmarks.contenders import PYTORCH_GATES
from benchmarks.machine import describe
from benchmarks.model_contenders import MAX_GRAD, batch, blocks
from benchmarks.race import race
from rnnfast import io
from rnnfast.commands.recipes import RECIPES
from rnnfast.commands.settings import Settings, build_model, count_parameters

V, WORDS = 10_000, 929_589  # of Penn Treebank
LR = 1e-3  # so small that the norm of the gradient stays above MAX_GRAD: all steps clip
SMALL = {"hidden": 24, "embedding": 16, "time_size": 7, "batch_size": 3}
NAMES = [name for name, recipe in RECIPES.items() if not recipe.settings.get("mixtures")]


@dataclass(frozen=True)
class Job:
    """What model_contenders.Rnnfast trains: a recipe, for a vocabulary of V words."""

    settings: Settings
    V: int
    lr: float = LR
    tied = True

    def ours(self):
        return build_model(self.settings, self.V, 0)

    def batch(self):
        return batch(self.V, self.settings.batch_size, self.settings.time_size)


class Rnnfast(model_contenders.Rnnfast):
    def run(self):
        return float(self.step())


class PyTorch:
    """The layers of a LanguageModel with tied weights, or of BetterRnnlm, from its weights.

    An LSTM is nn.LSTM with a second bias, which is zero here and not trained. A Mogrifier LSTM is
    a loop over the steps. The state is carried on, detached.
    """

    def __init__(self, job):
        import torch

        self.torch, model = torch, job.ours()
        sizes = model.sizes
        assert model.layers[-1].params[0].shape == model.layers[0].W.T.shape  # tied
        self.variational = sizes.get("variational_dropout", False)
        dropout = sizes.get("dropout", sizes.get("dropout_ratio", 0.0))
        places = ("input", *["between"] * (len(model.recurrent_layers) - 1), "output")
        self.ratios = [sizes.get(f"{place}_dropout", dropout) for place in places]
        self.h_ratio = dropout if self.variational else 0.0
        self.words, self.weight_drop, self.alpha, self.beta = (
            sizes.get(name, 0.0) for name in ("embedding_dropout", "weight_drop", "alpha", "beta")
        )
        self.embedding = self._trained(model.layers[0].W)
        self.bias = self._trained(model.layers[-1].params[1])
        make = self._mogrifier if job.settings.cell == "mogrifier" else self._lstm
        self.layers = [make(*layer.params) for layer in model.recurrent_layers]
        self.trained = [self.embedding, self.bias]
        self.trained += [p for _, weights in self.layers for p in weights]
        self.optimizer = torch.optim.SGD(self.trained, lr=job.lr, fused=True)
        self.xs, self.ts = map(torch.from_numpy, job.batch())
        self.states = [None] * len(self.layers)

    def _trained(self, array):
        return self.torch.nn.Parameter(self.torch.from_numpy(np.array(array)))

    def _lstm(self, Wx, Wh, b):
        """A function of (xs, state) and its weights."""
        torch, order = self.torch, PYTORCH_GATES["lstm"]
        lstm = torch.nn.LSTM(Wx.shape[0], Wh.shape[0], batch_first=True)
        lstm.bias_hh_l0.data.zero_()
        lstm.bias_hh_l0.requires_grad_(False)
        weights = [lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0]
        for weight, array in zip(weights, (Wx, Wh, b), strict=True):
            weight.data[...] = torch.from_numpy(np.ascontiguousarray(blocks(array, order).T))

        def run(xs, state):
            if not self.weight_drop:
                return lstm(xs, state)
            dropped = torch.nn.functional.dropout(lstm.weight_hh_l0, self.weight_drop)
            return torch.func.functional_call(lstm, {"weight_hh_l0": dropped}, (xs, state))

        return run, weights

    def _mogrifier(self, Wx, Wh, b, Wm, Wr=None):
        """The same; gates in rnnfast's order f, g, i, o."""
        torch, H = self.torch, Wh.shape[0]
        given = [array for array in (Wx, Wh, b, Wm, Wr) if array is not None]
        weights = [self._trained(array) for array in given]

        def run(xs, state):
            Wx, Wh, b, *rounds = weights
            M = rounds[0] if len(rounds) == 1 else rounds[0] @ rounds[1]
            h, c = state or xs.new_zeros(2, len(xs), H).unbind()
            mask = self.mask(self.h_ratio, len(xs), H)
            hs = []
            for x in xs.unbind(1):
                h = h if mask is None else h * mask
                for i, m in enumerate(M):
                    if i % 2 == 0:
                        x = 2 * torch.sigmoid(h @ m) * x
                    else:
                        h = 2 * torch.sigmoid(x @ m.T) * h
                f, g, i, o = torch.addmm(torch.addmm(b, x, Wx), h, Wh).chunk(4, 1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
                hs.append(h)
            return torch.stack(hs, 1), (h, c)

        return run, weights

    def mask(self, ratio, *shape):
        if not ratio:
            return None
        return self.torch.nn.functional.dropout(self.torch.ones(shape), ratio)

    def drop(self, ratio, xs):
        if not self.variational:
            return self.torch.nn.functional.dropout(xs, ratio)
        mask = self.mask(ratio, len(xs), 1, xs.shape[2])
        return xs if mask is None else xs * mask

    def run(self):
        torch, F = self.torch, self.torch.nn.functional
        self.optimizer.zero_grad()
        words = self.mask(self.words, len(self.embedding), 1)
        embedding = self.embedding if words is None else self.embedding * words
        xs = self.drop(self.ratios[0], F.embedding(self.xs, embedding))
        for k, (layer, _) in enumerate(self.layers):
            hs, state = layer(xs, self.states[k])
            self.states[k] = tuple(s.detach() for s in state)
            xs = self.drop(self.ratios[k + 1], hs)
        scores = F.linear(xs, self.embedding, self.bias)
        loss = F.cross_entropy(scores.view(-1, scores.shape[2]), self.ts.view(-1))
        whole = loss
        if self.alpha:
            whole = whole + self.alpha * xs.square().mean()
        if self.beta:
            whole = whole + self.beta * (hs[:, 1:] - hs[:, :-1]).square().mean()
        whole.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, MAX_GRAD)
        self.optimizer.step()
        return loss.item()


def check(settings):
    """AssertionError unless both have the same losses over three updates, without dropout."""
    drops = [name for name, value in vars(settings).items() if "drop" in name and value]
    small = SMALL | ({"rank": 5} if settings.rank else {}) | dict.fromkeys(drops, 0.0)
    if settings.model == "better":
        small["embedding"] = None
    job = Job(replace(settings, **small), V=50, lr=1.0)
    ours, theirs = Rnnfast(job), PyTorch(job)
    losses = np.array([[one.run() for _ in range(3)] for one in (ours, theirs)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert len(set(losses[0])) == 3


def measure(name, rounds):
    """The row of a recipe."""
    settings = Settings(**RECIPES[name].settings)
    check(settings)
    job = Job(settings, V)
    ours = Rnnfast(job)
    result = race({"rnnfast": ours, "pytorch": PyTorch(job)}, rounds)
    iterations = WORDS // (settings.batch_size * settings.time_size)
    epoch = {who: iterations * result.median(who) for who in ("rnnfast", "pytorch")}
    return {
        "parameters": count_parameters(ours.model),
        "batch_size": settings.batch_size,
        "time_size": settings.time_size,
        "seconds_per_epoch": {who: round(seconds, 1) for who, seconds in epoch.items()},
        "pytorch_to_rnnfast": [round(x, 3) for x in result.ratio("pytorch", "rnnfast")],
        "epochs": settings.epochs,
        "hours_for_all_epochs": round(settings.epochs * epoch["rnnfast"] / 3600, 1),
        "others_cores": result.others_cores and round(result.others_cores, 2),
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+", choices=NAMES, metavar="RECIPE")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", help="JSON to write")
    options = parser.parse_args(argv)
    rows = {}
    for name in options.recipes:
        rows[name] = measure(name, options.rounds)
        print(name, json.dumps(rows[name]), flush=True)
    if options.out:
        text = json.dumps({"machine": describe(), "recipes": rows}, indent=1)
        io.write_atomically(options.out, (text + "\n").encode())


if __name__ == "__main__":
    main()
