/* The masks of dropout: Philox4x64-10 (Salmon et al. 2011), counted as NumPy counts, four elements from each counter. Counters
 * go side by side where a vector instruction multiplies halves of their words. */

#if VECTOR_BYTES >= 32
#define COUNTERS (VECTOR_BYTES / 8)
typedef uint64_t philox_words __attribute__((vector_size(VECTOR_BYTES)));
#if VECTOR_BYTES == 64
static const philox_words counters_apart = {0, 1, 2, 3, 4, 5, 6, 7};
#else
static const philox_words counters_apart = {0, 1, 2, 3};
#endif

static inline philox_words product_of_halves(philox_words a, philox_words b)
{
#if VECTOR_BYTES == 64
    return (philox_words)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#else
    return (philox_words)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#endif
}

static inline void whole_product(philox_words a, uint64_t m, philox_words *high, philox_words *low)
{
    const philox_words m0 = m - (philox_words){0}, m1 = m0 >> 32, a1 = a >> 32, low_half = product_of_halves(a, m0);
    const philox_words middle = product_of_halves(a1, m0) + (low_half >> 32);
    const philox_words other = product_of_halves(a, m1) + (middle & 0xffffffff);
    *high = product_of_halves(a1, m1) + (middle >> 32) + (other >> 32);
    *low = other << 32 | (low_half & 0xffffffff);
}
#else
#define COUNTERS 1
typedef uint64_t philox_words;
static const philox_words counters_apart = 0;

static inline void whole_product(philox_words a, uint64_t m, philox_words *high, philox_words *low)
{
    const unsigned __int128 product = (unsigned __int128)a * m;
    *high = (philox_words)(product >> 64), *low = (philox_words)product;
}
#endif

#if REAL_IS_FLOAT
typedef uint32_t real_bits;
#else
typedef uint64_t real_bits;
#endif

/* Of the first and the last counter the mask may have only some. */
static void dropout_body(team *tm, int rank, void *work)
{
    const dropout_job *d = work;
    const real kept = d->kept;
    const uint64_t least = (uint64_t)ceil(d->ratio * 0x1p53);
    real_bits kept_bits;
    memcpy(&kept_bits, &kept, sizeof kept_bits);
    ptrdiff_t q0, q1, before = d->first / 4;
    team_share(tm, rank, (d->first % 4 + d->n + 3) / 4, &q0, &q1);
    for (ptrdiff_t q = before + q0; q < before + q1; q += COUNTERS) {
        uint64_t k0 = d->key[0], k1 = d->key[1];
        philox_words c[4] = {(uint64_t)q + 1 + counters_apart, (philox_words){0}, (philox_words){0},
                             (uint64_t)d->step + (philox_words){0}};
        for (int round = 0; round < 10; round++) {
            philox_words a, b, low_a, low_b;
            whole_product(c[0], 0xD2E7470EE14C6C93, &a, &low_a);
            whole_product(c[2], 0xCA5A826395121157, &b, &low_b);
            c[0] = b ^ c[1] ^ k0, c[1] = low_b;
            c[2] = a ^ c[3] ^ k1, c[3] = low_a;
            k0 += 0x9E3779B97F4A7C15, k1 += 0xBB67AE8584CAA73B;
        }
        real_bits drawn[4 * COUNTERS];
        for (int i = 0; i < 4; i++) {
            const philox_words keep = (least - 1 - (c[i] >> 11)) >> 63; /* 1 where c >> 11 >= least, without a branch */
            for (int j = 0; j < COUNTERS; j++)
                drawn[4 * j + i] = kept_bits & -(real_bits)((const uint64_t *)&keep)[j];
        }
        const ptrdiff_t at = 4 * q - d->first, from = at < 0 ? -at : 0;
        ptrdiff_t to = 4 * (before + q1 - q < COUNTERS ? before + q1 - q : COUNTERS);
        to = d->n - at < to ? d->n - at : to;
        memcpy((real *)d->mask + at + from, drawn + from, (to - from) * sizeof(real));
    }
}

static int dropout_mask(const dropout_job *job)
{
    team_run(job->threads, dropout_body, (void *)job);
    return 0;
}
