"""Messages, promises of messages, and sequences of messages."""

from miniagents.messages._events import (
    AnswerFinished,
    AnswerRestarted,
    MessageEvent,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallReady,
)
from miniagents.messages._message import Message, MessagePromise
from miniagents.messages._roles import (
    Approval,
    AssistantMessage,
    ErrorMessage,
    PendingApproval,
    SystemMessage,
    ToolCall,
    ToolMessage,
    Usage,
    UserMessage,
)
from miniagents.messages._sequence import MessageSequence, MessageSequencePromise, MessageType

__all__ = [
    "AnswerFinished",
    "AnswerRestarted",
    "Approval",
    "AssistantMessage",
    "ErrorMessage",
    "Message",
    "MessageEvent",
    "MessagePromise",
    "MessageSequence",
    "MessageSequencePromise",
    "MessageType",
    "PendingApproval",
    "ReasoningDelta",
    "RefusalDelta",
    "SystemMessage",
    "TextDelta",
    "ToolCall",
    "ToolCallDelta",
    "ToolCallReady",
    "ToolMessage",
    "Usage",
    "UserMessage",
]
