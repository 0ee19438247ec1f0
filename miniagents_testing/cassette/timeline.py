"""Everything that came, of all interactions of a cassette, in the order in which it came."""

from __future__ import annotations

from heapq import merge
from typing import TYPE_CHECKING, Literal, NamedTuple

from miniagents_testing._streams import TICKS_PER_SECOND, ticks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from miniagents_testing.cassette.interaction import Interaction

__all__ = ["Moment", "ends_ms", "timeline"]


class Moment(NamedTuple):
    """Something that happened in a recording."""

    ms: float
    """Since the recording began."""
    number: int
    """Which interaction; the first is 1."""
    what: Literal["request", "headers", "chunk", "end"]
    data: bytes = b""
    """Of a chunk."""


def timeline(interactions: Sequence[Interaction]) -> tuple[Moment, ...]:
    """What happened, by time: of streams that ran at once, what came first stands first."""
    return tuple(merge(*(_moments(number, each) for number, each in enumerate(interactions, 1))))


def ends_ms(interactions: Iterable[Interaction]) -> float:
    """When the last of them ended, in ms since the recording began."""
    return max((moment.ms for each in interactions for moment in _moments(0, each)), default=0.0)


def _moments(number: int, interaction: Interaction) -> Iterator[Moment]:
    answer, now = interaction.response, ticks(interaction.started_ms)
    yield Moment(_ms(now), number, "request")
    now += ticks(answer.headers_ms)
    if answer.status:
        yield Moment(_ms(now), number, "headers")
    for chunk in answer.chunks:
        now += chunk.wait
        yield Moment(_ms(now), number, "chunk", chunk.data)
    yield Moment(_ms(now), number, "end")


def _ms(moment: int) -> float:
    return moment * 1000 / TICKS_PER_SECOND
