"""The canonical form of frozen content: the one text its hash is computed from.

The form is JSON without blanks, keys sorted by code point, non-ASCII characters as they are. Python's own JSON keeps the common
types apart: `1`, `1.0`, `true`, `"1"`, `null`; floats are written by the shortest repr, `NaN` and `Infinity` as such, and `-0.0` is
not `0.0`. A tuple is an array, a `FrozenDict` an object. Everything else is an object with one key that begins with `$`:

| value | form |
|---|---|
| int of 2048 bits or more | `{"$int": "-0x1f..."}` (decimal digits are limited by the interpreter's settings) |
| Decimal | `{"$decimal": "1.50"}`: digits and exponent count, upper case |
| bytes | `{"$bytes": "00ff"}` |
| UUID | `{"$uuid": "..."}` |
| date, datetime, time | `{"$date": ...}`, `{"$datetime": ...}`, `{"$time": ...}` in ISO 8601, then `[zone]` where it is a zone with a name, and `fold` |
| timedelta | `{"$timedelta": [days, seconds, microseconds]}` |
| Path | `{"$path": ["PosixPath", "a/b"]}` |
| Enum | `{"$enum": ["module:Class", "NAME"]}`, of a flag its number |
| frozenset | `{"$set": [...]}`, elements sorted by their own canonical form |
| a nested Frozen | `{"$frozen": "..."}` with the 64 hex digits of its own hash |

A key of the content that begins with `$` itself gets one more in front. A Frozen is an object of its fields with its class as
`"$class"`; declared fields that hold None are left out, so that a class can get new optional fields without changing old hashes.

The text is encoded as UTF-8, where a lone surrogate takes the three bytes its number has in that scheme ("surrogatepass").
Different content has different text: the form can be read back without ambiguity. Changing it changes every hash ever stored;
`tests/promising/test_frozen.py` holds golden vectors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from hashlib import sha256
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from types import NoneType
from typing import Any, Final
from uuid import UUID

from miniagents.promising.freezing import FrozenDict, FrozenSet

__all__ = ["canonical_digest", "canonical_text"]

_NATIVE: Final[frozenset[type]] = frozenset({NoneType, bool, float, str})
_BIG: Final = 1 << 2047

# check_circular=False: frozen content cannot contain itself
_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, sort_keys=True, separators=(",", ":")).encode


def canonical_text(class_name: str, fields: Iterable[tuple[str, Any]]) -> str:
    """The canonical form of a Frozen of the class registered as `class_name` with these fields, before it is encoded."""
    content: dict[str, Any] = {"$class": class_name}
    for name, value in fields:
        content["$" + name if name.startswith("$") else name] = value if type(value) in _NATIVE else _plain(value)
    return _encode(content)


def canonical_digest(class_name: str, fields: Iterable[tuple[str, Any]]) -> str:
    """The 64 hex digits of SHA-256 over the canonical form."""
    return sha256(canonical_text(class_name, fields).encode("utf-8", "surrogatepass")).hexdigest()


def _plain(value: Any) -> Any:
    """What stands for `value` in the JSON: recursive, because containers nest at most `freezing.MAX_DEPTH` deep."""
    return _PLAIN.get(type(value), _plain_by_base)(value)


def _plain_int(value: int) -> Any:
    return value if -_BIG < value < _BIG else {"$int": hex(value)}


def _plain_tuple(value: tuple[Any, ...]) -> list[Any]:
    return [item if type(item) in _NATIVE else _plain(item) for item in value]


def _plain_dict(value: FrozenDict[str, Any]) -> dict[str, Any]:
    return {
        "$" + key if key.startswith("$") else key: item if type(item) in _NATIVE else _plain(item)
        for key, item in value._items.items()
    }


def _plain_set(value: frozenset[Any]) -> dict[str, Any]:
    return {"$set": sorted((_plain(item) for item in value), key=_encode)}


def _plain_moment(value: datetime | time) -> dict[str, Any]:
    zone = value.tzinfo
    if zone is None or type(zone) is timezone:
        text = value.isoformat()
    else:  # a named zone: its offset depends on the time zone database of the machine, its name does not
        text = f"{value.replace(tzinfo=None).isoformat()}[{zone.key}]"  # type: ignore[attr-defined] # ZoneInfo
    return {f"${type(value).__name__}": text + "fold" * value.fold}


def _plain_path(value: PurePath) -> dict[str, Any]:
    return {"$path": [type(value).__name__, str(value)]}


def _plain_by_base(value: Any) -> dict[str, Any]:
    if isinstance(value, Enum):
        kind = type(value)
        return {"$enum": [f"{kind.__module__}:{kind.__qualname__}", _plain(value.value) if isinstance(value, Flag) else value.name]}
    return {"$frozen": value.full_hash_key}


_PLAIN: Final[dict[type, Callable[[Any], Any]]] = {
    NoneType: lambda value: value,
    bool: lambda value: value,
    float: lambda value: value,
    str: lambda value: value,
    int: _plain_int,
    tuple: _plain_tuple,
    FrozenDict: _plain_dict,
    frozenset: _plain_set,
    FrozenSet: _plain_set,
    Decimal: lambda value: {"$decimal": str(value).upper()},  # the case of the exponent is a setting of the decimal context
    bytes: lambda value: {"$bytes": value.hex()},
    UUID: lambda value: {"$uuid": str(value)},
    date: lambda value: {"$date": value.isoformat()},
    datetime: _plain_moment,
    time: _plain_moment,
    timedelta: lambda value: {"$timedelta": [value.days, value.seconds, value.microseconds]},
    PurePosixPath: _plain_path,
    PureWindowsPath: _plain_path,
    type(Path()): _plain_path,
}
