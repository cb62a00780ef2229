"""The course of one `rnnfast train`: its checkpoints, and what becomes of it at an end."""

import glob
import os
import shlex
import shutil
import signal
from contextlib import suppress
from dataclasses import asdict

from rnnfast.commands.settings import FILES, absolute
from rnnfast.training.callbacks import Checkpoint, Plateau, Watch
from rnnfast.training.stopping import Diverged, Stop

CHECKPOINT = "checkpoint.safetensors"  # the last one of a run
GOOD = "good.safetensors"  # the last one whose weights have shown that they are good
BEST = "best.safetensors"  # that of the lowest validation perplexity


def _copy(path, new):
    """Let `new` be what `path` is now; both are only ever replaced."""
    temporary = f"{new}.tmp"
    with suppress(FileNotFoundError):
        os.unlink(temporary)
    try:
        os.link(path, temporary)
    except OSError:  # not every file system has links
        shutil.copyfile(path, temporary)
    os.replace(temporary, new)


def refuse_to_overwrite(out):
    """ValueError where a folder holds a run."""
    names = ("log.jsonl", "*.safetensors")
    found = [file for name in names for file in glob.glob(os.path.join(glob.escape(out), name))]
    if found:
        raise ValueError(
            f"{out}: holds a run ({', '.join(sorted(map(os.path.basename, found)))}); --resume "
            "goes on with it, --force starts anew and overwrites it, another --out keeps it"
        )


class Lines:
    """Prints lines beside a progress bar. A stdout that is gone stops the trainer, which saves."""

    def __init__(self, bar, trainer):
        self.bar = bar
        self.trainer = trainer
        self.gone = None

    def __call__(self, line):
        try:
            if self.gone is None:
                self.bar.write(line)
        except OSError as error:
            self.gone = error
            self.trainer.stop()


class _Last(Checkpoint):
    """The last checkpoint of a run, and with it the best one."""

    def __init__(self, run, path, seconds, extra):
        super().__init__(run.trainer, path, seconds, extra, vocabulary=run.texts.vocabulary)
        self.run = run
        self.every_epoch = run.settings.valid is None

    def save(self, *, best=False):
        """Unless the loss has risen; best: this is the best one, too."""
        run = self.run
        if run.watch.risen and not best:
            return
        run.texts.prime_with(run.trainer.model)
        if best:
            run.best.save()
        super().save()
        _copy(self.path, run.candidate)


class Run:
    """Where a run is: what it has measured, its checkpoints, and what becomes of it at an end."""

    def __init__(self, out, settings, texts, trainer, extra):
        self.out = out
        self.settings = settings
        self.texts = texts
        self.trainer = trainer
        self.watch = Watch(len(texts.vocabulary))
        self.plateau = Plateau(trainer.optimizer, settings.lr_decay or 1.0)
        # A run may be resumed from another folder.
        files = {name: absolute(getattr(settings, name)) for name in FILES}
        self.kept = {**asdict(settings), **files}
        self.write = print
        self.curve, self.valid = [], []  # [epochs, perplexity] of the training and validation text
        if extra is not None:
            self.plateau.best = extra["best"]
            self.curve += extra["curve"]
            self.valid += extra["valid"]
            self.watch.lowest = extra["lowest"]
        last, self.good, best = (os.path.join(out, name) for name in (CHECKPOINT, GOOD, BEST))
        self.candidate = f"{self.good}.next.tmp"  # good if the next loss is
        options = settings.save_every, self.progress
        self.best = Checkpoint(trainer, best, *options, vocabulary=texts.vocabulary)
        self.checkpoint = _Last(self, last, *options)

    def drop_candidate(self):
        with suppress(FileNotFoundError):
            os.unlink(self.candidate)

    def progress(self):
        """What a checkpoint keeps of the run beside the trainer's own."""
        return {
            "settings": self.kept,
            "texts": self.texts.digests,
            "best": self.plateau.best,
            "curve": self.curve,
            "valid": self.valid,
            "lowest": self.watch.lowest,
            "log_bytes": os.path.getsize(os.path.join(self.out, "log.jsonl")),
        }

    def step(self, step):
        if os.path.exists(self.candidate):  # this loss is that of its weights
            if step.loss <= min(self.watch.lowest, self.watch.blind) + self.watch.RISE:
                os.replace(self.candidate, self.good)
            else:
                self.drop_candidate()
        if step.perplexity is not None:
            self.curve.append([step.epoch - 1 + step.iter / step.max_iter, step.perplexity])

    def resume_command(self, *more):
        return shlex.join(["rnnfast", "train", "--out", absolute(self.out), "--resume", *more])

    def check_end(self):
        """RuntimeError where training has ended with a loss that nobody wants the weights of."""
        if self.watch.risen and not self.trainer.stopped:
            loss = self.watch.loss
            raise Diverged(f"training diverged: the loss has risen to {loss:.4g} at its end")

    def go_back(self):
        """The checkpoint is the last good one again."""
        if os.path.exists(self.good):
            _copy(self.good, self.checkpoint.path)

    def after_divergence(self):
        """Go back to before it; says how to go on from there."""
        self.go_back()
        command = self.resume_command("--lr", f"{self.trainer.optimizer.lr / 4:g}")
        return f"{command} goes on from before that"

    def stopped(self, received):
        """Save, and raise what says so."""
        if self.trainer.current_epoch < self.settings.epochs:
            self.checkpoint.save()  # a finished run has saved its last one
        if self.watch.risen:
            self.go_back()
            self.write("the loss has risen: the checkpoint is of before that")
        self.write(f"checkpoint: {self.checkpoint.path}")
        if received:
            signum = received[0]
            why = "interrupted" if signum == signal.SIGINT else "terminated"
        else:
            signum, why = None, f"stdout is gone ({self.write.gone.strerror})"
        raise Stop(f"{why}; to go on: {self.resume_command()}", signum)


def fit(trainer, settings, texts, epochs):
    trainer.fit(
        texts.xs,
        texts.ts,
        epochs,
        settings.batch_size,
        settings.time_size,
        settings.max_grad,
        settings.eval_interval,
        restart_every=settings.restart_every or None,
    )


def fit_and_validate(run, log):
    """The loop of the book's ch06/train_better_rnnlm.py, which may be stopped and resumed."""
    trainer, texts = run.trainer, run.texts
    model, optimizer = trainer.model, trainer.optimizer
    while trainer.current_epoch < run.settings.epochs:
        fit(trainer, run.settings, texts, 1)
        if trainer.stopped:
            return
        lr, epoch = optimizer.lr, trainer.current_epoch
        result = texts.measured(model, texts.valid)
        best = run.plateau.update(result.ppl)
        run.valid.append([epoch, result.ppl])
        rate = "" if optimizer.lr == lr else f" | lr {optimizer.lr:g}"
        run.write(f"| epoch {epoch} | validation perplexity {result}{rate}")
        log.write(event="valid", epoch=epoch, **result.fields, lr=lr)
        run.checkpoint.save(best=best)
        if trainer.stopped:
            return
