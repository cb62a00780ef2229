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

/* Whether step t concerns sample n, and the first and the last one that do: where lengths differ, a sample's state stays at the
 * other steps. */
static inline int at_work(const cell_job *job, ptrdiff_t t, ptrdiff_t n)
{
    return !job->first_step || (job->first_step[n] <= t && t < job->end_step[n]);
}
static inline ptrdiff_t last_step(const cell_job *job, ptrdiff_t n) { return (job->end_step ? job->end_step[n] : job->T) - 1; }
static inline ptrdiff_t first_step(const cell_job *job, ptrdiff_t n) { return job->first_step ? job->first_step[n] : 0; }
static inline int has_no_step(const cell_job *job, ptrdiff_t n) { return job->end_step[n] <= job->first_step[n]; }

/* The row of a sample in arrays (N, T, any). */
static inline ptrdiff_t row_of(const cell_job *job, ptrdiff_t n) { return job->order ? job->order[n] : n; }

/* The samples of each step as rows, one step after another: all N, or where first_row is there, the first ones. */
typedef struct {
    ptrdiff_t N, T;
    const ptrdiff_t *first_row; /* (T + 1), as in cell_job */
} step_rows;

static inline step_rows rows_of_job(const cell_job *job) { return (step_rows){job->N, job->T, job->first_row}; }
static inline ptrdiff_t first_row(step_rows s, ptrdiff_t t) { return s.first_row ? s.first_row[t] : t * s.N; }

/* How many rows step t has; none, before the first step and after the last one. */
static inline ptrdiff_t row_count(step_rows s, ptrdiff_t t)
{
    return t < 0 || t >= s.T ? 0 : s.first_row ? s.first_row[t + 1] - s.first_row[t] : s.N;
}
static inline ptrdiff_t rows_of(const cell_job *job, ptrdiff_t t) { return row_count(rows_of_job(job), t); }

/* How many of a tile's rows, n.. of step t, it has. */
static inline ptrdiff_t rows_there(step_rows s, ptrdiff_t t, ptrdiff_t n, ptrdiff_t rows)
{
    const ptrdiff_t left = row_count(s, t) - n;
    return left < 0 ? 0 : left < rows ? left : rows;
}
static inline ptrdiff_t rows_at_work(const cell_job *job, ptrdiff_t t, ptrdiff_t n, ptrdiff_t rows)
{
    return rows_there(rows_of_job(job), t, n, rows);
}

/* Back through time, what a walk over step t covers: its rows, and those of the step after it. */
static inline ptrdiff_t rows_of_both(const cell_job *job, ptrdiff_t t)
{
    const ptrdiff_t own = rows_of(job, t), after = rows_of(job, t + 1);
    return own > after ? own : after;
}

/* The step and the sample of a row. */
typedef struct {
    ptrdiff_t t, n;
} row_place;

static inline row_place place_of(step_rows s, ptrdiff_t r)
{
    if (!s.first_row)
        return (row_place){r / s.N, r % s.N};
    ptrdiff_t t = 0, end = s.T; /* first_row[t] <= r < first_row[end] */
    while (end - t > 1) {
        const ptrdiff_t middle = (t + end) / 2;
        *(s.first_row[middle] <= r ? &t : &end) = middle;
    }
    return (row_place){t, r - s.first_row[t]};
}

/* That of the next row; behind the last one the step is T. */
static inline void next_place(step_rows s, row_place *at)
{
    if (++at->n < row_count(s, at->t))
        return;
    for (at->n = 0, at->t++; at->t < s.T && row_count(s, at->t) == 0;)
        at->t++;
}

/* Panels p to p + panels - 1 of the gates, which one product makes together. */
typedef struct {
    ptrdiff_t p;
    int panels;
} panel_strip;

/* Assemblers of these compilers' time know the instructions of reduced_micro.h and of AMX. (Apple's Clang 13 is LLVM's 12.) */
#ifndef NEW_ASSEMBLER
#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 + defined(__apple_build_version__) : __GNUC__ >= 11)
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
#define UNROLLED _Pragma("GCC unroll 16")
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
