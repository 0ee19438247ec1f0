"""Faults over a transport: what comes out of it is changed on its way to the client, sync and async alike."""

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
        started = asyncio.get_running_loop().time()
        await request.aread()
        faults = self._faults_for(request)
        stream = _instead(faults, request)
        timeout = read_timeout(request)
        if stream is not None:
            await await_headers(stream, 1.0, timeout)
            return response_with(AsyncBody(aplay(stream, started, read_timeout=timeout)), stream)
        if not isinstance(self._transport, httpx2.AsyncBaseTransport):
            raise TypeError(f"{type(self._transport).__name__} serves sync clients only")
        response = await self._transport.handle_async_request(request)
        if not faults:
            return response
        layers = Layers(faults)
        head = layers.head(_head_of(response))
        return response_with(_ChangedAsyncBody(response.stream, layers, timeout), head)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The same for sync clients."""
        started = time.monotonic()
        request.read()
        faults = self._faults_for(request)
        stream = _instead(faults, request)
        timeout = read_timeout(request)
        if stream is not None:
            wait_for_headers(stream, 1.0, timeout)
            return response_with(Body(play(stream, started, read_timeout=timeout)), stream)
        if not isinstance(self._transport, httpx2.BaseTransport):
            raise TypeError(f"{type(self._transport).__name__} serves async clients only")
        response = self._transport.handle_request(request)
        if not faults:
            return response
        layers = Layers(faults)
        head = layers.head(_head_of(response))
        return response_with(_ChangedBody(response.stream, layers, timeout), head)

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


def _head_of(response: httpx2.Response) -> ResponseStream:
    headers: dict[str, list[str]] = {}
    for name, value in response.headers.multi_items():
        headers.setdefault(name, []).append(value)
    return ResponseStream(status=response.status_code, reason=response.reason_phrase, headers=headers)


class _ChangedAsyncBody(AsyncBody):
    """What faults make of another body, as it comes."""

    def __init__(self, source: Any, layers: Layers, timeout: float | None) -> None:
        super().__init__(self._read(source, layers, timeout))
        self._source = source

    async def aclose(self) -> None:
        """Close both bodies."""
        await super().aclose()
        await self._source.aclose()

    @staticmethod
    async def _read(source: Any, layers: Layers, timeout: float | None) -> AsyncGenerator[bytes]:
        data: bytes | None = b""
        chunks = aiter(source)
        while True:
            now = asyncio.get_running_loop().time()
            async with aclosing(aplay(_passed(layers, data), now, read_timeout=timeout)) as pieces:
                async for piece in pieces:
                    yield piece
            if layers.end is not None:
                return
            data = await anext(chunks, None)


class _ChangedBody(Body):
    """As `_ChangedAsyncBody`, for sync clients."""

    def __init__(self, source: Any, layers: Layers, timeout: float | None) -> None:
        super().__init__(self._read(source, layers, timeout))
        self._source = source

    def close(self) -> None:
        """Close both bodies."""
        super().close()
        self._source.close()

    @staticmethod
    def _read(source: Any, layers: Layers, timeout: float | None) -> Generator[bytes]:
        data: bytes | None = b""
        chunks = iter(source)
        while True:
            yield from play(_passed(layers, data), time.monotonic(), read_timeout=timeout)
            if layers.end is not None:
                return
            data = next(chunks, None)


def _passed(layers: Layers, data: bytes | None) -> ResponseStream:
    """What comes out for the next bytes, which were waited for already, or for their end."""
    chunks = layers.close("eof") if data is None else layers.feed(Chunk(0, data))
    return ResponseStream(tuple(chunk for chunk in chunks if chunk.data), end=layers.end or "eof")
