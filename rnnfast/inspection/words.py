"""Word vectors: similar words and analogies. Deep Learning from Scratch 2, chapters 2 and 4."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast import checks
from rnnfast.inspection.arguments import here, kind
from rnnfast.typing import Array


def most_similar(
    word: str,
    word_to_id: Mapping[str, int],
    id_to_word: Mapping[int, str] | Sequence[str],
    word_matrix: Array,
    top: int = 5,
) -> list[tuple[str, float]]:
    """Print the words whose vectors have the highest cosine similarity with that of a word.

    Parameters
    ----------
    word : str
        The query.
    word_to_id, id_to_word : dict
        The vocabulary.
    word_matrix : array (V, D)
        Word vectors, one row per id; those of a model are `model.params[0]`.
    top : int
        Number of words.

    Returns
    -------
    list of (str, float)
        Words and cosines, the best first, without the query.

    Raises
    ------
    ValueError
        `word` is not in `word_to_id`.

    References
    ----------
    Deep Learning from Scratch 2, chapter 2, common/util.py.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast import inspection
    >>> words = ["a", "b", "c"]
    >>> ids = {word: k for k, word in enumerate(words)}
    >>> W = np.array([[1.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    >>> found = inspection.most_similar("a", ids, words, W, top=1)
    <BLANKLINE>
    [query] a
     b: 0.5999999928...
    """
    owner = "most_similar"
    W = _checked_words(owner, word_to_id, id_to_word, word_matrix)
    top = checks.count(owner, "top", top)
    query = W[_id_of(owner, "word", word, word_to_id, len(W))]
    unit = W / (np.sqrt(np.sum(W**2, axis=1, keepdims=True)) + 1e-8)
    similarity = unit @ (query / (np.sqrt(np.sum(query**2)) + 1e-8))
    print(f"\n[query] {word}")
    return _print_ranked(similarity, id_to_word, (word,), top)


def analogy(
    a: str,
    b: str,
    c: str,
    word_to_id: Mapping[str, int],
    id_to_word: Mapping[int, str] | Sequence[str],
    word_matrix: Array,
    top: int = 5,
    answer: str | None = None,
) -> list[tuple[str, float]]:
    """Print the words that are to c as b is to a.

    Parameters
    ----------
    a, b, c : str
        The query "a is to b as c is to ...".
    word_to_id, id_to_word, word_matrix, top
        As in `most_similar`.
    answer : str, optional
        A word whose similarity is printed first.

    Returns
    -------
    list of (str, float)
        Words and similarities, the best first, without a, b and c.

    Raises
    ------
    ValueError
        A word is not in `word_to_id`.

    Notes
    -----
    As in the book, the similarity is the product of a word's vector, which keeps its length, with
    the normalised vector b - a + c.

    References
    ----------
    Deep Learning from Scratch 2, chapter 4, common/util.py.

    Examples
    --------
    >>> words = ["king", "man", "queen", "woman"]
    >>> ids = {word: i for i, word in enumerate(words)}
    >>> W = np.array([[2.0, 1.0], [2.0, 0.0], [3.0, 0.0], [1.0, -1.0]])
    >>> best = analogy("man", "king", "woman", ids, words, W, top=1)
    <BLANKLINE>
    [analogy] man:king = woman:?
     queen: 3.0
    >>> [word for word, _ in best]
    ['queen']
    """
    owner = "analogy"
    W = _checked_words(owner, word_to_id, id_to_word, word_matrix)
    top = checks.count(owner, "top", top)
    words = {"a": a, "b": b, "c": c}
    ids = {name: _id_of(owner, name, word, word_to_id, len(W)) for name, word in words.items()}
    answer_id = None
    if answer is not None:
        answer_id = _id_of(owner, "answer", answer, word_to_id, len(W))
    query = W[ids["b"]] - W[ids["a"]] + W[ids["c"]]
    length = np.sqrt(np.sum(query**2))
    similarity = W @ (query / length if length else query)
    print(f"\n[analogy] {a}:{b} = {c}:?")
    if answer_id is not None:
        print(f"==>{answer}:{similarity[answer_id]}")
    return _print_ranked(similarity, id_to_word, (a, b, c), top)


def _print_ranked(
    similarity: NDArray[Any], id_to_word: Any, left_out: tuple[str, ...], top: int
) -> list[tuple[str, float]]:
    """Print and return the `top` words of the highest similarity."""
    ranked: list[tuple[str, float]] = []
    for k in np.argsort(-similarity, kind="stable"):
        word = id_to_word[int(k)]
        if word in left_out or np.isnan(similarity[k]):
            continue
        ranked.append((word, float(similarity[k])))
        print(f" {word}: {similarity[k]}")
        if len(ranked) == top:
            break
    return ranked


def _checked_words(owner: str, word_to_id: Any, id_to_word: Any, word_matrix: Any) -> Any:
    """word_matrix in float64."""
    for name, mapping in (("word_to_id", word_to_id), ("id_to_word", id_to_word)):
        if not hasattr(mapping, "__getitem__") or isinstance(mapping, (str, np.ndarray)):
            raise TypeError(f"{owner}: {name} must be a dict, got {kind(mapping)}")
    word_matrix = here(owner, "word_matrix", word_matrix)
    checks.real(owner, "word_matrix", word_matrix)
    if word_matrix.ndim != 2 or len(word_matrix) != len(id_to_word):
        expected = f"(V, D), V = {len(id_to_word)} words"
        raise checks.shape_error(owner, "word_matrix", expected, word_matrix)
    return word_matrix.astype(np.float64)


def _id_of(owner: str, name: str, word: str, word_to_id: Any, V: int) -> int:
    """The id of a word; ValueError for unknown words."""
    try:
        k: int = word_to_id[word]
    except (KeyError, TypeError):
        raise ValueError(f"{owner}: {name} must be in the vocabulary, got {word!r}") from None
    if not 0 <= k < V:
        raise ValueError(f"{owner}: the id of {word!r} must be in [0, {V}), got {k}")
    return k
