/* Weights in 16 or 8 bits, of forward, and in bfloat16 of backward, too (cell_job.precision): what they are, and their
 * products.
 *
 *   BF16   x and h are rounded to bfloat16 as the weights are; products of pairs are summed in float32
 *   INT8   w = scale of its column x an integer in [-127, 127], x = scale of its row x such an integer, h alike; products of
 *          integers are summed in int32, exactly
 *
 * An operand's numbers go side by side into words of 32 bits, pairs of 16 bits or fours of 8: one word of a row of the left
 * side meets W words of the right side, one a column, in each step of a product:
 *
 *   left    [row][word]                     a row ends in zeros, at a whole number of TILE_WORDS
 *   right   [panel][word][vectors][W]       as packed_weights, with words for k; zeros where rows have them
 *
 * Instructions that multiply unsigned with signed bytes are everywhere, so the left side's integers are 128 too large, and
 * the sums of a column too large by `surplus`, which is taken off again. The same layout feeds the matrix registers of AMX,
 * whose 16 rows of 64 bytes are TILE_WORDS words of a panel, or of 16 rows of the left side.
 */

enum { FLOAT32, BF16, INT8 };
#define TILE_WORDS 16
#define TILE_ROWS 16

typedef uint32_t word_vec __attribute__((vector_size(VECTOR_BYTES)));
typedef uint16_t half_vec __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef uint8_t byte_vec __attribute__((vector_size(VECTOR_BYTES / 4)));

/* Words of a row of K numbers. */
static inline ptrdiff_t words_of(int precision, ptrdiff_t K)
{
    const ptrdiff_t tile = TILE_WORDS * (precision == BF16 ? 2 : 4);
    return (K + tile - 1) / tile * TILE_WORDS;
}

/* Rounded to the nearest, to even between two; a NaN stays one. */
static inline word_vec to_bf16(vec x)
{
    const word_vec bits = (word_vec)x, nan = (word_vec)(x != x);
    return (nan & 0x7fc0) | (~nan & ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16));
}

/* 128 + x inverse, rounded alike and within [1, 255]; 128 for a NaN. */
static inline word_vec to_byte(vec x, real inverse)
{
    vec y = clamp(x * inverse, -127.0f, 127.0f);
    y = (vec)((word_vec)(y == y) & (word_vec)y);
    return (word_vec)(y + 0x1.8p23f) - 0x4b400000 + 128; /* as in exp_parts: the integer is in the low bits */
}

/* n lanes of x as numbers j.. of a row. */
static inline void round_to(int precision, uint32_t *row, ptrdiff_t j, vec x, ptrdiff_t n, real inverse)
{
    if (precision == BF16) {
        const half_vec rounded = __builtin_convertvector(to_bf16(x), half_vec);
        if (n == W)
            memcpy((uint16_t *)row + j, &rounded, sizeof rounded);
        else
            memcpy((uint16_t *)row + j, &rounded, (size_t)n * 2);
    } else {
        const byte_vec rounded = __builtin_convertvector(to_byte(x, inverse), byte_vec);
        if (n == W)
            memcpy((uint8_t *)row + j, &rounded, sizeof rounded);
        else
            memcpy((uint8_t *)row + j, &rounded, (size_t)n);
    }
}

/* max |x|; NaN where a number is not finite */
static real bound_of(const real *x, ptrdiff_t n)
{
    vec most = {0}, bad = {0};
    for (ptrdiff_t j = 0; j < n; j += W) {
        vec v = load_n(x + j, n - j < W ? n - j : W);
        most = vmax(most, magnitude(v)), bad += v - v;
    }
    real bound = 0, nan = 0;
    for (int i = 0; i < W; i++)
        bound = most[i] > bound ? most[i] : bound, nan += bad[i];
    return bound + nan;
}

/* What an integer stands for, and its inverse: 0 where all numbers are, or one is not finite. */
static inline real scale_of(real bound) { return bound / 127.0f; }
static inline real inverse_of(real bound) { return bound > 0 ? 127.0f / bound : 0; }

/* A row of n numbers, up to its end in zeros. *scale: for INT8. */
static void round_row(int precision, uint32_t *row, const real *x, ptrdiff_t n, real *scale)
{
    real inverse = 0;
    if (precision == INT8) {
        const real bound = bound_of(x, n);
        *scale = scale_of(bound), inverse = inverse_of(bound);
    }
    const ptrdiff_t size = precision == BF16 ? 2 : 1;
    memset((char *)row + n * size, 0, words_of(precision, n) * 4 - n * size);
    for (ptrdiff_t j = 0; j < n; j += W) {
        const ptrdiff_t lanes = n - j < W ? n - j : W;
        round_to(precision, row, j, load_n(x + j, lanes), lanes, inverse);
    }
}

/* Weights (K, G H) of G gates, as they are packed. scales, surplus: INT8, a number for each column, [panel][vectors][W]. */
typedef struct {
    int precision, G;
    ptrdiff_t H, words, used; /* used: up to the last number, rounded up to even for reduced_row */
    const uint32_t *p;
    const real *scales;
    const int32_t *surplus;
} reduced_weights;

/* As they lie in room, where *room goes on behind them. */
static reduced_weights reduced_at(int precision, const real **room, ptrdiff_t K, ptrdiff_t H, int G)
{
    const ptrdiff_t words = words_of(precision, K), columns = panel_count(H) * G * W;
    const ptrdiff_t pairs = precision == BF16 ? 4 : 8;
    reduced_weights w = {precision, G, H, words, (K + pairs - 1) / pairs * 2, (const uint32_t *)*room, NULL, NULL};
    *room += lines(columns * words);
    if (precision == INT8) {
        w.scales = *room, w.surplus = (const int32_t *)(*room + lines(columns));
        *room += 2 * lines(columns);
    }
    return w;
}

/* Vector v of panel p in row k of weights (K, all H): columns of G gates from first_gate on, zeros behind the last. */
static vec weights_of(matrix weights, ptrdiff_t k, ptrdiff_t H, int first_gate, int G, ptrdiff_t p, int v)
{
    const ptrdiff_t w = panel_width(H, p);
    const real *row = weights.p + k * weights.r;
    if (w == W && weights.c == 1)
        return load(row + (first_gate + v) * H + p * W);
    vec x = {0};
    for (ptrdiff_t lane = 0; lane < W && v * W + lane < G * w; lane++) {
        const ptrdiff_t gate = first_gate + (v * W + lane) / w, unit = p * W + (v * W + lane) % w;
        x[lane] = row[(gate * H + unit) * weights.c];
    }
    return x;
}

#define PACKED_AT_ONCE 8 /* panels: each row of the weights has a page of its own */

/* Words `step` apart, of rows of one vector. */
static void round_rows(uint32_t *words, ptrdiff_t step, const real *rows, ptrdiff_t count)
{
    for (ptrdiff_t k = 0; k < count; k += 2, words += step) {
        const word_vec low = to_bf16(load(rows + k * W));
        store((real *)words, (vec)(k + 1 < count ? low | to_bf16(load(rows + (k + 1) * W)) << 16 : low));
    }
}

/* Panel p in bfloat16, of weights whose columns are contiguous: one vector after another. */
static void reduce_by_columns(const reduced_weights *to, matrix weights, ptrdiff_t K, int first_gate, ptrdiff_t p)
{
    enum { AT_ONCE = 64 };
    real rows[AT_ONCE * (VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));
    const ptrdiff_t w = panel_width(to->H, p), step = panel_vectors(to->H, to->G, p) * W;
    for (int v = 0; v < panel_vectors(to->H, to->G, p); v++) {
        uint32_t *words = (uint32_t *)to->p + p * to->G * W * to->words + v * W;
        const real *first = weights.p + ((first_gate + v) * to->H + p * W) * weights.c;
        for (ptrdiff_t k = 0; k < K; k += AT_ONCE) {
            const ptrdiff_t count = K - k < AT_ONCE ? K - k : AT_ONCE;
            if (w == W)
                pack_b(rows, (matrix){first + k * weights.r, weights.r, weights.c}, count, 1, W, (lanes_of){{W}});
            for (ptrdiff_t i = 0; i < count && w < W; i++)
                store(rows + i * W, weights_of(weights, k + i, to->H, first_gate, to->G, p, v));
            round_rows(words + k / 2 * step, step, rows, count);
        }
        for (ptrdiff_t word = (K + 1) / 2; word < to->words; word++)
            store((real *)(words + word * step), (vec){0});
    }
}

/* Panels p to end in bfloat16. */
static void reduce_to_bf16(const reduced_weights *to, matrix weights, ptrdiff_t K, int first_gate, ptrdiff_t p, ptrdiff_t end)
{
    if (weights.c != 1) {
        for (; p < end; p++)
            reduce_by_columns(to, weights, K, first_gate, p);
        return;
    }
    for (ptrdiff_t word = 0; word < to->words; word++)
        for (ptrdiff_t q = p; q < end; q++) {
            const int vectors = panel_vectors(to->H, to->G, q);
            uint32_t *row = (uint32_t *)to->p + q * to->G * W * to->words + word * vectors * W;
            for (int v = 0; v < vectors; v++) {
                word_vec pair = {0};
                for (int i = 0; i < 2 && 2 * word + i < K; i++)
                    pair |= to_bf16(weights_of(weights, 2 * word + i, to->H, first_gate, to->G, q, v)) << 16 * i;
                store((real *)row + v * W, (vec)pair);
            }
        }
}

/* Vector v of panel p in integers, of all K rows: its words, which are `step` apart, its scales and its surplus. */
static void reduce_to_int8(const reduced_weights *to, matrix weights, ptrdiff_t K, int first_gate, ptrdiff_t p, int v)
{
    const ptrdiff_t first = p * to->G * W, step = panel_vectors(to->H, to->G, p) * W;
    vec inverse = {0}, most = {0}, bad = {0};
    word_vec surplus = {0};
    for (ptrdiff_t k = 0; k < K; k++) {
        vec x = weights_of(weights, k, to->H, first_gate, to->G, p, v);
        most = vmax(most, magnitude(x)), bad += x - x;
    }
    for (int i = 0; i < W; i++) {
        ((real *)to->scales)[first + v * W + i] = scale_of(most[i] + bad[i]);
        inverse[i] = inverse_of(most[i] + bad[i]);
    }
    for (ptrdiff_t word = 0; word < to->words; word++) {
        word_vec all = {0};
        for (int i = 0; i < 4 && word * 4 + i < K; i++) {
            vec x = weights_of(weights, word * 4 + i, to->H, first_gate, to->G, p, v);
            word_vec integer = to_byte(x * inverse, 1) - 128;
            surplus += 128 * integer;
            all |= (integer & 0xff) << (8 * i);
        }
        store((real *)to->p + first * to->words + word * step + v * W, (vec)all);
    }
    store((real *)to->surplus + first + v * W, (vec)surplus);
}

/* The panels that go together from p on, up to the end-th. */
static void reduce(const reduced_weights *to, matrix weights, ptrdiff_t K, int first_gate, ptrdiff_t p, ptrdiff_t end)
{
    if (end > p + PACKED_AT_ONCE)
        end = p + PACKED_AT_ONCE;
    if (to->precision == BF16) {
        reduce_to_bf16(to, weights, K, first_gate, p, end);
        return;
    }
    for (; p < end; p++)
        for (int v = 0; v < panel_vectors(to->H, to->G, p); v++)
            reduce_to_int8(to, weights, K, first_gate, p, v);
}

/* G gates from first_gate on of weights (K, all H), packed into room. Returns the reals that they take; with room NULL that
 * is all it does. */
static ptrdiff_t pack_reduced(int precision, real *room, matrix weights, ptrdiff_t K, ptrdiff_t H, int first_gate, int G)
{
    const ptrdiff_t columns = panel_count(H) * G * W;
    if (room) {
        const real *end = room;
        const reduced_weights to = reduced_at(precision, &end, K, H, G);
        for (ptrdiff_t p = 0; p < panel_count(H) && !team_stopped_now(); p += PACKED_AT_ONCE)
            reduce(&to, weights, K, first_gate, p, panel_count(H));
    }
    return lines(columns * words_of(precision, K)) + (precision == INT8 ? 2 * lines(columns) : 0);
}
