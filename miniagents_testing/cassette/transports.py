"""A cassette as a transport, for one client instead of all: the same session, and nothing is patched."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import httpx2

from miniagents_testing.cassette._patches.httpx import Family
from miniagents_testing.cassette.file import load
from miniagents_testing.cassette.session import Session
from miniagents_testing.cassette.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miniagents_testing.cassette.interaction import Interaction

__all__ = ["ReplayTransport"]

_HTTPX2 = Family.of("httpx2")


class ReplayTransport(httpx2.AsyncBaseTransport, httpx2.BaseTransport):
    """Answers each request with the recorded stream of the same request, chunk for chunk.

    Args:
        cassette: a file, or the interactions themselves.
        pace: factor on the recorded waits, see `use_cassette`.
    """

    def __init__(self, cassette: str | os.PathLike[str] | Sequence[Interaction], *, pace: float = 0.0) -> None:
        if isinstance(cassette, (str, os.PathLike)):
            name, interactions = os.fspath(cassette), load(cassette)
        else:
            name, interactions = "the cassette", tuple(cassette)
        self.session = Session(name, interactions, Settings(pace=pace))

    def assert_complete(self) -> None:
        """Raise what was missed or not played, see `Session.assert_complete`."""
        self.session.assert_complete()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The recorded response; its body streams."""
        response: httpx2.Response = await _HTTPX2.aanswer(self.session, request, _nobody_sends)
        return response

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The same for threads."""
        response: httpx2.Response = _HTTPX2.answer(self.session, request, _nobody_sends)
        return response


def _nobody_sends() -> Any:
    raise AssertionError("a session that only plays sends nothing")
