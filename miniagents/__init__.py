"""MiniAgents: plain async functions that send each other immutable messages; every reply is a promise that streams.

Each name below is imported from its module when the name is first used. So `import miniagents` itself takes almost no
time, and a program loads only the modules that it uses.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miniagents._agents.agent import MiniAgent, miniagent
    from miniagents._agents.interaction import AgentCall, InteractionContext
    from miniagents._agents.usage import Limits, UsageTotals
    from miniagents._promising.context import PromisingContext
    from miniagents._promising.freezing import FrozenDict
    from miniagents._promising.frozen import Frozen
    from miniagents._promising.promise import Promise
    from miniagents._promising.sequence import FlatSequence
    from miniagents._promising.streamed import StreamAppender, StreamedPromise
    from miniagents.chat_history import ChatHistory, InMemoryChatHistory
    from miniagents.errors import (
        AppenderClosedError,
        CyclicValueError,
        DeadlockError,
        FreezeError,
        LimitExceededError,
        LLMError,
        MiniAgentsError,
        MissingExtraError,
        NoActiveContextError,
        OutputInvalidError,
        PriceUnknownError,
        PromiseCancelledError,
        StopDialog,
        ToolError,
        TooManyRoundsError,
    )
    from miniagents.messages import (
        AnswerFinished,
        AnswerRestarted,
        Approval,
        AssistantMessage,
        ErrorMessage,
        Message,
        MessageEvent,
        MessagePromise,
        MessageSequence,
        MessageSequencePromise,
        MessageType,
        PendingApproval,
        ReasoningDelta,
        RefusalDelta,
        SystemMessage,
        TextDelta,
        ToolCall,
        ToolCallDelta,
        ToolCallReady,
        ToolMessage,
        Usage,
        UserMessage,
    )
    from miniagents.miniagents import MiniAgents
    from miniagents.tools import Tool, handoff, tool
    from miniagents.utils import AWAIT, CLEAR, achain_loop, adialog_loop, join_messages, split_messages

__all__ = [
    "AWAIT",
    "CLEAR",
    "AgentCall",
    "AnswerFinished",
    "AnswerRestarted",
    "AppenderClosedError",
    "Approval",
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
    "LimitExceededError",
    "Limits",
    "Message",
    "MessageEvent",
    "MessagePromise",
    "MessageSequence",
    "MessageSequencePromise",
    "MessageType",
    "MiniAgent",
    "MiniAgents",
    "MiniAgentsError",
    "MissingExtraError",
    "NoActiveContextError",
    "OutputInvalidError",
    "PendingApproval",
    "PriceUnknownError",
    "Promise",
    "PromiseCancelledError",
    "PromisingContext",
    "ReasoningDelta",
    "RefusalDelta",
    "StopDialog",
    "StreamAppender",
    "StreamedPromise",
    "SystemMessage",
    "TextDelta",
    "TooManyRoundsError",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolCallReady",
    "ToolError",
    "ToolMessage",
    "Usage",
    "UsageTotals",
    "UserMessage",
    "achain_loop",
    "adialog_loop",
    "handoff",
    "join_messages",
    "miniagent",
    "split_messages",
    "tool",
]

_NAMES_OF_MODULES = {
    "_agents.agent": ("MiniAgent", "miniagent"),
    "_agents.interaction": ("AgentCall", "InteractionContext"),
    "_agents.usage": ("Limits", "UsageTotals"),
    "chat_history": ("ChatHistory", "InMemoryChatHistory"),
    "errors": (
        "AppenderClosedError",
        "CyclicValueError",
        "DeadlockError",
        "FreezeError",
        "LLMError",
        "LimitExceededError",
        "MiniAgentsError",
        "MissingExtraError",
        "NoActiveContextError",
        "OutputInvalidError",
        "PriceUnknownError",
        "PromiseCancelledError",
        "StopDialog",
        "TooManyRoundsError",
        "ToolError",
    ),
    "messages": (
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
    ),
    "miniagents": ("MiniAgents",),
    "_promising.context": ("PromisingContext",),
    "_promising.freezing": ("FrozenDict",),
    "_promising.frozen": ("Frozen",),
    "_promising.promise": ("Promise",),
    "_promising.sequence": ("FlatSequence",),
    "_promising.streamed": ("StreamAppender", "StreamedPromise"),
    "tools": ("Tool", "handoff", "tool"),
    "utils": ("AWAIT", "CLEAR", "achain_loop", "adialog_loop", "join_messages", "split_messages"),
}
_MODULE_OF = {name: f"{__name__}.{module}" for module, names in _NAMES_OF_MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == "__version__":
        return import_module("importlib.metadata").version(__name__)  # slow to import, and rarely needed
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    """List the public names too that are not imported yet."""
    return sorted({*globals(), *__all__})
