# The loss of an affine layer whose scores become their own gradient; loops in src/kernels/affine_softmax.h.


@cython.auto_pickle(False)
@cython.final
cdef class ScoreCache:
    """What affine_softmax_loss_backward needs, the scores above all; it is used once."""
    cdef cnp.ndarray x, W, targets
    cdef strided x_view, W_view  # as they were: the shapes of the caller's arrays may be assigned to
    cdef ptrdiff_t M, K, V, count
    cdef int type_num, precision  # of products
    cdef bint pending
    cdef bint taken  # by a backward that is under way
    cdef void *scores
    cdef size_t size

    def __dealloc__(self):
        give_back(self.scores)

    cdef affine_softmax_job job(self) noexcept:
        cdef affine_softmax_job job
        job.M, job.K, job.V, job.precision = self.M, self.K, self.V, self.precision
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
    k.type_num = real_type(W, "affine_softmax_loss", "W")
    k.precision = product_precision(k.type_num)
    k.W = checked(W, 2, k.type_num, "affine_softmax_loss", "W")
    k.x = checked(x, 2, k.type_num, "affine_softmax_loss", "x")
    cdef cnp.ndarray bias = None if b is None else checked(b, 1, k.type_num, "affine_softmax_loss", "b")
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
        if old is not None:
            with cython.critical_section(old):
                if not old.pending and old.size == size:
                    k.scores, old.scores, old.size = old.scores, NULL, 0
        if k.scores == NULL:
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
    with cython.critical_section(k):  # of two threads that come with it one finds it consumed
        if not k.pending or k.taken:
            raise RuntimeError("affine_softmax_loss: backward has consumed this cache")
        k.taken = True
    try:
        return take_scores(k, dW, db, dout)
    finally:
        k.taken = False


cdef take_scores(ScoreCache k, dW, db, dout):
    """Backward, of a cache that no other thread uses."""
    cdef cnp.ndarray of_W = writable(dW, k.W, "affine_softmax_loss", "dW"), of_b = None, total = None
    if db is not None:
        total = np.empty(k.V, dtype=cnp.PyArray_DescrFromType(k.type_num))
        of_b = writable(db, total, "affine_softmax_loss", "db")
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
    if grad is not of_W:
        (<object>of_W)[...] = grad
    if total is not None:
        (<object>of_b)[...] = total
    k.x = k.W = None  # only the scores' memory is left
    k.pending = False
    return dx
