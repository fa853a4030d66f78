/* The queue of one channel: requests in a table of fixed size, on the way to the kernel and back.

       free --bq_take--> in the caller's hands --bq_start--> waiting --bq_flush--> out --bq_reap--> done --> free
                                                                ^------ short, or to be tried again ----'

   Two ways to the kernel: an io_uring, or a few OS threads that block in preadv and pwritev. What is between is the same
   for both: how a request is cut into attempts, and what an attempt's result means. All of it runs where the channel's
   thread is polled, except `bq_work`, and none of it needs the GIL. */
#ifndef SPDKTHREAD_BDEV_QUEUE_H
#define SPDKTHREAD_BDEV_QUEUE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <Python.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/eventfd.h>
#include <sys/syscall.h>
#endif
#include "../uring.h"

enum { BQ_READ, BQ_WRITE, BQ_READV, BQ_WRITEV, BQ_FLUSH, BQ_DISCARD, BQ_ZEROES };
enum { BQ_FREE, BQ_TAKEN, BQ_WAITING, BQ_OUT, BQ_DONE };
enum { BQ_THREADS, BQ_URING };
enum {
    BQ_WORKERS = 8,                     /* OS threads of a channel without io_uring */
    BQ_MOST = 0x7ffff000,               /* bytes that the kernel takes in one call */
    BQ_ZERO_BYTES = 1 << 16,
    BQ_FIXED = 2,
    BQ_LEAST_BATCH = 8,
    BQ_BATCHES = 4,                     /* calls for a whole queue */
    BQ_MISSES = 8,                      /* reads in a row that were not in the page cache, until it is tried less */
};

#ifndef FALLOC_FL_KEEP_SIZE
#define FALLOC_FL_KEEP_SIZE 1
#endif
#ifndef FALLOC_FL_PUNCH_HOLE
#define FALLOC_FL_PUNCH_HOLE 2
#endif
#ifndef FALLOC_FL_ZERO_RANGE
#define FALLOC_FL_ZERO_RANGE 16
#endif

typedef void (*bq_completion)(void *ctx, int64_t result);

typedef struct bq_request {
    struct bq_request *next;
    char *buf;
    uint64_t nbytes, offset;
    uint64_t done;                      /* bytes that earlier attempts have moved */
    uint64_t begun;                     /* ticks; 0: its latency is not counted */
    struct iovec *iov;                  /* of the vectored ones: the request's own copy, shortened from attempt to attempt */
    uint32_t iov_count;
    int op;
    int state;
    int zero_fill;                      /* write zeros: the file system cannot do it by itself */
    int forced;                         /* test double: the attempt's result, without the kernel; 0: none */
    struct iovec one;                   /* what this attempt is about */
    struct iovec *attempt;
    uint32_t attempt_count;
    int64_t result;                     /* of the attempt, then of the request: bytes, or a negative errno */
    bq_completion fn;                   /* NULL: the caller looks at `owner` */
    void *ctx;
    /* The caller's, touched with the GIL held only. */
    Py_buffer view;
    int has_view;
    int owned;                          /* there is a view, or something in the channel's list of what it holds */
} bq_request;

typedef struct bq_pool {
    pthread_mutex_t lock;
    pthread_cond_t work;
    bq_request *first, *last;
    uint32_t idle, count, most;
    int stopping;
    pthread_t workers[BQ_WORKERS];
} bq_pool;

typedef struct bq_queue {
    int file;
    int backend;
    int refused;                        /* the errno for which there is no io_uring; 0: there is, or it was not asked for */
    uint32_t depth;
    uint32_t batch;                     /* requests that one call takes at most */
    uint32_t alignment;                 /* O_DIRECT; 0: the page cache is between */
    bq_request *requests, *free, *waiting, *waiting_last, *done, *done_last;
    uint32_t in_use;                    /* not free */
    uint32_t waiting_count, out_count;
    int cache_first;                    /* a lone read looks into the page cache by itself */
    uint32_t misses;
    uint64_t calls;                     /* of the kernel for submission */
    struct iovec fixed[BQ_FIXED];       /* memory of an iobuf pool, which the ring has registered */
    uint32_t fixed_wish, fixed_count;   /* pieces of it; and of them those that the kernel has taken: all or none */
    int event_fd, event_write_fd;
    atomic_int sleeping;                /* pool: make the event readable */
    _Atomic(bq_request *) finished;     /* pool: a stack */
    uring ring;
    bq_pool pool;
} bq_queue;

/* A double of the system calls, for tests: what becomes of the next attempts. 0: nothing unusual; above: it moves so
   many bytes at most; below: it ends with this errno and the kernel does not see it. */
enum { BQ_PLAN = 64 };
static struct { int steps[BQ_PLAN]; int count, next, repeat, taken; } bq_double;

static char bq_zeros[BQ_ZERO_BYTES] __attribute__((aligned(4096)));

/* ---- what an attempt does -------------------------------------------------------------------------------------- */

static inline int bq_reads(const bq_request *r) { return r->op == BQ_READ || r->op == BQ_READV; }

static void bq_cut(bq_request *r) {
    uint64_t most = BQ_MOST;
    r->forced = 0;
    if (bq_double.next < bq_double.count) {
        int step = bq_double.steps[bq_double.next++];
        bq_double.taken++;
        if (bq_double.repeat && bq_double.next == bq_double.count) bq_double.next = 0;
        if (step < 0) r->forced = step;
        if (step > 0) most = (uint64_t)step;
    }
    if (r->op == BQ_READV || r->op == BQ_WRITEV) {
        r->attempt = r->iov;
        r->attempt_count = r->iov_count;
        if (most < BQ_MOST && r->iov_count) {
            r->one = r->iov[0];
            if (r->one.iov_len > most) r->one.iov_len = most;
            r->attempt = &r->one;
            r->attempt_count = 1;
        }
        return;
    }
    if (r->zero_fill && most > BQ_ZERO_BYTES) most = BQ_ZERO_BYTES;
    r->one.iov_base = r->zero_fill ? bq_zeros : r->buf + r->done;
    r->one.iov_len = r->nbytes - r->done < most ? r->nbytes - r->done : most;
    r->attempt = &r->one;
    r->attempt_count = 1;
}

static int bq_fallocate(int file, int mode, uint64_t offset, uint64_t nbytes) {
#ifdef __linux__
    return fallocate(file, mode, (off_t)offset, (off_t)nbytes);
#else
    (void)file; (void)mode; (void)offset; (void)nbytes;
    errno = EOPNOTSUPP;
    return -1;
#endif
}

static int bq_datasync(int file) {
#ifdef __APPLE__
    return fcntl(file, F_FULLFSYNC);
#else
    return fdatasync(file);
#endif
}

/* The attempt as system calls that block. */
static int64_t bq_attempt(bq_request *r, int file) {
    off_t at = (off_t)(r->offset + r->done);
    ssize_t count;
    if (r->forced) return r->forced;
    if (r->op == BQ_FLUSH) count = bq_datasync(file);
    else if (r->op == BQ_DISCARD)
        count = bq_fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, r->offset, r->nbytes);
    else if (r->op == BQ_ZEROES && !r->zero_fill) count = bq_fallocate(file, FALLOC_FL_ZERO_RANGE, r->offset, r->nbytes);
    else if (bq_reads(r)) count = preadv(file, r->attempt, (int)r->attempt_count, at);
    else count = pwritev(file, r->attempt, (int)r->attempt_count, at);
    return count < 0 ? -errno : count;
}

static inline void bq_put_last(bq_request **first, bq_request **last, bq_request *r) {
    r->next = NULL;
    if (*first == NULL) *first = r;
    else (*last)->next = r;
    *last = r;
}

static inline void bq_wait(bq_queue *q, bq_request *r) {
    r->state = BQ_WAITING;
    bq_put_last(&q->waiting, &q->waiting_last, r);
    q->waiting_count++;
}

static inline void bq_finish(bq_queue *q, bq_request *r, int64_t result) {
    r->result = result;
    r->state = BQ_DONE;
    bq_put_last(&q->done, &q->done_last, r);
}

/* What an attempt's result means: the request is done, or waits for its next attempt. */
static void bq_attempted(bq_queue *q, bq_request *r, int64_t result) {
    uint64_t left;
    /* No caller cancelled it: the OS thread that had submitted it has ended. */
    if (result == -EINTR || result == -EAGAIN || result == -ECANCELED) { bq_wait(q, r); return; }
    if (r->op == BQ_ZEROES && !r->zero_fill && (result == -EOPNOTSUPP || result == -ENOSYS || result == -EINVAL)) {
        r->zero_fill = 1;
        if (r->nbytes == 0) bq_finish(q, r, 0);
        else bq_wait(q, r);
        return;
    }
    if (result < 0) { bq_finish(q, r, result); return; }
    if (r->op == BQ_FLUSH) { bq_finish(q, r, 0); return; }
    if (r->op == BQ_DISCARD || (r->op == BQ_ZEROES && !r->zero_fill)) {
        r->done = r->nbytes;
        bq_finish(q, r, (int64_t)r->nbytes);
        return;
    }
    r->done += (uint64_t)result;
    left = r->nbytes - r->done;
    if (left == 0) { bq_finish(q, r, (int64_t)r->done); return; }
    if (result == 0) { bq_finish(q, r, bq_reads(r) ? (int64_t)r->done : -EIO); return; }
    /* Past the page cache only the end of the file is no whole block. */
    if (q->alignment && bq_reads(r) && r->done % q->alignment) { bq_finish(q, r, (int64_t)r->done); return; }
    if (r->op == BQ_READV || r->op == BQ_WRITEV) {
        uint64_t moved = (uint64_t)result;
        while (r->iov_count && moved >= r->iov->iov_len) {
            moved -= r->iov->iov_len;
            r->iov++;
            r->iov_count--;
        }
        if (moved) {
            r->iov->iov_base = (char *)r->iov->iov_base + moved;
            r->iov->iov_len -= moved;
        }
    }
    bq_wait(q, r);
}

/* ---- the pool -------------------------------------------------------------------------------------------------- */

static void bq_ring_bell(bq_queue *q) {
    uint64_t one = 1;
    ssize_t written;
    do written = write(q->event_write_fd, &one, q->event_write_fd == q->event_fd ? sizeof one : 1);
    while (written < 0 && errno == EINTR);
}

static void *bq_work(void *arg) {
    bq_queue *q = (bq_queue *)arg;
    bq_pool *pool = &q->pool;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        bq_request *r;
        while (pool->first == NULL && !pool->stopping) {
            pool->idle++;
            pthread_cond_wait(&pool->work, &pool->lock);
            pool->idle--;
        }
        r = pool->first;
        if (r == NULL) break;
        pool->first = r->next;
        pthread_mutex_unlock(&pool->lock);
        r->result = bq_attempt(r, q->file);
        r->next = atomic_load_explicit(&q->finished, memory_order_relaxed);
        while (!atomic_compare_exchange_weak_explicit(
            &q->finished, &r->next, r, memory_order_seq_cst, memory_order_relaxed)) {}
        /* It was published before this is read, and a sleeper sets this before it looks: one of them sees the other. */
        if (atomic_load_explicit(&q->sleeping, memory_order_seq_cst)
            && atomic_exchange_explicit(&q->sleeping, 0, memory_order_seq_cst)) bq_ring_bell(q);
        pthread_mutex_lock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

static int bq_hire(bq_queue *q) {
    sigset_t all, before;
    int failed;
    sigfillset(&all);
    /* Signals are for the program's own threads. */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = pthread_create(&q->pool.workers[q->pool.count], NULL, bq_work, q);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!failed) q->pool.count++;
    return failed;
}

static void bq_flush_pool(bq_queue *q) {
    bq_pool *pool = &q->pool;
    bq_request *r, *first = q->waiting, *last = q->waiting_last;
    uint32_t count = q->waiting_count;
    for (r = first; r != NULL; r = r->next) {
        bq_cut(r);
        r->state = BQ_OUT;
    }
    q->waiting = q->waiting_last = NULL;
    q->waiting_count = 0;
    q->out_count += count;
    pthread_mutex_lock(&pool->lock);
    if (pool->first == NULL) pool->first = first;
    else pool->last->next = first;
    pool->last = last;
    while (pool->count < pool->most && pool->count < q->out_count && !bq_hire(q)) {}
    if (pool->count == 0) {
        /* No OS thread to be had: here and now, rather than never. */
        pool->first = pool->last = NULL;
        pthread_mutex_unlock(&pool->lock);
        for (r = first; r != NULL; r = first) {
            first = r->next;
            q->out_count--;
            bq_attempted(q, r, bq_attempt(r, q->file));
        }
        return;
    }
    if (count == 1) pthread_cond_signal(&pool->work);
    else pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    q->calls++;
}

static void bq_reap_pool(bq_queue *q) {
    bq_request *r, *next, *in_order = NULL;
    if (atomic_load_explicit(&q->finished, memory_order_relaxed) == NULL) return;
    r = atomic_exchange_explicit(&q->finished, NULL, memory_order_acquire);
    for (; r != NULL; r = next) {
        next = r->next;
        r->next = in_order;
        in_order = r;
    }
    for (r = in_order; r != NULL; r = next) {
        next = r->next;
        q->out_count--;
        bq_attempted(q, r, r->result);
    }
}

/* ---- io_uring -------------------------------------------------------------------------------------------------- */

/* A read that is in the page cache is copied from there by one call, without the ring. 1: that was it. */
static int bq_from_cache(bq_queue *q) {
#if defined(__linux__) && defined(RWF_NOWAIT)
    bq_request *r = q->waiting;
    ssize_t count;
    if (r->op != BQ_READ || (q->misses >= BQ_MISSES && ++q->misses % 64) || bq_double.next < bq_double.count) return 0;
    bq_cut(r);
    count = preadv2(q->file, r->attempt, 1, (off_t)(r->offset + r->done), RWF_NOWAIT);
    if (count < 0) {
        if (errno != EAGAIN) q->cache_first = 0;
        q->misses++;
        return 0;
    }
    q->misses = 0;
    q->calls++;
    q->waiting = q->waiting_last = NULL;
    q->waiting_count = 0;
    bq_attempted(q, r, count);
    return 1;
#else
    (void)q;
    return 0;
#endif
}

/* The registered memory in which an attempt's bytes are; -1: they are elsewhere. */
static inline int bq_fixed_index(const bq_queue *q, const struct iovec *piece) {
    for (uint32_t k = 0; k < q->fixed_count; k++) {
        uintptr_t at = (uintptr_t)piece->iov_base - (uintptr_t)q->fixed[k].iov_base;
        if (at < q->fixed[k].iov_len && piece->iov_len <= q->fixed[k].iov_len - at) return (int)k;
    }
    return -1;
}

static void bq_write_sqe(bq_queue *q, bq_request *r) {
    struct uring_sqe *sqe = uring_next(&q->ring);
    sqe->user_data = (uint64_t)(uintptr_t)r;
    if (r->forced) { sqe->opcode = URING_OP_NOP; return; }
    sqe->fd = q->ring.fixed_file ? 0 : q->file;
    sqe->flags = q->ring.fixed_file ? URING_SQE_FIXED_FILE : 0;
    sqe->off = r->offset + r->done;
    if (r->op == BQ_FLUSH) {
        sqe->opcode = URING_OP_FSYNC;
        sqe->off = 0;
        sqe->op_flags = URING_FSYNC_DATASYNC;
    } else if (r->op == BQ_DISCARD || (r->op == BQ_ZEROES && !r->zero_fill)) {
        sqe->opcode = URING_OP_FALLOCATE;
        sqe->addr = r->nbytes;
        sqe->len = r->op == BQ_DISCARD ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : FALLOC_FL_ZERO_RANGE;
    } else if (r->op == BQ_READV || r->op == BQ_WRITEV) {
        sqe->opcode = r->op == BQ_READV ? URING_OP_READV : URING_OP_WRITEV;
        sqe->addr = (uint64_t)(uintptr_t)r->attempt;
        sqe->len = r->attempt_count;
    } else {
        int fixed = bq_fixed_index(q, &r->one);
        if (fixed < 0) sqe->opcode = r->op == BQ_READ ? URING_OP_READ : URING_OP_WRITE;
        else {
            sqe->opcode = r->op == BQ_READ ? URING_OP_READ_FIXED : URING_OP_WRITE_FIXED;
            sqe->buf_index = (uint16_t)fixed;
        }
        sqe->addr = (uint64_t)(uintptr_t)r->one.iov_base;
        sqe->len = (uint32_t)r->one.iov_len;
    }
}

/* One call for everything that is written. What the kernel has no room for now goes with the next call, one turn later;
   where it does not know the ring (other code has closed our descriptor), the requests end with that error. */
static void bq_submit(bq_queue *q, uint32_t wait_for) {
    uring *ring = &q->ring;
    int failed = uring_submit(ring, wait_for);
    if (!failed || failed == EINTR || failed == EAGAIN || failed == EBUSY || failed == ENOMEM) return;
    for (; ring->unsubmitted; ring->unsubmitted--) {
        bq_request *r = (bq_request *)(uintptr_t)uring_take_back(ring);
        q->out_count--;
        bq_finish(q, r, -failed);
    }
}

static void bq_flush_uring(bq_queue *q) {
    bq_request *r;
    uint32_t left;
    if (q->cache_first && q->waiting_count == 1 && q->out_count == 0 && bq_from_cache(q)) return;
    /* The kernel hands the requests of a call to the device when it has prepared them all. Were a whole queue one call,
       the device would have nothing to do meanwhile, then everything at once, and would complete everything at once:
       the queue goes in quarters, so that the device has some while the kernel prepares the next. */
    for (left = q->batch; left && (r = q->waiting) != NULL; left--) {
        q->waiting = r->next;
        q->waiting_count--;
        r->state = BQ_OUT;
        bq_cut(r);
        bq_write_sqe(q, r);
        q->out_count++;
    }
    if (q->waiting == NULL) q->waiting_last = NULL;
    q->calls++;
    bq_submit(q, 0);
}

static void bq_reap_uring(bq_queue *q) {
#ifdef __linux__
    uring *ring = &q->ring;
    uint32_t head, tail;
    if (!uring_has_events(ring)) {
        if (!uring_wants_call(ring)) return;
        uring_get_events(ring);
    }
    head = atomic_load_explicit(ring->cq_khead, memory_order_relaxed);
    tail = atomic_load_explicit(ring->cq_ktail, memory_order_acquire);
    for (; head != tail; head++) {
        struct uring_cqe *cqe = &ring->cqes[head & ring->cq_mask];
        bq_request *r = (bq_request *)(uintptr_t)cqe->user_data;
        q->out_count--;
        bq_attempted(q, r, r->forced ? r->forced : cqe->res);
    }
    /* The entries were read before the kernel may write them again. */
    atomic_store_explicit(ring->cq_khead, head, memory_order_release);
#else
    (void)q;
#endif
}

/* ---- both ------------------------------------------------------------------------------------------------------ */

static inline bq_request *bq_take(bq_queue *q) {
    bq_request *r = q->free;
    if (r != NULL) {
        q->free = r->next;
        r->state = BQ_TAKEN;
        q->in_use++;
    }
    return r;
}

static inline void bq_give_back(bq_queue *q, bq_request *r) {
    r->state = BQ_FREE;
    r->next = q->free;
    q->free = r;
    q->in_use--;
}

static inline void bq_start(bq_queue *q, bq_request *r, int op, void *buf, uint64_t nbytes, uint64_t offset) {
    r->op = op;
    r->buf = (char *)buf;
    r->nbytes = nbytes;
    r->offset = offset;
    r->done = 0;
    r->zero_fill = 0;
    if (nbytes == 0 && op != BQ_FLUSH) bq_finish(q, r, 0);
    else bq_wait(q, r);
}

static inline int bq_has_unsubmitted(bq_queue *q) {
    return q->waiting != NULL || (q->backend == BQ_URING && q->ring.unsubmitted != 0);
}

static inline int bq_has_waiting(bq_queue *q) { return q->waiting != NULL; }

static inline int bq_has_done(bq_queue *q) { return q->done != NULL; }

/* What waits goes to the kernel, by one call: everything, but for a batch of a ring at most. */
static void bq_flush(bq_queue *q) {
    if (q->waiting == NULL) {
        if (q->backend == BQ_URING && q->ring.unsubmitted) bq_submit(q, 0);
        return;
    }
    if (q->backend == BQ_URING) bq_flush_uring(q);
    else bq_flush_pool(q);
}

static void bq_reap(bq_queue *q) {
    if (q->out_count == 0) return;
    if (q->backend == BQ_URING) bq_reap_uring(q);
    else bq_reap_pool(q);
}

static inline bq_request *bq_next_done(bq_queue *q) {
    bq_request *r = q->done;
    if (r != NULL) {
        q->done = r->next;
        if (q->done == NULL) q->done_last = NULL;
    }
    return r;
}

/* From now on a completion makes the event readable. 0: one is there already, so stay awake. */
static int bq_sleep(bq_queue *q) {
    if (bq_has_unsubmitted(q) || q->done != NULL) return 0;
    if (q->backend == BQ_URING) {
        uring_events(&q->ring, 1);
        /* The kernel looks at that after it has published a completion; here it is the other way round. */
        atomic_thread_fence(memory_order_seq_cst);
        if (!uring_has_events(&q->ring) && !uring_wants_call(&q->ring)) return 1;
        uring_events(&q->ring, 0);
        return 0;
    }
    atomic_store_explicit(&q->sleeping, 1, memory_order_seq_cst);
    if (atomic_load_explicit(&q->finished, memory_order_seq_cst) == NULL) return 1;
    atomic_store_explicit(&q->sleeping, 0, memory_order_seq_cst);
    return 0;
}

static inline void bq_stay_awake(bq_queue *q) {
    if (q->backend == BQ_URING) uring_events(&q->ring, 0);
    else atomic_store_explicit(&q->sleeping, 0, memory_order_seq_cst);
}

static void bq_wake(bq_queue *q) {
    char rung[64];
    bq_stay_awake(q);
    /* An eventfd is silent after one read; a pipe is when it is empty. */
    if (q->event_fd == q->event_write_fd) { if (read(q->event_fd, rung, 8) < 0) return; }
    else while (read(q->event_fd, rung, sizeof rung) > 0) {}
}

/* Wait until nothing is on its way; what is done stays on its list. */
static void bq_drain(bq_queue *q) {
    struct timespec moment = {0, 50000};
    while (q->in_use && (q->waiting != NULL || q->out_count)) {
        bq_flush(q);
        if (q->out_count == 0) continue;
        if (q->backend == BQ_URING) {
            int failed = uring_has_events(&q->ring) ? 0 : uring_submit(&q->ring, 1);
            if (failed && failed != EINTR) nanosleep(&moment, NULL);
        } else if (bq_sleep(q)) {
            struct pollfd bell = {q->event_fd, POLLIN, 0};
            if (poll(&bell, 1, 100) < 0 && errno != EINTR) nanosleep(&moment, NULL);
            bq_wake(q);
        }
        bq_reap(q);
    }
}

static int bq_open_event(bq_queue *q) {
#ifdef __linux__
    q->event_fd = q->event_write_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return q->event_fd < 0 ? errno : 0;
#else
    int ends[2];
    if (pipe(ends) < 0) return errno;
    for (int k = 0; k < 2; k++) {
        fcntl(ends[k], F_SETFD, FD_CLOEXEC);
        fcntl(ends[k], F_SETFL, O_NONBLOCK);
    }
    q->event_fd = ends[0];
    q->event_write_fd = ends[1];
    return 0;
#endif
}

/* Whether this process can have an io_uring here: 0, or an errno. */
static int bq_probe(int file) {
    uring ring;
    int failed = uring_open(&ring, 1, 0, file, -1);
    if (!failed) uring_close(&ring);
    return failed;
}

/* `uring_wish`: 0: threads; 1: io_uring, or the errno for which there is none; 2: io_uring where it is to be had. */
static int bq_connect(bq_queue *q, int uring_wish) {
    int failed = bq_open_event(q);
    q->ring.fd = -1;
    if (failed) return failed;
    q->backend = BQ_THREADS;
    q->refused = 0;
    q->fixed_count = 0;
    if (uring_wish) {
        failed = uring_open(&q->ring, q->depth, 0, q->file, q->event_fd);
        if (!failed) {
            q->backend = BQ_URING;
            /* More locked memory than the process may have: the kernel looks the pages up, request by request. */
            if (q->fixed_wish && !uring_register_buffers(&q->ring, q->fixed, q->fixed_wish))
                q->fixed_count = q->fixed_wish;
        }
        q->refused = failed;
    }
    if (failed && uring_wish == 1) {
        close(q->event_fd);
        if (q->event_write_fd != q->event_fd) close(q->event_write_fd);
        q->event_fd = q->event_write_fd = -1;
        return failed;
    }
    atomic_store(&q->sleeping, 0);
    atomic_store(&q->finished, NULL);
    memset(&q->pool, 0, sizeof q->pool);
    q->pool.most = q->depth < BQ_WORKERS ? q->depth : BQ_WORKERS;
    if (q->backend == BQ_THREADS && (
            (failed = pthread_mutex_init(&q->pool.lock, NULL)) || (failed = pthread_cond_init(&q->pool.work, NULL)))) {
        close(q->event_fd);
        if (q->event_write_fd != q->event_fd) close(q->event_write_fd);
        q->event_fd = q->event_write_fd = -1;
        return failed;
    }
    return 0;
}

static int bq_open(
    bq_queue *q, int file, bq_request *requests, uint32_t depth, uint32_t alignment, int cache_first, int uring_wish
) {
    int failed;
    /* A descriptor of its own: the device may be collected, and close its own, before this queue's threads have ended. */
    q->file = fcntl(file, F_DUPFD_CLOEXEC, 3);
    if (q->file < 0) return errno;
    q->depth = depth;
    q->batch = depth / BQ_BATCHES > BQ_LEAST_BATCH ? depth / BQ_BATCHES : BQ_LEAST_BATCH;
    q->alignment = alignment;
    q->cache_first = cache_first;
    q->requests = requests;
    for (uint32_t k = depth; k-- > 0;) {
        requests[k].next = q->free;
        q->free = &requests[k];
    }
    failed = bq_connect(q, uring_wish);
    if (failed) {
        close(q->file);
        q->file = -1;
    }
    return failed;
}

static void bq_close_fds(bq_queue *q) {
    uring_close(&q->ring);
    if (q->event_fd >= 0) close(q->event_fd);
    if (q->event_write_fd >= 0 && q->event_write_fd != q->event_fd) close(q->event_write_fd);
    q->event_fd = q->event_write_fd = -1;
}

/* Only when nothing is on its way. */
static void bq_close(bq_queue *q) {
    if (q->backend == BQ_THREADS && q->event_fd >= 0) {
        pthread_mutex_lock(&q->pool.lock);
        q->pool.stopping = 1;
        pthread_cond_broadcast(&q->pool.work);
        pthread_mutex_unlock(&q->pool.lock);
        for (uint32_t k = 0; k < q->pool.count; k++) pthread_join(q->pool.workers[k], NULL);
        pthread_cond_destroy(&q->pool.work);
        pthread_mutex_destroy(&q->pool.lock);
    }
    bq_close_fds(q);
    if (q->file >= 0) close(q->file);
    q->file = -1;
}

/* In the child of a fork: what is on its way is the parent's. It ends as cancelled here, without the kernel; the OS
   threads of the pool do not exist, and its lock may be held by one of them, so it is left where it is. */
static void bq_part(bq_queue *q) {
    bq_close_fds(q);
    q->waiting = q->waiting_last = NULL;
    q->waiting_count = q->out_count = 0;
    q->ring.unsubmitted = 0;
    for (uint32_t k = 0; k < q->depth; k++) {
        bq_request *r = &q->requests[k];
        if (r->state == BQ_WAITING || r->state == BQ_OUT) bq_finish(q, r, -ECANCELED);
    }
}

/* ---- the file -------------------------------------------------------------------------------------------------- */

#ifdef __linux__
#include <linux/fs.h>
#endif

/* The bytes to which offsets, lengths and addresses of O_DIRECT have to be aligned; 0: not to be found out. */
static uint32_t bq_alignment(int file, uint32_t *memory) {
    struct stat st;
    *memory = 0;
    if (fstat(file, &st) < 0) return 0;
#ifdef __linux__
    if (S_ISBLK(st.st_mode)) {
        int size = 0;
        if (ioctl(file, BLKSSZGET, &size) == 0 && size > 0) return *memory = (uint32_t)size;
        return 0;
    }
#ifdef __NR_statx
    {
        /* STATX_DIOALIGN of Linux 6.1, and where its two words are: older headers do not have it. */
        uint32_t words[64];
        memset(words, 0, sizeof words);
        if (syscall(__NR_statx, file, "", 0x1000 /* AT_EMPTY_PATH */, 0x2000, words) == 0 && words[0] & 0x2000
                && words[39]) {
            *memory = words[38];
            return words[39];
        }
    }
#endif
#endif
    return 0;
}

#endif
