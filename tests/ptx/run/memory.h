/* Where a lane's address points: every access is checked.
 *
 * Array k of a launch begins in a window of its own, at (k + 1) << 40 and a few bytes, as far from
 * the others as no index goes; its alignment is that of a GPU's allocation.
 */
enum { GENERIC, GLOBAL, SHARED, LOCAL, PARAM };                 /* encode.py has the same */
enum { IS_READ = 0, IS_WRITE = 1, IS_STRONG = 2, IS_CONSTANT = 4, IS_RELEASE = 8, IS_ACQUIRE = 16 };

#define WINDOW 40
#define SHARED_WINDOW (1ull << 62)
#define LOCAL_WINDOW (1ull << 61)

static void watch(State *g, Warp *w, int space, u64 k, u64 offset, int size, int how, int same);

__attribute__((noreturn, cold)) static void outside(State *g, int space, u64 a, int size, int how) {
    const char *what = how & IS_WRITE ? "write" : "read";
    u64 k = (a + (1ull << (WINDOW - 1)) >> WINDOW) - 1;          /* the nearest window */
    if (space == GLOBAL && k < g->launch->n_arrays) {
        const Array *array = &g->launch->arrays[k];
        fail(g, "%s of %d bytes at offset %lld of %s, which has %llu", what, size,
             (long long)(a - (k + 1 << WINDOW) - array->first), array->name, (unsigned long long)array->size);
    }
    if (space == GLOBAL) fail(g, "%s of %d bytes at address %#llx, in no array", what, size, (unsigned long long)a);
    fail(g, "%s of %d bytes at offset %lld of %s memory, which has %d", what, size, (long long)a,
         space == SHARED ? "shared" : "local", (int)(space == SHARED ? g->launch->shared : g->launch->local_bytes));
}

/* value: what is about to be written there, where that is known */
static u8 *memory(State *g, Warp *w, int space, u64 a, int size, int how, const void *value) {
    u64 k = 0, offset = a, bytes;
    u8 *start;
    if (space == GENERIC) {
        space = a & SHARED_WINDOW ? SHARED : a & LOCAL_WINDOW ? LOCAL : GLOBAL;
        offset = a &= ~(SHARED_WINDOW | LOCAL_WINDOW);
    }
    if (space == SHARED) start = w->block->shared, bytes = g->launch->shared;
    else if (space == LOCAL) bytes = g->launch->local_bytes, start = w->local + g->lane * bytes;
    else {
        k = (a >> WINDOW) - 1;
        if (k >= g->launch->n_arrays) outside(g, space, a, size, how);
        const Array *array = &g->launch->arrays[k];
        offset = a - (k + 1 << WINDOW) - array->first;
        start = array->host, bytes = array->size;
    }
    if (offset > bytes || bytes - offset < size) outside(g, space, a, size, how);
    if (a % size) fail(g, "%s of %d bytes at address %#llx, which is not aligned to them",
                       how & IS_WRITE ? "write" : "read", size, (unsigned long long)a);
    if (how & IS_WRITE) something_happened(g);
    if (g->launch->races && space != LOCAL)
        watch(g, w, space, k, offset, size, how, value && !memcmp(start + offset, value, size));
    return start + offset;
}
