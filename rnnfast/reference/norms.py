"""Layer normalisation of rows, in NumPy. Ba, Kiros and Hinton 2016.

    normal(u) = (u - mean(u)) / sqrt(var(u) + EPSILON)     mean and var over the numbers of a row
    LN(u; g) = normal(u) g                                 g: a gain for each number

Backward, from dy, the gradient of LN(u; g); u_hat is normal(u), s is 1 / sqrt(var(u) + EPSILON):

    d = dy g    du = s (d - mean(d) - u_hat mean(d u_hat))    dg = sum of dy u_hat over all rows

var is the mean of the squares, not divided by one number less. The squares must not overflow: in
float32 the numbers of a row may lie about 1e18 apart.
"""

import numpy as np

EPSILON = 1e-5


def normal(u):
    """normal(u) of each row, and s (N, 1)."""
    centred = u - u.mean(axis=1, keepdims=True)
    s = 1 / np.sqrt((centred**2).mean(axis=1, keepdims=True) + u.dtype.type(EPSILON))
    return centred * s, s


def normal_back(d, u_hat, s):
    """du, from d = dy g."""
    mean, share = (x.mean(axis=1, keepdims=True) for x in (d, d * u_hat))
    return s * (d - mean - u_hat * share)
