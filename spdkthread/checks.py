"""What the arguments of public calls have to be: one place that says so, in the same words."""

__all__ = ["check_integer", "check_number", "check_timeout"]


def _is_bool(value: object) -> bool:
    """Also numpy's, which is no subclass of the built-in one."""
    return type(value).__name__ in ("bool", "bool_")


def check_number(name: str, value: object, unit: str) -> float:
    """Return a number as a float; a bool is none.

    Parameters
    ----------
    name : str
        The argument's.
    value : object
    unit : str
        What the number counts, for the message.

    Raises
    ------
    TypeError
        When `value` is not a number.
    """
    if _is_bool(value) or (not hasattr(type(value), "__float__") and not hasattr(type(value), "__index__")):
        raise TypeError(f"{name} must be a number of {unit}, got {type(value).__name__}")
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise ValueError(f"{name} is too large, got {value!r}") from None


def check_integer(name: str, value: object) -> int:
    """Return an int, or what stands for one (numpy's integers), as an int; a bool is none.

    Raises
    ------
    TypeError
        When `value` is not an integer.
    """
    if _is_bool(value) or not hasattr(type(value), "__index__"):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    return int(value.__index__())  # type: ignore[attr-defined]


def check_timeout(timeout_s: object) -> None:
    """Raise for what is no time limit: None, or seconds that are not negative.

    Raises
    ------
    TypeError
        When it is neither None nor a number.
    ValueError
        When it is negative, or not a number at all (nan).
    """
    if timeout_s is not None and not check_number("timeout_s", timeout_s, "seconds or None") >= 0:
        raise ValueError(f"timeout_s must be None or not negative, got {timeout_s!r}")
