"""JSON values are cut out of a stream that has no frames."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdkthread.rpc.framing import MAX_DEPTH, MalformedError, Splitter, count_values, parse

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
CONTAINERS = st.lists(VALUES) | st.dictionaries(st.text(), VALUES) | st.text()


def texts(splitter):
    found = []
    while (text := splitter.next()) is not None:
        found.append(text)
    return found


@given(st.lists(CONTAINERS, max_size=5), st.booleans(), st.integers(1, 7), st.sampled_from([b"", b"\n", b" \r\n\t"]))
def test_values_come_out_however_the_stream_is_cut(values, indented, step, between):
    stream = between.join(json.dumps(value, indent=2 if indented else None).encode() for value in values)
    splitter = Splitter()
    found = []
    for begin in range(0, len(stream), step):
        splitter.feed(stream[begin : begin + step])
        found += texts(splitter)
    assert [parse(text) for text in found] == values
    assert len(splitter) == 0


def test_a_number_is_whole_when_something_follows():
    splitter = Splitter()
    splitter.feed(b"12")
    assert splitter.next() is None
    splitter.feed(b"3 ")
    assert splitter.next() == b"123"


@pytest.mark.parametrize("stream", [b"}", b"{]", b"[}", b",", b"// a comment\n{}", b"\xff\xfe", b"[" * (MAX_DEPTH + 1)])
def test_what_cannot_become_json_is_refused_at_once(stream):
    splitter = Splitter()
    splitter.feed(stream)
    with pytest.raises(MalformedError):
        texts(splitter)


@pytest.mark.parametrize(
    "text", [b"{'a': 1}", b'{"a": NaN}', b"[1,]", b'{"a" 1}', b'["\xff"]', b"[" + b"9" * 5000 + b"]"]
)
def test_what_is_not_json_by_the_letter_is_refused(text):
    with pytest.raises(MalformedError):
        parse(text)


def test_an_object_knows_that_a_name_came_twice():
    assert parse(b'{"a": 1, "a": 2}').repeated
    assert not parse(b'{"a": 1, "b": 2}').repeated


def test_values_are_counted_as_spdk_counts_them():
    poller = {"name": "x", "id": 1, "state": "waiting", "run_count": 1, "busy_count": 0}
    assert count_values(parse(json.dumps(poller).encode())) == 12
    assert count_values(parse(b"[1, [2, 3], {}]")) == 9
