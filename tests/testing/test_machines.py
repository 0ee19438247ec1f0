"""The state machines on what has a defect: each finds it, and shows the program that does."""

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
    max_examples=200,
    stateful_step_count=10,
    report_multiple_bugs=False,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def found(machine: type[RuleBasedStateMachine]) -> str:
    """What a machine says that must find something."""
    with pytest.raises(AssertionError) as caught:
        run_state_machine_as_test(machine, settings=quick)
    return str(caught.value)


def test_a_promise_that_forgets_a_token() -> None:
    """Empty tokens are tokens too."""

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

    said = found(promise_machine(make, text=texts(max_size=1)))
    assert said.startswith(("the tokens that a reader saw: expected ", "what a reader saw that left early: expected "))


def test_a_promise_that_cannot_be_stopped() -> None:
    """Whose `cancel()` does nothing."""

    class Endless(MessagePromise):
        def cancel(self) -> None:
            """Go on."""

    def make(*, message_token_streamer: Any, start_soon: bool) -> MessagePromise:
        return Endless(message_token_streamer, start_soon=start_soon)

    said = found(promise_machine(make))
    assert said.startswith(("whether cancel() closed the source: expected True", "what became of a reader: expected "))


def test_a_sequence_that_loses_something() -> None:
    """Of what it is sent, nothing that is nested."""

    class Shallow(MessageSequence):
        def append(self, messages: Any) -> Any:
            """Take only the first of a list."""
            return super().append(messages[:1] if isinstance(messages, list) else messages)

    said = found(sequence_machine(Shallow, sent=sendables(errors=False, max_leaves=4)))
    assert said.startswith(("all that a reader saw: expected ", "what a reader saw so far: expected "))


def test_a_history_that_hides_what_failed() -> None:
    """It stores half a message as a whole one."""

    class Hiding(InMemoryChatHistory):
        async def aload_chat_history(self) -> tuple[Message, ...]:
            """Nothing is marked."""
            return tuple(
                message.model_copy(update={"interrupted": False}) if hasattr(message, "interrupted") else message
                for message in await super().aload_chat_history()
            )

    said = found(history_machine(lambda folder: Hiding(), reopens=False))
    assert said.startswith("the messages in the history: expected ")


def test_a_history_that_is_quiet_about_failures() -> None:
    """Its `aappend` raises nothing."""
    said = found(history_machine(lambda folder: QuietHistory(), reopens=False))
    assert said == "whether aappend() raised what a message failed with: expected True, came False"


def test_a_history_that_does_not_find_its_file_again() -> None:
    """Each object begins anew."""
    files = iter(range(1_000_000))
    said = found(history_machine(lambda folder: ChatHistoryMD(folder / f"{next(files)}.md")))
    assert said.startswith("the messages in the history: expected ")
