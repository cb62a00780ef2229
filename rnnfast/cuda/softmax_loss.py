"""Softmax and cross entropy, alone or behind x W + b: a block for each row."""

from functools import cache

import numpy as np

from rnnfast.checks import is_numpy
from rnnfast.cuda import what_runs
from rnnfast.cuda.activations import exponential
from rnnfast.cuda.affine import affine_back, multiply
from rnnfast.cuda.arguments import array
from rnnfast.cuda.op_arguments import check_affine, counted_rows, targets, writable
from rnnfast.cuda.signatures import signature_of
from rnnfast.cuda.steps import THREADS


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

    return gpu.kernel(softmax_loss_kernel, signature_of(softmax_loss_kernel, letter), THREADS)


@cache
def loss_rows_back(gpu, letter):
    cuda = gpu.cuda
    exp = exponential(gpu, letter)
    zero = np.dtype(letter).type(0)

    def softmax_loss_back_kernel(x, b, ts, maxima, scales, factor, dx, V, ignored):
        """dx may be x. factor (M): of each row's gradient."""
        m = cuda.blockIdx.x
        t = ts[m]
        for v in range(cuda.threadIdx.x, V, THREADS):
            d = zero
            if t != ignored:
                d = factor[m] * scales[m] * exp(x[m * V + v] + b[v] - maxima[m])
                if v == t:
                    d -= factor[m]
            dx[m * V + v] = d

    signature = signature_of(softmax_loss_back_kernel, letter)
    return gpu.kernel(softmax_loss_back_kernel, signature, THREADS)


def softmax_loss_forward(xs, ts, *, ignore_label=-1):
    gpu = what_runs()
    array("softmax_loss: xs", xs, None, 2)
    M, V = xs.shape
    own = targets("softmax_loss: ts", ts, M, V, ignore_label)
    x = gpu.xp.ascontiguousarray(gpu.to_device(xs))
    b = gpu.xp.zeros(V, x.dtype)
    return _loss(gpu, x, b, gpu.to_device(own), ignore_label, is_numpy(xs))


def _loss(gpu, x, b, ts, ignored, host):
    """The mean loss of scores x + b, and what backward needs; all on the GPU."""
    xp = gpu.xp
    M, V = x.shape
    losses, maxima, scales = (xp.empty(M, x.dtype) for _ in range(3))
    if M:
        kernel, sums = loss_rows(gpu, x.dtype.char), {"maxima": maxima, "scales": scales}
        kernel(blocks=M, x=x, b=b, ts=ts, losses=losses, **sums, V=V, ignored=ignored)
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
    M, V = x.shape
    if M and V:
        factor = gpu.xp.empty(M, x.dtype)
        factor[...] = dout / count
        kernel = loss_rows_back(gpu, x.dtype.char)
        sums = {"maxima": maxima, "scales": scales}
        kernel(blocks=M, x=x, b=b, ts=ts, **sums, factor=factor, dx=dx, V=V, ignored=ignored)


class Scores(list):
    """The cache of affine_softmax_loss: x, W, copies of both, the loss's; empty once used."""


def affine_softmax_loss_forward(x, W, b, ts, *, ignore_label=-1, train=True, spent=None):
    gpu = what_runs()
    check_affine(x, W, b, "affine_softmax_loss")
    (M, _), V = x.shape, W.shape[1]
    if spent is not None and not isinstance(spent, Scores):
        raise TypeError(
            f"affine_softmax_loss: spent must be an earlier cache, got {type(spent).__name__}"
        )
    own = targets("affine_softmax_loss: ts", ts, M, V, ignore_label)
    x2, W2, own = gpu.to_device(x), gpu.to_device(W), gpu.to_device(own)
    if train:
        x2 = counted_rows(gpu, x2, own, ignore_label)
    bias = gpu.xp.zeros(V, W2.dtype) if b is None else gpu.xp.ascontiguousarray(gpu.to_device(b))
    # Not in the memory of `spent`, which a graph may still write: CuPy's pool has the same for us
    scores = gpu.xp.empty((M, V), W2.dtype)
    made = ({}, {}) if train else (None, None)
    multiply(gpu, x2, W2, scores, *made)
    host = is_numpy(x) and is_numpy(W)
    loss, of_loss = _loss(gpu, scores, bias, own, ignore_label, host)
    return loss, Scores((x2, W2, made, of_loss)) if train else None


def affine_softmax_loss_backward(cache, dW, db, dout=1.0):
    if not isinstance(cache, Scores):
        raise (RuntimeError if cache is None else TypeError)(
            "affine_softmax_loss: cache must come from affine_softmax_loss_forward"
        )
    if not cache:
        raise RuntimeError("affine_softmax_loss: backward needs a cache that is not consumed")
    gpu = what_runs()
    x, W, made, of_loss = cache
    writable("affine_softmax_loss: dW", dW, W.dtype, W.shape)
    if db is not None:
        writable("affine_softmax_loss: db", db, W.dtype, W.shape[1:])
    if (not np.isscalar(dout) and not gpu.is_array(dout)) or isinstance(dout, str):
        raise TypeError(f"affine_softmax_loss: dout must be a number, got {type(dout).__name__}")
    scores = of_loss[0]
    _loss_back(gpu, of_loss, dout, scores)
    dx = affine_back(gpu, scores, x, W, dW, db, *made)
    cache.clear()
    return gpu.to_host(dx) if of_loss[-1] else dx
