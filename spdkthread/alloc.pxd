"""Every allocation of the native core goes through here, so that a test can make the n-th one fail."""

cdef void *core_calloc(size_t count, size_t size) noexcept nogil
cdef void core_free(void *memory) noexcept nogil
cdef void *core_map(size_t size) noexcept nogil
cdef void core_discard(void *memory, size_t size) noexcept nogil
cdef void core_unmap(void *memory, size_t size) noexcept nogil
