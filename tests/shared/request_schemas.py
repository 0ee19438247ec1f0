"""Schemas of the bodies of requests, made of the types that the SDKs of the providers publish.

A body is valid if it has the parameters of the API and no others, at every depth, each of its type.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from anthropic.types.beta import message_create_params  # with the blocks that the other types lack
from openai.types.chat import completion_create_params
from openai.types.responses import response_create_params
from pydantic import TypeAdapter, ValidationError
from pydantic_core import SchemaValidator

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["check_body"]

_TYPES: dict[tuple[str, bool], Any] = {
    ("chat", True): completion_create_params.CompletionCreateParamsStreaming,
    ("chat", False): completion_create_params.CompletionCreateParamsNonStreaming,
    ("responses", True): response_create_params.ResponseCreateParamsStreaming,
    ("responses", False): response_create_params.ResponseCreateParamsNonStreaming,
    ("messages", True): message_create_params.MessageCreateParamsStreaming,
    ("messages", False): message_create_params.MessageCreateParamsNonStreaming,
}


_MORE = {"tool": ("name",), "assistant": ("reasoning_content", "reasoning", "reasoning_details")}
"""Fields of chat messages by role that the types lack, and that servers take: some need them."""


def check_body(api: str, body: Mapping[str, Any]) -> None:
    """Raise `AssertionError` if the body of a request is not as the SDK's types describe it."""
    plain = json.loads(json.dumps(body, default=dict))
    if api == "chat":
        for message in plain["messages"]:
            for name in _MORE.get(message["role"], ()):
                message.pop(name, None)
    try:
        _validator(api, bool(plain.get("stream"))).validate_python(plain)
    except ValidationError as error:
        raise AssertionError(f"{error}\n{plain}") from None


@cache
def _validator(api: str, streamed: bool) -> SchemaValidator:
    """Return the strict validator of an API's bodies, which refuses unknown keys."""
    return SchemaValidator(_closed(TypeAdapter(_TYPES[api, streamed]).core_schema))


def _closed(schema: Any) -> Any:
    """Return a core schema whose objects refuse unknown keys, and whose iterables are lists, which are read at once."""
    if isinstance(schema, list | tuple):
        return type(schema)(map(_closed, schema))
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")  # a str in schemas; a schema in a dict of fields with one of that name
    plain = ("metadata", "default") if isinstance(kind, str) else ()
    changed = {key: value if key in plain else _closed(value) for key, value in schema.items()}
    match kind:
        case "typed-dict" if "extras_schema" not in schema:
            changed |= {"extra_behavior": "forbid", "strict": True}
        case "generator":
            changed["type"] = "list"
        case "str" | "int" | "bool":
            changed["strict"] = True
    return changed
