"""Which cases `one_in` keeps among the quick tests."""

from collections import defaultdict
from itertools import combinations, product
from types import SimpleNamespace

import pytest
from conftest import _kept, _place


def cases(*sizes, fixture=0):
    """Items of a test: a parameter for each size, the first one of a pair of names; a fixture's."""
    values = [[object() for _ in range(size)] for size in sizes]
    names = [("a0", "b0"), *(f"a{k}" for k in range(1, len(sizes)))]
    marks = [SimpleNamespace(args=(name,)) for name in names]
    test = object()
    for chosen in product(*values, range(fixture or 1)):
        *chosen, of_fixture = chosen
        params = {f"a{k}": value for k, value in enumerate(chosen)} | {"b0": chosen[0]}
        if fixture:
            params["fixture"] = of_fixture
        item = SimpleNamespace(
            function=test,
            callspec=SimpleNamespace(params=params),
            iter_markers=lambda name: marks,
        )
        yield item, (*map(id, chosen), of_fixture)


@pytest.mark.parametrize(
    ("sizes", "fixture", "n"), [((10, 11, 2), 9, 3), ((4, 3, 5), 0, 3), ((3, 10), 7, 3)]
)
def test_each_pair_of_values_occurs(sizes, fixture, n):
    places, every = defaultdict(dict), list(cases(*sizes, fixture=fixture))
    kept = [values for item, values in every if _place(item, places) % n == 0]
    assert 0.8 < n * len(kept) / len(every) < 1.2
    axes = range(len(sizes) + bool(fixture))
    for i, j in combinations(axes, 2):
        assert {(v[i], v[j]) for v in kept} == {(v[i], v[j]) for _, v in every}


@pytest.mark.parametrize(("sizes", "n"), [((4, 3), 3), ((4, 2), 2), ((3, 4), 3)])
def test_each_value_occurs(sizes, n):
    places, every = defaultdict(dict), list(cases(*sizes))
    kept = [values for item, values in every if _place(item, places) % n == 0]
    for i in range(len(sizes)):
        assert {v[i] for v in kept} == {v[i] for _, v in every}


@pytest.mark.parametrize(
    ("n", "rest", "expected"),
    [
        (3, None, [None, "rest", "rest"]),
        (2, None, [None, "rest"]),
        (6, 2, [None, "large", "rest", "large", "rest", "large"]),
        (9, 2, [None, *["large"] * 2, "rest", *["large"] * 2, "rest", *["large"] * 2]),
        (3, 0, [None, "large", "large"]),
    ],
)
def test_what_is_not_quick_is_rest_or_large(n, rest, expected):
    assert [_kept(place, n, rest) for place in range(2 * n)] == 2 * expected
