"""The sLSTM beside the code of the packages xlstm and flashrnn, which runs on PyTorch.

    pip install --no-deps xlstm flashrnn einops
    pytest benchmarks/test_slstm.py

Their cells take the product of x and the input's weights. So all contenders begin with this
product, and it is timed, too. On a CPU both packages run their "vanilla" code, step by step. It is
measured as it is and compiled by torch.compile, all steps of a sequence together.
"""

import importlib.util

import numpy as np
import pytest

import rnnfast
from benchmarks.cases import MODES
from benchmarks.race import PEER_TOLERANCE, TOLERANCE, check, race
from benchmarks.replay import replay
from rnnfast import convert

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.compile has several of its own

HEADS = 4
SIZES = ((1, 256), (1, 512), (64, 256), (64, 512))  # N, H = D
T = 32
PEERS = ("xlstm", "xlstm, compiled", "flashrnn", "flashrnn, compiled")


class Ours:
    """TimeSLSTM, frozen for inference."""

    def __init__(self, arrays, training):
        self.xs, self.dhs, self.training = arrays.xs, arrays.dhs, training
        self.layer = rnnfast.TimeSLSTM(*arrays.params)
        if not training:
            self.layer.freeze()

    def run(self):
        self.hs = self.layer.forward(self.xs, train=self.training)
        if self.training:
            self.dxs = self.layer.backward(self.dhs)

    def results(self):
        return [self.hs, self.dxs] if self.training else [self.hs]


class Peer:
    """A package's cell after a linear layer, given the same weights."""

    def __init__(self, name, arrays, training):
        import torch

        self.torch, self.training = torch, training
        self.xs = torch.from_numpy(arrays.xs).requires_grad_(training)
        self.dhs = torch.from_numpy(arrays.dhs)
        package, _, compiled = name.partition(", ")
        layer = rnnfast.TimeSLSTM(*arrays.params)
        net, weights = getattr(self, package)(layer)
        self.weights = [torch.tensor(W, requires_grad=training) for W in weights]
        self.net = torch.compile(net) if compiled else net

    def xlstm(self, layer):
        """The loop of sLSTMCell with backend="vanilla"; its weights gate by gate."""
        from xlstm.blocks.slstm.src import vanilla

        torch, gates = self.torch, vanilla.slstm_pointwise_function_registry["slstm"]
        state, Wx = convert.to_xlstm(layer)

        def net(xs, W, R, b):
            made = torch.nn.functional.linear(xs, W).swapaxes(0, 1)
            zeros = torch.zeros(4, len(xs), len(b) // 4)
            states, _, _ = vanilla.slstm_forward(made, zeros, R, b, gates)
            return states[0, 1:].swapaxes(0, 1)

        return net, [Wx.T.copy(), *state.values()]

    def flashrnn(self, layer):
        """The loop of flashrnn(..., backend="vanilla"); R is to each unit from each."""
        from flashrnn.flashrnn import vanilla

        torch, gates = self.torch, vanilla.flashrnn_pointwise_function_registry["slstm"]
        R, b, Wx = convert.to_flashrnn(layer)
        sizes = b.shape  # 4, heads, K

        def net(xs, W, R, b):
            made = torch.nn.functional.linear(xs, W).swapaxes(0, 1)
            zeros = torch.zeros(1, len(xs), *sizes)
            states, _ = vanilla.flashrnn_forward(made.unflatten(2, sizes), zeros, R, b, gates)
            return states[:, :, 0].flatten(2).swapaxes(0, 1)

        return net, [Wx.reshape(len(Wx), -1).T.copy(), R.transpose(1, 3, 0, 2).copy(), b]

    def run(self):
        if not self.training:
            with self.torch.inference_mode():
                self.hs = self.net(self.xs, *self.weights)
            return
        self.hs = self.net(self.xs, *self.weights)
        self.grads = self.torch.autograd.grad(self.hs, [self.xs, *self.weights], self.dhs)

    def results(self):
        hs = self.hs.detach().numpy()
        return [hs, self.grads[0].numpy()] if self.training else [hs]


class Arrays:
    """The same numbers for all contenders."""

    def __init__(self, N, H, dtype=np.float32):
        layer = rnnfast.TimeSLSTM.create(H, H, heads=HEADS, rng=0, device="cpu")
        rng = np.random.default_rng(0)
        self.params = [p.astype(dtype) for p in layer.params]
        self.xs, self.dhs = (rng.standard_normal((N, T, H)).astype(dtype) for _ in range(2))


def available(name):
    package = name.partition(", ")[0]
    return all(map(importlib.util.find_spec, ("torch", package)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("N", "H"), SIZES)
@pytest.mark.benchmark(timer=replay)
def test_slstm(N, H, mode, request, machine, keep_freed_memory, same_threads, benchmark):
    arrays, training = Arrays(N, H), mode == "training"
    contenders = {"rnnfast": Ours(arrays, training)}
    contenders |= {name: Peer(name, arrays, training) for name in PEERS if available(name)}
    exact = Ours(Arrays(N, H, np.float64), training)
    exact.run()
    for name, contender in contenders.items():
        contender.run()
        tolerance = TOLERANCE if name == "rnnfast" else PEER_TOLERANCE
        check(f"{name}, N {N}, H {H}", contender.results(), exact.results(), tolerance)
    benchmark.group = f"sLSTM, N {N}, T {T}, H {H}, {HEADS} heads, {mode}"
    if request.config.getoption("benchmark_disable"):
        benchmark(contenders["rnnfast"].run)
        return
    result = race(contenders, request.config.getoption("rounds"))
    replay.play(benchmark, result.times["rnnfast"])
    benchmark.extra_info |= {
        "slstm": [N, T, H, HEADS],
        "mode": mode,
        "seconds": {name: result.median(name) for name in contenders},
        "ratio": {name: result.ratio(name, "rnnfast") for name in contenders if name != "rnnfast"},
        "others_cores": result.others_cores,
        "far": result.far,
        **machine,
    }
