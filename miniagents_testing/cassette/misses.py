"""What is said when a request is not in the cassette: how it differs from the recorded ones, and to whom."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from miniagents_testing.cassette.matching import differences
from miniagents_testing.errors import CassetteMissError
from miniagents_testing.sdk_errors import sdk_proof

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miniagents_testing.cassette.index import Place
    from miniagents_testing.cassette.matching import Matching

__all__ = ["miss_class", "near_misses"]

NEAREST_SHOWN = 3
DIFFERENCES_SHOWN = 5
_COMPARED_BYTES = 500_000
"""Of recorded bodies, for one report. More would take time, and the nearest are looked at first."""
_COUNTED = 100
"""Differences, of one recorded request."""

_VCRPY_ERROR = ("vcr.errors", "CannotOverwriteExistingCassetteException")


def miss_class() -> type[CassetteMissError]:
    """The class of a miss: what SDKs let through, and what those catch who know vcrpy."""
    return sdk_proof(CassetteMissError, _VCRPY_ERROR)


def near_misses(request: tuple[str, str, bytes], places: Sequence[Place], matching: Matching) -> list[str]:
    """Lines about the recorded requests that differ least from this one (method, URI and body as they are matched).

    Those that are next in line are looked at first, and after a certain number of bytes the rest is not, so that a
    miss costs milliseconds however large the cassette is.
    """
    method, uri, body = request
    likely = sorted(
        places,
        key=lambda place: (
            place.interaction.uri != uri,
            place.played,
            abs(len(place.interaction.request_body) - len(body)),
        ),
    )
    canonical, budget = matching.canonical_body(body), _COMPARED_BYTES
    ranked: list[tuple[int, bool, int, list[str]]] = []
    for place in likely:
        if budget < 0:
            break
        recorded = place.interaction
        budget -= len(recorded.request_body)
        found = list(islice(differences(matching.canonical_body(recorded.request_body), canonical), _COUNTED))
        if (recorded.method, recorded.uri) != (method, uri):
            found.insert(0, f"request: recorded {recorded.method} {recorded.uri}, now {method} {uri}")
        ranked.append((len(found), place.played, place.number, found))
    ranked.sort()
    lines: list[str] = []
    for count, is_gone, number, found in ranked[:NEAREST_SHOWN]:
        lines += _described(count, is_gone, number, found)
    if len(ranked) < len(places):
        lines.append(f"  the {len(ranked)} likeliest of {len(places)} were compared")
    if matching.ignore:
        lines.append(f"  not compared: {', '.join(matching.ignore)}")
    return lines


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
