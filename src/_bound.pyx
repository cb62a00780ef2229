"""Launches and products, with everything bound that is the same from call to call.

What the CUDA column does again and again: the driver and cuBLAS are called as the C functions that
they are. Nothing is compiled against CUDA: where the functions lie is said by who makes an object,
and arrays are whatever has `data.ptr`.
"""
cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int32_t, int64_t, uint64_t, uintptr_t

from operator import index
from threading import local

cdef enum:
    MOST = 64  # parameters of a kernel

ctypedef unsigned int uint
ctypedef int (*launch_function)(
    void *, uint, uint, uint, uint, uint, uint, uint, void *, void **, void **
) noexcept nogil
ctypedef int (*cooperative_function)(
    void *, uint, uint, uint, uint, uint, uint, uint, void *, void **
) noexcept nogil
ctypedef int (*stream_function)(void *, void *) noexcept nogil
ctypedef int (*gemm_function)(
    void *, int, int, int, int, int, const void *, const void *, int, int,
    const void *, int, int, const void *, void *, int, int, int, int
) noexcept nogil

ctypedef int (*geam_function)(
    void *, int, int, int, int, const void *, const void *, int, const void *, const void *, int,
    void *, int
) noexcept nogil

cdef union number:
    int32_t i
    int64_t q
    uint64_t Q
    float f
    double d


cdef uintptr_t place(x) except? 0:
    """Where an array begins in the GPU's memory; an int says so itself."""
    if type(x) is int:
        return x
    return x.data.ptr


def signature(tuple what, type kind, tuple groups):
    """`what`, and shapes and dtypes of arrays of this very type, in groups: tuples, lists, or None.

    None where anything else is among them.
    """
    cdef list found = list(what)
    cdef Py_ssize_t count
    for group in groups:
        if group is None:
            found.append(-1)
            continue
        if not isinstance(group, (tuple, list)):
            return None
        count = 0
        for x in group:
            count += 1
            if x is None:
                found.append(None)
            elif type(x) is kind:
                found.append(x.shape)
                found.append(x.dtype)
            else:
                return None
        found.append(count)
    return tuple(found)


@cython.boundscheck(True)
def overlap(grads, tuple reads):
    """Whether one of grads may lie over another, or over one of reads: by their ends alone.

    A None lies nowhere.
    """
    cdef uintptr_t first[MOST]
    cdef uintptr_t end[MOST]
    cdef Py_ssize_t reach
    cdef int k, count = 0
    cdef bint of_grads
    if len(grads) + len(reads) > MOST:
        raise ValueError(f"overlap: {MOST} arrays at most")
    for of_grads, group in ((True, grads), (False, reads)):
        for x in group:
            if x is None:
                continue
            first[count] = x.data.ptr
            end[count] = first[count] + <uintptr_t>x.nbytes
            if not x.flags.c_contiguous:
                end[count] = first[count] + <uintptr_t>x.dtype.itemsize
                for n, step in zip(x.shape, x.strides):
                    reach = (n - 1) * step
                    if reach < 0:
                        first[count] += <uintptr_t>reach  # wraps round
                    else:
                        end[count] += <uintptr_t>reach
            for k in range(count):
                if first[k] < end[count] and first[count] < end[k]:
                    return True
            if of_grads:
                count += 1
    return False


@cython.boundscheck(True)
def present(tuple groups, tuple starts, tuple instead, move):
    """`instead`, and in it, from each group's start on, its arrays, as `move` gives them.

    Where an array is None, or its group, what `instead` has there stays.
    """
    cdef list found = list(instead)
    cdef Py_ssize_t n, k
    for n in range(len(groups)):
        group = groups[n]
        if group is not None:
            k = starts[n]
            for x in group:
                if x is not None:
                    found[k] = move(x)
                k += 1
    return found


@cython.auto_pickle(False)
cdef class Kernel:
    """Launches of a kernel, in one dimension, on the current stream.

    function: where cuLaunchKernel is, or where `cooperative` cuLaunchCooperativeKernel. kernel: the
    driver's. parameters: [(how many, letter)], see rnnfast.cuda.runtime.tokens. stream() has the
    current stream's address as `ptr`; done(label) is called after each launch. At most `most`
    blocks are launched. Any number of threads may launch at once.
    """

    cdef void *function
    cdef void *kernel
    cdef bint cooperative
    cdef int tokens
    cdef int many[MOST]
    cdef char letters[MOST]
    cdef object stream, done
    cdef readonly uint threads, shared
    cdef public uint most
    cdef public object label

    def __init__(
        self, uintptr_t function, uintptr_t kernel, bint cooperative, parameters, uint threads,
        uint shared, stream, done, label,
    ):
        self.function, self.kernel, self.cooperative = <void *>function, <void *>kernel, cooperative
        self.threads, self.shared = threads, shared
        self.stream, self.done, self.label = stream, done, label
        self.most = <uint>-1
        if sum(count or 1 for count, _ in parameters) > MOST:
            raise ValueError(f"{label}: a kernel may have {MOST} parameters")
        self.tokens = len(parameters)
        for k, (count, letter) in enumerate(parameters):
            self.many[k], self.letters[k] = count, ord(letter[0])

    def refuse(self, blocks):
        """Raises that these are more than `most`."""
        raise NotImplementedError

    def fail(self, blocks, status):
        """Raises what the driver's status means."""
        raise NotImplementedError

    cdef int put(self, tuple args, number *values) except -1:
        """The arguments into values, those of tuples one by one."""
        cdef int k, many, n = 0
        if len(args) != self.tokens:
            raise TypeError(f"{self.label}: {self.tokens} arguments expected, got {len(args)}")
        for k in range(self.tokens):
            x, letter, many = args[k], self.letters[k], self.many[k]
            if many:
                if len(x) != many:
                    raise TypeError(f"{self.label}: a tuple of {many} expected, got {len(x)}")
                for part in x:
                    values[n].Q = place(part)
                    n += 1
                continue
            if letter == b"*":
                values[n].Q = place(x)
            elif letter == b"i":
                values[n].i = x if isinstance(x, int) else index(x)
            elif letter == b"f":
                values[n].f = <float><double>x  # beyond float32: inf, as NumPy has it
            elif letter == b"d":
                values[n].d = x
            elif letter == b"q":
                values[n].q = index(x)
            else:
                values[n].Q = index(x)
            n += 1
        return n

    cdef int launch(self, void *stream, uint blocks, void **places) except -1:
        cdef int status
        if blocks > self.most:
            self.refuse(blocks)
        with nogil:
            if self.cooperative:
                status = (<cooperative_function>self.function)(
                    self.kernel, blocks, 1, 1, self.threads, 1, 1, self.shared, stream, places
                )
            else:
                status = (<launch_function>self.function)(
                    self.kernel, blocks, 1, 1, self.threads, 1, 1, self.shared, stream, places, NULL
                )
        if status:
            self.fail(blocks, status)
        self.done(self.label)
        return 0

    def __call__(self, uint blocks, *args):
        cdef number values[MOST]
        cdef void *places[MOST]
        cdef void *stream = <void *><uintptr_t>self.stream().ptr
        cdef int k, count = self.put(args, values)
        for k in range(count):
            places[k] = &values[k]
        self.launch(stream, blocks, places)


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


# The same launches and products in each of many steps


@cython.auto_pickle(False)
@cython.final
cdef class StepLaunch:
    """launch(t): a launch whose arguments are all the same in each step, but for one, t.

    of_t: which of the kernel's parameters that is. It keeps its arrays. For one thread at a time.
    """

    cdef Kernel kernel
    cdef uint blocks
    cdef int at, count
    cdef tuple args
    cdef number values[MOST]
    cdef void *places[MOST]

    def __init__(self, Kernel kernel, int of_t, uint blocks, *args):
        cdef int k
        self.kernel, self.blocks, self.args = kernel, blocks, args
        self.count = kernel.put(args, self.values)
        if not 0 <= of_t < kernel.tokens or kernel.letters[of_t] != b"i":
            raise ValueError(f"{kernel.label}: parameter {of_t} is no int32")
        self.at = 0
        for k in range(of_t):
            self.at += kernel.many[k] or 1
        for k in range(self.count):
            self.places[k] = &self.values[k]

    cdef bytes described(self):
        """The kernel and its arguments, but for t."""
        cdef int64_t[2] which
        self.values[self.at].q = 0
        which[0], which[1] = <int64_t><uintptr_t>self.kernel.kernel, self.blocks
        return (<char *>which)[:sizeof(which)] + (<char *>self.values)[:self.count * sizeof(number)]

    cdef int run(self, void *stream, int t) except -1:
        self.values[self.at].i = t
        self.kernel.launch(stream, self.blocks, self.places)
        return 0

    def __call__(self, int t):
        self.run(<void *><uintptr_t>self.kernel.stream().ptr, t)


@cython.auto_pickle(False)
@cython.final
cdef class StepProduct:
    """multiply(t): a product of matrices that begin `steps` bytes further on in each step.

    arrays: a, b and out, which it keeps; where they begin is that of step 0.
    """

    cdef Product product
    cdef tuple arrays
    cdef uintptr_t a, b, out
    cdef Py_ssize_t step_a, step_b, step_out

    def __init__(self, Product product, tuple arrays, tuple steps):
        self.product, self.arrays = product, arrays
        self.a, self.b, self.out = map(place, arrays)
        self.step_a, self.step_b, self.step_out = steps

    cdef bytes described(self):
        """What cuBLAS is handed, of all steps."""
        cdef Product product = self.product
        cdef int64_t[20] given
        given[0], given[1], given[2] = product.way_b, product.way_a, product.M
        given[3], given[4], given[5] = product.N, product.K, product.step_b
        given[6], given[7], given[8] = product.step_a, product.step, product.kind
        given[9], given[10] = product.compute, <int64_t><uintptr_t>product.more
        given[11], given[12] = <int64_t>product.from_b, <int64_t>product.from_a
        given[13], given[14] = <int64_t>product.from_out, <int64_t>self.a
        given[15], given[16] = <int64_t>self.b, <int64_t>self.out
        given[17], given[18], given[19] = self.step_a, self.step_b, self.step_out
        return (<char *>given)[:sizeof(given)]

    cdef int run(self, void *handle, int t) except -1:
        return self.product.run_at(
            handle, self.a + <uintptr_t>(t * self.step_a), self.b + <uintptr_t>(t * self.step_b),
            self.out + <uintptr_t>(t * self.step_out),
        )

    def __call__(self, int t):
        self.run(self.product.blas.begin(), t)


def described(list work, int start, int ahead, int count):
    """All that `run` hands to the driver and to cuBLAS, as bytes.

    Equal ones do the same with the same memory. None where a step does anything else.
    """
    cdef StepLaunch launch
    cdef StepProduct product
    found = [b"%d %d %d" % (start, ahead, count)]
    for each in work:
        if type(each) is StepLaunch:
            launch = each
            found.append(launch.described())
        elif type(each) is StepProduct:
            product = each
            found.append(product.described())
        else:
            return None
    return b"|".join(found)


def run(list work, int start, int ahead, int count):
    """Each of `work`, a function of t, one after the other, for `count` steps t from start on.

    ahead: from a step to the next. All on the stream that is the current one when it begins. A
    signal, as Ctrl-C, ends it after a step.
    """
    cdef StepLaunch launch
    cdef StepProduct product
    cdef void *stream = NULL
    cdef void *handle = NULL
    cdef bint found = False
    cdef int k
    for each in work:
        if type(each) is StepLaunch and not found:
            launch, found = each, True
            stream = <void *><uintptr_t>launch.kernel.stream().ptr
        elif type(each) is StepProduct and handle == NULL:
            product = each
            handle = product.product.blas.begin()
    for k in range(count):
        for each in work:
            if type(each) is StepLaunch:
                launch = each
                launch.run(stream, start + k * ahead)
            elif type(each) is StepProduct:
                product = each
                product.run(handle, start + k * ahead)
            else:
                each(start + k * ahead)
        PyErr_CheckSignals()
