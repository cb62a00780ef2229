/* Data races, by vector clocks (FastTrack): two accesses of a word by two threads, one of them a
 * write, of which none happens before the other.
 *
 * A thread has an epoch; its clock says up to which epoch it knows each other thread. A barrier gives
 * all of its threads one clock, the join of theirs; what is released to an address is the clock of
 * who releases, and who acquires there joins it to its own. So bar.sync, bar.warp.sync and pairs of
 * release and acquire order accesses, and nothing else does. Strong accesses (relaxed ones, atomics)
 * do not race with each other, nor do threads of a block that write the same value. Threads of a launch that is not cooperative know their block alone.
 *
 * Two more faults: shared memory that nobody wrote, and ld.global.nc of what the kernel writes.
 */
/* Threads that a clock of this block knows: all of the launch, or those of the block. */
static u32 clock_first(State *g, Block *b) { return g->launch->cooperative ? 0 : b->number * g->launch->threads; }
static u32 clock_size(State *g) { return g->launch->threads * (g->launch->cooperative ? g->launch->grid : 1); }
static u32 *new_clock(State *g) { return room(g->launch->cooperative ? &g->rooms : &g->of_block, 4ull * clock_size(g)); }
static u32 thread_of(State *g, Warp *w, int l) { return w->block->number * g->launch->threads + w->number * 32 + l; }

static void join(State *g, u32 *into, const u32 *clock) {
    for (u32 k = 0, n = clock_size(g); k < n; k++) into[k] = into[k] > clock[k] ? into[k] : clock[k];
}

static void races_begin(State *g) {
    u64 threads = (u64)g->launch->grid * g->launch->threads;
    g->words = room(&g->rooms, sizeof(Word *) * g->launch->n_arrays);
    g->clocks = room(&g->rooms, sizeof(u32 *) * threads);
    g->own_clocks = room(&g->rooms, sizeof(u32 *) * threads);
    g->epochs = room(&g->rooms, 4 * threads);
    for (u64 k = 0; k < threads; k++) g->epochs[k] = 1;
}

static void races_begin_block(State *g, Block *b) {
    b->clock = new_clock(g);
    b->words = room(&g->of_block, sizeof(Word) * (g->launch->shared / 4 + 1));
    for (u32 k = 0; k < g->launch->threads; k++) g->clocks[b->number * g->launch->threads + k] = b->clock;
}

/* Threads `from` to `to` of a block meet; `clock` is theirs from now on, and no other thread's. */
static void races_meet(State *g, Block *b, u32 from, u32 to, u32 *clock) {
    u32 first = b->number * g->launch->threads, base = clock_first(g, b);
    const u32 *joined = clock;
    for (u32 k = first + from; k < first + to; k++)
        if (g->clocks[k] != clock && g->clocks[k] != joined) join(g, clock, joined = g->clocks[k]);
    for (u32 k = first + from; k < first + to; k++) {
        clock[k - base] = g->epochs[k]++;
        g->clocks[k] = clock;
    }
}

/* The clock that the lanes of a warp have after they have met. */
static u32 *warp_clock(State *g, Warp *w) { return w->clock ? w->clock : (w->clock = new_clock(g)); }

/* Lanes exchange registers: what they have read has come, as others wait for it. */
static void races_exchange(State *g, Warp *w, u32 mask) {
    EACH_LANE(l, mask) w->exchanged[l] = g->epochs[thread_of(g, w, l)]++;
}

static Variable *variable_at(State *g, u64 a) {
    for (u32 k = 0; k < g->n_variables; k++)
        if (g->variables[k].address == a) return &g->variables[k];
    Variable *more = room(&g->rooms, sizeof(Variable) * (g->n_variables + 1));
    if (g->n_variables) memcpy(more, g->variables, sizeof(Variable) * g->n_variables);
    g->variables = more;
    more[g->n_variables].address = a;
    more[g->n_variables].clock = room(&g->rooms, 4ull * clock_size(g));
    return &more[g->n_variables++];
}

static void release(State *g, Warp *w, int l, u64 a) {
    u32 me = thread_of(g, w, l), *clock = variable_at(g, a)->clock;
    join(g, clock, g->clocks[me]);
    clock[me - clock_first(g, w->block)] = g->epochs[me]++;
}

static void acquire(State *g, Warp *w, int l, u64 a) {
    u32 me = thread_of(g, w, l), *clock = g->own_clocks[me];
    if (!clock) clock = g->own_clocks[me] = new_clock(g);
    if (g->clocks[me] != clock) memcpy(clock, g->clocks[me], 4ull * clock_size(g));
    join(g, clock, variable_at(g, a)->clock);
    g->clocks[me] = clock;
}

static int before(State *g, Block *b, u32 me, u32 thread, u32 epoch) {
    u32 at = thread - clock_first(g, b);
    return thread == me || (at < clock_size(g) && epoch <= g->clocks[me][at]);
}

/* The same of a read, which has ended when its warp has exchanged registers. */
static int read_before(State *g, Warp *w, u32 me, u32 thread, u32 epoch) {
    u32 lane = thread - thread_of(g, w, 0);
    return (lane < 32 && epoch <= w->exchanged[lane]) || before(g, w->block, me, thread, epoch);
}

__attribute__((noreturn, cold)) static void race(State *g, int space, u64 k, u64 offset, int how, int earlier, u32 thread) {
    u32 threads = g->launch->threads;
    fail(g, "race: %s of byte %llu of %s, with a %s by block %u, thread %u that is not ordered with it",
         how & IS_WRITE ? "write" : "read", (unsigned long long)offset,
         space == SHARED ? "shared memory" : g->launch->arrays[k].name, earlier & IS_WRITE ? "write" : "read",
         thread / threads, thread % threads);
}

/* Several threads read a word, none of them after another: what each has read last, from `first` on. */
static void several_readers(State *g, Word *word, int space, u32 first) {
    u32 n = space == SHARED ? g->launch->threads : g->launch->threads * g->launch->grid;
    if (!word->readers) word->readers = room(space == SHARED ? &g->of_block : &g->rooms, 4ull * n);
    word->readers[word->reader - first] = word->read;
    word->several = n;
}

static void watch(State *g, Warp *w, int space, u64 k, u64 offset, int size, int how, int same) {
    u32 me = thread_of(g, w, g->lane), first = space == SHARED ? w->block->number * g->launch->threads : 0;
    Word *words = w->block->words;
    if (space == GLOBAL) {
        if (!g->words[k]) g->words[k] = room(&g->rooms, sizeof(Word) * (g->launch->arrays[k].size / 4 + 1));
        words = g->words[k];
    }
    for (u64 at = offset; at < offset + size; at += 4) {
        Word *word = &words[at / 4];
        if (word->written) {
            int agreed = same && word->writer / g->launch->threads == w->block->number;
            if (!agreed && !(how & word->how_written & IS_STRONG) && !before(g, w->block, me, word->writer, word->written))
                race(g, space, k, at, how, IS_WRITE, word->writer);
            if (how & IS_CONSTANT) fail(g, "ld.global.nc of byte %llu of %s, which the kernel writes", (unsigned long long)at, g->launch->arrays[k].name);
        } else if (space == SHARED && !(how & IS_WRITE))
            fail(g, "read of shared memory that nobody wrote, byte %llu", (unsigned long long)at);
        if (how & IS_WRITE) {
            if (word->constant) fail(g, "write of byte %llu of %s, which the kernel reads with ld.global.nc", (unsigned long long)at, g->launch->arrays[k].name);
            int strong = how & word->how_read & IS_STRONG;
            if (!strong && word->read && !read_before(g, w, me, word->reader, word->read))
                race(g, space, k, at, how, IS_READ, word->reader);
            for (u32 t = 0; t < word->several && !strong; t++)
                if (word->readers[t] && !read_before(g, w, me, first + t, word->readers[t]))
                    race(g, space, k, at, how, IS_READ, first + t);
            if (word->several) memset(word->readers, 0, 4ull * word->several);
            word->read = word->several = 0;
            word->writer = me, word->written = g->epochs[me], word->how_written = how;
        } else {
            word->constant |= how & IS_CONSTANT;
            word->how_read = word->read ? word->how_read & how : how;
            if (!word->several && word->read && !before(g, w->block, me, word->reader, word->read))
                several_readers(g, word, space, first);
            if (word->several) word->readers[me - first] = g->epochs[me];
            word->reader = me, word->read = g->epochs[me];
        }
    }
}
