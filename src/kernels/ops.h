/* What is not recurrent and stands in no file of its own: mixtures of softmaxes, embedding gradients.
 *
 *   M rows (N T of a sequence), V classes or words, D features
 */

/* The logarithm of a mixture of K softmaxes: log_p = log sum_k exp(scores_k - shift_k), where shift makes scores
 * logarithms of pi_k p_k. */
#define COLUMNS_SPAN 1024 /* of log_p, which a thread computes at a time */

static void mixture_body(team *tm, int rank, void *work)
{
    const mixture_job *s = work;
    const real *scores = s->scores;
    ptrdiff_t i0, i1;
    team_share(tm, rank, s->M * s->K, &i0, &i1);
    for (ptrdiff_t i = i0; i < i1 && !team_stopped(); i++) {
        real most;
        const double total = sum_exp(scores + i * s->V, s->V, &most, NULL, 0);
        s->shifts[i] = most + log(total) - s->log_pi[i];
    }
    team_wait(tm);

    const ptrdiff_t spans = (s->V + COLUMNS_SPAN - 1) / COLUMNS_SPAN;
    team_share(tm, rank, s->M * spans, &i0, &i1);
    for (ptrdiff_t i = i0; i < i1 && !team_stopped(); i++) {
        const ptrdiff_t m = i / spans, v0 = i % spans * COLUMNS_SPAN;
        const ptrdiff_t v1 = v0 + COLUMNS_SPAN < s->V ? v0 + COLUMNS_SPAN : s->V;
        const double *shifts = s->shifts + m * s->K;
        for (ptrdiff_t v = v0; v < v1; v += W) {
            const ptrdiff_t w = v1 - v < W ? v1 - v : W;
            const real *x = scores + m * s->K * s->V + v;
            vec top = splat(REAL_IS_FLOAT ? -FLT_MAX : -DBL_MAX), sum = {0}; /* finite: -inf - -inf would be NaN */
            for (ptrdiff_t k = 0; k < s->K; k++)
                top = vmax(top, less(load_n(x + k * s->V, w), shifts[k]));
            for (ptrdiff_t k = 0; k < s->K; k++)
                sum += vexp(less(load_n(x + k * s->V, w), shifts[k]) - top);
            for (ptrdiff_t j = 0; j < w; j++)
                top[j] += (real)log(sum[j]);
            store_n((real *)s->log_p + m * s->V + v, top, w);
        }
    }
}

static int mixture_softmax(const mixture_job *job) { return team_run(job->threads, mixture_body, (void *)job); }

/* dW = 0, then dW[ids[m]] += dy[m] in the order of m. Rows are cleared one after another, as memory likes it;
 * then a thread owns some columns of all rows. */
static void scatter_body(team *tm, int rank, void *work)
{
    const scatter_job *s = work;
    ptrdiff_t from, to;
    team_share(tm, rank, s->V, &from, &to);
    for (ptrdiff_t v = from; v < to; v++)
        memset((real *)s->dW.p + v * s->dW.s0, 0, s->D * sizeof(real));
    team_wait(tm);
    team_share(tm, rank, (s->D + W - 1) / W, &from, &to);
    from *= W, to = to * W < s->D ? to * W : s->D;
    for (ptrdiff_t m = 0; m < s->M; m++)
        for (ptrdiff_t d = from; d < to; d += W) {
            real *row = (real *)s->dW.p + s->ids[m] * s->dW.s0 + d;
            ptrdiff_t w = to - d < W ? to - d : W;
            store_n(row, load_n(row, w) + load_n((const real *)s->dy.p + m * s->dy.s0 + d, w), w);
        }
}

static int scatter(const scatter_job *job)
{
    team_run(job->threads, scatter_body, (void *)job);
    return 0;
}

/* The vector functions by themselves, for their accuracy tests. */
static int apply(int function, const void *from, void *to, ptrdiff_t n)
{
    const real *x = from;
    real *y = to;
    for (ptrdiff_t i = 0; i < n; i += W) {
        ptrdiff_t w = n - i < W ? n - i : W;
        vec v = load_n(x + i, w);
        v = function == 0 ? vexp(v) : function == 1 ? vsigmoid(v) : vtanh(v);
        store_n(y + i, v, w);
    }
    return 0;
}

/* What the processor can do at most: every thread runs n times through 12 independent chains of multiply and
 * add that never leave the registers. Returns the operations done by all threads. */
#define CHAINS 12

typedef struct {
    ptrdiff_t n;
    double flops;
} fma_work;

static void fma_body(team *tm, int rank, void *work)
{
    fma_work *job = work;
    vec sum[CHAINS], x = splat(0.5), y = splat(1), total = {0};
    PIN(x); /* of unknown value, or the compiler would compute ahead */
    PIN(y);
    UNROLLED
    for (int i = 0; i < CHAINS; i++)
        sum[i] = splat(i);
    for (ptrdiff_t n = job->n; n > 0; n--) {
        UNROLLED
        for (int i = 0; i < CHAINS; i++)
            sum[i] = sum[i] * x + y;
    }
    UNROLLED
    for (int i = 0; i < CHAINS; i++)
        total += sum[i];
    volatile real used = total[0]; /* or it would compute nothing */
    (void)used;
    if (rank == 0)
        job->flops = 2.0 * CHAINS * W * job->n * tm->size;
}

static double run_fma(int threads, ptrdiff_t n)
{
    fma_work job = {n, 0};
    team_run(threads, fma_body, &job);
    return job.flops;
}
