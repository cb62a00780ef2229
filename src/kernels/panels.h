/* Gate panels: how a cell keeps its gates, and the products over all steps that read and write them.
 *
 *   N batch, T time, D input, H hidden, G gates, S >= G values kept per unit, W lanes of a vector
 *
 * Hidden units are cut into panels of W (the last one has w = H - p W units). A panel holds, for every row
 * (step t, sample n) = t N + n, S runs of w values: the G gates, then whatever else the cell keeps:
 *
 *     panels[p][t N + n][S][w]              S N T H values in all, no padding
 *
 * Where samples end, the rows are those at work alone, step by step (step_rows), and products over all steps have no others.
 *
 * Products make a vector for each gate of a panel. In a narrow one, w < W, the gates stand side by side there too, as
 * in its rows, and take no more vectors than that needs: panel_vectors.
 *
 * So a row of a panel is what one micro-kernel call leaves in registers, a panel is the right side of
 * dW = rows^T dA as it stands (k = row), and its rows are the left side of dx = dA Wx^T. In the
 * forward time loop a thread owns the same tiles of panels and samples at every step: their gates and c never
 * leave its core.
 */

typedef struct {
    real *p;
    ptrdiff_t N, T, H;
    ptrdiff_t R;                /* rows */
    const ptrdiff_t *first_row; /* (T + 1): the row of a step's first sample; NULL: t N */
    int G, S;
} gate_panels;

static inline ptrdiff_t panel_count(ptrdiff_t H) { return (H + W - 1) / W; }
static inline ptrdiff_t panel_width(ptrdiff_t H, ptrdiff_t p) { return H - p * W < W ? H - p * W : W; }

static inline int panel_vectors(ptrdiff_t H, int G, ptrdiff_t p) { return (int)((G * panel_width(H, p) + W - 1) / W); }

/* Columns of a product with dA come in pairs of vectors, 2 W at a time: how many pairs, and the columns of pair q. */
static inline ptrdiff_t pair_count(ptrdiff_t columns) { return (columns + 2 * W - 1) / (2 * W); }
static inline ptrdiff_t pair_columns(ptrdiff_t columns, ptrdiff_t q)
{
    const ptrdiff_t left = columns - 2 * q * W;
    return left < 2 * W ? left : 2 * W;
}

/* Where a sample's numbers of step t are in an array (N, T, any). */
static inline real *row_at(const cell_job *job, strided x, ptrdiff_t t, ptrdiff_t n)
{
    return (real *)x.p + row_of(job, n) * x.s0 + t * x.s1;
}

/* x Wx of a step can be summed up together with h Wh, in registers: nothing is stored and loaded again. Or it is
 * precomputed before the time loop, into the panels: that reads Wx once for many steps and multiplies whole tiles of them,
 * which pays where a step has too few rows for one, or to make up for reading weights that do not stay in L2. */
static inline int is_precomputed(const cell_job *job, int G)
{
    const ptrdiff_t weights = (job->D + job->P) * G * job->H * sizeof(real);
    return job->N < 12 || (job->N < 48 && weights > 1 << 20);
}

/* Steps that the panels have room for: without training some 512 rows, used again and again. */
static inline ptrdiff_t panel_steps(const cell_job *job)
{
    const ptrdiff_t steps = job->train ? job->T : job->N < 512 ? 512 / job->N : 1;
    return steps < job->T ? steps : job->T;
}

/* Whether each thread would have about as many tiles of samples as any other. */
static inline int rows_come_out_even(const cell_job *job, const team *tm)
{
    const ptrdiff_t tiles = tile_count(job->N, ROWS_2);
    const ptrdiff_t most = tile_count(tiles, tm->size) * tm->size; /* as if each had as many as the one with most */
    return 16 * most <= 17 * tiles;
}

/* In the time loops a thread owns hidden units, or some samples and all of their units: then steps need no barrier and
 * h never changes cores. It reads all weights, though, which must stay in its L2, and has a part of the samples that is at
 * least four. If the highest tiles do not come out even threads have lower ones in turns, and where samples end, the longest
 * first, two or more each: see team_tiles. */
static inline int own_rows_of(const cell_job *job, const team *tm, ptrdiff_t weights)
{
    if (weights * (ptrdiff_t)sizeof(real) > 1 << 20 || job->N < 4 * tm->size)
        return 0;
    if (tm->size == 1 || (!job->first_row && rows_come_out_even(job, tm)))
        return !job->first_row;
    const ptrdiff_t each = job->first_row ? 2 * tm->size : tm->size;
    return (int)tile_count(job->N, tile_count(tile_count(job->N, ROWS_2), each) * each);
}

/* Forward it is asked where the panels do not hold x Wx already, from chunk to chunk. */
static inline int owns_rows(const cell_job *job, const team *tm, int G)
{
    return job->T == 1 ? 0 : own_rows_of(job, tm, (job->D + job->P) * G * job->H);
}

/* Panels of T steps at p. In training, where all steps are there, these have rows for the samples at work alone. */
static inline gate_panels panels_at(const cell_job *job, real *p, ptrdiff_t T, ptrdiff_t H, int G, int S)
{
    const ptrdiff_t *first_row = job->train ? job->first_row : NULL;
    return (gate_panels){p, job->N, T, H, first_row ? first_row[T] : job->N * T, first_row, G, S};
}
static inline step_rows rows_of_panels(const gate_panels *P) { return (step_rows){P->N, P->T, P->first_row}; }

static inline real *panel_row(const gate_panels *P, ptrdiff_t p, ptrdiff_t t, ptrdiff_t n)
{
    return P->p + p * W * P->S * P->R + (first_row(rows_of_panels(P), t) + n) * P->S * panel_width(P->H, p);
}

/* A single gate would be one vector of columns, too few to keep the machine busy: whole panels then go in pairs. */
static inline ptrdiff_t strip_count(ptrdiff_t H, int G) { return panel_count(H) - (G == 1 ? H / W / 2 : 0); }
static inline panel_strip strip_at(ptrdiff_t H, int G, ptrdiff_t s)
{
    const ptrdiff_t pairs = G == 1 ? H / W / 2 : 0;
    return s < pairs ? (panel_strip){2 * s, 2} : (panel_strip){pairs + s, 1};
}

static inline int strip_vectors(int G) { return G == 1 ? 2 : G; } /* at most */

/* Rows of a product with G gates. Four gates are at most ROWS_4 rows at once, or two by two ROWS_2 rows,
 * which reads the weights half as often. */
static inline ptrdiff_t gate_rows(int G) { return G == 3 ? ROWS_3 : ROWS_2; }

/* One tile of a strip of NV vectors, of which `columns` columns are wanted. t is moved on rather than copied: a copy is
 * made of wide loads, and those wait until all stores before them, the last tile's sums too, have left the core. */
static void gates_multiply(int NV, ptrdiff_t rows, ptrdiff_t columns, product *t)
{
    if (NV < 3 || rows <= (NV == 3 ? ROWS_3 : ROWS_4)) {
        multiply(NV, rows, columns, t);
        return;
    }
    multiply(2, rows, columns < 2 * W ? columns : 2 * W, t);
    t->b += 2 * t->bv, t->c += 2 * t->cv;
    if (t->plus)
        t->plus += 2 * t->pv;
    for (int i = 0; i < 2; i++)
        if (t->prefetch[i].p)
            t->prefetch[i].p += t->K * t->prefetch[i].step;
    multiply(NV - 2, rows, columns - 2 * W, t);
}

/* The right side of a product: W values for k and v at p[k*bk + v*bv]; `vectors` of them for a panel. */
typedef struct {
    const real *p;
    ptrdiff_t bk, bv;
    int vectors;
} right_side;

/* Weights of panel p as packed into room: [k][vectors][W]. The next panel is bv further if G is 1. */
static inline right_side packed_weights(const real *room, ptrdiff_t K, ptrdiff_t H, int G, ptrdiff_t p)
{
    const int vectors = panel_vectors(H, G, p);
    return (right_side){room + p * G * W * K, vectors * W, G == 1 ? W * K : W, vectors};
}

/* dst[k][vectors][W] = gates side by side, w columns each, of rows of `weights` */
static void pack_narrow(real *dst, matrix weights, ptrdiff_t K, ptrdiff_t H, int G, ptrdiff_t w, int vectors)
{
    memset(dst, 0, K * vectors * W * sizeof(real));
    for (ptrdiff_t k = 0; k < K; k++, dst += vectors * W)
        for (int g = 0; g < G; g++)
            for (ptrdiff_t j = 0; j < w; j++)
                dst[g * w + j] = weights.p[k * weights.r + (g * H + j) * weights.c];
}

/* Weights of panel p, G gates from first_gate on of (K, all H), packed into room, which has space for all panels. Where so
 * few tiles will use them that packing would not pay, they are read where they lie. */
static right_side gate_weights(real *room, matrix weights, ptrdiff_t K, ptrdiff_t H, int first_gate, int G, ptrdiff_t p,
                               ptrdiff_t tiles)
{
    const ptrdiff_t w = panel_width(H, p);
    matrix own = {weights.p + (first_gate * H + p * W) * weights.c, weights.r, weights.c};
    if (tiles <= 2 && w == W && own.c == 1)
        return (right_side){own.p, own.r, G == 1 ? W : H, G};
    real *to = room + p * G * W * K;
    if (w == W)
        pack_b(to, own, K, G, H, (lanes_of){{W, W, W, W}});
    else
        pack_narrow(to, own, K, H, G, w, panel_vectors(H, G, p));
    return packed_weights(room, K, H, G, p);
}

/* All panels of gate_weights, one after another. Returns the reals they take; with room NULL that is all. */
static ptrdiff_t pack_panels(real *room, matrix weights, ptrdiff_t K, ptrdiff_t H, int first_gate, int G)
{
    for (ptrdiff_t p = 0; room && p * W < H && !team_stopped_now(); p++)
        gate_weights(room, weights, K, H, first_gate, G, p, PTRDIFF_MAX);
    return lines(panel_count(H) * G * W * K);
}

/* <cell>_pack of a cell whose gates go together: the panels of Wx, then those of Wh. */
static ptrdiff_t pack_cell(const cell_job *job, real *room, int G)
{
    const matrix Wx = {job->Wx.p, job->Wx.s0, job->Wx.s1}, Wh = {job->Wh.p, job->Wh.s0, job->Wh.s1};
    const ptrdiff_t x = pack_panels(room, Wx, job->D, job->H, 0, G);
    return x + pack_panels(room ? room + x : NULL, Wh, job->P, job->H, 0, G);
}

/* sums (rows, vectors of a strip of so many panels, W) (+)= a b: one of `tiles` tiles of it, the one with number i. What
 * lies behind b is fetched meanwhile: if it is packed that is multiplied next. */
static void gates_product(int panels, ptrdiff_t K, ptrdiff_t rows, const real *a, ptrdiff_t ar, right_side b, ptrdiff_t i,
                          ptrdiff_t tiles, real *sums, int add)
{
    if (rows == 0)
        return;
    const int NV = panels * b.vectors;
    const ptrdiff_t step = 2 * W / tiles + 1;
    product m = {.K = K, .a = a, .ar = ar, .ak = 1, .b = b.p, .bk = b.bk, .bv = b.bv, .c = sums, .cr = NV * W, .cv = W};
    if (add)
        add_to(&m, sums, NV * W, W);
    if (b.bk == b.vectors * W)
        m.prefetch[0].p = b.p + K * NV * W + i * (NV / 2) * K * step, m.prefetch[0].step = step;
    gates_multiply(NV, rows, NV * W, &m);
}
