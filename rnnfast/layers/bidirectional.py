"""Recurrent layers that read a sequence in both directions: TimeBiRNN, TimeBiLSTM, TimeBiGRU.

Schuster and Paliwal 1997; Deep Learning from Scratch 2, chapter 8 (TimeBiLSTM).
"""

from rnnfast import checks
from rnnfast.layers.recurrent import adopted, checked_lengths, specs
from rnnfast.layers.sequence import TimeGRU, TimeLSTM, TimeRNN
from rnnfast.layers.stacks import Parts


class _TimeBi(Parts):
    """One layer reads the sequence forwards, another backwards; their outputs side by side."""

    kind = None  # of the two layers

    def __init__(self, weights1, weights2, stateful, device, options1, options2=None):
        kind, name = self.kind, type(self).__name__
        self._name = name
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
        forward, backward = self.parts
        checked = forward._checked_forward(xs, train), backward._checked_forward(xs, train)
        if lengths is not None:
            lengths = checked_lengths(self._name, lengths, *xs.shape[:2])
        before = self._before()
        try:
            hs1 = forward._forward(checked[0], train=train, lengths=lengths)
            hs2 = backward._forward(checked[1], train=train, lengths=lengths, reverse=True)
            return checks.namespace(hs1).concatenate((hs1, hs2), axis=2)
        except BaseException:
            self._restore(before)
            raise

    def backward(self, dhs, *dstate):
        """dhs (N, T, 2H) -> dxs (N, T, D); None is zeros.

        dstate: the gradients of `state`, the final states of both directions, or nothing.
        """
        forward, backward = self.parts
        (N, T, H), _ = forward._pending()[2], backward._pending()
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
        dxs = forward._backward(checked[0])
        dxs += backward._backward(checked[1])
        return dxs


class TimeBiRNN(_TimeBi):
    """`forward_rnn` and `backward_rnn`, two TimeRNN with weights of the same shapes."""

    kind = TimeRNN

    def __init__(
        self, Wx1, Wh1, b1, Wx2, Wh2, b2, stateful=False, *, nonlinearity="tanh", device=None
    ):
        options = {"nonlinearity": nonlinearity}
        super().__init__((Wx1, Wh1, b1), (Wx2, Wh2, b2), stateful, device, options)


class TimeBiLSTM(_TimeBi):
    """`forward_lstm` and `backward_lstm`, two TimeLSTM with weights of the same shapes."""

    kind = TimeLSTM

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
        super().__init__((Wx1, Wh1, b1), (Wx2, Wh2, b2), stateful, device, *options)


class TimeBiGRU(_TimeBi):
    """`forward_gru` and `backward_gru`, two TimeGRU with weights of the same shapes."""

    kind = TimeGRU

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
        super().__init__((Wx1, Wh1, b1), (Wx2, Wh2, b2), stateful, device, options)
