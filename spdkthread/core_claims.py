"""Claims of cores by lock files, so that two programs that spin do not take one core without knowing of each other.

The files are SPDK's: a core that an SPDK application has claimed is refused here, and the other way round. The lock is
a record lock of the kernel's, which ends with its process however that ends, so a file that is left over claims
nothing.
"""

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from spdkthread.cores import parse_cores
from spdkthread.errors import ReactorError
from spdkthread.forks import ReentrantLock

__all__ = ["CoreClaims", "CoreInUseError"]

DIRECTORY = "/var/tmp"
_PID = struct.Struct("i")

# A record lock does not keep its own process out, and closing any descriptor of the file ends it.
_claimed: set[str] = set()
_lock = ReentrantLock()


class CoreInUseError(ReactorError):
    """Another program has claimed a core."""


class CoreClaims:
    """Cores that this process has for itself among the programs that claim theirs.

    Parameters
    ----------
    cores : iterable of int or str
        Numbers, ``"0-3,6"`` or ``"0x4f"``.
    directory : str, default "/var/tmp"
        Where the files ``spdk_cpu_lock_NNN`` are.

    Raises
    ------
    CoreInUseError
        When one is claimed already; it names the process. None is claimed then.
    OSError
        When the files cannot be made.

    Notes
    -----
    The child of a fork has no claims: they stay with the parent.

    **Thread safety:** any OS thread. Answers to ``spdk_app_opts.disable_cpumask_locks`` and the lock files of SPDK's
    reactors.
    """

    def __init__(self, cores: Iterable[int] | str, *, directory: str = DIRECTORY) -> None:
        self.cores = parse_cores(cores)
        self._directory = directory
        self._held: dict[str, int] = {}
        self._pid = os.getpid()
        self.claim()

    def __repr__(self) -> str:
        return f"<CoreClaims of cores {sorted(self.cores)}{'' if self.is_claimed else ', released'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @property
    def is_claimed(self) -> bool:
        """Whether this process has them now."""
        return bool(self._held) and self._pid == os.getpid()

    def claim(self) -> None:
        """Claim all of them, or raise and claim none. When they are claimed it does nothing."""
        with _lock:
            if self.is_claimed:
                return
            self._pid, self._held = os.getpid(), {}
            try:
                for core in sorted(self.cores):
                    self._claim_one(core)
            except BaseException:
                self._release()
                raise

    def _claim_one(self, core: int) -> None:
        path = os.path.join(self._directory, f"spdk_cpu_lock_{core:03d}")
        if path in _claimed:
            raise CoreInUseError(f"core {core} is claimed by this process already")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(fd, _PID.pack(os.getpid()), 0)
        except BlockingIOError:
            owner = os.pread(fd, _PID.size, 0)
            os.close(fd)
            who = f"process {_PID.unpack(owner)[0]}" if len(owner) == _PID.size else "another process"
            raise CoreInUseError(
                f"core {core} is claimed by {who}: end that, or choose other cores ({path} is the lock)"
            ) from None
        except BaseException:
            os.close(fd)
            raise
        self._held[path] = fd
        _claimed.add(path)

    def release(self) -> None:
        """Give them up. A second call does nothing."""
        with _lock:
            self._release()

    def _release(self) -> None:
        held, self._held = self._held, {}
        for path, fd in held.items():
            if self._pid == os.getpid():
                # While the lock is held: a file that another process has opened meanwhile is not removed under it.
                with contextlib.suppress(OSError):
                    os.unlink(path)
                _claimed.discard(path)
            os.close(fd)


os.register_at_fork(after_in_child=_claimed.clear)
