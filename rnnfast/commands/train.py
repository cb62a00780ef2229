"""`rnnfast train`: from a text to a folder with weights, checkpoints, log and curve."""

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

from rnnfast import plot
from rnnfast.commands.arguments import Commands, add_command
from rnnfast.commands.beginning import start_from_file
from rnnfast.commands.fitting import fit_stages
from rnnfast.commands.folder import (
    BEST,
    CHECKPOINT,
    GOOD,
    LOG,
    is_damaged,
    refuse_to_overwrite,
    take_folder,
    tidy,
)
from rnnfast.commands.recipes import recipe_settings
from rnnfast.commands.report import draw_curve, print_sample, report
from rnnfast.commands.run import Run
from rnnfast.commands.schedule import build_schedule
from rnnfast.commands.settings import (
    BATCH,
    MODELS,
    Settings,
    build_optimizer,
    check_together,
    describe_model,
    given_of_ranks,
    option_name,
    stored_settings,
)
from rnnfast.commands.stages import (
    check_gradual,
    check_stages,
    stage_model,
    stages,
    stored_stage,
)
from rnnfast.commands.texts import Texts
from rnnfast.commands.together import together
from rnnfast.commands.train_options import add_options
from rnnfast.distributed.ranks import Ranks, by_first
from rnnfast.io.files import remove
from rnnfast.kernels import get_float32_matmul_precision, set_float32_matmul_precision
from rnnfast.text.vocabulary import UNITS
from rnnfast.training.averaging import NTASGD
from rnnfast.training.callbacks import JsonlLog, ProgressBar
from rnnfast.training.language import RnnlmTrainer
from rnnfast.training.rounds import Sync
from rnnfast.training.stopping import stop_on_interrupt
from rnnfast.version import __version__


def add(commands: Commands) -> None:
    """Add the subcommand and its arguments."""
    command = add_command(
        commands,
        "train",
        train,
        "train a language model on a text",
        "Train a recurrent language model on a text by truncated BPTT, report its perplexity on "
        "held-out text, and print generated text. Ctrl-C and SIGTERM save a checkpoint and print "
        "the command that continues the run. generate, eval and score read checkpoints, too.",
    )
    add_options(command)


def train(
    out: str = "rnnfast-out",
    *,
    resume: bool = False,
    force: bool = False,
    recipe: str | None = None,
    plot_curve: bool | None = None,
    verbose: bool = False,
    **options: Any,
) -> None:
    """Train a language model on a text, evaluate it, and generate some text.

    Parameters
    ----------
    out : str
        Folder for the results, see Notes.
    resume : bool
        Continue from the checkpoint in `out`, with its settings. Options that do not change the
        model may be given, too.
    force : bool
        Start anew in a folder that holds a run.
    recipe : str, optional
        A name in `rnnfast.commands.recipes.RECIPES`, whose settings are used where `options` has
        none. Not with `resume`: the checkpoint has the settings.
    plot_curve : bool, optional
        Draw the perplexity curve. None draws it if matplotlib is installed, True requires
        matplotlib.
    verbose : bool
        Also print what the exchange of gradients between ranks has cost.
    **options
        Fields of `rnnfast.commands.settings.Settings`.

    Raises
    ------
    ValueError, OSError, ModuleNotFoundError
        If an argument is wrong, a file cannot be read or written, `out` holds a run and neither
        `resume` nor `force` is given, or matplotlib is missing. This is checked before training
        starts.
    RuntimeError
        If training diverges. The checkpoint is then one from before the divergence.
    Stop
        After Ctrl-C or SIGTERM, a KeyboardInterrupt of `rnnfast.trainer`. The running iteration is
        finished and a checkpoint saved before.

    Notes
    -----
    These files are written into `out`: the weights, at the end of training (with a validation text
    those of the best epoch, else the last ones); the last checkpoint, the last good one and, with a
    validation text, the best one, which can be read as weight files, too; a log with one JSON
    object per line; the perplexity curve.

    Started by mpiexec, all ranks train together, and rank 0 reads and writes the files in `out`.
    """
    with together() as ranks, ExitStack() as until:
        if recipe is not None:
            if resume:
                raise ValueError("--resume needs no --recipe: the checkpoint has the settings")
            options = recipe_settings(recipe) | options
        run, changes, extra = _prepare(ranks, until, out, resume, force, plot_curve, options)
        with _multiplying(run.settings.matmul_precision):
            _train(run, changes, extra, plot_curve, verbose)


@contextmanager
def _multiplying(precision: str) -> Iterator[None]:
    """Multiply with this precision in a block."""
    before = get_float32_matmul_precision()
    set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        set_float32_matmul_precision(before)


def _train(
    run: Run,
    changes: dict[str, tuple[Any, Any]],
    extra: dict[str, Any] | None,
    plot_curve: bool | None,
    verbose: bool,
) -> None:
    """Train, evaluate and generate, once everything is checked."""
    settings, texts, ranks = run.settings, run.texts, run.trainer.ranks
    print(
        f"{texts.name}: {len(texts.corpus):,} {UNITS[settings.level]}, "
        f"{len(texts.vocabulary)} different"
    )
    print(describe_model(run.model), flush=True)
    if ranks is None and (idle := given_of_ranks(settings) + ["--verbose"] * verbose):
        print(f"without effect, as this is one process, not started by mpiexec: {', '.join(idle)}")
    with _reporting(run, extra) as (log, bar):
        if extra is None:
            _start(run, log, bar)
        else:
            _resume(run, log, bar, changes)
        with stop_on_interrupt(run.trainer) as received:
            fit_stages(run, log, bar)
            if run.trainer.agree():
                run.stopped(received)
            weights = _save_weights(run)
            if run.trainer.agree():
                run.stopped(received)
        run.write(f"weights: {weights}")
        if verbose and ranks is not None:
            run.write(f"gradients between {ranks.size} ranks: {run.trainer.traffic}")
        bar.close()
        report(settings, run.model, texts, log, run)
    if not run.leads:
        return
    draw_curve(run.out, run, plot_curve)
    if settings.sample:
        print_sample(settings, run.model, texts)


def _prepare(
    ranks: Ranks | None,
    until: ExitStack,
    out: str,
    resume: bool,
    force: bool,
    plot_curve: bool | None,
    options: dict[str, Any],
) -> tuple[Run, dict[str, tuple[Any, Any]], dict[str, Any] | None]:
    """Check everything that can be wrong, and make the run, whose folder is taken `until` its end.

    Returns the run, the settings that --resume changes (name -> (old, new)), and the fields that
    the run stored in its checkpoint, None for a new run.
    """
    if not out:
        raise ValueError(f"--out must name a folder, got {out!r}")
    checkpoint = os.path.join(out, CHECKPOINT)
    changes: dict[str, tuple[Any, Any]] = {}
    extra: dict[str, Any] | None = None
    if resume:
        if force:
            raise ValueError("--resume and --force exclude each other")
        settings, changes, extra = by_first(ranks, lambda: _stored(out, checkpoint, options))
    else:
        settings = Settings(**options)
        if not force:
            by_first(ranks, lambda: refuse_to_overwrite(out))
    if plot_curve and not plot.available():
        raise ModuleNotFoundError('matplotlib is missing: pip install "rnnfast[plot]"')
    check_together(settings)
    check_gradual(settings)
    schedule = build_schedule(settings)
    stage = stages(settings)[0]
    if extra is not None:
        stage = stored_stage(extra.get("stage"), settings, checkpoint)

    texts = Texts(settings)
    if ranks is not None:
        same = {f"--{option_name(name)}": value for name, value in asdict(settings).items()}
        same |= {"the texts": texts.digests, "rnnfast's version": __version__}
        ranks.check_same("train", same)
        if settings.batch_size < ranks.size:
            raise ValueError(
                f"--batch-size must be at least the number of ranks, {ranks.size}, "
                f"got {settings.batch_size}"
            )
    if extra is not None:
        texts.check_same(extra["texts"], checkpoint)
    else:
        check_stages(settings, len(texts.vocabulary))
    model = stage_model(settings, stage, len(texts.vocabulary))
    if settings.init is not None and not resume:
        start_from_file(settings.init, model, texts.vocabulary)
    by_first(ranks, lambda: take_folder(out, until))

    sync = Sync(settings.sync_every, settings.outer_lr, settings.outer_momentum, settings.compress)
    given: dict[str, Any] = {"comm": ranks, "sync": sync, "schedule": schedule}
    trainer = RnnlmTrainer(model, build_optimizer(settings), **given)
    if resume:
        _restore(trainer, checkpoint, settings, "lr" in options, changes)
    by_first(ranks, lambda: tidy(out))
    return Run(out, settings, texts, model, trainer, stage, extra), changes, extra


def _stored(
    out: str, checkpoint: str, options: dict[str, Any]
) -> tuple[Settings, dict[str, tuple[Any, Any]], dict[str, Any]]:
    """stored_settings of a checkpoint; if it is damaged, the error says what else there is."""
    try:
        return stored_settings(checkpoint, options)
    except ValueError as error:
        good = os.path.join(out, GOOD)
        if is_damaged(checkpoint) and not is_damaged(good):
            error.add_note(f"{good} is an earlier one: copied over it, --resume goes on from there")
        raise


def _restore(
    trainer: RnnlmTrainer,
    checkpoint: str,
    settings: Settings,
    lr_given: bool,
    changes: dict[str, tuple[Any, Any]],
) -> None:
    """Load a checkpoint, apply the learning rate, and add its change to `changes`."""
    optimizer: Any = trainer.optimizer
    new = build_optimizer(settings)
    trainer.load_checkpoint(checkpoint, optimizer="optimizer" not in changes)
    if lr_given and optimizer.lr != new.lr:
        changes["lr"] = optimizer.lr, new.lr
        optimizer.lr = new.lr
    elif "optimizer" in changes:
        changes["lr"] = "that of the old one", optimizer.lr
    if "weight_decay" in changes:
        optimizer.weight_decay = settings.weight_decay
    if isinstance(new, NTASGD):
        optimizer.interval = new.interval
    for name in BATCH:
        if name in changes and not trainer.between_epochs:
            raise ValueError(
                f"--resume: --{option_name(name)} may change where an epoch begins, but the "
                f"checkpoint is after iteration {trainer.iterations(0)} of "
                f"{trainer.max_iter} of epoch {trainer.current_epoch + 1}"
            )


@contextmanager
def _reporting(run: Run, extra: dict[str, Any] | None) -> Iterator[tuple[JsonlLog, ProgressBar]]:
    """The log and the progress bar, connected with the trainer; closed at the end."""
    settings, trainer = run.settings, run.trainer
    path = os.path.join(run.out, LOG) if run.leads else os.devnull
    if (
        run.leads and extra is not None and os.path.exists(path)
    ):  # lines after the checkpoint are written again
        os.truncate(path, min(extra["log_bytes"], os.path.getsize(path)))
    mode = "wb" if extra is None else "ab"
    max_iter = len(run.texts.xs) // (settings.batch_size * settings.time_size)
    with ExitStack() as stack:
        log = JsonlLog(stack.enter_context(open(path, mode, buffering=0)))
        bar = ProgressBar(settings.epochs * max_iter, trainer.iterations(max_iter))
        stack.callback(bar.close)
        stack.callback(run.drop_candidate)
        stack.enter_context(warnings.catch_warnings())
        if run.leads:
            warnings.showwarning = lambda message, *where, **more: bar.warn(message)
        run.report_to(bar, log)
        yield log, bar


def _start(run: Run, log: JsonlLog, bar: ProgressBar) -> None:
    """Log the start of a new run and save its first checkpoint."""
    settings, texts = run.settings, run.texts
    more: dict[str, Any] = {} if settings.gradual is None else {"gradual": settings.gradual}
    if run.trainer.schedule is not None:
        more["schedule"] = repr(run.trainer.schedule)
    log.write(
        event="start",
        text=texts.name,
        **{UNITS[settings.level]: len(texts.corpus)},
        **run.model.sizes,
        optimizer=settings.optimizer,
        lr=run.trainer.optimizer.lr,
        max_grad=settings.max_grad,
        batch_size=settings.batch_size,
        time_size=settings.time_size,
        seed=settings.seed,
        **more,
    )
    run.announce(bar, log)
    run.checkpoint.save()  # a run that is killed at once can be resumed, too
    run.copy(run.checkpoint.path, run.good)


def _resume(run: Run, log: JsonlLog, bar: ProgressBar, changes: dict[str, tuple[Any, Any]]) -> None:
    """Log that a run continues, and print the settings that have changed."""
    epoch = run.trainer.current_epoch + 1
    log.write(event="resume", epoch=epoch)
    run.write(f"resumed in epoch {epoch}: {run.checkpoint.path}")
    run.announce(bar, log)
    run.copy(run.checkpoint.path, run.candidate)
    for name, (old, new) in changes.items():
        run.write(f"  --{option_name(name)}: {old} before, {new} now")
    if "optimizer" in changes:
        run.write("  the new optimizer starts with a state of its own")


def _save_weights(run: Run) -> str:
    """Write the weights of a run that has ended, and return the path."""
    model, ranks = run.model, run.trainer.ranks
    run.texts.prime_with(model)
    path = os.path.join(run.out, f"{type(model).__name__}.safetensors")

    def write() -> None:
        model.save_params(path, run.texts.vocabulary)
        older = {os.path.join(run.out, f"{kind}.safetensors") for kind in MODELS.values()} - {path}
        if run.settings.valid is None:
            older.add(os.path.join(run.out, BEST))
        for file in filter(os.path.exists, older):  # of the run that --force has replaced
            remove(file)

    by_first(ranks, write)
    return path
