"""A transport that records: what comes is passed on at once, and written down with its time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx2

from miniagents_testing.cassette.file import save
from miniagents_testing.cassette.interaction import Interaction, holds_terminal_event, kept_headers
from miniagents_testing.errors import CassetteError
from miniagents_testing.streams import TICKS_PER_SECOND, Chunk, ResponseStream

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

__all__ = ["RecordingTransport"]

_SECRET_HEADERS = ("authorization", "api-key", "x-api-key", "x-goog-api-key")


class RecordingTransport(httpx2.AsyncBaseTransport):
    """Sends requests on, and writes a cassette when it is closed.

    Interactions are written in the order in which their requests started. A request that failed before its response
    came is not written.

    Args:
        path: the cassette; an older one is replaced.
        inner: who really sends; the network by default.
        record_as: what a URL that starts like this is called in the cassette, so that a recording made with a local
            server plays for the provider's own address: `{"http://127.0.0.1:8000/v1": "https://api.openai.com/v1"}`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        inner: httpx2.AsyncBaseTransport | None = None,
        record_as: Mapping[str, str] | None = None,
    ) -> None:
        self._path = Path(path)
        self._inner = httpx2.AsyncHTTPTransport() if inner is None else inner
        self._record_as = dict(record_as or {})
        self._began = 0.0
        self._slots: list[_Slot] = []
        self._secrets: set[str] = set()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The live response, with a body that is written down while it is read."""
        started = asyncio.get_running_loop().time()
        self._began = self._began or started
        # Compressed chunks could be read by nobody, and be played to nobody who wants other cuts.
        request.headers["accept-encoding"] = "identity"
        secrets = (request.headers.get(name, "").rpartition(" ")[2] for name in _SECRET_HEADERS)
        self._secrets.update(secret for secret in secrets if len(secret) >= 8)
        slot = _Slot(request, await request.aread(), self._canonical(str(request.url)), started - self._began)
        self._slots.append(slot)
        response = await self._inner.handle_async_request(request)
        slot.headers_arrived(response, started)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_Tee(response.stream, slot),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Write the cassette, and close the connections.

        Raises:
            CassetteError: the key of a request stands in what would be written; nothing was written.
        """
        await self._inner.aclose()
        interactions = [slot.interaction() for slot in self._slots if slot.response is not None]
        for interaction in interactions:
            self._refuse_secrets(interaction)
        save(self._path, interactions)

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    def _canonical(self, url: str) -> str:
        for live, recorded in self._record_as.items():
            if url.startswith(live):
                return recorded + url.removeprefix(live)
        return url

    def _refuse_secrets(self, interaction: Interaction) -> None:
        """Headers are safe by their list; a key could still stand in a URL or a body."""
        places = {
            "URL": interaction.uri.encode(),
            "request body": interaction.request_body,
            "response body": interaction.response.body,
        }
        for place, text in places.items():
            if any(secret.encode() in text for secret in self._secrets):
                raise CassetteError(f"{self._path} was not written: the API key of a request stands in a {place}")


@dataclass(slots=True)
class _Slot:
    """The place of one request, from its start."""

    request: httpx2.Request
    body: bytes
    uri: str
    started: float
    response: httpx2.Response | None = None
    headers_at: float = 0.0
    headers_after: float = 0.0
    chunks: list[Chunk] = field(default_factory=list)
    tick: int = 0
    end: str = ""

    def headers_arrived(self, response: httpx2.Response, started: float) -> None:
        """The response is there, its body is not."""
        self.response = response
        self.headers_at = asyncio.get_running_loop().time()
        self.headers_after = self.headers_at - started

    def chunk_arrived(self, data: bytes) -> None:
        """Waits are differences of rounded moments, so that rounding does not add up."""
        tick = round((asyncio.get_running_loop().time() - self.headers_at) * TICKS_PER_SECOND)
        self.chunks.append(Chunk(tick - self.tick, data))
        self.tick = tick

    def ended(self, how: str) -> None:
        """The first end is the true one; closing comes after each."""
        self.end = self.end or how

    def interaction(self) -> Interaction:
        """What is known now; a stream that is still being read is `open`."""
        assert self.response is not None
        body = b"".join(chunk.data for chunk in self.chunks)
        end = self.end or "open"
        return Interaction(
            method=self.request.method,
            uri=self.uri,
            request_body=self.body,
            request_headers=kept_headers(self.request.headers.multi_items()),
            started_ms=self.started * 1000,
            response=ResponseStream(
                tuple(self.chunks),
                status=self.response.status_code,
                reason=self.response.reason_phrase,
                headers=kept_headers(self.response.headers.multi_items()),
                headers_ms=self.headers_after * 1000,
                end=end,
                complete=end == "eof" or holds_terminal_event(body),
            ),
        )


class _Tee(httpx2.AsyncByteStream):
    """The body for its reader; iterating it again goes on where the first reader stopped."""

    def __init__(self, stream: httpx2.AsyncByteStream, slot: _Slot) -> None:
        self._stream = stream
        self._source = aiter(stream)
        self._slot = slot

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            data = await anext(self._source)
        except StopAsyncIteration:
            self._slot.ended("eof")
            raise
        except asyncio.CancelledError:
            self._slot.ended("cancelled")
            raise
        except httpx2.RequestError as error:
            self._slot.ended(f"raise {type(error).__name__}: {error}")
            raise
        self._slot.chunk_arrived(data)
        return data

    async def aclose(self) -> None:
        """Whoever closes before the end has left early."""
        self._slot.ended("closed")
        await self._stream.aclose()
