"""Which projects' tests are run, in which version, and how."""

from dataclasses import dataclass

PYTEST = ("pytest==9.1.1", "pytest-timeout==2.4.0")


@dataclass(frozen=True)
class Suite:
    """One project's tests.

    Its tests come with its sdist, in the folder ``tests``, or else are part of the installed package.
    """

    name: str
    version: str
    # What its tests need beside it and pytest.
    needs: tuple[str, ...]
    tests: tuple[str, ...]
    quick: tuple[str, ...]
    # Of one run, on a machine that has nothing else to do.
    limit_s: float
    from_sdist: bool = True
    options: tuple[str, ...] = ()
    shim: str = ""
    # Parts of test ids that are not run at all -> why.
    excluded: tuple[tuple[str, str], ...] = ()


CLOSING = "expects a call that waits for a socket to end when the socket is closed, which asyncio does not promise"
SHUTDOWN = "about uvloop's own time limit of a TLS shutdown; waits for ever on asyncio's"
LIBUV = "asserts the inside of libuv or of uvloop's own types"

SUITES = (
    Suite(
        "anyio",
        "4.16.0",
        ("trustme", "psutil", "hypothesis", "pytest-mock", "blockbuster", "truststore", "exceptiongroup"),
        ("tests",),
        ("tests/test_taskgroups.py", "tests/test_from_thread.py", "tests/test_signals.py", "tests/streams"),
        900,
        options=("-p", "anyio", "-p", "no:asyncio", "-m", "not network"),
    ),
    # Its sdist has the tests of its pieces without a loop only; --source takes all of them from a checkout. Those of
    # uvicorn run its client and both of uvicorn's servers on it.
    Suite(
        "websockets",
        "16.0",
        ("werkzeug", "python-socks[asyncio]"),
        ("tests",),
        ("tests",),
        300,
    ),
    Suite(
        "uvicorn",
        "0.54.0",
        ("httptools", "python-dotenv", "PyYAML", "watchfiles", "websockets", "wsproto", "a2wsgi", "trustme",
         "cryptography", "pytest-mock", "pytest-xdist[psutil]", "pytest-codspeed", "httpx2", "zttp"),
        ("tests",),
        ("tests/test_server.py", "tests/protocols/test_websocket.py"),
        600,
    ),
    Suite(
        "tornado",
        "6.6.1",
        (),
        ("tornado/test",),
        ("tornado/test/iostream_test.py", "tornado/test/ioloop_test.py", "tornado/test/asyncio_test.py",
         "tornado/test/httpserver_test.py", "tornado/test/tcpserver_test.py"),
        600,
        from_sdist=False,
        options=("-o", "python_files=*_test.py"),
        shim="tornado",
    ),
    Suite(
        "twisted",
        "26.10.0",
        ("pyopenssl", "service-identity", "hypothesis", "pyhamcrest", "idna", "cython-test-exception-raiser"),
        ("twisted/internet/test", "twisted/test"),
        ("twisted/internet/test/test_tcp.py", "twisted/internet/test/test_threads.py",
         "twisted/internet/test/test_core.py", "twisted/internet/test/test_time.py",
         "twisted/internet/test/test_asyncioreactor.py"),
        900,
        from_sdist=False,
        # Written for its own runner, which takes classes named Test... for nothing special.
        options=("-o", "python_classes="),
        shim="twisted",
    ),
    Suite(
        "aiohttp",
        "3.14.5",
        ("trustme", "freezegun", "pytest-mock", "pytest-xdist", "pytest-codspeed", "re-assert", "proxy.py",
         "python-on-whales", "blockbuster", "isal", "zlib-ng", "cryptography", "gunicorn", "brotli", "aiodns", "coverage"),
        ("tests",),
        ("tests/test_web_functional.py", "tests/test_client_functional.py", "tests/test_web_websocket_functional.py"),
        1200,
    ),
    Suite(
        "uvloop",
        "0.23.0",
        ("aiohttp", "psutil", "pyOpenSSL"),
        ("tests",),
        ("tests/test_tcp.py", "tests/test_udp.py", "tests/test_unix.py", "tests/test_base.py", "tests/test_sockets.py"),
        600,
        shim="uvloop",
        excluded=(
            ("_AIO_", "the same tests on asyncio's default loop, which those for uvloop get here"),
            ("TestAIO", "the same"),
            ("::test_socket_connect_and_close", CLOSING),
            ("::test_socket_recv_and_close", CLOSING),
            ("::test_socket_recv_into_and_close", CLOSING),
            ("::test_shutdown_timeout_handler_not_set", SHUTDOWN),
            ("::test_shutdown_while_pause_reading", SHUTDOWN),
            ("test_libuv_api.py", LIBUV),
            ("test_cython.py", LIBUV),
            ("test_fs_event.py", LIBUV),
            ("test_dealloc.py", LIBUV),
            ("test_sourcecode.py", "runs linters over uvloop's sources"),
        ),
    ),
)  # fmt: skip
