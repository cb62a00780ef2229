"""What the CUDA column adds to the other tests: each way to run, many blocks, TF32, launches.

Without a GPU they run in tests/simulator.py; on one, the same tests run there.
"""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import test_sequences as sequence_tests
from cases import (
    CELLS,
    VARIANTS,
    assert_close,
    assert_grad_close,
    cells,
    make_problem,
    variant_name,
    variants,
)
from simulator import Counter, Deadlock, DeviceArray, Simulator

import rnnfast
from rnnfast import cuda, io, kernels, sampling
from rnnfast.cuda import call, planner, product
from rnnfast.models import LanguageModel, Rnnlm, load_model
from rnnfast.optim import SGD, Adam, clip_grads, remove_duplicate

TF32 = 1e-3


@pytest.fixture
def gpu(monkeypatch):
    """The runtime: the GPU, or a simulated one."""
    if "cuda" in kernels.devices():
        yield cuda.what_runs()
        return
    monkeypatch.setitem(sys.modules, "cupy", Simulator.xp)
    cuda.use(Simulator(seed=3))
    yield cuda.what_runs()
    cuda.use(None)


@pytest.fixture
def high():
    """TF32."""
    rnnfast.set_float32_matmul_precision("high")
    yield
    rnnfast.set_float32_matmul_precision("highest")


def plan_as(monkeypatch, make):
    """Let make(products, N, H, precision) choose instead of the planner."""
    monkeypatch.setattr(
        call,
        "make_plan",
        lambda gpu, products, N, H, dtype, precision: make(products, N, H, precision),
    )


def check(cell, shape, tolerance=1e-5, **keywords):
    return check_problem(cell, make_problem(cell, shape, **keywords), tolerance)


def check_problem(cell, problem, tolerance=1e-5):
    """Against the reference; returns what the column gave."""
    got = problem.run(kernels.load(cell.name, "cuda"))
    expected = problem.astype("float64").run(kernels.load(cell.name, "reference"))
    for (name, a), (_, b) in zip(got.arrays(), expected.arrays(), strict=True):
        assert_close(a, b, name, tolerance)
    for (name, a), (_, b) in zip(got.named_grads(), expected.named_grads(), strict=True):
        assert_grad_close(a, b, name, tolerance)
    return got


# Each way to run: full peepholes have but one, in steps

in_one_kernel = pytest.mark.parametrize(
    ("cell", "options"),
    [
        pytest.param(*variant, id=variant_name(*variant))
        for variant in VARIANTS
        if variant[1].get("peepholes") != "full"
    ],
)


@in_one_kernel
@pytest.mark.parametrize("H", [1, 3, 4, 7, 20])
@pytest.mark.parametrize("way", [{}, {"reverse": True, "mask": True}], ids=["plain", "other"])
def test_row(gpu, monkeypatch, cell, options, H, way):
    plan_as(monkeypatch, lambda _, N, H, __: planner.Plan("row", N, product.up(4 * H, 32)))
    check(cell, (3, 4, 5, H), **way, **options)


@in_one_kernel
@pytest.mark.parametrize("blocks", [1, 2, 7])
@pytest.mark.parametrize("way", [{}, {"reverse": True, "mask": True}], ids=["plain", "other"])
def test_grid(gpu, monkeypatch, cell, options, blocks, way):
    """The units of one group of samples over 1, 2 and 7 blocks; 13 units divide by none of them."""

    def one_group(products, N, H, precision):
        plan = planner.grid_plan(products, N, H, precision, 1, -(-H // blocks))
        assert plan.blocks == blocks
        return plan

    plan_as(monkeypatch, one_group)
    check(cell, (3, 3, 4, 13), **way, **options)


@in_one_kernel
@pytest.mark.parametrize(("groups", "rows"), [(2, 3), (3, 2), (5, 1)])
def test_grid_of_several_groups(gpu, monkeypatch, cell, options, groups, rows):
    def several(products, N, H, precision):
        plan = planner.grid_plan(products, N, H, precision, groups, H)
        assert (plan.groups, plan.rows) == (groups, rows)
        return plan

    plan_as(monkeypatch, several)
    check(cell, (5, 3, 4, 9), **options)


@in_one_kernel
def test_grid_in_passes_and_chunks(gpu, monkeypatch, cell, options):
    """More rows than a product takes at a time, and more terms than lie in shared memory."""
    monkeypatch.setattr(planner, "PASS_ROWS", 2)
    monkeypatch.setattr(product, "CHUNK", 16)
    plan_as(monkeypatch, lambda p, N, H, precision: planner.grid_plan(p, N, H, precision, 2, 7))
    check(cell, (7, 3, 4, 21), seed=1, **options)


@cells
@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_grid_in_tf32(gpu, monkeypatch, high, cell, blocks):
    plan_as(
        monkeypatch,
        lambda p, N, H, precision: planner.grid_plan(p, N, H, precision, 1, -(-H // blocks)),
    )
    check(cell, (9, 3, 4, 13), TF32, reverse=True, mask=True)


@variants
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("way", [{}, {"reverse": True, "mask": True}], ids=["plain", "other"])
def test_steps(gpu, monkeypatch, cell, options, dtype, way):
    plan_as(monkeypatch, lambda _, N, H, __: planner._steps(N, H))
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    check(cell, (5, 3, 4, 60), tolerance, dtype=dtype, **way, **options)


def test_full_peepholes_run_in_steps(gpu, monkeypatch):
    """Where an LSTM without them is a row or a grid."""
    lstm = kernels.load("lstm", "cuda")
    for H, kind in ((20, "row"), (200, "grid")):
        for products in (lstm.FORWARD, lstm.BACKWARD):
            assert planner.make_plan(H100, products, 3, H, "float32", "float32").kind == kind
        assert planner.make_plan(H100, None, 3, H, "float32", "float32").kind == "steps"
    asked = []

    def steps(products, N, H, precision):
        asked.append(products)
        return planner._steps(N, H)

    plan_as(monkeypatch, steps)
    cell = next(cell for cell in CELLS if cell.name == "lstm")
    for peepholes in (None, "diagonal", "full"):
        make_problem(cell, (2, 1, 3, 4), peepholes=peepholes).run(lstm)
    assert asked == [lstm.FORWARD, lstm.BACKWARD] * 2 + [None, None]


# Lengths

PLANS = {
    "row": lambda _, N, H, __: planner.Plan("row", N, product.up(4 * H, 32)),
    "blocks": lambda p, N, H, precision: planner.grid_plan(p, N, H, precision, 1, 2),
    "groups": lambda p, N, H, precision: planner.grid_plan(p, N, H, precision, 3, 3),
    "steps": lambda _, N, H, __: planner._steps(N, H),
}
ragged_ways = pytest.mark.parametrize(
    ("cell", "options", "plan"),
    [
        pytest.param(*variant, plan, id=f"{variant_name(*variant)}-{plan}")
        for variant in VARIANTS
        for plan in PLANS
        if plan == "steps" or variant[1].get("peepholes") != "full"
    ],
)


def beyond(problem):
    """(N, T), which steps lie beyond the lengths."""
    N, T, _ = problem.xs.shape
    return np.arange(T) >= problem.keywords["lengths"].reshape(N, 1)


@ragged_ways
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("mask", [False, True])
def test_lengths(gpu, monkeypatch, cell, options, plan, reverse, mask):
    """From 0 to T, in every way to run; what lies beyond them may be anything."""
    plan_as(monkeypatch, PLANS[plan])
    p = make_problem(cell, (5, 3, 3, 5), lengths=True, reverse=reverse, mask=mask, **options)
    off = beyond(p)
    p.xs[off] = p.dhs[off] = np.nan
    got = check_problem(cell, p)
    assert (got.hs[off] == 0).all()
    assert (got.dxs[off] == 0).all()
    nothing = p.keywords["lengths"] == 0
    assert nothing.any()
    for given, passed in ((p.state, got.state), (p.dstate, got.dstate)):
        for a, b in zip(given, passed, strict=True):
            np.testing.assert_array_equal(a[nothing], b[nothing])


@ragged_ways
def test_lengths_of_all_steps_or_of_none(gpu, monkeypatch, cell, options, plan):
    """The first give the bits that no lengths give, the others nothing but the states."""
    plan_as(monkeypatch, PLANS[plan])
    module = kernels.load(cell.name, "cuda")
    p = make_problem(cell, (4, 2, 3, 4), **options)
    expected = p.run(module)
    p.keywords["lengths"] = np.full(4, 2)
    got = p.run(module)
    for (name, a), (_, b) in zip(got.arrays(), expected.arrays(), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
    p.keywords["lengths"] = np.zeros(4, np.intp)
    p.xs[...] = p.dhs[...] = np.inf
    got = p.run(module)
    assert not any(a.any() for a in (got.hs, got.dxs, *got.grads))


@pytest.mark.parametrize("cell", CELLS[:2], ids=lambda cell: cell.name)
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_in_passes_and_chunks(gpu, monkeypatch, cell, reverse):
    """Samples that have ended beside others in one pass, and a whole pass of them."""
    monkeypatch.setattr(planner, "PASS_ROWS", 2)
    monkeypatch.setattr(product, "CHUNK", 16)
    plan_as(monkeypatch, lambda p, N, H, precision: planner.grid_plan(p, N, H, precision, 1, 9))
    p = make_problem(cell, (5, 3, 2, 17), lengths=True, reverse=reverse)
    p.keywords["lengths"][:2] = 0
    off = beyond(p)
    p.xs[off] = p.dhs[off] = np.nan
    check_problem(cell, p)


def test_lengths_in_tf32(gpu, monkeypatch, high):
    plan_as(monkeypatch, lambda p, N, H, precision: planner.grid_plan(p, N, H, precision, 1, 5))
    check(CELLS[1], (3, 2, 4, 9), TF32, lengths=True, mask=True, peepholes="diagonal")


@cells
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["xs", "dhs"])
@pytest.mark.parametrize("kind", ["row", "grid"])
def test_nan_in_one_sample_stays_there(gpu, monkeypatch, cell, kind, place, bad):
    if kind == "grid":
        plan_as(monkeypatch, lambda p, N, H, pr: planner.grid_plan(p, N, H, pr, 1, 3))
    module = kernels.load(cell.name, "cuda")
    clean, spoilt = (make_problem(cell, (3, 2, 4, 5)) for _ in range(2))
    getattr(spoilt, place)[1].flat[-1] = bad
    with np.errstate(invalid="ignore"):
        got, expected = spoilt.run(module), clean.run(module)
    for (name, a), (_, b) in zip(got.arrays(), expected.arrays(), strict=True):
        np.testing.assert_array_equal(a[[0, 2]], b[[0, 2]], err_msg=name)
    if np.isnan(bad):
        assert np.isnan((got.hs if place == "xs" else got.dxs)[1]).any()


@cells
def test_every_schedule_gives_the_same_bits(monkeypatch, cell):
    """What one block writes and another reads never depends on who comes first."""
    plan_as(monkeypatch, lambda p, N, H, precision: planner.grid_plan(p, N, H, precision, 2, 3))
    problem, results = make_problem(cell, (4, 3, 4, 7)), []
    for seed in (None, 1, 2, 3):
        cuda.use(Simulator(seed))
        try:
            results.append(problem.run(kernels.load(cell.name, "cuda")))
        finally:
            cuda.use(None)
    for other in results[1:]:
        for (name, a), (_, b) in zip(results[0].arrays(), other.arrays(), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


# Launches


@cells
@pytest.mark.parametrize("kind", ["row", "grid"])
@pytest.mark.parametrize("states", [False, True])
def test_launches_of_a_call(monkeypatch, cell, kind, states):
    """Kernels, products, fills and copies of arrays that are on the GPU: at most 8, whatever T."""
    simulator = Simulator()
    cuda.use(simulator)
    try:
        if kind == "grid":
            plan_as(monkeypatch, lambda p, N, H, pr: planner.grid_plan(p, N, H, pr, 1, 5))
        counts = []
        for T in (2, 5):
            p = make_problem(cell, (2, T, 3, 5), states=states)
            module = kernels.load(cell.name, "cuda")
            params, grads = (on_gpu(simulator, *a) for a in (p.params, p.poisoned_grads()))
            xs, dhs = on_gpu(simulator, p.xs, p.dhs)
            state, dstate = (s and on_gpu(simulator, *s) for s in (p.state, p.dstate))
            Counter.launches = 0
            *_, cache = module.forward(xs, state, params)
            forward, Counter.launches = Counter.launches, 0
            module.backward(dhs, dstate, params, cache, grads)
            counts.append((forward, Counter.launches))
        assert counts[0] == counts[1]
        assert min(counts[0]) >= 2
        assert max(counts[0]) <= 8 + 2 * (cell.name == "gru")  # dWh has two sources there
    finally:
        cuda.use(None)


# The GRU: with r after the product its steps are shorter

GRU = next(cell for cell in CELLS if cell.name == "gru")
conventions = pytest.mark.parametrize("reset_after", [False, True], ids=["before", "after"])


@pytest.mark.parametrize(("options", "meetings"), [({}, 2), ({"reset_after": True}, 1)])
def test_meetings_of_the_blocks_of_a_gru(monkeypatch, options, meetings):
    """Two a step, with r after the product one; and one more for the states."""
    arrivals = []

    class Counting(Simulator):
        @staticmethod
        def arrive(p, i):
            arrivals.append(i)
            Simulator.arrive(p, i)

    plan_as(monkeypatch, PLANS["blocks"])
    cuda.use(Counting())
    try:
        module, p = kernels.load("gru", "cuda"), make_problem(GRU, (1, 4, 2, 4), **options)
        *_, cache = module.forward(p.xs, p.state, p.params, **options)
        forward = len(arrivals)
        module.backward(p.dhs, p.dstate, p.params, cache, p.poisoned_grads())
    finally:
        cuda.use(None)
    T, blocks = 4, 2
    assert forward == blocks * (meetings * T + 1)
    assert len(arrivals) - forward <= forward


@pytest.mark.parametrize("plan", ["row", "blocks"])
def test_launches_of_a_gru_with_r_after_the_product(monkeypatch, plan):
    """No more than without; lengths cost fills and what clears xs, whatever T."""
    simulator = Simulator()
    plan_as(monkeypatch, PLANS[plan])
    cuda.use(simulator)
    try:
        module, counts = kernels.load("gru", "cuda"), []
        for ways in ({}, {"reset_after": True}, {"reset_after": True, "lengths": True}):
            for T in (1, 3):
                p = make_problem(GRU, (2, T, 3, 4), **ways)
                params, grads = (on_gpu(simulator, *a) for a in (p.params, p.poisoned_grads()))
                state, dstate = (on_gpu(simulator, *a) for a in (p.state, p.dstate))
                xs, dhs = on_gpu(simulator, p.xs, p.dhs)
                Counter.launches = 0
                *_, cache = module.forward(xs, state, params, **p.keywords)
                forward, Counter.launches = Counter.launches, 0
                module.backward(dhs, dstate, params, cache, grads)
                counts.append((forward, Counter.launches))
    finally:
        cuda.use(None)
    plain, after, ragged = counts[::2]
    assert counts[1::2] == [plain, after, ragged]
    assert after[0] == plain[0]
    assert after[1] <= plain[1]
    assert ragged[0] <= after[0] + 6
    assert ragged[1] == after[1] + 1


@conventions
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_of_a_gru_in_passes_and_chunks(gpu, monkeypatch, reset_after, reverse):
    """Samples that have ended beside others in one pass, and whole passes of them."""
    monkeypatch.setattr(planner, "PASS_ROWS", 2)
    monkeypatch.setattr(product, "CHUNK", 16)
    plan_as(monkeypatch, lambda p, N, H, precision: planner.grid_plan(p, N, H, precision, 1, 9))
    p = make_problem(GRU, (5, 3, 2, 17), lengths=True, reverse=reverse, reset_after=reset_after)
    p.keywords["lengths"][:2] = 0
    off = beyond(p)
    p.xs[off] = p.dhs[off] = np.nan
    check_problem(GRU, p)


@conventions
def test_gru_in_tf32(gpu, monkeypatch, high, reset_after):
    plan_as(monkeypatch, lambda p, N, H, precision: planner.grid_plan(p, N, H, precision, 1, 5))
    ways = {"reset_after": reset_after, "z_keeps": True, "lengths": True, "mask": True}
    check(GRU, (3, 2, 4, 9), TF32, **ways)


@conventions
def test_every_schedule_of_a_gru_gives_the_same_bits(monkeypatch, reset_after):
    """With lengths, where what the blocks exchange is not always written."""
    plan_as(monkeypatch, PLANS["groups"])
    problem, results = make_problem(GRU, (4, 3, 2, 5), lengths=True, reset_after=reset_after), []
    for seed in (None, 1, 2):
        cuda.use(Simulator(seed))
        try:
            results.append(problem.run(kernels.load("gru", "cuda")))
        finally:
            cuda.use(None)
    for other in results[1:]:
        for (name, a), (_, b) in zip(results[0].arrays(), other.arrays(), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


# Arrays on the GPU

LAYERS = {"rnn": rnnfast.TimeRNN, "lstm": rnnfast.TimeLSTM, "gru": rnnfast.TimeGRU}


def on_gpu(gpu, *arrays):
    return [gpu.to_device(a) for a in arrays]


@cells
def test_a_layer_on_the_gpu_gives_what_it_gives_on_the_cpu(gpu, cell):
    """CuPy arrays in, CuPy arrays out; with stateful, a training step and inference."""
    p = make_problem(cell, (3, 4, 5, 7))
    layer = LAYERS[cell.name](*(a.copy() for a in p.params), stateful=True)
    twin = LAYERS[cell.name](*on_gpu(gpu, *p.params), stateful=True)
    assert (layer.device, twin.device) == ("cpu", "cuda")
    for train in (True, True, False):
        xs, dhs = p.xs * (1 + train), p.dhs
        hs, hs2 = layer.forward(xs, train=train), twin.forward(gpu.to_device(xs), train=train)
        assert gpu.is_array(hs2)
        assert gpu.is_array(twin.h)
        assert_close(io.to_numpy(hs2), hs.astype("f8"))
        if train:
            dxs, dxs2 = layer.backward(dhs), twin.backward(gpu.to_device(dhs))
            assert gpu.is_array(dxs2)
            assert_close(io.to_numpy(dxs2), dxs.astype("f8"))
            for g, g2 in zip(layer.grads, twin.grads, strict=True):
                assert gpu.is_array(g2)
                assert_grad_close(io.to_numpy(g2), g.astype("f8"))
    twin.freeze()
    assert_close(io.to_numpy(twin.forward(gpu.to_device(xs), train=False)), layer.forward(xs))
    twin.unfreeze()


@cells
def test_numpy_arrays_on_the_gpu(gpu, cell):
    """They are copied both ways; one CuPy array among the arguments makes the results CuPy's."""
    p = make_problem(cell, (3, 4, 5, 7))
    layer = LAYERS[cell.name](*p.params, device="cuda")
    expected = LAYERS[cell.name](*p.params, device="reference").forward(p.xs)
    hs = layer.forward(p.xs)
    assert type(hs) is np.ndarray
    assert_close(hs, expected)
    assert type(layer.backward(p.dhs)) is np.ndarray
    assert all(type(g) is np.ndarray for g in layer.grads)
    assert gpu.is_array(layer.forward(gpu.to_device(p.xs)))


def test_cupy_weights_elsewhere(gpu):
    weights = on_gpu(gpu, *(np.ones(size, "f") for size in ((3, 4), (4, 4), 4)))
    for device in ("cpu", "reference"):
        with pytest.raises(TypeError, match=f"on device '{device}' the weights must be NumPy"):
            rnnfast.TimeRNN(*weights, device=device)
    with pytest.raises(ValueError, match="all NumPy or all CuPy"):
        rnnfast.TimeRNN(weights[0], *(np.ones(size, "f") for size in ((4, 4), 4)))


@pytest.mark.parametrize("interface", ["__cuda_array_interface__", "__dlpack_device__"])
def test_arrays_of_other_libraries_are_adopted(gpu, monkeypatch, interface):
    """Through CuPy, where they are on a GPU; an array that DLPack says is the CPU's is no array."""
    taken = []

    def take(x):
        taken.append(x)
        return gpu.to_device(x.array)

    class Lender:
        def __init__(self, array, device=2):
            self.array = array
            setattr(self, interface, (lambda: (device, 0)) if "dlpack" in interface else {})

    fake = SimpleNamespace(asarray=take, from_dlpack=take, zeros=gpu.xp.zeros)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    p = make_problem(CELLS[0], (3, 4, 5, 7))
    layer = rnnfast.TimeRNN(*map(Lender, p.params))
    assert layer.device == "cuda"
    hs = layer.forward(Lender(p.xs))
    assert gpu.is_array(hs)
    assert len(taken) == 4
    if "dlpack" in interface:
        with pytest.raises(TypeError, match="xs must be a NumPy array, got Lender"):
            layer.forward(Lender(p.xs, device=1))


def test_both_directions_on_the_gpu(gpu):
    p, q = (make_problem(CELLS[1], (2, 3, 4, 5), seed=seed) for seed in range(2))
    layer = rnnfast.TimeBiLSTM(*p.params, *q.params)
    twin = rnnfast.TimeBiLSTM(*on_gpu(gpu, *p.params, *q.params))
    dhs = np.concatenate((p.dhs, q.dhs), axis=2)
    assert_close(io.to_numpy(twin.forward(gpu.to_device(p.xs))), layer.forward(p.xs))
    assert_close(io.to_numpy(twin.backward(gpu.to_device(dhs))), layer.backward(dhs))


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_one_step_on_the_gpu(gpu, name):
    cell = next(cell for cell in CELLS if cell.name == name.lower())
    p = make_problem(cell, (3, 1, 5, 7))
    layer, twin = getattr(rnnfast, name)(*p.params), getattr(rnnfast, name)(*on_gpu(gpu, *p.params))
    x, dout = p.xs[:, 0], p.dstate
    out, out2 = layer.forward(x, *p.state), twin.forward(*on_gpu(gpu, x, *p.state))
    back, back2 = layer.backward(*dout), twin.backward(*on_gpu(gpu, *dout))
    pairs = zip(
        (out, *back) if cell.states == 1 else (*out, *back),
        (out2, *back2) if cell.states == 1 else (*out2, *back2),
        strict=True,
    )
    for a, b in pairs:
        assert_close(io.to_numpy(b), a)


@pytest.mark.parametrize("variational", [False, True])
def test_a_language_model_trains_on_the_gpu_as_on_the_cpu(gpu, variational):
    """Ten losses from one seed, with tied weights, dropout, clipping, SGD; and what it writes."""

    def losses(device):
        model = LanguageModel(
            *(11, 6, 6),
            layers=2,
            dropout=0.3,
            variational_dropout=variational,
            tie_weights=True,
            rng=5,
            device=device,
        )
        optimizer, rng, found = SGD(3.0), np.random.default_rng(0), []
        for _ in range(10):
            xs, ts = rng.integers(11, size=(2, 3, 4))
            loss = model.forward(xs, ts)
            model.backward()
            params, grads = remove_duplicate(model.params, model.grads)
            norm = clip_grads(grads, 0.25)
            optimizer.update(params, grads)
            found.append((float(loss), float(norm)))
        return found, loss, model, sampling.generate(model, [1], 5, rng=0)

    expected, loss, *_, text = losses("cpu")
    assert type(loss) is float
    got, loss, model, text2 = losses("cuda")
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert gpu.is_array(loss)
    assert loss.shape == ()
    assert all(map(gpu.is_array, (*model.params, *model.grads)))
    assert text2 == text


@pytest.mark.parametrize("case", sequence_tests.CASES)
def test_models_of_sequences_on_the_gpu(gpu, case):
    """Loss, gradients and what is written, with padding where the model knows that."""
    kind, options = sequence_tests.CASES[case]
    more = {} if case.startswith("vector") else {"lengths": [2, sequence_tests.T, 1]}
    xs, ts = sequence_tests.batch(kind)
    here, there = (
        kind(*sequence_tests.SIZES[kind], **options, rng=1, device=device)
        for device in ("cpu", "cuda")
    )
    loss = here.forward(xs, ts, **more)
    assert float(there.forward(xs, ts, **more)) == pytest.approx(loss, rel=1e-5)
    here.backward()
    there.backward()
    assert all(map(gpu.is_array, there.grads))
    for grad, expected in zip(there.grads, here.grads, strict=True):
        assert_close(io.to_numpy(grad), expected)
    if hasattr(here, "generate_batch"):
        found = there.generate_batch(xs, 1, 3, **more)
        np.testing.assert_array_equal(found, here.generate_batch(xs, 1, 3, **more))


def test_weights_of_a_model_on_the_gpu(gpu, tmp_path):
    """Saved and loaded, on either device."""
    file = tmp_path / "weights.safetensors"
    model, other = (Rnnlm(7, 3, 4, rng=seed, device="cuda") for seed in range(2))
    model.save_params(file)
    other.load_params(file)
    on_cpu, _ = load_model(file, device="cpu")
    for a, b, c in zip(model.params, other.params, on_cpu.params, strict=True):
        np.testing.assert_array_equal(io.to_numpy(a), io.to_numpy(b))
        np.testing.assert_array_equal(io.to_numpy(a), c)


def test_nothing_is_copied_or_waited_for_in_a_training_step(gpu):
    """All arrays are on the GPU: neither the loss nor clipping comes to the host."""
    if not isinstance(gpu, Simulator):
        pytest.skip("copies are counted by the simulator")
    model = LanguageModel(9, 4, 4, dropout=0.5, rng=0, device="cuda")
    ids = gpu.to_device(np.arange(9).reshape(3, 3))
    optimizer = Adam()
    for _ in range(2):
        before = gpu.copies
        model.forward(ids, ids)
        model.backward()
        clip_grads(model.grads, 0.25)
        optimizer.update(model.params, model.grads)
        assert gpu.copies == before


def test_losses_and_dropout_on_the_gpu(gpu):
    rng = np.random.default_rng(0)
    xs, ts = rng.standard_normal((2, 3, 5)).astype("f"), rng.integers(5, size=(2, 3))
    bits = rng.integers(2, size=(2, 3))
    for layer, arguments in (
        (rnnfast.TimeSoftmaxWithLoss, (xs, ts)),
        (rnnfast.TimeSigmoidWithLoss, (xs[:, :, 0], bits)),
        (rnnfast.TimeSquaredLoss, (xs, xs[::-1].copy())),
    ):
        here, there = layer(), layer()
        loss, loss2 = here.forward(*arguments), there.forward(*on_gpu(gpu, *arguments))
        assert gpu.is_array(loss2)
        assert float(loss2) == pytest.approx(loss, rel=1e-6)
        assert_close(io.to_numpy(there.backward()), here.backward())
    for layer in (
        rnnfast.Softmax,
        rnnfast.Sigmoid,
        lambda: rnnfast.TimeDropout(0.5, rng=3),
    ):
        here, there = layer(), layer()
        assert_close(io.to_numpy(there.forward(gpu.to_device(xs))), here.forward(xs))
        assert_close(io.to_numpy(there.backward(gpu.to_device(xs))), here.backward(xs))
    np.random.seed(0)
    masked = rnnfast.Dropout(0.5).forward(gpu.to_device(xs))
    np.random.seed(0)
    assert_close(io.to_numpy(masked), rnnfast.Dropout(0.5).forward(xs))


def test_ids_on_the_gpu_that_name_no_row(gpu):
    """Nothing waits to look at them: their rows and their loss are NaN, their gradient is none."""
    ops = kernels.load("ops", "cuda")
    W, ids = on_gpu(gpu, np.ones((4, 3), "f"), np.array([0, 4, -1, 3]))
    out = io.to_numpy(ops.embedding_forward(ids, W))
    assert np.isnan(out[1:3]).all()
    assert (out[[0, 3]] == 1).all()
    dW = gpu.to_device(np.full((4, 3), np.nan, "f"))
    ops.embedding_backward(gpu.to_device(np.ones((4, 3), "f")), ids, dW)
    np.testing.assert_array_equal(io.to_numpy(dW), [[1] * 3, [0] * 3, [0] * 3, [1] * 3])
    loss, _ = ops.softmax_loss_forward(gpu.to_device(np.ones((4, 4), "f")), ids, ignore_label=-1)
    assert np.isnan(float(loss))


# The plan


class H100:
    """The figures that the planner asks for."""

    multiprocessors = 132
    shared_memory = 227 * 1024


@pytest.mark.parametrize("name", [cell.name for cell in CELLS])
def test_plans(name):
    module = __import__(f"rnnfast.cuda.{name}", fromlist=[name])
    for products in (module.FORWARD, module.BACKWARD):

        def plan(N, H, dtype="float32", precision="float32", products=products):
            return planner.make_plan(H100, products, N, H, dtype, precision)

        assert plan(20, 100).kind == "row"
        assert plan(20, 100).blocks == 20
        assert plan(20, 100, "float64").kind == "steps"
        for N, H in ((20, 650), (64, 1024), (1, 256), (128, 128)):
            for precision in ("float32", "tf32"):
                p = plan(N, H, precision=precision)
                assert p.kind in ("grid", "steps")
                if p.kind == "grid":
                    assert p.blocks <= 132
                    assert 4 * p.shared <= 227 * 1024
                    assert p.groups * p.rows >= N
                    assert p.blocks // p.groups * p.units >= H
        assert plan(20, 650).kind == "grid"
        assert plan(64, 1024).kind == "grid"
        assert plan(129, 650).kind == "steps"
        assert plan(20, 4096).kind == "steps"


def test_show_config_prints_a_plan(gpu, capsys):
    rnnfast.show_config(plan=("lstm", 5, 7))
    text = capsys.readouterr().out
    assert "lstm forward      row: 5 blocks x 32 threads" in text
    assert "lstm backward     row: 5 blocks x 32 threads" in text
    for plan, message in (
        (("lstm", 0, 7), "N must be"),
        (("lstm", 5, 7.0), "H must be"),
        (("cnn", 5, 7), "name must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            rnnfast.show_config(plan=plan)


# Why there is none


class FakeRuntime:
    """What cupy says of a machine."""

    def __init__(self, devices=1, capability=(9, 0), error=None):
        self.devices, self.capability, self.error = devices, capability, error

    def getDeviceCount(self):
        if self.error:
            raise self.error
        return self.devices


@pytest.mark.parametrize(
    ("runtime", "reason"),
    [
        (FakeRuntime(devices=0), "there is no NVIDIA GPU"),
        (
            FakeRuntime(error=RuntimeError("cudaErrorInsufficientDriver: driver is\nolder")),
            "CUDA does not start: cudaErrorInsufficientDriver: driver is older",
        ),
        (
            FakeRuntime(capability=(7, 5)),
            "Old GPU has compute capability 7.5, 8.0 is needed",
        ),
        (FakeRuntime(), None),
    ],
    ids=["no GPU", "driver", "old", "fine"],
)
def test_why_there_is_no_cuda(monkeypatch, runtime, reason):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))
    gpu = SimpleNamespace(name="Old GPU", compute_capability=runtime.capability)
    monkeypatch.setattr(cuda, "what_runs", lambda: gpu)
    assert cuda._why_missing.__wrapped__() == reason


@pytest.mark.parametrize(("missing", "name"), [("numba_cuda", "numba-cuda"), ("cupy", "CuPy")])
def test_why_there_is_no_cuda_without_the_extra(monkeypatch, missing, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda asked: asked != missing or None)
    expected = f"{name} is not installed: pip install 'rnnfast[cuda]'"
    assert cuda._why_missing.__wrapped__() == expected


# The simulator itself


def simulate(function, signature, threads, blocks, *args):
    """The kernel on these arrays, in place."""
    args = [a.view(DeviceArray) if isinstance(a, np.ndarray) else a for a in args]
    Simulator(seed=0).kernel(function, signature, threads)(blocks, *args)


def test_simulated_blocks_run_at_once():
    """A counter that both blocks raise and wait for; one after the other would hang."""
    gpu = Simulator(seed=0)

    def kernel(counter, out):
        if gpu.cuda.threadIdx.x == 0:
            gpu.arrive(counter, 0)
            while gpu.arrived(counter, 0) < 2:
                pass
        gpu.cuda.syncthreads()
        out[gpu.cuda.blockIdx.x * 4 + gpu.cuda.threadIdx.x] = gpu.cuda.blockIdx.x

    out = np.full(8, -1, np.int32)
    simulate(kernel, "*i *i", 4, 2, np.zeros(1, np.int32), out)
    assert out.tolist() == [0] * 4 + [1] * 4


def test_simulated_deadlocks_are_found():
    gpu = Simulator(seed=0)

    def waits_for_nobody(counter):
        while gpu.arrived(counter, 0) < 1:
            pass

    def waits_apart():
        if gpu.cuda.threadIdx.x == 0:
            gpu.cuda.syncthreads()

    with pytest.raises(Deadlock, match="counter"):
        simulate(waits_for_nobody, "*i", 1, 2, np.zeros(1, np.int32))
    with pytest.raises(Deadlock, match="barrier"):
        simulate(waits_apart, "", 2, 1)


def test_simulated_memory_is_checked():
    gpu = Simulator(seed=0)

    def beyond(a, i):
        a[i] = 1

    def two_places(out):
        if gpu.cuda.threadIdx.x == 0:
            gpu.cuda.syncthreads()
        else:
            gpu.cuda.syncthreads()

    def unwritten(out):
        s = gpu.cuda.shared.array(2, np.float32)
        out[0] = s[1]

    a = np.zeros(3, np.float32)
    for i in (3, -1):
        with pytest.raises(IndexError):
            simulate(beyond, "*f i", 1, 1, a, i)
    with pytest.raises(AssertionError, match="different places"):
        simulate(two_places, "*f", 2, 1, a)
    simulate(unwritten, "*f", 1, 1, a)
    assert np.isnan(a[0])


def test_simulated_warps():
    gpu = Simulator(seed=0)

    def kernel(out):
        i = gpu.cuda.threadIdx.x
        out[i] = gpu.cuda.shfl_xor_sync(-1, i, 1)

    out = np.zeros(64, np.int32)
    simulate(kernel, "*i", 64, 1, out)
    assert out.tolist() == [i ^ 1 for i in range(64)]


def test_simulated_tensor_cores_round():
    gpu = Simulator(seed=0)
    assert gpu.to_tf32(1 + 2.0**-11) == 1 + 2.0**-10
    assert gpu.to_tf32(1 + 2.0**-12) == 1
    assert np.isnan(gpu.to_tf32(np.nan))

    def kernel(out):
        one = np.float32(1 + 2.0**-12)
        out[0] = gpu.mma(one, one, one, one, one, one, one, one, one, one)[0]

    with pytest.raises(AssertionError, match="not rounded"):
        simulate(kernel, "*f", 32, 1, np.zeros(1, np.float32))
