/*
 * The work of a native message done with DPDK: a message object from a pool with a cache per core, its pointer through
 * a ring with many producers and one consumer, batches of 8 on the receiving side, the objects back to the pool in
 * bulk. This is how the seed's C library is built; the program is our own.
 *
 * Commands on standard input, one answer line each:
 *   one N            ns per message: one core sends 8, takes them, runs them
 *   across N         ns per message from another core, until the last one has run
 *   senders N K      the same with K senders; N messages in all, or as many as run in half a second: when senders share
 *                    a core, one that is preempted between claim and publish stops all others for its time slice
 *   relaxed N K      the same with DPDK's answer to that, the relaxed tail synchronisation (RTS) of ring and pool
 *   pingpong N       ns per round trip between the two cores, one message each way
 *   samples N FILE   N single round trips in ns, as native 64-bit integers; answers the count
 * Arguments: the receiver's core, then the sender cores (dealt round-robin).
 */
#include "common.h"

#include <rte_eal.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_mempool.h>
#include <rte_ring.h>

#define BATCH 8u
#define RING_SIZE 65536u
#define POOL_SIZE 262143u
#define POOL_CACHE 512u
#define MAX_SENDERS 8u
#define LIMIT_NS 500000000u

struct message {
    void (*fn)(void *);
    void *ctx;
};

struct route {
    struct rte_ring *ring;
    struct rte_mempool *pool;
};

static struct route forth, back, relaxed;

struct work {
    uint64_t count;
    _Atomic unsigned ready;
    _Atomic unsigned go, stop;
    void *ctx;
    struct route *route;
};

static inline int
send_one(struct route *route, void (*fn)(void *), void *ctx)
{
    struct message *message;
    if (rte_mempool_get(route->pool, (void **)&message) != 0) {
        return 0;
    }
    message->fn = fn;
    message->ctx = ctx;
    if (rte_ring_enqueue(route->ring, message) != 0) {
        rte_mempool_put(route->pool, message);
        return 0;
    }
    return 1;
}

static inline unsigned
run_batch(struct route *route)
{
    struct message *messages[BATCH];
    unsigned n = rte_ring_sc_dequeue_burst(route->ring, (void **)messages, BATCH, NULL);
    if (n == 0) {
        return 0;
    }
    for (unsigned i = 0; i < n; i++) {
        messages[i]->fn(messages[i]->ctx);
    }
    rte_mempool_put_bulk(route->pool, (void **)messages, n);
    return n;
}

static int
sender(void *arg)
{
    struct work *work = arg;
    atomic_fetch_add(&work->ready, 1);
    while (atomic_load_explicit(&work->go, memory_order_acquire) == 0) {
        sched_yield();
    }
    for (uint64_t sent = 0; sent < work->count && !atomic_load_explicit(&work->stop, memory_order_relaxed);) {
        if (send_one(work->route, count_one, work->ctx)) {
            sent++;
        } else {
            sched_yield();
        }
    }
    atomic_fetch_sub(&work->ready, 1);
    return 0;
}

static void
reply(void *ctx)
{
    send_one(&back, count_one, ctx);
}

static int
replier(void *arg)
{
    struct work *work = arg;
    atomic_store(&work->ready, 1);
    for (uint64_t done = 0; done < work->count;) {
        done += run_batch(&forth);
    }
    return 0;
}

static double
one_core(uint64_t count)
{
    uint64_t counter = 0, begin = now_ns();
    for (uint64_t sent = 0; sent < count; sent += BATCH) {
        for (unsigned i = 0; i < BATCH; i++) {
            send_one(&forth, count_one, &counter);
        }
        run_batch(&forth);
    }
    uint64_t end = now_ns();
    return (double)(end - begin) / (double)counter;
}

static double
across(struct route *route, uint64_t count, unsigned senders)
{
    uint64_t counter = 0, turns = 0, end = 0;
    struct work work = {.count = count / senders, .ctx = &counter, .route = route};
    uint64_t total = work.count * senders;
    unsigned lcore, started = 0;
    RTE_LCORE_FOREACH_WORKER(lcore) {
        if (started < senders && rte_eal_remote_launch(sender, &work, lcore) == 0) {
            started++;
        }
    }
    while (atomic_load(&work.ready) < started) {
        sched_yield();
    }
    uint64_t begin = now_ns();
    atomic_store_explicit(&work.go, 1, memory_order_release);
    while (counter < total) {
        run_batch(route);
        if (++turns % 1024 == 0 && (end = now_ns()) - begin > LIMIT_NS) {
            break;
        }
    }
    uint64_t ran = counter;
    end = now_ns();
    atomic_store(&work.stop, 1);
    while (atomic_load(&work.ready) > 0) {
        run_batch(route);
    }
    rte_eal_mp_wait_lcore();
    while (run_batch(route) > 0) {
    }
    return (double)(end - begin) / (double)ran;
}

static double
pingpong(uint64_t count, uint64_t *samples)
{
    uint64_t counter = 0;
    struct work work = {.count = count};
    if (rte_eal_remote_launch(replier, &work, rte_get_next_lcore(-1, 1, 0)) != 0) {
        exit(2);
    }
    while (atomic_load(&work.ready) == 0) {
    }
    uint64_t begin = now_ns(), last = begin;
    for (uint64_t i = 0; i < count; i++) {
        send_one(&forth, reply, &counter);
        while (run_batch(&back) == 0) {
        }
        if (samples) {
            uint64_t now = now_ns();
            samples[i] = now - last;
            last = now;
        }
    }
    uint64_t end = now_ns();
    rte_eal_mp_wait_lcore();
    return (double)(end - begin) / (double)count;
}

static struct rte_ring *
new_ring(const char *name, unsigned flags)
{
    struct rte_ring *ring = rte_ring_create(name, RING_SIZE, SOCKET_ID_ANY, flags);
    if (ring == NULL) {
        fprintf(stderr, "dpdk_ring: no memory for a ring\n");
        exit(3);
    }
    return ring;
}

static struct route
new_route(const char *name, unsigned flags, const char *pool_ops)
{
    struct rte_mempool *pool =
        rte_mempool_create_empty(name, POOL_SIZE, sizeof(struct message), POOL_CACHE, 0, SOCKET_ID_ANY, 0);
    if (pool == NULL || rte_mempool_set_ops_byname(pool, pool_ops, NULL) != 0 ||
        rte_mempool_populate_default(pool) < 0) {
        fprintf(stderr, "dpdk_ring: no memory for a pool\n");
        exit(3);
    }
    return (struct route){new_ring(name, flags), pool};
}

int
main(int argc, char **argv)
{
    int receiver = argc > 1 ? atoi(argv[1]) : 0;
    char lcores[256];
    int length = snprintf(lcores, sizeof(lcores), "0@%d", receiver);
    for (unsigned i = 0; i < MAX_SENDERS; i++) {
        int core = argc > 2 ? atoi(argv[2 + i % (unsigned)(argc - 2)]) : 1;
        length += snprintf(lcores + length, sizeof(lcores) - (size_t)length, ",%u@%d", i + 1, core);
    }
    char *eal[] = {argv[0], "--no-huge", "--no-shconf", "--no-pci", "--no-telemetry", "-m", "256",
                   "--log-level", "*:error", "--lcores", lcores, NULL};
    if (rte_eal_init((int)(sizeof(eal) / sizeof(*eal)) - 1, eal) < 0) {
        fprintf(stderr, "dpdk_ring: rte_eal_init failed\n");
        return 3;
    }
    forth = new_route("forth", RING_F_SC_DEQ, "ring_mp_mc");
    back = (struct route){new_ring("back", RING_F_SC_DEQ), forth.pool};
    relaxed = new_route("relaxed", RING_F_SC_DEQ | RING_F_MP_RTS_ENQ, "ring_mt_rts");
    char word[32], path[4096];
    uint64_t n, k;
    while (scanf("%31s %" SCNu64, word, &n) == 2) {
        if (strcmp(word, "one") == 0) {
            answer(one_core(n));
        } else if (strcmp(word, "across") == 0) {
            answer(across(&forth, n, 1));
        } else if (strcmp(word, "senders") == 0 && scanf("%" SCNu64, &k) == 1 && k >= 1 && k <= MAX_SENDERS) {
            answer(across(&forth, n, (unsigned)k));
        } else if (strcmp(word, "relaxed") == 0 && scanf("%" SCNu64, &k) == 1 && k >= 1 && k <= MAX_SENDERS) {
            answer(across(&relaxed, n, (unsigned)k));
        } else if (strcmp(word, "pingpong") == 0) {
            answer(pingpong(n, NULL));
        } else if (strcmp(word, "samples") == 0 && scanf("%4095s", path) == 1) {
            uint64_t *samples = new_samples(n);
            pingpong(n, samples);
            write_samples(path, samples, n);
        } else {
            fprintf(stderr, "dpdk_ring: unknown command %s\n", word);
            return 2;
        }
    }
    return 0;
}
