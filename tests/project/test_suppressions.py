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


CLASS = re.compile(r"^(?:cdef )?class (\w+)", re.M)


def parts_of(pattern):
    """Class and function in a pattern of a compiled one: ``Poller_9run_count___get__`` is `run_count` of `Poller`."""
    *owner, name = re.split(r"_\d+|_\*_", pattern.removesuffix("___get__"))
    return (owner[0] if owner else ""), name


@pytest.fixture(scope="module")
def defined():
    """Pairs of a class, or "", and the name of a function or attribute of it."""
    pairs = set()
    for source in (ROOT / "spdkthread").rglob("*.p[yx][xd]"):
        outside, *classes = CLASS.split(source.read_text(encoding="utf-8"))
        for owner, body in [("", outside), *zip(classes[::2], classes[1::2], strict=True)]:
            for groups in DEFINED.findall(body):
                pairs |= {(owner, name.lstrip("_")) for name in groups if name}
    return pairs


@pytest.mark.parametrize("pattern", suppressed())
def test_a_suppression_is_of_a_function_that_there_is(defined, pattern):
    owner, name = parts_of(pattern)
    assert (owner, name) in defined or name in ELSEWHERE


def test_a_function_that_has_got_another_name_or_class_is_missed(defined):
    assert parts_of("Poller_9run_count___get__") in defined
    for stale in ("Reactor_*_no_such_thing", "SpdkThread_*_polls_so_far", "reactor_core_quiet_thread"):
        assert parts_of(stale) not in defined
