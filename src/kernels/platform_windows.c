/* Windows 8 or newer. Its scheduler prefers an idle core for a thread that wakes up, so none has to leave; huge pages need a
 * privilege that users do not have. */
#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#undef _WIN32_WINNT
#define _WIN32_WINNT 0x0602 /* Windows 8: quotas of jobs */
#include <windows.h>

#include "platform.h"

#include <malloc.h>
#include <process.h>

_Static_assert(sizeof(system_lock) == sizeof(SRWLOCK), "a lock of the system");
_Static_assert(sizeof(system_event) == sizeof(CONDITION_VARIABLE), "an event of the system");

void lock_take(system_lock *lock) { AcquireSRWLockExclusive((SRWLOCK *)lock); }
int lock_try(system_lock *lock) { return TryAcquireSRWLockExclusive((SRWLOCK *)lock); }
void lock_leave(system_lock *lock) { ReleaseSRWLockExclusive((SRWLOCK *)lock); }
void event_wait(system_event *event, system_lock *lock)
{
    SleepConditionVariableSRW((CONDITION_VARIABLE *)event, (SRWLOCK *)lock, INFINITE, 0);
}
void event_tell(system_event *event) { WakeAllConditionVariable((CONDITION_VARIABLE *)event); }

void yield_core(void) { SwitchToThread(); }

int64_t now_ns(void)
{
    LARGE_INTEGER ticks, each_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&each_second);
    const int64_t seconds = ticks.QuadPart / each_second.QuadPart, rest = ticks.QuadPart % each_second.QuadPart;
    return seconds * 1000000000 + rest * 1000000000 / each_second.QuadPart;
}

static unsigned __stdcall run(void *f)
{
    ((void (*)(void))f)();
    return 0;
}

int start_thread(void (*f)(void))
{
    const uintptr_t thread = _beginthreadex(NULL, 0, run, (void *)f, 0, NULL);
    if (!thread)
        return -1;
    CloseHandle((HANDLE)thread); /* it runs on */
    return 0;
}

void after_forks(void (*f)(void)) { (void)f; }

int this_core(void) { return -1; }
void leave_core(int core) { (void)core; }

#define MIN_MAX_RATE 0x10 /* of ControlFlags, since Windows 10: not in all headers */

/* Hundredths of a percent of all cores that the process's job object grants; 0: no limit. */
static int64_t job_rate(void)
{
    JOBOBJECT_CPU_RATE_CONTROL_INFORMATION job = {0};
    if (!QueryInformationJobObject(NULL, JobObjectCpuRateControlInformation, &job, sizeof job, NULL) ||
        !(job.ControlFlags & JOB_OBJECT_CPU_RATE_CONTROL_ENABLE))
        return 0;
    if (job.ControlFlags & MIN_MAX_RATE)
        return job.CpuRate >> 16; /* a union: the lower half is the rate that is granted at least */
    return job.ControlFlags & JOB_OBJECT_CPU_RATE_CONTROL_HARD_CAP ? job.CpuRate : 0;
}

int usable_cores(void)
{
    const int64_t online = GetActiveProcessorCount(ALL_PROCESSOR_GROUPS), rate = job_rate();
    int64_t cores = online > 0 ? online : 1;
    DWORD_PTR own = 0, all = 0; /* of one group of 64; 0 where the process has several */
    if (GetProcessAffinityMask(GetCurrentProcess(), &own, &all) && own && (own != all || cores <= 64))
        cores = __builtin_popcountll(own);
    const int64_t granted = (online * rate + 9999) / 10000;
    return (int)(rate > 0 && granted > 0 && granted < cores ? granted : cores);
}

void *new_room(size_t bytes) { return _aligned_malloc(bytes ? bytes : 64, 64); }
void free_room(void *room) { _aligned_free(room); }

int amx_allowed(void) { return 0; }

int arm_has(arm_feature feature)
{
    const DWORD dot_products = 43; /* PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE; it says nothing of the others */
    return feature == ARM_DOT && IsProcessorFeaturePresent(dot_products);
}
#endif
