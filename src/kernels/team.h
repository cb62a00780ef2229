/* A team of threads inside one OpenMP region, with its own barrier: steps of a recurrence are
 * microseconds long, so waiting spins first and yields the core after a while. */
#ifndef RNNFAST_TEAM_H
#define RNNFAST_TEAM_H

#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>

typedef struct {
    int size;
    _Alignas(64) atomic_int arrived;
    _Alignas(64) atomic_int phase;
} team;

typedef void (*team_body)(team *, int rank, void *job);

/* Runs body on `threads` threads at most (fewer where OpenMP grants fewer, one after a fork). */
void team_run(int threads, team_body body, void *job);

int team_max_threads(void);        /* what a call may use now */
void team_set_threads(int n);      /* 0: back to the default */
void team_init(int default_threads);
int team_openmp(void);             /* built with OpenMP? */

static inline void team_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

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
        if (spins < 4096)
            team_relax();
        else
            sched_yield();
    }
}

/* Part `rank` of n items, in order; parts differ by one item at most. */
static inline void team_share(const team *t, int rank, ptrdiff_t n, ptrdiff_t *from, ptrdiff_t *to)
{
    ptrdiff_t each = n / t->size, rest = n % t->size;
    *from = rank * each + (rank < rest ? rank : rest);
    *to = *from + each + (rank < rest);
}

#endif
