"""What optimisers and clipping do to parameters and gradients."""

from functools import cache

import numpy as np

from rnnfast.checks import FLOATS, is_numpy
from rnnfast.cuda import graph, what_runs
from rnnfast.cuda.arguments import array
from rnnfast.cuda.op_arguments import blocks_of, number, real_of, writable, write
from rnnfast.cuda.signatures import signature_of
from rnnfast.cuda.steps import THREADS, make_add_up

AT_ONCE = 16  # arrays in a launch
FEW = 12  # the same, where each has four beside it


# Of all arrays of a model at once: a launch takes longer than what it does to most of them


def shares(gpu, count):
    """A device function: the array that a block is for, of `count`, and its thread's elements there.

    The elements as the first one and the distance to the next.
    """
    cuda = gpu.cuda

    @gpu.device
    def share():
        block = cuda.blockIdx.x
        first = block // count * THREADS + cuda.threadIdx.x
        return block % count, first, cuda.gridDim.x // count * THREADS

    return share


def of_lists(gpu, function, letter, count):
    return gpu.kernel(function, signature_of(function, letter, count=count), THREADS)


@cache
def squares_of(gpu, letter, count):
    cuda, double, share = gpu.cuda, gpu.float64, shares(gpu, count)
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

    return of_lists(gpu, squares_kernel, letter, count)


@cache
def scale_of(gpu, letter, count):
    """Products with a number of the GPU."""
    real, share = gpu.float32 if letter == "f" else gpu.float64, shares(gpu, count)
    one = np.dtype(letter).type(1)

    def scale_kernel(grads, sizes, by):
        k, first, ahead = share()
        g = grads[k]
        factor = real(by[0])
        if factor != one:
            for e in range(first, sizes[k], ahead):
                g[e] *= factor

    return of_lists(gpu, scale_kernel, letter, count)


@cache
def sgd_of(gpu, letter, count):
    share = shares(gpu, count)

    def sgd_kernel(params, grads, sizes, lr):
        k, first, ahead = share()
        p = params[k]
        g = grads[k]
        for e in range(first, sizes[k], ahead):
            p[e] -= lr * g[e]

    return of_lists(gpu, sgd_kernel, letter, count)


@cache
def adam_of(gpu, letter, count):
    real, sqrt = gpu.float32 if letter == "f" else gpu.float64, gpu.sqrt
    one, epsilon = np.dtype(letter).type(1), np.dtype(letter).type(1e-7)
    share = shares(gpu, count)

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

    return of_lists(gpu, adam_kernel, letter, count)


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
        kernel = scale_of(gpu, dtype.char, 1)
        kernel(blocks=blocks_of(value.size), grads=(value,), sizes=(value.size,), by=by)
    if value is not x:
        write(gpu, x, value)


def clip(grads, max_norm):
    """Scales arrays of the GPU so that their common norm is at most max_norm -> norm, 0-d.

    None, and nothing done, where they cannot be taken at once: see `_groups`.
    """
    gpu = what_runs()
    groups = _groups(gpu, AT_ONCE, grads)
    if groups is None:
        return None
    found = [_squares(gpu, some, some[0].dtype.char) for (some,) in groups]
    parts = found[0] if len(found) == 1 else gpu.xp.concatenate(found)
    total, by = gpu.empty((1,), np.float64), gpu.empty((1,), np.float64)
    _, rate = norm_kernels(gpu)
    rate(blocks=1, parts=parts, total=total, by=by, size=parts.size, max_norm=max_norm)
    for (some,) in groups:
        kernel = scale_of(gpu, some[0].dtype.char, len(some))
        kernel(blocks=_blocks(some), grads=some, sizes=_sizes(some), by=by)
    return total.reshape(())


def sgd_of_all(params, grads, lr):
    """params -= lr grads, of arrays of the GPU. False, and nothing done, as above."""
    gpu = what_runs()
    groups = _groups(gpu, AT_ONCE, params, read=grads)
    for p, g in groups or ():
        kernel = sgd_of(gpu, p[0].dtype.char, len(p))
        kernel(blocks=_blocks(p), params=p, grads=g, sizes=_sizes(p), lr=lr)
    return groups is not None


def adam_of_all(params, grads, means, squares, lr, beta1, beta2, iteration):
    """The update by Adam of this number, of arrays of the GPU. False, and nothing done, as above.

    A CUDA graph that has it in it counts on: its next launch is the next update.
    """
    gpu = what_runs()
    groups = _groups(gpu, FEW, params, means, squares, read=grads)
    if groups is None:
        return False
    by = gpu.empty((1,), np.float64)
    given = {"by": by, "step": iteration, "launches": graph.launches(gpu)}
    rate_of_adam(gpu)(blocks=1, **given, first=lr, decay1=beta1, decay2=beta2)
    for p, m, v, g in groups:
        kernel = adam_of(gpu, p[0].dtype.char, len(p))
        arrays = {"params": p, "grads": g, "means": m, "squares": v, "sizes": _sizes(p)}
        kernel(blocks=_blocks(p), **arrays, by=by, beta1=beta1, beta2=beta2)
    return True


def _groups(gpu, most, *written, read=None):
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
    groups = []
    for i in range(0, len(written[0]), most):
        some = [tuple(arrays[i : i + most]) for arrays in lists]
        own = [x for arrays in some[: len(written)] for x in arrays]
        if gpu.overlap(own, () if read is None else some[-1]):
            return None
        groups.append(some)
    return groups


def _squares(gpu, arrays, letter):
    """Sums of squares of parts of all arrays."""
    kernel = squares_of(gpu, letter, len(arrays))
    blocks = _blocks(arrays)
    parts = gpu.empty((blocks,), np.float64)
    kernel(blocks=blocks, grads=tuple(arrays), sizes=_sizes(arrays), parts=parts)
    return parts


def _sizes(arrays):
    return tuple([x.size for x in arrays])


def _blocks(arrays):
    """As many for each array as the largest one needs."""
    return max(1, blocks_of(max(_sizes(arrays)))) * len(arrays)


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
        kernel = sgd_of(gpu, dtype.char, 1)
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
    if own[0].size:
        names = ("params", "means", "squares")
        lists = {name: (x,) for name, x in zip(names, own, strict=True)}
        lists |= {"grads": (_dense(gpu, g, param),), "sizes": (param.size,)}
        by = gpu.to_device(np.array([numbers.pop("rate")]))
        kernel = adam_of(gpu, dtype.char, 1)
        kernel(blocks=blocks_of(param.size), **lists, by=by, **numbers)
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
