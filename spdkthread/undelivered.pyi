from collections.abc import Callable
from typing import Any

__all__ = ["special_message"]

def special_message(
    fn: Callable[..., object],
    name: Callable[[tuple[Any, ...]], str],
    drop: Callable[[tuple[Any, ...], str], object],
) -> None: ...
