/* Products of reduced.h: vector instructions for few rows, the matrix registers of AMX for more.
 *
 * The instructions are written as such: their intrinsics would need a file of their own for each of these extensions. What
 * a processor has is asked when a call begins (isa.h); the layout is the same for all. */

/* How a word of one row meets W words of columns. */
enum { BF16_PLAIN, BF16_DOT, INT8_PLAIN, INT8_DOT };

#if VECTOR_BYTES == 64
static inline word_vec madd(word_vec a, word_vec b) { return (word_vec)_mm512_madd_epi16((__m512i)a, (__m512i)b); }
#elif VECTOR_BYTES == 32
static inline word_vec madd(word_vec a, word_vec b) { return (word_vec)_mm256_madd_epi16((__m256i)a, (__m256i)b); }
#endif

typedef int16_t short_vec __attribute__((vector_size(VECTOR_BYTES)));

/* The low byte of each 16 bits, with its sign. */
static inline word_vec sign_bytes(word_vec x) { return (word_vec)((short_vec)x << 8 >> 8); }

static inline __attribute__((always_inline)) word_vec dot_words(const int how, word_vec sum, word_vec a, word_vec b)
{
    switch (how) {
#if VECTOR_BYTES == 64
    case BF16_DOT:
        __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
        return sum;
    case INT8_DOT:
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
        return sum;
#elif VECTOR_BYTES == 32
    case INT8_DOT:
        __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
        return sum;
#endif
    case BF16_PLAIN: {
        vec s = (vec)sum;
        s += (vec)(a << 16) * (vec)(b << 16);
        s += (vec)(a & 0xffff0000) * (vec)(b & 0xffff0000);
        return (word_vec)s;
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
#if VECTOR_BYTES >= 32
REDUCED_ALL(REDUCED_INSTANCE, INT8_DOT)
#endif
#if VECTOR_BYTES == 64
REDUCED_ALL(REDUCED_INSTANCE, BF16_DOT)
#endif

static void (*const reduced_table[][MAX_NV * REDUCED_ROWS])(const reduced_product *) = {
    [BF16_PLAIN] = {REDUCED_ALL(REDUCED_ENTRY, BF16_PLAIN)},
    [INT8_PLAIN] = {REDUCED_ALL(REDUCED_ENTRY, INT8_PLAIN)},
#if VECTOR_BYTES >= 32
    [INT8_DOT] = {REDUCED_ALL(REDUCED_ENTRY, INT8_DOT)},
#endif
#if VECTOR_BYTES == 64
    [BF16_DOT] = {REDUCED_ALL(REDUCED_ENTRY, BF16_DOT)},
#endif
};

/* How a call multiplies. high: rows of a matrix register, 0 without them. */
typedef struct {
    int how, precision;
    ptrdiff_t high;
} reduced_way;

static int how_of(int precision)
{
#if VECTOR_BYTES == 64
    if (precision == BF16)
        return kernels_extensions & AVX512_BF16 ? BF16_DOT : BF16_PLAIN;
    return kernels_extensions & AVX512_VNNI ? INT8_DOT : INT8_PLAIN;
#elif VECTOR_BYTES == 32
    return precision == BF16 ? BF16_PLAIN : kernels_extensions & AVX_VNNI ? INT8_DOT : INT8_PLAIN;
#else
    return precision == BF16 ? BF16_PLAIN : INT8_PLAIN;
#endif
}

#if VECTOR_BYTES == 64 && AMX_ASSEMBLER
/* Matrix registers 0 to 3 hold sums, 4 and 5 rows of the left side, 6 and 7 columns of the right side. */
#define TILE_LOAD(tile, p, step) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(p), "r"((ptrdiff_t)(step) * 4) : "memory")
#define TILE_STORE(tile, p, step) \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(p), "r"((ptrdiff_t)(step) * 4) : "memory")
#define TILE_BEGIN(tile, more, p, step) \
    do { \
        if (more) \
            TILE_LOAD(tile, p, step); \
        else \
            __asm__ volatile("tilezero %%tmm" #tile : : :); \
    } while (0)
#define TILE_DOT(precision, c, a, b) \
    do { \
        if (precision == BF16) \
            __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : :); \
        else \
            __asm__ volatile("tdpbusd %%tmm" #b ", %%tmm" #a ", %%tmm" #c : : :); \
    } while (0)

/* One register of rows and `wide` vectors of columns. */
static inline __attribute__((always_inline)) void tile_row(const int precision, const int wide, const reduced_product *t,
                                                           ptrdiff_t cr)
{
    const ptrdiff_t bk = t->bk, bv = t->bv;
    TILE_BEGIN(0, t->more, t->c, cr);
    if (wide > 1)
        TILE_BEGIN(1, t->more, t->c + W, cr);
    if (wide > 2)
        TILE_BEGIN(2, t->more, t->c + 2 * W, cr);
    if (wide > 3)
        TILE_BEGIN(3, t->more, t->c + 3 * W, cr);
    const uint32_t *b = t->b;
    for (ptrdiff_t k = 0; k < t->words; k += TILE_WORDS, b += TILE_WORDS * bk) {
        TILE_LOAD(4, t->a + k, t->ar);
        TILE_LOAD(6, b, bk);
        TILE_DOT(precision, 0, 4, 6);
        if (wide > 1) {
            TILE_LOAD(7, b + bv, bk);
            TILE_DOT(precision, 1, 4, 7);
        }
        if (wide > 2) {
            TILE_LOAD(6, b + 2 * bv, bk);
            TILE_DOT(precision, 2, 4, 6);
        }
        if (wide > 3) {
            TILE_LOAD(7, b + 3 * bv, bk);
            TILE_DOT(precision, 3, 4, 7);
        }
    }
    TILE_STORE(0, t->c, cr);
    if (wide > 1)
        TILE_STORE(1, t->c + W, cr);
    if (wide > 2)
        TILE_STORE(2, t->c + 2 * W, cr);
    if (wide > 3)
        TILE_STORE(3, t->c + 3 * W, cr);
}

/* Two registers of rows, which are `high` rows apart, and one or two vectors of columns. */
static inline __attribute__((always_inline)) void tile_rows_2(const int precision, const int wide, const reduced_product *t,
                                                              ptrdiff_t high, ptrdiff_t cr)
{
    const ptrdiff_t bk = t->bk, below = high * t->ar, c_below = high * cr;
    TILE_BEGIN(0, t->more, t->c, cr);
    TILE_BEGIN(2, t->more, t->c + c_below, cr);
    if (wide > 1) {
        TILE_BEGIN(1, t->more, t->c + W, cr);
        TILE_BEGIN(3, t->more, t->c + c_below + W, cr);
    }
    const uint32_t *b = t->b, *next = t->next;
    for (ptrdiff_t k = 0; k < t->words; k += TILE_WORDS, b += TILE_WORDS * bk) {
        for (int i = 0; i < t->ahead; i++, next += 16)
            __builtin_prefetch(next, 0, 2);
        TILE_LOAD(6, b, bk);
        TILE_LOAD(4, t->a + k, t->ar);
        TILE_DOT(precision, 0, 4, 6);
        TILE_LOAD(5, t->a + k + below, t->ar);
        TILE_DOT(precision, 2, 5, 6);
        if (wide > 1) {
            TILE_LOAD(7, b + t->bv, bk);
            TILE_DOT(precision, 1, 4, 7);
            TILE_DOT(precision, 3, 5, 7);
        }
    }
    TILE_STORE(0, t->c, cr);
    TILE_STORE(2, t->c + c_below, cr);
    if (wide > 1) {
        TILE_STORE(1, t->c + W, cr);
        TILE_STORE(3, t->c + c_below + W, cr);
    }
}

static inline __attribute__((always_inline)) void tiles_multiply(const int precision, ptrdiff_t high, int NV, ptrdiff_t rows,
                                                                 reduced_product t)
{
    const ptrdiff_t cr = NV * W;
    if (rows <= high) {
        if (NV == 4)
            tile_row(precision, 4, &t, cr);
        else if (NV == 3)
            tile_row(precision, 3, &t, cr);
        else if (NV == 2)
            tile_row(precision, 2, &t, cr);
        else
            tile_row(precision, 1, &t, cr);
        return;
    }
    for (; NV > 0; NV -= 2, t.b += 2 * t.bv, t.c += 2 * W, t.next += t.words * t.ahead)
        if (NV > 1)
            tile_rows_2(precision, 2, &t, high, cr);
        else
            tile_rows_2(precision, 1, &t, high, cr);
}

/* The height that this thread's registers are set to, 0: none. A call that a handler of a signal makes meanwhile leaves
 * none: so each product asks. */
static _Thread_local ptrdiff_t tiles_high TLS_MODEL;

static void tiles_set(ptrdiff_t high)
{
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int i = 0; i < 8; i++)
        shape.bytes[i] = 64, shape.rows[i] = i < 6 ? high : TILE_ROWS;
    __asm__ volatile("ldtilecfg %0" : : "m"(shape));
    tiles_high = high;
}

/* From here on tiles have at most `rows` rows: in one register, or in two of half the height. Products read and write that
 * many rows of a left side and of sums, up to two more than such a tile may have (slot_rows). */
static void tiles_begin(reduced_way *way, ptrdiff_t rows)
{
    if (way->high)
        way->high = rows > TILE_ROWS ? (rows + 1) / 2 : rows;
}
static void tiles_end(const reduced_way *way)
{
    if (way->high && tiles_high) {
        __asm__ volatile("tilerelease" : : :);
        tiles_high = 0;
    }
}
#else
static void tiles_begin(reduced_way *way, ptrdiff_t rows) { (void)way, (void)rows; }
static void tiles_end(const reduced_way *way) { (void)way; }
#endif

/* Whether a call multiplies in matrix registers: they need two rows or more. */
static int uses_tiles(const cell_job *job)
{
#if VECTOR_BYTES == 64 && AMX_ASSEMBLER
    return job->N > 1 && kernels_extensions & (job->precision == BF16 ? AMX_BF16 : AMX_INT8);
#else
    (void)job;
    return 0;
#endif
}

/* Sums of `rows` rows and NV vectors, into t->c, which has room for as many rows as the registers. */
static void reduced_multiply(const reduced_way *way, int NV, ptrdiff_t rows, reduced_product t)
{
#if VECTOR_BYTES == 64 && AMX_ASSEMBLER
    if (way->high) {
        if (tiles_high != way->high)
            tiles_set(way->high);
        if (way->precision == BF16)
            tiles_multiply(BF16, way->high, NV, rows, t);
        else
            tiles_multiply(INT8, way->high, NV, rows, t);
        return;
    }
#endif
    const ptrdiff_t tiles = tile_count(rows, REDUCED_ROWS);
    for (ptrdiff_t i = 0; i < tiles; i++) {
        const ptrdiff_t count = tile_start(rows, tiles, i + 1) - tile_start(rows, tiles, i);
        reduced_table[way->how][(NV - 1) * REDUCED_ROWS + count - 1](&t);
        t.a += count * t.ar, t.c += count * NV * W;
    }
}

/* Rows of a left side, `step` words apart, and what an integer of each stands for. */
typedef struct {
    uint32_t *p;
    ptrdiff_t step;
    real *scales;
} reduced_rows;

/* sums (rows, vectors of a strip, W) (+)= rows n.. of a times weights b: tile i of `tiles`. sums has room for as many rows as
 * the registers. */
static void reduced_gates(const reduced_way *way, const reduced_weights *b, panel_strip strip, reduced_rows a, ptrdiff_t n,
                          ptrdiff_t rows, ptrdiff_t i, ptrdiff_t tiles, real *sums, int add)
{
    if (rows == 0)
        return;
    const int vectors = panel_vectors(b->H, b->G, strip.p), NV = strip.panels * vectors;
    const ptrdiff_t first = strip.p * b->G * W;
    uint32_t scratch[2 * TILE_ROWS * MAX_NV * (VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));
    const int ahead = (int)((2 * TILE_WORDS + tiles - 1) / tiles); /* for each two of the vectors and tiles */
    reduced_product t = {.words = way->high ? b->words : b->used,
                         .next = b->p + (first + NV * W) * b->words + i * (NV + 1) / 2 * ahead * b->words,
                         .ahead = ahead,
                         .a = a.p + n * a.step,
                         .ar = a.step,
                         .b = b->p + first * b->words,
                         .bk = vectors * W,
                         .bv = b->G == 1 ? W * b->words : W,
                         .c = way->precision == BF16 ? (uint32_t *)sums : scratch,
                         .more = add && way->precision == BF16};
    reduced_multiply(way, NV, rows, t);
    if (way->precision == BF16)
        return;
    for (int v = 0; v < NV; v++) {
        const vec scale = load(b->scales + first + v * W);
        const word_vec surplus = (word_vec)load((const real *)b->surplus + first + v * W);
        for (ptrdiff_t r = 0; r < rows; r++) {
            const ptrdiff_t at = (r * NV + v) * W;
            const int_vec exact = (int_vec)((word_vec)load((const real *)scratch + at) - surplus);
            vec y = __builtin_convertvector(exact, vec) * (a.scales[n + r] * scale);
            store(sums + at, add ? load(sums + at) + y : y);
        }
    }
}
