"""What the tests of devices and channels do again and again, on threads that they drive themselves."""

from support import drain


def get(thread, device):
    """The channel of `device` on `thread`."""
    with thread:
        return device.get_io_channel()


def put(*channels):
    """Put each once, on its own thread."""
    for channel in channels:
        with channel.thread:
            channel.put()


def end(device, *threads):
    """Unregister on the first of `threads` and poll them all until nothing is left."""
    with threads[0]:
        future = device.unregister()
    drain(*threads)
    assert future.result(0) is None
