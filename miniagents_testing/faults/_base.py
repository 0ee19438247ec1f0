"""`Fault`, base class of all faults: a state machine that takes a response chunk by chunk and returns a changed one.

`Layers` applies several faults, `Mark` finds places in a stream. Independent of transports: one fault serves recorded
and live streams, sync and async readers.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Self

from miniagents_testing._streams import HELD, Chunk, ResponseStream
from miniagents_testing.recut import EventEnds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import httpx2


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
        """Return a copy for one response."""
        other = copy.copy(self)
        other.begin()
        return other

    def begin(self) -> None:
        """Set up the state for one response."""

    def response(self, request: httpx2.Request | None) -> ResponseStream | None:
        """Return a response in place of the provider's, or None. With a response, no request is sent."""
        return None

    def head(self, stream: ResponseStream) -> ResponseStream:
        """Return the changed status and headers; chunks are fed later."""
        return stream

    def feed(self, chunk: Chunk) -> list[Chunk]:
        """Return the chunks that replace the next chunk. The first has no bytes; there is none after `end`."""
        return [chunk]

    def close(self) -> list[Chunk]:
        """Return the last chunks, after the stream has ended."""
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
        """Return the changed status and headers."""
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
        """Return how far the stream was read."""
        return f"only {self.seen} {self.of} of its stream were read"

    def _ends(self, data: bytes) -> Iterable[int]:
        """Return the places in `data` where a unit ends: an event, a byte, or the chunk, which is all of `data`."""
        if self.of == "events":
            return self._events.feed(data)
        if self.of == "bytes":
            return range(1, len(data) + 1)
        return [len(data)] if data else []
