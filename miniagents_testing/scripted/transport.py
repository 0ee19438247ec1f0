"""A transport that answers from a script: the real SDKs, and no sockets."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import httpx2

from miniagents_testing.errors import UnexpectedCallError
from miniagents_testing.playing import aplay, asleep_until_headers, play, sleep_until_headers
from miniagents_testing.scripted.endpoints import respond_to
from miniagents_testing.sdk_errors import sdk_proof

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from miniagents_testing.scripted.llm import ScriptedLLM
    from miniagents_testing.streams import ResponseStream

__all__ = ["ScriptedTransport"]


class ScriptedTransport(httpx2.AsyncBaseTransport, httpx2.BaseTransport):
    """Answers requests to OpenAI's and Anthropic's APIs from a script, whatever the host.

    Async clients wait by the clock of their event loop, others by that of the machine.
    """

    def __init__(self, llm: ScriptedLLM) -> None:
        self._llm = llm

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The next answer; its body streams.

        Raises:
            UnexpectedCallError: no step is left. The class raised is also one of the SDKs' own errors, so that they
                neither retry nor hide it.
            Exception: the step is one.
        """
        started = asyncio.get_running_loop().time()
        await request.aread()
        stream = self._respond(request)
        timeout = _read_timeout(request)
        await asleep_until_headers(stream, self._llm.pace, timeout)
        chunks = aplay(stream, started, self._llm.pace, gate=self._llm.gate, read_timeout=timeout)
        return _response(stream, _AsyncBody(chunks))

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The same for sync clients."""
        started = time.monotonic()
        request.read()
        stream = self._respond(request)
        timeout = _read_timeout(request)
        sleep_until_headers(stream, self._llm.pace, timeout)
        chunks = play(stream, started, self._llm.pace, gate=self._llm.gate, read_timeout=timeout)
        return _response(stream, _Body(chunks))

    def _respond(self, request: httpx2.Request) -> ResponseStream:
        try:
            return respond_to(self._llm, request.method, request.url.path, request.content)
        except UnexpectedCallError as error:
            raise sdk_proof(type(error))(*error.args) from None


class _AsyncBody(httpx2.AsyncByteStream):
    """Iterating it again goes on where the first reader stopped, as on a socket."""

    def __init__(self, chunks: AsyncGenerator[bytes]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> AsyncGenerator[bytes]:
        return self._chunks

    async def aclose(self) -> None:
        await self._chunks.aclose()


class _Body(httpx2.SyncByteStream):
    """As `_AsyncBody`."""

    def __init__(self, chunks: Generator[bytes]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Generator[bytes]:
        return self._chunks

    def close(self) -> None:
        self._chunks.close()


def _response(stream: ResponseStream, body: httpx2.AsyncByteStream | httpx2.SyncByteStream) -> httpx2.Response:
    return httpx2.Response(
        stream.status,
        headers=[(name, value) for name, values in stream.headers.items() for value in values],
        stream=body,
        extensions={"reason_phrase": stream.reason.encode("ascii", "replace")} if stream.reason else {},
    )


def _read_timeout(request: httpx2.Request) -> float | None:
    """Seconds after which the client would give up waiting for bytes."""
    timeout: float | None = request.extensions.get("timeout", {}).get("read")
    return timeout
