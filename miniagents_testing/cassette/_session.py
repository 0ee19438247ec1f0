"""An open cassette: what of it is left, what was recorded, what was missing. Knows no HTTP library and no file.

The recorded interactions of a cassette, found by what was asked: a look-up costs the same however many there are.

What is said when a request is not in the cassette: how it differs from the recorded ones, and to whom.

Which open cassette a request belongs to: the one opened in its context, else the only one that is open.

A context goes with a task, and with a thread that was started with it (`asyncio.to_thread`); other threads have none.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from heapq import nsmallest
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakSet

from miniagents import InteractionContext
from miniagents_testing._streams import TICKS_PER_SECOND, ticks
from miniagents_testing.cassette._interaction import ends_ms, timeline
from miniagents_testing.cassette._matching import changed_span, differences
from miniagents_testing.cassette._order import Order
from miniagents_testing.cassette._playback import Playback
from miniagents_testing.cassette._recording import Recorder
from miniagents_testing.errors import (
    CassetteError,
    CassetteMissError,
    RecordingRefusedError,
    UnplayedError,
    with_sdk_bases,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from miniagents_testing.cassette._interaction import Interaction, Moment
    from miniagents_testing.cassette._matching import Matching, RequestKey
    from miniagents_testing.cassette._playback import HTTPLibrary
    from miniagents_testing.cassette._recording import Slot
    from miniagents_testing.cassette._settings import RecordSettings


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
    return with_sdk_bases(CassetteMissError, _VCRPY_ERROR)


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
        settings: RecordSettings,
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
        self._order = Order(ticks(each.started_ms) for each in self.interactions) if plays else None
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
            order = None
            if self._order is not None and together and not settings.pace and place.plays == 1:
                order = self._order, self._order.turns[place.number - 1]
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


_current: ContextVar[Session | None] = ContextVar("miniagents_testing_cassette", default=None)
_passing: ContextVar[bool] = ContextVar("miniagents_testing_cassette_passing", default=False)
_open: list[Session] = []
_lock = threading.Lock()


def activate(session: Session) -> None:
    """From here on, and in the tasks that are started from here, requests belong to this cassette."""
    session.outer = _current.get()
    with _lock:
        _open.append(session)
    _current.set(session)


def deactivate(session: Session) -> None:
    """Requests belong to whom they belonged to before. May be called in another context than `activate`."""
    with _lock:
        _open.remove(session)
    if _current.get() is session:
        _current.set(session.outer)


def current_session() -> Session | None:
    """The cassette for a request that is made here; None: it is nobody's.

    Raises:
        CassetteError: several are open, and none of them was opened here.
    """
    if _passing.get():
        return None
    session = _current.get()
    while session is not None and session.closed:
        session = session.outer
    if session is not None:
        return session
    with _lock:
        candidates = list(_open)
    if len(candidates) > 1:
        raise with_sdk_bases(CassetteError)(
            f"a request is made where no cassette was opened, while several are open elsewhere: "
            f"{', '.join(each.name for each in candidates)}. Open its cassette in the task or thread that makes it"
        )
    return candidates[0] if candidates else None


def is_passing() -> bool:
    """Whether a request is on its way to the network here."""
    return _passing.get()


@contextmanager
def passing() -> Iterator[None]:
    """While a request is really sent, the transports below that of the client have nothing to do with cassettes."""
    token = _passing.set(True)
    try:
        yield
    finally:
        _passing.reset(token)
