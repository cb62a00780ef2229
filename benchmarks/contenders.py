"""Who computes it. A contender prepares itself for a case; then `run()` is what is timed.

`results()` gives what the last run computed as [hs] or, in training, [hs, dxs, *grads], laid out
as rnnfast does it; None from a contender whose cell is a different one.

A new contender is a class and a line in CONTENDERS.
"""

import importlib.util

import numpy as np

import rnnfast
from benchmarks import baselines

LAYERS = {"rnn": "TimeRNN", "lstm": "TimeLSTM", "gru": "TimeGRU"}
PYTORCH_GATES = {"rnn": [0], "lstm": [2, 0, 1, 3], "gru": [1, 0, 2]}  # our blocks in its order


class NumpyLayers:
    """The step-by-step layers of baselines.py: what the book's code costs."""

    name = "numpy"
    label = "NumPy at the book's cost"

    def __init__(self, case):
        self.case, arrays = case, case.arrays
        self.layer = getattr(baselines, LAYERS[case.cell])(
            *arrays["params"], stateful=case.streaming
        )
        self.layer.state = arrays["state"]
        self.xs, self.dhs = arrays["xs"], arrays["dhs"]

    def run(self):
        self.hs = self.layer.forward(self.xs)
        if self.case.training:
            self.dxs = self.layer.backward(self.dhs)

    def results(self):
        return [self.hs, self.dxs, *self.layer.grads] if self.case.training else [self.hs]


class Rnnfast:
    name = "rnnfast"
    label = "rnnfast"

    def __init__(self, case):
        self.case, arrays = case, case.arrays
        self.layer = getattr(rnnfast, LAYERS[case.cell])(*arrays["params"])
        self.layer.stateful = case.streaming
        self.layer.set_state(*arrays["state"])
        self.xs, self.dhs = arrays["xs"], arrays["dhs"]

    def run(self):
        self.hs = self.layer.forward(self.xs, train=self.case.training)
        if self.case.training:
            self.dxs = self.layer.backward(self.dhs)

    def results(self):
        return [self.hs, self.dxs, *self.layer.grads] if self.case.training else [self.hs]


class PyTorch:
    """nn.RNN, nn.LSTM, nn.GRU with batch_first, given the same weights.

    Its GRU applies the reset gate after the product, so the numbers differ while the arithmetic
    is as much. It has two biases; the second is zero here, and none where the case has no bias.
    """

    name = "pytorch"
    label = "PyTorch"

    def __init__(self, case):
        import torch

        self.case, arrays = case, case.arrays
        self.torch = torch
        kind = getattr(torch.nn, case.cell.upper())
        bias = len(arrays["params"]) == 3
        self.net = kind(case.D, case.H, batch_first=True, bias=bias)
        for theirs, ours in zip(self.net.parameters(), self.theirs(arrays["params"]), strict=False):
            theirs.data[...] = torch.from_numpy(ours)
        if bias:
            self.net.bias_hh_l0.data.zero_()
        self.state = None
        if case.streaming:
            self.state = tuple(torch.from_numpy(s.copy())[None] for s in arrays["state"])
            self.state = self.state if case.cell == "lstm" else self.state[0]
        self.xs = torch.from_numpy(arrays["xs"]).requires_grad_(case.training)
        self.dhs = torch.from_numpy(arrays["dhs"])
        self.net.train(case.training)
        self.run = self.train if case.training else self.infer

    def infer(self):
        with self.torch.inference_mode():
            self.hs, state = self.net(self.xs, self.state)
            if self.case.streaming:
                self.state = state

    def train(self):
        self.hs, state = self.net(self.xs, self.state)
        self.grads = self.torch.autograd.grad(self.hs, [self.xs, *self.net.parameters()], self.dhs)
        if self.case.streaming:
            lstm = isinstance(state, tuple)
            self.state = tuple(s.detach() for s in state) if lstm else state.detach()

    def theirs(self, params):
        """(K, G*H) with our order of gates -> (G*H, K) with its order."""
        order = PYTORCH_GATES[self.case.cell]
        for p in params:
            blocks = np.split(p, len(order), axis=-1)
            yield np.concatenate([blocks[g] for g in order], axis=-1).T

    def results(self):
        if self.case.cell == "gru":
            return None
        hs = self.hs.detach().numpy()
        if not self.case.training:
            return [hs]
        order = np.argsort(PYTORCH_GATES[self.case.cell])
        dxs, *grads = (grad.numpy() for grad in self.grads)
        for i, grad in enumerate(grads):
            blocks = np.split(grad, len(order))
            grads[i] = np.concatenate([blocks[g] for g in order]).T
        return [hs, dxs, *grads[:3]]


def available(contender):
    return contender is not PyTorch or importlib.util.find_spec("torch") is not None


CONTENDERS = {c.name: c for c in (Rnnfast, PyTorch, NumpyLayers)}
