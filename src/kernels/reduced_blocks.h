/* Products of many rows with many columns (reduced.h), in an order in which what both sides read stays in L2: some strips of
 * columns go together, and with these some tiles of rows. A tile meets all of these strips before the next one does; where the
 * product is stored by columns (`down`) it is a strip that meets all of these tiles. Threads have shares of all pairs in this
 * order.
 *
 *     for (block_walk w = team_blocks(...); next_block(&w);)
 *         ... strip w.p, rows w.n to w.n + w.rows
 */

#define L2_STRIPS (1 << 20) /* bytes of the strips that go together, and of the tiles */
#define L2_TILES (1 << 19)
#define MOST_STRIPS 32 /* that go together */

typedef struct {
    ptrdiff_t p, i, n, rows;                                /* i: the rows' tile */
    ptrdiff_t first_strip, end_strip, first_tile, end_tile; /* those that go together now */
    ptrdiff_t strips, strips_at_once, tiles, tiles_at_once;
    ptrdiff_t all, left; /* rows; pairs of this thread to come */
    int down, begun;
} block_walk;

static inline void blocks_from(block_walk *w, ptrdiff_t strip, ptrdiff_t tile)
{
    const ptrdiff_t end_strip = strip + w->strips_at_once, end_tile = tile + w->tiles_at_once;
    w->p = w->first_strip = strip, w->end_strip = end_strip < w->strips ? end_strip : w->strips;
    w->i = w->first_tile = tile, w->end_tile = end_tile < w->tiles ? end_tile : w->tiles;
}

/* To those that go together next. */
static inline void pass_blocks(block_walk *w)
{
    if (w->end_tile < w->tiles)
        blocks_from(w, w->first_strip, w->end_tile);
    else
        blocks_from(w, w->end_strip, 0);
}

/* To the next pair, of this thread or another. */
static inline void pass_pair(block_walk *w)
{
    if (w->down) {
        if (++w->i < w->end_tile)
            return;
        w->i = w->first_tile;
        if (++w->p < w->end_strip)
            return;
    } else {
        if (++w->p < w->end_strip)
            return;
        w->p = w->first_strip;
        if (++w->i < w->end_tile)
            return;
    }
    pass_blocks(w);
}

/* How many go together, of so many words each. */
static inline ptrdiff_t at_once(ptrdiff_t bytes, ptrdiff_t words, ptrdiff_t most)
{
    const ptrdiff_t room = bytes / (ptrdiff_t)sizeof(uint32_t);
    return words > room ? 1 : words * most > room ? room / words : most;
}

/* Strips of so many vectors, and rows in tiles of `most`. A column and a row have so many words. */
static block_walk team_blocks(const team *tm, int rank, ptrdiff_t strips, ptrdiff_t vectors, ptrdiff_t rows, ptrdiff_t most,
                              ptrdiff_t words, int down)
{
    block_walk w = {.strips = strips, .tiles = tile_count(rows, most), .all = rows, .down = down};
    w.strips_at_once = at_once(L2_STRIPS, vectors * W * words, MOST_STRIPS);
    w.tiles_at_once = at_once(L2_TILES, most * words, w.tiles);
    ptrdiff_t from, to;
    team_share(tm, rank, strips * w.tiles, &from, &to);
    w.left = to - from;
    blocks_from(&w, 0, 0);
    for (ptrdiff_t pairs; from > 0; from -= pairs) {
        pairs = (w.end_strip - w.first_strip) * (w.end_tile - w.first_tile);
        if (from < pairs)
            break;
        pass_blocks(&w);
    }
    for (; from > 0; from--)
        pass_pair(&w);
    return w;
}

static inline int next_block(block_walk *w)
{
    if (w->left-- == 0 || team_stopped())
        return 0;
    if (w->begun++)
        pass_pair(w);
    w->n = tile_start(w->all, w->tiles, w->i);
    w->rows = tile_start(w->all, w->tiles, w->i + 1) - w->n;
    return 1;
}

/* For reduced_gates: how many tiles there are for fetching the next strip, which only the first tile brings into L2. */
static inline ptrdiff_t tiles_to_fetch(const block_walk *w) { return w->i == w->first_tile ? 1 : 2 * TILE_WORDS; }

/* Strips of a right side that a thread makes for itself while it walks: room for those that go together. */
typedef struct {
    uint32_t *room;
    ptrdiff_t each; /* words of a strip */
    ptrdiff_t held[MOST_STRIPS];
} own_strips;

/* Words of that room, for so many strips or fewer, of so many vectors and words or fewer. */
static inline ptrdiff_t own_strips_room(ptrdiff_t strips, ptrdiff_t vectors, ptrdiff_t words)
{
    const ptrdiff_t each = vectors * W * words, most = L2_STRIPS / sizeof(uint32_t);
    const ptrdiff_t all = (strips < MOST_STRIPS ? strips : MOST_STRIPS) * each;
    return each > most ? each : all < most ? all : most;
}

static inline own_strips own_strips_at(uint32_t *room, ptrdiff_t each)
{
    own_strips s = {.room = room, .each = each};
    for (int i = 0; i < MOST_STRIPS; i++)
        s.held[i] = -1;
    return s;
}

/* Where the walk's strip lies; *made: whether it has been made. */
static inline uint32_t *own_strip(own_strips *s, const block_walk *w, int *made)
{
    const ptrdiff_t slot = w->p - w->first_strip;
    *made = s->held[slot] == w->p;
    s->held[slot] = w->p;
    return s->room + slot * s->each;
}
