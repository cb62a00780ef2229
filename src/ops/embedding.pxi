# Rows of a matrix by their ids, and the sum of their gradients; loops in src/kernels/ops.h.


def embedding_forward(ids, W):
    """Rows of W (V, D) for ids of any shape: ids.shape + (D,)."""
    real_type(W, "embedding", "W")
    W = plain(W)
    if W.ndim != 2:
        raise ValueError(f"embedding: W must be (V, D), got {W.shape}")
    checked = checked_ids(ids, W.shape[0], "embedding: ids", "V")
    # np.take would copy a transpose as a whole; an index without axes would be a view
    return np.take(W, checked, axis=0) if W.flags.c_contiguous or checked.ndim == 0 else W[checked]


def embedding_backward(dout, ids, dW):
    """dW (V, D) = 0, then dW[id] += its row of dout for every id, in order: repeated ids add up."""
    cdef int type_num = real_type(dW, "embedding", "dW")
    dW = plain(dW)
    if dW.ndim != 2 or not dW.flags.writeable:
        raise ValueError(f"embedding: dW must be a writable (V, D) array, got shape {dW.shape}")
    if isinstance(ids, np.ndarray) and isinstance(dout, np.ndarray):
        ids, dout = plain(ids), plain(dout)
        if dout.shape != (*ids.shape, dW.shape[1]):
            raise ValueError(f"embedding: dout must have shape {(*ids.shape, dW.shape[1])}, got {dout.shape}")
    checked(dout, ids.ndim + 1 if isinstance(ids, np.ndarray) else 1, type_num, "embedding", "dout")
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
