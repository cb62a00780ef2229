"""Language models as stacks of layers (chapters 5, 6 and 7).

LanguageModel is the general one. SimpleRnnlm, Rnnlm and BetterRnnlm are the book's, with its
arguments.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from rnnfast import checks
from rnnfast.layers.affine import TimeAffine
from rnnfast.layers.initial import Initializer
from rnnfast.models.base import BaseModel
from rnnfast.models.building import checked_sizes, embedding, given_sizes, recurrent_layers
from rnnfast.models.drops import drop_layers, regularized, regularized_loss

BOOK_SIZES = ("vocab_size", "wordvec_size", "hidden_size")  # of the book's models


class LanguageModel(BaseModel):
    """Embedding, recurrent layers of one kind, affine: ids (N, T) -> scores (N, T, V).

    Parameters
    ----------
    vocab_size, wordvec_size, hidden_size : int
        V, D and H.
    cell : {"lstm", "rnn", "gru"}
    layers : int
        Number of recurrent layers.
    dropout : float
        Ratio of the elements dropped in training: after the embedding, between the recurrent
        layers, and before the affine layer [1]_.
    variational_dropout : bool
        Use one mask for the whole sequence, and, with the ratio `dropout`, mask h before its
        product with Wh as well [2]_.
    input_dropout, between_dropout, output_dropout : float, optional
        Ratios of their own for the three places of `dropout`: after the embedding, between the
        recurrent layers, before the affine layer. None is `dropout`.
    embedding_dropout : float, optional
        Ratio of the words whose vectors are dropped in training, wherever they occur in a batch
        [2]_. The affine layer keeps all words.
    weight_drop : float
        Ratio of the elements of every Wh dropped in training, one mask for a whole sequence:
        the weight drop of AWD-LSTM [3]_.
    alpha, beta : float, optional
        Factors of activation regularisation (AR) and temporal activation regularisation (TAR) of
        the last recurrent layer [3]_. AR sees its output after dropout, TAR before.
    past_decode : float, optional
        Factor of past decode regularisation [5]_; see PastDecode.
    adversarial : float, optional
        Size of adversarial noise on the word vectors of the targets [6]_; see
        TimeRegularizedSoftmaxWithLoss.
    tie_weights : bool
        The affine layer's W is the transpose of the embedding's [4]_. The last of several
        recurrent layers then has wordvec_size units; a single one needs hidden_size =
        wordvec_size.
    rng : seed, Generator or None
        The source of the weights; None is np.random.
    dtype : float32 or float64
        Of all arrays.
    device : str, optional
        "auto", "cpu", "cuda" or "reference"; by default `rnnfast.get_device()`. With "auto" the
        weights go to a GPU if one is usable, else they are NumPy's.

    Raises
    ------
    TypeError, ValueError
        For wrong arguments.

    Notes
    -----
    Weights are normal, divided by 100 (embedding) or by the square root of the number of rows;
    biases are zero. They are drawn in the order of the layers, as in the book. Masks are drawn with
    Philox (see TimeDropout), keyed by a seed, the layer and the step. The seed is `rng` if that is
    an integer, else it is drawn from the same source after the weights.

    AWD-LSTM [3]_ is this model with variational_dropout, dropout = 0, the five other ratios, alpha,
    beta and tied weights; `sizes` has those of its options that are given.

    References
    ----------
    .. [1] Zaremba et al. 2014, https://arxiv.org/abs/1409.2329
    .. [2] Gal and Ghahramani 2016, https://arxiv.org/abs/1512.05287
    .. [3] Merity et al. 2017, https://arxiv.org/abs/1708.02182
    .. [4] Press and Wolf 2016, https://arxiv.org/abs/1608.05859
    .. [5] Brahma 2018, https://arxiv.org/abs/1808.05908
    .. [6] Wang, Gong, Liu 2019, https://arxiv.org/abs/1906.03805

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast.models import LanguageModel
    >>> model = LanguageModel(10, 4, 6, cell="gru", layers=2, rng=0)
    >>> model.predict(np.array([[1, 2, 3]])).shape
    (1, 3, 10)
    >>> awd = {"input_dropout": 0.4, "between_dropout": 0.25, "output_dropout": 0.4}
    >>> awd |= {"embedding_dropout": 0.1, "weight_drop": 0.5, "alpha": 2.0, "beta": 1.0}
    >>> awd |= {"variational_dropout": True, "tie_weights": True}
    >>> model = LanguageModel(10, 4, 6, layers=3, rng=0, **awd)
    >>> [layer.Wh.shape[0] for layer in model.recurrent_layers]
    [6, 6, 4]
    """

    def __init__(
        self,
        vocab_size: int,
        wordvec_size: int,
        hidden_size: int,
        *,
        cell: str = "lstm",
        layers: int = 1,
        dropout: float = 0.0,
        variational_dropout: bool = False,
        input_dropout: float | None = None,
        between_dropout: float | None = None,
        output_dropout: float | None = None,
        embedding_dropout: float | None = None,
        weight_drop: float = 0.0,
        alpha: float | None = None,
        beta: float | None = None,
        past_decode: float | None = None,
        adversarial: float | None = None,
        tie_weights: bool = False,
        rng: Any = None,
        dtype: DTypeLike = np.float32,
        device: str | None = None,
    ) -> None:
        owner = type(self).__name__
        sizes = checked_sizes(
            owner,
            vocab_size=vocab_size,
            wordvec_size=wordvec_size,
            hidden_size=hidden_size,
            cell=cell,
            layers=layers,
            dropout=dropout,
            variational_dropout=variational_dropout,
            weight_drop=weight_drop,
            tie_weights=tie_weights,
        ) | given_sizes(
            owner,
            input_dropout=input_dropout,
            between_dropout=between_dropout,
            output_dropout=output_dropout,
            embedding_dropout=embedding_dropout,
            alpha=alpha,
            beta=beta,
            past_decode=past_decode,
            adversarial=adversarial,
        )
        V, D, H = (sizes[name] for name in BOOK_SIZES)
        tied = sizes["tie_weights"]
        if tied and sizes["layers"] == 1 and D != H:
            raise ValueError(f"{owner}: hidden_size must be wordvec_size = {D}, tied, got {H}")
        draw = Initializer(owner, rng, dtype, device)

        embed = embedding(draw, sizes)
        last = D if tied else H
        recurrent, names = recurrent_layers(draw, sizes, D, last=last, stateful=True)
        affine_W = embed.W.T if tied else draw.normal(last, V)
        affine = TimeAffine(affine_W, draw.zeros(V), device=draw.device)
        loss_layer, loss_names = regularized_loss(draw, sizes, affine)
        drops = drop_layers(draw, sizes)

        affine_name = None if tied else "affine_W"  # the file has embed_W.T only once
        param_names = ["embed_W", *names, affine_name, "affine_b", *loss_names]
        stack = [*regularized(draw, sizes, [embed, *recurrent], drops), affine]
        super().__init__(
            stack,
            param_names,
            sizes,
            draw.device,
            drops.h,
            drops.Wh,
            drops.words,
            loss_layer,
        )


class SimpleRnnlm(LanguageModel):
    """Embedding, one RNN, affine: the language model of chapter 5.

    The same seed of np.random draws the book's weights. See `LanguageModel` for the arguments.

    Attributes
    ----------
    rnn_layer : TimeRNN

    Examples
    --------
    >>> from rnnfast.models import SimpleRnnlm
    >>> SimpleRnnlm(vocab_size=10, wordvec_size=4, hidden_size=4)
    SimpleRnnlm(vocab_size=10, wordvec_size=4, hidden_size=4): 126 parameters
      TimeEmbedding: embed_W (10, 4), 40 parameters
      TimeRNN: rnn_Wx (4, 4), rnn_Wh (4, 4), rnn_b (4,), 36 parameters
      TimeAffine: affine_W (4, 10), affine_b (10,), 50 parameters
    """

    def __init__(
        self,
        vocab_size: int,
        wordvec_size: int,
        hidden_size: int,
        *,
        rng: Any = None,
        dtype: DTypeLike = np.float32,
        device: str | None = None,
    ) -> None:
        sizes = vocab_size, wordvec_size, hidden_size
        super().__init__(*sizes, cell="rnn", rng=rng, dtype=dtype, device=device)
        self.rnn_layer = self.recurrent_layers[0]
        self.sizes = {name: self.sizes[name] for name in BOOK_SIZES}


class Rnnlm(LanguageModel):
    """Embedding, one LSTM, affine: the language model of chapter 6.

    The same seed of np.random draws the book's weights. See `LanguageModel` for the arguments.

    Attributes
    ----------
    lstm_layer : TimeLSTM

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast.models import Rnnlm
    >>> model = Rnnlm(vocab_size=10, wordvec_size=4, hidden_size=4, rng=0)
    >>> loss = model.forward(np.array([[1, 2, 3]]), np.array([[2, 3, 4]]))
    >>> round(float(loss), 1)  # log(10) = 2.3, as of a uniform distribution
    2.3
    >>> model.backward()
    """

    def __init__(
        self,
        vocab_size: int = 10000,
        wordvec_size: int = 100,
        hidden_size: int = 100,
        *,
        rng: Any = None,
        dtype: DTypeLike = np.float32,
        device: str | None = None,
    ) -> None:
        sizes = vocab_size, wordvec_size, hidden_size
        super().__init__(*sizes, cell="lstm", rng=rng, dtype=dtype, device=device)
        self.lstm_layer = self.recurrent_layers[0]
        self.sizes = {name: self.sizes[name] for name in BOOK_SIZES}


class BetterRnnlm(LanguageModel):
    """Embedding, two LSTMs, affine, with tied weights and dropout between all layers.

    The second language model of chapter 6. The same seed of np.random draws the book's weights,
    but not its masks. See `LanguageModel` for the other arguments.

    Parameters
    ----------
    vocab_size, wordvec_size, hidden_size : int
        V, D and H. D and H must be equal, since the embedding and the affine layer share a matrix.
    dropout_ratio : float

    Attributes
    ----------
    lstm_layers : list of TimeLSTM

    Examples
    --------
    >>> from rnnfast.models import BetterRnnlm
    >>> model = BetterRnnlm(vocab_size=10, wordvec_size=4, hidden_size=4, rng=0)
    >>> sum(layer.params[0].size for layer in model.lstm_layers)
    128
    """

    def __init__(
        self,
        vocab_size: int = 10000,
        wordvec_size: int = 650,
        hidden_size: int = 650,
        dropout_ratio: float = 0.5,
        *,
        rng: Any = None,
        dtype: DTypeLike = np.float32,
        device: str | None = None,
    ) -> None:
        owner = type(self).__name__
        D = checks.count(owner, "wordvec_size", wordvec_size)
        H = checks.count(owner, "hidden_size", hidden_size)
        if D != H:
            raise ValueError(f"{owner}: hidden_size must be wordvec_size = {D}, tied, got {H}")
        super().__init__(
            vocab_size,
            wordvec_size,
            hidden_size,
            cell="lstm",
            layers=2,
            dropout=checks.ratio(owner, "dropout_ratio", dropout_ratio),
            tie_weights=True,
            rng=rng,
            dtype=dtype,
            device=device,
        )
        self.lstm_layers = self.recurrent_layers[:]
        ratio = self.sizes["dropout"]
        self.sizes = {name: self.sizes[name] for name in BOOK_SIZES} | {"dropout_ratio": ratio}
