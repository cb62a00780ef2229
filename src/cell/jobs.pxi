# Arrays of a call, and how they and its options stand in a cell_job.

cdef void backwards(strided *v, ptrdiff_t T, int type_num) noexcept:
    """Let axis 1 of v run from its end."""
    cdef ptrdiff_t size = 4 if type_num == cnp.NPY_FLOAT else 8
    v.p = <const char *>v.p + (T - 1) * v.s1 * size
    v.s1 = -v.s1


cdef void *aligned(cnp.ndarray x) noexcept:
    return <void *>((<size_t>cnp.PyArray_DATA(x) + 63) & ~<size_t>63)


cdef cnp.ndarray empty2(ptrdiff_t a, ptrdiff_t b, int type_num):
    cdef cnp.npy_intp[2] dims = [a, b]
    return cnp.PyArray_EMPTY(2, dims, type_num, 0)


cdef cnp.ndarray empty3(ptrdiff_t a, ptrdiff_t b, ptrdiff_t c, int type_num):
    cdef cnp.npy_intp[3] dims = [a, b, c]
    return cnp.PyArray_EMPTY(3, dims, type_num, 0)


cdef inline strided optional(cnp.ndarray x) noexcept:
    cdef strided v
    if x is not None:
        return view(x)
    v.p = NULL
    v.s0 = v.s1 = v.s2 = 0
    return v


cdef cnp.ndarray rows_of_samples(ptrdiff_t N, ptrdiff_t T, ptrdiff_t M, int type_num, cnp.ndarray order, cnp.ndarray steps):
    """A new (N, T, M): 0 after the ends of samples, of which `order` and `steps` say where they are; they may be None."""
    cdef cnp.ndarray x = empty3(N, T, M, type_num)
    cdef const ptrdiff_t *places
    cdef const ptrdiff_t *of_steps
    cdef ptrdiff_t n, length, row = M * x.itemsize
    if order is not None:
        places, of_steps = <const ptrdiff_t *>data(order), <const ptrdiff_t *>data(steps)
        for n in range(N):
            length = of_steps[N + n] - of_steps[n]
            memset(<char *>data(x) + (places[n] * T + length) * row, 0, (T - length) * row)
    return x


cdef cnp.ndarray first_rows(cnp.ndarray lengths, ptrdiff_t T, bint reverse):
    """cell_job.first_row: before each of T steps, and after them, how many rows the steps have."""
    cdef cnp.ndarray ended = np.cumsum(np.bincount(lengths, minlength=T + 1))[:T], rows = len(lengths) - ended
    return np.concatenate(([0], np.cumsum(rows[::-1] if reverse else rows))).astype(np.intp)


cdef cnp.ndarray in_place(cnp.ndarray x, cnp.ndarray order):
    """Rows that were taken in that order, where they were. It runs no Python, and so no handler of a signal."""
    cdef cnp.ndarray y = empty2(cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1), cnp.PyArray_TYPE(x))
    y[order] = x
    return y


cdef void *data(cnp.ndarray x) noexcept:
    return NULL if x is None else cnp.PyArray_DATA(x)


cdef ptrdiff_t rounds_room(ptrdiff_t rows, Params p, ptrdiff_t size) noexcept:
    """Reals of cell_job.rounds_kept: of each product y and what it makes, with room to align both."""
    cdef ptrdiff_t i, M, room = 32
    for i in range(p.rounds):
        M = p.D if i % 2 == 0 else p.H
        room += rows * (M + row_step(M, size)) + 64
        if p.rank:
            room += rows * (p.rank + row_step(p.rank, size)) + 64
    return room


cdef ptrdiff_t norms_room(ptrdiff_t rows, ptrdiff_t H, int gates) noexcept:
    """Reals of cell_job.norms_kept: x Wx and h Wh, and at most four norms for each row, with room to align them."""
    return rows * (2 * gates * H + 8) + 256


cdef void take_norms(cell_job *job, Params p) noexcept:
    cdef cnp.ndarray own
    cdef int i
    for i in range(4):
        own = p.norms[i] if p.norms is not None and i < len(p.norms) else None
        job.norms[i], job.dnorms[i] = data(own), NULL


cdef void take_options(cell_job *job, Options options, cnp.ndarray steps) noexcept:
    job.relu, job.reset_after, job.z_keeps, job.clip = options.relu, options.reset_after, options.z_keeps, options.clip
    job.first_step = job.end_step = NULL
    if steps is not None:
        job.first_step = <const ptrdiff_t *>cnp.PyArray_DATA(steps)
        job.end_step = job.first_step + cnp.PyArray_DIM(steps, 1)
