"""OpenAI's Responses on the wire: every text is told four times, delta by delta and then whole, level by level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from miniagents_testing._wire.base import CREATED, Body, Event, WireFormat, closes, opens, token, usage_of
from miniagents_testing._wire.chat import openai_failure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miniagents_testing._script import API, Call, Failure, Step, ToolCallDeltas


_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_ECHOED: Body = {
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
"""What of the request comes back with the response, and what stands there if it was not said."""


class _Item(NamedTuple):
    """An output item: how it is announced, what happens within, and what it is at its end."""

    start: Body
    inner: list[Event]
    done: Body


class ResponsesFormat(WireFormat):
    """`POST /v1/responses`."""

    api: ClassVar[API] = "responses"
    path: ClassVar[str] = "/responses"
    request_id: ClassVar[str] = "x-request-id"

    def events(self, step: Step, call: Call) -> Iterator[Event]:
        """Numbered; what happens within an item names it by index and id."""
        for number, event in enumerate(self._unnumbered(step, call)):
            yield event._replace(data={**event.data, "sequence_number": number})

    def _unnumbered(self, step: Step, call: Call) -> Iterator[Event]:
        started = _response(call, "in_progress")
        yield opens({"type": "response.created", "response": started})
        yield opens({"type": "response.in_progress", "response": started})
        for index, (start, inner, done) in enumerate(_items(step, call)):
            yield opens({"type": "response.output_item.added", "output_index": index, "item": start})
            place = {"item_id": start["id"], "output_index": index}
            for event in inner:
                yield event._replace(data={**event.data, **place})
            yield closes({"type": "response.output_item.done", "output_index": index, "item": done})
        whole = self.document(step, call)
        yield closes({"type": f"response.{whole['status']}", "response": whole})

    def document(self, step: Step, call: Call) -> Body:
        """The whole answer at once."""
        usage = usage_of(step, call)
        cut = _INCOMPLETE.get(step.reason)
        return {
            **_response(call, "incomplete" if cut else "completed"),
            "incomplete_details": {"reason": cut} if cut else None,
            "output": [item.done for item in _items(step, call)],
            "usage": {
                "input_tokens": usage.input_tokens,
                "input_tokens_details": {"cached_tokens": usage.cached_tokens},
                "output_tokens": usage.output_tokens,
                "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
                "total_tokens": usage.total_tokens,
            },
        }

    def failure(self, failure: Failure, call: Call) -> Body:
        """The body of an error response."""
        return {"error": openai_failure(failure)}

    def failure_events(self, failure: Failure, call: Call, sent: int) -> Iterator[Body]:
        """The error, and then the response that has failed with it."""
        error = openai_failure(failure)
        yield {"type": "error", "error": error, "sequence_number": sent}
        failed = {
            **_response(call, "failed"),
            "error": {"code": error["code"] or error["type"], "message": error["message"]},
        }
        yield {"type": "response.failed", "response": failed, "sequence_number": sent + 1}


def _response(call: Call, status: str) -> Body:
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
        **{name: call.request.get(name, default) for name, default in _ECHOED.items()},
    }


def _items(step: Step, call: Call) -> Iterator[_Item]:
    deltas = step.deltas
    if deltas.reasoning:
        yield _reasoning(deltas.reasoning, call)
    if deltas.text or deltas.refusal or not deltas.tool_calls:
        yield _message(step, call)
    for index, tool_call in enumerate(deltas.tool_calls):
        yield (_custom_call if tool_call.type == "custom" else _function_call)(tool_call, call, index)


def _reasoning(pieces: tuple[str, ...], call: Call) -> _Item:
    head = {"id": f"rs_scripted_{call.number}", "type": "reasoning"}
    whole = {"type": "summary_text", "text": "".join(pieces)}
    inner = _part("response.reasoning_summary_part", {"type": "summary_text", "text": ""}, whole, "summary_index", 0)
    inner[1:1] = _texts("response.reasoning_summary_text", pieces, "text", summary_index=0)
    return _Item({**head, "summary": []}, inner, {**head, "summary": [whole]})


def _message(step: Step, call: Call) -> _Item:
    head = {"id": f"msg_scripted_{call.number}", "type": "message", "role": "assistant"}
    inner: list[Event] = []
    parts: list[Body] = []
    said, refused = step.deltas.text, step.deltas.refusal
    if said or not refused:
        inner += _content_part({"type": "output_text", "annotations": [], "logprobs": []}, "text", said, 0)
        parts.append({"type": "output_text", "annotations": [], "logprobs": [], "text": "".join(said)})
    if refused:
        inner += _content_part({"type": "refusal"}, "refusal", refused, len(parts))
        parts.append({"type": "refusal", "refusal": "".join(refused)})
    status = "incomplete" if step.reason in _INCOMPLETE else "completed"
    return _Item({**head, "status": "in_progress", "content": []}, inner, {**head, "status": status, "content": parts})


def _content_part(kind: Body, key: str, pieces: tuple[str, ...], index: int) -> list[Event]:
    """The events of one part of a message: a text or a refusal."""
    inner = _part("response.content_part", {**kind, key: ""}, {**kind, key: "".join(pieces)}, "content_index", index)
    more: Body = {"logprobs": []} if key == "text" else {}
    inner[1:1] = _texts(f"response.{kind['type']}", pieces, key, content_index=index, **more)
    return inner


def _part(name: str, empty: Body, whole: Body, index_name: str, index: int) -> list[Event]:
    return [
        opens({"type": f"{name}.added", index_name: index, "part": empty}),
        closes({"type": f"{name}.done", index_name: index, "part": whole}),
    ]


def _texts(name: str, pieces: tuple[str, ...], key: str, **more: Any) -> list[Event]:
    """Deltas, and then the whole under `key`."""
    return [
        *(token({"type": f"{name}.delta", "delta": piece, **more}) for piece in pieces),
        closes({"type": f"{name}.done", key: "".join(pieces), **more}),
    ]


def _function_call(tool_call: ToolCallDeltas, call: Call, index: int) -> _Item:
    return _call(tool_call, call, index, "function_call", "fc", "arguments", "response.function_call_arguments")


def _custom_call(tool_call: ToolCallDeltas, call: Call, index: int) -> _Item:
    return _call(tool_call, call, index, "custom_tool_call", "ctc", "input", "response.custom_tool_call_input")


def _call(tool_call: ToolCallDeltas, call: Call, index: int, kind: str, prefix: str, key: str, events: str) -> _Item:
    head = {
        "id": f"{prefix}_scripted_{call.number}_{index}",
        "type": kind,
        "call_id": tool_call.id or f"call_{call.number}_{index}",
        "name": tool_call.name,
    }
    done = {**head, key: "".join(tool_call.arguments), "status": "completed"}
    return _Item({**head, key: "", "status": "in_progress"}, _texts(events, tool_call.arguments, key), done)
