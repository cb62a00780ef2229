"""The drop-in replacement for the book's `common/time_layers.py`. In a script of the book, write

    from rnnfast.time_layers import *

instead of `from common.time_layers import *`. It exports the names of the original: the `Time...`
layers, the plain layers, the functions, `np` and `GPU` (Deep Learning from Scratch 2, chapters 5
to 8). Layers that the book does not have can be imported from here by name.
"""

import numpy as np

from rnnfast.layers.activations import Sigmoid, Softmax
from rnnfast.layers.affine import Affine, MatMul, Simple_TimeAffine, TimeAffine
from rnnfast.layers.attention import AttentionWeight as AttentionWeight
from rnnfast.layers.attention import WeightSum as WeightSum
from rnnfast.layers.bidirectional import TimeBiGRU as TimeBiGRU
from rnnfast.layers.bidirectional import TimeBiLSTM
from rnnfast.layers.bidirectional import TimeBiRNN as TimeBiRNN
from rnnfast.layers.dropout import Dropout, TimeDropout
from rnnfast.layers.embedding import Embedding, TimeEmbedding
from rnnfast.layers.functions import cross_entropy_error, relu, sigmoid, softmax
from rnnfast.layers.losses import (
    SigmoidWithLoss,
    Simple_TimeSoftmaxWithLoss,
    SoftmaxWithLoss,
    TimeSigmoidWithLoss,
    TimeSoftmaxWithLoss,
)
from rnnfast.layers.losses import TimeSquaredLoss as TimeSquaredLoss
from rnnfast.layers.sequence import TimeGRU, TimeLSTM, TimeRNN
from rnnfast.layers.stacks import TimeReverse as TimeReverse
from rnnfast.layers.stacks import TimeStack as TimeStack
from rnnfast.layers.steps import GRU, LSTM, RNN
from rnnfast.layers.time_attention import Attention as Attention
from rnnfast.layers.time_attention import TimeAttention as TimeAttention

GPU = False  # the book's switch from NumPy to CuPy; here the device decides (rnnfast.kernels)

__all__ = [
    "GPU",
    "GRU",
    "LSTM",
    "RNN",
    "Affine",
    "Dropout",
    "Embedding",
    "MatMul",
    "Sigmoid",
    "SigmoidWithLoss",
    "Simple_TimeAffine",
    "Simple_TimeSoftmaxWithLoss",
    "Softmax",
    "SoftmaxWithLoss",
    "TimeAffine",
    "TimeBiLSTM",
    "TimeDropout",
    "TimeEmbedding",
    "TimeGRU",
    "TimeLSTM",
    "TimeRNN",
    "TimeSigmoidWithLoss",
    "TimeSoftmaxWithLoss",
    "cross_entropy_error",
    "np",
    "relu",
    "sigmoid",
    "softmax",
]
