"""The recorder of `spdkthread.trace`. See ``trace_ring.pxd``."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from spdkthread.atomics cimport (
    st_add_relaxed,
    st_and32_acq_rel,
    st_atomic_u32,
    st_atomic_u64,
    st_load_acquire,
    st_load_relaxed,
    st_or32_release,
    st_store32_release,
    st_store_release,
)
from spdkthread.clock cimport account_ticks, st_cycles, st_ticks

from spdkthread.error_log import describe
from spdkthread.forks import ReentrantLock

cdef extern from *:
    """
    #include <pthread.h>
    #include <stdlib.h>
    #include <string.h>
    #include <unistd.h>
    #if defined(__linux__)
    #include <dlfcn.h>
    #include <sys/syscall.h>
    #endif

    #define ST_KNOWN 256

    typedef struct { st_atomic_u64 word[4]; } st_trace_entry;
    _Static_assert(sizeof(st_trace_entry) == 32, "a record is 32 bytes");

    typedef struct st_trace_ring {
        st_atomic_u64 next;             /* records ever written in this session */
        st_atomic_u64 session;          /* of what it holds; 0: nothing */
        uint64_t mask;
        st_trace_entry *entries;
        uint64_t known[ST_KNOWN];       /* keys of this session whose names are noted */
        struct st_trace_ring *later;    /* list of all, newest first */
        st_atomic_u32 over;             /* its OS thread has ended */
        uint64_t os_thread;
        char name[16];
    } st_trace_ring;

    /* Number of the session that records; the words of the modules are set after it. */
    static st_atomic_u64 st_session;
    static st_atomic_u64 st_capacity;
    static _Atomic(st_trace_ring *) st_rings;
    static pthread_key_t st_ring_key;

    /* Of this OS thread. */
    #if defined(__GLIBC__)
    __attribute__((tls_model("initial-exec")))
    #endif
    static _Thread_local st_trace_ring *st_ring = NULL;

    static void st_ring_over(void *ring) {
        /* Whatever this OS thread still records, in destructors that run after this one, has no ring. */
        st_ring = NULL;
        atomic_store_explicit(&((st_trace_ring *)ring)->over, 1, memory_order_release);
    }
    static int st_make_ring_key(void) { return pthread_key_create(&st_ring_key, st_ring_over); }

    static __attribute__((noinline)) st_trace_ring *st_ring_ready(st_trace_ring *ring, uint64_t session) {
        uint64_t capacity = atomic_load_explicit(&st_capacity, memory_order_relaxed);
        if (session == 0) return NULL;
        if (ring == NULL) {
            ring = calloc(1, sizeof(*ring));
            if (ring == NULL) return NULL;
            if (pthread_setspecific(st_ring_key, ring) != 0) { free(ring); return NULL; }
        #if defined(__linux__)
            ring->os_thread = (uint64_t)syscall(SYS_gettid);
            pthread_getname_np(pthread_self(), ring->name, sizeof(ring->name));
        #elif defined(__APPLE__)
            pthread_threadid_np(NULL, &ring->os_thread);
            pthread_getname_np(pthread_self(), ring->name, sizeof(ring->name));
        #endif
            ring->later = atomic_load_explicit(&st_rings, memory_order_relaxed);
            while (!atomic_compare_exchange_weak_explicit(&st_rings, &ring->later, ring, memory_order_release,
                                                          memory_order_relaxed)) { }
            st_ring = ring;
        }
        if (ring->entries == NULL || ring->mask + 1 != capacity) {
            free(ring->entries);
            ring->entries = malloc(capacity * sizeof(st_trace_entry));
            if (ring->entries == NULL) return NULL;
            ring->mask = capacity - 1;
        }
    #if defined(__linux__)
        pthread_getname_np(pthread_self(), ring->name, sizeof(ring->name));
    #endif
        memset(ring->known, 0, sizeof(ring->known));
        atomic_store_explicit(&ring->next, 0, memory_order_relaxed);
        atomic_store_explicit(&ring->session, session, memory_order_release);
        return ring;
    }

    static inline st_trace_ring *st_ring_here(void) {
        st_trace_ring *ring = st_ring;
        uint64_t session = atomic_load_explicit(&st_session, memory_order_acquire);
        if (__builtin_expect(ring == NULL || atomic_load_explicit(&ring->session, memory_order_relaxed) != session, 0))
            return st_ring_ready(ring, session);
        return ring;
    }

    /* How long callbacks took, by kind: counted while `st_counting` is set, with a trace or without. Each OS thread
       counts in a table of its own. One that ends leaves its table, with its counts, to the next that begins: only the
       sums over all tables mean something. */
    enum { ST_KINDS = 21, ST_BOUNDS = 22 };

    typedef struct st_duration_table {
        st_atomic_u64 count[ST_KINDS][ST_BOUNDS + 1];   /* of durations up to each bound, and of longer ones */
        st_atomic_u64 sum[ST_KINDS];                    /* stamps */
        struct st_duration_table *later;
        st_atomic_u32 free;
    } st_duration_table;

    static st_atomic_u32 st_counting;
    static uint64_t st_bounds[ST_BOUNDS];               /* stamps; written before `st_counting` is set */
    static _Atomic(st_duration_table *) st_tables;
    static pthread_key_t st_table_key;
    #if defined(__GLIBC__)
    __attribute__((tls_model("initial-exec")))
    #endif
    static _Thread_local st_duration_table *st_table = NULL;

    static void st_table_over(void *table) {
        st_table = NULL;
        atomic_store_explicit(&((st_duration_table *)table)->free, 1, memory_order_release);
    }
    static int st_make_table_key(void) { return pthread_key_create(&st_table_key, st_table_over); }

    static __attribute__((noinline)) st_duration_table *st_table_take(void) {
        st_duration_table *table = atomic_load_explicit(&st_tables, memory_order_acquire);
        uint32_t is_free = 1;
        while (table != NULL) {
            is_free = 1;
            if (atomic_compare_exchange_strong_explicit(&table->free, &is_free, 0, memory_order_acquire,
                                                        memory_order_relaxed))
                break;
            table = table->later;
        }
        if (table == NULL) {
            table = calloc(1, sizeof(*table));
            if (table == NULL) return NULL;
            table->later = atomic_load_explicit(&st_tables, memory_order_relaxed);
            while (!atomic_compare_exchange_weak_explicit(&st_tables, &table->later, table, memory_order_release,
                                                          memory_order_relaxed)) { }
        }
        if (pthread_setspecific(st_table_key, table) != 0) {
            atomic_store_explicit(&table->free, 1, memory_order_release);
            return NULL;
        }
        st_table = table;
        return table;
    }

    /* One writer a table, so an addition is a load and a store. */
    static inline void st_add_alone(st_atomic_u64 *to, uint64_t more) {
        atomic_store_explicit(to, atomic_load_explicit(to, memory_order_relaxed) + more, memory_order_relaxed);
    }

    static __attribute__((noinline)) void st_count_duration(int kind, uint64_t duration) {
        st_duration_table *table = st_table == NULL ? st_table_take() : st_table;
        if (table == NULL || kind >= ST_KINDS) return;
        int low = 0, high = ST_BOUNDS;
        while (low < high) {
            int middle = (low + high) / 2;
            if (duration <= st_bounds[middle]) high = middle; else low = middle + 1;
        }
        st_add_alone(&table->count[kind][low], 1);
        st_add_alone(&table->sum[kind], duration);
    }

    static uint64_t st_duration_count(int kind, int bound) {
        uint64_t sum = 0;
        for (st_duration_table *table = atomic_load_explicit(&st_tables, memory_order_acquire); table != NULL;
             table = table->later)
            sum += bound <= ST_BOUNDS ? atomic_load_explicit(&table->count[kind][bound], memory_order_relaxed)
                                      : atomic_load_explicit(&table->sum[kind], memory_order_relaxed);
        return sum;
    }

    static inline void st_ring_put(int kind, uint32_t thread, uint64_t stamp, uint64_t duration, uint64_t subject,
                                   int64_t value) {
        if (__builtin_expect(atomic_load_explicit(&st_counting, memory_order_acquire), 0))
            st_count_duration(kind, duration);
        st_trace_ring *ring = st_ring_here();
        if (ring == NULL) return;
        uint64_t next = atomic_load_explicit(&ring->next, memory_order_relaxed);
        st_trace_entry *entry = &ring->entries[next & ring->mask];
        if (duration >> 40) duration = ((uint64_t)1 << 40) - 1;
        /* Pairs with the fence of the reader: a reader of a word of this record sees that it is under way. */
        atomic_thread_fence(memory_order_release);
        atomic_store_explicit(&entry->word[0], stamp, memory_order_relaxed);
        atomic_store_explicit(&entry->word[1], duration << 24 | (thread & 0xFFFFFF), memory_order_relaxed);
        atomic_store_explicit(&entry->word[2], (uint64_t)kind << 56 | (subject & (((uint64_t)1 << 56) - 1)),
                              memory_order_relaxed);
        atomic_store_explicit(&entry->word[3], (uint64_t)value, memory_order_relaxed);
        atomic_store_explicit(&ring->next, next + 1, memory_order_release);
    }

    /* Copy what a ring holds, oldest first. Returns how many records; `lost` were overwritten. */
    static uint64_t st_ring_copy(st_trace_ring *ring, uint64_t *out, uint64_t *lost) {
        uint64_t end = atomic_load_explicit(&ring->next, memory_order_acquire), now, first, index;
        uint64_t capacity = ring->mask + 1;
        first = end > capacity ? end - capacity : 0;
        for (index = first; index < end; index++)
            for (int word = 0; word < 4; word++)
                out[(index - first) * 4 + word] =
                    atomic_load_explicit(&ring->entries[index & ring->mask].word[word], memory_order_relaxed);
        atomic_thread_fence(memory_order_acquire);
        /* The record that the writer may have begun meanwhile is number `now`. */
        now = atomic_load_explicit(&ring->next, memory_order_relaxed);
        index = now + 1 > capacity ? now + 1 - capacity : 0;
        if (index > end) index = end;
        if (index > first) {
            memmove(out, out + (index - first) * 4, (end - index) * 32);
            first = index;
        }
        *lost = first;
        return end - first;
    }

    static st_trace_ring *st_first_ring(void) { return atomic_load_explicit(&st_rings, memory_order_acquire); }

    /* Free the rings of OS threads that have ended. One caller at a time, and no reader. The newest stays:
       another OS thread may be putting its ring before it. */
    static void st_drop_rings(void) {
        st_trace_ring *kept = st_first_ring(), *ring;
        if (kept == NULL) return;
        while ((ring = kept->later) != NULL) {
            if (atomic_load_explicit(&ring->over, memory_order_acquire)) {
                kept->later = ring->later;
                free(ring->entries);
                free(ring);
            } else {
                kept = ring;
            }
        }
    }

    /* The address that stands for a callable, and the object that has its name. */
    static uint64_t st_callable_key(PyObject *fn, PyObject **named) {
        while (PyMethod_Check(fn)) fn = PyMethod_GET_FUNCTION(fn);
        *named = fn;
        if (PyFunction_Check(fn)) {
            *named = PyFunction_GET_CODE(fn);
            return (uint64_t)*named;
        }
        if (PyType_Check(fn) || Py_TYPE(fn) == &PyMethodDescr_Type) return (uint64_t)fn;
        if (PyCFunction_Check(fn)) return (uint64_t)((PyCFunctionObject *)fn)->m_ml;
        /* Functions of Cython modules live as long as these. */
        const char *kind = strrchr(Py_TYPE(fn)->tp_name, '.');
        kind = kind == NULL ? Py_TYPE(fn)->tp_name : kind + 1;
        if (strcmp(kind, "cython_function_or_method") == 0) return (uint64_t)fn;
        *named = (PyObject *)Py_TYPE(fn);
        return (uint64_t)*named;
    }

    static const char *st_name_of(PyObject *fn, PyObject *named) {
        while (PyMethod_Check(fn)) fn = PyMethod_GET_FUNCTION(fn);
        PyObject *text = PyCode_Check(named) ? ((PyCodeObject *)named)->co_qualname : PyUnicode_Check(fn) ? fn : NULL;
        if (text != NULL) {
            const char *name = PyUnicode_AsUTF8(text);
            if (name == NULL) PyErr_Clear();
            return name == NULL ? "" : name;
        }
        if (PyCFunction_Check(fn)) return ((PyCFunctionObject *)fn)->m_ml->ml_name;
        return PyType_Check(named) ? ((PyTypeObject *)named)->tp_name : Py_TYPE(named)->tp_name;
    }

    static int st_key_is_known(uint64_t key) {
        st_trace_ring *ring = st_ring_here();
        if (ring == NULL) return 1;
        uint64_t *place = &ring->known[(key >> 4 ^ key >> 12) & (ST_KNOWN - 1)];
        if (*place == key) return 1;
        *place = key;
        return 0;
    }

    static const char *st_symbol(uint64_t address) {
    #if defined(__linux__)
        Dl_info info;
        if (dladdr((void *)address, &info) && info.dli_sname != NULL && (uint64_t)info.dli_saddr == address)
            return info.dli_sname;
    #endif
        return NULL;
    }
    """
    ctypedef struct st_trace_ring:
        st_atomic_u64 session
        uint64_t mask
        st_trace_ring *later
        st_atomic_u32 over
        uint64_t os_thread
        char name[16]
    st_atomic_u64 st_session
    st_atomic_u64 st_capacity
    enum:
        ST_BOUNDS
    st_atomic_u32 st_counting
    uint64_t st_bounds[ST_BOUNDS]
    int st_make_ring_key() noexcept
    int st_make_table_key() noexcept
    uint64_t st_duration_count(int kind, int bound) noexcept nogil
    void st_ring_put(
        int kind, uint32_t thread, uint64_t stamp, uint64_t duration, uint64_t subject, int64_t value
    ) noexcept nogil
    uint64_t st_ring_copy(st_trace_ring *ring, uint64_t *out, uint64_t *lost) noexcept nogil
    st_trace_ring *st_first_ring() noexcept nogil
    void st_drop_rings() noexcept nogil
    uint64_t st_callable_key(PyObject *fn, PyObject **named) noexcept
    const char *st_name_of(PyObject *fn, PyObject *named) noexcept
    bint st_key_is_known(uint64_t key) noexcept nogil
    const char *st_symbol(uint64_t address) noexcept nogil

cdef enum:
    MAX_WORDS = 32

# Fits into what a record has for it; threads beyond it share numbers.
cdef st_atomic_u64 last_number
cdef st_atomic_u64 last_session
cdef st_atomic_u32 *words[MAX_WORDS]
cdef int word_count = 0
cdef PyObject *callers[MAX_WORDS]
cdef int caller_count = 0
cdef int counters_wanted = 0            # how many readers of durations there are
cdef uint64_t began_cycles = 0
cdef uint64_t began_ticks = 0

_lock = ReentrantLock()
# key -> the object that has the name, or the name; of the session.
_names = {}
_thread_names = {}

if st_make_ring_key() or st_make_table_key():
    raise MemoryError("no memory for the rings of the trace")


cdef void trace_enrol(st_atomic_u32 *word) noexcept:
    """At the import of a module with hooks, which no other import of it runs beside."""
    global word_count
    with _lock:
        words[word_count] = word
        word_count += 1
        if st_load_relaxed(&st_session) or counters_wanted:
            st_or32_release(word, ST_TRACE_RECORDED)


cdef void set_words(bint wanted) noexcept:
    """With the lock. The other half of a word belongs to the kernel."""
    cdef int index
    for index in range(word_count):
        if wanted:
            st_or32_release(words[index], ST_TRACE_RECORDED)
        else:
            st_and32_acq_rel(words[index], ~ST_TRACE_RECORDED)


cdef uint32_t trace_number() noexcept nogil:
    """What stands for a new SpdkThread in records."""
    return <uint32_t>((st_add_relaxed(&last_number, 1) + 1) & 0xFFFFFF)


cdef void trace_put(
    int kind, uint32_t thread, uint64_t stamp, uint64_t duration, uint64_t subject, int64_t value
) noexcept nogil:
    """Record an event. Nothing happens when the trace was stopped meanwhile."""
    st_ring_put(kind, thread, stamp, duration, subject, value)


cdef uint64_t trace_key(PyObject *fn) noexcept:
    """The address that stands for a callable. With the GIL, before the call: afterwards an exception may be set."""
    cdef PyObject *named = NULL
    cdef uint64_t key = st_callable_key(fn, &named)
    if not st_key_is_known(key):
        # Of a builtin method nothing is kept: it would keep its object.
        note_name(key, describe(<object>fn) if named == fn and isinstance(<object>fn, type(len)) else <object>named)
    return key


cdef uint64_t trace_text(object text) noexcept:
    """The address that stands for a str, which is kept until the trace is stopped."""
    cdef uint64_t key = <uint64_t><PyObject *>text
    if not st_key_is_known(key):
        note_name(key, text)
    return key


cdef const char *trace_name_of(PyObject *fn) noexcept:
    """What a callable is called, or a str, for a probe, as long as it lives. With the GIL and no exception set."""
    cdef PyObject *named = NULL
    st_callable_key(fn, &named)
    return st_name_of(fn, named)


cdef void trace_name_argument(object fn) noexcept:
    """At import: messages of `fn` are shown under the name of their second argument, which they call."""
    global caller_count
    callers[caller_count] = <PyObject *>fn
    caller_count += 1


cdef bint trace_runs_argument(PyObject *fn) noexcept nogil:
    cdef int index
    for index in range(caller_count):
        if callers[index] == fn:
            return True
    return False


cdef void note_name(uint64_t key, object named) noexcept:
    _names[key] = named


cdef bint trace_user(const char *name, int64_t value) noexcept nogil:
    if not st_load_relaxed(&st_session):
        return False
    st_ring_put(TRACE_NATIVE_USER, 0, st_cycles(), 0, <uint64_t>name, value)
    return True


def record(str name not None, value=0) -> bool:
    """Record an event of one's own: an instant with a name and a number.

    Parameters
    ----------
    name : str
        The same object each time, such as a literal, costs the least.
    value : int, default 0
        At most 64 bits with their sign.

    Returns
    -------
    bool
        Whether a trace is running.

    Raises
    ------
    TypeError, OverflowError
        For another type, or an integer of more bits.

    Notes
    -----
    **Thread safety:** any OS thread. From Cython, ``trace_user`` is the same without the GIL.
    """
    cdef int64_t number = value
    # Counting durations and watching a probe set the word too.
    if not st_tracing() or not st_load_relaxed(&st_session):
        return False
    st_ring_put(TRACE_USER, 0, st_cycles(), 0, trace_text(name), number)
    return True


def note_thread(number: int, name: str, id: int) -> None:
    """The name of a thread that will not be there when the trace is stopped."""
    _thread_names[number] = (name, id)


def begin(entries: int) -> bool:
    """Switch the recorder on, with rings of `entries` records, a power of two. False: it is on already."""
    global began_cycles, began_ticks
    with _lock:
        if st_load_relaxed(&st_session):
            return False
        st_drop_rings()
        _names.clear()
        _thread_names.clear()
        began_cycles, began_ticks = st_cycles(), st_ticks()
        st_store_release(&st_capacity, <uint64_t>entries)
        st_store_release(&st_session, st_add_relaxed(&last_session, 1) + 1)
        set_words(True)
    return True


def is_on() -> bool:
    return st_load_acquire(&st_session) != 0


def end():
    """Switch it off, and return what was recorded: rings as (os_thread, name, lost, bytes), names, names of threads,
    and how many stamps and ticks passed. None: it was off."""
    cdef uint64_t session, count, lost = 0, cycles, ticks
    cdef uint64_t *out
    cdef st_trace_ring *ring
    rings = []
    with _lock:
        session = st_load_relaxed(&st_session)
        if not session:
            return None
        set_words(counters_wanted != 0)
        st_store_release(&st_session, 0)
        cycles, ticks = st_cycles() - began_cycles, st_ticks() - began_ticks
        if ticks < 10_000_000:
            # Too short for a scale of its own.
            ticks = <uint64_t>account_ticks(NULL, 1_000_000_000)
            cycles = 1_000_000_000
        ring = st_first_ring()
        while ring != NULL:
            if st_load_acquire(&ring.session) == session:
                out = <uint64_t *>malloc((ring.mask + 1) * 32)
                if out == NULL:
                    raise MemoryError(f"no memory for a copy of {ring.mask + 1} records of the trace")
                try:
                    with nogil:
                        count = st_ring_copy(ring, out, &lost)
                    name = (<bytes>ring.name).decode(errors="replace")
                    rings.append((ring.os_thread, name, lost, (<char *>out)[:count * 32]))
                finally:
                    free(out)
            ring = ring.later
        st_drop_rings()
        names, thread_names = dict(_names), dict(_thread_names)
        _names.clear()
        _thread_names.clear()
    return rings, names, thread_names, began_cycles, began_ticks, cycles, ticks


def count_durations(wanted: bool) -> None:
    """Have how long callbacks take counted, until each caller that asked for it has taken that back."""
    global counters_wanted
    cdef int index
    cdef double stamps_per_ns
    with _lock:
        counters_wanted += 1 if wanted else -1
        if counters_wanted == 1 and wanted:
            stamps_per_ns = 1e9 / <double>account_ticks(NULL, 1_000_000_000)
            for index in range(ST_BOUNDS):
                st_bounds[index] = <uint64_t>(1000.0 * (1 << index) * stamps_per_ns)
        st_store32_release(&st_counting, counters_wanted > 0)
        if not st_load_relaxed(&st_session):
            set_words(counters_wanted > 0)


def durations(kind: int) -> tuple[list[int], float]:
    """Of callbacks of a kind: how many took up to 1, 2, 4 ... 2**21 us, and longer, and the sum of all in seconds."""
    cdef int bound
    cdef double ns_per_stamp = <double>account_ticks(NULL, 1_000_000_000) / 1e9
    counts = [st_duration_count(kind, bound) for bound in range(ST_BOUNDS + 1)]
    return counts, st_duration_count(kind, ST_BOUNDS + 1) * ns_per_stamp / 1e9


def symbol(address: int) -> str | None:
    """The name that the dynamic linker has for the function at `address`."""
    cdef const char *name = st_symbol(<uint64_t>address)
    return None if name == NULL else name.decode(errors="replace")


def text_at(address: int) -> str:
    """The C string at `address`."""
    return (<const char *><uint64_t>address).decode(errors="replace")


def measure(count: int) -> float:
    """Nanoseconds for one record with its stamp, over `count` of them. Only while it is on."""
    cdef uint64_t index, began, total = <uint64_t>count, since = st_ticks()
    with nogil:
        for index in range(total):
            began = st_cycles()
            trace_put(TRACE_NATIVE_USER, 0, began, 0, 0, <int64_t>index)
    return (st_ticks() - since) / count


trace_enrol(&st_trace_word)
