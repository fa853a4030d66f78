"""The clock rates of cores: an interface, and one implementation of it over the kernel's cpufreq files."""

import abc
import re
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from spdkthread.cores import parse_cores
from spdkthread.errors import ReactorError

__all__ = ["Capabilities", "CpufreqGovernor", "Governor", "GovernorError", "adjust"]

# Without a list from the driver: so many steps between the lowest and the highest rate.
STEPS = 8


class GovernorError(ReactorError):
    """The clock rate of a core cannot be read or set; it says why and what would help."""


class Capabilities(NamedTuple):
    """What a core's clock can do."""

    min_khz: int
    max_khz: int
    has_priority: bool
    """It reaches rates that the others do not."""


class Governor(abc.ABC):
    """Reads and sets the clock rates of cores. Rates are in kHz.

    Setting tells whether it changed anything; the limit reached is no error.

    Notes
    -----
    **Thread safety:** one OS thread at a time. Answers to ``struct spdk_governor``.
    """

    name: str

    @abc.abstractmethod
    def available_khz(self, core: int) -> tuple[int, ...]:
        """The rates that the core can be set to, highest first."""

    @abc.abstractmethod
    def current_khz(self, core: int) -> int:
        """The rate that the core is set to, or runs at."""

    @abc.abstractmethod
    def set_khz(self, core: int, khz: int) -> bool:
        """Set the core to one of `available_khz`; whether that changed anything."""

    @abc.abstractmethod
    def capabilities(self, core: int) -> Capabilities:
        """What the core's clock can do."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give the clocks back as they were found. A second call does nothing."""

    def step_up(self, core: int) -> bool:
        """To the next higher rate. False: it has the highest."""
        higher = [khz for khz in self.available_khz(core) if khz > self.current_khz(core)]
        return bool(higher) and self.set_khz(core, min(higher))

    def step_down(self, core: int) -> bool:
        """To the next lower rate. False: it has the lowest."""
        lower = [khz for khz in self.available_khz(core) if khz < self.current_khz(core)]
        return bool(lower) and self.set_khz(core, max(lower))

    def set_max(self, core: int) -> bool:
        """To the highest rate. False: it has it."""
        return self.set_khz(core, max(self.available_khz(core)))

    def set_min(self, core: int) -> bool:
        """To the lowest rate. False: it has it."""
        return self.set_khz(core, min(self.available_khz(core)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CpufreqGovernor(Governor):
    """Clock rates by the files below ``/sys/devices/system/cpu/cpu*/cpufreq``.

    With the kernel's ``userspace`` governor it sets the rate itself, with any other the upper limit of what that
    governor chooses. Needs the right to write there, which is root's as a rule.

    Parameters
    ----------
    cores : iterable of int or str
        Numbers, ``"0-3,6"`` or ``"0x4f"``. Two hardware threads of one core share a clock, so both must be among them.
    root : path, default "/sys/devices/system/cpu"

    Raises
    ------
    GovernorError
        When the kernel offers no clock rates (in most virtual machines), they may not be written, or a core's other
        hardware thread is not among the cores. Nothing is changed then.

    Notes
    -----
    **Thread safety:** one OS thread at a time. Answers to SPDK's ``dpdk_governor``.
    """

    name = "cpufreq"

    def __init__(self, cores: Iterable[int] | str, *, root: str | Path = "/sys/devices/system/cpu") -> None:
        self._root = Path(root)
        self._before: dict[int, tuple[str, str]] = {}
        self.cores = frozenset(parse_cores(cores))
        for core in sorted(self.cores):
            self._examine(core)
        for core in sorted(self.cores):
            file = self._file(core)
            self._before[core] = (file, self._read(core, file))

    def _examine(self, core: int) -> None:
        path = self._path(core, "scaling_max_freq")
        if not path.exists():
            raise GovernorError(
                f"the kernel offers no clock rate of core {core}: there is no {path}. A virtual machine's clocks are "
                "its host's; elsewhere a cpufreq driver has to be loaded"
            )
        siblings = self._root / f"cpu{core}" / "topology" / "thread_siblings_list"
        if siblings.exists():
            missing = sorted(frozenset(parse_cores(siblings.read_text().strip())) - self.cores)
            if missing:
                raise GovernorError(
                    f"core {core} shares its clock with {missing}, of which this governor has none: give it both"
                )
        try:
            # What stands there already, so nothing changes.
            file = self._file(core)
            self._path(core, file).write_text(self._read(core, file))
        except OSError as error:
            raise GovernorError(f"the clock rate of core {core} may not be set: {error}. Run it as root") from None

    def _path(self, core: int, file: str) -> Path:
        return self._root / f"cpu{core}" / "cpufreq" / file

    def _read(self, core: int, file: str) -> str:
        try:
            return self._path(core, file).read_text().strip()
        except OSError as error:
            raise GovernorError(f"the clock rate of core {core} cannot be read: {error}") from None

    def _number(self, core: int, file: str) -> int:
        text = self._read(core, file)
        if not re.fullmatch(r"\d+", text):
            raise GovernorError(f"{self._path(core, file)} has {text!r} where a rate in kHz was expected")
        return int(text)

    def _file(self, core: int) -> str:
        governor = self._path(core, "scaling_governor")
        by_user = governor.exists() and governor.read_text().strip() == "userspace"
        return "scaling_setspeed" if by_user else "scaling_max_freq"

    def _check(self, core: int) -> None:
        if core not in self.cores:
            raise GovernorError(f"core {core} is not one of this governor's, which are {sorted(self.cores)}")
        if not self._before:
            raise GovernorError("this governor is closed")

    def available_khz(self, core: int) -> tuple[int, ...]:
        """The driver's list, or steps between the lowest and the highest rate where it has none."""
        self._check(core)
        if self._path(core, "scaling_available_frequencies").exists():
            listed = {int(word) for word in self._read(core, "scaling_available_frequencies").split()}
            if listed:
                return tuple(sorted(listed, reverse=True))
        low, high, _ = self.capabilities(core)
        return tuple(sorted({low + (high - low) * step // (STEPS - 1) for step in range(STEPS)}, reverse=True))

    def current_khz(self, core: int) -> int:
        """The rate, or its upper limit where the kernel's own governor chooses below that."""
        self._check(core)
        return self._number(core, self._file(core))

    def set_khz(self, core: int, khz: int) -> bool:
        """As `Governor.set_khz`.

        Raises
        ------
        GovernorError
            When the core is none of its cores, or the kernel refuses.
        ValueError
            When `khz` is not one of `available_khz`.
        """
        available = self.available_khz(core)
        if khz not in available:
            raise ValueError(f"core {core} has no rate of {khz!r} kHz, but {available}")
        if self.current_khz(core) == khz:
            return False
        try:
            self._path(core, self._file(core)).write_text(str(khz))
        except OSError as error:
            raise GovernorError(f"the kernel refuses {khz} kHz for core {core}: {error}") from None
        return True

    def capabilities(self, core: int) -> Capabilities:
        """Its limits, and whether it reaches more than the slowest of the governor's cores."""
        self._check(core)
        highest = self._number(core, "cpuinfo_max_freq")
        slowest = min(self._number(other, "cpuinfo_max_freq") for other in self.cores)
        return Capabilities(self._number(core, "cpuinfo_min_freq"), highest, highest > slowest)

    def close(self) -> None:
        """Set every core to what it had when the governor was made."""
        before, self._before = self._before, {}
        failed = []
        for core, (file, value) in before.items():
            try:
                self._path(core, file).write_text(value)
            except OSError as error:
                failed.append(f"core {core}: {error}")
        if failed:
            raise GovernorError(f"not every clock rate could be given back: {'; '.join(failed)}")


def adjust(governor: Governor, core: int, busy_percent: float) -> bool:
    """Set a core's clock by its load: below 1 % the lowest rate, below 50 % one step down, from 99 % on the highest,
    otherwise one step up; whether that changed anything.

    For a period's share of ``busy_ticks`` in `Reactor.stats`. Answers to one core of SPDK's ``gscheduler``.
    """
    if busy_percent < 1:
        return governor.set_min(core)
    if busy_percent < 50:
        return governor.step_down(core)
    if busy_percent >= 99:
        return governor.set_max(core)
    return governor.step_up(core)
