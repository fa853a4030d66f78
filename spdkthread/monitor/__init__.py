"""Windows into a running program: ``top``, metrics for Prometheus, and the commands of ``python -m spdkthread``."""

from typing import TYPE_CHECKING, Any

from spdkthread.lib import ThreadLib

if TYPE_CHECKING:
    from spdkthread.monitor.metrics import MetricsServer

__all__ = ["serve_metrics"]


def serve_metrics(
    port: int = 9464, addr: str = "127.0.0.1", *, lib: ThreadLib | None = None, **limits: Any
) -> "MetricsServer":
    """Serve the metrics of a library by HTTP, for Prometheus.

    Parameters
    ----------
    port : int, default 9464
        0: any free one, see ``port`` of what is returned.
    addr : str, default "127.0.0.1"
        Where it listens. Every client is answered: leave it at this machine unless the network is trusted.
    lib : ThreadLib, optional
        By default the library of the process.
    **limits
        ``max_threads``, ``max_pollers`` and ``durations``, as for `metrics.Metrics`.

    Returns
    -------
    metrics.MetricsServer
        With ``port``, ``stop()``; a context manager.

    Raises
    ------
    OSError
        When the port is taken.

    Notes
    -----
    **Thread safety:** any OS thread. It serves on an OS thread of its own.
    """
    from spdkthread.monitor.metrics import MetricsServer

    return MetricsServer(port, addr, lib=lib, **limits)
