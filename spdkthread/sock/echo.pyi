from typing import Any

__all__ = ["on_data"]

on_data: Any
