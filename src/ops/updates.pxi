# What an optimiser does with an array: norms, SGD, Adam; loops in src/kernels/updates.h.


cdef cnp.ndarray gradient(grad, cnp.ndarray param, str owner):
    """grad as the kernels read it beside param: same type and shape, and the same order in memory.

    Where both overlap in another way than being one array, it is a copy.
    """
    cdef cnp.ndarray g = checked(grad, cnp.PyArray_NDIM(param), cnp.PyArray_TYPE(param), owner, "grad")
    if not same_shape(g, param):
        raise ValueError(f"{owner}: grad must have shape {np.shape(plain(param))}, got {np.shape(g)}")
    g = in_order(g, reads_fortran(param))
    if cnp.PyArray_DATA(g) != cnp.PyArray_DATA(param) and np.may_share_memory(g, param):
        g = np.array(g, order="K")
    return g


def sum_of_squares(x):
    """Sum of the squares of x, float32 or float64 of any shape and strides, in float64: a Python float."""
    cdef int type_num = real_type(x, "sum_of_squares", "x")
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
    cdef int type_num = real_type(x, "scale", "x")
    x = writable(x, x, "scale", "x")
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
    cdef int type_num = real_type(param, "sgd", "param")
    param = writable(param, param, "sgd", "param")
    cdef update_job job
    job.rate = lr
    cdef cnp.ndarray p = in_order(param, reads_fortran(param))
    cdef cnp.ndarray g = gradient(grad, p, "sgd")
    job.n = cnp.PyArray_SIZE(p)
    job.threads = threads_for(4.0 * job.n, job.n // SQUARES)
    job.param, job.grad = cnp.PyArray_DATA(p), cnp.PyArray_DATA(g)
    with nogil:
        kernels_for(type_num).sgd(&job)
    if p is not param:
        param[...] = p


def adam(param, grad, m, v, rate, beta1, beta2):
    """One step of Adam with epsilon 1e-7, in place: m and v move towards grad and grad^2, param by -rate m / sqrt(v)."""
    cdef int type_num = real_type(param, "adam", "param")
    param = writable(param, param, "adam", "param")
    m = writable(m, param, "adam", "m")
    v = writable(v, param, "adam", "v")
    for name, a, b in (("m", m, param), ("v", v, param), ("v", v, m)):
        if np.may_share_memory(a, b):
            raise ValueError(f"adam: {name} must not share memory with param or m")
    cdef update_job job
    job.rate, job.beta1, job.beta2 = rate, beta1, beta2
    cdef bint fortran = reads_fortran(param)
    cdef cnp.ndarray p = in_order(param, fortran), m1 = in_order(m, fortran), v1 = in_order(v, fortran)
    cdef cnp.ndarray g = gradient(grad, p, "adam")
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
