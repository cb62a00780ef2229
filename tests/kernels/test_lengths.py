"""Samples that end: a column may sort them and compute nothing for them; nobody may notice."""

from dataclasses import replace

import numpy as np
import pytest
from cases import (
    MASKS,
    assert_close,
    assert_grad_close,
    assert_same_bits,
    assert_same_values,
    make_problem,
    variants,
)

from rnnfast import kernels

SHAPE = (14, 9, 7, 19)  # two tiles of samples
# x Wx of all steps before the time loop: few samples; weights beyond a megabyte
AHEAD = ((7, 9, 7, 19), (14, 3, 300, 261))


def with_lengths(problem, lengths):
    lengths = np.array(lengths, np.intp)
    return replace(problem, keywords=problem.keywords | {"lengths": lengths})


def expected_of(problem, cell):
    return problem.astype("f8").run(kernels.load(cell.name, "reference"))


@variants
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.one_in(18, rest=5)
def test_any_order_of_the_samples(fast, cell, options, reverse):
    """On the CPU to the bit, but for sums over all samples; on a GPU libraries multiply."""
    p = make_problem(cell, SHAPE, fast.dtype, lengths=True, mask=True, reverse=reverse, **options)
    module = fast.load(cell.name)
    got = p.run(module)
    assert_same_values(got, expected_of(p, cell))
    for order in (np.argsort(p.keywords["lengths"]), np.random.default_rng(3).permutation(14)):
        keywords = dict(p.keywords)
        for name in keywords.keys() & {"lengths", *MASKS}:
            keywords[name] = keywords[name][order]
        state, dstate = (tuple(a[order] for a in s) for s in (p.state, p.dstate))
        other = replace(
            p, xs=p.xs[order], dhs=p.dhs[order], state=state, dstate=dstate, keywords=keywords
        ).run(module)
        for (name, a), (_, b) in zip(got.arrays(), other.arrays(), strict=True):
            if fast.device == "cpu":
                np.testing.assert_array_equal(np.asarray(a)[order], np.asarray(b), err_msg=name)
            else:
                assert_close(np.asarray(b), np.asarray(a, "f8")[order], steep=got.steep)
        for (name, a), (_, b) in zip(got.named_grads(), other.named_grads(), strict=True):
            assert_grad_close(b, np.asarray(a, "f8"), name, steep=got.steep)


@variants
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.one_in(24, rest=5)
def test_values_of_all_kinds_of_lengths(fast, cell, options, reverse, states):
    """None has a step, all have one or all, one is alone at the end, none gets there."""
    p = make_problem(cell, SHAPE, fast.dtype, reverse=reverse, states=states, **options)
    N, T = SHAPE[:2]
    for lengths in (
        [0] * N,
        [1] * N,
        [T] * N,
        [0] * (N - 1) + [T],
        [T, *[1] * (N - 1)],
        [3] * (N - 2) + [4, 0],
    ):
        q = with_lengths(p, lengths)
        assert_same_values(q.run(fast.load(cell.name)), expected_of(q, cell))


@variants
@pytest.mark.parametrize("shape", AHEAD, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.one_in(24, rest=5)
def test_values_where_inputs_are_multiplied_ahead(fast, cell, options, shape, reverse):
    """In training, and without it in chunks of steps."""
    p = make_problem(cell, shape, fast.dtype, lengths=True, reverse=reverse, **options)
    module = fast.load(cell.name)
    got = p.run(module)
    assert_same_values(got, expected_of(p, cell))
    hs, state, _ = module.forward(p.xs, p.state, p.params, train=False, **p.keywords)
    for a, b in zip((hs, *state), (got.hs, *got.state), strict=True):
        np.testing.assert_array_equal(a, b)


@variants
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.one_in(12, rest=5)
def test_chunks_of_steps_that_no_sample_has(fast, cell, options, reverse):
    """Without training inputs are multiplied for some steps at once: here for eight."""
    p = make_problem(cell, (60, 40, 7, 19), fast.dtype, reverse=reverse, **options)
    p, module = with_lengths(p, np.arange(60) % 4), fast.load(cell.name)
    trained, state, _ = module.forward(p.xs, p.state, p.params, **p.keywords)
    hs, other, _ = module.forward(p.xs, p.state, p.params, train=False, **p.keywords)
    for a, b in zip((hs, *other), (trained, *state), strict=True):
        np.testing.assert_array_equal(a, b)


@variants
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.one_in(2)
def test_any_number_of_threads_gives_the_same_bits(cell, options, reverse, threads):
    """Also where weights and samples are so many that there are threads for them."""
    p = make_problem(cell, (70, 6, 40, 67), lengths=True, reverse=reverse, **options)
    module = kernels.load(cell.name, "cpu")
    others = np.arange(70) % 7, [6] * 3 + [1] * 30 + [0] * 37
    for q in (p, *(with_lengths(p, lengths) for lengths in others)):
        threads(1)
        alone = q.run(module)
        for n in (2, 3, 8):
            threads(n)
            assert_same_bits(q.run(module), alone)


@variants
def test_masks_without_strides(cell, options):
    """One row of a mask for all samples, in whatever order these are taken."""
    p = make_problem(cell, SHAPE, lengths=True, **options)
    module, same = kernels.load(cell.name, "cpu"), dict(p.keywords)
    for name in same.keys() & {*MASKS}:
        same[name] = np.broadcast_to(same[name][:1], same[name].shape)
    copies = {k: np.array(v) if k in MASKS else v for k, v in same.items()}
    assert_same_bits(replace(p, keywords=same).run(module), replace(p, keywords=copies).run(module))
