/* Linux: affinity, huge pages, AMX. */
#ifdef __linux__
#define _GNU_SOURCE /* CPU sets */
#include "platform.h"

#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

int this_core(void) { return sched_getcpu(); }

void leave_core(int core)
{
    cpu_set_t allowed, others;
    if (core < 0 || sched_getcpu() != core || sched_getaffinity(0, sizeof allowed, &allowed))
        return;
    others = allowed;
    CPU_CLR(core, &others);
    if (CPU_COUNT(&others) > 0 && sched_setaffinity(0, sizeof others, &others) == 0)
        sched_setaffinity(0, sizeof allowed, &allowed);
}

int usable_cores(void)
{
    for (int most = 1024; most <= 1 << 20; most *= 2) { /* the kernel refuses a set that is smaller than its own */
        cpu_set_t *allowed = CPU_ALLOC(most);
        const size_t size = CPU_ALLOC_SIZE(most);
        const int found = allowed && sched_getaffinity(0, size, allowed) == 0 ? CPU_COUNT_S(size, allowed) : 0;
        CPU_FREE(allowed);
        if (found)
            return found;
    }
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

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

/* Linux gives a process the registers of AMX on request only: the system then saves them, too. */
int amx_allowed(void)
{
#if defined(__x86_64__) && defined(SYS_arch_prctl)
    const long request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return 0;
#endif
}

int arm_has(arm_feature feature)
{
#ifdef __aarch64__ /* bits by number: those of newer processors are not in all headers */
    static const struct {
        unsigned long word;
        int bit;
    } where[] = {[ARM_DOT] = {AT_HWCAP, 20}, [ARM_I8MM] = {AT_HWCAP2, 13}, [ARM_BF16] = {AT_HWCAP2, 14}};
    return getauxval(where[feature].word) >> where[feature].bit & 1;
#else
    return (void)feature, 0;
#endif
}
#endif
