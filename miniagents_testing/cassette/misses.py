"""What is said when a request is not in the cassette: how it differs from the recorded ones, and to whom."""

from __future__ import annotations

from heapq import nsmallest
from itertools import islice
from typing import TYPE_CHECKING

from miniagents_testing.cassette.matching import changed_span, differences
from miniagents_testing.errors import CassetteMissError, sdk_proof

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miniagents_testing.cassette.index import Place
    from miniagents_testing.cassette.matching import Matching, RequestKey

__all__ = ["miss_class", "near_misses"]

NEAREST_SHOWN = 3
DIFFERENCES_SHOWN = 5
_COMPARED = 20
"""Recorded requests, leaf by leaf; or as many as have this many bytes."""
_COMPARED_BYTES = 2_000_000
_LOOKED_AT = 50_000_000
"""Bytes of recorded bodies, for how alike they are; those that were not played are looked at first."""
_COUNTED = 100
"""Differences, of one recorded request."""

_VCRPY_ERROR = ("vcr.errors", "CannotOverwriteExistingCassetteException")


def miss_class() -> type[CassetteMissError]:
    """The class of a miss: what SDKs let through, and what those catch who know vcrpy."""
    return sdk_proof(CassetteMissError, _VCRPY_ERROR)


def near_misses(request: tuple[str, str, bytes], places: Sequence[Place], matching: Matching) -> list[str]:
    """Lines about the recorded requests that differ least from this one (method, URI and body as they are matched).

    Only the likeliest are compared leaf by leaf, so that a miss costs milliseconds however large the cassette is.
    """
    method, uri, body = request
    key = matching.key(method, uri, body)
    ranked: list[tuple[int, bool, int, int, list[str]]] = []
    left = _COMPARED_BYTES
    for span, place in _likeliest(key, places):
        recorded = place.interaction
        left -= len(place.key[-1]) + len(body)
        if left < 0 and ranked:
            break
        found = list(islice(differences(place.key[-1], key[-1]), _COUNTED))
        if place.key[:-1] != key[:-1]:
            found.insert(0, f"request: recorded {recorded.method} {recorded.uri}, now {method} {uri}")
        ranked.append((len(found), place.plays > 0, span, place.number, found))
    ranked.sort()
    lines: list[str] = []
    for count, is_gone, _, number, found in ranked[:NEAREST_SHOWN]:
        lines += _described(count, is_gone, number, found)
    if matching.ignore:
        lines.append(f"  not compared: {', '.join(matching.ignore)}")
    return lines


def _likeliest(key: RequestKey, places: Sequence[Place]) -> list[tuple[int, Place]]:
    """The recorded requests with the smallest part changed, and how many bytes that is."""
    spans: list[tuple[bool, int, int, Place]] = []
    left = _LOOKED_AT
    for place in sorted(places, key=lambda place: place.plays):
        left -= len(place.key[-1])
        if left < 0 and spans:
            break
        spans.append((place.key[:-1] != key[:-1], changed_span(place.key[-1], key[-1]), place.number, place))
    return [(span, place) for _, span, _, place in nsmallest(_COMPARED, spans)]


def _described(count: int, is_gone: bool, number: int, found: list[str]) -> list[str]:
    where = f"  interaction {number}"
    if not count:
        return [f"{where} is the same request, and was played already"]
    many = f"{count}{' or more' if count >= _COUNTED else ''}"
    lines = [f"{where}{' (played already)' if is_gone else ''} differs in {many}:"]
    lines += [f"    {difference}" for difference in found[:DIFFERENCES_SHOWN]]
    if count > DIFFERENCES_SHOWN:
        lines.append(f"    and {count - DIFFERENCES_SHOWN} more")
    return lines
