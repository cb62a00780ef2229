/* What is not recurrent: affine layers through the GEMM, softmax with loss, embedding gradients.
 *
 *   M rows (N T of a sequence), V classes or words, D features
 */

typedef struct {
    const gemm_job *job;
    real *room;
} gemm_work;

/* Few rows of c, as when a model writes text id by id: b is read once, as it lies in memory. */
static int gemm_is_few(const gemm_job *g)
{
    return g->M <= FEW_ROWS && g->K > 0 && g->c.s1 == 1 && g->a.s1 == 1 && (g->b.s0 == 1 || g->b.s1 == 1);
}

static void gemm_few(const team *tm, int rank, const gemm_job *g)
{
    const real *a = g->a.p, *b = g->b.p, *bias = g->bias;
    real *c = (real *)g->c.p;
    ptrdiff_t j0, j1;
    team_share(tm, rank, (g->N + W - 1) / W, &j0, &j1);
    j0 *= W, j1 = j1 * W < g->N ? j1 * W : g->N;
    if (g->b.s1 == 1)
        rows_times(g->M, a, g->a.s0, b + j0, g->b.s0, g->K, j1 - j0, c + j0, g->c.s0);
    else
        for (ptrdiff_t j = j0; j < j1; j++)
            for (ptrdiff_t m = 0; m < g->M; m++)
                c[m * g->c.s0 + j] = dot(a + m * g->a.s0, b + j * g->b.s1, g->K);
    for (ptrdiff_t m = 0; bias && m < g->M; m++)
        for (ptrdiff_t j = j0; j < j1; j++)
            c[m * g->c.s0 + j] += bias[j];
}

static void gemm_body(team *tm, int rank, void *work)
{
    const gemm_work *k = work;
    const gemm_job *g = k->job;
    if (g->whole)
        team_finish();
    if (gemm_is_few(g)) {
        gemm_few(tm, rank, g);
        return;
    }
    matrix a = {g->a.p, g->a.s0, g->a.s1}, b = {g->b.p, g->b.s0, g->b.s1};
    real *room = k->room + rank * GEMM_ROOM, *c = (real *)g->c.p;
    if (g->c.s1 == 1)
        gemm_part(tm, rank, g->M, g->N, g->K, a, b, g->bias, c, g->c.s0, room);
    else /* c is the transpose of a row-major array: c^T = b^T a^T */
        gemm_part(tm, rank, g->N, g->M, g->K, (matrix){b.p, b.c, b.r}, (matrix){a.p, a.c, a.r}, NULL, c, g->c.s1, room);
}

/* c = a b + bias. Where the columns of c are not contiguous its rows must be, and bias NULL. */
static int gemm(const gemm_job *job)
{
    gemm_work k = {job, new_reals(gemm_is_few(job) ? 0 : job->threads * GEMM_ROOM)};
    if (!k.room)
        return -1;
    const int stopped = team_run(job->threads, gemm_body, &k);
    free(k.room);
    return stopped;
}

static void column_sums_body(team *tm, int rank, void *work)
{
    const gemm_job *g = work;
    enum { SIDE = 16 }; /* vectors side by side: whole pieces of a row are read */
    ptrdiff_t v0, v1;
    team_share(tm, rank, (g->N + W - 1) / W, &v0, &v1);
    for (; v0 < v1; v0 += SIDE) {
        const ptrdiff_t side = v1 - v0 < SIDE ? v1 - v0 : SIDE, end = g->N - v0 * W; /* columns from v0 on */
        vec total[SIDE] = {{0}};
        for (ptrdiff_t m0 = 0; m0 < g->M && !team_stopped(); m0 += 64) { /* in blocks: the error stays that of a block */
            vec sum[SIDE] = {{0}};
            for (ptrdiff_t m = m0; m < m0 + 64 && m < g->M; m++)
                for (ptrdiff_t v = 0; v < side; v++)
                    sum[v] += load_n((const real *)g->a.p + m * g->a.s0 + (v0 + v) * W, end - v * W < W ? end - v * W : W);
            for (ptrdiff_t v = 0; v < side; v++)
                total[v] += sum[v];
        }
        for (ptrdiff_t v = 0; v < side; v++)
            store_n((real *)g->c.p + (v0 + v) * W, total[v], end - v * W < W ? end - v * W : W);
    }
}

static int column_sums(const gemm_job *job) { return team_run(job->threads, column_sums_body, (void *)job); }

/* Over the lanes of a vector, by halves. */
static inline double lanes_sum(vec x)
{
    double lane[VECTOR_BYTES / sizeof(real)];
    for (int i = 0; i < W; i++)
        lane[i] = x[i];
    for (int half = W / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            lane[i] += lane[i + half];
    return lane[0];
}

static inline real lanes_max(vec x)
{
    real lane[VECTOR_BYTES / sizeof(real)];
    store(lane, x);
    for (int half = W / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
    return lane[0];
}

/* *largest = max(x), and the sum of e = exp(x - *largest), where e may be x or NULL, and is streamed if `far`; the sum is
 * taken in float for 32 vectors at a time, then in double. The second look at x finds it in L1 or L2. */
static inline double sum_exp(const real *x, ptrdiff_t V, real *largest, real *e, int far)
{
    vec top = splat(x[0]), second = top;
    ptrdiff_t v = 0;
    for (; v + 2 * W <= V; v += 2 * W) { /* two chains of maxima */
        top = vmax(top, load(x + v));
        second = vmax(second, load(x + v + W));
    }
    real most = lanes_max(vmax(top, second));
    for (; v < V; v++)
        most = x[v] > most ? x[v] : most;

    const real shift = most == -(real)INFINITY ? 0 : most; /* -inf - -inf would be NaN */
    double total = 0;
    for (v = 0; v < V;) {
        vec sum = {0};
        for (int block = 0; block < 32 && v + W <= V; block++, v += W) {
            vec y = vexp(load(x + v) - shift);
            if (e && far)
                stream_store(e + v, y);
            else if (e)
                store(e + v, y);
            sum += y;
        }
        total += lanes_sum(sum);
        if (v < V && v + W > V) {
            vec last = vexp(load_lanes(x + v, V - v) - shift);
            for (int i = 0; i < V - v; i++)
                total += last[i];
            if (e)
                store_lanes(e + v, last, V - v);
            v = V;
        }
    }
    *largest = most;
    return total;
}

static void softmax_forward_body(team *tm, int rank, void *work)
{
    const softmax_job *s = work;
    ptrdiff_t m0, m1;
    team_share(tm, rank, s->M, &m0, &m1);
    for (ptrdiff_t m = m0; m < m1 && !team_stopped(); m++) {
        s->lse[m] = s->loss[m] = 0;
        if (s->ts[m] == s->ignore)
            continue;
        const real *x = (const real *)s->x.p + m * s->x.s0;
        real most;
        double total = sum_exp(x, s->V, &most, NULL, 0);
        s->lse[m] = most + log(total);
        s->loss[m] = s->lse[m] - x[s->ts[m]];
    }
}

static int softmax_forward(const softmax_job *job) { return team_run(job->threads, softmax_forward_body, (void *)job); }

/* dx (V) = (softmax(x) - onehot(t)) scale */
static void softmax_gradient(const real *x, real *dx, ptrdiff_t V, ptrdiff_t t, real lse, real scale)
{
    for (ptrdiff_t v = 0; v < V; v += W) {
        ptrdiff_t w = V - v < W ? V - v : W;
        store_n(dx + v, vexp(load_n(x + v, w) - lse) * scale, w);
    }
    dx[t] -= scale;
}

static void softmax_backward_body(team *tm, int rank, void *work)
{
    const softmax_job *s = work;
    ptrdiff_t m0, m1;
    team_share(tm, rank, s->M, &m0, &m1);
    for (ptrdiff_t m = m0; m < m1 && !team_stopped(); m++) {
        real *dx = (real *)s->dx + m * s->V;
        if (s->ts[m] == s->ignore)
            memset(dx, 0, s->V * sizeof(real));
        else
            softmax_gradient((const real *)s->x.p + m * s->x.s0, dx, s->V, s->ts[m], s->lse[m], s->scale);
    }
}

static int softmax_backward(const softmax_job *job) { return team_run(job->threads, softmax_backward_body, (void *)job); }

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

static void score_body(team *tm, int rank, void *work)
{
    const score_work *k = work;
    const affine_softmax_job *s = k->job;
    const ptrdiff_t panels = (s->V + 2 * W - 1) / (2 * W), tiles = tile_count(s->M, ROWS_2);
    const int far = s->M * s->V * (ptrdiff_t)sizeof(real) > SCORES_FAR;
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
                if (k0 + depth < s->K)
                    continue;
                for (ptrdiff_t m = m0; m < m1; m++, c += cr) {
                    const ptrdiff_t t = s->ts[m] - j0;
                    if (s->ts[m] < 0)
                        continue;
                    if (t >= 0 && t < columns)
                        k->targets[m] = c[t];
                    k->sums[m * k->blocks + block] =
                        sum_exp(c, columns, &k->tops[m * k->blocks + block], s->scores ? all + m * s->V : NULL, far);
                }
            }
        }
    }
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

/* The blocks of columns, by the shapes alone. */
static void score_blocks(score_work *k)
{
    const affine_softmax_job *s = k->job;
    k->columns = s->K * 2 * SCORE_COLUMNS <= SCORE_ROOM ? 2 * SCORE_COLUMNS : SCORE_COLUMNS;
    k->blocks = tile_count((s->V + 2 * W - 1) / (2 * W), k->columns / (2 * W));
}

static int affine_softmax_forward(const affine_softmax_job *job)
{
    score_work k = {.job = job};
    score_blocks(&k);
    k.depth = SCORE_ROOM / k.columns;
    k.depth = job->K < k.depth ? job->K + !job->K : k.depth; /* 1 for K = 0: loops have to move on */
    k.each = lines(k.depth * k.columns + (job->scores ? ROWS_2 : job->M) * k.columns);
    const ptrdiff_t cells = job->M * k.blocks;
    k.sums = new_room((cells + job->M) * sizeof(double) + cells * sizeof(real));
    k.room = new_reals(job->threads * k.each);
    int stopped = 0;
    if (k.sums && k.room) {
        k.targets = k.sums + cells;
        k.tops = job->scores ? (real *)job->scores + job->M * job->V : (real *)(k.targets + job->M);
        stopped = team_run(job->threads, score_body, &k);
    }
    const int failed = !k.sums || !k.room;
    free(k.sums), free(k.room);
    return failed ? -1 : stopped;
}

/* dy of row m, columns v0 to v1, = (softmax - onehot(t)) scales[m] from the stored exps, in pairs of vectors `apart` reals
 * from each other. Whole vectors are written, with 0 beyond V; v0 is a multiple of 2 W. */
static void score_gradient(const score_work *k, ptrdiff_t m, ptrdiff_t v0, ptrdiff_t v1, real *dy, ptrdiff_t apart)
{
    const affine_softmax_job *s = k->job;
    const ptrdiff_t panels = (s->V + 2 * W - 1) / (2 * W), t = s->ts[m];
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
            if (left > W)
                store(pair + W, load_n(e + v + W, left < 2 * W ? left - W : W) * part);
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
    const ptrdiff_t panels = (s->V + 2 * W - 1) / (2 * W), most = SCORE_ROOM / SCORE_COLUMNS;
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
    free(k.room);
    return stopped;
}

/* The logarithm of a mixture of K softmaxes: log_p = log sum_k exp(scores_k + shift_k), where shift makes scores
 * logarithms of pi_k p_k. */
#define COLUMNS_SPAN 1024 /* of log_p, which a thread computes at a time */

static void mixture_body(team *tm, int rank, void *work)
{
    const mixture_job *s = work;
    const real *scores = s->scores;
    ptrdiff_t i0, i1;
    team_share(tm, rank, s->M * s->K, &i0, &i1);
    for (ptrdiff_t i = i0; i < i1 && !team_stopped(); i++) {
        real most;
        const double total = sum_exp(scores + i * s->V, s->V, &most, NULL, 0);
        s->shifts[i] = s->log_pi[i] - most - log(total);
    }
    team_wait(tm);

    const ptrdiff_t spans = (s->V + COLUMNS_SPAN - 1) / COLUMNS_SPAN;
    team_share(tm, rank, s->M * spans, &i0, &i1);
    for (ptrdiff_t i = i0; i < i1 && !team_stopped(); i++) {
        const ptrdiff_t m = i / spans, v0 = i % spans * COLUMNS_SPAN;
        const ptrdiff_t v1 = v0 + COLUMNS_SPAN < s->V ? v0 + COLUMNS_SPAN : s->V;
        const double *shifts = s->shifts + m * s->K;
        for (ptrdiff_t v = v0; v < v1; v += W) {
            const ptrdiff_t w = v1 - v < W ? v1 - v : W;
            const real *x = scores + m * s->K * s->V + v;
            vec top = splat(REAL_IS_FLOAT ? -FLT_MAX : -DBL_MAX), sum = {0}; /* finite: -inf - -inf would be NaN */
            for (ptrdiff_t k = 0; k < s->K; k++)
                top = vmax(top, load_n(x + k * s->V, w) + (real)shifts[k]);
            for (ptrdiff_t k = 0; k < s->K; k++)
                sum += vexp(load_n(x + k * s->V, w) + (real)shifts[k] - top);
            for (ptrdiff_t j = 0; j < w; j++)
                top[j] += (real)log(sum[j]);
            store_n((real *)s->log_p + m * s->V + v, top, w);
        }
    }
}

static int mixture_softmax(const mixture_job *job) { return team_run(job->threads, mixture_body, (void *)job); }

/* dW = 0, then dW[ids[m]] += dy[m] in the order of m. Rows are cleared one after another, as memory likes it;
 * then a thread owns some columns of all rows. */
static void scatter_body(team *tm, int rank, void *work)
{
    const scatter_job *s = work;
    ptrdiff_t from, to;
    team_share(tm, rank, s->V, &from, &to);
    for (ptrdiff_t v = from; v < to; v++)
        memset((real *)s->dW.p + v * s->dW.s0, 0, s->D * sizeof(real));
    team_wait(tm);
    team_share(tm, rank, (s->D + W - 1) / W, &from, &to);
    from *= W, to = to * W < s->D ? to * W : s->D;
    for (ptrdiff_t m = 0; m < s->M; m++)
        for (ptrdiff_t d = from; d < to; d += W) {
            real *row = (real *)s->dW.p + s->ids[m] * s->dW.s0 + d;
            ptrdiff_t w = to - d < W ? to - d : W;
            store_n(row, load_n(row, w) + load_n((const real *)s->dy.p + m * s->dy.s0 + d, w), w);
        }
}

static int scatter(const scatter_job *job)
{
    team_run(job->threads, scatter_body, (void *)job);
    return 0;
}

/* Optimisers: n elements, one look at each array. Every element is computed alike, wherever it lies. */
#define SPAN 1024 /* elements: threads share whole ones, so that only the last has an end that is no vector */

static void span(const team *tm, int rank, ptrdiff_t n, ptrdiff_t *from, ptrdiff_t *to)
{
    team_share(tm, rank, (n + SPAN - 1) / SPAN, from, to);
    *from *= SPAN;
    *to = *to * SPAN < n ? *to * SPAN : n;
}

static void sum_of_squares_body(team *tm, int rank, void *work)
{
    const update_job *u = work;
    ptrdiff_t b0, b1;
    team_share(tm, rank, (u->n + SQUARES - 1) / SQUARES, &b0, &b1);
    for (ptrdiff_t block = b0; block < b1; block++) {
        const real *x = (const real *)u->grad + block * SQUARES;
        const ptrdiff_t n = u->n - block * SQUARES < SQUARES ? u->n - block * SQUARES : SQUARES;
        double sums[32] = {0}, total = 0;
        ptrdiff_t i = 0;
        for (; i + 32 <= n; i += 32)
            for (int j = 0; j < 32; j++)
                sums[j] += (double)x[i + j] * x[i + j];
        for (; i < n; i++)
            sums[i % 32] += (double)x[i] * x[i];
        for (int j = 0; j < 32; j++)
            total += sums[j];
        ((double *)u->m)[block] = total;
    }
}

static void scale_body(team *tm, int rank, void *work)
{
    const update_job *u = work;
    real *x = u->param;
    const real factor = u->rate;
    ptrdiff_t i, to;
    for (span(tm, rank, u->n, &i, &to); i < to; i += W) {
        const ptrdiff_t w = to - i < W ? to - i : W;
        store_n(x + i, load_n(x + i, w) * factor, w);
    }
}

static void sgd_body(team *tm, int rank, void *work)
{
    const update_job *u = work;
    const real *grad = u->grad, rate = u->rate;
    real *param = u->param;
    ptrdiff_t i, to;
    for (span(tm, rank, u->n, &i, &to); i < to; i += W) {
        const ptrdiff_t w = to - i < W ? to - i : W;
        store_n(param + i, load_n(param + i, w) - rate * load_n(grad + i, w), w);
    }
}

static void adam_body(team *tm, int rank, void *work)
{
    const update_job *u = work;
    const real *grad = u->grad, rate = u->rate, move1 = 1 - u->beta1, move2 = 1 - u->beta2, epsilon = 1e-7;
    real *param = u->param, *ms = u->m, *vs = u->v;
    ptrdiff_t i, to;
    for (span(tm, rank, u->n, &i, &to); i < to; i += W) {
        const ptrdiff_t w = to - i < W ? to - i : W;
        vec g = load_n(grad + i, w), m = load_n(ms + i, w), v = load_n(vs + i, w);
        m += move1 * (g - m);
        v += move2 * (g * g - v);
        store_n(ms + i, m, w);
        store_n(vs + i, v, w);
        store_n(param + i, load_n(param + i, w) - rate * m / (vsqrt(v) + epsilon), w);
    }
}

#define UPDATE(name) \
    static int name(const update_job *job) \
    { \
        team_run(job->threads, name##_body, (void *)job); \
        return 0; \
    }
UPDATE(sum_of_squares)
UPDATE(scale)
UPDATE(sgd)
UPDATE(adam)

/* Philox4x64-10 (Salmon et al. 2011), counted as NumPy counts: four elements from each counter. */
static void dropout_body(team *tm, int rank, void *work)
{
    typedef unsigned long long word;
    const dropout_job *d = work;
    const real kept = d->kept;
    const word least = (word)ceil(d->ratio * 0x1p53);
    real *mask = d->mask;
    ptrdiff_t q0, q1;
    team_share(tm, rank, (d->n + 3) / 4, &q0, &q1);
    for (ptrdiff_t q = q0; q < q1; q++) {
        word c0 = (word)q + 1, c1 = 0, c2 = 0, c3 = d->step, k0 = d->key[0], k1 = d->key[1];
        for (int round = 0; round < 10; round++) {
            unsigned __int128 a = (unsigned __int128)c0 * 0xD2E7470EE14C6C93ull;
            unsigned __int128 b = (unsigned __int128)c2 * 0xCA5A826395121157ull;
            c0 = (word)(b >> 64) ^ c1 ^ k0, c1 = (word)b;
            c2 = (word)(a >> 64) ^ c3 ^ k1, c3 = (word)a;
            k0 += 0x9E3779B97F4A7C15ull, k1 += 0xBB67AE8584CAA73Bull;
        }
        const word words[4] = {c0, c1, c2, c3};
        real four[4];
        for (int i = 0; i < 4; i++)
            four[i] = kept * (real)(words[i] >> 11 >= least); /* no branch: nobody could predict it */
        memcpy(mask + 4 * q, four, (d->n - 4 * q < 4 ? d->n - 4 * q : 4) * sizeof(real));
    }
}

static int dropout_mask(const dropout_job *job)
{
    team_run(job->threads, dropout_body, (void *)job);
    return 0;
}

/* The vector functions by themselves, for their accuracy tests. */
static int apply(int function, const void *from, void *to, ptrdiff_t n)
{
    const real *x = from;
    real *y = to;
    for (ptrdiff_t i = 0; i < n; i += W) {
        ptrdiff_t w = n - i < W ? n - i : W;
        vec v = load_n(x + i, w);
        v = function == 0 ? vexp(v) : function == 1 ? vsigmoid(v) : vtanh(v);
        store_n(y + i, v, w);
    }
    return 0;
}

/* What the processor can do at most: every thread runs n times through 12 independent chains of multiply and
 * add that never leave the registers. Returns the operations done by all threads. */
#define CHAINS 12

typedef struct {
    ptrdiff_t n;
    double flops;
} fma_work;

static void fma_body(team *tm, int rank, void *work)
{
    fma_work *job = work;
    vec sum[CHAINS], x = splat(0.5), y = splat(1), total = {0};
    PIN(x); /* of unknown value, or the compiler would compute ahead */
    PIN(y);
    UNROLLED
    for (int i = 0; i < CHAINS; i++)
        sum[i] = splat(i);
    for (ptrdiff_t n = job->n; n > 0; n--) {
        UNROLLED
        for (int i = 0; i < CHAINS; i++)
            sum[i] = sum[i] * x + y;
    }
    UNROLLED
    for (int i = 0; i < CHAINS; i++)
        total += sum[i];
    volatile real used = total[0]; /* or it would compute nothing */
    (void)used;
    if (rank == 0)
        job->flops = 2.0 * CHAINS * W * job->n * tm->size;
}

static double run_fma(int threads, ptrdiff_t n)
{
    fma_work job = {n, 0};
    team_run(threads, fma_body, &job);
    return job.flops;
}
