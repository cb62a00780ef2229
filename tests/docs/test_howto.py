"""The Python of the how-to pages runs as it is written, but for sizes."""

import importlib.util
import re

import numpy as np
import pytest

import rnnfast
from rnnfast import data, kernels, models

cells = pytest.importorskip("docs.cells", reason="the sources are not here")
PAGES = sorted((cells.DOCS / "howto").glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = {  # what a block that needs another package has in it
    **{name: rf"\b{name}\b" for name in ("torch", "keras", "cupy", "mpi4py", "onnx")},
    "matplotlib": r"\bplot_",
}
SMALLER = {"10_000, 650, 650": "12, 6, 6", "max_epoch=40": "max_epoch=2"}
WORDS = data.WordVocabulary.from_text("the king and the queen of you and a man")


class Tensor(np.ndarray):
    """An array with what the pages ask of a tensor."""

    def detach(self):
        return self

    def numpy(self):
        return np.asarray(self)


class Weights:
    """A layer of another library with these weights."""

    def __init__(self, **shapes):
        for name, shape in shapes.items():
            setattr(self, name, np.zeros(shape, np.float32).view(Tensor))


@pytest.fixture
def names():
    """What the pages take for granted."""
    rng = np.random.default_rng(0)
    xs = rng.standard_normal((2, 5, 100)).astype(np.float32)
    stack = rnnfast.TimeStack([rnnfast.TimeBiLSTM.create(100, 200, rng=0)])
    lstm = rnnfast.TimeLSTM.create(100, 6, rng=0)
    ids = rng.integers(0, 12, 20 * 35 + 1)
    model = models.Rnnlm(12, 6, 6, rng=0)
    return {
        "gpu.md": {"xs": ids[:20].reshape(2, 10), "ts": ids[1:21].reshape(2, 10), "model": model}
        | {"rnnfast": rnnfast}
        | dict(zip(("Wx", "Wh", "b"), lstm.params, strict=True)),
        "inside.md": {},  # and a model of words, see below
        "machines.md": {"xs": ids[:-1], "ts": ids[1:]},
        "serving.md": {},
        "weights.md": {
            "xs": xs,
            "stack": stack,
            "ids": ids[:10].reshape(2, 5),
            "embedding": Weights(weight=(12, 100)),
            "linear": Weights(weight=(12, 400), bias=(12,)),
        },
    }


@pytest.fixture
def home(tmp_path):
    """A folder with the model that the pages load, of the characters of Python's documentation."""
    (tmp_path / "my_model").mkdir()
    vocabulary = data.CharVocabulary.from_text(data.python_docs())
    model = models.Rnnlm(len(vocabulary), 6, 6, rng=0)
    model.save_params(tmp_path / "my_model" / "Rnnlm.safetensors", vocabulary)
    return tmp_path


@pytest.fixture
def same_precision():
    """A page may choose another."""
    before = kernels.get_float32_matmul_precision()
    yield
    rnnfast.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("same_precision")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_runs(page, names, home, monkeypatch):
    monkeypatch.chdir(home)
    defined, missing = names.get(page.name, {}), set()
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        code = match[1]
        needs = {module for module, sign in NEEDS.items() if re.search(sign, code)}
        if absent := {module for module in needs if importlib.util.find_spec(module) is None}:
            missing |= absent
            continue
        for large, small in SMALLER.items():
            code = code.replace(large, small)
        if page.name == "inside.md" and "king" in code:
            defined |= {"vocabulary": WORDS, "model": models.Rnnlm(len(WORDS), 6, 6, rng=0)}
        exec(compile(code, page.name, "exec"), defined)
    if missing:
        pytest.skip(f"all but what needs {', '.join(sorted(missing))} ran")
