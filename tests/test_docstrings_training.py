"""Examples in the docstrings of training, inspection, conversion and plots."""

import doctest
import importlib
import pkgutil

import pytest

from rnnfast import convert, inspection, training

ROOMS = [
    module.name
    for room in (convert, inspection, training)
    for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}.")
]
FEATURES = doctest.ELLIPSIS


@pytest.mark.parametrize("name", [*ROOMS, "rnnfast.plot"])
def test_examples(name):
    if "onnx" in name:
        pytest.importorskip("onnx")
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=FEATURES)
    assert failed == 0


def test_there_are_examples():
    modules = [importlib.import_module(name) for name in ROOMS if "onnx" not in name]
    found = [test for module in modules for test in doctest.DocTestFinder().find(module)]
    with_examples = {test.name.rpartition(".")[2] for test in found if test.examples}
    assert {"Adam", "RnnlmTrainer", "gradient_norms", "from_torch", "to_keras"} <= with_examples
