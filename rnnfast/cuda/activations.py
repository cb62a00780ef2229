"""sigmoid and tanh in a kernel, and the constants that keep float64 out of float32 code."""

from functools import cache

import numpy as np

LOG2E = 1.4426950408889634


@cache
def activations(gpu, dtype):
    """Device functions (sigmoid, tanh): float32 by the fast exp2, within 2e-7; float64 exact."""
    if dtype == "float64":
        return _exact(gpu)
    exp2, reciprocal = gpu.exp2, gpu.reciprocal
    one, two = np.float32(1), np.float32(2)
    minus_log2e, minus_2log2e = np.float32(-LOG2E), np.float32(-2 * LOG2E)

    @gpu.device
    def sigmoid(x):
        return reciprocal(one + exp2(minus_log2e * x))

    @gpu.device
    def tanh(x):
        return two * reciprocal(one + exp2(minus_2log2e * x)) - one

    return sigmoid, tanh


def exponential(gpu, dtype):
    """exp as a device function: float32 by the fast exp2."""
    if np.dtype(dtype) == np.float64:
        exp_ = gpu.exp

        @gpu.device
        def exp(x):
            return exp_(x)

        return exp
    exp2, log2e = gpu.exp2, np.float32(LOG2E)

    @gpu.device
    def exp(x):
        return exp2(log2e * x)

    return exp


def _exact(gpu):
    exp, tanh_, one = gpu.exp, gpu.tanh, np.float64(1)

    @gpu.device
    def sigmoid(x):
        return one / (one + exp(-x))

    @gpu.device
    def tanh(x):
        return tanh_(x)

    return sigmoid, tanh
