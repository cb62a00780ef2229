"""Type checking of user scripts: pyright accepts right uses of rnnfast and rejects wrong ones.

The comment of a line names the expectation: `# error` for a wrong argument, `# is X` where
reveal_type must name X. All other lines must be free of errors. In code that pyright considers
unreachable, reveal_type reports nothing, so the lines after `backward` check that it returns.
"""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import rnnfast

pytestmark = pytest.mark.skipif(find_spec("pyright") is None, reason="pyright is not installed")

BEGINNING = """\
import numpy as np

import rnnfast
from rnnfast import convert, inspection, models, optim, sequences, time_layers, trainer

Wx, Wh, b = np.ones((3, 8)), np.ones((2, 8)), np.zeros(8)
xs, ids = np.ones((1, 5, 3)), np.arange(20)
"""

SCRIPTS = {
    "layers": """\
lstm = rnnfast.TimeLSTM(Wx, Wh, b)
reveal_type(lstm)  # is TimeLSTM
hs = lstm.forward(xs)
reveal_type(hs)  # is ndarray
dxs = lstm.backward(hs)
reveal_type(dxs)  # is ndarray
reveal_type(time_layers.TimeGRU(Wx, Wh, b).forward(xs))  # is ndarray
affine = rnnfast.TimeAffine(Wx, b)
reveal_type(affine.forward(xs))  # is ndarray
affine.backward(xs)
reveal_type(affine)  # is TimeAffine
both = rnnfast.TimeBiLSTM(Wx, Wh, b, Wx, Wh, b)
stack = rnnfast.TimeStack([both, rnnfast.TimeReverse(lstm)], dropout_ratio=0.5)
reveal_type(stack.forward(xs, lengths=[5]))  # is ndarray
stack.backward(xs)
reveal_type(stack)  # is TimeStack
""",
    "integers": """\
from rnnfast.layers import Sigmoid

lstm, affine = rnnfast.TimeLSTM(Wx, Wh, b), rnnfast.TimeAffine(Wx, b)
integers = xs.astype(np.int64)
reveal_type(lstm.forward(integers))  # is dtype[floating
reveal_type(rnnfast.TimeReverse(lstm).forward(integers))  # is dtype[floating
reveal_type(rnnfast.TimeStack([lstm]).forward(integers))  # is dtype[floating
reveal_type(rnnfast.TimeBiLSTM(Wx, Wh, b, Wx, Wh, b).forward(integers))  # is dtype[floating
reveal_type(rnnfast.GRU(Wx, Wh, b).forward(integers[:, 0], None))  # is dtype[floating
reveal_type(rnnfast.LSTM(Wx, Wh, b).forward(integers[:, 0], None, None)[0])  # is dtype[floating
reveal_type(affine.forward(integers))  # is dtype[floating
reveal_type(rnnfast.Dropout().forward(integers))  # is dtype[floating
reveal_type(Sigmoid().forward(integers))  # is dtype[floating
reveal_type(affine.forward(xs.astype(np.float32)))  # is dtype[float
""",
    "wrong layers": """\
rnnfast.TimeLSTM("a", 1, 2)  # error
rnnfast.TimeLSTM(Wx)  # error
rnnfast.TimeLSTM(Wx, Wh, b, cell_clip="3")  # error
rnnfast.TimeLSTM(Wx, Wh, b).forward("text")  # error
rnnfast.TimeLSTM(Wx, Wh, b).forward(xs, lenghts=[5])  # error
rnnfast.TimeStack(3)  # error
""",
    "models": """\
model = models.Rnnlm(10, 4, 6)
reveal_type(model)  # is Rnnlm
loss = model.forward(ids[np.newaxis, :5], ids[np.newaxis, 1:6])
float(loss)
model.backward()
reveal_type(model)  # is Rnnlm
grads = model.grads
reveal_type(grads)  # is list
model.reset_state()
classifier = sequences.SequenceClassifier(3, 4, classes=2)
classifier.forward(xs, ids[:1])
classifier.backward()
reveal_type(classifier)  # is SequenceClassifier
""",
    "wrong models": """\
models.Rnnlm("a")  # error
models.Rnnlm(10, hidden="6")  # error
models.Rnnlm(10).load_params(3.5)  # error
""",
    "training": """\
adam = optim.Adam(0.1)
reveal_type(adam.lr)  # is float
adam.update([Wx], [Wx])
reveal_type(adam.state_dict())  # is dict
loop = trainer.RnnlmTrainer(models.Rnnlm(10, 4, 6), adam, callbacks=[trainer.Watch(10).step])
loop.fit(ids, ids, max_epoch=1, batch_size=2, time_size=5, max_grad=0.25)
reveal_type(loop)  # is RnnlmTrainer
loop.fit([1, 2, 3], [2, 3, 1], eval_interval=None)
reveal_type(loop.current_epoch)  # is int
samples = trainer.Trainer(sequences.SequenceClassifier(3, 4, classes=2), optim.SGD())
samples.fit(xs, ids[:1], lengths=[5])
reveal_type(samples.loss_list)  # is list[float]
reveal_type(trainer.eval_perplexity(models.Rnnlm(10, 4, 6), ids))  # is float
reveal_type(trainer.Plateau(adam).update(100.0))  # is bool


class Model:
    def __init__(self) -> None:
        self.params = [Wx]
        self.grads = [Wx]

    def forward(self, x: np.ndarray, t: np.ndarray) -> float:
        return 0.0

    def backward(self) -> None:
        pass


trainer.Trainer(Model(), optim.OPTIMIZERS["SGD"](0.5)).fit(xs, ids[:1])
""",
    "wrong training": """\
optim.Adam("x")  # error
optim.SGD(rate=0.1)  # error
optim.clip_grads(3, 0.25)  # error
trainer.Trainer(3).fit(xs, ids)  # error
trainer.Trainer(3, optim.SGD())  # error
trainer.Trainer(models.Rnnlm(10, 4, 6), "sgd")  # error
trainer.RnnlmTrainer(models.Rnnlm(10, 4, 6), optim.SGD()).fit("to be", "o be ")  # error
trainer.Trainer(models.Rnnlm(10, 4, 6), optim.SGD()).fit(xs, ids, max_epoch="1")  # error
trainer.RnnlmTrainer(object(), optim.SGD())  # error
trainer.eval_perplexity("a model", ids)  # error
trainer.eval_labels(3, xs, ids)  # error
trainer.perplexity("x")  # error
trainer.Plateau(3)  # error
""",
    "inspection and conversion": """\
reveal_type(inspection.upper_case("aB"))  # is ndarray
reveal_type(inspection.gradient_norms(np.eye(3)))  # is list[float]
reveal_type(inspection.to_html("ab", [0.0, 1.0]))  # is str
reveal_type(inspection.rank_units([xs[0]], [0, 1, 0, 1, 0])[0].correlation)  # is float
reveal_type(convert.to_torch(rnnfast.TimeLSTM(Wx, Wh, b)))  # is dict[str
convert.from_keras([Wx, Wh, b], stateful=True)
inspection.upper_case(3)  # error
inspection.to_html(3, [0.0])  # error
inspection.gradient_norms("Wh")  # error
convert.to_onnx()  # error
convert.from_torch({}, nonlinearity=3)  # error
""",
}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """The diagnostics of all scripts: (script, line) -> [(severity, message), ...]."""
    folder = tmp_path_factory.mktemp("scripts")
    for name, text in SCRIPTS.items():
        (folder / f"{name}.py").write_text(BEGINNING + text)
    home = str(Path(rnnfast.__file__).parent.parent)
    settings = {"extraPaths": [home], "reportMissingModuleSource": False}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    options = ["--outputjson", "--pythonpath", sys.executable, "--project", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "pyright", *options], capture_output=True, text=True, timeout=300
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = {}
    for one in json.loads(done.stdout)["generalDiagnostics"]:
        place = Path(one["file"]).stem, one["range"]["start"]["line"]
        found.setdefault(place, []).append((one["severity"], one["message"]))
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_pyright_on_a_script(said, script):
    wrong = []
    for number, line in enumerate((BEGINNING + SCRIPTS[script]).splitlines()):
        code, _, wanted = line.partition("  # ")
        messages = said.get((script, number), [])
        errors = [text for severity, text in messages if severity == "error"]
        shown = [text for severity, text in messages if severity == "information"]
        if bool(errors) != (wanted == "error"):
            wrong.append((code, wanted, errors or "no error"))
        if wanted.startswith("is ") and not any(wanted[3:] in text for text in shown):
            wrong.append((code, wanted, shown or "nothing revealed: unreachable?"))
    assert not wrong
