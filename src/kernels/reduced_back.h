/* Products of backward in bfloat16 (reduced.h), of rnn, lstm and gru.
 *
 *   dh = dA Wh^T, dx = dA Wx^T     left: dA, rounded row by row as a step makes it; right: the transposed weights, packed
 *   dWx = x^T dA, dWh = h^T dA     left and right: rows of two samples or steps side by side in a word
 *
 * All sums are float32, and dA stays float32 in the panels, for the biases. Rows of dA, of steps, lie in the order of the
 * panels: (panel, gate, unit). Gates that are multiplied together have rows of their own.
 */

#define BACK_DEPTH 2048 /* rows of a weight gradient that are multiplied at once */

/* Gates whose dA goes together, the transposed weights that it meets, and its rows: of step t at t N. */
typedef struct {
    int first_gate, G;        /* in the panels */
    int of_weights;           /* the first gate in the weights */
    reduced_weights WhT, WxT; /* words 0: there are none */
    reduced_rows rows;
} grad_group;

typedef struct {
    const cell_job *job;
    gate_panels panels;
    reduced_sizes sizes;
    int groups;
    grad_group group[3];
    real *left;  /* of dW: [column][row] in bfloat16 */
    real *right; /* of dW: some strips, for each thread */
    real *more;  /* what the cell asked for */
} reduced_back;

static inline ptrdiff_t back_depth(const cell_job *job)
{
    const ptrdiff_t R = first_row(rows_of_job(job), job->T);
    return words_of(BF16, R < BACK_DEPTH ? R : BACK_DEPTH);
}

/* Reals of the strips that a thread makes of a right side of dW, of any gates. */
static inline ptrdiff_t reals_of_strips(const cell_job *job)
{
    return lines(own_strips_room(panel_count(job->H), MAX_NV, back_depth(job)));
}

/* Rows of dA: products may read those of a tile that the last step does not have. */
static inline ptrdiff_t rows_back_room(const cell_job *job)
{
    return first_row(rows_of_job(job), job->T) + slot_rows(job->first_row ? job->N : 0);
}

/* Reals of weights^T, (K, columns). */
static inline ptrdiff_t reals_turned(ptrdiff_t K, ptrdiff_t columns) { return lines(whole_pairs(columns) * words_of(BF16, K)); }

/* Its room, with `more` reals for the cell: NULL where there is no memory. To be freed. The groups' gates are set already,
 * and so is which weights they meet: WhT.words and WxT.words are not 0. */
static real *reduced_back_room(reduced_back *b, ptrdiff_t more)
{
    const cell_job *job = b->job;
    const ptrdiff_t H = job->H, D = job->D, R = rows_back_room(job), widest = (D > H ? D : H) + 2;
    ptrdiff_t reals = more, left = lines(widest * step_of(back_depth(job))), right = reals_of_strips(job);
    for (int i = 0; i < b->groups; i++) {
        const ptrdiff_t K = b->group[i].G * H;
        reals += reals_of_rows(BF16, R, K);
        reals += (b->group[i].WhT.words ? reals_turned(K, H) : 0) + (b->group[i].WxT.words ? reals_turned(K, D) : 0);
    }
    real *room = new_reals(reals + left + job->threads * right), *end = room;
    if (!room)
        return NULL;
    b->more = end, end += more;
    b->left = end, end += left;
    b->right = end, end += job->threads * right;
    for (int i = 0; i < b->groups; i++) {
        grad_group *g = &b->group[i];
        g->rows = rows_at(BF16, &end, R, g->G * H);
        const real *next = end;
        if (g->WhT.words)
            g->WhT = reduced_at(BF16, &next, g->G * H, whole_pairs(H), 1);
        if (g->WxT.words)
            g->WxT = reduced_at(BF16, &next, g->G * H, whole_pairs(D), 1);
        end += next - end;
    }
    return room;
}

/* Vector v of the columns of weights^T, whose k are in the order of a row of dA; `weights` is (columns, all H). */
static void reduce_turned(const reduced_weights *to, matrix weights, ptrdiff_t columns, ptrdiff_t v, ptrdiff_t H,
                          int first_gate, int G)
{
    real block[MAX_NV * (VECTOR_BYTES / sizeof(real)) * (VECTOR_BYTES / sizeof(real))] __attribute__((aligned(64)));
    const ptrdiff_t left = columns - v * W;
    const lanes_of lanes = {{left < W ? left : W}};
    uint32_t *words = (uint32_t *)to->p + v * W * to->words, *end = words + W * to->words;
    for (ptrdiff_t p = 0; p < panel_count(H); p++) {
        const ptrdiff_t w = panel_width(H, p), count = G * w;
        for (int g = 0; g < G; g++) {
            const real *first = weights.p + v * W * weights.r + ((first_gate + g) * H + p * W) * weights.c;
            pack_b(block + g * w * W, (matrix){first, weights.c, weights.r}, w, 1, W, lanes);
        }
        round_rows(words, W, block, count);
        words += (count + 1) / 2 * W;
    }
    memset(words, 0, (end - words) * sizeof *words);
}

static void reduce_turned_share(const reduced_weights *to, strided weights, ptrdiff_t columns, ptrdiff_t H, const grad_group *g,
                                const team *tm, int rank)
{
    ptrdiff_t v0, v1;
    team_share(tm, rank, to->words ? to->H / W : 0, &v0, &v1);
    for (ptrdiff_t v = v0; v < v1 && !team_stopped(); v++)
        reduce_turned(to, (matrix){weights.p, weights.s0, weights.s1}, columns, v, H, g->of_weights, g->G);
}

/* What a tile holds back of step t, once the sums of the step after are there: samples of which that was the first step, whose
 * initial h has its gradient now. Returns how many of the tile's rows step t has. */
static ptrdiff_t reduced_own_grads(const cell_job *job, ptrdiff_t t, const tile_walk *w, const real *sums, const real *kept)
{
    const ptrdiff_t own = rows_at_work(job, t, w->n, w->rows), after = rows_at_work(job, t + 1, w->n, w->rows);
    if (after > own)
        state_grads(job, job->H, w->p, w->n + own, after - own, sums + own * 2 * W, 1, kept, job->dh0);
    return own;
}

/* This thread's own copy of a call, ready for its time loop. */
static reduced_back reduced_back_for(const reduced_back *of_all, team *tm, int rank)
{
    reduced_back b = *of_all;
    const cell_job *job = b.job;
    for (int i = 0; i < b.groups; i++) {
        const grad_group *g = &b.group[i];
        reduce_turned_share(&g->WxT, job->Wx, job->D, job->H, g, tm, rank);
        reduce_turned_share(&g->WhT, job->Wh, job->P, job->H, g, tm, rank);
    }
    b.sizes.own_rows = b.sizes.own_rows && reduced_own_rows(job, tm, b.sizes.most);
    tiles_begin(&b.sizes.way, tile_start(job->N, tile_count(job->N, b.sizes.most), 1));
    if (rank == 0) {
        pass_state(job, job->dhT, job->P, job->dh0);
        if (job->dc0)
            pass_state(job, job->dcT, job->H, job->dc0);
    }
    team_wait(tm);
    return b;
}

/* This thread's tiles of pairs of panels and samples. */
static tile_walk back_tiles(const reduced_back *b, const team *tm, int rank)
{
    return team_tiles(tm, rank, pair_count(b->job->H), b->job->N, b->sizes.most, b->sizes.own_rows);
}

/* sums (rows, 2 W) (+)= dA of step t times Wh^T: one tile. */
static void reduced_hidden_grads(const reduced_back *b, const grad_group *g, ptrdiff_t t, const tile_walk *w, real *sums,
                                 int add)
{
    reduced_gates(&b->sizes.way, &g->WhT, (panel_strip){2 * w->p, 2}, g->rows, first_row(rows_of_job(b->job), t) + w->n,
                  rows_at_work(b->job, t, w->n, w->rows), w->i, w->tiles, sums, add);
}

/* dA of a tile of step t, rounded from the panels into the rows of a group. */
static void round_dA(const reduced_back *b, const grad_group *g, ptrdiff_t t, const tile_walk *w)
{
    const ptrdiff_t H = b->job->H, rows = rows_at_work(b->job, t, w->n, w->rows);
    if (rows == 0)
        return;
    const ptrdiff_t row_0 = first_row(rows_of_job(b->job), t);
    for (ptrdiff_t p = 2 * w->p; p < 2 * w->p + 2 && p * W < H; p++) {
        const ptrdiff_t width = panel_width(H, p), count = g->G * width, first = p * g->G * W, end = first + count;
        for (ptrdiff_t n = w->n; n < w->n + rows; n++) {
            const real *from = panel_row(&b->panels, p, t, n) + g->first_gate * width;
            uint32_t *row = g->rows.p + (row_0 + n) * g->rows.step;
            for (ptrdiff_t j = 0; j < count; j += W) {
                const ptrdiff_t lanes = count - j < W ? count - j : W;
                round_to(BF16, row, first + j, load_n(from + j, lanes), lanes, 0);
            }
            if (end == g->G * H)
                memset((uint16_t *)row + end, 0, words_of(BF16, end) * 4 - end * 2);
        }
    }
}

/* dxs = dA Wx^T: this thread's part. */
static void reduced_input_grads(const reduced_back *b, const team *tm, int rank)
{
    const cell_job *job = b->job;
    const step_rows all = rows_of_job(job);
    const ptrdiff_t R = first_row(all, job->T), D = job->D;
    reduced_way way = way_for(BF16, R);
    const ptrdiff_t most = rows_of_way(&way);
    ptrdiff_t words = 0;
    real sums[REDUCED_SUMS] __attribute__((aligned(64)));
    for (int g = 0; g < b->groups; g++)
        words += b->group[g].WxT.words;
    tiles_begin(&way, tile_start(R, tile_count(R, most), 1));

    for (block_walk w = team_blocks(tm, rank, pair_count(D), 2, R, most, words, 0); next_block(&w);) {
        int add = 0;
        for (int i = 0; i < b->groups; i++) {
            const grad_group *g = &b->group[i];
            if (g->WxT.words) {
                reduced_gates(&way, &g->WxT, (panel_strip){2 * w.p, 2}, g->rows, w.n, w.rows, 0, tiles_to_fetch(&w), sums, add);
                add = 1;
            }
        }
        row_place at = place_of(all, w.n);
        for (ptrdiff_t r = 0; r < w.rows; r++, next_place(all, &at)) {
            real *dx = row_at(job, job->dxs, at.t, at.n) + w.p * 2 * W;
            for (ptrdiff_t v = 0, lanes; v < 2 && (lanes = D - (2 * w.p + v) * W) > 0; v++)
                store_n(dx + v * W, load(sums + (r * 2 + v) * W), lanes < W ? lanes : W);
        }
    }
    tiles_end(&way);
}

/* right[panel of the strip][word][vectors][W]: dA of the rows r0 to r1, G gates from first_gate on. */
static void round_strip(uint32_t *right, ptrdiff_t words, const gate_panels *P, panel_strip strip, int first_gate, int G,
                        ptrdiff_t r0, ptrdiff_t r1)
{
    for (ptrdiff_t p = strip.p; p < strip.p + strip.panels; p++) {
        const ptrdiff_t w = panel_width(P->H, p), apart = P->S * w;
        const int vectors = panel_vectors(P->H, G, p);
        const real *row = panel_row(P, p, 0, r0) + first_gate * w;
        for (ptrdiff_t word = 0, r = r0; word < words; word++, r += 2, row += 2 * apart)
            for (int v = 0; v < vectors; v++, right += W) {
                const ptrdiff_t left = G * w - v * W, lanes = left < W ? left : W;
                word_vec both = {0};
                if (r < r1)
                    both = to_bf16(load_n(row + v * W, lanes));
                if (r + 1 < r1)
                    both |= to_bf16(load_n(row + apart + v * W, lanes)) << 16;
                store((real *)right, (vec)both);
            }
    }
}

/* dW (M, H of G gates) = rows^T dA of G gates from first_gate on: this thread's tiles of it. The rows of dW are those of `all`
 * gates, dW points to the first one's. */
static void reduced_weight_grads(const reduced_back *b, team *tm, int rank, int first_gate, int G, const left_rows *rows,
                                 ptrdiff_t M, real *dW, int all)
{
    const gate_panels *P = &b->panels;
    const ptrdiff_t H = P->H, R = P->R, blocks = tile_count(R, BACK_DEPTH);
    uint32_t *left = (uint32_t *)b->left, *right = (uint32_t *)(b->right + rank * reals_of_strips(b->job));
    real sums[REDUCED_SUMS] __attribute__((aligned(64)));
    reduced_way way = way_for(BF16, M);
    const ptrdiff_t most = rows_of_way(&way);
    tiles_begin(&way, tile_start(M, tile_count(M, most), 1));

    for (ptrdiff_t block = 0; block < blocks; block++) {
        const ptrdiff_t r0 = tile_start(R, blocks, block), r1 = tile_start(R, blocks, block + 1);
        const ptrdiff_t words = words_of(BF16, r1 - r0), step = step_of(words), used = words_used(r1 - r0);
        team_wait(tm); /* nobody needs what left holds */
        turn_left(left, step, tm, rank, rows, rows_of_panels(P), r0, r1, M);
        team_wait(tm);
        own_strips strips = own_strips_at(right, strip_vectors(G) * W * words);
        for (block_walk w = team_blocks(tm, rank, strip_count(H, G), strip_vectors(G), M, most, words, 0); next_block(&w);) {
            const panel_strip strip = strip_at(H, G, w.p);
            const int vectors = panel_vectors(H, G, strip.p), NV = strip.panels * vectors;
            int made;
            uint32_t *own = own_strip(&strips, &w, &made);
            if (!made)
                round_strip(own, words, P, strip, first_gate, G, r0, r1);
            reduced_product t = {.words = way.high ? words : used,
                                 .next = own,
                                 .a = left + w.n * step,
                                 .ar = step,
                                 .b = own,
                                 .bk = vectors * W,
                                 .bv = G == 1 ? W * words : W,
                                 .c = (uint32_t *)sums};
            reduced_multiply(&way, NV, w.rows, t);
            for (ptrdiff_t r = 0; r < w.rows; r++)
                for (int v = 0; v < strip.panels; v++)
                    for (int g = 0; g < G; g++) {
                        const ptrdiff_t width = panel_width(H, strip.p + v);
                        real *to = dW + ((w.n + r) * all + g) * H + (strip.p + v) * W;
                        vec sum = load_n(sums + (r * NV + v) * W + g * width, width);
                        store_n(to, block > 0 ? load_n(to, width) + sum : sum, width);
                    }
        }
    }
    tiles_end(&way);
}
