/* What the header of every instruction set includes first, before it fixes the target: system headers, what does not
 * depend on the real type, and the macros that make one micro-kernel for each number of rows. */
#ifndef RNNFAST_ISA_H
#define RNNFAST_ISA_H

#include "kernels.h"
#include "team.h"

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* How many columns of each vector of a product exist: all lanes, fewer, or none (0 or less). */
typedef struct {
    ptrdiff_t of[4];
} lanes_of;

/* Whether step t concerns sample n, and the last one that does: where lengths differ, a sample's state stays at the
 * other steps, and its rows of dA are 0. */
static inline int at_work(const cell_job *job, ptrdiff_t t, ptrdiff_t n)
{
    return !job->first_step || (job->first_step[n] <= t && t < job->end_step[n]);
}
static inline ptrdiff_t last_step(const cell_job *job, ptrdiff_t n) { return (job->end_step ? job->end_step[n] : job->T) - 1; }
static inline int has_no_step(const cell_job *job, ptrdiff_t n) { return job->end_step[n] <= job->first_step[n]; }

/* The row of a sample in xs and hs. */
static inline ptrdiff_t row_of(const cell_job *job, ptrdiff_t n) { return job->order ? job->order[n] : n; }

/* Panels p to p + panels - 1 of the gates, which one product makes together. */
typedef struct {
    ptrdiff_t p;
    int panels;
} panel_strip;

/* Assemblers of these compilers' time know the instructions of reduced_micro.h and of AMX. */
#ifndef NEW_ASSEMBLER
#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define NEW_ASSEMBLER 1
#else
#define NEW_ASSEMBLER 0
#endif
#endif
#define AMX_ASSEMBLER (NEW_ASSEMBLER && AMX_SYSTEM)

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)

/* Before a loop with few, constant turns: without the loop, its sums can live in registers. */
#ifdef __clang__
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 12")
#endif

/* UP_TO(n, X, NV) = X(NV, 1) X(NV, 2) ... X(NV, n) */
#define UP_TO(n, X, NV) PASTE(UP_TO_, n)(X, NV)
#define UP_TO_2(X, NV) X(NV, 1) X(NV, 2)
#define UP_TO_3(X, NV) UP_TO_2(X, NV) X(NV, 3)
#define UP_TO_4(X, NV) UP_TO_3(X, NV) X(NV, 4)
#define UP_TO_6(X, NV) UP_TO_4(X, NV) X(NV, 5) X(NV, 6)
#define UP_TO_8(X, NV) UP_TO_6(X, NV) X(NV, 7) X(NV, 8)
#define UP_TO_12(X, NV) UP_TO_8(X, NV) X(NV, 9) X(NV, 10) X(NV, 11) X(NV, 12)

#endif
