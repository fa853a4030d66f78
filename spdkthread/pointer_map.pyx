"""A small hash table from pointer to pointer. See ``pointer_map.pxd``."""

from libc.stdint cimport uint32_t, uintptr_t

from spdkthread.alloc cimport core_calloc, core_free

__all__ = ["PointerMap"]

cdef enum:
    FIRST_BITS = 3


cdef void insert(pointer_map *map, const void *key, void *value) noexcept nogil:
    """Put a key that is not there into a table that has room."""
    cdef uint32_t mask = (<uint32_t>1 << map.bits) - 1
    cdef uint32_t place = map_home(map, key)
    while map.entries[place].key != NULL:
        place = (place + 1) & mask
    map.entries[place].key = key
    map.entries[place].value = value
    map.count += 1


cdef bint grow(pointer_map *map) noexcept nogil:
    """Make room for one more. False: no memory, and nothing has changed."""
    cdef pointer_map larger
    cdef uint32_t place
    if map.entries != NULL and 2 * (map.count + 1) <= <uint32_t>1 << map.bits:
        return True
    larger.bits = FIRST_BITS if map.entries == NULL else map.bits + 1
    larger.count = 0
    larger.entries = <pointer_entry *>core_calloc(<size_t>1 << larger.bits, sizeof(pointer_entry))
    if larger.entries == NULL:
        return False
    if map.entries != NULL:
        for place in range(<uint32_t>1 << map.bits):
            if map.entries[place].key != NULL:
                insert(&larger, map.entries[place].key, map.entries[place].value)
    core_free(map.entries)
    map[0] = larger
    return True


cdef bint map_put(pointer_map *map, const void *key, void *value) noexcept nogil:
    """Put a key that is neither NULL nor in the map. False: no memory."""
    if not grow(map):
        return False
    insert(map, key, value)
    return True


cdef void map_remove(pointer_map *map, const void *key) noexcept nogil:
    """Take a key out; nothing when it is not there."""
    cdef uint32_t mask, gap, place, home
    if map.entries == NULL:
        return
    mask = (<uint32_t>1 << map.bits) - 1
    gap = map_home(map, key)
    while map.entries[gap].key != key:
        if map.entries[gap].key == NULL:
            return
        gap = (gap + 1) & mask
    map.count -= 1
    place = gap
    while True:
        place = (place + 1) & mask
        if map.entries[place].key == NULL:
            break
        home = map_home(map, map.entries[place].key)
        # It may move back unless its home lies behind the gap.
        if ((place - home) & mask) >= ((place - gap) & mask):
            map.entries[gap] = map.entries[place]
            gap = place
    map.entries[gap].key = NULL


cdef void map_free(pointer_map *map) noexcept nogil:
    """Empty it and give its memory back."""
    core_free(map.entries)
    map.entries = NULL
    map.bits = 0
    map.count = 0


cdef class PointerMap:
    """The table by itself, of addresses that are plain ints: for its tests.

    Notes
    -----
    **Thread safety:** one OS thread at a time.
    """

    def __dealloc__(self):
        map_free(&self.c)

    def __len__(self):
        return self.c.count

    def get(self, key: int) -> int:
        """The value under `key`; 0 when there is none."""
        return <uintptr_t>map_get(&self.c, <const void *><uintptr_t>key)

    def put(self, key: int, value: int) -> None:
        """Put `value` under a new `key`.

        Raises
        ------
        ValueError
            When the key is 0 or in the map already.
        MemoryError
            When there is no memory for it.
        """
        if not key or map_get(&self.c, <const void *><uintptr_t>key) != NULL:
            raise ValueError(f"key must be new and not 0, got {key}")
        if not map_put(&self.c, <const void *><uintptr_t>key, <void *><uintptr_t>value):
            raise MemoryError("no memory for a larger table")

    def remove(self, key: int) -> None:
        """Take a key out; nothing when it is not there."""
        if key:
            map_remove(&self.c, <const void *><uintptr_t>key)
