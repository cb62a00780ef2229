/* What cells do with x, over gate panels (panels.h): x Wx before the time loop or beside it, and dx = dA Wx^T. */

/* x of step t in room (2, N, D), this thread's share of it, for a step to come: its rows lie so far apart in xs that
 * they would fight for the same lines of the caches. Here they are step_of(D) apart. */
static void copy_step(const cell_job *job, const team *tm, int rank, ptrdiff_t t, real *room, int own_rows)
{
    const ptrdiff_t N = job->N, D = job->D;
    for (tile_walk w = team_tiles(tm, rank, 1, rows_of(job, t), ROWS_2, own_rows ? own_rows : 1); next_panel(&w);)
        for (ptrdiff_t n = w.n; n < w.n + w.rows; n++)
            memcpy(room + (t % 2 * N + n) * step_of(D), row_at(job, job->xs, t, n), D * sizeof(real));
}

/* Samples that step t + 1 is the first to concern: their rows of `from`, of the state before it, to (N, width) of step t, rows
 * step_of(width) apart, where step t + 1 reads it. This thread's share. */
static void begin_samples(const cell_job *job, const team *tm, int rank, ptrdiff_t t, strided from, ptrdiff_t width, real *to,
                          int own_rows)
{
    const ptrdiff_t first = rows_of(job, t), rows = rows_of(job, t + 1);
    if (first >= rows)
        return;
    for (tile_walk w = team_tiles(tm, rank, 1, rows, ROWS_2, own_rows ? own_rows : 1); next_panel(&w);)
        for (ptrdiff_t n = w.n < first ? first : w.n; n < w.n + w.rows; n++)
            for (ptrdiff_t j = 0; j < width; j += W) {
                const ptrdiff_t lanes = panel_width(width, j / W);
                store_n(to + n * step_of(width) + j, state_of(from, n, j, lanes), lanes);
            }
}

/* Samples that no step concerns, the last ones: to (N, width) = from. For one thread. */
static void pass_state(const cell_job *job, strided from, ptrdiff_t width, void *to)
{
    for (ptrdiff_t n = job->N - 1; job->first_row && n >= 0 && has_no_step(job, n); n--)
        for (ptrdiff_t j = 0; j < width; j += W) {
            const ptrdiff_t w = panel_width(width, j / W);
            store_n((real *)to + n * width + j, state_of(from, n, j, w), w);
        }
}

/* G gates from first_gate on of a strip = x Wx, of samples n0..n1, for the first T steps that P has room for. Tiles run over
 * the longer of batch and time, so that rows keep one stride whatever the layout of xs. */
static void panel_input(const gate_panels *P, panel_strip strip, int first_gate, int G, ptrdiff_t n0, ptrdiff_t n1, ptrdiff_t T,
                        const real *xs, ptrdiff_t xn, ptrdiff_t xt, ptrdiff_t D, right_side weights)
{
    const ptrdiff_t N = n1 - n0, w = panel_width(P->H, strip.p);
    const int over_time = N * tile_count(T, ROWS_2) <= T * tile_count(N, ROWS_2);
    const ptrdiff_t outer = over_time ? N : T, inner = over_time ? T : N, tiles = tile_count(inner, ROWS_2);
    const ptrdiff_t cv = G == 1 ? W * P->S * P->R : W;

    for (ptrdiff_t o = 0; o < outer; o++)
        for (ptrdiff_t i = 0; i < tiles && !team_stopped(); i++) {
            ptrdiff_t from = tile_start(inner, tiles, i), rows = tile_start(inner, tiles, i + 1) - from;
            ptrdiff_t n = n0 + (over_time ? o : from), t = over_time ? from : o;
            product m = {.K = D,
                         .a = xs + n * xn + t * xt,
                         .ar = over_time ? xt : xn,
                         .ak = 1,
                         .b = weights.p,
                         .bk = weights.bk,
                         .bv = weights.bv,
                         .c = panel_row(P, strip.p, t, n) + first_gate * w,
                         .cr = (over_time ? P->N : 1) * P->S * w,
                         .cv = cv};
            gates_multiply(strip.panels * weights.vectors, rows, strip.panels * G * w, &m);
        }
}

/* Reals of what panel_inputs needs beside the panels, or of copy_step's. */
static inline ptrdiff_t input_room(const cell_job *job, int precomputed)
{
    if (!precomputed)
        return lines(2 * job->N * step_of(job->D));
    return job->first_row ? job->threads * lines(ROWS_2 * step_of(job->D)) : 0;
}

/* The same of the samples at work in steps t.. alone: this thread's share. A tile is of any samples and steps: its rows are
 * gathered in room, and what is made of them goes to their places. */
static void rows_input(const cell_job *job, const team *tm, int rank, const gate_panels *P, ptrdiff_t t, ptrdiff_t steps,
                       int first_gate, int G, const right_side *sides, real *room)
{
    const step_rows all = rows_of_job(job);
    const ptrdiff_t D = job->D, apart = step_of(D), r0 = first_row(all, t), R = first_row(all, t + steps) - r0;
    real *left = room + rank * lines(ROWS_2 * apart);
    real sums[ROWS_2 * MAX_NV * (VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));

    for (tile_walk w = team_tiles(tm, rank, strip_count(P->H, G), R, ROWS_2, 0); next_tile(&w);) {
        const panel_strip strip = strip_at(P->H, G, w.p);
        const ptrdiff_t width = panel_width(P->H, strip.p), step = strip.panels * sides[strip.p].vectors * W;
        row_place at = place_of(all, r0 + w.n), places[ROWS_2];
        for (ptrdiff_t r = 0; r < w.rows; r++, next_place(all, &at)) {
            places[r] = at;
            memcpy(left + r * apart, row_at(job, job->xs, at.t, at.n), D * sizeof(real));
        }
        gates_product(strip.panels, D, w.rows, left, apart, sides[strip.p], w.i, w.tiles, sums, 0);
        for (int v = 0; v < strip.panels; v++)
            for (ptrdiff_t r = 0; r < w.rows; r++)
                memcpy(panel_row(P, strip.p + v, places[r].t - t, places[r].n) + first_gate * width, sums + r * step + v * W,
                       G * width * sizeof(real));
    }
}

/* G gates from first_gate on = x Wx of steps t.. into the panels, which have room for these from their first one on: the
 * team's work, whole when it returns. */
static void panel_inputs(const cell_job *job, team *tm, int rank, const gate_panels *P, ptrdiff_t t, ptrdiff_t steps,
                         int first_gate, int G, const right_side *sides, real *room)
{
    if (job->first_row)
        rows_input(job, tm, rank, P, t, steps, first_gate, G, sides, room);
    else
        for (tile_walk w = team_tiles(tm, rank, strip_count(P->H, G), P->N, ROWS_2, 0); next_panel(&w);) {
            const panel_strip strip = strip_at(P->H, G, w.p);
            panel_input(P, strip, first_gate, G, w.n, w.n + w.rows, steps, (const real *)job->xs.p + t * job->xs.s1, job->xs.s0,
                        job->xs.s1, job->D, sides[strip.p]);
        }
    team_wait(tm);
}

/* dxs = dA Wx^T where all samples go through all steps: this thread's part. The rows of some samples (or steps) at a time,
 * about 128, are multiplied with all columns while they are in L2. */
static void all_input_grads(const gate_panels *P, const team *tm, int rank, const real *packed, const cell_job *job)
{
    const ptrdiff_t N = P->N, T = P->T, D = job->D, Q = pair_count(D), pair = P->G * P->H * 2 * W;
    const ptrdiff_t dxn = job->dxs.s0, dxt = job->dxs.s1;
    const int over_time = N * tile_count(T, ROWS_2) <= T * tile_count(N, ROWS_2);
    const ptrdiff_t outer = over_time ? N : T, inner = over_time ? T : N, most = inner < 128 ? 128 / inner : 1;
    transposed x = {.P = P, .G = P->G, .rows = inner, .apart = over_time ? N : 1, .cr = over_time ? dxt : dxn};
    ptrdiff_t from, to, o1, q1;
    team_share(tm, rank, outer * Q, &from, &to);

    for (ptrdiff_t part = from; part < to; part += (o1 - part / Q) * (q1 - part % Q)) {
        const ptrdiff_t o0 = part / Q, q0 = part % Q, whole = (to - part) / Q;
        o1 = o0 + (q0 > 0 || whole < 1 ? 1 : whole < most ? whole : most);
        q1 = q0 > 0 || whole < 1 ? (Q < q0 + to - part ? Q : q0 + to - part) : Q;
        for (x.p = 0; x.p * W < P->H; x.p += x.count) {
            x.count = panels_at_once(P->H, P->G, x.p);
            for (ptrdiff_t q = q0; q < q1 && !team_stopped(); q++)
                for (ptrdiff_t o = o0; o < o1; o++) {
                    x.t = over_time ? 0 : o, x.n = over_time ? o : 0;
                    x.weights = packed + q * pair + x.p * W * P->G * 2 * W, x.next = x.weights + pair;
                    x.columns = pair_columns(D, q);
                    x.c = (real *)job->dxs.p + o * (over_time ? dxn : dxt) + q * 2 * W;
                    x.first_use = q == q0;
                    times_transposed(&x);
                }
        }
    }
}

/* The same of the samples at work alone, from block to block of rows of the panels, into c (pairs of columns, INPUT_ROWS, 2 W)
 * and from there to their places. The rest of dxs is 0 already. */
static void rows_input_grads(const gate_panels *P, const team *tm, int rank, const real *packed, const cell_job *job, real *c)
{
    const step_rows all = rows_of_panels(P);
    const ptrdiff_t D = job->D, Q = pair_count(D), pair = P->G * P->H * 2 * W, each = tile_count(P->R, 2 * tm->size);
    const ptrdiff_t most = each < ROWS_2 ? ROWS_2 : each < INPUT_ROWS ? each : INPUT_ROWS, blocks = tile_count(P->R, most);
    transposed x = {.P = P, .G = P->G, .apart = 1, .cr = 2 * W};
    ptrdiff_t b0, b1;
    team_share(tm, rank, blocks, &b0, &b1);

    for (ptrdiff_t block = b0; block < b1 && !team_stopped(); block++) {
        x.n = tile_start(P->R, blocks, block), x.rows = tile_start(P->R, blocks, block + 1) - x.n;
        for (x.p = 0; x.p * W < P->H; x.p += x.count) {
            x.count = panels_at_once(P->H, P->G, x.p);
            for (ptrdiff_t q = 0; q < Q; q++) {
                x.weights = packed + q * pair + x.p * W * P->G * 2 * W, x.next = x.weights + pair;
                x.columns = pair_columns(D, q) > W ? 2 * W : W;
                x.c = c + q * INPUT_ROWS * 2 * W;
                x.first_use = q == 0;
                times_transposed(&x);
            }
        }
        row_place at = place_of(all, x.n);
        for (ptrdiff_t r = 0; r < x.rows; r++, next_place(all, &at)) {
            real *dx = row_at(job, job->dxs, at.t, at.n);
            for (ptrdiff_t q = 0; q < Q; q++)
                memcpy(dx + q * 2 * W, c + (q * INPUT_ROWS + r) * 2 * W, pair_columns(D, q) * sizeof(real));
        }
    }
}

/* dxs = dA Wx^T: this thread's part. packed: all columns of Wx^T, one pack_transposed after another; room: grad_room. */
static void panel_input_grads(const gate_panels *P, const team *tm, int rank, const real *packed, const cell_job *job,
                              real *room)
{
    if (job->first_row)
        rows_input_grads(P, tm, rank, packed, job, room + weight_grad_room(job, widest_of(job)) + rank * input_grad_room(job));
    else
        all_input_grads(P, tm, rank, packed, job);
}
