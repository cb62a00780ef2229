"""Mixtures of K softmaxes with shared weights: log probabilities, loss, gradients.

The rows of all softmaxes are M*K rows of one product. Their scores are made for a chunk of M at a
time: no array (M, K, V) exists. In training the gradients are computed while the scores of a chunk
are there, so that no product is computed twice; backward multiplies them by dout.
"""

from functools import cache

import numpy as np

from rnnfast.checks import is_numpy
from rnnfast.cuda import what_runs
from rnnfast.cuda.activations import exponential
from rnnfast.cuda.affine import multiply
from rnnfast.cuda.arguments import array
from rnnfast.cuda.op_arguments import (
    blocks_of,
    check_affine,
    counted_rows,
    give,
    matrix,
    targets,
    writable,
    write,
)
from rnnfast.cuda.signatures import signature_of
from rnnfast.cuda.softmax_loss import loss_rows, loss_rows_back
from rnnfast.cuda.steps import THREADS

CHUNK = 2**24  # scores that exist at a time, or those of one row of M


@cache
def mixture_rows(gpu, letter):
    cuda, exp, log = gpu.cuda, exponential(gpu, letter), gpu.log
    real = np.dtype(letter).type
    zero, lowest = real(0), np.finfo(real).min

    def mixture_rows_kernel(prior, losses, ts, factor, mixed, shares, dprior, M, K, ignored):
        """A thread for each row m: the loss, mixed (M), and what its gradients are multiplied by.

        losses (M, K): -log p_k[t]. shares: r_k = pi_k p_k[t] / p[t], and dprior: pi_k - r_k, both
        times factor[0]; 0 where the target is ignored.
        """
        m = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if m < M:
            counts = ts[m] != ignored
            top = lowest
            top_share = lowest
            for k in range(m * K, m * K + K):
                a = prior[k]
                if a > top:
                    top = a
                if a - losses[k] > top_share:
                    top_share = a - losses[k]
            total = zero
            of_target = zero
            for k in range(m * K, m * K + K):
                total += exp(prior[k] - top)
                of_target += exp(prior[k] - losses[k] - top_share)
            mixed[m] = zero
            if counts:
                mixed[m] = (log(total) + top) - (log(of_target) + top_share)
            for k in range(m * K, m * K + K):
                share = zero
                d = zero
                if counts:
                    share = factor[0] * (exp(prior[k] - losses[k] - top_share) / of_target)
                    d = factor[0] * (exp(prior[k] - top) / total) - share
                shares[k] = share
                dprior[k] = d

    signature = signature_of(mixture_rows_kernel, letter)
    return gpu.kernel(mixture_rows_kernel, signature, THREADS)


@cache
def mixture_weights(gpu, letter):
    cuda, exp, log = gpu.cuda, exponential(gpu, letter), gpu.log
    real = np.dtype(letter).type
    zero, lowest = real(0), np.finfo(real).min

    def mixture_weights_kernel(prior, scales, shifts, M, K):
        """shifts (M, K): what makes a score of softmax k, less its maximum, log pi_k p_k."""
        m = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        if m < M:
            top = lowest
            for k in range(m * K, m * K + K):
                if prior[k] > top:
                    top = prior[k]
            total = zero
            for k in range(m * K, m * K + K):
                total += exp(prior[k] - top)
            for k in range(m * K, m * K + K):
                shifts[k] = (prior[k] - top - log(total)) + log(scales[k])

    signature = signature_of(mixture_weights_kernel, letter)
    return gpu.kernel(mixture_weights_kernel, signature, THREADS)


@cache
def mixture_scores(gpu, letter):
    cuda, exp, log = gpu.cuda, exponential(gpu, letter), gpu.log
    real = np.dtype(letter).type
    zero, lowest = real(0), np.finfo(real).min

    def mixture_scores_kernel(x, b, maxima, shifts, log_p, M, K, V):
        """log_p (M, V) = log sum_k exp(x_k + b - maximum_k + shift_k)."""
        for e in range(
            cuda.blockIdx.x * THREADS + cuda.threadIdx.x, M * V, cuda.gridDim.x * THREADS
        ):
            m = e // V
            v = e - m * V
            top = lowest
            for k in range(m * K, m * K + K):
                a = x[k * V + v] + b[v] - maxima[k] + shifts[k]
                if a > top:
                    top = a
            total = zero
            for k in range(m * K, m * K + K):
                total += exp(x[k * V + v] + b[v] - maxima[k] + shifts[k] - top)
            log_p[e] = log(total) + top

    signature = signature_of(mixture_scores_kernel, letter)
    return gpu.kernel(mixture_scores_kernel, signature, THREADS)


def mixture_softmax(hs, prior, W, b):
    gpu = what_runs()
    hs2, prior2, W2, bias = _arguments(gpu, "mixture_softmax", hs, prior, W, b)
    (M, K, _), V, letter, xp = hs.shape, W.shape[1], W2.dtype.char, gpu.xp
    of_W = {}  # copies: nobody writes W meanwhile
    log_p = xp.empty((M, V), W2.dtype)
    for start, stop in _chunks(M, K, V):
        count = stop - start
        x = _scores(gpu, hs2, W2, start, stop, of_W)
        nothing = xp.zeros(count * K, np.int64)
        losses, maxima, scales, shifts = (xp.empty(count * K, W2.dtype) for _ in range(4))
        kernel = loss_rows(gpu, letter)
        rows = {"losses": losses, "maxima": maxima, "scales": scales}
        kernel(blocks=count * K, x=x, b=bias, ts=nothing, **rows, V=V, ignored=-1)
        kernel = mixture_weights(gpu, letter)
        part = prior2[start:stop]
        kernel(blocks=_blocks(count), prior=part, scales=scales, shifts=shifts, M=count, K=K)
        kernel = mixture_scores(gpu, letter)
        scores = {"x": x, "b": bias, "maxima": maxima, "shifts": shifts, "log_p": log_p[start:stop]}
        kernel(blocks=blocks_of(count * V), **scores, M=count, K=K, V=V)
    return give(gpu, log_p, hs, W)


class Gradients(list):
    """The cache of mixture_softmax_loss: dhs, dprior, dW, db, host; empty once used."""


def mixture_softmax_loss_forward(hs, prior, W, b, ts, *, ignore_label=-1, train=True):
    gpu = what_runs()
    name = "mixture_softmax_loss"
    hs2, prior2, W2, bias = _arguments(gpu, name, hs, prior, W, b)
    (M, K, D), V, letter, xp = hs.shape, W.shape[1], W2.dtype.char, gpu.xp
    own = gpu.to_device(targets(f"{name}: ts", ts, M, V, ignore_label))
    if train:
        hs2 = counted_rows(gpu, hs2, own, ignore_label)
    count = xp.maximum((own != ignore_label).sum(), 1)
    factor = (1 / count).astype(W2.dtype).reshape(1)
    mixed, shares, dprior = (xp.empty(shape, W2.dtype) for shape in (M, (M, K), (M, K)))
    dhs = dW = db = None
    of_W = {}  # copies: nobody writes W meanwhile
    if train:
        dhs, part = xp.empty((M, K, D), W2.dtype), xp.empty((D, V), W2.dtype)
        dW, db = xp.zeros((D, V), W2.dtype), xp.zeros(V, W2.dtype)
    for start, stop in _chunks(M, K, V):
        rows = (stop - start) * K
        of_hs = {}  # of these rows
        x = _scores(gpu, hs2, W2, start, stop, of_W, of_hs)
        ids = xp.empty((stop - start, K), np.int64)
        ids[...] = own[start:stop, np.newaxis]
        losses, maxima, scales = (xp.empty(rows, W2.dtype) for _ in range(3))
        sums = {"maxima": maxima, "scales": scales, "V": V, "ignored": ignore_label}
        loss_rows(gpu, letter)(blocks=rows, x=x, b=bias, ts=ids, losses=losses, **sums)
        share = shares[start:stop]
        mixture_rows(gpu, letter)(
            blocks=_blocks(stop - start),
            prior=prior2[start:stop],
            losses=losses,
            ts=own[start:stop],
            factor=factor,
            mixed=mixed[start:stop],
            shares=share,
            dprior=dprior[start:stop],
            M=stop - start,
            K=K,
            ignored=ignore_label,
        )
        if train:
            loss_rows_back(gpu, letter)(
                blocks=rows, x=x, b=bias, ts=ids, factor=share, dx=x, **sums
            )
            multiply(gpu, x, W2.T, dhs[start:stop].reshape(rows, D), of_b=of_W)
            multiply(gpu, hs2[start:stop].reshape(rows, D).T, x, part, of_hs)
            dW += part
            db += x.sum(axis=0)
    host = is_numpy(hs) and is_numpy(W)
    total = mixed.sum(dtype=np.float64) / count
    kept = Gradients((dhs, dprior, dW, db, host)) if train else None
    return (float(total) if host else total), kept


def mixture_softmax_loss_backward(cache, dW, db, dout=1.0):
    name = "mixture_softmax_loss"
    if not isinstance(cache, Gradients):
        raise (RuntimeError if cache is None else TypeError)(
            f"{name}: cache must come from mixture_softmax_loss_forward"
        )
    if not cache:
        raise RuntimeError(f"{name}: backward needs a cache that is not consumed")
    gpu = what_runs()
    dhs, dprior, of_W, of_b, host = cache
    writable(f"{name}: dW", dW, of_W.dtype, of_W.shape)
    if db is not None:
        writable(f"{name}: db", db, of_W.dtype, of_b.shape)
    if (not np.isscalar(dout) and not gpu.is_array(dout)) or isinstance(dout, str):
        raise TypeError(f"{name}: dout must be a number, got {type(dout).__name__}")
    for grad in (dhs, dprior, of_W, of_b):
        grad *= dout
    write(gpu, dW, of_W)
    if db is not None:
        write(gpu, db, of_b)
    cache.clear()
    return (gpu.to_host(dhs), gpu.to_host(dprior)) if host else (dhs, dprior)


def _arguments(gpu, name, hs, prior, W, b):
    """The arguments on the GPU, contiguous but for W, checked; zeros for b None."""
    array(f"{name}: W", W, None, 2)
    array(f"{name}: hs", hs, W.dtype, 3)
    (M, K, D), V = hs.shape, W.shape[1]
    if W.shape[0] != D or K == 0:
        expected = f"(M, K, D) with D = {W.shape[0]}, K from 1 up"
        raise ValueError(f"{name}: hs must be {expected}, got {hs.shape}")
    matrix(f"{name}: prior", prior, W.dtype, (M, K))
    check_affine(hs[:, 0], W, b, name)
    hs2, prior2 = (gpu.xp.ascontiguousarray(gpu.to_device(x)) for x in (hs, prior))
    W2 = gpu.to_device(W)
    bias = gpu.xp.zeros(V, W2.dtype) if b is None else gpu.xp.ascontiguousarray(gpu.to_device(b))
    return hs2, prior2, W2, bias


def _chunks(M, K, V):
    """(start, stop) of rows of M whose scores exist at a time."""
    rows = max(CHUNK // max(K * V, 1), 1)
    return [(start, min(start + rows, M)) for start in range(0, M, rows)]


def _scores(gpu, hs, W, start, stop, of_W, of_hs=None):
    """The scores ((stop - start) K, V) of these rows, without b."""
    rows = (stop - start) * hs.shape[1]
    x = gpu.xp.empty((rows, W.shape[1]), W.dtype)
    multiply(gpu, hs[start:stop].reshape(rows, W.shape[0]), W, x, of_hs, of_W)
    return x


def _blocks(count):
    """Blocks for a thread a row."""
    return -(-count // THREADS)
