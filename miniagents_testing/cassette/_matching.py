"""Comparison of requests by method, scheme, host, path, query and the meaning of the body."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from miniagents_testing._words import counted
from miniagents_testing.cassette._bodies import NO_TREE, json_text, parse_json, plain_body, tree_of
from miniagents_testing.cassette._paths import Path, member

if TYPE_CHECKING:
    from miniagents_testing.cassette._bodies import Headers

VOLATILE_FIELDS = ("metadata", "user", "prompt_cache_key", "safety_identifier", "stream_options")
"""Top-level fields of a request body that do not change the answer."""

RequestKey = tuple[str, str, str, str, tuple[tuple[str, str], ...], bytes]
"""Method, scheme, host, path, query and canonical body."""

_Text = TypeVar("_Text", str, bytes)

_DEFAULT_PORTS = {"https": ":443", "http": ":80", "wss": ":443", "ws": ":80"}
_NO_HEADERS: Headers = {}
_ABSENT = object()
_ESCAPE = re.compile(r"%([0-9a-fA-F]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
"""Characters that mean the same with and without percent-encoding (RFC 3986, section 2.3)."""
_SHOWN = 120
"""Characters of a value that a message shows."""


@dataclass(frozen=True)
class Matching:
    """Rule for which requests are the same.

    Headers are not compared, but `content-type` and `content-encoding` say how to read the body. A body is compared as
    a tree, whether it is JSON, a form, multipart, or one of them compressed; other bodies are compared byte by byte.

    Args:
        ignore: paths into the body that are not compared, as in `metadata`, `messages[*].id`, `**.id` (at any depth),
            `file.filename`; `*` stands for any name or index. `?timestamp` is a parameter of the query. JSON inside a
            text is entered. Give `(*VOLATILE_FIELDS, ...)` to add to the default.

    Raises:
        ValueError: a path cannot be read.
        TypeError: `ignore` is one text in place of a list, or has something else than texts.
    """

    ignore: Sequence[str] = VOLATILE_FIELDS
    _paths: tuple[Path, ...] = field(init=False, repr=False, compare=False)
    _parameters: tuple[Path, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.ignore, str):
            raise TypeError(f"ignore is a list of paths: [{self.ignore!r}], not {self.ignore!r}")
        object.__setattr__(self, "ignore", tuple(self.ignore))
        paths = [Path(path) for path in self.ignore]
        object.__setattr__(self, "_paths", tuple(path for path in paths if path.parameter is None))
        object.__setattr__(self, "_parameters", tuple(path for path in paths if path.parameter is not None))

    def key(self, method: str, uri: str, body: bytes, headers: Headers = _NO_HEADERS) -> RequestKey:
        """Return a key that is equal for requests that are the same.

        Args:
            method: of the request, in any case.
            uri: of the request.
            body: as it is sent.
            headers: of the request. Without `content-type`, a body is read as JSON or not at all.
        """
        method, scheme, host, path, query = _endpoint(method, uri)
        if self._parameters:
            query = tuple(
                each for each in query if not any(path.covers_parameter(each[0]) for path in self._parameters)
            )
        return method, scheme, host, path, query, self.canonical_body(body, headers)

    def canonical_body(self, body: bytes, headers: Headers = _NO_HEADERS) -> bytes:
        """Return the tree of a body as JSON in one spelling, without the ignored paths; any other body decompressed."""
        plain = plain_body(body, headers) if headers else body
        tree = tree_of(plain, headers)
        if tree is NO_TREE:
            return plain
        try:
            for path in self._paths:
                tree = path.removed_from(tree)
            return json_text(tree).encode("ascii")
        except RecursionError:  # nested as deep as Python can read, and deeper than it can write
            return plain


def canonical_body(body: bytes, headers: Headers = _NO_HEADERS) -> bytes:
    """Return the canonical body by the default `Matching`, which ignores `VOLATILE_FIELDS`."""
    return _DEFAULT.canonical_body(body, headers)


def differences(recorded: bytes, now: bytes, shown: int = _SHOWN) -> Iterator[str]:
    """Yield a line for each leaf of two canonical bodies that differs: `messages[3].content: recorded 'a', now 'b'`.

    A body that is no JSON is one leaf. Equal bodies yield nothing.

    Args:
        recorded: the canonical body of a recording.
        now: that of a live request.
        shown: most characters that are shown of a value; of longer texts, those around the first difference.
    """
    before, after = parse_json(recorded), parse_json(now)
    if before is NO_TREE or after is NO_TREE:
        if recorded != now:
            yield f"body: recorded {_short(recorded, shown)}, now {_short(now, shown)}"
        return
    yield from _leaf_lines("", before, after, shown)


@lru_cache(maxsize=256)
def _endpoint(method: str, uri: str) -> tuple[str, str, str, str, tuple[tuple[str, str], ...]]:
    """Return method, scheme, host, path and query in one spelling, without user and password.

    Default ports are dropped, parameters sorted, and escapes in the path respelled.
    """
    parts = urlsplit(uri)
    query = tuple(sorted(parse_qsl(parts.query, keep_blank_values=True, errors="surrogateescape")))
    host = parts.netloc.rpartition("@")[2].lower().removesuffix(_DEFAULT_PORTS.get(parts.scheme, ""))
    return method.upper(), parts.scheme, host, _ESCAPE.sub(_respelled, parts.path) or "/", query


def _respelled(escape: re.Match[str]) -> str:
    """Return a percent-encoded character of a path in the spelling of RFC 3986, section 6.2.2."""
    character = chr(int(escape[1], 16))
    return character if character in _UNRESERVED else escape[0].upper()


def _leaf_lines(path: str, before: Any, after: Any, shown: int) -> Iterator[str]:
    """Yield a line for each JSON leaf that differs at or below `path`, as `differences` does."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted(before.keys() | after.keys()):
            inner = f"{path}{member(name)}".removeprefix(".")
            yield from _leaf_lines(inner, before.get(name, _ABSENT), after.get(name, _ABSENT), shown)
    elif isinstance(before, list) and isinstance(after, list):
        for index in range(max(len(before), len(after))):
            yield from _leaf_lines(f"{path}[{index}]", _at(before, index), _at(after, index), shown)
    elif before != after or type(before) is not type(after):
        excerpts = _excerpts(before, after, shown) if isinstance(before, str) and isinstance(after, str) else None
        recorded, now = excerpts or (_short(before, shown), _short(after, shown))
        yield f"{path or 'body'}: recorded {recorded}, now {now}"


def _at(items: Sequence[Any], index: int) -> Any:
    """Return the item at an index, or `_ABSENT` if the sequence is shorter."""
    return items[index] if index < len(items) else _ABSENT


def _short(value: Any, shown: int) -> str:
    """Return the repr of a value for an error message, cut off after `shown` characters.

    "nothing" for a missing one.
    """
    if value is _ABSENT:
        return "nothing"
    text = repr(value)
    return text if len(text) <= shown else f"{text[:shown]}... ({counted(len(text), 'character')})"


def _excerpts(before: str, after: str, shown: int) -> tuple[str, str] | None:
    """Return excerpts of two texts around their first difference; None if both are short enough to be shown whole.

    A third of an excerpt stands before the difference. The second excerpt also says from which character both are
    shown.
    """
    if len(before) <= shown and len(after) <= shown:
        return None
    start = max(0, _common_start(before, after) - shown // 3)

    def excerpt(text: str) -> str:
        end = start + shown
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
