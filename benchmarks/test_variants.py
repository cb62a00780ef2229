"""The cost of a layer's variants: the least time of each, divided by that of the plain layer.

    pytest benchmarks/test_variants.py

Training, forward and backward, at the same sizes in turns. Layer normalisation and projection are
cells of their own; a projection is of half of H, so its products have 6.5 H x H weights where those
of the plain LSTM have 8. PyTorch's GRU computes the same as ours with reset_after and z_keeps; this
is checked first, and its time is reported, too.
"""

from types import SimpleNamespace

import numpy as np
import pytest

import rnnfast
from benchmarks.cases import GATES, Case
from benchmarks.contenders import LAYERS, PyTorch, available
from benchmarks.race import check, race
from benchmarks.replay import replay
from rnnfast.layers.cells import RECURRENT

SHAPES = ((20, 35, 100, 100), (32, 64, 256, 256), (20, 35, 650, 650))
OTHER_CELLS = {  # cell: {name: (the other cell, what its proj_size is of H)}
    "rnn": {},
    "lstm": {"layer normalisation": ("lnlstm", None), "projection": ("lstmp", 0.5)},
    "gru": {"layer normalisation": ("lngru", None)},
}


def variants(cell, N, T, H):
    """{name: (arguments of the layer, arguments of forward)}"""
    rng = np.random.default_rng(1)

    def normal(*shape):
        return (rng.standard_normal(shape) * H**-0.5).astype(np.float32)

    mask = (rng.random((H, GATES[cell] * H)) > 0.5) * np.float32(2)
    yield "plain", ({}, {})
    yield "all lengths T", ({}, {"lengths": np.full(N, T)})
    yield "lengths from 1 to T", ({}, {"lengths": rng.integers(1, T + 1, N)})
    yield "DropConnect", ({}, {"Wh_mask": mask})
    of_steps = {
        name: (rng.random((N, T, H)) < 0.25).astype("f") for name in RECURRENT[cell].of_steps
    }
    candidate_mask = of_steps.pop("candidate_mask", None)
    if of_steps:
        yield "zoneout", ({}, of_steps)
    if candidate_mask is not None:
        yield "recurrent dropout", ({}, {"candidate_mask": candidate_mask})
    if cell == "lstm":
        yield "cell_clip", ({"cell_clip": 1.0}, {})
        yield "peepholes, diagonal", ({"Wp": normal(3, H)}, {})
        yield "peepholes, full", ({"Wp": normal(3, H, H)}, {})
    if cell == "gru":
        yield "z_keeps", ({"z_keeps": True}, {})
        yield "reset_after", ({"reset_after": True, "z_keeps": True}, {})


def contender(case, options, ways):
    layer = getattr(rnnfast, LAYERS[case.cell])(*case.arrays["params"], **options)
    return trained(layer, case.arrays["xs"], case.arrays["dhs"], ways)


def other_cell(case, cell, part):
    """Another cell of the case's sizes. part: what its outputs are of H, if not all."""
    options = {} if part is None else {"proj_size": int(case.H * part)}
    layer = RECURRENT[cell].create(case.D, case.H, **options)
    dhs = case.arrays["dhs"][:, :, : options.get("proj_size", case.H)].copy()
    return trained(layer, case.arrays["xs"], dhs, {})


def trained(layer, xs, dhs, ways):
    made = SimpleNamespace(layer=layer)

    def run():
        made.hs = layer.forward(xs, **ways)
        made.dxs = layer.backward(dhs)

    made.run = run
    return made


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "-".join(map(str, s)))
@pytest.mark.parametrize("cell", GATES)
@pytest.mark.benchmark(timer=replay)
def test_variants(cell, shape, request, machine, keep_freed_memory, benchmark):
    case = Case(cell, shape, "training")
    kinds = variants(cell, case.N, case.T, case.H)
    contenders = {name: contender(case, *arguments) for name, arguments in kinds}
    others = OTHER_CELLS[cell].items()
    contenders |= {name: other_cell(case, *arguments) for name, arguments in others}
    if cell == "gru" and available(PyTorch, case):
        contenders["PyTorch"] = torch = PyTorch(case)
        torch.run()
        ours = contenders["reset_after"]
        ours.run()
        check("PyTorch", [torch.hs.detach().numpy()], [ours.hs])
    benchmark.group = f"variants of {cell} {shape}"
    if request.config.getoption("benchmark_disable"):
        for each in contenders.values():
            each.run()
        benchmark(contenders["plain"].run)
        return
    result = race(contenders, request.config.getoption("rounds"))
    replay.play(benchmark, result.times["plain"])
    benchmark.extra_info |= {
        "variants_of": cell,
        "shape": list(shape),
        "dtype": np.dtype(case.dtype).name,
        "least_ms": {name: 1e3 * min(result.times[name]) for name in contenders},
        "others_cores": result.others_cores,
        "far": result.far,
        "device": contenders["plain"].layer.device,
        **machine,
    }
