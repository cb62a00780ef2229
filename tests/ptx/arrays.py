"""What stands for CuPy's arrays and functions: NumPy's, with what CuPy refuses."""

import numpy as np


class Flags:
    def __init__(self, flags):
        self.c_contiguous, self.f_contiguous = flags.c_contiguous, flags.f_contiguous


class Counter:
    """What ran on the GPU since it was set to 0: kernels, products, fills, copies."""

    launches = 0


class DeviceArray(np.ndarray):
    """Stands for cupy.ndarray, with what it refuses: NumPy arrays beside it, and to become one."""

    __module__ = "cupy"  # which is how rnnfast knows one

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **keywords):
        for x in (*inputs, *(out or ())):
            if type(x) is np.ndarray and x.ndim:
                raise TypeError(f"Unsupported type {type(x)}")
        inputs = [plain(x) for x in inputs]
        if out is not None:
            keywords["out"] = tuple(plain(x) for x in out)
        Counter.launches += 1
        with np.errstate(all="ignore"):  # a GPU warns of nothing
            result = getattr(ufunc, method)(*inputs, **keywords)
        return out[0] if out is not None else device_array(result)

    def __array_function__(self, function, types, args, keywords):
        if np.ndarray in types and function is not np.shares_memory:
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        args = [[plain(x) for x in a] if isinstance(a, (list, tuple)) else plain(a) for a in args]
        result = function(*args, **{k: plain(v) for k, v in keywords.items()})
        return result if isinstance(result, bool) else device_array(result)

    def __setitem__(self, key, value):
        if type(value) is np.ndarray and value.ndim:
            raise TypeError("non-scalar numpy.ndarray cannot be used for fill")
        Counter.launches += 1
        plain(self)[key] = plain(value)

    def copy(self):
        Counter.launches += 1
        return device_array(plain(self).copy())

    def sum(self, **keywords):
        Counter.launches += 1
        return device_array(plain(self).sum(**{k: plain(v) for k, v in keywords.items()}))

    def argmax(self, axis=None):
        return device_array(plain(self).argmax(axis=axis))

    def get(self):
        return np.array(plain(self))

    def set(self, array):
        plain(self)[...] = array

    @property
    def flags(self):
        return Flags(plain(self).flags)

    @property
    def __array_interface__(self):
        raise AttributeError("__array_interface__")

    @property
    def __cuda_array_interface__(self):
        return plain(self).__array_interface__


def plain(x):
    return np.ndarray.view(x, np.ndarray) if isinstance(x, DeviceArray) else x


def device_array(x):
    return np.asarray(x).view(DeviceArray)


class Namespace:
    """numpy's functions, giving DeviceArrays; stands for the module cupy."""

    def __getattr__(self, name):
        function = getattr(np, name)
        if name not in ("empty", "empty_like", "ascontiguousarray", "asarray"):
            Counter.launches += 1

        def call(*args, **keywords):
            given = [[plain(y) for y in x] if isinstance(x, list) else plain(x) for x in args]
            result = function(*given, **{k: plain(v) for k, v in keywords.items()})
            if name in ("empty", "empty_like"):  # NaN, or -1
                result.reshape(-1).view(np.uint8).fill(0xFF)
            return device_array(result)

        return call
