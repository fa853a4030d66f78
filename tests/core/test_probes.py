"""USDT probes: the notes that tools read, and that a probe is reached while a tool watches and at no other time."""

import ctypes
import importlib
import mmap
import platform
import re
import signal
import struct
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest
from support import noop

import spdkthread
from spdkthread import trace

DOCS = Path(__file__).parents[2] / "docs" / "tracing.md"
NOP = {"x86_64": b"\x90", "aarch64": b"\x1f\x20\x03\xd5"}[platform.machine()]
REGISTER = {"x86_64": r"%r\w+", "aarch64": r"x\d+"}[platform.machine()]
NATIVE_MESSAGE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
LIBC = ctypes.CDLL(None)


class Probe(NamedTuple):
    module: str
    provider: str
    name: str
    location: int
    semaphore: int
    arguments: str


class Elf:
    """What there is to know of a shared object: its sections and its segments (64 bits, little-endian)."""

    def __init__(self, path):
        self.data = data = Path(path).read_bytes()
        assert data[:6] == b"\x7fELF\x02\x01"
        segments, sections = struct.unpack_from("<QQ", data, 32)
        segment_size, segment_count, section_size, section_count, names = struct.unpack_from("<5H", data, 54)
        self.segments = [
            struct.unpack_from("<IIQQQQQQ", data, segments + segment_size * index) for index in range(segment_count)
        ]
        headers = [
            struct.unpack_from("<IIQQQQIIQQ", data, sections + section_size * index) for index in range(section_count)
        ]
        text = headers[names][4]
        # name: (address, offset, size)
        self.sections = {data[text + one[0] :].split(b"\0", 1)[0].decode(): one[3:6] for one in headers}

    def bytes_at(self, address, count):
        """Those in the file at an address of a loaded segment, and whether the segment may be written."""
        for kind, flags, offset, begins, _, in_file, _, _ in self.segments:
            if kind == 1 and begins <= address and address + count <= begins + in_file:
                return self.data[offset + address - begins :][:count], bool(flags & 2)
        raise AssertionError(f"no segment of the file has {count} bytes at 0x{address:x}")

    def notes(self):
        if ".note.stapsdt" not in self.sections:
            return
        _, offset, size = self.sections[".note.stapsdt"]
        end = offset + size
        while offset < end:
            owner_size, size, kind = struct.unpack_from("<III", self.data, offset)
            offset += 12
            assert (self.data[offset : offset + owner_size], kind) == (b"stapsdt\0", 3)
            offset += -(-owner_size // 4) * 4
            yield self.data[offset : offset + size]
            offset += -(-size // 4) * 4


def probes():
    found = []
    # Several Pythons may have their modules in one tree.
    for path in sorted(Path(spdkthread.__file__).parent.rglob("*" + sysconfig.get_config_var("EXT_SUFFIX"))):
        elf = Elf(path)
        for note in elf.notes():
            location, base, semaphore = struct.unpack_from("<QQQ", note)
            provider, name, arguments, nothing = note[24:].split(b"\0")
            assert nothing == b""
            moved = elf.sections[".stapsdt.base"][0] - base
            module = ".".join(["spdkthread", *path.relative_to(Path(spdkthread.__file__).parent).parts])
            found.append(
                Probe(
                    module.partition(".cpython")[0],
                    provider.decode(),
                    name.decode(),
                    location + moved,
                    semaphore + moved,
                    arguments.decode(),
                )
            )
            assert elf.bytes_at(location + moved, len(NOP)) == (NOP, False)
            # The kernel finds the semaphore by its place in the file.
            assert elf.bytes_at(semaphore + moved, 2) == (b"\0\0", True)
            begins, _, size = elf.sections[".probes"]
            assert begins <= semaphore + moved < begins + size
    return found


def test_the_probes_are_those_of_the_documentation_with_their_arguments():
    found = probes()
    assert {one.provider for one in found} == {"spdkthread"}
    section = DOCS.read_text(encoding="utf-8").partition("\n## Probes\n")[2].partition("\n## ")[0]
    documented = {}
    for names, arguments in re.findall(r"^\| (`[^|]*) \|([^|]*)\|", section, re.M):
        for name in re.findall(r"`(\w+)`", names):
            documented[name] = len(re.findall(r"`\w+`", arguments))
    assert {one.name: len(one.arguments.split()) for one in found} == documented
    for one in found:
        assert all(re.fullmatch(rf"-?8@{REGISTER}", word) for word in one.arguments.split()), one


def loaded_at(module):
    """Where the shared object of a module is in memory."""
    path = importlib.import_module(module).__file__
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return min(int(line.partition("-")[0], 16) for line in maps if line.rstrip().endswith(path))


class Watched:
    """What the kernel does for a tool that watches probes: counts it in the semaphore, and has the probe trap."""

    def __init__(self, *names):
        self.probes = [one for one in probes() if one.name in names]
        self.hits = 0

    def __enter__(self):
        self.before = signal.signal(signal.SIGTRAP, self.hit)
        for one in self.probes:
            base = loaded_at(one.module)
            semaphore = ctypes.c_uint16.from_address(base + one.semaphore)
            semaphore.value += 1
            self.write(base + one.location, b"\xcc")
        return self

    def __exit__(self, *_):
        for one in self.probes:
            base = loaded_at(one.module)
            self.write(base + one.location, NOP)
            semaphore = ctypes.c_uint16.from_address(base + one.semaphore)
            semaphore.value -= 1
        signal.signal(signal.SIGTRAP, self.before)

    def hit(self, *_):
        self.hits += 1

    def write(self, address, code):
        page = address // mmap.PAGESIZE * mmap.PAGESIZE
        for protection in (mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC, mmap.PROT_READ | mmap.PROT_EXEC):
            assert LIBC.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), protection) == 0
            if protection & mmap.PROT_WRITE:
                ctypes.memmove(address, code, len(code))


def run_one(lib, kind):
    thread = lib.create_thread("net")
    match kind:
        case "message":
            thread.send_msg(noop)
        case "native":
            thread.send_native(NATIVE_MESSAGE(("usleep", LIBC)), 1)
        case "poller":
            with thread:
                thread.register_poller(noop, name="sluggish")
        case "timer":
            with thread:
                thread.call_later(0, noop)
    thread.poll()
    for poller in thread.pollers:
        with thread:
            poller.unregister()


# A breakpoint of another processor does not go on by itself.
TRAPS = platform.machine() == "x86_64"


@pytest.mark.parametrize("kind", ["message", "native", "poller", "timer"])
def test_a_probe_is_reached_while_it_is_watched(lib, kind):
    probe = "message" if kind == "native" else kind
    if not TRAPS:
        assert {f"{probe}__start", f"{probe}__done"} <= {one.name for one in probes()}
        return
    with Watched(f"{probe}__start", f"{probe}__done") as watched:
        assert not trace.is_running()
        assert not trace.record("nothing")
        run_one(lib, kind)
        assert watched.hits
    reached = watched.hits
    run_one(lib, kind)
    assert watched.hits == reached


def test_what_the_kernel_counts_survives_a_trace(lib):
    """The recorder and the kernel have each its half of the word."""
    (one, *_) = [one for one in probes() if one.name == "message__start"]
    word = ctypes.c_uint32.from_address(loaded_at(one.module) + one.semaphore)
    assert word.value == 0
    word.value += 2
    trace.start()
    assert word.value == 0x10002
    run_one(lib, "message")
    assert set(trace.stop().events()["name"].tolist()) >= {"noop"}
    assert word.value == 2
    word.value -= 2


def test_no_event_is_recorded_while_only_durations_are_counted(lib):
    from spdkthread import trace_ring

    trace_ring.count_durations(True)
    try:
        assert not trace.record("nothing")
    finally:
        trace_ring.count_durations(False)
