"""Language models as stacks of layers (chapters 5, 6 and 7).

LanguageModel is the general one. SimpleRnnlm, Rnnlm and BetterRnnlm are the book's, with its
arguments.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from rnnfast import checks
from rnnfast.layers.affine import TimeAffine
from rnnfast.layers.dropout import TimeDropout
from rnnfast.layers.initial import Initializer
from rnnfast.models.base import BaseModel
from rnnfast.models.building import checked_rounds, checked_sizes, embedding, recurrent_layers

BOOK_SIZES = ("vocab_size", "wordvec_size", "hidden_size")  # of the book's models


class LanguageModel(BaseModel):
    """Embedding, recurrent layers of one kind, affine: ids (N, T) -> scores (N, T, V).

    Parameters
    ----------
    vocab_size, wordvec_size, hidden_size : int
        V, D and H.
    cell : {"lstm", "rnn", "gru", "mogrifier"}
    layers : int
        Number of recurrent layers.
    dropout : float
        Ratio of the elements dropped in training: after the embedding, between the recurrent
        layers, and before the affine layer [1]_.
    variational_dropout : bool
        Use one mask for the whole sequence, and mask h before its product with Wh as well [2]_.
    weight_drop : float
        Ratio of the elements of every Wh dropped in training, one mask for a whole sequence:
        the weight drop of AWD-LSTM [3]_.
    tie_weights : bool
        The affine layer's W is the transpose of the embedding's. It needs hidden_size =
        wordvec_size [4]_.
    rounds, rank : int, optional
        Of a Mogrifier LSTM: how many times x and h gate each other before each step (default 5),
        and the rank of the matrices of these rounds; without it they are whole [5]_.
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

    References
    ----------
    .. [1] Zaremba et al. 2014, https://arxiv.org/abs/1409.2329
    .. [2] Gal and Ghahramani 2016, https://arxiv.org/abs/1512.05287
    .. [3] Merity et al. 2017, https://arxiv.org/abs/1708.02182
    .. [4] Press and Wolf 2016, https://arxiv.org/abs/1608.05859
    .. [5] Melis et al. 2019, https://arxiv.org/abs/1909.01792

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast.models import LanguageModel
    >>> model = LanguageModel(10, 4, 6, cell="gru", layers=2, rng=0)
    >>> model.predict(np.array([[1, 2, 3]])).shape
    (1, 3, 10)
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
        weight_drop: float = 0.0,
        tie_weights: bool = False,
        rounds: int | None = None,
        rank: int | None = None,
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
        )
        sizes |= checked_rounds(owner, sizes["cell"], rounds, rank)
        V, D, H = (sizes[name] for name in BOOK_SIZES)
        tied = sizes["tie_weights"]
        if tied and D != H:
            raise ValueError(f"{owner}: hidden_size must be wordvec_size = {D}, tied, got {H}")
        draw = Initializer(owner, rng, dtype, device)

        embed = embedding(draw, sizes)
        recurrent, names = recurrent_layers(draw, sizes, D, stateful=True)
        affine_W = embed.W.T if tied else draw.normal(H, V)
        affine = TimeAffine(affine_W, draw.zeros(V), device=draw.device)
        drops, h_drops, Wh_drops = _drop_layers(draw, sizes)
        stack = [embed, *recurrent]
        if drops:
            stack = [layer for pair in zip(stack, drops, strict=True) for layer in pair]

        affine_name = None if tied else "affine_W"  # the file has embed_W.T only once
        param_names = ["embed_W", *names, affine_name, "affine_b"]
        super().__init__([*stack, affine], param_names, sizes, draw.device, h_drops, Wh_drops)


def _drop_layers(
    draw: Initializer, sizes: dict[str, Any]
) -> tuple[list[TimeDropout], list[TimeDropout], list[TimeDropout]]:
    """The dropout layers of a LanguageModel: one above each layer, then those for h and for Wh."""
    layers, ratio, weight_drop = sizes["layers"], sizes["dropout"], sizes["weight_drop"]
    if not ratio and not weight_drop:  # then, as in the book, only weights come from np.random
        return [], [], []
    variational, seed = sizes["variational_dropout"], draw.seed()
    # The keys of a seed: layers + 1 for the stack, as many as layers for h, and again for Wh
    drops = [
        TimeDropout(ratio, (seed, key), variational=variational, device=draw.device)
        for key in range(2 * layers + 1 if ratio else 0)
    ]
    Wh_drops = [
        TimeDropout(weight_drop, (seed, 2 * layers + 1 + key), device=draw.device)
        for key in range(layers if weight_drop else 0)
    ]
    return drops[: layers + 1], drops[layers + 1 :] if variational else [], Wh_drops


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
        super().__init__(
            vocab_size,
            wordvec_size,
            hidden_size,
            cell="lstm",
            layers=2,
            dropout=checks.ratio(type(self).__name__, "dropout_ratio", dropout_ratio),
            tie_weights=True,
            rng=rng,
            dtype=dtype,
            device=device,
        )
        self.lstm_layers = self.recurrent_layers[:]
        ratio = self.sizes["dropout"]
        self.sizes = {name: self.sizes[name] for name in BOOK_SIZES} | {"dropout_ratio": ratio}
