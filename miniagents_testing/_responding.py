"""Responses of httpx2 with streamed bodies, as all transports of the testing kit return them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from miniagents_testing._streams import ResponseStream


class AsyncBody(httpx2.AsyncByteStream):
    """Body for async clients. A second iteration goes on where the first one stopped, as on a socket."""

    def __init__(self, chunks: AsyncGenerator[bytes]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> AsyncGenerator[bytes]:
        return self._chunks

    async def aclose(self) -> None:
        """Close the generator of the chunks."""
        await self._chunks.aclose()


class Body(httpx2.SyncByteStream):
    """Body for sync clients. A second iteration goes on where the first one stopped, as on a socket."""

    def __init__(self, chunks: Generator[bytes]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Generator[bytes]:
        return self._chunks

    def close(self) -> None:
        """Close the generator of the chunks."""
        self._chunks.close()


def response_with(body: AsyncBody | Body, head: ResponseStream) -> httpx2.Response:
    """Return a response of httpx2 with this body, and with the status, reason and headers of the stream `head`."""
    return httpx2.Response(
        head.status,
        headers=[(name, value) for name, values in head.headers.items() for value in values],
        stream=body,
        extensions={"reason_phrase": head.reason.encode("ascii", "replace")} if head.reason else {},
    )


def read_timeout(request: httpx2.Request) -> float | None:
    """Return the seconds after which the client gives up waiting for bytes; None if it waits without limit."""
    timeout: float | None = request.extensions.get("timeout", {}).get("read")
    return timeout
