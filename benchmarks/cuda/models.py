"""The contenders that train the language models of benchmarks/model_contenders.py on the GPU.

`step()` runs one iteration. `params()` returns the weights as NumPy arrays, in the book's order.
`put(ids)` copies ids to the GPU. In rnnfast's iteration no call waits for the GPU, because the loss
and the clipping stay on it.
"""

import rnnfast
from benchmarks import model_contenders
from benchmarks.cuda.contenders import on, set_torch_precision
from benchmarks.model_contenders import MAX_GRAD


class Rnnfast(model_contenders.Rnnfast):
    """rnnfast.models, clip_grads and SGD with all arrays on the GPU, also ids and targets."""

    ours, precision = True, "highest"

    def __init__(self, job, gpu):
        self.gpu = gpu
        super().__init__(job, job.ours("cuda"))
        self.xs, self.ts = gpu.put(self.xs), gpu.put(self.ts)

    def prepare(self):
        rnnfast.set_float32_matmul_precision(self.precision)

    def put(self, ids):
        return self.gpu.put(ids)

    def run(self):
        self.loss = self.step()

    def params(self):
        return [self.gpu.fetch(p) for p in super().params()]


class RnnfastTF32(Rnnfast):
    name, label, precision = "rnnfast-tf32", "rnnfast, TF32", "high"


class PyTorch(model_contenders.PyTorch):
    name, label, ours, precision = "cudnn", "PyTorch (cuDNN)", False, "highest"

    def __init__(self, job, gpu):
        super().__init__(job)
        device = gpu.torch_device
        for module in (self.embed, self.lstm, self.affine):
            module.to(device)  # the parameters stay the same objects, so tied ones stay tied
        self.optimizer = self.torch.optim.SGD(self.trained, lr=job.lr, fused=True)
        self.xs, self.ts = self.xs.to(device), self.ts.to(device)

    def prepare(self):
        set_torch_precision(self.torch, self.precision)

    def put(self, ids):
        return self.torch.from_numpy(ids).to(self.xs.device)

    def run(self):
        self.loss = self.iterate()

    def params(self):
        device, self.trained = self.trained, [p.detach().cpu() for p in self.trained]
        found, self.trained = super().params(), device
        return found


class PyTorchTF32(PyTorch):
    name, label, precision = "cudnn-tf32", "PyTorch (cuDNN), TF32", "high"


class Book(model_contenders.Book):
    """The book's models with CuPy instead of NumPy."""

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
        """Nothing to set: CuPy's products have full precision, unless CUPY_TF32 is set."""

    def run(self):
        self.loss = self.step()

    def step(self):
        return self.models.train_step(self.model, self.xs, self.ts, self.lr, MAX_GRAD)

    def params(self):
        unique, _ = self.models.remove_duplicate(self.model.params, self.model.grads)
        return [self.gpu.fetch(p) for p in unique]


CONTENDERS = {c.name: c for c in (Rnnfast, RnnfastTF32, PyTorch, PyTorchTF32, Book)}
