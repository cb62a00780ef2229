/* GRU over a whole sequence (Cho et al. 2014), reset before the product, as the book writes it, or after.
 *
 *   z, r = sigmoid(x Wx_zr + h_prev Wh_zr + b_zr)     x (N, D), h (N, H)
 *   h_hat = tanh(x Wx_h + (r h_prev) Wh_h + b_h)      the candidate
 *   h = (1 - z) h_prev + z h_hat
 *
 * With h_mask m both products read s = h_prev m in the place of h_prev; h itself mixes with the whole h_prev.
 *
 *   dA_h = dh z (1 - h_hat^2)           dq = dA_h Wh_h^T          gradient of r s
 *   dA_z = dh (h_hat - h_prev) z(1-z)   dA_r = dq s r(1-r)
 *   dh_prev = dh (1 - z) + dq r m + (dA_z, dA_r) Wh_zr^T m
 *
 * The candidate needs all of r s, so a step has two halves and two barriers, in both directions.
 * Kept for backward: panels with S = 3 (z, r, h_hat), h, s and r s (T, N, H). Backward writes dA over z, r, h_hat.
 *
 * reset_after: each unit resets its own share of one product with all of Wh, which has its own bias b1.
 *
 *   q = s Wh_h + b1_h     h_hat = tanh(x Wx_h + b0_h + r q)     z, r = sigmoid(x Wx_zr + b0_zr + s Wh_zr + b1_zr)
 *   dA_r = dA_h q r(1-r)  dq = dA_h r                           dh_prev = dh (1 - z) + (dA_z, dA_r, dq) Wh^T m
 *
 * A step is then one walk over tiles, with one barrier; panels have S = 4 (z, r, h_hat, q), and dq is written over q.
 *
 * candidate_mask m_h multiplies h_hat in h: h_hat becomes m_h h_hat in dA_z too, and dA_h = dh z m_h (1 - h_hat^2).
 * h_zoneout keeps a share z_h of h_prev: h is z_h h_prev + (1 - z_h) h then. dh of what it replaces is (1 - z_h) dh, and
 * dh_prev += z_h dh.
 *
 * z_keeps: z is what is kept of h_prev. Here z is turned into 1 - z = sigmoid(-A_z) at once, so only dA_z changes: its sign.
 */

#define GRU_GATES 3

/* Gates whose products go together: z and r, or the candidate. */
typedef struct {
    int first_gate, G;
    right_side *Wx, *Wh;     /* of each panel */
    real *Wx_room, *Wh_room; /* [panel][k][G][W] */
} gru_group;

typedef struct {
    const cell_job *job;
    gate_panels panels; /* without training: room for one chunk of steps, used again and again */
    int precomputed;    /* the panels hold x Wx of `chunk` steps before their time loop */
    ptrdiff_t chunk;
    gru_group zr, candidate;                   /* forward */
    real *WxT_room, *WhT_zr_room, *WhT_h_room; /* backward: transposed, [columns / 2W][k][2 W] */
    real *x;                                   /* forward, not precomputed: copy_step */
    real *h, *seen, *rh;                       /* without training: h and h m (2, N, H), r s (N, H) */
    int few;                                   /* rows.h: then few_x, few_h (N, 3 H) are the products with Wx and Wh; */
    real *few_x, *few_h;                       /* backward: dA, and dq (N, H) */
    real *dh;                                  /* backward: the part of dh_prev that stays with its unit (N, H) */
    real *sums;                                /* backward: a product with Wh^T, [H / 2W][N][2 W] */
    real *room;                                /* backward: the packed left side of the weights' gradients */
} gru_work;

static inline const real *gru_h_prev(const gru_work *k, ptrdiff_t t, ptrdiff_t n)
{
    const cell_job *job = k->job;
    if (t == 0)
        return job->h0.p ? (const real *)job->h0.p + n * job->h0.s0 : NULL;
    return (job->train ? (real *)job->h : k->h) + ((job->train ? t - 1 : (t - 1) % 2) * job->N + n) * step_of(job->H);
}

/* s: what the products of step t read. */
static inline const real *gru_seen(const gru_work *k, ptrdiff_t t, ptrdiff_t n)
{
    const cell_job *job = k->job;
    if (t == 0)
        return job->seen0.p ? (const real *)job->seen0.p + n * job->seen0.s0 : NULL;
    return (job->train ? (real *)job->seen : k->seen) + ((job->train ? t - 1 : (t - 1) % 2) * job->N + n) * step_of(job->H);
}

/* From one of its rows to the next. */
static inline ptrdiff_t gru_seen_n(const gru_work *k, ptrdiff_t t) { return t == 0 ? k->job->seen0.s0 : step_of(k->job->H); }

static inline real *gru_rh(const gru_work *k, ptrdiff_t t, ptrdiff_t n)
{
    const cell_job *job = k->job;
    return (job->train ? (real *)job->rh + t * job->N * step_of(job->H) : k->rh) + n * step_of(job->H);
}

/* First half of a step: z, r and r s of one tile. `sums`, from gates_product, holds x Wx_zr + s Wh_zr; if
 * the panels hold x Wx it is s Wh_zr, or NULL. */
static void gru_gates(const gru_work *k, ptrdiff_t p, ptrdiff_t t, ptrdiff_t slot, ptrdiff_t n0, ptrdiff_t rows,
                      const real *sums)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H, w = panel_width(H, p), j = p * W, step = panel_vectors(H, 2, p) * W;
    const real *b = job->b, *b1 = b && job->reset_after ? b + 3 * H : NULL;
    const int keeps_rh = (t > 0 || job->h0.p) && !job->reset_after;
    vec bz = b ? load_n(b + j, w) : (vec){0}, br = b ? load_n(b + H + j, w) : (vec){0};
    if (b1)
        bz += load_n(b1 + j, w), br += load_n(b1 + H + j, w);

    for (ptrdiff_t r = 0; r < rows; r++) {
        const ptrdiff_t n = n0 + r;
        real *row = panel_row(&k->panels, p, slot, n);
        vec Az = k->precomputed ? load_n(row, w) + bz : bz, Ar = k->precomputed ? load_n(row + w, w) + br : br;
        if (sums) {
            Az += load(sums + r * step);
            Ar += load(sums + r * step + w);
        }
        vec reset = vsigmoid(Ar);
        store_n(row, vsigmoid(job->z_keeps ? -Az : Az), w);
        store_n(row + w, reset, w);
        if (keeps_rh)
            store_n(gru_rh(k, t, n) + j, reset * load_n(gru_seen(k, t, n) + j, w), w);
    }
}

/* Second half: the candidate and h of one tile. `sums`, its rows apart by `step`, holds x Wx_h + (r s) Wh_h; if the
 * panels hold x Wx it is (r s) Wh_h, or NULL. With reset_after it holds x Wx_h, or is NULL, and products, laid out alike,
 * s Wh_h, or is NULL. */
static void gru_candidate(const gru_work *k, ptrdiff_t p, ptrdiff_t t, ptrdiff_t slot, ptrdiff_t n0, ptrdiff_t rows,
                          const real *sums, const real *products, ptrdiff_t step)
{
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H, w = panel_width(H, p), j = p * W;
    const real *b = job->b, *b1 = b && job->reset_after ? b + 3 * H : NULL;
    const vec bias = b ? load_n(b + 2 * H + j, w) : (vec){0}, own = b1 ? load_n(b1 + 2 * H + j, w) : (vec){0};

    for (ptrdiff_t r = 0; r < rows; r++) {
        const ptrdiff_t n = n0 + r;
        real *row = panel_row(&k->panels, p, slot, n);
        const real *before = gru_h_prev(k, t, n);
        vec A = k->precomputed ? load_n(row + 2 * w, w) + bias : bias, h_prev = before ? load_n(before + j, w) : (vec){0};
        if (sums)
            A += load(sums + r * step);
        if (job->reset_after) {
            vec q = products ? load(products + r * step) + own : own;
            A += load_n(row + w, w) * q;
            if (job->train)
                store_n(row + 3 * w, q, w);
        }
        vec z = load_n(row, w), h_hat = vtanh(A);
        store_n(row + 2 * w, h_hat, w);
        if (job->candidate_mask.p)
            h_hat *= of_step(job, job->candidate_mask, t, n, j, w);
        vec h = (1 - z) * h_prev + z * h_hat;
        if (job->h_zoneout.p)
            h = zoned(of_step(job, job->h_zoneout, t, n, j, w), h_prev, h);
        store_n((real *)gru_h_prev(k, t + 1, n) + j, h, w);
        if (job->h_mask.p)
            store_n((real *)gru_seen(k, t + 1, n) + j, h * mask_of(job, n, j, w), w);
        store_n(row_at(job, job->hs, t, n) + j, h, w);
        if (t == last_step(job, n))
            store_n((real *)job->hT + n * H + j, h, w);
    }
}
