"""OpenAI's chat completions on the wire; reasoning as the servers that show it send it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from miniagents_testing._wire.base import CREATED, Body, Event, WireFormat, closes, json_text, opens, token, usage_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miniagents_testing._script import API, Call, Failure, Step, ToolCallDeltas


_WORDS = {
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
    503: ("server_error", "service_unavailable"),
    529: ("server_error", "service_unavailable"),  # a status of Anthropic's, in the words that OpenAI has for it
}


class ChatFormat(WireFormat):
    """`POST /v1/chat/completions`."""

    api: ClassVar[API] = "chat"
    path: ClassVar[str] = "/chat/completions"
    request_id: ClassVar[str] = "x-request-id"

    def events(self, step: Step, call: Call) -> Iterator[Event]:
        """One chunk a delta, the role in the first, usage in one without choices, if it was asked for."""
        deltas = step.deltas
        counts = bool((call.request.get("stream_options") or {}).get("include_usage"))

        def chunk(delta: Body, finish_reason: str | None = None) -> Body:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
            return {
                **_head(call, "chat.completion.chunk"),
                "choices": [choice],
                **({"usage": None} if counts else {}),
            }

        silent = not deltas.text and (deltas.tool_calls or deltas.refusal)
        role = {"role": "assistant", "content": None if silent else ""}
        yield opens(chunk({**role, "refusal": "" if deltas.refusal else None}))
        for piece in deltas.reasoning:
            yield token(chunk({"content": None, "reasoning_content": piece}))
        for piece in deltas.text:
            yield token(chunk({"content": piece}))
        for piece in deltas.refusal:
            yield token(chunk({"refusal": piece}))
        for index, tool_call in enumerate(deltas.tool_calls):
            yield opens(chunk({"tool_calls": [{"index": index, **_tool_call(tool_call, call, index, "")}]}))
            for piece in tool_call.arguments:
                yield token(chunk({"tool_calls": [{"index": index, **_function(tool_call.type, {}, piece)}]}))
        yield closes(chunk({}, _finish_reason(step)))
        if counts:
            yield closes({**_head(call, "chat.completion.chunk"), "choices": [], "usage": _usage(step, call)})

    def document(self, step: Step, call: Call) -> Body:
        """The whole answer at once."""
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
        return {**_head(call, "chat.completion"), "choices": [choice], "usage": _usage(step, call)}

    def failure(self, failure: Failure, call: Call) -> Body:
        """The body of an error response."""
        return {"error": openai_failure(failure)}

    def frame(self, data: Body) -> bytes:
        """An event as bytes; it has no name."""
        return b"data: " + json_text(data) + b"\n\n"

    def end(self) -> bytes:
        """The sign at the end."""
        return b"data: [DONE]\n\n"


def openai_failure(failure: Failure) -> Body:
    """An error object of OpenAI's."""
    fallback = ("invalid_request_error", None) if failure.status < 500 else ("server_error", None)
    kind, code = (failure.type, failure.type) if failure.type else _WORDS.get(failure.status, fallback)
    return {"message": failure.message, "type": kind, "param": None, "code": code}


def _head(call: Call, kind: str) -> Body:
    return {
        "id": f"chatcmpl-scripted-{call.number}",
        "object": kind,
        "created": CREATED,
        "model": call.model,
        "service_tier": "default",
        "system_fingerprint": "fp_scripted",
    }


def _finish_reason(step: Step) -> str:
    """A refusal in words ends like any other answer."""
    return "stop" if step.deltas.refusal and step.reason == "refusal" else step.reason


def _tool_call(tool_call: ToolCallDeltas, call: Call, index: int, arguments: str) -> Body:
    id_ = tool_call.id or f"call_{call.number}_{index}"
    return {"id": id_, "type": tool_call.type, **_function(tool_call.type, {"name": tool_call.name}, arguments)}


def _function(kind: str, name: dict[str, Any], arguments: str) -> Body:
    if kind == "custom":
        return {"custom": {**name, "input": arguments}}
    return {"function": {**name, "arguments": arguments}}


def _usage(step: Step, call: Call) -> Body:
    usage = usage_of(step, call)
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
