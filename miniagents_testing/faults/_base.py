"""What a fault is: a state machine that takes a response piece by piece and gives another one. No transports here.

So one fault serves a recorded stream, a live one, and sync and async readers.
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
"""What places in a stream are counted in."""


class Fault:
    """A change to a response. Every response is changed by a copy of its own, so one object can be used again.

    To make one of your own, override `head`, `feed` or `close`, set `reached` where something was changed, and set up
    in `begin` what is different for each response.

    Args:
        label: how it is called in messages.
    """

    reached = False
    """Whether it has changed anything."""
    end: str | None = None
    """Set to end the stream here, in the words of `ResponseStream.end`; `open` is a stream that hangs."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._which: tuple[int | Callable[[httpx2.Request], bool], ...] = (1,)
        self._waited = 0

    def __repr__(self) -> str:
        return self.label

    def on(self, *which: int | Callable[[httpx2.Request], bool]) -> Self:
        """The same fault for other requests than the first.

        Args:
            which: numbers of requests, counted from 1, or functions that choose them.
        """
        if not which or not all(callable(each) or each >= 1 for each in which):
            raise ValueError(f"say for which requests {self} is: numbers from 1 on, or functions of the request")
        other = copy.copy(self)
        other._which = which
        return other

    def is_for(self, request: httpx2.Request, number: int) -> bool:
        """Whether it is for this request, the `number`-th."""
        return any(each(request) if callable(each) else each == number for each in self._which)

    def fresh(self) -> Self:
        """A copy for one response."""
        other = copy.copy(self)
        other.begin()
        return other

    def begin(self) -> None:
        """Set up what changes while a response passes."""

    def response(self, request: httpx2.Request | None) -> ResponseStream | None:
        """What comes in place of any answer; nobody is asked for one then."""
        return None

    def head(self, stream: ResponseStream) -> ResponseStream:
        """Status and headers; the chunks come later."""
        return stream

    def feed(self, chunk: Chunk) -> list[Chunk]:
        """The next chunk; the first one has no bytes, and stands for the beginning. After `end` none is fed."""
        return [chunk]

    def close(self) -> list[Chunk]:
        """The stream has ended."""
        return []

    def progress(self) -> str:
        """How far the stream came, for the message about a fault that was not reached."""
        return "its stream was not changed"

    def __call__(self, stream: ResponseStream) -> ResponseStream:
        """The stream with this fault in it."""
        return laid_over(stream, self)

    def _wait(self, wait: int) -> None:
        """What is said next comes so much later; what is held has no time."""
        self._waited = HELD if HELD in (wait, self._waited) else self._waited + wait

    def _chunks_of(self, data: bytes) -> list[Chunk]:
        """Bytes that come after all that was waited so far; none for none."""
        if not data:
            return []
        waited, self._waited = self._waited, 0
        return [Chunk(waited, data)]


class Layers:
    """Several faults as one, each for what the one before it gives."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._faults = tuple(faults)
        self.end: str | None = None
        """How the stream ended, once it has."""

    def over(self, stream: ResponseStream) -> ResponseStream:
        """A whole stream with the faults in it."""
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
        """Status and headers."""
        for fault in self._faults:
            stream = fault.head(stream)
        headers = {name: values for name, values in stream.headers.items() if name != "content-length"}
        return replace(stream, headers=headers)

    def feed(self, chunk: Chunk) -> list[Chunk]:
        """What comes out for a chunk that comes in; begin with an empty one."""
        return self._pass([chunk], 0, None)

    def close(self, end: str) -> list[Chunk]:
        """What still comes out when the stream has ended so."""
        return self._pass([], 0, end)

    def _pass(self, chunks: list[Chunk], start: int, end: str | None) -> list[Chunk]:
        for position, fault in enumerate(self._faults[start:], start):
            changed: list[Chunk] = []
            for chunk in chunks:
                changed += fault.feed(chunk)
                if fault.end is not None:
                    return self._pass(changed, position + 1, fault.end)
            chunks = changed if end is None else changed + fault.close()
        self.end = end
        return chunks


def laid_over(stream: ResponseStream, *faults: Fault) -> ResponseStream:
    """The stream with these faults in it; which requests they are for does not matter here."""
    fresh = [fault.fresh() for fault in faults]
    instead = next((found for fault in fresh if (found := fault.response(None)) is not None), None)
    return Layers(fresh).over(instead or stream)


class Mark:
    """Finds the place right after a number of units, in bytes that come in pieces."""

    def __init__(self, number: int, of: Unit) -> None:
        self.passed = number == 0
        self.seen = 0
        """Units so far."""
        self.of = of
        self._number = number
        self._events = EventEnds()

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        """What of `data` stands before the place, and what after it."""
        if self.passed:
            return b"", data
        for place in self._ends(data):
            self.seen += 1
            if self.seen == self._number:
                self.passed = True
                return data[:place], data[place:]
        return data, b""

    def progress(self) -> str:
        """How far the stream came."""
        return f"only {self.seen} {self.of} of its stream were read"

    def _ends(self, data: bytes) -> Iterable[int]:
        """Where units end in `data`."""
        if self.of == "events":
            return self._events.feed(data)
        if self.of == "bytes":
            return range(1, len(data) + 1)
        return [len(data)] if data else []
