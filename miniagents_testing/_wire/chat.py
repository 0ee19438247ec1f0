"""Wire format of OpenAI's chat completions, with the `reasoning_content` of other servers that imitate it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from miniagents_testing._wire.base import (
    CREATED,
    Body,
    Event,
    WireFormat,
    cache_details,
    closing_event,
    json_text,
    opening_event,
    token_event,
    usage_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miniagents_testing._script import API, Call, Failure, Step, ToolCallDeltas


_TYPES_AND_CODES = {
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    503: ("server_error", "service_unavailable"),
    529: ("server_error", "service_unavailable"),  # Anthropic's status, with OpenAI's names
}


class ChatFormat(WireFormat):
    """Format of answers to `POST /v1/chat/completions`."""

    api: ClassVar[API] = "chat"
    path: ClassVar[str] = "/chat/completions"
    request_id: ClassVar[str] = "x-request-id"

    def events(self, step: Step, call: Call) -> Iterator[Event]:
        """Yield one chunk for each delta.

        The role comes first, the finish reason behind them, and usage last if it is asked for.
        """
        deltas = step.deltas
        includes_usage = bool((call.request.get("stream_options") or {}).get("include_usage"))

        def chunk(delta: Body, finish_reason: str | None = None) -> Body:
            """Return one chunk with this delta for choice 0."""
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
            return {
                **_common_fields(call, "chat.completion.chunk"),
                "choices": [choice],
                **({"usage": None} if includes_usage else {}),
            }

        has_no_text = not deltas.text and (deltas.tool_calls or deltas.refusal)
        role = {"role": "assistant", "content": None if has_no_text else ""}
        yield opening_event(chunk({**role, "refusal": "" if deltas.refusal else None}))
        for piece in deltas.reasoning:
            yield token_event(chunk({"content": None, "reasoning_content": piece}))
        for piece in deltas.text:
            yield token_event(chunk({"content": piece}))
        for piece in deltas.refusal:
            yield token_event(chunk({"refusal": piece}))
        for index, tool_call in enumerate(deltas.tool_calls):
            yield opening_event(chunk({"tool_calls": [{"index": index, **_tool_call(tool_call, call, index, "")}]}))
            for piece in tool_call.arguments:
                yield token_event(chunk({"tool_calls": [{"index": index, **_function(tool_call.type, {}, piece)}]}))
        yield closing_event(chunk({}, _finish_reason(step)))
        if includes_usage:
            yield closing_event(
                {**_common_fields(call, "chat.completion.chunk"), "choices": [], "usage": _usage(step, call)}
            )

    def document(self, step: Step, call: Call) -> Body:
        """Return the complete answer as one document; its content is null if it has only calls or a refusal."""
        deltas = step.deltas
        message: Body = {"role": "assistant", "content": "".join(deltas.text), "refusal": None, "annotations": []}
        if not deltas.text and (deltas.tool_calls or deltas.refusal):
            message["content"] = None
        if deltas.refusal:
            message["refusal"] = "".join(deltas.refusal)
        if deltas.reasoning:
            message["reasoning_content"] = "".join(deltas.reasoning)
        if deltas.tool_calls:
            message["tool_calls"] = [
                _tool_call(each, call, index, "".join(each.arguments)) for index, each in enumerate(deltas.tool_calls)
            ]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(step)}
        return {**_common_fields(call, "chat.completion"), "choices": [choice], "usage": _usage(step, call)}

    def failure(self, failure: Failure, call: Call) -> Body:
        """Return the body of an error response."""
        return {"error": openai_failure(failure)}

    def frame(self, data: Body) -> bytes:
        """Return an event as bytes, without a name."""
        return b"data: " + json_text(data) + b"\n\n"

    def end(self) -> bytes:
        """Return the `[DONE]` that ends a complete stream."""
        return b"data: [DONE]\n\n"


def openai_failure(failure: Failure) -> Body:
    """Return an error object in OpenAI's form."""
    fallback = ("invalid_request_error", None) if failure.status < 500 else ("server_error", None)
    kind, code = (failure.type, failure.type) if failure.type else _TYPES_AND_CODES.get(failure.status, fallback)
    return {"message": failure.message, "type": kind, "param": None, "code": code}


def _common_fields(call: Call, kind: str) -> Body:
    """Return the fields that chunks and documents have in common."""
    return {
        "id": f"chatcmpl-scripted-{call.number}",
        "object": kind,
        "created": CREATED,
        "model": call.model,
        "service_tier": "default",
        "system_fingerprint": "fp_scripted",
    }


def _finish_reason(step: Step) -> str:
    """Return the finish reason on the wire; an answer with a refusal text ends with `stop`."""
    return "stop" if step.deltas.refusal and step.reason == "refusal" else step.reason


def _tool_call(tool_call: ToolCallDeltas, call: Call, index: int, arguments: str) -> Body:
    """Return a tool call with these arguments in the form of chat completions."""
    id_ = tool_call.id or f"call_{call.number}_{index}"
    return {"id": id_, "type": tool_call.type, **_function(tool_call.type, {"name": tool_call.name}, arguments)}


def _function(kind: str, name: dict[str, Any], arguments: str) -> Body:
    """Return the field `function` or `custom` of a tool call."""
    if kind == "custom":
        return {"custom": {**name, "input": arguments}}
    return {"function": {**name, "arguments": arguments}}


def _usage(step: Step, call: Call) -> Body:
    """Return the usage object of chat completions."""
    usage = usage_of(step, call)
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {**cache_details(usage), "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
