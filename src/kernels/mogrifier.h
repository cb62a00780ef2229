/* The Mogrifier LSTM over a whole sequence (Melis et al. 2019); lstm.h has the rest of a step.
 *
 *   x_i = y x_(i-1)    y = 2 sigmoid(h_(i-1) M_i)      i odd      x_0 = x (N, D)       M_i (H, D)
 *   h_i = y h_(i-1)    y = 2 sigmoid(x_(i-1) M_i^T)    i even     h_0 = h_prev m (N, H)
 *
 * in r rounds, and then the step of an LSTM from x_r, h_r and c_prev. With rank k: M_i = L_i R_i, L_i (H, k), R_i (k, D).
 *
 *   dA = dx x_(i-1) y (1 - y / 2)    dx = dx y    dh += dA M_i^T    dM_i += h_(i-1)^T dA       i odd
 *   dA = dh h_(i-1) y (1 - y / 2)    dh = dh y    dx += dA M_i      dM_i^T += x_(i-1)^T dA     i even
 *
 * The rounds read and gate h_prev m alone: what h_zoneout keeps is h_prev.
 *
 * A round is one product, or with a rank two, u = h L and then u R: a list of products, each with a barrier after it.
 *
 * Kept for backward: what the LSTM keeps, and of each product y as panels with S = 1 and what it makes, x_i, h_i or u, as
 * rows (T, N, M). Backward writes dA, or du, over y.
 */

typedef struct {
    int of_h, last;    /* whether its round changes h, not x; whether it makes the new x or h, not u */
    int reads, gates;  /* the products that made what this one reads and what its gate multiplies; -1: none has yet */
    ptrdiff_t K, M;    /* how many numbers it reads, and how many it makes */
    matrix weights;    /* (K, M) */
    real *grads;       /* of the matrix as it lies in memory: with of_h that is (M, K) */
    gate_panels y;     /* of M columns; du where it makes u */
    real *rows;        /* what it makes: (T, N, M), without training (N, M); rows are step_of(M) apart */
    right_side *sides; /* of each panel */
    real *room;        /* forward: [panel][k][W]; backward: transposed, [K / 2W][M][2 W] */
} round_product;

typedef struct {
    lstm_work lstm;
    round_product *products;
    int count;
    int x, h;              /* the products that make x_r and h_r; h -1: none */
    real *zeros;           /* (N, H), an initial state that is not there */
    real *sums_x, *sums_u; /* backward: as `sums` of the LSTM, what comes back to x and to u */
    real *turned;          /* backward: the gradients of a transposed matrix */
} mogrifier_work;

static inline int mogrifier_count(const cell_job *job) { return job->rank ? 2 * job->rounds : job->rounds; }

/* The product that ends round i, counted from 0. */
static inline int mogrifier_end(const cell_job *job, int i) { return i < 0 ? -1 : job->rank ? 2 * i + 1 : i; }

/* Product s of a step: what follows from the sizes and weights alone. */
static round_product mogrifier_product(const cell_job *job, int s)
{
    const ptrdiff_t D = job->D, H = job->H, k = job->rank, columns = k ? k : D;
    const int i = k ? s / 2 : s, of_h = i % 2, first = !k || s % 2 == 0, last = !k || s % 2 == 1;
    const int left = !k || first != of_h; /* M^T = R^T L^T */
    real *grads = left ? job->dWm : job->dWr;
    round_product g = {.of_h = of_h, .last = last};

    g.reads = first ? mogrifier_end(job, i - 1) : s - 1;
    g.gates = last ? mogrifier_end(job, i - 2) : -1;
    g.weights = left ? (matrix){(const real *)job->Wm + i * H * columns, columns, 1}
                     : (matrix){(const real *)job->Wr + i * k * D, D, 1};
    g.grads = grads ? grads + (left ? i * H * columns : i * k * D) : NULL;
    g.K = first ? (of_h ? D : H) : k, g.M = last ? (of_h ? H : D) : k;
    if (of_h)
        g.weights = (matrix){g.weights.p, g.weights.c, g.weights.r};
    return g;
}

/* All products of a job; without training their y is nowhere and their rows are in room. Returns the reals of room. */
static ptrdiff_t mogrifier_list(mogrifier_work *work, const cell_job *job, real *room)
{
    const ptrdiff_t N = job->N, T = job->T;
    real *kept = job->rounds_kept, *at = room;
    work->count = mogrifier_count(job);
    work->x = mogrifier_end(job, (job->rounds - 1) / 2 * 2), work->h = mogrifier_end(job, job->rounds / 2 * 2 - 1);
    for (int s = 0; s < work->count; s++) {
        round_product g = mogrifier_product(job, s);
        if (kept) {
            g.y = panels_at(job, kept, T, g.M, 1, 1);
            g.rows = kept + lines(N * T * g.M + W);
            kept = g.rows + lines(N * T * step_of(g.M) + W);
        } else {
            g.rows = at;
            at += lines(N * step_of(g.M) + W);
        }
        work->products[s] = g;
    }
    return at - room;
}

/* The panels of Wx, those of Wh, and those of every product. */
static ptrdiff_t mogrifier_pack(const cell_job *job, void *room)
{
    ptrdiff_t taken = pack_cell(job, room, 4);
    for (int s = 0; s < mogrifier_count(job); s++) {
        const round_product g = mogrifier_product(job, s);
        taken += pack_panels(room ? (real *)room + taken : NULL, g.weights, g.K, g.M, 0, 1);
    }
    return taken;
}

/* As owns_rows: the weights are those of the LSTM and of all products. */
static int mogrifier_owns_rows(const cell_job *job, const team *tm)
{
    ptrdiff_t weights = (job->D + job->H) * 4 * job->H;
    for (int s = 0; s < mogrifier_count(job); s++) {
        const round_product g = mogrifier_product(job, s);
        weights += g.K * g.M;
    }
    return own_rows_of(job, tm, weights);
}

/* What product s has made of all samples at step t; -1: h m of the step before, and *step from one row to the next. */
static const real *mogrifier_rows(const mogrifier_work *work, int s, ptrdiff_t t, ptrdiff_t *step)
{
    const cell_job *job = work->lstm.job;
    if (s < 0) {
        const real *h = lstm_left_side(&work->lstm, t, step);
        if (!h)
            *step = step_of(job->H);
        return h ? h : work->zeros;
    }
    *step = step_of(work->products[s].M);
    return work->products[s].rows + (job->train ? t : 0) * job->N * *step;
}

/* What the gate of product g multiplies, row n: before the first round of x that is of xs. */
static inline const real *mogrifier_gated(const mogrifier_work *work, const round_product *g, ptrdiff_t t, ptrdiff_t n)
{
    const cell_job *job = work->lstm.job;
    ptrdiff_t step;
    if (g->gates < 0 && !g->of_h)
        return row_at(job, job->xs, t, n);
    const real *rows = mogrifier_rows(work, g->gates, t, &step);
    return rows + n * step;
}

/* What one tile of panel p of product g makes of its sums, whose rows are sums_r apart. */
static void mogrifier_tile(const mogrifier_work *work, const round_product *g, ptrdiff_t p, ptrdiff_t t, ptrdiff_t n0,
                           ptrdiff_t rows, const real *sums, ptrdiff_t sums_r)
{
    const cell_job *job = work->lstm.job;
    const ptrdiff_t w = panel_width(g->M, p), j = p * W, out_n = step_of(g->M);
    real *out = g->rows + ((job->train ? t : 0) * job->N + n0) * out_n + j;

    if (!g->last) {
        for (ptrdiff_t r = 0; r < rows; r++)
            store_n(out + r * out_n, load(sums + r * sums_r), w);
        return;
    }
    real *kept = job->train ? panel_row(&g->y, p, t, n0) : NULL;
    for (ptrdiff_t r = 0; r < rows; r++) {
        vec y = 2 * vsigmoid(load(sums + r * sums_r));
        if (kept)
            store_n(kept + r * w, y, w);
        store_n(out + r * out_n, y * load_n(mogrifier_gated(work, g, t, n0 + r) + j, w), w);
    }
}

/* The right sides of this thread's share of the panels of every product. */
static void mogrifier_weights(const mogrifier_work *work, const team *tm, int rank)
{
    const cell_job *job = work->lstm.job;
    const ptrdiff_t H = job->H, P = panel_count(H), uses = job->T * tile_count(job->N, ROWS_2);
    const real *packed = job->packed;
    if (packed)
        packed += lines(P * 4 * W * job->D) + lines(P * 4 * W * H); /* as mogrifier_pack lays them out */
    for (int s = 0; s < work->count; s++) {
        const round_product *g = &work->products[s];
        ptrdiff_t p0, p1;
        team_share(tm, rank, panel_count(g->M), &p0, &p1);
        for (ptrdiff_t p = p0; p < p1; p++)
            g->sides[p] = packed ? packed_weights(packed, g->K, g->M, 1, p)
                                 : gate_weights(g->room, g->weights, g->K, g->M, 0, 1, p, uses);
        if (packed)
            packed += lines(panel_count(g->M) * W * g->K);
    }
}

static void mogrifier_forward_body(team *tm, int rank, void *for_all)
{
    mogrifier_work *work = for_all;
    lstm_work *k = &work->lstm;
    const cell_job *job = k->job;
    const ptrdiff_t N = job->N, T = job->T, D = job->D, H = job->H, P = panel_count(H);
    const ptrdiff_t most = N > ROWS_4 ? ROWS_2 : ROWS_4, tiles = tile_count(N, most); /* as gates_multiply cuts */
    real sums[(ROWS_2 * 4 + 1) * (VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));
    const int own_rows = mogrifier_owns_rows(job, tm);
    ptrdiff_t p0, p1, left_n, h_n;
    team_share(tm, rank, P, &p0, &p1);
    lstm_weights(k, p0, p1, tiles);
    mogrifier_weights(work, tm, rank);
    if (rank == 0)
        lstm_pass(job);
    team_wait(tm);

    for (ptrdiff_t t = 0; t < T && !team_stopped(); t++) {
        const ptrdiff_t rows = rows_of(job, t);
        for (int s = 0; s < work->count; s++) {
            const round_product *g = &work->products[s];
            const real *left = mogrifier_rows(work, g->reads, t, &left_n);
            for (tile_walk w = team_tiles(tm, rank, strip_count(g->M, 1), rows, ROWS_2, own_rows); next_tile(&w);) {
                const panel_strip strip = strip_at(g->M, 1, w.p);
                gates_product(strip.panels, g->K, w.rows, left + w.n * left_n, left_n, g->sides[strip.p], w.i, w.tiles, sums,
                              0);
                for (int v = 0; v < strip.panels; v++)
                    mogrifier_tile(work, g, strip.p + v, t, w.n, w.rows, sums + v * W, strip.panels * W);
            }
            step_wait(tm, own_rows); /* what the product makes is whole */
        }
        const real *x = mogrifier_rows(work, work->x, t, &left_n), *h = mogrifier_rows(work, work->h, t, &h_n);
        for (tile_walk w = team_tiles(tm, rank, P, rows, most, own_rows); next_tile(&w);) {
            gates_product(1, D, w.rows, x + w.n * left_n, left_n, k->Wx[w.p], w.i, w.tiles, sums, 0);
            gates_product(1, H, w.rows, h + w.n * h_n, h_n, k->Wh[w.p], w.i, w.tiles, sums, 1);
            lstm_activate(k, w.p, t, t % k->chunk, w.n, w.rows, sums);
        }
        begin_samples(job, tm, rank, t, job->seen0, H, lstm_seen(k, t, 0), own_rows);
        step_wait(tm, own_rows); /* h of step t is whole */
    }
}

static int mogrifier_forward(const cell_job *job)
{
    const ptrdiff_t N = job->N, D = job->D, H = job->H, P = panel_count(H);
    const int count = mogrifier_count(job), own = !job->packed; /* weights to be packed in this call */
    mogrifier_work work = {.lstm = {.job = job, .chunk = job->train ? job->T : 1}};
    lstm_work *k = &work.lstm;
    k->panels = panels_at(job, job->panels, k->chunk, H, LSTM_GATES, lstm_kept(job));
    ptrdiff_t weights = own ? lines(P * 4 * W * D) : 0, recurrent = own ? lines(P * 4 * W * H) : 0;
    ptrdiff_t state = job->train ? 0 : lines(N * step_of(H)), zeros = lines(N * step_of(H));
    ptrdiff_t rows = 0, rounds = 0, panels = 0;
    for (int s = 0; s < count; s++) {
        const round_product g = mogrifier_product(job, s);
        panels += panel_count(g.M);
        rounds += own ? lines(panel_count(g.M) * W * g.K) : 0;
        rows += job->train ? 0 : lines(N * step_of(g.M) + W);
    }
    real *room = new_reals(weights + recurrent + 3 * state + zeros + rows + rounds);
    right_side *sides = malloc((2 * P + panels) * sizeof(right_side));
    work.products = malloc(count * sizeof(round_product));
    int stopped = 0;
    if (room && sides && work.products) {
        k->Wx = sides, k->Wh = sides + P;
        k->Wx_room = room, k->Wh_room = room + weights;
        k->c = k->Wh_room + recurrent, k->h = k->c + state;
        work.zeros = k->h + 2 * state;
        memset(work.zeros, 0, zeros * sizeof(real));
        real *at = work.zeros + zeros;
        at += mogrifier_list(&work, job, at);
        right_side *side = k->Wh + P;
        for (int s = 0; s < count; s++) {
            round_product *g = &work.products[s];
            g->sides = side, g->room = at;
            side += panel_count(g->M);
            at += own ? lines(panel_count(g->M) * W * g->K) : 0;
        }
        stopped = team_run(job->threads, mogrifier_forward_body, &work);
    }
    int failed = !room || !sides || !work.products;
    free_room(room);
    free(sides);
    free(work.products);
    return failed ? -1 : stopped;
}
