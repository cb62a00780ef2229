/* The only matrix product: a micro-kernel, the packing that feeds it, and a blocked GEMM on top.
 *
 * The micro-kernel multiplies `rows` rows of A with NV vectors of columns of B and keeps all rows x NV
 * sums in registers while it walks k:
 *
 *     c(r, v) = sum over k of a(r, k) * b(k, v) (+ plus(r, v))          r < rows, v < NV, each v W columns wide
 *
 * Strides are free on every side, so one kernel serves rows of x, columns of h, packed panels and
 * weights as they lie in memory. An element's sum runs over k in one order whatever the number of rows:
 * how the rows are cut never changes a bit of the result.
 *
 * It is never inlined: within a larger function the compiler would spill the sums.
 */

typedef struct {
    const real *p;
    ptrdiff_t r, c; /* element (i, j) at p[i*r + j*c] */
} matrix;

typedef struct {
    ptrdiff_t K; /* length of one run of k */
    const real *a;
    ptrdiff_t ar, ak; /* a(r, k) = a[r*ar + k*ak] */
    const real *b;
    ptrdiff_t bk, bv; /* b(k, v) = W values from b[k*bk + v*bv] */
    real *c;
    ptrdiff_t cr, cv; /* c(r, v) = W values from c[r*cr + v*cv] */
    const real *plus; /* added to the sums: W values from plus[r*pr + v*pv]; may be c, or NULL */
    ptrdiff_t pr, pv;
    ptrdiff_t more_runs, a_run; /* further runs of k: a moves on by a_run, b goes straight on */
    struct {                    /* NV = 2: what will be multiplied later, fetched into L2 meanwhile; p may be NULL */
        const real *p;
        ptrdiff_t step, run; /* moves on by step with each k, by run with each run of k */
    } prefetch[2];
} product;

/* The sums go on from those at p, which may be c. */
static inline void add_to(product *t, const real *p, ptrdiff_t pr, ptrdiff_t pv) { t->plus = p, t->pr = pr, t->pv = pv; }

#define MAX_ROWS 12
#define MAX_NV 4

/* n reals, rounded up to whole cache lines: how rooms are laid out one after another */
static inline ptrdiff_t lines(ptrdiff_t n) { return (n * (ptrdiff_t)sizeof(real) + 63) / 64 * (64 / sizeof(real)); }
static inline ptrdiff_t step_of(ptrdiff_t n) { return row_step(n, sizeof(real)); }
static inline real *new_reals(ptrdiff_t reals) { return new_room((reals + W) * sizeof(real)); }

#ifdef NEON
#include "micro_lanes.h"
#else
static inline __attribute__((always_inline)) void micro(const int NV, const int rows, const product *t)
{
    const ptrdiff_t ar = t->ar, ak = t->ak, bk = t->bk, bv = t->bv, cr = t->cr, cv = t->cv;
    const ptrdiff_t step0 = t->prefetch[0].step, step1 = t->prefetch[1].step;
    vec sum[MAX_ROWS][MAX_NV];
    const real *b = t->b;

    UNROLLED
    for (int r = 0; r < rows; r++) {
        UNROLLED
        for (int v = 0; v < NV; v++)
            sum[r][v] = (vec){0}, __builtin_prefetch(t->c + r * cr + v * cv, 1, 3);
    }

    for (ptrdiff_t run = 0; run <= t->more_runs; run++) {
        /* One pointer per three rows: r*ar is then reached by scaled indexing, without a register a row. */
        const real *a0 = t->a + run * t->a_run;
        const real *a3 = a0 + 3 * ar, *a6 = a3 + 3 * ar, *a9 = a6 + 3 * ar;
        const real *prefetch0 = t->prefetch[0].p ? t->prefetch[0].p + run * t->prefetch[0].run : b;
        const real *prefetch1 = t->prefetch[1].p ? t->prefetch[1].p + run * t->prefetch[1].run : b;
        for (ptrdiff_t k = t->K; k > 0; k--) {
            if (NV == 2 && rows >= 4) { /* in the shadow of the sums; with fewer it would cost time */
                __builtin_prefetch(prefetch0, 0, 2);
                __builtin_prefetch(prefetch1, 0, 2);
                prefetch0 += step0, prefetch1 += step1;
            }
            vec bb[MAX_NV];
            UNROLLED
            for (int v = 0; v < NV; v++)
                bb[v] = load(b + v * bv);
            /* Pinned in registers: the compiler would rather load b again for every row. */
            if (NV <= PINNED_NV) {
                UNROLLED
                for (int v = 0; v < NV; v++)
                    PIN(bb[v]);
            }
            UNROLLED
            for (int r = 0; r < rows; r++) {
                const real *base = r < 3 ? a0 : r < 6 ? a3 : r < 9 ? a6 : a9;
                real x = base[(r % 3) * ar];
                UNROLLED
                for (int v = 0; v < NV; v++)
                    sum[r][v] = fused(splat(x), bb[v], sum[r][v]);
            }
            a0 += ak, a3 += ak, a6 += ak, a9 += ak, b += bk;
        }
    }

    if (t->plus) {
        UNROLLED
        for (int r = 0; r < rows; r++) {
            UNROLLED
            for (int v = 0; v < NV; v++)
                sum[r][v] += load(t->plus + r * t->pr + v * t->pv);
        }
    }
    UNROLLED
    for (int r = 0; r < rows; r++) {
        UNROLLED
        for (int v = 0; v < NV; v++)
            store(t->c + r * cr + v * cv, sum[r][v]);
    }
}
#endif

/* Each begins at a cache line: its speed must not depend on what the compiler puts before it. */
#define INSTANCE(NV, rows) \
    static __attribute__((noinline, aligned(64))) void micro_##NV##_##rows(const product *t) { micro(NV, rows, t); }
#define ENTRY(NV, rows) micro_##NV##_##rows,
UP_TO(ROWS_1, INSTANCE, 1)
UP_TO(ROWS_2, INSTANCE, 2)
UP_TO(ROWS_3, INSTANCE, 3)
UP_TO(ROWS_4, INSTANCE, 4)

static void (*const micro_table[MAX_NV][MAX_ROWS])(const product *) = {
    {UP_TO(ROWS_1, ENTRY, 1)}, {UP_TO(ROWS_2, ENTRY, 2)}, {UP_TO(ROWS_3, ENTRY, 3)}, {UP_TO(ROWS_4, ENTRY, 4)}};

/* One product of `rows` x NV vectors, of whose columns only the first `columns` exist. */
static void multiply(int NV, ptrdiff_t rows, ptrdiff_t columns, const product *t)
{
    if (NV > MAX_NV)
        __builtin_unreachable();
    if (columns == NV * W) {
        micro_table[NV - 1][rows - 1](t);
        return;
    }
    real scratch[MAX_ROWS * MAX_NV * (VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));
    product s = *t;
    s.c = scratch, s.cr = NV * W, s.cv = W, s.plus = NULL;
    micro_table[NV - 1][rows - 1](&s);
    for (ptrdiff_t r = 0; r < rows; r++)
        for (ptrdiff_t v = 0, lanes; (lanes = columns - v * W) > 0; v++) {
            lanes = lanes < W ? lanes : W;
            vec sum = load(s.c + r * s.cr + v * W);
            if (t->plus)
                sum += load_n(t->plus + r * t->pr + v * t->pv, lanes);
            store_n(t->c + r * t->cr + v * t->cv, sum, lanes);
        }
}

static inline __attribute__((always_inline)) void copy_rows(real *dst, matrix b, ptrdiff_t K, const int NV, ptrdiff_t step)
{
    for (ptrdiff_t k = 0; k < K; k++, dst += NV * W, b.p += b.r) {
        UNROLLED
        for (int v = 0; v < NV; v++)
            store(dst + v * W, load(b.p + v * step));
    }
}

/* pack_b of whole vectors of rows. */
static void pack_rows(real *dst, matrix b, ptrdiff_t K, int NV, ptrdiff_t step)
{
    switch (NV) {
    case 1:
        copy_rows(dst, b, K, 1, step);
        break;
    case 2:
        copy_rows(dst, b, K, 2, step);
        break;
    case 3:
        copy_rows(dst, b, K, 3, step);
        break;
    default:
        copy_rows(dst, b, K, 4, step);
    }
}

/* As transpose, of a block that has only so many rows: the others are zeros. */
static void transpose_some(real *dst, ptrdiff_t to, const real *src, ptrdiff_t from, ptrdiff_t rows)
{
    real block[(VECTOR_BYTES / sizeof(real)) * (VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));
    for (ptrdiff_t i = 0; i < W; i++)
        store(block + i * W, i < rows ? load(src + i * from) : (vec){0});
    transpose(dst, to, block, W);
}

/* dst[k][NV][W] = b(k0 + k, v*step + lane), 0 where lane >= lanes.of[v]. */
static void pack_b(real *dst, matrix b, ptrdiff_t K, int NV, ptrdiff_t step, lanes_of lanes)
{
    if (b.c == 1) {
        int whole = 0;
        for (int v = 0; v < NV; v++)
            whole += lanes.of[v] == W;
        if (whole == NV) {
            pack_rows(dst, b, K, NV, step);
            return;
        }
        for (ptrdiff_t k = 0; k < K; k++, dst += NV * W)
            for (int v = 0; v < NV; v++)
                store(dst + v * W, lanes.of[v] > 0 ? load_n(b.p + k * b.r + v * step, lanes.of[v]) : (vec){0});
        return;
    }
    for (int v = 0; v < NV; v++) {
        const ptrdiff_t there = lanes.of[v] < 0 ? 0 : lanes.of[v];
        const real *src = b.p + v * step * b.c;
        real *to = dst + v * W;
        if (b.r == 1 && there > 0 && K >= W) {
            for (ptrdiff_t k = 0; k < K; k += W) {
                const ptrdiff_t first = k + W <= K ? k : K - W; /* the last ones once more rather than one by one */
                if (there == W)
                    transpose(to + first * NV * W, NV * W, src + first, b.c);
                else
                    transpose_some(to + first * NV * W, NV * W, src + first, b.c, there);
            }
            continue;
        }
        for (ptrdiff_t k = 0; k < K; k++)
            store(to + k * NV * W, (vec){0});
        /* 16 columns of k at a time: the lines of every lane stay in L1 until they are used up. */
        for (ptrdiff_t k0 = 0; k0 < K; k0 += 16)
            for (ptrdiff_t lane = 0; lane < there; lane++)
                for (ptrdiff_t k = k0; k < k0 + 16 && k < K; k++)
                    to[k * NV * W + lane] = src[lane * b.c + k * b.r];
    }
}

/* Rows of the left side of dW = rows^T dA, in the order of the panels (t outside, n inside):
 * x_t for dWx, h_{t-1} for dWh, whose first step is the initial state (NULL: zeros). */
typedef struct {
    const real *first_step, *later_steps; /* steps 0 and 1 */
    ptrdiff_t first_n, later_t, later_n;
    const ptrdiff_t *order; /* as in cell_job */
} left_rows;

/* Row n of step t; NULL: zeros. */
static inline const real *left_row(const left_rows *src, ptrdiff_t t, ptrdiff_t n)
{
    n = src->order ? src->order[n] : n;
    if (t)
        return src->later_steps + (t - 1) * src->later_t + n * src->later_n;
    return src->first_step ? src->first_step + n * src->first_n : NULL;
}

/* dst[tile of columns][row][columns of the tile] = rows r0..r1, m columns each: the transposed left side, its
 * columns cut into tiles of `most` at most. This thread's share of the tiles. */
static void pack_a(real *dst, const team *tm, int rank, const left_rows *src, step_rows steps, ptrdiff_t r0, ptrdiff_t r1,
                   ptrdiff_t m, ptrdiff_t most)
{
    const ptrdiff_t count = r1 - r0, tiles = tile_count(m, most), each = m / tiles, rest = m % tiles;
    ptrdiff_t i0, i1;
    team_share(tm, rank, tiles, &i0, &i1);
    const ptrdiff_t j0 = tile_start(m, tiles, i0), j1 = tile_start(m, tiles, i1);
    row_place at = place_of(steps, r0);
    for (ptrdiff_t r = 0; r < count; r++, next_place(steps, &at)) {
        const real *row = left_row(src, at.t, at.n);
        for (ptrdiff_t j = j0, width; j < j1; j += width) {
            width = j < rest * (each + 1) ? each + 1 : each; /* as tile_start cuts */
            real *to = dst + j * count + r * width;
            if (!row)
                memset(to, 0, width * sizeof(real));
            else if (width <= W && j + W <= m && (count - r) * width >= W)
                store(to, load(row + j)); /* what is beyond `width` belongs to rows still to come */
            else
                memcpy(to, row + j, width * sizeof(real));
        }
    }
}

/* Blocks of the GEMM: a packed block of b is GEMM_K x GEMM_N, beside one tile of rows of a. Where c is narrow, the
 * same room holds up to GEMM_DEPTH rows of b, and c is added to less often. */
#define GEMM_K 256
#define GEMM_N 512
#define GEMM_DEPTH 1024
#define GEMM_ROOM (GEMM_K * GEMM_N + ROWS_2 * GEMM_DEPTH)

/* Columns that come in pairs of vectors: of pair q as many lanes exist. */
static inline lanes_of pair_lanes(ptrdiff_t columns, ptrdiff_t q)
{
    const ptrdiff_t left = columns - 2 * q * W;
    return (lanes_of){{left < W ? left : W, left - W < W ? left - W : W}};
}

/* All columns of a block of b as panels of two vectors, one after another. */
static void gemm_pack(real *dst, matrix b, ptrdiff_t K, ptrdiff_t columns)
{
    const ptrdiff_t run = b.c == 1 ? 1 : K; /* rows of memory: one after another, each from left to right */
    for (ptrdiff_t k = 0; k < K; k += run)
        for (ptrdiff_t j = 0; j < columns; j += 2 * W) {
            const lanes_of lanes = pair_lanes(columns, j / (2 * W));
            pack_b(dst + j * K + k * 2 * W, (matrix){b.p + k * b.r + j * b.c, b.r, b.c}, run, 2, W, lanes);
        }
}

/* dst[k][rows] = a(r, k) of one tile of rows */
static void gather_a(real *dst, matrix a, ptrdiff_t K, ptrdiff_t rows)
{
    for (ptrdiff_t k = 0; k < K; k++, dst += rows) {
        const real *src = a.p + k * a.c;
        if (a.r == 1 && rows == ROWS_2)
            memcpy(dst, src, ROWS_2 * sizeof(real)); /* a length that the compiler knows: a few moves */
        else
            for (ptrdiff_t r = 0; r < rows; r++)
                dst[r] = src[r * a.r];
    }
}

/* What will be read next, fetched into L2 by the last products of a block: `count` streams that begin `apart` from each
 * other and move on by `step` with each k. */
typedef struct {
    const real *p;
    ptrdiff_t apart, step, count;
} prefetch_streams;

/* One packed block of b, columns j0.. of c, times the rows m0 to m1 of a. `packed_b` holds K x columns. Where a.c is
 * not 1, packed_a is room for one tile of rows; where a.p is NULL, it holds a's tiles, each a.r columns of its rows. */
static void gemm_block(ptrdiff_t m0, ptrdiff_t m1, ptrdiff_t columns, ptrdiff_t K, matrix a, const real *packed_b,
                       const real *bias, real *c, ptrdiff_t cr, int add, real *packed_a, prefetch_streams prefetch)
{
    const ptrdiff_t width = 2 * W, M = m1 - m0, tiles = tile_count(M, ROWS_2);
    ptrdiff_t stream = 2 * tiles * tile_count(columns, width);

    /* Tile by tile, so that rows of c are written from left to right. */
    for (ptrdiff_t i = 0; i < tiles && !team_stopped(); i++) {
        ptrdiff_t from = tile_start(M, tiles, i), rows = tile_start(M, tiles, i + 1) - from;
        const real *tile = a.p ? a.p + (m0 + from) * a.r : NULL;
        if (a.p && a.c != 1) /* columns of memory: gathered once for all columns of c */
            gather_a(packed_a, (matrix){tile, a.r, a.c}, K, rows);
        for (ptrdiff_t j = 0; j < columns; j += width) {
            const ptrdiff_t here = columns - j < width ? columns - j : width;
            product t = {.K = K,
                         .a = tile,
                         .ar = a.r,
                         .ak = 1,
                         .b = packed_b + j * K,
                         .bk = width,
                         .bv = W,
                         .c = c + (m0 + from) * cr + j,
                         .cr = cr,
                         .cv = W};
            if (add || bias)
                add_to(&t, t.c, cr, W);
            if (!a.p || a.c != 1)
                t.a = packed_a + (a.p ? 0 : (m0 + from) * a.r), t.ar = 1, t.ak = rows;
            for (int s = 0; s < 2; s++)
                if (--stream < prefetch.count)
                    t.prefetch[s].p = prefetch.p + stream * prefetch.apart, t.prefetch[s].step = prefetch.step;
            if (bias)
                for (ptrdiff_t r = 0; r < rows; r++)
                    memcpy(t.c + r * cr, bias + j, here * sizeof(real));
            multiply(here > W ? 2 : 1, rows, here, &t);
        }
    }
}

/* A thread's part of c = a b + bias: c (M, N) with unit column stride, bias (N) or NULL. Its part is some
 * columns or some rows, which nobody else writes: columns where there are enough to share evenly, since b is packed
 * by whoever uses it, unless a must be gathered too and is the longer side.
 * room: GEMM_ROOM reals, this thread's own. */
static void gemm_part(team *tm, int rank, ptrdiff_t M, ptrdiff_t N, ptrdiff_t K, matrix a, matrix b, const real *bias, real *c,
                      ptrdiff_t cr, real *room)
{
    const ptrdiff_t width = 2 * W, panels = (N + width - 1) / width;
    const ptrdiff_t tiles = tile_count(M, ROWS_2);
    ptrdiff_t depth = GEMM_K * GEMM_N / (panels * width); /* by N alone: it decides how sums are cut */
    depth = depth < GEMM_K ? GEMM_K : depth < GEMM_DEPTH ? depth : GEMM_DEPTH;
    ptrdiff_t q0 = 0, q1 = panels, i0 = 0, i1 = tiles;
    if (panels >= tiles || (a.c == 1 && panels >= 32 * tm->size))
        team_share(tm, rank, panels, &q0, &q1);
    else
        team_share(tm, rank, tiles, &i0, &i1);
    const ptrdiff_t n1 = q1 * width < N ? q1 * width : N;
    const ptrdiff_t m0 = tile_start(M, tiles, i0), m1 = tile_start(M, tiles, i1);

    for (ptrdiff_t j0 = q0 * width; j0 < n1 && !team_stopped(); j0 += GEMM_N) {
        ptrdiff_t columns = n1 - j0 < GEMM_N ? n1 - j0 : GEMM_N;
        for (ptrdiff_t k0 = 0; k0 < K || k0 == 0; k0 += depth) {
            ptrdiff_t k = K - k0 < depth ? K - k0 : depth;
            gemm_pack(room, (matrix){b.p + k0 * b.r + j0 * b.c, b.r, b.c}, k, columns);
            gemm_block(m0, m1, columns, k, (matrix){a.p + k0 * a.c, a.r, a.c}, room, k0 == 0 && bias ? bias + j0 : NULL, c + j0,
                       cr, k0 > 0, room + GEMM_K * GEMM_N, (prefetch_streams){0});
        }
    }
}
