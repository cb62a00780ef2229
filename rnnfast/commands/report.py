"""Output at the end of `rnnfast train`: perplexity, curve, a sample."""

import os
from typing import Any

from rnnfast import plot
from rnnfast.commands.generate import TEMPERATURE
from rnnfast.commands.run import Run
from rnnfast.commands.settings import Settings
from rnnfast.commands.texts import Texts
from rnnfast.models import LanguageModelBase
from rnnfast.text import sampling
from rnnfast.text.vocabulary import UNITS
from rnnfast.training.callbacks import JsonlLog

PROMPT = 64  # tokens that the sample at the end continues


def report(
    settings: Settings, model: LanguageModelBase, texts: Texts, log: JsonlLog, run: Run
) -> None:
    """Evaluate the trained model on the held-out text and on the test text."""
    unit = UNITS[settings.level]
    if texts.held_out is not None:
        ids = texts.held_out
        result = texts.measured(
            model, ids, 1, min(settings.time_size, len(ids) - 1), comm=run.trainer.ranks
        )
        log.write(event="held_out", **{unit: len(ids)}, **result.fields)
        print(f"held-out perplexity (last {len(ids):,} {unit}): {result}")
        run.valid[:] = [[run.trainer.current_epoch, result.ppl]]  # for the curve
    if texts.test is not None:
        result = texts.measured(model, texts.test, comm=run.trainer.ranks)
        log.write(event="test", **{unit: len(texts.test)}, **result.fields)
        print(f"test perplexity: {result}")


def draw_curve(out: str, run: Run, wanted: bool | None) -> None:
    """Draw the perplexity curve, unless wanted is False or matplotlib is missing."""
    if wanted is False:
        return
    if plot.available():
        file = os.path.join(out, "perplexity.png")
        name = "held out" if run.settings.valid is None else "validation"
        points = {"training": run.curve, name: run.valid}
        curves = {
            name: ([epoch for epoch, _ in pairs], [ppl for _, ppl in pairs])
            for name, pairs in points.items()
            if pairs
        }
        plot.save_curves(file, curves, f"Perplexity of {type(run.trainer.model).__name__}")
        print(f"curve: {file}")
    else:
        print('curve: not drawn, matplotlib is missing (pip install "rnnfast[plot]")')


def print_sample(settings: Settings, model: LanguageModelBase, texts: Texts) -> None:
    """Print generated text that continues the beginning of the training text."""
    start = texts.corpus[:PROMPT]
    decode, unknown = texts.vocabulary.decode, texts.vocabulary.unknown
    skipped = [] if unknown is None else [texts.vocabulary.token_to_id[unknown]]
    options: dict[str, Any] = {"temperature": TEMPERATURE, "rng": settings.seed}
    ids = sampling.generate(model, start, settings.sample, **options, skip_ids=skipped)
    print(f"prompt, the beginning of the text: {decode(start)!r}")
    print(f"generated text (temperature {TEMPERATURE}):\n{decode(ids)}")
