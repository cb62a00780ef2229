"""Assertions of numpy.testing, for arrays of NumPy and of CuPy."""

import numpy as np

from rnnfast.io import to_numpy


def assert_array_equal(a, b, **options):
    np.testing.assert_array_equal(_on_host(a), _on_host(b), **options)


def assert_allclose(a, b, **options):
    np.testing.assert_allclose(_on_host(a), _on_host(b), **options)


def _on_host(x):
    return to_numpy(x) if hasattr(x, "dtype") else x
