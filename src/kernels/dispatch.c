/* Which instruction set runs: the best one the processor has, or the one asked for. */
#include "kernels.h"
#include "team.h"

#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

extern const kernel_set kernels_avx512_f32, kernels_avx512_f64, kernels_avx2_f32, kernels_avx2_f64, kernels_neon_f32,
    kernels_neon_f64, kernels_portable_f32, kernels_portable_f64;

static const kernel_table tables[] = {
#if defined(__x86_64__)
    {"avx512", &kernels_avx512_f32, &kernels_avx512_f64},
    {"avx2", &kernels_avx2_f32, &kernels_avx2_f64},
#elif defined(__aarch64__)
    {"neon", &kernels_neon_f32, &kernels_neon_f64},
#endif
    {"portable", &kernels_portable_f32, &kernels_portable_f64},
};
enum { TABLES = sizeof tables / sizeof *tables };

const kernel_table *kernels = &tables[TABLES - 1]; /* portable, until one is chosen */

#if defined(__x86_64__)
/* Not by __builtin_cpu_supports, which asks a library of the compiler that is not linked on Windows. */
static int x86_has(const char *name)
{
    enum { FMA = 1 << 12, OSXSAVE = 1 << 27, AVX = 1 << 28 };                             /* leaf 1, ecx */
    const unsigned avx2 = 1u << 5, avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;    /* leaf 7, ebx: F, DQ, BW, VL */
    const unsigned saved = 1u << 1 | 1u << 2, saved_512 = AVX512_ON_DEMAND ? 0 : 7u << 5; /* XCR0: what the system saves */
    unsigned a, b, c, d, basic, registers, unused;
    if (!__get_cpuid(1, &a, &b, &basic, &d) || ~basic & (FMA | OSXSAVE | AVX) || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(registers), "=d"(unused) : "c"(0));
    if (~b & avx2 || ~registers & saved)
        return 0;
    return !strcmp(name, "avx2") || (!strcmp(name, "avx512") && !(~b & avx512) && !(~registers & saved_512));
}
#endif

static int processor_has(const char *name)
{
#if defined(__x86_64__)
    if (x86_has(name))
        return 1;
#elif defined(__aarch64__)
    if (!strcmp(name, "neon"))
        return 1; /* a part of the architecture */
#endif
    return !strcmp(name, "portable");
}

int kernels_extensions = NOT_ASKED;

void kernels_use_extensions(int extensions) { kernels_extensions = extensions; }

void kernels_need_extensions(void)
{
    if (kernels_extensions == NOT_ASKED) /* not at import: it asks the system for larger signal frames */
        kernels_use_extensions(kernels_extensions_usable());
}

#if defined(__x86_64__)
int kernels_extensions_usable(void)
{
    unsigned a, b, c, d, a1 = 0, features = 0;
    if (!processor_has("avx2") || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return 0;
    if (a >= 1) {
        unsigned b1, c1, d1;
        __get_cpuid_count(7, 1, &a1, &b1, &c1, &d1);
    }
    features |= a1 >> 4 & 1 ? AVX_VNNI : 0;
    if (!processor_has("avx512"))
        return features;
    features |= (c >> 11 & 1 ? AVX512_VNNI : 0) | (a1 >> 5 & 1 ? AVX512_BF16 : 0);
    if (d >> 24 & 1 && amx_allowed())
        features |= (d >> 25 & 1 ? AMX_INT8 : 0) | (d >> 22 & 1 ? AMX_BF16 : 0);
    return features;
}
#elif defined(__aarch64__)
int kernels_extensions_usable(void)
{
    return (arm_has(ARM_DOT) ? NEON_DOT : 0) | (arm_has(ARM_I8MM) ? NEON_I8MM : 0) | (arm_has(ARM_BF16) ? NEON_BF16 : 0);
}
#else
int kernels_extensions_usable(void) { return 0; }
#endif

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
    if (job->precision)
        kernels_need_extensions();
    pack_work k = {pack, job, room};
    return team_run(1, pack_body, &k);
}
