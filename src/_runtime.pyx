"""The native kernels, linked once: which instruction set and how many threads they use, and the array
checks that the modules over them share."""
import os

cimport numpy as cnp
import numpy as np

cnp.import_array()

cdef extern from "kernels/kernels.h" nogil:
    const kernel_table *kernels
    int kernels_usable(const char *name)
    int kernels_choose(const char *name)
    int kernels_extensions
    void kernels_use_extensions(int extensions)
    void kernels_need_extensions()
    int kernels_extensions_usable()
    const char *kernels_name(int i)

cdef extern from "kernels/team.h" nogil:
    int team_max_threads()
    double team_meet(int threads, long n)
    void team_set_threads(int n)
    void team_init(int default_threads)
    void *new_room(size_t size)
    void free_room(void *room)
    int usable_cores()
    void team_set_asks(int (*asks)() noexcept nogil)

cdef extern from "Python.h":
    int PyErr_CheckSignals() noexcept  # its exception is left set: `finished` finds it
    void *PyErr_Occurred() noexcept


# ---- instruction sets and threads


def simd():
    """Name of the instruction set in use: "avx512", "avx2", "neon" or "portable"."""
    return kernels.name.decode()


def simds():
    """Names of all instruction sets that this processor can run, best first."""
    names = []
    i = 0
    while kernels_name(i) != NULL:
        if kernels_usable(kernels_name(i)):
            names.append(kernels_name(i).decode())
        i += 1
    return tuple(names)


def set_simd(str name):
    """Use another instruction set from now on (for tests and comparisons). ValueError if it is not usable."""
    if kernels_choose(name.encode()) != 0:
        raise ValueError(f"RNNFAST_SIMD must be one of {', '.join(simds())} on this processor, got {name!r}")


# Bits of kernels_extensions
_EXTENSIONS = {
    "avx_vnni": 1, "avx512_vnni": 2, "avx512_bf16": 4, "amx_int8": 8, "amx_bf16": 16,
    "neon_dot": 32, "neon_i8mm": 64, "neon_bf16": 128,
}


def extensions():
    """Names of the instructions for 16 and 8 bits that are in use, beside the instruction set."""
    if kernels_extensions < 0:
        set_extensions()
    return tuple(name for name, bit in _EXTENSIONS.items() if kernels_extensions & bit)


def set_extensions(names=None):
    """Use only these of the processor's from now on (for tests and comparisons); None: all. ValueError if one is not usable."""
    cdef int usable = kernels_extensions_usable(), wanted = usable
    if names is not None:
        wanted = 0
        for name in names:
            if not usable & _EXTENSIONS.get(name, 0):
                raise ValueError(f"set_extensions: {name!r} is not usable on this processor")
            wanted |= _EXTENSIONS[name]
    kernels_use_extensions(wanted)


cdef bint bf16_products = False


def set_bf16(bint on):
    """Whether products of float32 matrices, where there are such kernels, are computed in bfloat16 from now on."""
    global bf16_products
    bf16_products = on
    if on:
        kernels_need_extensions()


cdef int product_precision(int type_num) noexcept nogil:
    """Of a call that begins now, as src/kernels/reduced.h counts them."""
    return 1 if bf16_products and type_num == cnp.NPY_FLOAT else 0


def num_threads():
    """Threads that a large enough call would use now."""
    return team_max_threads()


def set_num_threads(int n):
    """Limit all later calls to n >= 1 threads; 0 restores the default."""
    if n < 0:
        raise ValueError(f"set_num_threads: n must be 0 or positive, got {n}")
    team_set_threads(n)


def _positive(str name):
    """An environment variable's value as a positive int, or None where it is not set."""
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 1024:
        raise ValueError(f"{name} must be an integer from 1 to 1024, got {text!r}")
    return int(text)


def _cpu_limit():
    """Cores that affinity, on Windows the job object, and the cgroup's quota leave to this process."""
    cores = usable_cores()
    for folder in _cgroup_folders():
        try:
            with open(folder + "/cpu.max") as file:
                quota, period = file.read().split()
            if quota != "max":
                cores = min(cores, max(1, -(-int(quota) // int(period))))
        except (OSError, ValueError):
            pass
        try:
            with open(folder + "/cpu.cfs_quota_us") as quota, open(folder + "/cpu.cfs_period_us") as period:
                limit, each = int(quota.read()), int(period.read())
            if limit > 0 and each > 0:
                cores = min(cores, max(1, -(-limit // each)))
        except (OSError, ValueError):
            pass
    return cores


def _cgroup_folders():
    """Folders of this process's CPU cgroup and of all its parents (versions 1 and 2)."""
    folders = {"/sys/fs/cgroup", "/sys/fs/cgroup/cpu"}
    try:
        with open("/proc/self/cgroup") as file:
            lines = file.read().split("\n")
    except OSError:
        return folders
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" or "cpu" in controllers.split(","):
            root = "/sys/fs/cgroup" if number == "0" else "/sys/fs/cgroup/cpu"
            while path.strip("/"):
                folders.add(root + path)
                path = path.rsplit("/", 1)[0]
    return folders


def _omp_threads():
    """The first number of OMP_NUM_THREADS, which may be a list; None where OpenMP would ignore it."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(int(first), 1024) if first.isascii() and first.isdigit() and int(first) > 0 else None


def _start():
    name = os.environ.get("RNNFAST_SIMD", "").strip()
    set_simd(name or simds()[0])
    team_init(_positive("RNNFAST_NUM_THREADS") or _omp_threads() or _cpu_limit())


_start()


cdef int signals() noexcept nogil:
    """Run the handlers of signals that have come during a long call: other than 0 where one raised."""
    with gil:
        return PyErr_CheckSignals()


team_set_asks(signals)


cdef int finished(int failed, str name) except -1:
    """What a kernel returned, as an exception."""
    if failed == 0:
        return 0
    if failed > 0:
        if PyErr_Occurred():  # in a signal's handler
            return -1
        raise RuntimeError(f"{name}: a process that was forked during a call cannot go on with it")
    raise MemoryError(f"{name}: no memory for packing and a call's own arrays")


cdef int pack_weights(pack_kernel pack, const cell_job *job, void *room) noexcept nogil:
    """run_pack, for the modules that do not link the kernels."""
    return run_pack(pack, job, room)


cdef const kernel_set *kernels_for(int type_num) noexcept nogil:
    return kernels.f32 if type_num == cnp.NPY_FLOAT else kernels.f64


# Below this many operations between two barriers a second thread costs more than it saves.
cdef double WORTH_A_THREAD = 50_000


cdef int threads_for(double flops_between_barriers, ptrdiff_t parts) noexcept nogil:
    cdef int n = team_max_threads()
    if flops_between_barriers < WORTH_A_THREAD:
        return 1
    return n if n < parts else <int>(parts if parts > 1 else 1)


# ---- arrays


cdef str kind_of(x):
    """What came in the place of an array of the right type, in the words of rnnfast.checks."""
    return f"{x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__


cdef int real_type(x, str owner, str name) except -1:
    """NumPy's type number of x; TypeError unless it is a float32 or float64 array."""
    cdef int type_num = cnp.PyArray_TYPE(<cnp.ndarray>x) if isinstance(x, np.ndarray) else -1
    if type_num != cnp.NPY_FLOAT and type_num != cnp.NPY_DOUBLE:
        raise TypeError(f"{owner}: {name} must be a float32 or float64 array, got {kind_of(x)}")
    return type_num


cdef cnp.ndarray plain(cnp.ndarray x):
    """x, or NumPy's own array of the same memory where x is of a subclass, which may say anything of itself."""
    return x if cnp.PyArray_CheckExact(x) else np.asarray(x)


cdef cnp.ndarray checked(object x, int ndim, int type_num, str owner, str name):
    """x (see plain), of the right rank and type, else an exception; nothing is copied yet."""
    if not isinstance(x, np.ndarray) or cnp.PyArray_TYPE(<cnp.ndarray>x) != type_num:
        raise TypeError(f"{owner}: {name} must be a {cnp.PyArray_DescrFromType(type_num)} array, got {kind_of(x)}")
    cdef cnp.ndarray a = x
    if cnp.PyArray_NDIM(a) != ndim:
        raise ValueError(f"{owner}: {name} must have {ndim} axes, got {np.shape(plain(a))}")
    return plain(a)


cdef cnp.ndarray behaved(cnp.ndarray a, bint rows_contiguous):
    """a as the kernels can read it: aligned, in native byte order, and with unit stride in its last axis where asked; a
    copy only where that is not so."""
    cdef int last = cnp.PyArray_NDIM(a) - 1
    if not cnp.PyArray_ISBEHAVED_RO(a) or (
        rows_contiguous
        and cnp.PyArray_DIM(a, last) > 1
        and cnp.PyArray_STRIDE(a, last) != cnp.PyArray_ITEMSIZE(a)
    ):
        return np.array(a, dtype=cnp.PyArray_DescrFromType(cnp.PyArray_TYPE(a)), order="C")
    return a


cdef bint same_shape(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Asked in C: a subclass may say anything about its shape."""
    cdef int i, ndim = cnp.PyArray_NDIM(a)
    if ndim != cnp.PyArray_NDIM(b):
        return False
    for i in range(ndim):
        if cnp.PyArray_DIM(a, i) != cnp.PyArray_DIM(b, i):
            return False
    return True


cdef cnp.ndarray writable(object x, cnp.ndarray like, str owner, str name):
    """x (see plain), an array of like's shape and dtype that can be written, else an exception."""
    if not isinstance(x, np.ndarray) or cnp.PyArray_TYPE(<cnp.ndarray>x) != cnp.PyArray_TYPE(like):
        raise TypeError(f"{owner}: {name} must be a {like.dtype} array, got {kind_of(x)}")
    cdef cnp.ndarray a = x
    if not same_shape(a, like):
        raise ValueError(f"{owner}: {name} must have shape {np.shape(plain(like))}, got {np.shape(plain(a))}")
    if not cnp.PyArray_ISWRITEABLE(a):
        raise ValueError(f"{owner}: {name} must be writeable, got read-only")
    return plain(a)


cdef span span_of(cnp.ndarray x) noexcept:
    """From the first to behind the last byte of x, whichever way its strides run; nothing, where x is None or empty."""
    cdef span s
    cdef ptrdiff_t reach
    cdef int i
    s.start = s.end = 0
    if x is None or cnp.PyArray_SIZE(x) == 0:
        return s
    s.start = <size_t>cnp.PyArray_DATA(x)
    s.end = s.start + cnp.PyArray_ITEMSIZE(x)
    for i in range(cnp.PyArray_NDIM(x)):
        reach = (cnp.PyArray_DIM(x, i) - 1) * cnp.PyArray_STRIDE(x, i)
        if reach < 0:
            s.start += <size_t>reach  # wraps round
        else:
            s.end += <size_t>reach
    return s


cdef bint meets(span a, span b) noexcept:
    return a.start < b.end and b.start < a.end


cdef strided view(cnp.ndarray x) noexcept:
    """Pointer and strides in elements; an axis of one element, whose stride means nothing, counts as unit."""
    cdef strided v
    cdef ptrdiff_t size = cnp.PyArray_ITEMSIZE(x)
    cdef ptrdiff_t s[3]
    cdef int i
    for i in range(3):
        s[i] = 1
        if i < cnp.PyArray_NDIM(x) and cnp.PyArray_DIM(x, i) > 1:
            s[i] = cnp.PyArray_STRIDE(x, i) // size
    v.p = cnp.PyArray_DATA(x)
    v.s0, v.s1, v.s2 = s[0], s[1], s[2]
    return v


cdef void *memory(size_t size) noexcept:
    """Uninitialised memory for a large array that is used again, or NULL; to be given to give_back."""
    return new_room(size)


cdef void give_back(void *room) noexcept:
    free_room(room)


# ---- for tests and benchmarks


def apply(str function, x):
    """exp, sigmoid or tanh of a contiguous float32 or float64 array, by the kernels' own vector code."""
    cdef cnp.ndarray a = np.ascontiguousarray(x), y = np.empty_like(a)
    cdef int type_num = real_type(a, "apply", "x")
    kernels_for(type_num).apply(("exp", "sigmoid", "tanh").index(function), cnp.PyArray_DATA(a), cnp.PyArray_DATA(y), a.size)
    return y


def fma(ptrdiff_t n):
    """Run n rounds of independent multiply-adds in float32 registers on every thread: the processor's ceiling.

    Returns the operations done, two for each multiply-add of each lane."""
    cdef double flops
    with nogil:
        flops = kernels.f32.fma(team_max_threads(), n)
    return flops


def meet(long n):
    """Let all threads meet n times, with nothing to do between: ns of one barrier, 0 where there is one thread."""
    if n < 1:
        raise ValueError(f"meet: n must be from 1 up, got {n}")
    cdef double ns
    with nogil:
        ns = team_meet(team_max_threads(), n)
    return ns
