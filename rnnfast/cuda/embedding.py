"""Rows of a table by ids, and their gradients."""

import sys
from functools import cache

import numpy as np

from rnnfast.cuda import what_runs
from rnnfast.cuda.arguments import array
from rnnfast.cuda.op_arguments import blocks_of, give, target, whole_numbers, writable, write
from rnnfast.cuda.signatures import signature_of
from rnnfast.cuda.steps import THREADS


@cache
def gather(gpu, letter):
    cuda, nan = gpu.cuda, np.dtype(letter).type(np.nan)

    def embedding_gather_kernel(W, ids, out, M, V, D):
        for e in range(
            cuda.blockIdx.x * THREADS + cuda.threadIdx.x, M * D, cuda.gridDim.x * THREADS
        ):
            m = e // D
            row = ids[m]
            if row >= 0 and row < V:
                out[e] = W[row * D + e - m * D]
            else:
                out[e] = nan

    signature = signature_of(embedding_gather_kernel, letter)
    return gpu.kernel(embedding_gather_kernel, signature, THREADS)


@cache
def scatter(gpu, letter):
    cuda = gpu.cuda
    ROOM = THREADS + 1
    neutral = np.dtype(letter).type(-0.0)  # of sums; + 0.0 would change -0.0

    def embedding_scatter_kernel(dout, ids, order, dW, M, V, D):
        """ids in ascending order; the block of the first of equal ids adds up their rows, in order.

        The threads look for equal ids together, THREADS at a time, and then add up four rows in
        each round: the rows of a frequent word are not waited for one after the other.
        """
        place = cuda.shared.array(ROOM, np.int64)  # and how many there are
        m = cuda.blockIdx.x
        tid = cuda.threadIdx.x
        row = ids[m]
        first = row >= 0 and row < V
        if first and m > 0:
            first = ids[m - 1] != row
        start = np.int64(m)
        while first:
            i = start + tid
            if i < M and ids[i] == row:
                place[tid] = order[i] * D
                if tid == THREADS - 1 or i == M - 1 or ids[i + 1] != row:
                    place[THREADS] = tid + 1
            cuda.syncthreads()
            count = place[THREADS]
            for d in range(tid, D, THREADS):
                total = neutral
                if start > m:
                    total = dW[row * D + d]
                for k in range(0, count, 4):
                    b = neutral
                    c = neutral
                    e = neutral
                    a = dout[place[k] + d]
                    if k + 1 < count:
                        b = dout[place[k + 1] + d]
                    if k + 2 < count:
                        c = dout[place[k + 2] + d]
                    if k + 3 < count:
                        e = dout[place[k + 3] + d]
                    total += a
                    total += b
                    total += c
                    total += e
                dW[row * D + d] = total
            start += THREADS
            first = count == THREADS and start < M
            if first:
                first = ids[start] == row
            cuda.syncthreads()

    signature = signature_of(embedding_scatter_kernel, letter)
    return gpu.kernel(embedding_scatter_kernel, signature, THREADS)


def embedding_forward(ids, W):
    gpu = what_runs()
    array("embedding: W", W, None, 2)
    V, D = W.shape
    own = whole_numbers("embedding: ids", ids, V)
    if own.size * D > sys.maxsize // 16:
        raise ValueError(f"embedding: {own.shape} ids of {D} numbers cannot be addressed")
    out = gpu.xp.empty((*own.shape, D), W.dtype)
    if out.size:
        W2 = gpu.xp.ascontiguousarray(gpu.to_device(W))
        kernel = gather(gpu, out.dtype.char)
        given = {"W": W2, "ids": gpu.to_device(own), "M": own.size, "V": V, "D": D}
        kernel(blocks=blocks_of(out.size), out=out, **given)
    return give(gpu, out, ids, W)


def embedding_backward(dout, ids, dW):
    gpu = what_runs()
    array("embedding: dW", dW, None, 2)
    V, D = dW.shape
    own = whole_numbers("embedding: ids", ids, V)
    array("embedding: dout", dout, dW.dtype, len(own.shape) + 1)
    if dout.shape != (*own.shape, D):
        raise ValueError(f"embedding: dout must be {(*own.shape, D)}, got {dout.shape}")
    writable("embedding: dW", dW, dW.dtype, dW.shape)
    xp = gpu.xp
    grad = target(gpu, dW, dout)
    grad.fill(0)
    if own.size and D:
        flat = gpu.to_device(own).reshape(-1)
        order = xp.argsort(flat, kind="stable")
        rows = xp.ascontiguousarray(gpu.to_device(dout)).reshape(-1, D)
        kernel = scatter(gpu, grad.dtype.char)
        given = {"ids": flat[order], "order": order, "M": flat.size, "V": V, "D": D}
        kernel(blocks=flat.size, dout=rows, dW=grad, **given)
    write(gpu, dW, grad)
