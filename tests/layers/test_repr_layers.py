"""repr of every layer and stack: its sizes, its options other than the defaults, dtype, device."""

import numpy as np
import pytest

import rnnfast
from rnnfast import layers


def zeros(*shape, dtype="float32"):
    return np.zeros(shape, dtype)


def weights(gates, D=3, H=2, dtype="float32"):
    GH = gates * H
    return zeros(D, GH, dtype=dtype), zeros(H, GH, dtype=dtype), zeros(GH, dtype=dtype)


def norms(gates, *others, suffixes=("",)):
    """gx and gh, and others of one gate."""
    widths = {"gx": 2 * gates, "gh": 2 * gates, **dict.fromkeys(others, 2)}
    return {f"{name}{k}": zeros(width) for name, width in widths.items() for k in suffixes}


def cpu(name, *arguments, **options):
    return getattr(layers, name)(*arguments, device="cpu", **options)


def both(name, gates, **options):
    return cpu(name, *weights(gates), *weights(gates), **options)


TIED = layers.TimeAffine(zeros(2, 5), zeros(5), device="cpu")
MIXTURE = layers.TimeMixtureSoftmax.create(3, 4, 5, K=2, rng=0, device="cpu")


def past_decode():
    return layers.PastDecode(TIED, zeros(2, 2), zeros(2), zeros(5), device="cpu")


GRU2 = zeros(3, 6), zeros(2, 6), zeros(2, 6)

ROWS = [
    (lambda: cpu("RNN", *weights(1)), "RNN(D=3, H=2, float32, cpu)"),
    (
        lambda: cpu("RNN", *weights(1), nonlinearity="relu"),
        "RNN(D=3, H=2, nonlinearity='relu', float32, cpu)",
    ),
    (lambda: cpu("LSTM", *weights(4)), "LSTM(D=3, H=2, float32, cpu)"),
    (
        lambda: cpu("LSTM", *weights(4), Wp=zeros(3, 2)),
        "LSTM(D=3, H=2, Wp=(3, H), float32, cpu)",
    ),
    (lambda: cpu("GRU", *weights(3)[:2]), "GRU(D=3, H=2, b=None, float32, cpu)"),
    (
        lambda: cpu("GRU", *GRU2, reset_after=True),
        "GRU(D=3, H=2, reset_after=True, float32, cpu)",
    ),
    (
        lambda: cpu("Mogrifier", *weights(4), Wm=zeros(5, 2, 3)),
        "Mogrifier(D=3, H=2, rounds=5, float32, cpu)",
    ),
    (
        lambda: cpu("TimeMogrifier", *weights(4), Wm=zeros(2, 2, 1), Wr=zeros(2, 1, 3)),
        "TimeMogrifier(D=3, H=2, rounds=2, rank=1, float32, cpu)",
    ),
    (
        lambda: both("TimeBiMogrifier", 4, Wm1=zeros(2, 2, 3), Wm2=zeros(2, 2, 3)),
        "TimeBiMogrifier(D=3, H=2, rounds=2, float32, cpu)",
    ),
    (
        lambda: cpu("LSTMP", zeros(3, 8), zeros(1, 8), None, Wproj=zeros(2, 1)),
        "LSTMP(D=3, H=2, proj_size=1, b=None, float32, cpu)",
    ),
    (
        lambda: cpu("SLSTM", zeros(3, 8), zeros(2, 4), None),
        "SLSTM(D=3, H=2, heads=2, b=None, float32, cpu)",
    ),
    (
        lambda: cpu("TimeSLSTM", *weights(4), stateful=True),
        "TimeSLSTM(D=3, H=2, heads=1, stateful=True, float32, cpu)",
    ),
    (
        lambda: both("TimeBiSLSTM", 4),
        "TimeBiSLSTM(D=3, H=2, heads=1, float32, cpu)",
    ),
    (
        lambda: cpu("TimeLSTMP", *weights(4), Wproj=zeros(2, 2), cell_clip=3),
        "TimeLSTMP(D=3, H=2, proj_size=2, cell_clip=3.0, float32, cpu)",
    ),
    (
        lambda: both("TimeBiLSTMP", 4, Wproj1=zeros(2, 2), Wproj2=zeros(2, 2)),
        "TimeBiLSTMP(D=3, H=2, proj_size=2, float32, cpu)",
    ),
    (
        lambda: cpu("LayerNormLSTM", *weights(4), **norms(4, "gc", "bc")),
        "LayerNormLSTM(D=3, H=2, float32, cpu)",
    ),
    (
        lambda: cpu("TimeLayerNormLSTM", *weights(4), True, **norms(4, "gc", "bc")),
        "TimeLayerNormLSTM(D=3, H=2, stateful=True, float32, cpu)",
    ),
    (
        lambda: both("TimeBiLayerNormLSTM", 4, **norms(4, "gc", "bc", suffixes="12")),
        "TimeBiLayerNormLSTM(D=3, H=2, float32, cpu)",
    ),
    (
        lambda: cpu("LayerNormGRU", *weights(3)[:2], None, **norms(3, "bh")),
        "LayerNormGRU(D=3, H=2, b=None, float32, cpu)",
    ),
    (
        lambda: cpu("TimeLayerNormGRU", *weights(3), **norms(3, "bh")),
        "TimeLayerNormGRU(D=3, H=2, float32, cpu)",
    ),
    (
        lambda: both("TimeBiLayerNormGRU", 3, **norms(3, "bh", suffixes="12")),
        "TimeBiLayerNormGRU(D=3, H=2, float32, cpu)",
    ),
    (lambda: cpu("TimeRNN", *weights(1)), "TimeRNN(D=3, H=2, float32, cpu)"),
    (
        lambda: cpu("TimeRNN", *weights(1), True, nonlinearity="relu"),
        "TimeRNN(D=3, H=2, nonlinearity='relu', stateful=True, float32, cpu)",
    ),
    (
        lambda: layers.TimeRNN(*weights(1, dtype="float64"), device="reference"),
        "TimeRNN(D=3, H=2, float64, reference)",
    ),
    (
        lambda: cpu("TimeLSTM", *weights(4, 100, 200), stateful=True),
        "TimeLSTM(D=100, H=200, stateful=True, float32, cpu)",
    ),
    (
        lambda: cpu("TimeLSTM", *weights(4), Wp=zeros(3, 2, 2), cell_clip=3),
        "TimeLSTM(D=3, H=2, Wp=(3, H, H), cell_clip=3.0, float32, cpu)",
    ),
    (lambda: cpu("TimeGRU", *weights(3)), "TimeGRU(D=3, H=2, float32, cpu)"),
    (
        lambda: cpu("TimeGRU", *GRU2, reset_after=True, z_keeps=True),
        "TimeGRU(D=3, H=2, reset_after=True, z_keeps=True, float32, cpu)",
    ),
    (lambda: both("TimeBiRNN", 1), "TimeBiRNN(D=3, H=2, float32, cpu)"),
    (
        lambda: both("TimeBiLSTM", 4, Wp1=zeros(3, 2), Wp2=zeros(3, 2), stateful=True),
        "TimeBiLSTM(D=3, H=2, Wp=(3, H), stateful=True, float32, cpu)",
    ),
    (
        lambda: both("TimeBiGRU", 3, z_keeps=True),
        "TimeBiGRU(D=3, H=2, z_keeps=True, float32, cpu)",
    ),
    (
        lambda: layers.TimeReverse(cpu("TimeGRU", *weights(3))),
        "TimeReverse(TimeGRU(D=3, H=2, float32, cpu))",
    ),
    (
        lambda: layers.TimeStack([both("TimeBiGRU", 3), cpu("TimeRNN", *weights(1, 4, 5))], 0.5),
        "TimeStack([TimeBiGRU(D=3, H=2, float32, cpu), TimeRNN(D=4, H=5, float32, cpu)], "
        "dropout_ratio=0.5)",
    ),
    (
        lambda: layers.TimeStack([cpu("TimeRNN", *weights(1, 2)) for _ in "ab"], 0.25, rng=7),
        "TimeStack([TimeRNN(D=2, H=2, float32, cpu), TimeRNN(D=2, H=2, float32, cpu)], "
        "dropout_ratio=0.25, rng=7)",
    ),
    (
        lambda: layers.TimeStack([cpu("TimeRNN", *weights(1))]),
        "TimeStack([TimeRNN(D=3, H=2, float32, cpu)])",
    ),
    (lambda: cpu("MatMul", zeros(3, 2)), "MatMul(D=3, M=2, float32, cpu)"),
    (lambda: cpu("Affine", zeros(100, 10), zeros(10)), "Affine(D=100, M=10, float32, cpu)"),
    (lambda: cpu("Affine", zeros(3, 2), None), "Affine(D=3, M=2, b=None, float32, cpu)"),
    (lambda: cpu("TimeAffine", zeros(3, 2), zeros(2)), "TimeAffine(D=3, M=2, float32, cpu)"),
    (
        lambda: cpu("Simple_TimeAffine", zeros(3, 2), zeros(2)),
        "Simple_TimeAffine(D=3, M=2, float32, cpu)",
    ),
    (lambda: cpu("Embedding", zeros(7, 2)), "Embedding(V=7, D=2, float32, cpu)"),
    (lambda: cpu("TimeEmbedding", zeros(7, 2)), "TimeEmbedding(V=7, D=2, float32, cpu)"),
    (lambda: layers.Dropout(0.25), "Dropout(dropout_ratio=0.25)"),
    (lambda: layers.TimeDropout(), "TimeDropout(dropout_ratio=0.5)"),
    (
        lambda: cpu("TimeDropout", 0.5, rng=3, variational=True),
        "TimeDropout(dropout_ratio=0.5, rng=3, variational=True, cpu)",
    ),
    (
        lambda: layers.ActivationRegularization(2, device="cpu"),
        "ActivationRegularization(alpha=2.0, cpu)",
    ),
    (
        lambda: past_decode(),
        "PastDecode(H=2, V=5, factor=0.001, float32, cpu)",
    ),
    (
        lambda: layers.FrequencyDiscriminator(
            layers.Embedding(zeros(5, 2), device="cpu"), zeros(2, 1), zeros(1)
        ),
        "FrequencyDiscriminator(V=5, D=2, factor=0.02, rate=0.02, float32, cpu)",
    ),
    (
        lambda: layers.TimeRegularizedMixtureSoftmaxWithLoss(MIXTURE, balance=1, adversarial=0.5),
        "TimeRegularizedMixtureSoftmaxWithLoss(TimeMixtureSoftmax(H=3, K=2, D=4, V=5, float32, "
        "cpu), balance=1.0, adversarial=0.5)",
    ),
    (
        lambda: layers.TimeRegularizedSoftmaxWithLoss(TIED, adversarial=0.5, past=past_decode()),
        "TimeRegularizedSoftmaxWithLoss(TimeAffine(D=2, M=5, float32, cpu), adversarial=0.5, "
        "past=PastDecode(H=2, V=5, factor=0.001, float32, cpu))",
    ),
    (
        lambda: layers.TemporalActivationRegularization(0.5),
        "TemporalActivationRegularization(beta=0.5)",
    ),
    (lambda: layers.TimeDropout(rng=(3, 1)), "TimeDropout(dropout_ratio=0.5, rng=(3, 1))"),
    (lambda: layers.Softmax(), "Softmax()"),
    (lambda: layers.Sigmoid(), "Sigmoid()"),
    (lambda: layers.SoftmaxWithLoss(), "SoftmaxWithLoss()"),
    (lambda: cpu("Simple_TimeSoftmaxWithLoss"), "Simple_TimeSoftmaxWithLoss(cpu)"),
    (lambda: layers.TimeSoftmaxWithLoss(), "TimeSoftmaxWithLoss()"),
    (
        lambda: layers.TimeAffineSoftmaxWithLoss(TIED),
        "TimeAffineSoftmaxWithLoss(TimeAffine(D=2, M=5, float32, cpu))",
    ),
    (lambda: MIXTURE, "TimeMixtureSoftmax(H=3, K=2, D=4, V=5, float32, cpu)"),
    (
        lambda: layers.TimeMixtureSoftmaxWithLoss(MIXTURE, balance=0.1),
        "TimeMixtureSoftmaxWithLoss(TimeMixtureSoftmax(H=3, K=2, D=4, V=5, float32, cpu), "
        "balance=0.1)",
    ),
    (lambda: layers.SigmoidWithLoss(), "SigmoidWithLoss()"),
    (lambda: layers.TimeSigmoidWithLoss(), "TimeSigmoidWithLoss()"),
    (lambda: layers.TimeSquaredLoss(), "TimeSquaredLoss()"),
    (lambda: layers.WeightSum(), "WeightSum()"),
    (lambda: layers.AttentionWeight(device="cpu"), "AttentionWeight(cpu)"),
    (lambda: layers.Attention(), "Attention()"),
    (lambda: layers.TimeAttention(), "TimeAttention()"),
]


@pytest.mark.parametrize(("make", "expected"), ROWS, ids=[expected for _, expected in ROWS])
def test_repr(make, expected):
    with rnnfast.device("auto"):
        assert repr(make()) == expected


def test_every_layer_has_a_row():
    assert {expected.partition("(")[0] for _, expected in ROWS} == set(layers.__all__)


@pytest.mark.parametrize("name", ["TimeLSTM", "TimeBiLSTM"])
def test_frozen_is_shown(name):
    layer = cpu(name, *weights(4)) if name == "TimeLSTM" else both(name, 4)
    layer.freeze()
    assert repr(layer) == f"{name}(D=3, H=2, float32, cpu, frozen)"
    layer.unfreeze()
    assert repr(layer) == f"{name}(D=3, H=2, float32, cpu)"


def test_one_frozen_direction_is_not_a_frozen_layer():
    layer = both("TimeBiLSTM", 4)
    layer.forward_lstm.freeze()
    assert repr(layer) == "TimeBiLSTM(D=3, H=2, float32, cpu)"


def test_what_was_changed_is_shown():
    drop, loss = layers.TimeDropout(device="cpu"), layers.TimeSoftmaxWithLoss(device="cpu")
    drop.train_flg, loss.ignore_label = False, 0
    assert repr(drop) == "TimeDropout(dropout_ratio=0.5, train_flg=False, cpu)"
    assert repr(loss) == "TimeSoftmaxWithLoss(ignore_label=0, cpu)"
