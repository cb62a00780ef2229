/* GRU over a whole sequence (Cho et al. 2014), reset before the product, as the book writes it, or after.
 *
 *   z, r = sigmoid(x Wx_zr + h_prev Wh_zr + b_zr)     x (N, D), h (N, H)
 *   a    = tanh(x Wx_a + (r h_prev) Wh_a + b_a)       the candidate
 *   h    = (1 - z) h_prev + z a
 *
 * With h_mask m both products read s = h_prev m in the place of h_prev; h itself mixes with the whole h_prev.
 *
 *   dA_a = dh z (1 - a^2)           dq = dA_a Wh_a^T          gradient of r s
 *   dA_z = dh (a - h_prev) z(1-z)   dA_r = dq s r(1-r)
 *   dh_prev = dh (1 - z) + dq r m + (dA_z, dA_r) Wh_zr^T m
 *
 * The candidate needs all of r s, so a step has two halves and two barriers, in both directions.
 * Kept for backward: panels with S = 3 (z, r, a), h, s and r s (T, N, H). Backward writes dA over z, r, a.
 *
 * reset_after: each unit resets its own share of one product with all of Wh, which has its own bias b1.
 *
 *   q = s Wh_a + b1_a     a = tanh(x Wx_a + b0_a + r q)     z, r = sigmoid(x Wx_zr + b0_zr + s Wh_zr + b1_zr)
 *   dA_r = dA_a q r(1-r)  dq = dA_a r                       dh_prev = dh (1 - z) + (dA_z, dA_r, dq) Wh^T m
 *
 * A step is then one walk over tiles, with one barrier; panels have S = 4 (z, r, a, q), and dq is written over q.
 *
 * z_keeps: z is what is kept of h_prev. Here z is turned into 1 - z = sigmoid(-A_z) at once, so only dA_z changes: its sign.
 */

#define GRU_GATES 3

typedef struct {
    const cell_job *job;
    panels_of panels;                      /* without training: room for one chunk of steps, used again and again */
    int ahead;                             /* x Wx is computed into the panels, for `chunk` steps ahead of their time loop */
    ptrdiff_t chunk;
    right_side *Wx_zr, *Wx_a, *Wh_zr, *Wh_a; /* of each panel */
    REAL *Wx_zr_room, *Wx_a_room, *Wh_zr_room, *Wh_a_room; /* [panel][k][gates][W] */
    REAL *WxT_room, *WhT_zr_room, *WhT_a_room; /* backward: transposed, [columns / 2W][k][2 W] */
    REAL *x;                               /* forward, not ahead: copy_step */
    REAL *h, *seen, *rh;                   /* without training: h and h m (2, N, H), r s (N, H) */
    int few;                               /* rows.h: then few_x, few_h (N, 3 H) are the products with Wx and Wh; */
    REAL *few_x, *few_h;                   /* backward: dA, and dq (N, H) */
    REAL *dh;                              /* backward: the part of dh_prev that stays with its unit (N, H) */
    REAL *sums;                            /* backward: a product with Wh^T, [H / 2W][N][2 W] */
    REAL *room;                            /* backward: the packed left side of the weights' gradients */
} NAME(gru_work);

static inline const REAL *NAME(gru_h_prev)(const NAME(gru_work) *k, ptrdiff_t t, ptrdiff_t n)
{
    const cell_job *job = k->job;
    if (t == 0)
        return job->h0.p ? (const REAL *)job->h0.p + n * job->h0.s0 : NULL;
    return (job->train ? (REAL *)job->h : k->h) + ((job->train ? t - 1 : (t - 1) % 2) * job->N + n) * NAME(step_of)(job->H);
}

/* s: what the products of step t read. */
static inline const REAL *NAME(gru_seen)(const NAME(gru_work) *k, ptrdiff_t t, ptrdiff_t n)
{
    const cell_job *job = k->job;
    if (t == 0)
        return job->seen0.p ? (const REAL *)job->seen0.p + n * job->seen0.s0 : NULL;
    return (job->train ? (REAL *)job->seen : k->seen) + ((job->train ? t - 1 : (t - 1) % 2) * job->N + n) * NAME(step_of)(job->H);
}

static inline REAL *NAME(gru_rh)(const NAME(gru_work) *k, ptrdiff_t t, ptrdiff_t n)
{
    const cell_job *job = k->job;
    return (job->train ? (REAL *)job->rh + t * job->N * NAME(step_of)(job->H) : k->rh) + n * NAME(step_of)(job->H);
}

/* First half of a step: z, r and r s of one tile. `sums`, from gates_product, holds x Wx_zr + s Wh_zr; if
 * the panels hold x Wx it is s Wh_zr, or NULL. */
static void NAME(gru_gates)(const NAME(gru_work) *k, ptrdiff_t p, ptrdiff_t t, ptrdiff_t slot, ptrdiff_t n0, ptrdiff_t rows,
                            const REAL *sums)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H, w = NAME(panel_width)(H, p), j = p * W, step = NAME(panel_vectors)(H, 2, p) * W;
    const REAL *b = job->b, *b1 = b && job->reset_after ? b + 3 * H : NULL;
    const int keeps_rh = (t > 0 || job->h0.p) && !job->reset_after;
    vec bz = b ? NAME(load_n)(b + j, w) : (vec){0}, br = b ? NAME(load_n)(b + H + j, w) : (vec){0};
    if (b1)
        bz += NAME(load_n)(b1 + j, w), br += NAME(load_n)(b1 + H + j, w);

    for (ptrdiff_t r = 0; r < rows; r++) {
        const ptrdiff_t n = n0 + r;
        REAL *row = NAME(panel_row)(&k->panels, p, slot, n);
        vec Az = k->ahead ? NAME(load_n)(row, w) + bz : bz, Ar = k->ahead ? NAME(load_n)(row + w, w) + br : br;
        if (sums) {
            Az += NAME(load)(sums + r * step);
            Ar += NAME(load)(sums + r * step + w);
        }
        vec reset = NAME(vsigmoid)(Ar);
        NAME(store_n)(row, NAME(vsigmoid)(job->z_keeps ? -Az : Az), w);
        NAME(store_n)(row + w, reset, w);
        if (keeps_rh)
            NAME(store_n)(NAME(gru_rh)(k, t, n) + j, reset * NAME(load_n)(NAME(gru_seen)(k, t, n) + j, w), w);
    }
}

/* A step that does not concern the sample leaves h and s as they were. */
static void NAME(gru_idle)(const NAME(gru_work) *k, ptrdiff_t p, ptrdiff_t t, ptrdiff_t n)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H, w = NAME(panel_width)(H, p), j = p * W;
    const REAL *h = NAME(gru_h_prev)(k, t, n), *seen = NAME(gru_seen)(k, t, n);
    NAME(store_n)((REAL *)NAME(gru_h_prev)(k, t + 1, n) + j, h ? NAME(load_n)(h + j, w) : (vec){0}, w);
    if (job->h_mask.p)
        NAME(store_n)((REAL *)NAME(gru_seen)(k, t + 1, n) + j, seen ? NAME(load_n)(seen + j, w) : (vec){0}, w);
    NAME(idle_step)(job, t, n, j, w);
}

/* Second half: the candidate and h of one tile. `sums`, its rows apart by `step`, holds x Wx_a + (r s) Wh_a; if the
 * panels hold x Wx it is (r s) Wh_a, or NULL. With reset_after it holds x Wx_a, or is NULL, and products, laid out alike,
 * s Wh_a, or is NULL. */
static void NAME(gru_candidate)(const NAME(gru_work) *k, ptrdiff_t p, ptrdiff_t t, ptrdiff_t slot, ptrdiff_t n0,
                                ptrdiff_t rows, const REAL *sums, const REAL *products, ptrdiff_t step)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H, w = NAME(panel_width)(H, p), j = p * W;
    const REAL *b = job->b, *b1 = b && job->reset_after ? b + 3 * H : NULL;
    const vec bias = b ? NAME(load_n)(b + 2 * H + j, w) : (vec){0}, own = b1 ? NAME(load_n)(b1 + 2 * H + j, w) : (vec){0};

    for (ptrdiff_t r = 0; r < rows; r++) {
        const ptrdiff_t n = n0 + r;
        if (!at_work(job, t, n)) {
            NAME(gru_idle)(k, p, t, n);
            continue;
        }
        REAL *row = NAME(panel_row)(&k->panels, p, slot, n);
        const REAL *before = NAME(gru_h_prev)(k, t, n);
        vec A = k->ahead ? NAME(load_n)(row + 2 * w, w) + bias : bias, h_prev = before ? NAME(load_n)(before + j, w) : (vec){0};
        if (sums)
            A += NAME(load)(sums + r * step);
        if (job->reset_after) {
            vec q = products ? NAME(load)(products + r * step) + own : own;
            A += NAME(load_n)(row + w, w) * q;
            if (job->train)
                NAME(store_n)(row + 3 * w, q, w);
        }
        vec z = NAME(load_n)(row, w), a = NAME(vtanh)(A);
        vec h = (1 - z) * h_prev + z * a;
        NAME(store_n)(row + 2 * w, a, w);
        NAME(store_n)((REAL *)NAME(gru_h_prev)(k, t + 1, n) + j, h, w);
        if (job->h_mask.p)
            NAME(store_n)((REAL *)NAME(gru_seen)(k, t + 1, n) + j, h * NAME(mask_of)(job, n, j, w), w);
        NAME(store_n)((REAL *)job->hs.p + n * job->hs.s0 + t * job->hs.s1 + j, h, w);
        if (t == last_step(job, n))
            NAME(store_n)((REAL *)job->hT + n * H + j, h, w);
    }
}

/* A step with reset_after: a strip's gates, then its candidates. Scratch: sums and products, of one tile each. */
static void NAME(gru_step_after)(const NAME(gru_work) *k, const team *tm, int rank, ptrdiff_t t, const REAL *x, const REAL *h,
                                 ptrdiff_t h_n, REAL *sums, REAL *products, int own_rows)
{
    const ptrdiff_t N = k->job->N, D = k->job->D, H = k->job->H, tiles = tile_count(N, ROWS_2), slot = t % k->chunk;
    const ptrdiff_t x_n = NAME(step_of)(D);
    for (tile_walk w = team_tiles(tm, rank, NAME(strip_count)(H, 1), N, ROWS_2, own_rows); next_tile(&w);) {
        const panel_strip strip = NAME(strip)(H, 1, w.p);
        for (ptrdiff_t p = strip.p; p < strip.p + strip.panels; p++) {
            if (!k->ahead)
                NAME(gates_product)(1, D, w.rows, x + w.n * x_n, x_n, k->Wx_zr[p], w.i, tiles, sums, 0);
            if (h && k->few)
                NAME(few_to_sums)(&k->panels, (panel_strip){p, 1}, N, 0, 2, k->few_h, sums);
            else if (h)
                NAME(gates_product)(1, H, w.rows, h + w.n * h_n, h_n, k->Wh_zr[p], w.i, tiles, sums, !k->ahead);
            NAME(gru_gates)(k, p, t, slot, w.n, w.rows, h || !k->ahead ? sums : NULL);
        }
        if (!k->ahead)
            NAME(gates_product)(strip.panels, D, w.rows, x + w.n * x_n, x_n, k->Wx_a[strip.p], w.i, tiles, sums, 0);
        if (h && k->few)
            NAME(few_to_sums)(&k->panels, strip, N, 2, 1, k->few_h, products);
        else if (h)
            NAME(gates_product)(strip.panels, H, w.rows, h + w.n * h_n, h_n, k->Wh_a[strip.p], w.i, tiles, products, 0);
        for (int v = 0; v < strip.panels; v++)
            NAME(gru_candidate)(k, strip.p + v, t, slot, w.n, w.rows, k->ahead ? NULL : sums + v * W,
                                h ? products + v * W : NULL, strip.panels * W);
    }
}

static void NAME(gru_forward_body)(team *tm, int rank, void *work)
{
    NAME(gru_work) *k = work;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H, P = NAME(panel_count)(H);
    const matrix Wx = {job->Wx.p, job->Wx.s0, job->Wx.s1}, Wh = {job->Wh.p, job->Wh.s0, job->Wh.s1};
    const ptrdiff_t tiles = tile_count(N, ROWS_2), strips = NAME(strip_count)(H, 1);
    REAL sums[(ROWS_2 * 2 + 1) * (VECTOR_BYTES / sizeof(REAL))] __attribute__((aligned(64)));
    REAL products[ROWS_2 * 2 * (VECTOR_BYTES / sizeof(REAL))] __attribute__((aligned(64)));
    const int own_rows = NAME(owns_rows)(job, tm, 3);
    ptrdiff_t p0, p1;
    team_share(tm, rank, P, &p0, &p1);

    for (ptrdiff_t p = p0; p < p1 && !k->few; p++)
        if (job->packed) { /* as gru_pack lays it out */
            const REAL *at = job->packed;
            k->Wx_zr[p] = NAME(packed_weights)(at, D, H, 2, p), at += NAME(lines)(P * 2 * W * D);
            k->Wx_a[p] = NAME(packed_weights)(at, D, H, 1, p), at += NAME(lines)(P * W * D);
            k->Wh_zr[p] = NAME(packed_weights)(at, H, H, 2, p), at += NAME(lines)(P * 2 * W * H);
            k->Wh_a[p] = NAME(packed_weights)(at, H, H, 1, p);
        } else {
            k->Wx_zr[p] = NAME(gate_weights)(k->Wx_zr_room, Wx, D, H, 0, 2, p, T * tiles);
            k->Wx_a[p] = NAME(gate_weights)(k->Wx_a_room, Wx, D, H, 2, 1, p, T * tiles);
            k->Wh_zr[p] = NAME(gate_weights)(k->Wh_zr_room, Wh, H, H, 0, 2, p, T * tiles);
            k->Wh_a[p] = NAME(gate_weights)(k->Wh_a_room, Wh, H, H, 2, 1, p, T * tiles);
        }
    if (k->few) {
        NAME(few_gates)(&k->panels, p0, p1, N, job->xs.p, job->xs.s0, Wx, D, 0, 3, k->few_x);
        NAME(few_to_panels)(&k->panels, p0, p1, N, k->few_x);
        if (job->seen0.p)
            NAME(few_gates)(&k->panels, p0, p1, N, job->seen0.p, job->seen0.s0, Wh, H, 0, job->reset_after ? 3 : 2, k->few_h);
    }
    if (!k->ahead)
        NAME(copy_step)(job, tm, rank, 0, k->x);
    team_wait(tm);

    for (ptrdiff_t t = 0; t < T && !team_stopped(); t++) {
        const ptrdiff_t slot = t % k->chunk, steps = T - t < k->chunk ? T - t : k->chunk;
        const ptrdiff_t x_n = NAME(step_of)(D);
        const REAL *xs = (const REAL *)job->xs.p + t * job->xs.s1, *x = k->x + t % 2 * N * x_n;
        if (slot == 0 && k->ahead && !k->few) { /* each thread for the tiles that it walks over below */
            for (tile_walk w = team_tiles(tm, rank, P, N, ROWS_2, own_rows); !job->reset_after && next_panel(&w);)
                NAME(panel_input)(&k->panels, (panel_strip){w.p, 1}, 0, 2, w.n, w.n + w.rows, steps, xs, job->xs.s0,
                                  job->xs.s1, D, k->Wx_zr[w.p]);
            for (tile_walk w = team_tiles(tm, rank, strips, N, ROWS_2, own_rows); next_panel(&w);) {
                const panel_strip strip = NAME(strip)(H, 1, w.p);
                for (ptrdiff_t p = strip.p; p < strip.p + strip.panels && job->reset_after; p++)
                    NAME(panel_input)(&k->panels, (panel_strip){p, 1}, 0, 2, w.n, w.n + w.rows, steps, xs, job->xs.s0,
                                      job->xs.s1, D, k->Wx_zr[p]);
                NAME(panel_input)(&k->panels, strip, 2, 1, w.n, w.n + w.rows, steps, xs, job->xs.s0, job->xs.s1, D,
                                  k->Wx_a[strip.p]);
            }
        }

        const REAL *h = NAME(gru_seen)(k, t, 0);
        const ptrdiff_t h_n = t == 0 ? job->seen0.s0 : NAME(step_of)(H);
        if (job->reset_after) {
            NAME(gru_step_after)(k, tm, rank, t, x, h, h_n, sums, products, own_rows);
            if (!k->ahead)
                NAME(copy_step)(job, tm, rank, t + 1, k->x);
            step_wait(tm, own_rows); /* h of step t is whole */
            continue;
        }
        for (tile_walk w = team_tiles(tm, rank, P, N, ROWS_2, own_rows); next_tile(&w);) {
            if (!k->ahead)
                NAME(gates_product)(1, D, w.rows, x + w.n * x_n, x_n, k->Wx_zr[w.p], w.i, tiles, sums, 0);
            if (h && k->few)
                NAME(few_to_sums)(&k->panels, (panel_strip){w.p, 1}, N, 0, 2, k->few_h, sums);
            else if (h)
                NAME(gates_product)(1, H, w.rows, h + w.n * h_n, h_n, k->Wh_zr[w.p], w.i, tiles, sums, !k->ahead);
            NAME(gru_gates)(k, w.p, t, slot, w.n, w.rows, h || !k->ahead ? sums : NULL);
        }
        step_wait(tm, own_rows); /* r s is whole */
        if (h && k->few) {
            NAME(few_gates)(&k->panels, p0, p1, N, NAME(gru_rh)(k, 0, 0), NAME(step_of)(H), Wh, H, 2, 1, k->few_h);
            team_wait(tm);
        }
        for (tile_walk w = team_tiles(tm, rank, strips, N, ROWS_2, own_rows); next_tile(&w);) {
            const panel_strip strip = NAME(strip)(H, 1, w.p);
            if (!k->ahead)
                NAME(gates_product)(strip.panels, D, w.rows, x + w.n * x_n, x_n, k->Wx_a[strip.p], w.i, tiles, sums, 0);
            if (h && k->few)
                NAME(few_to_sums)(&k->panels, strip, N, 2, 1, k->few_h, sums);
            else if (h)
                NAME(gates_product)(strip.panels, H, w.rows, NAME(gru_rh)(k, t, w.n), NAME(step_of)(H), k->Wh_a[strip.p], w.i,
                                    tiles, sums, !k->ahead);
            for (int v = 0; v < strip.panels; v++)
                NAME(gru_candidate)(k, strip.p + v, t, slot, w.n, w.rows, h || !k->ahead ? sums + v * W : NULL, NULL,
                                    strip.panels * W);
        }
        if (!k->ahead)
            NAME(copy_step)(job, tm, rank, t + 1, k->x);
        step_wait(tm, own_rows); /* h of step t is whole */
    }
}

static ptrdiff_t NAME(gru_pack)(const cell_job *job, void *room)
{
    const matrix Wx = {job->Wx.p, job->Wx.s0, job->Wx.s1}, Wh = {job->Wh.p, job->Wh.s0, job->Wh.s1};
    ptrdiff_t n = 0;
    for (int h = 0; h < 2; h++)
        for (int a = 0; a < 2; a++)
            n += NAME(pack_panels)(room ? (REAL *)room + n : NULL, h ? Wh : Wx, h ? job->H : job->D, job->H, a ? 2 : 0, a ? 1 : 2);
    return n;
}

static inline int NAME(gru_kept)(const cell_job *job) { return GRU_GATES + (job->train && job->reset_after); }

static int NAME(gru_forward)(const cell_job *job)
{
    const ptrdiff_t N = job->N, D = job->D, H = job->H, P = NAME(panel_count)(H);
    NAME(gru_work) k = {.job = job, .few = NAME(is_few)(job), .chunk = NAME(panel_steps)(job)};
    k.ahead = k.few || NAME(goes_ahead)(job, 3);
    if (!job->train && !k.ahead)
        k.chunk = 1; /* z is kept from the first half of a step to the second */
    k.panels = (panels_of){job->panels, N, k.chunk, H, GRU_GATES, NAME(gru_kept)(job)};
    const int own = !job->packed && !k.few; /* weights to be packed in this call */
    ptrdiff_t x_zr = own ? NAME(lines)(P * 2 * W * D) : 0, x_a = own ? NAME(lines)(P * W * D) : 0;
    ptrdiff_t h_zr = own ? NAME(lines)(P * 2 * W * H) : 0, h_a = own ? NAME(lines)(P * W * H) : 0;
    ptrdiff_t few = k.few ? NAME(lines)(N * 3 * H) : 0, x = k.ahead ? 0 : NAME(lines)(2 * N * NAME(step_of)(D));
    ptrdiff_t gates = job->train ? 0 : NAME(lines)(k.chunk * N * 3 * H + W), state = job->train ? 0 : NAME(lines)(N * NAME(step_of)(H));
    const int masked = job->h_mask.p != NULL;
    REAL *room = NAME(new_room)(x_zr + x_a + h_zr + h_a + 2 * few + x + gates + (3 + 2 * masked) * state);
    right_side *sides = malloc(4 * P * sizeof(right_side));
    int stopped = 0;
    if (room && sides) {
        k.Wx_zr = sides, k.Wx_a = sides + P, k.Wh_zr = sides + 2 * P, k.Wh_a = sides + 3 * P;
        k.Wx_zr_room = room, k.Wx_a_room = room + x_zr, k.Wh_zr_room = k.Wx_a_room + x_a, k.Wh_a_room = k.Wh_zr_room + h_zr;
        k.few_x = k.Wh_a_room + h_a, k.few_h = k.few_x + few;
        k.x = k.few_h + few, k.rh = k.x + x, k.h = k.rh + state, k.seen = k.h + 2 * masked * state;
        if (!job->train)
            k.panels.p = k.seen + 2 * state;
        stopped = team_run(job->threads, NAME(gru_forward_body), &k);
    }
    int failed = !room || !sides;
    free(room);
    free(sides);
    return failed ? -1 : stopped;
}

/* First half of a step back: dA of z and the candidate for one tile of units q 2W.. (two panels); with reset_after all
 * there is to do. `sums` (rows, 2 W) holds dA_next Wh_zr^T, with reset_after all of dA_next Wh^T, or is NULL at the last
 * step, where dh is what the caller gave. */
static void NAME(gru_gate_grads)(const NAME(gru_work) *k, ptrdiff_t q, ptrdiff_t t, ptrdiff_t n0, ptrdiff_t rows,
                                 const REAL *sums)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H;

    for (ptrdiff_t p = 2 * q; p < 2 * q + 2 && p * W < H; p++) {
        const ptrdiff_t w = NAME(panel_width)(H, p), j = p * W;
        for (ptrdiff_t r = 0; r < rows; r++) {
            const ptrdiff_t n = n0 + r;
            const REAL *before = NAME(gru_h_prev)(k, t, n), *back = sums ? sums + r * 2 * W + (p - 2 * q) * W : NULL;
            REAL *row = NAME(panel_row)(&k->panels, p, t, n), *kept = k->dh + n * H + j;
            if (!at_work(job, t, n)) {
                for (int g = 0; g < k->panels.S; g++)
                    NAME(store_n)(row + g * w, (vec){0}, w);
                NAME(idle_step_back)(job, t, n, j, w, back, kept);
                continue;
            }
            vec z = NAME(load_n)(row, w), a = NAME(load_n)(row + 2 * w, w);
            vec h_prev = before ? NAME(load_n)(before + j, w) : (vec){0};
            vec dh = NAME(load_n)((const REAL *)job->dhs.p + n * job->dhs.s0 + t * job->dhs.s1 + j, w);
            if (t < last_step(job, n)) {
                vec dseen = NAME(load)(back);
                if (job->h_mask.p)
                    dseen *= NAME(mask_of)(job, n, j, w);
                dh += dseen + NAME(load_n)(kept, w);
            } else
                dh += NAME(state_of)(job->dhT, n, j, w);
            vec dA_z = dh * (a - h_prev) * z * (1 - z), dA_a = dh * z * (1 - a * a);
            NAME(store_n)(row, job->z_keeps ? -dA_z : dA_z, w);
            NAME(store_n)(row + 2 * w, dA_a, w);
            NAME(store_n)(kept, dh * (1 - z), w);
            if (job->reset_after) {
                vec reset = NAME(load_n)(row + w, w), of_product = NAME(load_n)(row + 3 * w, w);
                NAME(store_n)(row + w, dA_a * of_product * reset * (1 - reset), w);
                NAME(store_n)(row + 3 * w, dA_a * reset, w);
            }
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
            if (!at_work(job, t, n))
                continue; /* its dA of r is 0 */
            const REAL *before = NAME(gru_seen)(k, t, n);
            REAL *row = NAME(panel_row)(&k->panels, p, t, n), *kept = k->dh + n * H + j;
            vec reset = NAME(load_n)(row + w, w), dq = NAME(load)(sums + r * 2 * W + (p - 2 * q) * W);
            vec seen = before ? NAME(load_n)(before + j, w) : (vec){0};
            NAME(store_n)(row + w, dq * seen * reset * (1 - reset), w);
            if (job->h_mask.p)
                dq *= NAME(mask_of)(job, n, j, w);
            NAME(store_n)(kept, NAME(load_n)(kept, w) + dq * reset, w);
        }
    }
}

/* sums = dA of step t times Wh^T, of z and r, with reset_after and of dq. */
static void NAME(gru_hidden_grads)(const NAME(gru_work) *k, const team *tm, int rank, ptrdiff_t t, int own_rows)
{
    NAME(panel_hidden_grads)(&k->panels, tm, rank, t, 0, 2, k->WhT_zr_room, k->sums, 0, own_rows);
    if (k->job->reset_after)
        NAME(panel_hidden_grads)(&k->panels, tm, rank, t, 3, 1, k->WhT_a_room, k->sums, 1, own_rows);
}

/* db, with reset_after (2, 3 H): this thread's panels. */
static void NAME(gru_bias_grads)(const NAME(gru_work) *k, ptrdiff_t p0, ptrdiff_t p1)
{
    REAL *db = k->job->db;
    const ptrdiff_t H = k->job->H;
    if (db)
        NAME(panel_bias_grads)(&k->panels, p0, p1, 0, 3, db);
    if (db && k->job->reset_after) {
        NAME(panel_bias_grads)(&k->panels, p0, p1, 0, 2, db + 3 * H);
        NAME(panel_bias_grads)(&k->panels, p0, p1, 3, 1, db + 5 * H);
    }
}

/* Few rows: what is left once dh0 = dA Wh^T and dWh are there. */
static void NAME(few_last_grads)(const NAME(gru_work) *k, team *tm, int rank, ptrdiff_t p0, ptrdiff_t p1)
{
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, D = job->D, H = job->H;
    const matrix Wx = {job->Wx.p, job->Wx.s0, job->Wx.s1};
    NAME(few_mask_grads)(tm, rank, job);
    ptrdiff_t j0, j1; /* the units whose dh0 this thread has just written, as few_grads shares them */
    team_share(tm, rank, H, &j0, &j1);
    for (ptrdiff_t n = 0; n < N; n++)
        for (ptrdiff_t j = j0; j < j1; j++)
            ((REAL *)job->dh0)[n * H + j] += k->dh[n * H + j];
    NAME(gru_bias_grads)(k, p0, p1);
    if (job->reset_after) { /* dA has dq in the candidate's place */
        team_wait(tm);
        NAME(few_from_panels)(&k->panels, p0, p1, N, 2, k->few_x);
        team_wait(tm);
    }
    NAME(few_grads)(&k->panels, tm, rank, N, k->few_x, 0, 3, Wx, D, job->xs.p, job->xs.s0, (REAL *)job->dxs.p, job->dxs.s0,
                    job->dWx);
}

static void NAME(gru_backward_body)(team *tm, int rank, void *work)
{
    NAME(gru_work) *k = work;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H;
    const matrix Wx = {job->Wx.p, job->Wx.s0, job->Wx.s1}, Wh = {job->Wh.p, job->Wh.s0, job->Wh.s1};
    const ptrdiff_t Q = NAME(pair_count)(H);
    const int own_rows = NAME(owns_rows)(job, tm, 3);
    const ptrdiff_t h_n = NAME(step_of)(H);
    const REAL *seen0 = job->seen0.p, *rh = job->rh, *xs = job->xs.p;
    ptrdiff_t q0, q1, x0, x1, p0, p1;
    team_share(tm, rank, Q, &q0, &q1);
    team_share(tm, rank, NAME(pair_count)(D), &x0, &x1);
    team_share(tm, rank, NAME(panel_count)(H), &p0, &p1);

    if (k->few) {
        REAL *dA = k->few_x, *dq = k->few_h;
        for (ptrdiff_t q = q0; q < q1; q++)
            NAME(gru_gate_grads)(k, q, 0, 0, N, NULL);
        team_wait(tm);
        NAME(few_from_panels)(&k->panels, p0, p1, N, job->reset_after ? 3 : 2, dA);
        team_wait(tm);
        if (job->reset_after) {
            NAME(few_grads)(&k->panels, tm, rank, N, dA, 0, 3, Wh, H, seen0, job->seen0.s0, job->dh0, H, job->dWh);
            NAME(few_last_grads)(k, tm, rank, p0, p1);
            return;
        }
        NAME(few_grads)(&k->panels, tm, rank, N, dA, 2, 1, Wh, H, seen0 ? rh : NULL, h_n, dq, H, job->dWh);
        team_wait(tm);
        for (ptrdiff_t q = q0; q < q1; q++) {
            for (ptrdiff_t n = 0; n < N; n++)
                for (ptrdiff_t v = 0, j; (j = (2 * q + v) * W) < H && v < 2; v++)
                    NAME(store)(k->sums + ((q * N + n) * 2 + v) * W, NAME(load_n)(dq + n * H + j, H - j < W ? H - j : W));
            NAME(gru_reset_grads)(k, q, 0, 0, N, k->sums + q * N * 2 * W);
        }
        team_wait(tm);
        NAME(few_from_panels)(&k->panels, p0, p1, N, 2, dA);
        team_wait(tm);
        NAME(few_grads)(&k->panels, tm, rank, N, dA, 0, 2, Wh, H, seen0, job->seen0.s0, job->dh0, H, job->dWh);
        NAME(few_last_grads)(k, tm, rank, p0, p1);
        return;
    }
    for (ptrdiff_t q = q0; q < q1; q++) {
        NAME(pack_transposed)(k->WhT_zr_room + q * 2 * W * 2 * H, Wh, H, q, H, 0, 2);
        NAME(pack_transposed)(k->WhT_a_room + q * 2 * W * H, Wh, H, q, H, 2, 1);
    }
    for (ptrdiff_t q = x0; q < x1; q++)
        NAME(pack_transposed)(k->WxT_room + q * 2 * W * 3 * H, Wx, D, q, H, 0, 3);

    team_wait(tm);

    for (ptrdiff_t t = T - 1; t >= 0 && !team_stopped(); t--) {
        if (t < T - 1)
            NAME(gru_hidden_grads)(k, tm, rank, t + 1, own_rows);
        for (tile_walk w = team_tiles(tm, rank, Q, N, ROWS_2, own_rows); next_panel(&w);)
            NAME(gru_gate_grads)(k, w.p, t, w.n, w.rows, t < T - 1 ? k->sums + (w.p * N + w.n) * 2 * W : NULL);
        step_wait(tm, own_rows); /* dA of the candidate is whole */
        if (job->reset_after)
            continue;
        NAME(panel_hidden_grads)(&k->panels, tm, rank, t, 2, 1, k->WhT_a_room, k->sums, 0, own_rows);
        for (tile_walk w = team_tiles(tm, rank, Q, N, ROWS_2, own_rows); next_panel(&w);)
            NAME(gru_reset_grads)(k, w.p, t, w.n, w.rows, k->sums + (w.p * N + w.n) * 2 * W);
        step_wait(tm, own_rows); /* dA of z and r is whole */
    }
    NAME(gru_hidden_grads)(k, tm, rank, 0, own_rows);
    NAME(panel_state_grads)(&k->panels, tm, rank, job, k->sums, 1, k->dh, job->dh0, own_rows);

    if (!team_goes_on(tm, job->whole))
        return;
    rows_of x_rows = {xs, xs + job->xs.s1, job->xs.s0, job->xs.s1, job->xs.s0};
    rows_of h_rows = {seen0, job->seen, job->seen0.s0, N * h_n, h_n};
    rows_of rh_rows = {seen0 ? rh : NULL, job->reset_after ? NULL : rh + N * h_n, h_n, N * h_n, h_n};
    NAME(panel_weight_grads)(&k->panels, tm, rank, 0, 3, &x_rows, D, job->dWx, 3, k->room);
    NAME(panel_weight_grads)(&k->panels, tm, rank, 0, 2, &h_rows, H, job->dWh, 3, k->room);
    NAME(panel_weight_grads)(&k->panels, tm, rank, job->reset_after ? 3 : 2, 1, job->reset_after ? &h_rows : &rh_rows, H,
                             (REAL *)job->dWh + 2 * H, 3, k->room);
    NAME(gru_bias_grads)(k, p0, p1);
    NAME(panel_input_grads)(&k->panels, tm, rank, k->WxT_room, D, (REAL *)job->dxs.p, job->dxs.s0, job->dxs.s1);
}

static int NAME(gru_backward)(const cell_job *job)
{
    const ptrdiff_t N = job->N, D = job->D, H = job->H;
    NAME(gru_work) k = {.job = job, .panels = {job->panels, N, job->T, H, GRU_GATES, NAME(gru_kept)(job)}};
    k.few = NAME(is_few)(job);
    const ptrdiff_t packs = !k.few, few = k.few ? NAME(lines)(N * 3 * H) : 0;
    ptrdiff_t weights = packs * NAME(lines)(NAME(pair_count)(D) * 2 * W * 3 * H), state = NAME(lines)(N * H);
    ptrdiff_t zr = packs * NAME(lines)(NAME(pair_count)(H) * 2 * W * 2 * H), a = packs * NAME(lines)(NAME(pair_count)(H) * 2 * W * H);
    ptrdiff_t sums = NAME(lines)(NAME(pair_count)(H) * 2 * W * N);
    REAL *room = NAME(new_room)(weights + zr + a + state + sums + 2 * few + packs * NAME(grad_room)(job));
    if (!room)
        return -1;
    k.WxT_room = room, k.WhT_zr_room = room + weights, k.WhT_a_room = k.WhT_zr_room + zr;
    k.dh = k.WhT_a_room + a, k.sums = k.dh + state;
    k.few_x = k.sums + sums, k.few_h = k.few_x + few, k.room = k.few_h + few;
    const int stopped = team_run(job->threads, NAME(gru_backward_body), &k);
    free(room);
    return stopped;
}
