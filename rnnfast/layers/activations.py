"""Softmax and sigmoid as layers. Deep Learning from Scratch 2, chapter 1."""

from rnnfast import checks
from rnnfast.layers.base import Layer
from rnnfast.layers.functions import sigmoid, softmax


class Softmax(Layer):
    """softmax over the last axis of x."""

    def __init__(self, *, device=None):
        super().__init__(device)

    def forward(self, x, *, train=True):
        x = checks.real(self._name, "x", x)
        out = softmax(checks.floating(x))
        self.cache = out.copy() if train else None  # the caller may change what was returned
        return out

    def backward(self, dout):
        out = self._pending()
        self._check_dout(dout, out.shape)
        dx = out * dout
        dx -= out * dx.sum(axis=-1, keepdims=True)
        return dx


class Sigmoid(Layer):
    """1 / (1 + exp(-x))."""

    def __init__(self, *, device=None):
        super().__init__(device)

    def forward(self, x, *, train=True):
        x = checks.real(self._name, "x", x)
        out = sigmoid(checks.floating(x))
        self.cache = out.copy() if train else None
        return out

    def backward(self, dout):
        out = self._pending()
        self._check_dout(dout, out.shape)
        return dout * (1.0 - out) * out
