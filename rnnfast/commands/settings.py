"""The settings of `rnnfast train`, which its checkpoints store, and the model for them."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, overload

from rnnfast import kernels, models
from rnnfast.io import headers
from rnnfast.io.weights import load_arrays
from rnnfast.models import LanguageModelBase
from rnnfast.text.vocabulary import VOCABULARIES
from rnnfast.training.optimizers import OPTIMIZERS

# --optimizer: class, default learning rate
RULES = {
    "adam": ("Adam", 0.005),
    "sgd": ("SGD", 20.0),
    "momentum": ("Momentum", 2.0),
    "nesterov": ("Nesterov", 2.0),
    "adagrad": ("AdaGrad", 0.05),
    "rmsprop": ("RMSprop", 0.002),
    "asgd": ("ASGD", 20.0),
    "ntasgd": ("NTASGD", 20.0),
}
DECAYING = "sgd", "asgd", "ntasgd"  # those with a weight_decay
SCHEDULES = "constant", "step", "cosine"  # --schedule
# --model: class in rnnfast.models
MODELS = {
    "simple": "SimpleRnnlm",
    "rnnlm": "Rnnlm",
    "better": "BetterRnnlm",
    "custom": "LanguageModel",
}
CELLS = kernels.CELLS
# Settings of --model custom -> arguments of LanguageModel
CUSTOM = {
    "cell": "cell",
    "layers": "layers",
    "last_hidden": "last_hidden_size",
    "variational": "variational_dropout",
    "tie": "tie_weights",
    "weight_drop": "weight_drop",
    "dropout": "dropout",
    "input_dropout": "input_dropout",
    "between_dropout": "between_dropout",
    "output_dropout": "output_dropout",
    "embedding_dropout": "embedding_dropout",
    "recurrent_dropout": "recurrent_dropout",
    "h_zoneout": "h_zoneout",
    "c_zoneout": "c_zoneout",
    "alpha": "alpha",
    "beta": "beta",
    "past_decode": "past_decode",
    "adversarial": "adversarial",
    "frage": "frage",
    "frage_rate": "frage_rate",
    "mixtures": "mixtures",
    "mixtures_below": "mixtures_below",
    "latent": "latent_size",
    "latent_dropout": "latent_dropout",
    "balance": "balance",
    "rounds": "rounds",
    "rank": "rank",
    "proj_size": "proj_size",
    "heads": "heads",
}


@dataclass(frozen=True)
class Settings:
    """The settings of a training run, which its checkpoint stores.

    Each field is an option of `rnnfast train`. The defaults take one minute on two cores with the
    built-in text.
    """

    file: str | None = None  # None: Python's documentation
    valid: str | None = None  # None: the last 5% of the text are held out
    test: str | None = None
    init: str | None = None  # None: random weights
    level: str = "char"
    min_count: int = 1
    model: str = "rnnlm"
    cell: str = "lstm"
    layers: int = 1
    gradual: list[int] | None = None  # epochs of each layer but the last; None: all layers at once
    hidden: int = 256
    last_hidden: int | None = None  # None: that of hidden, or of embedding with tie alone
    embedding: int | None = None  # None: 64, or hidden if embedding and output share a matrix
    dropout: float | None = None  # None: 0.5 for better, 0 for custom
    variational: bool = False
    input_dropout: float | None = None  # None: that of dropout; the same of the next two
    between_dropout: float | None = None
    output_dropout: float | None = None
    embedding_dropout: float | None = None  # None: 0
    weight_drop: float = 0.0
    recurrent_dropout: float | None = None  # None: 0
    h_zoneout: float | None = None  # None: 0
    c_zoneout: float | None = None  # None: 0
    alpha: float | None = None  # None: 0
    beta: float | None = None  # None: 0
    past_decode: float | None = None  # None: 0
    adversarial: float | None = None  # None: 0
    frage: float | None = None  # None: 0
    frage_rate: float | None = None  # None: 0.02
    mixtures: int | None = None  # None: one softmax, without a latent vector
    mixtures_below: int | None = None  # None: 0
    latent: int | None = None  # None: that of embedding
    latent_dropout: float | None = None  # None: 0
    balance: float | None = None  # None: 0
    tie: bool = False
    rounds: int | None = None  # None: 5 for a mogrifier
    rank: int | None = None  # None: whole matrices
    proj_size: int | None = None  # None: hidden, for an lstmp
    heads: int | None = None  # None: 1, for an slstm
    epochs: int = 8
    batch_size: int = 32
    time_size: int = 64
    vary_length: bool = False
    restart_every: int = 8  # 0: never
    optimizer: str = "adam"
    nonmono: int | None = None  # None: 5
    weight_decay: float = 0.0
    lr: float | None = None  # None: that of the optimiser in RULES
    lr_decay: float | None = None
    schedule: str = "constant"
    warm_up: float | None = None  # epochs; None: no warm-up
    step_every: float | None = None  # epochs, for --schedule step
    step_factor: float | None = None  # None: 0.1
    patience: int | None = None  # None: train all epochs
    max_grad: float = 0.25
    matmul_precision: str = "highest"
    eval_interval: int = 20
    save_every: float = 300.0
    seed: int = 0
    sample: int = 400
    sync_every: int = 1  # this and the next three: OF_RANKS
    outer_lr: float = 1.0
    outer_momentum: float = 0.0
    compress: bool = False


# Checks of the settings in a checkpoint, in addition to their types
CHECKS: dict[str, Any] = {
    "level": headers.one_of(*VOCABULARIES),
    "model": headers.one_of(*MODELS),
    "cell": headers.one_of(*CELLS),
    "optimizer": headers.one_of(*RULES),
    "schedule": headers.one_of(*SCHEDULES),
    "gradual": headers.maybe(headers.list_of(headers.integer(1))),
    "matmul_precision": headers.one_of(*kernels.PRECISIONS),
    **dict.fromkeys(("epochs", "seed", "sample", "restart_every"), headers.integer(0)),
    **dict.fromkeys(
        ("min_count", "layers", "hidden", "batch_size", "time_size", "eval_interval", "sync_every"),
        headers.integer(1),
    ),
}
# Settings that --resume may change: all that change neither the model nor the texts
FREE: tuple[str, ...] = ("epochs", "optimizer", "lr", "lr_decay", "max_grad", "restart_every")
FREE += ("nonmono", "schedule", "warm_up", "step_every", "step_factor", "patience")
FREE += ("weight_decay", "matmul_precision")
FREE += ("vary_length", "eval_interval", "save_every", "sample")
OF_RANKS = ("sync_every", "outer_lr", "outer_momentum", "compress")
FREE += OF_RANKS
BATCH = ("batch_size", "time_size")  # may change between two epochs
FILES = ("file", "valid", "test", "init")  # the texts may move


@overload
def absolute(path: str) -> str: ...
@overload
def absolute(path: None) -> None: ...
def absolute(path: str | None) -> str | None:
    """The absolute path; None stays None."""
    return None if path is None else os.path.abspath(path)


def option_name(name: str) -> str:
    """The option of the command line for a field of `Settings`, without the leading dashes."""
    return name.replace("_", "-")


def stored_settings(
    path: str | os.PathLike[str], options: Mapping[str, Any]
) -> tuple[Settings, dict[str, tuple[Any, Any]], dict[str, Any]]:
    """Read the settings in a checkpoint, for --resume.

    Parameters
    ----------
    path : str or PathLike
        The checkpoint.
    options : mapping
        The fields of `Settings` that are given on the command line.

    Returns
    -------
    settings : Settings
        The stored ones, changed by `options`.
    changes : dict
        Name -> (old value, new value).
    extra : dict
        All fields that the run has stored.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is no checkpoint of `rnnfast train`, or options change a setting that must stay.
    """
    extra: Any = load_arrays(path, only_header=True)[1].get("extra")
    try:
        headers.training("extra", extra)
        checks = {
            field.name: CHECKS.get(field.name) or headers.any_of_type(field.type)
            for field in fields(Settings)
        }
        if foreign := extra["settings"].keys() - checks.keys():
            raise headers.Wrong(f"extra.settings has {min(foreign)[:60]!r}")
        for name, value in extra["settings"].items():
            checks[name](f"extra.settings.{name}", value)
    except headers.Wrong as error:
        raise ValueError(f"{path}: not a checkpoint of `rnnfast train` ({error})") from None
    stored = Settings(**extra["settings"])
    changes: dict[str, tuple[Any, Any]] = {}
    for name, value in options.items():
        old = getattr(stored, name)
        if old == (absolute(value) if name in FILES else value):
            continue
        moved = name in FILES and name != "init" and old is not None and value is not None
        if not (moved or name in FREE or name in BATCH):
            free = ", ".join(f"--{option_name(other)}" for other in FREE + BATCH)
            raise ValueError(
                f"--resume: {option_name(name)} is {old} in {path}, got {value}; leave it out, or "
                f"start anew with another --out (what may change: {free})"
            )
        if name not in ("lr", "sample", "save_every"):
            changes[name] = old, value
    if "optimizer" in changes:  # the defaults of the new one
        options = {"lr": None, "nonmono": None, **options}
    return replace(stored, **options), changes, extra


def check_together(settings: Settings) -> None:
    """ValueError for settings that do not go together, apart from those of the model."""
    if settings.valid is None:
        needs = "needs --valid: a text on which improvement is measured"
        if settings.lr_decay is not None:
            raise ValueError(f"--lr-decay {needs}")
        if settings.patience is not None:
            raise ValueError(f"--patience {needs}")
        if settings.optimizer == "ntasgd":
            raise ValueError(f"--optimizer ntasgd {needs}")
    if settings.patience is not None and settings.gradual is not None:
        raise ValueError("--patience does not go with --gradual, which says when a stage ends")
    if settings.nonmono is not None and settings.optimizer != "ntasgd":
        rule = settings.optimizer
        raise ValueError(f"--nonmono goes with --optimizer ntasgd, not with --optimizer {rule}")
    if settings.weight_decay and settings.optimizer not in DECAYING:
        rules, rule = ", ".join(DECAYING), settings.optimizer
        raise ValueError(
            f"--weight-decay goes with --optimizer {rules}, not with --optimizer {rule}"
        )


def given_of_ranks(settings: Settings) -> list[str]:
    """The options about several ranks that are not as usual."""
    usual = Settings()
    given = [name for name in OF_RANKS if getattr(settings, name) != getattr(usual, name)]
    return [f"--{option_name(name)}" for name in given]


def build_optimizer(settings: Settings) -> Any:
    """Make the optimiser for the settings."""
    rule, usual_lr = RULES[settings.optimizer]
    options: dict[str, Any] = {}
    if settings.nonmono is not None:
        options["interval"] = settings.nonmono
    if settings.optimizer in DECAYING:
        options["weight_decay"] = settings.weight_decay
    return OPTIMIZERS[rule](usual_lr if settings.lr is None else settings.lr, **options)


def build_model(settings: Settings, vocab_size: int, rng: Any = None) -> LanguageModelBase:
    """Make the model for the settings.

    Parameters
    ----------
    settings : Settings
    vocab_size : int
    rng : optional
        As of the model; None is the seed of the settings.

    Raises
    ------
    ValueError
        If an option belongs to another kind of model.
    """
    name = settings.model
    ties = name == "better" or settings.tie
    embedding = settings.embedding or (settings.hidden if ties else 64)
    options: dict[str, Any] = {"rng": settings.seed if rng is None else rng}
    usual = Settings()
    given = [field for field in CUSTOM if getattr(settings, field) != getattr(usual, field)]
    if name == "better":
        given = [field for field in given if field != "dropout"]
        options["dropout_ratio"] = 0.5 if settings.dropout is None else settings.dropout
    if name == "custom":
        options |= {argument: getattr(settings, field) for field, argument in CUSTOM.items()}
        options["dropout"] = settings.dropout or 0.0
    elif given:
        wrong = option_name(given[0])
        kinds = "better or custom" if wrong == "dropout" else "custom"
        raise ValueError(f"--{wrong} goes with --model {kinds}, not with --model {name}")
    try:
        made: LanguageModelBase = getattr(models, MODELS[name])(
            vocab_size, embedding, settings.hidden, **options
        )
    except ValueError as error:
        raise ValueError(with_options(str(error))) from None
    return made


def with_options(message: str) -> str:
    """The message of a model's error, with the options of the command line for its arguments."""
    names = {argument: field for field, argument in CUSTOM.items()}
    names |= {"hidden_size": "hidden", "wordvec_size": "embedding"}
    message = re.sub(r"^\w+: ", "", message).replace("must be None", "must be left out")
    words = rf"(?<![\w-])({'|'.join(names)})(?= must | = | '|,)"
    return re.sub(words, lambda found: f"--{option_name(names[found[1]])}", message)


def describe_model(model: LanguageModelBase) -> str:
    """One line with the class, the device and the sizes of a model."""
    sizes = model.sizes
    device = model.recurrent_layers[0].device
    return (
        f"{type(model).__name__} on {device}: embedding {sizes['wordvec_size']}, "
        f"hidden {sizes['hidden_size']}, {count_parameters(model):,} parameters"
    )


def count_parameters(model: LanguageModelBase) -> int:
    """The number of a model's parameters; shared ones count once."""
    shared = (name is None for name in model.param_names)  # views of others
    return sum(param.size for param, view in zip(model.params, shared, strict=True) if not view)
