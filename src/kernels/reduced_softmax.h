/* Affine and softmax loss in one (affine_softmax.h), with products in bfloat16. */

typedef struct {
    score_work k;
    ptrdiff_t words;      /* of a row of x */
    ptrdiff_t step;       /* from one row of the left side to the next */
    ptrdiff_t runs_apart; /* dW: words from the left side of one run of rows to that of the next */
    uint32_t *left;       /* x; then x^T */
    uint32_t *right;      /* dx: a block of W^T, of all threads */
} reduced_score_work;

/* The tiles of a block of columns from j0 on, whose weights are packed in `right`: their scores, and what is kept of them. */
static void reduced_score_block(const reduced_score_work *q, const reduced_way *way, ptrdiff_t block, ptrdiff_t j0,
                                ptrdiff_t columns, const uint32_t *right, real *scores)
{
    const score_work *k = &q->k;
    const affine_softmax_job *s = k->job;
    const ptrdiff_t tiles = tile_count(s->M, rows_of_way(way)), cr = whole_pairs(columns);
    const real *bias = s->bias ? (const real *)s->bias + j0 : NULL;
    real sums[REDUCED_SUMS] __attribute__((aligned(64)));
    for (ptrdiff_t i = 0; i < tiles && !team_stopped(); i++) {
        const ptrdiff_t m0 = tile_start(s->M, tiles, i), m1 = tile_start(s->M, tiles, i + 1);
        for (ptrdiff_t j = 0; j < columns; j += 2 * W) {
            multiply_pair(way, q->left + m0 * q->step, q->step, m1 - m0, right + j * q->words, q->words, words_used(s->K),
                          sums);
            store_pair(sums, m1 - m0, scores + j, cr, columns - j, 0, bias ? bias + j : NULL);
        }
        keep_scores(k, block, j0, columns, m0, m1, scores, cr);
    }
}

static void reduced_score_body(team *tm, int rank, void *work)
{
    const reduced_score_work *q = work;
    const score_work *k = &q->k;
    const affine_softmax_job *s = k->job;
    const ptrdiff_t panels = pair_count(s->V);
    real *scores = k->room + rank * k->each;
    uint32_t *right = (uint32_t *)(scores + lines(2 * TILE_ROWS * k->columns));
    reduced_way way = way_for(BF16, s->M);
    tiles_begin(&way, tile_start(s->M, tile_count(s->M, rows_of_way(&way)), 1));
    round_left(q->left, q->step, tm, rank, (matrix){s->x.p, s->x.s0, 1}, 0, s->K, s->M);
    team_wait(tm);

    for (ptrdiff_t block = rank; block < k->blocks; block += tm->size) {
        const ptrdiff_t j0 = tile_start(panels, k->blocks, block) * 2 * W,
                        j1 = tile_start(panels, k->blocks, block + 1) * 2 * W;
        const ptrdiff_t columns = (j1 < s->V ? j1 : s->V) - j0;
        round_columns(right, q->words, (matrix){(const real *)s->weights.p + j0 * s->weights.s1, s->weights.s0, s->weights.s1},
                      s->K, whole_pairs(columns) / W, columns);
        reduced_score_block(q, &way, block, j0, columns, right, scores);
    }
    tiles_end(&way);
    score_losses(k, tm, rank);
}

static int reduced_affine_softmax_forward(const affine_softmax_job *job)
{
    reduced_score_work q = {.k = {.job = job}, .words = words_of(BF16, job->K)};
    score_work *k = &q.k;
    score_blocks(k);
    q.step = step_of(q.words);
    k->each = lines(2 * TILE_ROWS * k->columns) + lines(k->columns * q.words);
    if (score_forward_room(k, lines((job->M + 2) * q.step)))
        return -1;
    q.left = (uint32_t *)(k->room + job->threads * k->each);
    const int stopped = team_run(job->threads, reduced_score_body, &q);
    free_room(k->sums), free_room(k->room);
    return stopped;
}

/* dx (M, K) = dy W^T, whose tiles of rows the threads share; W^T they pack together, REDUCED_DEPTH rows at a time. */
static void reduced_score_dx(const reduced_score_work *q, team *tm, int rank, real *room)
{
    const score_work *k = &q->k;
    const affine_softmax_job *s = k->job;
    reduced_way way = way_for(BF16, s->M);
    const ptrdiff_t tiles = tile_count(s->M, rows_of_way(&way)), Q = pair_count(s->K);
    const ptrdiff_t step = step_of(words_of(BF16, REDUCED_DEPTH));
    real sums[REDUCED_SUMS] __attribute__((aligned(64)));
    real *row = room;
    uint32_t *dy = (uint32_t *)(room + lines(REDUCED_DEPTH + 2 * W));
    ptrdiff_t i0, i1, v0, v1;
    team_share(tm, rank, tiles, &i0, &i1);
    team_share(tm, rank, 2 * Q, &v0, &v1);
    tiles_begin(&way, tile_start(s->M, tiles, 1));

    for (ptrdiff_t j0 = 0; j0 < s->V; j0 += REDUCED_DEPTH) {
        const ptrdiff_t depth = s->V - j0 < REDUCED_DEPTH ? s->V - j0 : REDUCED_DEPTH, words = words_of(BF16, depth);
        const real *first = (const real *)s->weights.p + j0 * s->weights.s1;
        team_wait(tm); /* nobody needs what right holds */
        round_columns(q->right + v0 * W * words, words, (matrix){first + v0 * W * s->weights.s0, s->weights.s1, s->weights.s0},
                      depth, v1 - v0, s->K - v0 * W);
        team_wait(tm);
        for (ptrdiff_t i = i0; i < i1 && !team_stopped(); i++) {
            const ptrdiff_t m0 = tile_start(s->M, tiles, i), m1 = tile_start(s->M, tiles, i + 1);
            for (ptrdiff_t m = m0; m < m1; m++) {
                score_gradient(k, m, j0, j0 + depth, row, 2 * W);
                round_row(BF16, dy + (m - m0) * step, row, depth, NULL);
            }
            for (ptrdiff_t p = 0; p < Q; p++) {
                multiply_pair(&way, dy, step, m1 - m0, q->right + p * 2 * W * words, words, words_used(depth), sums);
                store_pair(sums, m1 - m0, (real *)s->dx + m0 * s->K + p * 2 * W, s->K, s->K - p * 2 * W, j0 > 0, NULL);
            }
        }
    }
    tiles_end(&way);
}

/* dy of two rows as words of a right side, `each` words from one vector of columns to the next. second may be NULL. */
static void round_gradients(uint32_t *right, ptrdiff_t each, ptrdiff_t columns, const real *first, const real *second)
{
    for (ptrdiff_t j = 0; j < whole_pairs(columns); j += W, right += each) {
        word_vec both = to_bf16(load(first + j));
        if (second)
            both |= to_bf16(load(second + j)) << 16;
        store((real *)right, (vec)both);
    }
}

/* The right side of dW: dy of rows m0 to m1, columns from j0 on, and their sums, to which db, if it is not NULL, belongs. */
static void reduced_score_right(const score_work *k, uint32_t *right, ptrdiff_t words, ptrdiff_t m0, ptrdiff_t m1, ptrdiff_t j0,
                                ptrdiff_t columns, int more, real *db, real *room)
{
    const ptrdiff_t wide = whole_pairs(columns);
    real *rows[2] = {room, room + wide}, *sum = room + 2 * wide, *total = room + 3 * wide;
    memset(sum, 0, 2 * wide * sizeof(real));
    for (ptrdiff_t m = m0; m < m1; m += 2) {
        const int pair = m + 1 < m1;
        for (int i = 0; i <= pair; i++) {
            score_gradient(k, m + i, j0, j0 + columns, rows[i], 2 * W);
            for (ptrdiff_t j = 0; db && j < wide; j += W)
                store(sum + j, load(sum + j) + load(rows[i] + j));
        }
        round_gradients(right + (m - m0) / 2 * W, words * W, columns, rows[0], pair ? rows[1] : NULL);
        if (m + 2 >= m1 || (m - m0) % 64 == 62) { /* in blocks: the error stays that of a block */
            for (ptrdiff_t j = 0; j < wide; j += W)
                store(total + j, load(total + j) + load(sum + j)), store(sum + j, (vec){0});
        }
    }
    for (ptrdiff_t v = 0; v < wide / W; v++) {
        const ptrdiff_t used = (m1 - m0 + 1) / 2;
        memset(right + (v * words + used) * W, 0, (words - used) * W * sizeof *right);
    }
    for (ptrdiff_t j = 0; db && j < columns; j += W) {
        const ptrdiff_t w = columns - j < W ? columns - j : W;
        store_n(db + j, more ? load_n(db + j, w) + load(total + j) : load(total + j), w);
    }
}

/* dW (K, V) = x^T dy and db, block by block of their columns, as score_dW. */
static void reduced_score_dW(const reduced_score_work *q, team *tm, int rank, real *room)
{
    const score_work *k = &q->k;
    const affine_softmax_job *s = k->job;
    const ptrdiff_t panels = pair_count(s->V), blocks = tile_count(panels, SCORE_COLUMNS / (2 * W));
    const ptrdiff_t runs = tile_count(s->M, BACK_DEPTH);
    const int rows = s->dW.s1 == 1;
    reduced_way way = way_for(BF16, s->K);
    const ptrdiff_t tiles = tile_count(s->K, rows_of_way(&way));
    real sums[REDUCED_SUMS] __attribute__((aligned(64)));
    real *gradients = room, *own = room + lines(4 * SCORE_COLUMNS);
    uint32_t *right = (uint32_t *)(own + (rows ? 0 : lines(s->K * SCORE_COLUMNS)));
    if (tiles > 0)
        tiles_begin(&way, tile_start(s->K, tiles, 1));

    for (ptrdiff_t block = rank; block < blocks; block += tm->size) {
        const ptrdiff_t j0 = tile_start(panels, blocks, block) * 2 * W, j1 = tile_start(panels, blocks, block + 1) * 2 * W;
        const ptrdiff_t columns = (j1 < s->V ? j1 : s->V) - j0;
        real *c = rows ? (real *)s->dW.p + j0 : own, *db = s->db ? (real *)s->db + j0 : NULL;
        const ptrdiff_t cr = rows ? s->dW.s0 : SCORE_COLUMNS;
        for (ptrdiff_t run = 0; run < runs && !team_stopped(); run++) {
            const ptrdiff_t m0 = tile_start(s->M, runs, run), m1 = tile_start(s->M, runs, run + 1);
            const ptrdiff_t words = words_of(BF16, m1 - m0);
            const int more = run > 0 || s->more;
            reduced_score_right(k, right, words, m0, m1, j0, columns, more, db, gradients);
            for (ptrdiff_t i = 0; i < tiles && !team_stopped(); i++) {
                const ptrdiff_t n = tile_start(s->K, tiles, i), count = tile_start(s->K, tiles, i + 1) - n;
                for (ptrdiff_t j = 0; j < columns; j += 2 * W) {
                    multiply_pair(&way, q->left + run * q->runs_apart + n * q->step, q->step, count, right + j * words, words,
                                  words_used(m1 - m0), sums);
                    store_pair(sums, count, c + n * cr + j, cr, columns - j, more, NULL);
                }
            }
        }
        if (!rows)
            turn((real *)s->dW.p + j0 * s->dW.s1, s->dW.s1, own, cr, s->K, columns);
    }
    if (tiles > 0)
        tiles_end(&way);
}

static void reduced_score_gradient_body(team *tm, int rank, void *work)
{
    const reduced_score_work *q = work;
    const affine_softmax_job *s = q->k.job;
    const left_rows columns = {.first_step = s->x.p, .first_n = s->x.s0};
    const ptrdiff_t runs = tile_count(s->M, BACK_DEPTH);
    for (ptrdiff_t run = 0; run < runs; run++)
        turn_left(q->left + run * q->runs_apart, q->step, tm, rank, &columns, (step_rows){.N = s->M, .T = 1},
                  tile_start(s->M, runs, run), tile_start(s->M, runs, run + 1), s->K);
    reduced_score_dx(q, tm, rank, q->k.room + rank * q->k.each);
    if (team_goes_on(tm, s->whole))
        reduced_score_dW(q, tm, rank, q->k.room + rank * q->k.each);
}

static int reduced_affine_softmax_backward(const affine_softmax_job *job)
{
    reduced_score_work q = {.k = {.job = job}};
    score_work *k = &q.k;
    const ptrdiff_t runs = tile_count(job->M, BACK_DEPTH), words = words_of(BF16, job->M < BACK_DEPTH ? job->M : BACK_DEPTH);
    const ptrdiff_t depth = words_of(BF16, REDUCED_DEPTH);
    score_blocks(k);
    k->tops = (real *)job->scores + job->M * job->V;
    q.step = step_of(words), q.runs_apart = lines((job->K + 2) * q.step);
    const ptrdiff_t for_dx = lines(REDUCED_DEPTH + 2 * W) + lines((2 * TILE_ROWS + 2) * step_of(depth));
    const ptrdiff_t own = job->dW.s1 == 1 ? 0 : lines(job->K * SCORE_COLUMNS);
    const ptrdiff_t for_dW = lines(4 * SCORE_COLUMNS) + own + lines(SCORE_COLUMNS * words);
    k->each = for_dx > for_dW ? for_dx : for_dW;
    const ptrdiff_t left = runs * q.runs_apart, right = lines(whole_pairs(job->K) * depth);
    k->room = new_reals(job->threads * k->each + left + right);
    if (!k->room)
        return -1;
    q.left = (uint32_t *)(k->room + job->threads * k->each);
    q.right = (uint32_t *)(k->room + job->threads * k->each + left);
    const int stopped = team_run(job->threads, reduced_score_gradient_body, &q);
    free_room(k->room);
    return stopped;
}
