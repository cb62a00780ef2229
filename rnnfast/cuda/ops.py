"""The operations without a time loop in CUDA; their contract is rnnfast/reference/ops.py.

M rows, K inputs, N outputs, V vocabulary, D embedding width. With arrays on the GPU nothing waits
for it: a loss and a sum are 0-d arrays there, and ids and targets are not looked at: one outside
[0, V) gives a row of NaN instead of a ValueError, and no gradient. NumPy ids are checked.
"""

import importlib
import math
import sys
from functools import cache

import numpy as np

from rnnfast.checks import FLOATS, is_numpy
from rnnfast.cuda import what_runs
from rnnfast.cuda.activations import exponential
from rnnfast.cuda.arguments import array
from rnnfast.cuda.planner import make_plan
from rnnfast.cuda.steps import THREADS

WIDE = 1024  # blocks of a kernel that takes elements in turns


def plans(cell, N, H, precision):
    """How a float32 cell would run: ("forward", its Plan) and ("backward", its)."""
    module = importlib.import_module(f"rnnfast.cuda.{cell}")
    precision = "tf32" if precision == "high" else "float32"
    for way in ("forward", "backward"):
        forward = way == "forward"
        yield way, make_plan(what_runs(), module.CELL, forward, N, H, "float32", precision)


def to_device(x):
    """x as a CuPy array."""
    return what_runs().to_device(x)


# Matrix products


def affine_forward(x, W, b):
    gpu = what_runs()
    _check_affine(x, W, b)
    x2, W2 = gpu.to_device(x), gpu.to_device(W)
    y = gpu.xp.empty((x.shape[0], W.shape[1]), W2.dtype)
    _multiply(gpu, x2, W2, y)
    if b is not None:
        y += gpu.to_device(b)
    return _give(gpu, y, x, W)


def affine_backward(dy, x, W, dW, db):
    gpu = what_runs()
    _check_affine(x, W, None)
    _matrix("affine: dy", dy, W.dtype, (x.shape[0], W.shape[1]))
    _writable("affine: dW", dW, W.dtype, W.shape)
    if db is not None:
        _writable("affine: db", db, W.dtype, W.shape[1:])
    dy2 = gpu.to_device(dy)
    dx = _affine_back(gpu, dy2, gpu.to_device(x), gpu.to_device(W), dW, db)
    return _give(gpu, dx, dy, W)


def _affine_back(gpu, dy, x, W, dW, db):
    """Gradients of x W + b where all but dW and db are on the GPU."""
    dx = gpu.xp.empty(x.shape, x.dtype)
    grad = gpu.xp.empty(W.shape, W.dtype)
    _multiply(gpu, dy, W.T, dx)
    _multiply(gpu, x.T, dy, grad)
    _write(gpu, dW, grad)
    if db is not None:
        _write(gpu, db, dy.sum(axis=0))
    return dx


def _multiply(gpu, a, b, out):
    if a.shape[1] == 0:
        out[...] = 0
    elif out.size:
        gpu.matmul(a, b, out=out)


# Embedding


@cache
def gather(gpu, letter):
    cuda, nan = gpu.cuda, np.dtype(letter).type(np.nan)

    def embedding_gather_kernel(W, ids, out, M, V, D):
        for e in range(
            cuda.blockIdx.x * THREADS + cuda.threadIdx.x, M * D, cuda.gridDim.x * THREADS
        ):
            m = e // D
            row = ids[m]
            if row >= 0 and row < V:
                out[e] = W[row * D + e - m * D]
            else:
                out[e] = nan

    return gpu.kernel(embedding_gather_kernel, f"*{letter} *q *{letter} q q q", THREADS)


@cache
def scatter(gpu, letter):
    cuda = gpu.cuda

    def embedding_scatter_kernel(dout, ids, order, dW, M, V, D):
        """ids in ascending order; the block of the first of equal ids adds up their rows."""
        m = cuda.blockIdx.x
        row = ids[m]
        first = row >= 0 and row < V
        if first and m > 0:
            first = ids[m - 1] != row
        if first:
            for d in range(cuda.threadIdx.x, D, THREADS):
                total = dout[order[m] * D + d]
                i = m + 1
                while i < M and ids[i] == row:
                    total += dout[order[i] * D + d]
                    i += 1
                dW[row * D + d] = total

    return gpu.kernel(embedding_scatter_kernel, f"*{letter} *q *q *{letter} q q q", THREADS)


def embedding_forward(ids, W):
    gpu = what_runs()
    array("embedding: W", W, None, 2)
    V, D = W.shape
    own = _ids("embedding: ids", ids, V)
    if own.size * D > sys.maxsize // 16:
        raise ValueError(f"embedding: {own.shape} ids of {D} numbers cannot be addressed")
    out = gpu.xp.empty((*own.shape, D), W.dtype)
    if out.size:
        W2 = gpu.xp.ascontiguousarray(gpu.to_device(W))
        kernel = gather(gpu, out.dtype.char)
        kernel(_blocks(out.size), W2, gpu.to_device(own), out, own.size, V, D)
    return _give(gpu, out, ids, W)


def embedding_backward(dout, ids, dW):
    gpu = what_runs()
    array("embedding: dW", dW, None, 2)
    V, D = dW.shape
    own = _ids("embedding: ids", ids, V)
    array("embedding: dout", dout, dW.dtype, len(own.shape) + 1)
    if dout.shape != (*own.shape, D):
        raise ValueError(f"embedding: dout must be {(*own.shape, D)}, got {dout.shape}")
    _writable("embedding: dW", dW, dW.dtype, dW.shape)
    xp = gpu.xp
    grad = xp.zeros((V, D), dW.dtype)
    if own.size and D:
        flat = gpu.to_device(own).reshape(-1)
        order = xp.argsort(flat, kind="stable")
        rows = xp.ascontiguousarray(gpu.to_device(dout)).reshape(-1, D)
        kernel = scatter(gpu, grad.dtype.char)
        kernel(flat.size, rows, flat[order], order, grad, flat.size, V, D)
    _write(gpu, dW, grad)


# Softmax loss: a block for each row


@cache
def loss_rows(gpu, letter):
    cuda, log = gpu.cuda, gpu.log
    exp = exponential(gpu, letter)
    real = np.dtype(letter).type
    zero, one, nan, infinity = real(0), real(1), real(np.nan), real(np.inf)
    lowest = np.finfo(real).min
    ROOM = 2 * THREADS
    float_ = gpu.float32 if letter == "f" else gpu.float64

    def softmax_loss_kernel(x, b, ts, losses, maxima, scales, V, ignored):
        """One pass over x + b: losses, and exp(x + b - maxima) scales for the gradient.

        A sum is kept relative to the largest number so far.
        """
        s = cuda.shared.array(ROOM, float_)
        m = cuda.blockIdx.x
        tid = cuda.threadIdx.x
        top = lowest
        total = zero
        for v in range(tid, V, THREADS):
            a = x[m * V + v] + b[v]
            if a > top:
                total = total * exp(top - a) + one
                top = a
            else:
                total += exp(a - top)
        s[tid] = top
        s[THREADS + tid] = total
        cuda.syncthreads()
        width = THREADS // 2
        while width > 0:
            if tid < width:
                other = s[tid + width]
                rest = s[THREADS + tid + width]
                if other > top:
                    total = total * exp(top - other) + rest
                    top = other
                else:
                    total += rest * exp(other - top)
                s[tid] = top
                s[THREADS + tid] = total
            cuda.syncthreads()
            width //= 2
        if tid == 0:
            t = ts[m]
            loss = zero
            scale = zero
            if t != ignored:
                loss = nan
                scale = nan
                if t >= 0 and t < V and total > zero and top < infinity:
                    loss = log(total) - ((x[m * V + t] + b[t]) - top)
                    scale = one / total
            losses[m] = loss
            maxima[m] = top
            scales[m] = scale

    real_ = f"*{letter} "
    return gpu.kernel(softmax_loss_kernel, f"{real_ * 2}*q {real_ * 3}q q", THREADS)


@cache
def loss_rows_back(gpu, letter):
    cuda = gpu.cuda
    exp = exponential(gpu, letter)
    zero = np.dtype(letter).type(0)

    def softmax_loss_back_kernel(x, b, ts, maxima, scales, factor, dx, V, ignored):
        """dx may be x."""
        m = cuda.blockIdx.x
        t = ts[m]
        for v in range(cuda.threadIdx.x, V, THREADS):
            d = zero
            if t != ignored:
                d = factor[0] * scales[m] * exp(x[m * V + v] + b[v] - maxima[m])
                if v == t:
                    d -= factor[0]
            dx[m * V + v] = d

    real = f"*{letter} "
    return gpu.kernel(softmax_loss_back_kernel, f"{real * 2}*q {real * 4}q q", THREADS)


def softmax_loss_forward(xs, ts, *, ignore_label=-1):
    gpu = what_runs()
    array("softmax_loss: xs", xs, None, 2)
    M, V = xs.shape
    own = _targets("softmax_loss: ts", ts, M, V, ignore_label)
    x = gpu.xp.ascontiguousarray(gpu.to_device(xs))
    b = gpu.xp.zeros(V, x.dtype)
    return _loss(gpu, x, b, gpu.to_device(own), ignore_label, is_numpy(xs))


def _loss(gpu, x, b, ts, ignored, host):
    """The mean loss of scores x + b, and what backward needs; all on the GPU."""
    xp = gpu.xp
    M, V = x.shape
    losses, maxima, scales = (xp.empty(M, x.dtype) for _ in range(3))
    if M:
        loss_rows(gpu, x.dtype.char)(M, x, b, ts, losses, maxima, scales, V, ignored)
    count = xp.maximum((ts != ignored).sum(), 1)
    loss = losses.sum(dtype=np.float64) / count
    cache_ = x, b, ts, ignored, maxima, scales, count, host
    return (float(loss) if host else loss), cache_


def softmax_loss_backward(cache, dout=1.0):
    if not isinstance(cache, tuple) or len(cache) != 8:
        raise TypeError("softmax_loss: cache must come from softmax_loss_forward")
    gpu = what_runs()
    dx = gpu.xp.empty_like(cache[0])
    _loss_back(gpu, cache, dout, dx)
    return gpu.to_host(dx) if cache[-1] else dx


def _loss_back(gpu, cache_, dout, dx):
    x, b, ts, ignored, maxima, scales, count, _ = cache_
    factor = (dout / count).astype(x.dtype).reshape(1)
    M, V = x.shape
    if M and V:
        kernel = loss_rows_back(gpu, x.dtype.char)
        kernel(M, x, b, ts, maxima, scales, factor, dx, V, ignored)


class Scores(list):
    """The cache of affine_softmax_loss: x, W, the loss's; empty once used."""

    memory = None  # of the scores, for another call


def affine_softmax_loss_forward(x, W, b, ts, *, ignore_label=-1, train=True, spent=None):
    gpu = what_runs()
    _check_affine(x, W, b, "affine_softmax_loss")
    (M, _), V = x.shape, W.shape[1]
    if spent is not None and not isinstance(spent, Scores):
        raise TypeError(
            f"affine_softmax_loss: spent must be an earlier cache, got {type(spent).__name__}"
        )
    own = _targets("affine_softmax_loss: ts", ts, M, V, ignore_label)
    x2, W2 = gpu.to_device(x), gpu.to_device(W)
    bias = gpu.xp.zeros(V, W2.dtype) if b is None else gpu.xp.ascontiguousarray(gpu.to_device(b))
    scores = None
    if spent is not None and not spent:
        scores, spent.memory = spent.memory, None
    if scores is None or scores.shape != (M, V) or scores.dtype != W2.dtype:
        scores = gpu.xp.empty((M, V), W2.dtype)
    _multiply(gpu, x2, W2, scores)
    host = is_numpy(x) and is_numpy(W)
    loss, of_loss = _loss(gpu, scores, bias, gpu.to_device(own), ignore_label, host)
    return loss, Scores((x2, W2, of_loss)) if train else None


def affine_softmax_loss_backward(cache, dW, db, dout=1.0):
    if not isinstance(cache, Scores):
        raise (RuntimeError if cache is None else TypeError)(
            "affine_softmax_loss: cache must come from affine_softmax_loss_forward"
        )
    if not cache:
        raise RuntimeError("affine_softmax_loss: backward needs a cache that is not consumed")
    gpu = what_runs()
    x, W, of_loss = cache
    _writable("affine_softmax_loss: dW", dW, W.dtype, W.shape)
    if db is not None:
        _writable("affine_softmax_loss: db", db, W.dtype, W.shape[1:])
    if (not np.isscalar(dout) and not gpu.is_array(dout)) or isinstance(dout, str):
        raise TypeError(f"affine_softmax_loss: dout must be a number, got {type(dout).__name__}")
    scores = of_loss[0]
    _loss_back(gpu, of_loss, dout, scores)
    dx = _affine_back(gpu, scores, x, W, dW, db)
    cache.clear()
    cache.memory = scores
    return gpu.to_host(dx) if of_loss[-1] else dx


# Updates


def sum_of_squares(x):
    gpu = what_runs()
    _real("sum_of_squares: x", x)
    total = gpu.xp.square(gpu.to_device(x), dtype=np.float64).sum()
    return float(total) if is_numpy(x) else total


def scale(x, factor):
    gpu = what_runs()
    _writable("scale: x", x, _real("scale: x", x), x.shape)
    value = gpu.to_device(x)
    value = value * (factor.astype(x.dtype) if gpu.is_array(factor) else x.dtype.type(factor))
    _write(gpu, x, value)


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

    real = f"*{letter} "
    return (
        gpu.kernel(sgd_kernel, f"{real * 2}q {letter}", THREADS),
        gpu.kernel(adam_kernel, f"{real * 4}q {letter} {letter} {letter}", THREADS),
    )


def sgd(param, grad, lr):
    gpu = what_runs()
    dtype = _real("sgd: param", param)
    _writable("sgd: param", param, dtype, param.shape)
    array("sgd: grad", grad, dtype, len(param.shape))
    if grad.shape != param.shape:
        raise ValueError(f"sgd: grad must be {param.shape}, got {grad.shape}")
    lr = _number("sgd: lr", lr)
    p, g = _flat(gpu, param), gpu.to_device(grad)
    if p is not param:
        g = g.copy()  # grad may lie across param
    p1 = p.reshape(-1)
    kernel, _ = update_kernels(gpu, dtype.char)
    if p.size:
        kernel(_blocks(p.size), p1, _dense(gpu, g, param), p.size, lr)
    if p is not param:
        _write(gpu, param, p)


def adam(param, grad, m, v, rate, beta1, beta2):
    gpu = what_runs()
    dtype = _real("adam: param", param)
    for name, x in (("param", param), ("m", m), ("v", v)):
        _writable(f"adam: {name}", x, dtype, param.shape)
    array("adam: grad", grad, dtype, len(param.shape))
    if grad.shape != param.shape:
        raise ValueError(f"adam: grad must be {param.shape}, got {grad.shape}")
    numbers = [
        _number(f"adam: {name}", x)
        for name, x in (("rate", rate), ("beta1", beta1), ("beta2", beta2))
    ]
    for a, b in ((param, m), (param, v), (m, v)):
        if type(a) is type(b) and gpu.shares_memory(a, b):
            raise ValueError("adam: param, m and v must not share memory")
    own = [_flat(gpu, x) for x in (param, m, v)]
    g = gpu.to_device(grad).copy() if own[0] is not param else gpu.to_device(grad)
    _, kernel = update_kernels(gpu, dtype.char)
    p1, m1, v1 = (x.reshape(-1) for x in own)
    if p1.size:
        kernel(_blocks(p1.size), p1, _dense(gpu, g, param), m1, v1, p1.size, *numbers)
    for x, mine in zip((param, m, v), own, strict=True):
        if mine is not x:
            _write(gpu, x, mine)


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


# Dropout


@cache
def philox(gpu, letter):
    cuda, umulhi = gpu.cuda, gpu.umulhi
    zero = np.dtype(letter).type(0)
    M0, M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
    W0, W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
    none, eleven = np.uint64(0), np.uint64(11)

    def dropout_mask_kernel(mask, size, threshold, kept, key0, key1, step):
        """Philox4x64-10 (Salmon et al. 2011): four words from each counter (1 + e, 0, 0, step)."""
        e = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if 4 * e < size:
            c0 = np.uint64(e + 1)
            c1 = none
            c2 = none
            c3 = step
            k0 = key0
            k1 = key1
            for _ in range(10):
                high0 = umulhi(M0, c0)
                low0 = M0 * c0
                high1 = umulhi(M1, c2)
                low1 = M1 * c2
                c0 = high1 ^ c1 ^ k0
                c1 = low1
                c2 = high0 ^ c3 ^ k1
                c3 = low0
                k0 += W0
                k1 += W1
            for i in range(4):
                word = c0
                if i == 1:
                    word = c1
                if i == 2:
                    word = c2
                if i == 3:
                    word = c3
                if 4 * e + i < size:
                    value = zero
                    if word >> eleven >= threshold:
                        value = kept
                    mask[4 * e + i] = value

    return gpu.kernel(dropout_mask_kernel, f"*{letter} q Q {letter} Q Q Q", THREADS)


def dropout_mask(shape, ratio, key, step, dtype):
    gpu = what_runs()
    shape = tuple(map(int, shape))
    dtype = np.dtype(dtype)
    if dtype not in FLOATS or not dtype.isnative:
        raise TypeError(f"dropout_mask: dtype must be float32 or float64, got {dtype}")
    if not 0 <= ratio < 1:
        raise ValueError(f"dropout_mask: ratio must be in [0, 1), got {ratio}")
    if len(key) != 2:
        raise ValueError(f"dropout_mask: key must be (seed, layer), got {key}")
    for name, value in (("key", key[0]), ("key", key[1]), ("step", step)):
        if not 0 <= value < 2**64:
            raise ValueError(f"dropout_mask: {name} must be in [0, 2**64), got {value}")
    mask = gpu.xp.empty(shape, dtype)
    if mask.size:
        # (word >> 11) / 2^53 >= ratio, in whole numbers
        threshold, kept = math.ceil(ratio * 2**53), 1 / (1 - ratio)
        blocks = -(-mask.size // (4 * THREADS))
        philox(gpu, dtype.char)(
            blocks, mask.reshape(-1), mask.size, threshold, kept, key[0], key[1], step
        )
    return mask


# Checks and copies


def _matrix(owner, x, dtype, shape):
    array(owner, x, dtype, len(shape))
    if x.shape != shape:
        raise ValueError(f"{owner} must be {shape}, got {x.shape}")


def _check_affine(x, W, b, owner="affine"):
    array(f"{owner}: W", W, None, 2)
    array(f"{owner}: x", x, W.dtype, 2)
    K, N = W.shape
    if x.shape[1] != K:
        raise ValueError(f"{owner}: x must be (M, K) with K = {K}, got {x.shape}")
    if b is not None:
        _matrix(f"{owner}: b", b, W.dtype, (N,))
    if x.shape[0] * N > sys.maxsize // 16:
        raise ValueError(f"{owner}: ({x.shape[0]}, {N}) scores cannot be addressed")


def _writable(owner, x, dtype, shape):
    _matrix(owner, x, dtype, shape)
    if is_numpy(x) and not x.flags.writeable:
        raise ValueError(f"{owner} must be writeable, got read-only")


def _real(owner, x):
    found = getattr(x, "dtype", None)
    if found not in FLOATS or not hasattr(x, "shape"):
        raise TypeError(f"{owner} must be float32 or float64, got {found or type(x).__name__}")
    return np.dtype(found)


def _number(owner, x):
    try:
        if isinstance(x, str):
            raise TypeError
        return float(x)
    except TypeError:
        raise TypeError(f"{owner} must be a number, got {type(x).__name__}") from None


def _ids(owner, ids, size):
    """ids as contiguous int64 where they are; NumPy's are checked and copied."""
    found = getattr(ids, "dtype", None)
    if found is None or not hasattr(ids, "shape") or np.dtype(found).kind not in "iu":
        raise TypeError(f"{owner} must be an integer array, got {found or type(ids).__name__}")
    if not is_numpy(ids):
        gpu = what_runs()
        return gpu.xp.ascontiguousarray(gpu.to_device(ids).astype(np.int64))
    if ids.size and (ids.min() < 0 or ids.max() >= size):
        wrong = ids[(ids < 0) | (ids >= size)].flat[0]
        raise ValueError(f"{owner} must be in [0, {size}), got {wrong}")
    return np.array(ids, np.int64, order="C")


def _targets(owner, ts, M, V, ignored):
    """ts as contiguous int64 where they are; NumPy's are checked and copied."""
    if is_numpy(ts) and ts.dtype.kind in "iu":
        _ids(owner, ts[ts != ignored], V)
        own = np.array(ts, np.int64, order="C")
    else:
        own = _ids(owner, ts, V)
    if own.shape != (M,):
        raise ValueError(f"{owner} must be (M,) = ({M},), got {ts.shape}")
    return own


def _blocks(size):
    return min(-(-size // THREADS), WIDE)


def _give(gpu, x, *arguments):
    """A result, as NumPy's where all of the arguments were."""
    return gpu.to_host(x) if all(map(is_numpy, arguments)) else x


def _write(gpu, target, value):
    if target is not value:
        target[...] = gpu.to_host(value) if is_numpy(target) else value
