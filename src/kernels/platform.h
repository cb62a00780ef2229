/* What the kernels need of the system: threads, waiting, time, cores, memory.
 *
 *   platform_posix.h, .c   Linux, macOS: what they have in common
 *   platform_linux.c       affinity, huge pages, AMX on request (_runtime.pyx reads the quotas of control groups)
 *   platform_darwin.c      performance cores
 *   platform_windows.h, .c affinity, the job object's quota
 *
 * Each file is empty on other systems, so that all are compiled everywhere. */
#ifndef RNNFAST_PLATFORM_H
#define RNNFAST_PLATFORM_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#include "platform_windows.h"
#else
#include "platform_posix.h"
#endif

/* A system_lock begins as LOCK_INIT, a system_event as EVENT_INIT; both are in those headers, as are
 *
 *   void lock_take(system_lock *), int lock_try(system_lock *): whether it was free, void lock_leave(system_lock *)
 *   void event_wait(system_event *, system_lock *): which the thread has; may return too early
 *   void event_tell(system_event *): to all who wait
 *   void yield_core(void): to another thread that wants it
 *   int64_t now_ns(void): of a clock that nobody sets
 *   void free_room(void *): of new_room */

/* Starts a thread that runs f and that no signal interrupts. Other than 0: the system grants none. */
int start_thread(void (*f)(void));

/* f is called in every child of a fork, where there are forks. */
void after_forks(void (*f)(void));

/* The core that the thread is on, or -1; and off to another, if it is that one. Where it may run stays as it was. */
int this_core(void);
void leave_core(int core);

/* How many cores this process may use; on macOS, whose cores differ, those for performance. */
int usable_cores(void);

/* Memory for one call, at a cache line's start, or NULL; free_room gives it back. Large rooms ask for huge pages:
 * panels are read with strides that would otherwise miss the TLB at every row. */
void *new_room(size_t bytes);

/* Whether the system saves the registers of AMX for this process, from now on. */
int amx_allowed(void);

/* Whether an ARM processor has dot products of bytes, those of signed with unsigned ones, and those of bfloat16. Programs
 * cannot ask it themselves. */
typedef enum { ARM_DOT, ARM_I8MM, ARM_BF16 } arm_feature;
int arm_has(arm_feature feature);

#endif
