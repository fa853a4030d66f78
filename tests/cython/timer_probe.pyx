"""What native code does with timers and deadlines, compiled against the installed .pxd files."""

from libc.stdint cimport uint64_t

from spdkthread cimport (
    TIMER_NEVER,
    SpdkThread,
    Timer,
    current_deadline,
    current_thread,
    thread_call_later,
    thread_cancel_timer,
    timer_s,
)


cdef struct record:
    uint64_t runs
    uint64_t deadline           # of the last run
    uint64_t period             # ticks: armed again from inside


cdef record noted
cdef timer_s timer


cdef api void note(void *ctx) noexcept nogil:
    """A native timer that writes into the record that it is given."""
    cdef record *mine = <record *>ctx
    mine.runs += 1
    mine.deadline = current_deadline()


cdef api int note_poll(void *ctx) noexcept nogil:
    note(ctx)
    return 1


cdef void again(void *ctx) noexcept nogil:
    note(ctx)
    thread_call_later(current_thread(), &timer, (<record *>ctx).period, again, ctx)


def deadline_here():
    """`current_deadline`; None: none."""
    cdef uint64_t deadline = current_deadline()
    return None if deadline == TIMER_NEVER else deadline


def reset():
    noted.runs = noted.deadline = noted.period = 0


def read():
    return noted.runs, noted.deadline


def arm(uint64_t delay_ticks, SpdkThread thread=None):
    """Arm the one timer of this module: 0 or -1."""
    with nogil:
        return_code = thread_call_later(
            current_thread() if thread is None else &thread.c, &timer, delay_ticks, note, &noted
        )
    return return_code


def arm_again(uint64_t period_ticks):
    noted.period = period_ticks
    with nogil:
        return_code = thread_call_later(current_thread(), &timer, period_ticks, again, &noted)
    return return_code


def cancel():
    cdef bint was_pending
    with nogil:
        was_pending = thread_cancel_timer(current_thread(), &timer)
    return was_pending


def deadline_of(Timer one):
    return one.c.deadline
