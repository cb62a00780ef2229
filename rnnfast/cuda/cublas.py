"""Products of two matrices by cuBLAS, asked directly.

cupy.matmul takes several times as long before it gets there, and computes in TF32 where a setting
of all threads says so; here each call says it for itself.
"""

from threading import Lock

import numpy as np

NO, YES = 0, 1  # CUBLAS_OP_N, CUBLAS_OP_T
ALGORITHM = -1  # CUBLAS_GEMM_DEFAULT
REAL_32F, REAL_64F = 0, 1  # CUDA_R_32F, CUDA_R_64F
COMPUTE_32F, COMPUTE_TF32, COMPUTE_64F = 68, 77, 70  # cublasComputeType_t


class Products:
    """Products of matrices of one dtype, float32 or float64, on CuPy's current stream.

    A sequence (N, T, K) is a matrix of N*T rows. low: in TF32.
    """

    def __init__(self, cupy):
        self._cupy, self._gemm = cupy, cupy.cuda.cublas.gemmEx
        self._handle = cupy.cuda.device.get_cublas_handle  # of this thread
        self._one_and_zero = np.array([1, 0], "f4"), np.array([1, 0], "f8")
        single, double = map(places, self._one_and_zero)
        self._scalars = {  # where 1 and 0 are, and how operands and sums are called
            (np.dtype("f4"), False): (*single, REAL_32F, COMPUTE_32F),
            (np.dtype("f4"), True): (*single, REAL_32F, COMPUTE_TF32),
            (np.dtype("f8"), False): (*double, REAL_64F, COMPUTE_64F),
            (np.dtype("f8"), True): (*double, REAL_64F, COMPUTE_64F),
        }
        self._ones, self._room = {}, Lock()

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

    def over_rows(self, a, b, out, low):
        """a^T b into out: the sum over all rows of a and b of their products."""
        size = out.itemsize
        of_out = layout(out, size)
        if of_out is None or of_out[2] == YES:
            out[...] = self.over_rows(a, b, self._cupy.empty(out.shape, out.dtype), low)
            return out
        a, b = self._readable(a, size), self._readable(b, size)
        return self.bind(a, b, out, low, over_rows=True)(a, b, out)

    def bind(self, a, b, out, low, over_rows=False):
        """multiply(a, b, out) for arrays that lie as these, which cuBLAS can read and write."""
        size, gemm, handle = out.itemsize, self._gemm, self._handle
        one, zero, kind, compute = self._scalars[out.dtype, low]
        (rows, K, way_a, step_a), (_, _, way_b, step_b) = layout(a, size), layout(b, size)
        M, N, _, step = layout(out, size)
        if over_rows:
            K, way_a = rows, NO if way_a == YES else YES

        def multiply(a, b, out):
            # Rows of ours are columns to cuBLAS, which so makes out^T = b^T a^T
            gemm(
                handle(),
                way_b,
                way_a,
                N,
                M,
                K,
                one,
                b.data.ptr,
                kind,
                step_b,
                a.data.ptr,
                kind,
                step_a,
                zero,
                out.data.ptr,
                kind,
                step,
                compute,
                ALGORITHM,
            )
            return out

        return multiply

    def sum_of_rows(self, x, out):
        """The sum of all rows of x, in its own precision, into a contiguous out."""
        size = x.itemsize
        x = self._readable(x, size)
        rows, columns, way, step = layout(x, size)
        one, zero, kind, compute = self._scalars[x.dtype, False]
        self._gemm(
            *(self._handle(), way, NO, columns, 1, rows, one, x.data.ptr, kind, step),
            *(self._some_ones(rows, x.dtype), kind, rows),
            *(zero, out.data.ptr, kind, columns, compute, ALGORITHM),
        )
        return out

    def _readable(self, x, size):
        """x, or a copy where cuBLAS cannot read it as it lies."""
        return x if layout(x, size) is not None else self._cupy.ascontiguousarray(x)

    def _some_ones(self, count, dtype):
        """Where so many ones are. Those that were are kept: another stream may be reading them."""
        made = self._ones.setdefault(dtype, [])
        if not made or made[-1].size < count:
            with self._room:
                if not made or made[-1].size < count:
                    ones = self._cupy.ones(1 << (count - 1).bit_length(), dtype)
                    self._cupy.cuda.get_current_stream().synchronize()
                    made.append(ones)
        return made[-1].data.ptr


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
