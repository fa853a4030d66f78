"""What the floors above have the core call: lists of functions, so that the core imports none of them."""

from collections.abc import Callable
from typing import Any

__all__ = ["reactor_made"]

reactor_made: list[Callable[[Any], object]] = []
"""Called with each new Reactor, on the OS thread that makes it. Functions are added while modules are imported."""
