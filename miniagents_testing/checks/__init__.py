"""Conformance checks: rules that hold for every agent, message, splitter and history, also those of other authors.

```python
await check_llm_agent(make_agent)         # an agent on a model
await check_tool_loop(make_agent)         # an agent on a model, with tools
await check_output(make_agent)            # an agent on a model, with an output
await check_history(MyHistory)            # a chat history
check_message(MyMessage("text"))          # a message
await check_splitter(my_split)            # a function that splits messages
```

Each of these runs all checks of its kind; each check is a function as well. They need no pytest. They raise an
`AssertionError` that says which check failed, what was expected, what came, and how to repeat it. For pytest there are
classes to subclass in `miniagents_testing.checks.conformance`.
"""

from __future__ import annotations

from miniagents_testing.checks._agents import (
    check_agent,
    check_cancel_closes_source,
    check_output,
    check_reader_cancellation,
    check_rereading,
    check_stream_equals_resolved,
    check_tokens_before_completion,
    check_tool_cancellation,
    check_tool_errors,
    check_tool_loop,
    check_tool_order,
    check_usage,
)
from miniagents_testing.checks._histories import (
    check_crash_states,
    check_history,
    check_history_keeps_failed,
    check_history_passes_on,
    check_history_returns,
)
from miniagents_testing.checks._llm import (
    check_cancel_closes_response,
    check_chunk_invariance,
    check_dialects,
    check_errors_keep_text,
    check_live_tokens,
    check_llm_agent,
    check_scripted_answer,
    check_truncation,
)
from miniagents_testing.checks._messages import (
    check_copies,
    check_hash,
    check_immutable,
    check_join_split,
    check_message,
    check_message_class,
    check_split_ignores_cuts,
    check_split_keeps_text,
    check_splitter,
)
from miniagents_testing.errors import CheckFailedError

__all__ = [
    "CheckFailedError",
    "check_agent",
    "check_cancel_closes_response",
    "check_cancel_closes_source",
    "check_chunk_invariance",
    "check_copies",
    "check_crash_states",
    "check_dialects",
    "check_errors_keep_text",
    "check_hash",
    "check_history",
    "check_history_keeps_failed",
    "check_history_passes_on",
    "check_history_returns",
    "check_immutable",
    "check_join_split",
    "check_live_tokens",
    "check_llm_agent",
    "check_message",
    "check_message_class",
    "check_output",
    "check_reader_cancellation",
    "check_rereading",
    "check_scripted_answer",
    "check_split_ignores_cuts",
    "check_split_keeps_text",
    "check_splitter",
    "check_stream_equals_resolved",
    "check_tokens_before_completion",
    "check_tool_cancellation",
    "check_tool_errors",
    "check_tool_loop",
    "check_tool_order",
    "check_truncation",
    "check_usage",
]
