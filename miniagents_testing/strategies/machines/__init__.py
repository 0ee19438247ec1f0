"""State machines: anything that can be done to a promise, a sequence or a history, in any order, beside a plain model.

Each function gives a Hypothesis state machine for an implementation:

```python
TestMyHistory = history_machine(MyHistory).TestCase                     # pytest collects it
run_state_machine_as_test(history_machine(MyHistory))                   # or run it anywhere
```

A failing run is shown as the program that fails, made as short as Hypothesis can.
"""

from __future__ import annotations

from miniagents_testing.strategies.machines.histories import history_machine
from miniagents_testing.strategies.machines.promises import promise_machine
from miniagents_testing.strategies.machines.sequences import sequence_machine

__all__ = ["history_machine", "promise_machine", "sequence_machine"]
