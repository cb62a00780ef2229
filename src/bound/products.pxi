# Products of matrices by the functions of cuBLAS.

ctypedef int (*stream_function)(void *, void *) noexcept nogil
ctypedef int (*gemm_function)(
    void *, int, int, int, int, int, const void *, const void *, int, int,
    const void *, int, int, const void *, void *, int, int, int, int
) noexcept nogil
ctypedef int (*geam_function)(
    void *, int, int, int, int, const void *, const void *, int, const void *, const void *, int,
    void *, int
) noexcept nogil


@cython.auto_pickle(False)
@cython.final
cdef class Blas:
    """Where cublasGemmEx, cublasSgeam and cublasSetStream are.

    handle() is that of a thread, stream() as above, error(status) what a status means. CuPy's own
    functions refuse to be captured in a CUDA graph; these do not.
    """

    cdef gemm_function gemm
    cdef geam_function geam
    cdef stream_function set_stream
    cdef object handle, of_thread, stream, error

    def __init__(self, uintptr_t gemm, uintptr_t geam, uintptr_t set_stream, handle, stream, error):
        self.gemm, self.geam = <gemm_function>gemm, <geam_function>geam
        self.set_stream = <stream_function>set_stream
        self.handle, self.stream, self.error = handle, stream, error
        self.of_thread = local()

    cdef void *begin(self) except NULL:
        """The handle of this thread, which keeps it, on the current stream."""
        cdef void *found
        cdef void *stream = <void *><uintptr_t>self.stream().ptr
        cdef int status
        handle = getattr(self.of_thread, "handle", None)
        if handle is None:
            handle = self.of_thread.handle = self.handle()
        found = <void *><uintptr_t>handle
        with nogil:
            status = self.set_stream(found, stream)
        if status:
            raise self.error(status)
        return found

    def move(
        self, bint turned, int rows, int columns, uintptr_t x, int step, uintptr_t out, int step_out
    ):
        """A matrix of float32 at the address x, or its transpose, to the address out.

        rows and columns are those of what is written, steps floats from row to row.
        """
        cdef float one = 1, zero = 0
        cdef void *handle = self.begin()
        cdef int status
        with nogil:  # alpha op(A) + beta B, where B is not read with a beta of 0
            status = self.geam(
                handle, turned, 0, columns, rows, &one, <void *>x, step, &zero, <void *>out,
                step_out, <void *>out, step_out,
            )
        if status:
            raise self.error(status)


@cython.auto_pickle(False)
@cython.final
cdef class Product:
    """product(a, b, out): c = b a as cuBLAS has it, of matrices that all lie as they did once.

    ways and steps of b and a, shape (rows, columns, those between) as cuBLAS takes them; scalars:
    where 1 is and the factor of what c was, 0 or 1, and what elements and sums are; offsets: bytes
    from where b, a and out begin.
    """

    cdef Blas blas
    cdef int way_b, way_a, M, N, K, step_b, step_a, step, kind, compute
    cdef const void *one
    cdef const void *more
    cdef uintptr_t from_b, from_a, from_out

    def __init__(self, Blas blas, ways, shape, steps, scalars, offsets):
        cdef uintptr_t one, more
        self.blas = blas
        self.way_b, self.way_a = ways
        self.M, self.N, self.K = shape
        self.step_b, self.step_a, self.step = steps
        one, more, self.kind, self.compute = scalars
        self.one, self.more = <const void *>one, <const void *>more
        self.from_b, self.from_a, self.from_out = offsets

    cdef int run(self, void *handle, a, b, out) except -1:
        return self.run_at(handle, place(a), place(b), place(out))

    cdef int run_at(self, void *handle, uintptr_t a, uintptr_t b, uintptr_t out) except -1:
        cdef const void *first = <const void *>(b + self.from_b)
        cdef const void *second = <const void *>(a + self.from_a)
        cdef void *result = <void *>(out + self.from_out)
        cdef int status
        with nogil:
            status = self.blas.gemm(
                handle, self.way_b, self.way_a, self.M, self.N, self.K, self.one,
                first, self.kind, self.step_b, second, self.kind, self.step_a,
                self.more, result, self.kind, self.step, self.compute, -1,
            )
        if status:
            raise self.blas.error(status)
        return 0

    def __call__(self, a, b, out):
        self.run(self.blas.begin(), a, b, out)
        return out


def multiply(list work):
    """product(a, b, out) for each (product, a, b, out); products of any kind, of one device."""
    cdef Product product
    cdef void *handle = NULL
    for run, a, b, out in work:
        if type(run) is Product:
            product = run
            if handle == NULL:
                handle = product.blas.begin()
            product.run(handle, a, b, out)
        else:
            run(a, b, out)
