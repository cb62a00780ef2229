"""Why a window is not enough: a CBOW-style model and a recurrent model (chapter 5).

    Tom was watching TV in his room . Mary came into the room . Mary said hi to ?

A model that sees only the last few words cannot know the name, which stood many words before. An
RNN reads the sentence from its beginning and can keep the name in its state.

Two names and up to two sentences between them make some thousand texts. The distance to the answer
varies, but is always larger than the window. A fifth of the texts, at random, is held out.

    python -m rnnfast.examples.tom_mary
"""

import argparse
import time
from collections.abc import Sequence
from itertools import permutations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast import Affine, Embedding, SoftmaxWithLoss
from rnnfast.examples.common import count, first_line, natural
from rnnfast.models import LanguageModel
from rnnfast.optim import Adam, clip_grads

HIS, HER = ("Tom", "John", "Paul", "Minho", "Jack"), ("Mary", "Ann", "Jane", "Sora", "Kate")
NAMES = HIS + HER
BETWEEN = (
    "it was late .",
    "the TV was loud .",
    "the cat was asleep .",
    "nobody else was in the house .",
    "it rained .",
    "dinner was ready .",
)
WINDOW = 5  # words
BATCH_SIZE = 64
LEARNING_RATE = 0.002
MAX_GRAD = 0.25
FORGET_BIAS = 2.0


def sentence(first: str, second: str, between: Sequence[str]) -> list[str]:
    """The words before the answer, which is `first`."""
    whose = "his" if first in HIS else "her"
    text = f"{first} was watching TV in {whose} room . {second} came into the room ."
    return [*text.split(), *" ".join(between).split(), second, "said", "hi", "to"]


VOCABULARY = ["<pad>", *NAMES]
for word in sentence("Tom", "Mary", BETWEEN) + sentence("Mary", "Tom", ()):
    if word not in VOCABULARY:
        VOCABULARY.append(word)
LENGTH = len(sentence("Tom", "Mary", [max(BETWEEN, key=lambda text: len(text.split()))] * 2))


def make_data() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All texts as ids (M, LENGTH), padded on the left, and their answers (M,)."""
    betweens = [between for count in range(3) for between in product(BETWEEN, repeat=count)]
    triples = [(a, b, between) for a, b in permutations(NAMES, 2) for between in betweens]
    xs = np.zeros((len(triples), LENGTH), np.int64)
    for row, triple in zip(xs, triples, strict=True):
        words = sentence(*triple)
        row[LENGTH - len(words) :] = [VOCABULARY.index(word) for word in words]
    return xs, np.array([VOCABULARY.index(first) for first, _, _ in triples])


class WindowModel:
    """The mean of the last WINDOW word vectors, then affine: CBOW with preceding words only.

    Parameters
    ----------
    wordvec_size : int
        Size of the word vectors.
    rng : Generator
        Draws the weights.
    """

    params: list[Any]
    grads: list[Any]

    def __init__(self, wordvec_size: int, rng: np.random.Generator) -> None:
        V, D = len(VOCABULARY), wordvec_size
        embed_W = (rng.standard_normal((V, D)) / 10).astype("f")
        affine_W = (rng.standard_normal((D, V)) / np.sqrt(D)).astype("f")
        self.embedding, self.affine = Embedding(embed_W), Affine(affine_W, np.zeros(V, "f"))
        self.loss_layer = SoftmaxWithLoss()
        self.params = self.embedding.params + self.affine.params
        self.grads = self.embedding.grads + self.affine.grads

    def predict(self, xs: NDArray[Any], train: bool = False) -> NDArray[Any]:
        """Scores (N, V) of the next word after xs (N, T)."""
        words = self.embedding.forward(xs[:, -WINDOW:], train=train)
        return self.affine.forward(words.mean(axis=1), train=train)

    def forward(self, xs: NDArray[Any], ts: NDArray[Any]) -> Any:
        """The loss."""
        return self.loss_layer.forward(self.predict(xs, train=True), ts)

    def backward(self) -> None:
        """Compute `grads`."""
        dout = self.affine.backward(self.loss_layer.backward()) / WINDOW
        self.embedding.backward(np.repeat(dout[:, np.newaxis], WINDOW, axis=1))


class RecurrentModel:
    """A LanguageModel whose loss counts only the last word.

    Parameters
    ----------
    cell : {"rnn", "lstm", "gru"}
        Type of recurrent layer.
    wordvec_size, hidden_size : int
        Size of the word vectors; hidden units.
    rng : Generator
        Draws the weights.
    """

    params: list[Any]
    grads: list[Any]

    def __init__(
        self, cell: str, wordvec_size: int, hidden_size: int, rng: np.random.Generator
    ) -> None:
        V = len(VOCABULARY)
        self.model = LanguageModel(V, wordvec_size, hidden_size, cell=cell, rng=rng)
        self.params, self.grads = self.model.params, self.model.grads
        if cell == "lstm":  # an open forget gate: the name must be kept over many words
            self.model.recurrent_layers[0].params[2][:hidden_size] = FORGET_BIAS

    def predict(self, xs: NDArray[Any]) -> NDArray[Any]:
        """Scores (N, V) of the next word after xs (N, T)."""
        self.model.reset_state()
        return self.model.next_scores(xs)

    def forward(self, xs: NDArray[Any], ts: NDArray[Any]) -> Any:
        """The loss."""
        self.model.reset_state()
        targets = np.full(xs.shape, self.model.loss_layer.ignore_label)
        targets[:, -1] = ts
        return self.model.forward(xs, targets)

    def backward(self) -> None:
        """Compute `grads`."""
        self.model.backward()


def train(
    model: WindowModel | RecurrentModel,
    xs: NDArray[Any],
    ts: NDArray[Any],
    iterations: int,
    rng: np.random.Generator,
) -> None:
    """Train on random batches with Adam."""
    optimizer = Adam(LEARNING_RATE)
    for _ in range(iterations):
        batch = rng.integers(len(xs), size=BATCH_SIZE)
        model.forward(xs[batch], ts[batch])
        model.backward()
        clip_grads(model.grads, MAX_GRAD)
        optimizer.update(model.params, model.grads)


def accuracy(model: WindowModel | RecurrentModel, xs: NDArray[Any], ts: NDArray[Any]) -> float:
    """The share of sentences whose most probable next word, of all words, is the answer."""
    return float((model.predict(xs).argmax(axis=1) == ts).mean())


def run(
    *, cell: str = "lstm", iterations: int = 1000, hidden: int = 64, seed: int = 0
) -> dict[str, float]:
    """Train both models.

    Returns
    -------
    dict
        {"window": accuracy, cell: accuracy} on held-out sentences.
    """
    rng = np.random.default_rng(seed)
    xs, ts = make_data()
    order = rng.permutation(len(xs))
    held_out, seen = order[: len(xs) // 5], order[len(xs) // 5 :]
    models: dict[str, WindowModel | RecurrentModel]
    models = {"window": WindowModel(hidden, rng), cell: RecurrentModel(cell, hidden, hidden, rng)}
    found = {}
    for name, model in models.items():
        train(model, xs[seen], ts[seen], iterations, rng)
        found[name] = accuracy(model, xs[held_out], ts[held_out])
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rnnfast.examples.tom_mary", description=first_line(__doc__)
    )
    option = parser.add_argument
    option(
        "--cell",
        choices=("rnn", "lstm", "gru"),
        default="lstm",
        help="type of recurrent layer (default: lstm)",
    )
    option(
        "--iterations",
        type=count,
        default=1000,
        metavar="N",
        help="training iterations of 64 sentences (default: 1000)",
    )
    option(
        "--hidden",
        type=count,
        default=64,
        metavar="N",
        help="hidden units, and size of word vectors (default: 64)",
    )
    option(
        "--seed",
        type=natural,
        default=0,
        metavar="N",
        help="seed of sentences and weights (default: 0)",
    )
    options = parser.parse_args(argv)
    start = time.monotonic()
    found = run(**vars(options))
    print("Tom was watching TV in his room . Mary came into the room . Mary said hi to ?")
    print(f"accuracy on held-out sentences, {len(NAMES)} names:")
    print(f"  the last {WINDOW} words (CBOW): {found['window']:6.1%}")
    print(f"  all words ({options.cell}):        {found[options.cell]:6.1%}")
    print(f"in {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
