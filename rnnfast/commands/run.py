"""The course of one `rnnfast train`: its measurements, checkpoints, and ways to end."""

import math
import os
import re
import shlex
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any

from rnnfast.commands.folder import BEST, CHECKPOINT, GOOD, LOG, copy_checkpoint
from rnnfast.commands.settings import (
    FILES,
    Settings,
    absolute,
    build_optimizer,
    count_parameters,
)
from rnnfast.commands.stages import Stage
from rnnfast.commands.texts import Texts
from rnnfast.commands.together import is_closed_pipe
from rnnfast.distributed.ranks import by_first
from rnnfast.io.files import remove, replace
from rnnfast.kernels import get_device
from rnnfast.models import LanguageModelBase
from rnnfast.training.averaging import ASGD
from rnnfast.training.callbacks import Checkpoint, JsonlLog, Plateau, ProgressBar, Watch
from rnnfast.training.language import RnnlmTrainer
from rnnfast.training.loop import Step
from rnnfast.training.stopping import Diverged, Stop
from rnnfast.training.validation import epochs_without_improvement, no_improvement


def quoted(word: str) -> str:
    """A word of a command line, as this system's shell reads it."""
    if os.name != "nt":
        return shlex.quote(word)
    return word if re.fullmatch(r"[\w.:\\/=+-]+", word) else f'"{word}"'


class Lines:
    """Prints lines by a function. If stdout is gone, it stops the trainer, which saves.

    gone: why stdout cannot be written, None if it can.
    """

    gone: str | None

    def __init__(self, show: Callable[[str], Any], trainer: RnnlmTrainer) -> None:
        self.show = show
        self.trainer = trainer
        self.gone = None

    def __call__(self, line: str) -> None:
        try:
            if self.gone is None:
                self.show(line)
        except OSError as error:
            self.gone = "Broken pipe" if is_closed_pipe(error) else str(error.strerror)
            self.trainer.stop()


class _Last(Checkpoint):
    """Saves the last checkpoint of a run, and the best one together with it."""

    def __init__(
        self, run: "Run", path: str, seconds: float, extra: Callable[[], dict[str, Any]]
    ) -> None:
        super().__init__(run.trainer, path, seconds, extra, vocabulary=run.texts.vocabulary)
        self.run = run
        self.every_epoch = run.settings.valid is None

    def save(self, *, best: bool = False) -> None:
        """Save, unless the loss has risen. best: save it as the best checkpoint, too."""
        run = self.run
        if run.watch.risen and not best:
            return
        run.texts.prime_with(run.model)
        if best:
            with run.averaged():
                run.best.save()
        super().save()
        run.copy(self.path, run.candidate)


class Run:
    """The state of a run: its measurements, its checkpoints, and its ways to end.

    Parameters
    ----------
    out : str
        The folder of the run.
    settings : Settings
    texts : Texts
    model : LanguageModelBase
        The model in training.
    trainer : RnnlmTrainer
        Its trainer.
    stage : Stage
        The stage in which it is.
    extra : dict, optional
        On --resume: the fields that `progress` stored in the checkpoint.

    Attributes
    ----------
    curve, valid : list of [float, float]
        Epochs and perplexity of the training text, and of the validation or held-out text.
    write : Lines
        Prints a line, above the progress bar once there is one.
    checkpoint, best : Checkpoint
        The last checkpoint, and the one with the lowest validation perplexity.
    good, candidate : str
        The checkpoint to return to after divergence, and the one that becomes it if the next loss
        has not risen.
    leads : bool
        Whether this process writes the files: it is the only one, or rank 0.
    """

    curve: list[list[float]]
    valid: list[list[float]]

    def __init__(
        self,
        out: str,
        settings: Settings,
        texts: Texts,
        model: LanguageModelBase,
        trainer: RnnlmTrainer,
        stage: Stage,
        extra: dict[str, Any] | None,
    ) -> None:
        self.out = out
        self.leads = trainer.leads
        self.settings = settings
        self.texts = texts
        self.model = model
        self.trainer = trainer
        self.stage = stage
        self.write = Lines(partial(print, flush=True), trainer)
        # A run may be resumed from another folder.
        files = {name: absolute(getattr(settings, name)) for name in FILES}
        self.kept = {**asdict(settings), **files}
        before = extra or {"best": math.inf, "lowest": math.inf, "curve": [], "valid": []}
        self._judge(before["best"], before["lowest"])
        self.curve, self.valid = before["curve"], before["valid"]
        last, self.good, best = (os.path.join(out, name) for name in (CHECKPOINT, GOOD, BEST))
        self.candidate = f"{self.good}.next.tmp"
        options = settings.save_every, self.progress
        self.best = Checkpoint(trainer, best, *options, vocabulary=texts.vocabulary)
        self.checkpoint = _Last(self, last, *options)

    def _judge(self, best: float = math.inf, lowest: float = math.inf) -> None:
        """Judge the optimiser's progress from here on: the best perplexity, the lowest loss."""
        decay = self.settings.lr_decay or 1.0
        self.plateau = Plateau(self.trainer.optimizer, decay, best=best)
        self.watch = Watch(len(self.texts.vocabulary), lowest=lowest)

    def begin(
        self, stage: Stage, model: LanguageModelBase, bar: ProgressBar, log: JsonlLog
    ) -> None:
        """Go on with the model of the next stage, a new optimiser, and a checkpoint of both."""
        self.stage = stage
        self.model = model
        self.trainer.go_on_with(model, build_optimizer(self.settings))
        self._judge()
        self.report_to(bar, log)
        self.announce(bar, log)
        self.checkpoint.save()
        self.copy(self.checkpoint.path, self.good)

    def announce(self, bar: ProgressBar, log: JsonlLog) -> None:
        """Say which stage runs, if there are several."""
        stage = self.stage
        if stage.count > 1:
            sizes = {"stages": stage.count, "layers": stage.layers, "epoch": stage.begin + 1}
            log.write(event="stage", stage=stage.number, **sizes)
            self.write(f"| {stage}, {count_parameters(self.model):,} parameters")
            bar.describe(f"stage {stage.number} of {stage.count}")

    def take_final_weights(self) -> None:
        """Make the weights of a stage those of its best epoch, or without --valid its last ones.

        They are the averages if the optimiser averages.
        """
        ranks = self.trainer.ranks
        if self.texts.valid is not None and self.plateau.best < math.inf:
            by_first(ranks, lambda: self.model.load_params(self.best.path))
            if ranks is not None:
                ranks.broadcast(self.model.params)
        elif isinstance(self.trainer.optimizer, ASGD):
            self.trainer.optimizer.write_averages(self.model.params)

    def report_to(self, bar: ProgressBar, log: JsonlLog) -> None:
        """Print above a bar, and let the trainer report to it, to a log and to this run."""
        self.write = Lines(bar.write, self.trainer)
        steps = (self.watch, self, bar, log, self.checkpoint)
        self.trainer.report_to([callback.step for callback in steps], self.write)

    def drop_candidate(self) -> None:
        """Remove the candidate, if there is one."""
        if self.leads:
            remove(self.candidate)

    def copy(self, path: str | os.PathLike[str], new: str) -> None:
        """copy_checkpoint, where this process has the files."""
        if self.leads:
            copy_checkpoint(path, new)

    def progress(self) -> dict[str, Any]:
        """The fields of the run that a checkpoint stores beside those of the trainer."""
        return {
            "settings": self.kept,
            "texts": self.texts.digests,
            "best": self.plateau.best,
            "curve": self.curve,
            "valid": self.valid,
            "lowest": self.watch.lowest,
            "stage": self.stage.number,
            "log_bytes": os.path.getsize(os.path.join(self.out, LOG)) if self.leads else 0,
        }

    def averaged(self) -> AbstractContextManager[None]:
        """A block with the averaged weights in the model, if the optimiser averages."""
        optimizer = self.trainer.optimizer
        return (
            optimizer.averaged(self.model.params) if isinstance(optimizer, ASGD) else nullcontext()
        )

    def step(self, step: Step) -> None:
        """Judge the candidate and extend the curve; a callback of the trainer.

        The loss was computed with the candidate's weights; in rounds of several ranks only that of
        a round's end was, as until then it is the loss of the round before.
        """
        if self.leads and self.trainer.equal and os.path.exists(self.candidate):
            if step.loss <= min(self.watch.lowest, self.watch.blind) + self.watch.RISE:
                replace(self.candidate, self.good)
            else:
                self.drop_candidate()
        if step.perplexity is not None:
            self.curve.append([step.epoch - 1 + step.iter / step.max_iter, step.perplexity])

    def resume_command(self, *more: str) -> str:
        """The command line that continues this run."""
        ranks = self.trainer.ranks
        begin = [] if ranks is None else ["mpiexec", "-n", str(ranks.size)]
        device = get_device()  # what runs on another one has not the same bits
        chosen = [] if device == "auto" else ["--device", device]
        whole = [*begin, "rnnfast", "train", "--out", absolute(self.out), "--resume"]
        whole += [*chosen, *more]
        return " ".join(map(quoted, whole))

    def check_end(self) -> None:
        """Diverged if training has ended with a loss that has risen."""
        if self.watch.risen and not self.trainer.stopped:
            loss = self.watch.loss
            raise Diverged(f"training diverged: the loss has risen to {loss:.4g} at its end")

    def worn_out(self) -> bool:
        """Whether --patience is at its end."""
        since = epochs_without_improvement([ppl for _, ppl in self.valid])
        if self.settings.patience is None or since < self.settings.patience:
            return False
        self.write(no_improvement(self.trainer.current_epoch, since))
        return True

    def go_back(self) -> None:
        """Make the last good checkpoint the last one again."""
        if self.leads and os.path.exists(self.good):
            copy_checkpoint(self.good, self.checkpoint.path)

    def after_divergence(self) -> str:
        """Go back to the last good checkpoint and return a sentence on how to continue."""
        self.go_back()
        command = self.resume_command("--lr", f"{self.trainer.optimizer.lr / 4:g}")
        return f"{command} goes on from before that"

    def stopped(self, received: Sequence[int]) -> None:
        """Save and raise Stop. received: the signals that stopped training, if it was a signal."""
        gone, ranks = self.write.gone, self.trainer.ranks
        if ranks is not None:
            every = ranks.gather((list(received), gone))
            received = [signum for signals, _ in every for signum in signals]
            gone = next((why for _, why in every if why is not None), None)
        if self.trainer.current_epoch < self.settings.epochs:
            self.checkpoint.save()  # a finished run has saved its last one
        if self.watch.risen:
            self.go_back()
            self.write("the loss has risen: the checkpoint is of before that")
        self.write(f"checkpoint: {self.checkpoint.path}")
        signum: int | None = None
        if received:
            signum = received[0]
            why = "interrupted" if signum == signal.SIGINT else "terminated"
        else:
            why = f"stdout is gone ({gone})"
        raise Stop(f"{why}; to go on: {self.resume_command()}", signum)
