"""The kernels of all steps, the kernel of a step and the planner, against the reference.

Compiled, and run by the executor of tests/ptx; on a GPU, where there is one.
"""

from dataclasses import replace

import numpy as np
import pytest
from cases import IN_ONE_KERNEL, VARIANTS, make_problem, variant_name
from on_cuda import H100, PLANS, check, frame, in_software, plan_as, steps

import rnnfast
from rnnfast import kernels
from rnnfast.cuda import cost, gru, lstm, planner, rnn
from rnnfast.cuda.precision import tf32_tolerance


def ids(variant):
    return variant_name(*variant)


# Values. Kernels depend on H and the plan, not on N and T: tests that share both share kernels,
# and most of the time goes into compiling them.

H = 13
OPTIONLESS = [v for v in IN_ONE_KERNEL if not v[1] or v[1] == {"reset_after": True}]
EVERY_PLAN = [(v, plan) for v in OPTIONLESS for plan in PLANS if plan != "steps"]
FEW_PLANS = [(v, plan) for v in IN_ONE_KERNEL if v not in OPTIONLESS for plan in ("row", "groups")]
EVERY_WAY = {"reverse": True, "mask": True, "lengths": True}


def beyond(problem):
    """(N, T), which steps lie beyond the lengths."""
    N, T, _ = problem.xs.shape
    return np.arange(T) >= problem.keywords["lengths"].reshape(N, 1)


def check_lengths(cell, problem, tolerance=1e-5):
    """What lies beyond the lengths may be anything; it is neither read nor written."""
    off = beyond(problem)
    problem.xs[off] = problem.dhs[off] = np.nan
    got = check(cell, problem, tolerance)
    assert (got.hs[off] == 0).all()
    assert (got.dxs[off] == 0).all()
    nothing = problem.keywords["lengths"] == 0
    assert nothing.any()
    for given, passed in ((problem.state, got.state), (problem.dstate, got.dstate)):
        for a, b in zip(given, passed, strict=True):
            np.testing.assert_array_equal(a[nothing], b[nothing])


def named(first):
    """All pairs; but for every eighth one from the `first` on they come later, most much later."""
    later = pytest.mark.rest, pytest.mark.large, pytest.mark.large
    return [
        pytest.param(v, plan, marks=() if k % 8 == first else later[k % 3], id=f"{ids(v)}-{plan}")
        for k, (v, plan) in enumerate(EVERY_PLAN + FEW_PLANS)
    ]


@pytest.mark.parametrize(("variant", "plan"), named(0))
@pytest.mark.one_in(2)
def test_frame(gpu, monkeypatch, variant, plan):
    """Blocks and passes that divide neither units nor samples."""
    plan_as(monkeypatch, PLANS[plan])
    cell, options = variant
    check(cell, make_problem(cell, (5, 3, 4, H), **options))


@pytest.mark.parametrize(("variant", "plan"), named(2))
@pytest.mark.one_in(4)
def test_frame_in_every_way(gpu, monkeypatch, variant, plan):
    plan_as(monkeypatch, PLANS[plan])
    cell, options = variant
    check_lengths(cell, make_problem(cell, (5, 3, 4, H), **EVERY_WAY, **options))


@pytest.mark.parametrize("variant", OPTIONLESS, ids=ids)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("forward", "back"),
    [("blocks", "groups"), ("groups", "blocks"), ("steps", "groups"), ("groups", "steps")],
)
@pytest.mark.one_in(16)
def test_lengths_in_other_groups_back(gpu, monkeypatch, variant, reverse, forward, back):
    """The samples of a group may all end before others that were with them forward."""
    by_way = {True: PLANS[forward], False: PLANS[back]}
    plan_as(monkeypatch, lambda cell, way, N, H: by_way[way](cell, way, N, H))
    cell, options = variant
    problem = make_problem(cell, (6, 5, 4, H), reverse=reverse, lengths=True, **options)
    problem.keywords["lengths"] = np.array([5, 1, 2, 0, 3, 2])
    check_lengths(cell, problem)


@pytest.mark.parametrize("variant", OPTIONLESS, ids=ids)
@pytest.mark.parametrize("width", [1, 4, 23])
@pytest.mark.one_in(12, 5)
def test_widths_of_a_row(gpu, monkeypatch, variant, width):
    plan_as(monkeypatch, PLANS["row"])
    cell, options = variant
    check(cell, make_problem(cell, (3, 4, 5, width), **options))


@pytest.mark.parametrize("variant", VARIANTS, ids=ids)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.one_in(60, 24)
def test_steps(gpu, monkeypatch, variant, dtype):
    """A kernel a step of more than one block, in float32 also in every way."""
    plan_as(monkeypatch, steps)
    cell, options = variant
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    check(cell, make_problem(cell, (5, 3, 4, 60), dtype, **options), tolerance)
    if dtype == "float32":
        check_lengths(cell, make_problem(cell, (5, 3, 4, 60), **EVERY_WAY, **options))


@pytest.mark.parametrize("variant", OPTIONLESS, ids=ids)
@pytest.mark.parametrize(("units", "rows", "passes"), [(16, 9, 1), (32, 3, 1), (16, 3, 2)])
@pytest.mark.one_in(6, 2)
def test_tf32(gpu, monkeypatch, high, variant, units, rows, passes):
    """More than eight samples, more than one tile of units; both ways to call."""
    cell, options = variant
    plan_as(monkeypatch, frame(units, rows, 256, "tf32", passes=passes))
    tolerance = tf32_tolerance(9, 3, 4, 37)
    if rows == 9:
        check_lengths(cell, make_problem(cell, (9, 3, 4, 37), **EVERY_WAY, **options), tolerance)
    else:
        check(cell, make_problem(cell, (9, 3, 4, 37), **options), tolerance)


@pytest.mark.parametrize("variant", OPTIONLESS, ids=ids)
@pytest.mark.parametrize(("units", "rows", "passes"), [(16, 9, 1), (32, 3, 1), (16, 3, 2)])
@pytest.mark.one_in(6, 2)
def test_float32_on_tensor_cores(gpu, monkeypatch, variant, units, rows, passes):
    """By three products forward, with float32's tolerance; back by those of float32."""
    cell, options = variant
    rules = [frame(units, rows, 256, kind, passes=passes) for kind in ("float32", "3xtf32")]
    plan_as(monkeypatch, lambda cell, forward, N, H: rules[forward](cell, forward, N, H))
    ways = EVERY_WAY if rows == 9 else {}
    (check_lengths if ways else check)(cell, make_problem(cell, (9, 3, 4, 37), **ways, **options))


@pytest.mark.parametrize("variant", OPTIONLESS, ids=ids)
@pytest.mark.parametrize("sizes", [(10, 3, 32), (99, 1, 64)])
@pytest.mark.one_in(4)
def test_weights_in_shared_memory(gpu, monkeypatch, variant, sizes):
    """All but one round of them, where there are two or more."""
    cell, options = variant
    plan_as(monkeypatch, all_but_one_aside(*sizes))
    check_lengths(cell, make_problem(cell, (9, 3, 4, 37), **EVERY_WAY, **options))


@pytest.mark.parametrize("variant", OPTIONLESS, ids=ids)
@pytest.mark.parametrize("sizes", [(16, 9, 160), (32, 3, 128)])
@pytest.mark.one_in(8)
def test_weights_in_shared_memory_in_tf32(gpu, monkeypatch, high, variant, sizes):
    cell, options = variant
    plan_as(monkeypatch, all_but_one_aside(*sizes, "tf32"))
    problem = make_problem(cell, (9, 2, 4, 150), **EVERY_WAY, **options)
    check_lengths(cell, problem, tf32_tolerance(9, 2, 4, 150))


def all_but_one_aside(*sizes):
    """A rule for `plan_as`."""

    def plan(cell, forward, N, H):
        made = frame(*sizes, slices=2, own=1)(cell, forward, N, H)
        tiles = tuple(replace(tile, aside=tile.rounds - 1) for tile in made.tiles)
        assert any(tile.aside for tile in tiles)
        return replace(made, tiles=tiles)

    return plan


@pytest.mark.parametrize("variant", OPTIONLESS, ids=ids)
@pytest.mark.parametrize("plan", ["row", "groups", "steps"])
@pytest.mark.one_in(12)
def test_lengths_of_all_steps_or_of_none(gpu, monkeypatch, variant, plan):
    """The first give the bits that no lengths give, the others nothing but the states."""
    plan_as(monkeypatch, PLANS[plan])
    cell, options = variant
    module, p = kernels.load(cell.name, "cuda"), make_problem(cell, (4, 2, 3, H), **options)
    expected = p.run(module)
    p.keywords["lengths"] = np.full(4, 2)
    got = p.run(module)
    for (name, a), (_, b) in zip(got.arrays(), expected.arrays(), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
    p.keywords["lengths"] = np.zeros(4, np.intp)
    p.xs[...] = p.dhs[...] = np.inf
    got = p.run(module)
    assert not any(a.any() for a in (got.hs, got.dxs, *got.grads))


# What does not depend on the order of things


@pytest.mark.parametrize(("variant", "plan"), named(0))
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["xs", "dhs"])
@pytest.mark.one_in(2)
def test_nan_in_one_sample_stays_there(gpu, monkeypatch, variant, plan, place, bad):
    plan_as(monkeypatch, PLANS[plan])
    cell, options = variant
    module = kernels.load(cell.name, "cuda")
    clean, spoilt = (make_problem(cell, (3, 2, 4, H), **options) for _ in range(2))
    getattr(spoilt, place)[1].flat[-1] = bad
    with np.errstate(invalid="ignore"):
        got, expected = spoilt.run(module), clean.run(module)
    for (name, a), (_, b) in zip(got.arrays(), expected.arrays(), strict=True):
        np.testing.assert_array_equal(a[[0, 2]], b[[0, 2]], err_msg=name)
    stops_it = place == "dhs" and options.get("nonlinearity") == "relu"  # where h is 0
    if np.isnan(bad) and not stops_it:
        assert np.isnan((got.hs if place == "xs" else got.dxs)[1]).any()


@pytest.mark.parametrize(("variant", "plan"), named(0))
def test_every_schedule_gives_the_same_bits(monkeypatch, variant, plan):
    """And none has a race: what one thread writes and another reads has a barrier between."""
    plan_as(monkeypatch, PLANS[plan])
    same_bits(variant, H)


@pytest.mark.parametrize("variant", OPTIONLESS, ids=ids)
@pytest.mark.one_in(4)
def test_every_schedule_gives_the_same_bits_in_tf32(monkeypatch, variant):
    plan_as(monkeypatch, frame(16, 3, 256, "tf32", passes=2))
    same_bits(variant, 37)


def same_bits(variant, width):
    """In three schedules, with races watched."""
    cell, options = variant
    problem, results = make_problem(cell, (5, 3, 4, width), **options), []
    for seed in (None, 1, 2):
        with in_software(seed=seed, races=True):
            results.append(problem.run(kernels.load(cell.name, "cuda")))
    for other in results[1:]:
        for (name, a), (_, b) in zip(results[0].arrays(), other.arrays(), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


# The plan


EQUATIONS = {
    "rnn": rnn.CELL,
    "lstm": lstm.CELL,
    "gru": gru.CELL,
    "gru, r after": gru.GruAfter(),
}


@pytest.mark.parametrize("name", EQUATIONS)
@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.one_in(2)
def test_plans(name, forward):
    def plan(N, H, dtype="float32", precision="float32"):
        return planner.make_plan(H100, EQUATIONS[name], forward, N, H, dtype, precision)

    assert plan(20, 100).kind == "row"
    assert plan(20, 100).grid == 20
    assert plan(20, 100, "float64").kind == "steps"
    assert plan(20, 4096).kind == "steps"
    for N, H in ((20, 650), (64, 512), (1, 256), (128, 128)):
        for precision in ("float32", "tf32"):
            p = plan(N, H, precision=precision)
            assert p.kind in ("grid", "row")
            assert p.fits(H100)
            assert p.grid == p.groups * p.blocks
            assert p.groups * p.rows * p.passes >= N
            assert p.blocks * p.units >= H
            assert p.kind == "row" or p.grid <= 132
    assert plan(20, 650).kind == "grid"


def test_tensor_cores_only_where_they_are_faster():
    """In TF32, or three for one in float32; a single sample fills an eighth of a tile."""
    cell = lstm.CELL
    many = planner.make_plan(H100, cell, True, 64, 512, "float32", "tf32")
    one = planner.make_plan(H100, cell, True, 20, 100, "float32", "tf32")
    assert many.arithmetic == "tf32"
    assert one.arithmetic == "float32"
    for forward, arithmetic in ((True, "3xtf32"), (False, "float32")):
        exact = planner.make_plan(H100, cell, forward, 64, 512, "float32", "float32")
        assert exact.arithmetic == arithmetic
        assert not forward or many.us < exact.us
    relu = rnn.Rnn(nonlinearity="relu")  # whose h may be infinite, and that has no TF32 parts
    exact = planner.make_plan(H100, relu, True, 64, 512, "float32", "float32")
    assert exact.arithmetic == "float32"


# Float32 forward on an H100 (gpu/forward-3xtf32.md) and an H200 (gpu-h200/sweep.json)
FASTER = {
    (20, 650): {
        "rnn": "float32",
        "lstm": "3xtf32",
        "gru": "float32",
        "gru, r after": "3xtf32",
    },
    (64, 512): dict.fromkeys(("rnn", "lstm", "gru", "gru, r after"), "3xtf32"),
    (32, 256): dict.fromkeys(("rnn", "lstm", "gru", "gru, r after"), "float32"),
    (128, 1024): dict.fromkeys(("rnn", "lstm", "gru, r after"), "3xtf32"),
}


@pytest.mark.parametrize("shape", FASTER)
def test_three_products_where_they_were_faster(shape):
    for name, arithmetic in FASTER[shape].items():
        plan = planner.make_plan(H100, EQUATIONS[name], True, *shape, "float32", "float32")
        assert plan.arithmetic == arithmetic


@pytest.mark.parametrize("forward", [True, False])
def test_weights_that_registers_do_not_hold(forward):
    """LSTMs of some 1,250 to 1,600 units, on tensor cores from 900 on; smaller ones never."""

    def aside(H, precision="float32"):
        plan = planner.make_plan(H100, lstm.CELL, forward, 20, H, "float32", precision)
        assert plan.kind == "grid" and plan.fits(H100)
        return sum(tile.aside for tile in plan.tiles)

    assert aside(1500) > 0
    assert aside(1000, "tf32") > 0
    assert aside(1000) == aside(650, "tf32") == 0


@pytest.mark.parametrize(
    ("name", "forward", "N", "H", "precision", "kind"),
    [
        ("lstm", True, 128, 1024, "float32", "grid"),
        ("lstm", True, 128, 1024, "tf32", "grid"),
        ("gru, r after", True, 128, 1024, "tf32", "grid"),
        ("rnn", False, 128, 1024, "float32", "grid"),
        ("lstm", False, 128, 1024, "float32", "grid"),
        ("gru, r after", False, 128, 1024, "tf32", "steps"),  # more is sent than L2 holds
    ],
)
def test_plans_that_were_faster_on_an_h100(name, forward, N, H, precision, kind):
    """In a race of plans (benchmarks/results/gpu)."""
    plan = planner.make_plan(H100, EQUATIONS[name], forward, N, H, "float32", precision)
    assert plan.kind == kind


def test_the_fastest_is_taken():
    found = planner.candidates(H100, lstm.CELL, True, 20, 650, "float32")
    assert len(found) > 10
    chosen = planner.make_plan(H100, lstm.CELL, True, 20, 650, "float32", "float32")
    assert chosen.us == min(plan.us for plan in found)
    assert all(plan.us > 0 for plan in found)


def test_a_slower_meeting_asks_for_larger_rows(monkeypatch):
    """The plan follows the table of constants."""

    def plan():
        planner.make_plan.cache_clear()
        return planner.make_plan(H100, rnn.CELL, True, 20, 120, "float32", "float32")

    assert plan().kind == "row"
    slow = cost.Constant(50.0, "us", "a test")
    monkeypatch.setitem(cost.CONSTANTS, "local step", slow)
    assert plan().kind == "grid"
    monkeypatch.undo()
    assert plan().kind == "row"


def test_full_peepholes_run_in_steps(gpu):
    """Where an LSTM without them is a row or a grid."""
    whole = lstm.CELL.of("full")
    for H in (20, 200):
        for forward in (True, False):
            plans = [
                planner.make_plan(H100, cell, forward, 3, H, "float32", "float32")
                for cell in (lstm.CELL, lstm.CELL.of("diagonal"), whole)
            ]
            assert [plan.kind == "steps" for plan in plans] == [False, False, True]


def test_show_config_prints_a_plan(gpu, capsys):
    rnnfast.show_config(plan=("lstm", 5, 7))
    text = capsys.readouterr().out
    assert "lstm forward      row: 5 blocks x " in text
    assert "lstm backward     row: 5 blocks x " in text
    assert text.count("us a step by the model") == 2
    for plan, message in (
        (("lstm", 0, 7), "N must be"),
        (("lstm", 5, 7.0), "H must be"),
        (("cnn", 5, 7), "name must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            rnnfast.show_config(plan=plan)
