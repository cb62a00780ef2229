"""The operations that are not recurrent, on the CPU; loops in src/kernels/ops.h and gemm.h."""
cimport cython
cimport numpy as cnp
import numpy as np

from rnnfast.cpu._runtime cimport (
    gemm_job, kernels_for, readable, real_type, scatter_job, softmax_job, strided, threads_for, view, writable,
)
from rnnfast.reference.ops import dropout_mask  # drawn by NumPy's own Philox: the same bits in every column

cnp.import_array()


cdef int multiply(cnp.ndarray a, cnp.ndarray b, cnp.ndarray bias, cnp.ndarray c) except -1:
    """c = a b + bias; one of c's strides is unit, and bias is given only where the last one is."""
    cdef gemm_job job
    job.M, job.N, job.K = cnp.PyArray_DIM(c, 0), cnp.PyArray_DIM(c, 1), cnp.PyArray_DIM(a, 1)
    if job.M == 0 or job.N == 0:
        return 0
    job.threads = threads_for(2.0 * job.M * job.N * job.K, max(job.M, job.N) // 8)
    job.a, job.b, job.c = view(a), view(b), view(c)
    job.bias = NULL if bias is None else cnp.PyArray_DATA(bias)
    cdef int type_num = cnp.PyArray_TYPE(c), failed
    with nogil:
        failed = kernels_for(type_num).gemm(&job)
    if failed:
        raise MemoryError("affine: no memory for packing")
    return 0


def affine_forward(x, W, b):
    """y (M, N) = x (M, K) W (K, N) + b (N,); b may be None. W may be any view, as in embed_W.T."""
    cdef int type_num = real_type(W, "affine: W")
    cdef cnp.ndarray right = readable(W, 2, type_num, "affine: W", False)
    cdef cnp.ndarray left = readable(x, 2, type_num, "affine: x", False)
    cdef cnp.ndarray bias = None if b is None else readable(b, 1, type_num, "affine: b", True)
    if left.shape[1] != right.shape[0]:
        raise ValueError(f"affine: x must be (M, K) with K = {right.shape[0]}, got {x.shape}")
    if b is not None and bias.shape[0] != right.shape[1]:
        raise ValueError(f"affine: b must be ({right.shape[1]},), got {b.shape}")
    cdef cnp.npy_intp[2] dims = [left.shape[0], right.shape[1]]
    cdef cnp.ndarray y = cnp.PyArray_EMPTY(2, dims, type_num, 0)
    multiply(left, right, bias, y)
    return y


def affine_backward(dy, x, W, dW, db):
    """dx = dy W^T; dW = x^T dy and db = column sums of dy are written in place (db may be None)."""
    cdef int type_num = real_type(W, "affine: W")
    cdef cnp.ndarray right = readable(W, 2, type_num, "affine: W", False)
    cdef cnp.ndarray left = readable(x, 2, type_num, "affine: x", False)
    cdef cnp.ndarray dout = readable(dy, 2, type_num, "affine: dy", True)
    cdef ptrdiff_t M = left.shape[0], K = right.shape[0], N = right.shape[1]
    if left.shape[1] != K:
        raise ValueError(f"affine: x must be (M, K) with K = {K}, got {x.shape}")
    if dout.shape[0] != M or dout.shape[1] != N:
        raise ValueError(f"affine: dy must be (M, N) = ({M}, {N}), got {dy.shape}")
    writable(dW, right, "affine: dW")
    cdef cnp.ndarray total = None
    if db is not None:
        total = np.empty(N, dtype=cnp.PyArray_DescrFromType(type_num))
        writable(db, total, "affine: db")

    cdef cnp.npy_intp[2] dims = [M, K]
    cdef cnp.ndarray dx = cnp.PyArray_EMPTY(2, dims, type_num, 0)
    cdef cnp.ndarray grad = dW
    if not (cnp.PyArray_ISCARRAY(grad) or cnp.PyArray_ISFARRAY(grad)):
        grad = np.empty((K, N), dtype=cnp.PyArray_DescrFromType(type_num))
    multiply(dout, right.T, None, dx)
    multiply(left.T, dout, None, grad)
    if grad is not dW:
        dW[...] = grad
    if db is not None:
        column_sums(dout, total)
        db[...] = total
    return dx


cdef int column_sums(cnp.ndarray a, cnp.ndarray out) except -1:
    cdef gemm_job job
    job.M, job.N, job.K = cnp.PyArray_DIM(a, 0), cnp.PyArray_DIM(a, 1), 0
    job.threads = threads_for(1.0 * job.M * job.N, job.N // 16)
    job.a, job.c = view(a), view(out)
    cdef int type_num = cnp.PyArray_TYPE(a)
    with nogil:
        kernels_for(type_num).column_sums(&job)
    return 0


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
    W = W.view(np.ndarray)
    if W.ndim != 2:
        raise ValueError(f"embedding: W must be (V, D), got {W.shape}")
    checked = checked_ids(ids, W.shape[0], "embedding: ids", "V")
    return np.take(W, checked, axis=0)


def embedding_backward(dout, ids, dW):
    """dW (V, D) = 0, then dW[id] += its row of dout for every id, in order: repeated ids add up."""
    cdef int type_num = real_type(dW, "embedding: dW")
    dW = dW.view(np.ndarray)
    if dW.ndim != 2 or not dW.flags.writeable:
        raise ValueError(f"embedding: dW must be a writable (V, D) array, got shape {dW.shape}")
    cdef cnp.ndarray at = checked_ids(ids, dW.shape[0], "embedding: ids", "V")
    dout = dout.view(np.ndarray) if isinstance(dout, np.ndarray) else dout
    if not isinstance(dout, np.ndarray) or dout.shape != (<object>at).shape + (dW.shape[1],):
        raise ValueError(f"embedding: dout must have shape {(<object>at).shape + (dW.shape[1],)}, got {np.shape(dout)}")
    cdef cnp.ndarray dy = readable(dout.reshape(-1, dW.shape[1]) if dout.size else dout.reshape(0, dW.shape[1]),
                                   2, type_num, "embedding: dout", True)
    cdef cnp.ndarray grad = dW
    if not cnp.PyArray_ISBEHAVED(grad) or (dW.shape[1] > 1 and dW.strides[1] != dW.itemsize):
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
    k.x = readable(xs, 2, k.type_num, "softmax_loss: xs", True)
    k.x_view = view(k.x)
    k.M, k.V = cnp.PyArray_DIM(k.x, 0), cnp.PyArray_DIM(k.x, 1)
    if not isinstance(ts, np.ndarray) or ts.dtype.kind not in "iu":
        raise TypeError(f"softmax_loss: ts must be an integer array, got {getattr(ts, 'dtype', type(ts).__name__)}")
    own = np.array(ts, subok=False)
    if own.shape != (k.M,):
        raise ValueError(f"softmax_loss: ts must have shape (M,) = ({k.M},), got {own.shape}")
    counted = own != ignore_label
    # A row counts or is -1 from here on, so that any ignore_label, even one beyond the classes, is safe.
    k.targets = np.full(k.M, -1, dtype=np.intp)
    k.targets[counted] = checked_ids(own[counted], k.V, "softmax_loss: ts", "V")
    k.count = counted.sum()
    k.lse = np.empty(k.M)
    cdef cnp.ndarray loss = np.empty(k.M)
    cdef softmax_job job = k.job()
    job.loss = <double *>cnp.PyArray_DATA(loss)
    with nogil:
        kernels_for(k.type_num).softmax_forward(&job)
    return (float(loss.sum()) / k.count if k.count else 0.0), k


def softmax_loss_backward(SoftmaxCache cache not None, dout=1.0):
    """dxs (M, V) = (softmax(xs) - onehot(ts)) dout / counted rows; rows whose target was ignored are 0."""
    cdef cnp.npy_intp[2] dims = [cache.M, cache.V]
    cdef cnp.ndarray dx = cnp.PyArray_EMPTY(2, dims, cache.type_num, 0)
    cdef softmax_job job = cache.job()
    job.scale = float(dout) / cache.count if cache.count else 0.0
    job.dx = cnp.PyArray_DATA(dx)
    with nogil:
        kernels_for(cache.type_num).softmax_backward(&job)
    return dx
