"""A few programs of each state machine of `tests/long`; `make verify` runs many."""

import pytest
import test_channel_model
import test_model_placement
import test_model_ring_and_timers
import test_model_threads
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

MACHINES = [
    test_model_ring_and_timers.Ring,
    test_model_ring_and_timers.Timers,
    test_model_threads.Library,
    test_channel_model.Channels,
    test_model_placement.Placement,
    test_model_placement.LivePlacement,
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.__name__)
def test_it_does_what_its_model_does(machine):
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=40))


def test_ten_thousand_timers_expire_in_the_order_of_their_deadlines():
    test_model_ring_and_timers.check_many_timers(10_000)
