# The native runtime: src/kernels, linked once into rnnfast.cpu._runtime, and what its modules share.
cimport numpy as cnp

cdef extern from "kernels/kernels.h" nogil:
    ptrdiff_t row_step(ptrdiff_t n, ptrdiff_t size)

    ctypedef struct strided:
        const void *p
        ptrdiff_t s0, s1, s2

    ctypedef struct cell_job:
        ptrdiff_t N, T, D, H, P, K
        int threads, train, relu, reset_after, z_keeps
        double clip
        const ptrdiff_t *first_step
        const ptrdiff_t *end_step
        const ptrdiff_t *order
        const ptrdiff_t *first_row
        strided xs, h0, c0, n0, m0, h_mask, seen0, candidate_mask, h_zoneout, c_zoneout, Wx, Wh, Wproj
        const void *b
        const void *Wp
        int full, rounds
        ptrdiff_t rank
        const void *Wm
        const void *Wr
        const void *norms[4]
        const void *packed
        int precision
        strided hs
        void *hT
        void *cT
        void *nT
        void *mT
        void *panels
        void *h
        void *rh
        void *seen
        void *c
        void *c_new
        void *u
        void *rounds_kept
        void *norms_kept
        strided dhs, dhT, dcT, dnT, dmT, dxs
        void *dh0
        void *dc0
        void *dn0
        void *dm0
        void *dWx
        void *dWh
        void *db
        void *dWp
        void *dWm
        void *dWr
        void *dWproj
        void *dnorms[4]
        int whole

    ctypedef struct gemm_job:
        ptrdiff_t M, N, K
        int threads, precision
        strided a, b
        const void *bias
        strided c
        int whole

    ctypedef struct softmax_job:
        ptrdiff_t M, V
        int threads
        strided x
        const ptrdiff_t *ts
        ptrdiff_t ignore
        double *lse
        double *loss
        double scale
        void *dx

    ctypedef struct scatter_job:
        ptrdiff_t M, V, D
        int threads
        const ptrdiff_t *ids
        strided dy, dW

    ctypedef struct update_job:
        ptrdiff_t n
        int threads
        const void *grad
        void *param
        void *m
        void *v
        double rate, beta1, beta2

    ctypedef struct affine_softmax_job:
        ptrdiff_t M, V, K
        int threads, precision
        strided x, weights
        const void *bias
        const ptrdiff_t *ts
        void *scores
        double *loss
        const double *scales
        void *dx
        strided dW
        void *db
        int whole, more

    ctypedef struct mixture_job:
        ptrdiff_t M, K, V
        int threads
        const void *scores
        const double *log_pi
        double *shifts
        void *log_p

    ctypedef struct dropout_job:
        ptrdiff_t first, n
        int threads
        unsigned long long key[2]
        unsigned long long step
        double ratio, kept
        void *mask

    enum: SQUARES
    ptrdiff_t SCORES(ptrdiff_t V)

    ctypedef int (*cell_kernel)(const cell_job *) noexcept nogil

    ctypedef ptrdiff_t (*pack_kernel)(const cell_job *, void *) noexcept nogil
    int run_pack(pack_kernel pack, const cell_job *job, void *room) noexcept nogil

    ctypedef struct kernel_set:
        int (*gemm)(const gemm_job *) noexcept nogil
        int (*column_sums)(const gemm_job *) noexcept nogil
        int (*softmax_forward)(const softmax_job *) noexcept nogil
        int (*softmax_backward)(const softmax_job *) noexcept nogil
        int (*scatter)(const scatter_job *) noexcept nogil
        int (*affine_softmax_forward)(const affine_softmax_job *) noexcept nogil
        int (*affine_softmax_backward)(const affine_softmax_job *) noexcept nogil
        int (*mixture_softmax)(const mixture_job *) noexcept nogil
        int (*sum_of_squares)(const update_job *) noexcept nogil
        int (*scale)(const update_job *) noexcept nogil
        int (*sgd)(const update_job *) noexcept nogil
        int (*adam)(const update_job *) noexcept nogil
        int (*dropout_mask)(const dropout_job *) noexcept nogil
        int (*apply)(int, const void *, void *, ptrdiff_t) noexcept nogil
        double (*fma)(int, ptrdiff_t) noexcept nogil

    ctypedef struct cell_kernels:
        cell_kernel forward, backward, reduced, reduced_backward
        pack_kernel pack, pack_reduced

    int cell_index(const char *name)
    cell_kernels cell_of(const kernel_set *set, int index)

    ctypedef struct kernel_table:
        const char *name
        const kernel_set *f32
        const kernel_set *f64


cdef const kernel_set *kernels_for(int type_num) noexcept nogil
cdef int product_precision(int type_num) noexcept nogil
cdef int pack_weights(pack_kernel pack, const cell_job *job, void *room) noexcept nogil
cdef int threads_for(double flops_between_barriers, ptrdiff_t parts) noexcept nogil
cdef str kind_of(x)
cdef int real_type(x, str owner, str name) except -1
cdef int finished(int failed, str name) except -1
cdef cnp.ndarray plain(cnp.ndarray x)
cdef cnp.ndarray checked(object x, int ndim, int type_num, str owner, str name)
cdef cnp.ndarray behaved(cnp.ndarray a, bint rows_contiguous)
cdef bint same_shape(cnp.ndarray a, cnp.ndarray b) noexcept
cdef cnp.ndarray writable(object x, cnp.ndarray like, str owner, str name)

# The memory in which an array lies.
cdef struct span:
    size_t start, end

cdef span span_of(cnp.ndarray x) noexcept
cdef bint meets(span a, span b) noexcept

# Operations from which on gradients are computed beside the caller's arrays, so that the call can be stopped at any time.
# In a shorter one, of some 0.2 s, it cannot while they are written.
cdef extern from *:
    """
    #define LONG_CALL 5e10
    """
    const double LONG_CALL

cdef strided view(cnp.ndarray x) noexcept
cdef void *memory(size_t size) noexcept
cdef void give_back(void *room) noexcept

