/* Softmax with cross entropy, of M rows of V scores: forward, and the gradient of the scores. */

/* Over the lanes of a vector, by halves. */
static inline double lanes_sum(vec x)
{
    double lane[VECTOR_BYTES / sizeof(real)];
    for (int i = 0; i < W; i++)
        lane[i] = x[i];
    for (int half = W / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            lane[i] += lane[i + half];
    return lane[0];
}

static inline real lanes_max(vec x)
{
    real lane[VECTOR_BYTES / sizeof(real)];
    store(lane, x);
    for (int half = W / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
    return lane[0];
}

/* *largest = max(x), and the sum of e = exp(x - *largest), where e may be x or NULL, and is streamed if `far`; the sum is
 * taken in float for 32 vectors at a time, then in double. The second look at x finds it in L1 or L2. */
static inline double sum_exp(const real *x, ptrdiff_t V, real *largest, real *e, int far)
{
    vec top = splat(x[0]), second = top;
    ptrdiff_t v = 0;
    for (; v + 2 * W <= V; v += 2 * W) { /* two chains of maxima */
        top = vmax(top, load(x + v));
        second = vmax(second, load(x + v + W));
    }
    real most = lanes_max(vmax(top, second));
    for (; v < V; v++)
        most = x[v] > most ? x[v] : most;

    const real shift = most == -(real)INFINITY ? 0 : most; /* -inf - -inf would be NaN */
    double total = 0;
    for (v = 0; v < V;) {
        vec sum = {0};
        for (int block = 0; block < 32 && v + W <= V; block++, v += W) {
            vec y = vexp(load(x + v) - shift);
            if (e && far)
                stream_store(e + v, y);
            else if (e)
                store(e + v, y);
            sum += y;
        }
        total += lanes_sum(sum);
        if (v < V && v + W > V) {
            vec last = vexp(load_lanes(x + v, V - v) - shift);
            for (int i = 0; i < V - v; i++)
                total += last[i];
            if (e)
                store_lanes(e + v, last, V - v);
            v = V;
        }
    }
    *largest = most;
    return total;
}

static void softmax_forward_body(team *tm, int rank, void *work)
{
    const softmax_job *s = work;
    ptrdiff_t m0, m1;
    team_share(tm, rank, s->M, &m0, &m1);
    for (ptrdiff_t m = m0; m < m1 && !team_stopped(); m++) {
        s->lse[m] = s->loss[m] = 0;
        if (s->ts[m] == s->ignore)
            continue;
        const real *x = (const real *)s->x.p + m * s->x.s0;
        real most;
        double total = sum_exp(x, s->V, &most, NULL, 0);
        s->lse[m] = most + log(total);
        s->loss[m] = s->lse[m] - x[s->ts[m]];
    }
}

static int softmax_forward(const softmax_job *job) { return team_run(job->threads, softmax_forward_body, (void *)job); }

/* x - shift, for a shift that has more digits than a real. */
static inline vec less(vec x, double shift)
{
    const real most = (real)shift;
    const double rest = shift - most;
    return x - most - (isfinite(rest) ? (real)rest : 0);
}

/* dx (V) = (softmax(x) - onehot(t)) scale */
static void softmax_gradient(const real *x, real *dx, ptrdiff_t V, ptrdiff_t t, double lse, real scale)
{
    for (ptrdiff_t v = 0; v < V; v += W) {
        ptrdiff_t w = V - v < W ? V - v : W;
        store_n(dx + v, vexp(less(load_n(x + v, w), lse)) * scale, w);
    }
    dx[t] -= scale;
}

static void softmax_backward_body(team *tm, int rank, void *work)
{
    const softmax_job *s = work;
    ptrdiff_t m0, m1;
    team_share(tm, rank, s->M, &m0, &m1);
    for (ptrdiff_t m = m0; m < m1 && !team_stopped(); m++) {
        real *dx = (real *)s->dx + m * s->V;
        if (s->ts[m] == s->ignore)
            memset(dx, 0, s->V * sizeof(real));
        else
            softmax_gradient((const real *)s->x.p + m * s->x.s0, dx, s->V, s->ts[m], s->lse[m], s->scale);
    }
}

static int softmax_backward(const softmax_job *job) { return team_run(job->threads, softmax_backward_body, (void *)job); }
