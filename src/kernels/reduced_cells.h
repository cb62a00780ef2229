/* Forward in 16 or 8 bits (reduced.h): the time loops of rnn, lstm and gru. The products of a step are those of
 * reduced_products.h; everything between them is the cells' own, in float32. */

typedef struct {
    rnn_work k;
    reduced_call q;
} rnn_reduced_work;

static void rnn_reduced_body(team *tm, int rank, void *work)
{
    const rnn_work *k = &((rnn_reduced_work *)work)->k;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, H = job->H;
    real sums[REDUCED_SUMS] __attribute__((aligned(64)));
    reduced_call q = reduced_for(&((rnn_reduced_work *)work)->q, job, tm, rank);

    for (ptrdiff_t t = 0; t < job->T && !team_stopped(); t++) {
        const ptrdiff_t slot = t % 2 * slot_rows(N), next = (t + 1) % 2 * slot_rows(N);
        const reduced_rows *h = t > 0 || job->seen0.p ? &q.h : NULL;
        reduced_chunk(&q, job, &k->panels, tm, rank, t);
        for (tile_walk w = team_tiles(tm, rank, strip_count(H, 1), N, q.most, q.own_rows); next_tile(&w);) {
            const panel_strip strip = strip_at(H, 1, w.p);
            const ptrdiff_t rows = rows_at_work(job, t, w.n, w.rows);
            const real *products = reduced_sums(&q, &q.Wx, &q.Wh, strip, &w, rows, slot, h, slot, sums);
            for (int v = 0; v < strip.panels; v++) {
                rnn_activate(k, strip.p + v, t, t % k->chunk, w.n, rows, products ? products + v * W : NULL, strip.panels * W);
                reduced_h(&q, &q.h, next, strip.p + v, H, rnn_seen(k, t, w.n), w.n, rows);
            }
        }
        begin_samples(job, tm, rank, t, job->seen0, H, rnn_seen(k, t, 0), 0);
        reduced_step_ends(&q, job, tm, rank, t);
    }
    tiles_end(&q.way);
}

static int rnn_reduced(const cell_job *job)
{
    rnn_reduced_work all = {.k = {.job = job}};
    real *room = reduced_room(&all.q, job, 1, 0, job->train ? 0 : 2 * lines(job->N * step_of(job->H)));
    if (!room)
        return -1;
    all.k.precomputed = all.q.precomputed, all.k.chunk = all.q.chunk;
    all.k.panels = panels_at(job, all.q.gates, all.q.chunk, job->H, 1, 1);
    all.k.h = all.q.more;
    const int stopped = team_run(job->threads, rnn_reduced_body, &all);
    free_room(room);
    return stopped;
}

typedef struct {
    lstm_work k;
    reduced_call q;
} lstm_reduced_work;

static void lstm_reduced_body(team *tm, int rank, void *work)
{
    const lstm_work *k = &((lstm_reduced_work *)work)->k;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, H = job->H;
    real sums[REDUCED_SUMS] __attribute__((aligned(64)));
    reduced_call q = reduced_for(&((lstm_reduced_work *)work)->q, job, tm, rank);

    for (ptrdiff_t t = 0; t < job->T && !team_stopped(); t++) {
        const ptrdiff_t slot = t % 2 * slot_rows(N), next = (t + 1) % 2 * slot_rows(N);
        const reduced_rows *h = t > 0 || job->seen0.p ? &q.h : NULL;
        reduced_chunk(&q, job, &k->panels, tm, rank, t);
        for (tile_walk w = team_tiles(tm, rank, panel_count(H), N, q.most, q.own_rows); next_tile(&w);) {
            const ptrdiff_t rows = rows_at_work(job, t, w.n, w.rows);
            const real *products = reduced_sums(&q, &q.Wx, &q.Wh, (panel_strip){w.p, 1}, &w, rows, slot, h, slot, sums);
            lstm_activate(k, w.p, t, t % k->chunk, w.n, rows, products);
            reduced_h(&q, &q.h, next, w.p, H, lstm_seen(k, t, w.n), w.n, rows);
        }
        begin_samples(job, tm, rank, t, job->seen0, H, lstm_seen(k, t, 0), 0);
        reduced_step_ends(&q, job, tm, rank, t);
    }
    tiles_end(&q.way);
}

static int lstm_reduced(const cell_job *job)
{
    lstm_reduced_work all = {.k = {.job = job}};
    const ptrdiff_t state = job->train ? 0 : lines(job->N * step_of(job->H));
    real *room = reduced_room(&all.q, job, LSTM_GATES, 0, 3 * state);
    if (!room)
        return -1;
    all.k.precomputed = all.q.precomputed, all.k.chunk = all.q.chunk;
    all.k.panels = panels_at(job, all.q.gates, all.q.chunk, job->H, LSTM_GATES, job->train ? lstm_kept(job) : LSTM_GATES);
    all.k.c = all.q.more, all.k.h = all.q.more + state;
    const int stopped = team_run(job->threads, lstm_reduced_body, &all);
    free_room(room);
    return stopped;
}

typedef struct {
    gru_work k;
    reduced_call q;
} gru_reduced_work;

/* z and r of one tile of panel p, and with reset before the product also r s. */
static void gru_reduced_gates(const gru_work *k, const reduced_call *q, const tile_walk *w, ptrdiff_t p, ptrdiff_t t,
                              const reduced_rows *h, real *sums)
{
    const ptrdiff_t slot = t % 2 * slot_rows(k->job->N), rows = rows_at_work(k->job, t, w->n, w->rows);
    const real *products = reduced_sums(q, &q->Wx, &q->Wh, (panel_strip){p, 1}, w, rows, slot, h, slot, sums);
    gru_gates(k, p, t, t % k->chunk, w->n, rows, products);
    if (h && !k->job->reset_after)
        reduced_h(q, &q->rh, 0, p, k->job->H, gru_rh(k, t, w->n), w->n, rows);
}

/* As gru_before_body. */
static void gru_reduced_before_body(team *tm, int rank, void *work)
{
    const gru_work *k = &((gru_reduced_work *)work)->k;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, H = job->H;
    real sums[REDUCED_SUMS] __attribute__((aligned(64)));
    reduced_call q = reduced_for(&((gru_reduced_work *)work)->q, job, tm, rank);

    for (ptrdiff_t t = 0; t < job->T && !team_stopped(); t++) {
        const ptrdiff_t slot = t % 2 * slot_rows(N), next = (t + 1) % 2 * slot_rows(N);
        const int seen = t > 0 || job->seen0.p;
        reduced_chunk(&q, job, &k->panels, tm, rank, t);
        for (tile_walk w = team_tiles(tm, rank, panel_count(H), N, q.most, q.own_rows); next_tile(&w);)
            gru_reduced_gates(k, &q, &w, w.p, t, seen ? &q.h : NULL, sums);
        step_wait(tm, q.own_rows); /* r s is whole */
        for (tile_walk w = team_tiles(tm, rank, strip_count(H, 1), N, q.most, q.own_rows); next_tile(&w);) {
            const panel_strip strip = strip_at(H, 1, w.p);
            const ptrdiff_t rows = rows_at_work(job, t, w.n, w.rows);
            const real *products =
                reduced_sums(&q, &q.Wx_candidate, &q.Wh_candidate, strip, &w, rows, slot, seen ? &q.rh : NULL, 0, sums);
            for (int v = 0; v < strip.panels; v++) {
                gru_candidate(k, strip.p + v, t, t % k->chunk, w.n, rows, products ? products + v * W : NULL, NULL,
                              strip.panels * W);
                reduced_h(&q, &q.h, next, strip.p + v, H, gru_seen(k, t + 1, w.n), w.n, rows);
            }
        }
        gru_begin_samples(k, tm, rank, t, 0);
        reduced_step_ends(&q, job, tm, rank, t);
    }
    tiles_end(&q.way);
}

/* As gru_after_body. */
static void gru_reduced_after_body(team *tm, int rank, void *work)
{
    const gru_work *k = &((gru_reduced_work *)work)->k;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, H = job->H;
    real sums[REDUCED_SUMS] __attribute__((aligned(64)));
    real products[REDUCED_SUMS] __attribute__((aligned(64)));
    reduced_call q = reduced_for(&((gru_reduced_work *)work)->q, job, tm, rank);

    for (ptrdiff_t t = 0; t < job->T && !team_stopped(); t++) {
        const ptrdiff_t slot = t % 2 * slot_rows(N), next = (t + 1) % 2 * slot_rows(N);
        const int seen = t > 0 || job->seen0.p;
        reduced_chunk(&q, job, &k->panels, tm, rank, t);
        for (tile_walk w = team_tiles(tm, rank, strip_count(H, 1), N, q.most, q.own_rows); next_tile(&w);) {
            const panel_strip strip = strip_at(H, 1, w.p);
            const ptrdiff_t rows = rows_at_work(job, t, w.n, w.rows);
            for (int v = 0; v < strip.panels; v++)
                gru_reduced_gates(k, &q, &w, strip.p + v, t, seen ? &q.h : NULL, sums);
            if (!q.precomputed)
                reduced_gates(&q.way, &q.Wx_candidate, strip, q.x, slot + w.n, rows, w.i, w.tiles, sums, 0);
            if (seen)
                reduced_gates(&q.way, &q.Wh_candidate, strip, q.h, slot + w.n, rows, w.i, w.tiles, products, 0);
            for (int v = 0; v < strip.panels; v++) {
                gru_candidate(k, strip.p + v, t, t % k->chunk, w.n, rows, q.precomputed ? NULL : sums + v * W,
                              seen ? products + v * W : NULL, strip.panels * W);
                reduced_h(&q, &q.h, next, strip.p + v, H, gru_seen(k, t + 1, w.n), w.n, rows);
            }
        }
        gru_begin_samples(k, tm, rank, t, 0);
        reduced_step_ends(&q, job, tm, rank, t);
    }
    tiles_end(&q.way);
}

static int gru_reduced(const cell_job *job)
{
    gru_reduced_work all = {.k = {.job = job}};
    const ptrdiff_t state = job->train ? 0 : lines(job->N * step_of(job->H)), masked = job->h_mask.p != NULL;
    real *room = reduced_room(&all.q, job, 2, 1, (3 + 2 * masked) * state);
    if (!room)
        return -1;
    all.k.precomputed = all.q.precomputed, all.k.chunk = all.q.chunk;
    all.k.panels = panels_at(job, all.q.gates, all.q.chunk, job->H, GRU_GATES, gru_kept(job));
    all.k.rh = all.q.more, all.k.h = all.k.rh + state, all.k.seen = all.k.h + 2 * masked * state;
    const int stopped = team_run(job->threads, job->reset_after ? gru_reduced_after_body : gru_reduced_before_body, &all);
    free_room(room);
    return stopped;
}

/* The packed weights: all of Wx, then all of Wh. */
static ptrdiff_t pack_reduced_cell(const cell_job *job, real *room, int G, int candidate)
{
    const matrix Wx = {job->Wx.p, job->Wx.s0, job->Wx.s1}, Wh = {job->Wh.p, job->Wh.s0, job->Wh.s1};
    ptrdiff_t n = pack_reduced(job->precision, room, Wx, job->D, job->H, 0, G);
    if (candidate)
        n += pack_reduced(job->precision, room ? room + n : NULL, Wx, job->D, job->H, G, 1);
    n += pack_reduced(job->precision, room ? room + n : NULL, Wh, job->P, job->H, 0, G);
    if (candidate)
        n += pack_reduced(job->precision, room ? room + n : NULL, Wh, job->P, job->H, G, 1);
    return n;
}

static ptrdiff_t rnn_pack_reduced(const cell_job *job, void *room) { return pack_reduced_cell(job, room, 1, 0); }
static ptrdiff_t lstm_pack_reduced(const cell_job *job, void *room) { return pack_reduced_cell(job, room, LSTM_GATES, 0); }
static ptrdiff_t gru_pack_reduced(const cell_job *job, void *room) { return pack_reduced_cell(job, room, 2, 1); }
