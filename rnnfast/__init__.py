"""rnnfast: the recurrent layers of "Deep Learning from Scratch 2", compiled.

`from rnnfast.time_layers import *` replaces `from common.time_layers import *` in the book's
scripts. Every layer is also an attribute of this module. rnnfast.kernels describes the devices.

Examples
--------
>>> lstm = TimeLSTM.create(100, 200, rng=0, device="cpu")
>>> lstm
TimeLSTM(D=100, H=200, float32, cpu)
>>> lstm.forward(np.ones((20, 35, 100), "f")).shape
(20, 35, 200)
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
    )
except ValueError as error:  # RNNFAST_NUM_THREADS or RNNFAST_SIMD, read when the kernels load
    import os
    import sys

    if os.path.basename(sys.argv[0]) == "rnnfast" or sys.orig_argv[1:3] == ["-m", "rnnfast"]:
        sys.exit(f"rnnfast: {error}")  # the command: one line instead of a traceback
    raise
from rnnfast.config import show_config
from rnnfast.layers.activations import Sigmoid, Softmax
from rnnfast.layers.affine import Affine, MatMul, Simple_TimeAffine, TimeAffine
from rnnfast.layers.attention import AttentionWeight, WeightSum
from rnnfast.layers.bidirectional import (
    TimeBiGRU,
    TimeBiLSTM,
    TimeBiLSTMP,
    TimeBiMogrifier,
    TimeBiRNN,
    TimeBiSLSTM,
)
from rnnfast.layers.dropout import Dropout, TimeDropout
from rnnfast.layers.embedding import Embedding, TimeEmbedding
from rnnfast.layers.functions import cross_entropy_error, relu, sigmoid, softmax
from rnnfast.layers.heads import SLSTM, TimeSLSTM
from rnnfast.layers.losses import (
    SigmoidWithLoss,
    Simple_TimeSoftmaxWithLoss,
    SoftmaxWithLoss,
    TimeSigmoidWithLoss,
    TimeSoftmaxWithLoss,
    TimeSquaredLoss,
)
from rnnfast.layers.mixture import TimeMixtureSoftmax
from rnnfast.layers.mixture_loss import TimeMixtureSoftmaxWithLoss
from rnnfast.layers.normalized import (
    LayerNormGRU,
    LayerNormLSTM,
    TimeLayerNormGRU,
    TimeLayerNormLSTM,
)
from rnnfast.layers.normalized_both import TimeBiLayerNormGRU, TimeBiLayerNormLSTM
from rnnfast.layers.projection import LSTMP, TimeLSTMP
from rnnfast.layers.regularization import (
    ActivationRegularization,
    TemporalActivationRegularization,
)
from rnnfast.layers.sequence import TimeGRU, TimeLSTM, TimeMogrifier, TimeRNN
from rnnfast.layers.stacks import TimeReverse, TimeStack
from rnnfast.layers.steps import GRU, LSTM, RNN, Mogrifier
from rnnfast.layers.time_attention import Attention, TimeAttention
from rnnfast.time_layers import GPU, np
from rnnfast.version import __version__ as __version__

__all__ = [
    "GPU",
    "GRU",
    "LSTM",
    "LSTMP",
    "RNN",
    "SLSTM",
    "ActivationRegularization",
    "Affine",
    "Attention",
    "AttentionWeight",
    "Dropout",
    "Embedding",
    "LayerNormGRU",
    "LayerNormLSTM",
    "MatMul",
    "Mogrifier",
    "Sigmoid",
    "SigmoidWithLoss",
    "Simple_TimeAffine",
    "Simple_TimeSoftmaxWithLoss",
    "Softmax",
    "SoftmaxWithLoss",
    "TemporalActivationRegularization",
    "TimeAffine",
    "TimeAttention",
    "TimeBiGRU",
    "TimeBiLSTM",
    "TimeBiLSTMP",
    "TimeBiLayerNormGRU",
    "TimeBiLayerNormLSTM",
    "TimeBiMogrifier",
    "TimeBiRNN",
    "TimeBiSLSTM",
    "TimeDropout",
    "TimeEmbedding",
    "TimeGRU",
    "TimeLSTM",
    "TimeLSTMP",
    "TimeLayerNormGRU",
    "TimeLayerNormLSTM",
    "TimeMixtureSoftmax",
    "TimeMixtureSoftmaxWithLoss",
    "TimeMogrifier",
    "TimeRNN",
    "TimeReverse",
    "TimeSLSTM",
    "TimeSigmoidWithLoss",
    "TimeSoftmaxWithLoss",
    "TimeSquaredLoss",
    "TimeStack",
    "WeightSum",
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
