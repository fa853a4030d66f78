"""Sleep and wake under senders without the GIL: the short form of ``verify/sleep_wake.py``."""

import random
import sys
from pathlib import Path

import pytest
from compiled import compiled

import verify
from spdkthread import ThreadLib

VERIFY = Path(verify.__file__).parent
FIGURES = ("sleeps", "wake-ups", "hops", "answers", "moves")


@pytest.fixture(scope="module")
def sleep_wake(tmp_path_factory):
    native = compiled("native", tmp_path_factory.mktemp("native"), VERIFY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "verify.native", native)
        patch.setattr(verify, "native", native, raising=False)
        patch.delitem(sys.modules, "verify.sleep_wake", raising=False)
        import verify.sleep_wake as module

        yield module
        sys.modules.pop("verify.sleep_wake", None)


@pytest.fixture
def searched(sleep_wake):
    def search(part, seed):
        figures, lib, choose = dict.fromkeys(FIGURES, 0), ThreadLib(), random.Random(seed)
        reactors = sleep_wake.sleepers(lib, choose)
        getattr(sleep_wake, part)(lib, reactors, choose, figures)
        sleep_wake.close(lib, reactors, figures)
        return figures

    return search


@pytest.mark.parametrize("seed", [1, 2])
def test_a_native_message_wakes_two_sleepers_in_turn(searched, seed):
    figures = searched("relay", seed)
    assert figures["hops"] >= 20_000
    assert figures["wake-ups"] > 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_native_senders_wake_a_sleeper_that_may_change_its_reactor(searched, seed):
    assert searched("senders", seed)["answers"] >= 5_000
