"""Text made of messages, and messages made of text, both while it streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from miniagents.messages import MessagePromise, MessageSequencePromise
from miniagents.messages.joining import joined

if TYPE_CHECKING:
    from miniagents.messages import MessageType

__all__ = ["join_messages"]


def join_messages(
    messages: MessageType,
    delimiter: str | None = "\n\n",
    *,
    strip_leading_newlines: bool = False,
    reference_original_messages: bool = True,
    start_soon: bool | None = None,
    **metadata: Any,
) -> MessagePromise:
    """One message out of many; the tokens of each pass through as they arrive.

    Args:
        messages: whatever may be sent.
        delimiter: what stands between two messages, as a token of its own; None or "" for nothing.
        strip_leading_newlines: whether each message loses the line breaks it begins with.
        reference_original_messages: whether the result has the messages in its field `original_messages`.
        start_soon: whether it begins without a reader; None takes the context's default.
        metadata: fields of the result, known beforehand. They beat the fields of the messages, which are merged, the
            later winning; what belongs to one answer of a provider (usage, id, finish reason, tool calls) is left out.

    Raises:
        TypeError: a part of `messages` cannot be sent.
    """
    return joined(
        MessageSequencePromise.of_items(messages),
        delimiter,
        strip_leading_newlines=strip_leading_newlines,
        reference_original_messages=reference_original_messages,
        start_soon=start_soon,
        metadata=metadata,
    )
