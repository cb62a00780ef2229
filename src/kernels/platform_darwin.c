/* macOS. It binds no thread to a core, and its malloc has no huge pages: on Apple silicon all have 16 KB. */
#ifdef __APPLE__
#include "platform.h"

#include <sys/sysctl.h>
#include <unistd.h>

int this_core(void) { return -1; }
void leave_core(int core) { (void)core; }

/* Performance cores alone: at each barrier the others would be waited for. */
int usable_cores(void)
{
    int cores = 0;
    size_t size = sizeof cores;
    if (sysctlbyname("hw.perflevel0.logicalcpu", &cores, &size, NULL, 0) == 0 && cores > 0)
        return cores;
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

void *new_room(size_t bytes)
{
    void *room = NULL; /* aligned_alloc is younger than the oldest macOS that Python runs on */
    return posix_memalign(&room, 64, bytes ? bytes : 64) ? NULL : room;
}

int amx_allowed(void) { return 0; }

int arm_has(arm_feature feature)
{
    static const char *const names[] = {[ARM_DOT] = "hw.optional.arm.FEAT_DotProd",
                                        [ARM_I8MM] = "hw.optional.arm.FEAT_I8MM",
                                        [ARM_BF16] = "hw.optional.arm.FEAT_BF16"};
    int has = 0;
    size_t size = sizeof has;
    return sysctlbyname(names[feature], &has, &size, NULL, 0) == 0 && has;
}
#endif
