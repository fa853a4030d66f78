"""The table from device to channel, against a dict."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdkthread.pointer_map import PointerMap

# Few keys, so that they come and go often; and addresses a cache line apart, as those of devices are.
KEYS = st.integers(1, 40).map(lambda number: 0x7F00_0000_0000 + 64 * number)


@given(st.lists(st.tuples(st.booleans(), KEYS), max_size=200))
def test_it_holds_what_a_dict_holds(steps):
    table, model = PointerMap(), {}
    for number, (put, key) in enumerate(steps, 1):
        if put and key not in model:
            table.put(key, number)
            model[key] = number
        elif not put:
            table.remove(key)
            model.pop(key, None)
        assert len(table) == len(model)
    for number in range(41):
        key = 0x7F00_0000_0000 + 64 * number
        assert table.get(key) == model.get(key, 0)


def test_many_keys_are_found_again_while_others_go():
    table = PointerMap()
    for key in range(1, 20_001):
        table.put(key * 16, key)
    for key in range(1, 20_001, 2):
        table.remove(key * 16)
    assert len(table) == 10_000
    assert all(table.get(key * 16) == (0 if key % 2 else key) for key in range(1, 20_001))


def test_an_empty_table_finds_nothing():
    table = PointerMap()
    table.remove(64)
    assert table.get(64) == 0
    assert len(table) == 0


def test_a_key_is_put_once_and_is_not_null():
    table = PointerMap()
    table.put(64, 1)
    with pytest.raises(ValueError):
        table.put(64, 2)
    with pytest.raises(ValueError):
        table.put(0, 1)
    assert table.get(64) == 1
