# The mean cross entropy of softmax; loops in src/kernels/softmax.h.


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
    k.type_num = real_type(xs, "softmax_loss", "xs")
    k.x = checked(xs, 2, k.type_num, "softmax_loss", "xs")
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
