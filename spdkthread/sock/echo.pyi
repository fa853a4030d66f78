from typing import Any

__all__ = ["on_data", "on_datagram"]

on_data: Any
on_datagram: Any
