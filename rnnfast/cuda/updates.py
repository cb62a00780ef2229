"""What optimisers and clipping do to parameters and gradients."""

from functools import cache

import numpy as np

from rnnfast.checks import is_numpy
from rnnfast.cuda import what_runs
from rnnfast.cuda.arguments import array
from rnnfast.cuda.op_arguments import blocks_of, number, real_of, writable, write
from rnnfast.cuda.signatures import signature_of
from rnnfast.cuda.steps import THREADS, make_add_up


@cache
def norm_kernels(gpu, letter):
    """The sum of squares of each block; the sum of those; a product with a number of the GPU."""
    cuda, double, real = gpu.cuda, gpu.float64, gpu.float32 if letter == "f" else gpu.float64
    add_up = make_add_up(gpu, THREADS)

    def squares_kernel(p, parts, size):
        s = cuda.shared.array(THREADS, double)
        tid = cuda.threadIdx.x
        found = double(0)
        for e in range(cuda.blockIdx.x * THREADS + tid, size, cuda.gridDim.x * THREADS):
            x = double(p[e])
            found += x * x
        s[tid] = found
        add_up(s, tid)
        if tid == 0:
            parts[cuda.blockIdx.x] = s[0]

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

    def scale_kernel(p, by, size):
        factor = real(by[0])
        for e in range(
            cuda.blockIdx.x * THREADS + cuda.threadIdx.x, size, cuda.gridDim.x * THREADS
        ):
            p[e] *= factor

    kernels = squares_kernel, total_kernel, scale_kernel
    return tuple([gpu.kernel(k, signature_of(k, letter), THREADS) for k in kernels])


def sum_of_squares(x):
    gpu = what_runs()
    dtype = real_of("sum_of_squares: x", x)
    p = gpu.xp.ascontiguousarray(gpu.to_device(x)).reshape(-1)
    squares, add_up, _ = norm_kernels(gpu, dtype.char)
    blocks = max(1, blocks_of(p.size))
    parts, total = gpu.empty((blocks,), np.float64), gpu.empty((1,), np.float64)
    squares(blocks=blocks, p=p, parts=parts, size=p.size)
    add_up(blocks=1, parts=parts, total=total, size=blocks)
    return float(gpu.to_host(total)[0]) if is_numpy(x) else total.reshape(())


def scale(x, factor):
    gpu = what_runs()
    dtype = real_of("scale: x", x)
    writable("scale: x", x, dtype, x.shape)
    value = _flat(gpu, x)
    factor = factor if gpu.is_array(factor) else gpu.to_device(np.array(factor))
    by = factor.astype(np.float64, copy=False).reshape(-1)
    if value.size:
        _, _, kernel = norm_kernels(gpu, dtype.char)
        kernel(blocks=blocks_of(value.size), p=value.reshape(-1), by=by, size=value.size)
    if value is not x:
        write(gpu, x, value)


@cache
def update_kernels(gpu, letter):
    cuda, sqrt = gpu.cuda, gpu.sqrt
    one, epsilon = np.dtype(letter).type(1), np.dtype(letter).type(1e-7)

    def sgd_kernel(p, g, size, lr):
        for e in range(
            cuda.blockIdx.x * THREADS + cuda.threadIdx.x, size, cuda.gridDim.x * THREADS
        ):
            p[e] -= lr * g[e]

    def adam_kernel(p, g, m, v, size, rate, beta1, beta2):
        for e in range(
            cuda.blockIdx.x * THREADS + cuda.threadIdx.x, size, cuda.gridDim.x * THREADS
        ):
            m_next = m[e] + (one - beta1) * (g[e] - m[e])
            v_next = v[e] + (one - beta2) * (g[e] * g[e] - v[e])
            m[e] = m_next
            v[e] = v_next
            p[e] -= rate * m_next / (sqrt(v_next) + epsilon)

    return (
        gpu.kernel(sgd_kernel, signature_of(sgd_kernel, letter), THREADS),
        gpu.kernel(adam_kernel, signature_of(adam_kernel, letter), THREADS),
    )


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
    p1 = p.reshape(-1)
    kernel, _ = update_kernels(gpu, dtype.char)
    if p.size:
        kernel(blocks=blocks_of(p.size), p=p1, g=_dense(gpu, g, param), size=p.size, lr=lr)
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
    _, kernel = update_kernels(gpu, dtype.char)
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
