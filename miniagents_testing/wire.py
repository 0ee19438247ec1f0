"""What providers put on the wire, made from a text: the events of a stream, or the whole answer as JSON."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Answer", "anthropic_events", "anthropic_message", "openai_chunks", "openai_completion"]

CREATED = 1_760_000_000
"""Unix time in all answers: recordings of the same script are the same."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a script.

    Args:
        deltas: the text; a plain string is cut into words, anything else is cut as it is.
        first_wait: seconds before the first event.
        gap: seconds between events. A sequence is gone through again and again, for a stream that is not even.
        finish_reason: in OpenAI's words.
        hold_after: the number of events after which the stream stops until `ProviderServer.release()`. The first event
            has no text with either provider (with Anthropic, the first two).
        status: of the response; from 400 on, `deltas` is the message of an error.
        wire: chunks to send as they are, in place of what would be made of `deltas`.
    """

    deltas: str | Sequence[str] = ""
    first_wait: float = 0.0
    gap: float | Sequence[float] = 0.0
    finish_reason: str = "stop"
    hold_after: int | None = None
    status: int = 200
    wire: Sequence[bytes] | None = None

    @classmethod
    def error(cls, status: int, message: str) -> Self:
        """A response that is an error."""
        return cls(message, status=status)

    @property
    def pieces(self) -> Sequence[str]:
        """The text of each delta."""
        return re.findall(r"\s*\S+\s*$|\s*\S+|\s+", self.deltas) if isinstance(self.deltas, str) else self.deltas

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.deltas)

    def wait_before(self, number: int) -> float:
        """Seconds to wait before event `number`, counted from 0."""
        if number == 0:
            return self.first_wait
        return self.gap if isinstance(self.gap, (int, float)) else self.gap[number % len(self.gap)]


def openai_chunks(answer: Answer, request: dict[str, Any], number: int) -> Sequence[bytes]:
    """The events of a streamed chat completion, for the `number`-th request."""
    if answer.wire is not None:
        return answer.wire
    if answer.status >= 400:
        return [_json(_error(answer)).encode()]
    head = _openai_head(request, number, "chat.completion.chunk")
    choices: list[dict[str, Any]] = [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None},
        *({"index": 0, "delta": {"content": piece}, "finish_reason": None} for piece in answer.pieces),
        {"index": 0, "delta": {}, "finish_reason": answer.finish_reason},
    ]
    events = [{**head, "choices": [choice]} for choice in choices]
    if (request.get("stream_options") or {}).get("include_usage"):
        events.append({**head, "choices": [], "usage": _openai_usage(answer, request)})
    return [*(f"data: {_json(event)}\n\n".encode() for event in events), b"data: [DONE]\n\n"]


def openai_completion(answer: Answer, request: dict[str, Any], number: int) -> dict[str, Any]:
    """A whole chat completion, or the error that the answer is."""
    if answer.status >= 400:
        return _error(answer)
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    return {
        **_openai_head(request, number, "chat.completion"),
        "choices": [{"index": 0, "message": message, "finish_reason": answer.finish_reason}],
        "usage": _openai_usage(answer, request),
    }


def anthropic_events(answer: Answer, request: dict[str, Any], number: int) -> Sequence[bytes]:
    """The events of a streamed message, for the `number`-th request."""
    if answer.wire is not None:
        return answer.wire
    if answer.status >= 400:
        return [_json(_error(answer)).encode()]
    message = anthropic_message(answer, request, number)
    usage = message["usage"]
    started = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    events: Iterator[dict[str, Any]] = iter(
        [
            {"type": "message_start", "message": started},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            *(
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
                for piece in answer.pieces
            ),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": delta, "usage": {"output_tokens": usage["output_tokens"]}},
            {"type": "message_stop"},
        ]
    )
    return [f"event: {event['type']}\ndata: {_json(event)}\n\n".encode() for event in events]


def anthropic_message(answer: Answer, request: dict[str, Any], number: int) -> dict[str, Any]:
    """A whole message, or the error that the answer is."""
    if answer.status >= 400:
        return _error(answer)
    reasons = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
    return {
        "id": f"msg_local_{number}",
        "type": "message",
        "role": "assistant",
        "model": request.get("model", ""),
        "content": [{"type": "text", "text": answer.text}],
        "stop_reason": reasons.get(answer.finish_reason, answer.finish_reason),
        "stop_sequence": None,
        "usage": {"input_tokens": _words(request), "output_tokens": len(answer.pieces)},
    }


def _openai_head(request: dict[str, Any], number: int, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-local-{number}", "object": kind, "created": CREATED, "model": request.get("model", "")}


def _openai_usage(answer: Answer, request: dict[str, Any]) -> dict[str, int]:
    prompt, completion = _words(request), len(answer.pieces)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _words(request: dict[str, Any]) -> int:
    """A number that grows with the prompt, as its tokens would."""
    return len(re.findall(r"\w+", _json(request.get("messages", []))))


def _error(answer: Answer) -> dict[str, Any]:
    """Both SDKs find their message in this."""
    return {"type": "error", "error": {"type": "scripted_error", "message": answer.text}}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
