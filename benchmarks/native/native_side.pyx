"""The native side of spdkthread, as a Cython user would write it: C functions as messages and pollers, no GIL.

Compiled against the installed ``.pxd`` files when a benchmark first needs it (see ``build.py``).
"""

from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from spdkthread.clock cimport st_ticks
from spdkthread.poller cimport Poller
from spdkthread.ring cimport RING_OK
from spdkthread.thread cimport SpdkThread, thread_send_python
from spdkthread.send cimport thread_send_native
from spdkthread.thread_poll cimport (
    current_deadline,
    STEP_DONE,
    poll_attached,
    poll_begin,
    poll_detached,
    poll_end,
    thread_s,
)
from spdkthread.timers cimport (
    timer_cancel,
    timer_insert,
    timer_node,
    timer_pop,
    timer_queue,
    timer_queue_free,
    timer_queue_init,
)


cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <pthread.h>
    #include <sched.h>
    #include <stdatomic.h>
    #include <stdint.h>
    #include <stdlib.h>
    #include <unistd.h>

    typedef _Atomic(uint64_t) bench_word;
    static inline uint64_t word_get(bench_word *w) { return atomic_load_explicit(w, memory_order_acquire); }
    static inline void word_set(bench_word *w, uint64_t v) { atomic_store_explicit(w, v, memory_order_release); }
    static inline uint64_t word_add(bench_word *w, uint64_t v) { return atomic_fetch_add(w, v) + v; }

    /* The same work as in the C peers. */
    static __attribute__((noinline)) void count_one(void *ctx) { *(volatile uint64_t *)ctx += 1; }
    static int idle_poller(void *ctx) { *(volatile uint64_t *)ctx += 1; return 0; }
    static int busy_poller(void *ctx) { *(volatile uint64_t *)ctx += 1; return 1; }
    typedef void (*bench_fn)(void *);
    static bench_fn volatile opaque_fn = count_one;

    #if defined(__has_include)
    #if __has_include(<valgrind/callgrind.h>)
    #include <valgrind/callgrind.h>
    #endif
    #endif
    #ifndef CALLGRIND_ZERO_STATS
    #define CALLGRIND_ZERO_STATS
    #define CALLGRIND_DUMP_STATS_AT(name)
    #define BENCH_COUNTS 0
    #else
    #define BENCH_COUNTS 1
    #endif
    static inline void bench_count_begin(void) { CALLGRIND_ZERO_STATS; }
    static inline void bench_count_end(const char *name) { (void)name; CALLGRIND_DUMP_STATS_AT(name); }

    static inline void bench_pin(int core) {
    #ifdef __linux__
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(core, &set);
        (void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
    #else
        (void)core;
    #endif
    }
    """
    ctypedef struct bench_word:
        pass
    uint64_t word_get(bench_word *) noexcept nogil
    void word_set(bench_word *, uint64_t) noexcept nogil
    uint64_t word_add(bench_word *, uint64_t) noexcept nogil
    void count_one(void *) noexcept nogil
    int idle_poller(void *) noexcept nogil
    int busy_poller(void *) noexcept nogil
    ctypedef void (*bench_fn)(void *) noexcept nogil
    bench_fn opaque_fn
    const bint BENCH_COUNTS
    void bench_count_begin() noexcept nogil
    void bench_count_end(const char *) noexcept nogil
    void bench_pin(int) noexcept nogil
    void *aligned_alloc(size_t, size_t) noexcept nogil
    ctypedef unsigned long pthread_t
    int pthread_create(pthread_t *, void *, void *(*)(void *) noexcept nogil, void *) noexcept nogil
    int pthread_join(pthread_t, void **) noexcept nogil
    int sched_yield() noexcept nogil
    int usleep(unsigned int) noexcept nogil
    PyObject *PyObject_Vectorcall(PyObject *, PyObject **, size_t, PyObject *)
    void Py_DECREF_raw "Py_DECREF"(PyObject *)


cdef inline void drive(thread_s *thread) noexcept nogil:
    """One poll of a thread that has native work only."""
    poll_begin(thread, 8, 0, False)
    poll_detached(thread)
    poll_end(thread)


# Instruction counts: under callgrind, each stretch becomes a dump of its own

COUNTS = BENCH_COUNTS


def counted(str name, function, *args):
    """Call ``function(*args)`` as the stretch `name`."""
    cdef bytes label = name.encode()
    bench_count_begin()
    function(*args)
    bench_count_end(label)


# The limits


def bare_calls(uint64_t count):
    cdef uint64_t _, counter = 0
    with nogil:
        for _ in range(count):
            opaque_fn(&counter)


def bare_vectorcalls(object fn, uint64_t count):
    cdef PyObject *args[1]
    cdef PyObject *result
    cdef object one = 1
    cdef uint64_t _
    args[0] = <PyObject *>one
    for _ in range(count):
        result = PyObject_Vectorcall(<PyObject *>fn, args, 1, NULL)
        if result == NULL:
            raise RuntimeError("the function failed")
        Py_DECREF_raw(result)


# One core


def messages_on_one_core(SpdkThread thread, uint64_t count):
    cdef thread_s *c = &thread.c
    cdef uint64_t counter = 0, _batch
    cdef int _
    with nogil:
        for _batch in range(count // 8):
            for _ in range(8):
                thread_send_native(c, count_one, &counter, 0)
            drive(c)
    if counter != count // 8 * 8:
        raise RuntimeError(f"{counter} of {count} messages ran")


def python_messages(SpdkThread thread, object fn, uint64_t count):
    """Python messages with one argument, sent and run by C loops that hold the GIL."""
    cdef thread_s *c = &thread.c
    cdef object one = 1
    cdef PyObject *args[1]
    cdef uint64_t _batch
    cdef int _
    args[0] = <PyObject *>one
    for _batch in range(count // 8):
        for _ in range(8):
            thread_send_python(thread, <PyObject *>fn, args, 1)
        poll_begin(c, 8, 0, False)
        if poll_attached(c) != STEP_DONE:
            raise RuntimeError("not only Python messages")
        poll_end(c)


def polls(SpdkThread thread, uint64_t count):
    cdef thread_s *c = &thread.c
    cdef uint64_t _
    with nogil:
        for _ in range(count):
            drive(c)


cdef uint64_t poller_runs = 0


def register_active_pollers(SpdkThread thread, uint64_t count):
    capsule = PyCapsule_New(<void *>idle_poller, "int (void *)", NULL)
    with thread:
        for _ in range(count):
            thread.register_native_poller(capsule, <size_t>&poller_runs)


def register_busy_pollers(SpdkThread thread, uint64_t count, period_us):
    """To be called on the thread itself."""
    capsule = PyCapsule_New(<void *>busy_poller, "int (void *)", NULL)
    for _ in range(count):
        thread.register_native_poller(capsule, <size_t>&poller_runs, period_us)


# Across cores


cdef struct sender_s:
    thread_s *target
    int core
    uint64_t count
    uint64_t *counter
    bench_word *ready
    bench_word *go


cdef void *sender_main(void *arg) noexcept nogil:
    cdef sender_s *sender = <sender_s *>arg
    cdef uint64_t _
    bench_pin(sender.core)
    word_add(sender.ready, 1)
    while word_get(sender.go) == 0:
        sched_yield()
    for _ in range(sender.count):
        while thread_send_native(sender.target, count_one, sender.counter, 0) != RING_OK:
            sched_yield()
    return NULL


def messages_across(SpdkThread thread, cores, uint64_t count):
    """Nanoseconds until `count` messages from one sender per core listed have run on the calling OS thread."""
    cdef thread_s *c = &thread.c
    cdef uint64_t counter = 0, begin, end, share = count // len(cores), total = count // len(cores) * len(cores)
    cdef bench_word ready, go
    cdef sender_s *senders = <sender_s *>calloc(len(cores), sizeof(sender_s))
    cdef pthread_t *ids = <pthread_t *>calloc(len(cores), sizeof(pthread_t))
    cdef int index, wanted = len(cores)
    word_set(&ready, 0)
    word_set(&go, 0)
    for index in range(wanted):
        senders[index] = sender_s(c, cores[index], share, &counter, &ready, &go)
        if pthread_create(&ids[index], NULL, sender_main, &senders[index]) != 0:
            raise OSError("pthread_create failed")
    with nogil:
        while word_get(&ready) < <uint64_t>wanted:
            sched_yield()
        begin = st_ticks()
        word_set(&go, 1)
        while counter < total:
            drive(c)
        end = st_ticks()
        for index in range(wanted):
            pthread_join(ids[index], NULL)
    free(senders)
    free(ids)
    return (end - begin) * (<double>count / <double>total)


cdef struct pingpong_s:
    # Read by both sides, written by none: nothing but the messages shall travel between the cores.
    thread_s *here
    thread_s *there
    char pad_constant[128]
    # Of the side that counts.
    uint64_t left
    uint64_t begin
    uint64_t end
    uint64_t last
    uint64_t *samples
    uint64_t taken
    char pad_counts[128]
    int core
    bench_word ready
    bench_word done


cdef void ping(void *ctx) noexcept nogil:
    thread_send_native((<pingpong_s *>ctx).here, pong, ctx, 0)


cdef void pong(void *ctx) noexcept nogil:
    cdef pingpong_s *game = <pingpong_s *>ctx
    cdef uint64_t now
    if game.samples != NULL:
        now = st_ticks()
        game.samples[game.taken] = now - game.last
        game.taken += 1
        game.last = now
    game.left -= 1
    if game.left:
        thread_send_native(game.there, ping, ctx, 0)
    else:
        game.end = st_ticks()
        word_set(&game.done, 1)


cdef void serve(void *ctx) noexcept nogil:
    cdef pingpong_s *game = <pingpong_s *>ctx
    game.begin = st_ticks()
    game.last = game.begin
    thread_send_native(game.there, ping, ctx, 0)


cdef void *partner_main(void *arg) noexcept nogil:
    cdef pingpong_s *game = <pingpong_s *>arg
    bench_pin(game.core)
    word_set(&game.ready, 1)
    while word_get(&game.done) == 0:
        drive(game.there)
    return NULL


cdef pingpong_s *new_game(SpdkThread here, SpdkThread there, uint64_t count, uint64_t *samples) except NULL:
    # Not on the stack: the other core would read lines that every call of this one writes.
    cdef pingpong_s *game = <pingpong_s *>aligned_alloc(128, (sizeof(pingpong_s) + 127) // 128 * 128)
    if game == NULL:
        raise MemoryError
    game.here, game.there, game.left, game.samples, game.taken = &here.c, &there.c, count, samples, 0
    word_set(&game.ready, 0)
    word_set(&game.done, 0)
    return game


cdef double play(SpdkThread here, SpdkThread there, int core, uint64_t count, uint64_t *samples) except -1:
    cdef pingpong_s *game = new_game(here, there, count, samples)
    cdef pthread_t partner
    cdef double elapsed
    game.core = core
    if pthread_create(&partner, NULL, partner_main, game) != 0:
        raise OSError("pthread_create failed")
    with nogil:
        while word_get(&game.ready) == 0:
            sched_yield()
        serve(game)
        while word_get(&game.done) == 0:
            drive(game.here)
        pthread_join(partner, NULL)
    elapsed = game.end - game.begin
    free(game)
    return elapsed


def pingpong(SpdkThread here, SpdkThread there, int core, uint64_t count):
    """Round trips between the calling OS thread and one on `core`, each of which polls its own thread."""
    return play(here, there, core, count, NULL)


def pingpong_samples(SpdkThread here, SpdkThread there, int core, uint64_t count):
    import numpy

    samples = numpy.zeros(count, dtype=numpy.uint64)
    cdef size_t address = samples.ctypes.data
    play(here, there, core, count, <uint64_t *>address)
    return samples


def reactor_pingpong(SpdkThread here, SpdkThread there, uint64_t count):
    """Round trips between two threads that reactors poll."""
    cdef pingpong_s *game = new_game(here, there, count, NULL)
    cdef double elapsed
    with nogil:
        thread_send_native(game.here, serve, game, 0)
        while word_get(&game.done) == 0:
            usleep(200)
    elapsed = game.end - game.begin
    free(game)
    return elapsed


cdef struct station_s:
    thread_s *thread
    station_s *following
    uint64_t left           # of this core's share
    uint64_t ran
    bench_word *alive
    uint64_t *end
    char pad[80]            # 128 bytes in all: each core counts on lines of its own


cdef void event(void *ctx) noexcept nogil:
    cdef station_s *station = <station_s *>ctx
    station.ran += 1
    if station.left:
        station.left -= 1
        thread_send_native(station.following.thread, event, station.following, 0)
    elif word_add(station.alive, <uint64_t>-1) == 0:
        station.end[0] = st_ticks()


def event_ring(threads, uint64_t in_flight, uint64_t count):
    """Events that each post one to the next thread, `in_flight` of them, until about `count` have run.

    Returns the nanoseconds for exactly `count`.
    """
    cdef int number = len(threads), index
    cdef station_s *stations = <station_s *>aligned_alloc(128, number * sizeof(station_s))
    cdef bench_word alive
    cdef uint64_t begin, end = 0, ran = 0, each
    word_set(&alive, in_flight)
    for index in range(number):
        stations[index].thread = &(<SpdkThread>threads[index]).c
        stations[index].following = &stations[(index + 1) % number]
        stations[index].left = count // number
        stations[index].ran = 0
        stations[index].alive = &alive
        stations[index].end = &end
    with nogil:
        begin = st_ticks()
        for each in range(in_flight):
            thread_send_native(stations[each % number].thread, event, &stations[each % number], 0)
        while word_get(&alive):
            usleep(200)
    for index in range(number):
        ran += stations[index].ran
    free(stations)
    return (end - begin) * (<double>count / <double>ran)


# Sleeping


cdef void note_tick(void *ctx) noexcept nogil:
    word_set(<bench_word *>ctx, st_ticks())


def wakeups(SpdkThread thread, uint64_t pause_ns, uint64_t count):
    """Nanoseconds from just before each send to the run, with a pause before each in which the reactor falls asleep."""
    cdef bench_word ran
    cdef uint64_t _, sent, woken, due = st_ticks()
    late = []
    word_set(&ran, 0)
    for _ in range(count):
        with nogil:
            due += pause_ns
            while st_ticks() < due:
                pass
            sent = st_ticks()
            thread_send_native(&thread.c, note_tick, &ran, 0)
            while True:
                woken = word_get(&ran)
                if woken >= sent:
                    break
            if woken > due:
                due = woken
        late.append(woken - sent)
    return late


# Timers


cdef class Timers:
    """A timer queue with many timers pending, and the operations whose cost is asked for."""

    cdef timer_queue queue
    cdef timer_node *pending
    cdef timer_node *nodes
    cdef uint64_t *delays
    cdef uint64_t batch
    cdef uint64_t now

    def __init__(self, pending_s, delays_s):
        cdef uint64_t index
        self.batch = len(delays_s)
        self.now = st_ticks()
        self.pending = <timer_node *>calloc(max(1, len(pending_s)), sizeof(timer_node))
        self.nodes = <timer_node *>calloc(self.batch, sizeof(timer_node))
        self.delays = <uint64_t *>calloc(self.batch, sizeof(uint64_t))
        timer_queue_init(&self.queue)
        for index, delay in enumerate(delays_s):
            self.delays[index] = <uint64_t>(delay * 1e9)
        for index, delay in enumerate(pending_s):
            timer_insert(&self.queue, &self.pending[index], self.now + <uint64_t>(delay * 1e9), self.now)

    def __dealloc__(self):
        timer_queue_free(&self.queue)
        free(self.pending)
        free(self.nodes)
        free(self.delays)

    def insert(self):
        cdef uint64_t index, begin, end
        with nogil:
            begin = st_ticks()
            for index in range(self.batch):
                timer_insert(&self.queue, &self.nodes[index], self.now + self.delays[index], self.now)
            end = st_ticks()
        return end - begin

    def cancel(self):
        cdef uint64_t index, begin, end
        with nogil:
            begin = st_ticks()
            for index in range(self.batch):
                timer_cancel(&self.queue, &self.nodes[index])
            end = st_ticks()
        return end - begin

    def expire(self):
        cdef uint64_t index, begin, end, popped = 0
        cdef timer_node *node
        with nogil:
            for index in range(self.batch):
                timer_insert(&self.queue, &self.nodes[index], self.now + 1000 + index, self.now)
            self.now += 1000 + self.batch
            begin = st_ticks()
            while True:
                node = timer_pop(&self.queue, self.now)
                if node == NULL:
                    break
                timer_insert(&self.queue, node, self.now + self.delays[popped], self.now)
                popped += 1
            end = st_ticks()
            for index in range(self.batch):
                timer_cancel(&self.queue, &self.nodes[index])
        if popped != self.batch:
            raise RuntimeError(f"{popped} of {self.batch} timers expired")
        return end - begin


def lateness(Poller poller not None):
    """Nanoseconds since the deadline for which a timed poller runs right now."""
    return st_ticks() - poller.c.timer.deadline


cdef struct fixed_rate_s:
    uint64_t *samples
    uint64_t taken
    uint64_t room


cdef int note_own_lateness(void *ctx) noexcept nogil:
    cdef fixed_rate_s *noted = <fixed_rate_s *>ctx
    if noted.taken < noted.room:
        noted.samples[noted.taken] = st_ticks() - current_deadline()
        noted.taken += 1
    return 1


def fixed_rate_lateness(thread, double period_us, uint64_t room, work):
    """Lateness of each run of a native poller of fixed rate, in nanoseconds; the poller, and how long it was there."""
    import numpy

    cdef fixed_rate_s noted
    samples = numpy.zeros(room, dtype=numpy.uint64)
    cdef size_t address = samples.ctypes.data
    noted.samples = <uint64_t *>address
    noted.taken = 0
    noted.room = room
    context = <size_t>&noted
    capsule = PyCapsule_New(<void *>note_own_lateness, "int (void *)", NULL)

    def register():
        return thread.register_native_poller(capsule, context, period_us, fixed_rate=True), st_ticks()

    def unregister():
        poller.unregister()
        return st_ticks()

    poller, start = thread.call(register).result()
    work()
    end = thread.call(unregister).result()
    return samples[:noted.taken], poller, end - start


cdef struct periodic_s:
    timer_node *timer
    uint64_t *samples
    uint64_t *taken
    uint64_t room


cdef int note_lateness(void *ctx) noexcept nogil:
    cdef periodic_s *each = <periodic_s *>ctx
    if each.taken[0] < each.room:
        each.samples[each.taken[0]] = st_ticks() - each.timer.deadline
        each.taken[0] += 1
    return 1


def timer_lateness(periods, double seconds, core):
    """How late native timed pollers on a reactor run, in nanoseconds."""
    import time

    import numpy
    import spdkthread

    cdef uint64_t taken = 0, room = <uint64_t>(4 * seconds * len(periods) * 1e9 / min(periods))
    cdef periodic_s *each = <periodic_s *>calloc(len(periods), sizeof(periodic_s))
    samples = numpy.zeros(room, dtype=numpy.uint64)
    cdef size_t address = samples.ctypes.data
    capsule = PyCapsule_New(<void *>note_lateness, "int (void *)", NULL)
    lib = spdkthread.ThreadLib()
    reactor = spdkthread.Reactor(core, idle="poll", lib=lib).start()
    thread = reactor.create_thread("timers")

    def register():
        cdef uint64_t index
        cdef Poller poller
        for index, period in enumerate(periods):
            each[index].samples = <uint64_t *>address
            each[index].taken = &taken
            each[index].room = room
            poller = thread.register_native_poller(capsule, <size_t>&each[index], period / 1000)
            each[index].timer = &poller.c.timer

    thread.call(register).result()
    time.sleep(seconds)
    thread.call(lambda: [poller.unregister() for poller in thread.pollers]).result()
    reactor.stop()
    free(each)
    return samples[:taken]
