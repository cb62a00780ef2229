/* Backward in bfloat16 (reduced_back.h): the time loops of rnn, lstm and gru. What lies between the products is the cells' own,
 * in float32. */

typedef struct {
    rnn_work k;
    reduced_back b;
} rnn_reduced_grads;

static void rnn_reduced_back_body(team *tm, int rank, void *work)
{
    const rnn_work *k = &((rnn_reduced_grads *)work)->k;
    const cell_job *job = k->job;
    real sums[REDUCED_SUMS] __attribute__((aligned(64)));
    reduced_back b = reduced_back_for(&((rnn_reduced_grads *)work)->b, tm, rank);
    const grad_group *all = &b.group[0];
    ptrdiff_t p0, p1;
    team_share(tm, rank, panel_count(job->H), &p0, &p1);

    for (ptrdiff_t t = job->T - 1; t >= -1 && !team_stopped(); t--) { /* -1: the initial state */
        for (tile_walk w = back_tiles(&b, tm, rank); next_tile(&w);) {
            if (t < job->T - 1)
                reduced_hidden_grads(&b, all, t + 1, &w, sums, 0);
            const ptrdiff_t own = reduced_own_grads(job, t, &w, sums, k->dh);
            rnn_gate_grads(k, w.p, t, w.n, own, t < job->T - 1 ? sums : NULL);
            round_dA(&b, all, t, &w);
        }
        step_wait(tm, b.sizes.own_rows); /* dA of step t is whole */
    }
    tiles_end(&b.sizes.way);

    if (!team_goes_on(tm, job->whole))
        return;
    const left_rows x_rows = rows_of_x(job), h_rows = rows_of_seen(job);
    reduced_weight_grads(&b, tm, rank, 0, 1, &x_rows, job->D, job->dWx, 1);
    reduced_weight_grads(&b, tm, rank, 0, 1, &h_rows, job->H, job->dWh, 1);
    if (job->db)
        panel_bias_grads(&k->panels, p0, p1, 0, 1, job->db);
    reduced_input_grads(&b, tm, rank);
}

static int rnn_reduced_backward(const cell_job *job)
{
    const gate_panels panels = panels_at(job, job->panels, job->T, job->H, 1, 1);
    rnn_reduced_grads all = {.k = {.job = job, .panels = panels},
                             .b = {.job = job, .panels = panels, .sizes = sizes_of_call(job, 1), .groups = 1}};
    all.b.group[0] = (grad_group){0, 1, 0, .WhT.words = 1, .WxT.words = 1};
    real *room = reduced_back_room(&all.b, job->h_zoneout.p ? lines(job->N * job->H) : 0);
    if (!room)
        return -1;
    all.k.dh = job->h_zoneout.p ? all.b.more : NULL;
    const int stopped = team_run(job->threads, rnn_reduced_back_body, &all);
    free_room(room);
    return stopped;
}

typedef struct {
    lstm_work k;
    reduced_back b;
} lstm_reduced_grads;

static void lstm_reduced_back_body(team *tm, int rank, void *work)
{
    const lstm_work *k = &((lstm_reduced_grads *)work)->k;
    const cell_job *job = k->job;
    real sums[REDUCED_SUMS] __attribute__((aligned(64)));
    reduced_back b = reduced_back_for(&((lstm_reduced_grads *)work)->b, tm, rank);
    const grad_group *all = &b.group[0];
    ptrdiff_t p0, p1;
    team_share(tm, rank, panel_count(job->H), &p0, &p1);

    for (ptrdiff_t t = job->T - 1; t >= -1 && !team_stopped(); t--) { /* -1: the initial state */
        for (tile_walk w = back_tiles(&b, tm, rank); next_tile(&w);) {
            if (t < job->T - 1)
                reduced_hidden_grads(&b, all, t + 1, &w, sums, 0);
            const ptrdiff_t own = reduced_own_grads(job, t, &w, sums, k->dh);
            lstm_gate_grads(k, w.p, t, w.n, own, t < job->T - 1 ? sums : NULL);
            round_dA(&b, all, t, &w);
        }
        step_wait(tm, b.sizes.own_rows); /* dA of step t is whole */
    }
    tiles_end(&b.sizes.way);

    if (!team_goes_on(tm, job->whole))
        return;
    const left_rows x_rows = rows_of_x(job), h_rows = rows_of_seen(job);
    reduced_weight_grads(&b, tm, rank, 0, LSTM_GATES, &x_rows, job->D, job->dWx, LSTM_GATES);
    reduced_weight_grads(&b, tm, rank, 0, LSTM_GATES, &h_rows, job->H, job->dWh, LSTM_GATES);
    if (job->db)
        panel_bias_grads(&k->panels, p0, p1, 0, LSTM_GATES, job->db);
    if (job->Wp)
        lstm_peephole_grads(k, p0, p1);
    reduced_input_grads(&b, tm, rank);
}

static int lstm_reduced_backward(const cell_job *job)
{
    const gate_panels panels = panels_at(job, job->panels, job->T, job->H, LSTM_GATES, lstm_kept(job));
    lstm_reduced_grads all = {.k = {.job = job, .panels = panels},
                              .b = {.job = job, .panels = panels, .sizes = sizes_of_call(job, LSTM_GATES), .groups = 1}};
    all.b.group[0] = (grad_group){0, LSTM_GATES, 0, .WhT.words = 1, .WxT.words = 1};
    const ptrdiff_t state = lines(job->N * job->H), past = job->h_zoneout.p ? state : 0;
    real *room = reduced_back_room(&all.b, state + past);
    if (!room)
        return -1;
    all.k.c = all.b.more, all.k.dh = past ? all.b.more + state : NULL;
    const int stopped = team_run(job->threads, lstm_reduced_back_body, &all);
    free_room(room);
    return stopped;
}

typedef struct {
    gru_work k;
    reduced_back b;
} gru_reduced_grads;

/* sums = dA of step t times Wh^T: of z and r, with reset_after and of dq. */
static void gru_reduced_hidden_grads(const gru_work *k, const reduced_back *b, ptrdiff_t t, const tile_walk *w, real *sums)
{
    reduced_hidden_grads(b, &b->group[0], t, w, sums, 0);
    if (k->job->reset_after)
        reduced_hidden_grads(b, &b->group[2], t, w, sums, 1);
}

static void gru_reduced_back_body(team *tm, int rank, void *work)
{
    const gru_work *k = &((gru_reduced_grads *)work)->k;
    const cell_job *job = k->job;
    const ptrdiff_t T = job->T, H = job->H;
    real sums[REDUCED_SUMS] __attribute__((aligned(64)));
    reduced_back b = reduced_back_for(&((gru_reduced_grads *)work)->b, tm, rank);
    const grad_group *zr = &b.group[0], *candidate = &b.group[1], *product = &b.group[2];
    ptrdiff_t p0, p1;
    team_share(tm, rank, panel_count(H), &p0, &p1);

    for (ptrdiff_t t = T - 1; t >= -1 && !team_stopped(); t--) { /* -1: the initial state */
        for (tile_walk w = back_tiles(&b, tm, rank); next_tile(&w);) {
            if (t < T - 1)
                gru_reduced_hidden_grads(k, &b, t + 1, &w, sums);
            const ptrdiff_t own = reduced_own_grads(job, t, &w, sums, k->dh);
            gru_gate_grads(k, w.p, t, w.n, own, t < T - 1 ? sums : NULL);
            round_dA(&b, candidate, t, &w);
            if (job->reset_after)
                round_dA(&b, zr, t, &w), round_dA(&b, product, t, &w);
        }
        step_wait(tm, b.sizes.own_rows); /* dA of the candidate is whole */
        if (job->reset_after || t < 0)
            continue;
        for (tile_walk w = back_tiles(&b, tm, rank); next_tile(&w);) {
            reduced_hidden_grads(&b, candidate, t, &w, sums, 0);
            gru_reset_grads(k, w.p, t, w.n, rows_at_work(job, t, w.n, w.rows), sums);
            round_dA(&b, zr, t, &w);
        }
        step_wait(tm, b.sizes.own_rows); /* dA of z and r is whole */
    }
    tiles_end(&b.sizes.way);

    if (!team_goes_on(tm, job->whole))
        return;
    const left_rows x_rows = rows_of_x(job), h_rows = rows_of_seen(job), rh_rows = rows_of_rh(job);
    const int after = job->reset_after;
    reduced_weight_grads(&b, tm, rank, 0, GRU_GATES, &x_rows, job->D, job->dWx, GRU_GATES);
    reduced_weight_grads(&b, tm, rank, 0, 2, &h_rows, H, job->dWh, GRU_GATES);
    reduced_weight_grads(&b, tm, rank, after ? 3 : 2, 1, after ? &h_rows : &rh_rows, H, (real *)job->dWh + 2 * H, GRU_GATES);
    gru_bias_grads(k, p0, p1);
    reduced_input_grads(&b, tm, rank);
}

static int gru_reduced_backward(const cell_job *job)
{
    const int after = job->reset_after;
    const gate_panels panels = panels_at(job, job->panels, job->T, job->H, GRU_GATES, gru_kept(job));
    gru_reduced_grads all = {
        .k = {.job = job, .panels = panels},
        .b = {.job = job, .panels = panels, .sizes = sizes_of_call(job, GRU_GATES), .groups = after ? 3 : 2}};
    all.b.group[0] = (grad_group){0, 2, 0, .WhT.words = 1, .WxT.words = 1};
    all.b.group[1] = (grad_group){2, 1, 2, .WhT.words = !after, .WxT.words = 1};
    all.b.group[2] = (grad_group){3, 1, 2, .WhT.words = 1};
    real *room = reduced_back_room(&all.b, lines(job->N * job->H));
    if (!room)
        return -1;
    all.k.dh = all.b.more;
    const int stopped = team_run(job->threads, gru_reduced_back_body, &all);
    free_room(room);
    return stopped;
}
