"""The scripted user: lines that are known beforehand, in a dialog with whoever answers."""

from __future__ import annotations

import pytest

from miniagents import AssistantMessage, InMemoryChatHistory, Message, MiniAgents, UserMessage, adialog_loop
from miniagents.errors import ProviderOverloadedError, StreamTruncatedError
from miniagents_testing import Failure, ScriptedLLM, Step, create_scripted_user
from miniagents_testing.errors import UnconsumedStepsError


async def test_a_dialog_is_held_line_by_line() -> None:
    """Each turn the model gets the whole chat; the loop ends when everything is said and answered."""
    user = create_scripted_user(["Hi", UserMessage("What is a promise?", mood="curious")])
    llm = ScriptedLLM(["Hello!", "A message that is not finished yet."])
    async with MiniAgents():
        await adialog_loop(user, llm.agent())
    assert [str(message) for message in user.heard] == ["Hello!", "A message that is not finished yet."]
    assert [str(message) for message in llm.last_call.messages] == ["Hi", "Hello!", "What is a promise?"]
    user.assert_complete()
    llm.assert_complete()


async def test_the_chat_is_kept_where_one_says() -> None:
    """With all that was said on both sides, as the objects that they were."""
    history = InMemoryChatHistory()
    user = create_scripted_user([UserMessage("Hi", mood="curious")], chat_history=history, alias="ANN")
    assert user.alias == "ANN"
    async with MiniAgents():
        await adialog_loop(user, ScriptedLLM("Hello!").agent())
    asked, answered = await history.aload_chat_history()
    assert asked == UserMessage("Hi", mood="curious")
    assert isinstance(answered, AssistantMessage)
    assert answered.content == "Hello!"


async def test_an_answer_that_breaks_off_ends_the_dialog() -> None:
    """As it does with a person: what came is kept, and the error is raised."""
    history = InMemoryChatHistory()
    user = create_scripted_user(["Hi", "Go on"], chat_history=history)
    llm = ScriptedLLM(Step("one two three", after=2, then="truncate"))
    async with MiniAgents():
        with pytest.raises(StreamTruncatedError):
            await adialog_loop(user, llm.agent())
    assert [str(message) for message in await history.aload_chat_history()] == ["Hi", "one two"]
    with pytest.raises(UnconsumedStepsError) as caught:
        user.assert_complete()
    assert str(caught.value) == "SCRIPTED_USER did not come to say 1 of 2 lines:\n  line 2: 'Go on'"


async def test_a_failure_reaches_the_loop() -> None:
    """Nothing of it is heard."""
    user = create_scripted_user(["Hi"])
    async with MiniAgents():
        with pytest.raises(ProviderOverloadedError):
            await adialog_loop(user, ScriptedLLM(Failure(529)).agent())
    assert user.heard == ()


def test_a_line_is_a_text_or_a_message() -> None:
    """Anything else is refused at once."""
    create_scripted_user([Message("Hi")])
    with pytest.raises(TypeError, match="a line is a text or a message, not 5"):
        create_scripted_user([5])  # type: ignore[list-item]  # wrong on purpose
