"""The base of language models: a stack of layers with its loss, its state and its sampling."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from itertools import islice
from types import MappingProxyType
from typing import Any, Self, overload

from numpy.typing import NDArray

from rnnfast.io.weights import to_numpy
from rnnfast.layers.alone import one_at_a_time
from rnnfast.layers.dropout import TimeDropout
from rnnfast.layers.frequency import FrequencyDiscriminator
from rnnfast.layers.parts import undone_if_it_fails
from rnnfast.layers.past_decode import PastDecode
from rnnfast.models.drops import Regularized, mask_of_steps
from rnnfast.models.outputs import inner_drop, loss_of
from rnnfast.models.plain import unregularized
from rnnfast.models.stateful import Stateful
from rnnfast.text import sampling
from rnnfast.typing import Array


class LanguageModelBase(Stateful):
    """A stack of layers, the last one affine or a mixture of softmaxes, with a softmax loss.

    Parameters
    ----------
    layers : list
        The layers, in order.
    param_names, sizes
        See `Model`.
    device : str or None
        The device of the loss layer.
    h_drops, Wh_drops : sequence of TimeDropout
        One per recurrent layer, or none. They draw its h_mask or its Wh_mask in training.
    word_drop : TimeDropout, optional
        Draws the word_mask of the first layer, an embedding, in training.
    loss_layer : optional
        Of the last layer; None is the loss without regularisation.
    adversary : FrequencyDiscriminator, optional
        Of the first layer, an embedding: FRAGE.
    step_drops : mapping, optional
        Argument of a recurrent layer's forward -> sequence of TimeDropout, one per layer.

    Attributes
    ----------
    loss_layer : TimeAffineSoftmaxWithLoss or TimeMixtureSoftmaxWithLoss
    recurrent_layers : list
    drop_layers : list of TimeDropout
        The dropout layers in `layers`, then those of `h_drops` and `Wh_drops`, then `word_drop`,
        then that of a mixture, then those of `step_drops`. Their `step` counts
        the masks drawn so far.
    penalty_layers : list
        The layers in `layers` that compute a penalty: AR and TAR.

    Notes
    -----
    In training, the output of the last but one layer goes directly to the loss layer, which
    computes the scores and the gradients of the last layer itself; see TimeAffineSoftmaxWithLoss.
    A mixture of softmaxes with two inputs also gets the input of the last recurrent layer. Its
    scores are log probabilities.
    """

    h_drops: list[TimeDropout]
    Wh_drops: list[TimeDropout]
    word_drop: TimeDropout | None
    past: PastDecode | None
    adversary: FrequencyDiscriminator | None
    loss_layer: Any
    drop_layers: list[TimeDropout]

    def __init__(
        self,
        layers: list[Any],
        param_names: Sequence[str | None],
        sizes: dict[str, Any],
        device: str | None,
        h_drops: Sequence[TimeDropout] = (),
        Wh_drops: Sequence[TimeDropout] = (),
        word_drop: TimeDropout | None = None,
        loss_layer: Regularized | None = None,
        adversary: FrequencyDiscriminator | None = None,
        step_drops: Mapping[str, Sequence[TimeDropout]] = MappingProxyType({}),
    ) -> None:
        self.past = None if loss_layer is None else loss_layer.past
        self.adversary = adversary
        aside = [layer for layer in (self.past, adversary) if layer is not None]
        super().__init__(layers, param_names, sizes, aside)
        self.loss_layer = loss_layer or loss_of(layers[-1], sizes, device)
        self.recurrent_layers = [layer for layer in layers if hasattr(layer, "reset_state")]
        several = len(getattr(layers[-1], "mixtures", ())) > 1
        # The layer whose input is also one of the last layer's
        self._source = self.recurrent_layers[-1] if several else None
        self.h_drops, self.Wh_drops, self.word_drop = list(h_drops), list(Wh_drops), word_drop
        in_depth = [layer for layer in layers if isinstance(layer, TimeDropout)]
        self.drop_layers = in_depth + self.h_drops + self.Wh_drops
        self.drop_layers += [] if word_drop is None else [word_drop]
        self.drop_layers += inner_drop(layers[-1])
        self.step_drops = dict(step_drops)
        for drops in self.step_drops.values():
            self.drop_layers += drops
        self.penalty_layers = [layer for layer in layers if hasattr(layer, "loss")]

    @property
    def vocab_size(self) -> int:
        """V, the number of ids."""
        V: int = self.layers[-1].params[0].shape[1]
        return V

    @property
    def penalty(self) -> Any:
        """What training minimises beside the loss, of the last forward: AR, TAR, FRAGE and others.

        `backward` includes its gradient; the loss that `forward` returns does not include it.
        """
        rest = getattr(self.loss_layer, "penalty", 0.0)
        rest = rest + (0.0 if self.adversary is None else self.adversary.loss)
        return sum((layer.loss for layer in self.penalty_layers), rest)

    @overload
    def predict(self, xs: NDArray[Any], train_flg: bool = False) -> NDArray[Any]: ...
    @overload
    def predict(self, xs: Array, train_flg: bool = False) -> Any: ...
    @one_at_a_time
    def predict(self, xs: Any, train_flg: bool = False) -> Any:
        """Compute the scores of the ids that follow each step.

        Parameters
        ----------
        xs : array of int, (N, T)
        train_flg : bool
            Keep what backward needs, and apply dropout.

        Returns
        -------
        array, (N, T, V)
            Of NumPy if xs is, on any device.
        """
        with undone_if_it_fails([*self.recurrent_layers, *self.drop_layers]):
            scores = self.layers[-1].forward(self.hidden(xs, train_flg), train=train_flg)
        return self._beside(xs, scores)

    @one_at_a_time
    def forward(self, xs: Any, ts: Any, train_flg: bool = True) -> Any:
        """Compute the loss.

        Parameters
        ----------
        xs, ts : array of int, (N, T)
            Ids and targets.
        train_flg : bool
            Keep what backward needs, and apply dropout.

        Returns
        -------
        float
            Mean cross entropy in nats, without penalties; a 0-d array on a GPU.
        """
        if self.adversary is not None and train_flg:
            self.adversary.check_counted()
        more = {} if self.past is None else {"previous": xs}
        with undone_if_it_fails([*self.recurrent_layers, *self.drop_layers]):
            loss = self.loss_layer.forward(self.hidden(xs, train_flg), ts, train=train_flg, **more)
        if self.adversary is not None:
            self.adversary.forward(train=train_flg)
        return loss

    def hidden(self, xs: Any, train_flg: bool = False) -> Any:
        """Compute what the last layer reads. Starts from the current state and updates it.

        Parameters
        ----------
        xs : array of int, (N, T)
        train_flg : bool
            Keep what backward needs, and apply dropout.

        Returns
        -------
        array (N, T, H), or list of two such arrays
            The states of the last recurrent layer; of a mixture with two inputs, both of them. For
            `scores` and `top_states`.
        """
        below = None
        for layer in self.layers[:-1]:
            below = xs if layer is self._source else below
            xs = layer.forward(xs, train=train_flg, **self.masks(layer, xs, train_flg))
        return xs if below is None else [below, xs]

    def masks(self, layer: Any, xs: Any, train_flg: bool = False) -> dict[str, Any]:
        """Make what the forward of one of the layers takes beside its input and `train`.

        Whoever calls a layer itself needs it: zoneout is there without training, too.

        Parameters
        ----------
        layer : layer
            One of `layers`.
        xs : array
            The input of the layer.
        train_flg : bool
            Draw masks.

        Returns
        -------
        dict
            Argument -> mask, number or None.
        """
        masks: dict[str, Any] = {}
        drop = self.word_drop if layer is self.layers[0] else None
        if train_flg and drop is not None and drop.train_flg:
            masks["word_mask"] = drop.draw(layer.W, (len(layer.W),), of_samples=False)
        if layer not in self.recurrent_layers:
            return masks
        k = self.recurrent_layers.index(layer)
        for name, drops, shape in (
            ("h_mask", self.h_drops, (len(xs), layer.width_of("h_mask"))),
            ("Wh_mask", self.Wh_drops, layer.Wh.shape),
        ):
            if train_flg and drops and drops[k].train_flg:
                masks[name] = drops[k].draw(xs, shape, of_samples=name == "h_mask")
        for name, of_layers in self.step_drops.items():
            width = layer.width_of(name)
            masks[name] = mask_of_steps(name, of_layers[k], xs, width, train_flg)
        return masks

    def top_states(self, hidden: Any) -> Any:
        """Return the states of the last recurrent layer, after dropout.

        Parameters
        ----------
        hidden : array or list
            The result of `hidden`.

        Returns
        -------
        array (N, T, H)
        """
        return hidden[-1] if self._source is not None else hidden

    def scores(self, hidden: Any) -> Any:
        """Compute the scores of the ids that follow each step, without dropout.

        Parameters
        ----------
        hidden : array or list
            The result of `hidden`.

        Returns
        -------
        array (N, T, V)
        """
        return self.layers[-1].forward(hidden, train=False)

    def unregularized(self) -> Self:
        """Copy the model without dropout and penalties.

        Returns
        -------
        LanguageModelBase
            It computes what this model predicts, also in training. Its `params` are those that
            predictions depend on. It is not meant for weight files: its `sizes` are those of this
            model.
        """
        return unregularized(self)

    def count_words(self, ids: Any) -> None:
        """Tell a model with FRAGE how frequent words are, before training; others ignore it.

        `RnnlmTrainer.fit` does this.

        Parameters
        ----------
        ids : array of int
            The training text.
        """
        if self.adversary is not None:
            self.adversary.count_words(ids)

    @one_at_a_time
    def next_scores(self, xs: Any) -> NDArray[Any]:
        """Compute the scores of the next id. Starts from the current state and updates it.

        Parameters
        ----------
        xs : array of int, (N, T)

        Returns
        -------
        ndarray, (N, V)
        """
        hidden = self.hidden(xs)
        last = [hs[:, -1:] for hs in hidden] if isinstance(hidden, list) else hidden[:, -1:]
        return to_numpy(self.scores(last)[:, 0])

    def backward(self, dout: float = 1, on_gradients: Callable[[Any], Any] | None = None) -> Any:
        """Fill `grads`, those of the loss and the penalty. Needs a forward pass with `train_flg`.

        Parameters
        ----------
        dout : float
            The gradient of the loss and of the penalty.
        on_gradients : callable, optional
            Called with each of `layers` as soon as the gradients of that are complete.

        Returns
        -------
        array or None
            The result of the first layer's backward; None for an embedding.
        """
        grad: Any = self.loss_layer.backward(dout)
        below, grad = grad if self._source is not None else (None, grad)
        done = on_gradients or _nothing
        done(self.layers[-1])
        for layer in reversed(self.layers[:-1]):
            penalised = layer in self.penalty_layers
            grad = layer.backward(grad, dout) if penalised else layer.backward(grad)
            if layer is self._source:
                grad = grad + below
            if layer is not self.layers[0]:
                done(layer)
        if self.adversary is not None:
            self.layers[0].grads[0] += self.adversary.backward(dout)
        done(self.layers[0])
        return grad

    def generate(self, start_id: int, skip_ids: Any = None, sample_size: int = 100) -> list[int]:
        """Sample ids with np.random, like the book's method (chapter 7).

        It starts from the current state and updates it: the state has then seen all ids except the
        last. rnnfast.sampling.generate and stream have more options.

        Parameters
        ----------
        start_id : int
            The first input.
        skip_ids : iterable of int, optional
            Ids that are never drawn.
        sample_size : int
            Number of ids, including start_id.

        Returns
        -------
        list of int
            start_id and the ids drawn.
        """
        count = sampling.check_size("generate", sample_size) - 1
        with closing(sampling.stream(self, [start_id], skip_ids=skip_ids)) as ids:
            return [int(start_id), *islice(ids, max(count, 0))]


def _nothing(layer: Any) -> None:
    pass
