/* One vector type for one instruction set and one real type, and the functions of it that cells need.
 *
 *   real   float | double          vec   a vector of reals          W   how many it has
 *
 * float: vexp is within 2 ULP on [-87, 88], 0 below and saturated above; vsigmoid and vtanh are within 2e-7
 * absolutely, and vtanh keeps its relative precision near 0. A NaN lane stays NaN.
 * double: the same functions, lane by lane through libm.
 *
 * Vectors are GCC/Clang vector extensions; an intrinsic stands only where the extension has no word
 * for the instruction: partial loads and stores, min, max, reciprocal.
 */

#define W ((ptrdiff_t)(VECTOR_BYTES / sizeof(real)))

typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef real loose_vec __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

static inline vec load(const real *p) { return *(const loose_vec *)p; }
static inline void store(real *p, vec v) { *(loose_vec *)p = v; }
static inline vec splat(real x) { return x - (vec){0}; }

/* a b + c, rounded once where the instruction set can, as a compiler rounds c += a * b in a plain loop. Between branches it
 * may not see that, and products that are to have the same bits by two ways would differ. */
static inline vec fused(vec a, vec b, vec c)
{
#if VECTOR_BYTES == 64 && REAL_IS_FLOAT
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif VECTOR_BYTES == 64
    return (vec)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif VECTOR_BYTES == 32 && REAL_IS_FLOAT
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif VECTOR_BYTES == 32
    return (vec)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif NEON && REAL_IS_FLOAT
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#elif NEON
    return (vec)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
    return a * b + c;
#endif
}

/* The first n < W lanes only: nothing beyond them is read or written; lanes read as 0. */
static inline vec load_lanes(const real *p, ptrdiff_t n)
{
#if VECTOR_BYTES == 64 && REAL_IS_FLOAT
    return (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#elif VECTOR_BYTES == 64
    return (vec)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
#elif VECTOR_BYTES == 32 && REAL_IS_FLOAT
    static const int32_t mask[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return (vec)_mm256_maskload_ps(p, _mm256_loadu_si256((const __m256i *)(mask + 8 - n)));
#elif VECTOR_BYTES == 32
    static const int64_t mask[8] = {-1, -1, -1, -1};
    return (vec)_mm256_maskload_pd(p, _mm256_loadu_si256((const __m256i *)(mask + 4 - n)));
#else
    vec v = {0};
    memcpy(&v, p, n * sizeof(real));
    return v;
#endif
}

static inline void store_lanes(real *p, vec v, ptrdiff_t n)
{
#if VECTOR_BYTES == 64 && REAL_IS_FLOAT
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#elif VECTOR_BYTES == 64
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)v);
#else
    memcpy(p, &v, n * sizeof(real));
#endif
}

/* n <= W lanes; the usual case, a whole vector, takes the plain instruction. */
static inline __attribute__((always_inline)) vec load_n(const real *p, ptrdiff_t n)
{
    return n == W ? load(p) : load_lanes(p, n);
}

static inline void store_n(real *p, vec v, ptrdiff_t n)
{
    if (n == W)
        store(p, v);
    else
        store_lanes(p, v, n);
}

/* Stores a whole vector past the caches, where p is at its place in a line: memory that is read again only after much else
 * is then not fetched to be overwritten. stream_end before other threads may read it. */
static inline void stream_store(real *p, vec v)
{
#if VECTOR_BYTES >= 32
    if ((uintptr_t)p % VECTOR_BYTES == 0) {
#if VECTOR_BYTES == 64
        _mm512_stream_si512((void *)p, (__m512i)v);
#else
        _mm256_stream_si256((void *)p, (__m256i)v);
#endif
        return;
    }
#endif
    store(p, v);
}
static inline void stream_end(void)
{
#if VECTOR_BYTES >= 32
    _mm_sfence();
#endif
}

/* dst[j*to .. +W] = column j of the W x W block at src, whose rows are `from` apart. */
static inline void transpose(real *dst, ptrdiff_t to, const real *src, ptrdiff_t from)
{
#if VECTOR_BYTES == 64 && REAL_IS_FLOAT
    __m512 a[16], b[16];
    UNROLLED
    for (int i = 0; i < 16; i++)
        a[i] = _mm512_loadu_ps(src + i * from);
    UNROLLED
    for (int i = 0; i < 16; i += 2) { /* pairs of rows, then pairs of pairs, within each 128 bits */
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
    UNROLLED
    for (int i = 0; i < 16; i += 4) {
        UNROLLED
        for (int j = 0; j < 2; j++) {
            __m512d low = _mm512_castps_pd(b[i + j]), high = _mm512_castps_pd(b[i + j + 2]);
            a[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            a[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    }
    UNROLLED
    for (int i = 0; i < 4; i++) { /* a[i + 4 j]: column i + 4 l of rows 4 j.. in quarter l; then the quarters */
        __m512 x = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88), y = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd);
        __m512 z = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88), w = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xdd);
        _mm512_storeu_ps(dst + i * to, _mm512_shuffle_f32x4(x, z, 0x88));
        _mm512_storeu_ps(dst + (i + 4) * to, _mm512_shuffle_f32x4(y, w, 0x88));
        _mm512_storeu_ps(dst + (i + 8) * to, _mm512_shuffle_f32x4(x, z, 0xdd));
        _mm512_storeu_ps(dst + (i + 12) * to, _mm512_shuffle_f32x4(y, w, 0xdd));
    }
#elif defined(NEON) && REAL_IS_FLOAT
    const float32x4_t a = vld1q_f32(src), b = vld1q_f32(src + from);
    const float32x4_t c = vld1q_f32(src + 2 * from), d = vld1q_f32(src + 3 * from);
    const float32x4_t ac = vzip1q_f32(a, c), bd = vzip1q_f32(b, d), ac2 = vzip2q_f32(a, c), bd2 = vzip2q_f32(b, d);
    vst1q_f32(dst, vzip1q_f32(ac, bd));
    vst1q_f32(dst + to, vzip2q_f32(ac, bd));
    vst1q_f32(dst + 2 * to, vzip1q_f32(ac2, bd2));
    vst1q_f32(dst + 3 * to, vzip2q_f32(ac2, bd2));
#elif VECTOR_BYTES == 32 && REAL_IS_FLOAT
    __m256 a[8], b[8];
    UNROLLED
    for (int i = 0; i < 8; i++)
        a[i] = _mm256_loadu_ps(src + i * from);
    UNROLLED
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    UNROLLED
    for (int i = 0; i < 8; i += 4) { /* a[i + c]: columns c and c + 4 of rows i.., a half each; then the halves */
        UNROLLED
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0x44);
            a[i + 2 * j + 1] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0xee);
        }
    }
    UNROLLED
    for (int c = 0; c < 4; c++) {
        _mm256_storeu_ps(dst + c * to, _mm256_permute2f128_ps(a[c], a[c + 4], 0x20));
        _mm256_storeu_ps(dst + (c + 4) * to, _mm256_permute2f128_ps(a[c], a[c + 4], 0x31));
    }
#else
    UNROLLED
    for (ptrdiff_t i = 0; i < W; i++) {
        UNROLLED
        for (ptrdiff_t j = 0; j < W; j++)
            dst[j * to + i] = src[i * from + j];
    }
#endif
}

/* x limited to [lo, hi]; NaN stays NaN, which is why the operands stand in this order. */
static inline vec clamp(vec x, real lo, real hi)
{
#if VECTOR_BYTES == 64 && REAL_IS_FLOAT
    return (vec)_mm512_max_ps(_mm512_set1_ps(lo), _mm512_min_ps(_mm512_set1_ps(hi), (__m512)x));
#elif VECTOR_BYTES == 32 && REAL_IS_FLOAT
    return (vec)_mm256_max_ps(_mm256_set1_ps(lo), _mm256_min_ps(_mm256_set1_ps(hi), (__m256)x));
#elif defined(NEON) && REAL_IS_FLOAT
    return (vec)vmaxq_f32(vdupq_n_f32(lo), vminq_f32(vdupq_n_f32(hi), (float32x4_t)x));
#else
    for (int i = 0; i < W; i++) {
        real y = hi < x[i] ? hi : x[i];
        x[i] = lo > y ? lo : y;
    }
    return x;
#endif
}

static inline vec vmax(vec x, vec y)
{
#if VECTOR_BYTES == 64 && REAL_IS_FLOAT
    return (vec)_mm512_max_ps((__m512)x, (__m512)y);
#elif VECTOR_BYTES == 32 && REAL_IS_FLOAT
    return (vec)_mm256_max_ps((__m256)x, (__m256)y);
#elif defined(NEON) && REAL_IS_FLOAT
    return (vec)vmaxq_f32((float32x4_t)x, (float32x4_t)y);
#else
    for (int i = 0; i < W; i++)
        x[i] = x[i] > y[i] ? x[i] : y[i];
    return x;
#endif
}

static inline vec vsqrt(vec x)
{
#if VECTOR_BYTES == 64 && REAL_IS_FLOAT
    return (vec)_mm512_sqrt_ps((__m512)x);
#elif VECTOR_BYTES == 64
    return (vec)_mm512_sqrt_pd((__m512d)x);
#elif VECTOR_BYTES == 32 && REAL_IS_FLOAT
    return (vec)_mm256_sqrt_ps((__m256)x);
#elif defined(NEON) && REAL_IS_FLOAT
    return (vec)vsqrtq_f32((float32x4_t)x);
#elif defined(NEON)
    return (vec)vsqrtq_f64((float64x2_t)x);
#else
    for (int i = 0; i < W; i++)
        x[i] = REAL_IS_FLOAT ? sqrtf(x[i]) : sqrt(x[i]);
    return x;
#endif
}

#if REAL_IS_FLOAT

typedef int32_t int_vec __attribute__((vector_size(VECTOR_BYTES)));

static inline vec magnitude(vec x) { return (vec)((int_vec)x & 0x7fffffff); }

/* exp(x) = 2^n e^r with |r| <= ln(2)/2: returns s = 2^n and sets *m = e^r - 1, so that exp(x) is
 * s + s m and exp(x) - 1 is (s - 1) + s m without cancellation. x within [-87, 88].
 * The polynomial is a minimax fit of (e^r - 1 - r) / r^2, relative error 1.4e-8. */
static inline vec exp_parts(vec x, vec *m)
{
    const real round = 0x1.8p23f; /* adding it leaves the nearest integer in the low bits */
    vec t = x * 0x1.715476p+0f + round;
    vec n = t - round;
    vec r = x - n * 0x1.62e400p-1f;
    r = r - n * 0x1.7f7d1cp-20f;
    vec q = r * 1.3882516e-3f + 8.3665475e-3f;
    q = q * r + 4.1667201e-2f;
    q = q * r + 1.6666543e-1f;
    q = q * r + 0.5f;
    *m = (r * r) * q + r;
    return (vec)(((int_vec)t << 23) + 0x3f800000);
}

static inline vec vexp(vec x)
{
    vec m, s = exp_parts(clamp(x, -87.0f, 88.0f), &m);
    return (vec)(~(x < -87.0f) & (int_vec)(s * m + s));
}

/* 1 / d for d in [1, 1e35]. Where the hardware has an estimate good to 14 bits, one Newton step is
 * enough and costs a fraction of a division. */
static inline vec reciprocal(vec d)
{
#if VECTOR_BYTES == 64
    vec r = (vec)_mm512_rcp14_ps((__m512)d);
    return r + r * (1.0f - d * r);
#else
    return 1.0f / d;
#endif
}

static inline vec vsigmoid(vec x)
{
    vec m, s = exp_parts(clamp(-x, -80.0f, 80.0f), &m);
    return reciprocal((s * m + s) + 1.0f);
}

/* tanh(x) = e / (e + 2) with e = exp(2x) - 1 */
static inline vec vtanh(vec x)
{
    vec m, s = exp_parts(clamp(x + x, -40.0f, 40.0f), &m);
    vec e = s * m + (s - 1.0f);
    return e * reciprocal(e + 2.0f);
}

#else

static inline vec vexp(vec x)
{
    for (int i = 0; i < W; i++)
        x[i] = exp(x[i]);
    return x;
}

static inline vec vsigmoid(vec x)
{
    for (int i = 0; i < W; i++)
        x[i] = 1.0 / (1.0 + exp(-x[i]));
    return x;
}

static inline vec vtanh(vec x)
{
    for (int i = 0; i < W; i++)
        x[i] = tanh(x[i]);
    return x;
}

#endif
