/* LSTM over a whole sequence (Hochreiter and Schmidhuber 1997; forget gate: Gers et al. 2000).
 *
 *   A = x Wx + h_prev Wh + b                     x (N, D), h (N, H), A (N, 4 H); with h_mask m: (h_prev m) Wh
 *   f, g, i, o = sigmoid, tanh, sigmoid, sigmoid of the four blocks of A
 *   c = f c_prev + g i        h = o tanh(c)
 *
 *   ds = dc + dh o (1 - tanh(c)^2)               dh = dhs + dA_next Wh^T (times m)
 *   dA = (ds c_prev f(1-f),  ds i (1-g^2),  ds g i(1-i),  dh tanh(c) o(1-o))
 *   dc_prev = ds f
 *
 * Peepholes p (3, H): f and i also see c_prev (A_f += p_f c_prev, A_i alike), o sees c. Then ds += p_o dA_o and
 * dc_prev += p_f dA_f + p_i dA_i. With full matrices peephole.h runs the steps. A clipped c ends in [-clip, clip], and
 * ds is 0 where it lies at a bound.
 *
 * candidate_mask m_g multiplies g in c: c = f c_prev + (m_g g) i. Then m_g is a factor of dA_g and dA_i, too.
 * h_zoneout and c_zoneout keep shares z_h and z_c of the old state: h is z_h h_prev + (1 - z_h) h then, c alike, and
 * tanh, o and the bound see c without that. dh of what it replaces is (1 - z_h) dh, and dh_prev += z_h dh; dc alike.
 *
 * Kept for backward: panels with S = 5 (f, g, i, o, c), with c_zoneout also what c was without it, and h m (T, N, H).
 * Backward writes dA over f, g, i, o.
 */

#define LSTM_GATES 4
static inline int lstm_kept(const cell_job *job) { return job->c_zoneout.p ? 6 : 5; }

typedef struct {
    const cell_job *job;
    gate_panels panels; /* without training: room for one chunk of steps, used again and again, or none */
    int precomputed;    /* the panels hold x Wx of `chunk` steps before their time loop */
    ptrdiff_t chunk;
    right_side *Wx, *Wh;     /* of each panel */
    real *Wx_room, *Wh_room; /* forward: [panel][k][4][W]; backward: transposed, [columns / 2W][4 H][2 W] */
    real *x;                 /* forward, not precomputed: copy_step */
    real *h, *c;             /* without training: h m (2, N, P) and c (N, H); backward: c is dc (N, H) */
    real *u;                 /* without training, with a projection: (N, H) */
    int few;                 /* rows.h: then few_x, few_h (N, 4 H) are the products with Wx and Wh; backward: dA */
    real *few_x, *few_h;
    real *dh;   /* backward with h_zoneout, else NULL: the part of dh_prev that stays with its unit (N, P) */
    real *sums; /* backward: dA_next Wh^T, [H / 2W][N][2 W] */
    real *room; /* backward: the packed left side of the weights' gradients */
} lstm_work;

/* h m of sample n after step t, as it is kept. */
static inline real *lstm_seen(const lstm_work *k, ptrdiff_t t, ptrdiff_t n)
{
    const cell_job *job = k->job;
    return (job->train ? (real *)job->seen : k->h) + ((job->train ? t : t % 2) * job->N + n) * step_of(job->P);
}

/* c before step t: units of panel p. */
static inline __attribute__((always_inline)) vec lstm_c_prev(const lstm_work *k, ptrdiff_t p, ptrdiff_t t, ptrdiff_t n,
                                                             ptrdiff_t w)
{
    const cell_job *job = k->job;
    if (t == first_step(job, n))
        return state_of(job->c0, n, p * W, w);
    return load_n(job->train ? panel_row(&k->panels, p, t - 1, n) + 4 * w : k->c + n * job->H + p * W, w);
}

/* h of one row of a tile, to where it is kept and given. */
static inline void lstm_give(const lstm_work *k, ptrdiff_t t, ptrdiff_t n, ptrdiff_t j, ptrdiff_t w, vec h, vec c)
{
    const cell_job *job = k->job;
    store_n(lstm_seen(k, t, n) + j, job->h_mask.p ? h * mask_of(job, n, j, w) : h, w);
    store_n(row_at(job, job->hs, t, n) + j, h, w);
    if (t == last_step(job, n)) {
        store_n((real *)job->hT + n * job->H + j, h, w);
        store_n((real *)job->cT + n * job->H + j, c, w);
    }
}

/* g as c sees it. */
static inline vec lstm_masked(const cell_job *job, ptrdiff_t t, ptrdiff_t n, ptrdiff_t j, ptrdiff_t w, vec g)
{
    return job->candidate_mask.p ? g * of_step(job, job->candidate_mask, t, n, j, w) : g;
}

/* With a projection (lstmp.h): o tanh(c) of sample n at step t, of which h is still to be made. */
static inline real *lstm_u(const lstm_work *k, ptrdiff_t t, ptrdiff_t n)
{
    const cell_job *job = k->job;
    return (job->train ? (real *)job->u + t * job->N * step_of(job->H) : k->u) + n * step_of(job->H);
}

static inline void lstm_give_u(const lstm_work *k, ptrdiff_t t, ptrdiff_t n, ptrdiff_t j, ptrdiff_t w, vec u, vec c)
{
    const cell_job *job = k->job;
    store_n(lstm_u(k, t, n) + j, u, w);
    if (t == last_step(job, n))
        store_n((real *)job->cT + n * job->H + j, c, w);
}

/* Activations of one tile: rows n0.. of step t of panel p. `sums`, from gates_product, holds x Wx + h_prev Wh; if the
 * panels hold x Wx it is h_prev Wh, or NULL. plain, a constant: no lengths, peepholes, bound, masks or
 * shares of each step; projected, another: what the tile gives is u. */
static inline __attribute__((always_inline)) void lstm_tile(const int plain, const int projected, const lstm_work *k,
                                                            ptrdiff_t p, ptrdiff_t t, ptrdiff_t slot, ptrdiff_t n0,
                                                            ptrdiff_t rows, const real *sums)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H, w = panel_width(H, p), j = p * W, step = panel_vectors(H, 4, p) * W;
    vec bias[4] = {{0}}, peephole[3] = {{0}};
    if (job->b)
        for (int g = 0; g < 4; g++)
            bias[g] = load_n((const real *)job->b + g * H + j, w);
    if (!plain && job->Wp)
        for (int g = 0; g < 3; g++)
            peephole[g] = load_n((const real *)job->Wp + g * H + j, w);

    for (ptrdiff_t r = 0; r < rows; r++) {
        const ptrdiff_t n = n0 + r;
        real *row = job->train || k->precomputed ? panel_row(&k->panels, p, slot, n) : NULL;
        vec c_prev = lstm_c_prev(k, p, t, n, w);
        vec A[4];
        for (int g = 0; g < 4; g++) {
            A[g] = k->precomputed ? load_n(row + g * w, w) + bias[g] : bias[g];
            if (sums)
                A[g] += load(sums + r * step + g * w);
        }
        if (!plain && job->Wp) /* without, 0 times an infinite c would be NaN */
            A[0] += peephole[0] * c_prev, A[2] += peephole[1] * c_prev;
        vec f = vsigmoid(A[0]), g = vtanh(A[1]), i = vsigmoid(A[2]);
        vec c = f * c_prev + (plain ? g : lstm_masked(job, t, n, j, w, g)) * i;
        if (!plain && job->clip)
            c = clamp(c, -(real)job->clip, (real)job->clip);
        if (!plain && job->Wp)
            A[3] += peephole[2] * c;
        vec o = vsigmoid(A[3]), h = o * vtanh(c);
        if (!plain && !projected && job->h_zoneout.p) /* else lstmp.h keeps the share, of h */
            h = zoned(of_step(job, job->h_zoneout, t, n, j, w), shown_before(job, t, n, j, w), h);
        if (!plain && job->c_zoneout.p) {
            if (job->train)
                store_n(row + 5 * w, c, w);
            c = zoned(of_step(job, job->c_zoneout, t, n, j, w), c_prev, c);
        }

        if (job->train) {
            store_n(row, f, w);
            store_n(row + w, g, w);
            store_n(row + 2 * w, i, w);
            store_n(row + 3 * w, o, w);
            store_n(row + 4 * w, c, w);
        } else {
            store_n(k->c + n * H + j, c, w);
        }
        if (projected)
            lstm_give_u(k, t, n, j, w, h, c);
        else
            lstm_give(k, t, n, j, w, h, c);
    }
}

static inline int lstm_is_plain(const cell_job *job)
{
    return !job->first_step && !job->Wp && !job->clip && !job->candidate_mask.p && !job->h_zoneout.p && !job->c_zoneout.p;
}

static void lstm_activate(const lstm_work *k, ptrdiff_t p, ptrdiff_t t, ptrdiff_t slot, ptrdiff_t n0, ptrdiff_t rows,
                          const real *sums)
{
    if (lstm_is_plain(k->job))
        lstm_tile(1, 0, k, p, t, slot, n0, rows, sums);
    else
        lstm_tile(0, 0, k, p, t, slot, n0, rows, sums);
}

/* The right sides of this thread's panels p0..p1, as they are in the packed weights or to be packed now. */
static void lstm_weights(const lstm_work *k, ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t tiles)
{
    const cell_job *job = k->job;
    const ptrdiff_t D = job->D, H = job->H, of_h = job->P, uses = job->T * tiles;
    const matrix Wx = {job->Wx.p, job->Wx.s0, job->Wx.s1}, Wh = {job->Wh.p, job->Wh.s0, job->Wh.s1};
    const real *packed = job->packed;
    for (ptrdiff_t p = p0; p < p1; p++) {
        k->Wx[p] = packed ? packed_weights(packed, D, H, 4, p) : gate_weights(k->Wx_room, Wx, D, H, 0, 4, p, uses);
        k->Wh[p] = packed ? packed_weights(packed + lines(panel_count(H) * 4 * W * D), of_h, H, 4, p)
                          : gate_weights(k->Wh_room, Wh, of_h, H, 0, 4, p, uses);
    }
}

/* What the products of step t read of h, its rows apart by *step; NULL: zeros. */
static inline const real *lstm_left_side(const lstm_work *k, ptrdiff_t t, ptrdiff_t *step)
{
    *step = t == 0 ? k->job->seen0.s0 : step_of(k->job->P);
    return t == 0 ? k->job->seen0.p : lstm_seen(k, t - 1, 0);
}

/* Final states of samples that no step concerns. */
static void lstm_pass(const cell_job *job)
{
    pass_state(job, job->h0, job->P, job->hT);
    pass_state(job, job->c0, job->H, job->cT);
}

static void lstm_forward_body(team *tm, int rank, void *work)
{
    lstm_work *k = work;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H, P = panel_count(H);
    const matrix Wx = {job->Wx.p, job->Wx.s0, job->Wx.s1}, Wh = {job->Wh.p, job->Wh.s0, job->Wh.s1};
    const ptrdiff_t most = N > ROWS_4 ? ROWS_2 : ROWS_4, tiles = tile_count(N, most); /* as gates_multiply cuts */
    real sums[(ROWS_2 * 4 + 1) * (VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));
    const int own_rows = k->precomputed ? 0 : owns_rows(job, tm, 4);
    ptrdiff_t p0, p1;
    team_share(tm, rank, P, &p0, &p1);

    if (!k->few) {
        lstm_weights(k, p0, p1, tiles);
    } else {
        few_gates(&k->panels, p0, p1, N, job->xs.p, job->xs.s0, Wx, D, 0, 4, k->few_x);
        few_to_panels(&k->panels, p0, p1, N, k->few_x);
        if (job->seen0.p)
            few_gates(&k->panels, p0, p1, N, job->seen0.p, job->seen0.s0, Wh, H, 0, 4, k->few_h);
    }
    if (!k->precomputed)
        copy_step(job, tm, rank, 0, k->x, own_rows);
    if (rank == 0)
        lstm_pass(job);
    team_wait(tm);

    for (ptrdiff_t t = 0; t < T && !team_stopped(); t++) {
        const ptrdiff_t slot = t % k->chunk;
        if (slot == 0 && k->precomputed && !k->few)
            panel_inputs(job, tm, rank, &k->panels, t, T - t < k->chunk ? T - t : k->chunk, 0, 4, k->Wx, k->x);
        ptrdiff_t h_n, x_n = step_of(D);
        const real *h = lstm_left_side(k, t, &h_n);
        for (tile_walk w = team_tiles(tm, rank, P, rows_of(job, t), most, own_rows); next_tile(&w);) {
            if (!k->precomputed)
                gates_product(1, D, w.rows, k->x + (t % 2 * N + w.n) * x_n, x_n, k->Wx[w.p], w.i, w.tiles, sums, 0);
            if (h && k->few)
                few_to_sums(&k->panels, (panel_strip){w.p, 1}, N, 0, 4, k->few_h, sums);
            else if (h)
                gates_product(1, H, w.rows, h + w.n * h_n, h_n, k->Wh[w.p], w.i, w.tiles, sums, !k->precomputed);
            lstm_activate(k, w.p, t, slot, w.n, w.rows, h || !k->precomputed ? sums : NULL);
        }
        if (!k->precomputed)
            copy_step(job, tm, rank, t + 1, k->x, own_rows);
        begin_samples(job, tm, rank, t, job->seen0, H, lstm_seen(k, t, 0), own_rows);
        step_wait(tm, own_rows); /* h of step t is whole */
    }
}

/* With whole peephole matrices: peephole.h. */
static int peephole_forward(const cell_job *job);
static int peephole_backward(const cell_job *job);

static int lstm_forward(const cell_job *job)
{
    if (job->full)
        return peephole_forward(job);
    const ptrdiff_t N = job->N, D = job->D, H = job->H, P = panel_count(H);
    lstm_work k = {.job = job, .few = is_few(job), .chunk = panel_steps(job)};
    k.precomputed = k.few || is_precomputed(job, 4);
    k.panels = panels_at(job, job->panels, k.chunk, H, LSTM_GATES, job->train ? lstm_kept(job) : LSTM_GATES);
    const int own = !job->packed && !k.few; /* weights to be packed in this call */
    ptrdiff_t weights = own ? lines(P * 4 * W * D) : 0, recurrent = own ? lines(P * 4 * W * H) : 0;
    ptrdiff_t few = k.few ? lines(N * 4 * H) : 0, state = job->train ? 0 : lines(N * step_of(H));
    ptrdiff_t gates = job->train || !k.precomputed ? 0 : lines(k.chunk * N * 4 * H + W);
    ptrdiff_t x = k.few ? 0 : input_room(job, k.precomputed);
    real *room = new_reals(weights + recurrent + 2 * few + x + gates + 3 * state);
    right_side *sides = malloc(2 * P * sizeof(right_side));
    int stopped = 0;
    if (room && sides) {
        k.Wx = sides, k.Wh = sides + P;
        k.Wx_room = room, k.Wh_room = room + weights;
        k.few_x = k.Wh_room + recurrent, k.few_h = k.few_x + few;
        k.x = k.few_h + few, k.c = k.x + x, k.h = k.c + state;
        if (!job->train)
            k.panels.p = k.h + 2 * state;
        stopped = team_run(job->threads, lstm_forward_body, &k);
    }
    int failed = !room || !sides;
    free_room(room);
    free(sides);
    return failed ? -1 : stopped;
}
