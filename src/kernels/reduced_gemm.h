/* Products of any two matrices in bfloat16 (reduced.h), as gemm.h has them in float32. */

#define REDUCED_DEPTH 1024 /* numbers of k that are multiplied at once */

/* Columns of a right side: whole pairs of vectors. */
static inline ptrdiff_t whole_pairs(ptrdiff_t columns) { return pair_count(columns) * 2 * W; }

/* Words of vectors of a matrix (K, any columns), of which `columns` exist, to the end of their words in zeros. Where rows
 * are contiguous all vectors of some rows come before the next rows, which are in other pages. */
static void round_columns(uint32_t *to, ptrdiff_t words, matrix b, ptrdiff_t K, ptrdiff_t vectors, ptrdiff_t columns)
{
    enum { AT_ONCE = 64 };
    real rows[AT_ONCE * (VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));
    const ptrdiff_t run = b.c == 1 ? AT_ONCE : K, used = (K + 1) / 2;
    for (ptrdiff_t k0 = 0; k0 < K; k0 += run)
        for (ptrdiff_t v = 0; v < vectors && !team_stopped(); v++)
            for (ptrdiff_t k = k0; k < k0 + run && k < K; k += AT_ONCE) {
                const ptrdiff_t count = K - k < AT_ONCE ? K - k : AT_ONCE, lanes = columns - v * W;
                pack_b(rows, (matrix){b.p + k * b.r + v * W * b.c, b.r, b.c}, count, 1, W, (lanes_of){{lanes < W ? lanes : W}});
                round_rows(to + (v * words + k / 2) * W, W, rows, count);
            }
    for (ptrdiff_t v = 0; v < vectors; v++)
        memset(to + (v * words + used) * W, 0, (words - used) * W * sizeof *to);
}

/* left[column][row] of the rows r0 to r1, M columns, in bfloat16 and up to a row's end in zeros: this thread's columns. */
static void turn_left(uint32_t *left, ptrdiff_t step, const team *tm, int rank, const left_rows *src, step_rows steps,
                      ptrdiff_t r0, ptrdiff_t r1, ptrdiff_t M)
{
    real block[(VECTOR_BYTES / sizeof(real)) * (VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));
    real turned[(VECTOR_BYTES / sizeof(real)) * (VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));
    const ptrdiff_t numbers = 2 * words_of(BF16, r1 - r0);
    ptrdiff_t v0, v1;
    team_share(tm, rank, (M + W - 1) / W, &v0, &v1);
    for (ptrdiff_t v = v0; v < v1 && !team_stopped(); v++) {
        const ptrdiff_t lanes = M - v * W < W ? M - v * W : W;
        row_place at = place_of(steps, r0);
        for (ptrdiff_t r = 0; r < numbers; r += W) {
            for (ptrdiff_t i = 0; i < W; i++) {
                const int there = r0 + r + i < r1;
                const real *row = there ? left_row(src, at.t, at.n) : NULL;
                store(block + i * W, row ? load_n(row + v * W, lanes) : (vec){0});
                if (there)
                    next_place(steps, &at);
            }
            transpose(turned, W, block, W);
            for (ptrdiff_t j = 0; j < lanes; j++)
                round_to(BF16, left + (v * W + j) * step, r, load(turned + j * W), W, 0);
        }
    }
}

/* left[row][word] of columns k0 to k1 of a (M, K), one of whose strides is 1: this thread's rows. */
static void round_left(uint32_t *left, ptrdiff_t step, const team *tm, int rank, matrix a, ptrdiff_t k0, ptrdiff_t k1,
                       ptrdiff_t M)
{
    if (a.c != 1 && k1 > k0) {
        const left_rows columns = {.first_step = a.p, .first_n = a.c};
        turn_left(left, step, tm, rank, &columns, (step_rows){.N = k1, .T = 1}, k0, k1, M);
        return;
    }
    ptrdiff_t m0, m1;
    team_share(tm, rank, M, &m0, &m1);
    for (ptrdiff_t m = m0; m < m1 && !team_stopped(); m++)
        round_row(BF16, left + m * step, a.p + m * a.r + k0, k1 - k0, NULL);
}

/* sums (rows, 2 W) into c, of which `columns` exist: to what is there, with `add`, or to the bias, if it is not NULL. */
static void store_pair(const real *sums, ptrdiff_t rows, real *c, ptrdiff_t cr, ptrdiff_t columns, int add, const real *bias)
{
    for (ptrdiff_t v = 0, left; v < 2 && (left = columns - v * W) > 0; v++) {
        const ptrdiff_t lanes = left < W ? left : W;
        const vec first = bias ? load_n(bias + v * W, lanes) : (vec){0};
        for (ptrdiff_t r = 0; r < rows; r++) {
            real *to = c + r * cr + v * W;
            const vec sum = load(sums + (r * 2 + v) * W);
            store_n(to, add ? load_n(to, lanes) + sum : sum + first, lanes);
        }
    }
}

/* One tile of rows of a left side times a pair of vectors of a right side: the sums (rows, 2 W). */
static void multiply_pair(const reduced_way *way, const uint32_t *left, ptrdiff_t step, ptrdiff_t rows, const uint32_t *right,
                          ptrdiff_t words, ptrdiff_t used, real *sums)
{
    const reduced_product t = {.words = way->high ? words : used,
                               .next = right,
                               .a = left,
                               .ar = step,
                               .b = right,
                               .bk = W,
                               .bv = W * words,
                               .c = (uint32_t *)sums};
    reduced_multiply(way, 2, rows, t);
}

/* Words of a product of K numbers for instructions of vectors, an even number. */
static inline ptrdiff_t words_used(ptrdiff_t K) { return (K + 3) / 4 * 2; }

/* A product whose c has rows that are contiguous: that of the job, or its transpose. */
typedef struct {
    const gemm_job *job;
    ptrdiff_t M, N, K;
    matrix a, b;
    real *c;
    ptrdiff_t cr;
    ptrdiff_t step, each; /* words from a row of left to the next; reals of a thread's right side */
    real *left, *right;
} reduced_gemm_work;

/* This thread's part of c, from k0 to k1 of the sums. */
static void reduced_gemm_block(const reduced_gemm_work *k, const team *tm, int rank, ptrdiff_t k0, ptrdiff_t k1)
{
    const ptrdiff_t words = words_of(BF16, k1 - k0), used = words_used(k1 - k0);
    const uint32_t *left = (const uint32_t *)k->left;
    const real *bias = k->job->bias;
    reduced_way way = way_for(BF16, k->M);
    const ptrdiff_t most = rows_of_way(&way);
    real sums[REDUCED_SUMS] __attribute__((aligned(64)));
    own_strips strips = own_strips_at((uint32_t *)(k->right + rank * k->each), 2 * W * words);
    tiles_begin(&way, tile_start(k->M, tile_count(k->M, most), 1));

    for (block_walk w = team_blocks(tm, rank, pair_count(k->N), 2, k->M, most, words, 0); next_block(&w);) {
        const ptrdiff_t j = w.p * 2 * W;
        int made;
        uint32_t *right = own_strip(&strips, &w, &made);
        if (!made)
            round_columns(right, words, (matrix){k->b.p + k0 * k->b.r + j * k->b.c, k->b.r, k->b.c}, k1 - k0, 2, k->N - j);
        multiply_pair(&way, left + w.n * k->step, k->step, w.rows, right, words, used, sums);
        store_pair(sums, w.rows, k->c + w.n * k->cr + j, k->cr, k->N - j, k0 > 0, bias ? bias + j : NULL);
    }
    tiles_end(&way);
}

static void reduced_gemm_body(team *tm, int rank, void *work)
{
    const reduced_gemm_work *k = work;
    if (k->job->whole)
        team_finish();
    for (ptrdiff_t k0 = 0; k0 < k->K || k0 == 0; k0 += REDUCED_DEPTH) {
        const ptrdiff_t k1 = k0 + REDUCED_DEPTH < k->K ? k0 + REDUCED_DEPTH : k->K;
        team_wait(tm); /* nobody needs what left holds */
        round_left((uint32_t *)k->left, k->step, tm, rank, k->a, k0, k1, k->M);
        team_wait(tm);
        reduced_gemm_block(k, tm, rank, k0, k1);
    }
}

/* c = a b + bias. One stride of a, b and c is 1 each; where the columns of c are not contiguous bias is NULL. */
static int reduced_gemm(const gemm_job *g)
{
    reduced_gemm_work k = {.job = g, .M = g->M, .N = g->N, .K = g->K, .c = (real *)g->c.p, .cr = g->c.s0};
    k.a = (matrix){g->a.p, g->a.s0, g->a.s1}, k.b = (matrix){g->b.p, g->b.s0, g->b.s1};
    if (g->c.s1 != 1) { /* c^T = b^T a^T */
        k.M = g->N, k.N = g->M, k.cr = g->c.s1;
        k.a = (matrix){g->b.p, g->b.s1, g->b.s0}, k.b = (matrix){g->a.p, g->a.s1, g->a.s0};
    }
    const ptrdiff_t depth = words_of(BF16, k.K < REDUCED_DEPTH ? k.K : REDUCED_DEPTH);
    k.step = step_of(depth), k.each = lines(own_strips_room(pair_count(k.N), 2, depth));
    const ptrdiff_t left = lines((k.M + 2) * k.step);
    k.left = new_reals(left + g->threads * k.each);
    if (!k.left)
        return -1;
    k.right = k.left + left;
    const int stopped = team_run(g->threads, reduced_gemm_body, &k);
    free_room(k.left);
    return stopped;
}
