"""What ThreadSanitizer is told to say nothing of: a suppression whose function has gone, or got another name, is found."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUPPRESSIONS = ROOT / "verify" / "thread.supp"
ELSEWHERE = {"_dl_deallocate_tls", "merge_queued_objects"}
"""Functions of libc and of CPython."""

DEFINED = re.compile(
    r"^\s*(?:def|cdef|cpdef)\s[^=(\n]*?(\w+)\(|^\s*cdef (?:public|readonly) [^(\n]*?(\w+)\s*(?:#.*)?$", re.M
)


def suppressed():
    return re.findall(r"^race:(\S+)$", SUPPRESSIONS.read_text(encoding="utf-8"), re.M)


def function_in(pattern):
    """The function's own name in a pattern of a compiled one: ``Poller_9run_count___get__`` is `run_count`."""
    return re.split(r"_\d+|_\*_", pattern.removesuffix("___get__"))[-1]


@pytest.fixture(scope="module")
def defined():
    names = set()
    for source in (ROOT / "spdkthread").rglob("*.p[yx][xd]"):
        for groups in DEFINED.findall(source.read_text(encoding="utf-8")):
            names |= {name.lstrip("_") for name in groups if name}
    return names


@pytest.mark.parametrize("pattern", suppressed())
def test_a_suppression_is_of_a_function_that_there_is(defined, pattern):
    assert function_in(pattern) in defined | ELSEWHERE


def test_a_function_that_has_got_another_name_is_missed(defined):
    assert function_in("Reactor_*_no_such_thing") not in defined
    assert function_in("reactor_core_quiet_thread") not in defined
