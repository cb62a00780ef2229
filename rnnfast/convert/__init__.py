"""Conversion of weights: recurrent layers of PyTorch, Keras, ONNX and xLSTM, both directions.

    layer = convert.from_torch(module_or_state_dict)    state_dict = convert.to_torch(layer)
    layer = convert.from_keras(keras_layer.get_weights())    weights = convert.to_keras(layer)
    layer = convert.from_onnx("model.onnx")    convert.to_onnx(layer, "model.onnx")
    layer = convert.from_xlstm(cell, Wx=Wx)    state_dict, Wx = convert.to_xlstm(layer)
    layer = convert.from_flashrnn(R, b, Wx=Wx)    R, b, Wx = convert.to_flashrnn(layer)

A layer of the last two is a TimeSLSTM. In the others it is a TimeRNN, TimeLSTM, TimeGRU or, of
PyTorch's projections, TimeLSTMP, a TimeBi* of two directions, a TimeReverse or a TimeStack. Neither
PyTorch nor Keras is imported; ONNX needs the extra `onnx`.

All weights are float32, or all are float64. They are copied, never shared. The device of a layer is
`device`, by default as for any layer with NumPy weights. Shapes and dtypes are checked: TypeError
for a type or a dtype, ValueError for a shape or a value, with the name of the weight. A ValueError
names what the other side, or rnnfast, cannot express.
"""

from rnnfast.convert.keras import from_keras, to_keras
from rnnfast.convert.onnx import from_onnx, to_onnx
from rnnfast.convert.torch import from_torch, to_torch
from rnnfast.convert.xlstm import from_flashrnn, from_xlstm, to_flashrnn, to_xlstm

__all__ = [
    "from_flashrnn",
    "from_keras",
    "from_onnx",
    "from_torch",
    "from_xlstm",
    "to_flashrnn",
    "to_keras",
    "to_onnx",
    "to_torch",
    "to_xlstm",
]
