"""The methods that SPDK has as well, with its names, parameters and results: its own tools work with them.

spdk_top refuses an object with one member more or less than it knows, so what only this library has stands in
``own_methods``.
"""

import contextlib
import errno
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from spdkthread._version import __version__
from spdkthread.clock import TICKS_HZ
from spdkthread.core_claims import CoreClaims, CoreInUseError
from spdkthread.cores import parse_cores
from spdkthread.governor import GovernorError
from spdkthread.group import ReactorGroup
from spdkthread.reactor_registry import available_cores
from spdkthread.rpc.decode import Param, boolean, rpc_method, string, unsigned
from spdkthread.rpc.errors import INTERNAL_ERROR, WRONG_STATE, RpcError, invalid_params
from spdkthread.rpc.gather import Gather, PollerView, ReactorView, ThreadView
from spdkthread.rpc.machine import context_switches, irq_jiffies, numa_node, task_times
from spdkthread.rpc.server import Method, Server, add_table
from spdkthread.scheduler import DynamicScheduler, StaticScheduler

__all__ = ["METHODS", "read_reactors", "read_threads"]

logger = logging.getLogger("spdkthread.rpc")

METHODS: list[Method] = []

_u8, _u32, _u64 = unsigned(8), unsigned(32), unsigned(64)


def _method(name: str, params: dict[str, Param] | None = None, **kw: Any) -> Callable[..., Any]:
    return rpc_method(METHODS, name, params, **kw)


def _future_of(
    begin: Callable[[Callable[[Any], object]], Gather], server: Server, write: Callable[[Any], Any]
) -> Future:
    """The Future of ``write(views)`` once what `begin` reads is there."""
    future: Future = Future()

    def complete(views: Any) -> None:
        try:
            future.set_result(write(views))
        except Exception as error:
            future.set_exception(error)

    gather = begin(complete)
    server._running.at(gather.deadline, gather.give_up)
    return future


def read_threads(server: Server, write: Callable[[list[ThreadView]], Any]) -> Future:
    """The Future of what `write` makes of all threads."""
    return _future_of(server._running.gatherer.threads, server, write)


def read_reactors(server: Server, write: Callable[[list[ReactorView]], Any]) -> Future:
    """The Future of what `write` makes of all reactors."""
    return _future_of(server._running.gatherer.reactor_views, server, write)


def mask_in_hex(cpumask: Iterable[int] | None) -> str:
    """A set of cores as SPDK writes it: those of them that the process has, in hexadecimal without prefix."""
    allowed = available_cores()
    cores = allowed if cpumask is None else allowed & set(cpumask)
    return f"{sum(1 << core for core in cores):x}"


# The server itself


@_method(
    "rpc_get_methods",
    {"current": Param(boolean, optional=True), "include_aliases": Param(boolean, optional=True)},
    states="SR",
)
def rpc_get_methods(server: Server, current: bool = False, include_aliases: bool = False) -> list[str]:
    return server.method_names(current_only=current, include_aliases=include_aliases)


@_method("spdk_get_version", states="SR")
def spdk_get_version(server: Server) -> dict[str, Any]:
    numbers, _, suffix = __version__.partition("+")
    parts = [int("".join(filter(str.isdigit, part)) or 0) for part in numbers.split(".")] + [0, 0, 0]
    return {
        "version": f"spdkthread v{__version__}",
        "fields": {"major": parts[0], "minor": parts[1], "patch": parts[2], "suffix": suffix and f"+{suffix}"},
    }


_SIGNALS = ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGKILL", "SIGUSR1")


@_method("spdk_kill_instance", {"sig_name": Param(string)})
def spdk_kill_instance(server: Server, sig_name: str) -> bool:
    name = sig_name.upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    if name not in _SIGNALS:
        raise invalid_params(f"Invalid parameters: the signal must be one of {', '.join(_SIGNALS)}")
    os.kill(os.getpid(), getattr(signal, name))
    return True


@_method("framework_start_init", states="S")
def framework_start_init(server: Server) -> Future:
    startup = server.startup
    assert startup is not None  # the method may be called in that state only
    answer: Future = Future()
    if startup.begun:
        raise RpcError(WRONG_STATE, "The framework is being initialized already")
    startup.begun = True

    def finish(error: BaseException | None) -> None:
        if error is not None:
            startup.begun = False
            logger.error("%r: the framework cannot be initialized", server, exc_info=error)
            answer.set_exception(RpcError(INTERNAL_ERROR, f"framework_initialization failed: {error}"))
            return
        server.startup = None
        answer.set_result(True)
        startup.initialized.set_result(True)

    try:
        under_way = startup.initialize()
    except Exception as error:
        finish(error)
        return answer
    if under_way is None:
        finish(None)
    else:
        post = server._running.post
        under_way.add_done_callback(lambda done: post(lambda: finish(done.exception())))
    return answer


@_method("framework_wait_init", ignore_params=True, states="SR")
def framework_wait_init(server: Server) -> bool | Future:
    if server.startup is None:
        return True
    answer: Future = Future()
    server.startup.initialized.add_done_callback(lambda done: answer.set_result(True))
    return answer


# Threads


@_method("thread_get_stats")
def thread_get_stats(server: Server) -> Future:
    return read_threads(
        server, lambda views: {"tick_rate": TICKS_HZ, "threads": [_thread_stats(view) for view in views]}
    )


def _thread_stats(view: ThreadView) -> dict[str, Any]:
    paused = sum(one.state == "paused" for one in view.pollers)
    timed = sum(one.state != "paused" and one.period_ticks > 0 for one in view.pollers)
    return {
        "name": view.name,
        "id": view.id,
        "cpumask": mask_in_hex(view.cpumask),
        "busy": view.stats.busy_ticks,
        "idle": view.stats.idle_ticks,
        "active_pollers_count": len(view.pollers) - paused - timed,
        "timed_pollers_count": timed,
        "paused_pollers_count": paused,
    }


@_method("thread_get_pollers")
def thread_get_pollers(server: Server) -> Future:
    return read_threads(
        server, lambda views: {"tick_rate": TICKS_HZ, "threads": [_thread_pollers(view) for view in views]}
    )


def _thread_pollers(view: ThreadView) -> dict[str, Any]:
    kinds: dict[str, list[dict[str, Any]]] = {"active_pollers": [], "timed_pollers": [], "paused_pollers": []}
    for one in view.pollers:
        if one.state == "paused":
            kinds["paused_pollers"].append(_poller(one))
        else:
            kinds["timed_pollers" if one.period_ticks else "active_pollers"].append(_poller(one))
    return {"name": view.name, "id": view.id, **kinds}


def _poller(view: PollerView) -> dict[str, Any]:
    written: dict[str, Any] = {
        "name": view.name,
        "id": view.id,
        "state": view.state,
        "run_count": view.run_count,
        "busy_count": view.busy_count,
    }
    if view.period_ticks:
        written["period_ticks"] = view.period_ticks
    return written


@_method("thread_get_io_channels")
def thread_get_io_channels(server: Server) -> Future:
    def write(views: list[ThreadView]) -> dict[str, Any]:
        threads = [
            {"name": view.name, "io_channels": [{"name": one.name, "ref": one.ref_count} for one in view.channels]}
            for view in views
        ]
        return {"tick_rate": TICKS_HZ, "threads": threads}

    return read_threads(server, write)


@_method("thread_set_cpumask", {"id": Param(_u64), "cpumask": Param(string)})
def thread_set_cpumask(server: Server, id: int, cpumask: str) -> Future:
    thread = server.lib.get_thread_by_id(id)
    if thread is None:
        raise invalid_params(f"Thread {id} does not exist")
    try:
        cores = _read_mask(cpumask)
    except ValueError:
        raise RpcError(INTERNAL_ERROR, f"Invalid cpumask {cpumask}") from None
    if not cores & {one.core for one in server._running.gatherer.reactors()}:
        raise RpcError(INTERNAL_ERROR, f"No reactor is on a core of the mask {cpumask}")
    done: Future = Future()

    def finish(placed: Future) -> None:
        error = placed.exception()
        if error is None:
            done.set_result(True)
        else:
            done.set_exception(error)

    thread.set_cpumask(cores).add_done_callback(finish)
    return done


def _read_mask(text: str) -> frozenset[int]:
    """Hexadecimal with or without prefix and with commas, or ``[0,2-3]``."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        return parse_cores(text[1:-1])
    mask = int(text.replace(",", ""), 16)
    if mask < 0 or mask.bit_length() > 4096:
        raise ValueError(text)
    return frozenset(core for core in range(mask.bit_length()) if mask >> core & 1)


# Reactors


@_method("framework_get_reactors")
def framework_get_reactors(server: Server) -> Future:
    return read_reactors(
        server,
        lambda views: {
            "tick_rate": TICKS_HZ,
            "pid": os.getpid(),
            "reactors": [_reactor(server, view) for view in views],
        },
    )


def _reactor(server: Server, view: ReactorView) -> dict[str, Any]:
    times = task_times(view.tid) if view.tid else None
    irq = irq_jiffies(view.core)
    irq_before = server._running.state.setdefault(f"irq {view.core}", irq)
    return {
        "lcore": view.lcore,
        "numa_id": numa_node(view.core),
        "tid": view.tid,
        "busy": view.stats.busy_ticks,
        "idle": view.stats.idle_ticks,
        "in_interrupt": view.idle == "adaptive",
        # The reactor's own, not the core's: the core has other work too.
        "irq": max(0, irq - irq_before),
        "sys": times.sys if times else 0,
        "usr": times.usr if times else 0,
        **_core_freq(server, view.core),
        "lw_threads": [
            {"name": name, "id": id, "cpumask": mask_in_hex(cpumask), "elapsed": elapsed}
            for id, name, cpumask, elapsed in view.threads
        ],
    }


def _core_freq(server: Server, core: int) -> dict[str, int]:
    """In MHz, where there is a governor and the core is one of its cores; spdk_top takes it for N/A otherwise."""
    if server.governor is None:
        return {}
    try:
        return {"core_freq": server.governor.current_khz(core) // 1000}
    except GovernorError:
        return {}


@_method("framework_monitor_context_switch", {"enabled": Param(boolean, optional=True)})
def framework_monitor_context_switch(server: Server, enabled: bool | None = None) -> dict[str, bool]:
    """Log once a second which reactors were taken off their cores since the last time."""
    state = server._running.state
    if enabled is not None and enabled != state.get("monitor_context_switch", False):
        state["monitor_context_switch"] = enabled
        if enabled:
            state["context_switches"] = _switches_by_name(server)
            server._running.at(time.monotonic() + 1.0, lambda: _tell_context_switches(server))
    return {"enabled": state.get("monitor_context_switch", False)}


def _switches_by_name(server: Server) -> dict[str, tuple[int, int]]:
    reactors = [(one.name, one.tid) for one in server._running.gatherer.reactors()]
    return {name: context_switches(tid) for name, tid in reactors if tid}


def _tell_context_switches(server: Server) -> None:
    loop = server._loop
    if loop is None or not loop.state.get("monitor_context_switch"):
        return
    before, now = loop.state["context_switches"], _switches_by_name(server)
    for name, (_, taken) in now.items():
        if name in before and taken > before[name][1]:
            logger.info("reactor %r was taken off its core %d times in the last second", name, taken - before[name][1])
    loop.state["context_switches"] = now
    loop.at(time.monotonic() + 1.0, lambda: _tell_context_switches(server))


# The scheduler


def _groups(server: Server) -> list[ReactorGroup]:
    groups: list[ReactorGroup] = []
    for reactor in server._running.gatherer.reactors():
        group = reactor._group
        if group is not None and not any(group is one for one in groups):
            groups.append(group)
    return groups


def _mappings(text: str) -> dict[int, int]:
    pairs = [pair.split(":") for pair in text.split(",") if pair]
    return {int(thread_id): int(core) for thread_id, core in pairs}


@_method(
    "framework_set_scheduler",
    {
        "name": Param(string),
        "period": Param(_u64, optional=True),
        "load_limit": Param(_u8, optional=True),
        "core_limit": Param(_u8, optional=True),
        "core_busy": Param(_u8, optional=True),
        "mappings": Param(string, optional=True),
    },
    states="SR",
)
def framework_set_scheduler(
    server: Server, name: str, period: int = 0, mappings: str | None = None, **limits: int
) -> bool:
    groups = _groups(server) if server.startup is None else []
    if not groups and server.startup is None:
        raise RpcError(INTERNAL_ERROR, "There is no ReactorGroup whose threads a scheduler could move")
    if name not in ("static", "dynamic"):
        raise RpcError(INTERNAL_ERROR, f"No scheduler is called {name!r}: there are 'static' and 'dynamic'")
    if (limits and name != "dynamic") or (mappings is not None and name != "static"):
        raise RpcError(INTERNAL_ERROR, f"The scheduler {name!r} has no such options")
    try:
        places = _mappings(mappings or "")
    except ValueError:
        raise invalid_params("Invalid parameters: mappings are 'thread:core,thread:core'") from None
    if server.startup is not None:
        scheduler = StaticScheduler() if name == "static" else DynamicScheduler(**limits)
        server.startup.options["framework_set_scheduler"] = {
            "scheduler": scheduler,
            "period": period,
            "first_cores": places,
        }
    for group in groups:
        if period:
            group.period_us = period
        group._first_cores.update(places)
        group.scheduler = StaticScheduler() if name == "static" else DynamicScheduler(**limits)
    return True


@_method(
    "scheduler_set_options",
    {"scheduling_core": Param(_u32, optional=True), "isolated_core_mask": Param(string, optional=True)},
    states="S",
)
def scheduler_set_options(
    server: Server, scheduling_core: int | None = None, isolated_core_mask: str | None = None
) -> bool:
    assert server.startup is not None
    options = server.startup.options.setdefault("scheduler_set_options", {})
    if isolated_core_mask is not None:
        try:
            isolated = _read_mask(isolated_core_mask)
        except ValueError:
            raise RpcError(INTERNAL_ERROR, f"Invalid cpumask {isolated_core_mask}") from None
        core = options.get("scheduling_core") if scheduling_core is None else scheduling_core
        if core in isolated:
            raise RpcError(INTERNAL_ERROR, f"The scheduling core {core} cannot be isolated")
        options["isolated"] = isolated
    if scheduling_core is not None:
        if scheduling_core not in available_cores():
            raise RpcError(INTERNAL_ERROR, f"Core {scheduling_core} is not available")
        options["scheduling_core"] = scheduling_core
    return True


@_method("framework_get_scheduler", states="SR")
def framework_get_scheduler(server: Server) -> dict[str, Any]:
    groups = _groups(server)
    cores = [one.core for one in server._running.gatherer.reactors()]
    scheduler: Any = groups[0].scheduler if groups else StaticScheduler()
    answer = {
        "scheduler_name": _scheduler_name(scheduler),
        "scheduler_period": int(groups[0].period_us) if groups else 0,
        "isolated_core_mask": mask_in_hex(groups[0].isolated if groups else ()),
        "scheduling_core": min(groups[0][core].core for core in groups[0]._reactors)
        if groups
        else min(cores, default=0),
    }
    if server.governor is not None:
        answer["governor_name"] = server.governor.name
    if isinstance(scheduler, DynamicScheduler):
        for limit in ("load_limit", "core_limit", "core_busy"):
            answer[limit] = int(getattr(scheduler, limit))
    return answer


def _scheduler_name(scheduler: Any) -> str:
    if isinstance(scheduler, StaticScheduler):
        return "static"
    return "dynamic" if isinstance(scheduler, DynamicScheduler) else type(scheduler).__name__


@_method("framework_get_governor")
def framework_get_governor(server: Server) -> dict[str, Any]:
    governor = server.governor
    if governor is None:
        return {}
    cores = sorted({one.core for one in server._running.gatherer.reactors()})
    shown = []
    for core in cores:
        try:
            available, current = list(governor.available_khz(core)), governor.current_khz(core)
        except GovernorError:
            continue  # none of this governor's cores
        shown.append({"lcore_id": core, "available_frequencies": available, "current_frequency": current})
    return {"governor_name": governor.name, "module_specific": {"env": governor.name}, "cores": shown}


# The framework


def _subsystems(server: Server) -> dict[str, list[str]]:
    subsystems = {"thread": [], "reactor": ["thread"], "scheduler": ["reactor"]}
    if _iobuf_pools(server):
        subsystems["iobuf"] = ["thread"]
    return subsystems


@_method("framework_get_subsystems")
def framework_get_subsystems(server: Server) -> list[dict[str, Any]]:
    return [{"subsystem": name, "depends_on": needed} for name, needed in _subsystems(server).items()]


@_method("framework_get_config", {"name": Param(string), "with_batches": Param(boolean, optional=True)})
def framework_get_config(server: Server, name: str, with_batches: bool = False) -> list[dict[str, Any]]:
    if name not in _subsystems(server):
        raise invalid_params(f"Subsystem {name!r} not found")
    if name == "scheduler" and _groups(server):
        return _scheduler_config(server)
    if name == "iobuf":
        pool = _iobuf_pools(server)[0]
        params = {
            "small_pool_count": pool.small_count,
            "large_pool_count": pool.large_count,
            "small_bufsize": pool.small_size,
            "large_bufsize": pool.large_size,
        }
        return [{"method": "iobuf_set_options", "params": params}]
    return []


def _scheduler_config(server: Server) -> list[dict[str, Any]]:
    now = framework_get_scheduler(server)
    config = []
    if now["isolated_core_mask"] != "0":
        params = {"scheduling_core": now["scheduling_core"], "isolated_core_mask": now["isolated_core_mask"]}
        config.append({"method": "scheduler_set_options", "params": params})
    params = {"name": now["scheduler_name"], "period": now["scheduler_period"]}
    params |= {limit: now[limit] for limit in ("load_limit", "core_limit", "core_busy") if limit in now}
    return [*config, {"method": "framework_set_scheduler", "params": params}]


@_method("framework_get_pci_devices")
def framework_get_pci_devices(server: Server) -> list[Any]:
    return []


@_method("framework_enable_cpumask_locks")
def framework_enable_cpumask_locks(server: Server) -> bool:
    try:
        if server.core_claims is not None:
            server.core_claims.claim()
        elif cores := {one.core for one in server._running.gatherer.reactors()}:
            server.core_claims = CoreClaims(cores)
    except (CoreInUseError, OSError) as error:
        raise RpcError(INTERNAL_ERROR, f"Failed to claim CPU core: {error}") from None
    return True


@_method("framework_disable_cpumask_locks")
def framework_disable_cpumask_locks(server: Server) -> bool:
    if server.core_claims is not None:
        server.core_claims.release()
    return True


# Buffers


def _iobuf_pools(server: Server) -> list[Any]:
    # By name: a program without buffers need not load their module.
    return [one for one in server.lib.devices if any(base.__name__ == "IoBufPool" for base in type(one).__mro__)]


@_method(
    "iobuf_set_options",
    {
        "small_pool_count": Param(_u64, optional=True),
        "large_pool_count": Param(_u64, optional=True),
        "small_bufsize": Param(_u32, optional=True),
        "large_bufsize": Param(_u32, optional=True),
        "enable_numa": Param(boolean, optional=True),
    },
    states="S",
)
def iobuf_set_options(server: Server, enable_numa: bool = False, **given: int) -> bool:
    if enable_numa:
        raise RpcError(-errno.ENOTSUP, "A pool has no part of its own for each NUMA node")
    if not all(given.values()):
        raise RpcError(-errno.EINVAL, "Counts and sizes of buffers must be above 0")
    names = {
        "small_pool_count": "small_count",
        "large_pool_count": "large_count",
        "small_bufsize": "small_size",
        "large_bufsize": "large_size",
    }
    assert server.startup is not None
    server.startup.options["iobuf_set_options"] = {names[name]: value for name, value in given.items()}
    return True


@_method("iobuf_get_stats", ignore_params=True)
def iobuf_get_stats(server: Server) -> Future:
    waiting = _iobuf_pools(server)
    modules: list[dict[str, Any]] = []
    done: Future = Future()

    def ask_next() -> None:
        if waiting:
            waiting.pop(0).stats().add_done_callback(note)
        else:
            done.set_result(modules)

    def note(stats: Future) -> None:
        try:
            modules.extend(_iobuf_module(name, counts) for name, counts in stats.result().items())
            ask_next()
        except Exception as error:
            done.set_exception(error)

    ask_next()
    return done


def _iobuf_module(name: str, counts: dict[str, Any]) -> dict[str, Any]:
    fields = ("cache", "main", "retry", "cache_size")
    pools = {f"{size}_pool": {field: counts[size][field] for field in fields} for size in ("small", "large")}
    return {"module": name, **pools}


# Logs. The logger "spdkthread" is what SPDK calls the log; the loggers below it are its flags.

logging.addLevelName(25, "NOTICE")
_LEVELS = {"ERROR": 40, "WARNING": 30, "NOTICE": 25, "INFO": 20, "DEBUG": 10}


def _level(value: Any) -> str:
    if not isinstance(value, str) or value.upper() not in _LEVELS:
        raise RpcError(INTERNAL_ERROR, f"A level is one of {', '.join(_LEVELS)}")
    return value.upper()


def _name_of_level(level: int) -> str:
    return next((name for name, least in _LEVELS.items() if level >= least), "DEBUG")


def _root() -> logging.Logger:
    return logging.getLogger("spdkthread")


@_method("log_set_level", {"level": Param(_level)}, states="SR")
def log_set_level(server: Server, level: str) -> bool:
    _root().setLevel(_LEVELS[level])
    return True


@_method("log_get_level", states="SR")
def log_get_level(server: Server) -> str:
    return _name_of_level(_root().getEffectiveLevel())


def _handlers() -> list[logging.Handler]:
    """Those that print what the logger gets, as `logging` looks for them."""
    handlers: list[logging.Handler] = []
    one: logging.Logger | None = _root()
    while one is not None:
        handlers += one.handlers
        one = one.parent if one.propagate else None
    if not handlers and logging.lastResort is not None:
        handlers = [logging.lastResort]
    return handlers


@_method("log_set_print_level", {"level": Param(_level)}, states="SR")
def log_set_print_level(server: Server, level: str) -> bool:
    for handler in _handlers():
        handler.setLevel(_LEVELS[level])
    return True


@_method("log_get_print_level", states="SR")
def log_get_print_level(server: Server) -> str:
    return _name_of_level(min((handler.level for handler in _handlers()), default=logging.WARNING))


def _flags() -> dict[str, logging.Logger]:
    names = sorted(name for name in logging.root.manager.loggerDict if name.startswith("spdkthread."))
    return {name.removeprefix("spdkthread."): logging.getLogger(name) for name in names}


def _flagged(flag: str) -> list[logging.Logger]:
    flags = _flags()
    if flag == "all":
        return list(flags.values())
    if flag not in flags:
        raise invalid_params("invalid log flag")
    return [flags[flag]]


@_method("log_set_flag", {"flag": Param(string)}, states="SR")
def log_set_flag(server: Server, flag: str) -> bool:
    for one in _flagged(flag):
        one.setLevel(logging.DEBUG)
    return True


@_method("log_clear_flag", {"flag": Param(string)}, states="SR")
def log_clear_flag(server: Server, flag: str) -> bool:
    for one in _flagged(flag):
        one.setLevel(logging.NOTSET)
    return True


@_method("log_get_flags", states="SR")
def log_get_flags(server: Server) -> dict[str, bool]:
    return {name: one.level == logging.DEBUG for name, one in _flags().items()}


@_method("log_enable_timestamps", {"enabled": Param(boolean)})
def log_enable_timestamps(server: Server, enabled: bool) -> bool:
    for handler in _handlers():
        with contextlib.suppress(AttributeError):
            handler.setFormatter(logging.Formatter("[%(asctime)s] %(message)s" if enabled else None))
    return True


# The names that these methods had in earlier versions of SPDK: they answer, and say once that they are old.
ALIASES = {
    "clear_log_flag": "log_clear_flag",
    "context_switch_monitor": "framework_monitor_context_switch",
    "get_log_flags": "log_get_flags",
    "get_log_level": "log_get_level",
    "get_log_print_level": "log_get_print_level",
    "get_rpc_methods": "rpc_get_methods",
    "get_spdk_version": "spdk_get_version",
    "get_subsystem_config": "framework_get_config",
    "get_subsystems": "framework_get_subsystems",
    "kill_instance": "spdk_kill_instance",
    "set_log_flag": "log_set_flag",
    "set_log_level": "log_set_level",
    "set_log_print_level": "log_set_print_level",
    "start_subsystem_init": "framework_start_init",
    "wait_subsystem_init": "framework_wait_init",
}

add_table(METHODS, ALIASES)
