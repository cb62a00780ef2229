/* Who goes on: rounds in which each warp runs until it waits or looks at what others may change.
 *
 * With a seed the warps come in another order in each round, run a few basic blocks at a time, and
 * of lanes that are at different places any go first; without one the earliest place goes first.
 */

enum { PATIENCE = 20000, ENOUGH = 1 << 27 }; /* rounds in which threads only look; basic blocks alone */

static u32 alive(const Warp *w) { return w->exists & ~w->ended; }

/* Lets the lanes at a barrier go on where all of the block that have not ended are there. */
static void look_at_barrier(State *g, Block *b) {
    for (u32 k = 0; k < g->n_warps; k++)
        if (b->warps[k].waiting != alive(&b->warps[k])) return;
    if (g->launch->races) races_meet(g, b, 0, g->launch->threads, b->clock);
    for (u32 k = 0; k < g->n_warps; k++) b->warps[k].waiting = 0;
    b->barrier = DONE;
    something_happened(g);
}

static void wait_at_barrier(State *g, Warp *w, s32 at, u32 mask) {
    Block *b = w->block;
    if (b->barrier == DONE) b->barrier = at;
    if (b->barrier != at) fail(g, "threads of a block wait at two barriers, the other one at line %u", g->launch->code[b->barrier].line);
    w->waiting |= mask;
    look_at_barrier(g, b);
}

enum { STUCK, WENT_ON, LOOKED };

/* Runs a basic block for the lanes of a warp that are at its beginning. */
static int step(State *g, Warp *w) {
    s32 at = DONE;
    u32 lanes = 0, running = alive(w) & ~w->waiting, left = running, found = 0;
    while (left) { /* the lanes of one place after the other */
        s32 here = w->pc[__builtin_ctz(left)];
        u32 mask = 0;
        EACH_LANE(l, left) mask |= (u32)(w->pc[l] == here) << l;
        left &= ~mask;
        if (g->launch->code[here].kind == TOGETHER && mask != alive(w)) continue;
        found++;
        if (g->launch->seed ? random_number(g) % found == 0 : at == DONE || here < at) at = here, lanes = mask;
    }
    if (!found) return STUCK;
    g->warp = w, g->lane = __builtin_ctz(lanes);
    g->line = g->launch->code[at].line;
    if (g->steps++ == ENOUGH) fail(g, "threads go on and on, and nothing happens");
    const Code *code = &g->launch->code[at];
    g->launch->executed[at]++;
    run_block(g, w, at, lanes);
    EACH_LANE(l, lanes) w->ended |= (u32)(w->pc[l] == DONE) << l;
    if (w->ended & lanes) something_happened(g);
    if (code->kind == BARRIER) wait_at_barrier(g, w, at, lanes);
    else if (w->ended & lanes) look_at_barrier(g, w->block);
    return code->kind == LOOK ? LOOKED : WENT_ON;
}

static void begin_block(State *g, Block *b) {
    u32 threads = g->launch->threads, shared = g->launch->shared;
    u64 local = 32 * g->launch->local_bytes;
    b->barrier = DONE;
    b->shared = room(&g->of_block, shared);
    for (u32 k = 0; k < shared / 4; k++) ((u32 *)b->shared)[k] = 0x7fc0dead; /* NaN */
    b->warps = room(&g->of_block, sizeof(Warp) * g->n_warps);
    for (u32 k = 0; k < g->n_warps; k++) {
        Warp *w = &b->warps[k];
        u32 lanes = threads - 32 * k < 32 ? threads - 32 * k : 32;
        *w = (Warp){.block = b, .number = k, .exists = ALL >> (32 - lanes)};
        w->registers = memset(room(&g->of_block, g->launch->register_bytes), 0xdb, g->launch->register_bytes);
        w->local = memset(room(&g->of_block, local), 0xff, local);
    }
    if (g->launch->races) races_begin_block(g, b);
}

__attribute__((noreturn)) static void nothing_happens(State *g, Block *blocks, u32 n) {
    for (u32 k = 0; k < n * g->n_warps; k++) {
        Warp *w = &blocks[k / g->n_warps].warps[k % g->n_warps];
        u32 stuck = alive(w);
        if (!stuck) continue;
        g->warp = w, g->lane = __builtin_ctz(stuck);
        const Code *at = &g->launch->code[w->waiting >> g->lane & 1 ? w->block->barrier : w->pc[g->lane]];
        g->line = at->line;
        if (at->kind == BARRIER) fail(g, "deadlock: threads wait at a barrier to which others never come");
        if (at->kind == TOGETHER) fail(g, "deadlock: lanes wait for others of their warp, which never come");
        fail(g, "threads wait for what nobody changes any more");
    }
    abort();
}

/* Runs these blocks, all at once, until all threads have ended. */
static void run_blocks(State *g, Block *blocks, u32 n) {
    u32 n_warps = n * g->n_warps, *order = room(&g->of_block, 4 * n_warps);
    for (u32 k = 0; k < n; k++) begin_block(g, &blocks[k]);
    for (u32 k = 0; k < n_warps; k++) order[k] = k;
    for (int going = 1; going; g->rounds++) {
        int went_on = 0;
        going = 0;
        for (u32 k = 0; k < n_warps; k++) {
            if (g->launch->seed) {
                u32 other = k + random_number(g) % (n_warps - k), swapped = order[k];
                order[k] = order[other], order[other] = swapped;
            }
            Warp *w = &blocks[order[k] / g->n_warps].warps[order[k] % g->n_warps];
            int result = WENT_ON, turns = g->launch->seed ? 1 + random_number(g) % 8 : -1;
            while (turns-- && (result = step(g, w)) == WENT_ON) went_on = 1;
            went_on |= result == LOOKED;
            going |= alive(w) != 0;
        }
        if (going && (!went_on || g->rounds - g->changed > PATIENCE)) nothing_happens(g, blocks, n);
    }
    leave(&g->of_block);
}

int run_launch(Launch *launch) {
    State *volatile g = calloc(1, sizeof(State));
    g->launch = launch;
    g->n_warps = (launch->threads + 31) / 32;
    g->random = launch->seed;
    int failed = setjmp(g->failed);
    if (!failed) {
        g->blocks = room(&g->rooms, sizeof(Block) * launch->grid);
        u32 *order = room(&g->rooms, 4 * launch->grid);
        if (launch->races) races_begin(g);
        for (u32 k = 0; k < launch->grid; k++) g->blocks[k].number = order[k] = k;
        if (launch->cooperative) run_blocks(g, g->blocks, launch->grid);
        else
            for (u32 k = 0; k < launch->grid; k++) {
                if (launch->seed) {
                    u32 other = k + random_number(g) % (launch->grid - k), swapped = order[k];
                    order[k] = order[other], order[other] = swapped;
                }
                run_blocks(g, &g->blocks[order[k]], 1);
            }
    }
    leave(&g->of_block);
    leave(&g->rooms);
    free(g);
    return failed;
}
