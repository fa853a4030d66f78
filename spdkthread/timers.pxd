"""The timer queue: exact deadlines, the same cost at ten and at a million pending timers.

A radix tree on time, in the shape of a timing wheel without a tick. `last` is a tick at or before every deadline in the
queue. A timer lives in the bucket named by the highest group of six bits in which its deadline differs from `last`
(the level) and by the value of that group (the digit)::

    deadline   000000 000000 ... 010110 111000 000101
    last       000000 000000 ... 010010 101100 110011
                                     ^^ level 2, digit 0b010110

    level 0   64 lists, each of one exact deadline, first in first out
    level 1   64 lists of 64 ticks each
    ...       a bitmap per level says which lists are in use

Insert and cancel touch one list. The earliest timer is in the lowest level in use, at its lowest digit. When that
bucket's start is due, `last` moves up to it and its timers go down to lower levels: at most ten times in the life of a
timer, commonly two or three, and not at all when the bucket is short. A bucket keeps its order on the way down, so
equal deadlines stay first in, first out.

`last` never goes back. A deadline before it is overdue, has no bucket, and goes into a pairing heap beside the wheel, in
the order of the deadlines and, among equal ones, of their numbers: insert is one comparison, and everything in the heap
is earlier than everything in the wheel::

    heap (overdue)    root: the earliest; `child` its first child, `next` and `prev` its siblings, the first one's
                      `prev` the parent; `queued` is the number

One OS thread at a time owns a queue. `count` and `next_check` are stored atomically, so that others may look at them.
"""

from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #ifndef SPDKTHREAD_TIMERS
    #define SPDKTHREAD_TIMERS
    enum { TIMER_LEVELS = 11, TIMER_DIGITS = 64 };
    #define TIMER_NEVER UINT64_MAX

    /* Embedded in whatever waits; the queue owns nothing. */
    typedef struct timer_node {
        struct timer_node *next;
        struct timer_node *prev;
        uint64_t deadline;
        uint64_t queued;        /* 0: not; 1: in the wheel; more: overdue, in the order of this number */
        struct timer_node *child;       /* of an overdue one */
    } timer_node;

    typedef struct timer_list {
        timer_node *first;
        timer_node *final;
    } timer_list;

    typedef struct timer_wheel {
        uint64_t bitmap[TIMER_LEVELS];
        timer_list lists[TIMER_LEVELS][TIMER_DIGITS];
    } timer_wheel;

    typedef struct timer_queue {
        uint64_t next_check;    /* no timer is due before this tick; exact when `next_exact` */
        uint64_t count;
        uint64_t last;
        uint64_t next_exact;
        timer_wheel *wheel;     /* allocated with the first timer */
        timer_node *overdue;    /* root of the heap */
        uint64_t overdue_number;
    } timer_queue;

    /* Words of a queue that other OS threads than its owner look at. */
    static inline void timer_publish(uint64_t *word, uint64_t value) {
        __atomic_store_n(word, value, __ATOMIC_RELAXED);
    }
    static inline uint64_t timer_glance(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }

    static inline int timer_level(uint64_t deadline, uint64_t last) {
        uint64_t difference = deadline ^ last;
        return difference == 0 ? 0 : (63 - __builtin_clzll(difference)) / 6;
    }
    static inline int timer_lowest(uint64_t bits) { return __builtin_ctzll(bits); }
    #endif
    """
    const int TIMER_LEVELS, TIMER_DIGITS
    const uint64_t TIMER_NEVER

    ctypedef struct timer_node:
        timer_node *next
        timer_node *prev
        uint64_t deadline
        uint64_t queued
        timer_node *child

    ctypedef struct timer_list:
        timer_node *first
        timer_node *final

    ctypedef struct timer_wheel:
        uint64_t bitmap[11]
        timer_list lists[11][64]

    ctypedef struct timer_queue:
        uint64_t next_check
        uint64_t count
        uint64_t last
        uint64_t next_exact
        timer_wheel *wheel
        timer_node *overdue
        uint64_t overdue_number

    int timer_level(uint64_t deadline, uint64_t last) noexcept nogil
    int timer_lowest(uint64_t bits) noexcept nogil
    void timer_publish(uint64_t *word, uint64_t value) noexcept nogil
    uint64_t timer_glance(const uint64_t *word) noexcept nogil

ctypedef int (*timer_visit_fn)(timer_node *node, void *arg) noexcept


cdef int timer_queue_init(timer_queue *queue) except -1
cdef void timer_queue_free(timer_queue *queue) noexcept nogil
cdef void timer_insert(timer_queue *queue, timer_node *node, uint64_t deadline, uint64_t now) noexcept nogil
cdef void timer_cancel(timer_queue *queue, timer_node *node) noexcept nogil
cdef timer_node *timer_pop_slow(timer_queue *queue, uint64_t now) noexcept nogil
cdef uint64_t timer_next_deadline(timer_queue *queue) noexcept nogil
cdef int timer_each(timer_queue *queue, timer_visit_fn visit, void *arg) noexcept


cdef inline timer_node *timer_pop(timer_queue *queue, uint64_t now) noexcept nogil:
    """Take the earliest timer out if it is due at `now`, else NULL."""
    if queue.count == 0 or now < queue.next_check:
        return NULL
    return timer_pop_slow(queue, now)


cdef class TimerQueue:
    cdef timer_queue c
    cdef dict _entries
    cdef uint64_t _now
