"""Models that read a sequence: what they share, and SequenceClassifier.

See rnnfast.sequences for their common arguments.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from rnnfast import checks
from rnnfast.layers.affine import Affine, TimeAffine
from rnnfast.layers.alone import one_at_a_time
from rnnfast.layers.dropout import TimeDropout
from rnnfast.layers.initial import Initializer
from rnnfast.layers.losses import SoftmaxWithLoss
from rnnfast.layers.stacks import TimeStack
from rnnfast.models.building import checked_sizes, embedding, h_places, recurrent_layers
from rnnfast.models.model import Model
from rnnfast.typing import A


class Reader(Model):
    """Recurrent layers, below them an embedding if ids are read, above them an affine layer."""

    affine_layer: Callable[..., Any] = TimeAffine
    embed: Any  # None where vectors are read
    drop_layers: list[TimeDropout]

    def __init__(
        self,
        sizes: dict[str, Any],
        outputs: str,
        loss_layer: Callable[..., Any],
        *,
        cell: str = "lstm",
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        rng: Any = None,
        dtype: DTypeLike = np.float32,
        device: str | None = None,
    ) -> None:
        """sizes: the model's own arguments; outputs: the name of the affine layer's width."""
        owner = type(self).__name__
        sizes = checked_sizes(
            owner,
            **sizes,
            layers=layers,
            cell=cell,
            bidirectional=bidirectional,
            dropout=dropout,
        )
        directions = 2 if sizes["bidirectional"] else 1
        ratio = sizes["dropout"]
        draw = Initializer(owner, rng, dtype, device)

        reads_ids = "vocab_size" in sizes
        self.embed = embedding(draw, sizes) if reads_ids else None
        D = sizes["wordvec_size" if reads_ids else "input_size"]
        made, names = recurrent_layers(draw, sizes, D)
        W = draw.normal(sizes["hidden_size"] * directions, sizes[outputs])
        self.affine = self.affine_layer(W, draw.zeros(sizes[outputs]), device=draw.device)
        seed = draw.seed() if ratio else None
        self.recurrent = TimeStack(made, ratio, rng=seed)
        self.drop_layers = self.recurrent.drop_layers[:]
        if seed is not None:
            self.drop_layers.append(TimeDropout(ratio, (seed, len(made) - 1)))
        self.loss_layer = loss_layer(device=draw.device)
        self._last = list(h_places(self.recurrent, sizes["cell"]))[-directions:]

        below, first = ([self.embed], ["embed_W"]) if reads_ids else ([], [])
        names = [*first, *names, "affine_W", "affine_b"]
        super().__init__([*below, self.recurrent, self.affine], names, sizes)

    def _read(self, xs: Any, train: bool, lengths: Any) -> Any:
        """hs of the last layer. `recurrent` then has the final state."""
        if self.embed is not None:
            xs = self.embed.forward(xs, train=train)
        return self.recurrent.forward(xs, train=train, lengths=lengths)

    def _read_back(self, dhs: Any, *dstate: Any) -> Any:
        """dxs, from the gradients of hs and of the final state; None where ids were read."""
        dxs = self.recurrent.backward(dhs, *dstate)
        return dxs if self.embed is None else self.embed.backward(dxs)

    def _drop(self, hs: Any, train: bool) -> Any:
        """Dropout of the last layer's output."""
        return self.drop_layers[-1].forward(hs, train=train) if self.drop_layers else hs

    def _drop_back(self, dhs: Any) -> Any:
        """Back through `_drop`."""
        used = self.drop_layers and self.drop_layers[-1].cache is not None
        return self.drop_layers[-1].backward(dhs) if used else dhs


class SequenceClassifier(Reader):
    """Many to one: vectors (N, T, D) -> a class per sample.

    Recurrent layers; an affine layer reads their final h, of both directions if there are two.

    Parameters
    ----------
    input_size, hidden_size : int
        D and H.
    classes : int
        Number of classes.
    **options
        cell, layers, bidirectional, dropout, rng, dtype, device: see rnnfast.sequences.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast.sequences import SequenceClassifier
    >>> model = SequenceClassifier(input_size=3, hidden_size=4, classes=2, rng=0)
    >>> model.predict(np.ones((5, 6, 3))).shape
    (5, 2)
    """

    affine_layer = Affine

    def __init__(self, input_size: int, hidden_size: int, classes: int, **options: Any) -> None:
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "classes": classes}
        super().__init__(sizes, "classes", SoftmaxWithLoss, **options)

    @one_at_a_time
    def predict(self, xs: A, train_flg: bool = False, lengths: Any = None) -> A:
        """Compute scores.

        Parameters
        ----------
        xs : array, (N, T, D)
        train_flg : bool
            Keep what backward needs.
        lengths : array_like of int, (N,), optional
            See rnnfast.sequences.

        Returns
        -------
        array, (N, classes)
            Of NumPy if xs is.
        """
        ys: A = self._beside(xs, self._scores(xs, train_flg, lengths))
        return ys

    def _scores(self, xs: Any, train_flg: bool, lengths: Any) -> Any:
        """The scores, on the device of the weights."""
        self._read(xs, train_flg, lengths)
        final = [self.recurrent.state[place] for place in self._last]
        h = checks.namespace(final[0]).concatenate(final, axis=1)
        return self.affine.forward(self._drop(h, train_flg), train=train_flg)

    @one_at_a_time
    def forward(self, xs: Any, ts: Any, train_flg: bool = True, lengths: Any = None) -> Any:
        """Compute the loss.

        Parameters
        ----------
        xs : array, (N, T, D)
        ts : array of int, (N,)
            Classes.
        train_flg, lengths
            As in `predict`.

        Returns
        -------
        float
            Mean cross entropy in nats; a 0-d array on a GPU.
        """
        return self.loss_layer.forward(self._scores(xs, train_flg, lengths), ts, train=train_flg)

    def backward(self, dout: float = 1) -> Any:
        """Fill `grads`.

        Parameters
        ----------
        dout : float
            The gradient of the loss.

        Returns
        -------
        array, (N, T, D)
            dxs.
        """
        dh = self._drop_back(self.affine.backward(self.loss_layer.backward(dout)))
        dstate: list[Any] = [None] * len(self.recurrent.state)
        parts = checks.namespace(dh).split(dh, len(self._last), axis=1)
        for place, part in zip(self._last, parts, strict=True):
            dstate[place] = part
        return self._read_back(None, *dstate)
