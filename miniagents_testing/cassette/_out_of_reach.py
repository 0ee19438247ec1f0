"""A stand-in for the cassette of a request that belongs to no single test, while a test runner prepares a fixture.

A fixture that several tests share is set up once, during the test that happens to come first. Its requests would go to
the cassette of that test, and each other test would lack them. So cassettes that are narrower than the fixture are out
of reach, and a request that finds no wider one is an error, in a recording as well as in a replay.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from miniagents_testing._hosts import Address, is_loopback
from miniagents_testing.cassette._contexts import answering
from miniagents_testing.cassette._current import out_of_reach
from miniagents_testing.cassette._session import Session
from miniagents_testing.cassette._settings import RecordSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from miniagents_testing.cassette._playback import HTTPLibrary
    from miniagents_testing.cassette._session import LiveRequest


@contextmanager
def without_narrow_cassettes(
    fixture: str,
    advice: str,
    *,
    width: int,
    records: bool,
    allow_loopback: bool,
    allow_hosts: Iterable[str],
    ignore_hosts: Iterable[str],
) -> Iterator[None]:
    """Keep narrow cassettes out of reach of a fixture until the `with` block ends.

    Args:
        fixture: name of the fixture, for the error of its requests.
        advice: the way to give it a cassette, for the same error.
        width: rank of the narrowest cassettes that the fixture may use.
        records: True if the test at hand records.
        allow_loopback: True to send requests to this machine.
        allow_hosts: see `use_cassette`.
        ignore_hosts: see `use_cassette`.

    Raises:
        CassetteMissError: in the client, a request that no cassette answers; also at the end, if it was caught.
    """
    settings = RecordSettings(allow_hosts=allow_hosts, ignore_hosts=ignore_hosts)
    session = _NoCassette(fixture, advice, settings, records=records, allow_loopback=allow_loopback)
    with out_of_reach(width), answering(session):
        try:
            yield
        finally:
            session.closed = True
    session.assert_answered()


class _NoCassette(Session):
    """Session of a fixture that no cassette is open for: it sends what belongs to no test, and refuses other requests.

    Its width is the largest, so that any cassette in reach goes before it.
    """

    def __init__(
        self, fixture: str, advice: str, settings: RecordSettings, *, records: bool, allow_loopback: bool
    ) -> None:
        super().__init__(fixture, (), settings, plays=False, records=records, judges=False, width=sys.maxsize)
        self._said = f"{fixture} made a request; {advice}"
        self._allow_loopback = allow_loopback

    def answer(self, request: LiveRequest, library: HTTPLibrary, clock: Callable[[], float], started: float) -> None:
        """Return None for a request that may be sent past all cassettes, and raise an error for any other.

        Raises:
            CassetteMissError: no cassette answers the request.
            Exception: see `Session.answer`.
        """
        address = Address.of_url(request.url)
        if self._goes_by(request.url, library) or (self._allow_loopback and is_loopback(address.host)):
            return
        raise self.missed(
            f"{self._said}\n  {request.method} {self.settings.redact.scrub_uri(request.url)}\n"
            "  Several tests share the fixture, so that the cassette of one test cannot have its requests. "
            f"Let a server of the tests through: allow_hosts=[{str(address)!r}]"
        )
