"""Layers made of recurrent layers: both directions side by side, backwards alone, stacks.

N batch, T time, D input, H hidden. Schuster and Paliwal 1997 (both directions); Deep Learning from
Scratch 2, chapter 6 (stacks) and 8 (TimeBiLSTM).

They have what a single layer has: params, grads, forward, backward, `state`, `set_state`, `dstate`
and reset_state, freeze and unfreeze; errors are those of rnnfast.recurrent.
"""

from itertools import pairwise

from rnnfast import checks
from rnnfast.layers import TimeDropout
from rnnfast.recurrent import TimeGRU, TimeLSTM, TimeRNN, adopted, checked_lengths, specs


class _Parts:
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


class _TimeBi(_Parts):
    """One layer reads the sequence forwards, another backwards; their outputs side by side."""

    def __init__(self, kind, weights1, weights2, stateful, device, options1, options2=None):
        name = self._name = type(self).__name__
        options2 = options1 if options2 is None else options2
        both = (
            adopted(name, (*weights1, options1.get("Wp")), "1"),
            adopted(name, (*weights2, options2.get("Wp")), "2"),
        )
        weights1, weights2 = both[0][:3], both[1][:3]
        two_biases = options1.get("reset_after") is True
        expected = specs(name, kind.gates, both[0], "1", two_biases)
        for argument, W1, W2 in zip(("Wx", "Wh", "b", "Wp"), *both, strict=True):
            if (W1 is None) != (W2 is None):
                kind2 = type(W2).__name__
                other = "None" if W1 is None else "an array"
                raise TypeError(
                    f"{name}: {argument}2 must be {other} as {argument}1 is, got {kind2}"
                )
        for suffix, weights in (("1", both[0]), ("2", both[1])):
            given = [W for W in weights if W is not None]
            for W, (argument, shape, label) in zip(given, expected, strict=True):
                argument = argument[:-1] + suffix
                checks.exactly(name, argument, W, weights1[0].dtype, shape, label)
        self.parts = [
            kind(*weights, stateful, device=device, **options)
            for weights, options in ((weights1, options1), (weights2, options2))
        ]
        for layer, direction in zip(self.parts, ("forward", "backward"), strict=True):
            layer._name = name
            setattr(self, f"{direction}_{kind.column}", layer)
        self.params = self.parts[0].params + self.parts[1].params
        self.grads = self.parts[0].grads + self.parts[1].grads

    def forward(self, xs, *, train=True, lengths=None):
        """xs (N, T, D) -> (N, T, 2H). train=False keeps nothing for a backward.

        lengths as in TimeLSTM.forward; backwards every sample starts at its own end.
        """
        ahead, back = self.parts
        checked = ahead._checked_forward(xs, train), back._checked_forward(xs, train)
        if lengths is not None:
            lengths = checked_lengths(self._name, lengths, *xs.shape[:2])
        before = self._before()
        try:
            hs1 = ahead._forward(checked[0], train=train, lengths=lengths)
            hs2 = back._forward(checked[1], train=train, lengths=lengths, reverse=True)
            return checks.namespace(hs1).concatenate((hs1, hs2), axis=2)
        except BaseException:
            self._restore(before)
            raise

    def backward(self, dhs, *dstate):
        """dhs (N, T, 2H) -> dxs (N, T, D); None is zeros.

        dstate: the gradients of `state`, the final states of both directions, or nothing.
        """
        ahead, back = self.parts
        (N, T, H), _ = ahead._pending()[2], back._pending()
        halves = None, None
        if dhs is not None:
            dhs = checks.real(self._name, "dhs", dhs)
            if dhs.shape != (N, T, 2 * H):
                raise checks.shape_error(self._name, "dhs", f"(N, T, 2H) = {N, T, 2 * H}", dhs)
            halves = dhs[:, :, :H], dhs[:, :, H:]
        dstate = dstate or (None,) * len(self.state)
        shares = self._shared("backward: the states' gradients", dstate)
        checked = [
            part._checked_backward(half, *own)
            for half, (part, own) in zip(halves, shares, strict=True)
        ]
        dxs = ahead._backward(checked[0])
        dxs += back._backward(checked[1])
        return dxs


class TimeBiRNN(_TimeBi):
    """`forward_rnn` and `backward_rnn`, two TimeRNN with weights of the same shapes."""

    def __init__(
        self, Wx1, Wh1, b1, Wx2, Wh2, b2, stateful=False, *, nonlinearity="tanh", device=None
    ):
        options = {"nonlinearity": nonlinearity}
        super().__init__(TimeRNN, (Wx1, Wh1, b1), (Wx2, Wh2, b2), stateful, device, options)


class TimeBiLSTM(_TimeBi):
    """`forward_lstm` and `backward_lstm`, two TimeLSTM with weights of the same shapes."""

    def __init__(
        self,
        Wx1,
        Wh1,
        b1,
        Wx2,
        Wh2,
        b2,
        stateful=False,
        *,
        Wp1=None,
        Wp2=None,
        cell_clip=None,
        device=None,
    ):
        options = [{"Wp": Wp, "cell_clip": cell_clip} for Wp in (Wp1, Wp2)]
        super().__init__(TimeLSTM, (Wx1, Wh1, b1), (Wx2, Wh2, b2), stateful, device, *options)


class TimeBiGRU(_TimeBi):
    """`forward_gru` and `backward_gru`, two TimeGRU with weights of the same shapes."""

    def __init__(
        self,
        Wx1,
        Wh1,
        b1,
        Wx2,
        Wh2,
        b2,
        stateful=False,
        *,
        reset_after=False,
        z_keeps=False,
        device=None,
    ):
        options = {"reset_after": reset_after, "z_keeps": z_keeps}
        super().__init__(TimeGRU, (Wx1, Wh1, b1), (Wx2, Wh2, b2), stateful, device, options)


class TimeReverse(_Parts):
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


class TimeStack(_Parts):
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
    return sum(map(_width, layer.parts)) if isinstance(layer, _Parts) else layer.Wh.shape[0]


def _reads(layer):
    """How wide its input is."""
    return _reads(layer.parts[0]) if isinstance(layer, _Parts) else layer.Wx.shape[0]
