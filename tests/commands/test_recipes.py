"""`rnnfast train --recipe` and `rnnfast recipes`: the settings of papers."""

import json
import pathlib

import numpy as np
import pytest
from shell import LINES, QUIET, failing, ok, read_log

from rnnfast.commands.main import main
from rnnfast.commands.recipes import RECIPES, recipe_parameters, recipe_settings
from rnnfast.commands.settings import Settings, build_model, build_optimizer, count_parameters
from rnnfast.commands.train import train
from rnnfast.models import LanguageModel, load_model
from rnnfast.trainer import RnnlmTrainer

RESULTS = pathlib.Path(__file__).parents[2]
ONCE = ["--batch-size", "2", "--time-size", "5", "--epochs", "1", "--lr", "1e-4"]
NARROW = ["--hidden", "8", "--embedding", "6", "--last-hidden", "7", *ONCE]


@pytest.fixture
def texts(tmp_path):
    """Arguments: a text for very few batches, and a validation text."""
    path = tmp_path / "text.txt"
    path.write_text(LINES, encoding="utf-8")
    return [str(path), "--valid", str(path)]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_makes_an_update_at_full_width(name):
    settings, ids = Settings(**recipe_settings(name)), np.arange(12) % 7
    model = build_model(settings, 7)
    assert count_parameters(model) == recipe_parameters(name, 7)
    before = [param.copy() for param in model.params]
    trainer = RnnlmTrainer(model, build_optimizer(settings), write=lambda line: None)
    trainer.fit(ids[:-1], ids[1:], 1, 2, 5, settings.max_grad)
    assert trainer.ppl_list == [pytest.approx(7, rel=0.2)]  # knows nothing
    changed = [(a != b).any() for a, b in zip(before, model.params, strict=True)]
    assert all(changed)


@pytest.mark.parametrize("name", RECIPES)
def test_a_narrow_recipe_trains_from_the_command_line(name, texts, tmp_path, capsys):
    out, narrow = tmp_path / "out", ["--hidden", "8", *ONCE]
    ok(capsys, "train", *texts, "--recipe", name, *narrow, "--out", str(out), *QUIET)
    events = [entry["event"] for entry in read_log(out)]
    assert events[:2] == ["start", "train"] and events[-1] == "valid"


@pytest.mark.parametrize("name", RECIPES)
def test_parameters_are_those_of_the_paper(name):
    stated = RECIPES[name].parameters
    assert name == "better" or recipe_parameters(name) == pytest.approx(stated * 1e6, rel=0.03)


def test_parameters_are_those_of_a_model_that_is_drawn():
    sizes = {"layers": 3, "tie_weights": True, "mixtures": 15, "last_hidden_size": 620}
    model = LanguageModel(31, 280, 960, **sizes)
    assert recipe_parameters("awd-lstm-mos", 31) == count_parameters(model)
    assert [layer.Wh.shape[0] for layer in model.recurrent_layers] == [960, 960, 620]


def test_the_options_of_a_recipe_reach_model_and_optimiser(texts, tmp_path, capsys):
    out = tmp_path / "out"
    ok(capsys, "train", *texts, "--recipe", "doc", *NARROW, "--out", str(out), *QUIET)
    sizes = load_model(out / "LanguageModel.safetensors")[0].sizes
    expected = {
        "layers": 3,
        "tie_weights": True,
        "variational_dropout": True,
        "input_dropout": 0.4,
        "between_dropout": 0.225,
        "output_dropout": 0.4,
        "embedding_dropout": 0.1,
        "weight_drop": 0.5,
        "alpha": 2.0,
        "beta": 1.0,
        "mixtures": 15,
        "mixtures_below": 5,
        "latent_dropout": 0.6,
        "balance": 0.001,
        "last_hidden_size": 7,
    }
    assert expected.items() <= sizes.items()
    optimizer = build_optimizer(Settings(**recipe_settings("doc")))
    assert repr(optimizer) == "NTASGD(lr=20.0, interval=60, weight_decay=1.2e-06)"


def test_every_option_may_be_replaced_or_taken_away(texts, tmp_path, capsys):
    out = tmp_path / "out"
    other = ["--mixtures", "2", "--mixtures-below", "none", "--no-tie", "--no-variational"]
    other += ["--alpha", "none", "--optimizer", "sgd", "--nonmono", "none", "--lr", "none"]
    other += ["--no-vary-length", "--seed", "3"]
    arguments = ["train", *texts, "--recipe", "doc", *NARROW, *other, "--out", str(out), *QUIET]
    assert main(arguments) == 0  # perhaps with a warning, at this learning rate
    sizes = load_model(out / "LanguageModel.safetensors")[0].sizes
    assert sizes["mixtures"] == 2 and not {"mixtures_below", "alpha"} & sizes.keys()
    assert not sizes["tie_weights"] and not sizes["variational_dropout"]
    start = read_log(out)[0]
    assert (start["optimizer"], start["lr"], start["seed"]) == ("sgd", 20.0, 3)


def test_a_recipe_is_its_options_typed(texts, tmp_path, capsys):
    lines = ok(capsys, "recipes")
    start = lines.index("mogrifier")
    words = " ".join(lines[start:]).split("settings")[1].split("  note")[0].split()
    runs = [["--recipe", "mogrifier"], words]
    for number, options in enumerate(runs):
        out = str(tmp_path / str(number))
        narrow = ["--hidden", "8", *ONCE]
        ok(capsys, "train", *texts, *options, *narrow, "--out", out, *QUIET)
    files = [(tmp_path / str(i) / "LanguageModel.safetensors").read_bytes() for i in (0, 1)]
    assert files[0] == files[1]


def test_a_resumed_run_needs_no_recipe(texts, tmp_path, capsys):
    whole, out = str(tmp_path / "whole"), str(tmp_path / "out")
    arguments = ["train", *texts, "--recipe", "awd-lstm-mos", *NARROW, *QUIET]
    ok(capsys, *arguments, "--epochs", "2", "--out", whole)
    ok(capsys, *arguments, "--out", out)
    error = failing(capsys, "train", "--resume", "--recipe", "awd-lstm-mos", "--out", out)
    assert "--resume needs no --recipe: the checkpoint has the settings" in error
    ok(capsys, "train", "--resume", "--epochs", "2", "--out", out, *QUIET)
    name = "LanguageModel.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_settings_of_a_recipe_are_checked_as_typed_ones(texts, tmp_path, capsys):
    out = ["--out", str(tmp_path / "out")]
    error = failing(capsys, "train", texts[0], "--recipe", "awd-lstm", *out)
    assert "--optimizer ntasgd needs --valid" in error
    error = failing(capsys, "train", *texts, "--recipe", "awd-lstm", *ONCE, "--cell", "gru",
                    "--rank", "3", *out)  # fmt: skip
    assert "--rank must be left out with --cell 'gru'" in error
    assert not (tmp_path / "out").exists()


def test_an_unknown_recipe(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["train", "--recipe", "awd"])
    assert "invalid choice: 'awd'" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"^--recipe must be one of better, .*, got 'awd'$"):
        train(str(tmp_path / "out"), recipe="awd")
    with pytest.raises(ValueError, match="--recipe must be one of"):
        recipe_parameters("awd")


def test_the_list(capsys):
    lines = ok(capsys, "recipes")
    assert [line for line in lines if line and not line.startswith(" ")] == list(RECIPES)
    text = " ".join(" ".join(lines).split())
    assert "parameters 24,210,800 (paper: 24 million)" in text
    assert "perplexity validation 60.0, test 57.3 (paper) ours not measured yet" in text
    assert "ours validation 79.83, test 77.06 after 40 of 40 epochs; 0.04 hours" in text


def test_what_was_measured_is_in_its_file():
    for recipe in RECIPES.values():
        if (ours := recipe.measured) is None:
            continue
        if not (path := RESULTS / ours.source).exists():
            pytest.skip("needs the benchmarks of the repository")
        entries = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        last = {entry["event"]: entry for entry in entries}
        assert last["valid"]["epoch"] == ours.epochs
        assert round(last["valid"]["perplexity"], 2) == ours.valid
        assert round(last["test"]["perplexity"], 2) == ours.test
        names = ("optimizer", "lr", "max_grad", "batch_size", "time_size")
        assert all(entries[0][name] == recipe.settings[name] for name in names)


def test_hours_are_in_their_file():
    path = RESULTS / "benchmarks/results/recipes.json"
    if not path.exists():
        pytest.skip("needs the benchmarks of the repository")
    measured = json.loads(path.read_text("utf-8"))["recipes"]
    assert {name: row["hours_for_all_epochs"] for name, row in measured.items()} == {
        name: recipe.hours for name, recipe in RECIPES.items() if recipe.hours is not None
    }
