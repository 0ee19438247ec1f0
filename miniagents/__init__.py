"""MiniAgents: plain async functions that send each other immutable messages; every reply is a promise that streams."""

from miniagents.chat_history import ChatHistory, InMemoryChatHistory
from miniagents.errors import (
    AppenderClosedError,
    CyclicValueError,
    DeadlockError,
    FreezeError,
    LLMError,
    MiniAgentsError,
    MissingExtraError,
    NoActiveContextError,
    PromiseCancelledError,
    StopDialog,
)
from miniagents.messages import (
    AssistantMessage,
    ErrorMessage,
    Message,
    MessagePromise,
    MessageSequence,
    MessageSequencePromise,
    MessageType,
    SystemMessage,
    ToolCall,
    Usage,
    UserMessage,
)
from miniagents.miniagents import AgentCall, InteractionContext, MiniAgent, MiniAgents, miniagent
from miniagents.promising.context import PromisingContext
from miniagents.promising.frozen import Frozen, FrozenDict
from miniagents.promising.promise import Promise
from miniagents.promising.sequence import FlatSequence
from miniagents.promising.streamed import StreamAppender, StreamedPromise
from miniagents.text import join_messages, split_messages
from miniagents.utils import AWAIT, CLEAR, achain_loop, adialog_loop

__all__ = [
    "AWAIT",
    "CLEAR",
    "AgentCall",
    "AppenderClosedError",
    "AssistantMessage",
    "ChatHistory",
    "CyclicValueError",
    "DeadlockError",
    "ErrorMessage",
    "FlatSequence",
    "FreezeError",
    "Frozen",
    "FrozenDict",
    "InMemoryChatHistory",
    "InteractionContext",
    "LLMError",
    "Message",
    "MessagePromise",
    "MessageSequence",
    "MessageSequencePromise",
    "MessageType",
    "MiniAgent",
    "MiniAgents",
    "MiniAgentsError",
    "MissingExtraError",
    "NoActiveContextError",
    "Promise",
    "PromiseCancelledError",
    "PromisingContext",
    "StopDialog",
    "StreamAppender",
    "StreamedPromise",
    "SystemMessage",
    "ToolCall",
    "Usage",
    "UserMessage",
    "achain_loop",
    "adialog_loop",
    "join_messages",
    "miniagent",
    "split_messages",
]
