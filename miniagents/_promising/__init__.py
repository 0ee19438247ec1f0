"""The engine: tasks, promises, streams, sequences and frozen values. Independent of messages and models."""

import miniagents._promising.values  # noqa: F401 - with it, pydantic reads and dumps each `FrozenDict`
