"""The baseline for a whole training iteration: the book's language models.

The layers around the LSTM, the two models of chapter 6, gradient clipping and SGD, computed as in
the book: one embedding object per step, whose gradient array covers the whole vocabulary; a
softmax that is stored; tied weights, which are found by comparing all their values. README.md has
the comparison with the book's own code. float32; arguments are not checked.

N batch, T time, D word vectors, H hidden, V vocabulary.
"""

import numpy as np

from benchmarks.baselines import TimeLSTM


class EmbeddingStep:
    """Rows of W (V, D) for ids (N,)."""

    def __init__(self, W):
        self.W = W
        self.grad = np.zeros_like(W)

    def forward(self, ids):
        self.ids = ids
        return self.W[ids]

    def backward(self, dy):
        self.grad[...] = 0
        np.add.at(self.grad, self.ids, dy)


class TimeEmbedding:
    def __init__(self, W):
        self.params, self.grads = [W], [np.zeros_like(W)]

    def forward(self, xs):
        W = self.params[0]
        ys = np.empty((*xs.shape, W.shape[1]), dtype=W.dtype)
        self.steps = []
        for t in range(xs.shape[1]):
            step = EmbeddingStep(W)
            ys[:, t] = step.forward(xs[:, t])
            self.steps.append(step)
        return ys

    def backward(self, dys):
        total = 0
        for t, step in enumerate(self.steps):
            step.backward(dys[:, t])
            total += step.grad
        self.grads[0][...] = total


class TimeAffine:
    def __init__(self, W, b):
        self.params = [W, b]
        self.grads = [np.zeros_like(W), np.zeros_like(b)]

    def forward(self, xs):
        W, b = self.params
        self.xs = xs
        y = np.dot(xs.reshape(-1, W.shape[0]), W) + b
        return y.reshape(*xs.shape[:2], -1)

    def backward(self, dys):
        W, _ = self.params
        x, dy = (a.reshape(-1, a.shape[2]) for a in (self.xs, dys))
        db = dy.sum(axis=0)
        dW = np.dot(x.T, dy)
        dx = np.dot(dy, W.T)
        self.grads[0][...] = dW
        self.grads[1][...] = db
        return dx.reshape(self.xs.shape)


class TimeDropout:
    def __init__(self, ratio):
        self.params, self.grads = [], []
        self.ratio = ratio

    def forward(self, xs):
        keep = np.random.rand(*xs.shape) > self.ratio
        self.mask = keep.astype(np.float32) * (1 / (1 - self.ratio))
        return xs * self.mask

    def backward(self, dys):
        return dys * self.mask


class TimeSoftmaxWithLoss:
    """Mean cross entropy over the targets that are not -1."""

    def forward(self, xs, ts):
        scores, targets = xs.reshape(-1, xs.shape[2]), ts.reshape(-1)
        valid = targets != -1
        y = scores - scores.max(axis=1, keepdims=True)
        y = np.exp(y)
        y /= y.sum(axis=1, keepdims=True)
        logs = np.log(y[np.arange(targets.size), targets])
        logs *= valid
        self.cache = y, targets, valid, xs.shape
        return -logs.sum() / valid.sum()

    def backward(self):
        dx, targets, valid, shape = self.cache
        dx[np.arange(targets.size), targets] -= 1
        dx *= 1
        dx /= valid.sum()
        dx *= valid[:, np.newaxis]
        return dx.reshape(shape)


class Model:
    def __init__(self, layers):
        self.layers, self.loss = layers, TimeSoftmaxWithLoss()
        self.params = [param for layer in layers for param in layer.params]
        self.grads = [grad for layer in layers for grad in layer.grads]

    def forward(self, xs, ts):
        for layer in self.layers:
            xs = layer.forward(xs)
        return self.loss.forward(xs, ts)

    def backward(self):
        dout = self.loss.backward()
        for layer in reversed(self.layers):
            dout = layer.backward(dout)


def rnnlm(embed_W, Wx, Wh, b, affine_W, affine_b):
    """Embedding, LSTM, affine."""
    return Model(
        [TimeEmbedding(embed_W), TimeLSTM(Wx, Wh, b, stateful=True), TimeAffine(affine_W, affine_b)]
    )


def better_rnnlm(embed_W, Wx1, Wh1, b1, Wx2, Wh2, b2, affine_b, *, dropout):
    """Two LSTMs, dropout before, between and after them; affine and embedding share weights."""
    return Model(
        [
            TimeEmbedding(embed_W),
            TimeDropout(dropout),
            TimeLSTM(Wx1, Wh1, b1, stateful=True),
            TimeDropout(dropout),
            TimeLSTM(Wx2, Wh2, b2, stateful=True),
            TimeDropout(dropout),
            TimeAffine(embed_W.T, affine_b),
        ]
    )


def remove_duplicate(params, grads):
    """Each weight once: a matrix whose transpose has the same values is the same weight."""
    params, grads = params[:], grads[:]
    i = 0
    while i < len(params):
        j = i + 1
        while j < len(params):
            if tied(params[i], params[j]):
                grads[i] += grads[j].T
                del params[j], grads[j]
            else:
                j += 1
        i += 1
    return params, grads


def tied(a, b):
    return a.ndim == 2 and b.ndim == 2 and a.T.shape == b.shape and np.all(b == a.T)


def clip_grads(grads, max_norm):
    norm = np.sqrt(sum(np.sum(grad**2) for grad in grads))
    rate = max_norm / (norm + 1e-6)
    if rate < 1:
        for grad in grads:
            grad *= rate


def train_step(model, xs, ts, lr, max_grad):
    """One iteration of the trainer -> loss."""
    loss = model.forward(xs, ts)
    model.backward()
    params, grads = remove_duplicate(model.params, model.grads)
    clip_grads(grads, max_grad)
    for param, grad in zip(params, grads, strict=True):
        param -= lr * grad
    return loss
