/* The layer-normalised GRU over a whole sequence (Ba et al. 2016); gru.h has what is that of a GRU, norms.h the rest.
 *
 *   s = h_prev m        z, r = sigmoid(LN(x Wx_zr; gx_zr) + LN(s Wh_zr; gh_zr) + b_zr)      over the 2 H numbers of both
 *   q = LN(s Wh_h; gh_h) + bh     h_hat = tanh(LN(x Wx_h; gx_h) + b_h + r q)                over H numbers
 *   h = (1 - z) h_prev + z h_hat
 *
 *   dA_h = dh z (1 - h_hat^2)     dA_z = dh (h_hat - h_prev) z(1-z)     dA_r = dA_h q r(1-r)     dq = dA_h r
 *   du = back(dA gx)              dv = back((dA_z, dA_r, dq) gh)        dh_prev = dh (1 - z) + (dv Wh^T) m
 *
 * A step has two parts, each with a barrier after it: s Wh, then the rest; and back: dA and dq, then dv.
 *
 * Kept for backward: panels with S = 4 (z, r, h_hat, q), h and s (T, N, H); x Wx and s Wh as panels with S = 3, and the norms
 * of each, first (T, N) of z and r, then of the candidate. Backward writes dA and dq over the panels, du over x Wx and dv over
 * s Wh.
 */

#define LNGRU_KEPT 4

static const norm_group LNGRU_OF_X[] = {{0, 0, 2}, {2, 2, 1}}, LNGRU_OF_H[] = {{0, 0, 2}, {3, 2, 1}};

typedef struct {
    gru_work gru;            /* panels are there in training alone */
    gate_panels x_Wx, h_Wh;  /* without training of `chunk` steps and of one */
    norm *of_x, *of_h;       /* (2, T, N); without training of_x alone, of `chunk` steps */
    right_side *Wx, *Wh;     /* of each panel */
    real *Wx_room, *Wh_room; /* forward: [panel][k][3][W]; backward: transposed, [columns / 2W][3 H][2 W] */
    real *own;               /* of each thread: norm or norm_back, (2, N) */
    real *zr_sums, *q_sums;  /* backward: norm_sums of the parts of (dA_z, dA_r, dq) gh */
    real *parts, *parts_x;   /* backward: of the gradients of gh, [tile][3 H], and of gx, [block][3 H] */
} lngru_work;

static inline ptrdiff_t lngru_own(const cell_job *job) { return lines(4 * job->N) + 16; } /* apart by more than a line */

/* x Wx, s Wh and their norms in room, of so many steps. Returns the reals they take; with room NULL that is all. */
static ptrdiff_t lngru_places(lngru_work *work, real *room, ptrdiff_t x_steps, ptrdiff_t h_steps)
{
    const cell_job *job = work->gru.job;
    const ptrdiff_t N = job->N, H = job->H;
    const ptrdiff_t x = lines(x_steps * N * 3 * H + W), h = lines(h_steps * N * 3 * H + W), norms = lines(4 * x_steps * N);
    if (room) {
        work->x_Wx = panels_at(job, room, x_steps, H, 3, 3);
        work->h_Wh = panels_at(job, room + x, h_steps, H, 3, 3);
        work->of_x = (norm *)(room + x + h), work->of_h = (norm *)(room + x + h + norms);
    }
    return x + h + 2 * norms;
}

static ptrdiff_t lngru_pack(const cell_job *job, void *room) { return pack_cell(job, room, 3); }

/* The right sides of this thread's panels p0..p1, as they are in the packed weights or to be packed now. */
static void lngru_weights(const lngru_work *work, ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t tiles)
{
    const cell_job *job = work->gru.job;
    const ptrdiff_t D = job->D, H = job->H, uses = job->T * tiles;
    const matrix Wx = {job->Wx.p, job->Wx.s0, job->Wx.s1}, Wh = {job->Wh.p, job->Wh.s0, job->Wh.s1};
    const real *packed = job->packed;
    for (ptrdiff_t p = p0; p < p1; p++) {
        work->Wx[p] = packed ? packed_weights(packed, D, H, 3, p) : gate_weights(work->Wx_room, Wx, D, H, 0, 3, p, uses);
        work->Wh[p] = packed ? packed_weights(packed + lines(panel_count(H) * 3 * W * D), H, H, 3, p)
                             : gate_weights(work->Wh_room, Wh, H, H, 0, 3, p, uses);
    }
}

/* The gates and h of one tile. norms: of s Wh, (2, N). */
static void lngru_tile(const lngru_work *work, const tile_walk *tile, ptrdiff_t t, ptrdiff_t slot, const norm *norms)
{
    const gru_work *k = &work->gru;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, H = job->H, p = tile->p, w = panel_width(H, p), j = p * W, now = job->train ? t : 0;
    const norm *of_x = work->of_x + first_row(rows_of_panels(&work->x_Wx), slot), *of_x2 = of_x + work->x_Wx.R;
    const vec own = load_n((const real *)job->norms[2] + j, w);
    vec bias[3] = {{0}}, gain_x[3], gain_h[3];
    for (int g = 0; g < 3; g++) {
        if (job->b)
            bias[g] = load_n((const real *)job->b + g * H + j, w);
        gain_x[g] = load_n((const real *)job->norms[0] + g * H + j, w);
        gain_h[g] = load_n((const real *)job->norms[1] + g * H + j, w);
    }
    for (ptrdiff_t n = tile->n; n < tile->n + tile->rows; n++) {
        const real *x = panel_row(&work->x_Wx, p, slot, n), *u = panel_row(&work->h_Wh, p, now, n);
        const real *before = gru_h_prev(k, t, n);
        vec A[3], B[3], h_prev = before ? load_n(before + j, w) : (vec){0};
        UNROLLED
        for (int g = 0; g < 3; g++) {
            A[g] = bias[g] + norm_of(g < 2 ? of_x[n] : of_x2[n], load_n(x + g * w, w)) * gain_x[g];
            B[g] = norm_of(norms[g < 2 ? n : N + n], load_n(u + g * w, w)) * gain_h[g];
        }
        vec z = vsigmoid(A[0] + B[0]), r = vsigmoid(A[1] + B[1]), q = B[2] + own, h_hat = vtanh(A[2] + r * q);
        vec fresh = job->candidate_mask.p ? h_hat * of_step(job, job->candidate_mask, t, n, j, w) : h_hat;
        vec h = (1 - z) * h_prev + z * fresh;
        if (job->h_zoneout.p)
            h = zoned(of_step(job, job->h_zoneout, t, n, j, w), h_prev, h);
        if (job->train) {
            real *row = panel_row(&k->panels, p, t, n);
            store_n(row, z, w);
            store_n(row + w, r, w);
            store_n(row + 2 * w, h_hat, w);
            store_n(row + 3 * w, q, w);
        }
        store_n((real *)gru_h_prev(k, t + 1, n) + j, h, w);
        if (job->h_mask.p)
            store_n((real *)gru_seen(k, t + 1, n) + j, h * mask_of(job, n, j, w), w);
        store_n(row_at(job, job->hs, t, n) + j, h, w);
        if (t == last_step(job, n))
            store_n((real *)job->hT + n * H + j, h, w);
    }
    for (int i = 0; i < 2 && job->train && p == 0; i++)
        memcpy(work->of_h + i * work->h_Wh.R + first_row(rows_of_panels(&work->h_Wh), t) + tile->n, norms + i * N + tile->n,
               tile->rows * sizeof(norm));
}

static void lngru_forward_body(team *tm, int rank, void *for_all)
{
    lngru_work *work = for_all;
    gru_work *k = &work->gru;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, T = job->T, P = panel_count(job->H), tiles = tile_count(N, ROWS_3);
    const int own_rows = norm_owns_rows(job, tm, 3);
    norm *norms = (norm *)(work->own + rank * lngru_own(job));
    ptrdiff_t p0, p1, n0, n1;
    team_share(tm, rank, P, &p0, &p1);
    lngru_weights(work, p0, p1, tiles);
    if (rank == 0)
        pass_state(job, job->h0, job->H, job->hT);
    team_wait(tm);

    for (ptrdiff_t t = 0; t < T && !team_stopped(); t++) {
        const ptrdiff_t slot = t % k->chunk, now = job->train ? t : 0, rows = rows_of(job, t);
        const ptrdiff_t row = first_row(rows_of_panels(&work->h_Wh), now);
        norm_samples(tm, rank, P, rows, ROWS_3, own_rows, &n0, &n1);
        if (slot == 0)
            norm_input(job, tm, rank, &work->x_Wx, t, T - t < k->chunk ? T - t : k->chunk, ROWS_3, own_rows, work->Wx,
                       LNGRU_OF_X, 2, work->of_x, work->x_Wx.R, k->x);
        for (tile_walk w = team_tiles(tm, rank, P, rows, ROWS_3, own_rows); next_tile(&w);)
            norm_product(&work->h_Wh, now, &w, gru_seen(k, t, 0), gru_seen_n(k, t), work->Wh[w.p]);
        step_wait(tm, own_rows); /* s Wh is whole */
        for (int i = 0; i < 2; i++)
            norm_rows(&work->h_Wh, LNGRU_OF_X[i].of_u, LNGRU_OF_X[i].G, row + n0, row + n1, norms + i * N + n0);
        for (tile_walk w = team_tiles(tm, rank, P, rows, ROWS_3, own_rows); next_tile(&w);)
            lngru_tile(work, &w, t, slot, norms);
        gru_begin_samples(k, tm, rank, t, own_rows);
        step_wait(tm, own_rows); /* h of step t is whole */
    }
}

static int lngru_forward(const cell_job *job)
{
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H, P = panel_count(H);
    lngru_work work = {.gru = {.job = job, .chunk = panel_steps(job)}};
    gru_work *k = &work.gru;
    const int own = !job->packed, masked = job->h_mask.p != NULL; /* weights to be packed in this call */
    ptrdiff_t weights = own ? lines(P * 3 * W * D) : 0, recurrent = own ? lines(P * 3 * W * H) : 0;
    ptrdiff_t state = job->train ? 0 : lines(N * step_of(H)), each = lngru_own(job);
    ptrdiff_t norms = job->train ? 0 : lngru_places(&work, NULL, k->chunk, 1);
    real *room = new_reals(weights + recurrent + 2 * (1 + masked) * state + norms + job->threads * each + input_room(job, 1));
    right_side *sides = malloc(2 * P * sizeof(right_side));
    int stopped = 0;
    if (room && sides) {
        k->panels = panels_at(job, job->panels, T, H, GRU_GATES, LNGRU_KEPT);
        work.Wx = sides, work.Wh = sides + P;
        work.Wx_room = room, work.Wh_room = room + weights;
        k->h = work.Wh_room + recurrent, k->seen = k->h + 2 * masked * state;
        real *rest = k->seen + 2 * state;
        lngru_places(&work, job->train ? job->norms_kept : rest, job->train ? T : k->chunk, job->train ? T : 1);
        work.own = rest + norms, k->x = work.own + job->threads * each;
        stopped = team_run(job->threads, lngru_forward_body, &work);
    }
    int failed = !room || !sides;
    free_room(room);
    free(sides);
    return failed ? -1 : stopped;
}

/* First part of a step back, one tile of a pair of panels: dA and dq. `sums` (rows, 2 W) holds dv_next Wh^T, or is NULL at the
 * last step. */
static void lngru_gate_grads(const lngru_work *work, const tile_walk *tile, ptrdiff_t t, const real *sums)
{
    const gru_work *k = &work->gru;
    const cell_job *job = k->job;
    const ptrdiff_t H = job->H;
    const norm *of_h = work->of_h + first_row(rows_of_panels(&work->h_Wh), t), *of_h2 = of_h + work->h_Wh.R;

    for (ptrdiff_t p = 2 * tile->p; p < 2 * tile->p + 2 && p * W < H; p++) {
        const ptrdiff_t w = panel_width(H, p), j = p * W;
        vec gain[3];
        for (int g = 0; g < 3; g++)
            gain[g] = load_n((const real *)job->norms[1] + g * H + j, w);
        for (ptrdiff_t r = 0; r < tile->rows; r++) {
            const ptrdiff_t n = tile->n + r;
            const real *before = gru_h_prev(k, t, n), *back = sums ? sums + r * 2 * W + (p - 2 * tile->p) * W : NULL;
            real *row = panel_row(&k->panels, p, t, n), *kept = k->dh + n * H + j, *u = panel_row(&work->h_Wh, p, t, n);
            real *of_zr = norm_sums(work->zr_sums, H, n, p), *of_q = norm_sums(work->q_sums, H, n, p);
            vec z = load_n(row, w), reset = load_n(row + w, w), h_hat = load_n(row + 2 * w, w), q = load_n(row + 3 * w, w);
            vec h_prev = before ? load_n(before + j, w) : (vec){0};
            vec dh = given_dh(job, t, n, j, w);
            if (t < last_step(job, n)) {
                vec dseen = load(back);
                dh += (job->h_mask.p ? dseen * mask_of(job, n, j, w) : dseen) + load_n(kept, w);
            } else
                dh += state_of(job->dhT, n, j, w);
            vec slope = z * (1 - h_hat * h_hat), past = {0};
            if (job->candidate_mask.p) {
                vec mask = of_step(job, job->candidate_mask, t, n, j, w);
                slope *= mask, h_hat *= mask;
            }
            if (job->h_zoneout.p) {
                past = dh * of_step(job, job->h_zoneout, t, n, j, w);
                dh -= past;
            }
            vec dA_h = dh * slope, dA_r = dA_h * q * reset * (1 - reset), dq = dA_h * reset;
            vec dA_z = dh * (h_hat - h_prev) * z * (1 - z);
            store_n(row, dA_z, w);
            store_n(row + w, dA_r, w);
            store_n(row + 2 * w, dA_h, w);
            store_n(row + 3 * w, dq, w);
            store_n(kept, dh * (1 - z) + past, w);
            vec d_z = dA_z * gain[0], d_r = dA_r * gain[1], d_q = dq * gain[2];
            store(of_zr, d_z + d_r);
            store(of_zr + W, d_z * norm_of(of_h[n], load_n(u, w)) + d_r * norm_of(of_h[n], load_n(u + w, w)));
            store(of_q, d_q);
            store(of_q + W, d_q * norm_of(of_h2[n], load_n(u + 2 * w, w)));
        }
    }
}

/* The gradients of all weights, and du, once all of dA and dv is there. */
static void lngru_weight_grads(const lngru_work *work, team *tm, int rank)
{
    const gru_work *k = &work->gru;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, D = job->D, H = job->H;
    const left_rows x_rows = rows_of_x(job), h_rows = rows_of_seen(job);
    real *const *grads = (real *const *)job->dnorms;
    ptrdiff_t p0, p1;
    team_share(tm, rank, panel_count(H), &p0, &p1);

    norm_input_grads(job, tm, rank, &k->panels, &work->x_Wx, LNGRU_OF_X, 2, job->norms[0], work->of_x, work->x_Wx.R,
                     work->parts_x);
    panel_weight_grads(&work->h_Wh, tm, rank, 0, 3, &h_rows, H, job->dWh, 3, k->room);
    panel_weight_grads(&work->x_Wx, tm, rank, 0, 3, &x_rows, D, job->dWx, 3, k->room); /* it waits for du first */
    norm_sum_parts(H, 3, p0, p1, work->parts_x, tile_count(work->x_Wx.R, NORM_BLOCK), 3 * H, grads[0]);
    norm_sum_parts(H, 3, p0, p1, work->parts, tile_count(N, ROWS_2), 3 * H, grads[1]);
    panel_bias_grads(&k->panels, p0, p1, 3, 1, grads[2]);
    if (job->db)
        panel_bias_grads(&k->panels, p0, p1, 0, 3, job->db);
    panel_input_grads(&work->x_Wx, tm, rank, work->Wx_room, job, k->room);
}

static void lngru_backward_body(team *tm, int rank, void *for_all)
{
    lngru_work *work = for_all;
    gru_work *k = &work->gru;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H, Q = pair_count(H);
    const matrix Wx = {job->Wx.p, job->Wx.s0, job->Wx.s1}, Wh = {job->Wh.p, job->Wh.s0, job->Wh.s1};
    const int own_rows = norm_owns_rows(job, tm, 3);
    norm_back *backs = (norm_back *)(work->own + rank * lngru_own(job));
    ptrdiff_t n0, n1, q0, q1;
    team_share(tm, rank, Q, &q0, &q1);
    for (ptrdiff_t q = q0; q < q1; q++)
        pack_transposed(work->Wh_room + q * 2 * W * 3 * H, Wh, H, q, H, 0, 3);
    team_share(tm, rank, pair_count(D), &q0, &q1);
    for (ptrdiff_t q = q0; q < q1; q++)
        pack_transposed(work->Wx_room + q * 2 * W * 3 * H, Wx, D, q, H, 0, 3);
    if (rank == 0)
        pass_state(job, job->dhT, H, job->dh0);
    team_wait(tm);

    for (ptrdiff_t t = T - 1; t >= -1 && !team_stopped(); t--) { /* -1: the initial state */
        const ptrdiff_t rows = rows_of(job, t), both = rows_of_both(job, t);
        if (t < T - 1)
            panel_hidden_grads(&work->h_Wh, tm, rank, t + 1, both, 0, 3, work->Wh_room, k->sums, 0, own_rows);
        for (tile_walk w = team_tiles(tm, rank, Q, both, ROWS_2, own_rows); next_tile(&w);) {
            const ptrdiff_t all = w.rows;
            const real *sums = k->sums + (w.p * N + w.n) * 2 * W;
            w.rows = rows_at_work(job, t, w.n, all);
            if (w.rows)
                lngru_gate_grads(work, &w, t, t < T - 1 ? sums : NULL);
            state_grads(job, H, w.p, w.n + w.rows, all - w.rows, sums + w.rows * 2 * W, 1, k->dh, job->dh0);
        }
        if (t < 0)
            break;
        step_wait(tm, own_rows); /* dA of step t is whole */
        norm_samples(tm, rank, Q, rows, ROWS_2, own_rows, &n0, &n1);
        norm_backs(work->zr_sums, H, 2, n0, n1, backs);
        norm_backs(work->q_sums, H, 1, n0, n1, backs + N);
        for (tile_walk w = team_tiles(tm, rank, Q, rows, ROWS_2, own_rows); next_tile(&w);)
            for (ptrdiff_t p = 2 * w.p; p < 2 * w.p + 2 && p * W < H; p++)
                for (int i = 0; i < 2; i++) {
                    const norm_group group = LNGRU_OF_H[i];
                    const ptrdiff_t skip = group.of_u * H, row = first_row(rows_of_panels(&work->h_Wh), t) + w.n;
                    norm_panel_grads(&k->panels, &work->h_Wh, group, p, row, row + w.rows, (const real *)job->norms[1] + skip,
                                     work->of_h + i * work->h_Wh.R + row, backs + i * N + w.n,
                                     work->parts + w.i * 3 * H + skip);
                }
        step_wait(tm, own_rows); /* dv of step t is whole */
    }

    if (team_goes_on(tm, job->whole))
        lngru_weight_grads(work, tm, rank);
}

static int lngru_backward(const cell_job *job)
{
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H;
    lngru_work work = {.gru = {.job = job, .panels = panels_at(job, job->panels, T, H, GRU_GATES, LNGRU_KEPT)}};
    gru_work *k = &work.gru;
    ptrdiff_t weights = lines(pair_count(D) * 2 * W * 3 * H), recurrent = lines(pair_count(H) * 2 * W * 3 * H);
    ptrdiff_t state = lines(N * H), sums = lines(pair_count(H) * 2 * W * N), halves = lines(N * panel_count(H) * 2 * W);
    ptrdiff_t parts = lines(tile_count(N, ROWS_2) * 3 * H), parts_x = lines(tile_count(k->panels.R, NORM_BLOCK) * 3 * H);
    ptrdiff_t own = job->threads * lngru_own(job);
    real *room = new_reals(weights + recurrent + state + sums + 2 * halves + parts + parts_x + own + grad_room(job));
    if (!room)
        return -1;
    lngru_places(&work, job->norms_kept, T, T);
    work.Wx_room = room, work.Wh_room = room + weights;
    k->dh = work.Wh_room + recurrent, k->sums = k->dh + state;
    work.zr_sums = k->sums + sums, work.q_sums = work.zr_sums + halves;
    work.parts = work.q_sums + halves, work.parts_x = work.parts + parts;
    memset(work.parts, 0, parts * sizeof(real));
    work.own = work.parts_x + parts_x, k->room = work.own + own;
    const int stopped = team_run(job->threads, lngru_backward_body, &work);
    free_room(room);
    return stopped;
}
