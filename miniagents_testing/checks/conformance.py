"""The checks as classes of tests, for those who like to subclass: pytest finds each check by itself.

```python
class TestMyAgent(LLMAgentConformance):
    def make_agent(self, transport):
        client = AsyncOpenAI(api_key="none", http_client=httpx2.AsyncClient(transport=transport))
        return create_openai_agent("any", async_client=client, retry=None)
```

Nothing here needs pytest or one of its plugins: the tests are plain methods that run a loop of their own.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from miniagents_testing import checks

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    import httpx2

    from miniagents import ChatHistory, Message, MessageType, MiniAgent
    from miniagents_testing._script import API

__all__ = ["AgentConformance", "HistoryConformance", "LLMAgentConformance", "MessageConformance", "SplitterConformance"]


class _Conformance:
    def run(self, check: Coroutine[Any, Any, None]) -> None:
        """Run a check; override it to use another event loop, for one in virtual time."""
        asyncio.run(check)


class AgentConformance(_Conformance, ABC):
    """Tests of any agent that replies at least one message, and streams it."""

    messages: ClassVar[MessageType] = "Hello"
    """What it is sent."""

    @abstractmethod
    def make_agent(self) -> MiniAgent[Any]:
        """The agent."""

    def test_stream_equals_resolved(self) -> None:
        """The tokens of each reply, put together, are the text of its message."""
        self.run(checks.check_stream_equals_resolved(self.make_agent(), self.messages))

    def test_rereading(self) -> None:
        """Every reader of a reply sees the same tokens."""
        self.run(checks.check_rereading(self.make_agent(), self.messages))

    def test_tokens_before_completion(self) -> None:
        """The first token of a reply can be read while the message is not complete."""
        self.run(checks.check_tokens_before_completion(self.make_agent(), self.messages))

    def test_reader_cancellation(self) -> None:
        """A reader that is cancelled takes nothing from anybody else."""
        self.run(checks.check_reader_cancellation(self.make_agent(), self.messages))


class LLMAgentConformance(_Conformance, ABC):
    """Tests of an agent that answers with a model, on a transport of ours."""

    api: ClassVar[API] = "chat"
    """What it speaks: "chat", "responses" or "messages"."""

    @abstractmethod
    def make_agent(self, transport: httpx2.AsyncBaseTransport) -> MiniAgent[Any]:
        """The agent, on a client that sends its requests to this transport, and without retries."""

    def test_scripted_answer(self) -> None:
        """What holds for every agent, and the number of tokens it took."""
        self.run(checks.check_scripted_answer(self.make_agent, api=self.api))

    def test_live_tokens(self) -> None:
        """Whatever the provider has sent can be read, though it sends nothing more."""
        self.run(checks.check_live_tokens(self.make_agent, api=self.api))

    def test_chunk_invariance(self) -> None:
        """The message is the same wherever the network cuts the bytes."""
        self.run(checks.check_chunk_invariance(self.make_agent, api=self.api))

    def test_truncation(self) -> None:
        """An answer that breaks off is an error, with the text that had come."""
        self.run(checks.check_truncation(self.make_agent, api=self.api))

    def test_dialects(self) -> None:
        """An answer is understood in every form in which it is sent."""
        self.run(checks.check_dialects(self.make_agent, api=self.api))

    def test_errors_keep_text(self) -> None:
        """What goes wrong in the middle keeps what had come."""
        self.run(checks.check_errors_keep_text(self.make_agent, api=self.api))

    def test_cancel_closes_response(self) -> None:
        """Cancelling the reply closes the response."""
        self.run(checks.check_cancel_closes_response(self.make_agent, api=self.api))


class HistoryConformance(_Conformance, ABC):
    """Tests of a chat history."""

    reopens: ClassVar[bool] = True
    """Whether a second history in the same folder has the messages of the first; not of one that lives in memory."""
    in_files: ClassVar[bool] = False
    """Whether it appends to files in the folder, so that what a killed process leaves of them can be tried."""

    @abstractmethod
    def make_history(self, folder: Path) -> ChatHistory:
        """A history that keeps its files, if it has any, in this folder."""

    def test_returns(self) -> None:
        """Messages come out equal, in their order."""
        self.run(checks.check_history_returns(self.make_history, reopens=self.reopens))

    def test_keeps_failed(self) -> None:
        """A message that fails is stored as far as it came."""
        self.run(checks.check_history_keeps_failed(self.make_history, reopens=self.reopens))

    def test_passes_on(self) -> None:
        """The logging agent replies what it is sent while it streams."""
        self.run(checks.check_history_passes_on(self.make_history))

    def test_crash_states(self) -> None:
        """A file that ends anywhere costs at most the message that was being written."""
        if self.in_files:
            self.run(checks.check_crash_states(self.make_history))


class MessageConformance(ABC):
    """Tests of a class of messages."""

    @abstractmethod
    def make_message(self) -> Message:
        """A message of the class, with a value in each of its fields."""

    def test_immutable(self) -> None:
        """Nothing in it can be changed."""
        checks.check_immutable(self.make_message())

    def test_hash(self) -> None:
        """Hash and equality go by class and content."""
        checks.check_hash(self.make_message())

    def test_copies(self) -> None:
        """Copies and dumps come back equal."""
        checks.check_copies(self.make_message())


class SplitterConformance(_Conformance):
    """Tests of what splits messages while they stream."""

    delimiter: ClassVar[str] = "\n\n"
    split: ClassVar[Callable[..., Any]]
    """Called with a message promise and the delimiter; in the class, write `split = staticmethod(my_split)`."""

    def test_splitting(self) -> None:
        """The parts of a text are the same however it arrives, and nothing of it is lost."""
        self.run(checks.check_splitter(self.split, delimiter=self.delimiter))
