"""The scripted user: given lines, in a dialog with an agent."""

from __future__ import annotations

import pytest

from miniagents import AssistantMessage, InMemoryChatHistory, Message, MiniAgents, UserMessage, adialog_loop
from miniagents.errors import ProviderOverloadedError, StreamTruncatedError
from miniagents_testing import Failure, ScriptedLLM, Step, create_scripted_user
from miniagents_testing.errors import UnconsumedStepsError


async def test_scripted_user_says_one_line_in_each_turn() -> None:
    """A scripted user says a line a turn, the model gets the whole chat, and the last answer ends the dialog."""
    user = create_scripted_user(["Hi", UserMessage("What is a promise?", mood="curious")])
    llm = ScriptedLLM(["Hello!", "A message that is not finished yet."])
    async with MiniAgents():
        await adialog_loop(user, llm.agent())
    assert [str(message) for message in user.heard] == ["Hello!", "A message that is not finished yet."]
    assert [str(message) for message in llm.last_call.messages] == ["Hi", "Hello!", "What is a promise?"]
    user.assert_complete()
    llm.assert_complete()


async def test_scripted_user_keeps_the_chat_in_the_given_history() -> None:
    """The given history has the messages of both sides, with their classes and fields."""
    history = InMemoryChatHistory()
    user = create_scripted_user([UserMessage("Hi", mood="curious")], chat_history=history, alias="ANN")
    assert user.alias == "ANN"
    async with MiniAgents():
        await adialog_loop(user, ScriptedLLM("Hello!").agent())
    asked, answered = await history.aload_chat_history()
    assert asked == UserMessage("Hi", mood="curious")
    assert isinstance(answered, AssistantMessage)
    assert answered.content == "Hello!"


async def test_truncated_answer_ends_the_dialog_and_keeps_its_text() -> None:
    """A truncated answer raises its error, the received text is kept, and `assert_complete` lists the unsaid line."""
    history = InMemoryChatHistory()
    user = create_scripted_user(["Hi", "Go on"], chat_history=history)
    llm = ScriptedLLM(Step("one two three", after=2, then="truncate"))
    async with MiniAgents():
        with pytest.raises(StreamTruncatedError):
            await adialog_loop(user, llm.agent())
    assert [str(message) for message in await history.aload_chat_history()] == ["Hi", "one two"]
    with pytest.raises(UnconsumedStepsError) as caught:
        user.assert_complete()
    assert str(caught.value) == "the dialog ended before SCRIPTED_USER said 1 of 2 lines:\n  line 2: 'Go on'"


async def test_failure_of_the_model_ends_the_dialog() -> None:
    """A failure of the model raises its error out of the dialog, and the user heard nothing."""
    user = create_scripted_user(["Hi"])
    async with MiniAgents():
        with pytest.raises(ProviderOverloadedError):
            await adialog_loop(user, ScriptedLLM(Failure(529)).agent())
    assert user.heard == ()


def test_scripted_user_refuses_lines_of_other_types() -> None:
    """A line that is neither a text nor a message raises a `TypeError` at once."""
    create_scripted_user([Message("Hi")])
    with pytest.raises(TypeError, match="a line must be a text or a message, not 5"):
        create_scripted_user([5])  # type: ignore[list-item]  # wrong on purpose
