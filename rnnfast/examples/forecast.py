"""Forecasting a series of real numbers, some steps ahead, by its squared error: many to many.

The series is the Mackey-Glass equation, which is chaotic and a usual test of forecasts (Mackey and
Glass 1977), with a little noise on the measurements:

    dx/dt = 0.2 x(t - 17) / (1 + x(t - 17)^10) - 0.1 x(t)

At every step a GRU forecasts the value some steps ahead. The last fifth of the series is held out.
The baseline repeats the last value. "Skill" is the share of the baseline's squared error that the
model removes: 100% is perfect, 0 is as good as the baseline, a negative skill is worse.

    python -m rnnfast.examples.forecast
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast import sequences
from rnnfast.examples import common
from rnnfast.layers.cells import RECURRENT

LENGTH = 6000  # measurements
TESTED = 0.2  # share of the series that is held out
NOISE = 0.02  # standard deviation
AHEAD = 6  # steps, of a unit of time each
WINDOW = 100  # steps of a sample
WARM_UP = 50  # held-out steps that are read first, so that the state knows the series


def mackey_glass(length: int, seed: int) -> NDArray[np.float64]:
    """Make `length` noisy measurements, by Euler's method with ten steps per unit of time."""
    rng, fine, delay = np.random.default_rng(seed), 10, 170
    skipped = 500  # units of time until the initial values do not matter
    x = np.full((length + skipped) * fine + delay, 1.2)
    x[: delay + 1] += 0.1 * rng.normal(size=delay + 1)
    for t in range(delay, len(x) - 1):
        past = x[t - delay]
        x[t + 1] = x[t] + (0.2 * past / (1 + past**10) - 0.1 * x[t]) / fine
    clean = x[delay + skipped * fine :: fine]
    noisy: NDArray[np.float64] = clean + NOISE * rng.normal(size=length)
    return noisy


def windows(series: NDArray[Any], ahead: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Cut a series into inputs and targets (M, WINDOW, 1); neighbouring windows overlap by half."""
    starts = np.arange(0, len(series) - WINDOW - ahead + 1, WINDOW // 2)
    places = starts[:, np.newaxis] + np.arange(WINDOW)
    return series[places, np.newaxis], series[places + ahead, np.newaxis]


def run(
    *,
    cell: str = "gru",
    hidden: int = 64,
    epochs: int = 100,
    seed: int = 0,
    length: int = LENGTH,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], list[float]]:
    """Train a model.

    Returns
    -------
    forecast, truth, last : ndarray (M,)
        On the held-out part: the forecasts, the measurements and the last values, the baseline.
    skills : list of float
        The skill after each epoch.
    """
    series = mackey_glass(length, seed)
    split = round(length * (1 - TESTED))
    mean, spread = series[:split].mean(), series[:split].std()  # of the training part only
    scaled = ((series - mean) / spread).astype(np.float32)
    model = sequences.SequenceRegressor(1, hidden, cell=cell, rng=seed)
    xs, ts = windows(scaled[:split], AHEAD)

    held_out = scaled[split:]
    truth, last = series[split + WARM_UP + AHEAD :], series[split + WARM_UP : -AHEAD]

    def forecast() -> NDArray[Any]:
        ys = model.predict(held_out[np.newaxis, :, np.newaxis])[0, :, 0]
        found: NDArray[Any] = ys[WARM_UP:-AHEAD] * spread + mean
        return found

    def skill() -> float:
        return 1 - float(np.mean((forecast() - truth) ** 2) / np.mean((last - truth) ** 2))

    skills = common.train(model, xs, ts, skill, epochs=epochs, batch_size=16, lr=0.005, seed=seed)
    return forecast(), truth, last, skills


def rmse(forecast: NDArray[Any], truth: NDArray[Any]) -> float:
    """The root of the mean squared error."""
    return float(np.sqrt(np.mean((forecast - truth) ** 2)))


def draw(figure: Any, forecast: NDArray[Any], truth: NDArray[Any], last: NDArray[Any]) -> None:
    """Draw the beginning of the held-out part: the values above, their errors below."""
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    shown = min(300, len(truth))
    for values, label, style in (
        (truth, "measured", {"color": "black"}),
        (forecast, "forecast", {"color": "tab:red", "linestyle": "--"}),
        (last, "last value", {"color": "tab:gray", "linewidth": 0.8}),
    ):
        upper.plot(values[:shown], label=label, **style)
        if values is not truth:
            lower.plot(values[:shown] - truth[:shown], **style)
    upper.set(title=f"{AHEAD} steps ahead, the beginning of the held-out part", ylabel="x")
    figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    lower.set(xlabel="step", ylabel="error")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = common.parser("forecast", __doc__, epochs=100)
    option = parser.add_argument
    option("--cell", choices=tuple(RECURRENT), default="gru", help="type of layer (default: gru)")
    option("--hidden", type=common.count, default=64, metavar="N", help="units (default: 64)")
    options = vars(parser.parse_args(argv))
    picture, start = options.pop("picture"), time.monotonic()
    forecast, truth, last, skills = run(**options)
    print(f"root of the mean squared error on {len(truth):,} held-out steps, {AHEAD} ahead:")
    print(f"  last value: {rmse(last, truth):.4f}")
    print(f"  {options['cell']}:        {rmse(forecast, truth):.4f}")
    print(f"  skill:      {skills[-1]:.2%} (noise of {NOISE} is in every measurement)")
    common.draw_picture(picture, lambda figure: draw(figure, forecast, truth, last), 11, 5)
    print(f"in {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
