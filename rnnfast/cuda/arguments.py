"""The checks of a call's arguments: a TypeError or a ValueError before anything is written.

They are those of the other columns.
"""

import sys

import numpy as np

from rnnfast.checks import FLOATS, is_numpy


def array(owner, x, dtype, ndim):
    """x, an array of `dtype` (None: float32 or float64) with `ndim` axes; still where it is."""
    found = getattr(x, "dtype", None)
    if not hasattr(x, "shape") or ((found not in FLOATS) if dtype is None else (found != dtype)):
        expected = "float32 or float64" if dtype is None else dtype
        raise TypeError(f"{owner} must be a {expected} array, got {kind_of(x)}")
    if type(x) is not np.ndarray and is_numpy(x) and x.shape != np.asarray(x).shape:
        raise ValueError(f"{owner} must be a plain array, got one of {np.asarray(x).shape}")
    if len(x.shape) != ndim:
        raise ValueError(f"{owner} must have {ndim} axes, got {x.shape}")
    return x


def kind_of(x):
    """What came in the place of an array of the right type, in the words of rnnfast.checks."""
    return f"{x.dtype}" if hasattr(x, "shape") and hasattr(x, "dtype") else type(x).__name__


def names_of(cell):
    """The params that there may be; b, Wp and Wr may be left out at the end."""
    return ("Wx", "Wh", "b", *cell.beside)


def sizes_of(D, H, dtype, peepholes, rounds, projection, units):
    """What params have to have in common with those of forward, in words."""
    if units:
        return f"D = {D}, H = {H}, {dtype} and K = {units}"
    if projection:
        return f"D = {D}, H = {H}, {dtype} and P = {projection}"
    if rounds:
        return f"D = {D}, H = {H}, {dtype}, rounds = {rounds[0]} and rank = {rounds[1]}"
    return f"D = {D}, H = {H}, {dtype} and {peepholes or 'no'} peepholes"


class Arguments:
    """Sizes and dtype of a call, from its checked arguments, which are still where they were.

    cell: a Cell or its class, which says nothing of options. two_biases: b is (2, G*H).
    """

    def __init__(self, cell, params, two_biases):
        self.cell, self.gates, self.states = cell.name, cell.gates, len(cell.states)
        self.two_biases, self.in_heads = two_biases, cell.in_heads
        self.names = names_of(cell)
        self._take(params)

    def _take(self, params):
        cell, gates = self.cell, self.gates
        projected, self.normed = "Wproj" in self.names, "gx" in self.names
        least = 4 if "Wm" in self.names or projected else 2
        least = len(self.names) if self.normed else least
        if not isinstance(params, (tuple, list)) or not least <= len(params) <= len(self.names):
            kind = type(params).__name__
            raise TypeError(f"{cell}: params must be ({', '.join(self.names)}), got {kind}")
        Wx, Wh, b, *beside = (*params, None, None, None)[: max(len(self.names), 4)]
        array(f"{cell}: Wx", Wx, None, 2)
        self.dtype = np.dtype(Wx.dtype)
        array(f"{cell}: Wh", Wh, self.dtype, 2)
        self.D, self.P = Wx.shape[0], Wh.shape[0]  # P: the width of h
        self.H, self.wide = (Wh.shape[1] // gates, "P") if projected else (self.P, "H")
        columns = gates * self.H
        self.K = Wh.shape[1] // gates if self.in_heads else None  # the units of a head
        if self.in_heads:
            if self.H < 1 or self.K < 1 or Wh.shape[1] != gates * self.K or self.H % self.K:
                heads = f"(H, {gates}K) with a K that divides H"
                raise ValueError(f"{cell}: Wh must be {heads}, got {Wh.shape}")
        elif self.P < 1 or self.H < 1 or Wh.shape[1] != columns:
            raise ValueError(f"{cell}: Wh must be ({self.wide}, {gates}H), got {Wh.shape}")
        if self.D < 1 or Wx.shape[1] != columns:
            expected = f"(D, {gates}H) = (D, {columns})"
            raise ValueError(f"{cell}: Wx must be {expected}, got {Wx.shape}")
        self.bias_shape = (2, columns) if self.two_biases else (columns,)
        if b is not None:
            array(f"{cell}: b", b, self.dtype, len(self.bias_shape))
            if b.shape != self.bias_shape:
                expected = f"(2, {gates}H)" if self.two_biases else f"({gates}H,)"
                raise ValueError(f"{cell}: b must be {expected} = {self.bias_shape}, got {b.shape}")
        self.peepholes = self.rounds = None  # "diagonal" or "full"; (r, k), k None without a rank
        self.projection = self.P if projected else None
        if self.normed:
            self._take_norms(beside)
        elif projected:
            self._take_projection(*beside)
        elif least == 4:
            self._take_rounds(*beside)
        elif beside[0] is not None:
            (Wp,) = beside
            axes = 3 if len(getattr(Wp, "shape", ())) == 3 else 2
            array(f"{cell}: Wp", Wp, self.dtype, axes)
            if Wp.shape != (3, *[self.H] * (axes - 1)):
                raise ValueError(
                    f"{cell}: Wp must be (3, H) or (3, H, H) with H = {self.H}, got {Wp.shape}"
                )
            self.peepholes = "diagonal" if axes == 2 else "full"
        self.biased = b is not None

    def _take_projection(self, Wproj):
        array(f"{self.cell}: Wproj", Wproj, self.dtype, 2)
        if Wproj.shape != (self.H, self.P):
            expected = f"(H, P) = ({self.H}, {self.P})"
            raise ValueError(f"{self.cell}: Wproj must be {expected}, got {Wproj.shape}")

    def _take_rounds(self, Wm, Wr):
        cell, H, D = self.cell, self.H, self.D
        array(f"{cell}: Wm", Wm, self.dtype, 3)
        r, height, k = Wm.shape
        if r < 1 or height != H or k < 1 or (Wr is None and k != D):
            expected = f"(r, H, k) with H = {H}"
            if Wr is None:
                expected = f"(r, H, D) with H = {H} and D = {D}"
            raise ValueError(f"{cell}: Wm must be {expected}, got {Wm.shape}")
        self.rounds = r, None if Wr is None else k
        if Wr is not None:
            array(f"{cell}: Wr", Wr, self.dtype, 3)
            if Wr.shape != (r, k, D):
                raise ValueError(f"{cell}: Wr must be (r, k, D) = {(r, k, D)}, got {Wr.shape}")

    def _take_norms(self, beside):
        for name, norm in zip(self.names[3:], beside, strict=True):
            array(f"{self.cell}: {name}", norm, self.dtype, 1)
            gates, label = (self.gates, f"{self.gates}H") if name in ("gx", "gh") else (1, "H")
            shape = (gates * self.H,)
            if norm.shape != shape:
                expected = f"({label},) = {shape}"
                raise ValueError(f"{self.cell}: {name} must be {expected}, got {norm.shape}")

    def sequence(self, name, x, width):
        """x (N, T, width) as it has to be; N and T, on the way."""
        array(f"{self.cell}: {name}", x, self.dtype, 3)
        N, T, last = x.shape
        if last != width:
            expected = f"(N, T, {self.wide if name == 'dhs' else 'D'}) = (N, T, {width})"
            raise ValueError(f"{self.cell}: {name} must be {expected}, got {x.shape}")
        rounds = self.rounds[0] if self.rounds else 0
        if sys.maxsize // 2 < N * (T + 1) * (self.D + self.P + 8 * self.H) * (2 * rounds + 1) * 8:
            raise ValueError(
                f"{self.cell}: (N, T, D, H) = ({N}, {T}, {self.D}, {self.H}) needs more memory "
                "than can be addressed"
            )
        self.N, self.T = N, T
        return x

    def check_state(self, name, names, state):
        if state is None:
            return
        if not isinstance(state, (tuple, list)) or len(state) != len(names):
            kind = type(state).__name__
            raise TypeError(
                f"{self.cell}: {name} must be None or a tuple of {len(names)} arrays, got {kind}"
            )
        for part, x in zip(names, state, strict=False):
            if x is not None:
                array(f"{self.cell}: {part}", x, self.dtype, 2)
                letter, width = ("H", self.H) if part[-1] in "cnm" else (self.wide, self.P)
                if x.shape != (self.N, width):
                    expected = f"(N, {letter}) = ({self.N}, {width})"
                    raise ValueError(f"{self.cell}: {part} must be {expected}, got {x.shape}")

    def check_of_steps(self, of_steps):
        of_h, of_c = (self.wide, self.P), ("H", self.H)
        named = {"candidate_mask": of_c, "h_zoneout": of_h, "c_zoneout": of_c}
        for (name, (letter, width)), x in zip(named.items(), of_steps, strict=False):
            if x is not None:
                array(f"{self.cell}: {name}", x, self.dtype, 3)
                if x.shape != (self.N, self.T, width):
                    expected = f"(N, T, {letter}) = {(self.N, self.T, width)}"
                    raise ValueError(f"{self.cell}: {name} must be {expected}, got {x.shape}")

    def check_lengths(self, lengths):
        if lengths is None:
            return
        if not is_numpy(lengths) or lengths.dtype != np.intp:
            kind = kind_of(lengths)
            raise TypeError(f"{self.cell}: lengths must be an intp array, got {kind}")
        lengths = np.asarray(lengths)
        if lengths.shape != (self.N,):
            expected = f"(N,) = ({self.N},)"
            raise ValueError(f"{self.cell}: lengths must be {expected}, got {lengths.shape}")
        if self.N and (lengths.min() < 0 or lengths.max() > self.T):
            wrong = lengths[(lengths < 0) | (lengths > self.T)][0]
            expected = f"[0, T] = [0, {self.T}]"
            raise ValueError(f"{self.cell}: lengths must be in {expected}, got {wrong}")

    def check_grads(self, grads, params):
        cell = self.cell
        if not isinstance(grads, (tuple, list)):
            names = ", ".join(f"d{name}" for name in self.names)
            raise TypeError(f"{cell}: grads must be ({names}), got {type(grads).__name__}")
        params = (*params, *(None,) * len(self.names))[: len(self.names)]
        wanted = [i for i, p in enumerate(params) if p is not None]
        if not wanted[-1] < len(grads) <= len(self.names):
            raise ValueError(f"{cell}: grads must be one for each parameter, got {len(grads)}")
        for i, (g, p) in enumerate(zip(grads, params, strict=False)):
            if p is None:
                if g is not None:
                    raise ValueError(f"{cell}: grads[{i}] must be None, as {self.names[i]} is")
                continue
            array(f"{cell}: grads[{i}]", g, self.dtype, len(getattr(g, "shape", ())))
            if g.shape != p.shape:
                raise ValueError(f"{cell}: grads[{i}] must have shape {p.shape}, got {g.shape}")
            if is_numpy(g) and not g.flags.writeable:
                raise ValueError(f"{cell}: grads[{i}] must be writeable, got read-only")
