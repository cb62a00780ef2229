/* Windows, as platform.h lists it. windows.h is included by platform_windows.c alone: it defines too many names. */

/* SRWLOCK and CONDITION_VARIABLE are a pointer each, which is 0 at first. */
typedef struct {
    void *of_system;
} system_lock, system_event;
#define LOCK_INIT {NULL}
#define EVENT_INIT {NULL}

void lock_take(system_lock *lock);
int lock_try(system_lock *lock);
void lock_leave(system_lock *lock);
void event_wait(system_event *event, system_lock *lock);
void event_tell(system_event *event);
void yield_core(void);
void free_room(void *room);
int64_t now_ns(void);

#define TLS_MODEL
#define AMX_SYSTEM 0
#define AVX512_ON_DEMAND 0
