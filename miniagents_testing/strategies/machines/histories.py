"""The machine for chat histories."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from miniagents import AssistantMessage, Message
from miniagents_testing.strategies._messages import messages
from miniagents_testing.strategies._sequences import Boom
from miniagents_testing.strategies._texts import texts
from miniagents_testing.strategies.machines.loop import LoopMachine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from miniagents import ChatHistory

__all__ = ["history_machine"]


def history_machine(
    make_history: Callable[[Path], ChatHistory],
    *,
    reopens: bool = True,
    message: st.SearchStrategy[Message] | None = None,
) -> type[RuleBasedStateMachine]:
    """Messages are appended whole, together, streaming and failing; what is loaded is always what was appended.

    Args:
        make_history: makes a history in a folder. The same folder again must give a history with the same messages.
        reopens: whether it does; False for a history that lives in memory.
        message: the messages.
    """
    any_message = messages() if message is None else message
    tokens = st.lists(texts(max_size=2), max_size=3)

    class HistoryMachine(LoopMachine):
        def __init__(self) -> None:
            super().__init__()
            self.folder = Path(tempfile.mkdtemp(prefix="history-"))
            self.history = make_history(self.folder)
            self.expected: list[Message] = []

        @rule(message=any_message)
        def append(self, message: Message) -> None:
            self.run(self.history.aappend(message))
            self.expected.append(message)

        @rule(messages=st.lists(any_message, max_size=3))
        def append_several(self, messages: list[Message]) -> None:
            self.run(self.history.aappend(messages))
            self.expected += messages

        @rule(tokens=tokens)
        def append_stream(self, tokens: list[str]) -> None:
            self.run(self.append_tokens(tokens, None))
            self.expected.append(AssistantMessage("".join(tokens)))

        @rule(tokens=tokens)
        def append_failing_stream(self, tokens: list[str]) -> None:
            raised = False
            try:
                self.run(self.append_tokens(tokens, Boom()))
            except Boom:
                raised = True
            self.expect(raised, True, "whether aappend() raised what a message failed with")
            if "".join(tokens):
                self.expected.append(AssistantMessage("".join(tokens), interrupted=True))

        async def append_tokens(self, tokens: list[str], error: Exception | None) -> None:
            async def stream(metadata: dict[str, Any]) -> AsyncIterator[str]:
                for token in tokens:
                    await asyncio.sleep(0)
                    yield token
                if error is not None:
                    raise error

            await self.history.aappend(AssistantMessage.promise(message_token_streamer=stream))

        @precondition(lambda self: reopens)
        @rule()
        def reopen(self) -> None:
            self.history = make_history(self.folder)

        @rule()
        def load(self) -> None:
            loaded = self.run(self.history.aload_chat_history())
            self.expect(loaded, tuple(self.expected), "the messages in the history")

        def teardown(self) -> None:
            try:
                if not self.has_failed:
                    self.load()
            finally:
                super().teardown()
                shutil.rmtree(self.folder, ignore_errors=True)

    return HistoryMachine
