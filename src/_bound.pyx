"""Launches and products, with everything bound that is the same from call to call.

What the CUDA column does again and again: the driver and cuBLAS are called as the C functions that
they are. Nothing is compiled against CUDA: where the functions lie is said by who makes an object,
and arrays are whatever has `data.ptr`.
"""
cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t, int64_t, uint64_t, uintptr_t

from operator import index
from threading import local

cdef enum:
    MOST = 64  # parameters of a kernel

ctypedef unsigned int uint

include "bound/arrays.pxi"
include "bound/launches.pxi"
include "bound/products.pxi"
include "bound/steps.pxi"
