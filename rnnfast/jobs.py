"""What the commands of the command line do: train, evaluate, score, generate, describe a file."""

import hashlib
import json
import math
import os
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass

import numpy as np

from rnnfast import corpora, data, io, kernels, models, plot, sampling
from rnnfast.optim import OPTIMIZERS
from rnnfast.trainer import (
    Checkpoint,
    JsonlLog,
    Plateau,
    ProgressBar,
    RnnlmTrainer,
    check_divergence,
    eval_perplexity,
    frozen,
    stop_on_interrupt,
)

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
PROPERTIES = ("quotes", "brackets", "line", "word", "upper", "digit")  # of rnnfast.inside
TEMPERATURE = 0.8
EVAL_BATCH, EVAL_TIME = 10, 35  # the book's
SCORE_STEPS = 1024  # tokens whose scores are in memory at a time
CHECKPOINT = "checkpoint.safetensors"
UNITS = {"char": "characters", "word": "words"}


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
    digest = hashlib.sha256(texts.corpus.tobytes()).hexdigest()
    if resume and (extra["text"], extra["tokens"]) != (digest, len(texts.vocabulary)):
        raise ValueError(f"{texts.name}: not the text that {checkpoint_file} was trained on")
    model = build_model(settings, len(texts.vocabulary))
    os.makedirs(out, exist_ok=True)
    tempfile.TemporaryFile(dir=out).close()  # an unwritable folder shows here, not at the end

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
    batch_size, time_size = settings.batch_size, settings.time_size
    max_iter = len(texts.xs) // (batch_size * time_size)

    def progress():
        return {
            "settings": asdict(settings),
            "text": digest,
            "tokens": len(vocabulary),
            "best": plateau.best,
            "curve": curve,
            "log_bytes": os.path.getsize(log_file),
        }

    def collect(step):
        if step.perplexity is not None:
            curve.append(step.perplexity)

    with ExitStack() as stack:
        mode = "a" if resume else "w"
        log = JsonlLog(stack.enter_context(open(log_file, mode, encoding="utf-8")))
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
                batch_size=batch_size,
                time_size=time_size,
                seed=settings.seed,
            )
            checkpoint.save()  # a run that is killed at once can be resumed, too

        def fit(epochs):
            trainer.fit(
                texts.xs,
                texts.ts,
                epochs,
                batch_size,
                time_size,
                settings.max_grad,
                settings.eval_interval,
            )

        with stop_on_interrupt(trainer):
            if settings.valid is None:
                fit(settings.epochs)
            while settings.valid is not None and trainer.current_epoch < settings.epochs:
                fit(1)
                if trainer.stopped:
                    break
                ppl = evaluate(model, texts.valid)
                used = optimizer.lr
                if plateau.update(ppl):
                    model.save_params(weights_file, vocabulary)
                rate = "" if optimizer.lr == used else f" | lr {optimizer.lr:g}"
                bar.write(
                    f"| epoch {trainer.current_epoch} | validation perplexity {ppl:.2f}{rate}"
                )
                log.write(
                    event="valid",
                    epoch=trainer.current_epoch,
                    perplexity=_finite(ppl),
                    lr=used,
                )
                checkpoint.save()
                if trainer.stopped:
                    break
            if trainer.stopped:
                checkpoint.save()
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
        start = texts.corpus[:time_size]
        ids = sampling.generate(
            model, start, settings.sample, temperature=TEMPERATURE, rng=settings.seed
        )
        print(f"generated text (temperature {TEMPERATURE}):\n{vocabulary.decode(ids)}")


def _stored(path, options):
    """The settings and the progress in a checkpoint; ValueError where options contradict them."""
    extra = io.load_arrays(path, only_header=True)[1].get("extra")
    try:
        stored = dict(extra["settings"])
        if not {"text", "tokens", "best", "curve", "log_bytes"} <= extra.keys():
            raise KeyError("progress")
        Settings(**stored)
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"{path}: not a checkpoint of `rnnfast train`") from None
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
            None if path is None else _at_least_two(path, self.vocabulary)
            for path in (settings.valid, settings.test)
        )


def _at_least_two(path, vocabulary):
    ids, _ = data.load_text(path, vocabulary)
    if len(ids) < 2:
        raise ValueError(f"{path}: needs at least 2 {UNITS[vocabulary.level]}, got {len(ids)}")
    return ids


def build_model(settings, vocab_size):
    """The model that --model and the options beside it ask for."""
    name = settings.model
    ties = name == "better" or settings.tie
    embedding = settings.embedding or (settings.hidden if ties else 64)
    options = {"rng": settings.seed}
    given = {"cell": settings.cell != "lstm", "layers": settings.layers != 1}
    given |= {"variational": settings.variational, "tie": settings.tie}
    given["dropout"] = settings.dropout is not None and name != "better"
    if name == "better":
        options["dropout_ratio"] = 0.5 if settings.dropout is None else settings.dropout
    if name == "custom":
        options |= {
            "cell": settings.cell,
            "layers": settings.layers,
            "dropout": settings.dropout or 0.0,
            "variational_dropout": settings.variational,
            "tie_weights": settings.tie,
        }
    elif any(given.values()):
        wrong = next(option for option, is_given in given.items() if is_given)
        raise ValueError(f"--{wrong} goes with --model custom, not with --model {name}")
    return _model_class(MODELS[name])(vocab_size, embedding, settings.hidden, **options)


def _model_class(name):
    if not hasattr(models, name):
        raise ValueError(f"this version of rnnfast has no {name}")
    return getattr(models, name)


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


def evaluate(model, ids, batch_size=None, time_size=None):
    """eval_perplexity with the book's batches, or one sample where the text is too short."""
    short = len(ids) - 1 < (batch_size or EVAL_BATCH) * (time_size or EVAL_TIME)
    batch_size = batch_size or (1 if short else EVAL_BATCH)
    time_size = time_size or (min(EVAL_TIME, len(ids) - 1) if short else EVAL_TIME)
    return eval_perplexity(model, ids, batch_size, time_size)


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
        print(f"test perplexity: {ppl:.2f}{_bits(settings.level, ppl)}")


def _curve(out, curve, eval_interval, wanted):
    if wanted is False:
        return
    if plot.available():
        file = os.path.join(out, "perplexity.png")
        plot.save_perplexity(file, curve, eval_interval)
        print(f"curve: {file}")
    else:
        print("curve: not drawn, matplotlib is missing (pip install 'rnnfast[plot]')")


def _bits(level, ppl):
    return f" ({math.log2(ppl):.3f} bits per character)" if level == "char" else ""


def _finite(value):
    return value if math.isfinite(value) else None


# Commands for a trained model


def open_model(path, vocabulary=None, level=None):
    """The model in a weight file and its vocabulary -> (model, rnnfast.data vocabulary).

    vocabulary: the text that the model was trained on, for files that have none in them, as the
    book's pickles; level: how it is read, "word" (None) or "char". OSError for what cannot be
    read; ValueError for damaged or foreign files and a vocabulary of another size.
    """
    path = os.fspath(path)
    if pickled := io.is_pickle(path):
        model, stored = _pickled_model(path), None
    else:
        model, stored = models.load_model(path)
    if vocabulary is not None:
        _, found = data.load_text(vocabulary, level=level or "word")
    elif stored is None:
        what = "a pickle" if pickled else "the file"
        raise ValueError(
            f"{path}: {what} has no vocabulary; name the text that the model was trained on "
            "with --vocabulary"
        )
    else:
        header = io.load_header(path)
        if header.level not in data.VOCABULARIES:
            raise ValueError(f"{path}: damaged rnnfast header (level {header.level!r})")
        found = data.VOCABULARIES[header.level](stored, header.unknown)
    size = model.sizes["vocab_size"]
    if len(found) != size:
        raise ValueError(
            f"{vocabulary or path}: the vocabulary has {len(found):,} tokens, the model {size:,}"
        )
    return model, found


def _pickled_model(path):
    """The book's model whose parameters have the shapes in a pickle, with these."""
    shapes = [array.shape for array in io.load_pickle(path)]
    sizes = {6: [2, 2, 2, 1, 2, 1], 8: [2, 2, 2, 1, 2, 2, 1, 1], 9: [2, 2, 2, 1, 2, 2, 1, 2, 1]}
    if [len(shape) for shape in shapes] != sizes.get(len(shapes)):
        raise ValueError(f"{path}: not the weights of one of the book's language models: {shapes}")
    (V, D), (H, width) = shapes[0], shapes[2]
    name = "BetterRnnlm" if len(shapes) > 6 else "Rnnlm" if width == 4 * H else "SimpleRnnlm"
    try:
        model = _model_class(name)(V, D, H, rng=0)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    model.load_params(path)
    return model


def evaluate_file(model, file, batch_size=None, time_size=None, vocabulary=None, level=None):
    """Print the perplexity of a text under a model, and bits per character."""
    model, vocabulary = open_model(model, vocabulary, level)
    ids = _at_least_two(file, vocabulary)
    ppl = evaluate(model, ids, batch_size, time_size)
    unit = UNITS[vocabulary.level]
    print(f"{file}: {len(ids):,} {unit}{_unknowns(vocabulary, ids)}")
    print(f"perplexity: {ppl:.2f}{_bits(vocabulary.level, ppl)}")


def _unknowns(vocabulary, ids):
    if vocabulary.unknown is None:
        return ""
    count = int((ids == vocabulary.token_to_id[vocabulary.unknown]).sum())
    return f", {count:,} of them {vocabulary.unknown}" if count else ""


def log_probabilities(model, ids):
    """log P(ids[i] | ids[0] ... ids[i-1]) for i from 1 on, natural logarithms: float64 (n - 1,).

    The model's state is zero before and after.
    """
    found = []
    model.reset_state()
    try:
        with frozen(model):
            for i in range(0, len(ids) - 1, SCORE_STEPS):
                xs, ts = ids[i : i + SCORE_STEPS], ids[i + 1 : i + 1 + SCORE_STEPS]
                scores = model.predict(xs[np.newaxis, : len(ts)])[0]
                scores = io.to_numpy(scores).astype(np.float64)
                scores -= scores.max(axis=1, keepdims=True)
                scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
                found.append(scores[np.arange(len(ts)), ts])
    finally:
        model.reset_state()
    return np.concatenate([np.empty(0), *found])


def _beginning(vocabulary):
    """What a text is taken to follow: the end of a line, if the vocabulary has that."""
    token = {"char": "\n", "word": data.EOS}[vocabulary.level]
    return [vocabulary.token_to_id[token]] if token in vocabulary.token_to_id else []


def score(model, text, vocabulary=None, level=None):
    """Print each token's log-probability given those before it, and the text's in total.

    text: "-" reads it from stdin. The text is taken to follow the end of a line; where the
    vocabulary does not have that, its first token is not scored.
    """
    model, vocabulary = open_model(model, vocabulary, level)
    if text == "-":
        text = sys.stdin.read()
    ids = vocabulary.encode(text)
    beginning = _beginning(vocabulary)
    whole = np.concatenate([np.array(beginning, np.int32), ids])
    if len(ids) == 0 or len(whole) < 2:
        raise ValueError(f"TEXT has {len(ids)} {UNITS[vocabulary.level]}: too few to score")
    logs = log_probabilities(model, whole)
    for i, value in zip(whole[1:].tolist(), logs.tolist(), strict=True):
        print(f"{value:10.4f}  {json.dumps(vocabulary.tokens[i], ensure_ascii=False)}")
    total, mean = logs.sum(), logs.mean()
    print(f"log-probability: {total:.4f} (natural; {len(logs)} {UNITS[vocabulary.level]})")
    print(f"perplexity: {math.exp(-mean):.2f}{_bits(vocabulary.level, math.exp(-mean))}")


def generate(
    model,
    *,
    prompt="",
    length=400,
    temperature=TEMPERATURE,
    top_k=None,
    top_p=None,
    seed=None,
    stop=None,
    skip=(),
    vocabulary=None,
    level=None,
):
    """Print `prompt` and text that continues it, as it is drawn; the unknown token never is.

    stop: text at whose end generation ends; skip: more tokens that are not drawn.
    """
    model, vocabulary = open_model(model, vocabulary, level)
    start = [*_beginning(vocabulary), *vocabulary.encode(prompt).tolist()] or [0]
    skipped = {*skip, *([vocabulary.unknown] if vocabulary.unknown is not None else [])}
    for token in skipped:
        if token not in vocabulary.token_to_id:
            raise ValueError(f"--skip: {token!r} is not among the vocabulary's tokens")
    options = {"temperature": temperature, "rng": seed, "top_k": top_k, "top_p": top_p}
    options["skip_ids"] = sorted(vocabulary.token_to_id[token] for token in skipped) or None
    options = {name: value for name, value in options.items() if value is not None}
    if seed is None:
        options["rng"] = np.random.default_rng()
    prompt_ids = vocabulary.encode(prompt).tolist()

    def ids():
        yield from prompt_ids
        with frozen(model):
            drawn = sampling.stream(model, start, **options)
            for _ in range(length):
                yield next(drawn)

    tail = ""
    for i, piece in enumerate(vocabulary.pieces(ids())):
        print(piece, end="", flush=True)
        tail = (tail + piece)[-len(stop) :] if stop else ""
        if stop and i >= len(prompt_ids) and tail == stop:
            break
    print()


def info(model=None):
    """Print versions, instruction sets, threads and devices, or what a weight file holds."""
    if model is None:
        kernels.show_config()
        return
    if io.is_pickle(model):
        arrays = io.load_pickle(model)
        print(f"{model}: a pickled list of {len(arrays)} arrays")
        for array in arrays:
            print(f"  {array.dtype} {array.shape}")
        return
    weights = io.load_weights(model)
    print(f"{model}: {weights.model}")
    for name, value in weights.sizes.items():
        print(f"  {name:<16}{value}")
    if weights.vocabulary is None:
        print("  vocabulary      none")
    else:
        unknown = "" if weights.unknown is None else f", {weights.unknown!r} for all others"
        unit = UNITS.get(weights.level, weights.level)
        print(f"  vocabulary      {len(weights.vocabulary):,} {unit}{unknown}")
    total = sum(array.size for array in weights.params.values())
    print(f"  parameters      {total:,}")
    for name, array in weights.params.items():
        print(f"    {name:<14}{array.dtype} {array.shape}")


def fetch(name, folder=None, url=None, sha256=None):
    """Download a corpus; see rnnfast.corpora."""
    sums = None if not sha256 else corpora.parse_checksums(",".join(sha256))
    corpora.fetch(name, folder, url=url, sha256=sums)


# Looking inside: rnnfast.inside


def gradients(out="gradients.png"):
    """Draw how gradients explode and vanish over time; see rnnfast.inside."""
    _inside().plot_gradients(out)
    print(f"picture: {out}")


def cells(
    model,
    text,
    *,
    property="line",
    layer=None,
    unit=None,
    top=5,
    html=None,
    vocabulary=None,
    level=None,
):
    """Show a text on the colours of one unit's activation, in the terminal or as a page `html`.

    unit, of `layer` (the first): which; None takes, of all units, the one that follows `property`
    best, and prints the `top` of them with their correlation. text: "-" reads it from stdin.
    """
    inside = _inside()
    model, vocabulary = open_model(model, vocabulary, level)
    if text == "-":
        text = sys.stdin.read()
    ids = vocabulary.encode(text)
    if len(ids) == 0:
        raise ValueError("TEXT must not be empty")
    layers = [io.to_numpy(hs) for hs in inside.activations(model, ids)]
    if unit is None:
        if vocabulary.level != "char":
            raise ValueError("--property is about characters; name a --unit of this word model")
        units = inside.rank_units(layers, inside.PROPERTIES[property](text), top=top)
        for found in units:
            place = f"layer {found.layer}, unit {found.unit}"
            print(f"{place:<24}correlation with {property}: {found.correlation:+.3f}")
        layer, unit = units[0].layer, units[0].unit
    layer = layer or 0
    if not (0 <= layer < len(layers) and 0 <= unit < layers[layer].shape[1]):
        raise ValueError(
            f"--layer must be below {len(layers)} and --unit below "
            f"{layers[0].shape[1]}, got {layer} and {unit}"
        )
    values = layers[layer][:, unit]
    tokens = list(vocabulary.pieces(ids.tolist()))
    if html is None:
        print(inside.to_terminal(tokens, values))
    else:
        title = f"{type(model).__name__}: layer {layer}, unit {unit}"
        io.write_atomically(html, inside.to_html(tokens, values, title).encode())
        print(f"page: {html}")


def _inside():
    try:
        from rnnfast import inside
    except ImportError:
        raise ModuleNotFoundError("this version of rnnfast has no rnnfast.inside") from None
    return inside
