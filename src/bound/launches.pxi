# Launches of kernels by the functions of the driver.

ctypedef int (*launch_function)(
    void *, uint, uint, uint, uint, uint, uint, uint, void *, void **, void **
) noexcept nogil
ctypedef int (*cooperative_function)(
    void *, uint, uint, uint, uint, uint, uint, uint, void *, void **
) noexcept nogil

cdef union number:
    int32_t i
    int64_t q
    uint64_t Q
    float f
    double d


@cython.auto_pickle(False)
cdef class Kernel:
    """Launches of a kernel, in one dimension, on the current stream.

    function: where cuLaunchKernel is, or where `cooperative` cuLaunchCooperativeKernel. kernel: the
    driver's. parameters: [(how many, letter)], see rnnfast.cuda.signatures.tokens. stream() has the
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
