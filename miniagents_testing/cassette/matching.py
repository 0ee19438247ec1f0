"""Which recorded request a live one is: method, scheme, host, path, query, and what the body means."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

__all__ = ["VOLATILE_FIELDS", "RequestKey", "canonical_body", "differences", "request_key"]

VOLATILE_FIELDS = frozenset({"metadata", "user", "prompt_cache_key", "safety_identifier", "stream_options"})
"""Top-level fields of a request body that do not change the answer."""

RequestKey = tuple[str, str, str, str, tuple[tuple[str, str], ...], bytes]

_ABSENT = object()


def request_key(method: str, uri: str, body: bytes) -> RequestKey:
    """Equal for requests that ask for the same; headers and volatile fields do not count."""
    parts = urlsplit(uri)
    query = tuple(sorted(parse_qsl(parts.query, keep_blank_values=True)))
    return method.upper(), parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, canonical_body(body)


def canonical_body(body: bytes) -> bytes:
    """A JSON object in one spelling, without its volatile fields; any other body as it is."""
    parsed = _parsed(body)
    if not isinstance(parsed, dict):
        return body
    kept = {name: value for name, value in parsed.items() if name not in VOLATILE_FIELDS}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def differences(recorded: bytes, now: bytes) -> list[str]:
    """What differs between two request bodies, one line a JSON leaf: `messages[3].content: recorded 'a', now 'b'`."""
    before, after = _parsed(canonical_body(recorded)), _parsed(canonical_body(now))
    if before is None or after is None:
        return [] if recorded == now else [f"body: recorded {_short(recorded)}, now {_short(now)}"]
    return list(_leaves("", before, after))


def _parsed(body: bytes) -> Any:
    """The JSON value of `body`, None where it is not JSON."""
    try:
        return json.loads(body)
    except ValueError:  # UnicodeDecodeError too
        return None


def _leaves(path: str, before: Any, after: Any) -> Iterator[str]:
    """The lines of `differences` below `path`."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted(before.keys() | after.keys()):
            yield from _leaves(f"{path}.{name}".lstrip("."), before.get(name, _ABSENT), after.get(name, _ABSENT))
    elif isinstance(before, list) and isinstance(after, list):
        for index in range(max(len(before), len(after))):
            yield from _leaves(f"{path}[{index}]", _at(before, index), _at(after, index))
    elif before != after:
        yield f"{path or 'body'}: recorded {_short(before)}, now {_short(after)}"


def _at(items: Sequence[Any], index: int) -> Any:
    return items[index] if index < len(items) else _ABSENT


def _short(value: Any) -> str:
    """A value for a message: enough to know it again."""
    if value is _ABSENT:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"
