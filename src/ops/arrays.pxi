# What several operations ask of their arrays: checks, and places for results.


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


cdef cnp.ndarray in_order(cnp.ndarray x, bint fortran):
    """x itself where it is contiguous in this order and behaved, else a copy that is."""
    if cnp.PyArray_ISBEHAVED_RO(x) and (cnp.PyArray_IS_F_CONTIGUOUS(x) if fortran else cnp.PyArray_IS_C_CONTIGUOUS(x)):
        return x
    return np.array(x, dtype=cnp.PyArray_DescrFromType(cnp.PyArray_TYPE(x)), order="F" if fortran else "C", subok=False)


cdef bint reads_fortran(cnp.ndarray x) noexcept:
    return cnp.PyArray_IS_F_CONTIGUOUS(x) and not cnp.PyArray_IS_C_CONTIGUOUS(x)


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
