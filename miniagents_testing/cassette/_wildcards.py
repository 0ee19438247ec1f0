"""Comparison of a live request with a recorded one in which secrets were replaced.

`[redacted]` in the recorded request stands for any text. So a cassette plays on a machine that does not know the values
that were secret where it was recorded.
"""

from __future__ import annotations

import json
import re
from typing import Any

_WILDCARD = re.compile(r"\[redacted\]|%5Bredacted%5D")


def has_wildcards(key: Any) -> bool:
    """Return True if a key of a recorded request has a text that was replaced.

    Args:
        key: texts, bytes, numbers, and containers of them.
    """
    match key:
        case str():
            return _WILDCARD.search(key) is not None
        case bytes():
            return b"[redacted]" in key or b"%5Bredacted%5D" in key
        case tuple() | list():
            return any(map(has_wildcards, key))
        case dict():
            return any(has_wildcards(each) for pair in key.items() for each in pair)
        case _:
            return False


def covers(recorded: Any, live: Any) -> bool:
    """Return True if the key of a live request equals that of a recorded one, but for texts that were replaced.

    Args:
        recorded: key of the recorded request.
        live: key of the live request.
    """
    if type(recorded) is not type(live):
        return False
    match recorded:
        case str():
            return _covers_text(recorded, live)
        case bytes():
            return recorded == live or (has_wildcards(recorded) and covers(_parsed(recorded), _parsed(live)))
        case tuple() | list():
            return len(recorded) == len(live) and all(map(covers, recorded, live))
        case dict():
            return _covers_object(recorded, live)
        case _:
            return bool(recorded == live)


def _covers_text(recorded: str, live: str) -> bool:
    """Return True if a text equals another one, but for any texts in place of its wildcards; it takes linear time."""
    first, *others = _WILDCARD.split(recorded)
    if not others:
        return recorded == live
    *middle, last = others
    if not live.startswith(first) or not live.endswith(last) or len(live) < len(first) + len(last):
        return False
    position, end = len(first), len(live) - len(last)
    for part in middle:
        found = live.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True


def _covers_object(recorded: dict[str, Any], live: dict[str, Any]) -> bool:
    """Return True if two objects have the same values under the same names; a recorded name may have wildcards, too.

    Names with wildcards are paired with other names in their order.
    """
    if len(recorded) != len(live):
        return False
    other = [name for name in live if name not in recorded]
    names = {name: name if name in live else other.pop(0) for name in recorded}
    return all(_covers_text(name, mine) and covers(recorded[name], live[mine]) for name, mine in names.items())


def _parsed(body: bytes) -> Any:
    """Return the JSON of a body, or its text if it has none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body.decode("latin-1")
