"""A small text, small models and samples that tests train."""

import numpy as np

from rnnfast.layers import Affine, Sigmoid
from rnnfast.layers.losses import SoftmaxWithLoss
from rnnfast.models import Rnnlm
from rnnfast.optim import SGD
from rnnfast.trainer import (
    RnnlmTrainer,
    Trainer,
)

V, N, T = 13, 4, 6
TEXT = (np.arange(250) ** 2 // 7) % V
XS, TS = TEXT[:-1], TEXT[1:]


def train(xs=XS, ts=TS, dtype=np.float64, optimizer=None, epochs=1, write=None, **options):
    """-> trainer, the steps its callback saw."""
    np.random.seed(1)  # legacy stream: the same in every version of NumPy
    model = Rnnlm(V, 5, 8, dtype=dtype)
    steps = []
    trainer = RnnlmTrainer(
        model, optimizer or SGD(5.0), callbacks=[steps.append], write=write or (lambda line: None)
    )
    trainer.fit(xs, ts, epochs, N, T, **({"max_grad": 0.25} | options))
    return trainer, steps


class TwoLayerNet:
    """Chapter 1."""

    def __init__(self):
        rng = np.random.default_rng(2)
        W1, W2 = rng.standard_normal((2, 7)), rng.standard_normal((7, 3))
        self.layers = [Affine(W1, np.zeros(7)), Sigmoid(), Affine(W2, np.zeros(3))]
        self.loss_layer = SoftmaxWithLoss()
        self.params = [param for layer in self.layers for param in layer.params]
        self.grads = [grad for layer in self.layers for grad in layer.grads]

    def forward(self, x, t):
        for layer in self.layers:
            x = layer.forward(x)
        return self.loss_layer.forward(x, t)

    def backward(self, dout=1):
        dout = self.loss_layer.backward(dout)
        for layer in reversed(self.layers):
            dout = layer.backward(dout)


POINTS = np.random.default_rng(1).standard_normal((50, 2))
CLASSES = (POINTS[:, 0] > 0).astype(int) + (POINTS[:, 1] > 0)


def train_net(trainer=None, epochs=2, **options):
    steps, lines = [], []
    trainer = trainer or Trainer(TwoLayerNet(), SGD(2.0))
    trainer.callbacks, trainer.write = [steps.append], lines.append
    trainer.fit(POINTS, CLASSES, epochs, **({"batch_size": 8, "max_grad": 0.1} | options))
    return trainer, [step.loss for step in steps], lines
