"""Native callbacks: every source, every kind of context, in one order with Python's messages, without the GIL."""

import array
import ctypes
import gc
import weakref

import numpy
import pytest
from native_sources import (
    FFI,
    KEPT,
    LIBC,
    MESSAGE,
    MESSAGE_NAME,
    POLLER,
    POLLER_NAME,
    SOURCES,
    Semaphore,
    address_of,
    atoi,
    capsule,
    from_capsule,
    holds_the_gil,
    sem_post,
)
from support import PATIENCE_S, drain, eventually, fill, finish, lasting_repr, noop

from spdkthread import RingFullError, ThreadExitedError, get_thread


@pytest.fixture(autouse=True)
def kept():
    yield
    KEPT.clear()


@pytest.fixture(params=SOURCES)
def source(request):
    return SOURCES[request.param]


def test_a_native_message_runs_from_every_source(thread, source):
    got = []
    fn = source(got.append, MESSAGE)
    assert thread.send_native(fn, 4096) is None
    assert got == []
    assert thread.pending_msgs == 1
    assert thread.poll() == 1
    assert got == [4096]
    assert thread.stats.msgs_run == 1


def test_a_native_poller_runs_from_every_source(thread, source):
    got = []

    def poll(ctx):
        got.append(ctx)
        return 7

    with thread:
        poller = thread.register_native_poller(source(poll, POLLER), 4096, name="beat")
    assert thread.poll() == 7
    assert thread.poll() == 7
    assert got == [4096, 4096]
    assert (poller.name, poller.run_count, poller.busy_count) == ("beat", 2, 2)


def test_a_function_of_libc_through_ctypes(thread):
    semaphore = Semaphore()
    thread.send_native(sem_post(), semaphore.memory)
    assert semaphore.value == 0
    thread.poll()
    assert semaphore.value == 1


def test_a_function_of_a_library_whose_signature_was_set_afterwards(thread):
    semaphore = Semaphore()
    function = LIBC["sem_post"]
    function.restype = None
    function.argtypes = [ctypes.c_void_p]
    thread.send_native(function, semaphore.memory)
    thread.poll()
    assert semaphore.value == 1


def test_a_function_of_libc_through_a_capsule(thread):
    semaphore = Semaphore()
    thread.send_native(capsule(address_of(sem_post()), MESSAGE_NAME), semaphore.memory)
    thread.poll()
    assert semaphore.value == 1


@pytest.mark.skipif(FFI is None, reason="there is no cffi for this Python")
def test_a_function_of_libc_through_cffi(thread):
    semaphore = Semaphore()
    function = FFI.addressof(FFI.dlopen(None), "sem_post")
    thread.send_native(function, semaphore.memory)
    thread.poll()
    assert semaphore.value == 1


def test_the_value_of_a_native_poller_is_the_value_of_the_poll(thread):
    with thread:
        poller = thread.register_native_poller(atoi(), bytearray(b"42\0"))
    assert thread.poll() == 42
    assert poller.busy_count == 1


def test_a_negative_native_value_is_never_the_value_of_a_poll(thread):
    with thread:
        poller = thread.register_native_poller(atoi(), bytearray(b"-42\0"))
    assert thread.poll() == 0
    assert (poller.run_count, poller.busy_count) == (1, 0)


def test_a_native_poller_runs_without_the_gil_on_a_reactor(reactor):
    thread = reactor.create_thread()
    poller = thread.register_native_poller(holds_the_gil())
    eventually(lambda: poller.run_count > 10)
    assert poller.busy_count == 0
    poller.unregister()


def test_a_native_message_runs_without_the_gil_on_a_reactor(reactor):
    """A semaphore that only this message raises wakes a native waiter that holds the GIL all the time."""
    semaphore = Semaphore()
    thread = reactor.create_thread()
    thread.call(noop).result(PATIENCE_S)
    wait = ctypes.PyDLL(None).sem_timedwait
    deadline = (ctypes.c_long * 2)()
    assert LIBC.clock_gettime(0, ctypes.byref(deadline)) == 0
    deadline[0] += int(PATIENCE_S)
    thread.send_native(sem_post(), semaphore.memory)
    assert wait(ctypes.byref(semaphore.memory), ctypes.byref(deadline)) == 0


def test_native_and_python_messages_run_in_one_order(thread):
    ran = []
    natives = [MESSAGE(lambda ctx, number=number: ran.append(number)) for number in range(10)]
    for number in range(0, 20, 2):
        thread.send_msg(ran.append, -number)
        thread.send_native(natives[number // 2])
    drain(thread)
    assert ran == [value for number in range(10) for value in (-2 * number, number)]


def test_native_messages_count_in_the_batch_of_eight(thread):
    ran = []
    fn = MESSAGE(lambda ctx: ran.append("native"))
    for _ in range(6):
        thread.send_native(fn)
        thread.send_msg(ran.append, "python")
    thread.poll()
    assert ran == ["native", "python"] * 4
    assert thread.pending_msgs == 4


def test_native_and_python_messages_run_in_one_order_on_a_reactor(reactor):
    ran = []
    thread = reactor.create_thread()
    fn = MESSAGE(ran.append)
    for number in range(1, 501):
        thread.send_msg(ran.append, -number)
        thread.send_native(fn, number)
    thread.call(noop).result(PATIENCE_S)
    assert ran == [value for number in range(1, 501) for value in (-number, number)]


def test_native_and_python_pollers_take_turns(thread):
    ran = []
    native = POLLER(lambda ctx: ran.append("native") or 0)
    with thread:
        thread.register_poller(lambda: ran.append("python"))
        thread.register_native_poller(native)
    for _ in range(4):
        thread.poll()
    assert ran == ["python", "native", "python", "native"]


def test_native_and_python_pollers_run_in_registration_order_with_policy_all(lib):
    thread = lib.create_thread(poller_policy="all")
    ran = []
    native = POLLER(lambda ctx: ran.append(ctx) or 0)
    with thread:
        thread.register_poller(lambda: ran.append("a"))
        thread.register_native_poller(native, 1)
        thread.register_poller(lambda: ran.append("b"))
        thread.register_native_poller(native, 2)
    thread.poll()
    thread.poll()
    assert ran == ["a", 1, "b", 2] * 2


def test_the_current_thread_is_set_for_a_native_callback(thread):
    seen = []
    thread.send_native(MESSAGE(lambda ctx: seen.append(get_thread())))
    with thread:
        thread.register_native_poller(POLLER(lambda ctx: seen.append(get_thread()) or 0))
    thread.poll()
    assert seen == [thread, thread]
    assert get_thread() is None


def test_a_timed_native_poller_follows_the_clock(thread, clock):
    with thread:
        poller = thread.register_native_poller(atoi(), bytearray(b"3\0"), 10)
    assert poller.period_ticks == 10_000
    assert thread.poll() == 0
    clock.advance(us=10)
    assert thread.poll() == 3
    clock.advance(us=25)
    assert thread.poll() == 3
    assert poller.run_count == 2
    assert poller.overrun_count == 1
    assert thread.next_poller_expiration == 45_000


def test_a_native_poller_is_paused_resumed_and_unregistered_like_any_other(thread):
    with thread:
        poller = thread.register_native_poller(atoi(), bytearray(b"1\0"))
        poller.pause()
        assert thread.poll() == 0
        poller.resume()
        assert thread.poll() == 1
        poller.unregister()
        assert thread.poll() == 0
    assert poller.state == "unregistered"
    assert poller.run_count == 1


@pytest.mark.parametrize("act", ["pause", "unregister"])
@pytest.mark.parametrize("policy", ["one", "all"])
def test_a_native_poller_may_stop_itself_from_inside(lib, act, policy):
    thread = lib.create_thread(poller_policy=policy)
    with thread:
        poller = thread.register_native_poller(POLLER(lambda ctx: getattr(poller, act)() or 1))
        other = thread.register_native_poller(atoi(), bytearray(b"0\0"))
    for _ in range(6):
        thread.poll()
    assert poller.run_count == 1
    assert poller.state == {"pause": "paused", "unregister": "unregistered"}[act]
    assert other.run_count >= 4


def test_a_native_poller_registered_from_elsewhere_starts_by_a_message(thread):
    poller = thread.register_native_poller(atoi(), bytearray(b"1\0"))
    assert thread.pending_msgs == 1
    assert thread.poll() == 1
    assert thread.pollers == (poller,)


@pytest.mark.parametrize("ctx", [None, 0], ids=lasting_repr)
def test_no_context_is_a_null_pointer(thread, ctx):
    got = []
    thread.send_native(MESSAGE(got.append), ctx)
    thread.send_native(MESSAGE(got.append))
    thread.poll()
    assert got == [None, None]


@pytest.mark.parametrize("address", [1, 2**31, 2**47 - 1, 2**64 - 1])
def test_a_context_may_be_an_address(thread, address):
    got = []
    thread.send_native(MESSAGE(got.append), address)
    thread.poll()
    assert got == [address]


def buffers():
    return {
        "bytearray": bytearray(8),
        "array": array.array("q", [0]),
        "ctypes array": (ctypes.c_char * 8)(),
        "ctypes struct": ctypes.c_int64(),
        "numpy array": numpy.zeros(8, numpy.uint8),
        "numpy scalar array": numpy.zeros((), numpy.int64),
        "memoryview": memoryview(bytearray(8)),
    }


@pytest.mark.parametrize("kind", buffers())
def test_a_context_may_be_any_writable_buffer(thread, kind):
    ctx = buffers()[kind]
    expected = ctypes.addressof(ctypes.c_char.from_buffer(ctx))
    got = []

    def write(pointer):
        got.append(pointer)
        ctypes.c_char.from_address(pointer).value = b"x"

    thread.send_native(MESSAGE(write), ctx)
    thread.poll()
    assert got == [expected]
    assert bytes(memoryview(ctx).cast("B"))[0] == ord("x")


@pytest.mark.parametrize(
    "ctx",
    [b"read only", memoryview(b"read only"), numpy.frombuffer(b"read only", numpy.uint8), "text", 1.0, object(), [1]],
    ids=lambda ctx: type(ctx).__name__,
)
def test_a_context_that_is_not_writable_memory_is_refused(thread, ctx):
    with pytest.raises((TypeError, BufferError, ValueError)):
        thread.send_native(sem_post(), ctx)
    with thread, pytest.raises((TypeError, BufferError, ValueError)):
        thread.register_native_poller(atoi(), ctx)
    assert thread.pending_msgs == 0
    assert thread.pollers == ()


@pytest.mark.parametrize("ctx", [-1, 2**64, 2**100])
def test_an_address_that_is_none_is_refused(thread, ctx):
    with pytest.raises((ValueError, OverflowError)):
        thread.send_native(sem_post(), ctx)
    assert thread.pending_msgs == 0


def test_a_message_keeps_its_function_and_its_context_alive_until_it_has_run(thread):
    got = []
    fn, ctx = MESSAGE(got.append), numpy.zeros(8)
    expected = ctx.ctypes.data
    watches = weakref.ref(fn), weakref.ref(ctx)
    thread.send_native(fn, ctx)
    del fn, ctx
    gc.collect()
    assert all(watch() is not None for watch in watches)
    thread.poll()
    assert got == [expected]
    thread.poll()
    gc.collect()
    assert all(watch() is None for watch in watches)


def test_a_poller_keeps_its_function_and_its_context_alive_until_it_is_unregistered(thread):
    fn, ctx = POLLER(lambda ctx: 2), numpy.zeros(8)
    watches = weakref.ref(fn), weakref.ref(ctx)
    with thread:
        poller = thread.register_native_poller(fn, ctx)
    del fn, ctx
    gc.collect()
    assert thread.poll() == 2
    assert all(watch() is not None for watch in watches)
    with thread:
        poller.unregister()
    thread.poll()
    del poller
    gc.collect()
    assert all(watch() is None for watch in watches)


def test_a_native_poller_that_unregisters_itself_outlives_its_own_run(thread):
    """Nothing but the poller holds the function that is running: it must not be freed under its own feet."""

    def leave(ctx):
        thread.pollers[0].unregister()
        gc.collect()
        return 5

    with thread:
        thread.register_native_poller(POLLER(leave), bytearray(64))
    assert thread.poll() == 5
    assert thread.pollers == ()


def test_memory_that_a_waiting_message_points_to_cannot_move(thread):
    ctx = bytearray(8)
    thread.send_native(MESSAGE(lambda pointer: None), ctx)
    with pytest.raises(BufferError):
        ctx.extend(bytes(1_000_000))
    thread.poll()
    thread.poll()
    gc.collect()
    ctx.extend(bytes(8))
    assert len(ctx) == 16


def test_memory_that_a_poller_points_to_cannot_move(thread):
    ctx = bytearray(b"1\0")
    with thread:
        poller = thread.register_native_poller(atoi(), ctx)
        with pytest.raises(BufferError):
            ctx.extend(b"more")
        poller.unregister()
        thread.poll()
    del poller
    gc.collect()
    ctx.extend(b"more")


def test_the_object_of_a_numba_function_is_kept_alive(thread):
    got = []
    fn = SOURCES["numba cfunc"](got.append, MESSAGE)
    watch = weakref.ref(fn.ctypes)
    thread.send_native(fn)
    del fn
    gc.collect()
    assert watch() is not None
    thread.poll()
    assert got == [None]


@pytest.mark.parametrize("fn", [0, 1, 2**40, True])
def test_a_plain_int_is_not_a_function(thread, fn):
    with pytest.raises(TypeError):
        thread.send_native(fn)
    with thread, pytest.raises(TypeError):
        thread.register_native_poller(fn)
    assert thread.pending_msgs == 0


@pytest.mark.parametrize("fn", [None, noop, "sem_post", b"", object(), [], ctypes.c_void_p(1)], ids=lasting_repr)
def test_what_is_no_native_function_is_refused(thread, fn):
    with pytest.raises(TypeError):
        thread.send_native(fn)
    with thread, pytest.raises(TypeError):
        thread.register_native_poller(fn)
    assert thread.pending_msgs == 0
    assert thread.pollers == ()


def wrong_for_a_message():
    function = address_of(MESSAGE(lambda ctx: None))
    wrong = {
        "a poller's capsule": capsule(function, POLLER_NAME),
        "a capsule of another name": capsule(function, b"void *"),
        "a capsule without a name": capsule(function, None),
        "a ctypes poller": POLLER(lambda ctx: 0),
        "a ctypes function without arguments": ctypes.CFUNCTYPE(None)(lambda: None),
        "a ctypes function of two": ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(lambda a, b: None),
        "a ctypes function of an int": ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda a: None),
        "a ctypes function of unknown signature": LIBC["sem_destroy"],
        "a ctypes null pointer": MESSAGE(),
    }
    if FFI:
        wrong |= {
            "a cffi poller": FFI.cast("int(*)(void *)", function),
            "a cffi function of two": FFI.cast("void(*)(void *, void *)", function),
            "a cffi pointer to data": FFI.cast("void *", function),
            "a cffi null pointer": FFI.NULL,
            "a cffi null function": FFI.cast("void(*)(void *)", 0),
        }
    return wrong


@pytest.mark.parametrize("kind", wrong_for_a_message())
def test_a_function_of_another_signature_is_not_a_message(thread, kind):
    with pytest.raises((TypeError, ValueError)):
        thread.send_native(wrong_for_a_message()[kind])
    assert thread.pending_msgs == 0


def wrong_for_a_poller():
    function = address_of(POLLER(lambda ctx: 0))
    wrong = {
        "a message's capsule": capsule(function, MESSAGE_NAME),
        "a capsule of another name": capsule(function, b"long (void *)"),
        "a capsule without a name": capsule(function, None),
        "a ctypes message": MESSAGE(lambda ctx: None),
        "a ctypes function that returns a long": ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p)(lambda a: 0),
        "a ctypes function without arguments": ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0),
        "a ctypes null pointer": POLLER(),
    }
    if FFI:
        wrong |= {
            "a cffi message": FFI.cast("void(*)(void *)", function),
            "a cffi function that returns a long": FFI.cast("long(*)(void *)", function),
            "a cffi null function": FFI.cast("int(*)(void *)", 0),
        }
    return wrong


@pytest.mark.parametrize("kind", wrong_for_a_poller())
def test_a_function_of_another_signature_is_not_a_poller(thread, kind):
    with thread, pytest.raises((TypeError, ValueError)):
        thread.register_native_poller(wrong_for_a_poller()[kind])
    assert thread.pollers == ()


@pytest.mark.parametrize("period_us", [-1, 0.0001, float("nan")])
def test_a_native_poller_with_a_bad_period_is_refused(thread, period_us):
    with thread, pytest.raises(ValueError, match="period"):
        thread.register_native_poller(atoi(), bytearray(2), period_us)


def test_a_native_message_to_a_full_ring_is_refused_and_holds_nothing(lib):
    thread = lib.create_thread(ring_size=2)
    fill(thread)
    fn, ctx = MESSAGE(noop), numpy.zeros(8)
    watches = weakref.ref(fn), weakref.ref(ctx)
    with pytest.raises(RingFullError):
        thread.send_native(fn, ctx)
    del fn, ctx
    gc.collect()
    assert all(watch() is None for watch in watches)
    assert thread.stats.ring_full >= 1


def test_a_native_message_to_an_exited_thread_is_refused(thread):
    finish(thread)
    with pytest.raises(ThreadExitedError):
        thread.send_native(sem_post())
    with pytest.raises(ThreadExitedError):
        thread.register_native_poller(atoi())


def test_native_messages_survive_the_interruption_of_their_batch(thread):
    ran = []

    def interrupt():
        raise KeyboardInterrupt

    fn = from_capsule(ran.append, MESSAGE)
    thread.send_native(fn, 1)
    thread.send_msg(interrupt)
    thread.send_native(fn, 2)
    thread.send_msg(ran.append, 3)
    with pytest.raises(KeyboardInterrupt):
        thread.poll()
    assert ran == [1]
    thread.poll()
    assert ran == [1, 2, 3]


def test_a_native_callback_may_send_to_its_own_thread(thread):
    ran = []
    thread.send_native(MESSAGE(lambda ctx: thread.send_msg(ran.append, "sent from native code")))
    thread.poll()
    assert ran == []
    thread.poll()
    assert ran == ["sent from native code"]


def test_messages_and_contexts_left_behind_are_let_go(lib):
    ctx = numpy.zeros(8)
    watch = weakref.ref(ctx)
    thread = lib.create_thread()
    thread.send_native(MESSAGE(noop), ctx)
    finish(thread)
    del ctx
    gc.collect()
    assert watch() is None


class Pair(ctypes.Structure):
    _fields_ = [("first", ctypes.c_long), ("second", ctypes.c_long)]


def pointers():
    """A pointer and the address that it holds, by kind."""
    number = ctypes.c_long(7)
    text = ctypes.create_string_buffer(b"text")
    found = {
        "ctypes.pointer": (ctypes.pointer(number), ctypes.addressof(number)),
        "ctypes.byref": (ctypes.byref(number), ctypes.addressof(number)),
        "c_void_p": (ctypes.c_void_p(ctypes.addressof(number)), ctypes.addressof(number)),
        "c_char_p": (ctypes.cast(text, ctypes.c_char_p), ctypes.addressof(text)),
        "numpy integer": (numpy.uintp(ctypes.addressof(number)), ctypes.addressof(number)),
    }
    if FFI:
        box = FFI.new("long *", 7)
        row = FFI.new("long[3]")
        structure = FFI.new("semaphore *")
        found["cffi pointer"] = box, int(FFI.cast("uintptr_t", box))
        found["cffi void *"] = FFI.cast("void *", box), int(FFI.cast("uintptr_t", box))
        found["cffi array"] = row, int(FFI.cast("uintptr_t", row))
        found["cffi structure"] = structure[0], int(FFI.cast("uintptr_t", structure))
    return found


@pytest.mark.parametrize("kind", pointers())
def test_a_pointer_as_context_means_the_address_that_it_holds(thread, kind):
    got = []
    ctx, address = pointers()[kind]
    thread.send_native(MESSAGE(got.append), ctx)
    thread.poll()
    assert got == [address]


@pytest.mark.parametrize(
    "ctx",
    [ctypes.c_void_p(), ctypes.c_void_p(0), ctypes.POINTER(ctypes.c_long)(), ctypes.c_char_p(), numpy.intp(0)]
    + ([FFI.NULL] if FFI else []),
    ids=lambda ctx: type(ctx).__name__,
)
def test_a_null_pointer_as_context_is_a_null_pointer(thread, ctx):
    got = []
    thread.send_native(MESSAGE(got.append), ctx)
    thread.poll()
    assert got == [None]


@pytest.mark.parametrize(
    "make", [ctypes.c_long, lambda: (ctypes.c_long * 3)(), Pair], ids=["value", "array", "structure"]
)
def test_memory_of_ctypes_as_context_is_its_own(thread, make):
    got, ctx = [], make()
    thread.send_native(MESSAGE(got.append), ctx)
    thread.poll()
    assert got == [ctypes.addressof(ctx)]


def test_a_pointer_as_context_keeps_its_target_alive_and_is_read_when_it_is_sent(thread):
    got = []
    array = (ctypes.c_long * 4)()
    address, watch = ctypes.addressof(array), weakref.ref(array)
    ctx = ctypes.pointer(array)
    thread.send_native(MESSAGE(got.append), ctx)
    del array, ctx
    gc.collect()
    assert watch() is not None
    thread.poll()
    thread.poll()
    assert got == [address]
    gc.collect()
    assert watch() is None


def test_a_cffi_number_is_no_context(thread):
    if FFI:
        with pytest.raises(TypeError, match="cffi"):
            thread.send_native(sem_post(), FFI.cast("long", 5))


@pytest.mark.parametrize("ctx", [True, numpy.bool_(True), numpy.float64(1)])
def test_what_is_no_address_and_no_memory_is_refused_as_context(thread, ctx):
    with pytest.raises(TypeError, match="ctx must"):
        thread.send_native(sem_post(), ctx)
