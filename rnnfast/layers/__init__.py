"""All layers. Each is also an attribute of rnnfast: `rnnfast.TimeLSTM`."""

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
from rnnfast.layers.frequency import FrequencyDiscriminator
from rnnfast.layers.heads import SLSTM, TimeSLSTM
from rnnfast.layers.losses import (
    SigmoidWithLoss,
    Simple_TimeSoftmaxWithLoss,
    SoftmaxWithLoss,
    TimeAffineSoftmaxWithLoss,
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
from rnnfast.layers.past_decode import PastDecode
from rnnfast.layers.projection import LSTMP, TimeLSTMP
from rnnfast.layers.regularization import (
    ActivationRegularization,
    TemporalActivationRegularization,
)
from rnnfast.layers.regularized_loss import TimeRegularizedSoftmaxWithLoss
from rnnfast.layers.regularized_mixture import TimeRegularizedMixtureSoftmaxWithLoss
from rnnfast.layers.sequence import TimeGRU, TimeLSTM, TimeMogrifier, TimeRNN
from rnnfast.layers.stacks import TimeReverse, TimeStack
from rnnfast.layers.steps import GRU, LSTM, RNN, Mogrifier
from rnnfast.layers.time_attention import Attention, TimeAttention

__all__ = [
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
    "FrequencyDiscriminator",
    "LayerNormGRU",
    "LayerNormLSTM",
    "MatMul",
    "Mogrifier",
    "PastDecode",
    "Sigmoid",
    "SigmoidWithLoss",
    "Simple_TimeAffine",
    "Simple_TimeSoftmaxWithLoss",
    "Softmax",
    "SoftmaxWithLoss",
    "TemporalActivationRegularization",
    "TimeAffine",
    "TimeAffineSoftmaxWithLoss",
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
    "TimeRegularizedMixtureSoftmaxWithLoss",
    "TimeRegularizedSoftmaxWithLoss",
    "TimeReverse",
    "TimeSLSTM",
    "TimeSigmoidWithLoss",
    "TimeSoftmaxWithLoss",
    "TimeSquaredLoss",
    "TimeStack",
    "WeightSum",
]
