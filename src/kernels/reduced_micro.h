/* Products of reduced.h by vector instructions, for few rows.
 *
 * Some of these instructions are written as such: their intrinsics would need a file of their own for each extension of an
 * instruction set. What a processor has is asked when a call begins; the layout is the same for all. */

/* How a word of one row meets W words of columns. */
enum { BF16_PLAIN, BF16_DOT, INT8_PLAIN, INT8_DOT, INT8_SIGNED };

#if VECTOR_BYTES == 64
static inline word_vec madd(word_vec a, word_vec b) { return (word_vec)_mm512_madd_epi16((__m512i)a, (__m512i)b); }
#elif VECTOR_BYTES == 32
static inline word_vec madd(word_vec a, word_vec b) { return (word_vec)_mm256_madd_epi16((__m256i)a, (__m256i)b); }
#endif

#ifdef NEON
/* An instruction by its bits and the numbers of its registers: assemblers take its name only with options that would hold
 * for the whole file, and some processors lack it. */
__asm__(".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
        ".equ .Lnumber_v\\n,\\n\n"
        ".endr");
#define NEON_WORDS(bits, sum, a, b) \
    __asm__(".inst " bits " | (.Lnumber_%1 << 5) | (.Lnumber_%2 << 16) | .Lnumber_%0" : "+w"(sum) : "w"(a), "w"(b))
#endif

typedef int16_t short_vec __attribute__((vector_size(VECTOR_BYTES)));

/* The low byte of each 16 bits, with its sign. */
static inline word_vec sign_bytes(word_vec x) { return (word_vec)((short_vec)x << 8 >> 8); }

static inline __attribute__((always_inline)) word_vec dot_words(const int how, word_vec sum, word_vec a, word_vec b)
{
    switch (how) {
#if VECTOR_BYTES == 64 && NEW_ASSEMBLER
    case BF16_DOT:
        __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
        return sum;
    case INT8_DOT:
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
        return sum;
#elif VECTOR_BYTES == 32 && NEW_ASSEMBLER
    case INT8_DOT:
        __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
        return sum;
#elif defined(NEON)
    case BF16_DOT:
        NEON_WORDS("0x6e40fc00", sum, a, b); /* bfdot */
        return sum;
    case INT8_DOT:
        NEON_WORDS("0x4e809c00", sum, a, b); /* usdot */
        return sum;
    case INT8_SIGNED: { /* sdot: a less 128, and then what that took from the sum, which is the same for all rows */
        word_vec taken = {0};
        NEON_WORDS("0x4e809400", sum, a ^ 0x80808080, b);
        NEON_WORDS("0x4e809400", taken, 0x80808080 - (word_vec){0}, b);
        return sum - taken;
    }
#endif
    case BF16_PLAIN: {
        const vec low = fused((vec)(a << 16), (vec)(b << 16), (vec)sum);
        return (word_vec)fused((vec)(a & 0xffff0000), (vec)(b & 0xffff0000), low);
    }
#if VECTOR_BYTES >= 32
    case INT8_PLAIN: { /* bytes 0 and 2 of each word, then 1 and 3, as integers of 16 bits */
        const word_vec mask = 0x00ff00ff - (word_vec){0};
        sum += madd(a & mask, sign_bytes(b));
        return sum + madd((a >> 8) & mask, sign_bytes(b >> 8));
    }
#endif
    default: {
        int_vec s = (int_vec)sum;
        UNROLLED
        for (int i = 0; i < 4; i++)
            s += (int_vec)((a >> (8 * i)) & 0xff) * ((int_vec)(b << (24 - 8 * i)) >> 24);
        return (word_vec)s;
    }
    }
}

/* c(r, v) = W sums from c[(r NV + v) W]; with `more` they are added to those. Words of a row of a are ar apart from the next
 * row's, those of b as in packed_weights. */
typedef struct {
    ptrdiff_t words;
    const uint32_t *next; /* for matrix registers: fetched into L2 meanwhile, `ahead` lines of 64 bytes for each TILE_WORDS */
    int ahead;
    const uint32_t *a, *b;
    ptrdiff_t ar, bk, bv;
    uint32_t *c;
    int more;
} reduced_product;

#define REDUCED_ROWS 6

/* To vector i of c. */
static inline __attribute__((always_inline)) void reduced_store(const int how, const reduced_product *t, int i, word_vec sum)
{
    real *c = (real *)t->c + i * W;
    if (!t->more)
        store(c, (vec)sum);
    else if (how < INT8_PLAIN)
        store(c, load(c) + (vec)sum);
    else
        store(c, (vec)((word_vec)load(c) + sum));
}

static inline __attribute__((always_inline)) void reduced_micro(const int how, const int NV, const int rows,
                                                                const reduced_product *t)
{
    word_vec sum[REDUCED_ROWS][MAX_NV];
    const uint32_t *a = t->a, *b = t->b;
    const ptrdiff_t ar = t->ar;
    UNROLLED
    for (int r = 0; r < rows; r++) {
        UNROLLED
        for (int v = 0; v < NV; v++)
            sum[r][v] = (word_vec){0};
    }
    for (ptrdiff_t k = t->words; k > 0; k--, a++, b += t->bk) {
        word_vec bb[MAX_NV];
        UNROLLED
        for (int v = 0; v < NV; v++)
            bb[v] = (word_vec)load((const real *)b + v * t->bv);
        UNROLLED
        for (int r = 0; r < rows; r++) {
            const word_vec x = a[r * ar] - (word_vec){0};
            UNROLLED
            for (int v = 0; v < NV; v++)
                sum[r][v] = dot_words(how, sum[r][v], x, bb[v]);
        }
    }
    UNROLLED
    for (int r = 0; r < rows; r++) {
        UNROLLED
        for (int v = 0; v < NV; v++)
            reduced_store(how, t, r * NV + v, sum[r][v]);
    }
}

/* One row: two words at a time, whose sums do not wait for each other. */
static inline __attribute__((always_inline)) void reduced_row(const int how, const int NV, const reduced_product *t)
{
    word_vec sum[2][MAX_NV];
    const uint32_t *b = t->b;
    UNROLLED
    for (int v = 0; v < NV; v++)
        sum[0][v] = sum[1][v] = (word_vec){0};
    for (ptrdiff_t k = 0; k < t->words; k += 2, b += 2 * t->bk) { /* `used` is even */
        UNROLLED
        for (int i = 0; i < 2; i++) {
            const word_vec x = t->a[k + i] - (word_vec){0};
            UNROLLED
            for (int v = 0; v < NV; v++)
                sum[i][v] = dot_words(how, sum[i][v], x, (word_vec)load((const real *)b + i * t->bk + v * t->bv));
        }
    }
    UNROLLED
    for (int v = 0; v < NV; v++) {
        const word_vec both = how < INT8_PLAIN ? (word_vec)((vec)sum[0][v] + (vec)sum[1][v]) : sum[0][v] + sum[1][v];
        reduced_store(how, t, v, both);
    }
}

#define REDUCED_INSTANCE(how, NV, rows) \
    static __attribute__((noinline, aligned(64))) void reduced_##how##_##NV##_##rows(const reduced_product *t) \
    { \
        if (rows == 1) \
            reduced_row(how, NV, t); \
        else \
            reduced_micro(how, NV, rows, t); \
    }
#define REDUCED_ENTRY(how, NV, rows) reduced_##how##_##NV##_##rows,
#define REDUCED_ROWS_OF(X, how, NV) X(how, NV, 1) X(how, NV, 2) X(how, NV, 3) X(how, NV, 4) X(how, NV, 5) X(how, NV, 6)
#define REDUCED_ALL(X, how) \
    REDUCED_ROWS_OF(X, how, 1) REDUCED_ROWS_OF(X, how, 2) REDUCED_ROWS_OF(X, how, 3) REDUCED_ROWS_OF(X, how, 4)

REDUCED_ALL(REDUCED_INSTANCE, BF16_PLAIN)
REDUCED_ALL(REDUCED_INSTANCE, INT8_PLAIN)
#if VECTOR_BYTES >= 32 && NEW_ASSEMBLER
REDUCED_ALL(REDUCED_INSTANCE, INT8_DOT)
#endif
#if VECTOR_BYTES == 64 && NEW_ASSEMBLER
REDUCED_ALL(REDUCED_INSTANCE, BF16_DOT)
#elif defined(NEON)
REDUCED_ALL(REDUCED_INSTANCE, INT8_DOT)
REDUCED_ALL(REDUCED_INSTANCE, INT8_SIGNED)
REDUCED_ALL(REDUCED_INSTANCE, BF16_DOT)
#endif

static void (*const reduced_table[][MAX_NV * REDUCED_ROWS])(const reduced_product *) = {
    [BF16_PLAIN] = {REDUCED_ALL(REDUCED_ENTRY, BF16_PLAIN)},
    [INT8_PLAIN] = {REDUCED_ALL(REDUCED_ENTRY, INT8_PLAIN)},
#if VECTOR_BYTES >= 32 && NEW_ASSEMBLER
    [INT8_DOT] = {REDUCED_ALL(REDUCED_ENTRY, INT8_DOT)},
#endif
#if VECTOR_BYTES == 64 && NEW_ASSEMBLER
    [BF16_DOT] = {REDUCED_ALL(REDUCED_ENTRY, BF16_DOT)},
#elif defined(NEON)
    [INT8_DOT] = {REDUCED_ALL(REDUCED_ENTRY, INT8_DOT)},     [INT8_SIGNED] = {REDUCED_ALL(REDUCED_ENTRY, INT8_SIGNED)},
    [BF16_DOT] = {REDUCED_ALL(REDUCED_ENTRY, BF16_DOT)},
#endif
};
