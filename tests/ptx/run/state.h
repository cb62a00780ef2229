/* A kernel as encode.py gives it, a launch as execute.py does, and how far that is.
 *
 * Every lane has its own place in the code, as on GPUs since Volta. All blocks of a cooperative
 * launch run at once; of another one they run one after the other.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tgmath.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef float f32;
typedef double f64;

enum { PLACES = 16 };

typedef struct {                   /* an instruction */
    u32 code, line;                /* its function in operations.h, its line in the text */
    u32 guard, negated;            /* a predicate, and the bits that it has where it is off */
    u32 at[PLACES];                /* results and operands: where their lanes lie, see `place` */
    s64 number;                    /* of an address the offset, of a jump the basic block, ... */
    u32 space, size, count, how;   /* of what looks at memory: bytes of an element, elements */
    u32 width, into, site;         /* bytes of the address and of a register; which of them it is */
} Op;

typedef struct { u32 first, end, kind, line; } Code; /* a basic block: which instructions */

typedef struct {
    u8 *host;
    u64 size, first;               /* bytes, and the address of the first one in its window */
    const char *name;
} Array;

typedef struct {                   /* execute.py has the same */
    const Op *ops;
    const Code *code;
    u8 *common;                    /* constants of the kernel, then registers of one basic block */
    u64 common_bytes, register_bytes, local_bytes;
    u32 grid, threads, shared, dynamic; /* blocks, threads of one, bytes of shared memory */
    u32 cooperative, races, stats;
    u64 seed, tick;                /* of the order in which all goes on, or 0; nanoseconds a round */
    u8 *params;
    const Array *arrays;
    u64 n_arrays;
    u64 *executed;                 /* how often each basic block ran, counted by warps */
    u64 *requests, *moved, *needed; /* of each instruction that looks at memory: accesses.h */
    char message[800];             /* what went wrong */
} Launch;

typedef struct Block Block;

typedef struct {
    Block *block;
    u32 number;                    /* in its block */
    u32 exists, ended, waiting;    /* lanes; the last ones at a barrier */
    s32 pc[32];                    /* basic blocks, or DONE */
    u8 *registers, *local;         /* those that outlive a basic block; [32][local_bytes] */
    u32 *clock, exchanged[32];     /* races.h */
} Warp;

typedef struct {                   /* four bytes and who used them: races.h */
    u32 writer, written, reader, read, several, *readers;
    u8 how_written, how_read, constant;
} Word;

typedef struct {                   /* what was released to an address: races.h */
    u64 address;
    u32 *clock;
} Variable;

struct Block {
    u32 number;
    s32 barrier;                   /* the basic block of the barrier where lanes wait, or DONE */
    u8 *shared;
    Warp *warps;
    Word *words;                   /* of shared memory: races.h */
    u32 *clock;
};

typedef struct Room Room;
struct Room { Room *next; };

typedef struct {
    Launch *launch;
    Block *blocks;
    u32 n_warps;                   /* of a block */
    u64 random, rounds, changed, steps; /* the last round in which something happened; steps since */
    Warp *warp;                    /* where it is */
    u32 lane, line;
    Room *rooms, *of_block;        /* memory until the end of the launch, of the block */
    Word **words;                  /* of each array: races.h */
    Variable *variables;
    u32 n_variables, **clocks, **own_clocks, *epochs;
    jmp_buf failed;
} State;

enum { PLAIN, TOGETHER, BARRIER, LOOK }; /* kinds of basic blocks: parse.py */
enum { DONE = -1 };
enum { ALL = 0xffffffffu };

#define EACH_LANE(l, mask) \
    for (u32 rest_ = (mask), l; rest_ && (l = __builtin_ctz(rest_), 1); rest_ &= rest_ - 1)

/* Where the lanes of a register or a constant lie; a predicate is 32 bits. */
static inline void *place(State *g, Warp *w, u32 at) {
    return at < g->launch->common_bytes ? g->launch->common + at : w->registers + (at - g->launch->common_bytes);
}

__attribute__((noreturn, cold)) static void fail(State *g, const char *format, ...) {
    va_list given;
    char *text = g->launch->message;
    int size = sizeof g->launch->message;
    va_start(given, format);
    int n = vsnprintf(text, size, format, given);
    va_end(given);
    n = n < size ? n : size - 1;
    snprintf(text + n, size - n, " (block %u, thread %u, line %u)", g->warp->block->number,
             g->warp->number * 32 + g->lane, g->line);
    longjmp(g->failed, 1);
}

static void *room(Room **of, u64 bytes) {
    Room *r = calloc(1, 64 + bytes);
    if (!r) abort();
    r->next = *of;
    *of = r;
    return (u8 *)r + 64 - (uintptr_t)r % 64;
}

static void leave(Room **of) {
    for (Room *r = *of, *next; r; r = next) next = r->next, free(r);
    *of = NULL;
}

static u64 random_number(State *g) {
    g->random ^= g->random << 13;
    g->random ^= g->random >> 7;
    g->random ^= g->random << 17;
    return g->random;
}

static inline void something_happened(State *g) { g->changed = g->rounds, g->steps = 0; }
