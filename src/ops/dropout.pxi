# The masks of dropout; loops in src/kernels/philox.h.


def dropout_mask(shape, ratio, key, step, dtype, first=0):
    """0 with probability ratio, else 1 / (1 - ratio); the bits that NumPy's Philox draws, in every column.

    first: the number of the mask's first element, of the rows of a larger mask.
    """
    cdef cnp.ndarray mask = np.empty(shape, dtype)
    cdef int type_num = real_type(mask, "dropout_mask", "dtype")
    if not cnp.PyArray_ISCARRAY(mask):
        raise TypeError(f"dropout_mask: dtype must be float32 or float64, got {dtype!r}")
    if not 0 <= ratio < 1:
        raise ValueError(f"dropout_mask: ratio must be in [0, 1), got {ratio}")
    if not 0 <= first < 2**62:
        raise ValueError(f"dropout_mask: first must be in [0, 2**62), got {first}")
    cdef dropout_job job
    seed, layer = key
    job.key[0], job.key[1], job.step = seed, layer, step
    job.ratio, job.kept = ratio, 1 / (1 - ratio)
    job.first, job.n = first, cnp.PyArray_SIZE(mask)
    job.threads = threads_for(10.0 * job.n, job.n // 4)
    job.mask = cnp.PyArray_DATA(mask)
    with nogil:
        kernels_for(type_num).dropout_mask(&job)
    return mask
