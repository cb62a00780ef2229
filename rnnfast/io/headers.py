"""The JSON in weight files and checkpoints: one schema, checked on reading and on writing.

A check is a function of a field's name and its value. It raises Wrong, which names the field.
Fields that a schema does not know are ignored.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

Check = Callable[[str, Any], None]

DEPTH = 64  # of brackets in brackets
# Approximate memory of parsed JSON, in bytes, in addition to the length of the text
STRING, NUMBER, LIST, OBJECT = 150, 40, 100, 300
SHARE, EXTRA = 8, 2**25
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]|[^\s\[\]{},:"]++', re.DOTALL)


class Wrong(ValueError):
    """A field of a header is wrong. The message names it."""


# Checks


def wrong(name: str, expected: str, value: Any) -> Wrong:
    """The error for a field: its name, what was expected, and what came."""
    kind = type(value).__name__
    got = {"NoneType": "null", "dict": "an object", "list": "a list"}.get(kind)
    if got is None:
        text = value if isinstance(value, str) else str(value)[:60]
        got = repr(text[:60]) if isinstance(value, str) else f"{kind} {text}"
    return Wrong(f"{name} must be {expected}, got {got}")


def text(name: str, value: Any) -> None:
    """Check: a string of valid Unicode."""
    if not isinstance(value, str):
        raise wrong(name, "a string", value)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Wrong(f"{name} must be a string of Unicode, got half a surrogate pair") from None


def integer(low: int, high: int = 2**63 - 1) -> Check:
    """The check of an integer in [low, high]."""

    def check(name: str, value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            raise wrong(name, f"an integer from {low} to {high}", value)

    return check


def number(name: str, value: Any) -> None:
    """Check: a number. NaN and infinity are allowed, since a run may have diverged."""
    if type(value) not in (int, float) or (type(value) is int and abs(value) >= 2**63):
        raise wrong(name, "a number", value)


def anything(name: str, value: Any) -> None:
    """Check: any value."""


def one_of(*values: Any) -> Check:
    """The check of a value among `values`, of the same type."""

    def check(name: str, value: Any) -> None:
        if type(value) not in map(type, values) or value not in values:
            raise wrong(name, f"one of {', '.join(map(repr, values))}", value)

    return check


def maybe(inner: Check) -> Check:
    """The check of null or of what `inner` accepts."""

    def check(name: str, value: Any) -> None:
        if value is not None:
            inner(name, value)

    return check


def list_of(inner: Check) -> Check:
    """The check of a list of any length; `inner` checks each element."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, list):
            raise wrong(name, "a list", value)
        for k, one in enumerate(value):
            inner(f"{name}[{k}]", one)

    return check


def row(*inners: Check) -> Check:
    """The check of a list of fixed length; each element has its own check."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, list) or len(value) != len(inners):
            raise wrong(name, f"a list of {len(inners)}", value)
        for k, (inner, one) in enumerate(zip(inners, value, strict=True)):
            inner(f"{name}[{k}]", one)

    return check


def mapping(inner: Check) -> Check:
    """The check of an object with any keys; `inner` checks each value."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise wrong(name, "an object", value)
        for key, one in value.items():
            text(f"a key of {name}", key)
            inner(f"{name}.{key[:60]}", one)

    return check


def record(optional: Sequence[str] = (), **fields: Check) -> Check:
    """The check of an object with these fields.

    Parameters
    ----------
    optional : sequence of str
        Fields that may be missing.
    **fields
        Name -> check of its value.

    Returns
    -------
    Check

    Examples
    --------
    >>> check = record(("b",), a=integer(0), b=text)
    >>> check("", {"a": 1})
    >>> check("", {"a": -1})
    Traceback (most recent call last):
    rnnfast.io.headers.Wrong: a must be an integer from 0 to 9223372036854775807, got int -1
    """

    def check(name: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise wrong(name, "an object", value)
        for key, inner in fields.items():
            if key in value:
                inner(f"{name}.{key}".removeprefix("."), value[key])
            elif key not in optional:
                raise Wrong(f"{name}.{key} is missing".removeprefix("."))

    return check


def any_of_type(kind: Any) -> Check:
    """The check of a value's type, given as an annotation: int, str | None, ..."""
    kinds = getattr(kind, "__args__", (kind,))
    names = " or ".join("null" if one is type(None) else one.__name__ for one in kinds)

    def check(name: str, value: Any) -> None:
        found = type(value)
        if found not in kinds and not (found is int and float in kinds):
            raise wrong(name, f"of type {names}", value)  # a path may be no Unicode

    return check


# Schemas


def _scalar(name: str, value: Any) -> None:
    """Check: an argument of a model's constructor."""
    if type(value) is bool:
        return
    if isinstance(value, str):
        text(name, value)
    elif type(value) not in (int, float) or not math.isfinite(value):
        raise wrong(name, "a string, a finite number, true or false", value)


def _token(name: str, value: Any) -> None:
    """Check: a token of a vocabulary."""
    text(name, value)
    if not value:
        raise Wrong(f"{name} must not be empty")


def _vocabulary(name: str, value: Any) -> None:
    """Check: a list of distinct tokens."""
    list_of(_token)(name, value)
    if len(set(value)) < len(value):
        raise Wrong(f"{name} must be of distinct tokens")


_weights = record(
    ("level", "unknown", "prime"),
    model=text,
    sizes=mapping(_scalar),
    vocabulary=maybe(_vocabulary),
    level=one_of("char", "word"),
    unknown=maybe(text),
    prime=maybe(list_of(integer(0))),
)


def weights(name: str, header: Any) -> None:
    """Check: the header of a weight file; see rnnfast.io.weights."""
    _weights(name, header)
    unknown, tokens = header.get("unknown"), header["vocabulary"]
    if unknown is not None and tokens is not None and unknown not in tokens:
        raise wrong("unknown", "one of the vocabulary", unknown)
    sizes = header["sizes"]
    if tokens is not None and sizes and sizes.get("vocab_size") != len(tokens):
        size = sizes.get("vocab_size")
        raise Wrong(f"vocabulary must have vocab_size = {size} tokens, found {len(tokens)}")
    prime = header.get("prime") or [-1]
    if tokens is not None and max(prime) >= len(tokens):
        raise wrong("prime", f"ids of a vocabulary of {len(tokens)}", max(prime))


# What of an optimizer's state is not just a number
_OPTIMIZER: dict[str, Check] = {"iter": integer(0), "start": maybe(integer(0))}
_OPTIMIZER |= {"interval": integer(1), "ppls": list_of(number)}


def _optimizer_number(name: str, value: Any) -> None:
    """Check: one of the numbers of an optimizer's state."""
    _OPTIMIZER.get(name.rpartition(".")[2], number)(name, value)


_progress = record(
    ("valid",),
    epoch=integer(0),
    iter=integer(0),
    total=number,
    count=integer(0),
    size=mapping(integer(0)),
    valid=integer(0),
)
# RnnlmTrainer has time_idx and ppl_list, Trainer loss_list
_checkpoint = record(
    ("eval_epochs", "time_idx", "ppl_list", "loss_list", "valid_list"),
    trainer=text,
    optimizer=row(text, mapping(_optimizer_number)),
    random=row(integer(0, 624), integer(0, 1), number),
    progress=maybe(_progress),
    current_epoch=integer(0),
    eval_epochs=list_of(number),
    eval_interval=maybe(integer(1)),
    max_iter=maybe(integer(1)),
    seconds=number,
    recurrent=integer(0),
    dropout=list_of(row(integer(0), maybe(row(integer(0, 2**64 - 1), integer(0, 2**64 - 1))))),
    time_idx=maybe(integer(0)),
    ppl_list=maybe(list_of(number)),
    loss_list=list_of(number),
    valid_list=list_of(number),
)
checkpoint = record(("extra",), checkpoint=_checkpoint, extra=anything)  # by a trainer
# What `rnnfast train` adds to its checkpoints
training = record(
    ("stage",),
    settings=mapping(anything),
    texts=row(*[maybe(text)] * 3),  # digests
    best=number,
    curve=list_of(row(number, number)),
    valid=list_of(row(number, number)),
    lowest=number,
    log_bytes=integer(0),
    stage=integer(1),
)


# Reading


def weigh(data: bytes, room: int) -> None:
    """Estimate the memory of JSON before it is parsed, and refuse too much.

    Parameters
    ----------
    data : bytes
        JSON text.
    room : int
        Bytes that the parsed value may take.

    Raises
    ------
    Wrong
        If it would take more than `room` bytes, or is nested deeper than DEPTH.
    """
    total, depth = len(data), 0
    for match in _TOKEN.finditer(data):
        first = data[match.start()]
        if first in b"[{":
            depth += 1
            total += LIST if first == 91 else OBJECT
            if depth > DEPTH:
                raise Wrong("its brackets are nested too deeply")
        elif first in b"]}":
            depth -= 1
        else:
            total += STRING if first == 34 else NUMBER
        if total > room:
            raise Wrong("it has too many parts for the size of the file")


def parse(source: str, room: int) -> Any:
    """Parse JSON text.

    Parameters
    ----------
    source : str
        JSON text, in which no object has a key twice.
    room : int
        Bytes that the parsed value may take; see `weigh`.

    Returns
    -------
    object
        dict, list, str, int, float, bool or None.

    Raises
    ------
    Wrong
        For anything else.
    """
    try:
        weigh(source.encode(), room)
        return json.loads(source, object_pairs_hook=_once)
    except Wrong:
        raise
    except (ValueError, RecursionError) as error:  # surrogates, digits without end, no JSON
        raise Wrong(" ".join(str(error).split())[:200]) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict. Wrong if a key occurs twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise Wrong(f"{key[:60]} is given twice")
            seen.add(key)
    return found


def room(size: int) -> int:
    """The memory in bytes that the contents of a file of `size` bytes may take."""
    return SHARE * size + EXTRA
