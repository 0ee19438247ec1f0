"""The canonical form of frozen content: the one text its hash is computed from.

The form is JSON without blanks, keys sorted by code point, non-ASCII characters as they are. Python's own JSON keeps
the common types apart: `1`, `1.0`, `true`, `"1"`, `null`; ints are decimal however large, floats are written by the
shortest repr, `NaN` and `Infinity` as such, and `-0.0` is not `0.0`. A tuple is an array, a `FrozenDict` an object.
Everything else is an object with one key that begins with `$`:

| value | form |
|---|---|
| Decimal | `{"$decimal": "1.50"}`: digits and exponent count, upper case |
| bytes | `{"$bytes": "00ff"}` |
| UUID | `{"$uuid": "..."}` |
| date, datetime, time | `{"$date": "..."}`, `{"$datetime": ...}`, `{"$time": ...}`: ISO 8601, `[zone name]`, `fold` |
| timedelta | `{"$timedelta": [days, seconds, microseconds]}` |
| Path | `{"$path": ["PosixPath", "a/b"]}` |
| Enum | `{"$enum": ["module:Class", "NAME"]}`, of a flag its number |
| frozenset | `{"$set": [...]}`, elements sorted by their own canonical form |
| a nested Frozen | `{"$frozen": "..."}` with the 64 hex digits of its own hash |

A key of the content that begins with `$` itself gets one more in front. A Frozen is an object of its fields with its
class as `"$class"`; declared fields that hold None are left out, so that a class can get new optional fields without
changing old hashes.

The text is encoded as UTF-8, where a lone surrogate takes the three bytes its number has in that scheme
("surrogatepass"). Different content has different text: the form can be read back without ambiguity. Changing it
changes every hash ever stored; `tests/promising/test_frozen.py` holds golden vectors.
"""

from __future__ import annotations

import json
import re
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from hashlib import sha256
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from types import NoneType
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

from miniagents._promising.freezing import FrozenDict, FrozenSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


_LARGE_BITS: Final = 2048  # fewer digits than the least limit that can be set
_NATIVE: Final[frozenset[type]] = frozenset({NoneType, bool, int, float, str})


class MissingDigest(Exception):  # noqa: N818 - a signal between this module and `frozen`
    """A nested Frozen has no digest yet."""


def _new_encoder() -> Callable[[Any], str]:
    """Python's JSON encoder, made once where the C one can be had: making it costs as much as a short text."""
    # check_circular=False: frozen content cannot contain itself
    encoder = json.JSONEncoder(ensure_ascii=False, check_circular=False, sort_keys=True, separators=(",", ":"))
    make = getattr(json.encoder, "c_make_encoder", None)
    quote = getattr(json.encoder, "c_encode_basestring", None)
    if make is None or quote is None:
        return encoder.encode
    encode = make(None, encoder.default, quote, None, ":", ",", True, False, True)
    return lambda content: "".join(encode(content, 0))


_encode: Callable[[Any], str] = _new_encoder()


def _text(content: Any) -> str:
    try:
        return _encode(content)
    except ValueError:
        return _encode_large_ints(content)


def _encode_large_ints(content: Any) -> str:
    """Encode content with ints of more digits than `int` turns into text here (`sys.set_int_max_str_digits`)."""
    marker = uuid4().hex
    digits: list[str] = []

    def marked(value: Any) -> Any:
        if type(value) is int and value.bit_length() > _LARGE_BITS:
            digits.append(format(Decimal(value), "f"))  # exact, and not limited
            return f"{marker}{len(digits) - 1}"
        if isinstance(value, dict):
            return {key: marked(item) for key, item in value.items()}
        return [marked(item) for item in value] if isinstance(value, (list, tuple)) else value

    pieces = re.split(f'"{marker}([0-9]+)"', _encode(marked(content)))
    return "".join(digits[int(piece)] if number % 2 else piece for number, piece in enumerate(pieces))


def canonical_text(class_name: str, fields: Iterable[tuple[str, Any]]) -> str:
    """The canonical form of a Frozen of the class registered as `class_name` with these fields, before it is encoded.

    Raises:
        MissingDigest: a nested Frozen has no digest yet.
    """
    content: dict[str, Any] = {"$class": class_name}
    for name, value in fields:
        if name[:1] == "$":
            name = "$" + name
        content[name] = value if type(value) in _NATIVE else _PLAIN.get(type(value), _plain_by_base)(value)
    return _text(content)


def canonical_digest(class_name: str, fields: Iterable[tuple[str, Any]]) -> str:
    """The 64 hex digits of SHA-256 over the canonical form; raises as `canonical_text` does."""
    return sha256(canonical_text(class_name, fields).encode("utf-8", "surrogatepass")).hexdigest()


# The functions below say what stands for a value in the JSON. They are recursive: containers nest at most `MAX_NESTING`
# deep.


def _plain(value: Any) -> Any:
    return _PLAIN.get(type(value), _plain_by_base)(value)


def _plain_tuple(value: tuple[Any, ...]) -> Sequence[Any]:
    if _NATIVE.issuperset(map(type, value)):
        return value
    return [item if type(item) in _NATIVE else _PLAIN.get(type(item), _plain_by_base)(item) for item in value]


def _plain_dict(value: FrozenDict[str, Any]) -> dict[str, Any]:
    items = value._items
    for key, item in items.items():
        if type(item) not in _NATIVE or "$" in key:
            break
    else:
        return items
    plain = {}
    for key, item in items.items():
        if type(item) not in _NATIVE:
            item = _PLAIN.get(type(item), _plain_by_base)(item)
        plain["$" + key if key[:1] == "$" else key] = item
    return plain


def _plain_set(value: frozenset[Any]) -> dict[str, Any]:
    return {"$set": sorted((_plain(item) for item in value), key=_text)}


def _plain_moment(value: datetime | time) -> dict[str, Any]:
    zone = value.tzinfo
    if zone is None or type(zone) is timezone:
        text = value.isoformat()
    else:  # a named zone: its offset depends on the time zone database of the machine, its name does not
        text = f"{value.replace(tzinfo=None).isoformat()}[{zone.key}]"  # type: ignore[attr-defined] # ZoneInfo
    return {f"${type(value).__name__}": text + "fold" * value.fold}


def _plain_path(value: PurePath) -> dict[str, Any]:
    return {"$path": [type(value).__name__, str(value)]}


def _plain_by_base(value: Any) -> Any:
    if isinstance(value, Enum):
        kind = type(value)
        return {
            "$enum": [
                f"{kind.__module__}:{kind.__qualname__}",
                _plain(value.value) if isinstance(value, Flag) else value.name,
            ]
        }
    digest = value._known_digest()
    if digest is None:
        raise MissingDigest
    return {"$frozen": digest}


_PLAIN: Final[dict[type, Callable[[Any], Any]]] = {
    NoneType: lambda value: value,
    bool: lambda value: value,
    float: lambda value: value,
    str: lambda value: value,
    int: lambda value: value,
    tuple: _plain_tuple,
    FrozenDict: _plain_dict,
    frozenset: _plain_set,
    FrozenSet: _plain_set,
    Decimal: lambda value: {
        "$decimal": str(value).upper()
    },  # the case of the exponent is a setting of the decimal context
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
