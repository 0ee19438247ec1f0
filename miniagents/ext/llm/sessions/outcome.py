"""What a provider's answer came to: plain values, before they become a message."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Choice", "Outcome", "Tokens", "ToolUse"]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool the model wants to be run, collected whole."""

    id: str
    name: str
    arguments: str
    """As the model wrote them: usually a JSON object, cut short where the answer was; text for custom tools."""
    type: str = "function"


@dataclass(frozen=True, slots=True)
class Tokens:
    """What was billed, in tokens, as the provider counts them; None where it does not say."""

    input: int | None = None
    """The prompt; at OpenAI all of it, at Anthropic what was neither read from a cache nor written to one."""
    output: int | None = None
    """All that was generated, including reasoning."""
    cached: int | None = None
    """What was read from a cache: a part of `input` at OpenAI, beside it at Anthropic."""
    reasoning: int | None = None
    """The part of `output` spent on reasoning."""
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several answers to the same request (`n` > 1)."""

    index: int
    content: str
    finish_reason: str | None
    tool_calls: tuple[ToolUse, ...] = ()
    refusal: str | None = None
    reasoning: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer, whole or as far as it came."""

    content: str
    complete: bool
    """Whether the provider said that this is all."""
    finish_reason: str | None = None
    """stop, length, tool_calls, content_filter, refusal, pause; a word of the provider's where none of these fits."""
    provider_finish_reason: str | None = None
    id: str | None = None
    model: str | None = None
    usage: Tokens | None = None
    raw_usage: dict[str, Any] | None = None
    tool_calls: tuple[ToolUse, ...] = ()
    refusal: str | None = None
    reasoning: str | None = None
    choices: tuple[Choice, ...] = ()
    """The choices after the first one."""
    unknown_events: int = 0
    lossy: bool = False
    """Whether half characters of the provider's, or bytes that are no UTF-8, were replaced by U+FFFD."""
    extra: dict[str, Any] = field(default_factory=dict)
    """The provider's remaining fields, under the provider's names."""
