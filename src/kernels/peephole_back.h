/* Back through time with whole peephole matrices: see peephole.h. */

/* First half of a step back, one tile of units q 2W..: dA of o, and into c (N, H) what is known of ds. `sums` and sums_c
 * (rows, 2 W) hold what comes back from the step after, or are NULL at the last step. */
static void peephole_output_grads(const peephole_work *work, ptrdiff_t q, ptrdiff_t t, ptrdiff_t n0, ptrdiff_t rows,
                                  const real *sums, const real *sums_c)
{
    const lstm_work *k = &work->lstm;
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H;

    for (ptrdiff_t p = 2 * q; p < 2 * q + 2 && p * W < H; p++) {
        const ptrdiff_t w = panel_width(H, p), j = p * W;
        for (ptrdiff_t r = 0; r < rows; r++) {
            const ptrdiff_t n = n0 + r, at = r * 2 * W + (p - 2 * q) * W;
            real *row = panel_row(&k->panels, p, t, n), *ds = k->c + n * H + j;
            vec o = load_n(row + 3 * w, w), tanh_c = vtanh(load_n(row + (k->panels.S - 1) * w, w));
            vec dh = lstm_dh_new(k, t, n, j, w, lstm_dh(k, t, n, j, w, sums ? sums + at : NULL));
            vec dc = t == last_step(job, n) ? state_of(job->dcT, n, j, w) : load_n(ds, w) + load(sums_c + at);
            if (job->c_zoneout.p) { /* what goes past the step takes the place of c, which no step needs any more */
                vec past = dc * of_step(job, job->c_zoneout, t, n, j, w);
                store_n(row + 4 * w, past, w);
                dc -= past;
            }
            store_n(row + 3 * w, dh * tanh_c * o * (1 - o), w);
            store_n(ds, dc + dh * o * (1 - tanh_c * tanh_c), w);
        }
    }
}

/* Second half: dA of f, g and i, and into c the part of dc_prev that stays with its unit. `sums` (rows, 2 W) holds
 * dA_o P_o^T. */
static void peephole_cell_grads(const peephole_work *work, ptrdiff_t q, ptrdiff_t t, ptrdiff_t n0, ptrdiff_t rows,
                                const real *sums)
{
    const lstm_work *k = &work->lstm;
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H;

    for (ptrdiff_t p = 2 * q; p < 2 * q + 2 && p * W < H; p++) {
        const ptrdiff_t w = panel_width(H, p);
        for (ptrdiff_t r = 0; r < rows; r++) {
            const ptrdiff_t n = n0 + r;
            const ptrdiff_t j = p * W;
            real *row = panel_row(&k->panels, p, t, n), *dc = k->c + n * H + j;
            vec f = load_n(row, w), g = load_n(row + w, w), i = load_n(row + 2 * w, w);
            vec ds = load_n(dc, w) + load(sums + r * 2 * W + (p - 2 * q) * W);
            if (job->clip)
                ds = lstm_clipped(job, ds, load_n(row + (k->panels.S - 1) * w, w));
            store_n(row, ds * lstm_c_prev(k, p, t, n, w) * f * (1 - f), w);
            vec to_g = ds * i * (1 - g * g), to_i = ds * g * i * (1 - i);
            if (job->candidate_mask.p) {
                vec mask = of_step(job, job->candidate_mask, t, n, j, w);
                to_g *= mask, to_i *= mask;
            }
            store_n(row + w, to_g, w);
            store_n(row + 2 * w, to_i, w);
            store_n(dc, job->c_zoneout.p ? ds * f + load_n(row + 4 * w, w) : ds * f, w);
        }
    }
}

/* sums = dA of step t times Wh^T, sums_c = dA_f P_f^T + dA_i P_i^T, in a walk over `rows` samples */
static void peephole_hidden_grads(const peephole_work *work, const team *tm, int rank, ptrdiff_t t, ptrdiff_t rows,
                                  int own_rows)
{
    const lstm_work *k = &work->lstm;
    panel_hidden_grads(&k->panels, tm, rank, t, rows, 0, 4, k->Wh_room, k->sums, 0, own_rows);
    panel_hidden_grads(&k->panels, tm, rank, t, rows, 0, 1, work->PT_room[0], work->sums_c, 0, own_rows);
    panel_hidden_grads(&k->panels, tm, rank, t, rows, 2, 1, work->PT_room[1], work->sums_c, 1, own_rows);
}

static void peephole_backward_body(team *tm, int rank, void *for_all)
{
    peephole_work *work = for_all;
    lstm_work *k = &work->lstm;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, T = job->T, H = job->H, Q = pair_count(H);
    const int own_rows = owns_rows(job, tm, 4);
    const real *c = job->c, *c_new = job->c_zoneout.p ? job->c_new : c;
    ptrdiff_t q0, q1;
    team_share(tm, rank, Q, &q0, &q1);

    lstm_pack_back(k, tm, rank);
    for (ptrdiff_t q = q0; q < q1; q++)
        for (int g = 0; g < 3; g++)
            pack_transposed(work->PT_room[g] + q * 2 * W * H, (matrix){(const real *)job->Wp + g * H * H, H, 1}, H, q, H, 0, 1);
    if (rank == 0)
        lstm_pass_back(job);
    team_wait(tm);

    for (ptrdiff_t t = T - 1; t >= -1 && !team_stopped(); t--) { /* -1: the initial states */
        const ptrdiff_t rows = rows_of_both(job, t);
        if (t < T - 1)
            peephole_hidden_grads(work, tm, rank, t + 1, rows, own_rows);
        for (tile_walk w = team_tiles(tm, rank, Q, rows, ROWS_2, own_rows); next_panel(&w);) {
            const ptrdiff_t at = (w.p * N + w.n) * 2 * W, own = rows_at_work(job, t, w.n, w.rows), end = at + own * 2 * W;
            peephole_output_grads(work, w.p, t, w.n, own, t < T - 1 ? k->sums + at : NULL, work->sums_c + at);
            state_grads(job, H, w.p, w.n + own, w.rows - own, k->sums + end, 1, k->dh, job->dh0);
            state_grads(job, H, w.p, w.n + own, w.rows - own, work->sums_c + end, 0, k->c, job->dc0);
        }
        step_wait(tm, own_rows); /* dA of o is whole */
        panel_hidden_grads(&k->panels, tm, rank, t, rows_of(job, t), 3, 1, work->PT_room[2], work->sums_c, 0, own_rows);
        for (tile_walk w = team_tiles(tm, rank, Q, rows_of(job, t), ROWS_2, own_rows); next_panel(&w);)
            peephole_cell_grads(work, w.p, t, w.n, w.rows, work->sums_c + (w.p * N + w.n) * 2 * W);
        step_wait(tm, own_rows); /* dA of step t is whole */
    }

    if (!team_goes_on(tm, job->whole))
        return;
    lstm_weight_grads(k, tm, rank);
    const ptrdiff_t c_n = step_of(H);
    left_rows before = {job->c0.p, c, job->c0.s0, N * c_n, c_n}, after = {c_new, c_new + N * c_n, c_n, N * c_n, c_n};
    real *dWp = job->dWp;
    panel_weight_grads(&k->panels, tm, rank, 0, 1, &before, H, dWp, 1, k->room);
    panel_weight_grads(&k->panels, tm, rank, 2, 1, &before, H, dWp + H * H, 1, k->room);
    panel_weight_grads(&k->panels, tm, rank, 3, 1, &after, H, dWp + 2 * H * H, 1, k->room);
    panel_input_grads(&k->panels, tm, rank, k->Wx_room, job, k->room);
}

static int peephole_backward(const cell_job *job)
{
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H, Q = pair_count(H);
    peephole_work work = {.lstm = {.job = job, .panels = panels_at(job, job->panels, T, H, LSTM_GATES, lstm_kept(job))}};
    lstm_work *k = &work.lstm;
    ptrdiff_t weights = lines(pair_count(D) * 2 * W * 4 * H), recurrent = lines(Q * 2 * W * 4 * H);
    ptrdiff_t peephole = lines(Q * 2 * W * H), state = lines(N * H), sums = lines(Q * 2 * W * N);
    ptrdiff_t past = job->h_zoneout.p ? state : 0;
    real *room = new_reals(weights + recurrent + 3 * peephole + state + past + 2 * sums + grad_room(job));
    if (!room)
        return -1;
    k->Wx_room = room, k->Wh_room = room + weights;
    for (int g = 0; g < 3; g++)
        work.PT_room[g] = k->Wh_room + recurrent + g * peephole;
    k->c = work.PT_room[2] + peephole, k->dh = past ? k->c + state : NULL, k->sums = k->c + state + past,
    work.sums_c = k->sums + sums, k->room = work.sums_c + sums;
    const int stopped = team_run(job->threads, peephole_backward_body, &work);
    free_room(room);
    return stopped;
}
