"""`FaultyTransport`: a transport that changes the responses of another transport with faults, sync and async alike."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

import httpx2

from miniagents_testing._playing import aplay, await_headers, play, wait_for_headers
from miniagents_testing._responding import AsyncBody, Body, read_timeout, response_with
from miniagents_testing._streams import Chunk, ResponseStream
from miniagents_testing.errors import UnusedFaultError
from miniagents_testing.faults._base import Fault, Layers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterator


def every_request(request: httpx2.Request) -> bool:
    """Return True; for `Fault.on`, to apply a fault to every request."""
    return True


@contextmanager
def inject(transport: httpx2.AsyncBaseTransport | httpx2.BaseTransport, *faults: Fault) -> Iterator[FaultyTransport]:
    """Apply faults to a transport for the time of a `with` block; async code uses a plain `with` too.

    Args:
        transport: the transport whose responses are changed.
        faults: see `FaultyTransport`.

    Raises:
        UnusedFaultError: a fault has changed nothing until the end of the block, and the block raised no other error.
    """
    faulty = FaultyTransport(transport, *faults)
    yield faulty
    faulty.assert_used()


class FaultyTransport(httpx2.AsyncBaseTransport, httpx2.BaseTransport):
    """A transport that applies faults to the responses of another one. Responses without a fault pass unchanged.

    If a fault is a response itself (`rate_limit()`, `html_page()`), the other transport gets no request: a recorded
    answer stays available for the next attempt.

    Args:
        transport: any transport of httpx2: the network, a mock, a script, a cassette.
        faults: faults to apply; those of the same request change it one after the other, the first one nearest to the
            provider.

    Raises:
        TypeError: an argument is no fault.
    """

    def __init__(self, transport: httpx2.AsyncBaseTransport | httpx2.BaseTransport, *faults: Fault) -> None:
        for fault in faults:
            if not isinstance(fault, Fault):
                raise TypeError(f"{fault!r} is no fault: call the function that makes one, such as faults.cut(after=3)")
        self._transport = transport
        self._faults = faults
        self._applied: list[tuple[Fault, int, Fault]] = []
        """Each fault with the number of a request, and its copy for that request."""
        self._requests = 0

    def assert_used(self) -> None:
        """Check that each fault has changed something.

        Raises:
            UnusedFaultError: a fault has changed nothing; the message says how far its stream was read.
        """
        unused = [
            fault
            for fault in self._faults
            if not any(original is fault and copy.reached for original, _, copy in self._applied)
        ]
        if unused:
            raise UnusedFaultError("\n".join(f"{fault} changed nothing: {self._reason(fault)}" for fault in unused))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the response with the faults of its request; its body streams like the original body.

        A fault that replaces it sends nothing. Raise `TypeError` if the inner transport serves sync clients only.
        """
        started = asyncio.get_running_loop().time()
        await request.aread()
        faults = self._faults_for(request)
        stream = _replacement(faults, request)
        timeout = read_timeout(request)
        if stream is not None:
            await await_headers(stream, 1.0, timeout)
            return response_with(AsyncBody(aplay(stream, started, read_timeout=timeout)), stream)
        if not isinstance(self._transport, httpx2.AsyncBaseTransport):
            raise TypeError(f"{type(self._transport).__name__} serves sync clients only, but an async client uses it")
        response = await self._transport.handle_async_request(request)
        if not faults:
            return response
        layers = Layers(faults)
        head = layers.head(_head_of(response))
        return response_with(_ChangedAsyncBody(response.stream, layers, timeout), head)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the response with the faults of its request to a sync client; a fault that replaces it sends nothing.

        Raise `TypeError` if the inner transport serves async clients only.
        """
        started = time.monotonic()
        request.read()
        faults = self._faults_for(request)
        stream = _replacement(faults, request)
        timeout = read_timeout(request)
        if stream is not None:
            wait_for_headers(stream, 1.0, timeout)
            return response_with(Body(play(stream, started, read_timeout=timeout)), stream)
        if not isinstance(self._transport, httpx2.BaseTransport):
            raise TypeError(f"{type(self._transport).__name__} serves async clients only, but a sync client uses it")
        response = self._transport.handle_request(request)
        if not faults:
            return response
        layers = Layers(faults)
        head = layers.head(_head_of(response))
        return response_with(_ChangedBody(response.stream, layers, timeout), head)

    async def aclose(self) -> None:
        """Close the transport whose responses are changed."""
        if isinstance(self._transport, httpx2.AsyncBaseTransport):
            await self._transport.aclose()

    def close(self) -> None:
        """Close the transport whose responses are changed, for sync clients."""
        if isinstance(self._transport, httpx2.BaseTransport):
            self._transport.close()

    def _faults_for(self, request: httpx2.Request) -> list[Fault]:
        """Count a request, and return fresh copies of the faults that apply to it."""
        self._requests += 1
        chosen = [fault for fault in self._faults if fault.is_for(request, self._requests)]
        fresh = [fault.fresh() for fault in chosen]
        self._applied += [(fault, self._requests, copy) for fault, copy in zip(chosen, fresh, strict=True)]
        return fresh

    def _reason(self, fault: Fault) -> str:
        """Return the reason why a fault has changed nothing."""
        copies = [(number, copy) for original, number, copy in self._applied if original is fault]
        if not copies:
            return f"it was for none of the {self._requests} requests"
        return "; ".join(f"it was for request {number}, and {copy.progress()}" for number, copy in copies)


def _replacement(faults: list[Fault], request: httpx2.Request) -> ResponseStream | None:
    """Return the response of the first fault that is a response itself, with all faults applied; None without one."""
    stream = next((found for fault in faults if (found := fault.response(request)) is not None), None)
    return None if stream is None else Layers(faults).apply(stream)


def _head_of(response: httpx2.Response) -> ResponseStream:
    """Return status, reason and headers of a response of httpx2 as a stream without chunks."""
    headers: dict[str, list[str]] = {}
    for name, value in response.headers.multi_items():
        headers.setdefault(name, []).append(value)
    return ResponseStream(status=response.status_code, reason=response.reason_phrase, headers=headers)


class _ChangedAsyncBody(AsyncBody):
    """Body of a response, changed by faults while it streams to an async client."""

    def __init__(self, source: Any, layers: Layers, timeout: float | None) -> None:
        super().__init__(self._read(source, layers, timeout))
        self._source = source

    async def aclose(self) -> None:
        """Close the changed body and the original body."""
        await super().aclose()
        await self._source.aclose()

    @staticmethod
    async def _read(source: Any, layers: Layers, timeout: float | None) -> AsyncGenerator[bytes]:
        """Yield the bytes of the source as the faults change them, and end as they say."""
        data: bytes | None = b""
        chunks = aiter(source)
        while True:
            now = asyncio.get_running_loop().time()
            async with aclosing(aplay(_changed(layers, data), now, read_timeout=timeout)) as pieces:
                async for piece in pieces:
                    yield piece
            if layers.end is not None:
                return
            data = await anext(chunks, None)


class _ChangedBody(Body):
    """Body of a response, changed by faults while it streams to a sync client."""

    def __init__(self, source: Any, layers: Layers, timeout: float | None) -> None:
        super().__init__(self._read(source, layers, timeout))
        self._source = source

    def close(self) -> None:
        """Close the changed body and the original body."""
        super().close()
        self._source.close()

    @staticmethod
    def _read(source: Any, layers: Layers, timeout: float | None) -> Generator[bytes]:
        """Yield the bytes of the source in a thread as the faults change them, and end as they say."""
        data: bytes | None = b""
        chunks = iter(source)
        while True:
            yield from play(_changed(layers, data), time.monotonic(), read_timeout=timeout)
            if layers.end is not None:
                return
            data = next(chunks, None)


def _changed(layers: Layers, data: bytes | None) -> ResponseStream:
    """Return the changed form of the bytes that were just read; for None, the changed end of the stream."""
    chunks = layers.close("eof") if data is None else layers.feed(Chunk(0, data))
    return ResponseStream(tuple(chunk for chunk in chunks if chunk.data), end=layers.end or "eof")
