/* Loads, stores, atomics; and what they move, where that is counted.
 *
 * An instruction moves sectors of 32 bytes; in shared memory wavefronts, each of which gives every one
 * of 32 banks one word, to as many lanes as want it. What it needs at least is a wavefront for each 32
 * different words.
 */

enum { ADDRESS = 4 }; /* places of an instruction: 4 elements, the address */

static void count(State *g, const Op *i, const u64 *addresses, u32 on) {
    u64 seen[256]; /* words or sectors */
    int many = 0, of_bank[32] = {0}, most = 0, unit = i->space == SHARED ? 4 : 32;
    EACH_LANE(l, on)
        for (u64 at = addresses[l] / unit; at <= (addresses[l] + i->size * i->count - 1) / unit; at++) {
            int k = many;
            while (k && seen[k - 1] != at) k--;
            if (k) continue;
            seen[many++] = at;
            if (++of_bank[at % 32] > most) most = of_bank[at % 32];
        }
    g->launch->requests[i->site]++;
    g->launch->moved[i->site] += i->space == SHARED ? most : many;
    g->launch->needed[i->site] += i->space == SHARED ? (many + 31) / 32 : many;
}

/* The address of each lane. */
static void find(State *g, Warp *w, const Op *i, u32 on, u64 *a) {
    const void *base = place(g, w, i->at[ADDRESS]);
    EACH_LANE(l, on) a[l] = (i->width == 8 ? ((u64 *)base)[l] : ((u32 *)base)[l]) + i->number;
    if (g->launch->stats && i->space != PARAM && i->space != LOCAL) count(g, i, a, on);
}

static u64 element(const u8 *from, u32 size, int is_signed) {
    switch (size) {
    case 1: return is_signed ? (u64)(s64)(s8)*from : *from;
    case 2: { u16 x; memcpy(&x, from, 2); return is_signed ? (u64)(s64)(s16)x : x; }
    case 4: { u32 x; memcpy(&x, from, 4); return is_signed ? (u64)(s64)(s32)x : x; }
    default: { u64 x; memcpy(&x, from, 8); return x; }
    }
}

static void load(State *g, Warp *w, const Op *i, u32 on, int is_signed) {
    u64 a[32];
    void *to[4];
    find(g, w, i, on, a);
    for (u32 k = 0; k < i->count; k++) to[k] = place(g, w, i->at[k]);
    EACH_LANE(l, on) {
        g->lane = l;
        const u8 *m = i->space == PARAM ? g->launch->params + a[l]
                                        : memory(g, w, i->space, a[l], i->size * i->count, i->how, NULL);
        for (u32 k = 0; k < i->count; k++) {
            u64 x = element(m + k * i->size, i->size, is_signed);
            if (i->into == 8) ((u64 *)to[k])[l] = x;
            else ((u32 *)to[k])[l] = x;
        }
        if (i->how & IS_ACQUIRE && g->launch->races) acquire(g, w, l, a[l]);
    }
}

static void ld(State *g, Warp *w, const Op *i, u32 on) { load(g, w, i, on, 0); }
static void ld_signed(State *g, Warp *w, const Op *i, u32 on) { load(g, w, i, on, 1); }

static void st(State *g, Warp *w, const Op *i, u32 on) {
    u64 a[32];
    const u8 *of[4];
    find(g, w, i, on, a);
    for (u32 k = 0; k < i->count; k++) of[k] = place(g, w, i->at[k]);
    EACH_LANE(l, on) {
        u8 x[32];
        g->lane = l;
        for (u32 k = 0; k < i->count; k++) memcpy(x + k * i->size, of[k] + l * i->into, i->size);
        if (i->how & IS_RELEASE && g->launch->races) release(g, w, l, a[l]);
        memcpy(memory(g, w, i->space, a[l], i->size * i->count, i->how, x), x, i->size * i->count);
    }
}

#define INTEGER_ATOMICS(OP, T) \
    OP(add, T, old + a) OP(min, T, old < a ? old : a) OP(max, T, old > a ? old : a) \
    OP(and, T, old & a) OP(or, T, old | a) OP(exch, T, a) OP(cas, T, old == a ? b : old) \
    OP(inc, T, old >= a ? 0 : old + 1)
#define ATOMICS(OP) \
    INTEGER_ATOMICS(OP, u32) INTEGER_ATOMICS(OP, s32) INTEGER_ATOMICS(OP, u64) \
    OP(add, f32, old + a) OP(add, f64, old + a)
#define ATOMIC(NAME, T, NEW) \
    static void atom_##NAME##_##T(State *g, Warp *w, const Op *i, u32 on) { \
        u64 where[32]; \
        T *before = place(g, w, i->at[0]); \
        const T *as = place(g, w, i->at[1]), *bs = place(g, w, i->at[2]); \
        find(g, w, i, on, where); \
        EACH_LANE(l, on) { \
            T a = as[l], b = bs[l], old; \
            (void)b; \
            g->lane = l; \
            if (i->how & IS_RELEASE && g->launch->races) release(g, w, l, where[l]); \
            T *m = (T *)memory(g, w, i->space, where[l], sizeof(T), i->how, NULL); \
            old = *m; \
            *m = NEW; \
            before[l] = old; \
            if (i->how & IS_ACQUIRE && g->launch->races) acquire(g, w, l, where[l]); \
        } \
    }
ATOMICS(ATOMIC)
