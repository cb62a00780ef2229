/* Optimisers: n elements, one look at each array. Every element is computed alike, wherever it lies. */
#define SPAN 1024 /* elements: threads share whole ones, so that only the last has an end that is no vector */

static void span(const team *tm, int rank, ptrdiff_t n, ptrdiff_t *from, ptrdiff_t *to)
{
    team_share(tm, rank, (n + SPAN - 1) / SPAN, from, to);
    *from *= SPAN;
    *to = *to * SPAN < n ? *to * SPAN : n;
}

static void sum_of_squares_body(team *tm, int rank, void *work)
{
    const update_job *u = work;
    ptrdiff_t b0, b1;
    team_share(tm, rank, (u->n + SQUARES - 1) / SQUARES, &b0, &b1);
    for (ptrdiff_t block = b0; block < b1; block++) {
        const real *x = (const real *)u->grad + block * SQUARES;
        const ptrdiff_t n = u->n - block * SQUARES < SQUARES ? u->n - block * SQUARES : SQUARES;
        double sums[32] = {0}, total = 0;
        ptrdiff_t i = 0;
        for (; i + 32 <= n; i += 32)
            for (int j = 0; j < 32; j++)
                sums[j] += (double)x[i + j] * x[i + j];
        for (; i < n; i++)
            sums[i % 32] += (double)x[i] * x[i];
        for (int j = 0; j < 32; j++)
            total += sums[j];
        ((double *)u->m)[block] = total;
    }
}

static void scale_body(team *tm, int rank, void *work)
{
    const update_job *u = work;
    real *x = u->param;
    const real factor = u->rate;
    ptrdiff_t i, to;
    for (span(tm, rank, u->n, &i, &to); i < to; i += W) {
        const ptrdiff_t w = to - i < W ? to - i : W;
        store_n(x + i, load_n(x + i, w) * factor, w);
    }
}

static void sgd_body(team *tm, int rank, void *work)
{
    const update_job *u = work;
    const real *grad = u->grad, rate = u->rate;
    real *param = u->param;
    ptrdiff_t i, to;
    for (span(tm, rank, u->n, &i, &to); i < to; i += W) {
        const ptrdiff_t w = to - i < W ? to - i : W;
        store_n(param + i, load_n(param + i, w) - rate * load_n(grad + i, w), w);
    }
}

static void adam_body(team *tm, int rank, void *work)
{
    const update_job *u = work;
    const real *grad = u->grad, rate = u->rate, move1 = 1 - u->beta1, move2 = 1 - u->beta2, epsilon = 1e-7;
    real *param = u->param, *ms = u->m, *vs = u->v;
    ptrdiff_t i, to;
    for (span(tm, rank, u->n, &i, &to); i < to; i += W) {
        const ptrdiff_t w = to - i < W ? to - i : W;
        vec g = load_n(grad + i, w), m = load_n(ms + i, w), v = load_n(vs + i, w);
        m += move1 * (g - m);
        v += move2 * (g * g - v);
        store_n(ms + i, m, w);
        store_n(vs + i, v, w);
        store_n(param + i, load_n(param + i, w) - rate * m / (vsqrt(v) + epsilon), w);
    }
}

#define UPDATE(name) \
    static int name(const update_job *job) \
    { \
        team_run(job->threads, name##_body, (void *)job); \
        return 0; \
    }
UPDATE(sum_of_squares)
UPDATE(scale)
UPDATE(sgd)
UPDATE(adam)
