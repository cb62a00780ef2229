/* Which instruction set runs: the best one the processor has, or the one asked for. */
#include "kernels.h"
#include "team.h"

#include <string.h>

extern const kernel_table kernels_portable;
#if defined(__x86_64__)
extern const kernel_table kernels_avx512, kernels_avx2;
static const kernel_table *const tables[] = {&kernels_avx512, &kernels_avx2, &kernels_portable};
#else
static const kernel_table *const tables[] = {&kernels_portable};
#endif

const kernel_table *kernels = &kernels_portable;

static int processor_has(const char *name)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!strcmp(name, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (!strcmp(name, "avx2"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return !strcmp(name, "portable");
}

const char *kernels_name(int i)
{
    return i < (int)(sizeof tables / sizeof *tables) ? tables[i]->name : NULL;
}

int kernels_usable(const char *name)
{
    for (int i = 0; kernels_name(i); i++)
        if (!strcmp(kernels_name(i), name))
            return processor_has(name);
    return 0;
}

int kernels_choose(const char *name)
{
    if (!kernels_usable(name))
        return -1;
    for (int i = 0; kernels_name(i); i++)
        if (!strcmp(kernels_name(i), name))
            kernels = tables[i];
    return 0;
}

typedef struct {
    pack_kernel pack;
    const cell_job *job;
    void *room;
} pack_work;

static void pack_body(team *tm, int rank, void *work)
{
    const pack_work *k = work;
    (void)tm, (void)rank;
    k->pack(k->job, k->room);
}

int run_pack(pack_kernel pack, const cell_job *job, void *room)
{
    pack_work k = {pack, job, room};
    return team_run(1, pack_body, &k);
}
