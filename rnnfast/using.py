"""What the commands do with a trained model: evaluate, score, generate, describe, look inside."""

import json
import math
import os
import sys
from contextlib import closing
from itertools import islice

import numpy as np

from rnnfast import corpora, data, inside, io, kernels, models, sampling
from rnnfast.sampling import frozen
from rnnfast.trainer import eval_accuracy, eval_perplexity, perplexity, warn_if_blind

EVAL_BATCH, EVAL_TIME = 10, 35  # the book's
SCORE_STEPS = 1024  # tokens whose scores are in memory at a time
PRIME = 1024  # tokens at the end of a file that are read before another text
LEAST = 64  # the same of a training text
UNITS = {"char": "characters", "word": "words"}
TEMPERATURE = 0.8


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
        if not isinstance(model, models.BaseModel):
            raise ValueError(f"{path}: a {type(model).__name__}, which is no language model")
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
        found = data.VOCABULARIES[header.level](stored, header.unknown)
        found.prime = header.prime or []
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
        model = getattr(models, name)(V, D, H, rng=models.Blank(sum(map(math.prod, shapes))))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    model.load_params(path)
    return model


def evaluate_file(
    model,
    file,
    batch_size=None,
    time_size=None,
    *,
    prime=None,
    unknown=None,
    vocabulary=None,
    level=None,
):
    """Print loss, perplexity (bits per character) and accuracy of a model on a text.

    prime: a text that stands before it, see eval_perplexity; "@FILE" the end of a file's, "" none,
    None what the weight file has. unknown: what becomes of tokens that the model does not know,
    "skip" or "map".
    """
    model, vocabulary = open_model(model, vocabulary, level)
    text = data.read_text(file)
    ids = load_ids(file, vocabulary, unknown, text=text)
    prime = prime_ids(prime, vocabulary, unknown)
    prime = prime if len(prime) else None
    ppl = evaluate(model, ids, batch_size, time_size, prime=prime)
    accuracy = evaluate(model, ids, batch_size, time_size, eval_accuracy, prime=prime)
    unit = UNITS[vocabulary.level]
    print(f"{file}: {len(ids):,} {unit}{_unknowns(vocabulary, ids, text, unknown)}")
    print(f"loss: {math.log(ppl):.4f}, accuracy: {accuracy:.2%}")
    print(f"perplexity: {ppl:.2f}{bits(vocabulary.level, ppl)}")


def _unknowns(vocabulary, ids, text, unknown):
    """What became of the tokens that are not known, if there are any."""
    if unknown is not None:
        count = vocabulary.count_unknown(text)
        done = "left out" if unknown == "skip" else f"read as {vocabulary.stand_in!r}"
        return f", {count:,} unknown ones {done}" if count else ""
    if vocabulary.unknown is None:
        return ""
    count = int((ids == vocabulary.token_to_id[vocabulary.unknown]).sum())
    return f", {count:,} of them {vocabulary.unknown}" if count else ""


def encode(vocabulary, text, unknown=None, where=""):
    """vocabulary.encode whose error, after `where`, says which option helps."""
    try:
        return vocabulary.encode(text, unknown)
    except ValueError as error:
        unit, stand_in = UNITS[vocabulary.level], vocabulary.stand_in
        remedy = f"--unknown skip leaves unknown {unit} out"
        if stand_in is not None:
            remedy += f", --unknown map reads them as {stand_in!r}"
        remedy += "; `rnnfast train --min-count 2` teaches a model a token for them"
        raise ValueError(f"{where}{error}: {remedy}") from None


def prime_ids(prime, vocabulary, unknown=None):
    """The ids that a model reads before a text: those of `prime`, "@FILE" the last of a file's.

    None: those that its weight file has, as `rnnfast train` leaves them there.
    """
    if prime is None:
        return np.array(vocabulary.prime, np.int32)
    if prime.startswith("@"):
        file = prime[1:]
        return encode(vocabulary, data.read_text(file), unknown, f"{file}: ")[-PRIME:]
    return encode(vocabulary, prime, unknown, "--prime: ")


def ending(model, ids):
    """The end of ids (length,), a text, for a model to read before another: a list of 64 to 128.

    A model of few iterations may run off at some token if its state is zero, and not come back. So
    that beginning is taken after which the next 64 ids surprise it least. The model's state stays.
    """
    T = min(LEAST, len(ids))
    starts = list(range(len(ids) - T, max(len(ids) - 2 * LEAST, 0) - 1, -(LEAST // 8)))
    rows = np.stack([ids[start : start + T] for start in starts])
    with sampling.own_state(model):
        model.reset_state()
        scores = _log_softmax(model.predict(rows[:, :-1])[:, T // 2 :])
    right = np.take_along_axis(scores, rows[:, 1 + T // 2 :, np.newaxis], axis=2)
    return ids[starts[right[:, :, 0].sum(axis=1).argmax()] :].tolist()


def _log_softmax(scores):
    """Over the last axis, in float64."""
    scores = scores.astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return scores


def log_probabilities(model, ids):
    """log P(ids[i] | ids[0] ... ids[i-1]) for i from 1 on, natural logarithms: float64 (n - 1,).

    The model's state is zero before and after.
    """
    return np.concatenate([np.empty(0), *(logs for logs, _ in _scored(model, ids))])


def _scored(model, ids):
    """The same by SCORE_STEPS, each with whether these ids were the likeliest."""
    model.reset_state()
    try:
        with frozen(model):
            for i in range(0, len(ids) - 1, SCORE_STEPS):
                xs, ts = ids[i : i + SCORE_STEPS], ids[i + 1 : i + 1 + SCORE_STEPS]
                scores = _log_softmax(model.predict(xs[np.newaxis, : len(ts)])[0])
                yield scores[np.arange(len(ts)), ts], scores.argmax(axis=1) == ts
    finally:
        model.reset_state()


def _before(prime, vocabulary, unknown):
    """The ids that a text is taken to follow, if the vocabulary has some.

    A prime of the caller's; else that of the weight file, and the end of a line.
    """
    ids = prime_ids(prime, vocabulary, unknown)
    token = {"char": "\n", "word": data.EOS}[vocabulary.level]
    if prime or token not in vocabulary.token_to_id:
        return ids
    return np.append(ids, np.int32(vocabulary.token_to_id[token]))


def _given(text):
    """TEXT itself, or what stdin has for "-"."""
    if text != "-":
        return text
    if sys.stdin is None:
        raise ValueError("TEXT is - but stdin is closed")
    return sys.stdin.read()


def score(model, text, *, prime=None, unknown=None, vocabulary=None, level=None):
    """Print each token's log-probability given those before it, and the text's in total.

    text: "-" reads it from stdin. prime and unknown: as in evaluate_file. Without a prime of the
    caller's the text is taken to follow the end of a line, too; if nothing is before it, its first
    token is not scored.
    """
    model, vocabulary = open_model(model, vocabulary, level)
    text = _given(text)
    ids = encode(vocabulary, text, unknown, "TEXT: ")
    before = _before(prime, vocabulary, unknown)
    whole = np.concatenate([before, ids])
    unit, scored = UNITS[vocabulary.level], len(whole) - max(len(before), 1)
    if len(ids) == 0 or scored < 1:
        raise ValueError(f"TEXT has {len(ids)} {unit}: too few to score")
    total, hits, left = 0.0, 0, len(whole) - 1
    with closing(_scored(model, whole)) as found:
        for logs, right in found:  # printed as they come: a text may be long
            first = max(left - scored, 0)  # of the prime
            at, logs, right = len(whole) - left + first, logs[first:], right[first:]
            for i, value in zip(whole[at : at + len(logs)].tolist(), logs.tolist(), strict=True):
                print(f"{value:10.4f}  {json.dumps(vocabulary.tokens[i], ensure_ascii=False)}")
            total, hits, left = total + logs.sum(), hits + right.sum(), left - SCORE_STEPS
    print(
        f"log-probability: {total:.4f} (natural; {scored} {unit}"
        f"{_unknowns(vocabulary, ids, text, unknown)})"
    )
    ppl = perplexity(-total / scored)
    print(f"perplexity: {ppl:.2f}{bits(vocabulary.level, ppl)}, accuracy: {hits / scored:.2%}")
    warn_if_blind(ppl, len(vocabulary), len(before) > 1)


def generate(
    model,
    *,
    prompt="",
    prime=None,
    unknown=None,
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

    prime, which is not printed, and unknown: as in `score`. stop: text at whose end
    generation ends; skip: more tokens that are not drawn.
    """
    model, vocabulary = open_model(model, vocabulary, level)
    prompt_ids = encode(vocabulary, prompt, unknown, "--prompt: ").tolist()
    start = [*_before(prime, vocabulary, unknown).tolist(), *prompt_ids] or [0]
    skipped = {*skip, *([vocabulary.unknown] if vocabulary.unknown is not None else [])}
    for token in skipped:
        if token not in vocabulary.token_to_id:
            raise ValueError(f"--skip: {token!r} is not among the vocabulary's tokens")
    options = {"temperature": temperature, "rng": seed, "top_k": top_k, "top_p": top_p}
    options["skip_ids"] = sorted(vocabulary.token_to_id[token] for token in skipped) or None
    options = {name: value for name, value in options.items() if value is not None}
    if seed is None:
        options["rng"] = np.random.default_rng()

    def ids():
        yield from prompt_ids
        with closing(sampling.stream(model, start, **options)) as drawn:
            yield from islice(drawn, length)

    print(prompt, end="", flush=True)  # as it was typed, whatever the model makes of it
    spaced, tail = prompt[-1:].isspace(), ""
    for i, piece in enumerate(vocabulary.pieces(ids())):
        if i >= len(prompt_ids):
            if i == len(prompt_ids) and spaced and vocabulary.level == "word":
                piece = piece.removeprefix(" ")
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
        print(f"  {name:<15} {value}")
    if weights.vocabulary is None:
        print("  vocabulary      none")
    else:
        unknown = "" if weights.unknown is None else f", {weights.unknown!r} for all others"
        unit = UNITS.get(weights.level, weights.level)
        print(f"  vocabulary      {len(weights.vocabulary):,} {unit}{unknown}")
    total = sum(array.size for array in weights.params.values())
    print(f"  parameters      {total:,}")
    for name, array in weights.params.items():
        print(f"    {name:<13} {array.dtype} {array.shape}")


def fetch(name, folder=None, url=None, sha256=None):
    """Download a corpus; see rnnfast.corpora."""
    sums = None if not sha256 else corpora.parse_checksums(",".join(sha256))
    corpora.fetch(name, folder, url=url, sha256=sums)


# Looking inside: rnnfast.inside


def gradients(out="gradients.png"):
    """Draw how gradients explode and vanish over time; see rnnfast.inside."""
    io.check_writable(out)
    inside.plot_gradients(out)
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
    unknown=None,
    vocabulary=None,
    level=None,
):
    """Show a text on the colours of one unit's activation, in the terminal or as a page `html`.

    unit, of `layer` (the first): which; None takes, of all units, the one that follows `property`
    best, and prints the `top` of them with their correlation. text: "-" reads it from stdin.
    unknown: as in evaluate_file.
    """
    if html is not None:
        io.check_writable(html)
    model, vocabulary = open_model(model, vocabulary, level)
    text = _given(text)
    ids = encode(vocabulary, text, unknown, "TEXT: ")
    if len(ids) == 0:
        raise ValueError("TEXT must not be empty")
    layers = inside.activations(model, ids)
    if unit is None:
        if vocabulary.level != "char":
            raise ValueError("--property is about characters; name a --unit of this word model")
        values = inside.PROPERTIES[property](text)
        if unknown == "skip":
            values = values[[token in vocabulary.token_to_id for token in text]]
        if (values == values[:1]).all():
            raise ValueError(
                f"--property {property}: it is the same at each of the {len(ids)} characters of "
                "TEXT, so that no unit can follow it; give a longer TEXT, or a --unit"
            )
        units = inside.rank_units(layers, values, top=top)
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


# What training uses, too


def evaluate(model, ids, batch_size=None, time_size=None, measure=eval_perplexity, *, prime=None):
    """measure with the book's batches, or one sample where the text is too short."""
    short = len(ids) - 1 < (batch_size or EVAL_BATCH) * (time_size or EVAL_TIME)
    batch_size = batch_size or (1 if short else EVAL_BATCH)
    time_size = time_size or (min(EVAL_TIME, len(ids) - 1) if short else EVAL_TIME)
    return measure(model, ids, batch_size, time_size, prime=prime)


def load_ids(path, vocabulary, unknown=None, text=None):
    """The ids of a text file, of which `text` is there already if it is not None."""
    ids = encode(vocabulary, data.read_text(path) if text is None else text, unknown, f"{path}: ")
    if len(ids) < 2:
        raise ValueError(f"{path}: needs at least 2 {UNITS[vocabulary.level]}, got {len(ids)}")
    return ids


def bits(level, ppl):
    return f" ({math.log2(ppl):.3f} bits per character)" if level == "char" else ""
