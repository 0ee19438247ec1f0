"""MiniAgents: plain async functions that send each other immutable messages; every reply is a promise that streams.

```python
from miniagents import MiniAgents, miniagent

@miniagent
async def greeter(ctx):
    async for promise in ctx.message_promises:
        ctx.reply(f"Hello, {await promise}!")

print(*MiniAgents().run_agent(greeter, ["Ann", "Bob"]))
```

An agent on a model: `create_openai_agent("gpt-4o")` of `miniagents.ext.llm.openai`, or `create_anthropic_agent(...)` of
`miniagents.ext.llm.anthropic`. In a running loop, write `async with MiniAgents():` and `await agent.trigger("Hi")`.

```text
agents      miniagent, MiniAgent, InteractionContext (its argument), AgentCall (messages one by one)
running     MiniAgents, PromisingContext, Limits, UsageTotals
messages    Message, UserMessage, SystemMessage, AssistantMessage, ToolMessage, ErrorMessage, Usage, ToolCall
sending     MessageType (what can be sent), MessageSequence, MessagePromise, MessageSequencePromise
events      MessageEvent: TextDelta, ReasoningDelta, RefusalDelta, ToolCallDelta, ToolCallReady, AnswerRestarted,
            AnswerFinished
tools       tool, handoff, Tool, PendingApproval, Approval
loops       adialog_loop, achain_loop, AWAIT, CLEAR; create_console_user_agent of miniagents.ext.console_user_agent
texts       join_messages, split_messages
histories   ChatHistory, InMemoryChatHistory; others in miniagents.ext
errors      MiniAgentsError: AppenderClosedError, CyclicValueError, DeadlockError, FreezeError, LimitExceededError,
            LLMError, MissingExtraError, NoActiveContextError, OutputInvalidError, PriceUnknownError,
            PromiseCancelledError, ToolError, TooManyRoundsError, UsageUnknownError; StopDialog (a signal)
beneath     Promise, StreamedPromise, StreamAppender, FlatSequence, Frozen, FrozenDict
```

`help(miniagents.MiniAgent)` says more of a name. Each name is imported from its module when a program first uses it.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

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
        UsageUnknownError,
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
    "UsageUnknownError",
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
        "UsageUnknownError",
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
    """Import a public name, or read `__version__`, when it is first used; raise `AttributeError` for other names."""
    if name == "__version__":
        return import_module("importlib.metadata").version(__name__)  # slow to import, and rarely needed
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    """List the public names too that are not imported yet.

    List none of them for `help(miniagents)`: it would print the help of every class, thousands of lines.
    """
    caller: FrameType | None = sys._getframe(1)
    while caller is not None and caller.f_globals.get("__name__") == "inspect":
        caller = caller.f_back
    if caller is not None and caller.f_globals.get("__name__") == "pydoc":
        return []
    return sorted({*globals(), *__all__})
