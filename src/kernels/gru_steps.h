/* The products and the time loops of a GRU forward, over the tiles of gru.h. */

/* The right sides of both groups, this thread's panels p0..p1: as they are in the packed weights or to be packed now. */
static void gru_weights(const gru_work *k, ptrdiff_t p0, ptrdiff_t p1)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H, P = panel_count(H), uses = job->T * tile_count(job->N, ROWS_2);
    const real *packed = job->packed;
    for (int recurrent = 0; recurrent < 2; recurrent++) /* in the order of gru_pack */
        for (int i = 0; i < 2; i++) {
            const gru_group *g = i ? &k->candidate : &k->zr;
            const strided weights = recurrent ? job->Wh : job->Wx;
            const ptrdiff_t K = recurrent ? H : job->D;
            right_side *sides = recurrent ? g->Wh : g->Wx;
            real *room = recurrent ? g->Wh_room : g->Wx_room;
            for (ptrdiff_t p = p0; p < p1; p++)
                sides[p] = packed ? packed_weights(packed, K, H, g->G, p)
                                  : gate_weights(room, (matrix){weights.p, weights.s0, weights.s1}, K, H, g->first_gate, g->G,
                                                 p, uses);
            if (packed)
                packed += lines(P * g->G * W * K);
        }
}

/* Few rows: x Wx into the panels, and the product with h that the first half of the step needs. */
static void gru_few_products(const gru_work *k, ptrdiff_t p0, ptrdiff_t p1)
{
    const cell_job *job = k->job;
    const matrix Wx = {job->Wx.p, job->Wx.s0, job->Wx.s1}, Wh = {job->Wh.p, job->Wh.s0, job->Wh.s1};
    few_gates(&k->panels, p0, p1, job->N, job->xs.p, job->xs.s0, Wx, job->D, 0, 3, k->few_x);
    few_to_panels(&k->panels, p0, p1, job->N, k->few_x);
    if (job->seen0.p)
        few_gates(&k->panels, p0, p1, job->N, job->seen0.p, job->seen0.s0, Wh, job->H, 0, job->reset_after ? 3 : 2, k->few_h);
}

/* What comes before the time loop: the weights, and of the first step what all threads read. */
static void gru_begin(const gru_work *k, team *tm, int rank, int own_rows)
{
    ptrdiff_t p0, p1;
    team_share(tm, rank, panel_count(k->job->H), &p0, &p1);
    if (k->few)
        gru_few_products(k, p0, p1);
    else
        gru_weights(k, p0, p1);
    if (!k->precomputed)
        copy_step(k->job, tm, rank, 0, k->x, own_rows);
    if (rank == 0)
        pass_state(k->job, k->job->h0, k->job->H, k->job->hT);
    team_wait(tm);
}

/* Where a chunk of steps begins whose x Wx is to be there before: that of both groups. */
static void gru_input(const gru_work *k, team *tm, int rank, ptrdiff_t t)
{
    const cell_job *job = k->job;
    const ptrdiff_t steps = job->T - t < k->chunk ? job->T - t : k->chunk;
    if (!k->precomputed || k->few || t % k->chunk != 0)
        return;
    panel_inputs(job, tm, rank, &k->panels, t, steps, 0, 2, k->zr.Wx, k->x);
    panel_inputs(job, tm, rank, &k->panels, t, steps, 2, 1, k->candidate.Wx, k->x);
}

/* sums = x Wx of a group: one tile of a strip. Where the panels hold it nothing is to do. */
static void gru_times_Wx(const gru_work *k, const gru_group *g, const tile_walk *w, panel_strip strip, ptrdiff_t t, real *sums)
{
    const ptrdiff_t D = k->job->D, x_n = step_of(D);
    if (!k->precomputed)
        gates_product(strip.panels, D, w->rows, k->x + (t % 2 * k->job->N + w->n) * x_n, x_n, g->Wx[strip.p], w->i, w->tiles,
                      sums, 0);
}

/* sums (+)= left Wh of a group, the same tile; rows of left are left_n apart. */
static void gru_times_Wh(const gru_work *k, const gru_group *g, const tile_walk *w, panel_strip strip, const real *left,
                         ptrdiff_t left_n, real *sums, int add)
{
    if (k->few)
        few_to_sums(&k->panels, strip, k->job->N, g->first_gate, g->G, k->few_h, sums);
    else
        gates_product(strip.panels, k->job->H, w->rows, left, left_n, g->Wh[strip.p], w->i, w->tiles, sums, add);
}

/* z and r of one tile of panel p. Scratch: sums. */
static void gru_gates_of(const gru_work *k, const tile_walk *w, ptrdiff_t p, ptrdiff_t t, real *sums)
{
    const panel_strip strip = {p, 1};
    const real *seen = gru_seen(k, t, w->n);
    gru_times_Wx(k, &k->zr, w, strip, t, sums);
    if (seen)
        gru_times_Wh(k, &k->zr, w, strip, seen, gru_seen_n(k, t), sums, !k->precomputed);
    gru_gates(k, p, t, t % k->chunk, w->n, w->rows, seen || !k->precomputed ? sums : NULL);
}

/* h and s before step t + 1 of samples that begin there. */
static void gru_begin_samples(const gru_work *k, const team *tm, int rank, ptrdiff_t t, int own_rows)
{
    const cell_job *job = k->job;
    begin_samples(job, tm, rank, t, job->h0, job->H, (real *)gru_h_prev(k, t + 1, 0), own_rows);
    if (job->h_mask.p)
        begin_samples(job, tm, rank, t, job->seen0, job->H, (real *)gru_seen(k, t + 1, 0), own_rows);
}

/* What the next step needs beside h: x, where it is not in the panels. Then all wait until h of step t is whole. */
static void gru_step_ends(const gru_work *k, team *tm, int rank, ptrdiff_t t, int own_rows)
{
    if (!k->precomputed)
        copy_step(k->job, tm, rank, t + 1, k->x, own_rows);
    gru_begin_samples(k, tm, rank, t, own_rows);
    step_wait(tm, own_rows);
}

/* The book's steps: the candidates' product needs all of r s. */
static void gru_before_body(team *tm, int rank, void *work)
{
    const gru_work *k = work;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, H = job->H, P = panel_count(H);
    const ptrdiff_t strips = strip_count(H, 1), rh_n = step_of(H);
    const matrix Wh = {job->Wh.p, job->Wh.s0, job->Wh.s1};
    const int own_rows = k->precomputed ? 0 : owns_rows(job, tm, 3);
    real sums[(ROWS_2 * 2 + 1) * (VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));
    ptrdiff_t p0, p1;
    team_share(tm, rank, P, &p0, &p1);

    gru_begin(k, tm, rank, own_rows);
    for (ptrdiff_t t = 0; t < job->T && !team_stopped(); t++) {
        gru_input(k, tm, rank, t);
        for (tile_walk w = team_tiles(tm, rank, P, rows_of(job, t), ROWS_2, own_rows); next_tile(&w);)
            gru_gates_of(k, &w, w.p, t, sums);
        step_wait(tm, own_rows); /* r s is whole */

        const int seen = gru_seen(k, t, 0) != NULL, any = seen || !k->precomputed; /* is anything in sums */
        if (seen && k->few) {
            few_gates(&k->panels, p0, p1, N, gru_rh(k, 0, 0), rh_n, Wh, H, 2, 1, k->few_h);
            team_wait(tm);
        }
        for (tile_walk w = team_tiles(tm, rank, strips, rows_of(job, t), ROWS_2, own_rows); next_tile(&w);) {
            const panel_strip strip = strip_at(H, 1, w.p);
            gru_times_Wx(k, &k->candidate, &w, strip, t, sums);
            if (seen)
                gru_times_Wh(k, &k->candidate, &w, strip, gru_rh(k, t, w.n), rh_n, sums, !k->precomputed);
            for (int v = 0; v < strip.panels; v++)
                gru_candidate(k, strip.p + v, t, t % k->chunk, w.n, w.rows, any ? sums + v * W : NULL, NULL, strip.panels * W);
        }
        gru_step_ends(k, tm, rank, t, own_rows);
    }
}

/* The steps of reset_after: one walk, a strip's gates and then its candidates. */
static void gru_after_body(team *tm, int rank, void *work)
{
    const gru_work *k = work;
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H, strips = strip_count(H, 1);
    const int own_rows = k->precomputed ? 0 : owns_rows(job, tm, 3);
    real sums[(ROWS_2 * 2 + 1) * (VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));
    real products[ROWS_2 * 2 * (VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));

    gru_begin(k, tm, rank, own_rows);
    for (ptrdiff_t t = 0; t < job->T && !team_stopped(); t++) {
        gru_input(k, tm, rank, t);
        for (tile_walk w = team_tiles(tm, rank, strips, rows_of(job, t), ROWS_2, own_rows); next_tile(&w);) {
            const panel_strip strip = strip_at(H, 1, w.p);
            const real *seen = gru_seen(k, t, w.n);
            for (int v = 0; v < strip.panels; v++)
                gru_gates_of(k, &w, strip.p + v, t, sums);
            gru_times_Wx(k, &k->candidate, &w, strip, t, sums);
            if (seen)
                gru_times_Wh(k, &k->candidate, &w, strip, seen, gru_seen_n(k, t), products, 0);
            for (int v = 0; v < strip.panels; v++)
                gru_candidate(k, strip.p + v, t, t % k->chunk, w.n, w.rows, k->precomputed ? NULL : sums + v * W,
                              seen ? products + v * W : NULL, strip.panels * W);
        }
        gru_step_ends(k, tm, rank, t, own_rows);
    }
}

static ptrdiff_t gru_pack(const cell_job *job, void *room)
{
    const matrix Wx = {job->Wx.p, job->Wx.s0, job->Wx.s1}, Wh = {job->Wh.p, job->Wh.s0, job->Wh.s1};
    ptrdiff_t n = 0;
    for (int recurrent = 0; recurrent < 2; recurrent++)
        for (int i = 0; i < 2; i++) /* z and r, the candidate */
            n += pack_panels(room ? (real *)room + n : NULL, recurrent ? Wh : Wx, recurrent ? job->H : job->D, job->H,
                             i ? 2 : 0, i ? 1 : 2);
    return n;
}

static inline int gru_kept(const cell_job *job) { return GRU_GATES + (job->train && job->reset_after); }

static int gru_forward(const cell_job *job)
{
    const ptrdiff_t N = job->N, D = job->D, H = job->H, P = panel_count(H);
    gru_work k = {.job = job, .few = is_few(job), .chunk = panel_steps(job), .zr = {0, 2}, .candidate = {2, 1}};
    k.precomputed = k.few || is_precomputed(job, 3);
    if (!job->train && !k.precomputed)
        k.chunk = 1; /* z is kept from the first half of a step to the second */
    k.panels = panels_at(job, job->panels, k.chunk, H, GRU_GATES, gru_kept(job));
    const int own = !job->packed && !k.few; /* weights to be packed in this call */
    ptrdiff_t x_zr = own ? lines(P * 2 * W * D) : 0, x_h = own ? lines(P * W * D) : 0;
    ptrdiff_t h_zr = own ? lines(P * 2 * W * H) : 0, h_h = own ? lines(P * W * H) : 0;
    ptrdiff_t few = k.few ? lines(N * 3 * H) : 0, x = k.few ? 0 : input_room(job, k.precomputed);
    ptrdiff_t gates = job->train ? 0 : lines(k.chunk * N * 3 * H + W), state = job->train ? 0 : lines(N * step_of(H));
    const int masked = job->h_mask.p != NULL;
    real *room = new_reals(x_zr + x_h + h_zr + h_h + 2 * few + x + gates + (3 + 2 * masked) * state);
    right_side *sides = malloc(4 * P * sizeof(right_side));
    int stopped = 0;
    if (room && sides) {
        k.zr.Wx = sides, k.candidate.Wx = sides + P, k.zr.Wh = sides + 2 * P, k.candidate.Wh = sides + 3 * P;
        k.zr.Wx_room = room, k.candidate.Wx_room = room + x_zr;
        k.zr.Wh_room = k.candidate.Wx_room + x_h, k.candidate.Wh_room = k.zr.Wh_room + h_zr;
        k.few_x = k.candidate.Wh_room + h_h, k.few_h = k.few_x + few;
        k.x = k.few_h + few, k.rh = k.x + x, k.h = k.rh + state, k.seen = k.h + 2 * masked * state;
        if (!job->train)
            k.panels.p = k.seen + 2 * state;
        stopped = team_run(job->threads, job->reset_after ? gru_after_body : gru_before_body, &k);
    }
    int failed = !room || !sides;
    free_room(room);
    free(sides);
    return failed ? -1 : stopped;
}
