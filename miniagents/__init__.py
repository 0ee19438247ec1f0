"""MiniAgents: plain async functions that send each other immutable messages; every reply is a promise that streams."""

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
from miniagents.text import join_messages

__all__ = [
    "AgentCall",
    "AppenderClosedError",
    "AssistantMessage",
    "CyclicValueError",
    "DeadlockError",
    "ErrorMessage",
    "FlatSequence",
    "FreezeError",
    "Frozen",
    "FrozenDict",
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
    "join_messages",
    "miniagent",
]
