"""What models say of themselves: repr, and the table that summary prints."""

import copy

import numpy as np
import pytest

from rnnfast import data, optim
from rnnfast.models import BetterRnnlm, LanguageModel, Rnnlm, summary
from rnnfast.sequences import Encoder, Seq2seq, SequenceClassifier, SequenceTagger
from rnnfast.text.base import Vocabulary

REPRS = [
    (
        lambda: Rnnlm(),
        """\
Rnnlm(vocab_size=10000, wordvec_size=100, hidden_size=100): 2,090,400 parameters
  TimeEmbedding: embed_W (10000, 100), 1,000,000 parameters
  TimeLSTM: lstm_Wx (100, 400), lstm_Wh (100, 400), lstm_b (400,), 80,400 parameters
  TimeAffine: affine_W (100, 10000), affine_b (10000,), 1,010,000 parameters""",
    ),
    (
        lambda: BetterRnnlm(10, 4, 4),
        """\
BetterRnnlm(vocab_size=10, wordvec_size=4, hidden_size=4, dropout_ratio=0.5): 338 parameters
  TimeEmbedding: embed_W (10, 4), 40 parameters
  TimeDropout(0.5)
  TimeLSTM: lstm_Wx1 (4, 16), lstm_Wh1 (4, 16), lstm_b1 (16,), 144 parameters
  TimeDropout(0.5)
  TimeLSTM: lstm_Wx2 (4, 16), lstm_Wh2 (4, 16), lstm_b2 (16,), 144 parameters
  TimeDropout(0.5)
  TimeAffine: W = embed_W.T, affine_b (10,), 10 parameters""",
    ),
    (
        lambda: LanguageModel(10, 4, 6, cell="lstmp", proj_size=2),
        """\
LanguageModel(vocab_size=10, wordvec_size=4, hidden_size=6, cell='lstmp', layers=1, dropout=0.0, \
variational_dropout=False, weight_drop=0.0, tie_weights=False, proj_size=2): 250 parameters
  TimeEmbedding: embed_W (10, 4), 40 parameters
  TimeLSTMP: lstmp_Wx (4, 24), lstmp_Wh (2, 24), lstmp_b (24,), lstmp_Wproj (6, 2), 180 parameters
  TimeAffine: affine_W (2, 10), affine_b (10,), 30 parameters""",
    ),
    (
        lambda: LanguageModel(10, 4, 6, cell="slstm", heads=3),
        """\
LanguageModel(vocab_size=10, wordvec_size=4, hidden_size=6, cell='slstm', layers=1, dropout=0.0, \
variational_dropout=False, weight_drop=0.0, tie_weights=False, heads=3): 278 parameters
  TimeEmbedding: embed_W (10, 4), 40 parameters
  TimeSLSTM: slstm_Wx (4, 24), slstm_Wh (6, 8), slstm_b (24,), 168 parameters
  TimeAffine: affine_W (6, 10), affine_b (10,), 70 parameters""",
    ),
    (
        lambda: LanguageModel(10, 4, 6, cell="lngru"),
        """\
LanguageModel(vocab_size=10, wordvec_size=4, hidden_size=6, cell='lngru', layers=1, dropout=0.0, \
variational_dropout=False, weight_drop=0.0, tie_weights=False): 350 parameters
  TimeEmbedding: embed_W (10, 4), 40 parameters
  TimeLayerNormGRU: lngru_Wx (4, 18), lngru_Wh (6, 18), lngru_b (18,), lngru_gx (18,), \
lngru_gh (18,), lngru_bh (6,), 240 parameters
  TimeAffine: affine_W (6, 10), affine_b (10,), 70 parameters""",
    ),
]

TABLES = [
    (
        lambda: LanguageModel(10, 4, 6, cell="lstmp", proj_size=2),
        """\
LanguageModel(vocab_size=10, wordvec_size=4, hidden_size=6, cell='lstmp', layers=1, dropout=0.0, \
variational_dropout=False, weight_drop=0.0, tie_weights=False, proj_size=2)
layer          output      parameters  bytes
TimeEmbedding  (N, T, 4)           40    160
TimeLSTMP      (N, T, 2)          180    720
TimeAffine     (N, T, 10)          30    120
total                             250  1,000
""",
    ),
    (
        lambda: Rnnlm(),
        """\
Rnnlm(vocab_size=10000, wordvec_size=100, hidden_size=100)
layer          output         parameters      bytes
TimeEmbedding  (N, T, 100)     1,000,000  4,000,000
TimeLSTM       (N, T, 100)        80,400    321,600
TimeAffine     (N, T, 10000)   1,010,000  4,040,000
total                          2,090,400  8,361,600
""",
    ),
    (
        lambda: BetterRnnlm(10, 4, 4),
        """\
BetterRnnlm(vocab_size=10, wordvec_size=4, hidden_size=4, dropout_ratio=0.5)
layer             output      parameters  bytes
TimeEmbedding     (N, T, 4)           40    160
TimeDropout(0.5)  (N, T, 4)            0      0
TimeLSTM          (N, T, 4)          144    576
TimeDropout(0.5)  (N, T, 4)            0      0
TimeLSTM          (N, T, 4)          144    576
TimeDropout(0.5)  (N, T, 4)            0      0
TimeAffine        (N, T, 10)          10     40  W = embed_W.T: counted once
total                                338  1,352
""",
    ),
    (
        lambda: LanguageModel(9, 4, 6, cell="gru", dropout=0.25, dtype="f8"),
        """\
LanguageModel(vocab_size=9, wordvec_size=4, hidden_size=6, cell='gru', layers=1, dropout=0.25, \
variational_dropout=False, weight_drop=0.0, tie_weights=False)
layer              output     parameters  bytes
TimeEmbedding      (N, T, 4)          36    288
TimeDropout(0.25)  (N, T, 4)           0      0
TimeGRU            (N, T, 6)         198  1,584
TimeDropout(0.25)  (N, T, 6)           0      0
TimeAffine         (N, T, 9)          63    504
total                                297  2,376
""",
    ),
    (
        lambda: Seq2seq(13, 16, 128, reverse=True),
        """\
Seq2seq(vocab_size=13, wordvec_size=16, hidden_size=128, layers=1, cell='lstm', pass_cell=False, \
reverse=True)
layer                  output       parameters    bytes
TimeEmbedding          (N, T, 16)          208      832
TimeReverse(TimeLSTM)  (N, T, 128)      74,240  296,960
TimeEmbedding          (N, T, 16)          208      832
TimeLSTM               (N, T, 128)      74,240  296,960
TimeAffine             (N, T, 13)        1,677    6,708
total                                  150,573  602,292
""",
    ),
    (
        lambda: SequenceTagger(9, 3, 4, 2, layers=2, dropout=0.5),
        """\
SequenceTagger(vocab_size=9, wordvec_size=3, hidden_size=4, tags=2, layers=2, cell='lstm', \
bidirectional=True, dropout=0.5)
layer          output     parameters  bytes
TimeEmbedding  (N, T, 3)          27    108
TimeBiLSTM     (N, T, 8)         256  1,024
TimeBiLSTM     (N, T, 8)         416  1,664
TimeAffine     (N, T, 2)          18     72
total                            717  2,868
""",
    ),
    (
        lambda: SequenceClassifier(3, 4, 2, cell="rnn"),
        """\
SequenceClassifier(input_size=3, hidden_size=4, classes=2, layers=1, cell='rnn', \
bidirectional=False, dropout=0.0)
layer    output     parameters  bytes
TimeRNN  (N, T, 4)          32    128
Affine   (N, 2)             10     40
total                       42    168
""",
    ),
]


@pytest.mark.parametrize(("make", "expected"), REPRS)
def test_repr(make, expected):
    assert repr(make()) == expected


@pytest.mark.parametrize(("make", "expected"), TABLES)
def test_summary(make, expected, capsys):
    make().summary()
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: LanguageModel(9, 3, 4, layers=2, dropout=0.5),
        lambda: SequenceTagger(9, 3, 4, 2, layers=2),
        lambda: Encoder(9, 3, 4, reverse=True),
    ],
)
def test_output_shapes_are_those_of_the_layers(make):
    model, xs, found = make(), np.array([[1, 2, 3]]), []
    for part in model.layers:
        for layer in getattr(part, "layers", [part]):
            xs = layer.forward(xs)
            found.append(f"(N, T, {xs.shape[2]})")
    assert [row.output for row in summary.rows(model)] == found


def test_a_copy_of_a_tied_model_is_described_alike_and_an_untied_one_counts_more():
    model = BetterRnnlm(10, 4, 4, rng=0)
    assert repr(copy.deepcopy(model)) == repr(model)
    model._put(len(model.params) - 2, model.params[-2].copy())
    assert repr(model).startswith(
        "BetterRnnlm(vocab_size=10, wordvec_size=4, hidden_size=4, dropout_ratio=0.5): "
        "378 parameters"
    )
    assert "untied_7 (4, 10), affine_b (10,), 50 parameters" in repr(model)


def test_repr_changes_nothing():
    model, twin = (BetterRnnlm(10, 4, 4, rng=0) for _ in range(2))
    xs, ts = np.array([[1, 2, 3]]), np.array([[2, 3, 4]])
    for each in model, twin:
        for _ in range(2):
            each.forward(xs, ts)
            each.backward()
            optim.SGD(1.0).update(each.params, each.grads)
            if each is twin:
                repr(each)
    assert model.forward(xs, ts) == twin.forward(xs, ts)


@pytest.mark.parametrize(
    ("vocabulary", "expected"),
    [
        (data.CharVocabulary.from_text("hello"), "CharVocabulary(4 characters)"),
        (data.CharVocabulary("a"), "CharVocabulary(1 character)"),
        (data.WordVocabulary(map(str, range(10000))), "WordVocabulary(10,000 words)"),
        (Vocabulary(["x", "y"]), "Vocabulary(2 tokens)"),
    ],
)
def test_repr_of_vocabularies(vocabulary, expected):
    assert repr(vocabulary) == expected


# Sizes: each is checked by its kind, wherever a model takes it


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: Rnnlm(5, 3, 4), "vocab_size wordvec_size hidden_size"),
        (
            lambda: LanguageModel(5, 3, 4),
            "vocab_size wordvec_size hidden_size cell layers dropout variational_dropout "
            "weight_drop tie_weights",
        ),
        (
            lambda: Seq2seq(5, 3, 4),
            "vocab_size wordvec_size hidden_size layers cell pass_cell reverse",
        ),
        (
            lambda: SequenceTagger(5, 3, 4, 2),
            "vocab_size wordvec_size hidden_size tags layers cell bidirectional dropout",
        ),
    ],
)
def test_sizes_keep_their_order(make, names):
    """Weight files have them in this order: the same model is the same bytes."""
    assert list(make().sizes) == names.split()


def test_sizes_are_plain_numbers():
    model = LanguageModel(np.int64(5), np.int32(3), 4, dropout=np.float32(0.5), rng=0)
    sizes = model.sizes
    assert [type(sizes[name]) for name in ("vocab_size", "wordvec_size", "dropout")] == [
        int,
        int,
        float,
    ]
