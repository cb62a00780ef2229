/* Thread settings of the process, the one OpenMP region everything runs in, and memory for a call. */
#define _DEFAULT_SOURCE
#include "team.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#ifdef _OPENMP
#include <omp.h>
#endif

static int default_threads = 1; /* from OMP_NUM_THREADS, affinity, cgroup: set once at import */
static atomic_int chosen;       /* by set_num_threads; 0 = default */
static int openmp_at_start;     /* OpenMP's own maximum at import: a lower one later is a limit */
static atomic_int forked;       /* libgomp's pool does not survive a fork: a child runs on one thread */

static void after_fork(void) { atomic_store(&forked, 1); }

void *new_room(size_t bytes)
{
    const size_t huge = (size_t)2 << 20;
    const size_t unit = bytes >= 2 * huge ? huge : 64;
    void *room = aligned_alloc(unit, (bytes + unit - 1) / unit * unit);
#ifdef MADV_HUGEPAGE
    if (room && unit == huge)
        madvise(room, bytes, MADV_HUGEPAGE);
#endif
    return room;
}

int team_openmp(void)
{
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

void team_init(int threads)
{
    static int once;
    if (!once) {
        once = 1;
        pthread_atfork(NULL, NULL, after_fork);
#ifdef _OPENMP
        openmp_at_start = omp_get_max_threads();
#endif
    }
    default_threads = threads;
}

void team_set_threads(int n) { atomic_store(&chosen, n); }

int team_max_threads(void)
{
#ifdef _OPENMP
    if (atomic_load_explicit(&forked, memory_order_relaxed))
        return 1;
    int n = atomic_load_explicit(&chosen, memory_order_relaxed);
    n = n ? n : default_threads;
    int limit = omp_get_max_threads(); /* threadpoolctl and omp_set_num_threads speak through this */
    return limit < openmp_at_start && limit < n ? limit : n;
#else
    return 1;
#endif
}

void team_run(int threads, team_body body, void *job)
{
    team t = {.size = 1};
#ifdef _OPENMP
    if (threads > 1) {
#pragma omp parallel num_threads(threads)
        {
#pragma omp single
            t.size = omp_get_num_threads();
            body(&t, omp_get_thread_num(), job);
        }
        return;
    }
#endif
    (void)threads;
    body(&t, 0, job);
}
