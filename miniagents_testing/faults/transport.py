"""Faults over a transport: what comes out of it is changed on its way to the client, sync and async alike."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx2

from miniagents_testing.errors import UnusedFaultError
from miniagents_testing.faults.base import Fault, Layers
from miniagents_testing.streams import TICKS_PER_SECOND, Chunk, ResponseStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

__all__ = ["FaultyTransport", "every_request", "inject"]


def every_request(request: httpx2.Request) -> bool:
    """For `Fault.on`: whatever is asked, and however often."""
    return True


@contextmanager
def inject(transport: httpx2.AsyncBaseTransport | httpx2.BaseTransport, *faults: Fault) -> Iterator[FaultyTransport]:
    """A transport with faults over it, for the time of a `with` block; in async code a plain `with` does as well.

    Raises:
        UnusedFaultError: at the end, a fault has changed nothing. Not where the block itself fails.
    """
    faulty = FaultyTransport(transport, *faults)
    yield faulty
    faulty.assert_used()


class FaultyTransport(httpx2.AsyncBaseTransport, httpx2.BaseTransport):
    """Gives what another transport gives, with faults in it. What a fault does not concern passes untouched.

    Where a fault is a response by itself (`rate_limit()`, `html_page()`), the other transport is not asked: a recorded
    answer is still there for the next attempt.

    Args:
        transport: any of httpx2's: the network, a mock, a script, a cassette.
        faults: those for the same request change it together, the first one nearest to the provider.
    """

    def __init__(self, transport: httpx2.AsyncBaseTransport | httpx2.BaseTransport, *faults: Fault) -> None:
        for fault in faults:
            if not isinstance(fault, Fault):
                raise TypeError(f"{fault!r} is no fault: call what makes one, such as faults.cut(after=3)")
        self._transport = transport
        self._faults = faults
        self._laid: list[tuple[Fault, int, Fault]] = []  # a fault, the number of a request, and its copy for that
        self._requests = 0

    def assert_used(self) -> None:
        """Raise `UnusedFaultError` if a fault has changed nothing; the message says how near it came."""
        unused = [fault for fault in self._faults if not any(it is fault and run.reached for it, _, run in self._laid)]
        if unused:
            raise UnusedFaultError("\n".join(f"{fault} changed nothing: {self._why(fault)}" for fault in unused))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The response with the faults that are for it; its body streams as the one below does."""
        await request.aread()
        faults = self._faults_for(request)
        stream = _instead(faults, request)
        if stream is not None:
            await asyncio.sleep(stream.headers_ms / 1000)
            return _played(stream, request)
        if not isinstance(self._transport, httpx2.AsyncBaseTransport):
            raise TypeError(f"{type(self._transport).__name__} serves sync clients only")
        response = await self._transport.handle_async_request(request)
        return _changed(response, faults, request) if faults else response

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The same for sync clients."""
        request.read()
        faults = self._faults_for(request)
        stream = _instead(faults, request)
        if stream is not None:
            time.sleep(stream.headers_ms / 1000)
            return _played(stream, request)
        if not isinstance(self._transport, httpx2.BaseTransport):
            raise TypeError(f"{type(self._transport).__name__} serves async clients only")
        response = self._transport.handle_request(request)
        return _changed(response, faults, request) if faults else response

    async def aclose(self) -> None:
        """Close the transport below."""
        if isinstance(self._transport, httpx2.AsyncBaseTransport):
            await self._transport.aclose()

    def close(self) -> None:
        """Close the transport below."""
        if isinstance(self._transport, httpx2.BaseTransport):
            self._transport.close()

    def _faults_for(self, request: httpx2.Request) -> list[Fault]:
        self._requests += 1
        chosen = [fault for fault in self._faults if fault.is_for(request, self._requests)]
        fresh = [fault.fresh() for fault in chosen]
        self._laid += [(fault, self._requests, run) for fault, run in zip(chosen, fresh, strict=True)]
        return fresh

    def _why(self, fault: Fault) -> str:
        runs = [(number, run) for it, number, run in self._laid if it is fault]
        if not runs:
            return f"it was for none of the {self._requests} requests"
        return "; ".join(f"it was for request {number}, and {run.progress()}" for number, run in runs)


def _instead(faults: list[Fault], request: httpx2.Request) -> ResponseStream | None:
    """The response that a fault gives by itself, if one does, with the other faults in it."""
    stream = next((found for fault in faults if (found := fault.response(request)) is not None), None)
    return None if stream is None else Layers(faults).over(stream)


def _played(stream: ResponseStream, request: httpx2.Request) -> httpx2.Response:
    return _response(stream, _Body(request, stream.chunks, end=stream.end))


def _changed(response: httpx2.Response, faults: list[Fault], request: httpx2.Request) -> httpx2.Response:
    headers: dict[str, list[str]] = {}
    for name, value in response.headers.multi_items():
        headers.setdefault(name, []).append(value)
    head = ResponseStream(status=response.status_code, reason=response.reason_phrase, headers=headers)
    layers = Layers(faults)
    return _response(
        layers.head(head), _Body(request, layers.feed(Chunk(0, b"")), source=response.stream, layers=layers)
    )


def _response(head: ResponseStream, body: _Body) -> httpx2.Response:
    return httpx2.Response(
        head.status,
        headers=[(name, value) for name, values in head.headers.items() for value in values],
        stream=body,
        extensions={"reason_phrase": head.reason.encode("ascii", "replace")},
    )


class _Body(httpx2.AsyncByteStream, httpx2.SyncByteStream):
    """Chunks in their time; iterated again it goes on where the first reader stopped, as on a socket.

    Args:
        request: what it answers.
        ready: chunks that are known.
        end: what comes after them, where that is known too.
        source: where further ones come from.
        layers: what is in their way.
    """

    def __init__(
        self,
        request: httpx2.Request,
        ready: Iterable[Chunk],
        *,
        end: str | None = None,
        source: httpx2.AsyncByteStream | httpx2.SyncByteStream | None = None,
        layers: Layers | None = None,
    ) -> None:
        self._request = request
        self._ready = deque(chunk for chunk in ready if chunk.data)
        self._end = end
        self._source = source
        self._layers = layers or Layers(())
        self._chunks: Any = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._chunks is None and isinstance(self._source, httpx2.AsyncByteStream):
            self._chunks = aiter(self._source)
        while True:
            while self._ready:
                chunk = self._ready.popleft()
                if chunk.wait:
                    await asyncio.sleep(chunk.wait / TICKS_PER_SECOND)
                yield chunk.data
            if self._has_ended():
                break
            self._take(await anext(self._chunks, None))
        if self._end == "open":
            await asyncio.Event().wait()

    def __iter__(self) -> Iterator[bytes]:
        if self._chunks is None and isinstance(self._source, httpx2.SyncByteStream):
            self._chunks = iter(self._source)
        while True:
            while self._ready:
                chunk = self._ready.popleft()
                time.sleep(chunk.wait / TICKS_PER_SECOND)
                yield chunk.data
            if self._has_ended():
                break
            self._take(next(self._chunks, None))
        if self._end == "open":
            threading.Event().wait()

    async def aclose(self) -> None:
        """Close the body below."""
        if isinstance(self._source, httpx2.AsyncByteStream):
            await self._source.aclose()

    def close(self) -> None:
        """Close the body below."""
        if isinstance(self._source, httpx2.SyncByteStream):
            self._source.close()

    def _take(self, data: bytes | None) -> None:
        """The next bytes from below, or their end; they were waited for already."""
        chunks = self._layers.close("eof") if data is None else self._layers.feed(Chunk(0, data))
        self._ready.extend(chunk for chunk in chunks if chunk.data)

    def _has_ended(self) -> bool:
        """Whether nothing more comes; raises where the connection is lost."""
        end = self._end = self._end or self._layers.end
        if end is not None and end.startswith("raise "):
            name, _, message = end.removeprefix("raise ").partition(": ")
            error = getattr(httpx2, name, None)
            if not (isinstance(error, type) and issubclass(error, httpx2.RequestError)):
                error = httpx2.ReadError
            raise error(message, request=self._request)
        return end is not None
