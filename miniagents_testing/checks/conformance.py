"""Test classes for the checks: a subclass makes the object to check, and pytest finds a test for each check.

```python
class TestMyAgent(LLMAgentConformance):
    def make_agent(self, transport):
        client = AsyncOpenAI(api_key="none", http_client=httpx2.AsyncClient(transport=transport))
        return create_openai_agent("any", async_client=client, retry=None)
```

The classes need neither pytest nor a plugin: their tests are plain methods, which run an event loop of their own.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from miniagents_testing import checks

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    import httpx2

    from miniagents import ChatHistory, Message, MessageType, MiniAgent
    from miniagents_testing._script import API

__all__ = [
    "AgentConformance",
    "HistoryConformance",
    "LLMAgentConformance",
    "MessageConformance",
    "OutputConformance",
    "SplitterConformance",
    "ToolLoopConformance",
]


class _Conformance:
    """Base of the test classes: `run` runs the coroutine of a check."""

    def run(self, check: Coroutine[Any, Any, None]) -> None:
        """Run a check. Override it to use another event loop, for example in virtual time."""
        asyncio.run(check)


class AgentConformance(_Conformance, ABC):
    """Tests of any agent that replies at least one message, and streams it."""

    messages: ClassVar[MessageType] = "Hello"
    """Messages that are sent to the agent."""

    @abstractmethod
    def make_agent(self) -> MiniAgent[Any]:
        """Return the agent to test."""

    def test_stream_equals_resolved(self) -> None:
        """Check that the tokens of each reply join to the text of its message."""
        self.run(checks.check_stream_equals_resolved(self.make_agent(), self.messages))

    def test_rereading(self) -> None:
        """Check that every reader of a reply gets the same tokens."""
        self.run(checks.check_rereading(self.make_agent(), self.messages))

    def test_tokens_before_completion(self) -> None:
        """Check that the first token of a reply can be read while the message is not complete."""
        self.run(checks.check_tokens_before_completion(self.make_agent(), self.messages))

    def test_reader_cancellation(self) -> None:
        """Check that a cancelled reader takes nothing from other readers."""
        self.run(checks.check_reader_cancellation(self.make_agent(), self.messages))


class LLMAgentConformance(_Conformance, ABC):
    """Tests of an agent that answers with a model, on a transport of the checks."""

    api: ClassVar[API] = "chat"
    """API of the agent: "chat", "responses" or "messages"."""

    @abstractmethod
    def make_agent(self, transport: httpx2.AsyncBaseTransport) -> MiniAgent[Any]:
        """Return the agent to test, on a client that uses this transport, and without retries."""

    def test_scripted_answer(self) -> None:
        """Run the checks of any agent, and that of its usage, on a scripted answer."""
        self.run(checks.check_scripted_answer(self.make_agent, api=self.api))

    def test_live_tokens(self) -> None:
        """Check that received tokens can be read while the provider sends nothing more."""
        self.run(checks.check_live_tokens(self.make_agent, api=self.api))

    def test_chunk_invariance(self) -> None:
        """Check that the message does not depend on where the network cuts the bytes."""
        self.run(checks.check_chunk_invariance(self.make_agent, api=self.api))

    def test_truncation(self) -> None:
        """Check that a truncated answer is an error, with the received text."""
        self.run(checks.check_truncation(self.make_agent, api=self.api))

    def test_dialects(self) -> None:
        """Check that an answer is right in each variant of the API."""
        self.run(checks.check_dialects(self.make_agent, api=self.api))

    def test_errors_keep_text(self) -> None:
        """Check that errors keep the received text."""
        self.run(checks.check_errors_keep_text(self.make_agent, api=self.api))

    def test_cancel_closes_response(self) -> None:
        """Check that cancelling the reply closes the response."""
        self.run(checks.check_cancel_closes_response(self.make_agent, api=self.api))


class ToolLoopConformance(_Conformance, ABC):
    """Tests of an agent on a model that calls tools, on a transport of the checks."""

    api: ClassVar[API] = "chat"
    """API of the agent: "chat", "responses" or "messages"."""

    @abstractmethod
    def make_agent(self, transport: httpx2.AsyncBaseTransport, *, tools: list[Any]) -> MiniAgent[Any]:
        """Return the agent to test with these tools, on a client that uses this transport, and without retries."""

    def test_order(self) -> None:
        """Check that calls run in parallel, and that results keep the order of calls."""
        self.run(checks.check_tool_order(self.make_agent, api=self.api))

    def test_errors(self) -> None:
        """Check that errors of tools become results."""
        self.run(checks.check_tool_errors(self.make_agent, api=self.api))

    def test_cancellation(self) -> None:
        """Check that a cancelled loop stops its tools, and that each call has a result in the next request."""
        self.run(checks.check_tool_cancellation(self.make_agent, api=self.api))


class OutputConformance(_Conformance, ABC):
    """Tests of an agent whose model answers with data of a type (structured output), on a transport of the checks."""

    api: ClassVar[API] = "chat"
    """API of the agent: "chat", "responses" or "messages"."""

    @abstractmethod
    def make_agent(
        self, transport: httpx2.AsyncBaseTransport, *, output: Any, output_mode: Literal["schema", "tool"]
    ) -> MiniAgent[Any]:
        """Return the agent to test with this output, on a client that uses this transport, and without retries."""

    def test_outputs(self) -> None:
        """Check that valid outputs are parsed, and that every other answer is an `OutputInvalidError`."""
        self.run(checks.check_output(self.make_agent, api=self.api))


class HistoryConformance(_Conformance, ABC):
    """Tests of a chat history."""

    reopens: ClassVar[bool] = True
    """True if a second history in the same folder loads the messages of the first; False for one in memory."""
    in_files: ClassVar[bool] = False
    """True if the history appends to files in the folder, so that files of a killed process can be tried."""

    @abstractmethod
    def make_history(self, folder: Path) -> ChatHistory:
        """Return a history that keeps its files, if any, in this folder."""

    def test_returns(self) -> None:
        """Check that messages are loaded unchanged and in order."""
        self.run(checks.check_history_returns(self.make_history, reopens=self.reopens))

    def test_keeps_failed(self) -> None:
        """Check that the received part of a failed message is stored, and marked as interrupted."""
        self.run(checks.check_history_keeps_failed(self.make_history, reopens=self.reopens))

    def test_passes_on(self) -> None:
        """Check that the logging agent replies its messages while they stream."""
        self.run(checks.check_history_passes_on(self.make_history))

    def test_crash_states(self) -> None:
        """Check that a truncated file loses at most the message that was being written."""
        if self.in_files:
            self.run(checks.check_crash_states(self.make_history))


class MessageConformance(ABC):
    """Tests of a class of messages."""

    @abstractmethod
    def make_message(self) -> Message:
        """Return a message of the class, with a value in each of its fields."""

    def test_immutable(self) -> None:
        """Check that the message is immutable at any depth."""
        checks.check_immutable(self.make_message())

    def test_hash(self) -> None:
        """Check that hash and equality depend on class and content."""
        checks.check_hash(self.make_message())

    def test_copies(self) -> None:
        """Check that copies and loaded dumps are equal to the message."""
        checks.check_copies(self.make_message())


class SplitterConformance(_Conformance):
    """Tests of a function that splits messages while they stream."""

    delimiter: ClassVar[str] = "\n\n"
    split: ClassVar[Callable[..., Any]]
    """Function of a message promise and the delimiter; in the class, write `split = staticmethod(my_split)`."""

    def test_splitting(self) -> None:
        """Check that the parts of a text do not depend on its tokens, and that no text is lost."""
        self.run(checks.check_splitter(self.split, delimiter=self.delimiter))
