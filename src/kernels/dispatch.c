/* Which instruction set runs: the best one the processor has, or the one asked for. */
#include "kernels.h"
#include "team.h"

#include <string.h>

extern const kernel_set kernels_avx512_f32, kernels_avx512_f64, kernels_avx2_f32, kernels_avx2_f64, kernels_portable_f32,
    kernels_portable_f64;

static const kernel_table tables[] = {
#if defined(__x86_64__)
    {"avx512", &kernels_avx512_f32, &kernels_avx512_f64},
    {"avx2", &kernels_avx2_f32, &kernels_avx2_f64},
#endif
    {"portable", &kernels_portable_f32, &kernels_portable_f64},
};
enum { TABLES = sizeof tables / sizeof *tables };

const kernel_table *kernels = &tables[TABLES - 1]; /* portable, until one is chosen */

static int processor_has(const char *name)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!strcmp(name, "avx512"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl");
    if (!strcmp(name, "avx2"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return !strcmp(name, "portable");
}

const char *kernels_name(int i) { return i < TABLES ? tables[i].name : NULL; }

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
            kernels = &tables[i];
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
