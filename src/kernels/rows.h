/* Few rows: products with weights as they lie in memory. Packing would cost more than the product itself, and
 * strips of columns would miss the TLB at every k, so whole rows of the weights are read once, one after another.
 *
 *   y = x w       x (rows, K), w (K, columns), y (rows, columns)
 *   dx = dy w^T   dw = x^T dy
 */

/* Rows of x up to which this is faster than the micro-kernel on strips; a step of such a call is one product. */
#define FEW_ROWS 4

/* Columns of w and y have unit stride. The sum of an element runs over k in order: the micro-kernel's bits. */
static void NAME(rows_times)(ptrdiff_t rows, const REAL *x, ptrdiff_t xr, const REAL *w, ptrdiff_t wk, ptrdiff_t K,
                             ptrdiff_t columns, REAL *y, ptrdiff_t yr)
{
    for (ptrdiff_t k = 0; k < K; k += 8, w += 8 * wk)
        for (ptrdiff_t n = 0; n < rows; n++) {
            const REAL *a = x + n * xr + k;
            const ptrdiff_t depth = K - k < 8 ? K - k : 8;
            for (ptrdiff_t j = 0; j < columns; j += W) {
                const ptrdiff_t lanes = columns - j < W ? columns - j : W;
                vec sum = k ? NAME(load_n)(y + n * yr + j, lanes) : (vec){0};
                if (depth == 8 && lanes == W)
                    UNROLLED
                    for (int i = 0; i < 8; i++) {
                        __builtin_prefetch(w + (8 + i) * wk + j);
                        sum += a[i] * NAME(load)(w + i * wk + j);
                    }
                else
                    for (ptrdiff_t i = 0; i < depth; i++)
                        sum += a[i] * NAME(load_n)(w + i * wk + j, lanes);
                NAME(store_n)(y + n * yr + j, sum, lanes);
            }
        }
}

static REAL NAME(dot)(const REAL *a, const REAL *b, ptrdiff_t n)
{
    vec sum[4] = {{0}};
    ptrdiff_t j = 0;
    for (; j + 4 * W <= n; j += 4 * W)
        UNROLLED
        for (int i = 0; i < 4; i++)
            sum[i] += NAME(load)(a + j + i * W) * NAME(load)(b + j + i * W);
    for (; j < n; j += W) {
        const ptrdiff_t lanes = n - j < W ? n - j : W;
        sum[0] += NAME(load_n)(a + j, lanes) * NAME(load_n)(b + j, lanes);
    }
    vec all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    REAL total = 0;
    for (int i = 0; i < W; i++)
        total += all[i];
    return total;
}

/* Rows k0 to k1 of the weights, which have unit column stride: dx (rows, K) and dw (K, columns) in one pass over
 * w and dw. x NULL means zeros. */
static void NAME(rows_back)(ptrdiff_t rows, const REAL *dy, ptrdiff_t yr, ptrdiff_t columns, ptrdiff_t k0, ptrdiff_t k1,
                            const REAL *w, ptrdiff_t wk, const REAL *x, ptrdiff_t xr, REAL *dx, ptrdiff_t dxr, REAL *dw,
                            ptrdiff_t dwk)
{
    for (ptrdiff_t k = k0; k < k1; k++) {
        for (ptrdiff_t n = 0; n < rows; n++)
            dx[n * dxr + k] = NAME(dot)(dy + n * yr, w + k * wk, columns);
        for (ptrdiff_t j = 0; j < columns; j += W) {
            const ptrdiff_t lanes = columns - j < W ? columns - j : W;
            vec sum = {0};
            for (ptrdiff_t n = 0; x && n < rows; n++)
                sum += x[n * xr + k] * NAME(load_n)(dy + n * yr + j, lanes);
            NAME(store_n)(dw + k * dwk + j, sum, lanes);
        }
    }
}
