"""Models that read a sequence, write one, or both (chapter 7).

    SequenceClassifier     many to one: real vectors -> a class
    VectorToSequence       one to many: a real vector -> ids
    SequenceTagger         many to many: ids -> a tag for each of them
    SequenceRegressor      many to many: real vectors -> numbers for each of them
    Seq2seq, PeekySeq2seq  many to many, of another length: ids -> ids, the book's

forward(xs, ts) gives the loss, backward() fills `grads`; with `params` that is what trainer.Trainer
asks of a model. Every forward starts from a zero state. Arguments that models have in common:

    cell           "rnn", "lstm" (as if nothing is said) or "gru"
    layers         how many of them are on top of each other; 1
    bidirectional  whether they read the sequence from both ends
    dropout        the ratio dropped of what each layer gives, in training; 0
    rng            a seed or Generator for weights and masks; None draws from np.random
    dtype, device  float32 or float64; as in models.LanguageModel

lengths (N,), integers: how many steps of each sample of xs count. What stands behind them is
padding, any number or id of the vocabulary: it changes neither loss nor gradients nor what is
generated.

Arrays may be NumPy's wherever the weights are: what `predict` and `generate` give is then, too.
Weights are drawn as in models.LanguageModel. N batch, T time, D input, H hidden, V vocabulary;
wrong arguments are a TypeError or a ValueError.
"""

from rnnfast.models.coders import Decoder, Encoder, PeekyDecoder
from rnnfast.models.readers import SequenceClassifier, SequenceRegressor, SequenceTagger
from rnnfast.models.writers import PeekySeq2seq, Seq2seq, VectorToSequence

__all__ = [
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
