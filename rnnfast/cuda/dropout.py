"""Masks of dropout, the same as on the CPU."""

import math
from functools import cache

import numpy as np

from rnnfast.checks import FLOATS
from rnnfast.cuda import graph, what_runs
from rnnfast.cuda.signatures import signature_of
from rnnfast.cuda.steps import THREADS


@cache
def philox(gpu, letter):
    cuda, umulhi = gpu.cuda, gpu.umulhi
    zero = np.dtype(letter).type(0)
    M0, M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
    W0, W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
    none, eleven = np.uint64(0), np.uint64(11)

    def dropout_mask_kernel(mask, size, threshold, scale, key0, key1, step, launches):
        """Philox4x64-10 (Salmon et al. 2011): four words from each counter (1 + e, 0, 0, step).

        step: with that of launches before, of a graph that draws one mask of this key each time.
        """
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if 4 * e < size:
            c0 = np.uint64(e + 1)
            c1 = none
            c2 = none
            c3 = step + launches[0]
            k0 = key0
            k1 = key1
            for _ in range(10):
                high0 = umulhi(M0, c0)
                low0 = M0 * c0
                high1 = umulhi(M1, c2)
                low1 = M1 * c2
                c0 = high1 ^ c1 ^ k0
                c1 = low1
                c2 = high0 ^ c3 ^ k1
                c3 = low0
                k0 += W0
                k1 += W1
            for i in range(4):
                word = c0
                if i == 1:
                    word = c1
                if i == 2:
                    word = c2
                if i == 3:
                    word = c3
                if 4 * e + i < size:
                    value = zero
                    if word >> eleven >= threshold:
                        value = scale
                    mask[4 * e + i] = value

    return gpu.kernel(dropout_mask_kernel, signature_of(dropout_mask_kernel, letter), THREADS)


def dropout_mask(shape, ratio, key, step, dtype, first=0):
    gpu = what_runs()
    shape = tuple(map(int, shape))
    if first:  # rows of a larger mask, whose beginning is drawn, too
        whole = dropout_mask((first + math.prod(shape),), ratio, key, step, dtype)
        return whole[first:].reshape(shape)
    dtype = np.dtype(dtype)
    if dtype not in FLOATS or not dtype.isnative:
        raise TypeError(f"dropout_mask: dtype must be float32 or float64, got {dtype}")
    if not 0 <= ratio < 1:
        raise ValueError(f"dropout_mask: ratio must be in [0, 1), got {ratio}")
    if len(key) != 2:
        raise ValueError(f"dropout_mask: key must be (seed, layer), got {key}")
    for name, value in (("key", key[0]), ("key", key[1]), ("step", step)):
        if not 0 <= value < 2**64:
            raise ValueError(f"dropout_mask: {name} must be in [0, 2**64), got {value}")
    mask = gpu.xp.empty(shape, dtype)
    if mask.size:
        # (word >> 11) / 2^53 >= ratio, in whole numbers
        threshold, scale = math.ceil(ratio * 2**53), 1 / (1 - ratio)
        kernel, flat = philox(gpu, dtype.char), mask.reshape(-1)
        numbers = {"key0": key[0], "key1": key[1], "step": step, "launches": graph.launches(gpu)}
        blocks = -(-flat.size // (4 * THREADS))
        kernel(
            blocks=blocks, mask=flat, size=flat.size, threshold=threshold, scale=scale, **numbers
        )
    return mask
