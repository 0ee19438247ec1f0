"""Matching of requests: which recorded request a live one is.

Requests are compared by method, scheme, host, path, query and the meaning of the body. `[redacted]` in a recorded
request stands for any text. So a cassette plays on a machine that does not know the values that were secret where it
was recorded.

`Index` finds an interaction by its request; a look-up costs the same however many there are. `describe_miss` names the
recorded requests that differ least. Independent of sessions and clients.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from heapq import nsmallest
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlsplit

from miniagents_testing._hosts import is_loopback
from miniagents_testing._words import counted
from miniagents_testing.cassette._bodies import (
    NO_TREE,
    Path,
    header_value,
    json_text,
    member,
    parse_json,
    plain_body,
    tree_of,
)

if TYPE_CHECKING:
    from miniagents_testing.cassette._bodies import Headers
    from miniagents_testing.cassette._interaction import Interaction

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
    """Yield a line for each leaf of two JSON bodies that differs: `messages[3].content: recorded 'a', now 'b'`.

    Both are canonical bodies, see `Matching.canonical_body`. A leaf is a value that is no object and no array; a body
    that is no JSON is one leaf. Equal bodies yield nothing.

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
    """Yield a line for each value at or below `path` that differs, as `differences` does; enter objects and arrays."""
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


# --- recorded requests with replaced secrets


_WILDCARD = re.compile(r"\[redacted\]|%5Bredacted%5D")


def has_wildcards(key: Any) -> bool:
    """Return True if a key of a recorded request has `[redacted]`, which stands for any text.

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
    """Return True if a live request has the key of a recorded one, in which `[redacted]` stands for any text.

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
    """Return True if `live` equals `recorded`, in which each `[redacted]` stands for any text; it takes linear time."""
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
    """Return True if two objects have the same values under the same names.

    In recorded values and names, `[redacted]` stands for any text. Recorded names that the live object lacks are paired
    with its other names in their order.
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


# --- look-up, and the message about a miss


@dataclass(eq=False, slots=True)
class Place:
    """Interaction of a cassette, with its number, its key and how often it was played."""

    number: int
    """Number in the cassette; the first is 1."""
    interaction: Interaction
    key: RequestKey
    plays: int = 0
    """Count of plays."""


class Index:
    """Index of interactions by request, which gives out each interaction once.

    Args:
        interactions: in the order in which they were started.
        matching: says which requests are the same.
        repeats: True to give out the first recording of a request again after its last one.
    """

    def __init__(self, interactions: Sequence[Interaction], matching: Matching, *, repeats: bool = False) -> None:
        self._matching = matching
        self.places = [self.place(index, each) for index, each in enumerate(interactions)]
        self.has_bare_bodies = any(not header_value(each.request_headers, "content-type") for each in interactions)
        """True if a recording does not say what its body is."""
        self._repeats = repeats
        self._left: defaultdict[RequestKey, list[Place]] = defaultdict(list)
        self._first: dict[RequestKey, Place] = {}
        self._redacted: list[RequestKey] | None = None
        """Keys of the requests in which a secret was replaced, once one was looked for."""
        for place in self.places:
            self._left[place.key].append(place)
            self._first.setdefault(place.key, place)

    def place(self, index: int, each: Interaction) -> Place:
        """Make the place of an interaction, without adding the place to the index."""
        key = self._matching.key(each.method, each.uri, each.request_body, each.request_headers)
        return Place(index + 1, each, key)

    def take(self, key: RequestKey, agent_path: str) -> Place | None:
        """Return the next recording for a request, and count it as played; None if there is none.

        It is the first of the same agent, else the first one left. With `repeats`, the first recording comes again
        after the last one.
        """
        left = self._left.get(key)
        if left:
            own = (place for place in left if place.interaction.agent_path == agent_path) if agent_path else iter(())
            place = next(own, left[0])
            left.remove(place)
        elif self._repeats and key in self._first:
            place = self._first[key]
        else:
            return None
        place.plays += 1
        return place

    def take_like(self, key: RequestKey, agent_path: str) -> Place | None:
        """Return the next recording for a request, as `take` does; `[redacted]` in a recording stands for any text."""
        if self._redacted is None:
            self._redacted = [each for each in self._first if has_wildcards(each)]
        keys = [key, *(each for each in self._redacted if covers(each, key))]
        return next((place for each in keys if (place := self.take(each, agent_path))), None)

    @property
    def unplayed(self) -> tuple[Interaction, ...]:
        """The interactions that were not played yet."""
        return tuple(place.interaction for place in self.places if not place.plays)


_NEAREST_SHOWN = 3
"""Most recorded requests that a miss describes."""
_MORE_DIFFERENCES = 1
"""Most differences that a recorded request may have beyond those of the nearest one, for a miss to describe it."""
_DIFFERENCES_SHOWN = 5
"""Differences that a miss shows of each."""
_MOST_COMPARED = 20
"""Most recorded requests that are compared leaf by leaf."""
_MOST_COMPARED_BYTES = 2_000_000
"""Most bytes of bodies that are compared leaf by leaf."""
_MOST_RANKED_BYTES = 50_000_000
"""Most bytes of recorded bodies that are ranked by likeness; bodies that were not played come first."""
_MOST_COUNTED = 100
"""Most differences that are counted of one recorded request."""

_SHOWN_IN_SUMMARY = 40
"""Characters of a value in the first line of a miss, which test runners repeat in their summaries."""
_BASE_URL = re.compile(r"(\w+://[^/?#]*(?:/v\d+\w*(?=/))?).*", re.DOTALL)
"""URL, and the beginning of it that names a provider: scheme, host, and the version of the API if there is one."""


class _NearMiss(NamedTuple):
    """Recorded request that differs little from one that is not recorded."""

    total: int
    """Number of differences, `_MOST_COUNTED` at most, that of the address included; 0 for the same request."""
    was_played: bool
    span: int
    """Size of the changed part of the body, in bytes."""
    number: int
    """Number in the cassette; unique, so that the next fields are not compared."""
    place: Place
    found: list[str]
    """Differences."""


def describe_miss(
    name: str,
    request: tuple[str, str, bytes],
    places: Sequence[Place],
    matching: Matching,
    headers: Headers = _NO_HEADERS,
) -> str:
    """Return the message about a request that is not in a cassette.

    The first line has the first difference from the nearest recording, and the name of the file. Below it is that
    recording, and others that are about as near. Only the most similar ones are compared leaf by leaf, so a miss takes
    milliseconds however large the cassette is.

    Args:
        name: of the cassette.
        request: method, URI and body.
        places: the recorded interactions.
        matching: says which requests are the same.
        headers: of the body.
    """
    method, uri, body = request
    file = pathlib.Path(name).name
    if not places:
        return f"{file} has no answers, so none for {method} {uri}"
    key = matching.key(method, uri, body, headers)
    near = _near_misses(method, uri, key, places)
    lines = [f"{_summary(near[0], method, uri, key)} ({file})", f"{name} has no answer for {method} {uri}"]
    shown = [each for each in near[:_NEAREST_SHOWN] if each.total <= near[0].total + _MORE_DIFFERENCES]
    for each in shown:
        lines += _description(each)
    if (others := len(places) - len(shown)) > 0:
        lines.append(f"  and {counted(others, 'other interaction')}")
    if matching.ignore:
        lines.append(f"  not compared: {', '.join(matching.ignore)}")
    of_other_host = (each.place for each in near if _differs_in_host_only(each.place.key, key))
    lines += next((_advice_on_host(uri, place) for place in of_other_host), [])
    return "\n".join(lines)


def _near_misses(method: str, uri: str, key: RequestKey, places: Sequence[Place]) -> list[_NearMiss]:
    """Return the recorded requests that differ least, the nearest one first."""
    ranked: list[_NearMiss] = []
    left = _MOST_COMPARED_BYTES
    for span, place in _most_similar(key, places):
        recorded = place.interaction
        left -= len(place.key[-1]) + len(key[-1])
        if left < 0 and ranked:
            break
        found = list(islice(differences(place.key[-1], key[-1]), _MOST_COUNTED))
        if place.key[:-1] != key[:-1]:
            found.insert(0, f"request: recorded {recorded.method} {recorded.uri}, now {method} {uri}")
        ranked.append(_NearMiss(len(found), place.plays > 0, span, place.number, place, found))
    return sorted(ranked, key=lambda each: each[:4])


def _summary(nearest: _NearMiss, method: str, uri: str, key: RequestKey) -> str:
    """Return the first difference from the nearest recording in one short line, with the number of others.

    The line for the same request says that it was played already.
    """
    if not nearest.total:
        return f"{method} {uri} was played already, as often as it was recorded"
    recorded = nearest.place.key
    if _differs_in_host_only(recorded, key):
        first = f"host: recorded {recorded[2]}, now {key[2]}"
    elif recorded[:-1] != key[:-1]:
        first = nearest.found[0]
    else:
        first = next(differences(recorded[-1], key[-1], _SHOWN_IN_SUMMARY))
    return first if nearest.total == 1 else f"{first}, and {nearest.total - 1} more"


def _differs_in_host_only(recorded: RequestKey, now: RequestKey) -> bool:
    """Return True if two requests differ in nothing but scheme and host."""
    return (recorded[0], *recorded[3:]) == (now[0], *now[3:]) and recorded[1:3] != now[1:3]


def _advice_on_host(uri: str, place: Place) -> list[str]:
    """Return the lines of a miss that differs in the host alone: the settings that make both URLs the same.

    A recording of a server on this machine plays for a client that asks that server. Any other recording plays for a
    server that `record_as` names, which stands in for the recorded one.
    """
    live, recorded = (_BASE_URL.sub(r"\1", each) for each in (uri, place.interaction.uri))
    is_local, was_local = (is_loopback(urlsplit(each).hostname or "") for each in (live, recorded))
    where = "an argument of use_cassette and an item of the fixture cassette_settings"
    if was_local and not is_local:
        return [
            f"  to play it: {_base_url_setting(live, recorded)}; no server has to run there",
            f"  or record it as {urlsplit(live).hostname}: record_as={{{recorded!r}: {live!r}}}, {where}",
        ]
    lines = [f"  if {live} stands in for {place.key[2]}: record_as={{{live!r}: {recorded!r}}}, {where}"]
    if is_local and not was_local:
        lines.append(f"  if it is there by mistake: {_base_url_setting(recorded, recorded)}")
    return lines


def _base_url_setting(provider: str, url: str) -> str:
    """Return the words that say how a client of a provider gets a base URL.

    Args:
        provider: URL of the provider.
        url: base URL that the client has to have.
    """
    host = urlsplit(provider).hostname
    if host == "api.anthropic.com":  # its SDK adds the version
        url = url.removesuffix("/v1")
    variable = {"api.openai.com": "OPENAI_BASE_URL", "api.anthropic.com": "ANTHROPIC_BASE_URL"}.get(host or "")
    text = f"give the client base_url={url!r}"
    return f"{text}, or set {variable}={url}" if variable else text


def _most_similar(key: RequestKey, places: Sequence[Place]) -> list[tuple[int, Place]]:
    """Return the recorded requests with the smallest changed part, each after the number of bytes of that part.

    Those with the same method and URI come first. Requests not played yet are searched first, up to a fixed number of
    bytes.
    """
    spans: list[tuple[bool, int, int, Place]] = []
    left = _MOST_RANKED_BYTES
    for place in sorted(places, key=lambda place: place.plays):
        left -= len(place.key[-1])
        if left < 0 and spans:
            break
        spans.append((place.key[:-1] != key[:-1], changed_span(place.key[-1], key[-1]), place.number, place))
    return [(span, place) for _, span, _, place in nsmallest(_MOST_COMPARED, spans)]


def _description(near: _NearMiss) -> list[str]:
    """Return the lines of a miss about one recorded request: how many differences it has, and the first of them."""
    where = f"  interaction {near.number}"
    if not near.total:
        return [f"{where} is the same request, and was played already"]
    many = f"{near.total}{' or more' if near.total >= _MOST_COUNTED else ''}"
    shown = f", the first {_DIFFERENCES_SHOWN}" if near.total > _DIFFERENCES_SHOWN else ""
    lines = [f"{where}{' (played already)' if near.was_played else ''} differs in {many}{shown}:"]
    return [*lines, *(f"    {difference}" for difference in near.found[:_DIFFERENCES_SHOWN])]
