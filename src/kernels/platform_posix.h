/* What Linux and macOS have in common, as platform.h lists it. */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

typedef pthread_mutex_t system_lock;
typedef pthread_cond_t system_event;
#define LOCK_INIT PTHREAD_MUTEX_INITIALIZER
#define EVENT_INIT PTHREAD_COND_INITIALIZER

static inline void lock_take(system_lock *lock) { pthread_mutex_lock(lock); }
static inline int lock_try(system_lock *lock) { return pthread_mutex_trylock(lock) == 0; }
static inline void lock_leave(system_lock *lock) { pthread_mutex_unlock(lock); }
static inline void event_wait(system_event *event, system_lock *lock) { pthread_cond_wait(event, lock); }
static inline void event_tell(system_event *event) { pthread_cond_broadcast(event); }

static inline void yield_core(void) { sched_yield(); }
static inline void free_room(void *room) { free(room); }

static inline int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Of variables of a thread that kernels read in their loops: not by a function call. musl has no room for those of modules
 * that are loaded later. */
#ifdef __GLIBC__
#define TLS_MODEL __attribute__((tls_model("initial-exec")))
#else
#define TLS_MODEL
#endif

/* AMX_SYSTEM: amx_allowed may say yes. AVX512_ON_DEMAND: registers of AVX-512 are saved from a thread's first use on. */
#ifdef __linux__
#define AMX_SYSTEM 1
#else
#define AMX_SYSTEM 0
#endif
#ifdef __APPLE__
#define AVX512_ON_DEMAND 1
#else
#define AVX512_ON_DEMAND 0
#endif
