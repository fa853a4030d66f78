"""Clock rates of cores, on a directory that looks like the kernel's."""

import pytest

from spdkthread import ReactorError
from spdkthread.governor import CpufreqGovernor, GovernorError, adjust

RATES = "2000000 1500000 1000000"


def make_core(root, core, *, governor="performance", siblings=None, listed=True, highest=2000000):
    directory = root / f"cpu{core}" / "cpufreq"
    directory.mkdir(parents=True)
    topology = root / f"cpu{core}" / "topology"
    topology.mkdir()
    (topology / "thread_siblings_list").write_text(f"{core if siblings is None else siblings}\n")
    values = {
        "scaling_governor": governor,
        "scaling_max_freq": highest,
        "scaling_setspeed": 1500000 if governor == "userspace" else "<unsupported>",
        "cpuinfo_min_freq": 1000000,
        "cpuinfo_max_freq": highest,
    }
    if listed:
        values["scaling_available_frequencies"] = RATES
    for name, value in values.items():
        (directory / name).write_text(f"{value}\n")
    return directory


def test_steps_limits_and_what_was_there_before(tmp_path):
    directory = make_core(tmp_path, 0)
    with CpufreqGovernor([0], root=tmp_path) as governor:
        assert governor.available_khz(0) == (2000000, 1500000, 1000000)
        assert not governor.step_up(0)
        assert not governor.set_max(0)
        assert governor.step_down(0)
        assert governor.current_khz(0) == 1500000
        assert governor.set_min(0)
        assert governor.current_khz(0) == 1000000
        assert not governor.step_down(0)
        assert not governor.set_min(0)
        assert governor.step_up(0)
        assert governor.current_khz(0) == 1500000
        assert governor.capabilities(0) == (1000000, 2000000, False)
    assert (directory / "scaling_max_freq").read_text() == "2000000"
    governor.close()
    with pytest.raises(GovernorError, match="closed"):
        governor.current_khz(0)


def test_the_userspace_governor_is_given_the_rate_itself(tmp_path):
    directory = make_core(tmp_path, 0, governor="userspace")
    with CpufreqGovernor("0", root=tmp_path) as governor:
        assert governor.set_khz(0, 1000000)
        assert (directory / "scaling_setspeed").read_text() == "1000000"
    assert (directory / "scaling_setspeed").read_text() == "1500000"


def test_without_a_list_there_are_steps(tmp_path):
    make_core(tmp_path, 0, listed=False)
    with CpufreqGovernor([0], root=tmp_path) as governor:
        rates = governor.available_khz(0)
        assert rates[0] == 2000000
        assert rates[-1] == 1000000
        assert len(rates) == 8


def test_a_core_that_is_faster_than_others_has_priority(tmp_path):
    make_core(tmp_path, 0)
    make_core(tmp_path, 1, highest=3000000)
    with CpufreqGovernor([0, 1], root=tmp_path) as governor:
        assert [governor.capabilities(core).has_priority for core in (0, 1)] == [False, True]


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(GovernorError, match=r"core 5.*virtual machine") as refused:
        CpufreqGovernor([5], root=tmp_path)
    assert isinstance(refused.value, ReactorError)
    make_core(tmp_path, 0, siblings="0,4")
    with pytest.raises(GovernorError, match=r"shares its clock with \[4\]"):
        CpufreqGovernor([0], root=tmp_path)
    make_core(tmp_path, 1)
    with CpufreqGovernor([1], root=tmp_path) as governor:
        with pytest.raises(GovernorError, match="core 0 is not one"):
            governor.set_max(0)
        with pytest.raises(ValueError, match="1234"):
            governor.set_khz(1, 1234)


def test_what_the_kernel_refuses_is_said(tmp_path):
    directory = make_core(tmp_path, 0)
    with CpufreqGovernor([0], root=tmp_path) as governor:
        (directory / "scaling_max_freq").unlink()
        (directory / "scaling_max_freq").mkdir()
        with pytest.raises(GovernorError, match="core 0"):
            governor.set_min(0)
        with pytest.raises(GovernorError, match="given back"):
            governor.close()


@pytest.mark.parametrize(
    ("busy", "rate"), [(0, 1000000), (0.9, 1000000), (30, 1500000), (70, 2000000), (99, 2000000), (100, 2000000)]
)
def test_a_core_is_clocked_by_its_load(tmp_path, busy, rate):
    make_core(tmp_path, 0)
    with CpufreqGovernor([0], root=tmp_path) as governor:
        adjust(governor, 0, busy)
        assert governor.current_khz(0) == rate
