"""Every allocation of the native core goes through here, so that a test can make the n-th one fail."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from spdkthread.atomics cimport (
    st_add_relaxed,
    st_atomic_u64,
    st_load_relaxed,
    st_store_relaxed,
    st_sub_relaxed,
)

cdef extern from *:
    """
    #include <sys/mman.h>
    #ifdef SPDKTHREAD_FAULTS
    #define ST_FAULTS 1
    #else
    #define ST_FAULTS 0
    #endif
    /* Zeroed pages that cost nothing until they are touched. NULL when there is no room. */
    static inline void *st_map_pages(size_t size) {
        void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return memory == MAP_FAILED ? NULL : memory;
    }
    /* The whole pages inside: zeroed, and no memory of the process's any more. Elsewhere than on Linux the contents are
       not defined after that, so nothing is done. */
    static inline void st_discard_pages(char *memory, size_t size) {
    #ifdef __linux__
        uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
        uintptr_t first = ((uintptr_t)memory + page - 1) / page * page;
        uintptr_t end = ((uintptr_t)memory + size) / page * page;
        if (first < end) madvise((void *)first, end - first, MADV_DONTNEED);
    #else
        (void)memory;
        (void)size;
    #endif
    }
    """
    const bint ST_FAULTS
    void *st_map_pages(size_t size) noexcept nogil
    void st_discard_pages(char *memory, size_t size) noexcept nogil
    int munmap(void *memory, size_t size) noexcept nogil

FAULT_INJECTION = ST_FAULTS
"""Whether this build has the hook behind `fail_allocation`."""

cdef st_atomic_u64 countdown            # 0: nothing fails; n: the n-th allocation from now fails
cdef st_atomic_u64 blocks               # blocks and mappings that are not yet freed


cdef inline bint _fails() noexcept nogil:
    if not ST_FAULTS:
        return False
    if st_load_relaxed(&countdown) == 0:
        return False
    return st_sub_relaxed(&countdown, 1) == 1


def fail_allocation(nth: int) -> None:
    """Make the `nth` native allocation from now fail (0: none). Only in a build with ``SPDKTHREAD_FAULTS=1``."""
    if not ST_FAULTS:
        raise RuntimeError("this build has no fault injection: set SPDKTHREAD_FAULTS=1 when building")
    st_store_relaxed(&countdown, <uint64_t>nth)


def failure_pending() -> bool:
    """Whether what `fail_allocation` asked for has not happened yet. **Thread safety:** any OS thread."""
    return st_load_relaxed(&countdown) != 0


def live_blocks() -> int:
    """Native blocks that are allocated at present. **Thread safety:** any OS thread."""
    return st_load_relaxed(&blocks)


cdef void *core_calloc(size_t count, size_t size) noexcept nogil:
    if _fails():
        return NULL
    cdef void *memory = calloc(count, size)
    if memory != NULL:
        st_add_relaxed(&blocks, 1)
    return memory


cdef void core_free(void *memory) noexcept nogil:
    if memory != NULL:
        st_sub_relaxed(&blocks, 1)
        free(memory)


cdef void *core_map(size_t size) noexcept nogil:
    if _fails():
        return NULL
    cdef void *memory = st_map_pages(size)
    if memory != NULL:
        st_add_relaxed(&blocks, 1)
    return memory


cdef void core_discard(void *memory, size_t size) noexcept nogil:
    """Give the memory of whole pages inside a mapping back to the kernel; they read as zeros after that."""
    st_discard_pages(<char *>memory, size)


cdef void core_unmap(void *memory, size_t size) noexcept nogil:
    if memory != NULL:
        st_sub_relaxed(&blocks, 1)
        munmap(memory, size)
