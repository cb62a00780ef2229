# Mixtures of softmaxes: one affine product for all, then log p; loops in src/kernels/ops.h and affine_softmax.h.


cdef ptrdiff_t CHUNK = 1 << 24  # bytes of scores that exist at a time: they stay in a cache until backward reads them


cdef struct mixture_sizes:
    ptrdiff_t M, K, D, V, rows  # rows of M whose scores exist at a time
    int type_num


cdef list mixture_arguments(hs, prior, W, b, str name, mixture_sizes *s):
    """[hs, log pi, W, b], checked, hs contiguous, log pi = log softmax(prior) in float64; sizes are written to s."""
    s.type_num = real_type(W, name, "W")
    cdef cnp.ndarray right = checked(W, 2, s.type_num, name, "W"), left = checked(hs, 3, s.type_num, name, "hs")
    cdef cnp.ndarray weights = checked(prior, 2, s.type_num, name, "prior")
    cdef cnp.ndarray bias = None if b is None else checked(b, 1, s.type_num, name, "b")
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
        multiply(left[start:stop].reshape(len(part), s.D), right, bias, part, False, product_precision(s.type_num))
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
    cdef bint taken  # by a backward that is under way


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
    cdef int failed, precision = product_precision(s.type_num)
    for start in range(0, s.M if s.V else 0, s.rows):
        stop = min(start + s.rows, s.M)
        x = left[start:stop].reshape((stop - start) * s.K, s.D)
        ids = np.repeat(targets[start:stop], s.K)
        job.M, job.K, job.V, job.precision = len(x), s.D, s.V, precision
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
    with cython.critical_section(k):  # of two threads that come with it one finds it consumed
        if k.dW is None or k.taken:
            raise RuntimeError("mixture_softmax_loss: backward has consumed this cache")
        k.taken = True
    try:
        return take_gradients(k, dW, db, dout)
    finally:
        k.taken = False


cdef tuple take_gradients(MixtureCache k, dW, db, dout):
    """Backward, of a cache that no other thread uses."""
    cdef cnp.ndarray of_W = writable(dW, k.dW, "mixture_softmax_loss", "dW"), of_b = None
    if db is not None:
        of_b = writable(db, k.db, "mixture_softmax_loss", "db")
    apart(of_W, of_b, "mixture_softmax_loss")
    cdef object factor = float(dout), dhs = k.dhs, dprior = k.dprior
    np.multiply(k.dW, factor, out=of_W)
    if of_b is not None:
        np.multiply(k.db, factor, out=of_b)
    dhs *= factor
    dprior *= factor
    k.dhs = k.dprior = k.dW = k.db = None
    return dhs, dprior
