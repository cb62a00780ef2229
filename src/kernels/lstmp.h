/* The LSTM with a projection over a whole sequence (Sak et al. 2014); lstm.h has the step itself.
 *
 *   u = o tanh(c)    h = u Wproj                 c, u (N, H), h (N, P), Wproj (H, P); Wh is (P, 4 H)
 *
 *   du = dh Wproj^T  dWproj += u^T dh            dh = dhs + dA_next Wh^T (times m)
 *
 * h needs all of u, and du all of dh, so a step has two halves and two barriers, in both directions. h_zoneout keeps shares
 * of h_prev (N, P): h is z h_prev + (1 - z) u Wproj then, and the dh that goes on to u is (1 - z) dh.
 * Kept for backward: what the LSTM keeps, h m being (T, N, P), and u as rows (T, N, H).
 */

typedef struct {
    lstm_work lstm;
    right_side *Wproj; /* of each panel of h */
    real *Wproj_room;  /* forward: [panel of h][k][W]; backward: transposed, [H / 2W][P][2 W] */
    gate_panels dh;    /* backward: of P columns */
    real *sums_h;      /* backward: dA_next Wh^T, [P / 2W][N][2 W]; lstm.sums is du */
    real *few_rows;    /* lstm.few: forward h, backward dh (N, P) */
    real *few_u;       /* backward: du (N, H) */
} lstmp_work;

/* The panels of Wx, those of Wh, and those of Wproj. */
static ptrdiff_t lstmp_pack(const cell_job *job, void *room)
{
    const ptrdiff_t taken = pack_cell(job, room, 4);
    const matrix Wproj = {job->Wproj.p, job->Wproj.s0, job->Wproj.s1};
    return taken + pack_panels(room ? (real *)room + taken : NULL, Wproj, job->H, job->P, 0, 1);
}

static inline int lstmp_is_few(const cell_job *job) { return is_few(job) && job->Wproj.s1 == 1; }

/* As owns_rows, with Wproj. */
static int lstmp_owns_rows(const cell_job *job, const team *tm)
{
    return job->T == 1 ? 0 : own_rows_of(job, tm, (4 * (job->D + job->P) + job->P) * job->H);
}

/* First half of a step: u of one tile; plain or not as in an LSTM, so that few rows give the same bits. */
static void lstmp_activate(const lstm_work *k, ptrdiff_t p, ptrdiff_t t, ptrdiff_t slot, ptrdiff_t n0, ptrdiff_t rows,
                           const real *sums)
{
    if (lstm_is_plain(k->job))
        lstm_tile(1, 1, k, p, t, slot, n0, rows, sums);
    else
        lstm_tile(0, 1, k, p, t, slot, n0, rows, sums);
}

/* Second half of a step: h of one tile. `sums`, its rows apart by `step`, holds u Wproj. */
static void lstmp_output(const lstm_work *k, ptrdiff_t p, ptrdiff_t t, ptrdiff_t n0, ptrdiff_t rows, const real *sums,
                         ptrdiff_t step)
{
    const cell_job *job = k->job;
    const ptrdiff_t w = panel_width(job->P, p), j = p * W;

    for (ptrdiff_t r = 0; r < rows; r++) {
        const ptrdiff_t n = n0 + r;
        real *seen = lstm_seen(k, t, n) + j, *hs = row_at(job, job->hs, t, n) + j;
        vec h = load_n(sums + r * step, w); /* its row may end within a vector */
        if (job->h_zoneout.p)
            h = zoned(of_step(job, job->h_zoneout, t, n, j, w), shown_before(job, t, n, j, w), h);
        store_n(seen, job->h_mask.p ? h * mask_of(job, n, j, w) : h, w);
        store_n(hs, h, w);
        if (t == last_step(job, n))
            store_n((real *)job->hT + n * job->P + j, h, w);
    }
}

/* A single step of few rows, with the weights as they lie in memory. */
static void lstmp_few_forward(const lstmp_work *work, team *tm, int rank)
{
    const lstm_work *k = &work->lstm;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, H = job->H, of_h = job->P;
    const matrix Wx = {job->Wx.p, job->Wx.s0, job->Wx.s1}, Wh = {job->Wh.p, job->Wh.s0, job->Wh.s1};
    const matrix Wproj = {job->Wproj.p, job->Wproj.s0, job->Wproj.s1};
    const gate_panels h = {.H = of_h, .G = 1};
    real sums[(FEW_ROWS * 4 + 1) * (VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));
    ptrdiff_t p0, p1;

    team_share(tm, rank, panel_count(H), &p0, &p1);
    few_gates(&k->panels, p0, p1, N, job->xs.p, job->xs.s0, Wx, job->D, 0, 4, k->few_x);
    few_to_panels(&k->panels, p0, p1, N, k->few_x);
    if (job->seen0.p)
        few_gates(&k->panels, p0, p1, N, job->seen0.p, job->seen0.s0, Wh, of_h, 0, 4, k->few_h);
    for (ptrdiff_t p = p0; p < p1; p++) {
        if (job->seen0.p)
            few_to_sums(&k->panels, (panel_strip){p, 1}, N, 0, 4, k->few_h, sums);
        lstmp_activate(k, p, 0, 0, 0, N, job->seen0.p ? sums : NULL);
    }
    team_wait(tm); /* u is whole */
    team_share(tm, rank, panel_count(of_h), &p0, &p1);
    few_gates(&h, p0, p1, N, lstm_u(k, 0, 0), step_of(H), Wproj, H, 0, 1, work->few_rows);
    for (ptrdiff_t p = p0; p < p1; p++)
        lstmp_output(k, p, 0, 0, N, work->few_rows + p * W, of_h);
}

static void lstmp_forward_body(team *tm, int rank, void *for_all)
{
    lstmp_work *work = for_all;
    lstm_work *k = &work->lstm;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H, P = panel_count(H), of_h = job->P;
    const ptrdiff_t most = N > ROWS_4 ? ROWS_2 : ROWS_4, tiles = tile_count(N, most); /* as gates_multiply cuts */
    const ptrdiff_t u_n = step_of(H), u_tiles = tile_count(N, ROWS_2);
    const matrix Wproj = {job->Wproj.p, job->Wproj.s0, job->Wproj.s1};
    real sums[(ROWS_2 * 4 + 1) * (VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));
    const int own_rows = k->precomputed ? 0 : lstmp_owns_rows(job, tm);
    ptrdiff_t p0, p1;

    if (k->few) {
        lstmp_few_forward(work, tm, rank);
        return;
    }
    team_share(tm, rank, P, &p0, &p1);
    lstm_weights(k, p0, p1, tiles);
    const real *packed = job->packed; /* as lstmp_pack lays them out */
    if (packed)
        packed += lines(P * 4 * W * D) + lines(P * 4 * W * of_h);
    team_share(tm, rank, panel_count(of_h), &p0, &p1);
    for (ptrdiff_t p = p0; p < p1; p++)
        work->Wproj[p] = packed ? packed_weights(packed, H, of_h, 1, p)
                                : gate_weights(work->Wproj_room, Wproj, H, of_h, 0, 1, p, T * u_tiles);
    if (!k->precomputed)
        copy_step(job, tm, rank, 0, k->x, own_rows);
    if (rank == 0)
        lstm_pass(job);
    team_wait(tm);

    for (ptrdiff_t t = 0; t < T && !team_stopped(); t++) {
        const ptrdiff_t slot = t % k->chunk;
        if (slot == 0 && k->precomputed)
            panel_inputs(job, tm, rank, &k->panels, t, T - t < k->chunk ? T - t : k->chunk, 0, 4, k->Wx, k->x);
        ptrdiff_t h_n, x_n = step_of(D);
        const real *h = lstm_left_side(k, t, &h_n);
        for (tile_walk w = team_tiles(tm, rank, P, rows_of(job, t), most, own_rows); next_tile(&w);) {
            if (!k->precomputed)
                gates_product(1, D, w.rows, k->x + (t % 2 * N + w.n) * x_n, x_n, k->Wx[w.p], w.i, w.tiles, sums, 0);
            if (h)
                gates_product(1, of_h, w.rows, h + w.n * h_n, h_n, k->Wh[w.p], w.i, w.tiles, sums, !k->precomputed);
            lstmp_activate(k, w.p, t, slot, w.n, w.rows, h || !k->precomputed ? sums : NULL);
        }
        step_wait(tm, own_rows); /* u of step t is whole */

        const real *u = lstm_u(k, t, 0);
        for (tile_walk w = team_tiles(tm, rank, strip_count(of_h, 1), rows_of(job, t), ROWS_2, own_rows); next_tile(&w);) {
            const panel_strip strip = strip_at(of_h, 1, w.p);
            gates_product(strip.panels, H, w.rows, u + w.n * u_n, u_n, work->Wproj[strip.p], w.i, w.tiles, sums, 0);
            for (int v = 0; v < strip.panels; v++)
                lstmp_output(k, strip.p + v, t, w.n, w.rows, sums + v * W, strip.panels * W);
        }
        if (!k->precomputed)
            copy_step(job, tm, rank, t + 1, k->x, own_rows);
        begin_samples(job, tm, rank, t, job->seen0, of_h, lstm_seen(k, t, 0), own_rows);
        step_wait(tm, own_rows); /* h of step t is whole */
    }
}

static int lstmp_forward(const cell_job *job)
{
    const ptrdiff_t N = job->N, D = job->D, H = job->H, P = panel_count(H), of_h = job->P;
    lstmp_work work = {.lstm = {.job = job, .few = lstmp_is_few(job), .chunk = panel_steps(job)}};
    lstm_work *k = &work.lstm;
    k->precomputed = k->few || is_precomputed(job, 4);
    k->panels = panels_at(job, job->panels, k->chunk, H, LSTM_GATES, job->train ? lstm_kept(job) : LSTM_GATES);
    const int own = !job->packed && !k->few; /* weights to be packed in this call */
    ptrdiff_t weights = own ? lines(P * 4 * W * D) : 0, recurrent = own ? lines(P * 4 * W * of_h) : 0;
    ptrdiff_t few = k->few ? lines(N * 4 * H + W) : 0, few_h = k->few ? lines(N * of_h + W) : 0;
    ptrdiff_t projection = own ? lines(panel_count(of_h) * W * H) : 0, x = k->few ? 0 : input_room(job, k->precomputed);
    ptrdiff_t state = job->train ? 0 : lines(N * step_of(H)), h = job->train ? 0 : lines(2 * N * step_of(of_h));
    ptrdiff_t gates = job->train || !k->precomputed ? 0 : lines(k->chunk * N * 4 * H + W);
    real *room = new_reals(weights + recurrent + projection + 2 * few + few_h + x + gates + 2 * state + h);
    right_side *sides = malloc((2 * P + panel_count(of_h)) * sizeof(right_side));
    int stopped = 0;
    if (room && sides) {
        k->Wx = sides, k->Wh = sides + P, work.Wproj = sides + 2 * P;
        k->Wx_room = room, k->Wh_room = room + weights, work.Wproj_room = k->Wh_room + recurrent;
        k->few_x = work.Wproj_room + projection, k->few_h = k->few_x + few, work.few_rows = k->few_h + few;
        k->x = work.few_rows + few_h, k->c = k->x + x, k->u = k->c + state, k->h = k->u + state;
        if (!job->train)
            k->panels.p = k->h + h;
        stopped = team_run(job->threads, lstmp_forward_body, &work);
    }
    int failed = !room || !sides;
    free_room(room);
    free(sides);
    return failed ? -1 : stopped;
}

/* First half of a step back, one tile of columns q 2W.. of h: dh. `sums` (rows, 2 W) holds dA_next Wh^T, or is NULL at the
 * last step. */
static void lstmp_output_grads(const lstmp_work *work, ptrdiff_t q, ptrdiff_t t, ptrdiff_t n0, ptrdiff_t rows, const real *sums)
{
    const lstm_work *k = &work->lstm;
    const cell_job *job = k->job;
    for (ptrdiff_t p = 2 * q; p < 2 * q + 2 && p * W < job->P; p++) {
        const ptrdiff_t w = panel_width(job->P, p), j = p * W;
        for (ptrdiff_t r = 0; r < rows; r++) {
            const ptrdiff_t n = n0 + r;
            const real *back = sums ? sums + r * 2 * W + (p - 2 * q) * W : NULL;
            store_n(panel_row(&work->dh, p, t, n), lstm_dh_new(k, t, n, j, w, lstm_dh(k, t, n, j, w, back)), w);
        }
    }
}

/* Second half: dA of one tile, from du in `sums`. */
static void lstmp_gate_grads(const lstm_work *k, ptrdiff_t q, ptrdiff_t t, ptrdiff_t n0, ptrdiff_t rows, const real *sums)
{
    if (lstm_is_plain(k->job))
        lstm_tile_grads(1, 1, k, q, t, n0, rows, sums);
    else
        lstm_tile_grads(0, 1, k, q, t, n0, rows, sums);
}

/* The way back of lstmp_few_forward, up to dA. */
static void lstmp_few_grads(const lstmp_work *work, team *tm, int rank)
{
    const lstm_work *k = &work->lstm;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, H = job->H, of_h = job->P;
    real du[FEW_ROWS * 2 * (VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64))) = {0};
    ptrdiff_t from, to;

    team_share(tm, rank, panel_count(of_h), &from, &to);
    for (ptrdiff_t p = from; p < to; p++)
        for (ptrdiff_t n = 0, w = panel_width(of_h, p); n < N; n++)
            store_n(work->few_rows + n * of_h + p * W, lstm_dh_new(k, 0, n, p * W, w, lstm_dh(k, 0, n, p * W, w, NULL)), w);
    team_wait(tm); /* dh is whole */
    team_share(tm, rank, H, &from, &to);
    rows_back(&(rows_grads){.rows = N,
                            .columns = of_h,
                            .dy = work->few_rows,
                            .dy_row = of_h,
                            .w = job->Wproj.p,
                            .w_row = job->Wproj.s0,
                            .x = job->u,
                            .x_row = step_of(H),
                            .dx = work->few_u,
                            .dx_row = H,
                            .dw = job->dWproj,
                            .dw_row = of_h},
              from, to);
    team_wait(tm); /* du is whole */
    team_share(tm, rank, pair_count(H), &from, &to);
    for (ptrdiff_t q = from; q < to; q++) {
        for (ptrdiff_t n = 0; n < N; n++)
            memcpy(du + n * 2 * W, work->few_u + n * H + q * 2 * W, pair_columns(H, q) * sizeof(real));
        lstmp_gate_grads(k, q, 0, 0, N, du);
    }
}

static void lstmp_backward_body(team *tm, int rank, void *for_all)
{
    lstmp_work *work = for_all;
    lstm_work *k = &work->lstm;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, T = job->T, H = job->H, of_h = job->P, u_n = step_of(H);
    const matrix Wproj = {job->Wproj.p, job->Wproj.s0, job->Wproj.s1};
    const int own_rows = lstmp_owns_rows(job, tm);
    const real *u = job->u;
    ptrdiff_t q0, q1;

    if (k->few) {
        lstmp_few_grads(work, tm, rank);
        team_share(tm, rank, panel_count(H), &q0, &q1);
        few_cell_grads(&k->panels, tm, rank, job, q0, q1, k->dh, k->few_x);
        return;
    }
    lstm_pack_back(k, tm, rank);
    team_share(tm, rank, pair_count(H), &q0, &q1);
    for (ptrdiff_t q = q0; q < q1; q++)
        pack_transposed(work->Wproj_room + q * 2 * W * of_h, Wproj, H, q, of_h, 0, 1);
    if (rank == 0)
        lstm_pass_back(job);
    team_wait(tm);

    for (ptrdiff_t t = T - 1; t >= -1 && !team_stopped(); t--) { /* -1: the initial h */
        const ptrdiff_t rows = rows_of_both(job, t), own = rows_of(job, t);
        if (t < T - 1)
            panel_step_grads(&k->panels, tm, rank, t + 1, rows, of_h, 0, 4, k->Wh_room, work->sums_h, 0, own_rows);
        for (tile_walk w = team_tiles(tm, rank, pair_count(of_h), rows, ROWS_2, own_rows); next_panel(&w);) {
            const ptrdiff_t here = rows_at_work(job, t, w.n, w.rows);
            const real *sums = work->sums_h + (w.p * N + w.n) * 2 * W;
            lstmp_output_grads(work, w.p, t, w.n, here, t < T - 1 ? sums : NULL);
            state_grads(job, of_h, w.p, w.n + here, w.rows - here, sums + here * 2 * W, 1, k->dh, job->dh0);
        }
        step_wait(tm, own_rows); /* dh of step t is whole */
        panel_step_grads(&work->dh, tm, rank, t, own, H, 0, 1, work->Wproj_room, k->sums, 0, own_rows);
        for (tile_walk w = team_tiles(tm, rank, pair_count(H), own, ROWS_2, own_rows); next_panel(&w);)
            lstmp_gate_grads(k, w.p, t, w.n, w.rows, k->sums + (w.p * N + w.n) * 2 * W);
        step_wait(tm, own_rows); /* dA of step t is whole */
    }

    if (!team_goes_on(tm, job->whole))
        return;
    const left_rows u_rows = {u, u + N * u_n, u_n, N * u_n, u_n};
    lstm_weight_grads(k, tm, rank);
    panel_weight_grads(&work->dh, tm, rank, 0, 1, &u_rows, H, job->dWproj, 1, k->room);
    panel_input_grads(&k->panels, tm, rank, k->Wx_room, job, k->room);
}

static int lstmp_backward(const cell_job *job)
{
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H, of_h = job->P;
    lstmp_work work = {.lstm = {.job = job, .panels = panels_at(job, job->panels, T, H, LSTM_GATES, lstm_kept(job))}};
    lstm_work *k = &work.lstm;
    const ptrdiff_t grads = grad_room(job);
    k->few = lstmp_is_few(job);
    ptrdiff_t weights = lines(pair_count(D) * 2 * W * 4 * H), recurrent = lines(pair_count(of_h) * 2 * W * 4 * H);
    ptrdiff_t projection = lines(pair_count(H) * 2 * W * of_h), state = lines(N * H), dh = lines(N * T * of_h + W);
    ptrdiff_t sums = lines(pair_count(H) * 2 * W * N), sums_h = lines(pair_count(of_h) * 2 * W * N);
    ptrdiff_t few = lines(N * 4 * H), few_h = lines(N * of_h), past = job->h_zoneout.p ? lines(N * of_h) : 0;
    real *room = new_reals(
        past + (k->few ? few + few_h + 2 * state : weights + recurrent + projection + state + dh + sums + sums_h + grads));
    if (!room)
        return -1;
    k->dh = past ? room : NULL;
    if (k->few) {
        k->few_x = room + past, work.few_rows = k->few_x + few, work.few_u = work.few_rows + few_h, k->c = work.few_u + state;
    } else {
        k->Wx_room = room + past, k->Wh_room = k->Wx_room + weights, work.Wproj_room = k->Wh_room + recurrent;
        k->c = work.Wproj_room + projection, k->sums = k->c + state, work.sums_h = k->sums + sums;
        work.dh = panels_at(job, work.sums_h + sums_h, T, of_h, 1, 1);
        k->room = work.dh.p + dh;
    }
    const int stopped = team_run(job->threads, lstmp_backward_body, &work);
    free_room(room);
    return stopped;
}
