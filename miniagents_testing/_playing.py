"""Plays a `ResponseStream`: each chunk when it is due, and the end as it is said to be. Knows no scripts and no files.

Chunks are due at moments that are fixed when the request starts, so that delays of the reader do not add up.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from typing import TYPE_CHECKING

from miniagents_testing._streams import HELD, TICKS_PER_SECOND
from miniagents_testing.errors import IncompleteRecordingError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from miniagents_testing._streams import ResponseStream


_TIMED_OUT = "raise ReadTimeout: nothing came within the time that the client allows"


class Gate:
    """Where held streams wait until somebody lets them go, of whatever thread and event loop they are."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def release(self) -> None:
        """Let all streams go on that are held, and those that would be."""
        self._open.set()
        for loop, event in self._waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    async def apass(self) -> None:
        """Wait for `release`."""
        event = asyncio.Event()
        self._waiting.append((asyncio.get_running_loop(), event))
        if not self._open.is_set():
            await event.wait()

    def pass_(self, timeout: float | None) -> bool:
        """Wait for `release`, in a thread; False if it did not come within so many seconds."""
        return self._open.wait(timeout)


async def asleep_until_headers(stream: ResponseStream, pace: float, read_timeout: float | None = None) -> None:
    """Wait, from the start of the request, until status and headers come; for the arguments see `aplay`.

    Raises:
        Exception: there is no response: the connection failed before, as the stream says.
    """
    await _asleep(_headers_wait(stream, pace), read_timeout)
    if not stream.status:
        raise network_error(stream.end)


def sleep_until_headers(stream: ResponseStream, pace: float, read_timeout: float | None = None) -> None:
    """The same in a thread."""
    _sleep(_headers_wait(stream, pace), read_timeout)
    if not stream.status:
        raise network_error(stream.end)


def _headers_wait(stream: ResponseStream, pace: float) -> float:
    return stream.headers_ms / 1000 * pace


async def aplay(
    stream: ResponseStream,
    started: float,
    pace: float = 1.0,
    *,
    gate: Gate | None = None,
    read_timeout: float | None = None,
) -> AsyncGenerator[bytes]:
    """The chunks of a body, with at least one step of the loop between two.

    Args:
        stream: what to play.
        started: when the request started, by the loop's clock.
        pace: factor on all waits; 0 plays at once.
        gate: what chunks wait for that are `HELD`; without one they are not.
        read_timeout: seconds that the reader would wait for bytes; the error is the one it would get then.

    Raises:
        Exception: the one of the HTTP library that the stream ends with.
        IncompleteRecordingError: the one who recorded had stopped reading here.
    """
    clock = asyncio.get_running_loop().time
    due = started + _headers_wait(stream, pace)
    for chunk in stream.chunks:
        if chunk.wait != HELD:
            due += chunk.wait / TICKS_PER_SECOND * pace
            await _asleep(due - clock(), read_timeout)
        elif gate is not None:
            try:
                await asyncio.wait_for(gate.apass(), read_timeout)
            except TimeoutError:
                raise network_error(_TIMED_OUT) from None
            due = clock()
        yield chunk.data
    if stream.end == "open":
        await _asleep(math.inf, read_timeout)
    _end(stream)


def play(
    stream: ResponseStream,
    started: float,
    pace: float = 1.0,
    *,
    gate: Gate | None = None,
    read_timeout: float | None = None,
) -> Generator[bytes]:
    """The same in a thread, by the clock of `time.monotonic`.

    Where nothing would ever come, the reader's time is up at once: a thread has no other clock to turn.
    """
    due = started + _headers_wait(stream, pace)
    for chunk in stream.chunks:
        if chunk.wait != HELD:
            due += chunk.wait / TICKS_PER_SECOND * pace
            _sleep(due - time.monotonic(), read_timeout)
        elif gate is not None:
            if not gate.pass_(read_timeout):
                raise network_error(_TIMED_OUT)
            due = time.monotonic()
        yield chunk.data
    if stream.end == "open":
        raise network_error(_TIMED_OUT)
    _end(stream)


def network_error(end: str) -> Exception:
    """The error in `raise <httpx class>: <message>`; without the HTTP library, what the socket would raise."""
    name, _, message = end.removeprefix("raise ").partition(": ")
    try:
        import httpx2
    except ImportError:
        return TimeoutError(message) if name.endswith("Timeout") else ConnectionResetError(message)
    kind = getattr(httpx2, name, None)
    if not (isinstance(kind, type) and issubclass(kind, httpx2.RequestError)):
        kind = httpx2.ReadError
    return kind(message)


def _end(stream: ResponseStream) -> None:
    """End as the stream is said to end."""
    if stream.end.startswith("raise "):
        raise network_error(stream.end)
    if stream.end != "eof" and not stream.complete:
        raise IncompleteRecordingError(
            f"the recording ends here: {stream.end} by its reader before the answer was whole"
        )


async def _asleep(seconds: float, read_timeout: float | None) -> None:
    """Sleep, at least one step; not longer than the reader would."""
    if read_timeout is not None and seconds > read_timeout:
        await asyncio.sleep(read_timeout)
        raise network_error(_TIMED_OUT)
    if seconds == math.inf:
        await asyncio.get_running_loop().create_future()  # no timer: a loop in virtual time has nothing to jump to
    await asyncio.sleep(max(0.0, seconds))


def _sleep(seconds: float, read_timeout: float | None) -> None:
    if read_timeout is not None and seconds > read_timeout:
        time.sleep(read_timeout)
        raise network_error(_TIMED_OUT)
    time.sleep(max(0.0, seconds))
