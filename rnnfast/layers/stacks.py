"""Layers made of recurrent layers: both directions side by side, backwards alone, stacks.

N batch, T time, D input, H hidden. Schuster and Paliwal 1997 (both directions); Deep Learning from
Scratch 2, chapter 6 (stacks) and 8 (TimeBiLSTM).

They have what a single layer has: params, grads, forward, backward, `state`, `set_state`, `dstate`
and reset_state, freeze and unfreeze; errors are those of rnnfast.layers.recurrent.
"""

from itertools import pairwise

from rnnfast import checks
from rnnfast.layers.dropout import TimeDropout
from rnnfast.layers.recurrent import checked_lengths
from rnnfast.layers.sequence import TimeGRU, TimeLSTM, TimeRNN


class Parts:
    """What goes to every part alike; a part is a recurrent layer or again made of such."""

    parts = ()

    @property
    def state(self):
        """The final states of the parts, one after another, as set_state takes them."""
        return tuple(value for part in self.parts for value in part.state)

    @property
    def dstate(self):
        """Their gradients after backward, those of the states that forward started from."""
        return tuple(value for part in self.parts for value in part.dstate)

    def set_state(self, *values):
        """Start from these, None for zeros; as TimeLSTM.set_state. As many as `state` has."""
        shares = self._shared("set_state: the states", values)
        self._adopted_states(*values)
        for part, own in shares:
            part.set_state(*own)

    def _adopted_states(self, *values):
        for part, own in self._shared("set_state: the states", values):
            part._adopted_states(*own)

    def _shared(self, what, values):
        """(part, its share of values) of all parts; ValueError unless each state has one."""
        counts = [len(part.state) for part in self.parts]
        if len(values) != sum(counts):
            raise ValueError(f"{self._name}: {what} must be {sum(counts)}, got {len(values)}")
        values = iter(values)
        return [
            (part, tuple(next(values) for _ in range(count)))
            for part, count in zip(self.parts, counts, strict=True)
        ]

    @property
    def stateful(self):
        return all(part.stateful for part in self.parts)

    def _before(self):
        """All that a forward changes."""
        return [part._before() for part in self.parts]

    def _restore(self, before):
        """As if there had been no forward: it failed, or a signal ended it, in one of the parts."""
        for part, own in zip(self.parts, before, strict=True):
            part._restore(own)

    def reset_state(self):
        """The next forward starts from zeros."""
        for part in self.parts:
            part.reset_state()

    def freeze(self):
        """As TimeLSTM.freeze, all parts."""
        for part in self.parts:
            part.freeze()

    def unfreeze(self):
        for part in self.parts:
            part.unfreeze()

    @property
    def frozen(self):
        """True between freeze and unfreeze."""
        return all(part.frozen for part in self.parts)


class TimeReverse(Parts):
    """`layer`, a TimeRNN, TimeLSTM or TimeGRU, from the sequence's end to its start.

    hs[:, t] still belongs to xs[:, t]; the final state is the one of t = 0. With lengths every
    sample starts at its own end.
    """

    def __init__(self, layer):
        self._name = type(self).__name__
        if not isinstance(layer, (TimeRNN, TimeLSTM, TimeGRU)):
            kind = type(layer).__name__
            raise TypeError(
                f"{self._name}: layer must be a TimeRNN, TimeLSTM or TimeGRU, got {kind}"
            )
        self.layer = layer
        self.parts = [layer]
        self.params, self.grads = layer.params, layer.grads

    def forward(self, xs, *, train=True, lengths=None):
        """xs (N, T, D) -> hs (N, T, H). train and lengths as in TimeLSTM.forward."""
        checked = self.layer._checked_forward(xs, train)
        if lengths is not None:
            lengths = checked_lengths(self._name, lengths, *xs.shape[:2])
        return self.layer._forward(checked, train=train, lengths=lengths, reverse=True)

    def backward(self, dhs, *dstate):
        """dhs (N, T, H) -> dxs (N, T, D); dstate: the gradients of `state`, or nothing."""
        return self.layer.backward(dhs, *dstate)


class TimeStack(Parts):
    """Recurrent layers on top of each other, of one or both directions, with dropout between them.

    layers: TimeRNN, TimeLSTM, TimeGRU, TimeBi*, TimeReverse or stacks, each as wide as the next
    one reads.
    dropout_ratio: what is dropped of each layer's output but the last one's, in training
    (Zaremba et al. 2014, https://arxiv.org/abs/1409.2329); rng as in TimeDropout, one seed for all.
    params and grads are those of the layers in order, `drop_layers` the TimeDropout between them.
    """

    def __init__(self, layers, dropout_ratio=0.0, *, rng=None):
        self._name = type(self).__name__
        self.parts = self.layers = list(layers)
        if not self.layers:
            raise ValueError(f"{self._name}: layers must hold a layer, got none")
        for layer in self.layers:
            if not hasattr(layer, "set_state"):
                kind = type(layer).__name__
                raise TypeError(f"{self._name}: layers must be recurrent layers, got {kind}")
        for k, (below, above) in enumerate(pairwise(self.layers), 1):
            if _width(below) != _reads(above):
                raise ValueError(
                    f"{self._name}: layers[{k}] must read D = {_width(below)}, what is below "
                    f"gives, got {_reads(above)}"
                )
        dropout_ratio = checks.ratio(self._name, "dropout_ratio", dropout_ratio)
        between = range(len(self.layers) - 1 if dropout_ratio else 0)
        self.drop_layers = [
            TimeDropout(dropout_ratio, None if rng is None else (rng, k)) for k in between
        ]
        self.params = [param for layer in self.layers for param in layer.params]
        self.grads = [grad for layer in self.layers for grad in layer.grads]

    def forward(self, xs, *, train=True, lengths=None):
        """xs (N, T, D) -> (N, T, H of the last layer). train and lengths as in TimeLSTM."""
        drops, before = iter(self.drop_layers), self._before()
        of_drops = [(drop, drop.cache, drop.step) for drop in self.drop_layers]
        try:
            for layer in self.layers:
                xs = layer.forward(xs, train=train, lengths=lengths)
                drop = next(drops, None)
                if drop is not None:
                    xs = drop.forward(xs, train=train)
            return xs
        except BaseException:
            self._restore(before)
            for drop, cache, step in of_drops:
                drop.cache, drop.step = cache, step
            raise

    def backward(self, dhs, *dstate):
        """dhs of the last layer -> dxs (N, T, D); None is zeros.

        dstate: the gradients of `state`, the final states of all layers, or nothing.
        """
        shares = self._shared(
            "backward: the states' gradients", dstate or (None,) * len(self.state)
        )
        drops = iter(reversed((*self.drop_layers, None)))
        for layer, own in reversed(shares):
            drop = next(drops, None)
            if drop is not None and drop.train_flg:
                dhs = drop.backward(dhs)
            dhs = layer.backward(dhs, *own)
        return dhs


def _width(layer):
    """How wide a layer's output is."""
    if isinstance(layer, TimeStack):
        return _width(layer.layers[-1])
    return sum(map(_width, layer.parts)) if isinstance(layer, Parts) else layer.Wh.shape[0]


def _reads(layer):
    """How wide its input is."""
    return _reads(layer.parts[0]) if isinstance(layer, Parts) else layer.Wx.shape[0]
