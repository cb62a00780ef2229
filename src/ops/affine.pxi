# x W + b and its gradients; loops in src/kernels/affine.h.


cdef cnp.ndarray with_unit_stride(cnp.ndarray a):
    """a (any, any), or a copy where none of its strides is 1."""
    cdef strided v = view(a)
    return a if v.s0 == 1 or v.s1 == 1 else np.ascontiguousarray(a)


cdef int multiply(
    cnp.ndarray a, cnp.ndarray b, cnp.ndarray bias, cnp.ndarray c, bint whole=False, int precision=0
) except -1:
    """c = a b + bias; one of c's strides is unit, and bias is given only where the last one is. whole: c is the caller's."""
    cdef gemm_job job
    job.whole, job.precision = whole, precision
    if precision:
        a, b = with_unit_stride(a), with_unit_stride(b)
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


def affine_forward(x, W, b):
    """y (M, N) = x (M, K) W (K, N) + b (N,); b may be None. W may be any view, as in embed_W.T."""
    cdef int type_num = real_type(W, "affine", "W")
    cdef cnp.ndarray right = checked(W, 2, type_num, "affine", "W"), left = checked(x, 2, type_num, "affine", "x")
    cdef cnp.ndarray bias = None if b is None else checked(b, 1, type_num, "affine", "b")
    if left.shape[1] != right.shape[0]:
        raise ValueError(f"affine: x must be (M, K) with K = {right.shape[0]}, got {np.shape(left)}")
    if b is not None and bias.shape[0] != right.shape[1]:
        raise ValueError(f"affine: b must be ({right.shape[1]},), got {np.shape(bias)}")
    left, right = behaved(left, False), behaved(right, False)
    bias = None if b is None else behaved(bias, True)
    cdef cnp.npy_intp[2] dims = [left.shape[0], right.shape[1]]
    cdef cnp.ndarray y = cnp.PyArray_EMPTY(2, dims, type_num, 0)
    multiply(left, right, bias, y, False, product_precision(type_num))
    return y


def affine_backward(dy, x, W, dW, db):
    """dx = dy W^T; dW = x^T dy and db = column sums of dy are written in place (db may be None)."""
    cdef int type_num = real_type(W, "affine", "W")
    cdef cnp.ndarray right = checked(W, 2, type_num, "affine", "W"), left = checked(x, 2, type_num, "affine", "x")
    cdef cnp.ndarray dout = checked(dy, 2, type_num, "affine", "dy")
    cdef ptrdiff_t M = left.shape[0], K = right.shape[0], N = right.shape[1]
    if left.shape[1] != K:
        raise ValueError(f"affine: x must be (M, K) with K = {K}, got {np.shape(left)}")
    if dout.shape[0] != M or dout.shape[1] != N:
        raise ValueError(f"affine: dy must be (M, N) = ({M}, {N}), got {np.shape(dout)}")
    cdef cnp.ndarray of_W = writable(dW, right, "affine", "dW"), of_b = None, total = None
    if db is not None:
        total = np.empty(N, dtype=cnp.PyArray_DescrFromType(type_num))
        of_b = writable(db, total, "affine", "db")
    apart(of_W, of_b, "affine")
    left, right, dout = behaved(left, False), behaved(right, False), behaved(dout, True)

    cdef cnp.npy_intp[2] dims = [M, K]
    cdef cnp.ndarray dx = cnp.PyArray_EMPTY(2, dims, type_num, 0)
    cdef bint beside = 2.0 * M * K * N > LONG_CALL
    cdef cnp.ndarray grad = place(of_W, [left, right, dout], beside)
    cdef int precision = product_precision(type_num)
    multiply(dout, right.T, None, dx, False, precision)
    if total is not None:
        column_sums(dout, total)
    multiply(left.T, dout, None, grad, not beside, precision)
    if grad is not of_W:
        (<object>of_W)[...] = grad
    if total is not None:
        (<object>of_b)[...] = total
    return dx


cdef int column_sums(cnp.ndarray a, cnp.ndarray out) except -1:
    cdef gemm_job job
    job.M, job.N, job.K, job.precision = cnp.PyArray_DIM(a, 0), cnp.PyArray_DIM(a, 1), 0, 0
    job.threads = threads_for(1.0 * job.M * job.N, job.N // 16)
    job.a, job.c = view(a), view(out)
    cdef int type_num = cnp.PyArray_TYPE(a), failed
    with nogil:
        failed = kernels_for(type_num).column_sums(&job)
    return finished(failed, "affine")
