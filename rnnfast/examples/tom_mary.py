"""Why a window is not enough: a CBOW-style predictor against a recurrent one (chapter 5).

    Tom was watching TV in his room . Mary came into the room . Mary said hi to ?

To a model that sees the last few words alone the answer is one name as good as another: it stood
many words before. An RNN reads the sentence from its beginning and can keep the name in its state.

Two of the names, and up to two sentences in between, make some thousand texts, in which the answer
lies at a varying distance, always beyond the window. A fifth of them, at random, is held out.

    python -m rnnfast.examples.tom_mary
"""

import argparse
import time
from itertools import permutations, product

import numpy as np

from rnnfast import Affine, Embedding, SoftmaxWithLoss
from rnnfast.examples.common import count, natural
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
WINDOW = 5
BATCH_SIZE = 64
LEARNING_RATE = 0.002
MAX_GRAD = 0.25
FORGET_BIAS = 2.0


def sentence(first, second, between):
    """The words before the answer, which is `first`."""
    whose = "his" if first in HIS else "her"
    text = f"{first} was watching TV in {whose} room . {second} came into the room ."
    return [*text.split(), *" ".join(between).split(), second, "said", "hi", "to"]


VOCABULARY = ["<pad>", *NAMES]
for word in sentence("Tom", "Mary", BETWEEN) + sentence("Mary", "Tom", ()):
    if word not in VOCABULARY:
        VOCABULARY.append(word)
LENGTH = len(sentence("Tom", "Mary", [max(BETWEEN, key=lambda text: len(text.split()))] * 2))


def make_data():
    """All texts as ids (M, LENGTH), filled up at the left, and their answers (M,)."""
    betweens = [between for count in range(3) for between in product(BETWEEN, repeat=count)]
    triples = [(a, b, between) for a, b in permutations(NAMES, 2) for between in betweens]
    xs = np.zeros((len(triples), LENGTH), np.int64)
    for row, triple in zip(xs, triples, strict=True):
        words = sentence(*triple)
        row[LENGTH - len(words) :] = [VOCABULARY.index(word) for word in words]
    return xs, np.array([VOCABULARY.index(first) for first, _, _ in triples])


class WindowModel:
    """The mean of the last WINDOW word vectors, then affine: CBOW with the words before alone."""

    def __init__(self, wordvec_size, rng):
        V, D = len(VOCABULARY), wordvec_size
        embed_W = (rng.standard_normal((V, D)) / 10).astype("f")
        affine_W = (rng.standard_normal((D, V)) / np.sqrt(D)).astype("f")
        self.embedding, self.affine = Embedding(embed_W), Affine(affine_W, np.zeros(V, "f"))
        self.loss_layer = SoftmaxWithLoss()
        self.params = self.embedding.params + self.affine.params
        self.grads = self.embedding.grads + self.affine.grads

    def predict(self, xs, train=False):
        words = self.embedding.forward(xs[:, -WINDOW:], train=train)
        return self.affine.forward(words.mean(axis=1), train=train)

    def forward(self, xs, ts):
        return self.loss_layer.forward(self.predict(xs, train=True), ts)

    def backward(self):
        dout = self.affine.backward(self.loss_layer.backward()) / WINDOW
        self.embedding.backward(np.repeat(dout[:, np.newaxis], WINDOW, axis=1))


class RecurrentModel:
    """A LanguageModel that is asked for the last word alone."""

    def __init__(self, cell, wordvec_size, hidden_size, rng):
        V = len(VOCABULARY)
        self.model = LanguageModel(V, wordvec_size, hidden_size, cell=cell, rng=rng)
        self.params, self.grads = self.model.params, self.model.grads
        if cell == "lstm":  # a forget gate that is open to begin with: the name has far to go
            self.model.recurrent_layers[0].params[2][:hidden_size] = FORGET_BIAS

    def predict(self, xs):
        self.model.reset_state()
        return self.model.next_scores(xs)

    def forward(self, xs, ts):
        self.model.reset_state()
        targets = np.full(xs.shape, self.model.loss_layer.ignore_label)
        targets[:, -1] = ts
        return self.model.forward(xs, targets)

    def backward(self):
        self.model.backward()


def train(model, xs, ts, iterations, rng):
    optimizer = Adam(LEARNING_RATE)
    for _ in range(iterations):
        batch = rng.integers(len(xs), size=BATCH_SIZE)
        model.forward(xs[batch], ts[batch])
        model.backward()
        clip_grads(model.grads, MAX_GRAD)
        optimizer.update(model.params, model.grads)


def accuracy(model, xs, ts):
    """The share of sentences whose most probable next word, of all words, is the answer."""
    return float((model.predict(xs).argmax(axis=1) == ts).mean())


def run(*, cell="lstm", iterations=1000, hidden=64, seed=0):
    """Trains both; returns {"window": accuracy, cell: accuracy} on held-out sentences."""
    rng = np.random.default_rng(seed)
    xs, ts = make_data()
    order = rng.permutation(len(xs))
    held_out, seen = order[: len(xs) // 5], order[len(xs) // 5 :]
    models = {"window": WindowModel(hidden, rng), cell: RecurrentModel(cell, hidden, hidden, rng)}
    found = {}
    for name, model in models.items():
        train(model, xs[seen], ts[seen], iterations, rng)
        found[name] = accuracy(model, xs[held_out], ts[held_out])
    return found


def main(argv=None):
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m rnnfast.examples.tom_mary", description=__doc__.splitlines()[0]
    )
    option = parser.add_argument
    option("--cell", choices=("rnn", "lstm", "gru"), default="lstm", help="of the recurrent model")
    option("--iterations", type=count, default=1000, metavar="N", help="of training, 64 sentences")
    option("--hidden", type=count, default=64, metavar="N", help="units and word vector width")
    option("--seed", type=natural, default=0, metavar="N", help="of sentences and weights")
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
