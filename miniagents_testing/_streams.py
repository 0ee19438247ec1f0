"""A response as a stream of timed chunks, and its players.

All parts of the testing kit that answer a request use this one form, so any of them can be combined. Cassettes keep it,
scripts make it, faults change it, transports play it. Independent of scripts, files and requests.

Players send each chunk when it is due, then the end. Chunks are due at moments that are fixed when the request starts,
so that delays of the reader do not add up. `aplay` and `await_headers` are for event loops, `play` and
`wait_for_headers` for threads.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

from miniagents_testing.errors import IncompleteRecordingError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping

TICKS_PER_SECOND = 100_000
"""A tick is 10 µs long: longer ones put tokens of parallel streams out of order."""

HELD = -1
"""Wait of a chunk that arrives when the `Gate` of the player is released. Scripts make it; it is never recorded."""


def ticks(ms: float) -> int:
    """Convert milliseconds to ticks. Ticks are whole numbers, so times can be compared exactly."""
    return round(ms * TICKS_PER_SECOND / 1000)


class Chunk(NamedTuple):
    """Bytes as they were read from the wire in one go."""

    wait: int
    """Ticks since the chunk before, for the first one since the response headers; or `HELD`."""

    data: bytes

    @classmethod
    def after(cls, seconds: float, data: bytes) -> Self:
        """Create a chunk that arrives `seconds` after the one before it."""
        return cls(round(seconds * TICKS_PER_SECOND), data)


@dataclass(frozen=True, slots=True)
class ResponseStream:
    """One HTTP response, chunk for chunk, with its times and its end.

    Independent of requests, files and HTTP libraries.
    """

    chunks: tuple[Chunk, ...] = ()
    status: int = 200
    """Status code; 0 if the connection failed before there was a response, as `end` then describes."""
    reason: str = "OK"
    headers: Mapping[str, list[str]] = field(default_factory=dict)
    """Values of the headers, by name in lower case."""
    headers_ms: float = 0.0
    """Arrival of the headers, in milliseconds since the start of the request."""
    end: str = "eof"
    """End of the stream: `eof`, `closed` or `cancelled` by the reader, `open`, or `raise <httpx class>: <message>`.

    A stream that is `open` neither sends more bytes nor ends.
    """
    complete: bool = True
    """True if the provider has marked the answer as complete."""

    @property
    def body(self) -> bytes:
        """The whole response body."""
        return b"".join(chunk.data for chunk in self.chunks)


# --- players


_TIMED_OUT = "raise ReadTimeout: nothing came within the time that the client allows"


class Gate:
    """Barrier at which `HELD` chunks wait for `release`. Threads and event loops can share it."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def release(self) -> None:
        """Open the gate for good: streams that wait at it go on, and later ones do not wait. Any thread may call it."""
        self._open.set()
        for loop, event in self._waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    async def await_release(self) -> None:
        """Wait for `release` in a task."""
        event = asyncio.Event()
        self._waiting.append((asyncio.get_running_loop(), event))
        if not self._open.is_set():
            await event.wait()

    def wait_for_release(self, timeout: float | None) -> bool:
        """Block this thread until `release` is called. Return False if it has not come after `timeout` seconds.

        None waits for ever.
        """
        return self._open.wait(timeout)


async def await_headers(stream: ResponseStream, pace: float, read_timeout: float | None = None) -> None:
    """Wait, from the start of the request, until status and headers are due. For the arguments see `aplay`.

    Raises:
        Exception: the network error of a stream whose connection failed before there was a response.
    """
    await _sleep_in_loop(_headers_wait(stream, pace), read_timeout)
    if not stream.status:
        raise network_error(stream.end)


def wait_for_headers(stream: ResponseStream, pace: float, read_timeout: float | None = None) -> None:
    """Block this thread until status and headers are due, in real time.

    Arguments and errors are those of `await_headers`.
    """
    _sleep_in_thread(_headers_wait(stream, pace), read_timeout)
    if not stream.status:
        raise network_error(stream.end)


def _headers_wait(stream: ResponseStream, pace: float) -> float:
    """Return the seconds, from the start of the request, after which the headers arrive."""
    return stream.headers_ms / 1000 * pace


async def aplay(
    stream: ResponseStream,
    started: float,
    pace: float = 1.0,
    *,
    gate: Gate | None = None,
    read_timeout: float | None = None,
) -> AsyncGenerator[bytes]:
    """Yield the chunks of a body when they are due, with at least one step of the loop between two.

    After the end "open", wait for ever, or until the read timeout.

    Args:
        stream: the response to play.
        started: start of the request, in seconds of the loop's clock.
        pace: factor on all waits; 0 plays without waits.
        gate: the gate at which `HELD` chunks wait; if None, they come at once.
        read_timeout: seconds after which the client gives up waiting for bytes, and gets a read timeout.

    Raises:
        Exception: the network error that the stream ends with, or the read timeout.
        IncompleteRecordingError: the recorded client stopped reading here, before the answer was complete.
    """
    clock = asyncio.get_running_loop().time
    due = started + _headers_wait(stream, pace)
    for chunk in stream.chunks:
        if chunk.wait != HELD:
            due += chunk.wait / TICKS_PER_SECOND * pace
            await _sleep_in_loop(due - clock(), read_timeout)
        elif gate is not None:
            try:
                await asyncio.wait_for(gate.await_release(), read_timeout)
            except TimeoutError:
                raise network_error(_TIMED_OUT) from None
            due = clock()
        yield chunk.data
    if stream.end == "open":
        await _sleep_in_loop(math.inf, read_timeout)
    _raise_end(stream)


def play(
    stream: ResponseStream,
    started: float,
    pace: float = 1.0,
    *,
    gate: Gate | None = None,
    read_timeout: float | None = None,
) -> Generator[bytes]:
    """Yield the chunks of a body when they are due by `time.monotonic`, blocking this thread between them.

    Arguments and errors are those of `aplay`. At the end of an `open` stream the read timeout is raised at once: the
    thread could only sleep until then.
    """
    due = started + _headers_wait(stream, pace)
    for chunk in stream.chunks:
        if chunk.wait != HELD:
            due += chunk.wait / TICKS_PER_SECOND * pace
            _sleep_in_thread(due - time.monotonic(), read_timeout)
        elif gate is not None:
            if not gate.wait_for_release(read_timeout):
                raise network_error(_TIMED_OUT)
            due = time.monotonic()
        yield chunk.data
    if stream.end == "open":
        raise network_error(_TIMED_OUT)
    _raise_end(stream)


def network_error(end: str) -> Exception:
    """Return the error that an end of the form `raise <httpx class>: <message>` describes.

    It is an error of httpx2, of the class `ReadError` if the name is unknown. Without httpx2 it is a builtin error.
    """
    name, _, message = end.removeprefix("raise ").partition(": ")
    try:
        import httpx2
    except ImportError:
        return TimeoutError(message) if name.endswith("Timeout") else ConnectionResetError(message)
    kind = getattr(httpx2, name, None)
    if not (isinstance(kind, type) and issubclass(kind, httpx2.RequestError)):
        kind = httpx2.ReadError
    return kind(message)


def _raise_end(stream: ResponseStream) -> None:
    """Raise the error that the stream ends with, or `IncompleteRecordingError` for an end by its reader.

    Else do nothing.
    """
    if stream.end.startswith("raise "):
        raise network_error(stream.end)
    if stream.end != "eof" and not stream.complete:
        raise IncompleteRecordingError(
            f"the recording ends here: {stream.end} by its reader before the answer was whole"
        )


async def _sleep_in_loop(seconds: float, read_timeout: float | None) -> None:
    """Sleep for at least one step of the loop, and for `read_timeout` seconds at most; then raise the read timeout.

    None is no limit. Infinite seconds never end.
    """
    if read_timeout is not None and seconds > read_timeout:
        await asyncio.sleep(read_timeout)
        raise network_error(_TIMED_OUT)
    if seconds == math.inf:
        # no timer: it would be a moment that a loop in virtual time jumps to
        await asyncio.get_running_loop().create_future()
    await asyncio.sleep(max(0.0, seconds))


def _sleep_in_thread(seconds: float, read_timeout: float | None) -> None:
    """Block this thread for `read_timeout` seconds at most; then raise the read timeout."""
    if read_timeout is not None and seconds > read_timeout:
        time.sleep(read_timeout)
        raise network_error(_TIMED_OUT)
    time.sleep(max(0.0, seconds))
