# What a call has to know of its arrays: where they lie, shapes and dtypes, whether they overlap.


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
