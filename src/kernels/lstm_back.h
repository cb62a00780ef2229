/* The LSTM back through time: see lstm.h. */

/* dh of one row of a tile: `back` (W values) holds dA_next Wh^T, where a step comes after this one. */
static inline __attribute__((always_inline)) vec lstm_dh(const lstm_work *k, ptrdiff_t t, ptrdiff_t n, ptrdiff_t j, ptrdiff_t w,
                                                         const real *back)
{
    const cell_job *job = k->job;
    vec dh = given_dh(job, t, n, j, w);
    if (t == last_step(job, n))
        return dh + state_of(job->dhT, n, j, w);
    if (k->dh)
        dh += load_n(k->dh + n * job->P + j, w);
    vec dseen = load(back);
    return dh + (job->h_mask.p ? dseen * mask_of(job, n, j, w) : dseen);
}

/* dh of what h was without zoneout; the rest waits for the step before. */
static inline vec lstm_dh_new(const lstm_work *k, ptrdiff_t t, ptrdiff_t n, ptrdiff_t j, ptrdiff_t w, vec dh)
{
    if (!k->dh)
        return dh;
    vec past = dh * of_step(k->job, k->job->h_zoneout, t, n, j, w);
    store_n(k->dh + n * k->job->P + j, past, w);
    return dh - past;
}

/* ds, where the bound lets it pass. */
static inline vec lstm_clipped(const cell_job *job, vec ds, vec c)
{
    const real clip = job->clip;
    return (vec)((c > -clip) & (c < clip) & (__typeof__(c > c))ds);
}

/* dA of one tile: rows n0.. of step t, units q 2W.. (two panels). `sums` (rows, 2 W) holds dA_next Wh^T,
 * or is NULL at the last step, where dh is what the caller gave; if `projected`, it holds du. plain as in lstm_tile. */
static inline __attribute__((always_inline)) void lstm_tile_grads(const int plain, const int projected, const lstm_work *k,
                                                                  ptrdiff_t q, ptrdiff_t t, ptrdiff_t n0, ptrdiff_t rows,
                                                                  const real *sums)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H;

    for (ptrdiff_t p = 2 * q; p < 2 * q + 2 && p * W < H; p++) {
        const ptrdiff_t w = panel_width(H, p), j = p * W;
        for (ptrdiff_t r = 0; r < rows; r++) {
            const ptrdiff_t n = n0 + r;
            const real *back = sums ? sums + r * 2 * W + (p - 2 * q) * W : NULL;
            real *row = panel_row(&k->panels, p, t, n);
            real *dc_prev = (t > first_step(job, n) ? k->c : (real *)job->dc0) + n * H + j;
            vec f = load_n(row, w), g = load_n(row + w, w), i = load_n(row + 2 * w, w), o = load_n(row + 3 * w, w),
                c = load_n(row + 4 * w, w);
            vec dh = projected ? load(back) : lstm_dh(k, t, n, j, w, back), c_prev = lstm_c_prev(k, p, t, n, w), past = {0};
            vec dc = t == last_step(job, n) ? state_of(job->dcT, n, j, w) : load_n(k->c + n * H + j, w);
            if (!plain && !projected)
                dh = lstm_dh_new(k, t, n, j, w, dh);
            if (!plain && job->c_zoneout.p) {
                past = dc * of_step(job, job->c_zoneout, t, n, j, w);
                dc -= past;
                c = load_n(row + 5 * w, w);
            }

            vec tanh_c = vtanh(c), dA_o = dh * tanh_c * o * (1 - o);
            vec ds = dc + dh * o * (1 - tanh_c * tanh_c);
            const real *peephole = plain ? NULL : job->Wp;
            if (peephole)
                ds += dA_o * load_n(peephole + 2 * H + j, w);
            if (!plain && job->clip)
                ds = lstm_clipped(job, ds, c);
            vec slope = 1 - g * g;
            if (!plain && job->candidate_mask.p) {
                vec mask = of_step(job, job->candidate_mask, t, n, j, w);
                slope *= mask, g *= mask;
            }
            vec dA_f = ds * c_prev * f * (1 - f), dA_i = ds * g * i * (1 - i);
            store_n(row, dA_f, w);
            store_n(row + w, ds * i * slope, w);
            store_n(row + 2 * w, dA_i, w);
            store_n(row + 3 * w, dA_o, w);
            vec to_prev = plain ? ds * f : ds * f + past;
            if (peephole)
                to_prev += dA_f * load_n(peephole + j, w) + dA_i * load_n(peephole + H + j, w);
            store_n(dc_prev, to_prev, w);
        }
    }
}

static void lstm_gate_grads(const lstm_work *k, ptrdiff_t q, ptrdiff_t t, ptrdiff_t n0, ptrdiff_t rows, const real *sums)
{
    if (lstm_is_plain(k->job))
        lstm_tile_grads(1, 0, k, q, t, n0, rows, sums);
    else
        lstm_tile_grads(0, 0, k, q, t, n0, rows, sums);
}

/* dWp (3, H) of panels p0..p1: sums of c_prev dA_f, c_prev dA_i and c dA_o over all rows, in blocks as db. */
static void lstm_peephole_grads(const lstm_work *k, ptrdiff_t p0, ptrdiff_t p1)
{
    const cell_job *job = k->job;
    const step_rows steps = rows_of_job(job);
    const ptrdiff_t H = job->H, R = first_row(steps, job->T);
    const int c_at = lstm_kept(job) - 1; /* what o has seen */
    for (ptrdiff_t p = p0; p < p1; p++) {
        const ptrdiff_t w = panel_width(H, p);
        vec total[3] = {{0}};
        row_place at = place_of(steps, 0);
        for (ptrdiff_t r0 = 0; r0 < R; r0 += 64) {
            vec sum[3] = {{0}};
            for (ptrdiff_t r = r0; r < r0 + 64 && r < R; r++, next_place(steps, &at)) {
                const real *row = panel_row(&k->panels, p, 0, r);
                vec c_prev = lstm_c_prev(k, p, at.t, at.n, w);
                sum[0] += c_prev * load_n(row, w);
                sum[1] += c_prev * load_n(row + 2 * w, w);
                sum[2] += load_n(row + c_at * w, w) * load_n(row + 3 * w, w);
            }
            for (int g = 0; g < 3; g++)
                total[g] += sum[g];
        }
        for (int g = 0; g < 3; g++)
            store_n((real *)job->dWp + g * H + p * W, total[g], w);
    }
}

/* This thread's share of Wh^T and Wx^T, packed for backward. */
static void lstm_pack_back(const lstm_work *k, const team *tm, int rank)
{
    const cell_job *job = k->job;
    const ptrdiff_t D = job->D, H = job->H;
    const matrix Wx = {job->Wx.p, job->Wx.s0, job->Wx.s1}, Wh = {job->Wh.p, job->Wh.s0, job->Wh.s1};
    ptrdiff_t q0, q1;
    team_share(tm, rank, pair_count(job->P), &q0, &q1);
    for (ptrdiff_t q = q0; q < q1; q++)
        pack_transposed(k->Wh_room + q * 2 * W * 4 * H, Wh, job->P, q, H, 0, 4);
    team_share(tm, rank, pair_count(D), &q0, &q1);
    for (ptrdiff_t q = q0; q < q1; q++)
        pack_transposed(k->Wx_room + q * 2 * W * 4 * H, Wx, D, q, H, 0, 4);
}

/* dWx, dWh and db, once all of dA is there. */
static void lstm_weight_grads(const lstm_work *k, team *tm, int rank)
{
    const cell_job *job = k->job;
    const left_rows x_rows = rows_of_x(job), h_rows = rows_of_seen(job);
    panel_weight_grads(&k->panels, tm, rank, 0, 4, &x_rows, job->D, job->dWx, 4, k->room);
    panel_weight_grads(&k->panels, tm, rank, 0, 4, &h_rows, job->P, job->dWh, 4, k->room);
    ptrdiff_t p0, p1;
    team_share(tm, rank, panel_count(job->H), &p0, &p1);
    if (job->db)
        panel_bias_grads(&k->panels, p0, p1, 0, 4, job->db);
}

/* Gradients of the initial states of samples that no step concerns. */
static void lstm_pass_back(const cell_job *job)
{
    pass_state(job, job->dhT, job->P, job->dh0);
    pass_state(job, job->dcT, job->H, job->dc0);
}

static void lstm_backward_body(team *tm, int rank, void *work)
{
    lstm_work *k = work;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, T = job->T, Q = pair_count(job->H);
    const int own_rows = owns_rows(job, tm, 4);
    ptrdiff_t q0, q1, p0, p1;
    team_share(tm, rank, Q, &q0, &q1);
    team_share(tm, rank, panel_count(job->H), &p0, &p1);

    if (k->few) {
        for (ptrdiff_t q = q0; q < q1; q++)
            lstm_gate_grads(k, q, 0, 0, N, NULL);
        if (job->Wp) {
            team_wait(tm); /* dA is whole: a thread's panels are not those of its pairs */
            lstm_peephole_grads(k, p0, p1);
        }
        few_cell_grads(&k->panels, tm, rank, job, p0, p1, k->dh, k->few_x);
        return;
    }
    lstm_pack_back(k, tm, rank);
    if (rank == 0)
        lstm_pass_back(job);
    team_wait(tm);

    for (ptrdiff_t t = T - 1; t >= -1 && !team_stopped(); t--) { /* -1: the initial state */
        const ptrdiff_t rows = rows_of_both(job, t);
        if (t < T - 1)
            panel_hidden_grads(&k->panels, tm, rank, t + 1, rows, 0, 4, k->Wh_room, k->sums, 0, own_rows);
        for (tile_walk w = team_tiles(tm, rank, Q, rows, ROWS_2, own_rows); next_panel(&w);) {
            const real *sums = k->sums + (w.p * N + w.n) * 2 * W;
            const ptrdiff_t own = rows_at_work(job, t, w.n, w.rows);
            lstm_gate_grads(k, w.p, t, w.n, own, t < T - 1 ? sums : NULL);
            state_grads(job, job->H, w.p, w.n + own, w.rows - own, sums + own * 2 * W, 1, k->dh, job->dh0);
        }
        step_wait(tm, own_rows); /* dA of step t is whole */
    }

    if (!team_goes_on(tm, job->whole))
        return;
    lstm_weight_grads(k, tm, rank);
    if (job->Wp)
        lstm_peephole_grads(k, p0, p1);
    panel_input_grads(&k->panels, tm, rank, k->Wx_room, job, k->room);
}

static int lstm_backward(const cell_job *job)
{
    if (job->full)
        return peephole_backward(job);
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H;
    lstm_work k = {.job = job, .panels = panels_at(job, job->panels, T, H, LSTM_GATES, lstm_kept(job))};
    k.few = is_few(job);
    ptrdiff_t weights = k.few ? 0 : lines(pair_count(D) * 2 * W * 4 * H), few = k.few ? lines(N * 4 * H) : 0;
    ptrdiff_t recurrent = k.few ? 0 : lines(pair_count(H) * 2 * W * 4 * H), state = lines(N * H);
    ptrdiff_t sums = lines(pair_count(H) * 2 * W * N);
    ptrdiff_t past = job->h_zoneout.p ? state : 0;
    real *room = new_reals(weights + recurrent + state + past + sums + few + (k.few ? 0 : grad_room(job)));
    if (!room)
        return -1;
    k.Wx_room = room, k.Wh_room = room + weights;
    k.c = k.Wh_room + recurrent, k.dh = past ? k.c + state : NULL, k.sums = k.c + state + past, k.few_x = k.sums + sums,
    k.room = k.few_x + few;
    const int stopped = team_run(job->threads, lstm_backward_body, &k);
    free_room(room);
    return stopped;
}
