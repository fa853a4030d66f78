"""What waits beside a full ring is bounded by what there is to wait for, not by how often somebody asks."""

from support import drain, fill, noop


def test_any_number_of_requests_to_a_poller_waits_as_one(lib):
    thread = lib.create_thread("narrow", ring_size=4)
    with thread:
        poller = thread.register_poller(noop)
    fill(thread)
    for _ in range(1000):
        poller.pause()
        poller.resume()
    poller.pause()
    assert thread.pending_msgs == 5
    drain(thread)
    assert poller.state == "paused"
    with thread:
        poller.unregister()


def test_an_unregistration_is_not_taken_back_by_a_later_request(lib):
    thread = lib.create_thread("narrow", ring_size=4)
    with thread:
        poller = thread.register_poller(noop)
    fill(thread)
    poller.unregister()
    poller.resume()
    drain(thread)
    assert poller.state == "unregistered"
    assert thread.pollers == ()


def test_any_number_of_exits_waits_as_one(lib):
    thread = lib.create_thread("narrow", ring_size=4)
    fill(thread)
    for _ in range(1000):
        thread.exit()
    assert thread.pending_msgs == 5
    drain(thread)
    assert thread.is_exited


def test_a_full_ring_does_not_count_requests_as_refused(lib):
    thread = lib.create_thread("narrow", ring_size=4)
    with thread:
        poller = thread.register_poller(noop)
    fill(thread)
    before = thread.stats.ring_full
    poller.unregister()
    assert thread.stats.ring_full == before
    drain(thread)
