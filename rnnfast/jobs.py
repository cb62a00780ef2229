"""What `rnnfast train` does: a text in, a folder with weights, checkpoint, log and curve out."""

import glob
import hashlib
import math
import os
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields

from rnnfast import data, headers, io, kernels, models, plot, sampling
from rnnfast.optim import OPTIMIZERS
from rnnfast.trainer import (
    Checkpoint,
    JsonlLog,
    Plateau,
    ProgressBar,
    RnnlmTrainer,
    check_divergence,
    eval_perplexity,
    stop_on_interrupt,
)
from rnnfast.using import TEMPERATURE, UNITS, bits, evaluate, load_ids

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
CHECKPOINT = "checkpoint.safetensors"


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
    **dict.fromkeys(("epochs", "seed", "sample"), headers.integer(0)),
    **dict.fromkeys(
        ("min_count", "layers", "hidden", "batch_size", "time_size", "eval_interval"),
        headers.integer(1),
    ),
}
FREE = ("file", "epochs", "sample", "save_every")  # may change on --resume


def train(out="rnnfast-out", *, resume=False, plot_curve=None, **options):
    """Train a language model on a text, evaluate it, and let it write some text.

    options: fields of `Settings`. Into the folder `out` go the weights (with `valid` those of the
    best epoch, else the last), a checkpoint, a log with one JSON object a line, and the
    perplexity curve (plot_curve: None draws it if matplotlib is there, True requires that).
    resume: go on from the checkpoint in `out`, with its settings. Everything that can be wrong
    with the arguments is raised before training starts. Ctrl-C finishes the running iteration,
    saves everything and raises KeyboardInterrupt.
    """
    log_file = os.path.join(out, "log.jsonl")
    checkpoint_file = os.path.join(out, CHECKPOINT)
    extra = None
    if resume:
        settings, extra = _stored(checkpoint_file, options)
    else:
        settings = Settings(**options)
    if plot_curve and not plot.available():
        raise ModuleNotFoundError("matplotlib is missing: pip install 'rnnfast[plot]'")
    if settings.lr_decay is not None and settings.valid is None:
        raise ValueError("--lr-decay needs --valid: a text on which improvement is measured")

    texts = _Texts(settings)
    if resume and extra["text"] != texts.digest:
        raise ValueError(f"{texts.name}: not the text that {checkpoint_file} was trained on")
    model = build_model(settings, len(texts.vocabulary))
    os.makedirs(out, exist_ok=True)
    tempfile.TemporaryFile(dir=out).close()  # an unwritable folder shows here, not at the end
    for left_over in glob.glob(os.path.join(glob.escape(out), "*.safetensors.*.tmp")):
        os.unlink(left_over)  # by a run that was killed while it wrote

    rule, usual_lr = RULES[settings.optimizer]
    lr = usual_lr if settings.lr is None else settings.lr
    optimizer = OPTIMIZERS[rule](lr)
    trainer = RnnlmTrainer(model, optimizer)
    plateau = Plateau(optimizer, settings.lr_decay or 1.0)
    curve = []
    if resume:
        trainer.load_checkpoint(checkpoint_file)
        plateau.best = extra["best"]
        curve += extra["curve"]
        if os.path.exists(log_file):  # lines after the checkpoint will be written again
            os.truncate(log_file, min(extra["log_bytes"], os.path.getsize(log_file)))

    vocabulary, unit = texts.vocabulary, UNITS[settings.level]
    print(f"{texts.name}: {len(texts.corpus):,} {unit}, {len(vocabulary)} different")
    print(describe_model(model), flush=True)
    weights_file = os.path.join(out, f"{type(model).__name__}.safetensors")
    max_iter = len(texts.xs) // (settings.batch_size * settings.time_size)

    def progress():
        return {
            "settings": asdict(settings),
            "text": texts.digest,
            "best": plateau.best,
            "curve": curve,
            "log_bytes": os.path.getsize(log_file),
        }

    def collect(step):
        if step.perplexity is not None:
            curve.append(step.perplexity)

    with ExitStack() as stack:
        mode = "ab" if resume else "wb"
        log = JsonlLog(stack.enter_context(open(log_file, mode, buffering=0)))
        bar = ProgressBar(settings.epochs * max_iter, trainer.iterations(max_iter))
        stack.callback(bar.close)
        checkpoint = Checkpoint(trainer, checkpoint_file, settings.save_every, progress)
        checkpoint.every_epoch = settings.valid is None
        trainer.write = bar.write
        trainer.callbacks = [check_divergence, collect, bar.step, log.step, checkpoint.step]
        if resume:
            log.write(event="resume", epoch=trainer.current_epoch + 1)
            bar.write(f"resumed in epoch {trainer.current_epoch + 1}: {checkpoint_file}")
        else:
            log.write(
                event="start",
                text=texts.name,
                **{unit: len(texts.corpus)},
                **model.sizes,
                optimizer=settings.optimizer,
                lr=lr,
                max_grad=settings.max_grad,
                batch_size=settings.batch_size,
                time_size=settings.time_size,
                seed=settings.seed,
            )
            checkpoint.save()  # a run that is killed at once can be resumed, too
        with stop_on_interrupt(trainer):
            if settings.valid is None:
                _fit(trainer, settings, texts, settings.epochs)
            else:
                _fit_and_validate(trainer, settings, texts, plateau, checkpoint, log, weights_file)
            if trainer.stopped and trainer.current_epoch < settings.epochs:
                checkpoint.save()  # a finished run has saved its last one
            if settings.valid is None or plateau.best == math.inf:
                model.save_params(weights_file, vocabulary)
        bar.write(f"weights: {weights_file}")
        if trainer.stopped:
            raise KeyboardInterrupt
        bar.close()
        _report(settings, model, texts, weights_file, log)

    _curve(out, curve, settings.eval_interval, plot_curve)
    if settings.sample:
        # A whole sequence to begin with: training has hardly ever seen a state of zero.
        start = texts.corpus[: settings.time_size]
        ids = sampling.generate(
            model, start, settings.sample, temperature=TEMPERATURE, rng=settings.seed
        )
        print(f"generated text (temperature {TEMPERATURE}):\n{vocabulary.decode(ids)}")


def _fit(trainer, settings, texts, epochs):
    trainer.fit(
        texts.xs,
        texts.ts,
        epochs,
        settings.batch_size,
        settings.time_size,
        settings.max_grad,
        settings.eval_interval,
    )


def _fit_and_validate(trainer, settings, texts, plateau, checkpoint, log, weights_file):
    """The loop of the book's ch06/train_better_rnnlm.py, which may be stopped and resumed."""
    model, optimizer = trainer.model, trainer.optimizer
    while trainer.current_epoch < settings.epochs:
        _fit(trainer, settings, texts, 1)
        if trainer.stopped:
            return
        ppl, lr, epoch = evaluate(model, texts.valid), optimizer.lr, trainer.current_epoch
        if plateau.update(ppl):
            model.save_params(weights_file, texts.vocabulary)
        rate = "" if optimizer.lr == lr else f" | lr {optimizer.lr:g}"
        trainer.write(f"| epoch {epoch} | validation perplexity {ppl:.2f}{rate}")
        log.write(event="valid", epoch=epoch, perplexity=_finite(ppl), lr=lr)
        checkpoint.save()
        if trainer.stopped:
            return


def _stored(path, options):
    """The settings and the progress in a checkpoint; ValueError where options contradict them."""
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
    stored = asdict(Settings(**extra["settings"]))
    for name, value in options.items():
        if name not in FREE and stored[name] != value:
            raise ValueError(
                f"--resume: {name.replace('_', '-')} is {stored[name]} in {path}, got {value}; "
                "leave it out, or start anew without --resume"
            )
    return Settings(**{**stored, **options}), extra


class _Texts:
    """The texts of a run as ids, checked: corpus, xs and ts, and valid, held_out and test."""

    def __init__(self, settings):
        file = settings.file
        self.name = "Python's documentation" if file is None else file
        text = data.python_docs() if file is None else data.read_text(file)
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        vocabulary = data.VOCABULARIES[settings.level]
        # Validation and test texts may have characters that the training text does not have.
        open_ended = settings.valid or settings.test or settings.min_count > 1
        unknown = vocabulary.default_unknown
        if settings.level == "char" and not open_ended:
            unknown = None
        self.vocabulary = vocabulary.from_text(text, unknown=unknown, min_count=settings.min_count)
        self.corpus = corpus = self.vocabulary.encode(text)
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
        self.valid, self.test = (
            None if path is None else load_ids(path, self.vocabulary)
            for path in (settings.valid, settings.test)
        )


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


def _report(settings, model, texts, weights_file, log):
    """Evaluate the trained model on what is held out and on the test text."""
    unit = UNITS[settings.level]
    if texts.held_out is not None:
        ids = texts.held_out
        ppl = eval_perplexity(model, ids, 1, min(settings.time_size, len(ids) - 1))
        log.write(event="held_out", **{unit: len(ids)}, perplexity=_finite(ppl))
        print(f"held-out perplexity (last {len(ids):,} {unit}): {ppl:.2f}")
    else:
        model.load_params(weights_file)  # the best epoch's
    if texts.test is not None:
        ppl = evaluate(model, texts.test)
        log.write(event="test", **{unit: len(texts.test)}, perplexity=_finite(ppl))
        print(f"test perplexity: {ppl:.2f}{bits(settings.level, ppl)}")


def _curve(out, curve, eval_interval, wanted):
    if wanted is False:
        return
    if plot.available():
        file = os.path.join(out, "perplexity.png")
        plot.save_perplexity(file, curve, eval_interval)
        print(f"curve: {file}")
    else:
        print("curve: not drawn, matplotlib is missing (pip install 'rnnfast[plot]')")


def _finite(value):
    return value if math.isfinite(value) else None
