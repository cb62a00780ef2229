"""`rnnfast train`: a text in; a folder with weights, checkpoints, log and curve out."""

import argparse
import glob
import math
import os
import tempfile
import warnings
from contextlib import ExitStack

from rnnfast import plot
from rnnfast.commands.arguments import (
    add_command,
    factor,
    natural_int,
    positive_float,
    positive_int,
    ratio,
    seconds,
)
from rnnfast.commands.report import draw_curve, print_sample, report
from rnnfast.commands.run import (
    CHECKPOINT,
    Lines,
    Run,
    _copy,
    fit,
    fit_and_validate,
    refuse_to_overwrite,
)
from rnnfast.commands.settings import (
    BATCH,
    CELLS,
    FREE,
    MODELS,
    RULES,
    Settings,
    build_model,
    describe_model,
    option_name,
    stored_settings,
)
from rnnfast.commands.texts import Texts
from rnnfast.text.vocabulary import UNITS
from rnnfast.training.callbacks import JsonlLog, ProgressBar
from rnnfast.training.optimizers import OPTIMIZERS
from rnnfast.training.stopping import Diverged, stop_on_interrupt
from rnnfast.training.trainers import RnnlmTrainer


def add(commands):
    command = add_command(
        commands,
        "train",
        train,
        "train a language model on a text",
        "Train a recurrent language model on a text by truncated BPTT, report its perplexity on "
        "text it has not seen, and print some text that it generates. Ctrl-C and SIGTERM save a "
        "checkpoint and print the command that goes on; generate, eval and score read it, too.",
    )
    usual = Settings()

    def option(group, name, kind, metavar, help, default=None, **more):
        default = getattr(usual, name.replace("-", "_"), None) if default is None else default
        help += f" (default: {default})"
        group.add_argument(f"--{name}", type=kind, metavar=metavar, help=help, **more)

    def choice(group, name, choices, help):
        help += f" (default: {getattr(usual, name)})"
        group.add_argument(f"--{name}", choices=choices, help=help)

    group = command.add_argument_group("text and files")
    what = "UTF-8 text; without it: Python's own documentation"
    group.add_argument("file", nargs="?", metavar="FILE", help=what)
    choice(group, "level", tuple(UNITS), "what a token is")
    what = "rarer tokens count as unknown, so that the model learns a token for what it never saw"
    option(group, "min-count", positive_int, "N", what)
    what = "text to measure progress on: the weights of the best epoch are kept"
    option(group, "valid", str, "FILE", what, "the last 5%% of the text are held out")
    option(group, "test", str, "FILE", "text to evaluate the trained model on", "none")
    option(group, "out", str, "DIR", "folder for weights, checkpoint, log, curve", "rnnfast-out")
    free = ", ".join(f"--{option_name(name)}" for name in FREE)
    batch = " and ".join(f"--{option_name(name)}" for name in BATCH)
    what = "go on from the checkpoint in DIR, with its settings but for those of "
    what += f"{free} that are given, and between two epochs those of {batch}"
    again = group.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help=what)
    what = "start anew in a DIR that holds a run; its weights stay until there are new ones"
    again.add_argument("--force", action="store_true", help=what)
    group.add_argument(
        "--plot",
        action=argparse.BooleanOptionalAction,
        dest="plot_curve",
        help="draw the perplexity curve (default: if matplotlib is there)",
    )
    option(group, "save-every", seconds, "SECONDS", "between checkpoints within an epoch")

    group = command.add_argument_group("model")
    what = "the book's SimpleRnnlm (RNN), Rnnlm (LSTM), BetterRnnlm (two LSTM, dropout, tied), or "
    choice(group, "model", tuple(MODELS), f"{what}custom: choose the parts")
    option(group, "hidden", positive_int, "N", "hidden units of a layer")
    what = "size of an embedded token"
    option(group, "embedding", positive_int, "N", what, "64; that of --hidden with better or --tie")
    what = "ratio of dropout, for better and custom"
    option(group, "dropout", ratio, "X", what, "0.5 for better, 0 for custom")
    choice(group, "cell", CELLS, "custom: kind of recurrent layer")
    option(group, "layers", positive_int, "N", "custom: recurrent layers")
    what = "custom: one dropout mask for all steps, on the recurrent path too"
    group.add_argument("--variational", action="store_true", help=what)
    option(group, "weight-drop", ratio, "X", "custom: ratio of the recurrent weights dropped")
    what = "custom: the embedding and the output share one matrix"
    group.add_argument("--tie", action="store_true", help=what)

    group = command.add_argument_group("training")
    option(group, "epochs", positive_int, "N", "times through the text")
    option(group, "batch-size", positive_int, "N", "samples in parallel")
    option(group, "time-size", positive_int, "N", "steps of BPTT")
    what = "each sample starts from a zero state once in N iterations; 0, the book's way: never"
    option(group, "restart-every", natural_int, "N", what)
    choice(group, "optimizer", tuple(RULES), "update rule")
    rates = ", ".join(f"{name} {rate}" for name, (_, rate) in RULES.items())
    option(group, "lr", positive_float, "X", "learning rate", rates)
    what = "divide the learning rate by X after an epoch without progress on --valid (the book: 4)"
    option(group, "lr-decay", factor, "X", what, "never")
    option(group, "max-grad", positive_float, "X", "longest gradient")
    option(group, "eval-interval", positive_int, "N", "iterations per line")
    option(group, "seed", natural_int, "N", "of weights and samples")
    option(group, "sample", natural_int, "N", "tokens to generate in the end")


def train(out="rnnfast-out", *, resume=False, force=False, plot_curve=None, **options):
    """Train a language model on a text, evaluate it, and let it write some text.

    options: fields of `Settings`. Into the folder `out` go the weights, when training has ended
    (with `valid` those of the best epoch, else the last), the last checkpoint, the last good one
    and with `valid` the best, all of which are weight files, too, a log with one JSON object a
    line, and the perplexity curve (plot_curve: None draws it if matplotlib is there, True requires
    that).

    resume: go on from the checkpoint in `out`, with its settings but for those given that do not
    change the model. force: start anew in a folder that holds a run, which is a ValueError else.
    Everything that can be wrong with the arguments is raised before training starts. Ctrl-C and
    SIGTERM finish the running iteration, save a checkpoint and raise trainer.Stop, a
    KeyboardInterrupt. A RuntimeError says that training diverged; the checkpoint is then of before.
    """
    if not out:
        raise ValueError(f"--out must name a folder, got {out!r}")
    log_file = os.path.join(out, "log.jsonl")
    checkpoint_file = os.path.join(out, CHECKPOINT)
    extra = None
    changes = {}
    if resume:
        if force:
            raise ValueError("--resume and --force exclude each other")
        settings, changes, extra = stored_settings(checkpoint_file, options)
    else:
        settings = Settings(**options)
        if not force:
            refuse_to_overwrite(out)
    if plot_curve and not plot.available():
        raise ModuleNotFoundError("matplotlib is missing: pip install 'rnnfast[plot]'")
    if settings.lr_decay is not None and settings.valid is None:
        raise ValueError("--lr-decay needs --valid: a text on which improvement is measured")

    texts = Texts(settings)
    if resume:
        texts.check_same(extra["texts"], checkpoint_file)
    model = build_model(settings, len(texts.vocabulary))
    os.makedirs(out, exist_ok=True)
    tempfile.TemporaryFile(dir=out).close()  # an unwritable folder shows here, not at the end

    rule, usual_lr = RULES[settings.optimizer]
    optimizer = OPTIMIZERS[rule](usual_lr if settings.lr is None else settings.lr)
    trainer = RnnlmTrainer(model, optimizer)
    if resume:
        trainer.load_checkpoint(checkpoint_file, optimizer="optimizer" not in changes)
        if "lr" in options and optimizer.lr != settings.lr:
            changes["lr"] = optimizer.lr, settings.lr
            optimizer.lr = settings.lr
        elif "optimizer" in changes:
            changes["lr"] = "that of the old one", optimizer.lr
        for name in BATCH:
            if name in changes and not trainer.between_epochs:
                raise ValueError(
                    f"--resume: --{option_name(name)} may change where an epoch begins, but the "
                    f"checkpoint is after iteration {trainer.iterations(0)} of "
                    f"{trainer.max_iter} of epoch {trainer.current_epoch + 1}"
                )
    for left_over in glob.glob(os.path.join(glob.escape(out), "*.safetensors.*.tmp")):
        os.unlink(left_over)  # by a run that was killed while it wrote
    run = Run(out, settings, texts, trainer, extra)

    unit = UNITS[settings.level]
    print(f"{texts.name}: {len(texts.corpus):,} {unit}, {len(texts.vocabulary)} different")
    print(describe_model(model), flush=True)
    weights_file = os.path.join(out, f"{type(model).__name__}.safetensors")
    max_iter = len(texts.xs) // (settings.batch_size * settings.time_size)

    with ExitStack() as stack:
        if resume and os.path.exists(log_file):  # lines after the checkpoint are written again
            os.truncate(log_file, min(extra["log_bytes"], os.path.getsize(log_file)))
        mode = "ab" if resume else "wb"
        log = JsonlLog(stack.enter_context(open(log_file, mode, buffering=0)))
        bar = ProgressBar(settings.epochs * max_iter, trainer.iterations(max_iter))
        stack.callback(bar.close)
        stack.callback(run.drop_candidate)
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = bar.warn
        trainer.write = run.write = Lines(bar, trainer)
        steps = (run.watch, run, bar, log, run.checkpoint)
        trainer.callbacks = [callback.step for callback in steps]
        if resume:
            log.write(event="resume", epoch=trainer.current_epoch + 1)
            run.write(f"resumed in epoch {trainer.current_epoch + 1}: {checkpoint_file}")
            _copy(checkpoint_file, run.candidate)
            for name, (old, new) in changes.items():
                run.write(f"  --{option_name(name)}: {old} before, {new} now")
            if "optimizer" in changes:
                run.write("  the new optimizer starts with a state of its own")
        else:
            log.write(
                event="start",
                text=texts.name,
                **{unit: len(texts.corpus)},
                **model.sizes,
                optimizer=settings.optimizer,
                lr=optimizer.lr,
                max_grad=settings.max_grad,
                batch_size=settings.batch_size,
                time_size=settings.time_size,
                seed=settings.seed,
            )
            run.checkpoint.save()  # a run that is killed at once can be resumed, too
            _copy(run.checkpoint.path, run.good)
        with stop_on_interrupt(trainer) as received:
            try:
                if settings.valid is None:
                    fit(trainer, settings, texts, settings.epochs)
                else:
                    fit_and_validate(run, log)
                run.check_end()
            except Diverged as error:
                raise Diverged(f"{error}: {run.after_divergence()}") from None
            if trainer.stopped:
                run.stopped(received)
            if settings.valid is not None and run.plateau.best < math.inf:
                model.load_params(run.best.path)
            texts.prime_with(model)
            model.save_params(weights_file, texts.vocabulary)
            if trainer.stopped:
                run.stopped(received)
        run.write(f"weights: {weights_file}")
        bar.close()
        report(settings, model, texts, log, run)

    draw_curve(out, run, plot_curve)
    if settings.sample:
        print_sample(settings, model, texts)
