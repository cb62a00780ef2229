/* A team of threads that work on one call, with its own barrier: steps of a recurrence are microseconds long, so
 * waiting spins first and yields the core after a while.
 *
 * The threads are ours and not OpenMP's: its threads go on spinning for many milliseconds after a region, without
 * ever yielding, and the threads of NumPy's BLAS, which want the same cores, then crawl. */
#ifndef RNNFAST_TEAM_H
#define RNNFAST_TEAM_H

#include "platform.h"

#include <limits.h>
#include <stdatomic.h>

typedef struct {
    int size;
    atomic_int stop; /* the call is to end, whatever it has done: see team_stopped */
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_int phase;
} team;

typedef void (*team_body)(team *, int rank, void *job);

/* Runs body on `threads` threads at most: fewer where the system grants fewer, one after a fork and while another
 * thread of the program is in a call. Returns 0, or STOPPED where the call was stopped: what it should have written is then
 * of no use. The threads compute in the caller's floating-point mode. */
int team_run(int threads, team_body body, void *job);
#define STOPPED 1

/* While a call runs, its own thread asks every 0.2 s: other than 0 stops the call. */
void team_set_asks(int (*asks)(void));

double team_meet(int threads, long n); /* ns of each of n barriers with nothing between them; 0 for one thread */

int team_max_threads(void);   /* what a call may use now */
void team_set_threads(int n); /* 0: back to the default */
void team_init(int default_threads);

static inline void team_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#define SHORT_WAIT 256 /* looks at what is waited for before a thread yields its core between two of them */

static inline void team_pause(int spins)
{
    if (spins < SHORT_WAIT)
        team_relax();
    else
        yield_core();
}

/* The call in which a thread is. `left`: how often it is asked before the next look at the clock, which only the call's
 * own thread takes. */
typedef struct {
    team *team;
    long left;
} team_call;
extern _Thread_local team_call this_call TLS_MODEL;
void team_look(void);

/* Whether the call is to end. Asked by all loops that may take long, for each tile; barriers then keep nobody, so that
 * all threads soon come to the end, in whatever order. */
static inline int team_stopped(void)
{
    if (--this_call.left < 0)
        team_look();
    return atomic_load_explicit(&this_call.team->stop, memory_order_relaxed);
}

/* The same for loops of few and long rounds, on the call's own thread alone: it looks at the clock each time. */
static inline int team_stopped_now(void)
{
    this_call.left = 0;
    return team_stopped();
}

/* From here on the call is not stopped: it writes what the caller sees. */
static inline void team_finish(void) { this_call.left = LONG_MAX; }

void team_wait_long(team *t, int phase);

static inline void team_wait(team *t)
{
    if (t->size == 1)
        return;
    int phase = atomic_load_explicit(&t->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&t->arrived, 1, memory_order_acq_rel) == t->size - 1) {
        atomic_store_explicit(&t->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&t->phase, phase + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&t->phase, memory_order_acquire) == phase; spins++) {
        if (atomic_load_explicit(&t->stop, memory_order_relaxed))
            return;
        if (spins == SHORT_WAIT) {
            team_wait_long(t, phase);
            return;
        }
        team_relax();
    }
}

/* A barrier before what the caller sees is written: 0 where the call was stopped. `whole`: it is not stopped any more. */
static inline int team_goes_on(team *t, int whole)
{
    team_wait(t);
    if (atomic_load_explicit(&t->stop, memory_order_relaxed))
        return 0;
    if (whole)
        team_finish();
    return 1;
}

/* The barrier of a step, which nobody needs who works on own rows. */
static inline void step_wait(team *t, int own_rows)
{
    if (!own_rows)
        team_wait(t);
}

/* Part `rank` of n items, in order; parts differ by one item at most. */
static inline void team_share(const team *t, int rank, ptrdiff_t n, ptrdiff_t *from, ptrdiff_t *to)
{
    ptrdiff_t each = n / t->size, rest = n % t->size;
    *from = rank * each + (rank < rest ? rank : rest);
    *to = *from + each + (rank < rest);
}

/* How n rows are cut into tiles of nearly equal size, none above most. */
static inline ptrdiff_t tile_count(ptrdiff_t n, ptrdiff_t most) { return (n + most - 1) / most; }
static inline ptrdiff_t tile_start(ptrdiff_t n, ptrdiff_t tiles, ptrdiff_t i)
{
    ptrdiff_t rest = n % tiles;
    return i * (n / tiles) + (i < rest ? i : rest);
}

/* A thread's share of a grid of panels x tiles of rows, panel by panel: either its part of the whole grid in that
 * order, or its own rows of all panels. The grid is the same for every team; only who walks over a tile differs.
 *
 *     for (tile_walk w = team_tiles(...); next_tile(&w);)
 *         ... panel w.p, rows w.n to w.n + w.rows: tile w.i of the panel's w.tiles
 */
typedef struct {
    ptrdiff_t p, n, rows, i;
    ptrdiff_t left, tiles, each, rest; /* left: tiles to come; each, rest: how rows are cut, as by tile_start */
    ptrdiff_t first_tile, end_tile;    /* the tiles of each panel that belong to the share, but for a part of its ends */
    ptrdiff_t all, turn, turns;        /* in turns: all rows; the thread's tiles of a panel, done and all */
    int size, rank;
} tile_walk;

/* The height of the tile that begins at row n. */
static inline ptrdiff_t tile_rows(tile_walk w, ptrdiff_t n) { return w.each + (n < w.rest * (w.each + 1)); }

/* Tiles of a walk in turns, there and back, so that all threads have as many of the first rows, which have the most steps. */
static inline ptrdiff_t tile_in_turn(const tile_walk *w, ptrdiff_t turn)
{
    return turn * w->size + (turn % 2 ? w->size - 1 - w->rank : w->rank);
}

static inline tile_walk team_tiles_in_turns(const team *t, int rank, ptrdiff_t panels, ptrdiff_t rows, ptrdiff_t height)
{
    tile_walk w = {.tiles = tile_count(rows, height), .each = height, .all = rows, .size = t->size, .rank = rank};
    w.turns = w.tiles / t->size;
    w.turns += tile_in_turn(&w, w.turns) < w.tiles;
    w.left = panels * w.turns;
    return w;
}

/* own_rows: 0, a share of all tiles; 1, some of each panel's; above 1, tiles of each panel in turns, of so many rows, which
 * are the same thread's whatever `rows` is. */
static inline tile_walk team_tiles(const team *t, int rank, ptrdiff_t panels, ptrdiff_t rows, ptrdiff_t most, int own_rows)
{
    if (own_rows > 1)
        return team_tiles_in_turns(t, rank, panels, rows, own_rows);
    tile_walk w = {.tiles = tile_count(rows, most)};
    ptrdiff_t from, to;
    if (w.tiles == 0) /* no rows, nothing left */
        return w;
    w.each = rows / w.tiles, w.rest = rows % w.tiles;
    if (own_rows) {
        team_share(t, rank, w.tiles, &w.first_tile, &w.end_tile);
        w.left = panels * (w.end_tile - w.first_tile);
        w.i = w.first_tile - 1;
    } else {
        team_share(t, rank, panels * w.tiles, &from, &to);
        w.end_tile = w.tiles;
        w.left = to - from;
        w.p = from / w.tiles, w.i = from % w.tiles - 1;
    }
    return w;
}

static inline int walk_on(tile_walk *w)
{
    if (w->left-- == 0)
        return 0;
    if (w->turns) {
        if (w->turn == w->turns)
            w->p++, w->turn = 0;
        w->i = tile_in_turn(w, w->turn++), w->n = w->i * w->each;
        w->rows = w->all - w->n < w->each ? w->all - w->n : w->each;
        return 1;
    }
    if (++w->i == w->end_tile)
        w->p++, w->i = w->first_tile;
    w->n = w->i * w->each + (w->i < w->rest ? w->i : w->rest);
    w->rows = tile_rows(*w, w->n);
    return 1;
}

static inline int next_tile(tile_walk *w) { return !team_stopped() && walk_on(w); }

/* All rows of the next panel that belong to this walk, as one piece; in turns, one tile. */
static inline int next_panel(tile_walk *w)
{
    if (!next_tile(w))
        return 0;
    ptrdiff_t n = w->n;
    while (w->left > 0 && w->i + 1 < w->end_tile)
        walk_on(w);
    w->rows += w->n - n;
    w->n = n;
    return 1;
}

#endif
