# The same launches and products in each of many steps.


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
