/* Affine and softmax loss in one (affine_softmax.h), with products in bfloat16. */

typedef struct {
    score_work k;
    ptrdiff_t words; /* of a row of x */
    ptrdiff_t step;  /* from one row of the left side to the next */
    uint32_t *left;  /* x */
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

#define SCORE_ROW (REDUCED_DEPTH + 2 * W) /* reals of the room of a row of dy */

/* Backward takes REDUCED_DEPTH columns at a time, and of these a run of BACK_DEPTH rows: so dy is computed once, for dx, which
 * reads it row by row, and for dW, which reads pairs of rows side by side. What is named here belongs to all threads. */
typedef struct {
    score_work k;
    ptrdiff_t runs_apart; /* words from the left side of one run to that of the next */
    ptrdiff_t step;       /* from a row of the left side to the next */
    uint32_t *left;       /* x^T, of all rows */
    uint32_t *turned;     /* W^T of the columns */
    uint32_t *right;      /* dy of the columns and the run */
    real *column_sums;    /* [tile of rows][column], for db */
} reduced_score_back;

/* The columns and the rows that are at work. Tiles of rows are whole pairs. */
typedef struct {
    ptrdiff_t j0, columns, m0, rows, run, tiles, words; /* words: of a column of dy */
} score_part;

/* Row n of the tiles' i-th, within the run. */
static inline ptrdiff_t pairs_start(const score_part *at, ptrdiff_t i)
{
    const ptrdiff_t n = 2 * tile_start((at->rows + 1) / 2, at->tiles, i);
    return n < at->rows ? n : at->rows;
}

/* dy of a tile of rows: rounded into `rows`, into the right side, and its sums of columns. `room`: two rows. */
static void reduced_score_tile(const reduced_score_back *q, const score_part *at, ptrdiff_t i, uint32_t *rows, ptrdiff_t step,
                               real *room)
{
    const ptrdiff_t wide = whole_pairs(at->columns), n0 = pairs_start(at, i), n1 = pairs_start(at, i + 1);
    real *sums = q->column_sums + i * SCORE_ROW, *pair[2] = {room, room + SCORE_ROW};
    memset(sums, 0, wide * sizeof(real));
    for (ptrdiff_t n = n0; n < n1; n += 2) {
        const int two = n + 1 < n1;
        for (int r = 0; r <= two; r++) {
            score_gradient(&q->k, at->m0 + n + r, at->j0, at->j0 + at->columns, pair[r], 2 * W);
            round_row(BF16, rows + (n + r - n0) * step, pair[r], at->columns, NULL);
        }
        uint32_t *word = q->right + n / 2 * W;
        for (ptrdiff_t j = 0; j < wide; j += W, word += at->words * W) {
            const vec one = load(pair[0] + j), other = two ? load(pair[1] + j) : (vec){0};
            store((real *)word, (vec)(to_bf16(one) | to_bf16(other) << 16));
            store(sums + j, load(sums + j) + (one + other));
        }
    }
}

/* dx of a tile (+)= dy W^T of the columns. */
static void reduced_score_dx(const reduced_score_back *q, const reduced_way *way, const score_part *at, ptrdiff_t i,
                             const uint32_t *rows, ptrdiff_t step)
{
    const affine_softmax_job *s = q->k.job;
    const ptrdiff_t n = pairs_start(at, i), count = pairs_start(at, i + 1) - n, words = words_of(BF16, at->columns);
    real sums[REDUCED_SUMS] __attribute__((aligned(64)));
    for (ptrdiff_t j = 0; j < s->K; j += 2 * W) {
        multiply_pair(way, rows, step, count, q->turned + j * words, words, words_used(at->columns), sums);
        store_pair(sums, count, (real *)s->dx + (at->m0 + n) * s->K + j, s->K, s->K - j, at->j0 > 0, NULL);
    }
}

/* sums (rows, 2 W) into the transpose of c, whose rows are columns here. */
static void store_turned(const real *sums, ptrdiff_t rows, real *c, ptrdiff_t cr, ptrdiff_t columns, int add)
{
    real turned[2 * (VECTOR_BYTES / sizeof(real)) * 2 * TILE_ROWS];
    turn(turned, 2 * TILE_ROWS, sums, 2 * W, rows, columns < 2 * W ? columns : 2 * W);
    for (ptrdiff_t j = 0; j < 2 * W && j < columns; j++)
        for (ptrdiff_t i = 0, n; i < rows; i += n) {
            n = rows - i < W ? rows - i : W;
            const vec sum = load_n(turned + j * 2 * TILE_ROWS + i, n);
            store_n(c + j * cr + i, add ? load_n(c + j * cr + i, n) + sum : sum, n);
        }
}

/* dW (K, V) (+)= x^T dy of the columns and the run, and db: this thread's part. */
static void reduced_score_dW(const reduced_score_back *q, const team *tm, int rank, const score_part *at)
{
    const affine_softmax_job *s = q->k.job;
    const int more = at->run > 0 || s->more;
    reduced_way way = way_for(BF16, s->K);
    const ptrdiff_t most = rows_of_way(&way), pairs = pair_count(at->columns);
    real sums[REDUCED_SUMS] __attribute__((aligned(64)));
    if (s->K > 0)
        tiles_begin(&way, tile_start(s->K, tile_count(s->K, most), 1));
    for (block_walk w = team_blocks(tm, rank, pairs, 2, s->K, most, at->words, s->dW.s1 != 1); next_block(&w);) {
        const ptrdiff_t j = w.p * 2 * W;
        real *c = (real *)s->dW.p + w.n * s->dW.s0 + (at->j0 + j) * s->dW.s1;
        multiply_pair(&way, q->left + at->run * q->runs_apart + w.n * q->step, q->step, w.rows, q->right + j * at->words,
                      at->words, words_used(at->rows), sums);
        if (s->dW.s1 == 1)
            store_pair(sums, w.rows, c, s->dW.s0, at->columns - j, more, NULL);
        else
            store_turned(sums, w.rows, c, s->dW.s1, at->columns - j, more);
    }
    tiles_end(&way);

    ptrdiff_t p0, p1;
    team_share(tm, rank, s->db ? pairs : 0, &p0, &p1);
    for (ptrdiff_t j = p0 * 2 * W; j < p1 * 2 * W && j < at->columns; j += W) {
        const ptrdiff_t n = at->columns - j < W ? at->columns - j : W;
        real *db = (real *)s->db + at->j0 + j;
        vec total = more ? load_n(db, n) : (vec){0};
        for (ptrdiff_t i = 0; i < at->tiles; i++) /* in blocks: the error stays that of a block */
            total += load(q->column_sums + i * SCORE_ROW + j);
        store_n(db, total, n);
    }
}

static void reduced_score_gradient_body(team *tm, int rank, void *work)
{
    const reduced_score_back *q = work;
    const score_work *k = &q->k;
    const affine_softmax_job *s = k->job;
    const left_rows columns_of_x = {.first_step = s->x.p, .first_n = s->x.s0};
    const ptrdiff_t runs = tile_count(s->M, BACK_DEPTH), step = step_of(words_of(BF16, REDUCED_DEPTH));
    reduced_way way = way_for(BF16, s->M);
    const ptrdiff_t most = rows_of_way(&way);
    real *room = k->room + rank * k->each;
    uint32_t *rows = (uint32_t *)(room + lines(2 * SCORE_ROW));
    ptrdiff_t v0, v1, i0, i1;
    for (ptrdiff_t run = 0; run < runs; run++)
        turn_left(q->left + run * q->runs_apart, q->step, tm, rank, &columns_of_x, (step_rows){.N = s->M, .T = 1},
                  tile_start(s->M, runs, run), tile_start(s->M, runs, run + 1), s->K);
    if (!team_goes_on(tm, s->whole))
        return;

    team_share(tm, rank, 2 * pair_count(s->K), &v0, &v1);
    for (ptrdiff_t j0 = 0; j0 < s->V; j0 += REDUCED_DEPTH) {
        score_part at = {.j0 = j0, .columns = s->V - j0 < REDUCED_DEPTH ? s->V - j0 : REDUCED_DEPTH};
        const ptrdiff_t words = words_of(BF16, at.columns);
        const real *first = (const real *)s->weights.p + j0 * s->weights.s1 + v0 * W * s->weights.s0;
        round_columns(q->turned + v0 * W * words, words, (matrix){first, s->weights.s1, s->weights.s0}, at.columns, v1 - v0,
                      s->K - v0 * W);
        for (at.run = 0; at.run < runs && !team_stopped(); at.run++) {
            at.m0 = tile_start(s->M, runs, at.run), at.rows = tile_start(s->M, runs, at.run + 1) - at.m0;
            const ptrdiff_t pairs = (at.rows + 1) / 2;
            at.tiles = tile_count(pairs, most / 2), at.words = words_of(BF16, at.rows);
            team_share(tm, rank, at.tiles, &i0, &i1);
            tiles_begin(&way, pairs_start(&at, 1));
            team_wait(tm); /* W^T is there, and nobody needs the last dy */
            for (ptrdiff_t i = i0; i < i1 && !team_stopped(); i++) {
                reduced_score_tile(q, &at, i, rows, step, room);
                reduced_score_dx(q, &way, &at, i, rows, step);
            }
            tiles_end(&way);
            way = way_for(BF16, s->M);
            for (ptrdiff_t v = 0; i0 < i1 && i1 == at.tiles && v < whole_pairs(at.columns) / W; v++)
                memset(q->right + (v * at.words + pairs) * W, 0, (at.words - pairs) * W * sizeof(uint32_t));
            team_wait(tm); /* dy is there, and nobody needs W^T any more in the last run */
            reduced_score_dW(q, tm, rank, &at);
        }
    }
}

static int reduced_affine_softmax_backward(const affine_softmax_job *job)
{
    reduced_score_back q = {.k = {.job = job}};
    score_work *k = &q.k;
    const ptrdiff_t runs = tile_count(job->M, BACK_DEPTH), words = words_of(BF16, job->M < BACK_DEPTH ? job->M : BACK_DEPTH);
    const ptrdiff_t depth = words_of(BF16, REDUCED_DEPTH),
                    columns = whole_pairs(job->V < REDUCED_DEPTH ? job->V : REDUCED_DEPTH);
    score_blocks(k);
    k->tops = (real *)job->scores + job->M * job->V;
    q.step = step_of(words), q.runs_apart = lines((job->K + 2) * q.step);
    k->each = lines(2 * SCORE_ROW) + lines((2 * TILE_ROWS + 2) * step_of(depth));
    const ptrdiff_t tiles = tile_count(words, REDUCED_ROWS); /* of a run, at most */
    const ptrdiff_t left = runs * q.runs_apart, turned = lines(whole_pairs(job->K) * depth), right = lines(columns * words);
    k->room = new_reals(job->threads * k->each + left + turned + right + tiles * SCORE_ROW);
    if (!k->room)
        return -1;
    real *end = k->room + job->threads * k->each;
    q.left = (uint32_t *)end, q.turned = (uint32_t *)(end + left), q.right = (uint32_t *)(end + left + turned);
    q.column_sums = end + left + turned + right;
    const int stopped = team_run(job->threads, reduced_score_gradient_body, &q);
    free_room(k->room);
    return stopped;
}
