"""Products of two matrices by cuBLAS, asked directly.

cupy.matmul takes several times as long before it gets there, and computes in TF32 where a setting
of all threads says so; here each call says it for itself.
"""

from functools import cached_property
from threading import Lock

import numpy as np

from rnnfast.cuda._bound import Blas, Product
from rnnfast.cuda.aligned import LEAST, Aligned, copies
from rnnfast.cuda.launch import function

NO, YES = 0, 1  # CUBLAS_OP_N, CUBLAS_OP_T
REAL_32F, REAL_64F = 0, 1  # CUDA_R_32F, CUDA_R_64F
COMPUTE_32F, COMPUTE_TF32, COMPUTE_64F = 68, 77, 70  # cublasComputeType_t
ONE_AND_ZERO = np.array([1, 0], "f4"), np.array([1, 0], "f8")  # products keep their addresses


class Products:
    """Products of matrices of one dtype, float32 or float64, on CuPy's current stream.

    A sequence (N, T, K) is a matrix of N*T rows. low: in TF32.
    """

    def __init__(self, cupy):
        self._cupy, self._filled, self._room = cupy, {}, Lock()
        single, double = map(places, ONE_AND_ZERO)
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
        names = ("GemmEx", "Sgeam", "SetStream_v2")
        functions = [function(library, f"cublas{name}") for name in names]
        return Blas(*functions, handle, cuda.get_current_stream, cuda.cublas.CUBLASError)

    def __call__(self, a, b, out, low, of_a=None, of_b=None):
        """a b into out (None: a new array), which is returned. of_a, of_b: see aligned.Aligned."""
        if out is None:
            out = self._cupy.empty((*a.shape[:-1], b.shape[1]), a.dtype)
        if not out.size:
            return out
        size = out.itemsize
        of_out = layout(out, size)
        if of_out is None or (of_out[2] == YES and out.ndim == 3):
            out[...] = self(a, b, None, low, of_a, of_b)
            return out
        if of_out[2] == YES:  # cuBLAS writes columns: that is out's transpose
            self(b.T, a.T, out.T, low, of_b, of_a)
            return out
        a, b = self._readable(a, size), self._readable(b, size)
        product = self.fastest(a, b, out, low)
        if type(product) is Aligned:
            return product(a, b, out, of_a, of_b)
        return product(a, b, out)

    def bind(self, a, b, out, low, over_rows=False, turned=False, columns=None, add=False):
        """multiply(a, b, out) for arrays that lie as these, which cuBLAS can read and write.

        over_rows: a^T b. turned: a b^T. columns: of b and out these alone, a slice. add: to out.
        """
        (M, N, K), (way_a, way_b), (step_a, step_b, step), starts = lie(
            a, b, out, over_rows, turned, columns
        )
        # Rows of ours are columns to cuBLAS, which so makes out^T = b^T a^T
        ways, steps = (way_b, way_a), (step_b, step_a, step)
        scalars = self._scalars[out.dtype, low]
        if add:
            one, _, *kinds = scalars
            scalars = one, one, *kinds
        return Product(self._blas, ways, (N, M, K), steps, scalars, starts)

    def fastest(self, a, b, out, low, over_rows=False, turned=False, columns=None):
        """The same, or in TF32 an Aligned where copies pay."""
        how, N = (over_rows, turned, columns), out.shape[-1]
        if columns is not None:
            N = columns.stop - columns.start
        if low and out.itemsize == 4 and a.size * N >= LEAST:
            found = self._aligned(*lie(a, b, out, *how), self._scalars[out.dtype, low])
            if found is not None:
                return found
        return self.bind(a, b, out, low, *how)

    def _aligned(self, sizes, ways, steps, starts, scalars):
        """The Aligned of matrices that lie so, or None where no copy pays."""
        starts = starts[1], starts[0], starts[2]
        lies = tuple(zip((*ways, NO), steps, starts, strict=True))
        found = copies(sizes, *lies)
        if found is None:
            return None
        sizes, made = found
        a, b, out = (
            of if copy is None else copy.lies(*of) for of, copy in zip(lies, made, strict=True)
        )
        if out[0] == YES:  # the copy of out is out^T = b^T a^T, b^T its first factor
            (M, N, K), (a, b) = sizes, ((other(way), *more) for way, *more in (b, a))
            sizes = N, M, K
        M, N, K = sizes
        ways, steps, firsts = zip(b, a, out, strict=True)
        product = Product(self._blas, ways[:2], (N, M, K), steps, scalars, firsts)
        return Aligned(product, made, starts, self._cupy.ndarray, self._blas.move)

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


def lie(a, b, out, over_rows, turned, columns):
    """Sizes (M, N, K), ways of a and b, steps of all; bytes from where b, a and out begin."""
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
    return (M, N, K), (way_a, way_b), (step_a, step_b, step), starts


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
