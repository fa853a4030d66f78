/*
 * The physical limits: what one cache line costs to go to another core and back, and what a bare C loop pays to call
 * a function through a pointer. Every cross-core figure is read beside the first, every one-core figure beside the
 * second.
 *
 * Commands on standard input, one answer line each:
 *   line N          ns per round trip, one line that both sides write
 *   lines N         ns per round trip, one line per direction
 *   stream N        ns per line, one core writes lines and the other reads them, at most 1,024 ahead
 *   samples N FILE  N single round trips (one line per direction), in ns, as native 64-bit integers; answers the count
 *   call N          ns per call through a function pointer
 *   clock N         ns per clock_gettime(CLOCK_MONOTONIC)
 * Arguments: the two cores.
 */
#include "common.h"

#define AHEAD 1024u

struct line {
    _Alignas(128) _Atomic uint64_t value;
};

static struct line one, there, back, stream[AHEAD], seen, ready;

struct job {
    int core;
    char what;
    uint64_t rounds;
};

static void *
partner(void *arg)
{
    struct job *job = arg;
    pin(job->core);
    atomic_store(&ready.value, 1);
    if (job->what == '1') {
        for (uint64_t i = 0; i < job->rounds; i++) {
            while (atomic_load_explicit(&one.value, memory_order_acquire) != 2 * i + 1) {
            }
            atomic_store_explicit(&one.value, 2 * i + 2, memory_order_release);
        }
    } else if (job->what == '2') {
        for (uint64_t i = 1; i <= job->rounds; i++) {
            while (atomic_load_explicit(&there.value, memory_order_acquire) != i) {
            }
            atomic_store_explicit(&back.value, i, memory_order_release);
        }
    } else {
        for (uint64_t i = 0; i < job->rounds; i++) {
            /* The reader reports every 64 lines, so that its own line is not what is measured. */
            while (i - atomic_load_explicit(&seen.value, memory_order_acquire) >= AHEAD) {
            }
            atomic_store_explicit(&stream[i % AHEAD].value, i + 1, memory_order_release);
        }
    }
    return NULL;
}

static double
round_trips(struct job job, uint64_t *samples)
{
    atomic_store(&one.value, 0);
    atomic_store(&there.value, 0);
    atomic_store(&back.value, 0);
    atomic_store(&seen.value, 0);
    atomic_store(&ready.value, 0);
    for (unsigned i = 0; i < AHEAD; i++) {
        atomic_store(&stream[i].value, 0);
    }
    pthread_t thread;
    start_thread(&thread, partner, &job);
    while (atomic_load(&ready.value) == 0) {
        sched_yield();
    }
    uint64_t begin = now_ns(), last = begin;
    if (job.what == '1') {
        for (uint64_t i = 0; i < job.rounds; i++) {
            atomic_store_explicit(&one.value, 2 * i + 1, memory_order_release);
            while (atomic_load_explicit(&one.value, memory_order_acquire) != 2 * i + 2) {
            }
        }
    } else if (job.what == '2') {
        for (uint64_t i = 1; i <= job.rounds; i++) {
            atomic_store_explicit(&there.value, i, memory_order_release);
            while (atomic_load_explicit(&back.value, memory_order_acquire) != i) {
            }
            if (samples) {
                uint64_t now = now_ns();
                samples[i - 1] = now - last;
                last = now;
            }
        }
    } else {
        for (uint64_t i = 0; i < job.rounds; i++) {
            while (atomic_load_explicit(&stream[i % AHEAD].value, memory_order_acquire) != i + 1) {
            }
            if (i % 64 == 63) {
                atomic_store_explicit(&seen.value, i + 1, memory_order_release);
            }
        }
    }
    uint64_t end = now_ns();
    pthread_join(thread, NULL);
    return (double)(end - begin) / (double)job.rounds;
}

int
main(int argc, char **argv)
{
    int first = argc > 1 ? atoi(argv[1]) : 0, second = argc > 2 ? atoi(argv[2]) : 1;
    pin(first);
    char word[32], path[4096];
    uint64_t n;
    while (scanf("%31s %" SCNu64, word, &n) == 2) {
        struct job job = {second, '1', n};
        if (strcmp(word, "line") == 0) {
            answer(round_trips(job, NULL));
        } else if (strcmp(word, "lines") == 0) {
            job.what = '2';
            answer(round_trips(job, NULL));
        } else if (strcmp(word, "stream") == 0) {
            job.what = 's';
            answer(round_trips(job, NULL));
        } else if (strcmp(word, "samples") == 0 && scanf("%4095s", path) == 1) {
            uint64_t *samples = new_samples(n);
            job.what = '2';
            round_trips(job, samples);
            write_samples(path, samples, n);
        } else if (strcmp(word, "call") == 0) {
            void (*volatile fn)(void *) = count_one;
            uint64_t counter = 0, begin = now_ns();
            for (uint64_t i = 0; i < n; i++) {
                fn(&counter);
            }
            answer((double)(now_ns() - begin) / (double)n);
        } else if (strcmp(word, "clock") == 0) {
            uint64_t begin = now_ns(), sum = 0;
            for (uint64_t i = 0; i < n; i++) {
                sum += now_ns();
            }
            uint64_t end = now_ns();
            sink = sum;
            answer((double)(end - begin) / (double)n);
        } else {
            fprintf(stderr, "raw_line: unknown command %s\n", word);
            return 2;
        }
    }
    return 0;
}
