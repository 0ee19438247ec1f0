"""The providers' addresses: which HTTP request is which call. Shared by the transport and the server of a script."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic_core import from_json

from miniagents_testing.streams import Chunk, ResponseStream
from miniagents_testing.wire import FORMATS
from miniagents_testing.wire.base import CREATED, json_text

if TYPE_CHECKING:
    from miniagents_testing.call import API
    from miniagents_testing.scripted.llm import ScriptedLLM

__all__ = ["api_of_path", "error_response", "respond_to"]

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
