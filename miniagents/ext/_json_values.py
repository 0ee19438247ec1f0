"""Every value that a message may hold, as JSON and back: what JSON has no word for is tagged, `{"$bytes": "aGk="}`."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo

from miniagents._promising.freezing import freeze
from miniagents._promising.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Callable


_MAX_DEPTH = 250
_EXACT_INT = 2**63
"""Larger ones are tagged: Python refuses to print or to parse those of more than 4,300 digits, in decimal."""


def to_json_value(value: Any, *, level: int = 0) -> Any:
    """`value`, as `model_dump` gives it, in terms of JSON. A member of an Enum becomes its value.

    Args:
        value: any value that a message can hold.
        level: how many containers are around it already.

    Raises:
        TypeError: it is of a type that no message can hold.
        ValueError: it nests deeper than what can be read back.
    """
    if level > _MAX_DEPTH:
        raise ValueError(f"values nest more than {_MAX_DEPTH} deep")
    if value is None or type(value) in (bool, str):
        return value
    if isinstance(value, (list, tuple)):
        return [to_json_value(item, level=level + 1) for item in value]
    if isinstance(value, Mapping):
        items = {key: to_json_value(item, level=level + 1) for key, item in value.items()}
        return {"$dict": list(items.items())} if any(key.startswith("$") for key in items) else items
    if isinstance(value, Frozen):  # inside of a set, where its dump could not be
        return to_json_value(value.model_dump(), level=level + 1)
    for kind, (tag, dump, _) in _LEAVES.items():
        if isinstance(value, kind):
            dumped = dump(value)
            return {tag: dumped} if tag else dumped
    raise TypeError(f"{type(value).__qualname__} is nothing a message can hold")


def from_json_value(value: Any) -> Any:
    """What `to_json_value` made this of; a dict with a tag that nobody knows stays as it is."""
    if isinstance(value, list):
        return [from_json_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        [(tag, content)] = value.items()
        if tag in _LOADERS:
            return _LOADERS[tag](content)
    return {key: from_json_value(item) for key, item in value.items()}


def _dump_int(value: int) -> Any:
    return value if -_EXACT_INT <= value < _EXACT_INT else {"$int": hex(value)}


def _dump_float(value: float) -> Any:
    return value if math.isfinite(value) else {"$float": repr(value)}


def _dump_moment(value: datetime | time) -> Any:
    zone = value.tzinfo
    # the zone by its name, which knows summer time; `fold` says which of two equal clock times it was
    return [value.isoformat(), value.fold, zone.key if isinstance(zone, ZoneInfo) else None]


def _load_moment(kind: type[datetime | time]) -> Callable[[Any], Any]:
    def load(content: Any) -> Any:
        text, fold, zone = content
        moment = kind.fromisoformat(text).replace(fold=fold)
        return moment.replace(tzinfo=ZoneInfo(zone)) if zone else moment

    return load


def _dump_set(value: frozenset[Any]) -> Any:
    return sorted((to_json_value(item) for item in value), key=json.dumps)  # the order of a set differs by process


def _load_set(content: Any) -> frozenset[Any]:
    return frozenset(_frozen(from_json_value(item)) for item in content)


def _frozen(value: Any) -> Any:
    return Frozen.model_validate(value) if isinstance(value, dict) and "class_" in value else freeze(value)


_PATHS: dict[str, type[PurePath]] = {"PurePosixPath": PurePosixPath, "PureWindowsPath": PureWindowsPath}

# In this order: an Enum may be a str or an int as well, and a datetime is a date.
_LEAVES: dict[type, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    Enum: ("", lambda value: to_json_value(value.value), lambda _: None),
    str: ("", str.__str__, lambda _: None),
    int: ("", _dump_int, lambda _: None),
    float: ("", _dump_float, lambda _: None),
    bytes: ("$bytes", lambda value: base64.b64encode(value).decode(), base64.b64decode),
    Decimal: ("$decimal", str, Decimal),
    UUID: ("$uuid", str, UUID),
    datetime: ("$datetime", _dump_moment, _load_moment(datetime)),
    date: ("$date", date.isoformat, date.fromisoformat),
    time: ("$time", _dump_moment, _load_moment(time)),
    timedelta: ("$timedelta", lambda v: [v.days, v.seconds, v.microseconds], lambda content: timedelta(*content)),
    PurePath: (
        "$path",
        lambda value: [type(value).__name__, str(value)],
        lambda content: _PATHS.get(content[0], Path)(content[1]),
    ),
    frozenset: ("$set", _dump_set, _load_set),
    set: ("$set", _dump_set, _load_set),
}

_LOADERS: dict[str, Callable[[Any], Any]] = {
    "$int": lambda content: int(content, 16),
    "$float": float,
    "$dict": lambda content: {key: from_json_value(item) for key, item in content},
    **{tag: load for tag, _, load in _LEAVES.values() if tag},
}
