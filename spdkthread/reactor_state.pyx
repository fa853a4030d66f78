"""What a Reactor consists of. See ``reactor_state.pxd``."""

from collections import deque

from posix.unistd cimport close

from spdkthread.alloc cimport core_free
from spdkthread.timers cimport timer_queue_free
from spdkthread.wakeup cimport wakeup_give_back

from spdkthread.forks import ReentrantLock
from spdkthread.report import ShutdownReport
from spdkthread.signal_safe_event import SignalSafeEvent


cdef class ReactorState:
    """The state of a `Reactor`, which alone makes one."""

    def __cinit__(self):
        self.r.fd = self.spare_fd = -1
        self.r.signal_fd = -1
        self.members = {}
        self.calls = deque()
        self.lock = ReentrantLock()
        self.ended = SignalSafeEvent(True)
        self.report = ShutdownReport()

    def __dealloc__(self):
        if self.r.wakeup != NULL:
            wakeup_give_back(self.r.wakeup)
        if self.r.fd >= 0:
            close(self.r.fd)
        if self.spare_fd >= 0:
            close(self.spare_fd)
        timer_queue_free(&self.r.alarms)
        core_free(self.r.threads)
        core_free(self.spare)
