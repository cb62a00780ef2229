/* Runs kernels of PTX, encoded by encode.py: run_launch. */
#include "state.h"
#include "operations.h"
#include "memory.h"
#include "races.h"
#include "accesses.h"
#include "together.h"

/* Where a lane goes on, and what it knows of itself */

static void bra(State *g, Warp *w, const Op *i, u32 on) { EACH_LANE(l, on) w->pc[l] = i->number; }
static void ret(State *g, Warp *w, const Op *i, u32 on) { EACH_LANE(l, on) w->pc[l] = DONE; }
static void nothing(State *g, Warp *w, const Op *i, u32 on) {}
static void trap(State *g, Warp *w, const Op *i, u32 on) { g->lane = __builtin_ctz(on), fail(g, "trap"); }

#define SPECIAL(NAME, T, VALUE) \
    static void NAME(State *g, Warp *w, const Op *i, u32 on) { \
        T *out = place(g, w, i->at[0]); \
        EACH_LANE(l, on) out[l] = VALUE; \
    }
#define SPECIALS(OP) \
    OP(tid_x, u32, w->number * 32 + l) OP(ntid_x, u32, g->launch->threads) \
    OP(ctaid_x, u32, w->block->number) OP(nctaid_x, u32, g->launch->grid) OP(laneid, u32, l) \
    OP(dynamic_smem_size, u32, g->launch->dynamic) OP(zero, u32, 0) OP(one, u32, 1) \
    OP(time, u64, g->rounds * g->launch->tick)
SPECIALS(SPECIAL)

/* All operations by name */

typedef void (*Operation)(State *, Warp *, const Op *, u32);
#define NAMED(FUNCTION) {#FUNCTION, FUNCTION},
#define NAMED_ARITHMETIC(NAME, D, A, B, C, VALUE) NAMED(NAME)
#define NAMED_COMPARISON(NAME, T, VALUE) NAMED(setp_##NAME##_##T)
#define NAMED_PREDICATE(NAME, VALUE) NAMED(NAME##_pred)
#define NAMED_ATOMIC(NAME, T, NEW) NAMED(atom_##NAME##_##T)
#define NAMED_SPECIAL(NAME, T, VALUE) NAMED(NAME)
static const struct { const char *name; Operation run; } OPERATIONS[] = {
    ARITHMETIC(NAMED_ARITHMETIC) COMPARISONS(NAMED_COMPARISON) PREDICATES(NAMED_PREDICATE)
    ATOMICS(NAMED_ATOMIC) SPECIALS(NAMED_SPECIAL) NAMED(selp_u32) NAMED(selp_u64) NAMED(unpack_u64)
    NAMED(ld) NAMED(ld_signed) NAMED(st) NAMED(bra) NAMED(ret) NAMED(nothing) NAMED(trap)
    NAMED(bar_warp_sync) NAMED(shfl_sync_up_u32) NAMED(shfl_sync_down_u32) NAMED(shfl_sync_bfly_u32)
    NAMED(shfl_sync_idx_u32) NAMED(vote_sync_ballot_u32) NAMED(vote_sync_any_pred)
    NAMED(vote_sync_all_pred) NAMED(mma_tf32)
};

/* The name of an operation, NULL after the last one. */
const char *name_of_operation(u32 k) {
    return k < sizeof OPERATIONS / sizeof *OPERATIONS ? OPERATIONS[k].name : NULL;
}

static void run_block(State *g, Warp *w, s32 at, u32 lanes) {
    const Code *code = &g->launch->code[at];
    EACH_LANE(l, lanes) w->pc[l] = at + 1;
    for (const Op *i = &g->launch->ops[code->first], *end = &g->launch->ops[code->end]; i < end; i++) {
        u32 on = lanes & (bits(g, w, i->guard) ^ i->negated);
        g->line = i->line;
        if (on) OPERATIONS[i->code].run(g, w, i, on);
    }
}

#include "scheduler.h"
