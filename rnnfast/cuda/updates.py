"""What optimisers and clipping do to parameters and gradients."""

from functools import cache

import numpy as np

from rnnfast.checks import FLOATS, is_numpy
from rnnfast.cuda import what_runs
from rnnfast.cuda.arguments import array
from rnnfast.cuda.op_arguments import blocks_of, number, real_of, writable, write
from rnnfast.cuda.signatures import signature_of
from rnnfast.cuda.steps import THREADS, make_add_up

AT_ONCE = 16  # arrays in a launch


# Of all arrays of a model at once: a launch takes longer than what it does to most of them


@cache
def list_kernels(gpu, letter, count):
    """Squares, products with a number of the GPU, and SGD, each of `count` arrays in one launch.

    Every `count`th block is for the same array.
    """
    cuda, double, real = gpu.cuda, gpu.float64, gpu.float32 if letter == "f" else gpu.float64
    add_up = make_add_up(gpu, THREADS)
    one = np.dtype(letter).type(1)

    def squares_kernel(grads, sizes, parts):
        """The sum of squares of each block."""
        s = cuda.shared.array(THREADS, double)
        tid = cuda.threadIdx.x
        k = cuda.blockIdx.x % count
        g = grads[k]
        found = double(0)
        start = cuda.blockIdx.x // count * THREADS + tid
        for e in range(start, sizes[k], cuda.gridDim.x // count * THREADS):
            x = double(g[e])
            found += x * x
        s[tid] = found
        add_up(s, tid)
        if tid == 0:
            parts[cuda.blockIdx.x] = s[0]

    def scale_kernel(grads, sizes, by):
        k = cuda.blockIdx.x % count
        g = grads[k]
        factor = real(by[0])
        if factor != one:
            start = cuda.blockIdx.x // count * THREADS + cuda.threadIdx.x
            for e in range(start, sizes[k], cuda.gridDim.x // count * THREADS):
                g[e] *= factor

    def sgd_kernel(params, grads, sizes, lr):
        k = cuda.blockIdx.x % count
        p = params[k]
        g = grads[k]
        start = cuda.blockIdx.x // count * THREADS + cuda.threadIdx.x
        for e in range(start, sizes[k], cuda.gridDim.x // count * THREADS):
            p[e] -= lr * g[e]

    kernels = squares_kernel, scale_kernel, sgd_kernel
    return tuple([gpu.kernel(k, signature_of(k, letter, count=count), THREADS) for k in kernels])


@cache
def norm_kernels(gpu):
    """The sum of sums; the norm of that, and by what a gradient is multiplied."""
    cuda, double, sqrt = gpu.cuda, gpu.float64, gpu.sqrt
    add_up = make_add_up(gpu, THREADS)
    one, least = double(1), double(1e-6)

    def total_kernel(parts, total, size):
        s = cuda.shared.array(THREADS, double)
        tid = cuda.threadIdx.x
        found = double(0)
        for e in range(tid, size, THREADS):
            found += parts[e]
        s[tid] = found
        add_up(s, tid)
        if tid == 0:
            total[0] = s[0]

    def rate_kernel(parts, total, by, size, max_norm):
        """One block. A factor of 1 changes nothing; one that is not a number makes all so."""
        s = cuda.shared.array(THREADS, double)
        tid = cuda.threadIdx.x
        found = double(0)
        for e in range(tid, size, THREADS):
            found += parts[e]
        s[tid] = found
        add_up(s, tid)
        if tid == 0:
            norm = sqrt(s[0])
            rate = max_norm / (norm + least)
            if rate > one:
                rate = one
            total[0] = norm
            by[0] = rate

    kernels = total_kernel, rate_kernel
    return tuple([gpu.kernel(k, signature_of(k, "d"), THREADS) for k in kernels])


def sum_of_squares(x):
    gpu = what_runs()
    dtype = real_of("sum_of_squares: x", x)
    p = gpu.xp.ascontiguousarray(gpu.to_device(x)).reshape(-1)
    total = gpu.empty((1,), np.float64)
    add_up, _ = norm_kernels(gpu)
    parts = _squares(gpu, [p], dtype.char)
    add_up(blocks=1, parts=parts, total=total, size=parts.size)
    return float(gpu.to_host(total)[0]) if is_numpy(x) else total.reshape(())


def scale(x, factor):
    gpu = what_runs()
    dtype = real_of("scale: x", x)
    writable("scale: x", x, dtype, x.shape)
    value = _flat(gpu, x)
    factor = factor if gpu.is_array(factor) else gpu.to_device(np.array(factor))
    by = factor.astype(np.float64, copy=False).reshape(-1)
    if value.size:
        _, kernel, _ = list_kernels(gpu, dtype.char, 1)
        kernel(blocks=blocks_of(value.size), grads=(value,), sizes=(value.size,), by=by)
    if value is not x:
        write(gpu, x, value)


def clip(grads, max_norm):
    """Scales arrays of the GPU so that their common norm is at most max_norm -> norm, 0-d.

    None where they cannot be taken at once: another dtype, room between the numbers of an array,
    or arrays that lie over each other.
    """
    gpu = what_runs()
    groups = _groups(gpu, grads)
    if groups is None:
        return None
    found = [_squares(gpu, some, some[0].dtype.char) for some in groups]
    parts = found[0] if len(found) == 1 else gpu.xp.concatenate(found)
    total, by = gpu.empty((1,), np.float64), gpu.empty((1,), np.float64)
    _, rate = norm_kernels(gpu)
    rate(blocks=1, parts=parts, total=total, by=by, size=parts.size, max_norm=max_norm)
    for some in groups:
        _, kernel, _ = list_kernels(gpu, some[0].dtype.char, len(some))
        kernel(blocks=_blocks(some), grads=tuple(some), sizes=_sizes(some), by=by)
    return total.reshape(())


def sgd_of_all(params, grads, lr):
    """params -= lr grads, of arrays of the GPU. False, and nothing done, as in `clip`."""
    gpu = what_runs()
    groups, beside = _groups(gpu, params, grads), iter(grads)
    if groups is None:
        return False
    for some in groups:
        _, _, kernel = list_kernels(gpu, some[0].dtype.char, len(some))
        of_some = tuple([next(beside) for _ in some])
        kernel(blocks=_blocks(some), params=tuple(some), grads=of_some, sizes=_sizes(some), lr=lr)
    return True


def _groups(gpu, arrays, others=()):
    """The arrays that are written, as lists of at most AT_ONCE, or None. others: like each one."""
    if not arrays:
        return None
    dtype = arrays[0].dtype
    for x in (*arrays, *others):
        if not (gpu.is_array(x) and x.dtype == dtype and x.flags.c_contiguous):
            return None
    if dtype not in FLOATS or (others and [x.shape for x in arrays] != [x.shape for x in others]):
        return None
    groups = [arrays[i : i + AT_ONCE] for i in range(0, len(arrays), AT_ONCE)]
    for i, some in enumerate(groups):
        if gpu.overlap(some, tuple(others[i * AT_ONCE : i * AT_ONCE + AT_ONCE])):
            return None
    return groups


def _squares(gpu, arrays, letter):
    """Sums of squares of parts of all arrays."""
    kernel, _, _ = list_kernels(gpu, letter, len(arrays))
    blocks = _blocks(arrays)
    parts = gpu.empty((blocks,), np.float64)
    kernel(blocks=blocks, grads=tuple(arrays), sizes=_sizes(arrays), parts=parts)
    return parts


def _sizes(arrays):
    return tuple([x.size for x in arrays])


def _blocks(arrays):
    """As many for each array as the largest one needs."""
    return max(1, blocks_of(max(_sizes(arrays)))) * len(arrays)


@cache
def adam_of(gpu, letter):
    cuda, sqrt = gpu.cuda, gpu.sqrt
    one, epsilon = np.dtype(letter).type(1), np.dtype(letter).type(1e-7)

    def adam_kernel(p, g, m, v, size, rate, beta1, beta2):
        for e in range(
            cuda.blockIdx.x * THREADS + cuda.threadIdx.x, size, cuda.gridDim.x * THREADS
        ):
            m_next = m[e] + (one - beta1) * (g[e] - m[e])
            v_next = v[e] + (one - beta2) * (g[e] * g[e] - v[e])
            m[e] = m_next
            v[e] = v_next
            p[e] -= rate * m_next / (sqrt(v_next) + epsilon)

    return gpu.kernel(adam_kernel, signature_of(adam_kernel, letter), THREADS)


def sgd(param, grad, lr):
    gpu = what_runs()
    dtype = real_of("sgd: param", param)
    writable("sgd: param", param, dtype, param.shape)
    array("sgd: grad", grad, dtype, len(param.shape))
    if grad.shape != param.shape:
        raise ValueError(f"sgd: grad must be {param.shape}, got {grad.shape}")
    lr = number("sgd: lr", lr)
    p, g = _flat(gpu, param), gpu.to_device(grad)
    if p is not param:
        g = g.copy()  # grad may lie across param
    if p.size:
        _, _, kernel = list_kernels(gpu, dtype.char, 1)
        given = {"params": (p,), "grads": (_dense(gpu, g, param),), "sizes": (p.size,)}
        kernel(blocks=blocks_of(p.size), **given, lr=lr)
    if p is not param:
        write(gpu, param, p)


def adam(param, grad, m, v, rate, beta1, beta2):
    gpu = what_runs()
    dtype = real_of("adam: param", param)
    for name, x in (("param", param), ("m", m), ("v", v)):
        writable(f"adam: {name}", x, dtype, param.shape)
    array("adam: grad", grad, dtype, len(param.shape))
    if grad.shape != param.shape:
        raise ValueError(f"adam: grad must be {param.shape}, got {grad.shape}")
    given = {"rate": rate, "beta1": beta1, "beta2": beta2}
    numbers = {name: number(f"adam: {name}", x) for name, x in given.items()}
    for a, b in ((param, m), (param, v), (m, v)):
        if type(a) is type(b) and gpu.shares_memory(a, b):
            raise ValueError("adam: param, m and v must not share memory")
    own = [_flat(gpu, x) for x in (param, m, v)]
    g = gpu.to_device(grad).copy() if own[0] is not param else gpu.to_device(grad)
    kernel = adam_of(gpu, dtype.char)
    p1, m1, v1 = (x.reshape(-1) for x in own)
    if p1.size:
        g1 = _dense(gpu, g, param)
        kernel(blocks=blocks_of(p1.size), p=p1, g=g1, m=m1, v=v1, size=p1.size, **numbers)
    for x, mine in zip((param, m, v), own, strict=True):
        if mine is not x:
            write(gpu, x, mine)


def _flat(gpu, x):
    """x itself where a kernel can update it in place, else a contiguous copy on the GPU."""
    if gpu.is_array(x) and x.flags.c_contiguous:
        return x
    return gpu.xp.array(gpu.to_device(x), order="C", copy=True)


def _dense(gpu, grad, param):
    """grad as a kernel reads it beside param; a copy where one lies across the other."""
    if gpu.is_array(param) and grad is not param and gpu.shares_memory(grad, param):
        grad = grad.copy()
    return gpu.xp.ascontiguousarray(grad).reshape(-1)
