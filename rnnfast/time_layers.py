"""The drop-in: in a script of the book, write

    from rnnfast.time_layers import *

for `from common.time_layers import *`. The names are those that the original hands on, with the
plain layers, the functions, `np` and `GPU` (Deep Learning from Scratch 2, chapters 5 to 8). The
layers that the book does not have can be imported from here too, by name.
"""

import numpy as np

from rnnfast.functions import cross_entropy_error, relu, sigmoid, softmax
from rnnfast.layers import (
    Affine,
    Dropout,
    Embedding,
    MatMul,
    Sigmoid,
    Simple_TimeAffine,
    Softmax,
    TimeAffine,
    TimeDropout,
    TimeEmbedding,
)
from rnnfast.losses import (
    SigmoidWithLoss,
    Simple_TimeSoftmaxWithLoss,
    SoftmaxWithLoss,
    TimeSigmoidWithLoss,
    TimeSoftmaxWithLoss,
)
from rnnfast.losses import TimeSquaredLoss as TimeSquaredLoss
from rnnfast.recurrent import GRU, LSTM, RNN, TimeGRU, TimeLSTM, TimeRNN
from rnnfast.stacks import TimeBiGRU as TimeBiGRU
from rnnfast.stacks import TimeBiLSTM
from rnnfast.stacks import TimeBiRNN as TimeBiRNN
from rnnfast.stacks import TimeReverse as TimeReverse
from rnnfast.stacks import TimeStack as TimeStack

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
