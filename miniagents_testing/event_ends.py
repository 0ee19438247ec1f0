"""Where the events of a byte stream end, as the decoder of the framework sees them: what faults and cuts count by."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from miniagents.ext.llm.sse import SSEDecoder

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["EventEnds"]

_LINE_END = re.compile(rb"\r\n|\r|\n")


class EventEnds:
    """Takes bytes as they come, and tells at which of them an event is complete.

    Only what a decoder delivers is an event: comments and blocks without data belong to the event after them.
    """

    def __init__(self) -> None:
        self._decoder = SSEDecoder()

    def feed(self, data: bytes) -> Iterator[int]:
        """The places in `data` right after the last byte of an event; to be read to the end before the next `feed`."""
        start = 0
        for line_end in _LINE_END.finditer(data):
            end = line_end.end()
            if self._decoder.feed(data[start:end]):
                yield end
            start = end
        self._decoder.feed(data[start:])
