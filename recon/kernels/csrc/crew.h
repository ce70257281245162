/* Tasks shared out among threads that live for one call: none outlives a fork or spins beside another pool.
 *
 * A call may have several phases, each of tasks that may run at once; its threads stay from one phase to the next, as one
 * that has just ended still holds its processor when the next is started. The caller works as well, and waits for those at
 * work, not for all: one that the system starts late finds nothing to do.
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
    task_function function; /* the phase: written while nobody is at work, under the lock */
    const void *job;
    long count;
    size_t scratch;
    atomic_long next;
    atomic_int failed, holders;
    pthread_mutex_t lock;
    pthread_cond_t begun, done;
    long phase;
    int hired, at_work, closed;
} crew;

typedef struct {
    void *memory;
    size_t bytes;
} room;

static void *aligned(size_t bytes) {
    void *memory = NULL;
    return posix_memalign(&memory, ALIGNMENT, bytes ? bytes : ALIGNMENT) ? NULL : memory;
}

static crew *crew_new(void) {
    crew *all = calloc(1, sizeof(crew));
    if (!all) return NULL;
    atomic_init(&all->next, 0);
    atomic_init(&all->failed, 0);
    atomic_init(&all->holders, 1);
    pthread_mutex_init(&all->lock, NULL);
    pthread_cond_init(&all->begun, NULL);
    pthread_cond_init(&all->done, NULL);
    return all;
}

static void crew_leave(crew *all) {
    if (atomic_fetch_sub(&all->holders, 1) > 1) return;
    pthread_mutex_destroy(&all->lock);
    pthread_cond_destroy(&all->begun);
    pthread_cond_destroy(&all->done);
    free(all);
}

/* Take tasks of the phase until there are none, or one has failed. */
static void crew_work(crew *all, room *own) {
    for (long task; !atomic_load(&all->failed) && (task = atomic_fetch_add(&all->next, 1)) < all->count;) {
        if (own->bytes < all->scratch) {
            free(own->memory);
            own->memory = aligned(all->scratch);
            own->bytes = own->memory ? all->scratch : 0;
        }
        if (all->scratch && !own->memory)
            atomic_store(&all->failed, 1);
        else
            all->function(all->job, task, own->memory);
    }
}

static void *crew_member(void *argument) {
    crew *all = argument;
    room own = {NULL, 0};
    long seen = 0;
    pthread_mutex_lock(&all->lock);
    while (1) {
        while (all->phase == seen && !all->closed) pthread_cond_wait(&all->begun, &all->lock);
        if (all->closed) break;
        seen = all->phase;
        all->at_work++;
        pthread_mutex_unlock(&all->lock);
        crew_work(all, &own);
        pthread_mutex_lock(&all->lock);
        if (--all->at_work == 0) pthread_cond_signal(&all->done);
    }
    pthread_mutex_unlock(&all->lock);
    free(own.memory);
    crew_leave(all);
    return NULL;
}

static void crew_hire(crew *all, int count) {
    sigset_t every, before; /* signals stay with the caller's thread */
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes)) return;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    for (; all->hired < count; all->hired++) {
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

static void crew_wait(crew *all) {
    while (all->at_work > 0) pthread_cond_wait(&all->done, &all->lock);
}

/* A phase: run function(job, 0 .. count - 1, scratch bytes of the thread's own); return 0, or 1 where memory ran out. */
static int crew_share(crew *all, task_function function, const void *job, long count, int threads, size_t scratch) {
    room own = {NULL, 0};
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    if (threads > count) threads = (int)count;
    pthread_mutex_lock(&all->lock);
    crew_wait(all);
    all->function = function;
    all->job = job;
    all->count = count;
    all->scratch = scratch;
    atomic_store(&all->next, 0);
    if (threads > 1) {
        all->phase++;
        pthread_cond_broadcast(&all->begun);
    }
    pthread_mutex_unlock(&all->lock);
    if (threads > 1) crew_hire(all, threads - 1);
    crew_work(all, &own);
    pthread_mutex_lock(&all->lock);
    crew_wait(all);
    pthread_mutex_unlock(&all->lock);
    free(own.memory);
    return atomic_load(&all->failed);
}

static void crew_close(crew *all) {
    pthread_mutex_lock(&all->lock);
    all->closed = 1;
    pthread_cond_broadcast(&all->begun);
    pthread_mutex_unlock(&all->lock);
    crew_leave(all);
}

/* The same for a call of one phase. */
static int share(task_function function, const void *job, long count, int threads, size_t scratch) {
    crew *all = crew_new();
    if (!all) return 1;
    const int failed = crew_share(all, function, job, count, threads, scratch);
    crew_close(all);
    return failed;
}

#endif
