/* GRU over a whole sequence (Cho et al. 2014), reset before the product, as the book writes it.
 *
 *   z, r = sigmoid(x Wx_zr + h_prev Wh_zr + b_zr)     x (N, D), h (N, H)
 *   a    = tanh(x Wx_a + (r h_prev) Wh_a + b_a)       the candidate
 *   h    = (1 - z) h_prev + z a
 *
 *   dA_a = dh z (1 - a^2)           dq = dA_a Wh_a^T          gradient of r h_prev
 *   dA_z = dh (a - h_prev) z(1-z)   dA_r = dq h_prev r(1-r)
 *   dh_prev = dh (1 - z) + dq r + (dA_z, dA_r) Wh_zr^T
 *
 * The candidate needs all of r h_prev, so a step has two halves and two barriers, in both directions.
 * Kept for backward: panels with S = 3 (z, r, a), h and r h_prev (T, N, H). Backward writes dA over z, r, a.
 */

#define GRU_GATES 3

typedef struct {
    const cell_job *job;
    panels_of panels;                      /* without training: room for one chunk of steps, used again and again */
    ptrdiff_t chunk;                       /* steps whose x-side product is done ahead of their time loop */
    right_side *Wx, *Wh_zr, *Wh_a;         /* of each panel */
    REAL *Wx_room, *Wh_zr_room, *Wh_a_room; /* forward: [panel][k][gates][W]; backward: transposed, [columns / 2W][k][2 W] */
    REAL *h, *rh;                          /* without training: h (2, N, H), r h_prev (N, H) */
    REAL *dh;                              /* backward: the part of dh_prev that stays with its unit (N, H) */
    REAL *sums;                            /* backward: a product with Wh^T, [H / 2W][N][2 W] */
    REAL *room;                            /* backward: the packed left side of the weights' gradients */
} NAME(gru_work);

static inline const REAL *NAME(gru_h_prev)(const NAME(gru_work) *k, ptrdiff_t t, ptrdiff_t n)
{
    const cell_job *job = k->job;
    if (t == 0)
        return job->h0.p ? (const REAL *)job->h0.p + n * job->h0.s0 : NULL;
    return job->train ? (REAL *)job->h + ((t - 1) * job->N + n) * job->H : k->h + ((t - 1) % 2 * job->N + n) * job->H;
}

static inline REAL *NAME(gru_rh)(const NAME(gru_work) *k, ptrdiff_t t, ptrdiff_t n)
{
    return k->job->train ? (REAL *)k->job->rh + (t * k->job->N + n) * k->job->H : k->rh + n * k->job->H;
}

/* First half of a step: z, r and r h_prev of one tile. `sums` (rows, 2, W) holds h_prev Wh_zr, or is NULL. */
static void NAME(gru_gates)(const NAME(gru_work) *k, ptrdiff_t p, ptrdiff_t t, ptrdiff_t slot, ptrdiff_t n0, ptrdiff_t rows,
                            const REAL *sums)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H, w = NAME(panel_width)(H, p), j = p * W;
    const REAL *b = job->b;
    const vec bz = b ? NAME(load_n)(b + j, w) : (vec){0}, br = b ? NAME(load_n)(b + H + j, w) : (vec){0};

    for (ptrdiff_t r = 0; r < rows; r++) {
        const ptrdiff_t n = n0 + r;
        REAL *row = NAME(panel_row)(&k->panels, p, slot, n);
        vec Az = NAME(load_n)(row, w) + bz, Ar = NAME(load_n)(row + w, w) + br;
        if (sums) {
            Az += NAME(load)(sums + r * 2 * W);
            Ar += NAME(load)(sums + r * 2 * W + W);
        }
        vec reset = NAME(vsigmoid)(Ar);
        NAME(store_n)(row, NAME(vsigmoid)(Az), w);
        NAME(store_n)(row + w, reset, w);
        if (sums)
            NAME(store_n)(NAME(gru_rh)(k, t, n) + j, reset * NAME(load_n)(NAME(gru_h_prev)(k, t, n) + j, w), w);
    }
}

/* Second half: the candidate and h of one tile. `sums` (rows, W) holds (r h_prev) Wh_a, or is NULL. */
static void NAME(gru_candidate)(const NAME(gru_work) *k, ptrdiff_t p, ptrdiff_t t, ptrdiff_t slot, ptrdiff_t n0,
                                ptrdiff_t rows, const REAL *sums)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H, w = NAME(panel_width)(H, p), j = p * W;
    const vec bias = job->b ? NAME(load_n)((const REAL *)job->b + 2 * H + j, w) : (vec){0};

    for (ptrdiff_t r = 0; r < rows; r++) {
        const ptrdiff_t n = n0 + r;
        REAL *row = NAME(panel_row)(&k->panels, p, slot, n);
        vec A = NAME(load_n)(row + 2 * w, w) + bias, h_prev = {0};
        if (sums) {
            A += NAME(load)(sums + r * W);
            h_prev = NAME(load_n)(NAME(gru_h_prev)(k, t, n) + j, w);
        }
        vec z = NAME(load_n)(row, w), a = NAME(vtanh)(A);
        vec h = (1 - z) * h_prev + z * a;
        NAME(store_n)(row + 2 * w, a, w);
        REAL *kept = job->train ? (REAL *)job->h + (t * job->N + n) * H : k->h + (t % 2 * job->N + n) * H;
        NAME(store_n)(kept + j, h, w);
        NAME(store_n)((REAL *)job->hs.p + n * job->hs.s0 + t * job->hs.s1 + j, h, w);
        if (t == job->T - 1)
            NAME(store_n)((REAL *)job->hT + n * H + j, h, w);
    }
}

static void NAME(gru_forward_body)(team *tm, int rank, void *work)
{
    NAME(gru_work) *k = work;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H, P = NAME(panel_count)(H);
    const matrix Wx = {job->Wx.p, job->Wx.s0, job->Wx.s1}, Wh = {job->Wh.p, job->Wh.s0, job->Wh.s1};
    const ptrdiff_t tiles = T * tile_count(N, ROWS_2);
    REAL sums[ROWS_2 * 2 * (VECTOR_BYTES / sizeof(REAL))] __attribute__((aligned(64)));
    ptrdiff_t p0, p1;
    team_share(tm, rank, P, &p0, &p1);

    for (ptrdiff_t p = p0; p < p1; p++) {
        k->Wx[p] = NAME(gate_weights)(k->Wx_room + p * 3 * W * D, Wx, D, H, 0, 3, p, tiles);
        k->Wh_zr[p] = NAME(gate_weights)(k->Wh_zr_room + p * 2 * W * H, Wh, H, H, 0, 2, p, tiles);
        k->Wh_a[p] = NAME(gate_weights)(k->Wh_a_room + p * W * H, Wh, H, H, 2, 1, p, tiles);
    }
    team_wait(tm);

    for (ptrdiff_t t = 0; t < T; t++) {
        const ptrdiff_t slot = t % k->chunk;
        if (slot == 0)
            for (tile_walk w = team_tiles(tm, rank, P, N, ROWS_2); next_panel(&w);)
                NAME(panel_input)(&k->panels, w.p, w.n, w.n + w.rows, T - t < k->chunk ? T - t : k->chunk,
                                  (const REAL *)job->xs.p + t * job->xs.s1, job->xs.s0, job->xs.s1, D, k->Wx[w.p]);

        const REAL *h = NAME(gru_h_prev)(k, t, 0);
        const ptrdiff_t h_n = t == 0 ? job->h0.s0 : H;
        for (tile_walk w = team_tiles(tm, rank, P, N, ROWS_2); next_tile(&w);) {
            if (h) {
                product m = {.K = H, .a = h + w.n * h_n, .ar = h_n, .ak = 1, .b = k->Wh_zr[w.p].p, .bk = k->Wh_zr[w.p].bk,
                             .bv = k->Wh_zr[w.p].bv, .c = sums, .cr = 2 * W, .cv = W};
                NAME(gates_multiply)(2, w.rows, W, &m);
            }
            NAME(gru_gates)(k, w.p, t, slot, w.n, w.rows, h ? sums : NULL);
        }
        team_wait(tm); /* r h_prev is whole */
        for (tile_walk w = team_tiles(tm, rank, P, N, ROWS_2); next_tile(&w);) {
            if (h) {
                product m = {.K = H, .a = NAME(gru_rh)(k, t, w.n), .ar = H, .ak = 1, .b = k->Wh_a[w.p].p,
                             .bk = k->Wh_a[w.p].bk, .bv = k->Wh_a[w.p].bv, .c = sums, .cr = W, .cv = W};
                NAME(gates_multiply)(1, w.rows, W, &m);
            }
            NAME(gru_candidate)(k, w.p, t, slot, w.n, w.rows, h ? sums : NULL);
        }
        team_wait(tm); /* h of step t is whole */
    }
}

static int NAME(gru_forward)(const cell_job *job)
{
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H, P = NAME(panel_count)(H);
    NAME(gru_work) k = {.job = job, .chunk = T, .panels = {job->panels, N, T, H, GRU_GATES, GRU_GATES}};
    if (!job->train)
        k.panels.T = k.chunk = NAME(chunk_steps)(N, T);
    ptrdiff_t weights = NAME(lines)(P * 3 * W * D), zr = NAME(lines)(P * 2 * W * H), a = NAME(lines)(P * W * H);
    ptrdiff_t gates = job->train ? 0 : NAME(lines)(k.chunk * N * 3 * H + W), state = job->train ? 0 : NAME(lines)(N * H);
    REAL *room = NAME(new_room)(weights + zr + a + gates + 3 * state);
    right_side *sides = malloc(3 * P * sizeof(right_side));
    if (room && sides) {
        k.Wx = sides, k.Wh_zr = sides + P, k.Wh_a = sides + 2 * P;
        k.Wx_room = room, k.Wh_zr_room = room + weights, k.Wh_a_room = k.Wh_zr_room + zr;
        k.rh = k.Wh_a_room + a, k.h = k.rh + state;
        if (!job->train)
            k.panels.p = k.h + 2 * state;
        team_run(job->threads, NAME(gru_forward_body), &k);
    }
    int failed = !room || !sides;
    free(room);
    free(sides);
    return failed ? -1 : 0;
}

/* First half of a step back: dA of z and the candidate for one tile of units q 2W.. (two panels).
 * `sums` (rows, 2 W) holds dA_next Wh_zr^T, or is NULL at the last step, where dh is what the caller gave. */
static void NAME(gru_gate_grads)(const NAME(gru_work) *k, ptrdiff_t q, ptrdiff_t t, ptrdiff_t n0, ptrdiff_t rows,
                                 const REAL *sums)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H;

    for (ptrdiff_t p = 2 * q; p < 2 * q + 2 && p * W < H; p++) {
        const ptrdiff_t w = NAME(panel_width)(H, p), j = p * W;
        for (ptrdiff_t r = 0; r < rows; r++) {
            const ptrdiff_t n = n0 + r;
            const REAL *before = NAME(gru_h_prev)(k, t, n);
            REAL *row = NAME(panel_row)(&k->panels, p, t, n);
            vec z = NAME(load_n)(row, w), a = NAME(load_n)(row + 2 * w, w);
            vec h_prev = before ? NAME(load_n)(before + j, w) : (vec){0};
            vec dh = NAME(load_n)((const REAL *)job->dhs.p + n * job->dhs.s0 + t * job->dhs.s1 + j, w);
            if (sums)
                dh += NAME(load)(sums + r * 2 * W + (p - 2 * q) * W) + NAME(load_n)(k->dh + n * H + j, w);
            else if (job->dhT.p)
                dh += NAME(load_n)((const REAL *)job->dhT.p + n * job->dhT.s0 + j, w);
            NAME(store_n)(row, dh * (a - h_prev) * z * (1 - z), w);
            NAME(store_n)(row + 2 * w, dh * z * (1 - a * a), w);
            NAME(store_n)(k->dh + n * H + j, dh * (1 - z), w);
        }
    }
}

/* Second half: dA of r, and its share of dh_prev. `sums` (rows, 2 W) holds dq = dA_a Wh_a^T. */
static void NAME(gru_reset_grads)(const NAME(gru_work) *k, ptrdiff_t q, ptrdiff_t t, ptrdiff_t n0, ptrdiff_t rows,
                                  const REAL *sums)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H;

    for (ptrdiff_t p = 2 * q; p < 2 * q + 2 && p * W < H; p++) {
        const ptrdiff_t w = NAME(panel_width)(H, p), j = p * W;
        for (ptrdiff_t r = 0; r < rows; r++) {
            const ptrdiff_t n = n0 + r;
            const REAL *before = NAME(gru_h_prev)(k, t, n);
            REAL *row = NAME(panel_row)(&k->panels, p, t, n), *kept = k->dh + n * H + j;
            vec reset = NAME(load_n)(row + w, w), dq = NAME(load)(sums + r * 2 * W + (p - 2 * q) * W);
            vec h_prev = before ? NAME(load_n)(before + j, w) : (vec){0};
            NAME(store_n)(row + w, dq * h_prev * reset * (1 - reset), w);
            NAME(store_n)(kept, NAME(load_n)(kept, w) + dq * reset, w);
        }
    }
}

static void NAME(gru_backward_body)(team *tm, int rank, void *work)
{
    NAME(gru_work) *k = work;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H;
    const matrix Wx = {job->Wx.p, job->Wx.s0, job->Wx.s1}, Wh = {job->Wh.p, job->Wh.s0, job->Wh.s1};
    const ptrdiff_t Q = NAME(pair_count)(H);
    const REAL *h0 = job->h0.p, *h = job->h, *rh = job->rh, *xs = job->xs.p;
    ptrdiff_t q0, q1, x0, x1, p0, p1;
    team_share(tm, rank, Q, &q0, &q1);
    team_share(tm, rank, NAME(pair_count)(D), &x0, &x1);
    team_share(tm, rank, NAME(panel_count)(H), &p0, &p1);

    for (ptrdiff_t q = q0; q < q1; q++) {
        NAME(pack_transposed)(k->Wh_zr_room + q * 2 * W * 2 * H, Wh, H, q, H, 0, 2);
        NAME(pack_transposed)(k->Wh_a_room + q * 2 * W * H, Wh, H, q, H, 2, 1);
    }
    for (ptrdiff_t q = x0; q < x1; q++)
        NAME(pack_transposed)(k->Wx_room + q * 2 * W * 3 * H, Wx, D, q, H, 0, 3);

    team_wait(tm);

    for (ptrdiff_t t = T - 1; t >= 0; t--) {
        if (t < T - 1)
            NAME(panel_hidden_grads)(&k->panels, tm, rank, t + 1, 0, 2, k->Wh_zr_room, k->sums);
        for (tile_walk w = team_tiles(tm, rank, Q, N, ROWS_2); next_panel(&w);)
            NAME(gru_gate_grads)(k, w.p, t, w.n, w.rows, t < T - 1 ? k->sums + (w.p * N + w.n) * 2 * W : NULL);
        team_wait(tm); /* dA of the candidate is whole */
        NAME(panel_hidden_grads)(&k->panels, tm, rank, t, 2, 1, k->Wh_a_room, k->sums);
        for (tile_walk w = team_tiles(tm, rank, Q, N, ROWS_2); next_panel(&w);)
            NAME(gru_reset_grads)(k, w.p, t, w.n, w.rows, k->sums + (w.p * N + w.n) * 2 * W);
        team_wait(tm); /* dA of z and r is whole */
    }
    NAME(panel_hidden_grads)(&k->panels, tm, rank, 0, 0, 2, k->Wh_zr_room, k->sums);
    NAME(panel_state_grads)(&k->panels, tm, rank, k->sums, k->dh, job->dh0);

    rows_of x_rows = {xs, xs + job->xs.s1, job->xs.s0, job->xs.s1, job->xs.s0};
    rows_of h_rows = {h0, h, job->h0.s0, N * H, H};
    rows_of rh_rows = {h0 ? rh : NULL, rh + N * H, H, N * H, H};
    NAME(panel_weight_grads)(&k->panels, tm, rank, 0, 3, &x_rows, D, job->dWx, 3, k->room);
    NAME(panel_weight_grads)(&k->panels, tm, rank, 0, 2, &h_rows, H, job->dWh, 3, k->room);
    NAME(panel_weight_grads)(&k->panels, tm, rank, 2, 1, &rh_rows, H, job->dWh, 3, k->room);
    if (job->db)
        NAME(panel_bias_grads)(&k->panels, p0, p1, job->db);
    NAME(panel_input_grads)(&k->panels, tm, rank, k->Wx_room, D, (REAL *)job->dxs.p, job->dxs.s0, job->dxs.s1);
}

static int NAME(gru_backward)(const cell_job *job)
{
    const ptrdiff_t N = job->N, D = job->D, H = job->H;
    NAME(gru_work) k = {.job = job, .panels = {job->panels, N, job->T, H, GRU_GATES, GRU_GATES}};
    ptrdiff_t weights = NAME(lines)(NAME(pair_count)(D) * 2 * W * 3 * H), state = NAME(lines)(N * H);
    ptrdiff_t zr = NAME(lines)(NAME(pair_count)(H) * 2 * W * 2 * H), a = NAME(lines)(NAME(pair_count)(H) * 2 * W * H);
    ptrdiff_t sums = NAME(lines)(NAME(pair_count)(H) * 2 * W * N);
    REAL *room = NAME(new_room)(weights + zr + a + state + sums + GRAD_ROOM(D > H ? D : H));
    if (!room)
        return -1;
    k.Wx_room = room, k.Wh_zr_room = room + weights, k.Wh_a_room = k.Wh_zr_room + zr;
    k.dh = k.Wh_a_room + a, k.sums = k.dh + state, k.room = k.sums + sums;
    team_run(job->threads, NAME(gru_backward_body), &k);
    free(room);
    return 0;
}
