"""Comparison of requests by method, scheme, host, path, query and the meaning of the body."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

VOLATILE_FIELDS = ("metadata", "user", "prompt_cache_key", "safety_identifier", "stream_options")
"""Top-level fields of a request body that do not change the answer."""

RequestKey = tuple[str, str, str, str, tuple[tuple[str, str], ...], bytes]
"""Method, scheme, host, path, query and canonical body."""

_Text = TypeVar("_Text", str, bytes)

_DEFAULT_PORTS = {"https": ":443", "http": ":80"}
_ABSENT = object()
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+|\*)\]")
_EXCERPT_CONTEXT = 60
"""Characters of an excerpt before the first difference."""
_SHOWN = 200
"""Characters of a value that a message shows."""


@dataclass(frozen=True)
class Matching:
    """Rule for which requests are the same. Headers are not compared.

    Args:
        ignore: paths into the JSON body that are not compared, as in `metadata`, `messages[*].id`,
            `tools[0].description`; `*` stands for any name or index. Give `(*VOLATILE_FIELDS, ...)` to add to the
            default.

    Raises:
        ValueError: a path cannot be read.
    """

    ignore: Sequence[str] = VOLATILE_FIELDS
    _steps: tuple[tuple[str, ...], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ignore", tuple(self.ignore))
        object.__setattr__(self, "_steps", tuple(_parse_path(path) for path in self.ignore))

    def key(self, method: str, uri: str, body: bytes) -> RequestKey:
        """Return a key that is equal for requests that are the same."""
        return (*_endpoint(method, uri), self.canonical_body(body))

    def canonical_body(self, body: bytes) -> bytes:
        """Return a JSON object in one spelling, without the ignored paths; any other body as it is."""
        parsed = _parse_json(body)
        if not isinstance(parsed, dict):
            return body
        for steps in self._steps:
            _remove(parsed, steps)
        return json.dumps(parsed, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def canonical_body(body: bytes) -> bytes:
    """Return the canonical body by the default `Matching`, which ignores `VOLATILE_FIELDS`."""
    return _DEFAULT.canonical_body(body)


def differences(recorded: bytes, now: bytes) -> Iterator[str]:
    """Yield a line for each JSON leaf that differs: `messages[3].content: recorded 'a', now 'b'`."""
    before, after = _parse_json(recorded), _parse_json(now)
    if before is None or after is None:
        if recorded != now:
            yield f"body: recorded {_short(recorded)}, now {_short(now)}"
        return
    yield from _leaf_lines("", before, after)


@lru_cache(maxsize=256)
def _endpoint(method: str, uri: str) -> tuple[str, str, str, str, tuple[tuple[str, str], ...]]:
    """Return method, scheme, host, path and query in one spelling: default ports are dropped, parameters sorted."""
    parts = urlsplit(uri)
    query = tuple(sorted(parse_qsl(parts.query, keep_blank_values=True)))
    host = parts.netloc.rpartition("@")[2].lower().removesuffix(_DEFAULT_PORTS.get(parts.scheme, ""))
    return method.upper(), parts.scheme, host, parts.path or "/", query


def _parse_path(path: str) -> tuple[str, ...]:
    """Split a path into names and indices.

    Raises:
        ValueError: the path cannot be read.
    """
    steps, position = [], 0
    while position < len(path):
        step = _STEP.match(path, position)
        if step is None:
            break
        steps.append(step[1] or step[2])
        position = step.end()
    if not steps or position != len(path):
        raise ValueError(f"{path!r} is no path into a JSON body; one looks like `metadata` or `messages[*].id`")
    return tuple(steps)


def _remove(value: Any, steps: Sequence[str]) -> None:
    """Remove in place the values at a path from a JSON value; a path that is not there changes nothing.

    A step is a key, an index, or `*` for all of them.
    """
    step, *rest = steps
    if isinstance(value, dict):
        for name in list(value) if step == "*" else [step]:
            if name in value and rest:
                _remove(value[name], rest)
            else:
                value.pop(name, None)
    elif isinstance(value, list) and (step == "*" or step.isdecimal()):
        places = range(len(value)) if step == "*" else [int(step)]
        for index in reversed(places):
            if index < len(value):
                if rest:
                    _remove(value[index], rest)
                else:
                    del value[index]


def _parse_json(body: bytes) -> Any:
    """Return the JSON value of `body`, or None if the body is not JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):  # UnicodeDecodeError too
        return None


def _leaf_lines(path: str, before: Any, after: Any) -> Iterator[str]:
    """Yield a line for each JSON leaf that differs at or below `path`, as `differences` does."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted(before.keys() | after.keys()):
            yield from _leaf_lines(f"{path}.{name}".lstrip("."), before.get(name, _ABSENT), after.get(name, _ABSENT))
    elif isinstance(before, list) and isinstance(after, list):
        for index in range(max(len(before), len(after))):
            yield from _leaf_lines(f"{path}[{index}]", _at(before, index), _at(after, index))
    elif before != after or type(before) is not type(after):
        shown = _excerpts(before, after) if isinstance(before, str) and isinstance(after, str) else None
        recorded, now = shown or (_short(before), _short(after))
        yield f"{path or 'body'}: recorded {recorded}, now {now}"


def _at(items: Sequence[Any], index: int) -> Any:
    """Return the item at an index, or `_ABSENT` if the sequence is shorter."""
    return items[index] if index < len(items) else _ABSENT


def _short(value: Any) -> str:
    """Return the repr of a value for an error message, cut off after `_SHOWN` characters."""
    if value is _ABSENT:
        return "nothing"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def _excerpts(before: str, after: str) -> tuple[str, str] | None:
    """Return excerpts of two texts around their first difference; None if both are short enough to be shown whole.

    The second excerpt also says from which character both are shown.
    """
    if len(before) <= _SHOWN and len(after) <= _SHOWN:
        return None
    start = max(0, _common_start(before, after) - _EXCERPT_CONTEXT)

    def excerpt(text: str) -> str:
        end = start + _SHOWN
        return f"{'...' if start else ''}{text[start:end]!r}{'...' if end < len(text) else ''}"

    where = f" (from character {start})" if start else ""
    return excerpt(before), excerpt(after) + where


def changed_span(before: bytes, after: bytes) -> int:
    """Count the bytes of the longer text between the common start and the common end; 0 for equal texts."""
    longer = max(len(before), len(after))
    start = _common_start(before, after)
    rest = min(len(before), len(after)) - start
    same, end = 0, rest
    while same < end:
        middle = (same + end + 1) // 2
        if before[len(before) - middle : len(before) - same] == after[len(after) - middle : len(after) - same]:
            same = middle
        else:
            end = middle - 1
    return longer - start - same


def _common_start(before: _Text, after: _Text) -> int:
    """Return the length of the common start of two texts, found by binary search over slices."""
    same, end = 0, min(len(before), len(after))
    while same < end:
        middle = (same + end + 1) // 2
        if before[same:middle] == after[same:middle]:
            same = middle
        else:
            end = middle - 1
    return same


_DEFAULT = Matching()
