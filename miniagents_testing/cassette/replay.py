"""A transport that plays a cassette: no socket is ever opened."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import defaultdict, deque
from typing import TYPE_CHECKING

import httpx2

from miniagents_testing.cassette.file import load
from miniagents_testing.cassette.matching import RequestKey, differences, request_key
from miniagents_testing.errors import CassetteMissError, IncompleteRecordingError, UnplayedError
from miniagents_testing.streams import TICKS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from miniagents_testing.cassette.interaction import Interaction

__all__ = ["ReplayTransport"]

NEAREST_SHOWN = 3
DIFFERENCES_SHOWN = 5


class ReplayTransport(httpx2.AsyncBaseTransport):
    """Answers each request with the recorded stream of the same request, chunk for chunk.

    The same request asked several times gets its recordings in the order in which they were made.

    Args:
        cassette: a file, or the interactions themselves.
        pace: factor on the recorded waits. 1 plays as recorded; 0 plays at once, with one step of the loop a chunk.
            Chunks are due at recorded moments of the loop's clock, so that delays of the reader do not add up.
    """

    def __init__(self, cassette: str | os.PathLike[str] | Sequence[Interaction], *, pace: float = 0.0) -> None:
        self.name = os.fspath(cassette) if isinstance(cassette, (str, os.PathLike)) else "the cassette"
        self.interactions = load(cassette) if isinstance(cassette, (str, os.PathLike)) else tuple(cassette)
        self.pace = pace
        self._left: defaultdict[RequestKey, deque[Interaction]] = defaultdict(deque)
        for interaction in self.interactions:
            self._left[_key(interaction)].append(interaction)

    @property
    def unplayed(self) -> tuple[Interaction, ...]:
        """The interactions that were not asked for yet."""
        return tuple(interaction for left in self._left.values() for interaction in left)

    def assert_complete(self) -> None:
        """Raise `UnplayedError` if anything was not asked for: the application does less than when it was recorded."""
        if self.unplayed:
            names = ", ".join(f"{interaction.method} {interaction.uri}" for interaction in self.unplayed)
            raise UnplayedError(f"{self.name}: {len(self.unplayed)} interactions were not played: {names}")

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The recorded response; its body streams.

        Raises:
            CassetteMissError: nothing that is left fits. The class raised is also one of the SDKs' own errors, so that
                they neither retry nor hide it.
        """
        started = asyncio.get_running_loop().time()
        body = await request.aread()
        left = self._left.get(request_key(request.method, str(request.url), body))
        if not left:
            raise _miss_class()(self._miss_message(request, body))
        interaction = left.popleft()
        answer = interaction.response
        headers_at = started + answer.headers_ms / 1000 * self.pace
        await _until(headers_at)
        return httpx2.Response(
            answer.status,
            headers=[(name, value) for name, values in answer.headers.items() for value in values],
            stream=_ReplayStream(interaction, request, headers_at, self.pace),
            extensions={"reason_phrase": answer.reason.encode("ascii", "replace")},
        )

    def _miss_message(self, request: httpx2.Request, body: bytes) -> str:
        """What was asked for, and how the nearest recorded requests differ."""
        if not self.interactions:
            return f"{self.name} is empty; {request.method} {request.url} was asked for"
        ranked = sorted(
            ((_differences(interaction, request, body), interaction) for interaction in self.interactions),
            key=lambda pair: len(pair[0]),
        )
        lines = [f"{self.name} has no answer for {request.method} {request.url}"]
        for found, interaction in ranked[:NEAREST_SHOWN]:
            where = f"interaction {self.interactions.index(interaction) + 1}"
            if not found:
                lines.append(f"  {where} is the same request, and was played already")
                continue
            lines.append(f"  {where} differs in {len(found)}:")
            lines += [f"    {difference}" for difference in found[:DIFFERENCES_SHOWN]]
        return "\n".join(lines)


class _ReplayStream(httpx2.AsyncByteStream):
    """A recorded body. Iterating it again goes on where the first reader stopped, as on a socket."""

    def __init__(self, interaction: Interaction, request: httpx2.Request, headers_at: float, pace: float) -> None:
        self._interaction = interaction
        self._request = request
        self._due = headers_at
        self._pace = pace
        self._left = iter(interaction.response.chunks)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._left:
            self._due += chunk.wait / TICKS_PER_SECOND * self._pace
            await _until(self._due)
            yield chunk.data
        self._end()

    def _end(self) -> None:
        """End as the recorded stream ended."""
        end = self._interaction.response.end
        if end.startswith("raise "):
            name, _, message = end.removeprefix("raise ").partition(": ")
            error = getattr(httpx2, name, None)
            if not (isinstance(error, type) and issubclass(error, httpx2.RequestError)):
                error = httpx2.ReadError
            raise error(message, request=self._request)
        if not self._interaction.response.complete:
            raise IncompleteRecordingError(
                f"the recording of {self._interaction.uri} ends here: {end} by its reader before the answer was whole"
            )


async def _until(due: float) -> None:
    """Wait for a moment of the loop's clock; at least one step, so that others run between two chunks."""
    await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))


def _key(interaction: Interaction) -> RequestKey:
    return request_key(interaction.method, interaction.uri, interaction.request_body)


def _differences(interaction: Interaction, request: httpx2.Request, body: bytes) -> list[str]:
    """What is different in a live request, one line each."""
    now = f"{request.method} {request.url}"
    recorded = f"{interaction.method} {interaction.uri}"
    lines = [] if now == recorded else [f"request: recorded {recorded}, now {now}"]
    return lines + differences(interaction.request_body, body)


def _miss_class() -> type[CassetteMissError]:
    """`CassetteMissError` with the base errors of the SDKs in use, which they let through as it is."""
    bases: list[type[Exception]] = []
    for sdk, name in (("openai", "OpenAIError"), ("anthropic", "AnthropicError")):
        base = getattr(sys.modules.get(sdk), name, None)
        if base is not None:
            bases.append(base)
    if not bases:
        return CassetteMissError
    return type("CassetteMissError", (CassetteMissError, *bases), {"__module__": CassetteMissError.__module__})
