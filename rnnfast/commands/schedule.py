"""The learning-rate schedule of `rnnfast train`: --schedule, --warm-up, --step-every."""

from rnnfast.commands.settings import Settings, option_name
from rnnfast.training.schedules import Cosine, Schedule, StepDecay, WarmUp


def build_schedule(settings: Settings) -> Schedule | None:
    """Make the schedule for the settings; None for a constant learning rate.

    Raises
    ------
    ValueError
        For settings that do not go together.
    """
    kind, epochs, warm_up = settings.schedule, float(settings.epochs), settings.warm_up
    for name in ("step_every", "step_factor"):
        if getattr(settings, name) is not None and kind != "step":
            option = option_name(name)
            raise ValueError(f"--{option} goes with --schedule step, not with --schedule {kind}")
    after: Schedule | None = None
    if kind == "step":
        if settings.step_every is None:
            raise ValueError("--schedule step needs --step-every: the epochs between two steps")
        factor = {} if settings.step_factor is None else {"factor": settings.step_factor}
        after = StepDecay(settings.step_every, **factor)
    elif kind == "cosine":
        if warm_up is not None and warm_up >= epochs:
            raise ValueError(
                f"--warm-up must be below --epochs {epochs:g} with --schedule cosine, "
                f"got {warm_up:g}"
            )
        after = Cosine(epochs - (warm_up or 0.0))
    if warm_up is None:
        return after
    return WarmUp(warm_up) if after is None else WarmUp(warm_up).then(after)
