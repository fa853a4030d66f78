"""A program of the ecosystem on `aio.EventLoop`: an aiohttp server under load, with work on an SpdkThread."""

import asyncio

from aiohttp import ClientSession, TCPConnector, WSMsgType, web

from spdkthread import get_thread

CLIENTS, REQUESTS = 20, 25


class Counter:
    """State that belongs to one SpdkThread."""

    def __init__(self, thread):
        self.thread = thread
        self.count = 0

    def add(self, number):
        assert get_thread() is self.thread
        self.count += number
        return self.count


class Served:
    """A running server, and a client of it."""

    def __init__(self, *routes):
        self.app = web.Application()
        self.app.add_routes(routes)

    async def __aenter__(self):
        self.runner = web.AppRunner(self.app)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        self.client = ClientSession(f"http://127.0.0.1:{port}", connector=TCPConnector(limit=CLIENTS))
        return self.client

    async def __aexit__(self, *exc):
        await self.client.close()
        await self.runner.cleanup()


def test_a_server_under_load_counts_on_an_spdkthread_and_loses_nothing(run, reactor):
    counter = Counter(reactor.create_thread("counter"))

    async def add(request):
        return web.json_response({"count": await counter.thread.acall(counter.add, int(request.query["by"]))})

    async def main():
        async with Served(web.get("/add", add)) as client:

            async def one():
                counts = []
                for _ in range(REQUESTS):
                    async with client.get("/add", params={"by": "2"}) as response:
                        assert response.status == 200
                        counts.append((await response.json())["count"])
                assert counts == sorted(counts)
                return counts

            return [count for counts in await asyncio.gather(*(one() for _ in range(CLIENTS))) for count in counts]

    assert sorted(run(main())) == list(range(2, 2 * CLIENTS * REQUESTS + 2, 2))


def test_large_bodies_go_both_ways(run):
    async def reverse(request):
        response = web.StreamResponse()
        await response.prepare(request)
        body = await request.read()
        for begin in range(0, len(body), 100_000):
            await response.write(body[begin : begin + 100_000][::-1])
        return response

    async def main():
        body = bytes(range(256)) * 3_000
        async with Served(web.post("/", reverse)) as client, client.post("/", data=body) as response:
            received = await response.read()
        return received == b"".join(body[begin : begin + 100_000][::-1] for begin in range(0, len(body), 100_000))

    assert run(main())


def test_websockets_and_failing_handlers_work(run):
    async def echo(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                await socket.send_str(message.data.upper())
        return socket

    async def fail(request):
        raise web.HTTPForbidden

    async def main():
        async with Served(web.get("/ws", echo), web.get("/fail", fail)) as client:
            async with client.get("/fail") as response:
                status = response.status
            answers = []
            async with client.ws_connect("/ws") as socket:
                for number in range(100):
                    await socket.send_str(f"message {number}")
                    answers.append(await socket.receive_str())
        return status, answers

    assert run(main()) == (403, [f"MESSAGE {number}" for number in range(100)])
