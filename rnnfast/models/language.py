"""The general language model, a stack of layers (chapters 5, 6 and 7)."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from rnnfast.layers.initial import Initializer
from rnnfast.layers.mixture import TimeMixtureSoftmax
from rnnfast.models.building import (
    check_heads,
    check_of_steps,
    check_projection,
    check_rounds,
    checked_sizes,
    embedding,
    given_sizes,
    recurrent_layers,
)
from rnnfast.models.drops import adversary, check_frage, drop_layers, regularized, regularized_loss
from rnnfast.models.language_base import LanguageModelBase
from rnnfast.models.outputs import check_output, last_layer, last_width


class LanguageModel(LanguageModelBase):
    """Embedding, recurrent layers of one kind, affine: ids (N, T) -> scores (N, T, V).

    Parameters
    ----------
    vocab_size, wordvec_size, hidden_size : int
        V, D and H.
    cell : {"lstm", "rnn", "gru", "mogrifier", "lstmp", "lnlstm", "lngru", "slstm"}
    layers : int
        Number of recurrent layers.
    last_hidden_size : int, optional
        The number of units of the last of several layers; None is hidden_size, or wordvec_size
        where weights are tied without `mixtures`. With cell="lstmp" it is the width of its h, and
        None is proj_size.
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
    recurrent_dropout : float, optional
        Ratio of the elements of the candidates dropped in training, one mask for each step or, if
        variational_dropout, for the whole sequence: recurrent dropout without memory loss [12]_.
        Not for RNN and sLSTM.
    h_zoneout, c_zoneout : float, optional
        Zoneout [13]_: the probability that a unit of h, or of an LSTM's c, keeps its old value at a
        step in training. Otherwise the states are mixed in this ratio. Not for sLSTM.
    alpha, beta : float, optional
        Factors of activation regularisation (AR) and temporal activation regularisation (TAR) of
        the last recurrent layer [3]_. AR sees its output after dropout, TAR before.
    past_decode : float, optional
        Factor of past decode regularisation [8]_: the cross entropy of the id that was read,
        decoded from the distribution of the next one.
    adversarial : float, optional
        Size of adversarial noise on the word vectors of the targets [9]_, a share of their length.
    frage, frage_rate : float, optional
        Factor of FRAGE, which hides from word vectors how frequent their words are, and the
        learning rate of its discriminator (default 0.02) [10]_. Before training it needs
        `count_words`, which RnnlmTrainer calls.
    tie_weights : bool
        The affine layer's W is the transpose of the embedding's [4]_. The last of several
        recurrent layers then has wordvec_size units, or with cell="lstmp" projects to so many
        numbers; a single one needs hidden_size, or proj_size, = wordvec_size. With `mixtures`
        neither holds.
    mixtures : int, optional
        The number of softmaxes of which the output is a mixture [5]_; None is one, without a
        latent vector. See `rnnfast.TimeMixtureSoftmax`.
    mixtures_below : int, optional
        The number of softmaxes from the input of the last recurrent layer, in addition: direct
        output connection [6]_.
    latent_size : int, optional
        The width of the latent vectors; None is wordvec_size.
    latent_dropout : float, optional
        Ratio of the elements of the latent vectors dropped in training, one mask for a whole
        sequence.
    balance : float, optional
        Factor of the penalty on mixture weights that are not balanced [6]_.
    rounds, rank : int, optional
        Of a Mogrifier LSTM: how many times x and h gate each other before each step (default 5),
        and the rank of the matrices of these rounds; without it they are whole [7]_.
    proj_size : int, optional
        Of an LSTM with a projection, cell="lstmp": the width of h, to which its hidden_size cells
        are projected [11]_; default: hidden_size.
    heads : int, optional
        Of an sLSTM, cell="slstm": the heads of each layer, which divide its width [14]_; default 1.
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
    .. [5] Yang et al. 2017, https://arxiv.org/abs/1711.03953
    .. [6] Takase et al. 2018, https://arxiv.org/abs/1808.10143
    .. [7] Melis et al. 2019, https://arxiv.org/abs/1909.01792
    .. [8] Brahma 2018, https://arxiv.org/abs/1808.05908
    .. [9] Wang, Gong, Liu 2019, https://arxiv.org/abs/1906.03805
    .. [10] Gong et al. 2018, https://arxiv.org/abs/1809.06858
    .. [11] Sak et al. 2014, https://arxiv.org/abs/1402.1128
    .. [12] Semeniuta, Severyn, Barth 2016, https://arxiv.org/abs/1603.05118
    .. [13] Krueger et al. 2016, https://arxiv.org/abs/1606.01305
    .. [14] Beck et al. 2024, https://arxiv.org/abs/2405.04517

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
        last_hidden_size: int | None = None,
        dropout: float = 0.0,
        variational_dropout: bool = False,
        input_dropout: float | None = None,
        between_dropout: float | None = None,
        output_dropout: float | None = None,
        embedding_dropout: float | None = None,
        weight_drop: float = 0.0,
        recurrent_dropout: float | None = None,
        h_zoneout: float | None = None,
        c_zoneout: float | None = None,
        alpha: float | None = None,
        beta: float | None = None,
        past_decode: float | None = None,
        adversarial: float | None = None,
        frage: float | None = None,
        frage_rate: float | None = None,
        tie_weights: bool = False,
        mixtures: int | None = None,
        mixtures_below: int | None = None,
        latent_size: int | None = None,
        latent_dropout: float | None = None,
        balance: float | None = None,
        rounds: int | None = None,
        rank: int | None = None,
        proj_size: int | None = None,
        heads: int | None = None,
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
            last_hidden_size=last_hidden_size,
            input_dropout=input_dropout,
            between_dropout=between_dropout,
            output_dropout=output_dropout,
            embedding_dropout=embedding_dropout,
            recurrent_dropout=recurrent_dropout,
            h_zoneout=h_zoneout,
            c_zoneout=c_zoneout,
            alpha=alpha,
            beta=beta,
            past_decode=past_decode,
            adversarial=adversarial,
            frage=frage,
            frage_rate=frage_rate,
            mixtures=mixtures,
            mixtures_below=mixtures_below,
            latent_size=latent_size,
            latent_dropout=latent_dropout,
            balance=balance,
            rounds=rounds,
            rank=rank,
            proj_size=proj_size,
            heads=heads,
        )
        check_rounds(owner, sizes)
        check_projection(owner, sizes)
        check_of_steps(owner, sizes)
        check_output(owner, sizes)
        check_heads(owner, sizes, last_width(sizes))
        check_frage(owner, sizes)
        draw = Initializer(owner, rng, dtype, device)

        embed = embedding(draw, sizes)
        D = sizes["wordvec_size"]
        recurrent, names = recurrent_layers(draw, sizes, D, last=last_width(sizes), stateful=True)
        top = recurrent[-1]
        widths = top.Wx.shape[0], top.Wh.shape[0]
        output, output_names = last_layer(draw, sizes, embed, widths)
        loss_layer, loss_names = regularized_loss(draw, sizes, output)
        discriminator, its_names = adversary(draw, sizes, embed)
        drops = drop_layers(draw, sizes)
        if isinstance(output, TimeMixtureSoftmax):
            output.drop_latents(drops.latents)  # made last: seeds are drawn after all weights

        param_names = ["embed_W", *names, *output_names, *loss_names, *its_names]
        stack = [*regularized(draw, sizes, [embed, *recurrent], drops), output]
        masks = drops.h, drops.Wh, drops.words
        aside = loss_layer, discriminator, drops.of_steps
        super().__init__(stack, param_names, sizes, draw.device, *masks, *aside)
