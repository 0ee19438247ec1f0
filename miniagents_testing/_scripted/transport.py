"""`ScriptedTransport`: a transport for the real SDKs that answers from a script, without sockets.

`respond_to` maps an HTTP request to a call of a scripted model; the provider server uses it too.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import httpx2
from pydantic_core import from_json

from miniagents_testing._responding import AsyncBody, Body, read_timeout, response_with
from miniagents_testing._streams import Chunk, ResponseStream, aplay, await_headers, play, wait_for_headers
from miniagents_testing._wire import FORMATS
from miniagents_testing._wire.formats import CREATED, json_text
from miniagents_testing.errors import UnexpectedCallError, with_sdk_bases

if TYPE_CHECKING:
    from miniagents_testing._script import API
    from miniagents_testing._scripted import ScriptedLLM


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
"""List of models that both SDKs understand. Requests may name other models as well."""


def respond_to(llm: ScriptedLLM, method: str, path: str, body: bytes) -> ResponseStream:
    """Return the response of a scripted model to an HTTP request; unknown paths and bodies get an error status.

    `GET .../models` gets a list of models, which takes no step.

    Raises:
        Exception: see `ScriptedLLM.respond`.
    """
    path = path.rstrip("/")
    if method == "GET" and path.endswith("/models"):
        return _json_response(200, _MODELS)
    api = api_of_path(path)
    if api is None or method != "POST":
        known = ", ".join(f"POST ...{each.path}" for each in FORMATS.values())
        return error_response(404, f"there is no answer to {method} {path} here; use {known} or GET .../models")
    try:
        request = from_json(body)
    except ValueError as error:
        return error_response(400, f"the body of the request is not JSON: {error}")
    if not isinstance(request, dict):
        return error_response(400, "the body of the request is not a JSON object")
    return llm.respond(api, request)


def api_of_path(path: str) -> API | None:
    """Return the API that a path belongs to, or None."""
    return next((each.api for each in FORMATS.values() if path.endswith(each.path)), None)


def error_response(status: int, message: str) -> ResponseStream:
    """Return an error response that each SDK can read, and that no SDK retries."""
    error = {"type": "invalid_request_error", "message": message, "param": None, "code": None}
    return _json_response(status, {"type": "error", "error": error}, **{"x-should-retry": ["false"]})


def error_message(stream: ResponseStream) -> str:
    """Return the message of an error response, in the form of any API; empty if there is none."""
    try:
        error = from_json(stream.body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return ""


def _json_response(status: int, body: object, **headers: list[str]) -> ResponseStream:
    """Return a response with this value as its JSON body."""
    headers = {"content-type": ["application/json"], **headers}
    return ResponseStream((Chunk(0, json_text(body)),), status=status, reason="", headers=headers)


class ScriptedTransport(httpx2.AsyncBaseTransport, httpx2.BaseTransport):
    """A transport that answers requests to OpenAI's and Anthropic's APIs from a script, for any host.

    Async clients wait by the clock of their event loop, sync clients in real time.
    """

    def __init__(self, llm: ScriptedLLM) -> None:
        self._llm = llm

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the next answer, with a body that streams.

        Raises:
            UnexpectedCallError: no step is left. The raised class also derives from errors of the SDKs, so that they
                neither retry nor wrap it.
            Exception: the step is an exception.
        """
        started = asyncio.get_running_loop().time()
        await request.aread()
        stream = self._respond(request)
        timeout = read_timeout(request)
        await await_headers(stream, self._llm.pace, timeout)
        chunks = aplay(stream, started, self._llm.pace, gate=self._llm.gate, read_timeout=timeout)
        return response_with(AsyncBody(chunks), stream)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the next answer to a sync client; raise the errors of `handle_async_request`."""
        started = time.monotonic()
        request.read()
        stream = self._respond(request)
        timeout = read_timeout(request)
        wait_for_headers(stream, self._llm.pace, timeout)
        chunks = play(stream, started, self._llm.pace, gate=self._llm.gate, read_timeout=timeout)
        return response_with(Body(chunks), stream)

    def _respond(self, request: httpx2.Request) -> ResponseStream:
        """Return the response to a request; raise `UnexpectedCallError` in a form that SDKs do not retry."""
        try:
            return respond_to(self._llm, request.method, request.url.path, request.content)
        except UnexpectedCallError as error:
            raise with_sdk_bases(type(error))(*error.args) from None
