"""The settings of papers for `rnnfast train --recipe`, and `rnnfast recipes`, which lists them."""

import textwrap
from typing import Any, NamedTuple

from rnnfast import kernels
from rnnfast.commands.arguments import Commands, add_command
from rnnfast.commands.settings import Settings, build_model, count_parameters, option_name
from rnnfast.layers.initial import Blank

MACHINE = "two cores of an Intel Xeon at 2.5 GHz"  # of benchmarks/results/recipes.json
WORDS = 10_000  # of Penn Treebank: the vocabulary for which parameters are counted


class Measured(NamedTuple):
    """What rnnfast has reached with a recipe on Penn Treebank.

    Attributes
    ----------
    epochs : int
        After how many.
    valid, test : float
        Perplexities.
    source : str
        The file in the repository with the numbers.
    hours : float or None
        Of training; None if they were not measured.
    machine : str
        On what.
    """

    epochs: int
    valid: float
    test: float
    source: str
    hours: float | None
    machine: str


class Recipe(NamedTuple):
    """The settings of a paper for Penn Treebank, and what the paper reports of them.

    Attributes
    ----------
    paper, url : str
    parameters : float or None
        In millions, as the paper states them; None if it does not.
    valid, test : float or None
        Perplexities, as the paper states them; None if it does not.
    settings : dict
        Fields of `Settings`. All others have their defaults.
    note : str
        What differs from the paper.
    measured : Measured or None
    hours : float or None
        Predicted for all epochs on `MACHINE`, from the time of some iterations.
    """

    paper: str
    url: str
    parameters: float | None
    valid: float | None
    test: float | None
    settings: dict[str, Any]
    note: str
    measured: Measured | None = None
    hours: float | None = None


# What Yang et al. and Takase et al. keep of AWD-LSTM
_AWD: dict[str, Any] = {
    "level": "word",
    "model": "custom",
    "layers": 3,
    "tie": True,
    "variational": True,
    "input_dropout": 0.4,
    "output_dropout": 0.4,
    "embedding_dropout": 0.1,
    "weight_drop": 0.5,
    "alpha": 2.0,
    "beta": 1.0,
    "time_size": 70,
    "vary_length": True,
    "restart_every": 0,
    "optimizer": "ntasgd",
    "weight_decay": 1.2e-6,
    "max_grad": 0.25,
}
_FINE_TUNING = (
    "The paper's figures are after fine-tuning: a second run with --init FILE --optimizer asgd."
)

RECIPES: dict[str, Recipe] = {
    "better": Recipe(
        "Deep Learning from Scratch 2, chapter 6: BetterRnnlm",
        "https://github.com/oreilly-japan/deep-learning-from-scratch-2",
        None,
        None,
        75.76,
        {
            "level": "word",
            "model": "better",
            "hidden": 650,
            "dropout": 0.5,
            "epochs": 40,
            "batch_size": 20,
            "time_size": 35,
            "restart_every": 0,
            "optimizer": "sgd",
            "lr": 20.0,
            "lr_decay": 4.0,
            "max_grad": 0.25,
        },
        "",
        Measured(
            40,
            79.83,
            77.06,
            "benchmarks/results/gpu/better-40-epochs.jsonl",
            0.04,
            "an H100, in TF32",
        ),
    ),
    "awd-lstm": Recipe(
        "Merity, Keskar, Socher 2017: AWD-LSTM",
        "https://arxiv.org/abs/1708.02182",
        24,
        60.0,
        57.3,
        _AWD
        | {
            "hidden": 1150,
            "embedding": 400,
            "between_dropout": 0.3,
            "epochs": 500,
            "batch_size": 20,
            "nonmono": 5,
            "lr": 30.0,
        },
        f"{_FINE_TUNING} Batches of 20 and 500 epochs are those of the authors' code, which also "
        "has --between-dropout 0.25; the paper has batches of 40 and 750 epochs.",
        hours=183.0,
    ),
    "awd-lstm-mos": Recipe(
        "Yang, Dai, Salakhutdinov, Cohen 2017: AWD-LSTM with a mixture of softmaxes",
        "https://arxiv.org/abs/1711.03953",
        22,
        56.54,
        54.44,
        _AWD
        | {
            "hidden": 960,
            "last_hidden": 620,
            "embedding": 280,
            "between_dropout": 0.225,
            "mixtures": 15,
            "latent_dropout": 0.29,
            "epochs": 1000,
            "batch_size": 12,
            "nonmono": 5,
            "lr": 20.0,
        },
        f"{_FINE_TUNING} It had --lr 25.",
    ),
    "doc": Recipe(
        "Takase, Suzuki, Nagata 2018: AWD-LSTM with direct output connection",
        "https://arxiv.org/abs/1808.10143",
        23,
        54.12,
        52.38,
        _AWD
        | {
            "hidden": 960,
            "last_hidden": 620,
            "embedding": 280,
            "between_dropout": 0.225,
            "mixtures": 15,
            "mixtures_below": 5,
            "latent_dropout": 0.6,
            "balance": 0.001,
            "epochs": 500,
            "batch_size": 12,
            "nonmono": 60,
            "lr": 20.0,
        },
        _FINE_TUNING,
    ),
    "mogrifier": Recipe(
        "Melis, Kocisky, Blunsom 2019: Mogrifier LSTM",
        "https://arxiv.org/abs/1909.01792",
        24,
        51.4,
        50.1,
        {
            "level": "word",
            "model": "custom",
            "cell": "mogrifier",
            "layers": 2,
            "rounds": 5,
            "rank": 84,
            "hidden": 912,
            "tie": True,
            "variational": True,
            "dropout": 0.387,
            "input_dropout": 0.729,
            "between_dropout": 0.291,
            "output_dropout": 0.716,
            "epochs": 966,
            "batch_size": 64,
            "time_size": 70,
            "restart_every": 100,
            "optimizer": "rmsprop",
            "lr": 0.0023,
            "max_grad": 0.143,
        },
        "The settings are those of the authors' configuration, whose 200,000 updates are 966 "
        "epochs; --hidden is the largest size with 24 million parameters. Missing are their input "
        "gate, capped at 1 - f, the sum of all layers as output, the L2 penalty (2.5e-4), the "
        "averaging of weights, RMSprop's decay of 0.999 and bias correction, a temperature for "
        "evaluation, and, in the paper's figures, the mean over many dropout masks. They draw the "
        "masks outside the recurrence anew at each step. Their losses are sums over 70 steps, so "
        "10 / 70 is their --max-grad.",
        hours=345.8,
    ),
}


def recipe_settings(name: str) -> dict[str, Any]:
    """The settings of a recipe.

    Parameters
    ----------
    name : str
        A key of `RECIPES`.

    Returns
    -------
    dict
        Fields of `Settings`, for the caller to change.

    Raises
    ------
    ValueError
        If there is no such recipe.
    """
    if name not in RECIPES:
        raise ValueError(f"--recipe must be one of {', '.join(RECIPES)}, got {name!r}")
    return dict(RECIPES[name].settings)


def recipe_parameters(name: str, vocab_size: int = WORDS) -> int:
    """The number of parameters of a recipe's model.

    Parameters
    ----------
    name : str
        A key of `RECIPES`.
    vocab_size : int

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If there is no such recipe.
    """
    settings = Settings(**recipe_settings(name))
    with kernels.device("cpu"):  # zeros that nobody reads or writes: that takes no time there
        return count_parameters(build_model(settings, vocab_size, Blank(2**40)))


def add(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    add_command(
        commands,
        "recipes",
        recipes,
        "list the settings of papers for train --recipe",
        "List the recipes of `rnnfast train --recipe NAME`: their papers, the size of the model "
        f"with the {WORDS:,} words of Penn Treebank, perplexities on it (the paper's, and ours "
        "where they were measured), their settings, and what differs from the paper.",
    )


def recipes() -> None:
    """List all recipes."""
    print("\n\n".join(_describe(name, recipe) for name, recipe in RECIPES.items()))


def _describe(name: str, recipe: Recipe) -> str:
    """The lines of one recipe."""
    stated = "not stated" if recipe.parameters is None else f"{recipe.parameters:g} million"
    measured = "not measured yet"
    if (ours := recipe.measured) is not None:
        epochs = recipe.settings["epochs"]
        time = "time not measured" if ours.hours is None else f"{ours.hours:g} hours"
        measured = (
            f"{_perplexities(ours.valid, ours.test)} after {ours.epochs} of {epochs} epochs; "
        )
        measured += f"{time}, on {ours.machine} ({ours.source})"
    entries = {
        "paper": f"{recipe.paper}, {recipe.url}",
        "parameters": f"{recipe_parameters(name):,} (paper: {stated})",
        "perplexity": f"{_perplexities(recipe.valid, recipe.test)} (paper)",
        "ours": measured,
        "time": ""
        if recipe.hours is None
        else f"{recipe.hours:.0f} hours for {recipe.settings['epochs']} epochs on {MACHINE}, "
        "predicted from some iterations (benchmarks/results/recipes.json)",
        "settings": " ".join(_option(*setting) for setting in recipe.settings.items()),
        "note": recipe.note,
    }
    lines = [
        textwrap.fill(
            text,
            width=100,
            initial_indent=f"  {what:<12}",
            subsequent_indent=" " * 14,
            break_on_hyphens=False,
            break_long_words=False,
        )
        for what, text in entries.items()
        if text
    ]
    return "\n".join([name, *lines])


def _perplexities(valid: float | None, test: float | None) -> str:
    """Those of the two that are known."""
    both = {"validation": valid, "test": test}
    return ", ".join(f"{name} {ppl}" for name, ppl in both.items() if ppl is not None)


def _option(name: str, value: Any) -> str:
    """A setting as on the command line."""
    if isinstance(value, bool):
        return f"--{'' if value else 'no-'}{option_name(name)}"
    return (
        f"--{option_name(name)} {value:g}"
        if isinstance(value, float)
        else (f"--{option_name(name)} {value}")
    )
