/* Gradients from gate panels (panels.h): those of weights and biases over all steps, and what comes back from a step. */

/* Rows of a weight gradient that are multiplied at once, so that a panel's stay in L2, and those packed at once. */
#define GRAD_DEPTH 416
#define GRAD_ROWS (8 * GRAD_DEPTH)

/* The left sides of dWx and of dWh. */
static inline left_rows rows_of_x(const cell_job *job)
{
    const real *xs = job->xs.p;
    return (left_rows){xs, xs + job->xs.s1, job->xs.s0, job->xs.s1, job->xs.s0, job->order};
}
static inline left_rows rows_of_seen(const cell_job *job)
{
    const ptrdiff_t step = step_of(job->P);
    return (left_rows){job->seen0.p, job->seen, job->seen0.s0, job->N * step, step};
}

static inline ptrdiff_t widest_of(const cell_job *job)
{
    const ptrdiff_t of_states = job->H > job->P ? job->H : job->P;
    return job->D > of_states ? job->D : of_states;
}

/* Reals of room for panel_weight_grads: the packed left side, R rows of M columns, then each thread's part of dW. */
static inline ptrdiff_t left_room(ptrdiff_t R, ptrdiff_t M) { return lines((R < GRAD_ROWS ? R : GRAD_ROWS) * M + W); }
static inline ptrdiff_t weight_grad_room(const cell_job *job, ptrdiff_t M)
{
    return left_room(first_row(rows_of_job(job), job->T), M) + job->threads * M * MAX_NV * W;
}

#define INPUT_ROWS 128 /* rows of dA that stay in L2 while they meet all columns of Wx^T */

/* Where samples end, each thread's rows of dx before they go to dxs. */
static inline ptrdiff_t input_grad_room(const cell_job *job)
{
    return job->first_row ? INPUT_ROWS * pair_count(job->D) * 2 * W : 0;
}

/* Reals of room for a cell's gradients, after its time loop. */
static inline ptrdiff_t grad_room(const cell_job *job)
{
    return weight_grad_room(job, widest_of(job)) + job->threads * input_grad_room(job);
}

/* A strip's part of dW, the rows of walk k, from the rows r0 to r1 of dA and of the packed left side. It is summed up in
 * `sums` (M, vectors of the strip, W), where nothing is in its way, and written to dW once; the gates of a narrow panel,
 * which there are apart, one by one. */
static void strip_weight_grads(const gate_panels *P, panel_strip strip, int first_gate, int G, tile_walk k, ptrdiff_t M,
                               ptrdiff_t r0, ptrdiff_t r1, const real *left, real *dW, int all, real *sums)
{
    const ptrdiff_t H = P->H, w = panel_width(H, strip.p), panel = W * P->S * P->R;
    const ptrdiff_t blocks = tile_count(r1 - r0, GRAD_DEPTH);
    const int NV = strip.panels * panel_vectors(H, G, strip.p), narrow = w < W;

    for (ptrdiff_t block = 0; block < blocks && !team_stopped(); block++) {
        const ptrdiff_t from = tile_start(r1 - r0, blocks, block), K = tile_start(r1 - r0, blocks, block + 1) - from;
        const real *dA = P->p + strip.p * panel + ((r0 + from) * P->S + first_gate) * w, *next_dA = dA + K * P->S * w;
        if (block + 1 == blocks)
            next_dA = dA + strip.panels * panel - from * P->S * w;
        for (ptrdiff_t n = k.n, rows, i = 0; n < k.n + k.rows; n += rows, i++) {
            rows = tile_rows(k, n);
            real *part = sums + n * NV * W, *to = dW + n * all * H + strip.p * W;
            product t = {.K = K,
                         .a = left + from * M + n * K,
                         .ar = 1,
                         .ak = rows,
                         .b = dA,
                         .bk = P->S * w,
                         .bv = G == 1 ? panel : W,
                         .c = part,
                         .cr = NV * W,
                         .cv = W};
            if (block > 0)
                add_to(&t, part, NV * W, W);
            else if (r0 > 0 && !narrow)
                add_to(&t, to, all * H, G == 1 ? W : H);
            if (block + 1 == blocks && !narrow)
                t.c = to, t.cr = all * H, t.cv = G == 1 ? W : H;
            t.prefetch[0].p = t.a + K * rows, t.prefetch[0].step = rows; /* the next tile of rows */
            if (i <= P->S) /* with the first tiles, parts of the dA that comes next */
                t.prefetch[1].p = next_dA + (i - 1) * K * W, t.prefetch[1].step = W;
            gates_multiply(NV, rows, NV * W, &t);
        }
    }
    for (ptrdiff_t n = k.n; narrow && n < k.n + k.rows; n++)
        for (int g = 0; g < G; g++) {
            real *to = dW + (n * all + g) * H + strip.p * W;
            vec part = load(sums + n * NV * W + g * w);
            store_n(to, r0 > 0 ? load_n(to, w) + part : part, w);
        }
}

/* dW (M, H of G gates) = rows^T dA of G gates from first_gate on: this thread's tiles of it. The rows of dW are those of `all`
 * gates, dW points to the first one's. The team packs `rows` into room together; what room held before may still be in
 * use. */
static void panel_weight_grads(const gate_panels *P, team *tm, int rank, int first_gate, int G, const left_rows *rows,
                               ptrdiff_t M, real *dW, int all, real *room)
{
    const ptrdiff_t R = P->R, height = gate_rows(G), packs = tile_count(R, GRAD_ROWS);
    real *sums = room + left_room(R, M) + rank * M * MAX_NV * W;

    for (ptrdiff_t pack = 0; pack < packs; pack++) {
        const ptrdiff_t r0 = tile_start(R, packs, pack), r1 = tile_start(R, packs, pack + 1);
        const ptrdiff_t blocks = tile_count(r1 - r0, GRAD_DEPTH);
        team_wait(tm);
        for (ptrdiff_t block = 0; block < blocks; block++) {
            const ptrdiff_t from = tile_start(r1 - r0, blocks, block), to = tile_start(r1 - r0, blocks, block + 1);
            pack_a(room + from * M, tm, rank, rows, rows_of_panels(P), r0 + from, r0 + to, M, height);
        }
        team_wait(tm);
        for (tile_walk k = team_tiles(tm, rank, strip_count(P->H, G), M, height, 0); next_panel(&k);)
            strip_weight_grads(P, strip_at(P->H, G, k.p), first_gate, G, k, M, r0, r1, room, dW, all, sums);
    }
}

/* db (G H) = sum of dA of G gates from first_gate on over all rows, units of panels p0..p1; in blocks, so that the error stays
 * that of a block. */
static void panel_bias_grads(const gate_panels *P, ptrdiff_t p0, ptrdiff_t p1, int first_gate, int G, real *db)
{
    const ptrdiff_t R = P->R;
    for (ptrdiff_t p = p0; p < p1; p++) {
        const ptrdiff_t w = panel_width(P->H, p);
        for (int g = 0; g < G; g++) {
            const real *column = panel_row(P, p, 0, 0) + (first_gate + g) * w;
            vec total = {0};
            for (ptrdiff_t r0 = 0; r0 < R; r0 += 64) {
                vec sum = {0};
                for (ptrdiff_t r = r0; r < r0 + 64 && r < R; r++)
                    sum += load_n(column + r * P->S * w, w);
                total += sum;
            }
            store_n(db + g * P->H + p * W, total, w);
        }
    }
}

/* Right side of a product with dA: columns q 2W.. of weights^T, its k in the order of a row of all panels,
 * (panel, gate, unit). `weights` is (columns, all H); G gates from first_gate on are taken. -> [k][2 W] */
static void pack_transposed(real *dst, matrix weights, ptrdiff_t columns, ptrdiff_t q, ptrdiff_t H, int first_gate, int G)
{
    const lanes_of lanes = pair_lanes(columns, q);
    const int whole = weights.c == 1 && lanes.of[1] == W;
    for (ptrdiff_t p = 0; p < panel_count(H); p++)
        for (int g = first_gate; g < first_gate + G; g++) {
            const ptrdiff_t w = panel_width(H, p);
            const real *first = weights.p + q * 2 * W * weights.r + (g * H + p * W) * weights.c;
            if (whole && w == W) {
                UNROLLED
                for (int v = 0; v < 2; v++)
                    transpose(dst + v * W, 2 * W, first + v * W * weights.r, weights.r);
            } else {
                pack_b(dst, (matrix){first, weights.c, weights.r}, w, 2, W, lanes);
            }
            dst += w * 2 * W;
        }
}

/* Panels whose part of k is multiplied at once: 512 of k, so that a tile of dA stays in L1 and their part of
 * the weights in L2 for all rows. Whole panels are runs of one product; the last, if narrower, is one by itself. */
static inline ptrdiff_t panels_at_once(ptrdiff_t H, int G, ptrdiff_t p)
{
    const ptrdiff_t most = G * W < 512 ? 512 / (G * W) : 1, whole = H / W - p;
    return whole < 1 ? 1 : whole < most ? whole : most;
}

/* What times_transposed multiplies: c (rows x 2 W) (+)= dA weights^T over the k of panels p..p+count. */
typedef struct {
    const gate_panels *P;
    ptrdiff_t p, count;
    int first_gate, G;
    ptrdiff_t t, n, rows, apart; /* of dA, from step t and sample n on; apart 1: samples of one step, N: steps of one sample */
    const real *weights, *next;  /* see pack_transposed; next: what is multiplied after it */
    ptrdiff_t columns;           /* of c */
    real *c;
    ptrdiff_t cr;  /* from one row of c to the next */
    int add;       /* += for panel 0, too */
    int first_use; /* these rows of dA are not in L2 yet */
} transposed;

static void times_transposed(const transposed *x)
{
    const ptrdiff_t w = panel_width(x->P->H, x->p), S = x->P->S, tiles = tile_count(x->rows, ROWS_2);
    const real *dA = panel_row(x->P, x->p, x->t, x->n) + x->first_gate * w;

    for (ptrdiff_t i = 0; i < tiles; i++) {
        const ptrdiff_t r = tile_start(x->rows, tiles, i), height = tile_start(x->rows, tiles, i + 1) - r;
        product m = {.K = x->G * w,
                     .more_runs = x->count - 1,
                     .a_run = W * S * x->P->R,
                     .a = dA + r * x->apart * S * w,
                     .ar = x->apart * S * w,
                     .ak = 1,
                     .b = x->weights,
                     .bk = 2 * W,
                     .bv = W,
                     .c = x->c + r * x->cr,
                     .cr = x->cr,
                     .cv = W};
        if (x->add || x->p > 0)
            add_to(&m, m.c, x->cr, W);
        m.prefetch[0].step = 2 * W / tiles + 1, m.prefetch[0].run = m.K * m.prefetch[0].step;
        m.prefetch[0].p = x->next + i * x->count * m.prefetch[0].run;
        if (x->first_use && i + 1 < tiles)
            m.prefetch[1].p = m.a + height * m.ar, m.prefetch[1].step = 64 / sizeof(real), m.prefetch[1].run = m.a_run;
        multiply(x->columns > W ? 2 : 1, height, x->columns, &m);
    }
}

/* sums[q][n][2 W] (+)= dA of step t times weights^T, of which there are so many columns: this thread's tiles of pairs q
 * and samples n, in a walk over `rows` samples, of which the step may concern fewer. */
static void panel_step_grads(const gate_panels *P, const team *tm, int rank, ptrdiff_t t, ptrdiff_t rows, ptrdiff_t columns,
                             int first_gate, int G, const real *packed, real *sums, int add, int own_rows)
{
    const ptrdiff_t H = P->H, Q = pair_count(columns), pair = G * H * 2 * W;
    transposed x = {.P = P, .first_gate = first_gate, .G = G, .t = t, .apart = 1, .cr = 2 * W, .add = add};
    for (; x.p * W < H; x.p += x.count) {
        x.count = panels_at_once(H, G, x.p), x.first_use = 1;
        for (tile_walk w = team_tiles(tm, rank, Q, rows, ROWS_2, own_rows); next_panel(&w); x.first_use = 0) {
            x.n = w.n, x.rows = rows_there(rows_of_panels(P), t, w.n, w.rows);
            x.weights = packed + w.p * pair + x.p * W * G * 2 * W, x.next = x.weights + pair;
            x.columns = pair_columns(columns, w.p) > W ? 2 * W : W;
            x.c = sums + (w.p * P->N + w.n) * 2 * W;
            times_transposed(&x);
        }
    }
}

/* The same where the weights are those of h. */
static void panel_hidden_grads(const gate_panels *P, const team *tm, int rank, ptrdiff_t t, ptrdiff_t rows, int first_gate,
                               int G, const real *packed, real *sums, int add, int own_rows)
{
    panel_step_grads(P, tm, rank, t, rows, P->H, first_gate, G, packed, sums, add, own_rows);
}

/* The factor of h_mask for units j.. of sample n; only where there is a mask. */
static inline vec mask_of(const cell_job *job, ptrdiff_t n, ptrdiff_t j, ptrdiff_t width)
{
    return load_n((const real *)job->h_mask.p + n * job->h_mask.s0 + j, width);
}

/* Units j.. of a mask or share (N, T, H) at step t; only where there is one. */
static inline vec of_step(const cell_job *job, strided x, ptrdiff_t t, ptrdiff_t n, ptrdiff_t j, ptrdiff_t width)
{
    return load_n(row_at(job, x, t, n) + j, width);
}

/* Units j.. of dhs. */
static inline vec given_dh(const cell_job *job, ptrdiff_t t, ptrdiff_t n, ptrdiff_t j, ptrdiff_t width)
{
    return of_step(job, job->dhs, t, n, j, width);
}

/* Zoneout: what is left of a new state where a share of the old one is kept. */
static inline vec zoned(vec share, vec old, vec fresh) { return share * old + (1 - share) * fresh; }

/* Units j.. of a row of the states, zeros where there is none. */
static inline vec state_of(strided x, ptrdiff_t n, ptrdiff_t j, ptrdiff_t width)
{
    return x.p ? load_n((const real *)x.p + n * x.s0 + j, width) : (vec){0};
}

/* h before step t as forward has given it: what zoneout keeps, without h_mask. */
static inline vec shown_before(const cell_job *job, ptrdiff_t t, ptrdiff_t n, ptrdiff_t j, ptrdiff_t width)
{
    if (t == first_step(job, n))
        return state_of(job->h0, n, j, width);
    return load_n(row_at(job, job->hs, t - 1, n) + j, width);
}

/* out (N, H) = sums, times h_mask if `masked`, + more (N, H), which may be NULL: the gradient of the initial h or c. Rows n0..
 * of units q 2W.. (two panels), of which sums holds (rows, 2 W). */
static void state_grads(const cell_job *job, ptrdiff_t H, ptrdiff_t q, ptrdiff_t n0, ptrdiff_t rows, const real *sums,
                        int masked, const real *more, real *out)
{
    for (ptrdiff_t n = n0; n < n0 + rows; n++)
        for (ptrdiff_t v = 0, j; (j = (2 * q + v) * W) < H && v < 2; v++) {
            const ptrdiff_t width = H - j < W ? H - j : W;
            vec sum = load(sums + ((n - n0) * 2 + v) * W);
            if (masked && job->h_mask.p)
                sum *= mask_of(job, n, j, width);
            if (more)
                sum += load_n(more + n * H + j, width);
            store_n(out + n * H + j, sum, width);
        }
}
