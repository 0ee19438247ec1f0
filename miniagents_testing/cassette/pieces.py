"""What an event adds to an answer beside its text: reasoning, refusals, tool calls, piece by piece.

A session says the text of each event, and all the rest only at the end, when it is sure. Whoever watches an answer
being written wants the rest as it comes; being sure is the session's business, so what does not fit is passed over.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Piece", "other_pieces", "tool_piece"]


class Piece(NamedTuple):
    """Something that was said in one go."""

    kind: str
    """`text`, `reasoning`, `refusal`, `tool`, or `choice` for an answer beside the first one."""
    part: str
    """Neighbours of one kind and part belong together, such as the name and the arguments of one tool call."""
    text: str


def tool_piece(part: Any, name: Any, arguments: Any = "") -> Piece:
    """The beginning of a tool call, or the whole."""
    return Piece("tool", str(part), f"{name} {arguments}")


def other_pieces(data: Any) -> Iterator[Piece]:
    """The pieces of one event, of any of the APIs; its text is left to the session."""
    data = _object(data)
    kind = data.get("type")
    if isinstance(kind, str) and kind.startswith("response."):
        yield from _of_responses(kind, data)
    elif kind in ("content_block_start", "content_block_delta"):
        yield from _of_messages(data)
    else:
        for choice in map(_object, _list(data.get("choices"))):
            if not choice.get("index"):
                yield from _of_chat(_object(choice.get("delta")))


def _of_chat(delta: dict[str, Any]) -> Iterator[Piece]:
    yield Piece(
        "reasoning", "", _text_or_empty(delta.get("reasoning_content")) or _text_or_empty(delta.get("reasoning"))
    )
    yield Piece("refusal", "", _text_or_empty(delta.get("refusal")))
    for call in map(_object, _list(delta.get("tool_calls"))):
        part = str(call.get("index") or 0)
        function = _object(call.get("function") or call.get("custom"))
        if function.get("name"):
            yield tool_piece(part, function["name"])
        yield Piece("tool", part, _text_or_empty(function.get("arguments") or function.get("input")))


def _of_messages(data: dict[str, Any]) -> Iterator[Piece]:
    part = str(data.get("index"))
    block, delta = _object(data.get("content_block")), _object(data.get("delta"))
    if str(block.get("type")).endswith("tool_use"):
        given = block.get("input")  # usually {}, and the arguments follow
        yield tool_piece(part, block.get("name"), json.dumps(given, ensure_ascii=False) if given else "")
    if delta.get("type") == "thinking_delta":
        yield Piece("reasoning", part, _text_or_empty(delta.get("thinking")))
    elif delta.get("type") == "input_json_delta":
        yield Piece("tool", part, _text_or_empty(delta.get("partial_json")))


def _of_responses(kind: str, data: dict[str, Any]) -> Iterator[Piece]:
    part = str(data.get("output_index"))
    delta = _text_or_empty(data.get("delta"))
    if kind == "response.output_item.added":
        item = _object(data.get("item"))
        if item.get("type") in ("function_call", "custom_tool_call"):
            yield tool_piece(part, item.get("name"))
    elif kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
        index = data.get("summary_index") or data.get("content_index") or 0
        yield Piece("reasoning", f"{part}.{index}", delta)
    elif kind == "response.refusal.delta":
        yield Piece("refusal", part, delta)
    elif kind in ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta"):
        yield Piece("tool", part, delta)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text_or_empty(value: Any) -> str:
    return value if isinstance(value, str) else ""
