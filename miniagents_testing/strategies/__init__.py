"""Hypothesis strategies for all that an app on MiniAgents sends, stores and receives (extra `testing`).

```python
@given(strategies.messages())
def test_my_store_returns_each_message(message): ...
```

Strategies draw values, or plans of objects that need a run context, so that async tests on one loop can use them too.
Most arguments are keywords with the same meaning everywhere: `text` is a strategy for texts within the values,
`max_leaves` limits nested values. A wrong argument raises `ValueError` at the call. Failing examples shrink towards
plain values.
"""

from __future__ import annotations

from miniagents_testing._odd_texts import LOOKALIKES, MARKDOWN
from miniagents_testing.strategies._messages import (
    Boom,
    Sendable,
    delimiters,
    fences,
    leaves,
    messages,
    roles,
    sendables,
    texts,
    token_splits,
    values,
)
from miniagents_testing.strategies._streams import (
    cancellation_points,
    provider_streams,
    recuts,
    schedule_seeds,
    stream_faults,
)

__all__ = [
    "LOOKALIKES",
    "MARKDOWN",
    "Boom",
    "Sendable",
    "cancellation_points",
    "delimiters",
    "fences",
    "leaves",
    "messages",
    "provider_streams",
    "recuts",
    "roles",
    "schedule_seeds",
    "sendables",
    "stream_faults",
    "texts",
    "token_splits",
    "values",
]
