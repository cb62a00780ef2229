/* Few rows: products with weights as they lie in memory. Packing would cost more than the product itself, and
 * strips of columns would miss the TLB at every k, so whole rows of the weights are read once, one after another.
 *
 *   y = x w       x (rows, K), w (K, columns), y (rows, columns)
 *   dx = dy w^T   dw = x^T dy
 */

/* Rows of x up to which this is faster than the micro-kernel on strips; a step of such a call is one product. */
#define FEW_ROWS 4

/* Columns of w and y have unit stride. The sum of an element runs over k in order: the micro-kernel's bits. */
static void rows_times(ptrdiff_t rows, const real *x, ptrdiff_t xr, const real *w, ptrdiff_t wk, ptrdiff_t K, ptrdiff_t columns,
                       real *y, ptrdiff_t yr)
{
    for (ptrdiff_t k = 0; k < K; k += 8, w += 8 * wk)
        for (ptrdiff_t n = 0; n < rows; n++) {
            const real *a = x + n * xr + k;
            const ptrdiff_t depth = K - k < 8 ? K - k : 8;
            for (ptrdiff_t j = 0; j < columns; j += W) {
                const ptrdiff_t lanes = columns - j < W ? columns - j : W;
                vec sum = k ? load_n(y + n * yr + j, lanes) : (vec){0};
                if (depth == 8 && lanes == W) {
                    UNROLLED
                    for (int i = 0; i < 8; i++) {
                        __builtin_prefetch(w + (8 + i) * wk + j);
                        sum = fused(splat(a[i]), load(w + i * wk + j), sum);
                    }
                } else
                    for (ptrdiff_t i = 0; i < depth; i++)
                        sum = fused(splat(a[i]), load_n(w + i * wk + j, lanes), sum);
                store_n(y + n * yr + j, sum, lanes);
            }
        }
}

static real dot(const real *a, const real *b, ptrdiff_t n)
{
    vec sum[4] = {{0}};
    ptrdiff_t j = 0;
    for (; j + 4 * W <= n; j += 4 * W) {
        UNROLLED
        for (int i = 0; i < 4; i++)
            sum[i] += load(a + j + i * W) * load(b + j + i * W);
    }
    for (; j < n; j += W) {
        const ptrdiff_t lanes = n - j < W ? n - j : W;
        sum[0] += load_n(a + j, lanes) * load_n(b + j, lanes);
    }
    vec all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    real total = 0;
    for (int i = 0; i < W; i++)
        total += all[i];
    return total;
}

/* The gradients of y (rows, columns) = x (rows, K) w (K, columns). */
typedef struct {
    ptrdiff_t rows, columns;
    const real *dy, *w, *x;         /* x NULL means zeros */
    ptrdiff_t dy_row, w_row, x_row; /* from row to row; columns are contiguous */
    real *dx, *dw;
    ptrdiff_t dx_row, dw_row;
} rows_grads;

/* Columns k0 to k1 of dx and these rows of dw, in one pass over w and dw. */
static void rows_back(const rows_grads *g, ptrdiff_t k0, ptrdiff_t k1)
{
    for (ptrdiff_t k = k0; k < k1; k++) {
        for (ptrdiff_t n = 0; n < g->rows; n++)
            g->dx[n * g->dx_row + k] = dot(g->dy + n * g->dy_row, g->w + k * g->w_row, g->columns);
        for (ptrdiff_t j = 0; j < g->columns; j += W) {
            const ptrdiff_t lanes = g->columns - j < W ? g->columns - j : W;
            vec sum = {0};
            for (ptrdiff_t n = 0; g->x && n < g->rows; n++)
                sum += g->x[n * g->x_row + k] * load_n(g->dy + n * g->dy_row + j, lanes);
            store_n(g->dw + k * g->dw_row + j, sum, lanes);
        }
    }
}

/* The same between panels and rows: y (rows, all H) = x weights, G gates from first_gate on of this thread's panels p0..p1. */
static void few_gates(const gate_panels *P, ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t rows, const real *x, ptrdiff_t xr,
                      matrix weights, ptrdiff_t K, int first_gate, int G, real *y)
{
    const ptrdiff_t H = P->H, j0 = p0 * W, j1 = p1 * W < H ? p1 * W : H;
    for (int g = first_gate; g < first_gate + G; g++)
        rows_times(rows, x, xr, weights.p + g * H + j0, weights.r, K, j1 - j0, y + g * H + j0, P->G * H);
}

/* y from few_gates into the panels' first step. */
static void few_to_panels(const gate_panels *P, ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t rows, const real *y)
{
    for (ptrdiff_t p = p0; p < p1; p++)
        for (ptrdiff_t n = 0; n < rows; n++)
            for (ptrdiff_t g = 0, w = panel_width(P->H, p); g < P->G; g++)
                store_n(panel_row(P, p, 0, n) + g * w, load_n(y + (n * P->G + g) * P->H + p * W, w), w);
}

/* y from few_gates as the sums of a strip: G gates from first_gate on, or one of the strip's panels, as gates_product. */
static void few_to_sums(const gate_panels *P, panel_strip strip, ptrdiff_t rows, int first_gate, int G, const real *y,
                        real *sums)
{
    const ptrdiff_t w = panel_width(P->H, strip.p), step = strip.panels * panel_vectors(P->H, G, strip.p) * W;
    for (ptrdiff_t n = 0; n < rows; n++)
        for (ptrdiff_t v = 0; v < G * strip.panels; v++) {
            const ptrdiff_t gate = first_gate + (G == 1 ? 0 : v), p = strip.p + (G == 1 ? v : 0);
            store(sums + n * step + v * w, load_n(y + (n * P->G + gate) * P->H + p * W, w));
        }
}

/* The way back of few_gates: dy (rows, all H) from the panels' first step, this thread's panels. The last gate's lies at
 * `last` of what a panel keeps. */
static void few_from_panels(const gate_panels *P, ptrdiff_t p0, ptrdiff_t p1, ptrdiff_t rows, int last, real *dy)
{
    for (ptrdiff_t p = p0; p < p1; p++)
        for (ptrdiff_t n = 0; n < rows; n++)
            for (ptrdiff_t g = 0, w = panel_width(P->H, p); g < P->G; g++) {
                const real *dA = panel_row(P, p, 0, n) + (g < P->G - 1 ? g : last) * w;
                store_n(dy + (n * P->G + g) * P->H + p * W, load_n(dA, w), w);
            }
}

/* This thread's share of K: G gates from first_gate on of products with weights w (K, all H). dy and dw have all gates. */
static void few_grads(const gate_panels *P, const team *tm, int rank, int first_gate, int G, ptrdiff_t K, rows_grads g)
{
    const ptrdiff_t skip = first_gate * P->H;
    ptrdiff_t k0, k1;
    team_share(tm, rank, K, &k0, &k1);
    g.columns = G * P->H, g.dy_row = g.dw_row = P->G * P->H;
    g.dy += skip, g.w += skip, g.dw += skip;
    rows_back(&g, k0, k1);
}

/* dxs and dWx from dA (N, all H). */
static void few_input_grads(const gate_panels *P, const team *tm, int rank, const cell_job *job, const real *dA)
{
    const rows_grads g = {.rows = job->N,
                          .dy = dA,
                          .w = job->Wx.p,
                          .w_row = job->Wx.s0,
                          .x = job->xs.p,
                          .x_row = job->xs.s0,
                          .dx = (real *)job->dxs.p,
                          .dx_row = job->dxs.s0,
                          .dw = job->dWx};
    few_grads(P, tm, rank, 0, P->G, job->D, g);
}

/* The gradients of h Wh, for few_grads: dA (N, all H) gives dh (N, P) and dWh. */
static rows_grads few_hidden_grads(const cell_job *job, const real *dA, real *dh)
{
    return (rows_grads){.rows = job->N,
                        .dy = dA,
                        .w = job->Wh.p,
                        .w_row = job->Wh.s0,
                        .x = job->seen0.p,
                        .x_row = job->seen0.s0,
                        .dx = dh,
                        .dx_row = job->P,
                        .dw = job->dWh};
}

/* Whether a call is one: a single step of few rows, all of them at work, with weights whose rows are contiguous. */
static inline int is_few(const cell_job *job)
{
    return job->T == 1 && job->N <= FEW_ROWS && job->Wx.s1 == 1 && job->Wh.s1 == 1 && !job->packed && !job->first_step &&
           !job->full;
}

/* dh0 *= h_mask, dh0 += more (N, P), which may be NULL: the units that few_grads gave this thread. */
static void few_state_grads(const team *tm, int rank, const cell_job *job, const real *more)
{
    ptrdiff_t j0, j1;
    team_share(tm, rank, job->P, &j0, &j1);
    for (ptrdiff_t n = 0; job->h_mask.p && n < job->N; n++)
        for (ptrdiff_t j = j0; j < j1; j++)
            ((real *)job->dh0)[n * job->P + j] *= ((const real *)job->h_mask.p)[n * job->h_mask.s0 + j];
    for (ptrdiff_t n = 0; more && n < job->N; n++)
        for (ptrdiff_t j = j0; j < j1; j++)
            ((real *)job->dh0)[n * job->P + j] += more[n * job->P + j];
}

/* What is left of backward once dA is in the panels, for a cell without a product within its step: dh0, dxs and all
 * gradients of the weights. more (N, P), or NULL: what goes past Wh to dh0. dA: room (N, all H). */
static void few_cell_grads(const gate_panels *P, team *tm, int rank, const cell_job *job, ptrdiff_t p0, ptrdiff_t p1,
                           const real *more, real *dA)
{
    team_wait(tm);
    few_from_panels(P, p0, p1, job->N, P->G - 1, dA);
    if (job->db)
        panel_bias_grads(P, p0, p1, 0, P->G, job->db);
    team_wait(tm);
    few_grads(P, tm, rank, 0, P->G, job->P, few_hidden_grads(job, dA, job->dh0));
    few_state_grads(tm, rank, job, more);
    few_input_grads(P, tm, rank, job, dA);
}
