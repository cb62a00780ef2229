"""Products of two matrices by cuBLAS, asked directly.

cupy.matmul takes several times as long before it gets there, and computes in TF32 where a setting
of all threads says so; here each call says it for itself.
"""

from functools import cached_property
from threading import Lock

import numpy as np

from rnnfast.cuda._bound import Blas, Product
from rnnfast.cuda.launch import function

NO, YES = 0, 1  # CUBLAS_OP_N, CUBLAS_OP_T
REAL_32F, REAL_64F = 0, 1  # CUDA_R_32F, CUDA_R_64F
COMPUTE_32F, COMPUTE_TF32, COMPUTE_64F = 68, 77, 70  # cublasComputeType_t


class Products:
    """Products of matrices of one dtype, float32 or float64, on CuPy's current stream.

    A sequence (N, T, K) is a matrix of N*T rows. low: in TF32.
    """

    def __init__(self, cupy):
        self._cupy, self._filled, self._room = cupy, {}, Lock()
        self._one_and_zero = np.array([1, 0], "f4"), np.array([1, 0], "f8")
        single, double = map(places, self._one_and_zero)
        self._scalars = {  # where 1 and 0 are, and how operands and sums are called
            (np.dtype("f4"), False): (*single, REAL_32F, COMPUTE_32F),
            (np.dtype("f4"), True): (*single, REAL_32F, COMPUTE_TF32),
            (np.dtype("f8"), False): (*double, REAL_64F, COMPUTE_64F),
            (np.dtype("f8"), True): (*double, REAL_64F, COMPUTE_64F),
        }

    @cached_property
    def _blas(self):
        cuda = self._cupy.cuda
        handle = cuda.device.get_cublas_handle  # of a thread
        library = f"libcublas.so.{cuda.cublas.getVersion(handle()) // 10000}"
        functions = [function(library, f"cublas{name}") for name in ("GemmEx", "SetStream_v2")]
        return Blas(*functions, handle, cuda.get_current_stream, cuda.cublas.CUBLASError)

    def __call__(self, a, b, out, low):
        """a b into out (None: a new array), which is returned."""
        if out is None:
            out = self._cupy.empty((*a.shape[:-1], b.shape[1]), a.dtype)
        if not out.size:
            return out
        size = out.itemsize
        of_out = layout(out, size)
        if of_out is None or (of_out[2] == YES and out.ndim == 3):
            out[...] = self(a, b, None, low)
            return out
        if of_out[2] == YES:  # cuBLAS writes columns: that is out's transpose
            self(b.T, a.T, out.T, low)
            return out
        a, b = self._readable(a, size), self._readable(b, size)
        return self.bind(a, b, out, low)(a, b, out)

    def bind(self, a, b, out, low, over_rows=False, turned=False, columns=None, add=False):
        """multiply(a, b, out) for arrays that lie as these, which cuBLAS can read and write.

        over_rows: a^T b. turned: a b^T. columns: of b and out these alone, a slice. add: to out.
        """
        size, starts = out.itemsize, (0, 0, 0)
        if columns is not None:
            b, out, start = b[..., columns], out[..., columns], columns.start * size
            starts = start, 0, start
        (rows, K, way_a, step_a), of_b, of_out = (layout(x, size) for x in (a, b, out))
        (_, _, way_b, step_b), (M, N, _, step) = of_b, of_out
        if over_rows:
            K, way_a = rows, other(way_a)
        if turned:
            way_b = other(way_b)
        # Rows of ours are columns to cuBLAS, which so makes out^T = b^T a^T
        ways, steps = (way_b, way_a), (step_b, step_a, step)
        scalars = self._scalars[out.dtype, low]
        if add:
            one, _, *kinds = scalars
            scalars = one, one, *kinds
        return Product(self._blas, ways, (N, M, K), steps, scalars, starts)

    def bind_sum(self, x, out):
        """(product, left), where product(left, x, out) is the sum of all rows of x into out.

        For arrays that lie as these; never in TF32.
        """
        rows, columns, way, step = layout(x, x.itemsize)
        ones = self.filled(1, rows, x.dtype).data.ptr
        shape, steps = (columns, 1, rows), (step, rows, columns)
        scalars = self._scalars[x.dtype, False]
        return Product(self._blas, (way, NO), shape, steps, scalars, (0, 0, 0)), ones

    def _readable(self, x, size):
        """x, or a copy where cuBLAS cannot read it as it lies."""
        return x if layout(x, size) is not None else self._cupy.ascontiguousarray(x)

    def filled(self, value, count, dtype):
        """At least so many zeros or ones, which nobody may write: the same for all who ask.

        Those that were are kept: another stream may be reading them.
        """
        made = self._filled.setdefault((value, dtype), [])
        if not made or made[-1].size < count:
            with self._room:
                if not made or made[-1].size < count:
                    make = self._cupy.ones if value else self._cupy.zeros
                    made.append(make(1 << (count - 1).bit_length(), dtype))
                    self._cupy.cuda.get_current_stream().synchronize()
        return made[-1]


def other(way):
    return NO if way == YES else YES


def places(one_and_zero):
    """The addresses of both."""
    first = one_and_zero.ctypes.data
    return first, first + one_and_zero.itemsize


def layout(x, size):
    """(rows, columns, NO, elements from row to row) of a matrix whose elements are `size` bytes.

    (..., YES, from column to column) where columns are contiguous, None where neither rows nor
    columns are. Of a single row or column the other stride says nothing.
    """
    shape, strides = x.shape, x.strides
    if len(shape) == 3:
        (N, T, columns), (outer, down, along) = shape, strides
        if N > 1 and T > 1 and outer != T * down:
            return None
        rows, down = N * T, down if T > 1 else outer
    else:
        (rows, columns), (down, along) = shape, strides
    if columns == 1 or along == size:
        if rows == 1:
            return rows, columns, NO, columns
        if down >= columns * size and down % size == 0:
            return rows, columns, NO, down // size
    if rows == 1 or down == size:
        if columns == 1:
            return rows, columns, YES, rows
        if along >= rows * size and along % size == 0:
            return rows, columns, YES, along // size
    return None
