"""Pictures of live runs: one HTML page with agents, requests and tokens over time.

```python
with picture("run.html"):
    MiniAgents().run(amain())
```

`miniagents-testing export` makes the same page of a cassette, and `pytest --miniagents-pictures=failed` of tests.
"""

from __future__ import annotations

from miniagents_testing._pictures.live import picture

__all__ = ["picture"]
