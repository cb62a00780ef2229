"""The contenders on the GPU: for the cases of benchmarks/cases.py and cuDNN's GRU.

They have the methods of benchmarks/contenders.py. The constructor prepares a case. `run()` is
timed. `results()` returns [hs] or, in training, [hs, dxs, *grads] as NumPy arrays; None means that
the contender has another cell, so that its numbers cannot be compared. `prepare()` makes global
settings and is called before each turn. `precision` is "highest" or "high" (TF32).

To add a contender, write a class and add it to CONTENDERS.
"""

import importlib
import importlib.util
from dataclasses import dataclass

import numpy as np

import rnnfast
from benchmarks.cases import Case as AnyCase
from benchmarks.contenders import LAYERS, PyTorch
from benchmarks.race import check
from rnnfast.cuda.precision import tf32_tolerance
from rnnfast.kernels import load

PEER_TOLERANCES = {"highest": 1e-3, "high": 1e-2}  # does a peer compute the same?


def our_tolerance(precision, N, T, D, H):
    """The largest allowed difference between rnnfast and the float64 reference."""
    return tf32_tolerance(N, T, D, H) if precision == "high" else 1e-5


@dataclass(frozen=True)
class Case(AnyCase):
    """A case; after: a GRU with the reset gate after the product, as in cuDNN."""

    after: bool = False

    def __str__(self):
        return super().__str__().replace("gru", "gru_after" if self.after else "gru")

    @property
    def options(self):
        return {"reset_after": True} if self.after else {}


def on(xp, name="baselines", **more):
    """A copy of a module of baselines in which `np` is xp; `more` replaces other names."""
    spec = importlib.util.find_spec(f"benchmarks.{name}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for key, value in {"np": xp, **more}.items():
        assert hasattr(module, key), key
        setattr(module, key, value)
    return module


class Rnnfast:
    """The contract (rnnfast.kernels) with CuPy arrays; for inference with packed weights."""

    name, label, ours, precision = "rnnfast", "rnnfast", True, "highest"

    def __init__(self, case, gpu):
        self.case, self.gpu, arrays = case, gpu, case.arrays
        self.module = load(case.cell, "cuda")
        self.place(arrays)
        self.grads = tuple(None if p is None else np.zeros_like(p) for p in self.params)
        if not case.training:
            self.params = self.module.pack(self.params, **case.options)

    def place(self, arrays):
        """Copies all arrays except the gradients to the GPU."""
        put = self.gpu.put
        self.params = (*map(put, arrays["params"]), None)[:3]
        self.xs, self.dhs = put(arrays["xs"]), put(arrays["dhs"])
        self.state = tuple(map(put, arrays["state"])) if self.case.streaming else None

    def prepare(self):
        rnnfast.set_float32_matmul_precision(self.precision)

    def run(self):
        forward, training = self.module.forward, self.case.training
        self.hs, state, cache = forward(
            self.xs, self.state, self.params, train=training, **self.case.options
        )
        if training:
            self.dxs, _ = self.module.backward(self.dhs, None, self.params, cache, self.grads)
        if self.case.streaming:
            self.state = state

    def results(self):
        fetch = self.gpu.fetch
        if not self.case.training:
            return [fetch(self.hs)]
        return [fetch(x) for x in (self.hs, self.dxs, *self.grads) if x is not None]


class RnnfastTF32(Rnnfast):
    name, label, precision = "rnnfast-tf32", "rnnfast, TF32", "high"


class RnnfastHost(Rnnfast):
    """With NumPy arrays: every call copies its arrays to the GPU and the results back."""

    name, label = "rnnfast-host", "rnnfast, NumPy in and out"

    def place(self, arrays):
        self.params = (*arrays["params"], None)[:3]
        self.xs, self.dhs = arrays["xs"], arrays["dhs"]
        self.state = arrays["state"] if self.case.streaming else None


class CuDNN(PyTorch):
    """PyTorch's nn.RNN, nn.LSTM and nn.GRU on the GPU, which call cuDNN."""

    name, label, ours, precision = "cudnn", "PyTorch (cuDNN)", False, "highest"

    def __init__(self, case, gpu):
        super().__init__(case)
        device = gpu.torch_device
        self.net.to(device)
        self.xs = self.xs.detach().to(device).requires_grad_(case.training)
        self.dhs = self.dhs.to(device)
        if case.streaming:
            lstm = case.cell == "lstm"
            self.state = tuple(s.to(device) for s in self.state) if lstm else self.state.to(device)

    def prepare(self):
        set_torch_precision(self.torch, self.precision)

    def results(self):
        self.hs = self.hs.detach().cpu()
        if self.case.training:
            self.grads = [grad.cpu() for grad in self.grads]
        return super().results()


class CuDNNTF32(CuDNN):
    name, label, precision = "cudnn-tf32", "PyTorch (cuDNN), TF32", "high"


class CuDNNHost(CuDNN):
    """With NumPy arrays, like RnnfastHost, but the weights stay on the GPU."""

    name, label = "cudnn-host", "PyTorch (cuDNN), NumPy in and out, weights stay"

    def __init__(self, case, gpu):
        super().__init__(case, gpu)
        self.device = gpu.torch_device
        self.there, self.host = self.run, (case.arrays["xs"], case.arrays["dhs"])
        self.run = self.to_and_fro

    def to_and_fro(self):
        xs, dhs = (self.torch.from_numpy(x).to(self.device) for x in self.host)
        self.xs, self.dhs = xs.requires_grad_(self.case.training), dhs
        self.there()
        self.back = [self.hs.detach().cpu().numpy()]
        if self.case.training:
            self.back += [grad.cpu().numpy() for grad in self.grads]


class Book:
    """baselines.py with CuPy instead of NumPy, like the book's layers with GPU = True."""

    name, label, ours, precision = "cupy", "CuPy at the book's cost", False, "highest"

    def __init__(self, case, gpu):
        self.case, self.gpu, arrays = case, gpu, case.arrays
        layer = getattr(on(gpu.xp), LAYERS[case.cell])
        self.layer = layer(*map(gpu.put, arrays["params"]), stateful=case.streaming)
        self.layer.state = tuple(map(gpu.put, arrays["state"]))
        self.xs, self.dhs = gpu.put(arrays["xs"]), gpu.put(arrays["dhs"])

    def prepare(self):
        """Nothing to set: CuPy's products have full precision, unless CUPY_TF32 is set."""

    def run(self):
        self.hs = self.layer.forward(self.xs)
        if self.case.training:
            self.dxs = self.layer.backward(self.dhs)

    def results(self):
        found = [self.hs, self.dxs, *self.layer.grads] if self.case.training else [self.hs]
        return [self.gpu.fetch(x) for x in found]


def set_torch_precision(torch, precision):
    """Turns TF32 on or off, for cuDNN's layers and for products."""
    torch.backends.cudnn.allow_tf32 = precision == "high"
    torch.set_float32_matmul_precision(precision)


def why_not(contender, gpu, case=None):
    """The reason why a contender cannot take part, or None."""
    if contender.name.startswith("cudnn") and gpu.torch_device is None:
        return "PyTorch with CUDA is not installed"
    if "-graph" in contender.name and gpu.torch_device != "cuda":
        return "CUDA graphs need a GPU"
    if contender is Book and case is not None and case.after:
        return "the book's GRU has the reset gate before the product"
    return None


def check_results(contender, expected):
    """Raises AssertionError if the last results differ from the float64 reference."""
    got = contender.results()
    if got is not None:
        if contender.ours:
            tolerance = our_tolerance(contender.precision, *contender.case.shape)
        else:
            tolerance = PEER_TOLERANCES[contender.precision]
        check(f"{contender.name}, {contender.case}", got, expected, tolerance)


CONTENDERS = {c.name: c for c in (Rnnfast, RnnfastTF32, CuDNN, CuDNNTF32, Book)}
TRANSFERS = {c.name: c for c in (RnnfastHost, Rnnfast, CuDNNHost, CuDNN)}
TRANSFERRED = ((20, 35, 100, 100), (20, 35, 650, 650))  # their shapes: N, T, D, H
# The ratios in the tables are time of the peer / time of rnnfast, in the same precision.
RIVALS = {
    "cudnn": "rnnfast",
    "cudnn-tf32": "rnnfast-tf32",
    "cudnn-graph": "rnnfast",
    "cudnn-graph-tf32": "rnnfast-tf32",
    "cupy": "rnnfast",
    "cudnn-host": "rnnfast-host",
}
