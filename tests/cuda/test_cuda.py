"""What the CUDA column adds to the tests of layers and models: launches, arrays on the GPU.

Without a GPU the compiled kernels run in software (tests/ptx); on one, the same tests run there.
"""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import sequence_cases
from cases import CELLS, assert_close, assert_grad_close, cells, make_problem, widths
from liars import liar
from on_cuda import PLANS, frame, in_software, on_gpu, plan_as
from ptx.arrays import Counter
from ptx.gpu import PtxGpu

import rnnfast
from rnnfast import io, kernels, layers, sampling
from rnnfast.models import LanguageModel, Rnnlm, load_model
from rnnfast.optim import SGD, Adam, clip_grads, remove_duplicate

# Launches


FRAMED = [cell for cell in CELLS if not cell.in_steps]


@pytest.mark.parametrize("cell", FRAMED, ids=lambda cell: cell.name)
@pytest.mark.parametrize("kind", ["row", "grid"])
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.one_in(6)
def test_launches_of_a_call(monkeypatch, cell, kind, states):
    """Kernels, products, fills and copies of arrays that are on the GPU: at most 8, whatever T."""
    plan_as(monkeypatch, frame(3, 2) if kind == "grid" else PLANS["row"])
    counts = []
    with in_software() as gpu:
        for T in (2, 5):
            p = make_problem(cell, (2, T, 3, 5), states=states)
            counts.append(launches(gpu, cell.name, p))
    assert counts[0] == counts[1]
    assert min(counts[0]) >= 2
    assert max(counts[0]) <= 8 + 2 * (cell.name == "gru")  # dWh has two sources there


def launches(gpu, cell, p):
    """How many there are in forward and in backward."""
    module = kernels.load(cell, "cuda")
    params, grads = (on_gpu(gpu, *a) for a in (p.params, p.poisoned_grads()))
    state, dstate = (s and on_gpu(gpu, *s) for s in (p.state, p.dstate))
    xs, dhs = on_gpu(gpu, p.xs, p.dhs)
    Counter.launches = 0
    *_, cache = module.forward(xs, state, params, **p.keywords)
    forward, Counter.launches = Counter.launches, 0
    module.backward(dhs, dstate, params, cache, grads)
    return forward, Counter.launches


# The GRU: with r after the product its steps are shorter

GRU = next(cell for cell in CELLS if cell.name == "gru")


@pytest.mark.parametrize(("options", "exchanges"), [({}, 2), ({"reset_after": True}, 1)])
@pytest.mark.one_in(2)
def test_exchanges_of_the_blocks_of_a_gru(monkeypatch, options, exchanges):
    """Two a step, with r after the product one."""
    plan_as(monkeypatch, frame(2, 1))
    T, blocks = 7, 2
    with in_software(new=True) as gpu:
        make_problem(GRU, (1, T, 2, 4), **options).run(kernels.load("gru", "cuda"))
        forward, _ = (k.times("st.relaxed") for k in gpu.loaded)
    assert forward.count(blocks * T) == exchanges


@pytest.mark.parametrize("plan", ["blocks", pytest.param("row", marks=pytest.mark.rest)])
@pytest.mark.rest
def test_launches_of_a_gru_with_r_after_the_product(monkeypatch, plan):
    """No more than without; lengths cost fills and what clears xs, whatever T."""
    plan_as(monkeypatch, PLANS[plan])
    counts = []
    with in_software() as gpu:
        for ways in ({}, {"reset_after": True}, {"reset_after": True, "lengths": True}):
            for T in (1, 3):
                counts.append(launches(gpu, "gru", make_problem(GRU, (2, T, 3, 13), **ways)))
    plain, after, ragged = counts[::2]
    assert counts[1::2] == [plain, after, ragged]
    assert after[0] == plain[0]
    assert after[1] <= plain[1]
    assert ragged[0] <= after[0] + 6
    assert ragged[1] == after[1] + 1


# Arrays on the GPU

LAYERS = {
    "rnn": rnnfast.TimeRNN,
    "lstm": rnnfast.TimeLSTM,
    "gru": rnnfast.TimeGRU,
    "mogrifier": rnnfast.TimeMogrifier,
    "lstmp": rnnfast.TimeLSTMP,
    "lnlstm": rnnfast.TimeLayerNormLSTM,
    "lngru": rnnfast.TimeLayerNormGRU,
    "slstm": rnnfast.TimeSLSTM,
}


@cells
@pytest.mark.one_in(8)
def test_a_layer_on_the_gpu_gives_what_it_gives_on_the_cpu(gpu, cell):
    """CuPy arrays in, CuPy arrays out; with stateful, a training step and inference."""
    p = make_problem(cell, (3, 4, 5, 7))
    layer = LAYERS[cell.name](*(a.copy() for a in p.params[:3]), stateful=True, **p.beside)
    beside = {name: gpu.to_device(array) for name, array in p.beside.items()}
    twin = LAYERS[cell.name](*on_gpu(gpu, *p.params[:3]), stateful=True, **beside)
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
@pytest.mark.one_in(4)
def test_numpy_arrays_on_the_gpu(gpu, cell):
    """They are copied both ways; one CuPy array among the arguments makes the results CuPy's."""
    p = make_problem(cell, (3, 4, 5, 7))
    layer = LAYERS[cell.name](*p.params[:3], device="cuda", **p.beside)
    expected = LAYERS[cell.name](*p.params[:3], device="reference", **p.beside).forward(p.xs)
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


AWD = {
    "variational_dropout": True,
    "input_dropout": 0.4,
    "output_dropout": 0.3,
    "embedding_dropout": 0.3,
    "weight_drop": 0.2,
    "alpha": 2.0,
    "beta": 1.0,
    "past_decode": 0.1,
    "adversarial": 0.2,
}
DIRECT_OUTPUT = {"mixtures": 3, "mixtures_below": 2, "latent_dropout": 0.3, "balance": 0.1}

ZONEOUT = {"h_zoneout": 0.2, "c_zoneout": 0.4, "recurrent_dropout": 0.3}
ZONEOUT |= {"variational_dropout": True}


@pytest.mark.parametrize(
    "options",
    [{"dropout": 0.3}, {"dropout": 0.3, "variational_dropout": True}, AWD, DIRECT_OUTPUT, ZONEOUT],
    ids=["dropout", "variational", "awd", "direct output", "zoneout"],
)
@pytest.mark.one_in(3)
def test_a_language_model_trains_on_the_gpu_as_on_the_cpu(gpu, options):
    """Ten losses from one seed, with tied weights, dropout, clipping, SGD; and what it writes."""

    def losses(device):
        model = LanguageModel(
            *(11, 6, 6),
            layers=2,
            **options,
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
            found.append((float(loss), float(model.penalty), float(norm)))
        return found, loss, model, sampling.generate(model, [1], 5, rng=0)

    expected, loss, *_, text = losses("cpu")
    assert type(loss) is float
    got, loss, model, text2 = losses("cuda")
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert gpu.is_array(loss)
    assert loss.shape == ()
    assert all(map(gpu.is_array, (*model.params, *model.grads)))
    assert text2 == text


@pytest.mark.parametrize("mixtures", [0, 2])
@pytest.mark.one_in(2)
def test_an_ignored_step_does_not_reach_the_weights(gpu, mixtures):
    """Of the losses that regularise: whatever is there, all that they give is what it was."""
    rng, results = np.random.default_rng(0), []
    W, b, c = (rng.standard_normal(s).astype("f") for s in ((6, 6), 6, 11))
    ts, read = rng.integers(11, size=(2, 2, 3))
    ts[0, 1] = -1
    xs = rng.standard_normal((2, 3, 6)).astype("f")
    if mixtures:
        below = rnnfast.TimeMixtureSoftmax.create(6, 6, 11, K=mixtures, rng=0, device="cuda")
        kind = layers.TimeRegularizedMixtureSoftmaxWithLoss
    else:
        below = rnnfast.TimeAffine(*on_gpu(gpu, rng.standard_normal((6, 11)).astype("f"), c))
        kind = layers.TimeRegularizedSoftmaxWithLoss
    past = layers.PastDecode(below, *on_gpu(gpu, W, b, c), factor=0.5)
    loss = kind(below, adversarial=0.3, past=past)
    for bad in 1.0, np.nan:
        xs[0, 1] = bad
        found = [loss.forward(*on_gpu(gpu, xs, ts), previous=gpu.to_device(read)), loss.penalty]
        found += [loss.backward(), *below.grads, *past.grads]
        results.append([io.to_numpy(x).copy() for x in found])
    for clean, got in zip(*results, strict=True):
        np.testing.assert_array_equal(got, clean)
        assert np.isfinite(got).all()
    assert (results[1][2][0, 1] == 0).all()


@pytest.mark.parametrize("case", sequence_cases.CASES)
@pytest.mark.one_in(24)
def test_models_of_sequences_on_the_gpu(gpu, case):
    """Loss, gradients and what is written, with padding where the model knows that."""
    kind, options = sequence_cases.CASES[case]
    more = {} if case.startswith("vector") else {"lengths": [2, sequence_cases.T, 1]}
    xs, ts = sequence_cases.batch(kind)
    here, there = (
        kind(*sequence_cases.SIZES[kind], **options, rng=1, device=device)
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
    if not isinstance(gpu, PtxGpu):
        pytest.skip("copies are counted in software alone")
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


SIZES = [(3,), (20, 30), (0, 4), (700,), (1, 1), (7, 300)]


def random_arrays(dtype, sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in sizes]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("max_norm", [0.3, 1e9])
def test_clipping_and_sgd_of_all_arrays_at_once(gpu, dtype, times, max_norm):
    """Of 6 arrays, and of 24, which are more than one launch takes."""
    ops = kernels.load("ops", "cuda")
    params, grads = (random_arrays(dtype, SIZES * times, seed) for seed in (0, 1))
    here = [on_gpu(gpu, *arrays) for arrays in (params, grads)]
    norm = clip_grads(grads, max_norm)
    assert_close(gpu.to_host(ops.clip(here[1], max_norm)), np.float64(norm), "norm")
    assert ops.sgd_of_all(*here, 0.1)
    SGD(0.1).update(params, grads)
    for mine, expected in zip((*here[0], *here[1]), (*params, *grads), strict=True):
        assert_close(gpu.to_host(mine), expected, "array")


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("times", [1, 4])
def test_adam_of_all_arrays_at_once(gpu, dtype, times):
    lists = [random_arrays(dtype, SIZES * times, seed) for seed in range(4)]
    params, grads, m, v = lists
    v[:] = map(np.square, v)
    here, optimizer = [on_gpu(gpu, *arrays) for arrays in lists], Adam(0.01)
    ops = kernels.load("ops", "cuda")
    optimizer.m, optimizer.v, optimizer.iter = m, v, 6
    for iteration in (7, 8):
        assert ops.adam_of_all(*here, optimizer.lr, optimizer.beta1, optimizer.beta2, iteration)
        optimizer.update(params, grads)
    for mine, expected in zip((*here[0], *here[2], *here[3]), (*params, *m, *v), strict=True):
        assert_close(gpu.to_host(mine), expected, "array")


def test_a_norm_that_is_not_a_number(gpu):
    grads = on_gpu(gpu, np.ones(3, "f"), np.full(2, np.nan, "f"))
    assert np.isnan(gpu.to_host(kernels.load("ops", "cuda").clip(grads, 1.0)))
    assert all(np.isnan(gpu.to_host(g)).all() for g in grads)


def test_arrays_that_are_not_taken_at_once(gpu):
    """Nothing is changed; the caller takes one after the other."""
    ops, x = kernels.load("ops", "cuda"), np.ones((4, 6), "f")
    a, b, other, long = on_gpu(gpu, x, x, x.astype("f8"), np.ones((8, 6), "f"))
    for arrays in ([a, other], [a, a], [a[:, :3]], [a, a[1:]], []):
        assert ops.clip(arrays, 0.1) is None
    for params, grads in (([a, b], [b, other]), ([a], [long]), ([a, a], [b, b]), ([a], [a])):
        assert not ops.sgd_of_all(params, grads, 0.1)
    assert not ops.sgd_of_all([long[:4]], [long[2:6]], 0.1)
    for lists in (
        [[a], [b], [a], [long[:4]]],
        [[a], [b], [b], [long[:4]]],
        [[a], [long], [b], [b]],
    ):
        assert not ops.adam_of_all(*lists, 0.1, 0.9, 0.999, 1)
    for array in (a, b, other, long):
        assert (gpu.to_host(array) == 1).all()


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


# Arrays that lie over one another, or that lie


@cells
@pytest.mark.one_in(8)
def test_gradients_over_what_is_read(gpu, cell):
    """As in the other columns: the right values, or an error before anything is written."""
    module = kernels.load(cell.name, "cuda")
    p = make_problem(cell, (2, 3, 4, 5), mask=True)
    arrays = {"xs": p.xs, "h_mask": p.keywords["h_mask"], "Wx": p.params[0], "dhs": p.dhs}
    expected = p.run(module)
    for name in arrays:
        for k, weight in enumerate(p.params):
            room = gpu.zeros((400,), "float32")
            given = room[: arrays[name].size].reshape(arrays[name].shape)
            given.set(arrays[name])
            at = {key: given if key == name else on_gpu(gpu, a)[0] for key, a in arrays.items()}
            params = [at["Wx"], *on_gpu(gpu, *p.params[1:])]
            state, dstate = on_gpu(gpu, *p.state), on_gpu(gpu, *p.dstate)
            grads = on_gpu(gpu, *p.poisoned_grads())
            grads[k] = room[: weight.size].reshape(weight.shape)
            *_, cache = module.forward(at["xs"], state, params, h_mask=at["h_mask"])
            dxs, dstate = module.backward(at["dhs"], dstate, params, cache, grads)
            found = zip((dxs, *grads), (expected.dxs, *expected.grads), strict=True)
            for one, other in found:
                np.testing.assert_array_equal(one.get(), other, f"grads[{k}] over {name}")


@cells
@pytest.mark.parametrize("there", [False, True])
@pytest.mark.one_in(4)
def test_gradients_over_each_other_are_refused(gpu, cell, there):
    module = kernels.load(cell.name, "cuda")
    p = make_problem(cell, (2, 3, widths(cell, 5)[0], 5), heads=1)  # Wx and Wh have one shape
    place = (lambda a: on_gpu(gpu, a)[0]) if there else np.copy
    params = list(map(place, p.params))
    *_, cache = module.forward(place(p.xs), None, params)
    grads = list(map(place, p.poisoned_grads()))
    both = grads[0], grads[0], *grads[2:]
    with pytest.raises(ValueError, match=r"grads\[1\] must have memory of its own, got that of gr"):
        module.backward(place(p.dhs), None, params, cache, both)
    assert np.isnan(grads[0].get() if there else grads[0]).all()
    module.backward(place(p.dhs), None, params, cache, grads)  # the cache is still there


@cells
@pytest.mark.one_in(8)
def test_arrays_that_lie_about_their_shape_are_refused(gpu, cell):
    """NumPy's, as CuPy's have no subclasses that do; whether they say that they fit or not."""
    module = kernels.load(cell.name, "cuda")
    p = make_problem(cell, (3, 4, 5, 7), mask=True)
    *_, cache = module.forward(p.xs, p.state, p.params, **p.keywords)
    grads = p.poisoned_grads()

    def call(n, lie):
        given = [p.xs, *p.state, p.keywords["h_mask"], *p.params, p.dhs, *p.dstate, *grads]
        says = given[n].shape
        given[n] = liar(given[n][..., :1].copy(), says) if lie else liar(given[n], (1, 1))
        given, states, weights = iter(given), len(p.state), len(p.params)
        xs, state = next(given), tuple(next(given) for _ in range(states))
        mask, params = next(given), tuple(next(given) for _ in range(weights))
        dhs, dstate = next(given), tuple(next(given) for _ in range(states))
        module.forward(xs, state, params, h_mask=mask)
        module.backward(dhs, dstate, params, cache, tuple(given))

    count = 3 + 2 * (len(p.state) + len(p.params))
    for n in range(count):
        for lie in False, True:
            with pytest.raises(ValueError, match=f"{cell.name}: .* must be a plain array, got one"):
                call(n, lie)
    assert all(np.isnan(g).all() for g in grads)
    module.backward(p.dhs, p.dstate, p.params, cache, grads)
