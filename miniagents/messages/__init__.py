"""Messages, promises of messages, and sequences of messages."""

from miniagents.messages._message import (
    AssistantMessage,
    ErrorMessage,
    Message,
    MessagePromise,
    SystemMessage,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from miniagents.messages._sequence import MessageSequence, MessageSequencePromise, MessageType

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
    "ToolMessage",
    "Usage",
    "UserMessage",
]
