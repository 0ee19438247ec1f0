"""An open cassette: what of it is left, what was recorded, what was missing. Knows no HTTP library and no file."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakSet

from miniagents import InteractionContext
from miniagents_testing._streams import TICKS_PER_SECOND, ticks
from miniagents_testing.cassette.index import Index
from miniagents_testing.cassette.misses import miss_class, near_misses
from miniagents_testing.cassette.order import Order
from miniagents_testing.cassette.playing import Playback
from miniagents_testing.cassette.recording import Recorder
from miniagents_testing.cassette.timeline import ends_ms, timeline
from miniagents_testing.errors import CassetteMissError, RecordingRefusedError, UnplayedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from miniagents_testing.cassette.index import Place
    from miniagents_testing.cassette.interaction import Interaction
    from miniagents_testing.cassette.playing import HTTPLibrary
    from miniagents_testing.cassette.recording import Slot
    from miniagents_testing.cassette.settings import Settings
    from miniagents_testing.cassette.timeline import Moment

__all__ = ["LiveRequest", "Session"]

UNPLAYED_SHOWN = 5


class LiveRequest(NamedTuple):
    """A request that somebody is about to send."""

    method: str
    url: str
    body: bytes
    headers: Sequence[tuple[str, str]]


class Session:
    """One cassette while it is open. `use_cassette` makes it.

    Args:
        name: of the cassette, for messages.
        interactions: those that were recorded before, in the order in which they were started.
        settings: how to play and record.
        plays: whether they are played.
        records: whether what is not in the cassette is sent and recorded.
        advice: what a miss says at its end.
        seen_as: what a live request is before it is looked for; None for one that is none of the cassette's business.
        repeats: whether what was played already may be played again.
        on_played: is told the index of each interaction that is played.
    """

    def __init__(
        self,
        name: str,
        interactions: Sequence[Interaction],
        settings: Settings,
        *,
        plays: bool = True,
        records: bool = False,
        advice: str = "",
        seen_as: Callable[[LiveRequest], LiveRequest | None] | None = None,
        repeats: bool = False,
        on_played: Callable[[int], object] | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.records = records
        self.interactions = tuple(interactions)
        """What the cassette held when it was opened."""
        self.recorded: tuple[Interaction, ...] = ()
        """What was recorded; known when the cassette is closed."""
        self.closed = False
        self.outer: Session | None = None
        """The one that was open here before."""
        self._plays = plays
        self._advice = advice
        self._seen_as = seen_as
        self._on_played = on_played
        self._index = Index(self.interactions if plays else (), settings.match, repeats=repeats)
        self._order = Order(ticks(each.started_ms) for each in self.interactions if plays)
        begins_ms = ends_ms(self.interactions) if plays and records else 0.0
        self._recorder = Recorder(settings.redact.learn, settings.on_early_close, begins_ms)
        self._misses: list[CassetteMissError] = []
        self._asked_by: Counter[str] = Counter()
        self._playing: WeakSet[Playback] = WeakSet()  # some readers go without closing
        self._anchor = 0.0
        """On the readers' clock, the beginning of the recording."""
        self._lock = threading.Lock()

    # --- what a test looks at

    @property
    def misses(self) -> tuple[CassetteMissError, ...]:
        """Each request that was not in the cassette, also where the application has swallowed the error."""
        return tuple(self._misses)

    @property
    def unplayed(self) -> tuple[Interaction, ...]:
        """The recorded interactions that were not asked for yet."""
        return self._index.unplayed

    @property
    def incomplete(self) -> tuple[Interaction, ...]:
        """Those played or recorded whose answer is not whole: its reader left, or the connection broke."""
        played = (place.interaction for place in self._index.places if place.plays)
        return tuple(each for each in (*played, *self.recorded) if not each.response.complete)

    def timeline(self) -> tuple[Moment, ...]:
        """What happened in the recording, by time; of streams that ran at once, what came first stands first."""
        return timeline((*self.interactions, *self.recorded))

    def assert_complete(self) -> None:
        """Raise what an application may have swallowed, or left out. Done at the end of `use_cassette`.

        Raises:
            CassetteMissError: the first request that was not in the cassette.
            UnplayedError: interactions were not asked for: the application does less than when it was recorded.
        """
        if self._misses:
            first, *others = self._misses
            note = f"{len(others)} more requests were not in {self.name}"
            if others and note not in getattr(first, "__notes__", ()):
                first.add_note(note)
            raise first
        if self._plays and not self.records and self.settings.unplayed == "fail" and self.unplayed:
            left = [place for place in self._index.places if not place.plays]
            names = [_named(place) for place in left[:UNPLAYED_SHOWN]]
            more = [f"and {len(left) - len(names)} more"] if len(left) > len(names) else []
            raise UnplayedError(f"{self.name}: {len(left)} interactions were not played: {', '.join([*names, *more])}")

    # --- what a transport does

    def answer(
        self, request: LiveRequest, library: HTTPLibrary, clock: Callable[[], float], started: float
    ) -> Playback | Slot | None:
        """What becomes of a request: it is played, or sent and recorded; None: it is sent and nothing more.

        Args:
            request: as it would be sent.
            library: of the client that asks.
            clock: of whoever asks: the loop's, or `time.monotonic`.
            started: when it asked, by that clock.

        Raises:
            CassetteMissError: it is not in the cassette. The class raised is also one of the SDKs' own errors, so that
                they neither retry nor hide it.
        """
        seen = request if self._seen_as is None else self._seen_as(request)
        if seen is None:
            return None
        settings = self.settings
        settings.redact.learn(request.headers)
        uri = settings.redact.scrub_uri(settings.canonical_uri(seen.url))
        body = settings.redact.scrub_body(seen.body)
        path, agent = self._who_asks()
        with self._lock:
            place = self._index.take(settings.match.key(seen.method, uri, body), path) if self._plays else None
        if place is not None:
            return self._play(place, library, started)
        if self.records:
            slot = self._recorder.start(request.method, settings.canonical_uri(request.url), clock, agent)
            slot.asks(request.body, request.headers)
            return slot
        raise self._miss(seen.method, uri, body)

    def _play(self, place: Place, library: HTTPLibrary, started: float) -> Playback:
        if self._on_played is not None:
            self._on_played(place.number - 1)
        settings, interaction = self.settings, place.interaction
        together = settings.anchor == "timeline"
        with self._lock:
            anchor = started - ticks(interaction.started_ms) / TICKS_PER_SECOND * settings.pace
            if together and self._playing:
                anchor = self._anchor
            self._anchor = anchor
            in_order = together and not settings.pace and place.plays == 1
            order = (self._order, self._order.turns[place.number - 1]) if in_order else None
            playback = Playback(interaction, settings, library, anchor, order, self._playing.discard)
            self._playing.add(playback)
        return playback

    def _who_asks(self) -> tuple[str, str]:
        """The aliases of the running agent and its callers, and the same with a number; empty outside of agents."""
        try:
            trace = InteractionContext.get_current().get_agent_trace()
        except LookupError:
            return "", ""
        path = "/".join(reversed(trace))
        with self._lock:
            self._asked_by[path] += 1
            return path, f"{path}#{self._asked_by[path]}"

    def _miss(self, method: str, uri: str, body: bytes) -> CassetteMissError:
        if self.interactions:
            lines = [f"{self.name} has no answer for {method} {uri}"]
            lines += near_misses((method, uri, body), self._index.places, self.settings.match)
        else:
            lines = [f"{self.name} has no answers; {method} {uri} was asked for"]
        miss = miss_class()("\n".join([*lines, self._advice] if self._advice else lines))
        self._misses.append(miss)
        return miss

    def played_elsewhere(self, index: int) -> None:
        """Somebody else, such as vcrpy for another HTTP library, has played an interaction of this cassette."""
        self._index.places[index].plays += 1

    def finish(self) -> tuple[Interaction, ...]:
        """Close it; returns what was recorded, as it may be written.

        Raises:
            RecordingRefusedError: a secret stands in it.
        """
        self.closed = True
        redact = self.settings.redact
        self.recorded = tuple(redact.scrub(each) for each in self._recorder.interactions())
        leaks = [
            replace(leak, interaction=number)
            for number, each in enumerate(self.recorded, 1)
            for leak in redact.leaks(each)
        ]
        if leaks:
            raise RecordingRefusedError(f"{self.name} was not written: {'; '.join(str(leak) for leak in leaks)}")
        return self.recorded


def _named(place: Place) -> str:
    """An interaction, so that people find it."""
    recorded = place.interaction
    return f"{place.number} ({recorded.method} {recorded.uri}{recorded.agent and f', by {recorded.agent}'})"
