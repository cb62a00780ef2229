/* The layer-normalised LSTM over a whole sequence (Ba et al. 2016); lstm.h has what is that of an LSTM, norms.h the rest.
 *
 *   A = LN(x Wx; gx) + LN((h_prev m) Wh; gh) + b      each LN over the 4 H numbers of a row
 *   f, g, i, o = sigmoid, tanh, sigmoid, sigmoid of the four blocks of A
 *   c = f c_prev + g i        h = o tanh(LN(c; gc) + bc)
 *
 *   q = tanh(..)              dA_o = dh q o (1-o)     dy = dh o (1 - q^2)     dh = dhs + (dv_next Wh^T) m
 *   ds = dc + back(dy gc)     dA_f, dA_g, dA_i and dc_prev from ds as in an LSTM
 *   du = back(dA gx)          dv = back(dA gh)        of x Wx and of (h_prev m) Wh
 *
 * A step has three parts, each with a barrier after it, since a row's mean and variance need all of the row: h Wh, then the
 * gates and c, then h; and back: dA_o and dy, then the rest of dA, then dv. x Wx is normalised before the time loop.
 *
 * LN sees c without what c_zoneout keeps.
 *
 * Kept for backward: panels with S = 5 (f, g, i, o, c), with c_zoneout also what c was without it, and h m (T, N, H); x Wx
 * and h Wh as panels with S = 4, and the norms of x Wx, h Wh and c (T, N). Backward writes dA over f, g, i, o, du over x Wx and
 * dv over h Wh.
 */

static const norm_group LNLSTM_GATES = {0, 0, 4};

typedef struct {
    lstm_work lstm;           /* without training its panels are of one step */
    gate_panels x_Wx, h_Wh;   /* without training of `chunk` steps and of one */
    norm *of_x, *of_h, *of_c; /* (T, N); without training of_x alone, of `chunk` steps */
    real *own;                /* of each thread: norm or norm_back, of each sample */
    real *dy;                 /* backward: (N, H) */
    real *c_sums, *h_sums;    /* backward: norm_sums of dy gc and of dA gh */
    real *parts;              /* backward: of the gradients of gh, gc and bc, [tile][6 H] */
    real *parts_x;            /* and of gx, [block][4 H] */
} lnlstm_work;

static inline ptrdiff_t lnlstm_own(const cell_job *job) { return lines(2 * job->N) + 16; } /* apart by more than a line */

/* x Wx, h Wh and their norms in room, of so many steps. Returns the reals they take; with room NULL that is all. */
static ptrdiff_t lnlstm_places(lnlstm_work *work, real *room, ptrdiff_t x_steps, ptrdiff_t h_steps)
{
    const cell_job *job = work->lstm.job;
    const ptrdiff_t N = job->N, H = job->H;
    const ptrdiff_t x = lines(x_steps * N * 4 * H + W), h = lines(h_steps * N * 4 * H + W), norms = lines(2 * x_steps * N);
    if (room) {
        work->x_Wx = panels_at(job, room, x_steps, H, 4, 4);
        work->h_Wh = panels_at(job, room + x, h_steps, H, 4, 4);
        work->of_x = (norm *)(room + x + h);
        work->of_h = (norm *)(room + x + h + norms), work->of_c = (norm *)(room + x + h + 2 * norms);
    }
    return x + h + 3 * norms;
}

/* Where a row of the panels has the c that LN sees. */
static inline int lnlstm_c_new(const cell_job *job) { return lstm_kept(job) - 1; }

static ptrdiff_t lnlstm_pack(const cell_job *job, void *room) { return pack_cell(job, room, 4); }

/* The gates and c of one tile. norms: of h Wh. */
static void lnlstm_gates(const lnlstm_work *work, const tile_walk *tile, ptrdiff_t t, ptrdiff_t slot, const norm *norms)
{
    const lstm_work *k = &work->lstm;
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H, p = tile->p, w = panel_width(H, p), j = p * W, now = job->train ? t : 0;
    const norm *norms_x = work->of_x + first_row(rows_of_panels(&work->x_Wx), slot);
    const real *gx = (const real *)job->norms[0] + j, *gh = (const real *)job->norms[1] + j;
    vec bias[4] = {{0}}, gain_x[4], gain_h[4];
    for (int g = 0; g < 4; g++) {
        if (job->b)
            bias[g] = load_n((const real *)job->b + g * H + j, w);
        gain_x[g] = load_n(gx + g * H, w), gain_h[g] = load_n(gh + g * H, w);
    }
    for (ptrdiff_t n = tile->n; n < tile->n + tile->rows; n++) {
        real *row = panel_row(&k->panels, p, now, n);
        const real *x = panel_row(&work->x_Wx, p, slot, n), *h = panel_row(&work->h_Wh, p, now, n);
        vec c_prev = t > first_step(job, n) && !job->train ? load_n(row + 4 * w, w) : lstm_c_prev(k, p, t, n, w);
        const norm of_x = norms_x[n], of_h = norms[n];
        vec A[4];
        UNROLLED
        for (int g = 0; g < 4; g++) {
            A[g] = bias[g] + norm_of(of_x, load_n(x + g * w, w)) * gain_x[g];
            A[g] += norm_of(of_h, load_n(h + g * w, w)) * gain_h[g];
        }
        vec f = vsigmoid(A[0]), g = vtanh(A[1]), i = vsigmoid(A[2]);
        store_n(row + 3 * w, vsigmoid(A[3]), w);
        vec c = f * c_prev + lstm_masked(job, t, n, j, w, g) * i;
        store_n(row + lnlstm_c_new(job) * w, c, w);
        if (job->c_zoneout.p)
            store_n(row + 4 * w, zoned(of_step(job, job->c_zoneout, t, n, j, w), c_prev, c), w);
        if (job->train) {
            store_n(row, f, w);
            store_n(row + w, g, w);
            store_n(row + 2 * w, i, w);
        }
    }
    if (job->train && p == 0)
        memcpy(work->of_h + first_row(rows_of_panels(&work->h_Wh), t) + tile->n, norms + tile->n, tile->rows * sizeof(norm));
}

/* h of one tile. norms: of c. */
static void lnlstm_output(const lnlstm_work *work, const tile_walk *tile, ptrdiff_t t, const norm *norms)
{
    const lstm_work *k = &work->lstm;
    const cell_job *job = k->job;
    const ptrdiff_t p = tile->p, w = panel_width(job->H, p), j = p * W;
    const vec gain = load_n((const real *)job->norms[2] + j, w), bias = load_n((const real *)job->norms[3] + j, w);
    for (ptrdiff_t n = tile->n; n < tile->n + tile->rows; n++) {
        const real *row = panel_row(&k->panels, p, job->train ? t : 0, n);
        vec c_new = load_n(row + lnlstm_c_new(job) * w, w);
        vec h = load_n(row + 3 * w, w) * vtanh(norm_of(norms[n], c_new) * gain + bias);
        if (job->h_zoneout.p)
            h = zoned(of_step(job, job->h_zoneout, t, n, j, w), shown_before(job, t, n, j, w), h);
        lstm_give(k, t, n, j, w, h, load_n(row + 4 * w, w));
    }
    if (job->train && p == 0)
        memcpy(work->of_c + first_row(rows_of_panels(&work->h_Wh), t) + tile->n, norms + tile->n, tile->rows * sizeof(norm));
}

static void lnlstm_forward_body(team *tm, int rank, void *for_all)
{
    lnlstm_work *work = for_all;
    lstm_work *k = &work->lstm;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, T = job->T, P = panel_count(job->H);
    const ptrdiff_t most = N > ROWS_4 ? ROWS_2 : ROWS_4, tiles = tile_count(N, most); /* as gates_multiply cuts */
    const int own_rows = norm_owns_rows(job, tm, 4);
    norm *norms = (norm *)(work->own + rank * lnlstm_own(job));
    ptrdiff_t p0, p1, n0, n1, h_n;
    team_share(tm, rank, P, &p0, &p1);
    lstm_weights(k, p0, p1, tiles);
    if (rank == 0)
        lstm_pass(job);
    team_wait(tm);

    for (ptrdiff_t t = 0; t < T && !team_stopped(); t++) {
        const ptrdiff_t slot = t % k->chunk, now = job->train ? t : 0, rows = rows_of(job, t);
        const ptrdiff_t row = first_row(rows_of_panels(&k->panels), now);
        norm_samples(tm, rank, P, rows, most, own_rows, &n0, &n1);
        if (slot == 0)
            norm_input(job, tm, rank, &work->x_Wx, t, T - t < k->chunk ? T - t : k->chunk, most, own_rows, k->Wx, &LNLSTM_GATES,
                       1, work->of_x, 0, k->x);
        const real *h = lstm_left_side(k, t, &h_n);
        for (tile_walk w = team_tiles(tm, rank, P, rows, most, own_rows); next_tile(&w);)
            norm_product(&work->h_Wh, now, &w, h, h_n, k->Wh[w.p]);
        step_wait(tm, own_rows); /* h Wh is whole */
        norm_rows(&work->h_Wh, 0, 4, row + n0, row + n1, norms + n0);
        for (tile_walk w = team_tiles(tm, rank, P, rows, most, own_rows); next_tile(&w);)
            lnlstm_gates(work, &w, t, slot, norms);
        step_wait(tm, own_rows); /* c is whole */
        norm_rows(&k->panels, lnlstm_c_new(job), 1, row + n0, row + n1, norms + n0);
        for (tile_walk w = team_tiles(tm, rank, P, rows, most, own_rows); next_tile(&w);)
            lnlstm_output(work, &w, t, norms);
        begin_samples(job, tm, rank, t, job->seen0, job->H, lstm_seen(k, t, 0), own_rows);
        step_wait(tm, own_rows); /* h of step t is whole */
    }
}

static int lnlstm_forward(const cell_job *job)
{
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H, P = panel_count(H);
    lnlstm_work work = {.lstm = {.job = job, .chunk = panel_steps(job)}};
    lstm_work *k = &work.lstm;
    const int own = !job->packed; /* weights to be packed in this call */
    ptrdiff_t weights = own ? lines(P * 4 * W * D) : 0, recurrent = own ? lines(P * 4 * W * H) : 0;
    ptrdiff_t state = job->train ? 0 : lines(N * step_of(H)), gates = job->train ? 0 : lines(N * lstm_kept(job) * H + W);
    ptrdiff_t norms = job->train ? 0 : lnlstm_places(&work, NULL, k->chunk, 1), each = lnlstm_own(job), x = input_room(job, 1);
    real *room = new_reals(weights + recurrent + 2 * state + gates + norms + job->threads * each + x);
    right_side *sides = malloc(2 * P * sizeof(right_side));
    int stopped = 0;
    if (room && sides) {
        k->Wx = sides, k->Wh = sides + P;
        k->Wx_room = room, k->Wh_room = room + weights;
        k->h = k->Wh_room + recurrent;
        k->panels =
            panels_at(job, job->train ? job->panels : k->h + 2 * state, job->train ? T : 1, H, LSTM_GATES, lstm_kept(job));
        if (job->train)
            lnlstm_places(&work, job->norms_kept, T, T);
        else
            lnlstm_places(&work, k->h + 2 * state + gates, k->chunk, 1);
        work.own = k->h + 2 * state + gates + norms, k->x = work.own + job->threads * each;
        stopped = team_run(job->threads, lnlstm_forward_body, &work);
    }
    int failed = !room || !sides;
    free_room(room);
    free(sides);
    return failed ? -1 : stopped;
}
