"""Gradual learning, `rnnfast train --gradual`: one recurrent layer after the other.

A run has stages. Each trains a model with one layer more than the one before, from its weights.
"""

from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from rnnfast.commands.settings import Settings, build_model
from rnnfast.io import headers
from rnnfast.models import LanguageModelBase, start_from
from rnnfast.text.base import counted


@dataclass(frozen=True)
class Stage:
    """A part of a run: the epochs from `begin` on and before `end`, counted from 0.

    A run without --gradual has one, with all layers.
    """

    number: int  # from 1 up
    count: int
    layers: int
    begin: int
    end: int

    def __str__(self) -> str:
        layers = "1 layer" if self.layers == 1 else f"{self.layers} layers"
        epochs = f"epochs {self.begin + 1} to {self.end}"
        if self.begin + 1 == self.end:
            epochs = f"epoch {self.end}"
        return f"stage {self.number} of {self.count}: {layers}, {epochs}"


def stages(settings: Settings) -> list[Stage]:
    """List the stages of a run, whose settings have passed `check_gradual`."""
    if settings.gradual is None:
        return [Stage(1, 1, settings.layers, 0, settings.epochs)]
    bounds = pairwise([0, *accumulate(settings.gradual), settings.epochs])
    return [Stage(k, settings.layers, k, *bound) for k, bound in enumerate(bounds, start=1)]


def stored_stage(number: object, settings: Settings, path: str) -> Stage:
    """Return the stage in which a checkpoint was made, for --resume.

    Parameters
    ----------
    number : object
        What the checkpoint says; None in one of a run without stages.
    settings : Settings
    path : str
        The checkpoint, for errors.

    Raises
    ------
    ValueError
        If there is no such stage.
    """
    found = stages(settings)
    try:
        headers.integer(1, len(found))("extra.stage", 1 if number is None else number)
    except headers.Wrong as error:
        raise ValueError(f"{path}: not a checkpoint of `rnnfast train` ({error})") from None
    return found[0] if number is None else next(s for s in found if s.number == number)


def check_gradual(settings: Settings) -> None:
    """ValueError for a --gradual that does not go with the other settings."""
    epochs, layers = settings.gradual, settings.layers
    if epochs is None:
        return
    if settings.model != "custom":
        raise ValueError(f"--gradual goes with --model custom, not with --model {settings.model}")
    if not isinstance(epochs, list) or any(type(n) is not int or n < 1 for n in epochs):
        raise ValueError(f"--gradual must be a list of integers from 1 up, got {epochs!r}")
    if len(epochs) != layers - 1:
        raise ValueError(
            f"--gradual must have {counted(layers - 1, 'number')} with --layers {layers}, one for "
            f"each layer but the last, got {len(epochs)}"
        )
    if sum(epochs) >= settings.epochs:
        raise ValueError(
            f"--epochs must be above {sum(epochs)}, the sum of --gradual, got {settings.epochs}"
        )


def stage_model(settings: Settings, stage: Stage, vocab_size: int) -> LanguageModelBase:
    """Make the model of a stage, with new weights."""
    return build_model(replace(settings, layers=stage.layers), vocab_size)


def next_stage(
    settings: Settings, stage: Stage, trained: LanguageModelBase, vocab_size: int
) -> tuple[Stage, LanguageModelBase] | None:
    """Make the model of the stage that follows, started from the trained one; None at the end."""
    if stage.number == stage.count:
        return None
    following = stages(settings)[stage.number]
    model = stage_model(settings, following, vocab_size)
    start_from(model, trained, f"--gradual: the model of stage {stage.number}")
    return following, model


def check_stages(settings: Settings, vocab_size: int) -> None:
    """ValueError if the model of a stage cannot start from that of the stage before."""
    stage = stages(settings)[0]
    model = stage_model(settings, stage, vocab_size) if stage.count > 1 else None
    while model is not None:
        following = next_stage(settings, stage, model, vocab_size)
        stage, model = following or (stage, None)
