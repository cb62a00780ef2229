"""A recurrent node of an ONNX model: weights, options and initial states."""

import reprlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rnnfast import checks
from rnnfast.convert.common import ONNX, floats, make, one_bias
from rnnfast.convert.onnx_attributes import Attributes, title
from rnnfast.convert.onnx_file import Known
from rnnfast.convert.onnx_graph import Graph
from rnnfast.convert.onnx_tensors import Atom, Constant, Running, Size, Unknown
from rnnfast.kernels import move

KINDS = {"RNN": "rnn", "LSTM": "lstm", "GRU": "gru"}
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
STATES = ("initial_h", "initial_c")
WAYS = {"forward": 1, "reverse": 1, "bidirectional": 2}
ACTIVATIONS = {"rnn": ("tanh",), "lstm": ("sigmoid", "tanh", "tanh"), "gru": ("sigmoid", "tanh")}


class Node:
    """An RNN, LSTM or GRU node: weights, options and initial states."""

    def __init__(self, onnx: Any, proto: Any, graph: Graph, known: Known) -> None:
        self.kind = KINDS[proto.op_type]
        self.proto, self.graph, self._known = proto, graph, known
        self.attributes = Attributes(onnx, proto)
        self.owner = self.attributes.owner
        allowed = INPUTS if self.kind == "lstm" else INPUTS[: INPUTS.index("initial_c")]
        if len(proto.input) > len(allowed):
            raise ValueError(
                f"{self.owner}: inputs must be at most {len(allowed)}, got {len(proto.input)}"
            )
        self.names = {
            given: name for given, name in zip(allowed, proto.input, strict=False) if name
        }
        weights: dict[str, Any] = {
            given: self._weight(given, n) for given, n in zip("WRBP", (3, 3, 2, 2), strict=True)
        }
        for given in "WR":
            if weights[given] is None:
                raise ValueError(f"{self.owner}: {given} is missing")
        W, R, B, P = weights.values()
        G, D, H = len(ONNX[self.kind]), W.shape[2], R.shape[2]
        self.direction, self.options, self.layout = self._options(H)
        self.ways = WAYS[self.direction]
        for given, value, shape, label in (
            ("W", W, (self.ways, G * H, D), f"(directions, {G}*H, D)"),
            ("R", R, (self.ways, G * H, H), f"(directions, {G}*H, H)"),
            ("B", B, (self.ways, 2 * G * H), f"(directions, 2*{G}*H)"),
            ("P", P, (self.ways, 3 * H), "(directions, 3*H)"),
        ):
            if value is not None:
                checks.exactly(self.owner, given, value, R.dtype, shape, label)
        self.H, self._weights = H, weights

    def _weight(self, given: str, ndim: int) -> NDArray[Any] | None:
        """The array of an input; None if the node does not have the input."""
        name = self.names.get(given)
        if name is None:
            return None
        known = self._known
        value: Any
        if name in known.given:
            value = known.given[name]
        else:
            value = self.graph.constant(name)
            if name in known.errors:
                raise ValueError(f"{self.owner}: {given} cannot be read ({known.errors[name]})")
        if value is None:
            sparse = ", which is sparse" if name in known.sparse else self._maker(name)
            raise ValueError(
                f"{self.owner}: {given} must be a constant of the model or in weights, "
                f"got {name!r}{sparse}"
            )
        array = floats(self.owner, given, value)
        if array.ndim != ndim or 0 in array.shape:
            expected = f"of {ndim} dimensions, sizes from 1 up"
            raise checks.shape_error(self.owner, given, expected, array)
        return array

    def _maker(self, name: str) -> str:
        """The producer of a tensor, for a message."""
        producer = self.graph.producers.get(name)
        return "" if producer is None else f", what {title(producer)} makes"

    def _options(self, H: int) -> tuple[str, dict[str, Any], int]:
        """The direction, the keyword arguments of the layer, and the layout."""
        read, rest, kind = self.attributes, set(self.attributes.names), self.kind
        options: dict[str, Any] = {}
        direction = self._one_of("direction", read.string("direction", "forward"), *WAYS)
        self._one_of("hidden_size", read.int("hidden_size", H), H)
        layout = self._one_of("layout", read.int("layout", 0), 0, 1)
        read.int("output_sequence", 0)  # before opset 7: whether Y is wanted
        rest -= {"direction", "hidden_size", "layout", "output_sequence", "activations"}
        if kind == "lstm":
            self._one_of("input_forget", read.int("input_forget", 0), 0)
            rest.discard("input_forget")
        if kind == "gru":
            after = self._one_of("linear_before_reset", read.int("linear_before_reset", 0), 0, 1)
            options = {"reset_after": bool(after), "z_keeps": True}
            rest.discard("linear_before_reset")
        usual = ACTIVATIONS[kind] * WAYS[direction]
        names = tuple(name.lower() for name in read.strings("activations", ())) or usual
        if kind == "rnn":
            self._one_of("activations", names, usual, ("relu",) * len(usual))
            options = {"nonlinearity": names[0]}
        else:
            self._one_of("activations", names, usual)
        for name in sorted(rest):
            raise ValueError(f"{self.owner}: {name} cannot be expressed, got {read.shown(name)}")
        return direction, options, layout

    def _one_of(self, name: str, value: Any, *expected: Any) -> Any:
        """value; ValueError unless it is one of those expected."""
        if value not in expected:
            wanted = " or ".join(map(repr, expected))
            raise ValueError(f"{self.owner}: {name} must be {wanted}, got {reprlib.repr(value)}")
        return value

    def layer(self, stateful: bool, device: str | None) -> Any:
        """Make the layer, of one or of both directions."""
        W, R, B, P = self._weights.values()
        directions: list[tuple[Any, Any, Any, Any]] = []
        for k in range(self.ways):
            b = None
            if B is not None:
                b_x, b_h = np.split(B[k], 2)
                b = one_bias(b_x, b_h, self.options.get("reset_after", False))
            directions.append((W[k].T, R[k].T, b, None if P is None else P[k]))
        return make(self.kind, ONNX, directions, stateful=stateful, device=device, **self.options)

    def reads_all(self, lengths: Constant) -> bool:
        """Whether constant sequence_lens all equal the number of steps of X."""
        x = self.graph.tensor(self.names.get("X", ""))
        try:
            T = x.shape[1 if self.layout else 0]
        except (Unknown, AttributeError, IndexError):
            return False
        return lengths.data.dtype.kind in "iuO" and all(n == T for n in set(lengths.data.flat))

    # Initial states

    def starts(self) -> list[Any]:
        """For h, and c: None (zeros), a Constant, or the rows of inputs that give the state."""
        names = STATES if self.kind == "lstm" else STATES[:1]
        return [self._start(given) if given in self.names else None for given in names]

    def _start(self, given: str) -> Any:
        """One of `starts`."""
        name = self.names[given]
        found: Any
        if name in self._known.given:
            value = floats(self.owner, given, self._known.given[name])
            found = Constant(value, value.shape)
        else:
            found = self.graph.tensor(name)
            if name in self._known.errors:
                reason = self._known.errors[name]
                raise ValueError(f"{self.owner}: {given} cannot be read ({reason})")
        if not isinstance(found, Constant):
            rows = self._rows(name)
            if rows is None or len(rows) != self.ways:
                raise ValueError(
                    f"{self.owner}: {given} must be a constant, or an input of the model or rows "
                    f"of one, got {name!r}{self._maker(name)}; give it in weights, as zeros where "
                    "that is what the layer is to start from"
                )
            return rows
        data = floats(self.owner, given, found.data)
        if not data.any():
            return None
        shape = found.shape
        if self.layout and len(shape) == 3:
            data, shape = data.swapaxes(0, 1), (shape[1], shape[0], shape[2])
        if len(shape) != 3 or shape[::2] != (self.ways, self.H):
            label = f"(directions, N, H) = ({self.ways}, N, {self.H})"
            raise ValueError(f"{self.owner}: {given} must be {label}, got {shape}")
        return Constant(data, shape)

    def _rows(self, name: str) -> list[Any] | None:
        """(input, axis, index) of each direction's state; None if it is no input of the model.

        The axes are (directions, N, H) or, of a single direction's state, (N, H).
        """
        producer = self.graph.producers.get(name)
        if producer is not None and producer.op_type == "Concat" and not self.layout:
            if Attributes(self.graph.onnx, producer).int("axis", None) != 0:
                return None
            parts = [self._rows_of(part) for part in producer.input]
            if any(part is None for part in parts):
                return None
            return [row for part in parts for row in part or ()]
        return self._rows_of(name)

    def _rows_of(self, name: str) -> list[Any] | None:
        """_rows of one input of Concat."""
        found = self.graph.tensor(name)
        if not isinstance(found, Running) or found.origin not in self.graph.inputs:
            return None
        if found.axes is None:  # a whole input of unknown shape
            return [(name, 0, k) for k in range(self.ways)] if found.origin == name else None
        axes, whole = found.axes, self.graph.tensor(found.origin).axes
        if self.layout and len(axes) == 3:
            axes = axes[1], axes[0], axes[2]
        if len(axes) != 3 or len(axes[0] + found.picked) > 1:
            return None
        for axis in axes[1:]:
            if len(axis) != 1 or axis != whole[axis[0].name]:
                return None
        (atom,) = axes[0] + found.picked or (Atom(None, 1),)
        H = axes[2][0]
        if H.name != len(whole) - 1 or (H.size != self.H and not isinstance(H.size, Size)):
            return None
        count = self.ways if isinstance(atom.size, Size) else atom.size
        return [(found.origin, atom.name, atom.start + k) for k in range(min(count, 3))]

    def set_start(self, layer: Any, starts: list[Any], batch_size: int | None) -> None:
        """Set the constant initial states of the model, unless they are zeros."""
        parts = getattr(layer, "parts", [layer])
        states: list[list[Any]] = []
        for given, start in zip(STATES, starts, strict=False):
            if start is None:
                states.append([None] * len(parts))
                continue
            if not layer.stateful:
                name = self.names[given]
                if isinstance(start, Constant):
                    what = "is a constant other than zeros"
                    can = "start there"
                else:
                    what = f"is an input of the model, {name!r}"
                    can = f"be given one, by set_state (weights={{{name!r}: zeros}} starts there)"
                raise ValueError(
                    f"{self.owner}: {given} {what}; only a layer with stateful=True can {can}"
                )
            if isinstance(start, list):
                states.append([None] * len(parts))
                continue
            rows = self._of_batch(given, start, batch_size)
            states.append([move(np.array(one), parts[0].device) for one in rows])
        layer.set_state(*(state for part in zip(*states, strict=True) for state in part))

    def _of_batch(self, given: str, start: Constant, batch_size: int | None) -> NDArray[Any]:
        """The state (directions, N, H) for the samples of a batch."""
        N = start.shape[1]
        if batch_size is not None and start.data.shape[1] in (1, batch_size):
            N = batch_size
        elif isinstance(N, Size):
            raise ValueError(
                f"{self.owner}: {given} is a constant for any number of samples; batch_size must "
                "say how many the layer is to start with"
            )
        elif batch_size is not None:
            raise ValueError(
                f"{self.owner}: batch_size must be {N}, of which {given} is, got {batch_size}"
            )
        elif start.data.shape[1] != N and N * self.H * self.ways > 2**22:
            raise ValueError(f"{self.owner}: {given} is of {N} samples, too many to keep")
        return np.broadcast_to(start.data, (self.ways, N, self.H))
