/* Products of reduced.h: by vectors or by matrix registers, as a call finds the processor. */

/* How so many rows are multiplied: in matrix registers where there are two or more. */
static reduced_way way_for(int precision, ptrdiff_t rows)
{
    reduced_way way = {how_of(precision), precision, 0};
#if VECTOR_BYTES == 64 && AMX_ASSEMBLER
    if (rows > 1 && kernels_extensions & (precision == BF16 ? AMX_BF16 : AMX_INT8))
        way.high = TILE_ROWS;
#else
    (void)rows;
#endif
    return way;
}

/* Rows of a tile at most. */
static inline ptrdiff_t rows_of_way(const reduced_way *way) { return way->high ? 2 * TILE_ROWS : 2 * REDUCED_ROWS; }

#define REDUCED_SUMS (2 * TILE_ROWS * MAX_NV * (VECTOR_BYTES / sizeof(real)))

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
