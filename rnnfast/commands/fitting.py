"""The loop of `rnnfast train`: its stages, their epochs, and a validation after each epoch."""

from typing import Any

from numpy.typing import NDArray

from rnnfast.commands.run import Run
from rnnfast.commands.stages import next_stage
from rnnfast.training.averaging import NTASGD
from rnnfast.training.callbacks import JsonlLog, ProgressBar
from rnnfast.training.stopping import Diverged


def fit_stages(run: Run, log: JsonlLog, bar: ProgressBar) -> None:
    """Train until all epochs are done or the trainer is stopped; Diverged if the loss diverges."""
    try:
        _fit_stage(run, log)
        while not run.trainer.agree():
            run.take_final_weights()
            following = next_stage(run.settings, run.stage, run.model, len(run.texts.vocabulary))
            if following is None:
                return
            run.begin(*following, bar, log)
            if not run.trainer.agree():  # meanwhile
                _fit_stage(run, log)
    except Diverged as error:
        raise Diverged(f"{error}: {run.after_divergence()}") from None


def _fit_stage(run: Run, log: JsonlLog) -> None:
    """Train until the stage ends or the trainer is stopped."""
    if run.texts.valid is None:
        _fit(run, run.stage.end - run.stage.begin)
    else:
        _fit_and_validate(run, run.texts.valid, log)
    run.check_end()


def _fit(run: Run, epochs: int) -> None:
    """Train up to `epochs` more epochs, those of a fit that is resumed included."""
    settings, texts = run.settings, run.texts
    run.trainer.fit(
        texts.xs,
        texts.ts,
        epochs,
        settings.batch_size,
        settings.time_size,
        settings.max_grad,
        settings.eval_interval,
        restart_every=settings.restart_every or None,
        length_seed=settings.seed if settings.vary_length else None,
    )


def _fit_and_validate(run: Run, valid: NDArray[Any], log: JsonlLog) -> None:
    """The loop of the book's ch06/train_better_rnnlm.py, which may be stopped and resumed.

    After each epoch of the stage it measures the perplexity on `valid`, reduces the learning rate
    if that has not improved, and saves a checkpoint. --patience may end it.
    """
    trainer, optimizer = run.trainer, run.trainer.optimizer
    while trainer.current_epoch < run.stage.end and not run.worn_out():
        _fit(run, 1)
        if trainer.stopped:
            return
        lr, epoch = optimizer.lr, trainer.current_epoch
        with run.averaged():
            result = run.texts.measured(run.model, valid, comm=trainer.ranks)
        best = run.plateau.update(result.ppl)
        begins = isinstance(optimizer, NTASGD) and optimizer.check(result.ppl)
        run.valid.append([epoch, result.ppl])
        rate = "" if optimizer.lr == lr else f" | lr {optimizer.lr:g}"
        run.write(f"| epoch {epoch} | validation perplexity {result}{rate}")
        if begins:
            run.write(f"| epoch {epoch} | the weights are averaged from here on")
        log.write(event="valid", epoch=epoch, **result.fields, lr=lr)
        run.checkpoint.save(best=best)
        if trainer.agree():
            return
