"""What `rnnfast train` shows at its end: perplexity, curve, a sample."""

import os

from rnnfast import plot
from rnnfast.commands.generate import TEMPERATURE
from rnnfast.text import sampling
from rnnfast.text.vocabulary import UNITS

PROMPT = 64  # tokens that the sample at the end goes on from


def report(settings, model, texts, log, run):
    """Evaluate the trained model on what is held out and on the test text."""
    unit = UNITS[settings.level]
    if texts.held_out is not None:
        ids = texts.held_out
        result = texts.measured(model, ids, 1, min(settings.time_size, len(ids) - 1))
        log.write(event="held_out", **{unit: len(ids)}, **result.fields)
        print(f"held-out perplexity (last {len(ids):,} {unit}): {result}")
        run.valid[:] = [[run.trainer.current_epoch, result.ppl]]  # for the picture
    if texts.test is not None:
        result = texts.measured(model, texts.test)
        log.write(event="test", **{unit: len(texts.test)}, **result.fields)
        print(f"test perplexity: {result}")


def draw_curve(out, run, wanted):
    if wanted is False:
        return
    if plot.available():
        file = os.path.join(out, "perplexity.png")
        name = "held out" if run.settings.valid is None else "validation"
        points = {"training": run.curve, name: run.valid}
        curves = {name: tuple(zip(*ps, strict=True)) for name, ps in points.items() if ps}
        plot.save_curves(file, curves, f"Perplexity of {type(run.trainer.model).__name__}")
        print(f"curve: {file}")
    else:
        print("curve: not drawn, matplotlib is missing (pip install 'rnnfast[plot]')")


def print_sample(settings, model, texts):
    """Print some text that goes on from the beginning of the training text."""
    start = texts.corpus[:PROMPT]
    ids = sampling.generate(
        model, start, settings.sample, temperature=TEMPERATURE, rng=settings.seed
    )
    decode = texts.vocabulary.decode
    print(f"prompt, the beginning of the text: {decode(start)!r}")
    print(f"generated text (temperature {TEMPERATURE}):\n{decode(ids)}")
