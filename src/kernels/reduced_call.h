/* What forward with weights of 16 or 8 bits has beside the time loop of a cell (reduced_cells.h): the left sides of its
 * products, and x Wx of a chunk of steps.
 *
 * h lies in [-b, b], b the largest of 1 and |h0| of its sample (times that of h_mask): so an integer of INT8 stands for
 * b / 127 in all steps. A row of x has its own bound.
 */

typedef struct {
    reduced_way way;
    ptrdiff_t most;                                     /* rows of a tile */
    ptrdiff_t chunk;                                    /* steps in the panels */
    int precomputed;                                    /* these hold x Wx before their time loop */
    int own_rows;                                       /* as owns_rows */
    reduced_weights Wx, Wh, Wx_candidate, Wh_candidate; /* a gru's candidate has its own */
    int packs;                                          /* the call packs them itself */
    reduced_rows x;                                     /* of two steps, or of a chunk */
    reduced_rows h;                                     /* of two steps: what Wh multiplies */
    reduced_rows rh;                                    /* gru: r s */
    real *inverses;                                     /* of h and rh */
    real *gates, *more;                                 /* room of the panels, and what the cell asked for */
} reduced_call;

static inline ptrdiff_t slot_rows(ptrdiff_t N) { return N + 2; } /* a tile of registers may be two rows higher than its tile */

/* b of a sample. A gru mixes h with its candidate times candidate_mask. */
static real h_bound(const cell_job *job, ptrdiff_t n)
{
    real bound = job->h0.p ? bound_of((const real *)job->h0.p + n * job->h0.s0, job->P) : 0;
    bound = bound < 1 ? 1 : bound; /* NaN stays */
    for (ptrdiff_t t = 0; job->candidate_mask.p && !job->cT && t < job->T; t++) {
        const real most = bound_of(row_at(job, job->candidate_mask, t, n), job->H);
        bound = bound >= most ? bound : bound < most ? most : bound + most; /* the sum of a NaN is one */
    }
    return job->h_mask.p ? bound * bound_of((const real *)job->h_mask.p + n * job->h_mask.s0, job->P) : bound;
}

/* This thread's share of the rows of x of step t, for its slot. */
static void reduced_x(const reduced_call *q, const cell_job *job, const team *tm, int rank, ptrdiff_t t)
{
    const ptrdiff_t N = job->N, rows = rows_of(job, t), tiles = tile_count(rows, q->most);
    ptrdiff_t i0, i1;
    team_share(tm, rank, tiles, &i0, &i1); /* as team_tiles shares own rows */
    for (ptrdiff_t n = i0 < i1 ? tile_start(rows, tiles, i0) : 0; i0 < i1 && n < tile_start(rows, tiles, i1); n++) {
        const ptrdiff_t row = t % 2 * slot_rows(N) + n;
        round_row(q->way.precision, q->x.p + row * q->x.step, row_at(job, job->xs, t, n), job->D, q->x.scales + row);
    }
}

/* This thread's share of weights (K, all H), G gates from first_gate on. */
static void reduce_share(const reduced_weights *to, strided weights, ptrdiff_t K, int first_gate, const team *tm, int rank)
{
    ptrdiff_t p0, p1;
    team_share(tm, rank, panel_count(to->H), &p0, &p1);
    for (ptrdiff_t p = p0; p < p1 && !team_stopped(); p += PACKED_AT_ONCE)
        reduce(to, (matrix){weights.p, weights.s0, weights.s1}, K, first_gate, p, p1);
}

static void reduced_pack(const reduced_call *q, const cell_job *job, const team *tm, int rank)
{
    reduce_share(&q->Wx, job->Wx, job->D, 0, tm, rank);
    reduce_share(&q->Wh, job->Wh, job->P, 0, tm, rank);
    if (q->Wx_candidate.words) {
        reduce_share(&q->Wx_candidate, job->Wx, job->D, q->Wx.G, tm, rank);
        reduce_share(&q->Wh_candidate, job->Wh, job->P, q->Wh.G, tm, rank);
    }
}

/* What the products of step t read of the initial h m, of samples n0..n1. */
static void reduced_first_h(const reduced_call *q, const cell_job *job, ptrdiff_t t, ptrdiff_t n0, ptrdiff_t n1)
{
    for (ptrdiff_t n = n0; n < n1; n++)
        for (ptrdiff_t j = 0; j < job->P; j += W) {
            const ptrdiff_t w = panel_width(job->P, j / W);
            uint32_t *row = q->h.p + (t % 2 * slot_rows(job->N) + n) * q->h.step;
            round_to(q->way.precision, row, j, state_of(job->seen0, n, j, w), w, q->inverses[n]);
        }
}

/* What comes before the time loop: weights that are not packed yet, the bounds of h, and the left sides of the first step. */
static void reduced_begin(const reduced_call *q, const cell_job *job, team *tm, int rank)
{
    const ptrdiff_t N = job->N, slot = slot_rows(N);
    ptrdiff_t n0, n1;
    if (q->packs)
        reduced_pack(q, job, tm, rank);
    team_share(tm, rank, N, &n0, &n1);
    for (ptrdiff_t n = n0; n < n1 && q->way.precision == INT8; n++) {
        const real bound = h_bound(job, n);
        q->inverses[n] = inverse_of(bound);
        q->h.scales[n] = q->h.scales[slot + n] = scale_of(bound);
    }
    reduced_first_h(q, job, 0, n0, n1);
    if (!q->precomputed)
        reduced_x(q, job, tm, rank, 0);
    if (rank == 0) {
        pass_state(job, job->h0, job->P, job->hT);
        if (job->cT)
            pass_state(job, job->c0, job->H, job->cT);
    }
    team_wait(tm);
}

/* Rows n0.. of panel p of what lies at `from`, rows apart by step_of(H), as rows of `to` from `row` on. */
static void reduced_h(const reduced_call *q, const reduced_rows *to, ptrdiff_t row, ptrdiff_t p, ptrdiff_t H, const real *from,
                      ptrdiff_t n0, ptrdiff_t rows)
{
    const ptrdiff_t w = panel_width(H, p), j = p * W;
    for (ptrdiff_t n = n0; n < n0 + rows; n++)
        round_to(q->way.precision, to->p + (row + n) * to->step, j, load_n(from + (n - n0) * step_of(H) + j, w), w,
                 q->inverses[n]);
}

/* x Wx of the rows of a chunk, of steps t.., into the panels, G gates from first_gate on. */
static void reduced_input(reduced_call *q, const gate_panels *P, const team *tm, int rank, const reduced_weights *Wx,
                          int first_gate, step_rows all, ptrdiff_t t, ptrdiff_t count)
{
    real sums[REDUCED_SUMS] __attribute__((aligned(64)));
    reduced_way way = q->way;
    const ptrdiff_t most = rows_of_way(&way), strips = strip_count(P->H, Wx->G);
    tiles_begin(&way, count ? tile_start(count, tile_count(count, most), 1) : 0); /* the first is as high as any */
    for (block_walk w = team_blocks(tm, rank, strips, strip_vectors(Wx->G), count, most, Wx->words, 0); next_block(&w);) {
        const panel_strip strip = strip_at(P->H, Wx->G, w.p);
        const ptrdiff_t width = panel_width(P->H, strip.p), columns = Wx->G * width;
        const ptrdiff_t step = strip.panels * panel_vectors(P->H, Wx->G, strip.p) * W;
        reduced_gates(&way, Wx, strip, q->x, w.n, w.rows, 0, tiles_to_fetch(&w), sums, 0);
        row_place at = place_of(all, first_row(all, t) + w.n);
        for (ptrdiff_t r = 0; r < w.rows; r++, next_place(all, &at))
            for (int v = 0; v < strip.panels; v++)
                memcpy(panel_row(P, strip.p + v, at.t - t, at.n) + first_gate * width, sums + r * step + v * W,
                       columns * sizeof(real));
    }
}

/* Where a chunk begins: its rows of x, then their products with the weights of both groups of gates. */
static void reduced_chunk(reduced_call *q, const cell_job *job, const gate_panels *P, team *tm, int rank, ptrdiff_t t)
{
    if (!q->precomputed || t % P->T)
        return;
    const step_rows all = rows_of_job(job);
    const ptrdiff_t steps = job->T - t < P->T ? job->T - t : P->T, r0 = first_row(all, t), R = first_row(all, t + steps) - r0;
    ptrdiff_t from, to;
    team_share(tm, rank, R, &from, &to);
    row_place at = place_of(all, r0 + from);
    for (ptrdiff_t row = from; row < to && !team_stopped(); row++, next_place(all, &at))
        round_row(q->way.precision, q->x.p + row * q->x.step, row_at(job, job->xs, at.t, at.n), job->D, q->x.scales + row);
    team_wait(tm);
    reduced_input(q, P, tm, rank, &q->Wx, 0, all, t, R);
    if (q->Wx_candidate.words)
        reduced_input(q, P, tm, rank, &q->Wx_candidate, q->Wx.G, all, t, R);
    team_wait(tm);
}

/* The packed weights of a cell whose gates go together, or of a gru in the order of its pack, from `next` on. */
static void reduced_take(reduced_call *q, const cell_job *job, const real *next, int G, int candidate)
{
    const int precision = job->precision;
    q->Wx = reduced_at(precision, &next, job->D, job->H, G);
    if (candidate)
        q->Wx_candidate = reduced_at(precision, &next, job->D, job->H, 1);
    q->Wh = reduced_at(precision, &next, job->P, job->H, G);
    if (candidate)
        q->Wh_candidate = reduced_at(precision, &next, job->P, job->H, 1);
}

/* Reals of `rows` rows of K numbers with their scales; and these at *room, which goes on behind them. */
static inline ptrdiff_t reals_of_rows(int precision, ptrdiff_t rows, ptrdiff_t K)
{
    return lines(rows * step_of(words_of(precision, K))) + lines(rows);
}
static reduced_rows rows_at(int precision, real **room, ptrdiff_t rows, ptrdiff_t K)
{
    const ptrdiff_t step = step_of(words_of(precision, K));
    const reduced_rows to = {(uint32_t *)*room, step, *room + lines(rows * step)};
    *room = to.scales + lines(rows);
    return to;
}

/* Reals of the weights of G gates, packed. */
static inline ptrdiff_t reals_of_weights(const cell_job *job, int G)
{
    return pack_reduced(job->precision, NULL, (matrix){0}, job->D, job->H, 0, G) +
           pack_reduced(job->precision, NULL, (matrix){0}, job->P, job->H, 0, G);
}

/* Sizes that forward and backward share, and what they follow from. */
typedef struct {
    reduced_way way;
    ptrdiff_t most; /* rows of a tile */
    int precomputed, own_rows;
} reduced_sizes;

static reduced_sizes sizes_of_call(const cell_job *job, int gates)
{
    const ptrdiff_t N = job->N;
    const ptrdiff_t weights = (words_of(job->precision, job->D) + words_of(job->precision, job->P)) * gates * job->H * 4;
    reduced_sizes s = {.way = way_for(job->precision, N), .precomputed = N < 12 || (N < 48 && weights > 1 << 20)};
    s.most = rows_of_way(&s.way);
    s.own_rows = !s.precomputed && weights <= 1 << 20 && !job->first_row;
    if (s.own_rows && s.way.high && N >= 8 * job->threads) /* as many tiles for each thread, as high as they can be */
        s.most = tile_count(N, tile_count(tile_count(N, s.most), job->threads) * job->threads);
    return s;
}

/* Whether a thread has rows of its own: as rows_come_out_even. */
static inline int reduced_own_rows(const cell_job *job, const team *tm, ptrdiff_t most)
{
    const ptrdiff_t tiles = tile_count(job->N, most), even = tile_count(tiles, tm->size) * tm->size;
    return job->N >= 8 * tm->size && 16 * even <= 17 * tiles;
}

/* A call's sizes and its room, with `more` reals for the cell: NULL where there is no memory. To be freed. */
static real *reduced_room(reduced_call *q, const cell_job *job, int G, int candidate, ptrdiff_t more)
{
    const ptrdiff_t N = job->N, gates = G + candidate;
    const reduced_sizes sizes = sizes_of_call(job, gates);
    q->way = sizes.way, q->most = sizes.most, q->precomputed = sizes.precomputed, q->own_rows = sizes.own_rows;
    q->chunk = q->precomputed || job->train ? panel_steps(job) : 1;
    q->packs = !job->packed;
    const ptrdiff_t weights = q->packs ? reals_of_weights(job, G) + (candidate ? reals_of_weights(job, 1) : 0) : 0;

    const ptrdiff_t x_rows = q->precomputed ? q->chunk * N + 2 : 2 * slot_rows(N);
    const ptrdiff_t panels = job->train ? 0 : lines(q->chunk * N * gates * job->H + W);
    const ptrdiff_t left = reals_of_rows(job->precision, x_rows, job->D) +
                           reals_of_rows(job->precision, 2 * slot_rows(N), job->P) +
                           reals_of_rows(job->precision, slot_rows(N), job->P) + lines(N);
    real *room = new_reals(left + panels + more + weights), *end = room;
    if (!room)
        return NULL;
    memset(room, 0, left * sizeof(real));
    reduced_take(q, job, q->packs ? room + left + panels + more : job->packed, G, candidate);
    q->x = rows_at(job->precision, &end, x_rows, job->D);
    q->h = rows_at(job->precision, &end, 2 * slot_rows(N), job->P);
    q->rh = rows_at(job->precision, &end, slot_rows(N), job->P);
    q->rh.scales = q->h.scales;
    q->inverses = end, q->gates = job->train ? job->panels : end + lines(N), q->more = end + lines(N) + panels;
    return room;
}

/* This thread's own copy of a call, ready for its time loop. */
static reduced_call reduced_for(const reduced_call *of_all, const cell_job *job, team *tm, int rank)
{
    reduced_call q = *of_all;
    q.own_rows = q.own_rows && reduced_own_rows(job, tm, q.most);
    tiles_begin(&q.way, tile_start(job->N, tile_count(job->N, q.most), 1));
    reduced_begin(&q, job, tm, rank);
    return q;
}

/* What lies between two steps. */
static void reduced_step_ends(const reduced_call *q, const cell_job *job, team *tm, int rank, ptrdiff_t t)
{
    if (!q->precomputed)
        reduced_x(q, job, tm, rank, t + 1);
    if (rank == 0)
        reduced_first_h(q, job, t + 1, rows_of(job, t), rows_of(job, t + 1));
    step_wait(tm, q->own_rows);
}

/* sums = x Wx, unless the panels hold it, + h Wh, unless h is zero: of so many rows of a tile of a strip. Returns NULL where
 * nothing is. */
static const real *reduced_sums(const reduced_call *q, const reduced_weights *Wx, const reduced_weights *Wh, panel_strip strip,
                                const tile_walk *w, ptrdiff_t rows, ptrdiff_t slot, const reduced_rows *h, ptrdiff_t h_slot,
                                real *sums)
{
    if (!q->precomputed)
        reduced_gates(&q->way, Wx, strip, q->x, slot + w->n, rows, w->i, w->tiles, sums, 0);
    if (h)
        reduced_gates(&q->way, Wh, strip, *h, h_slot + w->n, rows, w->i, w->tiles, sums, !q->precomputed);
    return h || !q->precomputed ? sums : NULL;
}
