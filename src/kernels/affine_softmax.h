/* Affine and softmax loss in one: the log-sum-exp is taken while the scores are in L1.
 *
 * The scores are computed in blocks of columns, whose packed weights stay in L2 while all rows pass. Each block
 * leaves the maximum and the sum of exps of every row; the blocks are the same for every team. For backward the exps
 * are stored in place of the scores (M, V), and behind them what makes a block's exps probabilities (M, blocks):
 * exp(maximum) / sum of all. Backward multiplies, instead of computing the exps again, just before a product reads
 * the gradient, which is never stored; recomputing the exps too would be a fourth product. */
#define SCORE_ROOM ((768 << 10) / (ptrdiff_t)sizeof(real)) /* packed weights: 768 KiB */
#define SCORE_COLUMNS 256                                  /* where W is deep, else twice as many */
#define SCORES_FAR (16 << 20)                              /* bytes of scores that no cache keeps until backward */

typedef struct {
    const affine_softmax_job *job;
    ptrdiff_t columns, blocks; /* of one block at most; how many blocks */
    ptrdiff_t depth, width;    /* rows of the right side packed at a time, and in backward its columns, whole pairs */
    ptrdiff_t each;            /* reals of one thread's part of room */
    real *room;
    real *turned_x;  /* the left side of dW: for each run of rows, tiles of x's columns */
    real *tops;      /* (M, blocks) maximum of a row within a block, later its part of the probabilities */
    double *sums;    /* (M, blocks) sum of exp(x - maximum) */
    double *targets; /* (M) the target's score */
} score_work;

/* What is kept of the scores of rows m0 to m1 in a block of columns from j0 on. They lie in c and may be where the exps go. */
static void keep_scores(const score_work *k, ptrdiff_t block, ptrdiff_t j0, ptrdiff_t columns, ptrdiff_t m0, ptrdiff_t m1,
                        const real *c, ptrdiff_t cr)
{
    const affine_softmax_job *s = k->job;
    const int far = s->M * s->V * (ptrdiff_t)sizeof(real) > SCORES_FAR;
    for (ptrdiff_t m = m0; m < m1; m++, c += cr) {
        const ptrdiff_t t = s->ts[m] - j0;
        if (s->ts[m] < 0)
            continue;
        if (t >= 0 && t < columns)
            k->targets[m] = c[t];
        real *exps = s->scores ? (real *)s->scores + j0 + m * s->V : NULL;
        k->sums[m * k->blocks + block] = sum_exp(c, columns, &k->tops[m * k->blocks + block], exps, far);
    }
}

/* The losses, once all blocks are there: this thread's rows. */
static void score_losses(const score_work *k, team *tm, int rank)
{
    const affine_softmax_job *s = k->job;
    stream_end();
    team_wait(tm);

    ptrdiff_t m0, m1;
    team_share(tm, rank, s->M, &m0, &m1);
    for (ptrdiff_t m = m0; m < m1; m++) {
        s->loss[m] = 0;
        if (s->ts[m] < 0)
            continue;
        real *tops = k->tops + m * k->blocks;
        double *sums = k->sums + m * k->blocks, most = tops[0], total = 0;
        for (ptrdiff_t i = 1; i < k->blocks; i++)
            most = tops[i] > most ? tops[i] : most;
        for (ptrdiff_t i = 0; i < k->blocks; i++) {
            const double part = exp(tops[i] - most);
            total += sums[i] * part;
            tops[i] = part;
        }
        for (ptrdiff_t i = 0; i < k->blocks; i++)
            tops[i] /= total;
        s->loss[m] = most + log(total) - k->targets[m];
    }
}

static void score_body(team *tm, int rank, void *work)
{
    const score_work *k = work;
    const affine_softmax_job *s = k->job;
    const ptrdiff_t panels = pair_count(s->V), tiles = tile_count(s->M, ROWS_2);
    real *room = k->room + rank * k->each, *own = room + k->depth * k->columns;

    for (ptrdiff_t block = rank; block < k->blocks; block += tm->size) {
        const ptrdiff_t j0 = tile_start(panels, k->blocks, block) * 2 * W,
                        j1 = tile_start(panels, k->blocks, block + 1) * 2 * W;
        const ptrdiff_t columns = (j1 < s->V ? j1 : s->V) - j0;
        const int tile = s->scores && s->K <= k->depth; /* scores are whole at once: a tile's have a room of their own */
        const ptrdiff_t cr = s->scores && !tile ? s->V : columns;
        real *all = s->scores ? (real *)s->scores + j0 : own;
        const real *bias = s->bias ? (const real *)s->bias + j0 : NULL;
        for (ptrdiff_t k0 = 0; k0 < s->K || k0 == 0; k0 += k->depth) {
            const ptrdiff_t depth = s->K - k0 < k->depth ? s->K - k0 : k->depth;
            const real *weights = (const real *)s->weights.p + k0 * s->weights.s0 + j0 * s->weights.s1;
            gemm_pack(room, (matrix){weights, s->weights.s0, s->weights.s1}, depth, columns);
            for (ptrdiff_t i = 0; i < tiles && !team_stopped(); i++) {
                const ptrdiff_t m0 = tile_start(s->M, tiles, i), m1 = tile_start(s->M, tiles, i + 1);
                real *c = tile ? own : all + m0 * cr;
                gemm_block(0, m1 - m0, columns, depth, (matrix){(const real *)s->x.p + m0 * s->x.s0 + k0, s->x.s0, 1}, room,
                           k0 == 0 ? bias : NULL, c, cr, k0 > 0, NULL, (prefetch_streams){0});
                if (k0 + depth >= s->K)
                    keep_scores(k, block, j0, columns, m0, m1, c, cr);
            }
        }
    }
    score_losses(k, tm, rank);
}

/* The blocks of columns, by the shapes alone. */
static void score_blocks(score_work *k)
{
    const affine_softmax_job *s = k->job;
    k->columns = s->K * 2 * SCORE_COLUMNS <= SCORE_ROOM ? 2 * SCORE_COLUMNS : SCORE_COLUMNS;
    k->blocks = tile_count(pair_count(s->V), k->columns / (2 * W));
}

/* Room for forward, with `more` reals behind the threads' parts. Returns -1 where there is no memory. */
static int score_forward_room(score_work *k, ptrdiff_t more)
{
    const affine_softmax_job *job = k->job;
    const ptrdiff_t cells = job->M * k->blocks;
    k->sums = new_room((cells + job->M) * sizeof(double) + cells * sizeof(real));
    k->room = new_reals(job->threads * k->each + more);
    if (!k->sums || !k->room) {
        free_room(k->sums), free_room(k->room);
        return -1;
    }
    k->targets = k->sums + cells;
    k->tops = job->scores ? (real *)job->scores + job->M * job->V : (real *)(k->targets + job->M);
    return 0;
}

#if REAL_IS_FLOAT
static int reduced_affine_softmax_forward(const affine_softmax_job *job);
static int reduced_affine_softmax_backward(const affine_softmax_job *job);
#else /* no precision but its own */
static int reduced_affine_softmax_forward(const affine_softmax_job *job) { return (void)job, -1; }
static int reduced_affine_softmax_backward(const affine_softmax_job *job) { return (void)job, -1; }
#endif

static int affine_softmax_forward(const affine_softmax_job *job)
{
    if (job->precision)
        return reduced_affine_softmax_forward(job);
    score_work k = {.job = job};
    score_blocks(&k);
    k.depth = SCORE_ROOM / k.columns;
    k.depth = job->K < k.depth ? job->K + !job->K : k.depth; /* 1 for K = 0: loops have to move on */
    k.each = lines(k.depth * k.columns + (job->scores ? ROWS_2 : job->M) * k.columns);
    if (score_forward_room(&k, 0))
        return -1;
    const int stopped = team_run(job->threads, score_body, &k);
    free_room(k.sums), free_room(k.room);
    return stopped;
}

/* dy of row m, columns v0 to v1, = (softmax - onehot(t)) scales[m] from the stored exps, in pairs of vectors `apart` reals
 * from each other. Whole vectors are written, with 0 beyond V; v0 is a multiple of 2 W. */
static void score_gradient(const score_work *k, ptrdiff_t m, ptrdiff_t v0, ptrdiff_t v1, real *dy, ptrdiff_t apart)
{
    const affine_softmax_job *s = k->job;
    const ptrdiff_t panels = pair_count(s->V), t = s->ts[m];
    const real *e = (const real *)s->scores + m * s->V;
    if (t < 0) {
        for (ptrdiff_t v = v0; v < v1; v += 2 * W, dy += apart)
            memset(dy, 0, 2 * W * sizeof(real));
        return;
    }
    real *pair = dy;
    for (ptrdiff_t block = v0 / k->columns, v = v0; v < v1; block++) {
        const ptrdiff_t end = tile_start(panels, k->blocks, block + 1) * 2 * W, to = end < v1 ? end : v1;
        const real part = k->tops[m * k->blocks + block] * s->scales[m];
        for (; v < to; v += 2 * W, pair += apart) { /* blocks are whole pairs, but for the last */
            const ptrdiff_t left = to - v;
            store(pair, load_n(e + v, left < W ? left : W) * part);
            store(pair + W, left > W ? load_n(e + v + W, left < 2 * W ? left - W : W) * part : (vec){0});
        }
    }
    if (t >= v0 && t < v1)
        dy[(t - v0) / (2 * W) * apart + (t - v0) % (2 * W)] -= (real)s->scales[m];
}

/* dx (M, K) = dy W^T, whose rows the threads share. dy of a tile of rows is made just before. */
static void score_dx(const score_work *k, team *tm, int rank, real *room)
{
    const affine_softmax_job *s = k->job;
    const ptrdiff_t tiles = tile_count(s->M, ROWS_2), step = step_of(k->depth + 2 * W);
    real *dy = room + lines(k->depth * k->width);
    ptrdiff_t i0, i1;
    team_share(tm, rank, tiles, &i0, &i1);
    for (ptrdiff_t v = 0; v < s->V && i0 < i1; v += k->depth) {
        const ptrdiff_t depth = s->V - v < k->depth ? s->V - v : k->depth;
        gemm_pack(room, (matrix){(const real *)s->weights.p + v * s->weights.s1, s->weights.s1, s->weights.s0}, depth, s->K);
        for (ptrdiff_t i = i0; i < i1 && !team_stopped(); i++) {
            const ptrdiff_t m0 = tile_start(s->M, tiles, i), m1 = tile_start(s->M, tiles, i + 1);
            for (ptrdiff_t m = m0; m < m1; m++)
                score_gradient(k, m, v, v + depth, dy + (m - m0) * step, 2 * W);
            prefetch_streams next_rows = {(const real *)s->scores + m1 * s->V + v, s->V, 1, i + 1 < i1 ? ROWS_2 - 1 : 0};
            gemm_block(0, m1 - m0, s->K, depth, (matrix){dy, step, 1}, room, NULL, (real *)s->dx + m0 * s->K, s->K, v > 0, NULL,
                       next_rows);
        }
    }
}

/* dst(j, i) = src(i, j) for a block of rows x columns */
static void turn(real *dst, ptrdiff_t to, const real *src, ptrdiff_t from, ptrdiff_t rows, ptrdiff_t columns)
{
    for (ptrdiff_t j = 0; j < columns; j += W)
        for (ptrdiff_t i = 0; i < rows; i += W) {
            if (i + W <= rows && j + W <= columns) {
                transpose(dst + j * to + i, to, src + i * from + j, from);
                continue;
            }
            for (ptrdiff_t jj = j; jj < j + W && jj < columns; jj++)
                for (ptrdiff_t ii = i; ii < i + W && ii < rows; ii++)
                    dst[jj * to + ii] = src[ii * from + jj];
        }
}

/* x^T as dW needs it, once for all of its blocks; a thread's share of the tiles. */
static void turn_x(const score_work *k, team *tm, int rank)
{
    const affine_softmax_job *s = k->job;
    const ptrdiff_t tiles = tile_count(s->K, ROWS_2), most = SCORE_ROOM / SCORE_COLUMNS;
    ptrdiff_t i0, i1;
    team_share(tm, rank, tiles, &i0, &i1);
    for (ptrdiff_t m = 0; m < s->M; m += most) {
        const ptrdiff_t depth = s->M - m < most ? s->M - m : most;
        for (ptrdiff_t i = i0; i < i1; i++) {
            const ptrdiff_t from = tile_start(s->K, tiles, i), rows = tile_start(s->K, tiles, i + 1) - from;
            gather_a(k->turned_x + m * s->K + from * depth, (matrix){(const real *)s->x.p + m * s->x.s0 + from, 1, s->x.s0},
                     depth, rows);
        }
    }
}

/* dW (K, V) = x^T dy and db, block by block of their columns: dy's are made, packed, once for both. A dW whose columns are
 * contiguous (tied to an embedding) is turned around block by block. */
static void score_dW(const score_work *k, team *tm, int rank, real *room)
{
    const affine_softmax_job *s = k->job;
    const ptrdiff_t panels = pair_count(s->V), most = SCORE_ROOM / SCORE_COLUMNS;
    const ptrdiff_t blocks = tile_count(panels, SCORE_COLUMNS / (2 * W)); /* smaller ones than forward's: M is deep */
    const int rows = s->dW.s1 == 1;
    real *own = room + SCORE_ROOM;

    for (ptrdiff_t block = rank; block < blocks; block += tm->size) {
        const ptrdiff_t j0 = tile_start(panels, blocks, block) * 2 * W, j1 = tile_start(panels, blocks, block + 1) * 2 * W;
        const ptrdiff_t columns = (j1 < s->V ? j1 : s->V) - j0;
        real *c = rows ? (real *)s->dW.p + j0 : own, *db = s->db ? (real *)s->db + j0 : NULL;
        const ptrdiff_t cr = rows ? s->dW.s0 : SCORE_COLUMNS;
        for (ptrdiff_t m = 0; m < s->M && !team_stopped(); m += most) {
            const ptrdiff_t depth = s->M - m < most ? s->M - m : most;
            const ptrdiff_t next = tile_start(panels, blocks, block + tm->size) * 2 * W;
            prefetch_streams next_columns = {(const real *)s->scores + m * s->V + next, 64 / sizeof(real), s->V, 0};
            if (block + tm->size < blocks)
                next_columns.count = (s->V - next < columns ? s->V - next : columns) * sizeof(real) / 64;
            for (ptrdiff_t r = 0; r < depth; r++)
                score_gradient(k, m + r, j0, j0 + columns, room + r * 2 * W, depth * 2 * W);
            gemm_block(0, s->K, columns, depth, (matrix){NULL, depth, 0}, room, NULL, c, cr, m > 0 || s->more,
                       k->turned_x + m * s->K, next_columns);
            for (ptrdiff_t j = 0; db && j < columns; j += W) {
                const real *panel = room + j / (2 * W) * (2 * W) * depth + j % (2 * W);
                const ptrdiff_t w = columns - j < W ? columns - j : W;
                vec total = {0};
                for (ptrdiff_t r0 = 0; r0 < depth; r0 += 64) { /* in blocks: the error stays that of a block */
                    vec sum = {0};
                    for (ptrdiff_t r = r0; r < r0 + 64 && r < depth; r++)
                        sum += load(panel + r * 2 * W);
                    total += sum;
                }
                store_n(db + j, m > 0 || s->more ? load_n(db + j, w) + total : total, w);
            }
        }
        if (!rows)
            turn((real *)s->dW.p + j0 * s->dW.s1, s->dW.s1, own, cr, s->K, columns);
    }
}

static void score_gradient_body(team *tm, int rank, void *work)
{
    const score_work *k = work;
    turn_x(k, tm, rank);
    score_dx(k, tm, rank, k->room + rank * k->each);
    if (team_goes_on(tm, k->job->whole))
        score_dW(k, tm, rank, k->room + rank * k->each);
}

static int affine_softmax_backward(const affine_softmax_job *job)
{
    if (job->precision)
        return reduced_affine_softmax_backward(job);
    score_work k = {.job = job};
    k.width = (job->K + !job->K + 2 * W - 1) / (2 * W) * (2 * W);
    k.depth = SCORE_ROOM / k.width; /* all columns of dx at once: a gradient is made once for it */
    k.depth = k.depth < 64 ? 64 : k.depth < GEMM_DEPTH ? k.depth / (2 * W) * 2 * W : GEMM_DEPTH; /* whole pairs */
    score_blocks(&k);
    k.tops = (real *)job->scores + job->M * job->V;
    const ptrdiff_t for_dx = lines(k.depth * k.width) + ROWS_2 * step_of(k.depth + 2 * W);
    const ptrdiff_t for_dW = SCORE_ROOM + (job->dW.s1 == 1 ? 0 : job->K * SCORE_COLUMNS);
    k.each = lines(for_dx > for_dW ? for_dx : for_dW);
    k.room = new_reals(job->threads * k.each + job->M * job->K);
    if (!k.room)
        return -1;
    k.turned_x = k.room + job->threads * k.each;
    const int stopped = team_run(job->threads, score_gradient_body, &k);
    free_room(k.room);
    return stopped;
}
