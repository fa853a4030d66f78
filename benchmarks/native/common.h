/* What every native benchmark program needs: a pinned thread, a clock, and answers that the harness reads. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static volatile uint64_t sink;

static inline uint64_t
now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* The work of every native message here: what a sceptic would call nothing. */
static __attribute__((noinline, unused)) void
count_one(void *ctx)
{
    *(volatile uint64_t *)ctx += 1;
}

static inline __attribute__((unused)) void
pin(int core)
{
#ifdef __linux__
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (pthread_setaffinity_np(pthread_self(), sizeof(set), &set) != 0) {
        fprintf(stderr, "cannot pin to core %d\n", core);
        exit(2);
    }
#else
    (void)core;
#endif
}

static inline __attribute__((unused)) void
start_thread(pthread_t *thread, void *(*fn)(void *), void *arg)
{
    int rc = pthread_create(thread, NULL, fn, arg);
    if (rc != 0) {
        fprintf(stderr, "pthread_create: %s\n", strerror(rc));
        exit(2);
    }
}

static inline __attribute__((unused)) void
answer(double value)
{
    printf("%.4f\n", value);
    fflush(stdout);
}

static inline __attribute__((unused)) uint64_t *
new_samples(uint64_t count)
{
    uint64_t *samples = calloc(count ? count : 1, sizeof(*samples));
    if (samples == NULL) {
        fprintf(stderr, "no memory for %" PRIu64 " samples\n", count);
        exit(2);
    }
    return samples;
}

static inline __attribute__((unused)) void
write_samples(const char *path, uint64_t *samples, uint64_t count)
{
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(samples, sizeof(*samples), count, file) != count || fclose(file) != 0) {
        fprintf(stderr, "cannot write %s: %s\n", path, strerror(errno));
        exit(2);
    }
    free(samples);
    answer((double)count);
}

#endif
