"""Who trains the language models of benchmarks/model_contenders.py on the GPU.

`step()` is one iteration, `params()` are the weights afterwards as NumPy arrays, in the book's
order. Nothing waits for the GPU in ours: the loss and the clipping stay there.
"""

import numpy as np

import rnnfast
from benchmarks import model_contenders
from benchmarks.cuda.contenders import on, set_torch_precision
from benchmarks.model_contenders import MAX_GRAD
from rnnfast.kernels import load


class Rnnfast:
    """The model by the contract alone: lstm and ops, with CuPy arrays."""

    name, label, ours, precision = "rnnfast", "rnnfast", True, "highest"

    def __init__(self, job, gpu):
        self.job, self.gpu = job, gpu
        self.ops, self.lstm = load("ops", "cuda"), load("lstm", "cuda")
        self.weights = [gpu.put(w) for w in job.weights()]
        self.grads = [np.zeros_like(w) for w in self.weights]
        self.xs, self.ts = map(gpu.put, job.batch())
        self.N, self.T = self.xs.shape
        last = -1 if job.tied else -2  # the affine layer's own
        cells = range(1, len(self.weights) + last, 3)
        self.cells = [(self.weights[i : i + 3], self.grads[i : i + 3]) for i in cells]
        self.states = [None] * len(self.cells)
        self.tied_grad = np.zeros_like(self.weights[0].T) if job.tied else None
        self.spent, self.count = None, 0

    def prepare(self):
        rnnfast.set_float32_matmul_precision(self.precision)

    def run(self):
        self.loss = self.step()

    def step(self):
        ops, lstm, job = self.ops, self.lstm, self.job
        embed_W, b = self.weights[0], self.weights[-1]
        W = embed_W.T if job.tied else self.weights[-2]
        self.count += 1

        hs, masks, caches = ops.embedding_forward(self.xs, embed_W), [], []
        hs = self.drop(hs, masks)
        for i, (params, _) in enumerate(self.cells):
            hs, self.states[i], cache = lstm.forward(hs, self.states[i], params)
            caches.append(cache)
            hs = self.drop(hs, masks)
        flat = hs.reshape(self.N * self.T, job.H)
        loss, cache = ops.affine_softmax_loss_forward(
            flat, W, b, self.ts.reshape(-1), spent=self.spent
        )
        self.spent = cache

        dW = self.tied_grad if job.tied else self.grads[-2]
        d = ops.affine_softmax_loss_backward(cache, dW, self.grads[-1]).reshape(hs.shape)
        for params, grads in reversed(self.cells):
            d = self.drop_back(d, masks)
            d, _ = lstm.backward(d, None, params, caches.pop(), grads)
        d = self.drop_back(d, masks)
        ops.embedding_backward(d, self.xs, self.grads[0])
        if job.tied:
            self.grads[0] += dW.T
        self.clip()
        for param, grad in zip(self.weights, self.grads, strict=True):
            ops.sgd(param, grad, job.lr)
        return loss

    def drop(self, x, masks):
        """Dropout before, between and after the cells; nothing where there is none."""
        if self.job.dropout:
            key = (0, len(masks))
            masks.append(self.ops.dropout_mask(x.shape, self.job.dropout, key, self.count, x.dtype))
            x = x * masks[-1]
        return x

    def drop_back(self, d, masks):
        return d * masks.pop() if masks else d

    def clip(self):
        """All gradients times min(1, MAX_GRAD / norm)."""
        xp = self.gpu.xp
        squares = sum(self.ops.sum_of_squares(grad) for grad in self.grads)
        self.norm = xp.sqrt(squares)
        rate = xp.minimum(MAX_GRAD / (self.norm + 1e-6), 1.0)
        for grad in self.grads:
            self.ops.scale(grad, rate)

    def params(self):
        return [self.gpu.fetch(w) for w in self.weights]


class RnnfastTF32(Rnnfast):
    name, label, precision = "rnnfast-tf32", "rnnfast, TF32", "high"


class PyTorch(model_contenders.PyTorch):
    name, label, ours, precision = "cudnn", "PyTorch (cuDNN)", False, "highest"

    def __init__(self, job, gpu):
        super().__init__(job)
        device = gpu.torch_device
        for module in (self.embed, self.lstm, self.affine):
            module.to(device)  # the parameters stay the same objects, and tied ones tied
        self.optimizer = self.torch.optim.SGD(self.trained, lr=job.lr, fused=True)
        self.xs, self.ts = self.xs.to(device), self.ts.to(device)

    def prepare(self):
        set_torch_precision(self.torch, self.precision)

    def run(self):
        self.loss = self.iterate()

    def params(self):
        device, self.trained = self.trained, [p.detach().cpu() for p in self.trained]
        found, self.trained = super().params(), device
        return found


class PyTorchTF32(PyTorch):
    name, label, precision = "cudnn-tf32", "PyTorch (cuDNN), TF32", "high"


class Book(model_contenders.Book):
    """The book's models with CuPy in the place of NumPy."""

    name, label, ours, precision = "cupy", "CuPy at the book's cost", False, "highest"

    def __init__(self, job, gpu):
        self.gpu = gpu
        layers = on(gpu.xp)
        models = on(gpu.xp, "baseline_models", TimeLSTM=layers.TimeLSTM)
        self.models = models
        weights = [gpu.put(w) for w in job.weights()]
        if job.tied:
            self.model = models.better_rnnlm(*weights, dropout=job.dropout)
        else:
            self.model = models.rnnlm(*weights)
        self.xs, self.ts = map(gpu.put, job.batch())
        self.lr = job.lr

    def prepare(self):
        """CuPy's products are in full precision unless CUPY_TF32 says otherwise."""

    def run(self):
        self.loss = self.step()

    def step(self):
        return self.models.train_step(self.model, self.xs, self.ts, self.lr, MAX_GRAD)

    def params(self):
        unique, _ = self.models.remove_duplicate(self.model.params, self.model.grads)
        return [self.gpu.fetch(p) for p in unique]


CONTENDERS = {c.name: c for c in (Rnnfast, RnnfastTF32, PyTorch, PyTorchTF32, Book)}
