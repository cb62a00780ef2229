"""Kernels that take all arrays of a model at once: a launch takes longer than most arrays do.

Every `count`th block of a launch is for the same one of `count` arrays. A kernel is compiled for
each count.
"""

from functools import cache

import numpy as np

from rnnfast.checks import FLOATS
from rnnfast.cuda.op_arguments import blocks_of
from rnnfast.cuda.signatures import signature_of
from rnnfast.cuda.steps import THREADS, make_add_up

AT_ONCE = 16  # arrays in a launch
FEW = 12  # the same, where each has three beside it


def groups(gpu, most, *written, read=None):
    """Lists of arrays, cut into lists of tuples of at most `most`: [(of each of written, of read)].

    None where they cannot be taken at once: there are none, they are not all the GPU's, contiguous
    and of one dtype, those beside each other differ in shape, or what is written lies over another.
    """
    lists = written if read is None else (*written, read)
    every = [x for arrays in lists for x in arrays]
    if not every or every[0].dtype not in FLOATS:
        return None
    dtype = every[0].dtype
    for x in every:
        if not (gpu.is_array(x) and x.dtype == dtype and x.flags.c_contiguous):
            return None
    if any(len({x.shape for x in beside}) > 1 for beside in zip(*lists, strict=True)):
        return None
    found = []
    for i in range(0, len(written[0]), most):
        some = [tuple(arrays[i : i + most]) for arrays in lists]
        own = [x for arrays in some[: len(written)] for x in arrays]
        if gpu.overlap(own, () if read is None else some[-1]):
            return None
        found.append(some)
    return found


def sizes(arrays):
    return tuple([x.size for x in arrays])


def blocks_of_all(arrays):
    """As many for each array as the largest one needs."""
    return max(1, blocks_of(max(sizes(arrays)))) * len(arrays)


def _shares(gpu, count):
    """A device function -> (k, first, ahead).

    Which of `count` arrays a block is for, its thread's first element and the distance to the next.
    """
    cuda = gpu.cuda

    @gpu.device
    def share():
        block = cuda.blockIdx.x
        first = block // count * THREADS + cuda.threadIdx.x
        return block % count, first, cuda.gridDim.x // count * THREADS

    return share


def _of_lists(gpu, function, letter, count):
    return gpu.kernel(function, signature_of(function, letter, count=count), THREADS)


@cache
def squares_of(gpu, letter, count):
    cuda, double, share = gpu.cuda, gpu.float64, _shares(gpu, count)
    add_up = make_add_up(gpu, THREADS)

    def squares_kernel(grads, sizes, parts):
        """The sum of squares of each block."""
        s = cuda.shared.array(THREADS, double)
        tid = cuda.threadIdx.x
        k, first, ahead = share()
        g = grads[k]
        found = double(0)
        for e in range(first, sizes[k], ahead):
            x = double(g[e])
            found += x * x
        s[tid] = found
        add_up(s, tid)
        if tid == 0:
            parts[cuda.blockIdx.x] = s[0]

    return _of_lists(gpu, squares_kernel, letter, count)


@cache
def scale_of(gpu, letter, count):
    """Products with a number of the GPU."""
    real, share = gpu.float32 if letter == "f" else gpu.float64, _shares(gpu, count)
    one = np.dtype(letter).type(1)

    def scale_kernel(grads, sizes, by):
        k, first, ahead = share()
        g = grads[k]
        factor = real(by[0])
        if factor != one:
            for e in range(first, sizes[k], ahead):
                g[e] *= factor

    return _of_lists(gpu, scale_kernel, letter, count)


@cache
def sgd_of(gpu, letter, count):
    share = _shares(gpu, count)

    def sgd_kernel(params, grads, sizes, lr):
        k, first, ahead = share()
        p = params[k]
        g = grads[k]
        for e in range(first, sizes[k], ahead):
            p[e] -= lr * g[e]

    return _of_lists(gpu, sgd_kernel, letter, count)


@cache
def adam_of(gpu, letter, count):
    real, sqrt = gpu.float32 if letter == "f" else gpu.float64, gpu.sqrt
    one, epsilon = np.dtype(letter).type(1), np.dtype(letter).type(1e-7)
    share = _shares(gpu, count)

    def adam_kernel(params, grads, means, squares, sizes, by, beta1, beta2):
        """by[0]: the rate of this update."""
        k, first, ahead = share()
        p = params[k]
        g = grads[k]
        m = means[k]
        v = squares[k]
        rate = real(by[0])
        for e in range(first, sizes[k], ahead):
            m_next = m[e] + (one - beta1) * (g[e] - m[e])
            v_next = v[e] + (one - beta2) * (g[e] * g[e] - v[e])
            m[e] = m_next
            v[e] = v_next
            p[e] -= rate * m_next / (sqrt(v_next) + epsilon)

    return _of_lists(gpu, adam_kernel, letter, count)


@cache
def norm_kernels(gpu):
    """The sum of sums; the norm of that, and by what a gradient is multiplied."""
    cuda, double, sqrt = gpu.cuda, gpu.float64, gpu.sqrt
    add_up = make_add_up(gpu, THREADS)
    one, least = double(1), double(1e-6)

    @gpu.device
    def add_parts(parts, size, s, tid):
        """Their sum, in s[0] for thread 0."""
        found = double(0)
        for e in range(tid, size, THREADS):
            found += parts[e]
        s[tid] = found
        add_up(s, tid)

    def total_kernel(parts, total, size):
        s = cuda.shared.array(THREADS, double)
        tid = cuda.threadIdx.x
        add_parts(parts, size, s, tid)
        if tid == 0:
            total[0] = s[0]

    def rate_kernel(parts, total, by, size, max_norm):
        """One block. A factor of 1 changes nothing; one that is not a number makes all so."""
        s = cuda.shared.array(THREADS, double)
        tid = cuda.threadIdx.x
        add_parts(parts, size, s, tid)
        if tid == 0:
            norm = sqrt(s[0])
            rate = max_norm / (norm + least)
            if rate > one:
                rate = one
            total[0] = norm
            by[0] = rate

    kernels = total_kernel, rate_kernel
    return tuple([gpu.kernel(k, signature_of(k, "d"), THREADS) for k in kernels])


@cache
def rate_of_adam(gpu):
    """The rate of an update by Adam: lr sqrt(1 - beta2^t) / (1 - beta1^t)."""
    double, sqrt = gpu.float64, gpu.sqrt
    one, none = double(1), np.uint64(0)

    @gpu.device
    def power(x, t):
        found = one
        while t != none:
            if t & np.uint64(1) != none:
                found *= x
            x *= x
            t >>= np.uint64(1)
        return found

    def rate_of_adam_kernel(by, step, launches, first, decay1, decay2):
        """One block, one thread. t is step, and the launches of a graph before this one."""
        t = step + launches[0]
        by[0] = first * sqrt(one - power(decay2, t)) / (one - power(decay1, t))

    return gpu.kernel(rate_of_adam_kernel, signature_of(rate_of_adam_kernel, "d"), 1)
