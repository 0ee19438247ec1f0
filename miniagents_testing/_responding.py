"""Responses of httpx2 whose bodies stream; what all transports of the workshop answer with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from miniagents_testing._streams import ResponseStream


class AsyncBody(httpx2.AsyncByteStream):
    """Iterating it again goes on where the first reader stopped, as on a socket."""

    def __init__(self, chunks: AsyncGenerator[bytes]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> AsyncGenerator[bytes]:
        return self._chunks

    async def aclose(self) -> None:
        """No more will be read."""
        await self._chunks.aclose()


class Body(httpx2.SyncByteStream):
    """As `AsyncBody`, for sync clients."""

    def __init__(self, chunks: Generator[bytes]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Generator[bytes]:
        return self._chunks

    def close(self) -> None:
        """No more will be read."""
        self._chunks.close()


def response_with(body: AsyncBody | Body, head: ResponseStream) -> httpx2.Response:
    """The response with the status and the headers of `head`, and this body."""
    return httpx2.Response(
        head.status,
        headers=[(name, value) for name, values in head.headers.items() for value in values],
        stream=body,
        extensions={"reason_phrase": head.reason.encode("ascii", "replace")} if head.reason else {},
    )


def read_timeout(request: httpx2.Request) -> float | None:
    """Seconds after which the client would give up waiting for bytes."""
    timeout: float | None = request.extensions.get("timeout", {}).get("read")
    return timeout
