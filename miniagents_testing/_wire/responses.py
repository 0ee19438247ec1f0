"""Wire format of OpenAI's Responses: each text comes as deltas, and then complete in its part, item and response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from miniagents_testing._wire.base import (
    CREATED,
    Body,
    Event,
    WireFormat,
    cache_details,
    closing_event,
    opening_event,
    token_event,
    usage_of,
)
from miniagents_testing._wire.chat import openai_failure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miniagents_testing._script import API, Call, Failure, Step, ToolCallDeltas


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
                "input_tokens_details": cache_details(usage),
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
    """Yield the output items of an answer: reasoning, message, tool calls."""
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
    """Return the events of one part of a message: a text or a refusal."""
    inner = _part_events(
        "response.content_part", {**kind, key: ""}, {**kind, key: "".join(pieces)}, "content_index", index
    )
    more: Body = {"logprobs": []} if key == "text" else {}
    inner[1:1] = _text_events(f"response.{kind['type']}", pieces, key, content_index=index, **more)
    return inner


def _part_events(name: str, empty: Body, whole: Body, index_name: str, index: int) -> list[Event]:
    """Return two events, which open and close a part of an item; the events of the part's text go between them."""
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
