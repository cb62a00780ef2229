"""cuBLAS on the host's memory, and matrices for it: what products of the cuda column are handed."""

import ctypes
import threading
from types import SimpleNamespace
from unittest import mock

import numpy as np

from rnnfast.cuda import cublas

KINDS = {"p": ctypes.c_void_p, "i": ctypes.c_int, "u": ctypes.c_uint}
C_FUNCTIONS = []  # as long as the process


def c_function(arguments, function):
    """The address of a C function that gives an int, of these KINDS of arguments."""
    C_FUNCTIONS.append(ctypes.CFUNCTYPE(ctypes.c_int, *map(KINDS.get, arguments))(function))
    return ctypes.cast(C_FUNCTIONS[-1], ctypes.c_void_p).value


class Matrix:
    """A NumPy array that says where it is as CuPy's do."""

    def __init__(self, plain):
        self.plain, self.shape, self.strides = plain, plain.shape, plain.strides
        self.dtype, self.size, self.ndim = plain.dtype, plain.size, plain.ndim
        self.itemsize, self.nbytes = plain.itemsize, plain.nbytes
        self.data = SimpleNamespace(ptr=plain.ctypes.data, memset_async=self.fill)

    def fill(self, byte, count):
        self.plain.reshape(-1).view("u1")[:count] = byte

    @property
    def T(self):
        return Matrix(self.plain.T)

    def __getitem__(self, key):
        return Matrix(self.plain[key])

    def __setitem__(self, key, value):
        self.plain[key] = value.plain


class Blas:
    """cublasGemmEx on the host's memory, on columns as it has them, checking what it checks.

    `computed`: how each product is computed; `asked`: (ta, tb, m, n, k, A, lda, B, ldb, C, ldc) of
    each; `moved`: (turned or not, m, n) of each matrix that cublasSgeam copied.
    """

    def __init__(self):
        self.copies, self.computed, self.waited, self.asked, self.moved = 0, [], [], [], []
        self.status, self.streams, self.handles = 0, [], []
        stream = SimpleNamespace(ptr=77, synchronize=lambda: self.waited.append(self.made))
        self.cuda = SimpleNamespace(
            cublas=SimpleNamespace(getVersion=lambda handle: 130100, CUBLASError=self.error),
            device=SimpleNamespace(get_cublas_handle=self.handle),
            get_current_stream=lambda: stream,
        )

    def products(self):
        """Products by this cuBLAS."""
        functions = {
            "cublasGemmEx": c_function("piiiiippiipiippiiii", self.gemm),
            "cublasSgeam": c_function("piiiippippipi", self.sgeam),
            "cublasSetStream_v2": c_function("pp", self.set_stream),
        }

        def function(library, name):
            assert library == "libcublas.so.13"
            return functions[name]

        found = cublas.Products(self)
        with mock.patch.object(cublas, "function", function):
            assert found._blas
        self.handles.clear()
        return found

    def handle(self):
        self.handles.append(threading.get_ident())
        return self.handles[-1]

    def error(self, status):
        return RuntimeError(f"cuBLAS says {status}")

    def set_stream(self, handle, stream):
        self.streams.append((handle, stream))
        return 0

    def ones(self, count, dtype):
        self.made = count
        return Matrix(np.ones(count, dtype))

    def empty(self, shape, dtype):
        return Matrix(np.full(shape, np.nan, dtype))

    ndarray = empty

    def ascontiguousarray(self, x):
        self.copies += 1
        return Matrix(np.ascontiguousarray(x.plain))

    def gemm(
        self, handle, ta, tb, m, n, k, alpha, A, at, lda, B, bt, ldb, beta, C, ct, ldc, how, algo
    ):
        assert (handle, algo) == (threading.get_ident(), -1)
        assert self.streams[-1] == (handle, 77)
        assert at == bt == ct
        dtype = np.dtype(("f4", "f8")[at])
        self.computed.append(how)
        self.asked.append((ta, tb, m, n, k, A, lda, B, ldb, C, ldc))
        assert number(alpha, dtype) == 1
        a = columns(A, *((k, m) if ta else (m, k)), lda, dtype)
        b = columns(B, *((n, k) if tb else (k, n)), ldb, dtype)
        c = columns(C, m, n, ldc, dtype)
        with np.errstate(all="ignore"):  # a GPU warns of nothing
            product = (a.T if ta else a) @ (b.T if tb else b)
            c[...] = product + c if number(beta, dtype) else product  # 0: it may be anything before
        return self.status

    def sgeam(self, handle, ta, tb, m, n, alpha, A, lda, beta, B, ldb, C, ldc):
        """cublasSgeam with a beta of 0: a matrix or its transpose, copied."""
        assert (handle, tb, ldb) == (threading.get_ident(), 0, ldc)
        assert self.streams[-1] == (handle, 77)
        assert (number(alpha, "f4"), number(beta, "f4"), B) == (1, 0, C)
        self.moved.append((ta, m, n))
        a = columns(A, *((n, m) if ta else (m, n)), lda, np.dtype("f4"))
        columns(C, m, n, ldc, np.dtype("f4"))[...] = a.T if ta else a
        return self.status


def number(place, dtype):
    return np.frombuffer(ctypes.string_at(place, np.dtype(dtype).itemsize), dtype)[0]


def columns(place, rows, count, ld, dtype):
    """A matrix as cuBLAS has them."""
    assert ld >= max(1, rows)
    size = (ld * (count - 1) + rows) * dtype.itemsize
    flat = np.frombuffer((ctypes.c_uint8 * size).from_address(place), dtype)
    steps = dtype.itemsize, ld * dtype.itemsize
    return np.lib.stride_tricks.as_strided(flat, (rows, count), steps)
