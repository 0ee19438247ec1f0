"""The one place where a session's outcome becomes fields of a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miniagents.messages import AssistantMessage, ToolCall, Usage

if TYPE_CHECKING:
    from miniagents.ext.llm.sessions import Choice, Outcome, Tokens, ToolUse

__all__ = ["metadata_of"]


def metadata_of(outcome: Outcome) -> dict[str, Any]:
    """Fields of an `AssistantMessage` for what an answer came to; all but its content."""
    metadata: dict[str, Any] = {
        "id": outcome.id,
        "model": outcome.model,
        "finish_reason": outcome.finish_reason,
        "provider_finish_reason": outcome.provider_finish_reason,
        "usage": _usage(outcome.usage, outcome.raw_usage),
        "tool_calls": _tool_calls(outcome.tool_calls),
        "refusal": outcome.refusal,
        "reasoning": outcome.reasoning,
        "choices": tuple(map(_choice, outcome.choices)),
    }
    if outcome.unknown_events:
        metadata["unknown_events"] = outcome.unknown_events
    if outcome.lossy:
        metadata["lossy"] = True
    for name, value in outcome.extra.items():
        # a provider may call a field what a message calls a method
        taken = name in metadata or hasattr(AssistantMessage, name) or name in AssistantMessage.model_fields
        metadata[f"provider_{name}" if taken or name.startswith("_") or name == "class_" else name] = value
    return {name: value for name, value in metadata.items() if value not in (None, ())}


def _usage(tokens: Tokens | None, raw: dict[str, Any] | None) -> Usage | None:
    if tokens is None:
        return None
    counted = {
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "cached_tokens": tokens.cached,
        "reasoning_tokens": tokens.reasoning,
        "total_tokens": tokens.total,
    }
    said_already = counted.keys() | {"prompt_tokens", "completion_tokens"}
    more = {
        name: value
        for name, value in (raw or {}).items()
        if name not in said_already and value is not None and not hasattr(Usage, name)
    }
    return Usage(**counted, **more)


def _tool_calls(calls: tuple[ToolUse, ...]) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(
            id=call.id or None,
            name=call.name or None,
            arguments=call.arguments,
            **({} if call.type == "function" else {"type": call.type}),
        )
        for call in calls
    )


def _choice(choice: Choice) -> AssistantMessage:
    return AssistantMessage(
        choice.content,
        finish_reason=choice.finish_reason,
        tool_calls=_tool_calls(choice.tool_calls),
        refusal=choice.refusal,
        reasoning=choice.reasoning,
    )
