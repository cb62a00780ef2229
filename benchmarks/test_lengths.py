"""Batches whose lengths differ: half full, beside full ones and beside PyTorch's packed sequences.

    pytest benchmarks/test_lengths.py

Lengths are uniform from 1 to T. Each library is also timed with a full batch of the same shape: the
half-full batch should take half of that. PyTorch packs the sequences in each call, as its users
have to do; its GRU applies the reset gate after the product, as in `contenders.py`.
"""

import numpy as np
import pytest

from benchmarks.cases import GATES, Case
from benchmarks.contenders import PyTorch, Rnnfast, available
from benchmarks.race import check, race
from benchmarks.replay import replay

SHAPES = ((64, 200, 128, 128), (32, 1000, 64, 64))


class RnnfastLengths(Rnnfast):
    """rnnfast with lengths."""

    def __init__(self, case, lengths):
        super().__init__(case)
        self.lengths = lengths

    def run(self):
        self.hs = self.layer.forward(self.xs, train=self.case.training, lengths=self.lengths)
        if self.case.training:
            self.dxs = self.layer.backward(self.dhs)


class PyTorchPacked(PyTorch):
    """PyTorch with packed sequences."""

    def __init__(self, case, lengths):
        super().__init__(case)
        self.lengths = self.torch.from_numpy(lengths)

    def forward(self):
        rnn = self.torch.nn.utils.rnn
        packed = rnn.pack_padded_sequence(self.xs, self.lengths, True, enforce_sorted=False)
        hs, _ = self.net(packed)
        self.hs, _ = rnn.pad_packed_sequence(hs, batch_first=True, total_length=self.case.T)

    def infer(self):
        with self.torch.inference_mode():
            self.forward()

    def train(self):
        self.forward()
        self.grads = self.torch.autograd.grad(self.hs, [self.xs, *self.net.parameters()], self.dhs)


@pytest.mark.parametrize("mode", ["forward", "training"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "-".join(map(str, s)))
@pytest.mark.parametrize("cell", GATES)
@pytest.mark.benchmark(timer=replay)
def test_lengths(cell, shape, mode, request, machine, keep_freed_memory, benchmark):
    case = Case(cell, shape, mode)
    lengths = np.random.default_rng(1).integers(1, case.T + 1, case.N)
    contenders = {"full": Rnnfast(case), "lengths": RnnfastLengths(case, lengths)}
    if available(PyTorch, case):
        contenders |= {"PyTorch, full": PyTorch(case), "PyTorch": PyTorchPacked(case, lengths)}
        ours, theirs = contenders["lengths"], contenders["PyTorch"]
        ours.run()
        theirs.run()
        if theirs.results() is not None:
            check("PyTorch", ours.results(), theirs.results())
    benchmark.group = f"lengths, {mode} of {cell} {shape}"
    if request.config.getoption("benchmark_disable"):
        for each in contenders.values():
            each.run()
        benchmark(contenders["lengths"].run)
        return
    pairs = [("lengths", "full")]
    if "PyTorch" in contenders:
        pairs += [("PyTorch", "PyTorch, full"), ("PyTorch", "lengths")]
    result = race(contenders, request.config.getoption("rounds"))
    replay.play(benchmark, result.times["lengths"])
    benchmark.extra_info |= {
        "lengths_of": cell,
        "mode": mode,
        "shape": list(shape),
        "share": float(lengths.mean() / case.T),
        "cost": {f"{name} / {than}": result.ratio(name, than) for name, than in pairs},
        "others_cores": result.others_cores,
        "far": result.far,
        **machine,
    }
