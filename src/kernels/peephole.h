/* LSTM whose gates see the cell through whole matrices P (Gers and Schmidhuber 2000); lstm.h has the rest.
 *
 *   A_f += c_prev P_f    A_i += c_prev P_i    A_o += c P_o          c (N, H), P (H, H)
 *
 *   ds += dA_o P_o^T before df, dg and di     dc_prev = ds f + dA_f P_f^T + dA_i P_i^T
 *
 * o needs all of c, and ds all of dA_o, so a step has two halves and two barriers, in both directions.
 * Kept for backward: what the LSTM keeps, and c once more as rows (T, N, H), with c_zoneout also what c was without it.
 */

typedef struct {
    lstm_work lstm;             /* without training its panels have room for a step at least: A_o waits there */
    right_side *P_fi, *P_o;     /* of each panel */
    real *P_fi_room, *P_o_room; /* forward: [panel][k][2 or 1][W] */
    real *PT_room[3];           /* backward: of f, i, o, transposed, [H / 2W][H][2 W] */
    real *cells, *new_cells;    /* without training: c (2, N, H); with c_zoneout what it was without that (N, H) */
    real *sums_c;               /* backward: as `sums`, what reaches c through the peepholes */
} peephole_work;

/* c of all samples after step t as rows; before the first one NULL, where it is zeros. */
static inline const real *peephole_c(const peephole_work *k, ptrdiff_t t, ptrdiff_t *step)
{
    const cell_job *job = k->lstm.job;
    *step = t < 0 ? job->c0.s0 : step_of(job->H);
    if (t < 0)
        return job->c0.p;
    return job->train ? (real *)job->c + t * job->N * *step : k->cells + t % 2 * job->N * *step;
}

/* The same without zoneout: what o sees. */
static inline const real *peephole_c_new(const peephole_work *k, ptrdiff_t t, ptrdiff_t *step)
{
    const cell_job *job = k->lstm.job;
    if (!job->c_zoneout.p)
        return peephole_c(k, t, step);
    *step = step_of(job->H);
    return job->train ? (real *)job->c_new + t * job->N * *step : k->new_cells;
}

/* P_f and P_i of panel p, packed into room as [k][2][W]. */
static right_side peephole_weights(real *room, const real *Wp, ptrdiff_t H, ptrdiff_t p)
{
    const ptrdiff_t w = panel_width(H, p);
    pack_b(room, (matrix){Wp + p * W, H, 1}, H, 2, H * H, (lanes_of){{w, w}});
    return (right_side){room, 2 * W, W, 2};
}

/* The panels of Wx, those of Wh, and those of full peepholes. */
static ptrdiff_t lstm_pack(const cell_job *job, void *room)
{
    const ptrdiff_t H = job->H, P = panel_count(H), cell = pack_cell(job, room, 4);
    if (!job->full)
        return cell;
    const ptrdiff_t P_fi = lines(P * 2 * W * H);
    const real *Wp = job->Wp;
    real *at = room ? (real *)room + cell : NULL;
    for (ptrdiff_t p = 0; p < P && at && !team_stopped_now(); p++)
        peephole_weights(at + p * 2 * W * H, Wp, H, p);
    return cell + P_fi + pack_panels(at ? at + P_fi : NULL, (matrix){Wp + 2 * H * H, H, 1}, H, H, 0, 1);
}

/* First half of a step: f, g, i, c and A_o without c of one tile. `sums` as in lstm_tile, with c_prev P_fi. */
static void peephole_cell(const peephole_work *work, ptrdiff_t p, ptrdiff_t t, ptrdiff_t slot, ptrdiff_t n0, ptrdiff_t rows,
                          const real *sums)
{
    const lstm_work *k = &work->lstm;
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H, w = panel_width(H, p), j = p * W, step = panel_vectors(H, 4, p) * W;
    ptrdiff_t before_n, after_n, fresh_n;
    const real *before = peephole_c(work, t - 1, &before_n);
    real *after = (real *)peephole_c(work, t, &after_n), *fresh = (real *)peephole_c_new(work, t, &fresh_n);
    vec bias[4] = {{0}};
    if (job->b)
        for (int g = 0; g < 4; g++)
            bias[g] = load_n((const real *)job->b + g * H + j, w);

    for (ptrdiff_t r = 0; r < rows; r++) {
        const ptrdiff_t n = n0 + r;
        real *row = panel_row(&k->panels, p, slot, n);
        vec A[4], c_prev = before ? load_n(before + n * before_n + j, w) : (vec){0};
        for (int g = 0; g < 4; g++) {
            A[g] = k->precomputed ? load_n(row + g * w, w) + bias[g] : bias[g];
            if (sums)
                A[g] += load(sums + r * step + g * w);
        }
        vec f = vsigmoid(A[0]), g = vtanh(A[1]), i = vsigmoid(A[2]);
        vec c = f * c_prev + lstm_masked(job, t, n, j, w, g) * i;
        if (job->clip)
            c = clamp(c, -(real)job->clip, (real)job->clip);
        store_n(row, f, w);
        store_n(row + w, g, w);
        store_n(row + 2 * w, i, w);
        store_n(row + 3 * w, A[3], w);
        if (job->c_zoneout.p) {
            store_n(fresh + n * fresh_n + j, c, w);
            if (job->train)
                store_n(row + 5 * w, c, w);
            c = zoned(of_step(job, job->c_zoneout, t, n, j, w), c_prev, c);
        }
        store_n(after + n * after_n + j, c, w);
        if (job->train)
            store_n(row + 4 * w, c, w);
    }
}

/* Second half: o and h of one tile. `sums`, its rows apart by `step`, holds c P_o. */
static void peephole_output(const peephole_work *work, ptrdiff_t p, ptrdiff_t t, ptrdiff_t slot, ptrdiff_t n0, ptrdiff_t rows,
                            const real *sums, ptrdiff_t step)
{
    const lstm_work *k = &work->lstm;
    const cell_job *job = k->job;
    const ptrdiff_t w = panel_width(job->H, p), j = p * W;
    ptrdiff_t cells_n, fresh_n;
    const real *cells = peephole_c(work, t, &cells_n), *fresh = peephole_c_new(work, t, &fresh_n);

    for (ptrdiff_t r = 0; r < rows; r++) {
        const ptrdiff_t n = n0 + r;
        real *A_o = panel_row(&k->panels, p, slot, n) + 3 * w;
        vec o = vsigmoid(load_n(A_o, w) + load(sums + r * step)), c = load_n(cells + n * cells_n + j, w);
        vec h = o * vtanh(load_n(fresh + n * fresh_n + j, w));
        if (job->h_zoneout.p)
            h = zoned(of_step(job, job->h_zoneout, t, n, j, w), shown_before(job, t, n, j, w), h);
        store_n(A_o, o, w);
        lstm_give(k, t, n, j, w, h, c);
    }
}

/* sums of panel p, in f and i, += c_prev P_fi */
static void peephole_product(ptrdiff_t H, ptrdiff_t p, ptrdiff_t rows, const real *c, ptrdiff_t c_n, right_side P_fi,
                             real *sums)
{
    const ptrdiff_t w = panel_width(H, p), step = panel_vectors(H, 4, p) * W;
    real both[ROWS_2 * 2 * (VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));
    product m = {
        .K = H, .a = c, .ar = c_n, .ak = 1, .b = P_fi.p, .bk = P_fi.bk, .bv = P_fi.bv, .c = both, .cr = 2 * W, .cv = W};
    gates_multiply(2, rows, 2 * W, &m);
    for (ptrdiff_t r = 0; r < rows; r++)
        for (int g = 0; g < 2; g++) {
            real *to = sums + r * step + 2 * g * w;
            store_n(to, load_n(to, w) + load(both + (r * 2 + g) * W), w);
        }
}

static void peephole_forward_body(team *tm, int rank, void *for_all)
{
    peephole_work *work = for_all;
    lstm_work *k = &work->lstm;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H, P = panel_count(H);
    const ptrdiff_t most = N > ROWS_4 ? ROWS_2 : ROWS_4, tiles = tile_count(N, most); /* as gates_multiply cuts */
    const ptrdiff_t strips = strip_count(H, 1);
    real sums[(ROWS_2 * 4 + 1) * (VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));
    const int own_rows = k->precomputed ? 0 : owns_rows(job, tm, 4);
    ptrdiff_t p0, p1;
    team_share(tm, rank, P, &p0, &p1);

    lstm_weights(k, p0, p1, tiles);
    for (ptrdiff_t p = p0; p < p1; p++) {
        const real *Wp = job->Wp, *at = job->packed;
        if (at) { /* as lstm_pack lays them out */
            at += lines(P * 4 * W * D) + lines(P * 4 * W * H);
            work->P_fi[p] = (right_side){at + p * 2 * W * H, 2 * W, W, 2};
            work->P_o[p] = packed_weights(at + lines(P * 2 * W * H), H, H, 1, p);
        } else {
            work->P_fi[p] = peephole_weights(work->P_fi_room + p * 2 * W * H, Wp, H, p);
            work->P_o[p] = gate_weights(work->P_o_room, (matrix){Wp + 2 * H * H, H, 1}, H, H, 0, 1, p, T * tiles);
        }
    }
    if (!k->precomputed)
        copy_step(job, tm, rank, 0, k->x, own_rows);
    if (rank == 0)
        lstm_pass(job);
    team_wait(tm);

    for (ptrdiff_t t = 0; t < T && !team_stopped(); t++) {
        const ptrdiff_t slot = t % k->chunk;
        if (slot == 0 && k->precomputed)
            panel_inputs(job, tm, rank, &k->panels, t, T - t < k->chunk ? T - t : k->chunk, 0, 4, k->Wx, k->x);
        ptrdiff_t h_n, c_n, x_n = step_of(D);
        const real *h = lstm_left_side(k, t, &h_n), *c = peephole_c(work, t - 1, &c_n);
        for (tile_walk w = team_tiles(tm, rank, P, rows_of(job, t), most, own_rows); next_tile(&w);) {
            int there = h || !k->precomputed; /* is anything in sums */
            if (!k->precomputed)
                gates_product(1, D, w.rows, k->x + (t % 2 * N + w.n) * x_n, x_n, k->Wx[w.p], w.i, w.tiles, sums, 0);
            if (h)
                gates_product(1, H, w.rows, h + w.n * h_n, h_n, k->Wh[w.p], w.i, w.tiles, sums, !k->precomputed);
            if (c && !there)
                memset(sums, 0, w.rows * 4 * W * sizeof(real));
            if (c)
                peephole_product(H, w.p, w.rows, c + w.n * c_n, c_n, work->P_fi[w.p], sums);
            peephole_cell(work, w.p, t, slot, w.n, w.rows, c || there ? sums : NULL);
        }
        step_wait(tm, own_rows); /* c of step t is whole */

        c = peephole_c_new(work, t, &c_n);
        for (tile_walk w = team_tiles(tm, rank, strips, rows_of(job, t), ROWS_2, own_rows); next_tile(&w);) {
            const panel_strip strip = strip_at(H, 1, w.p);
            gates_product(strip.panels, H, w.rows, c + w.n * c_n, c_n, work->P_o[strip.p], w.i, w.tiles, sums, 0);
            for (int v = 0; v < strip.panels; v++)
                peephole_output(work, strip.p + v, t, slot, w.n, w.rows, sums + v * W, strip.panels * W);
        }
        if (!k->precomputed)
            copy_step(job, tm, rank, t + 1, k->x, own_rows);
        begin_samples(job, tm, rank, t, job->seen0, H, lstm_seen(k, t, 0), own_rows);
        begin_samples(job, tm, rank, t, job->c0, H, (real *)peephole_c(work, t, &c_n), own_rows);
        step_wait(tm, own_rows); /* h of step t is whole */
    }
}

static int peephole_forward(const cell_job *job)
{
    const ptrdiff_t N = job->N, D = job->D, H = job->H, P = panel_count(H);
    peephole_work work = {.lstm = {.job = job, .precomputed = is_precomputed(job, 4), .chunk = panel_steps(job)}};
    lstm_work *k = &work.lstm;
    if (!job->train && !k->precomputed)
        k->chunk = 1;
    k->panels = panels_at(job, job->panels, k->chunk, H, LSTM_GATES, job->train ? lstm_kept(job) : LSTM_GATES);
    const int own = !job->packed; /* weights to be packed in this call */
    ptrdiff_t weights = own ? lines(P * 4 * W * D) : 0, recurrent = own ? lines(P * 4 * W * H) : 0;
    ptrdiff_t P_fi = own ? lines(P * 2 * W * H) : 0, P_o = own ? lines(P * W * H) : 0;
    ptrdiff_t state = job->train ? 0 : lines(N * step_of(H)), x = input_room(job, k->precomputed);
    ptrdiff_t gates = job->train ? 0 : lines(k->chunk * N * 4 * H + W);
    real *room = new_reals(weights + recurrent + P_fi + P_o + x + gates + 5 * state);
    right_side *sides = malloc(4 * P * sizeof(right_side));
    int stopped = 0;
    if (room && sides) {
        k->Wx = sides, k->Wh = sides + P, work.P_fi = sides + 2 * P, work.P_o = sides + 3 * P;
        k->Wx_room = room, k->Wh_room = room + weights;
        work.P_fi_room = k->Wh_room + recurrent, work.P_o_room = work.P_fi_room + P_fi;
        k->x = work.P_o_room + P_o, k->h = k->x + x, work.cells = k->h + 2 * state;
        work.new_cells = work.cells + 2 * state;
        if (!job->train)
            k->panels.p = work.new_cells + state;
        stopped = team_run(job->threads, peephole_forward_body, &work);
    }
    int failed = !room || !sides;
    free_room(room);
    free(sides);
    return failed ? -1 : stopped;
}
