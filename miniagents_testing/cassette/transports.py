"""Cassettes as transports, for one client instead of all: the same sessions, and nothing is patched."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx2

from miniagents_testing.cassette.file import load, save
from miniagents_testing.cassette.locks import recording_lock
from miniagents_testing.cassette.modes import refuse_under_ci
from miniagents_testing.cassette.patches.httpx import Family
from miniagents_testing.cassette.session import Session
from miniagents_testing.cassette.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from miniagents_testing.cassette.interaction import Interaction

__all__ = ["RecordingTransport", "ReplayTransport"]

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


class RecordingTransport(httpx2.AsyncBaseTransport):
    """Sends requests on, and writes a cassette when it is closed; an older one is replaced.

    Args:
        path: the cassette.
        inner: who really sends; the network by default.
        record_as: see `use_cassette`.

    Raises:
        RecordingRefusedError: see `use_cassette`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        inner: httpx2.AsyncBaseTransport | None = None,
        record_as: Mapping[str, str] | None = None,
    ) -> None:
        refuse_under_ci(os.fspath(path), "rewrite")
        self._path = path
        self._inner = httpx2.AsyncHTTPTransport() if inner is None else inner
        self._resources = ExitStack()
        self._resources.enter_context(recording_lock(path))
        self.session = Session(os.fspath(path), (), Settings(record_as=record_as or {}), plays=False, records=True)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The live response, with a body that is written down while it is read."""
        response: httpx2.Response = await _HTTPX2.aanswer(
            self.session, request, lambda: self._inner.handle_async_request(request)
        )
        return response

    async def aclose(self) -> None:
        """Write the cassette, and close the connections."""
        with self._resources:
            await self._inner.aclose()
            save(self._path, self.session.finish())
