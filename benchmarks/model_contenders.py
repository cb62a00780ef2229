"""Contenders that train a language model: one iteration of the book's trainer, same weights.

`step()` is timed: forward, backward, each weight once, clipping, SGD. It returns the loss.
`params()` are the weights after it, in the book's order.
"""

from dataclasses import dataclass

import numpy as np

from benchmarks import baseline_models
from benchmarks.contenders import PYTORCH_GATES
from rnnfast import models
from rnnfast.optim import SGD, remove_duplicate
from rnnfast.trainer import TrainingStep

MAX_GRAD = 0.25
V, N, T = 10_000, 20, 35


@dataclass(frozen=True)
class Job:
    """A model of rnnfast.models by name, its width (D = H), its dropout, the learning rate."""

    model: str
    H: int
    dropout: float
    lr: float

    @property
    def tied(self):
        return self.model == "BetterRnnlm"

    def ours(self, device="cpu"):
        """rnnfast's model. All contenders use its weights."""
        more = {"dropout_ratio": self.dropout} if self.tied else {}
        return getattr(models, self.model)(V, self.H, self.H, rng=0, device=device, **more)

    def weights(self):
        """Copies of the arrays to train in the book's order; of two tied ones the first."""
        params = self.ours().params
        return [p.copy() for i, p in enumerate(params) if not (self.tied and i == len(params) - 2)]

    def batch(self):
        return batch(V, N, T)


def batch(V, N, T):
    """ids and targets (N, T). As in a language, a few words make up most of the text."""
    words = np.arange(1, V + 1) ** -1.3
    return np.random.default_rng(0).choice(V, (2, N, T), p=words / words.sum())


# A small learning rate keeps the norm of the gradient above MAX_GRAD, so that all steps clip.
JOBS = (Job("Rnnlm", 100, 0.0, lr=1e-3), Job("BetterRnnlm", 650, 0.5, lr=1e-3))
CHECKED_LR = 1.0


class Rnnfast:
    name, label = "rnnfast", "rnnfast"

    def __init__(self, job, model=None):
        self.model = model or job.ours()
        self.training_step = TrainingStep(self.model, SGD(job.lr), MAX_GRAD)
        self.xs, self.ts = job.batch()
        self.tied = job.tied

    def step(self):
        loss, self.norm = self.training_step(self.xs, self.ts)
        return loss

    def params(self):
        return remove_duplicate(self.model.params, self.model.grads)[0]


class Book:
    name, label = "numpy", "NumPy at the book's cost"

    def __init__(self, job):
        weights = job.weights()
        if job.tied:
            self.model = baseline_models.better_rnnlm(*weights, dropout=job.dropout)
        else:
            self.model = baseline_models.rnnlm(*weights)
        self.xs, self.ts = job.batch()
        self.lr = job.lr

    def step(self):
        return baseline_models.train_step(self.model, self.xs, self.ts, self.lr, MAX_GRAD)

    def params(self):
        return baseline_models.remove_duplicate(self.model.params, self.model.grads)[0]


class PyTorch:
    """nn.Embedding, nn.LSTM with batch_first, nn.Linear; the state is carried on, detached.

    nn.LSTM has a second bias, which is zero here and not trained. SGD is fused, the fastest kind.
    """

    name, label = "pytorch", "PyTorch"

    def __init__(self, job):
        import torch

        self.torch, nn = torch, torch.nn
        self.job, H, tied = job, job.H, job.tied
        self.embed = nn.Embedding(V, H)
        self.lstm = nn.LSTM(
            H, H, num_layers=2 if tied else 1, dropout=job.dropout, batch_first=True
        )
        self.affine = nn.Linear(H, V)
        self.dropout = nn.Dropout(job.dropout)
        if tied:
            self.affine.weight = self.embed.weight
        weights = job.weights()
        biases = [p for name, p in self.lstm.named_parameters() if name.startswith("bias_hh")]
        for bias in biases:
            bias.data.zero_()
            bias.requires_grad_(False)
        lstm = [p for p in self.lstm.parameters() if p.requires_grad]
        affine = [self.affine.bias] if tied else [self.affine.weight, self.affine.bias]
        self.trained = [self.embed.weight, *lstm, *affine]
        order = PYTORCH_GATES["lstm"]
        for i, (p, w) in enumerate(zip(self.trained, weights, strict=True)):
            in_lstm = 0 < i <= len(lstm)
            p.data[...] = torch.from_numpy(blocks(w, order).T if in_lstm else w.T if i else w)
        self.in_lstm = range(1, len(lstm) + 1)
        self.optimizer = torch.optim.SGD(self.trained, lr=job.lr, fused=True)
        self.xs, self.ts = map(torch.from_numpy, job.batch())
        self.state = None

    def step(self):
        return self.iterate().item()

    def iterate(self):
        """One step; the loss is returned as it is, so that a GPU is not synchronized."""
        self.optimizer.zero_grad()
        hs, state = self.lstm(self.dropout(self.embed(self.xs)), self.state)
        scores = self.affine(self.dropout(hs))
        cross_entropy = self.torch.nn.functional.cross_entropy
        loss = cross_entropy(scores.view(-1, V), self.ts.view(-1))
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.trained, MAX_GRAD)
        self.optimizer.step()
        self.state = tuple(s.detach() for s in state)
        return loss.detach()

    def params(self):
        back = np.argsort(PYTORCH_GATES["lstm"])
        params = [p.detach().numpy() for p in self.trained]
        return [
            blocks(p.T, back) if i in self.in_lstm else p.T if i else p
            for i, p in enumerate(params)
        ]


def blocks(param, order):
    """Its four blocks of columns in another order."""
    parts = np.split(param, 4, axis=-1)
    return np.concatenate([parts[g] for g in order], axis=-1)


CONTENDERS = {c.name: c for c in (Rnnfast, PyTorch, Book)}
