"""A small hash table from pointer to pointer, without Python: what a thread has of each device.

Open addressing with linear probing; the table is at most half full, so a look-up that fails ends soon. Removal moves
the followers back instead of leaving a mark, so look-ups stay short however often entries come and go::

    hash(B) = 2     0   1   2   3   4   5   6   7
                  |   |   | A | B | C |   |   |   |       B wanted 2, C wanted 3
                            remove A:  B moves to 2, C moves to 3

**Thread safety:** one OS thread at a time.
"""

from libc.stdint cimport uint32_t, uint64_t, uintptr_t


cdef struct pointer_entry:
    const void *key             # NULL: free
    void *value


cdef struct pointer_map:
    pointer_entry *entries      # NULL until the first put; 2 ** bits of them
    uint32_t bits
    uint32_t count


cdef bint map_put(pointer_map *map, const void *key, void *value) noexcept nogil
cdef void map_remove(pointer_map *map, const void *key) noexcept nogil
cdef void map_free(pointer_map *map) noexcept nogil


cdef inline uint32_t map_home(const pointer_map *map, const void *key) noexcept nogil:
    # Fibonacci hashing: the high bits of the product depend on all bits of the address.
    return <uint32_t>((<uint64_t><uintptr_t>key * <uint64_t>0x9E3779B97F4A7C15) >> (64 - map.bits))


cdef inline void *map_get(const pointer_map *map, const void *key) noexcept nogil:
    """What was put under `key`, or NULL."""
    cdef uint32_t place, mask
    if map.entries == NULL:
        return NULL
    mask = (<uint32_t>1 << map.bits) - 1
    place = map_home(map, key)
    while map.entries[place].key != NULL:
        if map.entries[place].key == key:
            return map.entries[place].value
        place = (place + 1) & mask
    return NULL


cdef class PointerMap:
    cdef pointer_map c
