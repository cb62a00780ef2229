"""The contenders in 16 and 8 bits: those of contenders.py, converted. Training is in 16 bits only.

Beside `run()` and `results()` each names its `precision`, and `reference` prepares the same cell,
whose hs are those to expect. A contender that cannot run raises CannotRun with the reason.
"""

import importlib.util
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.contenders import NumpyLayers, OnnxRuntime, OpenVino, PyTorch, Rnnfast
from rnnfast import kernels


class CannotRun(Exception):
    """Why a contender cannot run here, or not this cell."""


def needs(*modules):
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise CannotRun(f"{module} is not installed")


def only_inference(case):
    if case.training:
        raise CannotRun("only inference")


def exact_layers(case):
    """The baseline in float64."""
    return NumpyLayers(replace(case, dtype=np.float64))


class Float32(Rnnfast):
    """Our layer, frozen for inference."""

    name = "rnnfast-float32"
    precision = "float32"
    reference = staticmethod(exact_layers)


class Bf16(Float32):
    name = "rnnfast-bf16"
    precision = "bf16"

    def freeze(self):
        self.layer.freeze(self.precision)

    def run(self):
        if not self.case.training:
            return super().run()
        before = kernels.get_float32_matmul_precision()
        kernels.set_float32_matmul_precision("medium")
        try:
            super().run()
        finally:
            kernels.set_float32_matmul_precision(before)


class Int8(Bf16):
    name = "rnnfast-int8"
    precision = "int8"

    def __init__(self, case):
        only_inference(case)
        super().__init__(case)


class PyTorchBf16(PyTorch):
    """The module in bfloat16. Its xs, hs, state and gradients are, too; xs is rounded beforehand.

    Its GRU is another cell, so all its cells are compared with themselves in float32.
    """

    name = "pytorch-bf16"
    precision = "bf16"
    reference = PyTorch

    def __init__(self, case):
        needs("torch")
        super().__init__(case)
        self.convert()

    def convert(self):
        dtype = self.torch.bfloat16
        self.net.to(dtype)
        self.xs = self.xs.detach().to(dtype).requires_grad_(self.case.training)
        self.dhs = self.dhs.to(dtype)
        if isinstance(self.state, tuple):
            self.state = tuple(state.to(dtype) for state in self.state)
        elif self.state is not None:
            self.state = self.state.to(dtype)

    def results(self):
        return [self.hs.detach().float().numpy()]


class PyTorchInt8(PyTorchBf16):
    """The module after quantize_dynamic: weights of 8 bits, inputs rounded in each call."""

    name = "pytorch-int8"
    precision = "int8"

    def convert(self):
        only_inference(self.case)
        needs("torch.ao", "torch.ao.quantization")
        from torch.ao.quantization import quantize_dynamic

        kind = type(self.net)
        net = kind(self.case.D, self.case.H, batch_first=True)  # it must have biases
        for bias in (net.bias_ih_l0, net.bias_hh_l0):
            bias.data.zero_()
        net.load_state_dict(self.net.state_dict(), strict=False)
        with warnings.catch_warnings():  # that it is deprecated
            warnings.simplefilter("ignore")
            # It replaces what is in a module, never the module itself.
            self.net = quantize_dynamic(self.torch.nn.ModuleList([net]), {kind})[0].eval()
        if isinstance(self.net, kind):
            raise CannotRun(f"quantize_dynamic of PyTorch leaves nn.{kind.__name__} in float32")


class OnnxRuntimeInt8(OnnxRuntime):
    """The model after quantize_dynamic of ONNX Runtime."""

    name = "onnxruntime-int8"
    precision = "int8"
    reference = staticmethod(exact_layers)

    def __init__(self, case):
        only_inference(case)
        needs("onnx", "onnxruntime")
        super().__init__(case)

    def model(self, params):
        import onnx
        from onnxruntime.quantization import quantize_dynamic

        plain = onnx.load_from_string(super().model(params))
        operators = {node.op_type for node in plain.graph.node}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "int8.onnx")
            quantize_dynamic(plain, path)
            quantized = onnx.load(path)
        if operators & {node.op_type for node in quantized.graph.node}:
            names = ", ".join(operators)
            raise CannotRun(f"quantize_dynamic of ONNX Runtime leaves {names} in float32")
        return quantized.SerializeToString()


class OpenVinoBf16(OpenVino):
    """The same with the hint to infer in bfloat16."""

    name = "openvino-bf16"
    precision = "bf16"
    hint = "bf16"
    reference = staticmethod(exact_layers)

    def __init__(self, case):
        only_inference(case)
        needs("onnx", "openvino")
        import openvino

        if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise CannotRun("OpenVINO: the processor has no bfloat16")
        super().__init__(case)
        if (used := self.type_in_use()) != "bf16":
            raise CannotRun(f"OpenVINO runs {case.cell.upper()} in {used}")

    def type_in_use(self):
        """The type that the compiled model computes the cell in."""
        layers = (op.get_rt_info() for op in self.compiled.get_runtime_model().get_ops())
        types = [
            layer["runtimePrecision"].value
            for layer in layers
            if layer["layerType"].value.startswith("RNN")
        ]
        assert types, "OpenVINO: the compiled model has no recurrent layer"
        return ", ".join(dict.fromkeys(types))


OURS = {c.precision: c.name for c in (Float32, Bf16, Int8)}
CONTENDERS = {
    c.name: c
    for c in (Float32, Bf16, PyTorchBf16, OpenVinoBf16, Int8, PyTorchInt8, OnnxRuntimeInt8)
}
