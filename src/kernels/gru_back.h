/* The GRU back through time: see gru.h. */

/* First half of a step back: dA of z and the candidate for one tile of units q 2W.. (two panels); with reset_after all
 * there is to do. `sums` (rows, 2 W) holds dA_next Wh_zr^T, with reset_after all of dA_next Wh^T, or is NULL at the last
 * step, where dh is what the caller gave. */
static void gru_gate_grads(const gru_work *k, ptrdiff_t q, ptrdiff_t t, ptrdiff_t n0, ptrdiff_t rows, const real *sums)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H;

    for (ptrdiff_t p = 2 * q; p < 2 * q + 2 && p * W < H; p++) {
        const ptrdiff_t w = panel_width(H, p), j = p * W;
        for (ptrdiff_t r = 0; r < rows; r++) {
            const ptrdiff_t n = n0 + r;
            const real *before = gru_h_prev(k, t, n), *back = sums ? sums + r * 2 * W + (p - 2 * q) * W : NULL;
            real *row = panel_row(&k->panels, p, t, n), *kept = k->dh + n * H + j;
            vec z = load_n(row, w), h_hat = load_n(row + 2 * w, w);
            vec h_prev = before ? load_n(before + j, w) : (vec){0};
            vec dh = given_dh(job, t, n, j, w);
            if (t < last_step(job, n)) {
                vec dseen = load(back);
                if (job->h_mask.p)
                    dseen *= mask_of(job, n, j, w);
                dh += dseen + load_n(kept, w);
            } else
                dh += state_of(job->dhT, n, j, w);
            vec slope = z * (1 - h_hat * h_hat), past = {0};
            if (job->candidate_mask.p) {
                vec mask = of_step(job, job->candidate_mask, t, n, j, w);
                slope *= mask, h_hat *= mask;
            }
            if (job->h_zoneout.p) {
                past = dh * of_step(job, job->h_zoneout, t, n, j, w);
                dh -= past;
            }
            vec dA_z = dh * (h_hat - h_prev) * z * (1 - z), dA_h = dh * slope;
            store_n(row, job->z_keeps ? -dA_z : dA_z, w);
            store_n(row + 2 * w, dA_h, w);
            store_n(kept, dh * (1 - z) + past, w);
            if (job->reset_after) {
                vec reset = load_n(row + w, w), of_product = load_n(row + 3 * w, w);
                store_n(row + w, dA_h * of_product * reset * (1 - reset), w);
                store_n(row + 3 * w, dA_h * reset, w);
            }
        }
    }
}

/* Second half: dA of r, and its share of dh_prev. `sums` (rows, 2 W) holds dq = dA_h Wh_h^T. */
static void gru_reset_grads(const gru_work *k, ptrdiff_t q, ptrdiff_t t, ptrdiff_t n0, ptrdiff_t rows, const real *sums)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H;

    for (ptrdiff_t p = 2 * q; p < 2 * q + 2 && p * W < H; p++) {
        const ptrdiff_t w = panel_width(H, p), j = p * W;
        for (ptrdiff_t r = 0; r < rows; r++) {
            const ptrdiff_t n = n0 + r;
            const real *before = gru_seen(k, t, n);
            real *row = panel_row(&k->panels, p, t, n), *kept = k->dh + n * H + j;
            vec reset = load_n(row + w, w), dq = load(sums + r * 2 * W + (p - 2 * q) * W);
            vec seen = before ? load_n(before + j, w) : (vec){0};
            store_n(row + w, dq * seen * reset * (1 - reset), w);
            if (job->h_mask.p)
                dq *= mask_of(job, n, j, w);
            store_n(kept, load_n(kept, w) + dq * reset, w);
        }
    }
}

/* sums = dA of step t times Wh^T, of z and r, with reset_after and of dq, in a walk over `rows` samples. */
static void gru_hidden_grads(const gru_work *k, const team *tm, int rank, ptrdiff_t t, ptrdiff_t rows, int own_rows)
{
    panel_hidden_grads(&k->panels, tm, rank, t, rows, 0, 2, k->WhT_zr_room, k->sums, 0, own_rows);
    if (k->job->reset_after)
        panel_hidden_grads(&k->panels, tm, rank, t, rows, 3, 1, k->WhT_h_room, k->sums, 1, own_rows);
}

/* db, with reset_after (2, 3 H): this thread's panels. */
static void gru_bias_grads(const gru_work *k, ptrdiff_t p0, ptrdiff_t p1)
{
    real *db = k->job->db;
    const ptrdiff_t H = k->job->H;
    if (db)
        panel_bias_grads(&k->panels, p0, p1, 0, 3, db);
    if (db && k->job->reset_after) {
        panel_bias_grads(&k->panels, p0, p1, 0, 2, db + 3 * H);
        panel_bias_grads(&k->panels, p0, p1, 3, 1, db + 5 * H);
    }
}

/* Few rows: what is left once dh0 = dA Wh^T and dWh are there. */
static void few_last_grads(const gru_work *k, team *tm, int rank, ptrdiff_t p0, ptrdiff_t p1)
{
    const cell_job *job = k->job;
    few_state_grads(tm, rank, job, k->dh);
    gru_bias_grads(k, p0, p1);
    if (job->reset_after) { /* dA has dq in the candidate's place */
        team_wait(tm);
        few_from_panels(&k->panels, p0, p1, job->N, 2, k->few_x);
        team_wait(tm);
    }
    few_input_grads(&k->panels, tm, rank, job, k->few_x);
}

/* The left side of the gradient of Wh_h: r s. */
static inline left_rows rows_of_rh(const cell_job *job)
{
    const ptrdiff_t step = step_of(job->H), steps = job->N * step;
    const real *rh = job->rh;
    return (left_rows){job->seen0.p ? rh : NULL, job->reset_after ? NULL : rh + steps, step, steps, step};
}

/* All of backward where there are few rows. */
static void gru_few_backward(const gru_work *k, team *tm, int rank)
{
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, H = job->H;
    const real *rh = job->rh;
    real *dA = k->few_x, *dq = k->few_h;
    const rows_grads g = few_hidden_grads(job, dA, job->dh0);
    ptrdiff_t q0, q1, p0, p1;
    team_share(tm, rank, pair_count(H), &q0, &q1);
    team_share(tm, rank, panel_count(H), &p0, &p1);

    for (ptrdiff_t q = q0; q < q1; q++)
        gru_gate_grads(k, q, 0, 0, N, NULL);
    team_wait(tm);
    few_from_panels(&k->panels, p0, p1, N, job->reset_after ? 3 : 2, dA);
    team_wait(tm);
    if (job->reset_after) {
        few_grads(&k->panels, tm, rank, 0, 3, H, g);
        few_last_grads(k, tm, rank, p0, p1);
        return;
    }
    rows_grads of_rh = few_hidden_grads(job, dA, dq);
    of_rh.x = job->seen0.p ? rh : NULL, of_rh.x_row = step_of(H);
    few_grads(&k->panels, tm, rank, 2, 1, H, of_rh);
    team_wait(tm);
    for (ptrdiff_t q = q0; q < q1; q++) {
        for (ptrdiff_t n = 0; n < N; n++)
            for (ptrdiff_t v = 0, j; (j = (2 * q + v) * W) < H && v < 2; v++)
                store(k->sums + ((q * N + n) * 2 + v) * W, load_n(dq + n * H + j, H - j < W ? H - j : W));
        gru_reset_grads(k, q, 0, 0, N, k->sums + q * N * 2 * W);
    }
    team_wait(tm);
    few_from_panels(&k->panels, p0, p1, N, 2, dA);
    team_wait(tm);
    few_grads(&k->panels, tm, rank, 0, 2, H, g);
    few_last_grads(k, tm, rank, p0, p1);
}

static void gru_backward_body(team *tm, int rank, void *work)
{
    gru_work *k = work;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H;
    const matrix Wx = {job->Wx.p, job->Wx.s0, job->Wx.s1}, Wh = {job->Wh.p, job->Wh.s0, job->Wh.s1};
    const ptrdiff_t Q = pair_count(H);
    const int own_rows = owns_rows(job, tm, 3);
    ptrdiff_t q0, q1, x0, x1, p0, p1;
    team_share(tm, rank, Q, &q0, &q1);
    team_share(tm, rank, pair_count(D), &x0, &x1);
    team_share(tm, rank, panel_count(H), &p0, &p1);

    if (k->few) {
        gru_few_backward(k, tm, rank);
        return;
    }
    for (ptrdiff_t q = q0; q < q1; q++) {
        pack_transposed(k->WhT_zr_room + q * 2 * W * 2 * H, Wh, H, q, H, 0, 2);
        pack_transposed(k->WhT_h_room + q * 2 * W * H, Wh, H, q, H, 2, 1);
    }
    for (ptrdiff_t q = x0; q < x1; q++)
        pack_transposed(k->WxT_room + q * 2 * W * 3 * H, Wx, D, q, H, 0, 3);
    if (rank == 0)
        pass_state(job, job->dhT, H, job->dh0);
    team_wait(tm);

    for (ptrdiff_t t = T - 1; t >= -1 && !team_stopped(); t--) { /* -1: the initial state */
        const ptrdiff_t rows = rows_of_both(job, t);
        if (t < T - 1)
            gru_hidden_grads(k, tm, rank, t + 1, rows, own_rows);
        for (tile_walk w = team_tiles(tm, rank, Q, rows, ROWS_2, own_rows); next_panel(&w);) {
            const real *sums = k->sums + (w.p * N + w.n) * 2 * W;
            const ptrdiff_t own = rows_at_work(job, t, w.n, w.rows);
            gru_gate_grads(k, w.p, t, w.n, own, t < T - 1 ? sums : NULL);
            state_grads(job, H, w.p, w.n + own, w.rows - own, sums + own * 2 * W, 1, k->dh, job->dh0);
        }
        step_wait(tm, own_rows); /* dA of the candidate is whole */
        if (job->reset_after)
            continue;
        panel_hidden_grads(&k->panels, tm, rank, t, rows_of(job, t), 2, 1, k->WhT_h_room, k->sums, 0, own_rows);
        for (tile_walk w = team_tiles(tm, rank, Q, rows_of(job, t), ROWS_2, own_rows); next_panel(&w);)
            gru_reset_grads(k, w.p, t, w.n, w.rows, k->sums + (w.p * N + w.n) * 2 * W);
        step_wait(tm, own_rows); /* dA of z and r is whole */
    }

    if (!team_goes_on(tm, job->whole))
        return;
    const left_rows x_rows = rows_of_x(job), h_rows = rows_of_seen(job), rh_rows = rows_of_rh(job);
    panel_weight_grads(&k->panels, tm, rank, 0, 3, &x_rows, D, job->dWx, 3, k->room);
    panel_weight_grads(&k->panels, tm, rank, 0, 2, &h_rows, H, job->dWh, 3, k->room);
    panel_weight_grads(&k->panels, tm, rank, job->reset_after ? 3 : 2, 1, job->reset_after ? &h_rows : &rh_rows, H,
                       (real *)job->dWh + 2 * H, 3, k->room);
    gru_bias_grads(k, p0, p1);
    panel_input_grads(&k->panels, tm, rank, k->WxT_room, job, k->room);
}

static int gru_backward(const cell_job *job)
{
    const ptrdiff_t N = job->N, D = job->D, H = job->H;
    gru_work k = {.job = job, .panels = panels_at(job, job->panels, job->T, H, GRU_GATES, gru_kept(job))};
    k.few = is_few(job);
    const ptrdiff_t packs = !k.few, few = k.few ? lines(N * 3 * H) : 0;
    ptrdiff_t weights = packs * lines(pair_count(D) * 2 * W * 3 * H), state = lines(N * H);
    ptrdiff_t zr = packs * lines(pair_count(H) * 2 * W * 2 * H), candidate = packs * lines(pair_count(H) * 2 * W * H);
    ptrdiff_t sums = lines(pair_count(H) * 2 * W * N);
    real *room = new_reals(weights + zr + candidate + state + sums + 2 * few + packs * grad_room(job));
    if (!room)
        return -1;
    k.WxT_room = room, k.WhT_zr_room = room + weights, k.WhT_h_room = k.WhT_zr_room + zr;
    k.dh = k.WhT_h_room + candidate, k.sums = k.dh + state;
    k.few_x = k.sums + sums, k.few_h = k.few_x + few, k.room = k.few_h + few;
    const int stopped = team_run(job->threads, gru_backward_body, &k);
    free_room(room);
    return stopped;
}
