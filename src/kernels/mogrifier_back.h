/* The Mogrifier LSTM backward; the equations are in mogrifier.h. */

/* Back through the gate of product g, one tile of columns q 2W..: dA over y, and `sums` (rows, 2 W), which is of what the
 * product makes, becomes that of what its gate multiplies. Where it makes u, sums are du. */
static void mogrifier_tile_grads(const mogrifier_work *work, const round_product *g, ptrdiff_t q, ptrdiff_t t, ptrdiff_t n0,
                                 ptrdiff_t rows, real *sums)
{
    for (ptrdiff_t p = 2 * q; p < 2 * q + 2 && p * W < g->M; p++) {
        const ptrdiff_t w = panel_width(g->M, p);
        for (ptrdiff_t r = 0; r < rows; r++) {
            real *kept = panel_row(&g->y, p, t, n0 + r), *sum = sums + r * 2 * W + (p - 2 * q) * W;
            vec d = load(sum), dA = d;
            if (g->last) {
                vec y = load_n(kept, w);
                dA = d * load_n(mogrifier_gated(work, g, t, n0 + r) + p * W, w) * y * (1 - (real)0.5 * y);
                store(sum, d * y);
            }
            store_n(kept, dA, w);
        }
    }
}

/* dxs of step t, from the sums, in a walk over `rows` samples. */
static void mogrifier_give_dx(const mogrifier_work *work, const team *tm, int rank, ptrdiff_t t, ptrdiff_t rows, int own_rows)
{
    const cell_job *job = work->lstm.job;
    const ptrdiff_t N = job->N, D = job->D;
    for (tile_walk w = team_tiles(tm, rank, pair_count(D), rows, ROWS_2, own_rows); next_panel(&w);)
        for (ptrdiff_t n = w.n, end = n + rows_at_work(job, t, n, w.rows); n < end; n++) {
            const real *sums = work->sums_x + (w.p * N + n) * 2 * W;
            memcpy(row_at(job, job->dxs, t, n) + w.p * 2 * W, sums, pair_columns(D, w.p) * sizeof(real));
        }
}

/* Rows p W.. of dst (M, K) = columns p W.. of src (K, M). */
static void turn_columns(real *dst, const real *src, ptrdiff_t K, ptrdiff_t M, ptrdiff_t p)
{
    const ptrdiff_t j0 = p * W, w = panel_width(M, p), whole = w == W ? K / W * W : 0;
    for (ptrdiff_t i = 0; i < whole; i += W)
        transpose(dst + j0 * K + i, K, src + i * M + j0, M);
    for (ptrdiff_t i = whole; i < K; i++)
        for (ptrdiff_t j = j0; j < j0 + w; j++)
            dst[j * K + i] = src[i * M + j];
}

/* The gradients of all weights, once all of dA is there. */
static void mogrifier_weight_grads(const mogrifier_work *work, team *tm, int rank)
{
    const lstm_work *k = &work->lstm;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, H = job->H, h_n = step_of(H);
    const left_rows seen = {job->seen0.p, job->seen, job->seen0.s0, N * h_n, h_n};
    ptrdiff_t from, to;

    for (int s = -2; s < work->count; s++) { /* first those of Wx and Wh */
        const int reads = s == -2 ? work->x : s == -1 ? work->h : work->products[s].reads;
        left_rows rows = seen;
        if (reads >= 0) {
            const round_product *made = &work->products[reads];
            const ptrdiff_t step = step_of(made->M);
            rows = (left_rows){made->rows, made->rows + N * step, step, N * step, step};
        }
        if (s < 0) {
            panel_weight_grads(&k->panels, tm, rank, 0, 4, &rows, s == -2 ? job->D : H, s == -2 ? job->dWx : job->dWh, 4,
                               k->room);
            continue;
        }
        const round_product *g = &work->products[s];
        panel_weight_grads(&g->y, tm, rank, 0, 1, &rows, g->K, g->of_h ? work->turned : g->grads, 1, k->room);
        if (!g->of_h)
            continue;
        team_wait(tm);
        team_share(tm, rank, tile_count(g->M, W), &from, &to);
        for (ptrdiff_t p = from; p < to; p++)
            turn_columns(g->grads, work->turned, g->K, g->M, p);
    }
    team_share(tm, rank, panel_count(H), &from, &to);
    if (job->db)
        panel_bias_grads(&k->panels, from, to, 0, 4, job->db);
}

static void mogrifier_backward_body(team *tm, int rank, void *for_all)
{
    mogrifier_work *work = for_all;
    lstm_work *k = &work->lstm;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H, Q = pair_count(H);
    const int own_rows = mogrifier_owns_rows(job, tm);

    lstm_pack_back(k, tm, rank);
    for (int s = 0; s < work->count; s++) {
        const round_product *g = &work->products[s];
        ptrdiff_t q0, q1;
        team_share(tm, rank, pair_count(g->K), &q0, &q1);
        for (ptrdiff_t q = q0; q < q1; q++)
            pack_transposed(g->room + q * 2 * W * g->M, g->weights, g->K, q, g->M, 0, 1);
    }
    if (rank == 0)
        lstm_pass_back(job);
    team_wait(tm);

    for (ptrdiff_t t = T - 1; t >= -1 && !team_stopped(); t--) { /* -1: the initial state */
        for (tile_walk w = team_tiles(tm, rank, Q, rows_of_both(job, t), ROWS_2, own_rows); next_panel(&w);) {
            const real *sums = k->sums + (w.p * N + w.n) * 2 * W;
            const ptrdiff_t own = rows_at_work(job, t, w.n, w.rows);
            lstm_gate_grads(k, w.p, t, w.n, own, t < T - 1 ? sums : NULL);
            state_grads(job, H, w.p, w.n + own, w.rows - own, sums + own * 2 * W, 1, k->dh, job->dh0);
        }
        if (t < 0)
            break;
        step_wait(tm, own_rows);                         /* dA of step t is whole */
        const ptrdiff_t rows = rows_of_both(job, t - 1); /* as the next step will walk over the sums */
        panel_step_grads(&k->panels, tm, rank, t, rows, D, 0, 4, k->Wx_room, work->sums_x, 0, own_rows);
        panel_hidden_grads(&k->panels, tm, rank, t, rows, 0, 4, k->Wh_room, k->sums, 0, own_rows);
        for (int s = work->count - 1; s >= 0; s--) {
            const round_product *g = &work->products[s];
            const int to_u = g->reads >= 0 && !work->products[g->reads].last;
            real *made = !g->last ? work->sums_u : g->of_h ? k->sums : work->sums_x;
            real *read = to_u ? work->sums_u : g->of_h ? work->sums_x : k->sums;
            for (tile_walk w = team_tiles(tm, rank, pair_count(g->M), rows, ROWS_2, own_rows); next_panel(&w);)
                mogrifier_tile_grads(work, g, w.p, t, w.n, rows_at_work(job, t, w.n, w.rows), made + (w.p * N + w.n) * 2 * W);
            step_wait(tm, own_rows); /* dA of the product is whole */
            panel_step_grads(&g->y, tm, rank, t, rows, g->K, 0, 1, g->room, read, !to_u, own_rows);
        }
        mogrifier_give_dx(work, tm, rank, t, rows, own_rows);
    }
    if (!team_goes_on(tm, job->whole))
        return;
    mogrifier_weight_grads(work, tm, rank);
}

static int mogrifier_backward(const cell_job *job)
{
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H, rank = job->rank;
    const int count = mogrifier_count(job);
    mogrifier_work work = {.lstm = {.job = job, .panels = panels_at(job, job->panels, T, H, LSTM_GATES, lstm_kept(job))}};
    lstm_work *k = &work.lstm;
    const ptrdiff_t wider = D > H ? D : H, widest = wider > rank ? wider : rank;
    const ptrdiff_t left = left_room(first_row(rows_of_job(job), T), widest);
    ptrdiff_t weights = lines(pair_count(D) * 2 * W * 4 * H), recurrent = lines(pair_count(H) * 2 * W * 4 * H);
    ptrdiff_t state = lines(N * H), rounds = 0, turned = 0, pairs = pair_count(H) + pair_count(D) + pair_count(rank);
    for (int s = 0; s < count; s++) {
        const round_product g = mogrifier_product(job, s);
        rounds += lines(pair_count(g.K) * 2 * W * g.M);
        turned = turned > g.K * g.M ? turned : g.K * g.M;
    }
    const ptrdiff_t zeros = lines(N * step_of(H)), past = job->h_zoneout.p ? state : 0;
    real *room = new_reals(weights + recurrent + state + past + zeros + rounds + lines(turned + W) + pairs * lines(2 * W * N) +
                           left + job->threads * widest * MAX_NV * W);
    work.products = malloc(count * sizeof(round_product));
    int stopped = 0;
    if (room && work.products) {
        mogrifier_list(&work, job, NULL);
        k->Wx_room = room, k->Wh_room = room + weights;
        k->c = k->Wh_room + recurrent, k->dh = past ? k->c + state : NULL, k->sums = k->c + state + past;
        work.sums_x = k->sums + pair_count(H) * lines(2 * W * N);
        work.sums_u = work.sums_x + pair_count(D) * lines(2 * W * N);
        work.turned = work.sums_u + pair_count(rank) * lines(2 * W * N);
        work.zeros = work.turned + lines(turned + W);
        memset(work.zeros, 0, zeros * sizeof(real));
        real *at = work.zeros + zeros;
        for (int s = 0; s < count; s++) {
            round_product *g = &work.products[s];
            g->room = at;
            at += lines(pair_count(g->K) * 2 * W * g->M);
        }
        k->room = at;
        stopped = team_run(job->threads, mogrifier_backward_body, &work);
    }
    const int failed = !room || !work.products;
    free_room(room);
    free(work.products);
    return failed ? -1 : stopped;
}
