/* What the kernels offer to the Cython modules: one table of functions for each instruction set and real type.
 *
 * Shapes: N batch, T time, D input, H hidden, P width of h, G gates of a cell, K units of a head. P is H without a
 * projection. All strides are counted in elements. Callers have checked every size, dtype and pointer; nothing here can fail
 * but the allocation of room, which happens before anything is written (a function then returns -1). A call that is stopped
 * (team.h) returns STOPPED; it has then written nothing to the gradients where they are to be `whole`.
 */
#ifndef RNNFAST_KERNELS_H
#define RNNFAST_KERNELS_H

#include <stddef.h>
#include <string.h>

/* Every cell, once: its kernels are in <cell>.h and <cell>_back.h, its module is src/<cell>.pyx. */
#define CELLS(X) X(rnn) X(lstm) X(gru) X(mogrifier) X(lstmp) X(lnlstm) X(lngru) X(slstm)

/* Reals from one row of n to the next, where they are the left side of a product. Not a multiple of 4 KB: such rows
 * would fight for the same lines of L1. */
static inline ptrdiff_t row_step(ptrdiff_t n, ptrdiff_t size) { return n * size % 4096 ? n : n + 64 / size; }

typedef struct {
    const void *p; /* NULL: absent, which for a state means zeros */
    ptrdiff_t s0, s1, s2;
} strided;

typedef struct {
    ptrdiff_t N, T, D, H, P, K;
    int threads, train;
    int relu;                               /* rnn: relu instead of tanh */
    int reset_after, z_keeps;               /* gru: see gru.h */
    double clip;                            /* lstm, lstmp: bound of the cell; 0: none */
    const ptrdiff_t *first_step, *end_step; /* (N): steps in [first, end), as counted here, concern a sample; NULL: all do */
    /* Samples that end, of cells that sort them: a step concerns the first ones. NULL: it is computed for all N. */
    const ptrdiff_t *order;       /* (N): the row of a sample in all arrays (N, T, any); NULL: its own */
    const ptrdiff_t *first_row;   /* (T + 1): of rows that have only these samples, step by step, the first one of a step */
    strided xs;                   /* (N, T, D), last stride 1 */
    strided h0, c0;               /* (N, P), (N, H), last stride 1 */
    strided n0, m0;               /* slstm: (N, H), last stride 1 */
    strided h_mask;               /* (N, P), last stride 1, or NULL: multiplies h before Wh */
    strided seen0;                /* (N, P), last stride 1: h0 h_mask, which is h0 without a mask */
    strided candidate_mask;       /* (N, T, H), last stride 1, or NULL: multiplies g of an LSTM, h_hat of a GRU */
    strided h_zoneout, c_zoneout; /* (N, T, P), (N, T, H), alike: the share of the old h, c that a step keeps */
    strided Wx, Wh;               /* (D, G H), (P, G H), of slstm (H, G K), any strides */
    strided Wproj;                /* lstmp: (H, P), any strides */
    const void *b;                /* (G H), with reset_after (2, G H), or NULL */
    const void *Wp;               /* lstm: peepholes, contiguous (3, H) or, if `full`, (3, H, H); or NULL */
    int full;
    int rounds;           /* mogrifier: r; the matrices are contiguous */
    ptrdiff_t rank;       /* k, or 0: there is no Wr */
    const void *Wm, *Wr;  /* (r, H, D); with a rank (r, H, k) and (r, k, D) */
    const void *norms[4]; /* lnlstm: gx, gh, gc, bc; lngru: gx, gh, bh; contiguous */
    const void *packed;   /* without training: what <cell>_pack wrote, used instead of Wx and Wh; or NULL */
    int precision;        /* of products: see reduced.h; 0: real */

    /* forward writes */
    strided hs;    /* (N, T, P), last stride 1 */
    void *hT, *cT; /* (N, P), (N, H): the final state */
    void *nT, *mT; /* slstm: (N, H) */

    /* what forward keeps for backward, which overwrites it; see the cell's header for the layout.
     * In forward without training all are NULL. seen (T, N, P) is h h_mask, which without a mask is h itself; c
     * (T, N, H) is there for full peepholes, c_new for these with c_zoneout, u (T, N, H) with a projection. Rows of rh, c,
     * c_new and u are row_step(H, size of a real) apart, those of h and seen row_step(P, size of a real). */
    void *panels, *h, *rh, *seen, *c, *c_new, *u;
    void *rounds_kept; /* mogrifier: see there */
    void *norms_kept;  /* lnlstm, lngru: see norms.h */

    /* backward */
    strided dhs;                            /* (N, T, P), last stride 1 */
    strided dhT, dcT;                       /* (N, P), (N, H), last stride 1, or NULL */
    strided dnT, dmT;                       /* slstm: (N, H), alike */
    strided dxs;                            /* (N, T, D), last stride 1 */
    void *dh0, *dc0;                        /* (N, P), (N, H) */
    void *dn0, *dm0;                        /* slstm: (N, H) */
    void *dWx, *dWh, *db, *dWp, *dWm, *dWr; /* contiguous, as Wx, Wh, b, Wp, Wm, Wr; NULL as these */
    void *dWproj;                           /* the same */
    void *dnorms[4];                        /* as norms */
    int whole;                              /* these are the caller's: not to be left half written */
} cell_job;

typedef struct {
    ptrdiff_t M, N, K;
    int threads;
    int precision;    /* as that of cell_job */
    strided a, b;     /* (M, K), (K, N), any strides */
    const void *bias; /* (N) or NULL */
    strided c;        /* (M, N), one of the strides 1 */
    int whole;        /* c is the caller's, as cell_job.whole */
} gemm_job;

typedef struct {
    ptrdiff_t M, V; /* rows, classes */
    int threads;
    strided x;           /* (M, V), last stride 1 */
    const ptrdiff_t *ts; /* (M) target ids */
    ptrdiff_t ignore;
    double *lse;  /* (M) log of the sum of exp */
    double *loss; /* (M) lse - x[t], 0 where ignored: forward writes it */
    double scale; /* backward: dx = (softmax(x) - onehot(t)) * scale, 0 where ignored */
    void *dx;     /* (M, V) contiguous */
} softmax_job;

typedef struct {
    ptrdiff_t M, V, D;
    int threads;
    const ptrdiff_t *ids; /* (M) in [0, V) */
    strided dy;           /* (M, D), last stride 1 */
    strided dW;           /* (V, D), last stride 1 */
} scatter_job;

typedef struct {
    ptrdiff_t n;
    int threads;
    const void *grad; /* (n), as param, m and v */
    void *param, *m, *v;
    double rate, beta1, beta2;
} update_job;

typedef struct {
    ptrdiff_t M, V, K;
    int threads;
    int precision;        /* as that of cell_job */
    strided x, weights;   /* (M, K) with last stride 1, (K, V) with any strides */
    const void *bias;     /* (V) or NULL */
    const ptrdiff_t *ts;  /* (M) target ids, negative: ignored */
    void *scores;         /* M SCORES(V) reals, see affine_softmax.h; NULL: only the loss is wanted */
    double *loss;         /* (M), as in softmax_job */
    const double *scales; /* backward: (M), of each row's gradients */
    void *dx;             /* (M, K) contiguous */
    strided dW;           /* (K, V), one of the strides 1 */
    void *db;             /* (V) or NULL */
    int whole;            /* dW is the caller's, as cell_job.whole */
    int more;             /* dW, whose rows are contiguous then, and db are added to */
} affine_softmax_job;

typedef struct {
    ptrdiff_t M, K, V; /* rows, softmaxes, classes */
    int threads;
    const void *scores;   /* (M, K, V) contiguous */
    const double *log_pi; /* (M, K) logarithms of the mixture weights */
    double *shifts;       /* (M, K): room */
    void *log_p;          /* (M, V) contiguous */
} mixture_job;

#define SCORES(V) ((V) + (V) / 256 + 2) /* reals of one row of affine_softmax_job.scores */

typedef struct {
    ptrdiff_t first, n; /* the number of the first element, and how many there are */
    int threads;
    unsigned long long key[2], step;
    double ratio; /* elements below it become 0 ... */
    double kept;  /* ... and the others this */
    void *mask;   /* (n) */
} dropout_job;

typedef int (*cell_kernel)(const cell_job *);

/* Packs the weights for forward without training: D, H and the weights of the job alone are used. Returns the number of
 * reals; with room NULL that is all it does. */
typedef ptrdiff_t (*pack_kernel)(const cell_job *, void *room);

/* Runs one with room, which is not NULL, as a call that signals may stop: 0, or above 0 where a handler raised. */
int run_pack(pack_kernel pack, const cell_job *job, void *room);

/* reduced: forward in 16 bits, with packed weights also in 8, and backward in 16 bits; NULL where a cell, or double, has
 * none. */
#define CELL_FIELDS(cell) \
    cell_kernel cell##_forward, cell##_backward, cell##_reduced, cell##_reduced_backward; \
    pack_kernel cell##_pack, cell##_pack_reduced;

typedef struct {
    CELLS(CELL_FIELDS)
    int (*gemm)(const gemm_job *);
    int (*column_sums)(const gemm_job *); /* c (N) = sum over the rows of a (M, N): a and c only */
    int (*softmax_forward)(const softmax_job *);
    int (*softmax_backward)(const softmax_job *);
    int (*scatter)(const scatter_job *);
    int (*affine_softmax_forward)(const affine_softmax_job *);
    int (*affine_softmax_backward)(const affine_softmax_job *);
    int (*mixture_softmax)(const mixture_job *);
    int (*sum_of_squares)(const update_job *); /* of grad, in blocks of SQUARES: double m[block] */
    int (*scale)(const update_job *);          /* param *= rate */
    int (*sgd)(const update_job *);
    int (*adam)(const update_job *);
    int (*dropout_mask)(const dropout_job *);
    int (*apply)(int function, const void *x, void *y, ptrdiff_t n); /* 0 exp, 1 sigmoid, 2 tanh */
    double (*fma)(int threads, ptrdiff_t n); /* n rounds of FMAs in registers: operations done, to be timed */
} kernel_set;

/* A cell by its name: a number, or -1 where there is none; and what a set has for that number. */
static inline int cell_index(const char *name)
{
#define CELL_NAME(cell) #cell,
    static const char *const names[] = {CELLS(CELL_NAME)};
    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++)
        if (!strcmp(names[i], name))
            return i;
    return -1;
}

typedef struct {
    cell_kernel forward, backward, reduced, reduced_backward;
    pack_kernel pack, pack_reduced;
} cell_kernels;

static inline cell_kernels cell_of(const kernel_set *set, int index)
{
#define CELL_KERNELS(cell) \
    {set->cell##_forward,          set->cell##_backward, set->cell##_reduced, \
     set->cell##_reduced_backward, set->cell##_pack,     set->cell##_pack_reduced},
    const cell_kernels cells[] = {CELLS(CELL_KERNELS)};
    return cells[index];
}

typedef struct {
    const char *name;
    const kernel_set *f32, *f64;
} kernel_table;

#define SQUARES 8192 /* elements whose squares are summed in one block */

/* Instructions beside those of a set, for products in 16 and 8 bits. */
enum { AVX_VNNI = 1, AVX512_VNNI = 2, AVX512_BF16 = 4, AMX_INT8 = 8, AMX_BF16 = 16, NOT_ASKED = -1 };
enum { NEON_DOT = 32, NEON_I8MM = 64, NEON_BF16 = 128 };
extern int kernels_extensions; /* those in use, from the first need on */
void kernels_need_extensions(void);
void kernels_use_extensions(int extensions);
int kernels_extensions_usable(void); /* those that this processor has, and the system allows */

extern const kernel_table *kernels;   /* the table in use */
int kernels_usable(const char *name); /* 1: can be chosen on this processor */
int kernels_choose(const char *name); /* 0, or -1 where it is not usable */
const char *kernels_name(int i);      /* all names, best first; NULL at the end */

#endif
