"""Messages, promises of messages, and sequences of messages."""

from miniagents.messages._approval import Approval, PendingApproval
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
