/* The micro-kernel of gemm.h where the multiply-add takes one lane of a vector as its factor (NEON): numbers of a are loaded
 * W at a time, along k or across the rows, whichever lie side by side, and none is spread over a vector of its own. */

/* sum += x b of one k: row r has its x in lane `lane` of a[r]. */
static inline __attribute__((always_inline)) void micro_along(const int NV, const int rows, const int lane, const vec *a,
                                                              const real *b, ptrdiff_t bv, vec sum[][MAX_NV])
{
    vec bb[MAX_NV];
    UNROLLED
    for (int v = 0; v < NV; v++)
        bb[v] = load(b + v * bv);
    UNROLLED
    for (int r = 0; r < rows; r++) {
        UNROLLED
        for (int v = 0; v < NV; v++)
            sum[r][v] += a[r][lane] * bb[v];
    }
}

/* The same where rows lie side by side, at a; those that fill no vector are loaded one by one. */
static inline __attribute__((always_inline)) void micro_across(const int NV, const int rows, const real *a, const real *b,
                                                               ptrdiff_t bv, vec sum[][MAX_NV])
{
    vec aa[MAX_ROWS], bb[MAX_NV];
    UNROLLED
    for (int r = 0; r + W <= rows; r += W)
        aa[r / W] = load(a + r);
    UNROLLED
    for (int v = 0; v < NV; v++)
        bb[v] = load(b + v * bv);
    UNROLLED
    for (int r = 0; r < rows; r++) {
        const real x = r < rows / W * W ? aa[r / W][r % W] : a[r];
        UNROLLED
        for (int v = 0; v < NV; v++)
            sum[r][v] += x * bb[v];
    }
}

static inline __attribute__((always_inline)) void micro(const int NV, const int rows, const product *t)
{
    const ptrdiff_t ar = t->ar, bk = t->bk, bv = t->bv, cr = t->cr, cv = t->cv;
    vec sum[MAX_ROWS][MAX_NV];
    const real *b = t->b;

    UNROLLED
    for (int r = 0; r < rows; r++) {
        UNROLLED
        for (int v = 0; v < NV; v++)
            sum[r][v] = (vec){0}, __builtin_prefetch(t->c + r * cr + v * cv, 1, 3);
    }

    for (ptrdiff_t run = 0; run <= t->more_runs; run++) {
        const real *a = t->a + run * t->a_run;
        ptrdiff_t k = t->K;
        if (ar == 1 && t->ak != 1) {
            for (; k > 0; k--, a += t->ak, b += bk)
                micro_across(NV, rows, a, b, bv, sum);
            continue;
        }
        const real *prefetch0 = t->prefetch[0].p ? t->prefetch[0].p + run * t->prefetch[0].run : b;
        const real *prefetch1 = t->prefetch[1].p ? t->prefetch[1].p + run * t->prefetch[1].run : b;
        for (; k >= W; k -= W, a += W, b += W * bk) {
            if (NV == 2 && rows >= 4) { /* the processor's own prefetcher follows these, so one for W numbers is enough */
                __builtin_prefetch(prefetch0, 0, 2);
                __builtin_prefetch(prefetch1, 0, 2);
                prefetch0 += W * t->prefetch[0].step, prefetch1 += W * t->prefetch[1].step;
            }
            vec aa[MAX_ROWS];
            UNROLLED
            for (int r = 0; r < rows; r++)
                aa[r] = load(a + r * ar);
            micro_along(NV, rows, 0, aa, b, bv, sum);
            micro_along(NV, rows, 1, aa, b + bk, bv, sum);
#if REAL_IS_FLOAT
            micro_along(NV, rows, 2, aa, b + 2 * bk, bv, sum);
            micro_along(NV, rows, 3, aa, b + 3 * bk, bv, sum);
#endif
        }
        for (; k > 0; k--, a++, b += bk) {
            vec aa[MAX_ROWS];
            UNROLLED
            for (int r = 0; r < rows; r++)
                aa[r] = (vec){a[r * ar]};
            micro_along(NV, rows, 0, aa, b, bv, sum);
        }
    }

    if (t->plus) {
        UNROLLED
        for (int r = 0; r < rows; r++) {
            UNROLLED
            for (int v = 0; v < NV; v++)
                sum[r][v] += load(t->plus + r * t->pr + v * t->pv);
        }
    }
    UNROLLED
    for (int r = 0; r < rows; r++) {
        UNROLLED
        for (int v = 0; v < NV; v++)
            store(t->c + r * cr + v * cv, sum[r][v]);
    }
}
