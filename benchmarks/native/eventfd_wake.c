/*
 * How long the kernel needs to wake a thread on another core: from just before write(eventfd) in one to the return of
 * the blocking call in the other. Nothing that sleeps can be woken faster.
 *
 * Commands on standard input, one answer line each:
 *   read N FILE     N wake-ups of a thread blocked in read(eventfd), in ns, as native 64-bit integers
 *   poll N FILE     the same, blocked in poll() and reading after
 *   write N         ns per write() to an eventfd without a waiter
 * Arguments: the sender's core, the sleeper's core, and the pause between two wake-ups in us (so that the sleeper
 * really sleeps, and the schedule does not depend on how fast it woke).
 */
#include "common.h"

#include <poll.h>
#include <sys/eventfd.h>

struct sleeper {
    int fd, core, with_poll;
    uint64_t wakes;
    _Alignas(128) _Atomic uint64_t woken_at;
};

static void *
sleep_and_wake(void *arg)
{
    struct sleeper *sleeper = arg;
    pin(sleeper->core);
    for (uint64_t i = 0; i < sleeper->wakes; i++) {
        uint64_t count;
        if (sleeper->with_poll) {
            struct pollfd pfd = {sleeper->fd, POLLIN, 0};
            while (poll(&pfd, 1, -1) < 0 && errno == EINTR) {
            }
        }
        if (read(sleeper->fd, &count, sizeof(count)) != sizeof(count)) {
            exit(2);
        }
        atomic_store_explicit(&sleeper->woken_at, now_ns(), memory_order_release);
    }
    return NULL;
}

static void
wait_until(uint64_t deadline)
{
    while (now_ns() < deadline) {
    }
}

int
main(int argc, char **argv)
{
    int first = argc > 1 ? atoi(argv[1]) : 0, second = argc > 2 ? atoi(argv[2]) : 1;
    uint64_t pause_ns = (argc > 3 ? (uint64_t)atoi(argv[3]) : 200) * 1000;
    char word[32], path[4096];
    uint64_t n, increment = 1;
    pin(first);
    while (scanf("%31s %" SCNu64, word, &n) == 2) {
        int fd = eventfd(0, EFD_CLOEXEC);
        if (fd < 0) {
            return 2;
        }
        if (strcmp(word, "write") == 0) {
            uint64_t begin = now_ns();
            for (uint64_t i = 0; i < n; i++) {
                if (write(fd, &increment, sizeof(increment)) < 0) {
                    return 2;
                }
            }
            answer((double)(now_ns() - begin) / (double)n);
        } else if (scanf("%4095s", path) == 1) {
            uint64_t *samples = new_samples(n);
            struct sleeper sleeper = {.fd = fd, .core = second, .wakes = n, .with_poll = strcmp(word, "poll") == 0};
            pthread_t thread;
            start_thread(&thread, sleep_and_wake, &sleeper);
            uint64_t at = now_ns();
            for (uint64_t i = 0; i < n; i++) {
                at += pause_ns;
                wait_until(at);
                uint64_t woken, sent = now_ns();
                if (write(fd, &increment, sizeof(increment)) < 0) {
                    return 2;
                }
                while ((woken = atomic_load_explicit(&sleeper.woken_at, memory_order_acquire)) < sent) {
                }
                samples[i] = woken - sent;
                if (woken > at) {
                    at = woken;
                }
            }
            pthread_join(thread, NULL);
            write_samples(path, samples, n);
        }
        close(fd);
    }
    return 0;
}
