/* Layer normalisation of rows of gate panels (Ba et al. 2016): what the layer-normalised cells share.
 *
 *   u_hat = (u - mean) scale    scale = 1 / sqrt(var + NORM_EPSILON)    mean and var over G gates of all units, G H numbers
 *   d = dy gain                 du = scale (d - mean(d) - u_hat mean(d u_hat))
 *
 * A sum over a row runs lane by lane over the panels in their order, and then over the lanes. Each thread makes the sums of
 * all rows in which it has a tile: that reads the row again, but costs less than one more barrier. On the way back, where u
 * is overwritten meanwhile, it adds up what each tile has left behind as a sum over its panel.
 *
 * In a job, `norms` are the gains and biases and `norms_kept` is room for x Wx and h Wh as panels, and for what follows from
 * their rows.
 */

#define NORM_EPSILON 1e-5
#define NORM_ROWS 16  /* rows of which a panel is read at once */
#define NORM_BLOCK 64 /* rows whose part of a gain's gradient is summed up by one thread */

typedef struct {
    real mean, scale;
} norm;

/* Of d = dy gain: its mean, and that of d u_hat. */
typedef struct {
    real mean, share;
} norm_back;

/* G gates of dA and of the panels with u that are normalised together. */
typedef struct {
    int first_gate, of_u, G;
} norm_group;

static inline real lane_sum(vec v)
{
#if VECTOR_BYTES == 64 && REAL_IS_FLOAT
    return _mm512_reduce_add_ps((__m512)v);
#elif VECTOR_BYTES == 64
    return _mm512_reduce_add_pd((__m512d)v);
#else
    real x[VECTOR_BYTES / sizeof(real)];
    store(x, v);
    for (ptrdiff_t n = W / 2; n > 0; n /= 2)
        for (ptrdiff_t i = 0; i < n; i++)
            x[i] += x[i + n];
    return x[0];
#endif
}

static inline vec first_lanes(vec v, ptrdiff_t n)
{
    real x[VECTOR_BYTES / sizeof(real)];
    store(x, v);
    return n == W ? v : load_lanes(x, n);
}

static inline __attribute__((always_inline)) void norm_rows_of(const int G, const gate_panels *P, int first_gate, ptrdiff_t r0,
                                                               ptrdiff_t r1, norm *norms)
{
    const ptrdiff_t H = P->H, S = P->S;
    const real share = (real)1 / (G * H);
    for (ptrdiff_t b = r0, rows; b < r1 && !team_stopped(); b += rows) {
        vec sum[NORM_ROWS] = {{0}}, squares[NORM_ROWS] = {{0}};
        real mean[NORM_ROWS];
        rows = r1 - b < NORM_ROWS ? r1 - b : NORM_ROWS;
        for (ptrdiff_t p = 0; p * W < H; p++) {
            const ptrdiff_t w = panel_width(H, p);
            const real *row = panel_row(P, p, 0, b) + first_gate * w;
            for (ptrdiff_t r = 0; r < rows; r++, row += S * w) {
                vec all = load_n(row, w);
                UNROLLED
                for (int g = 1; g < G; g++)
                    all += load_n(row + g * w, w);
                sum[r] += all;
            }
        }
        for (ptrdiff_t r = 0; r < rows; r++)
            mean[r] = lane_sum(sum[r]) * share;
        for (ptrdiff_t p = 0; p * W < H; p++) {
            const ptrdiff_t w = panel_width(H, p);
            const real *row = panel_row(P, p, 0, b) + first_gate * w;
            for (ptrdiff_t r = 0; r < rows; r++, row += S * w) {
                vec all = {0};
                UNROLLED
                for (int g = 0; g < G; g++) {
                    vec centred = load_n(row + g * w, w) - mean[r];
                    all += centred * centred;
                }
                squares[r] += first_lanes(all, w);
            }
        }
        for (ptrdiff_t r = 0; r < rows; r++) {
            const real var = lane_sum(squares[r]) * share + (real)NORM_EPSILON;
            norms[b - r0 + r] = (norm){mean[r], 1 / (REAL_IS_FLOAT ? sqrtf(var) : sqrt(var))};
        }
    }
}

/* The norms of rows r0..r1 of P, counted over steps and samples: of G gates from first_gate on. */
static void norm_rows(const gate_panels *P, int first_gate, int G, ptrdiff_t r0, ptrdiff_t r1, norm *norms)
{
    if (G == 4)
        norm_rows_of(4, P, first_gate, r0, r1, norms);
    else if (G == 2)
        norm_rows_of(2, P, first_gate, r0, r1, norms);
    else
        norm_rows_of(1, P, first_gate, r0, r1, norms);
}

static inline __attribute__((always_inline)) void norm_back_rows_of(const int G, const gate_panels *D, int gate,
                                                                    const real *gain, const gate_panels *U, ptrdiff_t r0,
                                                                    ptrdiff_t r1, const norm *norms, norm_back *backs)
{
    const ptrdiff_t H = D->H;
    const real share = (real)1 / (G * H);
    for (ptrdiff_t b = r0, rows; b < r1 && !team_stopped(); b += rows) {
        vec sum[NORM_ROWS] = {{0}}, shares[NORM_ROWS] = {{0}};
        rows = r1 - b < NORM_ROWS ? r1 - b : NORM_ROWS;
        for (ptrdiff_t p = 0; p * W < H; p++) {
            const ptrdiff_t w = panel_width(H, p);
            const real *dy = panel_row(D, p, 0, b) + gate * w, *u = panel_row(U, p, 0, b) + gate * w;
            vec gains[4];
            for (int g = 0; g < G; g++)
                gains[g] = load_n(gain + g * H + p * W, w);
            for (ptrdiff_t r = 0; r < rows; r++, dy += D->S * w, u += U->S * w) {
                const norm of = norms[b - r0 + r];
                vec all = {0}, with = {0};
                UNROLLED
                for (int g = 0; g < G; g++) {
                    vec d = load_n(dy + g * w, w) * gains[g];
                    all += d, with += d * ((load_n(u + g * w, w) - of.mean) * of.scale);
                }
                sum[r] += all, shares[r] += with;
            }
        }
        for (ptrdiff_t r = 0; r < rows; r++)
            backs[b - r0 + r] = (norm_back){lane_sum(sum[r]) * share, lane_sum(shares[r]) * share};
    }
}

/* The way back of rows r0..r1 of U, G gates of D and of U from `gate` on. */
static void norm_back_rows(const gate_panels *D, int gate, int G, const real *gain, const gate_panels *U, ptrdiff_t r0,
                           ptrdiff_t r1, const norm *norms, norm_back *backs)
{
    if (G == 4)
        norm_back_rows_of(4, D, gate, gain, U, r0, r1, norms, backs);
    else if (G == 2)
        norm_back_rows_of(2, D, gate, gain, U, r0, r1, norms, backs);
    else
        norm_back_rows_of(1, D, gate, gain, U, r0, r1, norms, backs);
}

/* What a tile leaves behind of d and d u_hat, a vector each, for sample n and panel p: sums [n][panel][2][W]. */
static inline real *norm_sums(real *sums, ptrdiff_t H, ptrdiff_t n, ptrdiff_t p)
{
    return sums + (n * panel_count(H) + p) * 2 * W;
}

/* The way back of samples n0..n1 from these sums, over G gates. */
static void norm_backs(real *sums, ptrdiff_t H, int G, ptrdiff_t n0, ptrdiff_t n1, norm_back *backs)
{
    const real share = (real)1 / (G * H);
    for (ptrdiff_t n = n0; n < n1; n++) {
        vec all = {0}, with = {0};
        for (ptrdiff_t p = 0; p * W < H; p++) {
            const real *part = norm_sums(sums, H, n, p);
            all += load(part), with += load(part + W);
        }
        backs[n] = (norm_back){lane_sum(all) * share, lane_sum(with) * share};
    }
}

/* u_hat, and du of it. */
static inline vec norm_of(norm of, vec u) { return (u - of.mean) * of.scale; }
static inline vec norm_grad(norm of, norm_back back, vec d, vec u_hat)
{
    return (d - back.mean - u_hat * back.share) * of.scale;
}

/* du over u, for some rows of panel p of a group; to `parts`, which has H reals for each of its gates, += dy u_hat of each
 * unit. */
static void norm_panel_grads(const gate_panels *D, const gate_panels *U, norm_group group, ptrdiff_t p, ptrdiff_t r0,
                             ptrdiff_t r1, const real *gain, const norm *norms, const norm_back *backs, real *parts)
{
    const ptrdiff_t H = D->H, w = panel_width(H, p), j = p * W;
    for (int g = 0; g < group.G; g++) {
        const vec gains = load_n(gain + g * H + j, w);
        vec part = load_n(parts + g * H + j, w);
        const real *dy = panel_row(D, p, 0, r0) + (group.first_gate + g) * w;
        real *u = panel_row(U, p, 0, r0) + (group.of_u + g) * w;
        for (ptrdiff_t r = 0; r < r1 - r0; r++, dy += D->S * w, u += U->S * w) {
            vec d = load_n(dy, w), u_hat = norm_of(norms[r], load_n(u, w));
            part += d * u_hat;
            store_n(u, norm_grad(norms[r], backs[r], d * gains, u_hat), w);
        }
        store_n(parts + g * H + j, part, w);
    }
}

/* What a gain's gradient is before it is summed up: units of panels p0..p1 of G gates, each in `count` parts, which are `step`
 * apart. */
static void norm_sum_parts(ptrdiff_t H, int G, ptrdiff_t p0, ptrdiff_t p1, const real *parts, ptrdiff_t count, ptrdiff_t step,
                           real *total)
{
    for (int g = 0; g < G; g++)
        for (ptrdiff_t p = p0; p < p1; p++) {
            const ptrdiff_t at = g * H + p * W, w = panel_width(H, p);
            vec sum = {0};
            for (ptrdiff_t i = 0; i < count; i++)
                sum += load_n(parts + i * step + at, w);
            store_n(total + at, sum, w);
        }
}

/* In the time loops a thread owns units, or samples where all weights fit into L2: as owns_rows, where x Wx is always there
 * before. */
static inline int norm_owns_rows(const cell_job *job, const team *tm, int G)
{
    return own_rows_of(job, tm, (job->D + job->H) * G * job->H) == 1; /* norm_samples has one piece of rows */
}

/* Samples n0..n1 are those in which a thread has a tile, of so many panels. */
static inline void norm_samples(const team *tm, int rank, ptrdiff_t panels, ptrdiff_t N, ptrdiff_t most, int own_rows,
                                ptrdiff_t *n0, ptrdiff_t *n1)
{
    const tile_walk w = team_tiles(tm, rank, panels, N, most, own_rows);
    *n0 = *n1 = 0;
    if (w.left == 0)
        return;
    ptrdiff_t first = w.i + 1, end = own_rows ? w.end_tile : first + w.left;
    if (end > w.tiles)
        first = 0, end = w.tiles; /* of more than one panel */
    *n0 = tile_start(N, w.tiles, first), *n1 = tile_start(N, w.tiles, end);
}

/* This thread's share of the norms of a group, of x Wx of steps t.. in the panels x. */
static void norm_input_rows(const cell_job *job, const team *tm, int rank, const gate_panels *x, ptrdiff_t t, ptrdiff_t steps,
                            ptrdiff_t most, int own_rows, norm_group group, norm *of)
{
    const step_rows kept = rows_of_panels(x);
    ptrdiff_t from, to;
    if (!own_rows && !job->first_row == !x->first_row) { /* rows without gaps */
        team_share(tm, rank, first_row(kept, steps), &from, &to);
        norm_rows(x, group.of_u, group.G, from, to, of + from);
        return;
    }
    for (ptrdiff_t s = 0; s < steps; s++) {
        norm_samples(tm, rank, panel_count(job->H), rows_of(job, t + s), most, own_rows, &from, &to);
        if (!own_rows)
            team_share(tm, rank, rows_of(job, t + s), &from, &to);
        const ptrdiff_t row = first_row(kept, s);
        norm_rows(x, group.of_u, group.G, row + from, row + to, of + row + from);
    }
}

/* x Wx of a chunk of steps into the panels x, and the norms of its groups, arrays of `apart`. room: input_room. */
static void norm_input(const cell_job *job, team *tm, int rank, const gate_panels *x, ptrdiff_t t, ptrdiff_t steps,
                       ptrdiff_t most, int own_rows, const right_side *Wx, const norm_group *groups, int count, norm *norms,
                       ptrdiff_t apart, real *room)
{
    if (own_rows) {
        const real *xs = (const real *)job->xs.p + t * job->xs.s1;
        for (tile_walk w = team_tiles(tm, rank, panel_count(job->H), job->N, most, 1); next_panel(&w);)
            panel_input(x, (panel_strip){w.p, 1}, 0, x->G, w.n, w.n + w.rows, steps, xs, job->xs.s0, job->xs.s1, job->D,
                        Wx[w.p]);
    } else
        panel_inputs(job, tm, rank, x, t, steps, 0, x->G, Wx, room);
    for (int i = 0; i < count; i++)
        norm_input_rows(job, tm, rank, x, t, steps, most, own_rows, groups[i], norms + i * apart);
    step_wait(tm, own_rows); /* the norms are there */
}

/* Panel p of h Wh, all gates: one tile, as gates_product; 0 where h is not there. */
static void norm_product(const gate_panels *h_Wh, ptrdiff_t t, const tile_walk *w, const real *h, ptrdiff_t h_n, right_side Wh)
{
    const ptrdiff_t width = panel_width(h_Wh->H, w->p), row = h_Wh->S * width;
    real *to = panel_row(h_Wh, w->p, t, w->n);
    if (!h) {
        memset(to, 0, w->rows * row * sizeof(real));
        return;
    }
    const ptrdiff_t step = 2 * W / w->tiles + 1;
    product m = {.K = h_Wh->H,
                 .a = h + w->n * h_n,
                 .ar = h_n,
                 .ak = 1,
                 .b = Wh.p,
                 .bk = Wh.bk,
                 .bv = Wh.bv,
                 .c = to,
                 .cr = row,
                 .cv = W};
    if (Wh.bk == Wh.vectors * W)
        m.prefetch[0].p = m.b + m.K * Wh.vectors * W + w->i * (Wh.vectors / 2) * m.K * step, m.prefetch[0].step = step;
    gates_multiply(Wh.vectors, w->rows, row, &m);
}

/* The way from dA back to x Wx, of all steps: du over u, and the parts of the gradient of its gains, G H for each block. */
static void norm_input_grads(const cell_job *job, const team *tm, int rank, const gate_panels *dA, const gate_panels *x,
                             const norm_group *groups, int count, const real *gain, const norm *norms, ptrdiff_t apart,
                             real *parts)
{
    const ptrdiff_t R = x->R, H = job->H;
    norm_back backs[NORM_BLOCK];
    ptrdiff_t from, to;
    team_share(tm, rank, tile_count(R, NORM_BLOCK), &from, &to);
    for (ptrdiff_t block = from; block < to && !team_stopped(); block++) {
        const ptrdiff_t r0 = block * NORM_BLOCK, r1 = R < r0 + NORM_BLOCK ? R : r0 + NORM_BLOCK;
        real *own = parts + block * x->G * H;
        memset(own, 0, x->G * H * sizeof(real));
        for (int i = 0; i < count; i++) {
            const norm_group group = groups[i]; /* of dA and of x Wx they are the same gates */
            const ptrdiff_t skip = group.of_u * H;
            const norm *of = norms + i * apart + r0;
            norm_back_rows(dA, group.of_u, group.G, gain + skip, x, r0, r1, of, backs);
            for (ptrdiff_t p = 0; p * W < H; p++)
                norm_panel_grads(dA, x, group, p, r0, r1, gain + skip, of, backs, own + skip);
        }
    }
}
