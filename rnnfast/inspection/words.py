"""Word vectors: which words are alike, and analogies. Deep Learning from Scratch 2, chapter 4."""

import numpy as np

from rnnfast import checks
from rnnfast.inspection.arguments import here, kind


def most_similar(word, word_to_id, id_to_word, word_matrix, top=5):
    """Print the `top` words whose vectors have the highest cosine with that of `word`.

    word_matrix (V, D): a word's vector is the row of its id; a model's is model.params[0]. Returns
    [(word, cosine), ...], the best first; `word` itself is left out. ValueError for a word that is
    not in word_to_id. The book's function (chapter 2, common/util.py).
    """
    owner = "most_similar"
    W = _checked_words(owner, word_to_id, id_to_word, word_matrix)
    top = checks.count(owner, "top", top)
    query = W[_id_of(owner, "word", word, word_to_id, len(W))]
    unit = W / (np.sqrt(np.sum(W**2, axis=1, keepdims=True)) + 1e-8)
    similarity = unit @ (query / (np.sqrt(np.sum(query**2)) + 1e-8))
    print(f"\n[query] {word}")
    return _print_ranked(similarity, id_to_word, (word,), top)


def analogy(a, b, c, word_to_id, id_to_word, word_matrix, top=5, answer=None):
    """Print the words that are to c as b is to a: those along b - a + c, normalised.

    As in the book (chapter 4, common/util.py) the measure is the product with that vector, and
    the word vectors keep their length. With `answer` that word's measure is printed first. Returns
    [(word, measure), ...], the best first; a, b and c are left out. ValueError for a word that is
    not in word_to_id.
    """
    owner = "analogy"
    W = _checked_words(owner, word_to_id, id_to_word, word_matrix)
    top = checks.count(owner, "top", top)
    words = {"a": a, "b": b, "c": c}
    ids = {name: _id_of(owner, name, word, word_to_id, len(W)) for name, word in words.items()}
    if answer is not None:
        answer_id = _id_of(owner, "answer", answer, word_to_id, len(W))
    query = W[ids["b"]] - W[ids["a"]] + W[ids["c"]]
    length = np.sqrt(np.sum(query**2))
    similarity = W @ (query / length if length else query)
    print(f"\n[analogy] {a}:{b} = {c}:?")
    if answer is not None:
        print(f"==>{answer}:{similarity[answer_id]}")
    return _print_ranked(similarity, id_to_word, (a, b, c), top)


def _print_ranked(similarity, id_to_word, left_out, top):
    ranked = []
    for k in np.argsort(-similarity, kind="stable"):
        word = id_to_word[int(k)]
        if word in left_out or np.isnan(similarity[k]):
            continue
        ranked.append((word, float(similarity[k])))
        print(f" {word}: {similarity[k]}")
        if len(ranked) == top:
            break
    return ranked


def _checked_words(owner, word_to_id, id_to_word, word_matrix):
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


def _id_of(owner, name, word, word_to_id, V):
    try:
        k = word_to_id[word]
    except (KeyError, TypeError):
        raise ValueError(f"{owner}: {name} must be in the vocabulary, got {word!r}") from None
    if not 0 <= k < V:
        raise ValueError(f"{owner}: the id of {word!r} must be in [0, {V}), got {k}")
    return k
