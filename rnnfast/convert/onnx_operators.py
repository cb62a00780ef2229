"""All ONNX operators that can be evaluated without running the model.

`OPERATORS` maps op_type to its operator, and to the attributes that it reads or that change no
value.
"""

from rnnfast.convert.onnx_axes import MOVING
from rnnfast.convert.onnx_call import Call
from rnnfast.convert.onnx_folding import FOLDING

__all__ = ["OPERATORS", "Call"]

OPERATORS = MOVING | FOLDING
