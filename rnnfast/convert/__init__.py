"""Weights in and out: PyTorch's, Keras' and ONNX's recurrent layers.

    layer = convert.from_torch(module_or_state_dict)    state_dict = convert.to_torch(layer)
    layer = convert.from_keras(keras_layer.get_weights())    weights = convert.to_keras(layer)
    layer = convert.from_onnx("model.onnx")    convert.to_onnx(layer, "model.onnx")

A layer is a TimeRNN, TimeLSTM or TimeGRU, a TimeBi* of two directions, a TimeReverse or a
TimeStack. Neither PyTorch nor Keras is imported; ONNX needs the extra `onnx`.

Weights are float32 or float64, all of them alike, and are copied, never shared; the device of a
layer is `device`, by default as for any layer with NumPy weights. Shapes and dtypes are checked:
TypeError (kind, dtype) or ValueError (shape, value), naming the weight. What the other side
cannot express, or we cannot, is a ValueError that names it.
"""

from rnnfast.convert.keras import from_keras, to_keras
from rnnfast.convert.onnx import from_onnx, to_onnx
from rnnfast.convert.torch import from_torch, to_torch

__all__ = ["from_keras", "from_onnx", "from_torch", "to_keras", "to_onnx", "to_torch"]
