"""JSON values out of a stream that has no frames: a value ends where its brackets close."""

import json
import re
from typing import Any

__all__ = [
    "MAX_DEPTH",
    "MAX_REQUEST_BYTES",
    "MAX_VALUES",
    "JsonObject",
    "MalformedError",
    "Splitter",
    "count_values",
    "parse",
]

MAX_REQUEST_BYTES = 256 * 1024
MAX_DEPTH = 64
# Values as SPDK counts them: a name is one, and the brackets of an array or object are two.
MAX_VALUES = 8192

_SPACE = re.compile(rb"[ \t\r\n]*")
_OUTSIDE = re.compile(rb'["{}\[\]]')
_INSIDE = re.compile(rb'["\\]')
_SCALAR = re.compile(rb"[-+.0-9A-Za-z]+")
_CLOSES = {ord("{"): ord("}"), ord("["): ord("]")}


class MalformedError(ValueError):
    """Bytes that no JSON text begins with."""


class JsonObject(dict):
    """A JSON object that remembers whether a name came twice."""

    repeated = False


class Splitter:
    """Cuts what arrives into the texts of JSON values, each byte looked at once however slowly it comes.

    Notes
    -----
    **Thread safety:** one OS thread.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._looked_at = 0
        self._open: list[int] = []
        self._in_string = False

    def feed(self, data: bytes) -> None:
        self._bytes += data

    def __len__(self) -> int:
        """How many bytes wait for the rest of their value."""
        return len(self._bytes)

    def next(self) -> bytes | None:
        """The text of the next value, or None while it is not whole.

        Raises
        ------
        MalformedError
            For what cannot become JSON: brackets that do not match, nesting deeper than `MAX_DEPTH`, anything else at
            the place where a value begins.
        """
        data = self._bytes
        if not self._looked_at:
            del data[: _SPACE.match(data).end()]  # type: ignore[union-attr]
            if data and data[0] not in b'{["':
                return self._scalar()
        at = self._looked_at
        while True:
            found = (_INSIDE if self._in_string else _OUTSIDE).search(data, at)
            if found is None:
                self._looked_at = len(data)
                return None
            byte, at = data[found.start()], found.end()
            if self._in_string:
                if byte == ord("\\"):
                    if at == len(data):
                        # What it escapes has not come yet: look at the backslash again with it.
                        self._looked_at = found.start()
                        return None
                    at += 1
                    continue
                self._in_string = False
            elif byte == ord('"'):
                self._in_string = True
            elif byte in _CLOSES:
                self._open.append(_CLOSES[byte])
                if len(self._open) > MAX_DEPTH:
                    raise MalformedError(f"nested deeper than {MAX_DEPTH}")
            elif not self._open or self._open.pop() != byte:
                raise MalformedError("brackets do not match")
            if not self._open and not self._in_string:
                return self._cut(at)

    def _scalar(self) -> bytes | None:
        found = _SCALAR.match(self._bytes)
        if found is None:
            raise MalformedError("no JSON value begins like this")
        return None if found.end() == len(self._bytes) else self._cut(found.end())

    def _cut(self, end: int) -> bytes:
        text = bytes(self._bytes[:end])
        del self._bytes[:end]
        self._looked_at = 0
        return text


def parse(text: bytes) -> Any:
    """The value of a JSON text, objects as `JsonObject`. What is not JSON by the letter, such as NaN, is refused.

    Raises
    ------
    MalformedError
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedError(str(error)) from None


def count_values(value: Any) -> int:
    """How many values SPDK's parser would find in it."""
    count = 0
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            count += 2 + len(one)
            waiting.extend(one.values())
        elif isinstance(one, list):
            count += 2
            waiting.extend(one)
        else:
            count += 1
    return count


def _object(pairs: list[tuple[str, Any]]) -> JsonObject:
    made = JsonObject(pairs)
    made.repeated = len(made) != len(pairs)
    return made


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
