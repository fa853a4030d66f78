"""An asyncio server on `aio.EventLoop`, whose counters belong to an SpdkThread on a core of its own.

The server is ordinary asyncio; the loop it runs on is ours. Each message is counted on another thread, with `acall`,
which answers within microseconds. Its clients are in the same process, so the rate that is printed is that of both.
"""

import asyncio
import time
from collections import Counter

from spdkthread import Reactor, SpdkThread
from spdkthread.aio import EventLoop

CLIENTS, MESSAGES = 20, 200


class Statistics:
    """Belongs to one thread: nothing else touches it, so it has no lock."""

    def __init__(self, thread: SpdkThread):
        self.thread = thread
        self.bytes_of: Counter[str] = Counter()

    def count(self, who: str, size: int) -> int:
        self.bytes_of[who] += size
        return self.bytes_of[who]


async def serve(statistics: Statistics, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    who = str(writer.get_extra_info("peername"))
    while line := await reader.readline():
        total = await statistics.thread.acall(statistics.count, who, len(line))
        writer.write(b"%d %s" % (total, line))
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def client(port: int) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    for number in range(MESSAGES):
        writer.write(b"message %d\n" % number)
        answer = await reader.readline()
        assert answer.endswith(b"message %d\n" % number), answer
    writer.close()
    await writer.wait_closed()
    return int(answer.split()[0])


async def main(statistics: Statistics) -> None:
    server = await asyncio.start_server(lambda *streams: serve(statistics, *streams), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        begin = time.perf_counter()
        totals = await asyncio.gather(*(client(port) for _ in range(CLIENTS)))
        rate = CLIENTS * MESSAGES / (time.perf_counter() - begin)
    counted = await statistics.thread.acall(lambda: sum(statistics.bytes_of.values()))
    assert counted == sum(totals)
    print(f"{CLIENTS} clients, {CLIENTS * MESSAGES} messages, {counted} bytes counted, {rate:,.0f} messages/s")


if __name__ == "__main__":
    with Reactor() as reactor, asyncio.Runner(loop_factory=EventLoop) as runner:
        runner.run(main(Statistics(reactor.create_thread("statistics"))))
