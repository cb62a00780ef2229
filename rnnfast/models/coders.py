"""The two halves of a Seq2seq: an Encoder reads ids, a Decoder generates them. Chapter 7."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rnnfast import checks
from rnnfast.io.weights import to_numpy
from rnnfast.layers.affine import TimeAffine
from rnnfast.layers.initial import Initializer
from rnnfast.layers.stacks import TimeReverse, TimeStack
from rnnfast.models.building import checked_sizes, embedding, filled, h_places, recurrent_layers
from rnnfast.models.model import Model
from rnnfast.text import sampling


class Encoder(Model):
    """Embedding and recurrent layers: ids (N, T) -> their final state.

    Parameters
    ----------
    vocab_size, wordvec_size, hidden_size : int
        V, D and H.
    reverse : bool
        Read the ids of each sample from the last to the first.
    cell, layers, rng, dtype, device
        See rnnfast.sequences.

    References
    ----------
    Deep Learning from Scratch 2, chapter 7.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast.sequences import Encoder
    >>> encoder = Encoder(vocab_size=5, wordvec_size=3, hidden_size=4, rng=0)
    >>> encoder.forward(np.array([[0, 1, 2], [2, 3, 4]])).shape
    (2, 4)
    >>> len(encoder.state)
    2
    """

    def __init__(
        self,
        vocab_size: int,
        wordvec_size: int,
        hidden_size: int,
        *,
        cell: str = "lstm",
        layers: int = 1,
        reverse: bool = False,
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
            layers=layers,
            cell=cell,
            reverse=reverse,
        )
        draw = Initializer(owner, rng, dtype, device)
        self.embed = embedding(draw, sizes)
        made, names = recurrent_layers(draw, sizes, sizes["wordvec_size"])
        if sizes["reverse"]:
            made = [TimeReverse(layer) for layer in made]
        self.recurrent = TimeStack(made)
        self._last = h_places(self.recurrent, sizes["cell"])[-1]
        super().__init__([self.embed, self.recurrent], ["embed_W", *names], sizes)

    @property
    def state(self) -> tuple[Any, ...]:
        """The final states of all layers, in the form of TimeStack.set_state."""
        state: tuple[Any, ...] = self.recurrent.state
        return state

    def forward(self, xs: Any, *, train: bool = True, lengths: Any = None) -> Any:
        """Read a batch of ids.

        Parameters
        ----------
        xs : array of int, (N, T)
        train : bool
            Keep what backward needs.
        lengths : array_like of int, (N,), optional
            See rnnfast.sequences.

        Returns
        -------
        array, (N, H)
            h of the last layer; `state` has the states of all layers.
        """
        self.recurrent.forward(self.embed.forward(xs, train=train), train=train, lengths=lengths)
        return self.state[self._last]

    def backward(self, *dstate: Any) -> None:
        """Fill `grads`.

        Parameters
        ----------
        *dstate : array or None
            The gradients of `state`, in its order; None or missing ones are zero.
        """
        self.embed.backward(self.recurrent.backward(None, *filled(dstate, self.recurrent)))


class Decoder(Model):
    """Embedding, recurrent layers that start from a given state, affine: ids -> scores.

    Parameters
    ----------
    vocab_size, wordvec_size, hidden_size : int
        V, D and H.
    cell, layers, rng, dtype, device
        See rnnfast.sequences.

    Attributes
    ----------
    dstate : tuple of array
        After backward: the gradients of the state that forward started from, of all layers.

    References
    ----------
    Deep Learning from Scratch 2, chapter 7.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast.sequences import Decoder
    >>> decoder = Decoder(vocab_size=5, wordvec_size=3, hidden_size=4, rng=0, device="cpu")
    >>> h = np.zeros((2, 4), np.float32)
    >>> decoder.forward(np.array([[0, 1, 2], [2, 3, 4]]), h).shape
    (2, 3, 5)
    >>> decoder.generate((h,), start_id=0, sample_size=6).shape
    (2, 6)
    """

    peeky = False  # whether the layers also read the encoder's h at every step
    attends = False  # whether the affine layer also reads a context (rnnfast.models.attention)
    dstate: tuple[Any, ...]

    def __init__(
        self,
        vocab_size: int,
        wordvec_size: int,
        hidden_size: int,
        *,
        cell: str = "lstm",
        layers: int = 1,
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
            layers=layers,
            cell=cell,
        )
        H, V = sizes["hidden_size"], sizes["vocab_size"]
        peeked = H if self.peeky else 0
        draw = Initializer(owner, rng, dtype, device)
        self.embed = embedding(draw, sizes)
        made, names = recurrent_layers(draw, sizes, peeked + sizes["wordvec_size"], stateful=True)
        self.recurrent = TimeStack(made)
        W = draw.normal(H * (1 + (self.peeky or self.attends)), V)
        self.affine = TimeAffine(W, draw.zeros(V), device=draw.device)
        self._last = h_places(self.recurrent, sizes["cell"])[-1]
        names = ["embed_W", *names, "affine_W", "affine_b"]
        super().__init__([self.embed, self.recurrent, self.affine], names, sizes)

    def forward(self, xs: Any, *state: Any, train: bool = True) -> Any:
        """Compute the scores of the ids that follow.

        Parameters
        ----------
        xs : array of int, (N, T)
        *state : array or None
            The first state: h (N, H) of the first layer, or the states of all layers, in order.
            None or missing ones are zero.
        train : bool
            Keep what backward needs.

        Returns
        -------
        array, (N, T, V)
        """
        return self.affine.forward(self._hidden(xs, state, train), train=train)

    def backward(self, dscore: Any) -> Any:
        """Fill `grads` and `dstate`.

        Parameters
        ----------
        dscore : array, (N, T, V)

        Returns
        -------
        array, (N, H)
            dh, the gradient of the first h.
        """
        self._hidden_back(self.affine.backward(dscore))
        return self.dstate[0]

    def generate(
        self, state: tuple[Any, ...], start_id: int, sample_size: int
    ) -> NDArray[np.int64]:
        """Generate ids greedily: the most probable id of each step is the input of the next one.

        Parameters
        ----------
        state : tuple of array
            The first state, as in `forward`.
        start_id : int
            The first input.
        sample_size : int
            Ids per sample.

        Returns
        -------
        ndarray of int64, (N, sample_size)

        Raises
        ------
        TypeError, ValueError
            For wrong arguments.
        """
        owner, V = type(self).__name__, self.sizes["vocab_size"]
        start_id = checks.integer(owner, "start_id", start_id)
        if not 0 <= start_id < V:
            raise ValueError(f"{owner}: start_id must be in [0, {V}), got {start_id}")
        known = [array for array in state if array is not None]
        if not known:
            raise ValueError(f"{owner}: state must have an array, whose length is N, got none")
        ids: Any = np.full((len(known[0]), 1), start_id)
        found: list[NDArray[np.int64]] = [np.empty((len(ids), 0), np.int64)]
        first = state
        for _ in range(sampling.check_size(owner, sample_size)):
            hs = self._hidden(ids, state, False, peeked=first)
            ids = self.affine.forward(hs, train=False).argmax(axis=2)
            found.append(to_numpy(ids))
            state = self.recurrent.state
        return np.concatenate(found, axis=1)

    def _hidden(
        self, xs: Any, state: tuple[Any, ...], train: bool, peeked: tuple[Any, ...] | None = None
    ) -> Any:
        """The input of the affine layer. peeked: the state whose h a peeky decoder reads."""
        self.recurrent.set_state(*filled(state, self.recurrent))
        xs = self.embed.forward(xs, train=train)
        if not self.peeky:
            return self.recurrent.forward(xs, train=train)
        h = filled(peeked or state, self.recurrent)[self._last]
        if h is None:
            raise ValueError(f"{type(self).__name__}: state must have the last layer's h, got None")
        xp = checks.namespace(xs)
        hs = xp.broadcast_to(h[:, np.newaxis], (*xs.shape[:2], h.shape[1]))
        above = self.recurrent.forward(xp.concatenate((hs, xs), axis=2), train=train)
        return xp.concatenate((hs, above), axis=2)

    def _hidden_back(self, dhs: Any) -> None:
        """Back from the affine layer's input; sets `dstate`."""
        H = self.sizes["hidden_size"] if self.peeky else 0
        dxs = self.recurrent.backward(dhs[:, :, H:])
        self.embed.backward(dxs[:, :, H:])
        dstate = list(self.recurrent.dstate)
        if self.peeky:
            dstate[self._last] = (
                dstate[self._last] + dhs[:, :, :H].sum(axis=1) + dxs[:, :, :H].sum(axis=1)
            )
        self.dstate = tuple(dstate)


class PeekyDecoder(Decoder):
    """A Decoder whose recurrent and affine layers also read the encoder's h at every step.

    With several layers it is the h of the last one. See `Decoder` for the arguments.

    References
    ----------
    Cho et al. 2014, https://arxiv.org/abs/1406.1078.
    Deep Learning from Scratch 2, chapter 7.
    """

    peeky = True
