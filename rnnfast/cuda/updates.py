"""What optimisers and clipping do to parameters and gradients."""

import numpy as np

from rnnfast.checks import is_numpy
from rnnfast.cuda import graph, what_runs
from rnnfast.cuda.arguments import array
from rnnfast.cuda.lists import (
    AT_ONCE,
    FEW,
    adam_of,
    blocks_of_all,
    groups,
    norm_kernels,
    rate_of_adam,
    scale_of,
    sgd_of,
    sizes,
    squares_of,
)
from rnnfast.cuda.op_arguments import blocks_of, number, real_of, writable, write


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
    if not gpu.is_array(factor):  # by a kernel, which a CUDA graph may have: a copy it may not
        factor = gpu.xp.full(1, number("scale: factor", factor), np.float64)
    by = factor.astype(np.float64, copy=False).reshape(-1)
    if value.size:
        kernel = scale_of(gpu, dtype.char, 1)
        kernel(blocks=blocks_of(value.size), grads=(value,), sizes=(value.size,), by=by)
    if value is not x:
        write(gpu, x, value)


def clip(grads, max_norm):
    """Scales arrays of the GPU so that their common norm is at most max_norm -> norm, 0-d.

    None, and nothing done, where they cannot be taken at once: see `lists.groups`.
    """
    gpu = what_runs()
    found = groups(gpu, AT_ONCE, grads)
    if found is None:
        return None
    sums = [_squares(gpu, some, some[0].dtype.char) for (some,) in found]
    parts = sums[0] if len(sums) == 1 else gpu.xp.concatenate(sums)
    total, by = gpu.empty((1,), np.float64), gpu.empty((1,), np.float64)
    _, rate = norm_kernels(gpu)
    rate(blocks=1, parts=parts, total=total, by=by, size=parts.size, max_norm=max_norm)
    for (some,) in found:
        kernel = scale_of(gpu, some[0].dtype.char, len(some))
        kernel(blocks=blocks_of_all(some), grads=some, sizes=sizes(some), by=by)
    return total.reshape(())


def sgd_of_all(params, grads, lr):
    """params -= lr grads, of arrays of the GPU. False, and nothing done, as above."""
    gpu = what_runs()
    found = groups(gpu, AT_ONCE, params, read=grads)
    for p, g in found or ():
        kernel = sgd_of(gpu, p[0].dtype.char, len(p))
        kernel(blocks=blocks_of_all(p), params=p, grads=g, sizes=sizes(p), lr=lr)
    return found is not None


def adam_of_all(params, grads, means, squares, lr, beta1, beta2, iteration):
    """The update by Adam of this number, of arrays of the GPU. False, and nothing done, as above.

    A CUDA graph that has it in it counts on: its next launch is the next update.
    """
    gpu = what_runs()
    found = groups(gpu, FEW, params, means, squares, read=grads)
    if found is None:
        return False
    by = gpu.empty((1,), np.float64)
    given = {"by": by, "step": iteration, "launches": graph.launches(gpu)}
    rate_of_adam(gpu)(blocks=1, **given, first=lr, decay1=beta1, decay2=beta2)
    for p, m, v, g in found:
        kernel = adam_of(gpu, p[0].dtype.char, len(p))
        arrays = {"params": p, "grads": g, "means": m, "squares": v, "sizes": sizes(p)}
        kernel(blocks=blocks_of_all(p), **arrays, by=by, beta1=beta1, beta2=beta2)
    return True


def _squares(gpu, arrays, letter):
    """Sums of squares of parts of all arrays."""
    kernel = squares_of(gpu, letter, len(arrays))
    blocks = blocks_of_all(arrays)
    parts = gpu.empty((blocks,), np.float64)
    kernel(blocks=blocks, grads=tuple(arrays), sizes=sizes(arrays), parts=parts)
    return parts


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
