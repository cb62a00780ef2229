"""What the row kernels share: one block for each sample, four lanes for each unit.

A lane keeps its part of Wh in registers, `terms` numbers (a multiple of four), and multiplies it
with a part of a vector that all lanes share.
"""

import numpy as np

from rnnfast.cuda.product import up

UNIT_LANES = 4


def quarter(H):
    """Terms of a lane where four lanes share a sum over H: together they cover H with padding."""
    return up(-(-H // UNIT_LANES), 4)


def make_dot(gpu, terms):
    """dot(W, at, s, start): the sum of W[at + k] s[start + k] over k < terms."""
    load4, zero = gpu.load4, np.float32(0)

    @gpu.device
    def dot(W, at, s, start):
        z0 = zero
        z1 = zero
        z2 = zero
        z3 = zero
        for k in range(0, terms, 4):
            v = load4(s, start + k)
            z0 += W[at + k] * v[0]
            z1 += W[at + k + 1] * v[1]
            z2 += W[at + k + 2] * v[2]
            z3 += W[at + k + 3] * v[3]
        return (z0 + z1) + (z2 + z3)

    return dot


def make_over_lanes(gpu):
    """over_lanes(x): the sum of x over the four lanes of a unit, in each of them."""
    cuda = gpu.cuda

    @gpu.device
    def over_lanes(x):
        x += cuda.shfl_xor_sync(-1, x, 1)
        return x + cuda.shfl_xor_sync(-1, x, 2)

    return over_lanes
