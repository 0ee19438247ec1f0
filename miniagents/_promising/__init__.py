"""Room 1, the engine: tasks, promises, streams, freezing. It knows no message and no LLM."""
