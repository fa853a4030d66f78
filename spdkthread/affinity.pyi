from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["call_unaffinitized"]

P = ParamSpec("P")
T = TypeVar("T")

def call_unaffinitized(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
