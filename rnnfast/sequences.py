"""Models that read a sequence, generate one, or both (chapters 7 and 8).

    SequenceClassifier     many to one: real vectors -> a class
    VectorToSequence       one to many: a real vector -> ids
    SequenceTagger         many to many: ids -> a tag per id
    SequenceRegressor      many to many: real vectors -> numbers per step
    Seq2seq, PeekySeq2seq  many to many, of another length: ids -> ids, as in the book
    AttentionSeq2seq       the same with attention (chapter 8)

forward(xs, ts) returns the loss, backward() fills `grads`; trainer.Trainer needs these and
`params`. Every forward starts from a zero state. Common arguments:

    cell           "rnn", "lstm" (default), "gru", "mogrifier", "lstmp", "lnlstm", "lngru", "slstm"
    layers         number of recurrent layers; 1 by default
    bidirectional  whether the layers read the sequence in both directions
    dropout        ratio of each layer's output dropped in training; 0 by default
    rng            a seed or Generator for weights and masks; None draws from np.random
    dtype, device  as in models.LanguageModel; float32 by default

lengths (N,), integers: the number of valid steps of each sample of xs. The rest is padding, any
numbers or ids of the vocabulary. It changes neither the loss, nor the gradients, nor the generated
ids. data.pad_sequences makes both of a list of samples.

Arrays may be NumPy's on any device of the weights; the results of `predict` and `generate` are then
NumPy's, too. Weights are drawn as in models.LanguageModel. N batch, T time, D input, H hidden,
V vocabulary. Wrong arguments raise a TypeError or a ValueError.
"""

from rnnfast.models.attention import AttentionDecoder, AttentionEncoder, AttentionSeq2seq
from rnnfast.models.coders import Decoder, Encoder, PeekyDecoder
from rnnfast.models.readers import SequenceClassifier
from rnnfast.models.seq2seq import PeekySeq2seq, Seq2seq
from rnnfast.models.step_readers import SequenceRegressor, SequenceTagger
from rnnfast.models.writers import VectorToSequence

__all__ = [
    "AttentionDecoder",
    "AttentionEncoder",
    "AttentionSeq2seq",
    "Decoder",
    "Encoder",
    "PeekyDecoder",
    "PeekySeq2seq",
    "Seq2seq",
    "SequenceClassifier",
    "SequenceRegressor",
    "SequenceTagger",
    "VectorToSequence",
]
