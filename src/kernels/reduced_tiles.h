/* Products of reduced.h by the matrix registers of AMX, for two rows or more. */

/* How a call multiplies. high: rows of a matrix register, 0 without them. */
typedef struct {
    int how, precision;
    ptrdiff_t high;
} reduced_way;

static int how_of(int precision)
{
#if VECTOR_BYTES == 64 && NEW_ASSEMBLER
    if (precision == BF16)
        return kernels_extensions & AVX512_BF16 ? BF16_DOT : BF16_PLAIN;
    return kernels_extensions & AVX512_VNNI ? INT8_DOT : INT8_PLAIN;
#elif VECTOR_BYTES == 32 && NEW_ASSEMBLER
    return precision == BF16 ? BF16_PLAIN : kernels_extensions & AVX_VNNI ? INT8_DOT : INT8_PLAIN;
#elif defined(NEON)
    if (precision == BF16)
        return kernels_extensions & NEON_BF16 ? BF16_DOT : BF16_PLAIN;
    return kernels_extensions & NEON_I8MM ? INT8_DOT : kernels_extensions & NEON_DOT ? INT8_SIGNED : INT8_PLAIN;
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
