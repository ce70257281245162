/* Tasks shared out among threads that live for one call: none outlives a fork or spins beside another pool.
 *
 * The caller works as well, and waits for tasks, not for threads: one that the system starts late finds nothing to do.
 */
#ifndef RECON_CREW_H
#define RECON_CREW_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { MOST_THREADS = 256, ALIGNMENT = 64 };

typedef void (*task_function)(const void *job, long task, void *scratch);

typedef struct {
    task_function function;
    const void *job;
    long count;
    size_t scratch;
    atomic_long next, finished;
    atomic_int failed, holders;
    pthread_mutex_t lock;
    pthread_cond_t done;
} crew;

static void *aligned(size_t bytes) {
    void *memory = NULL;
    return posix_memalign(&memory, ALIGNMENT, bytes ? bytes : ALIGNMENT) ? NULL : memory;
}

static void crew_leave(crew *all) {
    if (atomic_fetch_sub(&all->holders, 1) > 1) return;
    pthread_mutex_destroy(&all->lock);
    pthread_cond_destroy(&all->done);
    free(all);
}

/* Take tasks until there are none; after a failure they are only counted. */
static void crew_work(crew *all) {
    void *scratch = NULL;
    for (long task; (task = atomic_fetch_add(&all->next, 1)) < all->count;) {
        if (all->scratch && !scratch && !(scratch = aligned(all->scratch))) atomic_store(&all->failed, 1);
        if (!atomic_load(&all->failed)) all->function(all->job, task, scratch);
        if (atomic_fetch_add(&all->finished, 1) + 1 == all->count) {
            pthread_mutex_lock(&all->lock);
            pthread_cond_signal(&all->done);
            pthread_mutex_unlock(&all->lock);
        }
    }
    free(scratch);
}

static void *crew_member(void *argument) {
    crew_work(argument);
    crew_leave(argument);
    return NULL;
}

static void crew_hire(crew *all, int count) {
    sigset_t every, before; /* signals stay with the caller's thread */
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes)) return;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    for (int i = 0; i < count; i++) {
        pthread_t member;
        atomic_fetch_add(&all->holders, 1);
        if (pthread_create(&member, &attributes, crew_member, all)) {
            atomic_fetch_sub(&all->holders, 1);
            break;
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

/* Run function(job, 0 .. count - 1, scratch bytes of the thread's own); return 0, or 1 where memory ran out. */
static int share(task_function function, const void *job, long count, int threads, size_t scratch) {
    crew *all = calloc(1, sizeof(crew));
    if (!all) return 1;
    all->function = function;
    all->job = job;
    all->count = count;
    all->scratch = scratch;
    atomic_init(&all->next, 0);
    atomic_init(&all->finished, 0);
    atomic_init(&all->failed, 0);
    atomic_init(&all->holders, 1);
    pthread_mutex_init(&all->lock, NULL);
    pthread_cond_init(&all->done, NULL);
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    if (threads > count) threads = (int)count;
    if (threads > 1) crew_hire(all, threads - 1);
    crew_work(all);
    pthread_mutex_lock(&all->lock);
    while (atomic_load(&all->finished) < all->count) pthread_cond_wait(&all->done, &all->lock);
    pthread_mutex_unlock(&all->lock);
    const int failed = atomic_load(&all->failed);
    crew_leave(all);
    return failed;
}

#endif
