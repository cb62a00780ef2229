/* Threads and forks of Linux and macOS. */
#include "platform.h"

#ifndef _WIN32
#include <signal.h>

static void *run(void *f)
{
    ((void (*)(void))f)();
    return NULL;
}

int start_thread(void (*f)(void))
{
    pthread_attr_t detached;
    pthread_t thread;
    sigset_t all, before;
    if (pthread_attr_init(&detached))
        return -1;
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    sigfillset(&all); /* signals are for the threads of the program */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int failed = pthread_create(&thread, &detached, run, (void *)f);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&detached);
    return failed;
}

void after_forks(void (*f)(void)) { pthread_atfork(NULL, NULL, f); }
#endif
