"""The book's language models, with its arguments (chapters 5 and 6)."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from rnnfast import checks
from rnnfast.models.language import LanguageModel

BOOK_SIZES = ("vocab_size", "wordvec_size", "hidden_size")


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
