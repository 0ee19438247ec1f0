"""`Fault`, base class of all faults, and `FaultyTransport`, which changes the responses of another transport with them.

A fault is a state machine that takes a response chunk by chunk and returns a changed one. `Layers` applies several
faults, `Mark` finds places in a stream. One fault serves recorded and live streams, sync and async readers.
"""

from __future__ import annotations

import asyncio
import copy
import time
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self

import httpx2

from miniagents_testing._responding import AsyncBody, Body, read_timeout, response_with
from miniagents_testing._streams import HELD, Chunk, ResponseStream, aplay, await_headers, play, wait_for_headers
from miniagents_testing.errors import UnusedFaultError
from miniagents_testing.recut import EventEnds

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator

Unit = Literal["events", "chunks", "bytes"]
"""Unit in which places in a stream are counted."""


class Fault:
    """A change of a response. Each response is changed by a fresh copy, so that one object can be used again.

    A subclass overrides `head`, `feed` or `close`, sets `reached` where it changes something, and sets up the state
    for each response in `begin`.

    Args:
        label: name of the fault in messages.
    """

    reached = False
    """True after the fault has changed something."""
    end: str | None = None
    """Set to end the stream here, with a value of `ResponseStream.end`; `open` is a stream that hangs."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._which: tuple[int | Callable[[httpx2.Request], bool], ...] = (1,)
        self._waited = 0

    def __repr__(self) -> str:
        return self.label

    def on(self, *which: int | Callable[[httpx2.Request], bool]) -> Self:
        """Return a copy of the fault that applies to the given requests, in place of the first one only.

        Args:
            which: numbers of requests, counted from 1, or functions that return True for chosen requests.

        Raises:
            ValueError: no request is given, or a number below 1.
        """
        if not which or not all(callable(each) or each >= 1 for each in which):
            raise ValueError(
                f"on() needs the requests to which {self} applies: numbers from 1 on, or functions of the request"
            )
        other = copy.copy(self)
        other._which = which
        return other

    def is_for(self, request: httpx2.Request, number: int) -> bool:
        """Return True if the fault applies to this request, the `number`-th."""
        return any(each(request) if callable(each) else each == number for each in self._which)

    def fresh(self) -> Self:
        """Return a copy of the fault with a new state, for one response."""
        other = copy.copy(self)
        other.begin()
        return other

    def begin(self) -> None:
        """Set up the state for one response; a subclass overrides this."""

    def response(self, request: httpx2.Request | None) -> ResponseStream | None:
        """Return a response in place of the provider's, or None. With a response, no request is sent."""
        return None

    def head(self, stream: ResponseStream) -> ResponseStream:
        """Return a response with changed status and headers; a subclass overrides this. The chunks are fed later."""
        return stream

    def feed(self, chunk: Chunk) -> list[Chunk]:
        """Return the chunks that replace the next chunk of the response; a subclass overrides this.

        The first chunk has no bytes; there is none after `end`.
        """
        return [chunk]

    def close(self) -> list[Chunk]:
        """Return the chunks to add after the stream has ended; a subclass overrides this."""
        return []

    def progress(self) -> str:
        """Return a description of how far the stream was read, for the error about a fault that changed nothing."""
        return "its stream was not changed"

    def __call__(self, stream: ResponseStream) -> ResponseStream:
        """Return the stream with this fault applied."""
        return laid_over(stream, self)

    def _wait(self, wait: int) -> None:
        """Add a wait in ticks before the next bytes; a wait of `HELD` stays `HELD`."""
        self._waited = HELD if HELD in (wait, self._waited) else self._waited + wait

    def _chunks_of(self, data: bytes) -> list[Chunk]:
        """Return one chunk of these bytes, with all waits added so far; [] for no bytes."""
        if not data:
            return []
        waited, self._waited = self._waited, 0
        return [Chunk(waited, data)]


class Layers:
    """Several faults, each of which is applied to the result of the one before it."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._faults = tuple(faults)
        self.end: str | None = None
        """End of the stream, as in `ResponseStream.end`; None before it."""

    def apply(self, stream: ResponseStream) -> ResponseStream:
        """Return a complete stream with the faults applied, without empty chunks. A fault may end it early."""
        chunks = self.feed(Chunk(0, b""))
        for chunk in stream.chunks:
            if self.end is None:
                chunks += self.feed(chunk)
        if self.end is None:
            chunks += self.close(stream.end)
        end = self.end or stream.end
        return replace(
            self.head(stream),
            chunks=tuple(chunk for chunk in chunks if chunk.data),
            end=end,
            complete=stream.complete and end != "open",
        )

    def head(self, stream: ResponseStream) -> ResponseStream:
        """Return a response with the status and headers that the faults make of it, without `content-length`."""
        for fault in self._faults:
            stream = fault.head(stream)
        headers = {name: values for name, values in stream.headers.items() if name != "content-length"}
        return replace(stream, headers=headers)

    def feed(self, chunk: Chunk) -> list[Chunk]:
        """Return the chunks that replace the next one; the first chunk must be an empty one."""
        return self._apply_from(0, [chunk], None)

    def close(self, end: str) -> list[Chunk]:
        """Return the last chunks after the stream has ended with `end`."""
        return self._apply_from(0, [], end)

    def _apply_from(self, start: int, chunks: list[Chunk], end: str | None) -> list[Chunk]:
        """Return chunks after the faults from index `start` on, each applied to the result of the one before.

        With an `end`, each fault also adds its last chunks. A fault that ends the stream early gives the end to those
        after it. The end is noted in `self.end`.
        """
        for position, fault in enumerate(self._faults[start:], start):
            changed: list[Chunk] = []
            for chunk in chunks:
                changed += fault.feed(chunk)
                if fault.end is not None:
                    return self._apply_from(position + 1, changed, fault.end)
            chunks = changed if end is None else changed + fault.close()
        self.end = end
        return chunks


def laid_over(stream: ResponseStream, *faults: Fault) -> ResponseStream:
    """Return the stream with these faults applied, regardless of the requests that `Fault.on` selects."""
    fresh = [fault.fresh() for fault in faults]
    instead = next((found for fault in fresh if (found := fault.response(None)) is not None), None)
    return Layers(fresh).apply(instead or stream)


class Mark:
    """Finder of the place right after the first `number` events, chunks or bytes of a stream."""

    def __init__(self, number: int, of: Unit) -> None:
        self.passed = number == 0
        self.seen = 0
        """Number of units so far."""
        self.of = of
        self._number = number
        self._events = EventEnds()

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        """Split the next bytes at the place: return those before it and those after it.

        Before the place is reached, all bytes come before it; after that, all come after it.
        """
        if self.passed:
            return b"", data
        for place in self._ends(data):
            self.seen += 1
            if self.seen == self._number:
                self.passed = True
                return data[:place], data[place:]
        return data, b""

    def progress(self) -> str:
        """Return words that say how many units of the stream were read, for the error about an unused fault."""
        return f"only {self.seen} {self.of} of its stream were read"

    def _ends(self, data: bytes) -> Iterable[int]:
        """Return the places in `data` where a unit ends: an event, a byte, or the chunk, which is all of `data`."""
        if self.of == "events":
            return self._events.feed(data)
        if self.of == "bytes":
            return range(1, len(data) + 1)
        return [len(data)] if data else []


# --- faults over a transport


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
    """A transport that applies faults to the responses of another transport. Responses without a fault pass unchanged.

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
        """Return the reason why a fault has changed nothing: it was for no request, or how far its stream was read."""
        copies = [(number, copy) for original, number, copy in self._applied if original is fault]
        if not copies:
            return f"it was for none of the {self._requests} requests"
        return "; ".join(f"it was for request {number}, and {copy.progress()}" for number, copy in copies)


def _replacement(faults: list[Fault], request: httpx2.Request) -> ResponseStream | None:
    """Return the response that the first fault with a response gives, with all faults applied; None if none has one."""
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
