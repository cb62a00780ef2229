"""The contenders that train the language models of benchmarks/model_contenders.py on the GPU.

`step()` runs one iteration. `params()` returns the weights as NumPy arrays, in the book's order.
`put(ids)` copies ids to the GPU. In rnnfast's iteration no call waits for the GPU, because the loss
and the clipping stay on it; it is a `TrainingStep`, so that after two iterations it is one launch
of a CUDA graph. PyTorch can be told to capture an iteration, too: "PyTorch (cuDNN), CUDA graph".
"""

import rnnfast
from benchmarks import model_contenders
from benchmarks.cuda.contenders import on, set_torch_precision
from benchmarks.model_contenders import MAX_GRAD


class Rnnfast(model_contenders.Rnnfast):
    """rnnfast.models, TrainingStep and SGD with all arrays on the GPU, also ids and targets."""

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
        self.loss = self.gpu.xp.array(self.step())  # the next step overwrites it

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


class PyTorchGraph(PyTorch):
    """The iteration captured by torch.cuda.graph, as PyTorch's documentation does it."""

    name, label = "cudnn-graph", "PyTorch (cuDNN), CUDA graph"
    graph = None

    def prepare(self):
        super().prepare()
        if self.graph is None:
            self.capture()

    def capture(self):
        torch, device = self.torch, self.xs.device
        N, H = self.xs.shape[0], self.job.H
        layers = self.lstm.num_layers
        self.first = tuple(torch.zeros(layers, N, H, device=device) for _ in range(2))
        before = [p.detach().clone() for p in self.trained]
        self.own = self.xs.clone(), self.ts.clone()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self.captured()
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(self.graph):
            self.result = self.captured()
        with torch.no_grad():
            for p, old in zip(self.trained, before, strict=True):
                p.copy_(old)
            for state in self.first:
                state.zero_()

    def captured(self):
        """An iteration that reads and leaves ids and states where they always are."""
        given, self.state = (self.xs, self.ts), self.first
        self.xs, self.ts = self.own
        loss = self.iterate()
        for own, new in zip(self.first, self.state, strict=True):
            own.copy_(new)
        self.xs, self.ts = given
        return loss

    def run(self):
        for own, x in zip(self.own, (self.xs, self.ts), strict=True):
            own.copy_(x)
        self.graph.replay()
        self.loss = self.result.clone()


class PyTorchGraphTF32(PyTorchGraph):
    name, label, precision = "cudnn-graph-tf32", "PyTorch (cuDNN), CUDA graph, TF32", "high"


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


PEERS = PyTorch, PyTorchTF32, PyTorchGraph, PyTorchGraphTF32
CONTENDERS = {c.name: c for c in (Rnnfast, RnnfastTF32, *PEERS, Book)}
