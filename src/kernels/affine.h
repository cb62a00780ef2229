/* Affine layers: products through the GEMM, and sums of columns, the gradient of a bias. */

typedef struct {
    const gemm_job *job;
    real *room;
} gemm_work;

/* Few rows of c, as when a model writes text id by id: b is read once, as it lies in memory. */
static int gemm_is_few(const gemm_job *g)
{
    return g->M <= FEW_ROWS && g->K > 0 && g->c.s1 == 1 && g->a.s1 == 1 && (g->b.s0 == 1 || g->b.s1 == 1);
}

static void gemm_few(const team *tm, int rank, const gemm_job *g)
{
    const real *a = g->a.p, *b = g->b.p, *bias = g->bias;
    real *c = (real *)g->c.p;
    ptrdiff_t j0, j1;
    team_share(tm, rank, (g->N + W - 1) / W, &j0, &j1);
    j0 *= W, j1 = j1 * W < g->N ? j1 * W : g->N;
    if (g->b.s1 == 1)
        rows_times(g->M, a, g->a.s0, b + j0, g->b.s0, g->K, j1 - j0, c + j0, g->c.s0);
    else
        for (ptrdiff_t j = j0; j < j1; j++)
            for (ptrdiff_t m = 0; m < g->M; m++)
                c[m * g->c.s0 + j] = dot(a + m * g->a.s0, b + j * g->b.s1, g->K);
    for (ptrdiff_t m = 0; bias && m < g->M; m++)
        for (ptrdiff_t j = j0; j < j1; j++)
            c[m * g->c.s0 + j] += bias[j];
}

static void gemm_body(team *tm, int rank, void *work)
{
    const gemm_work *k = work;
    const gemm_job *g = k->job;
    if (g->whole)
        team_finish();
    if (gemm_is_few(g)) {
        gemm_few(tm, rank, g);
        return;
    }
    matrix a = {g->a.p, g->a.s0, g->a.s1}, b = {g->b.p, g->b.s0, g->b.s1};
    real *room = k->room + rank * GEMM_ROOM, *c = (real *)g->c.p;
    if (g->c.s1 == 1)
        gemm_part(tm, rank, g->M, g->N, g->K, a, b, g->bias, c, g->c.s0, room);
    else /* c is the transpose of a row-major array: c^T = b^T a^T */
        gemm_part(tm, rank, g->N, g->M, g->K, (matrix){b.p, b.c, b.r}, (matrix){a.p, a.c, a.r}, NULL, c, g->c.s1, room);
}

/* c = a b + bias. Where the columns of c are not contiguous its rows must be, and bias NULL. */
static int gemm(const gemm_job *job)
{
#if REAL_IS_FLOAT
    if (job->precision)
        return reduced_gemm(job);
#endif
    gemm_work k = {job, new_reals(gemm_is_few(job) ? 0 : job->threads * GEMM_ROOM)};
    if (!k.room)
        return -1;
    const int stopped = team_run(job->threads, gemm_body, &k);
    free_room(k.room);
    return stopped;
}

static void column_sums_body(team *tm, int rank, void *work)
{
    const gemm_job *g = work;
    enum { SIDE = 16 }; /* vectors side by side: whole pieces of a row are read */
    ptrdiff_t v0, v1;
    team_share(tm, rank, (g->N + W - 1) / W, &v0, &v1);
    for (; v0 < v1; v0 += SIDE) {
        const ptrdiff_t side = v1 - v0 < SIDE ? v1 - v0 : SIDE, end = g->N - v0 * W; /* columns from v0 on */
        vec total[SIDE] = {{0}};
        for (ptrdiff_t m0 = 0; m0 < g->M && !team_stopped(); m0 += 64) { /* in blocks: the error stays that of a block */
            vec sum[SIDE] = {{0}};
            for (ptrdiff_t m = m0; m < m0 + 64 && m < g->M; m++)
                for (ptrdiff_t v = 0; v < side; v++)
                    sum[v] += load_n((const real *)g->a.p + m * g->a.s0 + (v0 + v) * W, end - v * W < W ? end - v * W : W);
            for (ptrdiff_t v = 0; v < side; v++)
                total[v] += sum[v];
        }
        for (ptrdiff_t v = 0; v < side; v++)
            store_n((real *)g->c.p + (v0 + v) * W, total[v], end - v * W < W ? end - v * W : W);
    }
}

static int column_sums(const gemm_job *job) { return team_run(job->threads, column_sums_body, (void *)job); }
