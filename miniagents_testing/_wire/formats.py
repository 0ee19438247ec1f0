"""Wire formats of three APIs, which turn a step and a call into events or one document.

OpenAI's chat completions have the `reasoning_content` of other servers that imitate it. In OpenAI's Responses, each
text comes as deltas, and then complete in its part, item and response. Anthropic's messages stream in blocks.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from miniagents.messages import Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from miniagents_testing._script import API, Call, Failure, Step, ToolCallDeltas

CREATED = 1_760_000_000
"""Unix time in all answers; it is fixed, so that recordings of the same script are equal."""

Body = dict[str, Any]


class Event(NamedTuple):
    """An event and its place in the answer: it brings a token, comes before a token (`open`) or after one (`close`)."""

    data: Body
    place: Literal["open", "token", "close"]


def opening_event(data: Body) -> Event:
    """Return an event that comes before a token: the start of an answer, or of a part of it."""
    return Event(data, "open")


def token_event(data: Body) -> Event:
    """Return an event that brings a token."""
    return Event(data, "token")


def closing_event(data: Body) -> Event:
    """Return an event that reports the end of a part or of the answer."""
    return Event(data, "close")


class WireFormat(ABC):
    """Wire format of one API."""

    api: ClassVar[API]
    path: ClassVar[str]
    """End of the path of its requests."""
    request_id: ClassVar[str]
    """Name of the header with the provider's id of the request."""

    @abstractmethod
    def events(self, step: Step, call: Call) -> Iterator[Event]:
        """Yield the events of the complete answer."""

    @abstractmethod
    def document(self, step: Step, call: Call) -> Body:
        """Return the complete answer as one document."""

    @abstractmethod
    def failure(self, failure: Failure, call: Call) -> Body:
        """Return the body of an error response."""

    def failure_events(self, failure: Failure, call: Call, sent: int) -> Iterator[Body]:
        """Yield the events that report an error within a stream, after `sent` other events."""
        yield self.failure(failure, call)

    def frame(self, data: Body) -> bytes:
        """Return an event as bytes."""
        return f"event: {data['type']}\ndata: ".encode() + json_text(data) + b"\n\n"

    def end(self) -> bytes:
        """Return the bytes after the last event of a complete answer."""
        return b""


def usage_of(step: Step, call: Call) -> Usage:
    """Return the numbers of tokens of an answer: those in the script, or else counts of words and deltas.

    Cached tokens are 0 by default, and the total is input plus output.
    """
    given = step.usage or Usage()
    input_tokens = given.input_tokens
    if input_tokens is None:
        texts = [str(message) for message in call.messages if message.content is not None]
        input_tokens = len(re.findall(r"\w+", "\n".join([call.system or "", *texts])))
    output_tokens = step.deltas.tokens if given.output_tokens is None else given.output_tokens
    reasoning = given.reasoning_tokens
    if reasoning is None:
        reasoning = min(len(step.deltas.reasoning), output_tokens)  # a part of the output
    return Usage(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=given.cached_tokens or 0,
        cache_write_tokens=given.cache_write_tokens or 0,
        reasoning_tokens=reasoning,
        total_tokens=input_tokens + output_tokens if given.total_tokens is None else given.total_tokens,
    )


def cache_details(usage: Usage) -> Body:
    """Return the counts of tokens in a cache, as both APIs of OpenAI have them."""
    written = {"cache_write_tokens": usage.cache_write_tokens} if usage.cache_write_tokens else {}
    return {"cached_tokens": usage.cached_tokens, **written}


def json_text(value: Any) -> bytes:
    """Return compact JSON as raw UTF-8.

    If a text has a lone surrogate, all characters outside of ASCII are escaped.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=dict)
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return json.dumps(value, separators=(",", ":"), default=dict).encode()


# --- OpenAI's chat completions


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
        """Yield a chunk with the role, one for each delta, and one with the finish reason.

        The deltas come in this order: reasoning, text, refusal, tool calls. Each tool call begins with a chunk of its
        own, without arguments. If the request asks for usage, a last chunk without choices has it.
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
    """Return the fields that chunks and documents have in common; `kind` is the value of `object`."""
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


# --- OpenAI's Responses


_INCOMPLETE_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}
_ECHOED_FIELDS: Body = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
"""Fields of the request that the response repeats, with their defaults."""


class _Item(NamedTuple):
    """Output item: its start, the events within it, and its complete form."""

    start: Body
    inner: list[Event]
    done: Body


class ResponsesFormat(WireFormat):
    """Format of answers to `POST /v1/responses`."""

    api: ClassVar[API] = "responses"
    path: ClassVar[str] = "/responses"
    request_id: ClassVar[str] = "x-request-id"

    def events(self, step: Step, call: Call) -> Iterator[Event]:
        """Yield the numbered events; an event within an item has the index and the id of the item."""
        for number, event in enumerate(self._unnumbered_events(step, call)):
            yield event._replace(data={**event.data, "sequence_number": number})

    def _unnumbered_events(self, step: Step, call: Call) -> Iterator[Event]:
        """Yield the events of an answer without their sequence numbers."""
        started = _response(call, "in_progress")
        yield opening_event({"type": "response.created", "response": started})
        yield opening_event({"type": "response.in_progress", "response": started})
        for index, (start, inner, done) in enumerate(_items(step, call)):
            yield opening_event({"type": "response.output_item.added", "output_index": index, "item": start})
            place = {"item_id": start["id"], "output_index": index}
            for event in inner:
                yield event._replace(data={**event.data, **place})
            yield closing_event({"type": "response.output_item.done", "output_index": index, "item": done})
        whole = self.document(step, call)
        yield closing_event({"type": f"response.{whole['status']}", "response": whole})

    def document(self, step: Step, call: Call) -> Body:
        """Return the complete answer as one document."""
        usage = usage_of(step, call)
        cut = _INCOMPLETE_REASONS.get(step.reason)
        return {
            **_response(call, "incomplete" if cut else "completed"),
            "incomplete_details": {"reason": cut} if cut else None,
            "output": [item.done for item in _items(step, call)],
            "usage": {
                "input_tokens": usage.input_tokens,
                "input_tokens_details": {"cache_write_tokens": 0, **cache_details(usage)},
                "output_tokens": usage.output_tokens,
                "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
                "total_tokens": usage.total_tokens,
            },
        }

    def failure(self, failure: Failure, call: Call) -> Body:
        """Return the body of an error response."""
        return {"error": openai_failure(failure)}

    def failure_events(self, failure: Failure, call: Call, sent: int) -> Iterator[Body]:
        """Yield the error, and then the failed response."""
        error = openai_failure(failure)
        yield {"type": "error", "error": error, "sequence_number": sent}
        failed = {
            **_response(call, "failed"),
            "error": {"code": error["code"] or error["type"], "message": error["message"]},
        }
        yield {"type": "response.failed", "response": failed, "sequence_number": sent + 1}


def _response(call: Call, status: str) -> Body:
    """Return the response object of a call with this status, without output."""
    return {
        "id": f"resp_scripted_{call.number}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": call.model,
        "output": [],
        "service_tier": "default",
        "usage": None,
        **{name: call.request.get(name, default) for name, default in _ECHOED_FIELDS.items()},
    }


def _items(step: Step, call: Call) -> Iterator[_Item]:
    """Yield the output items of an answer, each with its events: reasoning, message, calls of tools.

    There is a message also if the answer is empty.
    """
    deltas = step.deltas
    if deltas.reasoning:
        yield _reasoning(deltas.reasoning, call)
    if deltas.text or deltas.refusal or not deltas.tool_calls:
        yield _message(step, call)
    for index, tool_call in enumerate(deltas.tool_calls):
        yield (_custom_call if tool_call.type == "custom" else _function_call)(tool_call, call, index)


def _reasoning(pieces: tuple[str, ...], call: Call) -> _Item:
    """Return the output item of the reasoning."""
    head = {"id": f"rs_scripted_{call.number}", "type": "reasoning"}
    whole = {"type": "summary_text", "text": "".join(pieces)}
    empty = {"type": "summary_text", "text": ""}
    inner = _part_events("response.reasoning_summary_part", empty, whole, "summary_index", 0)
    inner[1:1] = _text_events("response.reasoning_summary_text", pieces, "text", summary_index=0)
    return _Item({**head, "summary": []}, inner, {**head, "summary": [whole]})


def _message(step: Step, call: Call) -> _Item:
    """Return the output item of the text and the refusal; without either, it has an empty text."""
    head = {"id": f"msg_scripted_{call.number}", "type": "message", "role": "assistant"}
    inner: list[Event] = []
    parts: list[Body] = []
    text, refusal = step.deltas.text, step.deltas.refusal
    if text or not refusal:
        inner += _content_part({"type": "output_text", "annotations": [], "logprobs": []}, "text", text, 0)
        parts.append({"type": "output_text", "annotations": [], "logprobs": [], "text": "".join(text)})
    if refusal:
        inner += _content_part({"type": "refusal"}, "refusal", refusal, len(parts))
        parts.append({"type": "refusal", "refusal": "".join(refusal)})
    status = "incomplete" if step.reason in _INCOMPLETE_REASONS else "completed"
    return _Item({**head, "status": "in_progress", "content": []}, inner, {**head, "status": status, "content": parts})


def _content_part(kind: Body, key: str, pieces: tuple[str, ...], index: int) -> list[Event]:
    """Return the events of one part of a message: a text or a refusal.

    Args:
        kind: fields of the part without its text, with its `type`.
        key: the field that has its text.
        pieces: the text, in deltas.
        index: number of the part in its message.
    """
    inner = _part_events(
        "response.content_part", {**kind, key: ""}, {**kind, key: "".join(pieces)}, "content_index", index
    )
    more: Body = {"logprobs": []} if key == "text" else {}
    inner[1:1] = _text_events(f"response.{kind['type']}", pieces, key, content_index=index, **more)
    return inner


def _part_events(name: str, empty: Body, whole: Body, index_name: str, index: int) -> list[Event]:
    """Return two events, which open and close a part of an item; the events of the part's text go between them.

    The part is `empty` in the first and `whole` in the second; its number, `index`, is in the field `index_name`.
    """
    return [
        opening_event({"type": f"{name}.added", index_name: index, "part": empty}),
        closing_event({"type": f"{name}.done", index_name: index, "part": whole}),
    ]


def _text_events(name: str, pieces: tuple[str, ...], key: str, **more: Any) -> list[Event]:
    """Return an event for each delta of a text, and then an event with the whole text under `key`."""
    return [
        *(token_event({"type": f"{name}.delta", "delta": piece, **more}) for piece in pieces),
        closing_event({"type": f"{name}.done", key: "".join(pieces), **more}),
    ]


def _function_call(tool_call: ToolCallDeltas, call: Call, index: int) -> _Item:
    """Return the output item of a call of a function."""
    return _call_item(tool_call, call, index, "function_call", "fc", "arguments", "response.function_call_arguments")


def _custom_call(tool_call: ToolCallDeltas, call: Call, index: int) -> _Item:
    """Return the output item of a call of a custom tool, whose input is a text."""
    return _call_item(tool_call, call, index, "custom_tool_call", "ctc", "input", "response.custom_tool_call_input")


def _call_item(
    tool_call: ToolCallDeltas, call: Call, index: int, kind: str, prefix: str, key: str, event_name: str
) -> _Item:
    """Return the output item of a tool call; the last four arguments are the names that its kind has on the wire."""
    head = {
        "id": f"{prefix}_scripted_{call.number}_{index}",
        "type": kind,
        "call_id": tool_call.id or f"call_{call.number}_{index}",
        "name": tool_call.name,
    }
    done = {**head, key: "".join(tool_call.arguments), "status": "completed"}
    return _Item({**head, key: "", "status": "in_progress"}, _text_events(event_name, tool_call.arguments, key), done)


# --- Anthropic's messages


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
    """Return the event `content_block_delta` with a delta of the content block at this index."""
    return {"type": "content_block_delta", "index": index, "delta": delta}


def _parsed_arguments(text: str) -> Any:
    """Return the arguments as a value, as a document of this API has them; `{}` if they are not JSON."""
    try:
        return json.loads(text or "{}")
    except ValueError:
        return {}
