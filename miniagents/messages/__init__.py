"""Messages, promises and sequences of messages, and joining and splitting their text."""

from miniagents.messages._message import (
    AssistantMessage,
    ErrorMessage,
    Message,
    MessagePromise,
    SystemMessage,
    ToolCall,
    Usage,
    UserMessage,
)
from miniagents.messages._sequence import MessageSequence, MessageSequencePromise, MessageType
from miniagents.messages._text import join_messages, split_messages

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
    "join_messages",
    "split_messages",
]
