"""ModuleCounts: the statistics of a pool of buffers, by module. See ``iobuf_stats.pxd``."""

from libc.stdint cimport uint32_t

from spdkthread.atomics cimport st_load32_relaxed, st_load_relaxed
from spdkthread.cpython_ext cimport seal
from spdkthread.forks cimport ReentrantLock
from spdkthread.iobuf_lists cimport held_by, iobuf_cache, iobuf_channel_s, iobuf_held

__all__ = ["SIZES"]

SIZES = ("small", "large")


cdef dict new_counts():
    return {"cache": 0, "main": 0, "retry": 0, "high_water": 0, "waiting": 0, "held": 0, "cache_size": 0}


cdef int add_counts(dict modules, iobuf_channel_s *channel, str name) except -1:
    """A channel's counts to those of its module `name`. On the channel's thread."""
    cdef iobuf_cache *cache
    cdef int which
    module = modules.get(name)
    if module is None:
        module = modules[name] = {size: new_counts() for size in SIZES}
    for which in range(2):
        cache = &channel.caches[which]
        counts = module[SIZES[which]]
        counts["cache"] += cache.hits
        counts["main"] += cache.batches
        counts["retry"] += cache.retries
        counts["high_water"] += max(st_load_relaxed(&cache.high_water), st_load_relaxed(&cache.high_beside))
        counts["waiting"] += st_load32_relaxed(&cache.waiting)
        counts["held"] += iobuf_held(cache)
        counts["cache_size"] += cache.size
    return 0


cdef dict sums(dict by_module):
    """With the sums of the two sizes beside them."""
    return {
        module: {**{what: counts["small"][what] + counts["large"][what] for what in counts["small"]}, **counts}
        for module, counts in by_module.items()
    }


cdef class Gathering:
    pass


cdef class ModuleCounts:
    def __cinit__(self):
        self.lock = ReentrantLock()
        self.names = {}
        self.closed = {}
        self.gatherings = []

    cdef int channel_opened(self, uint32_t serial, str name) except -1:
        with self.lock:
            self.names[serial] = name
        return 0

    cdef int channel_closed(self, iobuf_channel_s *channel, str name) except -1:
        """Keep a channel's counts. On its thread."""
        with self.lock:
            if not held_by(channel):
                self.names.pop(channel.serial, None)
            add_counts(self.closed, channel, name)
            for gathering in self.gatherings:
                self.count(gathering, channel, name)
        return 0

    cdef Gathering begin(self):
        """Begin with the counts of the channels that are closed."""
        cdef Gathering gathering = Gathering.__new__(Gathering)
        gathering.seen = set()
        with self.lock:
            gathering.modules = {
                module: {size: dict(counts[size]) for size in SIZES} for module, counts in self.closed.items()
            }
            self.gatherings.append(gathering)
        return gathering

    cdef int count(self, Gathering gathering, iobuf_channel_s *channel, str name) except -1:
        """Add a channel that has not been counted. On its thread."""
        with self.lock:
            if channel.serial not in gathering.seen:
                gathering.seen.add(channel.serial)
                add_counts(gathering.modules, channel, name)
        return 0

    cdef dict end(self, Gathering gathering):
        """The counts, with the sums over both sizes."""
        with self.lock:
            self.gatherings.remove(gathering)
        return sums(gathering.modules)


cdef ModuleCounts new_module_counts():
    return ModuleCounts.__new__(ModuleCounts)


seal(Gathering)
seal(ModuleCounts)
