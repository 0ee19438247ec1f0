"""The person at the console: what is shown, what is asked, what is replied, and how it ends."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import common
import pytest

from miniagents.chat_history import ChatHistory, InMemoryChatHistory
from miniagents.errors import HistoryWriteError, StopDialog, StreamTruncatedError
from miniagents.ext.console_user_agent import create_console_user_agent
from miniagents.messages import AssistantMessage, ErrorMessage, Message, UserMessage
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from miniagents.messages import MessageType


streamed = partial(common.streamed, message_class=AssistantMessage)


@pytest.fixture(autouse=True)
async def _agents() -> AsyncIterator[None]:
    async with MiniAgents():
        yield


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a text in the place of stdin."""
    return lambda text: monkeypatch.setattr(sys, "stdin", io.StringIO(text))


async def test_a_line_is_asked_for_and_the_whole_chat_replied(
    typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """What is typed is stored as the user's, and each reply has everything that was said so far."""
    typed("Hello!\nAnd now?\n")
    history = InMemoryChatHistory()
    agent = create_console_user_agent(chat_history=history)
    assert await agent.trigger() == (UserMessage("Hello!"),)
    said = (UserMessage("Hello!"), AssistantMessage("Hi."), UserMessage("And now?"))
    assert await agent.trigger(streamed("H", "i.")) == said
    assert await history.aload_chat_history() == said
    assert capsys.readouterr().out == "\nUSER: Hello!\n\nASSISTANT: Hi.\n\nUSER: And now?\n"


async def test_a_chat_that_is_taken_up_again_is_replied_as_a_whole(typed: Callable[[str], None]) -> None:
    """A history with something in it is the beginning of the chat."""
    history = InMemoryChatHistory()
    await history.aappend([UserMessage("before"), AssistantMessage("yes")])
    typed("after\n")
    replied = await create_console_user_agent(history).trigger()
    assert [str(message) for message in replied] == ["before", "yes", "after"]


async def test_agents_without_a_history_have_one_each(typed: Callable[[str], None]) -> None:
    """Two agents made without a history share nothing."""
    typed("one\ntwo\n")
    assert await create_console_user_agent().trigger() == (UserMessage("one"),)
    assert await create_console_user_agent().trigger() == (UserMessage("two"),)


async def test_tokens_are_printed_as_they_arrive(
    typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each token is on the screen before the next one exists."""
    seen = []

    async def streamer(_: dict[str, Any]) -> AsyncIterator[str]:
        for token in ("one ", "two ", "three"):
            yield token
            for _i in range(5):
                await asyncio.sleep(0)
            seen.append(capsys.readouterr().out)

    typed("thanks\n")
    await create_console_user_agent().trigger(AssistantMessage.promise(message_token_streamer=streamer))
    assert seen == ["\nASSISTANT: one ", "two ", "three"]


@pytest.mark.parametrize("line", ["exit", " EXIT \n", "exit\r\n", "", "\n\n"], ids=repr)
async def test_exit_and_the_end_of_input_stop_the_dialog(line: str, typed: Callable[[str], None]) -> None:
    """The word and the end of what is piped in raise `StopDialog`; the word is not said to the assistant."""
    typed(line)
    history = InMemoryChatHistory()
    with pytest.raises(StopDialog):
        await create_console_user_agent(history).trigger()
    assert await history.aload_chat_history() == ()


async def test_an_empty_line_is_asked_for_again(
    typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Enter alone says nothing to anybody."""
    typed("\n   \nexit now\n")
    assert await create_console_user_agent().trigger() == (UserMessage("exit now"),)
    assert capsys.readouterr().out.count("USER: ") == 3


async def test_the_last_line_of_piped_input_needs_no_end(typed: Callable[[str], None]) -> None:
    """A file that does not end in a newline says its last line, and then the dialog stops."""
    typed("one\ntwo")
    agent = create_console_user_agent()
    assert len(await agent.trigger()) == 1
    assert len(await agent.trigger()) == 2
    with pytest.raises(StopDialog):
        await agent.trigger()


async def test_what_a_terminal_would_obey_is_shown(
    typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Escapes in tokens (also cut in two), in roles, in errors, and in piped input reach no terminal."""
    typed("\x1b[2Jhello\n")
    messages: list[MessageType] = [
        streamed("a\x1b", "]0;title\x07b\r", "\nc"),
        Message("x", role="\x9b2Jro\nle"),
        ErrorMessage("ValueError: \x1b[31mred"),
    ]
    await create_console_user_agent().trigger(messages)
    out = capsys.readouterr().out
    assert r"ASSISTANT: a\x1b]0;title\x07b" + "\nc\n" in out
    assert r"\X9B2JRO\X0ALE: x" in out or r"\x9b2JRO\x0aLE: x" in out
    assert r"ERROR: ValueError: \x1b[31mred" in out
    assert r"USER: \x1b[2Jhello" in out
    assert not [char for char in out if (char < " " and char != "\n") or "\x7f" <= char < "\xa0"]


@pytest.mark.parametrize(
    ("messages", "shown"),
    [
        (Message("no role"), "\nASSISTANT: no role\n"),
        ({"content": "x", "role": "critic"}, "\nCRITIC: x\n"),
        (UserMessage("from another person"), "\nUSER: from another person\n"),
        (["one", AssistantMessage("two")], "\nASSISTANT: one\n\nASSISTANT: two\n"),
        ("", "\nASSISTANT: \n"),
        ({"answer": 42}, '\nASSISTANT: {"answer":42}\n'),
        ([], ""),
        (AssistantMessage("", refusal="I won't."), "\nASSISTANT: \nI won't.\n"),
        (AssistantMessage("I won't.", refusal="I won't."), "\nASSISTANT: I won't.\n"),
        (
            AssistantMessage("half", finish_reason="length"),
            "\nASSISTANT: half\n[the answer was cut at the token limit]\n",
        ),
        (AssistantMessage("whole", finish_reason="stop"), "\nASSISTANT: whole\n"),
        (ErrorMessage("ValueError: boom"), "\nERROR: ValueError: boom\n"),
    ],
    ids=repr,
)
async def test_any_message_is_shown_readably(
    messages: MessageType, shown: str, typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """No metadata is needed; errors, refusals and cut answers are told apart; fields alone are shown as JSON."""
    typed("ok\n")
    await create_console_user_agent().trigger(messages)
    assert capsys.readouterr().out == shown + "\nUSER: ok\n"


async def test_a_reply_that_fails_is_shown_as_far_as_it_came(
    typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The tokens before an error are shown and stored, what follows too; nothing is asked, and the error is raised."""
    typed("never read\n")
    history = InMemoryChatHistory()
    agent = create_console_user_agent(history)
    with pytest.raises(StreamTruncatedError, match="cut"):
        await agent.trigger([streamed("half an ans", error=StreamTruncatedError("cut")), "after", ValueError("later")])
    assert capsys.readouterr().out == "\nASSISTANT: half an ans\n\nASSISTANT: after\n"
    stored = await history.aload_chat_history()
    assert [(str(message), getattr(message, "interrupted", False)) for message in stored] == [
        ("half an ans", True),
        ("after", False),
    ]


async def test_a_stop_of_the_assistant_stops_the_dialog(typed: Callable[[str], None]) -> None:
    """`StopDialog` from the other side is passed on when everything was said."""
    typed("never read\n")
    with pytest.raises(StopDialog):
        await create_console_user_agent().trigger(["bye", StopDialog()])


class FullDisk(ChatHistory):
    """A history that cannot be written, but remembers."""

    def __init__(self) -> None:
        self.memory = InMemoryChatHistory()

    async def aload_chat_history(self) -> tuple[Message, ...]:
        """What is remembered."""
        return await self.memory.aload_chat_history()

    async def aappend(self, messages: MessageType) -> None:
        """Remember, and complain."""
        await self.memory.aappend(messages)
        raise HistoryWriteError("disk \x1b full")


async def test_a_history_that_cannot_be_written_does_not_end_the_chat(
    typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The person sees what is wrong, and the chat goes on from memory."""
    typed("hello\n")
    replied = await create_console_user_agent(FullDisk()).trigger("hi")
    assert [str(message) for message in replied] == ["hi", "hello"]
    out = capsys.readouterr().out
    assert out.count(r"ERROR: HistoryWriteError: disk \x1b full") == 2


async def test_an_output_that_cannot_hold_a_character_shows_its_code(
    typed: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A console in a small encoding shows escapes instead of failing."""
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    typed("ok\n")
    await create_console_user_agent().trigger("caf\u00e9 \u65e5 \U0001f600")
    assert rb"ASSISTANT: caf\xe9 \u65e5 \U0001f600" in stdout.buffer.getvalue()


async def test_without_a_console_nothing_is_printed(
    typed: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program without stdout and stdin (pythonw) is not broken by that."""
    monkeypatch.setattr(sys, "stdout", None)
    typed("ok\n")
    assert len(await create_console_user_agent().trigger("hi")) == 2
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(StopDialog):
        await create_console_user_agent().trigger("hi")


async def test_bytes_typed_in_another_encoding_can_be_sent(typed: Callable[[str], None]) -> None:
    """What Python's own stdin smuggles through as surrogates becomes the replacement character."""
    typed("caf\udce9\n")
    assert await create_console_user_agent().trigger() == (UserMessage("caf\ufffd"),)


def test_alias_and_description() -> None:
    """The agent is named as asked, and unknown arguments are refused at once."""
    assert create_console_user_agent().alias == "USER_AGENT"
    agent = create_console_user_agent(alias="ME", description="me")
    assert (agent.alias, agent.description) == ("ME", "me")
    with pytest.raises(TypeError):
        create_console_user_agent(no_such_argument=1)


def test_making_an_agent_imports_no_editor() -> None:
    """prompt-toolkit is loaded when a person is asked at a terminal, and not before."""
    program = (
        "import sys\nfrom miniagents.ext.console_user_agent import create_console_user_agent\n"
        "create_console_user_agent()\nassert 'prompt_toolkit' not in sys.modules\n"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", program]) == 0
