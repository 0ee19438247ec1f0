"""An open cassette (`Session`): it plays, records, and keeps account of both.

Independent of HTTP libraries and files.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakSet

from miniagents import InteractionContext
from miniagents_testing._hosts import Address
from miniagents_testing._streams import TICKS_PER_SECOND, ticks
from miniagents_testing._waiting import describe_running_code
from miniagents_testing._words import counted, first_lines
from miniagents_testing.cassette._bodies import content_headers
from miniagents_testing.cassette._headers import VcrpyHeaders
from miniagents_testing.cassette._interaction import ends_ms, failure_of, timeline
from miniagents_testing.cassette._matching import Index, describe_miss
from miniagents_testing.cassette._playback import Order, Playback
from miniagents_testing.cassette._recording import Recorder
from miniagents_testing.errors import (
    CassetteMissError,
    LiveRequestError,
    RecordingRefusedError,
    UnplayedError,
    causes,
    with_sdk_bases,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from miniagents_testing.cassette._bodies import Headers
    from miniagents_testing.cassette._interaction import Interaction, Moment
    from miniagents_testing.cassette._matching import Place, RequestKey
    from miniagents_testing.cassette._playback import HTTPLibrary
    from miniagents_testing.cassette._recording import Slot
    from miniagents_testing.cassette._secrets import Redacted, Replaced
    from miniagents_testing.cassette._settings import RecordSettings


LARGE = 1_000_000
"""Bytes of a request or of a recording from which on secrets are looked for in a thread."""

_VCRPY_ERROR = ("vcr.errors", "CannotOverwriteExistingCassetteException")


def _miss_class() -> type[CassetteMissError]:
    """Return the class of a miss: SDKs pass it on as it is, and code written for vcrpy catches it."""
    return with_sdk_bases(CassetteMissError, _VCRPY_ERROR)


_MOST_SHOWN = 5
"""Most interactions that a message names."""


class LiveRequest(NamedTuple):
    """A request that a client is about to send."""

    method: str
    url: str
    body: bytes
    headers: Sequence[tuple[str, str]]
    as_vcrpy: Any = None
    """The request as vcrpy's own patch of the client makes it, if that differs; see `Session.matches_as_vcrpy`."""


class Session:
    """One cassette while it is open. `use_cassette` makes it.

    Args:
        name: of the cassette, for messages.
        interactions: of the cassette, in the order in which they were started.
        settings: for playing and recording.
        plays: True to play the interactions.
        records: True to send and record requests that are not in the cassette.
        exists: False if the cassette has no file yet, for messages.
        advice: last line of the messages about a miss and about what was not played.
        seen_as: called with each live request; returns the request to look up in its place, or None to send the
            request without a look-up.
        repeats: True to play an interaction again when a request has no other left.
        on_played: called with the index of each interaction that is played.
        find: finds the index and the interaction for a request, in place of the settings' own matching; what the
            session has recorded may be found, too.
        on_recorded: called with each recording, redacted, as soon as its answer has come to its orderly end.
        judges: True to refuse clients that cannot be recorded while the cassette plays, and to warn of them while it
            records. False leaves those clients alone, and keeps all headers, as vcrpy does.
        width: rank of a test runner's session, which is open in all contexts: 0 for a test, more for a module. Of
            several such sessions, the one with the smallest width answers. None for a session that is open only in the
            context that opened it.
    """

    def __init__(
        self,
        name: str,
        interactions: Sequence[Interaction],
        settings: RecordSettings,
        *,
        plays: bool = True,
        records: bool = False,
        exists: bool = True,
        advice: str = "",
        seen_as: Callable[[LiveRequest], LiveRequest | None] | None = None,
        repeats: bool = False,
        on_played: Callable[[int], object] | None = None,
        find: Callable[[LiveRequest], tuple[int, Interaction] | None] | None = None,
        on_recorded: Callable[[Interaction], object] | None = None,
        judges: bool = True,
        width: int | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.records = records
        self.interactions = tuple(interactions)
        """Interactions of the cassette when it was opened."""
        self.recorded: tuple[Interaction, ...] = ()
        """Interactions that were recorded; empty until the cassette is closed."""
        self.replaced: tuple[Replaced, ...] = ()
        """Texts that were replaced in the recording; empty until the cassette is closed."""
        self._finished: list[Redacted] | None = None
        self.not_written = ""
        """Reason why what was recorded is not written to the file; empty if it is."""
        self.shared_by_failed_test = False
        """True if a test has failed that shares the cassette with others, and so did not end the block."""
        self.closed = False
        self.outer: Session | None = None
        """The session that was current in this context before."""
        self._plays = plays
        self._exists = exists
        self._advice = advice
        self._seen_as = seen_as
        self._on_played = on_played
        self._find = find
        self.matches_as_vcrpy = find is not None
        """True if requests are looked up by the rules of vcrpy."""
        self.judges = judges
        self.width = width
        self._index = Index(self.interactions if plays else (), settings.match, repeats=repeats)
        self._order = Order(ticks(each.started_ms) for each in self.interactions) if plays else None
        begins_ms = ends_ms(self.interactions) if plays and records else 0.0
        keep = settings.headers if judges else VcrpyHeaders()
        on_whole = None if on_recorded is None else lambda whole: on_recorded(self._scrubbed(whole))
        self._recorder = Recorder(settings.redact.learn, settings.on_early_close, begins_ms, keep, on_whole)
        self._misses: list[CassetteMissError] = []
        self._refused: list[LiveRequestError] = []
        self._unrecorded: dict[str, None] = {}
        self._requests_by_agent: Counter[str] = Counter()
        self._playing: WeakSet[Playback] = WeakSet()  # weak: some readers never close a response
        self._anchor = 0.0
        """Beginning of the recording, in seconds on the readers' clock."""
        self._lock = threading.Lock()

    # --- for tests

    @property
    def misses(self) -> tuple[CassetteMissError, ...]:
        """Errors for all requests that were not in the cassette, also those that the application has caught."""
        return tuple(self._misses)

    @property
    def refused(self) -> tuple[LiveRequestError, ...]:
        """Errors for all attempts of clients that are not recorded to reach the network while the cassette plays."""
        return tuple(self._refused)

    @property
    def unrecorded(self) -> tuple[str, ...]:
        """Connections that were made while recording and are not in the recording: `requests > urllib3 to host:443`."""
        return tuple(self._unrecorded)

    @property
    def unplayed(self) -> tuple[Interaction, ...]:
        """Interactions of the cassette that were not played yet."""
        return self._index.unplayed

    @property
    def incomplete(self) -> tuple[Interaction, ...]:
        """Played or recorded interactions without a whole answer: its reader closed it, or the connection broke."""
        played = (place.interaction for place in self._index.places if place.plays)
        return tuple(each for each in (*played, *self.recorded) if not each.response.complete)

    def timeline(self) -> tuple[Moment, ...]:
        """Return the moments of the recording in order of time, those of parallel streams mixed."""
        return timeline((*self.interactions, *self.recorded))

    def assert_complete(self) -> None:
        """Raise an error if a request was not in the cassette or refused, or an interaction was not played.

        Interactions are not checked while the session records, or if the setting `unplayed` is not "fail".

        `use_cassette` calls this at its end, because an application may catch the error of a request.

        Raises:
            CassetteMissError: a request was not in the cassette; the first such error.
            LiveRequestError: a client that is not recorded was refused; the first such error.
            UnplayedError: interactions were not played: the application does less than when it was recorded.
        """
        self.assert_answered()
        if self._plays and not self.records and self.settings.unplayed == "fail" and self.unplayed:
            left = [place for place in self._index.places if not place.plays]
            many = counted(len(left), "interaction was", "interactions were")
            lines = [
                f"{many} not played ({Path(self.name).name})",
                *first_lines([f"{self.name}, interaction {_named(place)}" for place in left], _MOST_SHOWN),
                "  unplayed='ignore' lets the application ask less than was recorded",
            ]
            raise UnplayedError("\n".join([*lines, self._advice] if self._advice else lines))

    def assert_answered(self) -> None:
        """Raise the first error about a request that was not in the cassette, or else about a refused client.

        Do nothing without either. A note on the first miss says how many more there are.
        """
        if self._misses:
            first, *others = self._misses
            if others:
                more = counted(len(others), "more request was", "more requests were")
                _add_note(first, f"{more} not in {self.name}")
            raise first
        if self._refused:
            raise self._refused[0]

    def add_notes(self, error: BaseException) -> None:
        """Add notes to the error of an application: the first miss and refusal that it has caught, and played failures.

        Forget a refusal that is the error itself or one of its causes.
        """
        shown = {id(each) for each in causes(error, shown=True)}  # errors of users need not be hashable
        if self._misses and shown.isdisjoint(map(id, self._misses)):
            _add_note(error, f"Before that, a request was not in the cassette: {self._misses[0]}")
        self.mark_seen(error)
        if self._refused:
            _add_note(error, f"Before that, a request was refused: {self._refused[0]}")
        is_said = any(self._failure_note in getattr(each, "__notes__", ()) for each in causes(error, shown=True))
        if self.judges and self.width is None and not is_said and (failures := self.describe_played_failures()):
            _add_note(error, failures)  # the report of a test runner has the same text itself

    def describe_played_failures(self) -> str:
        """Return a text about the played interactions that failed when they were recorded; empty without them.

        The last line says how to record them again.
        """
        played = [(place, failure_of(place.interaction)) for place in self._index.places if place.plays]
        failed = [f"interaction {_named(place)}: {failure}" for place, failure in played if failure]
        if not failed:
            return ""
        many = counted(len(failed), "recorded failure was", "recorded failures were")
        lines = [f"{many} played from {self.name}:", *first_lines(failed, _MOST_SHOWN)]
        return "\n".join([*lines, self._advice] if self._advice else lines)

    # --- for transports

    def answer(
        self, request: LiveRequest, library: HTTPLibrary, clock: Callable[[], float], started: float
    ) -> Playback | Slot | None:
        """Return the playback of a request, or a slot to send and record it, or None to send it only.

        Requests to `allow_hosts` or that `seen_as` ignores are sent only; so are those to `ignore_hosts` while the
        session records.

        Args:
            request: as it would be sent.
            library: of the client.
            clock: of the reader: the loop's, or `time.monotonic`.
            started: start of the request, by that clock.

        Raises:
            CassetteMissError: the request is not in the cassette. Its class also derives from the SDKs' own errors, so
                SDKs neither retry the request nor hide the error.
            Exception: the library's own error of a connection, for `ignore_hosts` while the session only plays.
        """
        if (self.settings.allow_hosts or self.settings.ignore_hosts) and self._goes_by(request.url, library):
            return None
        seen = request if self._seen_as is None else self._seen_as(request)
        if seen is None:
            return None
        settings = self.settings
        self._learn(request)
        uri = settings.redact.scrub_uri(settings.canonical_uri(seen.url))
        body, headers = settings.redact.scrub_request(seen.body, content_headers(seen.headers))
        path, agent = self._number_request()
        with self._lock:
            if self._find is not None:
                place = self._found(self._find(request))
            else:
                place = self._take(seen, uri, body, headers, path) if self._plays else None
        if place is not None:
            return self._play(place, library, started)
        if self.records:
            slot = self._recorder.start(request.method, settings.canonical_uri(request.url), clock, agent)
            slot.request_sent(request.body, request.headers)
            return slot
        raise self._miss(seen.method, uri, body, headers)

    async def prepare(self, request: LiveRequest) -> None:
        """Look for secrets in a large request in a thread, so that the event loop goes on; `answer` uses the result."""
        if self.records and len(request.body) > LARGE:
            await asyncio.to_thread(self._search, request)

    def _search(self, request: LiveRequest) -> None:
        """Search a request for secrets, so that the redaction has the result in its cache."""
        self._learn(request)
        self.settings.redact.scrub_request(request.body, content_headers(request.headers))

    def _learn(self, request: LiveRequest) -> None:
        """Let the redaction remember the secrets in the headers and the URL of a request."""
        self.settings.redact.learn(request.headers)
        self.settings.redact.learn_url(request.url)

    def _take(self, request: LiveRequest, uri: str, body: bytes, headers: Headers, agent_path: str) -> Place | None:
        """Return the next recording for a request, and count it as played; None if there is none.

        Of equal recordings, the first one of the same agent is taken. The request is looked up in three ways, in turn:
        redacted; as it was made, for cassettes of vcrpy and of earlier versions; and among recordings in which
        `[redacted]` stands for any text. The recording machine may have known other secret values than this one. So
        the third way first redacts only what names and shapes show to be secret, and then, for earlier versions,
        nothing.

        Args:
            request: as it was made.
            uri: of the request, redacted.
            body: of the request, redacted.
            headers: those that say how to read the redacted body.
            agent_path: of the agent that sends the request.
        """
        index, redact = self._index, self.settings.redact
        for key in self._keys(request.method, uri, body, headers):
            if place := index.take(key, agent_path):
                return place
        if not index.places:
            return None
        made = self.settings.canonical_uri(request.url), request.body, content_headers(request.headers)
        for key in self._keys(request.method, *made):
            if place := index.take(key, agent_path):
                return place
        uri = redact.scrub_uri(made[0], known=False)
        body, headers = redact.scrub_request(*made[1:], known=False)
        keys = (*self._keys(request.method, uri, body, headers), *self._keys(request.method, *made))
        found = (index.take_like(key, agent_path) for key in keys)
        return next((place for place in found if place), None)

    def _keys(self, method: str, uri: str, body: bytes, headers: Headers) -> Iterator[RequestKey]:
        """Yield the keys under which a request may be recorded.

        A recording without the header `content-type` has a form as plain bytes, so the request is tried as such, too.
        """
        yield self.settings.match.key(method, uri, body, headers)
        if self._index.has_bare_bodies and headers:
            yield self.settings.match.key(method, uri, body)

    def _found(self, found: tuple[int, Interaction] | None) -> Place | None:
        """Count what `find` gave as played, and return its place; return None if `find` gave None.

        What this session has recorded is not in the index, so that it gets a new place at each call.
        """
        if found is None:
            return None
        index, interaction = found
        place = self._index.places[index] if index < len(self._index.places) else self._index.place(index, interaction)
        place.plays += 1
        return place

    def _goes_by(self, url: str, library: HTTPLibrary) -> bool:
        """Return True for a request to allowed hosts, or to ignored hosts while the session records; see `answer`.

        Raises:
            Exception: the client library's connection error, for an ignored host in a session that only plays.
        """
        address = Address.of_url(url)
        if self.settings.allowed.match(address):
            return True
        if not self.settings.ignored.match(address):
            return False
        if not self.records:
            raise library.error("ConnectError", self.network_is_down(address))
        return True

    @property
    def _failure_note(self) -> str:
        """Note on an error that a playback raises: the client cannot tell it from one of today."""
        note = f"Played from {self.name}, where the request failed like this when it was recorded"
        return f"{note}\n{self._advice}" if self._advice else note

    def network_is_down(self, address: Address) -> str:
        """Return the message for a request to an ignored host that is not sent."""
        return f"{address} is in ignore_hosts, so it cannot be reached while {self.name} is played"

    def _play(self, place: Place, library: HTTPLibrary, started: float) -> Playback:
        """Return the playback of an interaction, and report it to `on_played`.

        By default, playbacks that overlap share one timeline; at pace 0 they keep the recorded order of arrivals.
        """
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
            is_ordered = together and not settings.pace and place.plays == 1 and place.number <= len(self.interactions)
            if self._order is not None and is_ordered:
                order = self._order, self._order.turns[place.number - 1]
            playback = Playback(
                interaction, settings, library, anchor, order, self._playing.discard, self._failure_note
            )
            self._playing.add(playback)
        return playback

    def _number_request(self) -> tuple[str, str]:
        """Return the path of the running agent below its callers, and the path with the number of its request.

        Both are empty outside of agents.
        """
        try:
            trace = InteractionContext.get_current().get_agent_trace()
        except LookupError:
            return "", ""
        path = "/".join(reversed(trace))
        with self._lock:
            self._requests_by_agent[path] += 1
            return path, f"{path}#{self._requests_by_agent[path]}"

    def _miss(self, method: str, uri: str, body: bytes, headers: Headers) -> CassetteMissError:
        """Return the error about a request that is not in the cassette, and keep it for `assert_answered`.

        Its message names the recorded requests that differ least.
        """
        if not self._exists:
            return self.missed(f"there is no cassette {self.name}, so no answer for {method} {uri}")
        places = self._index.places
        return self.missed(describe_miss(self.name, (method, uri, body), places, self.settings.match, headers))

    def missed(self, text: str) -> CassetteMissError:
        """Return the error with this message about what is not in the cassette, and keep it for `assert_answered`."""
        miss = _miss_class()(f"{text}\n{self._advice}" if self._advice else text)
        self._misses.append(miss)
        return miss

    def refuse(self, packages: Sequence[str], verb: str, address: Address) -> LiveRequestError:
        """Return the error for an attempt of a client that is not recorded to reach an address.

        It is kept in `refused`.

        Args:
            packages: of the client, the outermost first.
            verb: words between the client and the address in the message.
            address: of the attempt.
        """
        error = with_sdk_bases(LiveRequestError)(
            f"{' > '.join(packages)} was about to {verb} {address} while {self.name} is played; "
            f"{packages[-1]} is not recorded:\n{describe_running_code()}\n"
            f"Let a host through that the test needs: allow_hosts=[{str(address)!r}]; "
            f"shut off telemetry: ignore_hosts=[{address.host!r}]"
        )
        self._refused.append(error)
        return error

    def mark_seen(self, error: BaseException) -> None:
        """Remove from `refused` the refusals that are this error or its causes: their user sees them."""
        self._refused = [each for each in self._refused if each not in causes(error)]

    def connection_made(self, packages: Sequence[str], address: Address) -> None:
        """Add a connection of a client that is not recorded to `unrecorded`, once for each client and address."""
        self._unrecorded[f"{' > '.join(packages)} to {address}"] = None

    def warning(self) -> str:
        """Return the text of a warning about what a finished recording lacks, or an empty one if it lacks nothing.

        It names connections that were not recorded, or says that nothing was. It is empty without recording or judging.
        """
        if not self.records or not self.judges:
            return ""
        if self._unrecorded:
            empty = "" if self.recorded else "Nothing was recorded. "
            lines = "".join(f"\n  {each}" for each in self._unrecorded)
            return (
                f"{self.name}: {empty}Clients that are not recorded made connections while recording:{lines}\n"
                "allow_hosts and ignore_hosts have hosts that do not matter"
            )
        if self.recorded or any(place.plays for place in self._index.places):
            return ""
        return f"{self.name}: Nothing was recorded: no client that can be recorded sent a request"

    def played_elsewhere(self, index: int) -> None:
        """Count an interaction as played that something else has played, such as vcrpy for another HTTP library."""
        self._index.places[index].plays += 1

    def finish(self) -> tuple[Interaction, ...]:
        """Close the session; return what was recorded, redacted. The caller writes it to the file.

        Fill `recorded` and `replaced`, also if an error is raised.

        Raises:
            RecordingRefusedError: the recording still contains a secret.
        """
        self.closed = True
        redacted = self._redacted() if self._finished is None else self._finished
        self.recorded = tuple(each.interaction for each in redacted)
        self.replaced = tuple(text for each in redacted for text in each.replaced)
        first = len(self.interactions) + 1
        leaks = [
            replace(leak, interaction=number) for number, each in enumerate(redacted, first) for leak in each.leaks
        ]
        if leaks:
            raise RecordingRefusedError(f"{self.name} was not written: {'; '.join(str(leak) for leak in leaks)}")
        return self.recorded

    async def redact_in_thread(self) -> None:
        """Redact a large recording in a thread, so that the event loop goes on; `finish` uses the result."""
        if self.records and self._recorder.size > LARGE:
            self._finished = await asyncio.to_thread(self._redacted)

    def _redacted(self) -> list[Redacted]:
        """Stop recording, and return what was recorded, redacted."""
        redact, first = self.settings.redact, len(self.interactions) + 1
        recorded = self._recorder.interactions()
        return [redact.redact(each, keep=None, number=number) for number, each in enumerate(recorded, first)]

    def _scrubbed(self, recorded: Interaction) -> Interaction:
        """Return a recording without the secrets that are known by now."""
        return self.settings.redact.scrub(recorded, keep=None)


def _add_note(error: BaseException, note: str) -> None:
    """Add a note to an error, unless the error has the same note."""
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)


def _named(place: Place) -> str:
    """Return words that name an interaction in a message: its number, method and URI, and its agent."""
    recorded = place.interaction
    return f"{place.number}: {recorded.method} {recorded.uri}{recorded.agent and f', by {recorded.agent}'}"
