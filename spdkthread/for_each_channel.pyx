"""IoChannelIter: the way of a for_each_channel from thread to thread. See ``for_each_channel.pxd``."""

import operator

from libc.stdint cimport uint64_t

from spdkthread.cpython_ext cimport seal
from spdkthread.device_table cimport (
    channel_after,
    channel_s,
    device_begin_iteration,
    device_end_iteration,
    device_s,
    thread_channel,
)
from spdkthread.lib cimport ThreadLib
from spdkthread.ring cimport RING_STOPPING
from spdkthread.thread cimport SpdkThread

from spdkthread.errors import DeviceError, ThreadExitedError
from spdkthread.future import make_future

__all__ = ["IoChannelIter"]


cdef object begin_iteration(object device, device_s *device_c, object fn, object ctx, object cpl, SpdkThread origin):
    """Begin an iteration; its future. None: the device is not registered."""
    cdef IoChannelIter iterator = IoChannelIter.__new__(IoChannelIter)
    iterator.device = device
    iterator.device_c = device_c
    iterator.ctx = ctx
    iterator._fn = fn
    iterator._cpl = cpl
    iterator._origin = origin
    if not device_begin_iteration(device_c):
        return None
    iterator._future = future = make_future(iterator, running=True)
    if origin is not None:
        origin._hold(iterator)
    try:
        iterator._move(0)
    except BaseException:
        if origin is not None:
            origin._let_go(iterator)
        iterator._future = None
        iterator._end_device()
        raise
    return future


cdef class IoChannelIter:
    """IoChannelIter()\n--\n\n\
    A for_each_channel under way: what its function gets on each thread.

    Attributes
    ----------
    device : IoDevice
    channel : IoChannel or None
        The present one; None in the completion.
    ctx : object
        What was passed to `IoDevice.for_each_channel`.

    Notes
    -----
    **Thread safety:** where its function runs; `continue_` on that same SpdkThread. Answers to
    ``struct spdk_io_channel_iter``.
    """

    def __init__(self):
        raise TypeError("an IoChannelIter comes from IoDevice.for_each_channel")

    def __str__(self):
        where = "" if self._thread is None else f" on thread {self._thread.name!r}"
        waits = ", deferred" if self._state == ITER_DEFERRED else ""
        return f"for_each_channel of device {self.device.name!r}{waits}{where}"

    def __repr__(self):
        return f"<IoChannelIter: {self}>"

    def __del__(self):
        settle_orphan(self._future, self)

    # As the `waiting.Producer` of its future

    @property
    def lib(self):
        return self.device.lib

    def _needed(self):
        target, origin = self._target, self._origin
        return tuple([one for one in (target, origin) if one is not None])

    def _task_name(self):
        return str(self)

    def _reported_on(self):
        return self._origin

    def defer(self) -> None:
        """Have the iteration wait for `continue_` after the function has returned.

        Raises
        ------
        DeviceError
            Outside the function.

        Notes
        -----
        **Thread safety:** inside the function only.
        """
        if self._state == ITER_DEFERRED and self._thread._is_here():
            return
        if self._state != ITER_IN_FN:
            raise DeviceError(f"defer: {self} is not inside its function")
        self._thread._require_here(f"defer of {self!r}")
        self._state = ITER_DEFERRED

    def continue_(self, status=0) -> None:
        """Go on to the next thread, or end the iteration with a status other than 0.

        Parameters
        ----------
        status : int, default 0

        Raises
        ------
        DeviceError
            When `defer` was not called on this thread, or it was continued already.
        WrongThreadError
            On another thread than the one that deferred.
        TypeError
            When `status` is not an int.

        Notes
        -----
        **Thread safety:** on the SpdkThread that deferred. Answers to ``spdk_for_each_channel_continue``.
        """
        status = int(operator.index(status))
        thread = self._thread
        if thread is None or self._state != ITER_DEFERRED:
            raise DeviceError(f"continue_: {self} has not deferred, or was continued already")
        (<SpdkThread>thread)._require_here(f"continue_ of {self!r}")
        if self._status is NOT_RETURNED:
            self._status = status
            self._state = ITER_CONTINUED
            return
        (<SpdkThread>thread)._let_go(self)
        self._go_on(status)

    def _visit(self, SpdkThread thread not None):
        """On the thread of the next channel, by a message. The channel is looked up here and not before."""
        cdef channel_s *channel = thread_channel(&thread.c, self.device_c)
        if channel == NULL:
            self._move(thread.id)
            return
        self.channel = <object>channel.owner
        self._thread = thread
        self._status = NOT_RETURNED
        self._state = ITER_IN_FN
        try:
            result = self._fn(self)
            if self._state == ITER_IN_FN:
                self._status = 0 if result is None else as_status(result)
        except BaseException as error:
            self._error = error
            self._status = -1
            self._go_on(-1)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            return
        if self._state == ITER_DEFERRED:
            self._status = None
            thread._hold(self)
        else:
            self._go_on(self._status)

    cdef int _go_on(self, object status) except -1:
        cdef uint64_t thread_id = self._thread.id
        self.channel = None
        self._thread = None
        self._state = ITER_MOVING
        if status == 0:
            return self._move(thread_id)
        return self._end(status)

    cdef int _move(self, uint64_t thread_id) except -1:
        """To the next thread that has a channel, or back to where the iteration was begun."""
        cdef SpdkThread target
        while (channel := channel_after(self.device_c, thread_id)) is not None:
            self._target = target = channel.thread
            thread_id = target.id
            try:
                target._send_lib(self._visit, (target,), RING_STOPPING)
            except ThreadExitedError:
                continue        # and so its channel is gone
            return 0
        return self._end(0)

    cdef int _end(self, object status) except -1:
        self._target = None
        self._state = ITER_DONE
        if self._origin is None:
            self._complete(status)
        else:
            self._origin._send_lib(self._complete, (status,), RING_STOPPING)
        return 0

    cdef int _end_device(self) except -1:
        """This iteration is over; it may have been what the device's unregistration waited for."""
        if device_end_iteration(self.device_c):
            self.device._finish_unregister()
        return 0

    def _complete(self, status):
        """Back on the calling thread."""
        cdef ThreadLib lib = self.device.lib
        future, cpl, error, origin = self._future, self._cpl, self._error, self._origin
        self._future = self._cpl = self._error = self._fn = None
        self._origin = None
        if origin is not None:
            origin._let_go(self)
        try:
            if cpl is not None:
                cpl(self, status)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as failure:
            (<SpdkThread>origin).c.errors += 1
            lib.report(
                f"the completion of for_each_channel of device {self.device.name!r} failed on thread {origin.name!r}",
                failure, origin, "device", self.device,
            )
        finally:
            # Not earlier: the device's end comes after the completion of every iteration.
            self._end_device()
            if error is None:
                future.set_result(status)
            else:
                future.set_exception(error)


cdef object NOT_RETURNED = object()     # fn has not returned


cdef object as_status(object result):
    try:
        return int(operator.index(result))
    except TypeError:
        raise TypeError(f"the function of for_each_channel must return an int or None, got {type(result).__name__}") \
            from None


cdef int settle_orphan(object future, object what) except -1:
    """`what` is dropped with the threads that had to end it: its future fails now, or it would never be settled."""
    if future is not None and not future.done():
        future._settle_orphan(f"{what} never ended: the threads that had to end it are gone")
    return 0


seal(IoChannelIter)
