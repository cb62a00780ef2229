/* Simple RNN over a whole sequence (Elman 1990).
 *
 *   A = x Wx + h_prev Wh + b       x (N, D), h (N, H), A (N, H); with h_mask m it is (h_prev m) Wh
 *   h = tanh(A) or max(A, 0)
 *
 *   dA = dh (1 - h^2) or dh [h > 0]              dh = dhs + dA_next Wh^T (times m)
 *
 * h_zoneout keeps a share z of h_prev: h is z h_prev + (1 - z) h then. dh of what it replaces is (1 - z) dh, and
 * dh_prev += z dh.
 *
 * Kept for backward: h and h m (T, N, H), and panels with S = 1, which hold x Wx during forward and dA after, and
 * between, with h_zoneout, what h was without it.
 */

typedef struct {
    const cell_job *job;
    gate_panels panels; /* without training: room for one chunk of steps, used again and again, or none */
    int precomputed;    /* the panels hold x Wx of `chunk` steps before their time loop */
    ptrdiff_t chunk;
    right_side *Wx, *Wh;     /* of each panel */
    real *Wx_room, *Wh_room; /* forward: [panel][k][W]; backward: transposed, [columns / 2W][H][2 W] */
    real *x;                 /* forward, not precomputed: copy_step */
    real *h;                 /* without training: h m (2, N, H) */
    int few;                 /* rows.h: then few_x, few_h (N, H) are the products with Wx and Wh; backward: dA */
    real *few_x, *few_h;
    real *dh;   /* backward with h_zoneout: the part of dh_prev that stays with its unit (N, H) */
    real *sums; /* backward: dA_next Wh^T, [H / 2W][N][2 W] */
    real *room; /* backward: the packed left side of the weights' gradients */
} rnn_work;

/* h m of sample n after step t, as it is kept. */
static inline real *rnn_seen(const rnn_work *k, ptrdiff_t t, ptrdiff_t n)
{
    const cell_job *job = k->job;
    return (job->train ? (real *)job->seen : k->h) + ((job->train ? t : t % 2) * job->N + n) * step_of(job->H);
}

/* h of one tile: rows n0.. of step t of panel p. `sums`, its rows apart by `step`, holds x Wx + h_prev Wh; if the
 * panels hold x Wx it is h_prev Wh, or NULL. */
static void rnn_activate(const rnn_work *k, ptrdiff_t p, ptrdiff_t t, ptrdiff_t slot, ptrdiff_t n0, ptrdiff_t rows,
                         const real *sums, ptrdiff_t step)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H, w = panel_width(H, p), j = p * W, h_n = step_of(H);
    const vec bias = job->b ? load_n((const real *)job->b + j, w) : (vec){0};

    for (ptrdiff_t r = 0; r < rows; r++) {
        const ptrdiff_t n = n0 + r;
        real *kept = rnn_seen(k, t, n);
        vec A = k->precomputed ? load_n(panel_row(&k->panels, p, slot, n), w) + bias : bias;
        if (sums)
            A += load(sums + r * step);
        vec h = job->relu ? vmax((vec){0}, A) : vtanh(A);
        if (job->h_zoneout.p) {
            if (job->train)
                store_n(panel_row(&k->panels, p, slot, n), h, w);
            h = zoned(of_step(job, job->h_zoneout, t, n, j, w), shown_before(job, t, n, j, w), h);
        }
        if (job->h_mask.p) {
            store_n(kept + j, h * mask_of(job, n, j, w), w);
            if (job->train)
                store_n((real *)job->h + (t * job->N + n) * h_n + j, h, w);
        } else {
            store_n(kept + j, h, w);
        }
        store_n(row_at(job, job->hs, t, n) + j, h, w);
        if (t == last_step(job, n))
            store_n((real *)job->hT + n * H + j, h, w);
    }
}

static void rnn_forward_body(team *tm, int rank, void *work)
{
    rnn_work *k = work;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H, P = panel_count(H);
    const matrix Wx = {job->Wx.p, job->Wx.s0, job->Wx.s1}, Wh = {job->Wh.p, job->Wh.s0, job->Wh.s1};
    const ptrdiff_t tiles = tile_count(N, ROWS_2);
    const real *packed = job->packed;
    real sums[ROWS_2 * 2 * (VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));
    const int own_rows = k->precomputed ? 0 : owns_rows(job, tm, 1);
    ptrdiff_t p0, p1;
    team_share(tm, rank, P, &p0, &p1);

    for (ptrdiff_t p = p0; p < p1 && !k->few; p++) {
        k->Wx[p] = packed ? packed_weights(packed, D, H, 1, p) : gate_weights(k->Wx_room, Wx, D, H, 0, 1, p, T * tiles);
        k->Wh[p] = packed ? packed_weights(packed + lines(P * W * D), H, H, 1, p)
                          : gate_weights(k->Wh_room, Wh, H, H, 0, 1, p, T * tiles);
    }
    if (k->few) {
        few_gates(&k->panels, p0, p1, N, job->xs.p, job->xs.s0, Wx, D, 0, 1, k->few_x);
        few_to_panels(&k->panels, p0, p1, N, k->few_x);
        if (job->seen0.p)
            few_gates(&k->panels, p0, p1, N, job->seen0.p, job->seen0.s0, Wh, H, 0, 1, k->few_h);
    }
    if (!k->precomputed)
        copy_step(job, tm, rank, 0, k->x, own_rows);
    if (rank == 0)
        pass_state(job, job->h0, H, job->hT);
    team_wait(tm);

    for (ptrdiff_t t = 0; t < T && !team_stopped(); t++) {
        const ptrdiff_t slot = t % k->chunk;
        if (slot == 0 && k->precomputed && !k->few)
            panel_inputs(job, tm, rank, &k->panels, t, T - t < k->chunk ? T - t : k->chunk, 0, 1, k->Wx, k->x);

        const ptrdiff_t x_n = step_of(D), h_n = t == 0 ? job->seen0.s0 : step_of(H);
        const real *h = t == 0       ? job->seen0.p
                        : job->train ? (real *)job->seen + (t - 1) * N * h_n
                                     : k->h + (t - 1) % 2 * N * h_n;
        for (tile_walk w = team_tiles(tm, rank, strip_count(H, 1), rows_of(job, t), ROWS_2, own_rows); next_tile(&w);) {
            const panel_strip strip = strip_at(H, 1, w.p);
            if (!k->precomputed)
                gates_product(strip.panels, D, w.rows, k->x + (t % 2 * N + w.n) * x_n, x_n, k->Wx[strip.p], w.i, w.tiles, sums,
                              0);
            if (h && k->few)
                few_to_sums(&k->panels, strip, N, 0, 1, k->few_h, sums);
            else if (h)
                gates_product(strip.panels, H, w.rows, h + w.n * h_n, h_n, k->Wh[strip.p], w.i, w.tiles, sums, !k->precomputed);
            for (int v = 0; v < strip.panels; v++)
                rnn_activate(k, strip.p + v, t, slot, w.n, w.rows, h || !k->precomputed ? sums + v * W : NULL,
                             strip.panels * W);
        }
        if (!k->precomputed)
            copy_step(job, tm, rank, t + 1, k->x, own_rows);
        begin_samples(job, tm, rank, t, job->seen0, H, rnn_seen(k, t, 0), own_rows);
        step_wait(tm, own_rows); /* h of step t is whole */
    }
}

static ptrdiff_t rnn_pack(const cell_job *job, void *room) { return pack_cell(job, room, 1); }

static int rnn_forward(const cell_job *job)
{
    const ptrdiff_t N = job->N, D = job->D, H = job->H, P = panel_count(H);
    rnn_work k = {.job = job, .few = is_few(job), .chunk = panel_steps(job)};
    k.precomputed = k.few || is_precomputed(job, 1);
    k.panels = panels_at(job, job->panels, k.chunk, H, 1, 1);
    const int own = !job->packed && !k.few; /* weights to be packed in this call */
    ptrdiff_t weights = own ? lines(P * W * D) : 0, recurrent = own ? lines(P * W * H) : 0;
    ptrdiff_t few = k.few ? lines(N * H) : 0;
    ptrdiff_t gates = job->train || !k.precomputed ? 0 : lines(k.chunk * N * H + W),
              x = k.few ? 0 : input_room(job, k.precomputed);
    ptrdiff_t state = job->train ? 0 : lines(N * step_of(H));
    real *room = new_reals(weights + recurrent + 2 * few + x + gates + 2 * state);
    right_side *sides = malloc(2 * P * sizeof(right_side));
    int stopped = 0;
    if (room && sides) {
        k.Wx = sides, k.Wh = sides + P;
        k.Wx_room = room, k.Wh_room = room + weights;
        k.few_x = k.Wh_room + recurrent, k.few_h = k.few_x + few, k.x = k.few_h + few, k.h = k.x + x;
        if (!job->train)
            k.panels.p = k.h + 2 * state;
        stopped = team_run(job->threads, rnn_forward_body, &k);
    }
    int failed = !room || !sides;
    free_room(room);
    free(sides);
    return failed ? -1 : stopped;
}

/* dA of one tile: rows n0.. of step t, units q 2W.. (two panels). `sums` (rows, 2 W) holds dA_next Wh^T,
 * or is NULL at the last step, where dh is what the caller gave. */
static void rnn_gate_grads(const rnn_work *k, ptrdiff_t q, ptrdiff_t t, ptrdiff_t n0, ptrdiff_t rows, const real *sums)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H;

    for (ptrdiff_t p = 2 * q; p < 2 * q + 2 && p * W < H; p++) {
        const ptrdiff_t w = panel_width(H, p), j = p * W;
        for (ptrdiff_t r = 0; r < rows; r++) {
            const ptrdiff_t n = n0 + r;
            const real *back = sums ? sums + r * 2 * W + (p - 2 * q) * W : NULL;
            real *kept = k->dh ? k->dh + n * H + j : NULL;
            vec h = load_n(kept ? panel_row(&k->panels, p, t, n) : (real *)job->h + (t * job->N + n) * step_of(H) + j, w);
            vec dh = given_dh(job, t, n, j, w);
            if (t < last_step(job, n)) {
                vec dseen = load(back);
                dh += job->h_mask.p ? dseen * mask_of(job, n, j, w) : dseen;
                if (kept)
                    dh += load_n(kept, w);
            } else
                dh += state_of(job->dhT, n, j, w);
            if (kept) {
                vec past = dh * of_step(job, job->h_zoneout, t, n, j, w);
                store_n(kept, past, w);
                dh -= past;
            }
            vec dA = job->relu ? (vec)((h > 0) & (__typeof__(h > 0))dh) : dh * (1 - h * h);
            store_n(panel_row(&k->panels, p, t, n), dA, w);
        }
    }
}

static void rnn_backward_body(team *tm, int rank, void *work)
{
    rnn_work *k = work;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H;
    const matrix Wx = {job->Wx.p, job->Wx.s0, job->Wx.s1}, Wh = {job->Wh.p, job->Wh.s0, job->Wh.s1};
    const ptrdiff_t Q = pair_count(H);
    const int own_rows = owns_rows(job, tm, 1);
    ptrdiff_t q0, q1, x0, x1, p0, p1;
    team_share(tm, rank, Q, &q0, &q1);
    team_share(tm, rank, pair_count(D), &x0, &x1);
    team_share(tm, rank, panel_count(H), &p0, &p1);

    if (k->few) {
        for (ptrdiff_t q = q0; q < q1; q++)
            rnn_gate_grads(k, q, 0, 0, N, NULL);
        few_cell_grads(&k->panels, tm, rank, job, p0, p1, k->dh, k->few_x);
        return;
    }
    for (ptrdiff_t q = q0; q < q1; q++)
        pack_transposed(k->Wh_room + q * 2 * W * H, Wh, H, q, H, 0, 1);
    for (ptrdiff_t q = x0; q < x1; q++)
        pack_transposed(k->Wx_room + q * 2 * W * H, Wx, D, q, H, 0, 1);
    if (rank == 0)
        pass_state(job, job->dhT, H, job->dh0);
    team_wait(tm);

    for (ptrdiff_t t = T - 1; t >= -1 && !team_stopped(); t--) { /* -1: the initial state */
        const ptrdiff_t rows = rows_of_both(job, t);
        if (t < T - 1)
            panel_hidden_grads(&k->panels, tm, rank, t + 1, rows, 0, 1, k->Wh_room, k->sums, 0, own_rows);
        for (tile_walk w = team_tiles(tm, rank, Q, rows, ROWS_2, own_rows); next_panel(&w);) {
            const real *sums = k->sums + (w.p * N + w.n) * 2 * W;
            const ptrdiff_t own = rows_at_work(job, t, w.n, w.rows);
            rnn_gate_grads(k, w.p, t, w.n, own, t < T - 1 ? sums : NULL);
            state_grads(job, H, w.p, w.n + own, w.rows - own, sums + own * 2 * W, 1, k->dh, job->dh0);
        }
        step_wait(tm, own_rows); /* dA of step t is whole */
    }

    if (!team_goes_on(tm, job->whole))
        return;
    const left_rows x_rows = rows_of_x(job), h_rows = rows_of_seen(job);
    panel_weight_grads(&k->panels, tm, rank, 0, 1, &x_rows, D, job->dWx, 1, k->room);
    panel_weight_grads(&k->panels, tm, rank, 0, 1, &h_rows, H, job->dWh, 1, k->room);
    if (job->db)
        panel_bias_grads(&k->panels, p0, p1, 0, 1, job->db);
    panel_input_grads(&k->panels, tm, rank, k->Wx_room, job, k->room);
}

static int rnn_backward(const cell_job *job)
{
    const ptrdiff_t D = job->D, H = job->H;
    rnn_work k = {.job = job, .panels = panels_at(job, job->panels, job->T, H, 1, 1)};
    k.few = is_few(job);
    ptrdiff_t weights = k.few ? 0 : lines(pair_count(D) * 2 * W * H);
    ptrdiff_t recurrent = k.few ? 0 : lines(pair_count(H) * 2 * W * H);
    ptrdiff_t sums = lines(pair_count(H) * 2 * W * job->N), few = k.few ? lines(job->N * H) : 0;
    ptrdiff_t state = job->h_zoneout.p ? lines(job->N * H) : 0;
    real *room = new_reals(weights + recurrent + state + sums + few + (k.few ? 0 : grad_room(job)));
    if (!room)
        return -1;
    k.Wx_room = room, k.Wh_room = room + weights;
    k.dh = state ? k.Wh_room + recurrent : NULL;
    k.sums = k.Wh_room + recurrent + state, k.few_x = k.sums + sums, k.room = k.few_x + few;
    const int stopped = team_run(job->threads, rnn_backward_body, &k);
    free_room(room);
    return stopped;
}
