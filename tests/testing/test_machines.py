"""The state machines find planted defects, and show the steps that lead to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from common import QuietHistory
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from state_machines import history_machine, promise_machine, sequence_machine

from miniagents import InMemoryChatHistory, Message, MessagePromise, MessageSequence
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents_testing.strategies import sendables, texts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hypothesis.stateful import RuleBasedStateMachine


quick = settings(
    database=None,
    deadline=None,
    max_examples=5_000,  # the run ends at the first failure: this many only if there is none
    stateful_step_count=10,
    report_multiple_bugs=False,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def found(machine: type[RuleBasedStateMachine]) -> str:
    """Run a machine that must fail, and return its message."""
    with pytest.raises(AssertionError) as caught:
        run_state_machine_as_test(machine, settings=quick)
    return str(caught.value)


def test_promise_machine_finds_a_lost_empty_token() -> None:
    """The promise machine finds that a promise drops empty tokens, and its message names the tokens of a reader."""

    class Forgetful(MessagePromise):
        async def _read(self) -> AsyncIterator[str]:
            whole = super().__aiter__()
            async for token in whole:
                if token:
                    yield token

        def __aiter__(self) -> AsyncIterator[str]:
            return self._read()

    def make(*, message_token_streamer: Any, start_soon: bool) -> MessagePromise:
        return Forgetful(message_token_streamer, start_soon=start_soon)

    message = found(promise_machine(make, text=texts(max_size=1)))
    assert message.startswith(
        ("the tokens of a reader: expected ", "the tokens of a reader that stopped early: expected ")
    )


def test_promise_machine_finds_a_cancel_without_effect() -> None:
    """The promise machine fails for a promise whose `cancel()` does nothing."""

    class Endless(MessagePromise):
        def cancel(self) -> None:
            """Do nothing."""

    def make(*, message_token_streamer: Any, start_soon: bool) -> MessagePromise:
        return Endless(message_token_streamer, start_soon=start_soon)

    message = found(promise_machine(make))
    assert message.startswith(("the source is closed after cancel(): expected True", "the end of a reader: expected "))


def test_sequence_machine_finds_lost_nested_messages() -> None:
    """The sequence machine fails for a sequence that appends only the first message of a list."""

    class Shallow(MessageSequence):
        def append(self, messages: Any) -> Any:
            """Append only the first message of a list."""
            return super().append(messages[:1] if isinstance(messages, list) else messages)

    message = found(sequence_machine(Shallow, sent=sendables(errors=False, max_leaves=4)))
    assert message.startswith(("all messages of a reader: expected ", "the messages of a reader so far: expected "))


def test_sequence_machine_finds_items_out_of_order_that_are_held_up() -> None:
    """The sequence machine fails for a sequence whose `append_out_of_order` appends items in order."""

    class Ordered(MessageSequence):
        def append_out_of_order(self, item: Any) -> Any:
            """Append in order."""
            return self.append(item)

    message = found(sequence_machine(Ordered))
    assert message == "a reader has seen at once what was sent out of order: expected True, came False"


def test_history_machine_finds_a_missing_interrupted_mark() -> None:
    """The history machine fails for a history that loads an interrupted message as a complete one."""

    class Hiding(InMemoryChatHistory):
        async def aload_chat_history(self) -> tuple[Message, ...]:
            """Load the history without marks of interruption."""
            return tuple(
                message.model_copy(update={"interrupted": False}) if hasattr(message, "interrupted") else message
                for message in await super().aload_chat_history()
            )

    message = found(history_machine(lambda folder: Hiding(), reopens=False))
    assert message.startswith("the messages in the history: expected ")


def test_history_machine_finds_an_append_that_hides_a_failure() -> None:
    """The history machine fails for a history whose `aappend` hides the error of a failed message."""
    message = found(history_machine(lambda folder: QuietHistory(), reopens=False))
    assert message == "aappend() raised the error of a failed message: expected True, came False"


def test_history_machine_finds_a_history_that_forgets_its_file() -> None:
    """The history machine fails for a history that begins a new file for each object."""
    files = iter(range(1_000_000))
    message = found(history_machine(lambda folder: ChatHistoryMD(folder / f"{next(files)}.md")))
    assert message.startswith("the messages in the history: expected ")
