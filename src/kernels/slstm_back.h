/* The sLSTM back through time: see slstm.h. */

/* What a thread has of some samples of a head: dA (rows of 4 K) and what comes back through Wh, and dh, dc, dn and dm. */
typedef struct {
    real *dA, *back, *dh, *dc, *dn, *dm;
    ptrdiff_t dA_row;
} slstm_grads;

static inline slstm_grads slstm_grads_of(const slstm_work *k, int rank, ptrdiff_t *reals)
{
    const ptrdiff_t K = k->K, dA_row = step_of(4 * K), each = lines(ROWS_2 * K);
    const ptrdiff_t all = lines(ROWS_2 * dA_row) + 5 * each + 16; /* apart by more than a line */
    if (reals)
        *reals = all;
    if (!k->own)
        return (slstm_grads){0};
    real *at = k->own + rank * all, *rest = at + lines(ROWS_2 * dA_row);
    return (slstm_grads){at, rest, rest + each, rest + 2 * each, rest + 3 * each, rest + 4 * each, dA_row};
}

/* One step back of units k.. of a head, of the sample that is number r. */
static inline __attribute__((always_inline)) void slstm_units_back(const slstm_work *k, const slstm_grads *s, ptrdiff_t u,
                                                                   ptrdiff_t unit, ptrdiff_t w, ptrdiff_t r, ptrdiff_t n,
                                                                   ptrdiff_t t, real *row)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H, K = k->K, j = u + unit, at = r * K + unit;
    row += j;
    vec f = load_n(row, w), g = load_n(row + H, w), i = load_n(row + 2 * H, w), o = load_n(row + 3 * H, w);
    vec slope = load_n(row + 4 * H, w), c_prev = load_n(row + 5 * H, w), n_prev = load_n(row + 6 * H, w);
    vec norm = f * n_prev + i, q = (f * c_prev + i * g) / norm;
    vec dh = given_dh(job, t, n, j, w) + load_n(s->dh + at, w);
    vec dq = dh * o / norm, dc = load_n(s->dc + at, w) + dq, dn = load_n(s->dn + at, w) - dq * q;
    vec of_f = f * (dc * c_prev + dn * n_prev), of_i = i * (dc * g + dn);
    of_f = SELECT((n_prev == 0) & (f >= 1), (vec){0}, of_f); /* at its bound */
    vec dm = load_n(s->dm + at, w) - of_f - of_i, to_i = SELECT(i >= 1, dm, (vec){0});
    vec dl = SELECT(i >= 1, of_f, of_f + dm);
    const vec dA[4] = {dl * slope, dc * i * (1 - g * g), of_i + to_i, dh * q * o * (1 - o)};
    UNROLLED
    for (int gate = 0; gate < 4; gate++) {
        store_n(row + gate * H, dA[gate], w);
        store_n(s->dA + r * s->dA_row + gate * K + unit, dA[gate], w);
    }
    store_n(s->dc + at, dc * f, w);
    store_n(s->dn + at, dn * f, w);
    store_n(s->dm + at, dl, w);
}

/* The gradients of a state, between the caller's arrays and the scratch: units of a head, of some samples. */
static void slstm_take(const slstm_tile *tile, ptrdiff_t K, strided from, real *to)
{
    for (ptrdiff_t r = 0; r < tile->rows; r++)
        if (from.p)
            memcpy(to + r * K, (const real *)from.p + (tile->n + r) * from.s0 + tile->p * K, K * sizeof(real));
        else
            memset(to + r * K, 0, K * sizeof(real));
}

static void slstm_give(const cell_job *job, const slstm_tile *tile, ptrdiff_t K, const real *from, void *to)
{
    for (ptrdiff_t r = 0; r < tile->rows; r++)
        memcpy((real *)to + (tile->n + r) * job->H + tile->p * K, from + r * K, K * sizeof(real));
}

/* Some samples of a head back through all steps. */
static void slstm_samples_back(const slstm_work *k, const slstm_grads *s, const slstm_tile *tile, const ptrdiff_t *starts,
                               int back)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H, K = k->K, u = tile->p * K;
    const real *Wh = k->Wh + tile->p * slstm_head_back(K);
    slstm_take(tile, K, job->dhT, s->dh);
    slstm_take(tile, K, job->dcT, s->dc);
    slstm_take(tile, K, job->dnT, s->dn);
    slstm_take(tile, K, job->dmT, s->dm);
    for (ptrdiff_t t = job->T - 1; t >= 0 && !team_stopped(); t--) {
        const ptrdiff_t rows = rows_at_work(job, t, tile->n, tile->rows);
        if (rows == 0)
            continue;
        for (ptrdiff_t r = 0; r < rows; r++) {
            const ptrdiff_t n = tile->n + r;
            real *row = k->rows + slstm_row(k, starts, back, n, t) * k->S * H;
            ptrdiff_t unit = 0;
            for (; unit + W <= K; unit += W)
                slstm_units_back(k, s, u, unit, W, r, n, t, row);
            if (unit < K)
                slstm_units_back(k, s, u, unit, K - unit, r, n, t, row);
        }
        gemm_block(0, rows, K, 4 * K, (matrix){s->dA, s->dA_row, 1}, Wh, NULL, s->back, K, 0, NULL, (prefetch_streams){0});
        for (ptrdiff_t r = 0; r < rows; r++)
            for (ptrdiff_t unit = 0, w, n = tile->n + r; unit < K; unit += W) {
                w = K - unit < W ? K - unit : W;
                vec dh = load_n(s->back + r * K + unit, w);
                store_n(s->dh + r * K + unit, job->h_mask.p ? dh * mask_of(job, n, u + unit, w) : dh, w);
            }
    }
    slstm_give(job, tile, K, s->dh, job->dh0);
    slstm_give(job, tile, K, s->dc, job->dc0);
    slstm_give(job, tile, K, s->dn, job->dn0);
    slstm_give(job, tile, K, s->dm, job->dm0);
}

/* dWh, over R rows: the gates of a head are products of their own. With one head the team makes it together, else each thread
 * some. */
static void slstm_Wh_grads(const slstm_work *k, team *tm, int rank, ptrdiff_t R)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H, K = k->K, h_n = step_of(H), row = k->S * H;
    real *dWh = job->dWh, *room = k->room + rank * GEMM_ROOM;
    ptrdiff_t from, to;
    if (k->heads == 1) {
        gemm_part(tm, rank, H, 4 * H, R, (matrix){k->seen, 1, h_n}, (matrix){k->rows, row, 1}, NULL, dWh, 4 * H, room);
        return;
    }
    team alone = {.size = 1};
    team_share(tm, rank, 4 * k->heads, &from, &to);
    for (ptrdiff_t i = from; i < to && !team_stopped(); i++) {
        const ptrdiff_t u = i / 4 * K, g = i % 4;
        gemm_part(&alone, 0, K, K, R, (matrix){k->seen + u, 1, h_n}, (matrix){k->rows + g * H + u, row, 1}, NULL,
                  dWh + u * 4 * K + g * K, 4 * K, room);
    }
}

/* dx of the rows to where their samples lie in dxs, this thread's share. */
static void slstm_give_rows(const slstm_work *k, const team *tm, int rank, const ptrdiff_t *starts, const real *rows,
                            real *first)
{
    const cell_job *job = k->job;
    const ptrdiff_t D = job->D;
    ptrdiff_t n0, n1;
    team_share(tm, rank, job->N, &n0, &n1);
    for (ptrdiff_t n = n0; n < n1; n++)
        memcpy(first + row_of(job, n) * job->T * D, rows + starts[n] * D, (starts[n + 1] - starts[n]) * D * sizeof(real));
}

static void slstm_backward_body(team *tm, int rank, void *for_all)
{
    slstm_work *k = for_all;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H, row = k->S * H;
    const int back = job->dxs.s1 < 0;
    const slstm_grads s = slstm_grads_of(k, rank, NULL);
    const ptrdiff_t *starts = slstm_starts(k, rank, 0, back), R = starts[N];
    const matrix dA = {k->rows, row, 1};
    const real *x;
    ptrdiff_t x_row;
    slstm_pack_heads(k, tm, rank, 1);
    slstm_input(k, tm, rank, starts, 0, back, &x, &x_row);
    team_wait(tm);
    for (slstm_tile w = slstm_tiles(k, tm, rank); slstm_next(&w) && !team_stopped();)
        slstm_samples_back(k, &s, &w, starts, back);

    if (!team_goes_on(tm, job->whole))
        return;
    real *room = k->room + rank * GEMM_ROOM, *dxs = (real *)job->dxs.p;
    gemm_part(tm, rank, D, 4 * H, R, (matrix){x, 1, x_row}, dA, NULL, job->dWx, 4 * H, room);
    slstm_Wh_grads(k, tm, rank, R);
    if (job->db) {
        gemm_job sums = {.M = R, .N = 4 * H, .a = {k->rows, row, 1}, .c = {job->db, 0, 1}};
        column_sums_body(tm, rank, &sums);
    }
    real *first = back ? dxs - (T - 1) * D : dxs; /* of dxs, which has no gaps */
    if (job->order)
        team_wait(tm); /* nobody reads x any more, where dx of the rows goes */
    gemm_part(tm, rank, R, D, 4 * H, dA, (matrix){job->Wx.p, job->Wx.s1, job->Wx.s0}, NULL, job->order ? k->x_room : first, D,
              room);
    if (job->order) {
        team_wait(tm);
        slstm_give_rows(k, tm, rank, starts, k->x_room, first);
    }
}

static int slstm_backward(const cell_job *job)
{
    const ptrdiff_t N = job->N, T = job->T, H = job->H, K = job->K;
    slstm_work k = {.job = job, .heads = H / K, .K = K, .S = SLSTM_KEPT, .steps = T, .rows = job->panels, .seen = job->seen};
    ptrdiff_t scratch, heads = k.heads * slstm_head_back(K);
    ptrdiff_t x = slstm_in_order(job, job->dxs.s1 < 0) ? 0 : lines(N * T * job->D);
    slstm_grads_of(&k, 0, &scratch);
    real *room = new_reals(x + heads + job->threads * (scratch + GEMM_ROOM));
    k.starts = malloc(job->threads * slstm_starts_step(job) * sizeof(ptrdiff_t));
    if (!room || !k.starts) {
        free_room(room);
        free(k.starts);
        return -1;
    }
    k.x_room = x ? room : NULL, k.Wh_room = room + x, k.Wh = k.Wh_room;
    k.own = room + x + heads, k.room = k.own + job->threads * scratch;
    const int stopped = team_run(job->threads, slstm_backward_body, &k);
    free_room(room);
    free(k.starts);
    return stopped;
}
