"""The contenders. A contender prepares itself for a case; then `run()` is timed.

`results()` returns the results of the last run, in rnnfast's layout: [hs] or, in training,
[hs, dxs, *grads]; None if the contender computes a different cell.

A new contender needs a class, an entry in CONTENDERS and, if it can be missing, one in `available`.
"""

import importlib.util

import numpy as np

import rnnfast
from benchmarks import baselines

LAYERS = {"rnn": "TimeRNN", "lstm": "TimeLSTM", "gru": "TimeGRU"}
PYTORCH_GATES = {"rnn": [0], "lstm": [2, 0, 1, 3], "gru": [1, 0, 2]}  # our blocks in its order
ONNX_OPERATORS = {"rnn": ("RNN", [0]), "lstm": ("LSTM", [2, 3, 0, 1]), "gru": ("GRU", [0, 1, 2])}


class NumpyLayers:
    """The step-by-step layers of baselines.py, which cost the same as the book's code."""

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
    """Our layer. For inference its weights are frozen: packed once and not in each call."""

    name = "rnnfast"
    label = "rnnfast"
    freezes = True

    def __init__(self, case):
        self.case, arrays = case, case.arrays
        self.layer = getattr(rnnfast, LAYERS[case.cell])(*arrays["params"])
        self.layer.stateful = case.streaming
        if case.streaming:
            self.layer.set_state(*arrays["state"])
        if self.freezes and not case.training and hasattr(self.layer, "freeze"):
            self.freeze()
        self.xs, self.dhs = arrays["xs"], arrays["dhs"]

    def freeze(self):
        self.layer.freeze()

    def run(self):
        self.hs = self.layer.forward(self.xs, train=self.case.training)
        if self.case.training:
            self.dxs = self.layer.backward(self.dhs)

    def results(self):
        return [self.hs, self.dxs, *self.layer.grads] if self.case.training else [self.hs]


class RnnfastUnfrozen(Rnnfast):
    """The same in inference without freeze(): the caller may change the weights at any time."""

    name = "rnnfast-unfrozen"
    label = "rnnfast, weights not frozen"
    freezes = False


class PyTorch:
    """nn.RNN, nn.LSTM, nn.GRU with batch_first, given the same weights.

    Its GRU applies the reset gate after the product, so the numbers differ, but the amount of
    arithmetic is the same. It has two biases; the second is zero here. Without a bias in the case
    it has none.
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


class OnnxModel:
    """The ONNX operator of the cell in a model of its own; inference only.

    Its GRU with linear_before_reset=0 is the book's, but its z keeps the old state, so we change
    the sign of that gate. It takes only (T, N, D); xs is transposed beforehand and not timed.
    """

    def model(self, params):
        """The serialised model. Its weights are constants, as in a deployed model."""
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        case, states = self.case, 2 if self.case.cell == "lstm" else 1
        operator, order = ONNX_OPERATORS[case.cell]
        W, R, *b = (self.theirs(p, order) for p in params)
        constants = {"W": W, "R": R}
        if b:
            constants["B"] = np.concatenate((b[0], np.zeros_like(b[0])), axis=1)
        states = ("h0", "c0")[:states] if case.streaming else ()
        inputs = ["xs", "W", "R", "B" if b else "", "", *states]
        outputs = ["hs", "hT", "cT"] if case.cell == "lstm" else ["hs", "hT"]
        node = helper.make_node(operator, inputs, outputs, hidden_size=case.H)
        if case.cell == "gru":
            node.attribute.append(helper.make_attribute("linear_before_reset", 0))

        def info(name, *shape):
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        N, T, D, H = case.shape
        graph = helper.make_graph(
            [node],
            "cell",
            [info("xs", T, N, D), *(info(name, 1, N, H) for name in states)],
            [info("hs", T, 1, N, H), *(info(name, 1, N, H) for name in outputs[1:])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        opset = helper.make_opsetid("", 14)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
        onnx.checker.check_model(model)
        return model.SerializeToString()

    def theirs(self, param, order):
        """(K, G*H) with our order of gates -> (1, G*H, K) with its order."""
        blocks = np.split(param, len(order), axis=-1)
        if self.case.cell == "gru":
            blocks[0] = -blocks[0]
        return np.ascontiguousarray(np.concatenate([blocks[g] for g in order], axis=-1).T)[None]


class OnnxRuntime(OnnxModel):
    """The model, run by ONNX Runtime.

    Inputs and outputs are bound in advance (io_binding), which is faster than a plain run().
    """

    name = "onnxruntime"
    label = "ONNX Runtime"

    def __init__(self, case):
        import onnxruntime

        self.case, arrays = case, case.arrays
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = rnnfast.get_num_threads()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            self.model(arrays["params"]), options, providers=["CPUExecutionProvider"]
        )
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        self.xs = value(np.ascontiguousarray(arrays["xs"].swapaxes(0, 1)))
        self.hs = value(np.zeros((case.T, 1, case.N, case.H), np.float32))
        # Two sets of states: a streaming call reads one and writes the other, in turns.
        states = [[value(s[None].copy()) for s in arrays["state"]] for _ in range(2)]
        self.bindings = [self.bind(*states), self.bind(*states[::-1])]

    def bind(self, before, after):
        binding = self.session.io_binding()
        binding.bind_ortvalue_input("xs", self.xs)
        binding.bind_ortvalue_output("hs", self.hs)
        for name, old, new in zip("hc", before, after, strict=False):
            if self.case.streaming:
                binding.bind_ortvalue_input(f"{name}0", old)
            binding.bind_ortvalue_output(f"{name}T", new)
        return binding

    def run(self):
        self.session.run_with_iobinding(self.bindings[0])
        self.bindings.reverse()

    def results(self):
        return [self.hs.numpy()[:, 0].swapaxes(0, 1)]


class OpenVino(OnnxModel):
    """The model, run by OpenVINO with the hint to infer in float32.

    Inputs and outputs, in float32, are bound in advance.
    """

    name = "openvino"
    label = "OpenVINO"
    hint = "f32"

    def __init__(self, case):
        import openvino

        self.case, arrays = case, case.arrays
        options = {
            "INFERENCE_PRECISION_HINT": self.hint,
            "INFERENCE_NUM_THREADS": rnnfast.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        core = openvino.Core()
        model = core.read_model(self.model(arrays["params"]))
        self.compiled = core.compile_model(model, "CPU", options)
        self.xs = np.ascontiguousarray(arrays["xs"].swapaxes(0, 1))
        self.hs = np.zeros((case.T, 1, case.N, case.H), np.float32)
        # Two sets of states: a streaming call reads one and writes the other, in turns.
        # OpenVINO does not keep the arrays; we do.
        self.states = [[s[None].copy() for s in arrays["state"]] for _ in range(2)]
        self.requests = [self.bind(*self.states), self.bind(*self.states[::-1])]

    def bind(self, before, after):
        import openvino

        arrays = {"xs": self.xs, "hs": self.hs}
        for name, old, new in zip("hc", before, after, strict=False):
            if self.case.streaming:
                arrays[f"{name}0"] = old
            arrays[f"{name}T"] = new
        request = self.compiled.create_infer_request()
        for name, array in arrays.items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        return request

    def run(self):
        self.requests[0].infer(share_outputs=True)
        self.requests.reverse()

    def results(self):
        return [self.hs[:, 0].swapaxes(0, 1)]


def available(contender, case):
    """Whether the contender is installed and supports the case."""
    if contender is RnnfastUnfrozen:
        return not case.training and hasattr(rnnfast.TimeLSTM, "freeze")
    if contender is PyTorch:
        return importlib.util.find_spec("torch") is not None
    if issubclass(contender, OnnxModel):
        installed = all(map(importlib.util.find_spec, (contender.name, "onnx")))
        return installed and not case.training
    return True


CONTENDERS = {
    c.name: c for c in (Rnnfast, RnnfastUnfrozen, PyTorch, OnnxRuntime, OpenVino, NumpyLayers)
}
OURS = (Rnnfast.name, RnnfastUnfrozen.name)
