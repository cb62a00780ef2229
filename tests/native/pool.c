/* The pool of threads and the recurrences on it, for ThreadSanitizer: three threads of a program call at once, with
 * changing numbers of threads, signals that stop calls, and pauses after which the pool is asleep. */
#include "kernels/kernels.h"
#include "kernels/team.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { N = 16, T = 6, D = 24, H = 40, G = 4 };

static strided rows3(const void *p, ptrdiff_t b, ptrdiff_t c) { return (strided){p, b * c, c, 1}; }
static strided rows2(const void *p, ptrdiff_t c) { return (strided){p, c, 1, 1}; }

static float *numbers(size_t n)
{
    float *x = aligned_alloc(64, (n * sizeof(float) + 127) / 64 * 64);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(i % 17) / 40 - 0.2f;
    return x;
}

/* Forward and backward of one cell; returns a sum that has to be the same each time. */
static double call(int cell, int threads)
{
    const kernel_set *k = kernels->f32;
    const ptrdiff_t gates = cell == 0 ? 1 : cell == 1 ? 4 : 3;
    enum { ARRAYS = 20 };
    float *a[ARRAYS];
    const size_t sizes[ARRAYS] = {N * T * D, D * G * H, H * G * H,          G * H,     N * H,     N * H,     N * T * H,
                                  N * H,     N * H,     5 * N * T * H + 64, N * T * H, N * T * H, N * T * H, N * T * D,
                                  N * H,     N * H,     D * G * H,          H * G * H, G * H,     N * T * H};
    for (int i = 0; i < ARRAYS; i++)
        a[i] = numbers(sizes[i]);
    cell_job job = {.N = N, .T = T, .D = D, .H = H, .P = H, .threads = threads, .train = 1};
    job.xs = rows3(a[0], T, D), job.Wx = rows2(a[1], gates * H), job.Wh = rows2(a[2], gates * H), job.b = a[3];
    job.h0 = job.seen0 = rows2(a[4], H), job.c0 = rows2(a[5], H), job.hs = rows3(a[6], T, H);
    job.hT = a[7], job.cT = cell == 1 ? a[8] : NULL, job.panels = a[9], job.h = job.seen = a[10], job.rh = a[11];
    job.dhs = rows3(a[12], T, H), job.dxs = rows3(a[13], T, D), job.dh0 = a[14], job.dc0 = cell == 1 ? a[15] : NULL;
    job.dWx = a[16], job.dWh = a[17], job.db = a[18];
    const cell_kernel forward[] = {k->rnn_forward, k->lstm_forward, k->gru_forward};
    const cell_kernel backward[] = {k->rnn_backward, k->lstm_backward, k->gru_backward};
    double sum = 0;
    if (forward[cell](&job) == 0 && backward[cell](&job) == 0)
        for (int i = 0; i < D * (int)gates * H; i++)
            sum += a[16][i];
    for (int i = 0; i < ARRAYS; i++)
        free(a[i]);
    return sum;
}

static double right[3];
static atomic_int wrong;

static void *caller(void *number)
{
    for (int i = 0; i < 60; i++) {
        const int cell = (i + (int)(ptrdiff_t)number) % 3;
        if (call(cell, 1 + i % 4) != right[cell])
            atomic_store(&wrong, 1);
        if (i % 20 == 19)
            usleep(5000); /* the pool falls asleep */
    }
    return NULL;
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
    if (kernels_choose(kernels_usable("avx2") ? "avx2" : "portable"))
        return 1;
    team_init(4);
    for (int cell = 0; cell < 3; cell++)
        right[cell] = call(cell, 1);
    pthread_t threads[3];
    for (ptrdiff_t i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, caller, (void *)i);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    team_set_asks(stop);
    atomic_int steps = 0;
    const int stopped = team_run(3, body, &steps);
    printf("%s, %d steps until the call was stopped\n", atomic_load(&wrong) ? "WRONG" : "same bits", atomic_load(&steps));
    return atomic_load(&wrong) || stopped != STOPPED;
}
