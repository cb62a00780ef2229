/* Thread settings of the process, and its pool of threads. */
#include "team.h"

static int default_threads = 1; /* from RNNFAST_NUM_THREADS, OMP_NUM_THREADS, affinity, cgroup: set at import */
static atomic_int chosen;       /* by set_num_threads; 0 = default */
static atomic_int forked;       /* the pool does not survive a fork: a child runs on one thread */

static void after_fork(void) { atomic_store(&forked, 1); }

/* The pool. Its threads are started when they are first needed and stay. One call at a time has it; another that
 * comes meanwhile runs on its own thread alone. A call does not wait long for a thread whose core is busy with
 * something else either (threads of NumPy's BLAS spin on for 100 ms after a product, and a time slice is 4 ms): it
 * opens a door, and its team is who has come in when it closes. All of that gives the same bits. */
static struct {
    system_lock owner; /* held by the call that has the pool */
    system_lock sleep;
    system_event wake;
    int threads;      /* started so far; the caller is one more */
    int64_t patience; /* ns to wait for a thread that is awake: little once one has not come */
    atomic_int ready, sleepers;
    atomic_int core; /* the caller's, which its team leaves to it; -1: unknown */
    team_body body;
    void *job;
    unsigned mode; /* of the caller's arithmetic */
    team team;
    _Alignas(64) atomic_uint_fast64_t door; /* number of the call, then threads that may still come in, then came in */
    _Alignas(64) atomic_uint go;            /* number of the call whose team is complete */
    _Alignas(64) atomic_int running;        /* threads of the team that are not done, without the caller */
} pool = {.owner = LOCK_INIT, .sleep = LOCK_INIT, .wake = EVENT_INIT};

#define CALL(door) ((unsigned)((door) >> 32))
#define MAY_COME(door) ((int)((door) >> 16 & 0xffff))
#define CAME(door) ((int)((door) & 0xffff))
#define ONE_MAY_COME ((uint64_t)1 << 16)

/* A thread waits for the next call by spinning for a while, then in turns with whatever else wants its core, and then
 * asleep. A call waits for a thread that is awake for less than a time slice: whoever comes after that will soon be gone
 * again. If one has not come the next calls wait only a little, until all come. Waking up may take longer. */
#define SPINS 600
#define AWAKE_NS 2000000
#define PATIENCE_NS 1000000
#define LITTLE_PATIENCE_NS 20000
#define WAKING_NS 20000000

/* Where more threads want to run than there are cores, of other programs or of this one, a thread that is waited for may not
 * run for a time slice, again and again: the team is then slower than a smaller one. So the call's own thread adds up its
 * waits that take so long. Where they are a quarter of WINDOW_NS of calls, WINDOWS times in a row (a thread that has just woken
 * up may be late for some 10 ms), the next teams have one thread less. After a pause, which becomes longer each time, they have
 * one more again. */
#define LATE_NS 300000
#define WINDOW_NS 20000000
#define WINDOWS 3
#define FIRST_PAUSE_NS 100000000
#define LAST_PAUSE_NS 1600000000
#define NEVER INT64_MAX

static _Thread_local int64_t late; /* ns of the long waits of a call */

static struct {
    int most;            /* threads of a team, 0: as many as the call wants */
    int64_t until;       /* the end of the pause; NEVER: `most` is being tried */
    int64_t pause;       /* the next one */
    int64_t late, total; /* of the calls of this window */
    int crowded;         /* windows in a row */
} crowd = {.until = NEVER, .pause = FIRST_PAUSE_NS};

void team_wait_long(team *t, int phase)
{
    const int64_t start = now_ns();
    while (atomic_load_explicit(&t->phase, memory_order_acquire) == phase &&
           !atomic_load_explicit(&t->stop, memory_order_relaxed))
        yield_core();
    const int64_t passed = now_ns() - start;
    late += passed > LATE_NS ? passed : 0;
}

/* How many of the threads that a call wants it has. For the call that has the pool, as the next one. */
static int admitted(int threads, int64_t now)
{
    if (crowd.most && now >= crowd.until)
        crowd.most++, crowd.until = NEVER, crowd.late = crowd.total = 0, crowd.crowded = 0;
    return crowd.most && crowd.most < threads ? crowd.most : threads;
}

/* After a call that wanted so many threads and had a team of `size`. */
static void judge(int threads, int size, int64_t start, int64_t now)
{
    crowd.late += late, crowd.total += now - start;
    if (crowd.total < WINDOW_NS)
        return;
    crowd.crowded = 4 * crowd.late > crowd.total && size > 1 ? crowd.crowded + 1 : 0;
    crowd.late = crowd.total = 0;
    if (crowd.crowded == WINDOWS) {
        crowd.crowded = 0, crowd.most = size - 1, crowd.until = now + crowd.pause;
        crowd.pause = crowd.pause < LAST_PAUSE_NS ? 2 * crowd.pause : LAST_PAUSE_NS;
    } else if (!crowd.crowded && crowd.most && crowd.until == NEVER) {
        if (size >= threads)
            crowd.most = 0, crowd.pause = FIRST_PAUSE_NS;
        else
            crowd.until = now;
    }
}

static unsigned next_call(unsigned seen)
{
    unsigned call;
    for (int spins = 0; spins < SPINS; spins++) {
        if ((call = CALL(atomic_load_explicit(&pool.door, memory_order_acquire))) != seen)
            return call;
        team_relax();
    }
    for (int64_t end = now_ns() + AWAKE_NS; now_ns() < end; yield_core())
        if ((call = CALL(atomic_load_explicit(&pool.door, memory_order_acquire))) != seen)
            return call;
    lock_take(&pool.sleep);
    atomic_fetch_add(&pool.sleepers, 1); /* first this, then a look at the door; team_run does it the other way round */
    while ((call = CALL(atomic_load(&pool.door))) == seen)
        event_wait(&pool.wake, &pool.sleep);
    atomic_fetch_sub(&pool.sleepers, 1);
    lock_leave(&pool.sleep);
    return call;
}

/* Rank in the team of a call, or 0 if it is complete without this thread. */
static int come_in(unsigned call)
{
    uint64_t door = atomic_load(&pool.door);
    while (CALL(door) == call && MAY_COME(door) > 0)
        if (atomic_compare_exchange_weak(&pool.door, &door, door - ONE_MAY_COME + 1))
            return CAME(door) + 1;
    return 0;
}

/* How a thread rounds, flushes and traps: the control bits of its arithmetic. */
#if defined(__x86_64__)
#define MODE 0xffc0u /* the others say what has happened */
static unsigned get_mode(void) { return __builtin_ia32_stmxcsr() & MODE; }
static void set_mode(unsigned mode) { __builtin_ia32_ldmxcsr(mode); }
#elif defined(__aarch64__)
static unsigned get_mode(void)
{
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return (unsigned)mode;
}
static void set_mode(unsigned mode) { __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)mode)); }
#else
static unsigned get_mode(void) { return 0; }
static void set_mode(unsigned mode) { (void)mode; }
#endif

/* A call looks at the clock some 200 times a second, and asks 5 times whether to go on. */
#define LOOK_NS 5000000
#define ASK_NS 200000000
#define FIRST_LOOK 16 /* tiles, as all counts of looks */
#define SELDOM (1 << 20)

static team nobody = {.size = 1};
_Thread_local team_call this_call = {&nobody, LONG_MAX};
static _Thread_local struct {
    int64_t looked, asked; /* 0: not yet */
    long every;
} looks;
static int (*asks)(void);

void team_set_asks(int (*f)(void)) { asks = f; }

void team_look(void)
{
    team *team = this_call.team;
    const int64_t now = now_ns(), passed = now - looks.looked;
    if (looks.asked == 0)
        looks.asked = now;
    else if (passed > 2 * LOOK_NS)
        looks.every = 1 + (long)((int64_t)looks.every * LOOK_NS / passed);
    else if (passed < LOOK_NS / 2 && looks.every < SELDOM)
        looks.every *= 2;
    looks.looked = now;
    if (now - looks.asked >= ASK_NS && asks) {
        const long every = looks.every;
        const int stop = asks(); /* runs Python, which may come with calls of its own */
        if (stop)
            atomic_store_explicit(&team->stop, 1, memory_order_relaxed);
        if (team->size > 1 && atomic_load(&forked)) { /* a handler has forked: the child has this thread alone */
            atomic_store(&team->stop, 1), atomic_store(&pool.running, 0);
            team->size = 1; /* which waits for nobody */
        }
        looks.every = every;
        looks.looked = looks.asked = now_ns();
    }
    this_call.left = looks.every;
}

/* The body on the call's own thread. */
static void run_own(team *team, team_body body, void *job)
{
    const team_call outer = this_call;
    this_call = (team_call){team, FIRST_LOOK};
    looks.every = FIRST_LOOK, looks.asked = 0;
    body(team, 0, job);
    this_call = outer;
}

static void work(void)
{
    unsigned call = CALL(atomic_load(&pool.door));
    atomic_fetch_add(&pool.ready, 1);
    for (;;) {
        call = next_call(call);
        /* A thread that wakes up is often put on the very core of who woke it, although others are idle, and stays there for
         * some 10 ms: each barrier then costs two switches, 4 us instead of 0.1. So it goes elsewhere. */
        leave_core(atomic_load_explicit(&pool.core, memory_order_relaxed));
        const int rank = come_in(call);
        if (rank == 0)
            continue;
        for (int spins = 0; atomic_load_explicit(&pool.go, memory_order_acquire) != call; spins++)
            team_pause(spins);
        set_mode(pool.mode);
        this_call = (team_call){&pool.team, LONG_MAX};
        pool.body(&pool.team, rank, pool.job);
        atomic_fetch_sub_explicit(&pool.running, 1, memory_order_release);
    }
}

/* Open the door for n threads and close it: how many have come. */
static int gather(unsigned call, int n)
{
    uint64_t door = (uint64_t)call << 32 | (uint64_t)n << 16;
    atomic_store_explicit(&pool.core, this_core(), memory_order_relaxed);
    atomic_store(&pool.door, door);
    int64_t patience = pool.patience;
    if (atomic_load(&pool.sleepers)) {
        patience = WAKING_NS;
        lock_take(&pool.sleep);
        event_tell(&pool.wake);
        lock_leave(&pool.sleep);
    }
    const int64_t end = now_ns() + patience;
    for (int spins = 0; MAY_COME(door = atomic_load(&pool.door)) > 0 && now_ns() < end; spins++)
        team_pause(spins); /* yields: a thread may wait for this very core */
    while (!atomic_compare_exchange_weak(&pool.door, &door, door - MAY_COME(door) * ONE_MAY_COME))
        ;
    pool.patience = MAY_COME(door) > 0 ? LITTLE_PATIENCE_NS : PATIENCE_NS;
    return CAME(door);
}

/* Start threads until there are n, or as many as the system grants, and wait until they have seen the last call. */
static void start_threads(int n)
{
    if (pool.threads >= n)
        return;
    while (pool.threads < n && start_thread(work) == 0)
        pool.threads++;
    while (atomic_load(&pool.ready) < pool.threads)
        yield_core();
}

int team_run(int threads, team_body body, void *job)
{
    if (threads < 2 || atomic_load_explicit(&forked, memory_order_relaxed) || !lock_try(&pool.owner)) {
        team alone = {.size = 1};
        run_own(&alone, body, job);
        return atomic_load(&alone.stop) ? STOPPED : 0;
    }
    const int64_t start = now_ns();
    const int wanted = threads;
    threads = admitted(threads, start), late = 0;
    start_threads(threads - 1);
    const unsigned call = CALL(atomic_load(&pool.door)) + 1;
    const int came = gather(call, pool.threads < threads - 1 ? pool.threads : threads - 1);
    pool.body = body, pool.job = job, pool.mode = get_mode(), pool.team = (team){.size = came + 1};
    atomic_store_explicit(&pool.running, came, memory_order_relaxed);
    atomic_store_explicit(&pool.go, call, memory_order_release);
    run_own(&pool.team, body, job);
    const int64_t done = now_ns();
    for (int spins = 0; atomic_load_explicit(&pool.running, memory_order_acquire) > 0; spins++)
        team_pause(spins);
    const int64_t end = now_ns();
    late += end - done > LATE_NS ? end - done : 0;
    judge(wanted, came + 1, start, end);
    const int stopped = atomic_load(&pool.team.stop) ? STOPPED : 0;
    lock_leave(&pool.owner);
    return stopped;
}

typedef struct {
    long n;
    int64_t ns;
} meetings;

static void meet(team *tm, int rank, void *work)
{
    meetings *m = work;
    team_wait(tm);
    const int64_t start = now_ns();
    for (long i = 0; i < m->n; i++)
        team_wait(tm);
    if (rank == 0)
        m->ns = tm->size > 1 ? now_ns() - start : 0;
}

double team_meet(int threads, long n)
{
    meetings m = {n, 0};
    team_run(threads, meet, &m);
    return (double)m.ns / n;
}

void team_init(int threads)
{
    static int once;
    if (!once)
        after_forks(after_fork);
    once = 1;
    default_threads = threads;
}

void team_set_threads(int n) { atomic_store(&chosen, n); }

int team_max_threads(void)
{
    if (atomic_load_explicit(&forked, memory_order_relaxed))
        return 1;
    int n = atomic_load_explicit(&chosen, memory_order_relaxed);
    return n ? n : default_threads;
}
