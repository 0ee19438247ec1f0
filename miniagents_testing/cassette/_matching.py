"""Which recorded request a live one is: method, scheme, host, path, query, and what the body means."""

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

Text = TypeVar("Text", str, bytes)

_DEFAULT_PORTS = {"https": ":443", "http": ":80"}
_ABSENT = object()
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+|\*)\]")
_EXCERPT = 60
_SHOWN = 200


@dataclass(frozen=True)
class Matching:
    """What makes two requests the same. Headers never count.

    Args:
        ignore: paths into the JSON body that do not count, as in `metadata`, `messages[*].id`, `tools[0].description`;
            `*` stands for any name or index. Give `(*VOLATILE_FIELDS, ...)` to add to the default.

    Raises:
        ValueError: a path cannot be read.
    """

    ignore: Sequence[str] = VOLATILE_FIELDS
    _steps: tuple[tuple[str, ...], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ignore", tuple(self.ignore))
        object.__setattr__(self, "_steps", tuple(_steps_of(path) for path in self.ignore))

    def key(self, method: str, uri: str, body: bytes) -> RequestKey:
        """Equal for requests that ask for the same."""
        return (*_endpoint(method, uri), self.canonical_body(body))

    def canonical_body(self, body: bytes) -> bytes:
        """A JSON object in one spelling, without what is ignored; any other body as it is."""
        parsed = _parsed(body)
        if not isinstance(parsed, dict):
            return body
        for steps in self._steps:
            _remove(parsed, steps)
        return json.dumps(parsed, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def canonical_body(body: bytes) -> bytes:
    """`Matching.canonical_body`, with the fields ignored that are by default."""
    return _DEFAULT.canonical_body(body)


def differences(recorded: bytes, now: bytes) -> Iterator[str]:
    """What differs between two canonical bodies, one line a JSON leaf: `messages[3].content: recorded 'a', now 'b'`."""
    before, after = _parsed(recorded), _parsed(now)
    if before is None or after is None:
        if recorded != now:
            yield f"body: recorded {_short(recorded)}, now {_short(now)}"
        return
    yield from _leaves("", before, after)


@lru_cache(maxsize=256)
def _endpoint(method: str, uri: str) -> tuple[str, str, str, str, tuple[tuple[str, str], ...]]:
    parts = urlsplit(uri)
    query = tuple(sorted(parse_qsl(parts.query, keep_blank_values=True)))
    host = parts.netloc.rpartition("@")[2].lower().removesuffix(_DEFAULT_PORTS.get(parts.scheme, ""))
    return method.upper(), parts.scheme, host, parts.path or "/", query


def _steps_of(path: str) -> tuple[str, ...]:
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
    """Take out of a JSON value what the path leads to; a path that leads nowhere is fine."""
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


def _parsed(body: bytes) -> Any:
    """The JSON value of `body`, None where it is not JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):  # UnicodeDecodeError too
        return None


def _leaves(path: str, before: Any, after: Any) -> Iterator[str]:
    """The lines of `differences` below `path`."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted(before.keys() | after.keys()):
            yield from _leaves(f"{path}.{name}".lstrip("."), before.get(name, _ABSENT), after.get(name, _ABSENT))
    elif isinstance(before, list) and isinstance(after, list):
        for index in range(max(len(before), len(after))):
            yield from _leaves(f"{path}[{index}]", _at(before, index), _at(after, index))
    elif before != after or type(before) is not type(after):
        shown = _excerpts(before, after) if isinstance(before, str) and isinstance(after, str) else None
        recorded, now = shown or (_short(before), _short(after))
        yield f"{path or 'body'}: recorded {recorded}, now {now}"


def _at(items: Sequence[Any], index: int) -> Any:
    return items[index] if index < len(items) else _ABSENT


def _short(value: Any) -> str:
    """A value for a message: enough to know it again."""
    if value is _ABSENT:
        return "nothing"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def _excerpts(before: str, after: str) -> tuple[str, str] | None:
    """Two long texts around the place where they part; None where they are short enough to be shown whole."""
    if len(before) <= _SHOWN and len(after) <= _SHOWN:
        return None
    start = max(0, _common_start(before, after) - _EXCERPT)

    def excerpt(text: str) -> str:
        end = start + _SHOWN
        return f"{'...' if start else ''}{text[start:end]!r}{'...' if end < len(text) else ''}"

    where = f" (from character {start})" if start else ""
    return excerpt(before), excerpt(after) + where


def changed_span(before: bytes, after: bytes) -> int:
    """How many bytes lie between the common start and the common end of two texts: 0 only for the same."""
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


def _common_start(before: Text, after: Text) -> int:
    """How much is the same, found without a step for each character."""
    same, end = 0, min(len(before), len(after))
    while same < end:
        middle = (same + end + 1) // 2
        if before[same:middle] == after[same:middle]:
            same = middle
        else:
            end = middle - 1
    return same


_DEFAULT = Matching()
