"""A transport that answers from a script: the real SDKs, and no sockets."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import httpx2

from miniagents_testing.errors import UnexpectedCallError
from miniagents_testing.playing import aplay, asleep_until_headers, play, sleep_until_headers
from miniagents_testing.responding import AsyncBody, Body, read_timeout, response_with
from miniagents_testing.scripted.endpoints import respond_to
from miniagents_testing.sdk_errors import sdk_proof

if TYPE_CHECKING:
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
        timeout = read_timeout(request)
        await asleep_until_headers(stream, self._llm.pace, timeout)
        chunks = aplay(stream, started, self._llm.pace, gate=self._llm.gate, read_timeout=timeout)
        return response_with(AsyncBody(chunks), stream)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The same for sync clients."""
        started = time.monotonic()
        request.read()
        stream = self._respond(request)
        timeout = read_timeout(request)
        sleep_until_headers(stream, self._llm.pace, timeout)
        chunks = play(stream, started, self._llm.pace, gate=self._llm.gate, read_timeout=timeout)
        return response_with(Body(chunks), stream)

    def _respond(self, request: httpx2.Request) -> ResponseStream:
        try:
            return respond_to(self._llm, request.method, request.url.path, request.content)
        except UnexpectedCallError as error:
            raise sdk_proof(type(error))(*error.args) from None
