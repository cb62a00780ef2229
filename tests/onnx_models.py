"""ONNX models made node by node."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
helper, numpy_helper = onnx.helper, onnx.numpy_helper
FLOAT = onnx.TensorProto.FLOAT
N, T, D, H = 3, 4, 5, 6
G = {"RNN": 1, "LSTM": 4, "GRU": 3}


class Model:
    """A graph to be: constants and nodes are added, then it is a ModelProto."""

    def __init__(self, rng, X=("T", "N", D)):
        self.rng, self.nodes, self.constants = rng, [], []
        self.inputs = [helper.make_tensor_value_info("X", FLOAT, X)]

    def constant(self, name, value, dtype="f4"):
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def input(self, name, shape, kind=FLOAT):
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def add(self, op, *inputs, output=None, **attributes):
        output = output or f"{op}_{len(self.nodes)}"
        outputs = [output] if isinstance(output, str) else output
        name = f"the {op}"
        if any(node.name == name for node in self.nodes):
            name += f" {len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, **attributes))
        return output

    def recurrent(self, op="GRU", X="X", name="it", D=D, ways=1, **inputs):
        """A node; inputs are names for B, sequence_lens, initial_h, initial_c."""
        direction = "bidirectional" if ways == 2 else "forward"
        for given, columns in (("W", D), ("R", H)):
            value = self.rng.normal(0, 0.5, (ways, G[op] * H, columns))
            inputs.setdefault(given, self.constant(f"{name}.{given}", value))
        order = ("W", "R", "B", "sequence_lens", "initial_h", "initial_c")
        names = [X, *(inputs.get(given, "") for given in order[: 6 if op == "LSTM" else 5])]
        outputs = [f"{name}.Y", f"{name}.h", f"{name}.c"][: 3 if op == "LSTM" else 2]
        self.nodes.append(
            helper.make_node(op, names, outputs, name=name, hidden_size=H, direction=direction)
        )
        return outputs[0]

    def made(self, output="it.Y", opset=17):
        graph = helper.make_graph(
            self.nodes,
            "graph",
            self.inputs,
            [helper.make_tensor_value_info(output, FLOAT, None)],
            self.constants,
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
        )
