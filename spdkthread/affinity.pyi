from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["call_unaffinitized"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

def call_unaffinitized(fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T: ...
