/* The pool of threads and the recurrences on it, for ThreadSanitizer and for systems without a Python: three threads of a
 * program call at once, with changing numbers of threads, pauses after which the pool is asleep, and a call that is stopped.
 * Each cell is called in several ways: as it is, with samples that end, with masks and zoneout, a single step of few rows,
 * and with products in bfloat16. */
#include "kernels/kernels.h"
#include "kernels/team.h"

#include <math.h>
#include <stdio.h>

enum { N = 16, T = 6, D = 24, H = 40, MOST = 4 * H, ROUNDS = 3 };
enum { PLAIN, LENGTHS, MASKS, FEW, BF16, WAYS };

#define COUNT(cell) +1
enum { CELL_COUNT = 0 CELLS(COUNT) };

static strided rows3(const void *p, ptrdiff_t b, ptrdiff_t c) { return (strided){p, b * c, c, 1}; }
static strided rows2(const void *p, ptrdiff_t c) { return (strided){p, c, 1, 1}; }

/* Arrays of one call, which are freed together. */
typedef struct {
    float *all[64];
    int count;
} arrays;

static float *numbers(arrays *a, size_t n)
{
    float *x = a->all[a->count++] = new_room(n * sizeof(float) + 64);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(i % 17) / 40 - 0.2f;
    return x;
}

static int is(int cell, const char *name) { return cell == cell_index(name); }

/* Samples of 0 to T steps, the longest first, which the caller had in the opposite order. */
typedef struct {
    ptrdiff_t first[N], end[N], order[N], row[T + 1];
} sequences;

static void give_lengths(cell_job *job, sequences *s)
{
    for (int n = 0; n < N; n++)
        s->first[n] = 0, s->end[n] = T * (N - 1 - n) / (N - 1), s->order[n] = N - 1 - n;
    s->row[0] = 0;
    for (int t = 0; t < T; t++) {
        s->row[t + 1] = s->row[t];
        for (int n = 0; n < N; n++)
            s->row[t + 1] += t < s->end[n];
    }
    job->first_step = s->first, job->end_step = s->end, job->order = s->order, job->first_row = s->row;
}

/* Forward and backward of one cell; returns the sum of |dWx|, which has to be the same each time. Rooms are as large as any
 * cell's. */
static double call(int cell, int way, int threads)
{
    const int normed = is(cell, "lnlstm") || is(cell, "lngru"), projected = is(cell, "lstmp");
    const ptrdiff_t G = is(cell, "rnn") ? 1 : is(cell, "gru") || is(cell, "lngru") ? 3 : 4, P = projected ? 25 : H;
    const int two = G == 4; /* states */
    const ptrdiff_t n = way == FEW ? 2 : N, steps = way == FEW ? 1 : T;
    sequences of_lengths;
    arrays a = {.count = 0};
    cell_job job = {.N = n, .T = steps, .D = D, .H = H, .P = P, .K = H, .threads = threads, .train = 1};
    job.xs = rows3(numbers(&a, N * T * D), steps, D), job.dxs = rows3(numbers(&a, N * T * D), steps, D);
    job.Wx = rows2(numbers(&a, D * MOST), G * H), job.Wh = rows2(numbers(&a, H * MOST), G * H);
    job.dWx = numbers(&a, D * MOST), job.dWh = numbers(&a, H * MOST);
    job.b = numbers(&a, MOST), job.db = numbers(&a, MOST);
    job.h0 = job.seen0 = rows2(numbers(&a, N * H), P), job.hT = numbers(&a, N * H), job.dh0 = numbers(&a, N * H);
    if (two)
        job.c0 = rows2(numbers(&a, N * H), H), job.cT = numbers(&a, N * H), job.dc0 = numbers(&a, N * H);
    job.nT = numbers(&a, N * H), job.mT = numbers(&a, N * H), job.dn0 = numbers(&a, N * H), job.dm0 = numbers(&a, N * H);
    job.hs = rows3(numbers(&a, N * T * H), steps, P), job.dhs = rows3(numbers(&a, N * T * H), steps, P);
    job.panels = numbers(&a, 8 * N * T * H + 64), job.h = job.seen = numbers(&a, N * T * H);
    job.rh = numbers(&a, N * T * H), job.c = numbers(&a, N * T * H);
    if (projected) {
        job.Wproj = rows2(numbers(&a, H * H), P), job.dWproj = numbers(&a, H * H);
        job.u = numbers(&a, N * T * H);
    }
    if (is(cell, "mogrifier")) {
        job.rounds = ROUNDS, job.Wm = numbers(&a, ROUNDS * H * D), job.dWm = numbers(&a, ROUNDS * H * D);
        job.rounds_kept = numbers(&a, ROUNDS * (2 * N * T * H + 128));
    }
    if (normed) {
        job.norms_kept = numbers(&a, N * T * (2 * G * H + 8) + 256);
        for (int i = 0; i < (two ? 4 : 3); i++)
            job.norms[i] = numbers(&a, MOST), job.dnorms[i] = numbers(&a, MOST);
    }
    if (way == LENGTHS)
        give_lengths(&job, &of_lengths);
    if (way == MASKS) {
        job.h_mask = rows2(numbers(&a, N * H), P);
        if (!is(cell, "slstm"))
            job.h_zoneout = rows3(numbers(&a, N * T * H), T, P);
        if (G > 1 && !is(cell, "slstm"))
            job.candidate_mask = rows3(numbers(&a, N * T * H), T, H);
        if (two && !is(cell, "slstm"))
            job.c_zoneout = rows3(numbers(&a, N * T * H), T, H), job.c_new = numbers(&a, N * T * H);
        job.seen = numbers(&a, N * T * H);
    }
    const cell_kernels of_set = cell_of(kernels->f32, cell);
    const int reduced = way == BF16 && of_set.reduced;
    double sum = 0;
    job.precision = reduced;
    if ((reduced ? of_set.reduced : of_set.forward)(&job) == 0 &&
        (reduced ? of_set.reduced_backward : of_set.backward)(&job) == 0)
        for (int i = 0; i < D * (int)G * H; i++)
            sum += fabs(((const float *)job.dWx)[i]);
    for (int i = 0; i < a.count; i++)
        free_room(a.all[i]);
    return sum;
}

static double right[CELL_COUNT][WAYS];
static atomic_int wrong, begun, done;

static void sleep_ns(int64_t ns)
{
    for (const int64_t end = now_ns() + ns; now_ns() < end;)
        yield_core();
}

static void caller(void)
{
    const int number = atomic_fetch_add(&begun, 1);
    for (int i = 0; i < CELL_COUNT * WAYS; i++) {
        const int cell = (i + number) % CELL_COUNT, way = i / CELL_COUNT;
        if (call(cell, way, 1 + i % 4) != right[cell][way])
            atomic_store(&wrong, 1);
        if (i % 20 == 19)
            sleep_ns(5000000); /* the pool falls asleep */
    }
    atomic_fetch_add(&done, 1);
}

/* Three threads of the program call at once, with every instruction set in turn; each gives what the plain loops give. */
static int all_sets(void)
{
    double plain[CELL_COUNT][WAYS];
    int count = 0;
    while (kernels_name(count))
        count++;
    while (--count >= 0) { /* the plain loops are the last */
        const char *name = kernels_name(count);
        if (kernels_choose(name))
            continue;
        for (int i = 0; i < CELL_COUNT * WAYS; i++) {
            const int cell = i % CELL_COUNT, way = i / CELL_COUNT;
            const double got = right[cell][way] = call(cell, way, 1);
            if (!strcmp(name, "portable"))
                plain[cell][way] = got;
            const double expected = plain[cell][way], most = way == BF16 ? 1e-2 : 1e-4;
            if (got == 0 || !(fabs(got - expected) <= most * expected))
                return printf("%s, cell %d, way %d: %g, portable %g\n", name, cell, way, got, expected), 1;
        }
        const int before = atomic_load(&done);
        for (int i = 0; i < 3; i++)
            if (start_thread(caller))
                return printf("no threads\n"), 1;
        while (atomic_load(&done) < before + 3)
            sleep_ns(100000);
        printf("%s: %s\n", name, atomic_load(&wrong) ? "WRONG" : "same bits");
    }
    return atomic_load(&wrong);
}

/* A call that is asked whether to go on, and is not to. */
static int stop(void) { return 1; }

static void body(team *tm, int rank, void *steps)
{
    (void)rank;
    while (!team_stopped()) {
        team_wait(tm);
        atomic_fetch_add((atomic_int *)steps, 1);
    }
}

int main(void)
{
    team_init(4);
    kernels_need_extensions();
    const int failed = all_sets();
    team_set_asks(stop);
    atomic_int steps = 0;
    const int stopped = team_run(3, body, &steps);
    printf("%d cores, %d steps until the call was stopped\n", usable_cores(), atomic_load(&steps));
    return failed || stopped != STOPPED;
}
