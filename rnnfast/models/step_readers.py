"""Models with an output for each step that they read: SequenceTagger, SequenceRegressor.

See rnnfast.sequences for their common arguments.
"""

from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from rnnfast import checks
from rnnfast.layers.alone import one_at_a_time
from rnnfast.layers.losses import TimeSoftmaxWithLoss, TimeSquaredLoss
from rnnfast.layers.recurrent import checked_lengths
from rnnfast.layers.shares import counted_steps
from rnnfast.models.readers import Reader
from rnnfast.typing import Array


class _StepReader(Reader):
    """Models with one output per step."""

    _real: Any = None  # (N, T), False in the padding; None: no padding

    @overload
    def predict(
        self, xs: NDArray[Any], train_flg: bool = False, lengths: Any = None
    ) -> NDArray[Any]: ...
    @overload
    def predict(self, xs: Array, train_flg: bool = False, lengths: Any = None) -> Any: ...
    @one_at_a_time
    def predict(self, xs: Any, train_flg: bool = False, lengths: Any = None) -> Any:
        """Compute the outputs of all steps.

        Parameters
        ----------
        xs : array, (N, T) or (N, T, D)
        train_flg : bool
            Keep what backward needs.
        lengths : array_like of int, (N,), optional
            See rnnfast.sequences. Outputs in the padding have no meaning.

        Returns
        -------
        array, (N, T, outputs)
            Of NumPy if xs is.
        """
        hs = self._drop(self._read(xs, train_flg, lengths), train_flg)
        return self._beside(xs, self.affine.forward(hs, train=train_flg))

    def counted_targets(self, ts: Any, lengths: Any = None) -> Any:
        """How many targets of each sample count: those in the padding do not."""
        if lengths is None:
            return super().counted_targets(ts)
        real = np.arange(ts.shape[1]) < np.asarray(lengths)[:, np.newaxis]
        if getattr(self.loss_layer, "ignore_nan", False):
            return (real & checks.beside(real, counted_steps(ts))).sum(axis=1)
        if not isinstance(self.loss_layer, TimeSoftmaxWithLoss) or ts.ndim != 2:
            return real.sum(axis=1)
        counted = checks.beside(real, ts != self.loss_layer.ignore_label)
        return (real & counted).sum(axis=1)

    @one_at_a_time
    def forward(self, xs: Any, ts: Any, train_flg: bool = True, lengths: Any = None) -> Any:
        """Compute the loss.

        Parameters
        ----------
        xs : array, (N, T) or (N, T, D)
        ts : array, (N, T) or (N, T, outputs)
            Targets.
        train_flg, lengths
            As in `predict`.

        Returns
        -------
        float
            The mean over all steps outside the padding; a 0-d array on a GPU.
        """
        owner = type(self).__name__
        hs = self._drop(self._read(xs, train_flg, lengths), train_flg)
        N, T, _ = hs.shape
        ts = checks.real(owner, "ts", ts)
        if ts.shape[:2] != (N, T):
            raise checks.shape_error(owner, "ts", f"(N, T, ...) = ({N}, {T}, ...)", ts)
        if lengths is not None:
            lengths = checked_lengths(owner, lengths, N, T)
        ts, self._real = checks.beside(hs, ts), None
        if lengths is not None:  # the affine layer and the loss get only the real steps, in a row
            real = checks.beside(hs, np.arange(T) < lengths[:, np.newaxis])
            hs, ts, self._real = hs[real][np.newaxis], ts[real][np.newaxis], real
        ys = self.affine.forward(hs, train=train_flg)
        return self.loss_layer.forward(ys, ts, train=train_flg)

    def backward(self, dout: float = 1) -> Any:
        """Fill `grads`.

        Parameters
        ----------
        dout : float
            The gradient of the loss.

        Returns
        -------
        array, (N, T, D), or None
            dxs; None where ids were read.
        """
        dhs = self.affine.backward(self.loss_layer.backward(dout))
        if self._real is not None:
            whole = checks.namespace(dhs).zeros((*self._real.shape, dhs.shape[2]), dhs.dtype)
            whole[self._real] = dhs[0]
            dhs = whole
        return self._read_back(self._drop_back(dhs))


class SequenceTagger(_StepReader):
    """Many to many: ids (N, T) -> a tag per id.

    Embedding, recurrent layers (of both directions by default), affine.

    Parameters
    ----------
    vocab_size, wordvec_size, hidden_size : int
        V, D and H.
    tags : int
        Number of tags.
    bidirectional : bool
    **options
        cell, layers, dropout, rng, dtype, device: see rnnfast.sequences.

    Notes
    -----
    The targets of forward are tags ts (N, T). A target equal to ``loss_layer.ignore_label`` (-1)
    does not count in the loss.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast.sequences import SequenceTagger
    >>> model = SequenceTagger(vocab_size=9, wordvec_size=3, hidden_size=4, tags=2, rng=0)
    >>> model.predict(np.array([[1, 2, 3]])).shape
    (1, 3, 2)
    """

    def __init__(
        self,
        vocab_size: int,
        wordvec_size: int,
        hidden_size: int,
        tags: int,
        *,
        bidirectional: bool = True,
        **options: Any,
    ) -> None:
        sizes = {
            "vocab_size": vocab_size,
            "wordvec_size": wordvec_size,
            "hidden_size": hidden_size,
            "tags": tags,
        }
        super().__init__(sizes, "tags", TimeSoftmaxWithLoss, bidirectional=bidirectional, **options)


class SequenceRegressor(_StepReader):
    """Many to many: vectors (N, T, D) -> real numbers per step, with TimeSquaredLoss.

    Recurrent layers, affine.

    Parameters
    ----------
    input_size, hidden_size : int
        D and H.
    output_size : int
        Numbers per step.
    **options
        cell, layers, bidirectional, dropout, rng, dtype, device: see rnnfast.sequences.

    Notes
    -----
    To forecast a series, train with ts[:, t] = xs[:, t + 1]. With ``model.loss_layer.ignore_nan =
    True`` a target of NaN is a missing one, which does not count; the inputs have to be numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from rnnfast.sequences import SequenceRegressor
    >>> model = SequenceRegressor(input_size=3, hidden_size=4, output_size=2, rng=0)
    >>> model.predict(np.ones((5, 6, 3))).shape
    (5, 6, 2)
    """

    def __init__(
        self, input_size: int, hidden_size: int, output_size: int = 1, **options: Any
    ) -> None:
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "output_size": output_size}
        super().__init__(sizes, "output_size", TimeSquaredLoss, **options)
