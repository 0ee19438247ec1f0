"""Look-up of recorded interactions by request, and the message about a request that is not recorded.

`Index` finds an interaction by its request; a look-up costs the same however many there are. `describe_miss` names the
recorded requests that differ least. Independent of sessions and clients.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from heapq import nsmallest
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from miniagents_testing._words import counted
from miniagents_testing.cassette._bodies import header_value
from miniagents_testing.cassette._matching import changed_span, differences
from miniagents_testing.cassette._wildcards import covers, has_wildcards

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miniagents_testing.cassette._bodies import Headers
    from miniagents_testing.cassette._interaction import Interaction
    from miniagents_testing.cassette._matching import Matching, RequestKey


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
        """Return the next recording for a request: the first of the same agent, else the first one left, else None.

        Count it as played. With `repeats`, the first recording comes again in place of None.
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
"""Recorded requests that a miss describes."""
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

_NO_HEADERS: Headers = {}


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

    The first line has the first difference from the nearest recording, and the name of the file. Below it are the
    recorded requests that differ least, the nearest one first. Only the most similar ones are compared leaf by leaf, so
    a miss takes milliseconds however large the cassette is.

    Args:
        name: of the cassette.
        request: method, URI and body.
        places: the recorded interactions.
        matching: says which requests are the same.
        headers: of the body.
    """
    method, uri, body = request
    file = Path(name).name
    if not places:
        return f"{file} has no answers, so none for {method} {uri}"
    key = matching.key(method, uri, body, headers)
    near = _near_misses(method, uri, key, places)
    lines = [f"{_summary(near[0], method, uri, key)} ({file})", f"{name} has no answer for {method} {uri}"]
    for each in near[:_NEAREST_SHOWN]:
        lines += _description(each)
    if (others := len(places) - _NEAREST_SHOWN) > 0:
        lines.append(f"  and {counted(others, 'other interaction')}")
    if matching.ignore:
        lines.append(f"  not compared: {', '.join(matching.ignore)}")
    lines += islice((_stand_in(uri, each.place) for each in near if _differs_in_host_only(each.place.key, key)), 1)
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


def _stand_in(uri: str, place: Place) -> str:
    """Return the line that says how a server under another address is recorded as the provider."""
    live, recorded = (_BASE_URL.sub(r"\1", each) for each in (uri, place.interaction.uri))
    return (
        f"  if {live} stands in for {place.key[2]}: record_as={{{live!r}: {recorded!r}}}, an argument of use_cassette "
        "and an item of the fixture cassette_settings"
    )


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
