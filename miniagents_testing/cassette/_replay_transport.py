"""A cassette for one client of httpx2: nothing is patched."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import httpx2

from miniagents_testing.cassette._file import load
from miniagents_testing.cassette._httpx import Family
from miniagents_testing.cassette._session import Session
from miniagents_testing.cassette._settings import RecordSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miniagents_testing.cassette._interaction import Interaction


_HTTPX2 = Family.of("httpx2")


class ReplayTransport(httpx2.AsyncBaseTransport, httpx2.BaseTransport):
    """Transport that answers each request with the recorded stream of the same request, chunk for chunk.

    Args:
        cassette: path of a file, or interactions.
        pace: factor on the recorded waits, see `use_cassette`.
    """

    def __init__(self, cassette: str | os.PathLike[str] | Sequence[Interaction], *, pace: float = 0.0) -> None:
        if isinstance(cassette, (str, os.PathLike)):
            name, interactions = os.fspath(cassette), load(cassette)
        else:
            name, interactions = "the cassette", tuple(cassette)
        self.session = Session(name, interactions, RecordSettings(pace=pace))

    def assert_complete(self) -> None:
        """Raise an error about a miss or an unplayed interaction, see `Session.assert_complete`."""
        self.session.assert_complete()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the recorded response to a request, whose body streams; raise `CassetteMissError` if there is none."""
        response: httpx2.Response = await _HTTPX2.aanswer(self.session, request, _refuse_to_send)
        return response

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the recorded response to a synchronous request; raise `CassetteMissError` if there is none."""
        response: httpx2.Response = _HTTPX2.answer(self.session, request, _refuse_to_send)
        return response


def _refuse_to_send() -> Any:
    """Raise an `AssertionError`: a session that only plays never sends a request."""
    raise AssertionError("a session that only plays sends nothing")
