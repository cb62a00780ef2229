"""What `rnnfast train` does: a text in, a folder with weights, checkpoint, log and curve out."""

import glob
import hashlib
import math
import os
import shlex
import shutil
import signal
import tempfile
import warnings
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, fields, replace
from typing import NamedTuple

import numpy as np

from rnnfast import data, headers, io, kernels, models, plot, sampling
from rnnfast.optim import OPTIMIZERS
from rnnfast.trainer import (
    Checkpoint,
    Diverged,
    JsonlLog,
    Plateau,
    ProgressBar,
    RnnlmTrainer,
    Stop,
    Watch,
    eval_accuracy,
    eval_perplexity,
    stop_on_interrupt,
)
from rnnfast.using import TEMPERATURE, UNITS, bits, ending, evaluate, load_ids

# --optimizer: class, learning rate
RULES = {
    "adam": ("Adam", 0.005),
    "sgd": ("SGD", 20.0),
    "momentum": ("Momentum", 2.0),
    "adagrad": ("AdaGrad", 0.05),
    "rmsprop": ("RMSprop", 0.002),
}
# --model: class in rnnfast.models
MODELS = {
    "simple": "SimpleRnnlm",
    "rnnlm": "Rnnlm",
    "better": "BetterRnnlm",
    "custom": "LanguageModel",
}
CELLS = kernels.CELLS
CHECKPOINT = "checkpoint.safetensors"  # the last one of a run
GOOD = "good.safetensors"  # the last one whose weights have shown that they are good
BEST = "best.safetensors"  # that of the lowest validation perplexity
PROMPT = 64  # tokens that the sample at the end goes on from


@dataclass(frozen=True)
class Settings:
    """What a training run is told; its checkpoint keeps it.

    The defaults take one minute on two cores with the built-in text.
    """

    file: str | None = None  # None: Python's documentation
    valid: str | None = None  # None: the last 5% of the text are held out
    test: str | None = None
    level: str = "char"
    min_count: int = 1
    model: str = "rnnlm"
    cell: str = "lstm"
    layers: int = 1
    hidden: int = 256
    embedding: int | None = None  # None: 64, or hidden where both ends share a matrix
    dropout: float | None = None  # None: 0.5 for better, 0 for custom
    variational: bool = False
    weight_drop: float = 0.0
    tie: bool = False
    epochs: int = 8
    batch_size: int = 32
    time_size: int = 64
    restart_every: int = 8  # 0: never
    optimizer: str = "adam"
    lr: float | None = None  # None: the optimiser's in RULES
    lr_decay: float | None = None
    max_grad: float = 0.25
    eval_interval: int = 20
    save_every: float = 300.0
    seed: int = 0
    sample: int = 400


# What a checkpoint's settings have to be, beside their types
CHECKS = {
    "level": headers.one_of(*data.VOCABULARIES),
    "model": headers.one_of(*MODELS),
    "cell": headers.one_of(*CELLS),
    "optimizer": headers.one_of(*RULES),
    **dict.fromkeys(("epochs", "seed", "sample", "restart_every"), headers.integer(0)),
    **dict.fromkeys(
        ("min_count", "layers", "hidden", "batch_size", "time_size", "eval_interval"),
        headers.integer(1),
    ),
}
# What may change on --resume: all that does not change the model, or what its loss is measured on
FREE = ("epochs", "optimizer", "lr", "lr_decay", "max_grad", "restart_every")
FREE += ("eval_interval", "save_every", "sample")
BATCH = ("batch_size", "time_size")  # where an epoch begins
FILES = ("file", "valid", "test")  # to where the same text is now


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
        settings, changes, extra = _stored(checkpoint_file, options)
    else:
        settings = Settings(**options)
        if not force:
            _refuse_to_overwrite(out)
    if plot_curve and not plot.available():
        raise ModuleNotFoundError("matplotlib is missing: pip install 'rnnfast[plot]'")
    if settings.lr_decay is not None and settings.valid is None:
        raise ValueError("--lr-decay needs --valid: a text on which improvement is measured")

    texts = _Texts(settings)
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
                    f"--resume: --{option(name)} may change where an epoch begins, but the "
                    f"checkpoint is after iteration {trainer.iterations(0)} of "
                    f"{trainer.max_iter} of epoch {trainer.current_epoch + 1}"
                )
    for left_over in glob.glob(os.path.join(glob.escape(out), "*.safetensors.*.tmp")):
        os.unlink(left_over)  # by a run that was killed while it wrote
    run = _Run(out, settings, texts, trainer, extra)

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
        trainer.write = run.write = _Lines(bar, trainer)
        steps = (run.watch, run, bar, log, run.checkpoint)
        trainer.callbacks = [callback.step for callback in steps]
        if resume:
            log.write(event="resume", epoch=trainer.current_epoch + 1)
            run.write(f"resumed in epoch {trainer.current_epoch + 1}: {checkpoint_file}")
            _copy(checkpoint_file, run.candidate)
            for name, (old, new) in changes.items():
                run.write(f"  --{option(name)}: {old} before, {new} now")
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
                    _fit(trainer, settings, texts, settings.epochs)
                else:
                    _fit_and_validate(run, log)
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
        _report(settings, model, texts, log, run)

    _curve(out, run, plot_curve)
    if settings.sample:
        _sample(settings, model, texts)


def _absolute(path):
    return None if path is None else os.path.abspath(path)


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


def option(name):
    """How the command line calls a field of `Settings`, after its dashes."""
    return name.replace("_", "-")


def _refuse_to_overwrite(out):
    """ValueError where a folder holds a run."""
    names = ("log.jsonl", "*.safetensors")
    found = [file for name in names for file in glob.glob(os.path.join(glob.escape(out), name))]
    if found:
        raise ValueError(
            f"{out}: holds a run ({', '.join(sorted(map(os.path.basename, found)))}); --resume "
            "goes on with it, --force starts anew and overwrites it, another --out keeps it"
        )


class _Lines:
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


class _Run:
    """Where a run is: what it has measured, its checkpoints, and what becomes of it at an end."""

    def __init__(self, out, settings, texts, trainer, extra):
        self.out = out
        self.settings = settings
        self.texts = texts
        self.trainer = trainer
        self.watch = Watch(len(texts.vocabulary))
        self.plateau = Plateau(trainer.optimizer, settings.lr_decay or 1.0)
        # A run may be resumed from another folder.
        files = {name: _absolute(getattr(settings, name)) for name in FILES}
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
        return shlex.join(["rnnfast", "train", "--out", _absolute(self.out), "--resume", *more])

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


def _fit(trainer, settings, texts, epochs):
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


def _fit_and_validate(run, log):
    """The loop of the book's ch06/train_better_rnnlm.py, which may be stopped and resumed."""
    trainer, texts = run.trainer, run.texts
    model, optimizer = trainer.model, trainer.optimizer
    while trainer.current_epoch < run.settings.epochs:
        _fit(trainer, run.settings, texts, 1)
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


class _Result(NamedTuple):
    """What a model makes of a text; as a str the perplexity and all that is printed beside it."""

    level: str
    ppl: float
    accuracy: float

    def __str__(self):
        return f"{self.ppl:.2f}{bits(self.level, self.ppl)}, accuracy {self.accuracy:.2%}"

    @property
    def fields(self):
        """For the log, which is JSON."""
        ppl = self.ppl if math.isfinite(self.ppl) else None
        return {"perplexity": ppl, "accuracy": self.accuracy}


def _stored(path, options):
    """What --resume goes by -> settings, name -> (old, new) of what changes, all the run keeps.

    ValueError where options contradict what cannot change.
    """
    extra = io.load_arrays(path, only_header=True)[1].get("extra")
    try:
        headers.training("extra", extra)
        checks = {
            field.name: CHECKS.get(field.name) or headers.any_of_type(field.type)
            for field in fields(Settings)
        }
        if foreign := extra["settings"].keys() - checks.keys():
            raise headers.Wrong(f"extra.settings has {min(foreign)[:60]!r}")
        for name, value in extra["settings"].items():
            checks[name](f"extra.settings.{name}", value)
    except headers.Wrong as error:
        raise ValueError(f"{path}: not a checkpoint of `rnnfast train` ({error})") from None
    stored, changes = Settings(**extra["settings"]), {}
    for name, value in options.items():
        old = getattr(stored, name)
        if old == (_absolute(value) if name in FILES else value):
            continue
        moved = name in FILES and old is not None and value is not None
        if not (moved or name in FREE or name in BATCH):
            free = ", ".join(f"--{option(other)}" for other in FREE + BATCH)
            raise ValueError(
                f"--resume: {option(name)} is {old} in {path}, got {value}; leave it out, or "
                f"start anew with another --out (what may change: {free})"
            )
        if name not in ("lr", "sample", "save_every"):
            changes[name] = old, value
    if "optimizer" in changes and "lr" not in options:
        options = {**options, "lr": None}  # the new one's usual
    return replace(stored, **options), changes, extra


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


class _Texts:
    """The texts of a run as ids, checked: corpus, xs and ts; valid or held_out; test."""

    def __init__(self, settings):
        file = settings.file
        self.name = "Python's documentation" if file is None else file
        text = data.python_docs() if file is None else data.read_text(file)
        vocabulary = data.VOCABULARIES[settings.level]
        # Validation and test texts may have characters that the training text does not have.
        open_ended = settings.valid or settings.test or settings.min_count > 1
        unknown = vocabulary.default_unknown
        if settings.level == "char" and not open_ended:
            unknown = None
        try:
            options = {"unknown": unknown, "min_count": settings.min_count}
            self.vocabulary = vocabulary.from_text(text, **options)
            self.corpus = corpus = self.vocabulary.encode(text)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        self.digests = [_digest(text)]
        del text  # the next one's turn
        self.held_out = None
        if settings.valid is None:
            self.held_out = corpus[-max(2, len(corpus) // 20) :]
            self.xs = corpus[: -len(self.held_out) - 1]
            self.ts = corpus[1 : -len(self.held_out)]
        else:
            self.xs, self.ts = corpus[:-1], corpus[1:]
        N, T = settings.batch_size, settings.time_size
        if len(self.xs) < N * T:
            raise ValueError(
                f"{self.name}: {len(corpus):,} {UNITS[settings.level]} are too few for batches of "
                f"{N} x {T}; try a longer text or a smaller --batch-size or --time-size"
            )
        self.valid, self.test = map(self._other, (settings.valid, settings.test))
        self._paths = self.name, settings.valid, settings.test

    def _other(self, path):
        """The ids of a validation or test text."""
        text = None if path is None else data.read_text(path)
        self.digests.append(None if text is None else _digest(text))
        return None if text is None else load_ids(path, self.vocabulary, text=text)

    def prime_with(self, model):
        """Let the vocabulary, and so weight files, have the end of the training text as prime."""
        self.vocabulary.prime = ending(model, self.ts)

    def measured(self, model, ids, *sizes):
        """What a model makes of ids that follow the training text: a _Result."""
        self.prime_with(model)
        prime = np.array(self.vocabulary.prime)
        found = (
            evaluate(model, ids, *sizes, measure=measure, prime=prime)
            for measure in (eval_perplexity, eval_accuracy)
        )
        return _Result(self.vocabulary.level, *found)

    def check_same(self, digests, checkpoint):
        """ValueError unless these are the texts of the run."""
        for path, mine, stored in zip(self._paths, self.digests, digests, strict=True):
            if mine != stored:
                raise ValueError(f"{path}: not the text that {checkpoint} was made with")


def build_model(settings, vocab_size):
    """The model that --model and the options beside it ask for."""
    name = settings.model
    ties = name == "better" or settings.tie
    embedding = settings.embedding or (settings.hidden if ties else 64)
    options = {"rng": settings.seed}
    given = {"cell": settings.cell != "lstm", "layers": settings.layers != 1}
    given |= {"variational": settings.variational, "tie": settings.tie}
    given["weight-drop"] = settings.weight_drop
    given["dropout"] = settings.dropout is not None and name != "better"
    if name == "better":
        options["dropout_ratio"] = 0.5 if settings.dropout is None else settings.dropout
    if name == "custom":
        options |= {
            "cell": settings.cell,
            "layers": settings.layers,
            "dropout": settings.dropout or 0.0,
            "variational_dropout": settings.variational,
            "weight_drop": settings.weight_drop,
            "tie_weights": settings.tie,
        }
    elif any(given.values()):
        wrong = next(option for option, is_given in given.items() if is_given)
        raise ValueError(f"--{wrong} goes with --model custom, not with --model {name}")
    return getattr(models, MODELS[name])(vocab_size, embedding, settings.hidden, **options)


def describe_model(model):
    """One line: the class, where it runs and its sizes."""
    sizes = model.sizes
    device = model.recurrent_layers[0].device
    shared = (name is None for name in model.param_names)  # another's view
    parameters = sum(
        param.size for param, view in zip(model.params, shared, strict=True) if not view
    )
    return (
        f"{type(model).__name__} on {device}: embedding {sizes['wordvec_size']}, "
        f"hidden {sizes['hidden_size']}, {parameters:,} parameters"
    )


def _report(settings, model, texts, log, run):
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


def _curve(out, run, wanted):
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


def _sample(settings, model, texts):
    """Print some text that goes on from the beginning of the training text."""
    start = texts.corpus[:PROMPT]
    ids = sampling.generate(
        model, start, settings.sample, temperature=TEMPERATURE, rng=settings.seed
    )
    decode = texts.vocabulary.decode
    print(f"prompt, the beginning of the text: {decode(start)!r}")
    print(f"generated text (temperature {TEMPERATURE}):\n{decode(ids)}")
