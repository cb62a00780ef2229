"""rnnfast: the recurrent layers of "Deep Learning from Scratch 2", compiled.

`from rnnfast.time_layers import *` replaces `from common.time_layers import *` in the book's
scripts. Every layer is also here by name; rnnfast.kernels explains devices.
"""

try:
    from rnnfast.kernels import (
        device,
        devices,
        get_device,
        get_num_threads,
        set_device,
        set_float32_matmul_precision,
        set_num_threads,
        show_config,
    )
except ValueError as error:  # RNNFAST_NUM_THREADS or RNNFAST_SIMD, read when the kernels load
    import os
    import sys

    if os.path.basename(sys.argv[0]) == "rnnfast" or sys.orig_argv[1:3] == ["-m", "rnnfast"]:
        sys.exit(f"rnnfast: {error}")  # the command: one line instead of a traceback
    raise
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
    TimeSquaredLoss,
)
from rnnfast.recurrent import GRU, LSTM, RNN, TimeGRU, TimeLSTM, TimeRNN
from rnnfast.stacks import TimeBiGRU, TimeBiLSTM, TimeBiRNN, TimeReverse, TimeStack
from rnnfast.time_layers import GPU, np

__version__ = "0.1.0"

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
    "TimeBiGRU",
    "TimeBiLSTM",
    "TimeBiRNN",
    "TimeDropout",
    "TimeEmbedding",
    "TimeGRU",
    "TimeLSTM",
    "TimeRNN",
    "TimeReverse",
    "TimeSigmoidWithLoss",
    "TimeSoftmaxWithLoss",
    "TimeSquaredLoss",
    "TimeStack",
    "cross_entropy_error",
    "device",
    "devices",
    "get_device",
    "get_num_threads",
    "np",
    "relu",
    "set_device",
    "set_float32_matmul_precision",
    "set_num_threads",
    "show_config",
    "sigmoid",
    "softmax",
]
