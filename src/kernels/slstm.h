/* The sLSTM of xLSTM over a whole sequence (Beck et al. 2024): exponential gates and heads of K units.
 *
 *   A = x Wx + heads(h_prev m_h, Wh) + b         each head has a matrix (K, 4 K) of its own; m_h: h_mask
 *   l = log sigmoid(A_f)      m = max(l + m_prev, A_i), where n_prev is 0: A_i
 *   f = exp(l + m_prev - m)   i = exp(A_i - m)   g, o = tanh, sigmoid of A_g, A_o      f is at most 1
 *   c = f c_prev + i g        n = f n_prev + i   h = o c / n
 *
 *   dc += dh o / n            dn -= dh h / n     dA_o = dh h (1-o)         dA_g = dc i (1 - g^2)
 *   da_f = f (dc c_prev + dn n_prev)             da_i = i (dc g + dn)      dm -= da_f + da_i
 *   dA_i = da_i, dl = da_f, and dm goes to A_i where i is 1, else to l     dA_f = dl sigmoid(-A_f)
 *   dc_prev = dc f            dn_prev = dn f     dm_prev = dl
 *
 * A head of a sample knows nothing of other heads and samples. So a thread takes some samples of a head through all steps, and
 * steps need no barrier; what it reads and writes at each step stays in its caches. All products over the steps are GEMMs.
 *
 * Kept for backward: rows of S = 7 runs of H, f, g, i, o, sigmoid(-A_f), c_prev, n_prev, one for each sample and step at work,
 * sample by sample (slstm_row), and in the same order h_prev m_h (row_step apart), which met Wh. Backward writes dA over f, g,
 * i, o.
 */

#define SLSTM_KEPT 7
#define SLSTM_ROWS 4 /* samples of a head that a thread should have at least */

typedef struct {
    ptrdiff_t p, n, rows;                     /* samples n.. of head p */
    ptrdiff_t N, heads, tiles, size, rank, i; /* i: the tile of a head to come */
} slstm_tile;

typedef struct {
    const cell_job *job;
    ptrdiff_t heads, K, S; /* S: runs of a row, without training the four gates */
    ptrdiff_t steps;       /* in the rows now: T, without training those of a chunk */
    ptrdiff_t *starts;     /* of each thread (N + 1): the number of a sample's first row; slstm_starts */
    real *rows, *seen;     /* without training seen is NULL */
    real *x_room;          /* where xs does not lie in that order */
    const real *Wh;        /* of each head [pair of columns][K][2 W]; backward: transposed */
    real *Wh_room;
    matrix Wx;
    real *Wx_room; /* few: a copy of Wx whose rows are contiguous */
    int few;       /* x Wx of so few rows that Wx is read as it lies */
    real *own;     /* of each thread: see slstm_scratch_of, slstm_grads_of */
    real *room;    /* of each thread: GEMM_ROOM reals */
} slstm_work;

/* The scratch of a thread: h m_h, c, n and m of some samples of a head, and their products (h m_h) Wh. */
typedef struct {
    real *h, *c, *n, *m, *sums;
    ptrdiff_t h_row, sums_row;
} slstm_scratch;

static inline slstm_scratch slstm_scratch_of(const slstm_work *k, int rank, ptrdiff_t *reals)
{
    const ptrdiff_t K = k->K, h_row = step_of(K), sums_row = step_of(4 * K), each = lines(ROWS_2 * K);
    const ptrdiff_t all = lines(ROWS_2 * h_row) + 3 * each + lines(ROWS_2 * sums_row) + W;
    if (reals)
        *reals = lines(all) + 16; /* apart by more than a line */
    real *at = k->own ? k->own + rank * (lines(all) + 16) : NULL;
    if (!at)
        return (slstm_scratch){0};
    slstm_scratch s = {.h = at, .h_row = h_row, .sums_row = sums_row};
    s.c = at + lines(ROWS_2 * h_row), s.n = s.c + each, s.m = s.n + each, s.sums = s.m + each;
    return s;
}

/* Numbers of a thread's starts, apart by more than a line. */
static inline ptrdiff_t slstm_starts_step(const cell_job *job) { return job->N + 1 + 16; }

/* Reals of the weights Wh of all heads, as slstm_pack_heads lays them out. */
static inline ptrdiff_t slstm_head(ptrdiff_t K) { return pair_count(4 * K) * 2 * W * K; }
static inline ptrdiff_t slstm_head_back(ptrdiff_t K) { return pair_count(K) * 2 * W * 4 * K; }

/* Pair i of columns of Wh, counted over all heads, to its place in room: backward of the transposed matrices. */
static void slstm_pack_pair(const cell_job *job, ptrdiff_t i, int back, real *room)
{
    const ptrdiff_t K = job->K, rows = back ? 4 * K : K, columns = back ? K : 4 * K, pairs = pair_count(columns);
    const ptrdiff_t head = i / pairs, q = i % pairs;
    matrix b = {(const real *)job->Wh.p + head * K * job->Wh.s0, job->Wh.s0, job->Wh.s1};
    if (back)
        b.r = job->Wh.s1, b.c = job->Wh.s0;
    b.p += q * 2 * W * b.c;
    pack_b(room + i * rows * 2 * W, b, rows, 2, W, pair_lanes(columns, q));
}

/* This thread's share of them. */
static void slstm_pack_heads(const slstm_work *k, const team *tm, int rank, int back)
{
    ptrdiff_t from, to;
    team_share(tm, rank, k->heads * pair_count(back ? k->K : 4 * k->K), &from, &to);
    for (ptrdiff_t i = from; i < to && !team_stopped(); i++)
        slstm_pack_pair(k->job, i, back, k->Wh_room);
}

/* Row d of Wx into room, where all rows are contiguous. */
static void slstm_copy_row(const cell_job *job, ptrdiff_t d, real *room)
{
    const ptrdiff_t columns = 4 * job->H;
    const real *row = (const real *)job->Wx.p + d * job->Wx.s0;
    for (ptrdiff_t j = 0; j < columns; j++)
        room[d * columns + j] = row[j * job->Wx.s1];
}

/* Wx, then Wh of all heads. */
static ptrdiff_t slstm_pack(const cell_job *job, void *room)
{
    const ptrdiff_t K = job->K, heads = job->H / K, x = lines(job->D * 4 * job->H);
    for (ptrdiff_t d = 0; room && d < job->D && !team_stopped(); d++)
        slstm_copy_row(job, d, room);
    for (ptrdiff_t i = 0; room && i < heads * pair_count(4 * K) && !team_stopped(); i++)
        slstm_pack_pair(job, i, 0, (real *)room + x);
    return x + heads * slstm_head(K);
}

/* This thread's k->starts, for k->steps steps from t0 on. The rows of a sample lie as it lies in xs, from its first step there
 * on, so that hs or dxs says whether time runs back in memory. */
static const ptrdiff_t *slstm_starts(const slstm_work *k, int rank, ptrdiff_t t0, int back)
{
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, before = back ? job->T - t0 - k->steps : t0;
    ptrdiff_t *starts = k->starts + rank * slstm_starts_step(job);
    starts[0] = 0;
    for (ptrdiff_t n = 0; n < N; n++) {
        const ptrdiff_t left = (job->end_step ? job->end_step[n] - job->first_step[n] : job->T) - before;
        starts[n + 1] = starts[n] + (left < 0 ? 0 : left < k->steps ? left : k->steps);
    }
    return starts;
}

/* The number of the row of step t, of which there are some from t0 on. */
static inline ptrdiff_t slstm_row(const slstm_work *k, const ptrdiff_t *starts, int back, ptrdiff_t n, ptrdiff_t t)
{
    return starts[n] + (back ? k->steps - 1 - t : t);
}

/* x in the order of the rows: where it lies, or this thread's share of a copy. */
static void slstm_input(const slstm_work *k, const team *tm, int rank, const ptrdiff_t *starts, ptrdiff_t t0, int back,
                        const real **x, ptrdiff_t *x_row)
{
    const cell_job *job = k->job;
    const ptrdiff_t T = job->T, D = job->D, s0 = job->xs.s0, s1 = job->xs.s1;
    const real *xs = job->xs.p;
    if (!k->x_room) {
        *x = back ? xs + (T - 1) * s1 : xs, *x_row = back ? -s1 : s1;
        return;
    }
    ptrdiff_t n0, n1;
    team_share(tm, rank, job->N, &n0, &n1);
    for (ptrdiff_t n = n0; n < n1 && !team_stopped(); n++)
        for (ptrdiff_t t = 0; t < k->steps; t++)
            if (at_work(job, t0 + t, n))
                memcpy(k->x_room + slstm_row(k, starts, back, n, t) * D, xs + row_of(job, n) * s0 + (t0 + t) * s1,
                       D * sizeof(real));
    *x = k->x_room, *x_row = D;
}

/* Whether xs lies in the order of the rows already, so that one stride leads through all of it. */
static inline int slstm_in_order(const cell_job *job, int back)
{
    const ptrdiff_t s1 = back ? -job->xs.s1 : job->xs.s1;
    return !job->order && s1 >= job->D && (job->N == 1 || job->xs.s0 == job->T * s1);
}

/* x Wx of so many rows, this thread's columns or rows of it. */
static void slstm_x_Wx(const slstm_work *k, team *tm, int rank, const real *x, ptrdiff_t x_row, ptrdiff_t rows)
{
    const cell_job *job = k->job;
    const ptrdiff_t D = job->D, columns = 4 * job->H;
    if (!k->few) {
        gemm_part(tm, rank, rows, columns, D, (matrix){x, x_row, 1}, k->Wx, NULL, k->rows, k->S * job->H,
                  k->room + rank * GEMM_ROOM);
        return;
    }
    ptrdiff_t v0, v1;
    team_share(tm, rank, (columns + W - 1) / W, &v0, &v1);
    const ptrdiff_t j0 = v0 * W, j1 = v1 * W < columns ? v1 * W : columns;
    if (j0 < j1)
        rows_times(rows, x, x_row, k->Wx.p + j0, k->Wx.r, D, j1 - j0, k->rows + j0, k->S * job->H);
}

/* log sigmoid(x) = min(x, 0) - log(1 + e), e = exp(-|x|). log(1 + e) is 2 artanh(z), z = e / (2 + e), whose series up to z^15
 * has a relative error of 2e-9, as z is at most 1/3. */
static inline vec log_sigmoid(vec x)
{
    vec least = clamp(x, -INFINITY, 0);
#if REAL_IS_FLOAT
    vec e = vexp(-magnitude(x)), z = e / (e + 2), s = z * z;
    vec sum = s * (1.0f / 15) + 1.0f / 13;
    sum = sum * s + 1.0f / 11;
    sum = sum * s + 1.0f / 9;
    sum = sum * s + 1.0f / 7;
    sum = sum * s + 1.0f / 5;
    sum = sum * s + 1.0f / 3;
    return least - (z + z) * (sum * s + 1);
#else
    for (int i = 0; i < W; i++)
        x[i] = least[i] - log1p(exp(-fabs(x[i])));
    return x;
#endif
}

/* x where the mask is set, else y. */
#define SELECT(mask, x, y) ((vec)(((mask) & (__typeof__(mask))(x)) | (~(mask) & (__typeof__(mask))(y))))

/* One step of units k.. of a head, of the sample that is number r in the scratch. `add`: the sums hold its product. */
static inline __attribute__((always_inline)) void slstm_units(const slstm_work *k, const slstm_scratch *s, ptrdiff_t u,
                                                              ptrdiff_t unit, ptrdiff_t w, ptrdiff_t r, ptrdiff_t n,
                                                              ptrdiff_t t, real *row, int add)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H, K = k->K, j = u + unit;
    real *c_at = s->c + r * K + unit, *n_at = s->n + r * K + unit, *m_at = s->m + r * K + unit;
    vec A[4], c_prev = load_n(c_at, w), n_prev = load_n(n_at, w);
    row += j;
    for (int g = 0; g < 4; g++) {
        A[g] = load_n(row + g * H, w);
        if (job->b)
            A[g] += load_n((const real *)job->b + g * H + j, w);
        if (add)
            A[g] += load_n(s->sums + r * s->sums_row + g * K + unit, w);
    }
    vec kept = log_sigmoid(A[0]) + load_n(m_at, w), m = vmax(A[2], kept);
    m = SELECT(n_prev == 0, A[2], m);
    vec f = vexp(clamp(kept - m, -INFINITY, 0)), i = vexp(A[2] - m), g = vtanh(A[1]), o = vsigmoid(A[3]);
    vec c = f * c_prev + i * g, norm = f * n_prev + i, h = o * c / norm;
    if (job->train) {
        const vec keep[SLSTM_KEPT] = {f, g, i, o, vsigmoid(-A[0]), c_prev, n_prev};
        UNROLLED
        for (int q = 0; q < SLSTM_KEPT; q++) {
            store_n(row + q * H, keep[q], w);
        }
    }
    store_n(c_at, c, w);
    store_n(n_at, norm, w);
    store_n(m_at, m, w);
    store_n(s->h + r * s->h_row + unit, job->h_mask.p ? h * mask_of(job, n, j, w) : h, w);
    store_n(row_at(job, job->hs, t, n) + j, h, w);
    store_n((real *)job->hT + n * H + j, h, w);
}

/* Some samples of a head through `steps` steps from t0 on. */
static void slstm_samples(const slstm_work *k, const slstm_scratch *s, const slstm_tile *tile, const ptrdiff_t *starts,
                          ptrdiff_t t0, int back)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H, K = k->K, u = tile->p * K, h_n = step_of(H);
    const real *Wh = k->Wh ? k->Wh + tile->p * slstm_head(K) : NULL;
    real *const cT = (real *)job->cT + u, *const nT = (real *)job->nT + u, *const mT = (real *)job->mT + u;

    for (ptrdiff_t r = 0; r < tile->rows; r++)
        for (ptrdiff_t unit = 0, w, n = tile->n + r; unit < K; unit += W) {
            w = K - unit < W ? K - unit : W;
            vec h = t0 ? load_n((real *)job->hT + n * H + u + unit, w) : state_of(job->h0, n, u + unit, w);
            if (t0 == 0)
                store_n((real *)job->hT + n * H + u + unit, h, w);
            store_n(s->h + r * s->h_row + unit, job->h_mask.p ? h * mask_of(job, n, u + unit, w) : h, w);
            store_n(s->c + r * K + unit, t0 ? load_n(cT + n * H + unit, w) : state_of(job->c0, n, u + unit, w), w);
            store_n(s->n + r * K + unit, t0 ? load_n(nT + n * H + unit, w) : state_of(job->n0, n, u + unit, w), w);
            store_n(s->m + r * K + unit, t0 ? load_n(mT + n * H + unit, w) : state_of(job->m0, n, u + unit, w), w);
        }
    for (ptrdiff_t t = t0; t < t0 + k->steps && !team_stopped(); t++) {
        const int add = t > 0 || job->h0.p;
        const ptrdiff_t rows = rows_at_work(job, t, tile->n, tile->rows);
        if (rows == 0)
            continue;
        if (add && Wh)
            gemm_block(0, rows, 4 * K, K, (matrix){s->h, s->h_row, 1}, Wh, NULL, s->sums, s->sums_row, 0, NULL,
                       (prefetch_streams){0});
        else if (add)
            rows_times(rows, s->h, s->h_row, (const real *)job->Wh.p + u * job->Wh.s0, job->Wh.s0, K, 4 * K, s->sums,
                       s->sums_row);
        for (ptrdiff_t r = 0; r < rows; r++) {
            const ptrdiff_t n = tile->n + r, number = slstm_row(k, starts, back, n, t - t0);
            real *row = k->rows + number * k->S * H;
            if (k->seen)
                memcpy(k->seen + number * h_n + u, s->h + r * s->h_row, K * sizeof(real));
            ptrdiff_t unit = 0;
            for (; unit + W <= K; unit += W)
                slstm_units(k, s, u, unit, W, r, n, t, row, add);
            if (unit < K)
                slstm_units(k, s, u, unit, K - unit, r, n, t, row, add);
        }
    }
    for (ptrdiff_t r = 0, n = tile->n; r < tile->rows; r++, n++) {
        memcpy(cT + n * H, s->c + r * K, K * sizeof(real));
        memcpy(nT + n * H, s->n + r * K, K * sizeof(real));
        memcpy(mT + n * H, s->m + r * K, K * sizeof(real));
    }
}

/* Walks over a thread's tiles, samples of a head: of each head every so many-th, as the first samples have the most steps.
 *
 *     for (slstm_tile w = slstm_tiles(k, tm, rank); slstm_next(&w);)
 */
static inline slstm_tile slstm_tiles(const slstm_work *k, const team *tm, int rank)
{
    const ptrdiff_t N = k->job->N, all = tile_count(N, tile_count(tm->size, k->heads));
    const ptrdiff_t most = all < SLSTM_ROWS ? SLSTM_ROWS : all < ROWS_2 ? all : ROWS_2; /* some for every thread */
    return (slstm_tile){.N = N, .heads = k->heads, .tiles = tile_count(N, most), .size = tm->size, .rank = rank, .i = rank};
}

static inline int slstm_next(slstm_tile *w)
{
    while (w->i >= w->tiles) {
        if (++w->p == w->heads)
            return 0;
        w->i = (w->rank + w->p) % w->size;
    }
    w->n = tile_start(w->N, w->tiles, w->i), w->rows = tile_start(w->N, w->tiles, w->i + 1) - w->n;
    w->i += w->size;
    return 1;
}

static void slstm_forward_body(team *tm, int rank, void *for_all)
{
    slstm_work *shared = for_all, own = *shared, *k = &own; /* steps are this thread's own to count */
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, T = job->T, chunk = k->steps;
    const int back = job->hs.s1 < 0;
    const slstm_scratch s = slstm_scratch_of(k, rank, NULL);
    const real *x;
    ptrdiff_t from, to, x_row;
    if (k->Wh_room)
        slstm_pack_heads(k, tm, rank, 0);
    if (k->Wx_room) {
        team_share(tm, rank, job->D, &from, &to);
        for (ptrdiff_t d = from; d < to && !team_stopped(); d++)
            slstm_copy_row(job, d, k->Wx_room);
    }
    for (ptrdiff_t t = 0; t < T && !team_stopped(); t += k->steps) {
        k->steps = T - t < chunk ? T - t : chunk;
        const ptrdiff_t *starts = slstm_starts(k, rank, t, back);
        slstm_input(k, tm, rank, starts, t, back, &x, &x_row);
        team_wait(tm); /* x and the weights are there, and nobody reads the rows of the last chunk */
        if (starts[N]) /* else all samples have ended */
            slstm_x_Wx(k, tm, rank, x, x_row, starts[N]);
        team_wait(tm); /* x Wx is whole */
        for (slstm_tile w = slstm_tiles(k, tm, rank); slstm_next(&w) && !team_stopped();)
            slstm_samples(k, &s, &w, starts, t, back);
    }
}

static int slstm_forward(const cell_job *job)
{
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H, K = job->K;
    slstm_work k = {.job = job, .heads = H / K, .K = K, .S = job->train ? SLSTM_KEPT : 4, .steps = panel_steps(job)};
    const int back = job->hs.s1 < 0, in_order = k.steps == T && slstm_in_order(job, back);
    const int lies = T == 1 && N <= FEW_ROWS && job->Wh.s1 == 1 && !job->packed; /* Wh is read where it lies */
    k.few = N * T <= FEW_ROWS;
    ptrdiff_t scratch, x = in_order ? 0 : lines(N * k.steps * D), rows = job->train ? 0 : lines(N * k.steps * 4 * H);
    slstm_scratch_of(&k, 0, &scratch);
    ptrdiff_t heads = lies || job->packed ? 0 : k.heads * slstm_head(K);
    ptrdiff_t weights = k.few && !job->packed && job->Wx.s1 != 1 ? lines(D * 4 * H) : 0;
    real *room = new_reals(x + rows + weights + heads + job->threads * (scratch + (k.few ? 0 : GEMM_ROOM)));
    k.starts = malloc(job->threads * slstm_starts_step(job) * sizeof(ptrdiff_t));
    if (!room || !k.starts) {
        free_room(room);
        free(k.starts);
        return -1;
    }
    k.x_room = x ? room : NULL;
    k.rows = job->train ? job->panels : room + x;
    k.seen = job->seen;
    k.Wx_room = weights ? room + x + rows : NULL;
    k.Wh_room = heads ? room + x + rows + weights : NULL;
    k.own = room + x + rows + weights + heads, k.room = k.own + job->threads * scratch;
    k.Wx = job->packed ? (matrix){job->packed, 4 * H, 1}
           : weights   ? (matrix){k.Wx_room, 4 * H, 1}
                       : (matrix){job->Wx.p, job->Wx.s0, job->Wx.s1};
    k.Wh = job->packed ? (const real *)job->packed + lines(D * 4 * H) : k.Wh_room;
    const int stopped = team_run(job->threads, slstm_forward_body, &k);
    free_room(room);
    free(k.starts);
    return stopped;
}
