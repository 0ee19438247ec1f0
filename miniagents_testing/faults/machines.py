"""How each kind of fault works on a stream; `kinds` has the functions that make them."""

# ruff: noqa: D102 - `Fault` explains the methods

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

from miniagents_testing._streams import Chunk, ResponseStream
from miniagents_testing.faults.base import Fault, Mark, Unit

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx2

__all__ = ["ContentType", "DropLast", "Edit", "Gzip", "Respond", "Stall", "Stop"]


class Stop(Fault):
    """The stream ends at a place, in some way, maybe with last words."""

    def __init__(self, label: str, number: int, of: Unit, *, end: str, last_words: bytes = b"") -> None:
        super().__init__(label)
        self._place = (number, of)
        self._end = end
        self._last_words = last_words

    def begin(self) -> None:
        self._mark = Mark(*self._place)

    def feed(self, chunk: Chunk) -> list[Chunk]:
        self._wait(chunk.wait)
        before, _ = self._mark.split(chunk.data)
        if not self._mark.passed:
            return self._say(before)
        self.reached = True
        self.end = self._end
        return self._say(before + self._last_words)

    def progress(self) -> str:
        return self._mark.progress()


class Stall(Fault):
    """What comes after a place comes later."""

    def __init__(self, label: str, number: int, of: Unit, ticks: int) -> None:
        super().__init__(label)
        self._place = (number, of)
        self._ticks = ticks

    def begin(self) -> None:
        self._mark = Mark(*self._place)

    def feed(self, chunk: Chunk) -> list[Chunk]:
        if self.reached:
            return [chunk]
        self._wait(chunk.wait)
        before, after = self._mark.split(chunk.data)
        said = self._say(before)
        if after:
            self.reached = True
            self._wait(self._ticks)
        return said + self._say(after)

    def progress(self) -> str:
        return self._mark.progress()


class Edit(Fault):
    """One unit, or some that follow each other, become something else; they are held until they are whole."""

    def __init__(self, label: str, at: int, of: Unit, change: Callable[[bytes], bytes], *, units: int = 1) -> None:
        super().__init__(label)
        self._place = (at, of)
        self._units = units
        self._change = change

    def begin(self) -> None:
        at, of = self._place
        self._start, self._stop = Mark(at - 1, of), Mark(at - 1 + self._units, of)
        self._held = b""

    def feed(self, chunk: Chunk) -> list[Chunk]:
        self._wait(chunk.wait)
        before, _ = self._start.split(chunk.data)
        up_to, after = self._stop.split(chunk.data)
        self._held += chunk.data[len(before) : len(up_to)]
        said = self._say(before)
        if self._stop.passed and not self.reached:
            self.reached = True
            said += self._say(self._change(self._held))
        return said + self._say(after)

    def close(self) -> list[Chunk]:
        return [] if self.reached else self._say(self._held)

    def progress(self) -> str:
        return self._stop.progress()


class DropLast(Fault):
    """Every event is held until the next one is whole."""

    def begin(self) -> None:
        self._event: list[Chunk] = []
        self._unfinished: list[Chunk] = []
        self._mark = Mark(1, "events")

    def feed(self, chunk: Chunk) -> list[Chunk]:
        said: list[Chunk] = []
        wait, data = chunk
        while data:
            piece, data = self._mark.split(data)
            self._unfinished.append(Chunk(wait, piece))
            wait = 0
            if self._mark.passed:
                said += self._event
                self._event, self._unfinished = self._unfinished, []
                self._mark = Mark(1, "events")
        return said

    def close(self) -> list[Chunk]:
        self.reached = bool(self._event)
        return []

    def progress(self) -> str:
        return "its stream was not read to its end"


class Gzip(Fault):
    """The body is compressed chunk by chunk, so that it still streams."""

    def __init__(self, label: str, missing: int) -> None:
        super().__init__(label)
        self._missing = missing

    def begin(self) -> None:
        self._compressor = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
        self._held = b""

    def head(self, stream: ResponseStream) -> ResponseStream:
        self.reached = True
        return replace(stream, headers={**stream.headers, "content-encoding": ["gzip"]})

    def feed(self, chunk: Chunk) -> list[Chunk]:
        self._wait(chunk.wait)
        if not chunk.data:
            return []
        return self._all_but_the_end(self._compressor.compress(chunk.data) + self._compressor.flush(zlib.Z_SYNC_FLUSH))

    def close(self) -> list[Chunk]:
        return self._all_but_the_end(self._compressor.flush())

    def _all_but_the_end(self, data: bytes) -> list[Chunk]:
        self._held += data
        size = max(0, len(self._held) - self._missing)
        data, self._held = self._held[:size], self._held[size:]
        return self._say(data)


class ContentType(Fault):
    """The header says something else."""

    def __init__(self, label: str, value: str) -> None:
        super().__init__(label)
        self._value = value

    def head(self, stream: ResponseStream) -> ResponseStream:
        self.reached = True
        return replace(stream, headers={**stream.headers, "content-type": [self._value]})


class Respond(Fault):
    """A response of its own."""

    def __init__(self, label: str, stream: ResponseStream) -> None:
        super().__init__(label)
        self._stream = stream

    def response(self, request: httpx2.Request | None) -> ResponseStream:
        self.reached = True
        return self._stream
