"""What `top` shows, computed from two answers of a server: SPDK's own methods, and ours where it has them."""

import time
from dataclasses import dataclass, field
from typing import Any

from spdkthread.rpc.client import Client
from spdkthread.rpc.errors import METHOD_NOT_FOUND, RpcError

__all__ = ["CHANNEL_COLUMNS", "POLLER_COLUMNS", "REACTOR_COLUMNS", "TABLES", "THREAD_COLUMNS", "Sample", "Sampler"]

Row = dict[str, Any]

THREAD_COLUMNS = (
    "thread",
    "id",
    "core",
    "cpu_pct",
    "busy_pct",
    "active",
    "timed",
    "paused",
    "pending",
    "high_water",
    "refused",
    "errors",
    "status",
)
POLLER_COLUMNS = ("poller", "kind", "thread", "core", "runs_per_s", "busy_pct", "period_us", "run_count", "status")
REACTOR_COLUMNS = (
    "core",
    "name",
    "threads",
    "pollers",
    "cpu_pct",
    "usr_pct",
    "sys_pct",
    "parks_per_s",
    "wakes_per_s",
    "gil_wait_pct",
    "stalls",
    "slices_lost",
    "status",
)
CHANNEL_COLUMNS = ("channel", "thread", "core", "references")
TABLES = {
    "threads": THREAD_COLUMNS,
    "pollers": POLLER_COLUMNS,
    "cores": REACTOR_COLUMNS,
    "channels": CHANNEL_COLUMNS,
}


@dataclass
class Sample:
    """One look: a list of rows for each table."""

    version: str
    pid: int
    seconds: float
    """Since the look before, or since the start of each counter at the first one."""
    scheduler: str
    scheduling: dict[str, Any]
    """All that the server says of its scheduler."""
    threads: list[Row] = field(default_factory=list)
    pollers: list[Row] = field(default_factory=list)
    cores: list[Row] = field(default_factory=list)
    channels: list[Row] = field(default_factory=list)


class Sampler:
    """Asks a server again and again and says what has changed.

    Parameters
    ----------
    client : Client
        Of our server, or of an SPDK application's.

    Notes
    -----
    **Thread safety:** one OS thread.
    """

    def __init__(self, client: Client):
        self._client = client
        self._before: dict[tuple, int] = {}
        self._now: dict[tuple, int] = {}
        self._looked_at: float | None = None
        self._unknown: set[str] = set()
        self._version = self._ask("spdk_get_version", {}).get("version", "?")

    def _ask(self, method: str, missing: Any) -> Any:
        """The result, or `missing` from a server that does not have the method."""
        if method in self._unknown:
            return missing
        try:
            return self._client.call(method)
        except RpcError as error:
            if error.code != METHOD_NOT_FOUND:
                raise
            self._unknown.add(method)
            return missing

    def _change(self, *key_and_value: Any) -> int:
        """How much a counter has grown since the look before; at the first look, all of it."""
        *key, value = key_and_value
        self._now[tuple(key)] = value
        return max(0, value - self._before.get(tuple(key), 0))

    def look(self) -> Sample:
        """Ask now.

        Raises
        ------
        RpcError, OSError
        """
        reactors = self._client.call("framework_get_reactors")
        stats = self._client.call("thread_get_stats")
        pollers = self._client.call("thread_get_pollers")
        channels = self._ask("thread_get_io_channels", {"threads": []})
        scheduler = self._ask("framework_get_scheduler", {})
        rings = {one["id"]: one for one in self._ask("spdkthread_get_rings", {"threads": []})["threads"]}
        ours = {one["lcore"]: one for one in self._ask("spdkthread_get_reactors", {"reactors": []})["reactors"]}
        now = time.monotonic()
        rate = reactors["tick_rate"]
        core_of = {thread["id"]: one["lcore"] for one in reactors["reactors"] for thread in one["lw_threads"]}
        passed = {
            one["lcore"]: self._change("core", one["lcore"], "busy", one["busy"])
            + self._change("core", one["lcore"], "idle", one["idle"])
            for one in reactors["reactors"]
        }
        seconds = max(passed.values(), default=0) / rate if self._looked_at is None else now - self._looked_at
        sample = Sample(
            self._version,
            reactors.get("pid", 0),
            seconds,
            scheduler.get("scheduler_name", "?"),
            scheduler,
        )
        names = {one["id"]: one["name"] for one in stats["threads"]}
        for one in stats["threads"]:
            sample.threads.append(self._thread(one, core_of, passed, rings.get(one["id"], {})))
        for one in pollers["threads"]:
            for kind in ("active", "timed", "paused"):
                for poller in one[f"{kind}_pollers"]:
                    sample.pollers.append(self._poller(poller, kind, one["id"], names, core_of, seconds, rate))
        counts = {
            id: one["active"] + one["timed"] + one["paused"] for id, one in zip(names, sample.threads, strict=True)
        }
        for one in reactors["reactors"]:
            sample.cores.append(self._core(one, ours.get(one["lcore"], {}), counts, seconds, rate))
        # SPDK names the thread of a channel and gives no id; of two with one name the first has to do.
        core_named = {names[id]: core_of.get(id) for id in reversed(names)}
        sample.channels = [
            {
                "channel": channel["name"],
                "thread": one["name"],
                "core": core_named.get(one["name"]),
                "references": channel["ref"],
            }
            for one in channels["threads"]
            for channel in one["io_channels"]
        ]
        self._before, self._now = self._now, {}
        self._looked_at = now
        return sample

    def _thread(self, one: Row, core_of: dict, passed: dict, ring: Row) -> Row:
        busy = self._change("thread", one["id"], "busy", one["busy"])
        idle = self._change("thread", one["id"], "idle", one["idle"])
        core = core_of.get(one["id"])
        row = {
            "thread": one["name"],
            "id": one["id"],
            "core": core,
            "cpu_pct": _percent(busy, passed.get(core, busy + idle)),
            "busy_pct": _percent(busy, busy + idle),
            "active": one["active_pollers_count"],
            "timed": one["timed_pollers_count"],
            "paused": one["paused_pollers_count"],
        }
        row |= {name: ring.get(name) for name in ("pending", "high_water", "refused", "errors")}
        status = "busy" if busy > idle else "idle"
        if ring and ring["state"] != "running":
            status = ring["state"]
        elif ring and not ring["answered"] and core is not None:
            status = "held up"
        row["status"] = status
        return row

    def _poller(self, one: Row, kind: str, thread: int, names: dict, core_of: dict, seconds: float, rate: int) -> Row:
        runs = self._change("poller", thread, one["id"], "runs", one["run_count"])
        busy = self._change("poller", thread, one["id"], "busy", one["busy_count"])
        return {
            "poller": one["name"],
            "kind": kind,
            "thread": names.get(thread, str(thread)),
            "core": core_of.get(thread),
            "runs_per_s": round(runs / seconds, 1) if seconds else 0.0,
            "busy_pct": _percent(busy, runs),
            "period_us": one.get("period_ticks", 0) * 1e6 / rate,
            "run_count": one["run_count"],
            "status": "busy" if busy else one["state"],
        }

    def _core(self, one: Row, ours: Row, counts: dict, seconds: float, rate: int) -> Row:
        core = one["lcore"]
        usr, sys = (self._change("core", core, name, one[name]) for name in ("usr", "sys"))
        busy = self._now["core", core, "busy"] - self._before.get(("core", core, "busy"), 0)
        idle = self._now["core", core, "idle"] - self._before.get(("core", core, "idle"), 0)
        row = {
            "core": core,
            "name": ours.get("name", f"reactor_{core}"),
            "threads": len(one["lw_threads"]),
            "pollers": sum(counts.get(thread["id"], 0) for thread in one["lw_threads"]),
            "cpu_pct": _percent(busy, busy + idle),
            # Jiffies are hundredths of a second.
            "usr_pct": round(min(100.0, usr / seconds), 1) if seconds else 0.0,
            "sys_pct": round(min(100.0, sys / seconds), 1) if seconds else 0.0,
        }
        for name, field_name in (("parks_per_s", "parks"), ("wakes_per_s", "wakes")):
            grown = self._change("core", core, field_name, ours[field_name]) if ours else None
            row[name] = None if grown is None else round(grown / seconds, 1) if seconds else 0.0
        waited = self._change("core", core, "gil", ours["gil_wait_ticks"]) if ours else None
        row["gil_wait_pct"] = None if waited is None else _percent(waited, seconds * rate)
        row["stalls"] = ours.get("stalls")
        row["slices_lost"] = ours.get("slices_lost")
        row["status"] = ours.get("state") or ("may sleep" if one["in_interrupt"] else "polls")
        if ours and not ours["answered"] and ours["state"] == "running":
            row["status"] = f"held up by {ours['running']}" if ours["running"] else "held up"
        return row


def _percent(part: float, whole: float) -> float:
    return round(min(100.0, 100.0 * part / whole), 1) if whole > 0 else 0.0
