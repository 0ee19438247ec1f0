"""A transport that answers from a script: the real SDKs, and no sockets.

The providers' addresses: which HTTP request is which call. Shared by the transport and the server of a script.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import httpx2
from pydantic_core import from_json

from miniagents_testing._playing import aplay, await_headers, play, wait_for_headers
from miniagents_testing._responding import AsyncBody, Body, read_timeout, response_with
from miniagents_testing._streams import Chunk, ResponseStream
from miniagents_testing._wire import FORMATS
from miniagents_testing._wire.base import CREATED, json_text
from miniagents_testing.errors import UnexpectedCallError, with_sdk_bases

if TYPE_CHECKING:
    from miniagents_testing._script import API
    from miniagents_testing._scripted.llm import ScriptedLLM


_MODEL = {
    "id": "scripted-model",
    "object": "model",
    "created": CREATED,
    "owned_by": "miniagents",
    "type": "model",
    "display_name": "Scripted model",
    "created_at": "2025-10-09T08:53:20Z",
}
_MODELS = {"object": "list", "data": [_MODEL], "has_more": False, "first_id": _MODEL["id"], "last_id": _MODEL["id"]}
"""One list that both SDKs understand. Any other name of a model works as well."""


def respond_to(llm: ScriptedLLM, method: str, path: str, body: bytes) -> ResponseStream:
    """The response to an HTTP request.

    Raises:
        Exception: as `ScriptedLLM.respond` does.
    """
    path = path.rstrip("/")
    if method == "GET" and path.endswith("/models"):
        return _json_response(200, _MODELS)
    api = api_of_path(path)
    if api is None or method != "POST":
        known = ", ".join(f"POST ...{each.path}" for each in FORMATS.values())
        return error_response(404, f"nobody answers {method} {path} here; what is answered: {known}, GET .../models")
    try:
        request = from_json(body)
    except ValueError as error:
        return error_response(400, f"the body of the request is not JSON: {error}")
    if not isinstance(request, dict):
        return error_response(400, "the body of the request is not a JSON object")
    return llm.respond(api, request)


def api_of_path(path: str) -> API | None:
    """The API that a request to this path asks; None for paths that belong to none."""
    return next((each.api for each in FORMATS.values() if path.endswith(each.path)), None)


def error_response(status: int, message: str) -> ResponseStream:
    """An error in which each SDK finds its message, and after which none tries again."""
    error = {"type": "invalid_request_error", "message": message, "param": None, "code": None}
    return _json_response(status, {"type": "error", "error": error}, **{"x-should-retry": ["false"]})


def _json_response(status: int, body: object, **headers: list[str]) -> ResponseStream:
    headers = {"content-type": ["application/json"], **headers}
    return ResponseStream((Chunk(0, json_text(body)),), status=status, reason="", headers=headers)


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
        await await_headers(stream, self._llm.pace, timeout)
        chunks = aplay(stream, started, self._llm.pace, gate=self._llm.gate, read_timeout=timeout)
        return response_with(AsyncBody(chunks), stream)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """The same for sync clients."""
        started = time.monotonic()
        request.read()
        stream = self._respond(request)
        timeout = read_timeout(request)
        wait_for_headers(stream, self._llm.pace, timeout)
        chunks = play(stream, started, self._llm.pace, gate=self._llm.gate, read_timeout=timeout)
        return response_with(Body(chunks), stream)

    def _respond(self, request: httpx2.Request) -> ResponseStream:
        try:
            return respond_to(self._llm, request.method, request.url.path, request.content)
        except UnexpectedCallError as error:
            raise with_sdk_bases(type(error))(*error.args) from None
