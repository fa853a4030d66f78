/* io_uring without a library: three system calls, three mappings, and the order of accesses to four indices. The queues
   of block devices and the groups of sockets stand on it.

   Structures and numbers are the kernel's interface, declared here so that a build needs no kernel headers of a certain
   age; whether the running kernel has it is found out by `uring_open`. */
#ifndef SPDKTHREAD_URING_H
#define SPDKTHREAD_URING_H

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

struct uring_sqe {
    uint8_t opcode;
    uint8_t flags;
    uint16_t ioprio;
    int32_t fd;
    uint64_t off;
    uint64_t addr;
    uint32_t len;
    uint32_t op_flags;
    uint64_t user_data;
    uint16_t buf_index;
    uint16_t personality;
    uint32_t file_index;
    uint64_t rest[2];
};

struct uring_cqe {
    uint64_t user_data;
    int32_t res;
    uint32_t flags;
};

enum {
    URING_OP_NOP = 0,
    URING_OP_READV = 1,
    URING_OP_WRITEV = 2,
    URING_OP_FSYNC = 3,
    URING_OP_READ_FIXED = 4,
    URING_OP_WRITE_FIXED = 5,
    URING_OP_POLL_ADD = 6,
    URING_OP_ACCEPT = 13,
    URING_OP_ASYNC_CANCEL = 14,
    URING_OP_FALLOCATE = 17,
    URING_OP_READ = 22,
    URING_OP_WRITE = 23,
    URING_OP_SEND = 26,
    URING_OP_RECV = 27,
    URING_SQE_FIXED_FILE = 1,
    URING_SQE_BUFFER_SELECT = 1 << 5,
    URING_ACCEPT_MULTISHOT = 1,         /* in `ioprio` */
    URING_RECV_MULTISHOT = 2,
    URING_CANCEL_ALL = 1 << 0,
    URING_CANCEL_ANY = 1 << 2,
    URING_CQE_BUFFER = 1,               /* the upper half of `flags` is the number of the buffer that was used */
    URING_CQE_MORE = 2,                 /* further completions of the same request will come */
    URING_FSYNC_DATASYNC = 1,
};

/* A buffer that is offered to the kernel, in a ring of such: a request that leaves the choice to the kernel takes the
   next one. The index that publishes them is in the place of `rest` of the first. */
struct uring_offer {
    uint64_t addr;
    uint32_t len;
    uint16_t id;
    uint16_t rest;
};

/* A double of the kernel, for tests: the errno with which it refuses a ring; 0: it decides by itself. */
static int uring_double_refusal;

#ifdef __linux__
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The same on every architecture that Linux has taken in since 2011, and on x86. */
#ifndef __NR_io_uring_setup
#define __NR_io_uring_setup 425
#define __NR_io_uring_enter 426
#define __NR_io_uring_register 427
#endif

enum {
    URING_ENTER_GETEVENTS = 1,
    URING_SETUP_CQSIZE = 1 << 3,
    URING_SETUP_CLAMP = 1 << 4,
    URING_SETUP_COOP_TASKRUN = 1 << 8,
    URING_SETUP_TASKRUN_FLAG = 1 << 9,
    URING_FEAT_SINGLE_MMAP = 1 << 0,
    URING_FEAT_NODROP = 1 << 1,
    URING_FEAT_RW_CUR_POS = 1 << 3,     /* came with the plain read, write and fallocate, in 5.6 */
    URING_SQ_CQ_OVERFLOW = 1 << 1,
    URING_SQ_TASKRUN = 1 << 2,
    URING_CQ_EVENTFD_DISABLED = 1,
    URING_REGISTER_BUFFERS = 0,
    URING_REGISTER_FILES = 2,
    URING_REGISTER_EVENTFD = 4,
    URING_REGISTER_OFFERS = 22,         /* 5.19 */
    URING_UNREGISTER_OFFERS = 23,
    URING_REGISTER_SYNC_CANCEL = 24,    /* 6.0 */
};

struct uring_offers_reg {
    uint64_t ring_addr;
    uint32_t ring_entries;
    uint16_t group;
    uint16_t flags;
    uint64_t rest[3];
};

struct uring_cancel_reg {
    uint64_t addr;
    int32_t fd;
    uint32_t flags;
    int64_t timeout_s, timeout_ns;
    uint8_t opcode;
    uint8_t pad[7];
    uint64_t rest[3];
};

struct uring_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd, resv[3];
    struct { uint32_t head, tail, mask, entries, flags, dropped, array, resv; uint64_t user_addr; } sq;
    struct { uint32_t head, tail, mask, entries, overflow, cqes, flags, resv; uint64_t user_addr; } cq;
};

typedef struct uring {
    int fd;
    uint32_t sq_mask, cq_mask;
    uint32_t sq_tail;               /* written, and given to the kernel by the next call */
    uint32_t unsubmitted;
    _Atomic(uint32_t) *sq_khead, *sq_ktail, *sq_kflags, *cq_khead, *cq_ktail, *cq_kflags;
    struct uring_sqe *sqes;
    struct uring_cqe *cqes;
    void *rings;
    size_t rings_size, sqes_size;
    int fixed_file;                 /* the file is number 0 of the registered ones */
} uring;

static inline int uring_setup_call(uint32_t entries, struct uring_params *params) {
    return (int)syscall(__NR_io_uring_setup, entries, params);
}

static inline int uring_enter_call(int fd, uint32_t submit, uint32_t wait_for, uint32_t flags) {
    return (int)syscall(__NR_io_uring_enter, fd, submit, wait_for, flags, NULL, 0);
}

static inline int uring_register_call(int fd, uint32_t what, const void *arg, uint32_t count) {
    return (int)syscall(__NR_io_uring_register, fd, what, arg, count);
}

static inline void uring_close(uring *ring) {
    if (ring->sqes != NULL) munmap(ring->sqes, ring->sqes_size);
    if (ring->rings != NULL) munmap(ring->rings, ring->rings_size);
    if (ring->fd >= 0) close(ring->fd);
    memset(ring, 0, sizeof *ring);
    ring->fd = -1;
}

/* A ring of at least `entries` requests and, unless that is 0, `cq_entries` completions, which makes `event_fd` readable;
   `file` is for requests that name none, -1: there are no such. 0, or the errno with which it was refused: ENOSYS: no such
   call, or an older one than is needed here; EPERM, EACCES: not allowed to this process.

   Neither SINGLE_ISSUER nor DEFER_TASKRUN: both bind a ring to the OS thread that opened it, which alone may then submit
   and has to call the kernel for each completion to be seen. An SpdkThread goes from one OS thread to another with its
   requests under way, and may leave one that does not come back. With COOP_TASKRUN the kernel interrupts nothing
   either, but any OS thread may submit, and what one of them has begun is completed wherever that one is. */
static inline int uring_open(uring *ring, uint32_t entries, uint32_t cq_entries, int file, int event_fd) {
    static const uint32_t wishes[] = {URING_SETUP_COOP_TASKRUN | URING_SETUP_TASKRUN_FLAG, 0};
    struct uring_params params;
    uint32_t needed = URING_FEAT_SINGLE_MMAP | URING_FEAT_NODROP | URING_FEAT_RW_CUR_POS;
    size_t sq_size, cq_size;
    unsigned wish;
    int failed = EINVAL;
    memset(ring, 0, sizeof *ring);
    ring->fd = -1;
    if (uring_double_refusal) return uring_double_refusal;
    for (wish = 0; ring->fd < 0 && failed == EINVAL && wish < sizeof wishes / sizeof *wishes; wish++) {
        memset(&params, 0, sizeof params);
        params.flags = wishes[wish] | URING_SETUP_CLAMP | (cq_entries ? URING_SETUP_CQSIZE : 0);
        params.cq_entries = cq_entries;
        ring->fd = uring_setup_call(entries, &params);
        if (ring->fd < 0) failed = errno;
    }
    if (ring->fd < 0) return failed;
    if ((params.features & needed) != needed || params.sq_entries < entries) {
        failed = params.sq_entries < entries ? EINVAL : ENOSYS;
        uring_close(ring);
        return failed;
    }
    sq_size = params.sq.array + params.sq_entries * sizeof(uint32_t);
    cq_size = params.cq.cqes + params.cq_entries * sizeof(struct uring_cqe);
    ring->rings_size = sq_size > cq_size ? sq_size : cq_size;
    ring->sqes_size = params.sq_entries * sizeof(struct uring_sqe);
    ring->rings = mmap(NULL, ring->rings_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, 0);
    if (ring->rings == MAP_FAILED) {
        failed = errno;
        ring->rings = NULL;
        uring_close(ring);
        return failed;
    }
    ring->sqes = (struct uring_sqe *)mmap(
        NULL, ring->sqes_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, 0x10000000);
    if (ring->sqes == MAP_FAILED) {
        failed = errno;
        ring->sqes = NULL;
        uring_close(ring);
        return failed;
    }
#define URING_AT(offset) ((_Atomic(uint32_t) *)((char *)ring->rings + (offset)))
    ring->sq_khead = URING_AT(params.sq.head);
    ring->sq_ktail = URING_AT(params.sq.tail);
    ring->sq_kflags = URING_AT(params.sq.flags);
    ring->cq_khead = URING_AT(params.cq.head);
    ring->cq_ktail = URING_AT(params.cq.tail);
    ring->cq_kflags = URING_AT(params.cq.flags);
    ring->sq_mask = params.sq_entries - 1;
    ring->cq_mask = params.cq_entries - 1;
    ring->cqes = (struct uring_cqe *)((char *)ring->rings + params.cq.cqes);
    /* Entry k of the queue is always place k of the array. */
    for (uint32_t k = 0; k < params.sq_entries; k++)
        ((uint32_t *)((char *)ring->rings + params.sq.array))[k] = k;
#undef URING_AT
    if (event_fd >= 0 && uring_register_call(ring->fd, URING_REGISTER_EVENTFD, &event_fd, 1) < 0) {
        failed = errno;
        uring_close(ring);
        return failed;
    }
    ring->fixed_file = file >= 0 && uring_register_call(ring->fd, URING_REGISTER_FILES, &file, 1) == 0;
    atomic_store_explicit(ring->cq_kflags, URING_CQ_EVENTFD_DISABLED, memory_order_relaxed);
    return 0;
}

/* Have the kernel keep the pages of these pieces of memory, so that requests need not look them up. 0, or the errno. */
static inline int uring_register_buffers(uring *ring, const struct iovec *buffers, uint32_t count) {
    return uring_register_call(ring->fd, URING_REGISTER_BUFFERS, buffers, count) < 0 ? errno : 0;
}

/* Entries that can be written before the next call. */
static inline uint32_t uring_room(uring *ring) { return ring->sq_mask + 1 - ring->unsubmitted; }

/* The next entry, zeroed. The caller knows that there is one. */
static inline struct uring_sqe *uring_next(uring *ring) {
    struct uring_sqe *sqe = &ring->sqes[ring->sq_tail++ & ring->sq_mask];
    memset(sqe, 0, sizeof *sqe);
    ring->unsubmitted++;
    return sqe;
}

static inline int uring_enter(uring *ring, uint32_t wait_for, uint32_t flags) {
    int taken;
    /* The entries before the index that publishes them. */
    atomic_store_explicit(ring->sq_ktail, ring->sq_tail, memory_order_release);
    taken = uring_enter_call(ring->fd, ring->unsubmitted, wait_for, flags);
    if (taken < 0) return errno;
    ring->unsubmitted -= (uint32_t)taken < ring->unsubmitted ? (uint32_t)taken : ring->unsubmitted;
    return 0;
}

/* Give the kernel what was written. 0, or an errno: what it has not taken stays for the next call. */
static inline int uring_submit(uring *ring, uint32_t wait_for) {
    return uring_enter(ring, wait_for, wait_for ? URING_ENTER_GETEVENTS : 0);
}

/* The same, and have it finish what waits for a call of this OS thread. */
static inline int uring_submit_and_get(uring *ring) { return uring_enter(ring, 0, URING_ENTER_GETEVENTS); }

/* The last entry that the kernel has not taken, out of the queue: what it says about its request. */
static inline uint64_t uring_take_back(uring *ring) {
    uint64_t user_data = ring->sqes[--ring->sq_tail & ring->sq_mask].user_data;
    atomic_store_explicit(ring->sq_ktail, ring->sq_tail, memory_order_release);
    return user_data;
}

/* Whether completions are there, or will be after `uring_get_events`. */
static inline int uring_has_events(uring *ring) {
    return atomic_load_explicit(ring->cq_ktail, memory_order_acquire)
        != atomic_load_explicit(ring->cq_khead, memory_order_relaxed);
}

static inline int uring_wants_call(uring *ring) {
    return (atomic_load_explicit(ring->sq_kflags, memory_order_relaxed) & (URING_SQ_TASKRUN | URING_SQ_CQ_OVERFLOW)) != 0;
}

static inline void uring_get_events(uring *ring) { uring_enter_call(ring->fd, 0, 0, URING_ENTER_GETEVENTS); }

/* The next completion, out of the queue: 1, or 0 where there is none. */
static inline int uring_take(uring *ring, struct uring_cqe *out) {
    uint32_t head = atomic_load_explicit(ring->cq_khead, memory_order_relaxed);
    if (head == atomic_load_explicit(ring->cq_ktail, memory_order_acquire)) return 0;
    *out = ring->cqes[head & ring->cq_mask];
    /* The entry was read before the kernel may write it again. */
    atomic_store_explicit(ring->cq_khead, head + 1, memory_order_release);
    return 1;
}

/* Completions that are there now. */
static inline uint32_t uring_count(uring *ring) {
    return atomic_load_explicit(ring->cq_ktail, memory_order_relaxed)
        - atomic_load_explicit(ring->cq_khead, memory_order_relaxed);
}

/* Cancel the request of `user_data`, or with URING_CANCEL_ANY | URING_CANCEL_ALL every one, before it returns. Each
   completes nevertheless. 0, or an errno: ENOENT: there is no such request; EINVAL: the kernel is too old. */
static inline int uring_cancel_now(uring *ring, uint64_t user_data, uint32_t flags) {
    struct uring_cancel_reg reg;
    memset(&reg, 0, sizeof reg);
    reg.addr = user_data;
    reg.fd = -1;
    reg.flags = flags;
    reg.timeout_s = reg.timeout_ns = -1;
    return uring_register_call(ring->fd, URING_REGISTER_SYNC_CANCEL, &reg, 1) < 0 ? errno : 0;
}

/* Have requests of buffer group 0 take their buffers from the ring at `offers`, a whole number of pages. 0, or an errno. */
static inline int uring_register_offers(uring *ring, struct uring_offer *offers, uint32_t count) {
    struct uring_offers_reg reg;
    memset(&reg, 0, sizeof reg);
    reg.ring_addr = (uint64_t)(uintptr_t)offers;
    reg.ring_entries = count;
    return uring_register_call(ring->fd, URING_REGISTER_OFFERS, &reg, 1) < 0 ? errno : 0;
}

/* After that the kernel selects none of them any more. */
static inline void uring_unregister_offers(uring *ring) {
    struct uring_offers_reg reg;
    memset(&reg, 0, sizeof reg);
    uring_register_call(ring->fd, URING_UNREGISTER_OFFERS, &reg, 1);
}

/* Publish offers up to the index `tail`. */
static inline void uring_publish_offers(struct uring_offer *offers, uint16_t tail) {
    /* The entries before the index. */
    atomic_store_explicit((_Atomic(uint16_t) *)&offers[0].rest, tail, memory_order_release);
}

static inline void uring_events(uring *ring, int wanted) {
    atomic_store_explicit(ring->cq_kflags, wanted ? 0 : URING_CQ_EVENTFD_DISABLED, memory_order_relaxed);
}

#else

typedef struct uring {
    int fd;
    uint32_t sq_mask, sq_tail, unsubmitted;
    struct uring_sqe *sqes;
    int fixed_file;
} uring;
static inline int uring_open(uring *ring, uint32_t entries, uint32_t cq_entries, int file, int event_fd) {
    (void)entries; (void)cq_entries; (void)file; (void)event_fd;
    ring->fd = -1;
    return uring_double_refusal ? uring_double_refusal : ENOSYS;
}
static inline int uring_register_buffers(uring *ring, const struct iovec *buffers, uint32_t count) {
    (void)ring; (void)buffers; (void)count;
    return ENOSYS;
}
static inline void uring_close(uring *ring) { ring->fd = -1; }
static inline struct uring_sqe *uring_next(uring *ring) {
    static struct uring_sqe none;
    (void)ring;
    return &none;
}
static inline uint32_t uring_room(uring *ring) { (void)ring; return 0; }
static inline int uring_submit(uring *ring, uint32_t wait_for) { (void)ring; (void)wait_for; return ENOSYS; }
static inline uint64_t uring_take_back(uring *ring) { (void)ring; return 0; }
static inline int uring_has_events(uring *ring) { (void)ring; return 0; }
static inline int uring_wants_call(uring *ring) { (void)ring; return 0; }
static inline void uring_get_events(uring *ring) { (void)ring; }
static inline int uring_submit_and_get(uring *ring) { (void)ring; return ENOSYS; }
static inline int uring_take(uring *ring, struct uring_cqe *out) { (void)ring; (void)out; return 0; }
static inline uint32_t uring_count(uring *ring) { (void)ring; return 0; }
static inline int uring_cancel_now(uring *ring, uint64_t user_data, uint32_t flags) {
    (void)ring; (void)user_data; (void)flags;
    return ENOSYS;
}
static inline int uring_register_offers(uring *ring, struct uring_offer *offers, uint32_t count) {
    (void)ring; (void)offers; (void)count;
    return ENOSYS;
}
static inline void uring_unregister_offers(uring *ring) { (void)ring; }
static inline void uring_publish_offers(struct uring_offer *offers, uint16_t tail) { (void)offers; (void)tail; }
static inline void uring_events(uring *ring, int wanted) { (void)ring; (void)wanted; }

#endif
#endif
