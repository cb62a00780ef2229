"""Bad calls of the functions themselves: an exception, nothing changed, no crash."""

from dataclasses import replace

import numpy as np
import pytest
from cases import (
    CELLS,
    OF_STEPS,
    REJECTED,
    TOO_BIG,
    assert_same_bits,
    assert_same_values,
    bad_arrays,
    beside_of,
    cells,
    make_problem,
    read_only,
    variants,
)

from rnnfast import kernels
from rnnfast.layers.cells import RECURRENT


def shape_of(fast):
    return 4, 3, 5, fast.width(6)


def replacements(name, values):
    """`values` with one of its arrays replaced by a bad one, for each and everything bad."""
    for k, value in enumerate(values):
        for what, bad in bad_arrays(value):
            yield f"{name}[{k}]: {what}", (*values[:k], bad, *values[k + 1 :])


def needed(p):
    """Whether the cell cannot be without its weights beside Wx, Wh and b."""
    return bool({"Wm", "Wproj"}.intersection(p.names))


def bad_forwards(cell, p):
    """What is wrong, and the arguments of forward that say so."""
    for what, xs in bad_arrays(p.xs):
        if not what.endswith("axis 1"):  # another T is a good call
            yield f"xs: {what}", {"xs": xs}
    yield "xs: None", {"xs": None}
    yield "xs: list", {"xs": p.xs.tolist()}
    for what, state in replacements("state", p.state):
        yield what, {"state": state}
    yield "state: empty", {"state": ()}
    yield "state: one too many", {"state": (*p.state, p.state[0])}
    yield "state: an array", {"state": p.state[0]}
    for what, params in replacements("params", p.params):
        if p.names[-1] == "Wm" and what.startswith("params[3]") and what.endswith("axis 0"):
            continue  # another number of rounds is a good call
        yield what, {"params": params}
    for k in (0, 1, 3)[: 3 if needed(p) else 2]:
        yield f"params[{k}]: None", {"params": (*p.params[:k], None, *p.params[k + 1 :])}
    yield "params: None", {"params": None}
    yield "params: one", {"params": p.params[:1]}
    yield "params: one too many", {"params": (*p.params, p.params[0])}
    for dtype in ("float16", "complex64", "int32"):
        q = p.astype(dtype)
        yield f"all {dtype}", {"xs": q.xs, "state": q.state, "params": q.params}
    for what, mask in bad_arrays(p.state[0]):
        yield f"h_mask: {what}", {"h_mask": mask}
    yield "h_mask: list", {"h_mask": p.state[0].tolist()}
    for name in p.keywords.keys() & OF_STEPS:
        for what, x in bad_arrays(p.keywords[name]):
            yield f"{name}: {what}", {name: x}
        yield f"{name}: a number", {name: 0.5}
    for name in {*OF_STEPS} - {*RECURRENT[cell.name].of_steps}:
        yield f"{name} of a cell without", {name: p.dhs}
    yield "an unknown option", {"no_such_option": 1}
    if cell.name == "rnn":
        for value in ("sigmoid", None, 3):
            yield f"nonlinearity={value!r}", {"nonlinearity": value}
    if cell.name == "lstm":
        for value in ("much", 0, -1.0, np.inf, np.nan, np.ones(2)):
            yield f"cell_clip={value!r}", {"cell_clip": value}
    if cell.name == "gru":  # b is of the other convention then
        yield "reset_after", {"reset_after": not p.options.get("reset_after", False)}


@variants
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.one_in(9, rest=2)
def test_forward(fast, cell, options, train):
    module, p = fast.load(cell.name), make_problem(cell, shape_of(fast), fast.dtype, **options)
    good = {"xs": p.xs, "state": p.state, "params": p.params, "train": train, **p.keywords}
    module.forward(**good)
    for what, change in bad_forwards(cell, p):
        with pytest.raises(REJECTED):
            module.forward(**{**good, **change})
            pytest.fail(f"accepted {what}")


def bad_backwards(p, grads):
    """What is wrong, and the arguments of backward that say so."""
    for what, dhs in bad_arrays(p.dhs):
        yield f"dhs: {what}", {"dhs": dhs}
    yield "dhs: None", {"dhs": None}
    for what, dstate in replacements("dstate", p.dstate):
        yield what, {"dstate": dstate}
    yield "dstate: one too many", {"dstate": (*p.dstate, p.dstate[0])}
    for what, params in replacements("params", p.params):
        yield what, {"params": params}
    for what, wrong in replacements("grads", grads):
        yield what, {"grads": wrong}
    for k, grad in enumerate(grads):
        for bad in (None, read_only(grad)):
            yield f"grads[{k}]: None or read-only", {"grads": (*grads[:k], bad, *grads[k + 1 :])}
    yield "grads: None", {"grads": None}
    yield "grads: one", {"grads": grads[:1]}
    yield "grads: two, with b", {"grads": grads[:2]}
    yield "grads: one too many", {"grads": (*grads, grads[0])}
    if needed(p):
        yield "params: without Wm or Wproj", {"params": p.params[:3], "grads": grads[:3]}
        yield "params: without the last", {"params": p.params[:-1], "grads": grads[:-1]}
    if "Wp" in p.names:
        yield "params: without Wp", {"params": p.params[:3], "grads": grads[:3]}
        H = p.params[1].shape[0]
        other = (3, H, H) if p.params[3].ndim == 2 else (3, H)
        Wp, dWp = np.ones(other, p.dtype), np.ones(other, p.dtype)
        yield "params: the other Wp", {"params": (*p.params[:3], Wp), "grads": (*grads[:3], dWp)}
    q = p.astype("float64" if p.dtype == np.float32 else "float32")
    everything = {"dhs": q.dhs, "dstate": q.dstate, "params": q.params}
    yield "another dtype than forward's", {**everything, "grads": q.poisoned_grads()}


@variants
@pytest.mark.one_in(6, rest=2)
def test_backward(fast, cell, options):
    """Nothing is written before the exception, and the cache can still be used after it."""
    module, p = fast.load(cell.name), make_problem(cell, shape_of(fast), fast.dtype, **options)
    expected = p.run(module)
    *_, cache = module.forward(p.xs, p.state, p.params, **p.keywords)
    grads = tuple(np.full_like(a, 7) for a in p.params)
    good = {"dhs": p.dhs, "dstate": p.dstate, "params": p.params, "grads": grads}
    for what, change in bad_backwards(p, grads):
        with pytest.raises(REJECTED):
            module.backward(**{**good, **change}, cache=cache)
            pytest.fail(f"accepted {what}")
        assert all((g == 7).all() for g in grads), f"wrote before it rejected {what}"

    dxs, dstate = module.backward(**good, cache=cache)
    assert_same_bits(replace(expected, dxs=dxs, dstate=dstate, grads=grads), expected)


@cells
def test_what_is_no_cache(fast, cell):
    module, p = fast.load(cell.name), make_problem(cell, shape_of(fast), fast.dtype)
    other = CELLS[(CELLS.index(cell) + 1) % len(CELLS)]
    q = make_problem(other, shape_of(fast), fast.dtype)
    *_, foreign = fast.load(other.name).forward(q.xs, q.state, q.params)
    grads = tuple(np.full_like(a, 7) for a in p.params)
    for cache in ({"steps": []}, (1, 2), 3, "cache", object(), p.xs, foreign):
        with pytest.raises((*REJECTED, RuntimeError)):
            module.backward(p.dhs, p.dstate, p.params, cache, grads)
            pytest.fail(f"accepted {cache!r} as a cache")
    assert all((g == 7).all() for g in grads)


@cells
@pytest.mark.parametrize("shape", [(2, 3, 0, 5), (2, 3, 4, 0), (0, 0, 0, 0)], ids=str)
def test_no_inputs_or_no_hidden_units(fast, cell, shape):
    """Layers never ask for it. A column may refuse; if it answers, then as the reference does."""
    p = make_problem(cell, shape, fast.dtype)
    try:
        got = p.run(fast.load(cell.name))
    except REJECTED:
        return
    assert_same_values(got, p.astype("float64").run(kernels.load(cell.name, "reference")))


@cells
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.one_in(8)
def test_sizes_whose_product_overflows(fast, cell, train):
    """Shapes of one repeated number: xs can be addressed, what forward has to allocate cannot."""
    module, one, G = fast.load(cell.name), np.ones((), fast.dtype), cell.gates

    def ones(*shape):
        return np.broadcast_to(one, shape)

    sizes = ((2**30, 2**29, 1, 16), (2**59, 1, 1, 16), (1, 2**59, 1, 16))
    for N, T, D, H in (*sizes, (2**31, 2**10, 1, 2**19)):
        xs, params = ones(N, T, D), (ones(D, G * H), ones(H, G * H), None)
        params += tuple(ones(*shape) for shape in beside_of(cell, D, H))
        with pytest.raises(TOO_BIG):
            module.forward(xs, None, params, train=train)
