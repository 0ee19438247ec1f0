"""Room 2: messages, and the promises and sequences of them. It knows promises, and no agent."""

from miniagents.messages.message import (
    AssistantMessage,
    ErrorMessage,
    Message,
    SystemMessage,
    ToolCall,
    Usage,
    UserMessage,
)
from miniagents.messages.promise import MessagePromise
from miniagents.messages.sequence import MessageSequence, MessageSequencePromise, MessageType

__all__ = [
    "AssistantMessage",
    "ErrorMessage",
    "Message",
    "MessagePromise",
    "MessageSequence",
    "MessageSequencePromise",
    "MessageType",
    "SystemMessage",
    "ToolCall",
    "Usage",
    "UserMessage",
]
