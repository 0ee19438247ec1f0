"""The recorded interactions of a cassette, found by what was asked: a look-up costs the same however many there are."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miniagents_testing.cassette.interaction import Interaction
    from miniagents_testing.cassette.matching import Matching, RequestKey

__all__ = ["Index", "Place"]


@dataclass(eq=False, slots=True)
class Place:
    """One interaction in its cassette."""

    number: int
    """As people count: the first is 1."""
    interaction: Interaction
    key: RequestKey
    plays: int = 0
    """How often it was played."""


class Index:
    """Gives out each interaction once.

    Args:
        interactions: in the order in which they were started.
        matching: what makes two requests the same.
        repeats: whether a request that has had all its recordings gets the first one again.
    """

    def __init__(self, interactions: Sequence[Interaction], matching: Matching, *, repeats: bool = False) -> None:
        self.places = [
            Place(number, each, matching.key(each.method, each.uri, each.request_body))
            for number, each in enumerate(interactions, 1)
        ]
        self._repeats = repeats
        self._left: defaultdict[RequestKey, list[Place]] = defaultdict(list)
        self._first: dict[RequestKey, Place] = {}
        for place in self.places:
            self._left[place.key].append(place)
            self._first.setdefault(place.key, place)

    def take(self, key: RequestKey, agent_path: str) -> Place | None:
        """The recording for the next request of this kind: the same agent's if there is one, else the first left."""
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

    @property
    def unplayed(self) -> tuple[Interaction, ...]:
        """Those that nobody has asked for yet."""
        return tuple(place.interaction for place in self.places if not place.plays)
