"""The examples in the docstrings of the package give what they show."""

import doctest
import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import rnnfast

PACKAGE = Path(rnnfast.__file__).parent
APART = ("cuda", "examples")  # a GPU, and minutes of training
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def modules():
    """The modules that have an example."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[1] not in APART and ">>> " in path.read_text(encoding="utf-8"):
            yield ".".join(part for part in parts if part != "__init__")


def run(module):
    """Run a module's examples: how many there are and how many fail."""
    names = vars(module) | {"np": np, "rnnfast": rnnfast}
    with np.printoptions(precision=4, suppress=True, floatmode="maxprec"), rnnfast.device("auto"):
        return doctest.testmod(module, globs=names, optionflags=OPTIONS)


@pytest.mark.skipif(np.__version__ < "2", reason="older ones show other numbers")
@pytest.mark.parametrize("name", list(modules()))
def test_examples(name, capsys):
    failed, attempted = run(importlib.import_module(name))
    assert attempted > 0
    assert failed == 0, capsys.readouterr().out


def test_a_wrong_example_is_found(capsys):
    module = ModuleType("wrong", "    >>> 1 + 1\n    3\n    >>> 1 + 1\n    2\n")
    assert run(module) == (1, 2)
    assert "Failed example" in capsys.readouterr().out


@pytest.mark.parametrize("name", rnnfast.layers.__all__)
def test_every_layer_has_an_example(name):
    assert ">>> " in getattr(rnnfast.layers, name).__doc__
