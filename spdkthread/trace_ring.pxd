"""The recorder of `spdkthread.trace`: a ring of 32-byte records for each OS thread, and the word that switches it on.

Each module that has hooks has its own copy of the word `st_trace_word`, because a variable of another shared object is
reached through a pointer: `st_tracing` is one load and one branch. A module enrols its copy at import (`trace_enrol`),
and `trace.start` and `trace.stop` change bit 16 of all of them. In the lower half of a copy the kernel counts the tools
that watch the module's probes (``probes.pxd``), so the same branch serves these too.

    record     stamp        duration     kind      subject      value
               64 bits      40 + 24      8 + 56 bits            64 bits
               since when   cycles and   what, and an address   depends on the kind
                            SpdkThread   or a number

A ring has one writer, its OS thread, and overwrites its oldest record. The writer stores the record first and `next`
with release after it (pairs with the reader's acquire load). The reader copies while the writer may go on, looks at
`next` again, and drops what may have been overwritten meanwhile.

While a record is made without the GIL no Python object is looked at: what stands in it are addresses and numbers, and
`trace.stop` looks for their names. Where the GIL is held, `trace_key` says which address stands for a callable, and the
name of each such address is noted once.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.atomics cimport st_atomic_u32

cdef extern from *:
    """
    #ifndef SPDKTHREAD_TRACE_RING
    #define SPDKTHREAD_TRACE_RING
    enum { ST_TRACE_WATCHED = 0xFFFF, ST_TRACE_RECORDED = 0x10000 };
    #if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))
      /* The kernel finds the word by its place in the file, so it must have one there. */
      #define ST_HAS_PROBES 1
      static st_atomic_u32 st_trace_word __attribute__((used, section(".probes")));
    #else
      #define ST_HAS_PROBES 0
      static st_atomic_u32 st_trace_word __attribute__((unused));
    #endif
    #define st_tracing() __builtin_expect(atomic_load_explicit(&st_trace_word, memory_order_relaxed) != 0, 0)
    #endif
    """
    st_atomic_u32 st_trace_word
    const uint32_t ST_TRACE_RECORDED
    bint st_tracing() noexcept nogil

cdef enum trace_kind:
    TRACE_MESSAGE = 1           # subject: key of the callable; value: 1 + position in the ring, 0: not known
    TRACE_NATIVE_MESSAGE        # subject: address of the function; value as above
    TRACE_CRITICAL              # subject: key
    TRACE_POLLER                # subject: key; value: result
    TRACE_NATIVE_POLLER         # subject: address; value: result
    TRACE_TIMER                 # subject: key
    TRACE_NATIVE_TIMER          # subject: address
    TRACE_FD                    # subject: key; value: the descriptor
    TRACE_SEND                  # subject: number of the thread it goes to; value: 1 + position in its ring
    TRACE_GIL_WAIT
    TRACE_ATTACHED              # from taking the GIL to giving it back
    TRACE_PARK                  # value: a sleep_result, see idle.pxd
    TRACE_WAKE                  # value as above
    TRACE_MOVE                  # subject: core that it leaves; value: core that it goes to
    TRACE_CHANNEL_CREATE        # subject: key of the device's name
    TRACE_CHANNEL_DESTROY       # as above
    TRACE_STALL                 # value: core
    TRACE_USER                  # subject: key of a str; value: the user's
    TRACE_NATIVE_USER           # subject: address of a C string; value: the user's
    TRACE_CALLBACK              # of an event loop; subject: key


cdef void trace_enrol(st_atomic_u32 *word) noexcept
cdef void trace_put(
    int kind, uint32_t thread, uint64_t stamp, uint64_t duration, uint64_t subject, int64_t value
) noexcept nogil
cdef uint64_t trace_key(PyObject *fn) noexcept
cdef uint64_t trace_text(object text) noexcept
cdef const char *trace_name_of(PyObject *fn) noexcept
cdef uint32_t trace_number() noexcept nogil
cdef void trace_name_argument(object fn) noexcept
cdef bint trace_runs_argument(PyObject *fn) noexcept nogil

# An event of one's own, from native code too. `name` is read at `trace.stop`: a constant, or what lives until then.
# Returns whether it was recorded.
cdef bint trace_user(const char *name, int64_t value) noexcept nogil
