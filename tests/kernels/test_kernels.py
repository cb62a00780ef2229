"""Every column against the reference in float64: each cell, instruction set and dtype."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from cases import (
    BOOK_SHAPE,
    FEW_SHAPES,
    LAYOUTS,
    OF_STEPS,
    PLAIN,
    REJECTED,
    SHAPES,
    VARIANTS,
    WRITABLE_LAYOUTS,
    assert_close,
    assert_grad_close,
    assert_same_bits,
    assert_same_values,
    cells,
    make_problem,
    solved,
    variant_name,
    variants,
    widths,
)

from rnnfast import kernels

REFERENCE = {name: kernels.load(name, "reference") for name in kernels.CELLS}
VALUES = [
    (*variant, shape)
    for variant in VARIANTS
    for shape in ((*SHAPES, BOOK_SHAPE) if variant in PLAIN else FEW_SHAPES)
]


def check(column, cell, problem):
    """Runs the column and the reference; returns what the column gave."""
    got = problem.run(column.load(cell.name))
    expected = problem.astype("float64").run(kernels.load(cell.name, "reference"))
    assert all(a.dtype == problem.dtype for _, a in got.arrays())
    assert_same_values(got, expected)
    return got


STEPS_VARIANTS = [v for v in VARIANTS if {"recurrent_dropout", "zoneout"} & v[1].keys()]
steps_variants = pytest.mark.parametrize(
    ("cell", "options"), STEPS_VARIANTS, ids=[variant_name(*v) for v in STEPS_VARIANTS]
)

# Values


@pytest.mark.parametrize(
    ("cell", "options", "shape"),
    VALUES,
    ids=[f"{variant_name(cell, options)}-{shape}" for cell, options, shape in VALUES],
)
@pytest.mark.one_in(20, rest=6)
def test_values(column, cell, options, shape):
    problem, expected = solved(cell, shape, column.dtype, **options)
    got = problem.run(column.load(cell.name))
    assert all(a.dtype == column.dtype for _, a in got.arrays())
    assert_same_values(got, expected)


@variants
@pytest.mark.parametrize("shape", [(5, 6, 7, 9), (19, 3, 33, 31)], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.one_in(18, rest=4)
def test_values_of_every_way_to_call(column, cell, options, shape, reverse, bias, states, mask):
    """Backwards in time, without b, without states; without b there may be two grads or three.

    Half of all combinations have lengths, so that any four of these occur together.
    """
    ways = {"reverse": reverse, "bias": bias, "states": states, "mask": mask}
    ways["lengths"] = reverse ^ bias ^ states ^ mask
    p, expected = solved(cell, shape, column.dtype, **ways, **options)
    module = column.load(cell.name)
    got = p.run(module)
    assert_same_values(got, expected)
    if not bias and len(p.params) == 3:
        *_, cache = module.forward(p.xs, p.state, p.params, **p.keywords)
        grads = list(p.poisoned_grads()[:2])
        module.backward(p.dhs, p.dstate, p.params, cache, grads)
        assert_same_bits(replace(got, grads=tuple(grads)), got)


@variants
@pytest.mark.parametrize("wide", ["D", "H"])
@pytest.mark.for_hardware
@pytest.mark.one_in(24, rest=6)
def test_values_of_rows_that_fill_pages(column, cell, options, wide):
    """4 KB a row: those that products read are kept further apart."""
    width = 4096 // np.dtype(column.dtype).itemsize
    shape = (9, 3, width, 20) if wide == "D" else (9, 3, 20, width)
    problem, expected = solved(cell, shape, column.dtype, mask=True, lengths=True, **options)
    assert_same_values(problem.run(column.load(cell.name)), expected)


@variants
@pytest.mark.parametrize("shape", FEW_SHAPES, ids=str)
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.one_in(60, rest=8)
def test_values_with_a_mask(column, cell, options, shape, states):
    p, expected = solved(cell, shape, column.dtype, states=states, mask=True, **options)
    module = column.load(cell.name)
    assert_same_values(p.run(module), expected)
    # and a mask of ones is none
    options = dict(p.keywords)
    options["h_mask"] = np.ones_like(options["h_mask"])
    ones = replace(p, keywords=options).run(module)
    del options["h_mask"]
    assert_same_values(ones, replace(p, keywords=options).astype("f8").run(REFERENCE[cell.name]))


@variants
@pytest.mark.parametrize("shape", FEW_SHAPES, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.one_in(60, rest=8)
def test_values_with_lengths(column, cell, options, shape, reverse):
    """All from 0 to T; what stands beyond them, NaN here, changes no bit."""
    problem, expected = solved(cell, shape, column.dtype, lengths=True, reverse=reverse, **options)
    module = column.load(cell.name)
    got = problem.run(module)
    assert_same_values(got, expected)
    beyond = np.arange(shape[1]) >= problem.keywords["lengths"][:, np.newaxis]
    assert (got.hs[beyond] == 0).all()
    assert (got.dxs[beyond] == 0).all()
    p = replace(problem, xs=problem.xs.copy(), dhs=problem.dhs.copy())
    p.xs[beyond] = p.dhs[beyond] = np.nan
    assert_same_bits(p.run(module), got)
    assert np.isnan(p.xs[beyond]).all()  # the caller's array is as it was


@variants
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.for_hardware
@pytest.mark.one_in(3)
def test_lengths_are_calls_of_their_own(column, cell, options, reverse, states):
    """Each sample alone, cut to its length, gives what it gives among the others."""
    shape, ways = (6, 5, 7, 19), {"states": states, "reverse": reverse, **options}
    p = make_problem(cell, shape, column.dtype, lengths=True, **ways)
    module = column.load(cell.name)
    got = p.run(module)
    grads = [np.zeros(g.shape) for _, g in got.named_grads()]
    for n, length in enumerate(p.keywords["lengths"]):
        one, to = slice(n, n + 1), slice(0, length)

        def alone(states, one=one):
            return None if states is None else tuple(a[one] for a in states)

        keywords = {k: v for k, v in p.keywords.items() if k != "lengths"}
        keywords |= {k: v[one, to] for k, v in keywords.items() if k in OF_STEPS}
        single = replace(
            p,
            xs=p.xs[one, to],
            dhs=p.dhs[one, to],
            state=alone(p.state),
            dstate=alone(p.dstate),
            keywords=keywords,
        ).run(module)
        assert_close(got.hs[one, to], single.hs.astype("f8"))
        assert_close(got.dxs[one, to], single.dxs.astype("f8"), steep=got.steep)
        for a, b in zip(got.state, single.state, strict=True):
            assert_close(a[one], b.astype("f8"))
        for a, b in zip(got.dstate, single.dstate, strict=True):
            assert_close(a[one], b.astype("f8"), steep=got.steep)
        for total, (_, g) in zip(grads, single.named_grads(), strict=True):
            total += g
    for (name, g), total in zip(got.named_grads(), grads, strict=True):
        assert_grad_close(g, total, name, steep=got.steep)


@variants
@pytest.mark.one_in(9, rest=2)
def test_lengths_without_training_and_packed(column, cell, options):
    module = column.load(cell.name)
    for shape in ((2, 1, 5, column.width(7)), (9, 4, 6, column.width(17))):
        p = make_problem(cell, shape, column.dtype, lengths=True, mask=True, **options)
        hs, state, _ = module.forward(p.xs, p.state, p.params, **p.keywords)
        for params in (p.params, module.pack(p.params, **p.options)):
            again = module.forward(p.xs, p.state, params, train=False, **p.keywords)
            for a, b in zip((hs, *state), (again[0], *again[1]), strict=True):
                np.testing.assert_array_equal(a, b)


@cells
def test_wrong_lengths(fast, cell):
    module = fast.load(cell.name)
    p = make_problem(cell, (3, 4, 5, fast.width(7)), fast.dtype)
    good = np.array([0, 4, 2])
    for bad in (good[:2], good[None], good - 1, good + 1, good.astype("i4"), good.astype("f8"), 3):
        with pytest.raises(REJECTED, match="lengths"):
            module.forward(p.xs, p.state, p.params, lengths=bad)


@cells
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.one_in(18, rest=4)
def test_any_layout_of_the_mask(column, cell, layout):
    for shape in ((5, 4, 7, column.width(9)), (2, 1, 7, column.width(19))):
        p = make_problem(cell, shape, column.dtype, mask=True)
        expected, mask = check(column, cell, p), p.keywords["h_mask"].copy()
        p.keywords["h_mask"] = LAYOUTS[layout](mask)
        assert_same_bits(p.run(column.load(cell.name)), expected)
        np.testing.assert_array_equal(p.keywords["h_mask"], mask)


@steps_variants
@pytest.mark.parametrize("layout", [*LAYOUTS, "the same row", "the same step", "a number"])
@pytest.mark.one_in(45, rest=7)
def test_any_layout_of_what_is_of_each_step(column, cell, options, layout):
    """Strides of 0, too: one number, one row of all samples, one step for all."""
    same = {"the same row": (slice(1), slice(1)), "the same step": (slice(None), slice(1))}
    same["a number"] = (slice(1), slice(1), slice(1))
    for shape in ((5, 4, 7, column.width(9)), (2, 1, 7, column.width(19))):
        p = make_problem(cell, shape, column.dtype, lengths=shape[1] > 1, mask=True, **options)
        for name in p.keywords.keys() & OF_STEPS:
            x = p.keywords[name]
            if layout in same:
                p.keywords[name] = np.broadcast_to(x[same[layout]], x.shape)
        expected = check(column, cell, p)
        for name in p.keywords.keys() & OF_STEPS:
            p.keywords[name] = LAYOUTS.get(layout, np.array)(p.keywords[name])
        before = {name: p.keywords[name].copy() for name in p.keywords.keys() & OF_STEPS}
        assert_same_bits(p.run(column.load(cell.name)), expected)
        for name, x in before.items():
            np.testing.assert_array_equal(p.keywords[name], x)


@steps_variants
@pytest.mark.one_in(6)
def test_what_is_of_no_step_is_not_used(column, cell, options):
    """NaN beyond the lengths changes no bit; ones of the mask and shares of 0 are as none."""
    shape = 6, 4, 5, column.width(17)
    p = make_problem(cell, shape, column.dtype, lengths=True, **options)
    module, keywords = column.load(cell.name), dict(p.keywords)
    beyond = np.arange(shape[1]) >= p.keywords["lengths"][:, np.newaxis]
    got = p.run(module)
    for name in p.keywords.keys() & OF_STEPS:
        keywords[name] = keywords[name].copy()
        keywords[name][beyond] = np.nan
    assert_same_bits(replace(p, keywords=keywords).run(module), got)
    for name in p.keywords.keys() & OF_STEPS:
        keywords[name] = np.full_like(p.keywords[name], name == "candidate_mask")
    without = {name: x for name, x in p.keywords.items() if name not in OF_STEPS}
    plain = replace(p, keywords=without)
    assert_same_values(
        replace(p, keywords=keywords).run(module), plain.astype("f8").run(REFERENCE[cell.name])
    )


@steps_variants
@pytest.mark.one_in(4)
def test_a_step_that_keeps_everything(column, cell, options):
    """Shares of 1: the state stays, to the bit, and nothing comes to the weights."""
    p = make_problem(cell, (6, 4, 5, column.width(17)), column.dtype, **options)
    if "h_zoneout" not in p.keywords:
        pytest.skip("no zoneout")
    for name in {"h_zoneout", "c_zoneout"} & p.keywords.keys():
        p.keywords[name][...] = 1
    got = check(column, cell, p)
    for t in range(4):
        np.testing.assert_array_equal(got.hs[:, t], p.state[0])
    for a, b in zip(got.state, p.state, strict=True):
        np.testing.assert_array_equal(a, b)
    assert all((grad == 0).all() for grad in got.grads)


@cells
@pytest.mark.one_in(3)
def test_a_mask_over_what_is_no_number(fast, cell):
    """Quietly, and in its own sample alone."""
    module = fast.load(cell.name)
    clean, p = (
        make_problem(cell, (9, 3, 7, fast.width(17)), fast.dtype, mask=True) for _ in range(2)
    )
    p.state[0][1, :3] = np.inf, np.nan, np.finfo(fast.dtype).max
    p.keywords["h_mask"][1, :3] = 0, 0, 4
    got, expected = p.run(module), clean.run(module)
    assert np.isnan(got.hs[1]).any()
    others = np.arange(9) != 1
    for (name, a), (_, b) in zip(got.arrays(), expected.arrays(), strict=True):
        np.testing.assert_array_equal(a[others], b[others], err_msg=name)


@cells
def test_a_mask_of_zeros_cuts_the_recurrence(column, cell):
    """Then every step sees its own x alone, Wh has no gradient, and h is not masked itself."""
    p = make_problem(cell, (5, 4, 7, column.width(9)), column.dtype, mask=True)
    p.keywords["h_mask"][...] = 0
    got = check(column, cell, p)
    assert (got.grads[1] == 0).all()
    if cell.name == "rnn":
        Wx, _, b = p.params
        assert_close(got.hs, np.tanh(p.xs.astype("f8") @ Wx + b))
        assert (got.dstate[0] == 0).all()


@cells
@pytest.mark.one_in(3)
def test_only_one_of_the_states_is_given(column, cell):
    """dstate None with a state, and a state of zeros instead of None."""
    p = make_problem(cell, (6, 4, 5, column.width(11)), column.dtype)
    check(column, cell, replace(p, dstate=None))
    check(column, cell, replace(p, state=None))
    zeros = tuple(np.zeros_like(a) for a in p.state)
    check(column, cell, replace(p, state=zeros))


@variants
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (0, 0, 4, 5)], ids=str)
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.one_in(9, rest=2)
def test_nothing_to_do(column, cell, options, shape, states):
    """Empty outputs, grads of zero; with T = 0 the states pass through, as copies."""
    p = make_problem(cell, shape, column.dtype, states=states, **options)
    got = check(column, cell, p)
    N, T, _, H = shape
    of_states = widths(cell, H, options.get("proj_size"))
    assert all((g == 0).all() for g in got.grads)
    if T == 0:
        zeros = [np.zeros((N, width)) for width in of_states]
        for given, passed in ((p.state, got.state), (p.dstate, got.dstate)):
            for a, b in zip(given or zeros, passed, strict=True):
                np.testing.assert_array_equal(a, b)
                assert not np.shares_memory(a, b)
    module = column.load(cell.name)
    hs, _, cache = module.forward(p.xs, p.state, p.params, train=False, **p.keywords)
    assert (hs.shape, cache) == ((N, T, of_states[0]), None)


# Memory: what may be handed in, and what comes back


@cells
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.one_in(6, rest=2)
def test_any_layout_of_the_inputs(column, cell, layout):
    """Weights may be transposed views, xs and dhs slices: the values do not depend on it."""
    p = make_problem(cell, (5, 4, 7, column.width(9)), column.dtype)
    expected = check(column, cell, p)
    view = LAYOUTS[layout]
    p = replace(
        p,
        xs=view(p.xs),
        state=tuple(map(view, p.state)),
        params=tuple(map(view, p.params)),
        dhs=view(p.dhs),
        dstate=tuple(map(view, p.dstate)),
    )
    assert_same_values(p.run(column.load(cell.name)), expected)


@variants
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.for_hardware
@pytest.mark.one_in(3)
def test_any_layout_with_every_option(column, cell, options, reverse):
    """Params, inputs and grads of every variant, with lengths and a mask."""
    ways = {"reverse": reverse, "lengths": True, "mask": True, **options}
    problem, expected = solved(cell, (5, 4, 7, 19), column.dtype, **ways)
    module = column.load(cell.name)
    for name in WRITABLE_LAYOUTS:
        view = LAYOUTS[name]
        p = replace(problem, params=tuple(map(view, problem.params)), dhs=view(problem.dhs))
        hs, state, cache = module.forward(view(p.xs), p.state, p.params, **p.keywords)
        grads = tuple(map(view, p.poisoned_grads()))
        dxs, dstate = module.backward(p.dhs, p.dstate, p.params, cache, grads)
        got = replace(expected, hs=hs, state=state, dxs=dxs, dstate=dstate, grads=grads)
        assert_same_values(got, expected)


@cells
def test_broadcast_inputs(column, cell):
    """A stride of zero: one row for the whole batch."""
    p = make_problem(cell, (5, 4, 7, column.width(9)), column.dtype)
    p.xs = np.broadcast_to(p.xs[:1, :1], p.xs.shape)
    p.dhs = np.broadcast_to(p.dhs[:1], p.dhs.shape)
    p.state = tuple(np.broadcast_to(a[:1], a.shape) for a in p.state)
    check(column, cell, p)


@cells
@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
@pytest.mark.one_in(6, rest=2)
def test_any_layout_of_the_grads(column, cell, layout):
    p = make_problem(cell, (5, 4, 7, column.width(9)), column.dtype)
    expected = check(column, cell, p)
    module = column.load(cell.name)
    *_, cache = module.forward(p.xs, p.state, p.params)
    grads = tuple(map(LAYOUTS[layout], p.poisoned_grads()))
    module.backward(p.dhs, p.dstate, p.params, cache, grads)
    for (name, a), b in zip(expected.named_grads(), grads, strict=True):
        assert_grad_close(b, a.astype("f8"), name)
        if b.base is not None and b.base.size == 2 * b.size:  # what lies between was not written
            assert np.isnan(b.base).sum() == b.size


@cells
def test_grads_are_written_where_they_are(column, cell):
    """Parts of one flat array, as an optimizer may keep them; the rest of it stays."""
    p = make_problem(cell, (5, 4, 7, column.width(9)), column.dtype)
    expected = p.run(column.load(cell.name))
    flat = np.full(sum(q.size for q in p.params) + 8, 7, column.dtype)
    grads, at = [], 4
    for q in p.params:
        grads.append(flat[at : at + q.size].reshape(q.shape))
        at += q.size
    module = column.load(cell.name)
    *_, cache = module.forward(p.xs, p.state, p.params)
    module.backward(p.dhs, p.dstate, p.params, cache, grads)
    assert_same_bits(replace(expected, grads=tuple(grads)), expected)
    assert (flat[:4] == 7).all()
    assert (flat[-4:] == 7).all()


@variants
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.one_in(9, rest=2)
def test_inputs_are_not_written_and_outputs_are_fresh(column, cell, options, reverse):
    module = column.load(cell.name)
    shape = 6, 5, 7, column.width(17)
    p = make_problem(cell, shape, column.dtype, reverse=reverse, **options)
    inputs = [p.xs, *p.state, *p.params, p.dhs, *p.dstate]
    before = [a.copy() for a in inputs]
    first = p.run(module)
    kept = [a.copy() for _, a in first.arrays()]
    outputs = [a for _, a in first.arrays()]

    for other in range(1, 3):
        make_problem(cell, (6, 5, 7, column.width(17)), column.dtype, seed=other, **options).run(
            module
        )
    for a, b in zip((*inputs, *outputs), (*before, *kept), strict=True):
        np.testing.assert_array_equal(a, b)
    for k, a in enumerate(outputs):
        assert a.flags.writeable
        assert not any(np.shares_memory(a, b) for b in (*inputs, *outputs[k + 1 :]))


@variants
@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.one_in(6, rest=2)
def test_hs_may_be_changed_before_backward(column, cell, options, T):
    module = column.load(cell.name)
    p = make_problem(cell, (6, T, 7, column.width(9)), column.dtype, **options)
    expected = p.run(module)
    hs, state, cache = module.forward(p.xs, p.state, p.params, **p.keywords)
    hs[...] = np.nan
    for a in state:
        a[...] = np.nan
    grads = p.poisoned_grads()
    dxs, dstate = module.backward(p.dhs, p.dstate, p.params, cache, grads)
    got = replace(expected, dxs=dxs, dstate=dstate, grads=grads)
    assert_same_bits(got, expected)


@cells
def test_two_forwards_before_two_backwards(column, cell):
    """Caches do not share anything: a bidirectional layer or a tied one needs that."""
    module = column.load(cell.name)
    problems = [
        make_problem(cell, (4, 3, 5, column.width(9)), column.dtype, seed=seed) for seed in (0, 1)
    ]
    expected = [p.run(module) for p in problems]
    calls = [module.forward(p.xs, p.state, p.params) for p in problems]
    for p, (hs, state, cache), e in zip(problems, calls, expected, strict=True):
        grads = p.poisoned_grads()
        dxs, dstate = module.backward(p.dhs, p.dstate, p.params, cache, grads)
        assert_same_bits(replace(e, hs=hs, state=state, dxs=dxs, dstate=dstate, grads=grads), e)


# The cache


@cells
def test_backward_consumes_the_cache(column, cell):
    module = column.load(cell.name)
    p = make_problem(cell, (2, 3, 4, column.width(5)), column.dtype)
    *_, cache = module.forward(p.xs, p.state, p.params)
    module.backward(p.dhs, p.dstate, p.params, cache, p.poisoned_grads())
    grads = p.poisoned_grads()
    for used in (cache, None):
        with pytest.raises(RuntimeError, match="backward"):
            module.backward(p.dhs, p.dstate, p.params, used, grads)
    assert all(np.isnan(g).all() for g in grads)


@variants
@pytest.mark.parametrize("shape", [(1, 1, 3, 5), (5, 4, 7, 9), (20, 3, 33, 65)], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.one_in(9, rest=2)
def test_without_training_the_same_bits(column, cell, options, shape, reverse, mask):
    module = column.load(cell.name)
    p = make_problem(cell, shape, column.dtype, reverse=reverse, mask=mask, **options)
    hs, state, _ = module.forward(p.xs, p.state, p.params, **p.keywords)
    hs_only, state_only, cache = module.forward(p.xs, p.state, p.params, train=False, **p.keywords)
    assert cache is None
    np.testing.assert_array_equal(hs, hs_only)
    for a, b in zip(state, state_only, strict=True):
        np.testing.assert_array_equal(a, b)


@variants
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 3, 5),
        (4, 1, 33, 65),
        (5, 1, 16, 48),
        (2, 5, 7, 40),
        (20, 3, 33, 65),
        (9, 2, 300, 261),
    ],
    ids=str,
)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.one_in(27, rest=5)
def test_packed_weights_give_the_same_bits(column, cell, options, shape, bias):
    """And they are copies: what is written into the weights afterwards is not seen."""
    module = column.load(cell.name)
    p = make_problem(cell, shape, column.dtype, bias=bias, **options)
    params = tuple(None if w is None else w.copy() for w in p.params)
    packed = module.pack(params, **p.options)
    for w in params:
        if w is not None:
            w[...] = np.nan
    h_mask = make_problem(cell, shape, column.dtype, mask=True, **options).keywords["h_mask"]
    for state in (p.state, None):
        for reverse, mask in ((False, None), (True, None), (False, h_mask)):
            ways = {"train": False, "reverse": reverse, **p.keywords, "h_mask": mask}
            hs, final, _ = module.forward(p.xs, state, p.params, **ways)
            hs_packed, final_packed, cache = module.forward(p.xs, state, packed, **ways)
            assert cache is None
            for a, b in zip((hs, *final), (hs_packed, *final_packed), strict=True):
                np.testing.assert_array_equal(a, b)


@cells
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.one_in(6, rest=2)
def test_packing_weights_of_any_layout(column, cell, layout):
    module, view = column.load(cell.name), LAYOUTS[layout]
    p = make_problem(cell, (3, 2, 17, column.width(33)), column.dtype)
    expected, *_ = module.forward(p.xs, p.state, p.params, train=False)
    packed = module.pack(tuple(map(view, p.params)))
    hs, *_ = module.forward(p.xs, p.state, packed, train=False)
    assert_close(hs, expected.astype("f8"))


@cells
def test_packed_weights_are_for_inference(column, cell):
    module = column.load(cell.name)
    p = make_problem(cell, (2, 3, 4, column.width(5)), column.dtype)
    with pytest.raises(TypeError, match="train"):
        module.forward(p.xs, p.state, module.pack(p.params))


@cells
def test_packed_weights_are_checked(fast, cell):
    module, other = fast.load(cell.name), fast.load("gru" if cell.name != "gru" else "rnn")
    p = make_problem(cell, (2, 3, 4, fast.width(5)), fast.dtype)
    packed = module.pack(p.params)
    with pytest.raises(TypeError, match="pack"):
        other.forward(p.xs, None, packed, train=False)
    for bad in (p.xs[:, :, :3], p.xs[0], p.xs.astype("f2"), None):
        with pytest.raises(REJECTED):
            module.forward(bad, p.state, packed, train=False)
    with pytest.raises(TypeError):
        module.backward(p.dhs, None, packed, module.forward(p.xs, None, p.params)[2], p.params)
    for bad in (None, p.params[:1], (p.params[0], p.params[0].T, None), packed):
        with pytest.raises(REJECTED):
            module.pack(bad)


@cells
@pytest.mark.for_hardware
def test_memory(column, cell):
    """Between the passes at most x, h, c and the gates are kept, without training nothing.

    A mogrifier has a gate more in each of its 5 rounds, of x or of h, and what that gate makes. An
    lstmp has the h before its projection, an slstm its normaliser and a slope. A layer-normalised
    cell has x Wx and h Wh, and a few numbers for each of their rows.
    """
    module = column.load(cell.name)
    N, T, D, H = shape = 8, 30, 40, 50
    p = make_problem(cell, shape, column.dtype)
    grads, slack = p.poisoned_grads(), 40_000  # of it, Python objects
    p.run(module)

    tracemalloc.start()
    try:
        hs, *_ = module.forward(p.xs, p.state, p.params, train=False)
        assert tracemalloc.get_traced_memory()[0] <= hs.nbytes + slack
        hs, _, cache = module.forward(p.xs, p.state, p.params)
        held = tracemalloc.get_traced_memory()[0] - hs.nbytes
        more = 2 * (3 * D + 2 * H) if cell.name == "mogrifier" else 0
        more += (2 * cell.gates + 1) * H + 8 if "gx" in p.names else 0
        more += 2 * H if cell.name == "slstm" else 0
        assert 0 < held <= N * T * (6 * H + D + more) * hs.itemsize + slack
        dxs, _ = module.backward(p.dhs, p.dstate, p.params, cache, grads)
        assert tracemalloc.get_traced_memory()[0] <= hs.nbytes + dxs.nbytes + slack
    finally:
        tracemalloc.stop()


# Numbers that are none


@cells
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["xs", "state", "dhs", "dstate"])
@pytest.mark.for_hardware
@pytest.mark.one_in(3)
def test_nan_in_one_sample_stays_there(column, cell, bad, place):
    """The other samples keep their very bits."""
    module = column.load(cell.name)
    clean, p = (make_problem(cell, (19, 3, 17, column.width(33)), column.dtype) for _ in range(2))
    n = 1
    given = getattr(p, place)
    for a in given if isinstance(given, tuple) else (given,):
        a[n].flat[-1] = bad
    with np.errstate(invalid="ignore"):
        got, expected = p.run(module), clean.run(module)
    for (name, a), (_, b) in zip(got.arrays(), expected.arrays(), strict=True):
        others = np.arange(len(a)) != n
        np.testing.assert_array_equal(a[others], b[others], err_msg=name)
    if np.isnan(bad):
        reached = got.hs if place in ("xs", "state") else got.dxs
        assert np.isnan(reached[n]).any()


@cells
def test_extreme_inputs_saturate(column, cell):
    """sigmoid and tanh far out: 0, 1 and -1, never NaN."""
    p = make_problem(cell, (6, 3, 5, column.width(9)), column.dtype)
    p.xs *= 1e4
    p.xs[:2] *= 1 if "gx" in p.names else 1e20  # whose squares are too large for float32
    q = p.astype("float64")
    hs, state, _ = column.load(cell.name).forward(p.xs, p.state, p.params)
    exact, exact_state, _ = kernels.load(cell.name, "reference").forward(q.xs, q.state, q.params)
    assert np.isfinite(hs).all()
    for a, b in zip((hs, *state), (exact, *exact_state), strict=True):
        assert_close(a, b)


# The same bits


@variants
@pytest.mark.parametrize("shape", [(1, 2, 3, 5), (7, 5, 33, 65), (20, 9, 100, 100)], ids=str)
@pytest.mark.one_in(18, rest=4)
def test_same_bits_from_run_to_run_and_for_any_number_of_threads(fast, cell, options, shape):
    module = fast.load(cell.name)
    for mask in (False, True):
        p = make_problem(cell, shape, fast.dtype, mask=mask, **options)
        expected = p.run(module)
        for threads in (1, 1, 2, 3, 4, 7):
            kernels.set_num_threads(threads)
            assert_same_bits(p.run(module), expected)


@cells
def test_one_call_is_its_steps(fast, cell):
    """T = 1 in a loop, the state handed on, gives the values of the whole sequence."""
    p = make_problem(cell, (5, 6, 7, fast.width(33)), fast.dtype)
    module = fast.load(cell.name)
    hs, state, _ = module.forward(p.xs, p.state, p.params, train=False)
    step_state = p.state
    for t in range(6):
        h, step_state, _ = module.forward(p.xs[:, t : t + 1], step_state, p.params, train=False)
        assert_close(h[:, 0], hs[:, t].astype("f8"))
    for a, b in zip(step_state, state, strict=True):
        assert_close(a, b.astype("f8"))
