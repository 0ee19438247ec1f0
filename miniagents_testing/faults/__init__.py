"""Faults between a provider and a reader: small objects that change the responses of any transport.

```python
with faults.inject(transport, faults.cut(after=3)) as transport:     # any httpx2 transport: a script, a cassette
    client = AsyncOpenAI(http_client=httpx2.AsyncClient(transport=transport))
    ...
```

Several faults change the same response one after the other, the first one nearest to the provider. Each fault applies
to the first request; `.on(...)` selects other requests. A fault that changed nothing fails the test. A fault can also
be called with a `ResponseStream`, and returns the changed one.

Places are counted in events, as a decoder delivers them, or in the unit of `of=`: `chunks` as they were read, or
`bytes`. `after=3` is right after the third unit; `at=3` is the third unit itself.
"""

from __future__ import annotations

from miniagents_testing.faults._base import Fault, FaultyTransport, Unit, every_request, inject, laid_over
from miniagents_testing.faults._kinds import (
    content_type,
    cut,
    drop,
    drop_last_event,
    duplicate,
    edit,
    empty,
    error_event,
    error_status,
    gzipped,
    html_page,
    malformed,
    overloaded,
    rate_limit,
    refuse,
    reset,
    respond,
    stall,
    swap,
)

__all__ = [
    "Fault",
    "FaultyTransport",
    "Unit",
    "content_type",
    "cut",
    "drop",
    "drop_last_event",
    "duplicate",
    "edit",
    "empty",
    "error_event",
    "error_status",
    "every_request",
    "gzipped",
    "html_page",
    "inject",
    "laid_over",
    "malformed",
    "overloaded",
    "rate_limit",
    "refuse",
    "reset",
    "respond",
    "stall",
    "swap",
]
