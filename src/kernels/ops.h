/* What is not recurrent: affine layers through the GEMM, softmax with loss, embedding gradients.
 *
 *   M rows (N T of a sequence), V classes or words, D features
 */

typedef struct {
    const gemm_job *job;
    REAL *room;
} NAME(gemm_work);

static void NAME(gemm_body)(team *tm, int rank, void *work)
{
    const NAME(gemm_work) *k = work;
    const gemm_job *g = k->job;
    matrix a = {g->a.p, g->a.s0, g->a.s1}, b = {g->b.p, g->b.s0, g->b.s1};
    REAL *room = k->room + rank * GEMM_ROOM, *c = (REAL *)g->c.p;
    if (g->c.s1 == 1)
        NAME(gemm_part)(tm, rank, g->M, g->N, g->K, a, b, g->bias, c, g->c.s0, room);
    else /* c is the transpose of a row-major array: c^T = b^T a^T */
        NAME(gemm_part)(tm, rank, g->N, g->M, g->K, (matrix){b.p, b.c, b.r}, (matrix){a.p, a.c, a.r}, NULL, c, g->c.s1, room);
}

/* c = a b + bias. Where the columns of c are not contiguous its rows must be, and bias NULL. */
static int NAME(gemm)(const gemm_job *job)
{
    NAME(gemm_work) k = {job, NAME(new_room)(job->threads * GEMM_ROOM)};
    if (!k.room)
        return -1;
    team_run(job->threads, NAME(gemm_body), &k);
    free(k.room);
    return 0;
}

static void NAME(column_sums_body)(team *tm, int rank, void *work)
{
    const gemm_job *g = work;
    ptrdiff_t v0, v1;
    team_share(tm, rank, (g->N + W - 1) / W, &v0, &v1);
    for (ptrdiff_t v = v0; v < v1; v++) {
        const ptrdiff_t w = g->N - v * W < W ? g->N - v * W : W;
        vec total = {0};
        for (ptrdiff_t m0 = 0; m0 < g->M; m0 += 64) { /* in blocks: the error stays that of a block */
            vec sum = {0};
            for (ptrdiff_t m = m0; m < m0 + 64 && m < g->M; m++)
                sum += NAME(load_n)((const REAL *)g->a.p + m * g->a.s0 + v * W, w);
            total += sum;
        }
        NAME(store_n)((REAL *)g->c.p + v * W, total, w);
    }
}

static int NAME(column_sums)(const gemm_job *job)
{
    team_run(job->threads, NAME(column_sums_body), (void *)job);
    return 0;
}

/* log sum exp(x) of one row; the exps are summed in float for 32 vectors at a time, then in double. */
static double NAME(log_sum_exp)(const REAL *x, ptrdiff_t V)
{
    vec top = NAME(splat)(x[0]);
    ptrdiff_t v = 0;
    for (; v + W <= V; v += W)
        top = NAME(vmax)(top, NAME(load)(x + v));
    REAL most = x[0];
    for (int i = 0; i < W; i++)
        most = top[i] > most ? top[i] : most;
    for (; v < V; v++)
        most = x[v] > most ? x[v] : most;

    double total = 0;
    for (v = 0; v < V;) {
        vec sum = {0};
        for (int block = 0; block < 32 && v + W <= V; block++, v += W)
            sum += NAME(vexp)(NAME(load)(x + v) - most);
        for (int i = 0; i < W; i++)
            total += sum[i];
        if (v < V && v + W > V) {
            vec last = NAME(vexp)(NAME(load_lanes)(x + v, V - v) - most);
            for (int i = 0; i < V - v; i++)
                total += last[i];
            v = V;
        }
    }
    return most + log(total);
}

static void NAME(softmax_forward_body)(team *tm, int rank, void *work)
{
    const softmax_job *s = work;
    ptrdiff_t m0, m1;
    team_share(tm, rank, s->M, &m0, &m1);
    for (ptrdiff_t m = m0; m < m1; m++) {
        s->lse[m] = s->loss[m] = 0;
        if (s->ts[m] == s->ignore)
            continue;
        const REAL *x = (const REAL *)s->x.p + m * s->x.s0;
        s->lse[m] = NAME(log_sum_exp)(x, s->V);
        s->loss[m] = s->lse[m] - x[s->ts[m]];
    }
}

static int NAME(softmax_forward)(const softmax_job *job)
{
    team_run(job->threads, NAME(softmax_forward_body), (void *)job);
    return 0;
}

static void NAME(softmax_backward_body)(team *tm, int rank, void *work)
{
    const softmax_job *s = work;
    const REAL scale = s->scale;
    ptrdiff_t m0, m1;
    team_share(tm, rank, s->M, &m0, &m1);
    for (ptrdiff_t m = m0; m < m1; m++) {
        const REAL *x = (const REAL *)s->x.p + m * s->x.s0;
        REAL *dx = (REAL *)s->dx + m * s->V;
        if (s->ts[m] == s->ignore) {
            memset(dx, 0, s->V * sizeof(REAL));
            continue;
        }
        const REAL lse = s->lse[m];
        for (ptrdiff_t v = 0; v < s->V; v += W) {
            ptrdiff_t w = s->V - v < W ? s->V - v : W;
            NAME(store_n)(dx + v, NAME(vexp)(NAME(load_n)(x + v, w) - lse) * scale, w);
        }
        dx[s->ts[m]] -= scale;
    }
}

static int NAME(softmax_backward)(const softmax_job *job)
{
    team_run(job->threads, NAME(softmax_backward_body), (void *)job);
    return 0;
}

/* dW = 0, then dW[ids[m]] += dy[m] in the order of m; a thread owns some columns of all rows. */
static void NAME(scatter_body)(team *tm, int rank, void *work)
{
    const scatter_job *s = work;
    ptrdiff_t from, to;
    team_share(tm, rank, (s->D + W - 1) / W, &from, &to);
    from *= W, to = to * W < s->D ? to * W : s->D;
    for (ptrdiff_t v = 0; v < s->V && from < to; v++)
        memset((REAL *)s->dW.p + v * s->dW.s0 + from, 0, (to - from) * sizeof(REAL));
    for (ptrdiff_t m = 0; m < s->M; m++)
        for (ptrdiff_t d = from; d < to; d += W) {
            REAL *row = (REAL *)s->dW.p + s->ids[m] * s->dW.s0 + d;
            ptrdiff_t w = to - d < W ? to - d : W;
            NAME(store_n)(row, NAME(load_n)(row, w) + NAME(load_n)((const REAL *)s->dy.p + m * s->dy.s0 + d, w), w);
        }
}

static int NAME(scatter)(const scatter_job *job)
{
    team_run(job->threads, NAME(scatter_body), (void *)job);
    return 0;
}

/* The vector functions by themselves, for their accuracy tests. */
static int NAME(apply)(int function, const void *from, void *to, ptrdiff_t n)
{
    const REAL *x = from;
    REAL *y = to;
    for (ptrdiff_t i = 0; i < n; i += W) {
        ptrdiff_t w = n - i < W ? n - i : W;
        vec v = NAME(load_n)(x + i, w);
        v = function == 0 ? NAME(vexp)(v) : function == 1 ? NAME(vsigmoid)(v) : NAME(vtanh)(v);
        NAME(store_n)(y + i, v, w);
    }
    return 0;
}

/* What the processor can do at most: every thread runs n times through 12 independent chains of multiply and
 * add that never leave the registers. Returns the operations done by all threads. */
#define CHAINS 12

typedef struct {
    ptrdiff_t n;
    double flops;
} NAME(fma_work);

static void NAME(fma_body)(team *tm, int rank, void *work)
{
    NAME(fma_work) *job = work;
    vec sum[CHAINS], x = NAME(splat)(0.5), y = NAME(splat)(1), total = {0};
    PIN(x); /* of unknown value, or the compiler would compute ahead */
    PIN(y);
    UNROLLED
    for (int i = 0; i < CHAINS; i++)
        sum[i] = NAME(splat)(i);
    for (ptrdiff_t n = job->n; n > 0; n--)
        UNROLLED
        for (int i = 0; i < CHAINS; i++)
            sum[i] = sum[i] * x + y;
    UNROLLED
    for (int i = 0; i < CHAINS; i++)
        total += sum[i];
    volatile REAL used = total[0]; /* or it would compute nothing */
    (void)used;
    if (rank == 0)
        job->flops = 2.0 * CHAINS * W * job->n * tm->size;
}

static double NAME(fma)(int threads, ptrdiff_t n)
{
    NAME(fma_work) job = {n, 0};
    team_run(threads, NAME(fma_body), &job);
    return job.flops;
}
#undef CHAINS
