/* The layer-normalised LSTM back through time: see lnlstm.h. */

/* First part of a step back, one tile of a pair of panels: dA_o and dy, and the parts of the gradients of gc and bc. `sums`
 * (rows, 2 W) holds dv_next Wh^T, or is NULL at the last step. */
static void lnlstm_output_grads(const lnlstm_work *work, const tile_walk *tile, ptrdiff_t t, const real *sums)
{
    const lstm_work *k = &work->lstm;
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H, row_0 = first_row(rows_of_panels(&k->panels), t);
    real *parts = work->parts + tile->i * 6 * H;

    for (ptrdiff_t p = 2 * tile->p; p < 2 * tile->p + 2 && p * W < H; p++) {
        const ptrdiff_t w = panel_width(H, p), j = p * W;
        const vec gain = load_n((const real *)job->norms[2] + j, w), bias = load_n((const real *)job->norms[3] + j, w);
        vec dgain = load_n(parts + 4 * H + j, w), dbias = load_n(parts + 5 * H + j, w);
        for (ptrdiff_t r = 0; r < tile->rows; r++) {
            const ptrdiff_t n = tile->n + r;
            const real *back = sums ? sums + r * 2 * W + (p - 2 * tile->p) * W : NULL;
            real *row = panel_row(&k->panels, p, t, n), *to_dy = work->dy + n * H + j;
            real *left = norm_sums(work->c_sums, H, n, p);
            vec o = load_n(row + 3 * w, w), c_hat = norm_of(work->of_c[row_0 + n], load_n(row + lnlstm_c_new(job) * w, w));
            vec q = vtanh(c_hat * gain + bias), dh = lstm_dh_new(k, t, n, j, w, lstm_dh(k, t, n, j, w, back));
            vec dy = dh * o * (1 - q * q);
            dgain += dy * c_hat, dbias += dy;
            store_n(row + 3 * w, dh * q * o * (1 - o), w);
            store_n(to_dy, dy, w);
            store(left, dy * gain);
            store(left + W, dy * gain * c_hat);
        }
        store_n(parts + 4 * H + j, dgain, w);
        store_n(parts + 5 * H + j, dbias, w);
    }
}

/* Second part: dA of f, g and i, and dc_prev. backs: of dy gc. */
static void lnlstm_cell_grads(const lnlstm_work *work, const tile_walk *tile, ptrdiff_t t, const norm_back *backs)
{
    const lstm_work *k = &work->lstm;
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H, row_0 = first_row(rows_of_panels(&k->panels), t);

    for (ptrdiff_t p = 2 * tile->p; p < 2 * tile->p + 2 && p * W < H; p++) {
        const ptrdiff_t w = panel_width(H, p), j = p * W;
        const vec gain = load_n((const real *)job->norms[2] + j, w);
        vec gain_h[4];
        for (int g = 0; g < 4; g++)
            gain_h[g] = load_n((const real *)job->norms[1] + g * H + j, w);
        for (ptrdiff_t n = tile->n; n < tile->n + tile->rows; n++) {
            real *left = norm_sums(work->h_sums, H, n, p);
            const norm of = work->of_c[row_0 + n], of_h = work->of_h[row_0 + n];
            const real *h = panel_row(&work->h_Wh, p, t, n);
            real *row = panel_row(&k->panels, p, t, n), *dc = k->c + n * H + j;
            real *dc_prev = t > first_step(job, n) ? dc : (real *)job->dc0 + n * H + j;
            vec f = load_n(row, w), g = load_n(row + w, w), i = load_n(row + 2 * w, w);
            vec d = load_n(work->dy + n * H + j, w) * gain, c_prev = lstm_c_prev(k, p, t, n, w);
            vec ds = norm_grad(of, backs[n], d, norm_of(of, load_n(row + lnlstm_c_new(job) * w, w)));
            vec dc_next = t == last_step(job, n) ? state_of(job->dcT, n, j, w) : load_n(dc, w), past = {0};
            if (job->c_zoneout.p)
                past = dc_next * of_step(job, job->c_zoneout, t, n, j, w);
            ds += dc_next - past;
            store_n(dc_prev, ds * f + past, w);
            vec slope = 1 - g * g;
            if (job->candidate_mask.p) {
                vec mask = of_step(job, job->candidate_mask, t, n, j, w);
                slope *= mask, g *= mask;
            }
            vec dA[4] = {ds * c_prev * f * (1 - f), ds * i * slope, ds * g * i * (1 - i), load_n(row + 3 * w, w)};
            vec all = {0}, with = {0};
            UNROLLED
            for (int k = 0; k < 4; k++) {
                store_n(row + k * w, dA[k], w);
                vec dv = dA[k] * gain_h[k];
                all += dv, with += dv * norm_of(of_h, load_n(h + k * w, w));
            }
            store(left, all);
            store(left + W, with);
        }
    }
}

/* The gradients of all weights, and du, once all of dA and dv is there. */
static void lnlstm_weight_grads(const lnlstm_work *work, team *tm, int rank)
{
    const lstm_work *k = &work->lstm;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, H = job->H, blocks = tile_count(k->panels.R, NORM_BLOCK);
    const left_rows x_rows = rows_of_x(job), h_rows = rows_of_seen(job);
    real *const *grads = (real *const *)job->dnorms;
    ptrdiff_t p0, p1;
    team_share(tm, rank, panel_count(H), &p0, &p1);

    norm_input_grads(job, tm, rank, &k->panels, &work->x_Wx, &LNLSTM_GATES, 1, job->norms[0], work->of_x, 0, work->parts_x);
    panel_weight_grads(&work->h_Wh, tm, rank, 0, 4, &h_rows, H, job->dWh, 4, k->room);
    panel_weight_grads(&work->x_Wx, tm, rank, 0, 4, &x_rows, job->D, job->dWx, 4, k->room); /* it waits for du first */
    norm_sum_parts(H, 4, p0, p1, work->parts_x, blocks, 4 * H, grads[0]);
    const ptrdiff_t tiles = tile_count(N, ROWS_2);
    norm_sum_parts(H, 4, p0, p1, work->parts, tiles, 6 * H, grads[1]);
    norm_sum_parts(H, 1, p0, p1, work->parts + 4 * H, tiles, 6 * H, grads[2]);
    norm_sum_parts(H, 1, p0, p1, work->parts + 5 * H, tiles, 6 * H, grads[3]);
    if (job->db)
        panel_bias_grads(&k->panels, p0, p1, 0, 4, job->db);
    panel_input_grads(&work->x_Wx, tm, rank, k->Wx_room, job, k->room);
}

static void lnlstm_backward_body(team *tm, int rank, void *for_all)
{
    lnlstm_work *work = for_all;
    lstm_work *k = &work->lstm;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, T = job->T, H = job->H, Q = pair_count(H);
    const int own_rows = norm_owns_rows(job, tm, 4);
    norm_back *backs = (norm_back *)(work->own + rank * lnlstm_own(job));
    ptrdiff_t n0, n1;
    lstm_pack_back(k, tm, rank);
    if (rank == 0)
        lstm_pass_back(job);
    team_wait(tm);

    for (ptrdiff_t t = T - 1; t >= -1 && !team_stopped(); t--) { /* -1: the initial h */
        const ptrdiff_t rows = rows_of(job, t), both = rows_of_both(job, t);
        if (t < T - 1)
            panel_hidden_grads(&work->h_Wh, tm, rank, t + 1, both, 0, 4, k->Wh_room, k->sums, 0, own_rows);
        for (tile_walk w = team_tiles(tm, rank, Q, both, ROWS_2, own_rows); next_tile(&w);) {
            const ptrdiff_t all = w.rows;
            const real *sums = k->sums + (w.p * N + w.n) * 2 * W;
            w.rows = rows_at_work(job, t, w.n, all);
            if (w.rows)
                lnlstm_output_grads(work, &w, t, t < T - 1 ? sums : NULL);
            state_grads(job, H, w.p, w.n + w.rows, all - w.rows, sums + w.rows * 2 * W, 1, k->dh, job->dh0);
        }
        if (t < 0)
            break;
        step_wait(tm, own_rows); /* dy is whole */
        const ptrdiff_t row = first_row(rows_of_panels(&k->panels), t);
        norm_samples(tm, rank, Q, rows, ROWS_2, own_rows, &n0, &n1);
        norm_backs(work->c_sums, H, 1, n0, n1, backs);
        for (tile_walk w = team_tiles(tm, rank, Q, rows, ROWS_2, own_rows); next_tile(&w);)
            lnlstm_cell_grads(work, &w, t, backs);
        step_wait(tm, own_rows); /* dA of step t is whole */
        norm_backs(work->h_sums, H, 4, n0, n1, backs);
        for (tile_walk w = team_tiles(tm, rank, Q, rows, ROWS_2, own_rows); next_tile(&w);)
            for (ptrdiff_t p = 2 * w.p; p < 2 * w.p + 2 && p * W < H; p++)
                norm_panel_grads(&k->panels, &work->h_Wh, LNLSTM_GATES, p, row + w.n, row + w.n + w.rows, job->norms[1],
                                 work->of_h + row + w.n, backs + w.n, work->parts + w.i * 6 * H);
        step_wait(tm, own_rows); /* dv of step t is whole */
    }

    if (team_goes_on(tm, job->whole))
        lnlstm_weight_grads(work, tm, rank);
}

static int lnlstm_backward(const cell_job *job)
{
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H, tiles = tile_count(N, ROWS_2);
    lnlstm_work work = {.lstm = {.job = job, .panels = panels_at(job, job->panels, T, H, LSTM_GATES, lstm_kept(job))}};
    lstm_work *k = &work.lstm;
    ptrdiff_t weights = lines(pair_count(D) * 2 * W * 4 * H), recurrent = lines(pair_count(H) * 2 * W * 4 * H);
    ptrdiff_t state = lines(N * H), sums = lines(pair_count(H) * 2 * W * N), dy = lines(N * H + W);
    ptrdiff_t halves = lines(N * panel_count(H) * 2 * W), past = job->h_zoneout.p ? state : 0;
    ptrdiff_t parts = lines(tiles * 6 * H), parts_x = lines(tile_count(k->panels.R, NORM_BLOCK) * 4 * H),
              each = lnlstm_own(job);
    real *room = new_reals(weights + recurrent + state + past + sums + dy + 2 * halves + parts + parts_x + job->threads * each +
                           grad_room(job));
    if (!room)
        return -1;
    lnlstm_places(&work, job->norms_kept, T, T);
    k->Wx_room = room, k->Wh_room = room + weights;
    k->c = k->Wh_room + recurrent, k->dh = past ? k->c + state : NULL, k->sums = k->c + state + past;
    work.dy = k->sums + sums, work.c_sums = work.dy + dy, work.h_sums = work.c_sums + halves;
    work.parts = work.h_sums + halves, work.parts_x = work.parts + parts;
    memset(work.parts, 0, parts * sizeof(real));
    work.own = work.parts_x + parts_x, k->room = work.own + job->threads * each;
    const int stopped = team_run(job->threads, lnlstm_backward_body, &work);
    free_room(room);
    return stopped;
}
