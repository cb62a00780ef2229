"""The operations that are not recurrent, on the CPU; loops in src/kernels: affine, softmax, affine_softmax, updates, ops."""
cimport cython
cimport numpy as cnp
import numpy as np

from cpython.exc cimport PyErr_CheckSignals
from libc.stdlib cimport free

from rnnfast.cpu._runtime cimport (
    LONG_CALL, SCORES, SQUARES, affine_softmax_job, behaved, checked, dropout_job, finished, gemm_job, kernels_for, meets, memory,
    mixture_job, plain, real_type, same_shape, scatter_job, softmax_job, span, span_of, strided, threads_for, update_job, view, writable,
)

cnp.import_array()

cdef extern from "<stdint.h>":
    const ptrdiff_t PTRDIFF_MAX


cdef int multiply(cnp.ndarray a, cnp.ndarray b, cnp.ndarray bias, cnp.ndarray c, bint whole=False) except -1:
    """c = a b + bias; one of c's strides is unit, and bias is given only where the last one is. whole: c is the caller's."""
    cdef gemm_job job
    job.whole = whole
    job.M, job.N, job.K = cnp.PyArray_DIM(c, 0), cnp.PyArray_DIM(c, 1), cnp.PyArray_DIM(a, 1)
    if job.M == 0 or job.N == 0:
        return 0
    job.threads = threads_for(2.0 * job.M * job.N * job.K, max(job.M, job.N) // 8)
    job.a, job.b, job.c = view(a), view(b), view(c)
    job.bias = NULL if bias is None else cnp.PyArray_DATA(bias)
    cdef int type_num = cnp.PyArray_TYPE(c), failed
    with nogil:
        failed = kernels_for(type_num).gemm(&job)
    return finished(failed, "affine")


cdef cnp.ndarray place(cnp.ndarray grad, list inputs, bint beside):
    """Where to compute a gradient: in grad, where its rows or its columns are contiguous and nothing that is read lies
    there; else beside it, or if `beside` in any case."""
    cdef span own = span_of(grad)
    cdef bint direct = not beside and (cnp.PyArray_ISCARRAY(grad) or cnp.PyArray_ISFARRAY(grad))
    for x in inputs:
        direct = direct and not meets(own, span_of(x))
    if direct:
        return grad
    return np.empty(np.shape(grad), dtype=cnp.PyArray_DescrFromType(cnp.PyArray_TYPE(grad)))


cdef int apart(cnp.ndarray dW, cnp.ndarray db, str name) except -1:
    """Raise where db has memory of dW."""
    if db is not None and meets(span_of(dW), span_of(db)) and np.may_share_memory(dW, db, 10**6):
        raise ValueError(f"{name}: db must have memory of its own, got that of dW")
    return 0


def affine_forward(x, W, b):
    """y (M, N) = x (M, K) W (K, N) + b (N,); b may be None. W may be any view, as in embed_W.T."""
    cdef int type_num = real_type(W, "affine: W")
    cdef cnp.ndarray right = checked(W, 2, type_num, "affine: W"), left = checked(x, 2, type_num, "affine: x")
    cdef cnp.ndarray bias = None if b is None else checked(b, 1, type_num, "affine: b")
    if left.shape[1] != right.shape[0]:
        raise ValueError(f"affine: x must be (M, K) with K = {right.shape[0]}, got {np.shape(left)}")
    if b is not None and bias.shape[0] != right.shape[1]:
        raise ValueError(f"affine: b must be ({right.shape[1]},), got {np.shape(bias)}")
    left, right = behaved(left, False), behaved(right, False)
    bias = None if b is None else behaved(bias, True)
    cdef cnp.npy_intp[2] dims = [left.shape[0], right.shape[1]]
    cdef cnp.ndarray y = cnp.PyArray_EMPTY(2, dims, type_num, 0)
    multiply(left, right, bias, y)
    return y


def affine_backward(dy, x, W, dW, db):
    """dx = dy W^T; dW = x^T dy and db = column sums of dy are written in place (db may be None)."""
    cdef int type_num = real_type(W, "affine: W")
    cdef cnp.ndarray right = checked(W, 2, type_num, "affine: W"), left = checked(x, 2, type_num, "affine: x")
    cdef cnp.ndarray dout = checked(dy, 2, type_num, "affine: dy")
    cdef ptrdiff_t M = left.shape[0], K = right.shape[0], N = right.shape[1]
    if left.shape[1] != K:
        raise ValueError(f"affine: x must be (M, K) with K = {K}, got {np.shape(left)}")
    if dout.shape[0] != M or dout.shape[1] != N:
        raise ValueError(f"affine: dy must be (M, N) = ({M}, {N}), got {np.shape(dout)}")
    cdef cnp.ndarray of_W = writable(dW, right, "affine: dW"), of_b = None, total = None
    if db is not None:
        total = np.empty(N, dtype=cnp.PyArray_DescrFromType(type_num))
        of_b = writable(db, total, "affine: db")
    apart(of_W, of_b, "affine")
    left, right, dout = behaved(left, False), behaved(right, False), behaved(dout, True)

    cdef cnp.npy_intp[2] dims = [M, K]
    cdef cnp.ndarray dx = cnp.PyArray_EMPTY(2, dims, type_num, 0)
    cdef bint beside = 2.0 * M * K * N > LONG_CALL
    cdef cnp.ndarray grad = place(of_W, [left, right, dout], beside)
    multiply(dout, right.T, None, dx)
    if total is not None:
        column_sums(dout, total)
    multiply(left.T, dout, None, grad, not beside)
    if grad is not of_W:
        (<object>of_W)[...] = grad
    if total is not None:
        (<object>of_b)[...] = total
    return dx


cdef int column_sums(cnp.ndarray a, cnp.ndarray out) except -1:
    cdef gemm_job job
    job.M, job.N, job.K = cnp.PyArray_DIM(a, 0), cnp.PyArray_DIM(a, 1), 0
    job.threads = threads_for(1.0 * job.M * job.N, job.N // 16)
    job.a, job.c = view(a), view(out)
    cdef int type_num = cnp.PyArray_TYPE(a), failed
    with nogil:
        failed = kernels_for(type_num).column_sums(&job)
    return finished(failed, "affine")


cdef cnp.ndarray checked_ids(ids, ptrdiff_t V, str name, str meaning):
    """ids as contiguous native integers, all in [0, V)."""
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu":
        raise TypeError(f"{name} must be an integer array, got {getattr(ids, 'dtype', type(ids).__name__)}")
    own = np.array(ids, dtype=np.intp, order="C", subok=False)  # a copy: what is checked is what is used
    if own.size:
        low, high = own.min(), own.max()
        if low < 0 or high >= V:
            raise ValueError(f"{name} must be in [0, {meaning}) = [0, {V}), got {low if low < 0 else high}")
    return own


def embedding_forward(ids, W):
    """Rows of W (V, D) for ids of any shape: ids.shape + (D,)."""
    real_type(W, "embedding: W")
    W = plain(W)
    if W.ndim != 2:
        raise ValueError(f"embedding: W must be (V, D), got {W.shape}")
    checked = checked_ids(ids, W.shape[0], "embedding: ids", "V")
    return np.take(W, checked, axis=0)


def embedding_backward(dout, ids, dW):
    """dW (V, D) = 0, then dW[id] += its row of dout for every id, in order: repeated ids add up."""
    cdef int type_num = real_type(dW, "embedding: dW")
    dW = plain(dW)
    if dW.ndim != 2 or not dW.flags.writeable:
        raise ValueError(f"embedding: dW must be a writable (V, D) array, got shape {dW.shape}")
    if isinstance(ids, np.ndarray) and isinstance(dout, np.ndarray):
        ids, dout = plain(ids), plain(dout)
        if dout.shape != (*ids.shape, dW.shape[1]):
            raise ValueError(f"embedding: dout must have shape {(*ids.shape, dW.shape[1])}, got {dout.shape}")
    checked(dout, ids.ndim + 1 if isinstance(ids, np.ndarray) else 1, type_num, "embedding: dout")
    cdef cnp.ndarray at = checked_ids(ids, dW.shape[0], "embedding: ids", "V")
    cdef cnp.ndarray dy = behaved(dout.reshape(-1, dW.shape[1]) if dout.size else dout.reshape(0, dW.shape[1]), True)
    cdef cnp.ndarray grad = dW
    if not cnp.PyArray_ISBEHAVED(grad) or (dW.shape[1] > 1 and dW.strides[1] != dW.itemsize) or (
        meets(span_of(grad), span_of(dy))
    ):
        grad = np.empty(dW.shape, dtype=cnp.PyArray_DescrFromType(type_num))
    cdef scatter_job job
    job.M, job.V, job.D = at.size, grad.shape[0], grad.shape[1]
    job.threads = threads_for(1.0 * (job.M + job.V) * job.D, job.D // 16)
    job.ids = <const ptrdiff_t *>cnp.PyArray_DATA(at)
    job.dy, job.dW = view(dy), view(grad)
    with nogil:
        kernels_for(type_num).scatter(&job)
    if grad is not dW:
        dW[...] = grad


cdef tuple checked_targets(ts, ignore_label, ptrdiff_t M, ptrdiff_t V, str name):
    """(targets, how many count). A row counts or is -1 from here on, so that any ignore_label is safe, even one
    beyond the classes."""
    if not isinstance(ts, np.ndarray) or ts.dtype.kind not in "iu":
        raise TypeError(f"{name} must be an integer array, got {getattr(ts, 'dtype', type(ts).__name__)}")
    own = plain(ts)
    if own.shape != (M,):
        raise ValueError(f"{name} must have shape (M,) = ({M},), got {own.shape}")
    own = own.copy()
    counted = own != ignore_label
    targets = np.full(M, -1, dtype=np.intp)
    targets[counted] = checked_ids(own[counted], V, name, "V")
    return targets, counted.sum()


cdef cnp.ndarray counted_rows(x, targets):
    """x with zeros in the rows that do not count: 0 times a NaN there would reach dW."""
    return np.where((targets >= 0).reshape(-1, *[1] * (x.ndim - 1)), x, x.dtype.type(0))


@cython.auto_pickle(False)
@cython.final
cdef class SoftmaxCache:
    """What softmax_loss_backward needs; it can be used again."""
    cdef cnp.ndarray x, targets, lse
    cdef strided x_view  # as it was: the shape of the caller's array may be assigned to
    cdef ptrdiff_t M, V, count
    cdef int type_num

    cdef softmax_job job(self) noexcept:
        cdef softmax_job job
        job.M, job.V, job.ignore = self.M, self.V, -1
        job.threads = threads_for(20.0 * self.M * self.V, self.M)
        job.x = self.x_view
        job.ts = <const ptrdiff_t *>cnp.PyArray_DATA(self.targets)
        job.lse = <double *>cnp.PyArray_DATA(self.lse)
        job.loss = NULL
        job.scale = 0
        job.dx = NULL
        return job


def softmax_loss_forward(xs, ts, *, ignore_label=-1):
    """Mean of -log softmax(xs)[t] over the rows whose target is not ignore_label, and what backward needs.

    xs (M, V) logits, ts (M,) integer targets. Log-sum-exp per row, summed over rows in float64;
    0.0 where no row counts. xs is referenced by the cache, not copied.
    """
    cdef SoftmaxCache k = SoftmaxCache()
    k.type_num = real_type(xs, "softmax_loss: xs")
    k.x = checked(xs, 2, k.type_num, "softmax_loss: xs")
    k.M, k.V = cnp.PyArray_DIM(k.x, 0), cnp.PyArray_DIM(k.x, 1)
    k.targets, k.count = checked_targets(ts, ignore_label, k.M, k.V, "softmax_loss: ts")
    k.x = behaved(k.x, True)
    k.x_view = view(k.x)
    k.lse = np.empty(k.M)
    cdef cnp.ndarray loss = np.empty(k.M)
    cdef softmax_job job = k.job()
    job.loss = <double *>cnp.PyArray_DATA(loss)
    cdef int failed
    with nogil:
        failed = kernels_for(k.type_num).softmax_forward(&job)
    finished(failed, "softmax_loss")
    return (float(loss.sum()) / k.count if k.count else 0.0), k


def softmax_loss_backward(SoftmaxCache cache not None, dout=1.0):
    """dxs (M, V) = (softmax(xs) - onehot(ts)) dout / counted rows; rows whose target was ignored are 0."""
    cdef cnp.npy_intp[2] dims = [cache.M, cache.V]
    cdef cnp.ndarray dx = cnp.PyArray_EMPTY(2, dims, cache.type_num, 0)
    cdef softmax_job job = cache.job()
    job.scale = float(dout) / cache.count if cache.count else 0.0
    job.dx = cnp.PyArray_DATA(dx)
    cdef int failed
    with nogil:
        failed = kernels_for(cache.type_num).softmax_backward(&job)
    finished(failed, "softmax_loss")
    return dx


@cython.auto_pickle(False)
@cython.final
cdef class ScoreCache:
    """What affine_softmax_loss_backward needs, the scores above all; it is used once."""
    cdef cnp.ndarray x, W, targets
    cdef strided x_view, W_view  # as they were: the shapes of the caller's arrays may be assigned to
    cdef ptrdiff_t M, K, V, count
    cdef int type_num
    cdef bint pending
    cdef void *scores
    cdef size_t size

    def __dealloc__(self):
        free(self.scores)

    cdef affine_softmax_job job(self) noexcept:
        cdef affine_softmax_job job
        job.M, job.K, job.V = self.M, self.K, self.V
        job.threads = threads_for(2.0 * self.M * self.K * self.V, max(self.M, self.V) // 8)
        job.x, job.weights = self.x_view, self.W_view
        job.ts = <const ptrdiff_t *>cnp.PyArray_DATA(self.targets)
        job.scores = self.scores
        job.bias = job.dx = job.db = NULL
        job.loss = NULL
        job.dW = self.W_view
        job.scales = NULL
        job.whole = job.more = 0
        return job


def affine_softmax_loss_forward(x, W, b, ts, *, ignore_label=-1, train=True, spent=None):
    """softmax_loss_forward of affine_forward(x, W, b): the loss, and what backward needs (None if not train).

    x (M, K), W (K, V) of any strides, b (V,) or None, ts (M,) integer targets. With train the scores are kept, to
    become their own gradient; without, no (M, V) array exists. `spent`, the cache of an earlier call, gives its
    memory if its backward has run. x and W are referenced and must stay as they are until then.
    """
    cdef ScoreCache k = ScoreCache(), old
    k.type_num = real_type(W, "affine_softmax_loss: W")
    k.W = checked(W, 2, k.type_num, "affine_softmax_loss: W")
    k.x = checked(x, 2, k.type_num, "affine_softmax_loss: x")
    cdef cnp.ndarray bias = None if b is None else checked(b, 1, k.type_num, "affine_softmax_loss: b")
    k.M, k.K, k.V = cnp.PyArray_DIM(k.x, 0), cnp.PyArray_DIM(k.W, 0), cnp.PyArray_DIM(k.W, 1)
    if cnp.PyArray_DIM(k.x, 1) != k.K:
        raise ValueError(f"affine_softmax_loss: x must be (M, K) with K = {k.K}, got {np.shape(k.x)}")
    if bias is not None and cnp.PyArray_DIM(bias, 0) != k.V:
        raise ValueError(f"affine_softmax_loss: b must be ({k.V},), got {np.shape(bias)}")
    if spent is not None and not isinstance(spent, ScoreCache):
        raise TypeError(f"affine_softmax_loss: spent must be a cache or None, got {type(spent).__name__}")
    k.targets, k.count = checked_targets(ts, ignore_label, k.M, k.V, "affine_softmax_loss: ts")
    k.x, k.W = behaved(k.x, True), behaved(k.W, False)
    if train and k.count < k.M:
        k.x = counted_rows(k.x, k.targets)
    bias = None if b is None else behaved(bias, True)
    k.x_view, k.W_view = view(k.x), view(k.W)
    cdef cnp.ndarray loss = np.empty(k.M)
    cdef size_t size
    if train and k.M and k.V:
        if k.M > PTRDIFF_MAX // (8 * SCORES(k.V)):
            raise MemoryError(f"affine_softmax_loss: no memory for scores ({k.M}, {k.V})")
        size = k.M * SCORES(k.V) * cnp.PyArray_ITEMSIZE(k.W)
        old = spent
        if old is not None and not old.pending and old.size == size:
            k.scores, old.scores, old.size = old.scores, NULL, 0
        else:
            k.scores = memory(size)
            if k.scores == NULL:
                raise MemoryError(f"affine_softmax_loss: no memory for scores ({k.M}, {k.V})")
        k.size = size
    cdef affine_softmax_job job = k.job()
    job.bias = NULL if bias is None else cnp.PyArray_DATA(bias)
    job.loss = <double *>cnp.PyArray_DATA(loss)
    cdef int failed = 0
    if k.M and k.V:
        with nogil:
            failed = kernels_for(k.type_num).affine_softmax_forward(&job)
    finished(failed, "affine_softmax_loss")
    k.pending = train
    return (float(loss.sum()) / k.count if k.count else 0.0), (k if train else None)


def affine_softmax_loss_backward(cache, dW, db, dout=1.0):
    """dx (M, K); writes dW (K, V) and db (V,), which may be None, in place. Consumes the cache."""
    if not isinstance(cache, ScoreCache):
        raise RuntimeError("affine_softmax_loss: backward needs the cache of a forward with train=True")
    cdef ScoreCache k = cache
    if not k.pending:
        raise RuntimeError("affine_softmax_loss: backward has consumed this cache")
    cdef cnp.ndarray of_W = writable(dW, k.W, "affine_softmax_loss: dW"), of_b = None, total = None
    if db is not None:
        total = np.empty(k.V, dtype=cnp.PyArray_DescrFromType(k.type_num))
        of_b = writable(db, total, "affine_softmax_loss: db")
    apart(of_W, of_b, "affine_softmax_loss")
    cdef cnp.ndarray scales = np.full(k.M, float(dout) / k.count if k.count else 0.0)
    cdef cnp.npy_intp[2] dims = [k.M, k.K]
    cdef cnp.ndarray dx = cnp.PyArray_EMPTY(2, dims, k.type_num, 0)
    cdef bint beside = 4.0 * k.M * k.K * k.V > LONG_CALL
    cdef cnp.ndarray grad = place(of_W, [k.x, k.W], beside)
    cdef affine_softmax_job job = k.job()
    job.whole = not beside
    job.scales = <const double *>cnp.PyArray_DATA(scales)
    job.dx, job.dW = cnp.PyArray_DATA(dx), view(grad)
    job.db = NULL if total is None else cnp.PyArray_DATA(total)
    cdef int failed = 0
    if k.M and k.V:
        with nogil:
            failed = kernels_for(k.type_num).affine_softmax_backward(&job)
    else:
        dx[...] = 0
        grad[...] = 0
        if total is not None:
            total[...] = 0
    finished(failed, "affine_softmax_loss")
    k.pending = False
    k.x = k.W = None  # only the scores' memory is left
    if grad is not of_W:
        (<object>of_W)[...] = grad
    if total is not None:
        (<object>of_b)[...] = total
    return dx


# ---- mixtures of softmaxes

cdef ptrdiff_t CHUNK = 1 << 24  # bytes of scores that exist at a time: they stay in a cache until backward reads them


cdef struct mixture_sizes:
    ptrdiff_t M, K, D, V, rows  # rows of M whose scores exist at a time
    int type_num


cdef list mixture_arguments(hs, prior, W, b, str name, mixture_sizes *s):
    """[hs, log pi, W, b], checked, hs contiguous, log pi = log softmax(prior) in float64; sizes are written to s."""
    s.type_num = real_type(W, f"{name}: W")
    cdef cnp.ndarray right = checked(W, 2, s.type_num, f"{name}: W"), left = checked(hs, 3, s.type_num, f"{name}: hs")
    cdef cnp.ndarray weights = checked(prior, 2, s.type_num, f"{name}: prior")
    cdef cnp.ndarray bias = None if b is None else checked(b, 1, s.type_num, f"{name}: b")
    s.M, s.K, s.D = cnp.PyArray_DIM(left, 0), cnp.PyArray_DIM(left, 1), cnp.PyArray_DIM(left, 2)
    s.V = cnp.PyArray_DIM(right, 1)
    if cnp.PyArray_DIM(right, 0) != s.D or s.K == 0:
        expected = f"(M, K, D) with D = {cnp.PyArray_DIM(right, 0)}, K from 1 up"
        raise ValueError(f"{name}: hs must be {expected}, got {np.shape(left)}")
    if cnp.PyArray_DIM(weights, 0) != s.M or cnp.PyArray_DIM(weights, 1) != s.K:
        raise ValueError(f"{name}: prior must be (M, K) = ({s.M}, {s.K}), got {np.shape(weights)}")
    if bias is not None and cnp.PyArray_DIM(bias, 0) != s.V:
        raise ValueError(f"{name}: b must be ({s.V},), got {np.shape(bias)}")
    if s.V > PTRDIFF_MAX // (16 * s.K):
        raise MemoryError(f"{name}: no memory for scores ({s.K}, {s.V})")
    cdef ptrdiff_t row = max(s.K * SCORES(s.V) * cnp.PyArray_ITEMSIZE(right), 1)
    s.rows = max(CHUNK // row, 1)
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        log_pi = weights.astype(np.float64, order="C")
        log_pi -= log_pi.max(axis=1, keepdims=True, initial=-np.inf)
        log_pi -= np.log(np.exp(log_pi).sum(axis=1, keepdims=True))
    return [in_order(left, False), log_pi, behaved(right, False), None if b is None else behaved(bias, True)]


def mixture_softmax(hs, prior, W, b):
    """log p (M, V), p = sum_k pi_k softmax(hs_k W + b) with pi = softmax(prior): hs (M, K, D), prior (M, K), W (D, V)."""
    cdef mixture_sizes s
    left, log_pi, right, bias = mixture_arguments(hs, prior, W, b, "mixture_softmax", &s)
    cdef cnp.npy_intp[2] dims = [s.M, s.V]
    cdef cnp.ndarray log_p = cnp.PyArray_EMPTY(2, dims, s.type_num, 0)
    cdef cnp.ndarray scores, part, weights, shifts
    cdef ptrdiff_t start, stop
    cdef mixture_job job
    cdef int failed
    if s.V == 0:
        return log_p
    scores = np.empty((min(s.rows, s.M) * s.K, s.V), log_p.dtype)
    for start in range(0, s.M, s.rows):
        stop = min(start + s.rows, s.M)
        part = scores[:(stop - start) * s.K]
        multiply(left[start:stop].reshape(len(part), s.D), right, bias, part)
        weights, shifts = log_pi[start:stop], np.empty((stop - start, s.K))
        job.M, job.K, job.V = stop - start, s.K, s.V
        job.threads = threads_for(20.0 * job.M * job.K * job.V, job.M * job.K)
        job.scores = cnp.PyArray_DATA(part)
        job.log_pi, job.shifts = <const double *>cnp.PyArray_DATA(weights), <double *>cnp.PyArray_DATA(shifts)
        job.log_p = <char *>cnp.PyArray_DATA(log_p) + start * s.V * cnp.PyArray_ITEMSIZE(log_p)
        with nogil:
            failed = kernels_for(s.type_num).mixture_softmax(&job)
        finished(failed, "mixture_softmax")
        PyErr_CheckSignals()  # a kernel asks only after a while
    return log_p


@cython.auto_pickle(False)
@cython.final
cdef class MixtureCache:
    """The gradients for dout = 1 until backward takes them: it is used once."""
    cdef cnp.ndarray dhs, dprior, dW, db


def mixture_softmax_loss_forward(hs, prior, W, b, ts, *, ignore_label=-1, train=True):
    """Mean of -log p[t] over the rows whose target is not ignore_label; p as in mixture_softmax.

    The M K rows of all softmaxes are those of one affine_softmax_loss, each with a weight of its own: the share of its
    softmax in p[t]. The scores of some rows of M exist at a time. With train their gradients are computed at once.
    """
    cdef str name = "mixture_softmax_loss"
    cdef mixture_sizes s
    cdef ptrdiff_t count
    left, log_pi, right, bias = mixture_arguments(hs, prior, W, b, name, &s)
    targets, count = checked_targets(ts, ignore_label, s.M, s.V, f"{name}: ts")
    if train and count < s.M:
        left = counted_rows(left, targets)
    cdef cnp.ndarray losses = np.zeros(s.M)
    cdef MixtureCache cache = MixtureCache()
    dtype = cnp.PyArray_DescrFromType(s.type_num)
    if train:
        cache.dhs, cache.dprior = np.zeros((s.M, s.K, s.D), dtype), np.zeros((s.M, s.K), dtype)
        cache.dW, cache.db = np.zeros((s.D, s.V), dtype), np.zeros(s.V, dtype)
    cdef ptrdiff_t start, stop, rows = min(s.rows, s.M) * s.K
    cdef cnp.ndarray scores = np.empty(rows * SCORES(s.V) if train and s.V else 0, dtype)
    cdef cnp.ndarray x, ids, of_rows = np.empty(rows), scales
    cdef cnp.ndarray dx
    cdef affine_softmax_job job
    cdef int failed
    for start in range(0, s.M if s.V else 0, s.rows):
        stop = min(start + s.rows, s.M)
        x = left[start:stop].reshape((stop - start) * s.K, s.D)
        ids = np.repeat(targets[start:stop], s.K)
        job.M, job.K, job.V = len(x), s.D, s.V
        job.threads = threads_for(2.0 * job.M * job.K * job.V, max(job.M, job.V) // 8)
        job.x, job.weights = view(x), view(right)
        job.bias = NULL if bias is None else cnp.PyArray_DATA(<cnp.ndarray>bias)
        job.ts = <const ptrdiff_t *>cnp.PyArray_DATA(ids)
        job.scores = cnp.PyArray_DATA(scores) if train else NULL
        job.loss = <double *>cnp.PyArray_DATA(of_rows)
        with nogil:
            failed = kernels_for(s.type_num).affine_softmax_forward(&job)
        finished(failed, name)
        counts = targets[start:stop] >= 0
        with np.errstate(invalid="ignore"):  # NaN, also where a target has the probability 0
            shares = log_pi[start:stop] - of_rows[:job.M].reshape(stop - start, s.K)
            log_p = np.logaddexp.reduce(shares, axis=1)
            losses[start:stop] = np.where(counts, -log_p, 0)
            shares = np.where(counts[:, np.newaxis], np.exp(shares - log_p[:, np.newaxis]) / max(count, 1), 0)
        if train:
            pi = np.where(counts[:, np.newaxis], np.exp(log_pi[start:stop]) / max(count, 1), 0)
            cache.dprior[start:stop] = pi - shares
            scales, dx = shares, cache.dhs[start:stop]
            job.scales = <const double *>cnp.PyArray_DATA(scales)
            job.dx, job.dW, job.db = cnp.PyArray_DATA(dx), view(cache.dW), cnp.PyArray_DATA(cache.db)
            job.whole, job.more = 0, start > 0
            with nogil:
                failed = kernels_for(s.type_num).affine_softmax_backward(&job)
            finished(failed, name)
        PyErr_CheckSignals()  # a kernel asks only after a while
    return (float(losses.sum()) / count if count else 0.0), (cache if train else None)


def mixture_softmax_loss_backward(cache, dW, db, dout=1.0):
    """dhs (M, K, D) and dprior (M, K); writes dW (D, V) and db (V,), which may be None, in place. Consumes the cache."""
    if not isinstance(cache, MixtureCache):
        raise RuntimeError("mixture_softmax_loss: backward needs the cache of a forward with train=True")
    cdef MixtureCache k = cache
    if k.dW is None:
        raise RuntimeError("mixture_softmax_loss: backward has consumed this cache")
    cdef cnp.ndarray of_W = writable(dW, k.dW, "mixture_softmax_loss: dW"), of_b = None
    if db is not None:
        of_b = writable(db, k.db, "mixture_softmax_loss: db")
    apart(of_W, of_b, "mixture_softmax_loss")
    cdef object factor = float(dout), dhs = k.dhs, dprior = k.dprior
    np.multiply(k.dW, factor, out=of_W)
    if of_b is not None:
        np.multiply(k.db, factor, out=of_b)
    dhs *= factor
    dprior *= factor
    k.dhs = k.dprior = k.dW = k.db = None
    return dhs, dprior


# ---- optimisers


cdef cnp.ndarray in_order(cnp.ndarray x, bint fortran):
    """x itself where it is contiguous in this order and behaved, else a copy that is."""
    if cnp.PyArray_ISBEHAVED_RO(x) and (cnp.PyArray_IS_F_CONTIGUOUS(x) if fortran else cnp.PyArray_IS_C_CONTIGUOUS(x)):
        return x
    return np.array(x, dtype=cnp.PyArray_DescrFromType(cnp.PyArray_TYPE(x)), order="F" if fortran else "C", subok=False)


cdef bint reads_fortran(cnp.ndarray x) noexcept:
    return cnp.PyArray_IS_F_CONTIGUOUS(x) and not cnp.PyArray_IS_C_CONTIGUOUS(x)


cdef cnp.ndarray gradient(grad, cnp.ndarray param, str name):
    """grad as the kernels read it beside param: same type and shape, and the same order in memory.

    Where both overlap in another way than being one array, it is a copy.
    """
    cdef cnp.ndarray g = checked(grad, cnp.PyArray_NDIM(param), cnp.PyArray_TYPE(param), name)
    if not same_shape(g, param):
        raise ValueError(f"{name} must have shape {np.shape(plain(param))}, got {np.shape(g)}")
    g = in_order(g, reads_fortran(param))
    if cnp.PyArray_DATA(g) != cnp.PyArray_DATA(param) and np.may_share_memory(g, param):
        g = np.array(g, order="K")
    return g


def sum_of_squares(x):
    """Sum of the squares of x, float32 or float64 of any shape and strides, in float64: a Python float."""
    cdef int type_num = real_type(x, "sum_of_squares: x")
    cdef cnp.ndarray a = in_order(plain(x), reads_fortran(x))
    cdef update_job job
    job.n = cnp.PyArray_SIZE(a)
    job.threads = threads_for(4.0 * job.n, job.n // SQUARES)
    job.grad = cnp.PyArray_DATA(a)
    cdef cnp.ndarray sums = np.empty(-(-job.n // SQUARES))
    job.m = cnp.PyArray_DATA(sums)
    with nogil:
        kernels_for(type_num).sum_of_squares(&job)
    return float(sums.sum())


def scale(x, factor):
    """x *= factor, in place; x as in sum_of_squares."""
    cdef int type_num = real_type(x, "scale: x")
    x = writable(x, x, "scale: x")
    cdef update_job job
    job.rate = factor
    cdef cnp.ndarray a = in_order(x, reads_fortran(x))
    job.n = cnp.PyArray_SIZE(a)
    job.threads = threads_for(4.0 * job.n, job.n // SQUARES)
    job.param = cnp.PyArray_DATA(a)
    with nogil:
        kernels_for(type_num).scale(&job)
    if a is not x:
        x[...] = a


def sgd(param, grad, lr):
    """param -= lr grad, in place; float32 or float64 of any shape and strides, both alike."""
    cdef int type_num = real_type(param, "sgd: param")
    param = writable(param, param, "sgd: param")
    cdef update_job job
    job.rate = lr
    cdef cnp.ndarray p = in_order(param, reads_fortran(param))
    cdef cnp.ndarray g = gradient(grad, p, "sgd: grad")
    job.n = cnp.PyArray_SIZE(p)
    job.threads = threads_for(4.0 * job.n, job.n // SQUARES)
    job.param, job.grad = cnp.PyArray_DATA(p), cnp.PyArray_DATA(g)
    with nogil:
        kernels_for(type_num).sgd(&job)
    if p is not param:
        param[...] = p


def adam(param, grad, m, v, rate, beta1, beta2):
    """One step of Adam with epsilon 1e-7, in place: m and v move towards grad and grad^2, param by -rate m / sqrt(v)."""
    cdef int type_num = real_type(param, "adam: param")
    param = writable(param, param, "adam: param")
    m = writable(m, param, "adam: m")
    v = writable(v, param, "adam: v")
    for name, a, b in (("m", m, param), ("v", v, param), ("v", v, m)):
        if np.may_share_memory(a, b):
            raise ValueError(f"adam: {name} must not share memory with param or m")
    cdef update_job job
    job.rate, job.beta1, job.beta2 = rate, beta1, beta2
    cdef bint fortran = reads_fortran(param)
    cdef cnp.ndarray p = in_order(param, fortran), m1 = in_order(m, fortran), v1 = in_order(v, fortran)
    cdef cnp.ndarray g = gradient(grad, p, "adam: grad")
    if np.may_share_memory(g, m1) or np.may_share_memory(g, v1):
        g = np.array(g, order="K")
    job.n = cnp.PyArray_SIZE(p)
    job.threads = threads_for(20.0 * job.n, job.n // SQUARES)
    job.param, job.grad, job.m, job.v = cnp.PyArray_DATA(p), cnp.PyArray_DATA(g), cnp.PyArray_DATA(m1), cnp.PyArray_DATA(v1)
    with nogil:
        kernels_for(type_num).adam(&job)
    for a, own in ((param, p), (m, m1), (v, v1)):
        if a is not own:
            a[...] = own


def dropout_mask(shape, ratio, key, step, dtype):
    """0 with probability ratio, else 1 / (1 - ratio); the bits that NumPy's Philox draws, in every column."""
    cdef cnp.ndarray mask = np.empty(shape, dtype)
    cdef int type_num = real_type(mask, "dropout_mask: dtype")
    if not cnp.PyArray_ISCARRAY(mask):
        raise TypeError(f"dropout_mask: dtype must be float32 or float64, got {dtype!r}")
    if not 0 <= ratio < 1:
        raise ValueError(f"dropout_mask: ratio must be in [0, 1), got {ratio}")
    cdef dropout_job job
    seed, layer = key
    job.key[0], job.key[1], job.step = seed, layer, step
    job.ratio, job.kept = ratio, 1 / (1 - ratio)
    job.n = cnp.PyArray_SIZE(mask)
    job.threads = threads_for(10.0 * job.n, job.n // 4)
    job.mask = cnp.PyArray_DATA(mask)
    with nogil:
        kernels_for(type_num).dropout_mask(&job)
    return mask
