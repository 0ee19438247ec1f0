"""Wire format of Anthropic's messages."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from miniagents_testing._wire.base import (
    Body,
    Event,
    WireFormat,
    closing_event,
    opening_event,
    token_event,
    usage_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from miniagents_testing._script import API, Call, Failure, Step, ToolCallDeltas


_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",  # this API has one word for both
    "pause": "pause_turn",
}
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_SIGNATURE = "c2NyaXB0ZWQ="


class MessagesFormat(WireFormat):
    """Format of answers to `POST /v1/messages`."""

    api: ClassVar[API] = "messages"
    path: ClassVar[str] = "/messages"
    request_id: ClassVar[str] = "request-id"

    def events(self, step: Step, call: Call) -> Iterator[Event]:
        """Yield the start of the message, its content blocks one after the other, and the end.

        A ping follows the first start of a block.
        """
        whole = self.document(step, call)
        usage = whole["usage"]
        first_usage = {name: count for name, count in usage.items() if name != "output_tokens_details"}
        started = {"stop_reason": None, "stop_details": None, "usage": {**first_usage, "output_tokens": 1}}
        yield opening_event({"type": "message_start", "message": {**whole, "content": [], **started}})
        blocks = list(_blocks(step, call))
        if not blocks:
            yield opening_event({"type": "ping"})
        for index, (start, deltas, last) in enumerate(blocks):
            yield opening_event({"type": "content_block_start", "index": index, "content_block": start})
            if index == 0:
                yield opening_event({"type": "ping"})
            if start["type"] == "tool_use":
                yield opening_event(_delta(index, {"type": "input_json_delta", "partial_json": ""}))
            for delta in deltas:
                yield token_event(_delta(index, delta))
            if last is not None:
                yield closing_event(_delta(index, last))
            yield closing_event({"type": "content_block_stop", "index": index})
        ended = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
        if whole["stop_details"] is not None:
            ended["stop_details"] = whole["stop_details"]
        yield closing_event({"type": "message_delta", "delta": ended, "usage": usage})
        yield closing_event({"type": "message_stop"})

    def document(self, step: Step, call: Call) -> Body:
        """Return the complete answer as one document.

        A refusal's text is its explanation, and caches are no input tokens.
        """
        usage = usage_of(step, call)
        in_cache = (usage.cached_tokens or 0) + (usage.cache_write_tokens or 0)
        details = None
        if step.deltas.refusal:  # the API has no refusal text of the model, only an explanation of the provider
            details = {"type": "refusal", "category": None, "explanation": "".join(step.deltas.refusal)}
        return {
            "id": f"msg_scripted_{call.number}",
            "type": "message",
            "role": "assistant",
            "model": call.model,
            "content": list(_content(step, call)),
            "stop_reason": _STOP_REASONS.get(step.reason, step.reason),
            "stop_sequence": None,
            "stop_details": details,
            "usage": {
                "input_tokens": max(0, (usage.input_tokens or 0) - in_cache),  # without caches here
                "cache_creation_input_tokens": usage.cache_write_tokens,
                "cache_read_input_tokens": usage.cached_tokens,
                "output_tokens": usage.output_tokens,
                "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
            },
        }

    def failure(self, failure: Failure, call: Call) -> Body:
        """Return the body of an error response.

        Its type is that of the failure, or else the usual one of its status.
        """
        kind = failure.type or _ERROR_TYPES.get(failure.status)
        kind = kind or ("invalid_request_error" if failure.status < 500 else "api_error")
        error = {"type": kind, "message": failure.message}
        return {"type": "error", "error": error, "request_id": f"req_scripted_{call.number}"}


def _blocks(step: Step, call: Call) -> Iterator[tuple[Body, Sequence[Body], Body | None]]:
    """Yield each content block: its start, its deltas, and a last delta that is no token, or None."""
    deltas = step.deltas
    if deltas.reasoning:
        thoughts = [{"type": "thinking_delta", "thinking": piece} for piece in deltas.reasoning]
        signature = {"type": "signature_delta", "signature": _SIGNATURE}
        yield {"type": "thinking", "thinking": "", "signature": ""}, thoughts, signature
    if deltas.text:
        yield {"type": "text", "text": ""}, [{"type": "text_delta", "text": piece} for piece in deltas.text], None
    for index, tool_call in enumerate(deltas.tool_calls):
        inputs = [{"type": "input_json_delta", "partial_json": piece} for piece in tool_call.arguments]
        yield _tool_use(tool_call, call, index, {}), inputs, None


def _content(step: Step, call: Call) -> Iterator[Body]:
    """Yield the complete content blocks."""
    deltas = step.deltas
    if deltas.reasoning:
        yield {"type": "thinking", "thinking": "".join(deltas.reasoning), "signature": _SIGNATURE}
    if deltas.text:
        yield {"type": "text", "text": "".join(deltas.text)}
    for index, tool_call in enumerate(deltas.tool_calls):
        yield _tool_use(tool_call, call, index, _parsed_arguments("".join(tool_call.arguments)))


def _tool_use(tool_call: ToolCallDeltas, call: Call, index: int, arguments: Any) -> Body:
    """Return a content block that calls a tool."""
    id_ = tool_call.id or f"toolu_{call.number}_{index}"
    return {"type": "tool_use", "id": id_, "name": tool_call.name, "input": arguments}


def _delta(index: int, delta: Body) -> Body:
    """Return the event of a delta of the content block with this index."""
    return {"type": "content_block_delta", "index": index, "delta": delta}


def _parsed_arguments(text: str) -> Any:
    """Return the arguments as a value, as a document of this API has them; `{}` if they are not JSON."""
    try:
        return json.loads(text or "{}")
    except ValueError:
        return {}
