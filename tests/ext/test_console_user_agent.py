"""Agent of the user at the console: its output, its prompts, its replies, and how a dialog ends."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import common
import pytest

from miniagents.chat_history import ChatHistory, InMemoryChatHistory
from miniagents.errors import HistoryWriteError, StopDialog, StreamTruncatedError
from miniagents.ext.console_user_agent import create_console_approver, create_console_user_agent
from miniagents.messages import AssistantMessage, ErrorMessage, Message, ToolCall, UserMessage
from miniagents.miniagents import MiniAgents
from miniagents.tools import tool
from miniagents_testing import Step, create_scripted_agent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from miniagents.messages import MessageType


streamed = partial(common.streamed, message_class=AssistantMessage)


@pytest.fixture(autouse=True)
async def _agents() -> AsyncIterator[None]:
    """Run each test in a context of agents."""
    async with MiniAgents():
        yield


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that replaces stdin with a text, as if the user had typed it."""
    return lambda text: monkeypatch.setattr(sys, "stdin", io.StringIO(text))


async def test_agent_asks_for_a_line_and_replies_the_whole_chat(
    typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The typed line is stored as a user's message, and each reply is the whole chat so far."""
    typed("Hello!\nAnd now?\n")
    history = InMemoryChatHistory()
    agent = create_console_user_agent(chat_history=history)
    assert await agent.trigger() == (UserMessage("Hello!"),)
    said = (UserMessage("Hello!"), AssistantMessage("Hi."), UserMessage("And now?"))
    assert await agent.trigger(streamed("H", "i.")) == said
    assert await history.aload_chat_history() == said
    assert capsys.readouterr().out == "\nUSER: Hello!\n\nASSISTANT: Hi.\n\nUSER: And now?\n"


async def test_agent_continues_the_chat_of_a_history(typed: Callable[[str], None]) -> None:
    """The agent replies the messages that its history already has, and then the message that the user types."""
    history = InMemoryChatHistory()
    await history.aappend([UserMessage("before"), AssistantMessage("yes")])
    typed("after\n")
    replied = await create_console_user_agent(history).trigger()
    assert [str(message) for message in replied] == ["before", "yes", "after"]


async def test_agents_made_without_a_history_share_none(typed: Callable[[str], None]) -> None:
    """Two agents made without a history do not see each other's messages."""
    typed("one\ntwo\n")
    assert await create_console_user_agent().trigger() == (UserMessage("one"),)
    assert await create_console_user_agent().trigger() == (UserMessage("two"),)


async def test_agent_prints_tokens_as_they_arrive(
    typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The console agent prints each token before the assistant makes the next one."""
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
async def test_exit_or_the_end_of_input_stops_the_dialog(line: str, typed: Callable[[str], None]) -> None:
    """The word "exit" and the end of piped input raise `StopDialog`; the word is not sent to the assistant."""
    typed(line)
    history = InMemoryChatHistory()
    with pytest.raises(StopDialog):
        await create_console_user_agent(history).trigger()
    assert await history.aload_chat_history() == ()


async def test_agent_asks_again_after_an_empty_line(
    typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The agent asks again after an empty line or a line of spaces, and does not send it."""
    typed("\n   \nexit now\n")
    assert await create_console_user_agent().trigger() == (UserMessage("exit now"),)
    assert capsys.readouterr().out.count("USER: ") == 3


async def test_agent_accepts_a_last_line_without_a_newline(typed: Callable[[str], None]) -> None:
    """A last line without a newline is a message, and then the dialog stops."""
    typed("one\ntwo")
    agent = create_console_user_agent()
    assert len(await agent.trigger()) == 1
    assert len(await agent.trigger()) == 2
    with pytest.raises(StopDialog):
        await agent.trigger()


async def test_agent_prints_control_characters_as_escapes(
    typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    r"""Control characters in tokens, roles, errors and piped input are printed as visible text such as `\x1b`.

    So is a control sequence that is split over two tokens.
    """
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
async def test_agent_prints_any_message_readably(
    messages: MessageType, shown: str, typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The agent prints any message.

    Errors, refusals and answers that ended at the token limit are marked; a message without text is shown as JSON.
    """
    typed("ok\n")
    await create_console_user_agent().trigger(messages)
    assert capsys.readouterr().out == shown + "\nUSER: ok\n"


async def test_agent_prints_the_text_that_arrived_of_a_failed_message(
    typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """If a message fails, its text and later messages are printed and stored; then the agent raises the error."""
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


async def test_agent_raises_stop_dialog_of_the_assistant(typed: Callable[[str], None]) -> None:
    """If the assistant replies `StopDialog`, the agent prints all messages and then raises it."""
    typed("never read\n")
    with pytest.raises(StopDialog):
        await create_console_user_agent().trigger(["bye", StopDialog()])


class FullDisk(ChatHistory):
    """History that cannot be written, but keeps messages in memory."""

    def __init__(self) -> None:
        self.memory = InMemoryChatHistory()

    async def aload_chat_history(self) -> tuple[Message, ...]:
        """Return the messages in memory."""
        return await self.memory.aload_chat_history()

    async def aappend(self, messages: MessageType) -> None:
        """Keep the messages in memory, and raise an error."""
        await self.memory.aappend(messages)
        raise HistoryWriteError("disk \x1b full")


async def test_agent_prints_an_error_of_the_history_and_goes_on(
    typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """If the history cannot be written, the agent prints the error and continues with the messages in memory."""
    typed("hello\n")
    replied = await create_console_user_agent(FullDisk()).trigger("hi")
    assert [str(message) for message in replied] == ["hi", "hello"]
    out = capsys.readouterr().out
    assert out.count(r"ERROR: HistoryWriteError: disk \x1b full") == 2


async def test_agent_prints_an_escape_for_a_character_that_stdout_lacks(
    typed: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    r"""A character that the encoding of stdout lacks is printed as its code, such as `\u65e5`, and raises no error."""
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    typed("ok\n")
    await create_console_user_agent().trigger("caf\u00e9 \u65e5 \U0001f600")
    assert rb"ASSISTANT: caf\xe9 \u65e5 \U0001f600" in stdout.buffer.getvalue()


async def test_agent_works_without_stdout_and_stdin(
    typed: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without stdout (as in pythonw), the agent prints nothing; without stdin, it stops the dialog."""
    monkeypatch.setattr(sys, "stdout", None)
    typed("ok\n")
    assert len(await create_console_user_agent().trigger("hi")) == 2
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(StopDialog):
        await create_console_user_agent().trigger("hi")


async def test_agent_replaces_surrogates_of_stdin(typed: Callable[[str], None]) -> None:
    """Lone surrogates, with which Python's stdin keeps bytes that are not UTF-8, become U+FFFD."""
    typed("caf\udce9\n")
    assert await create_console_user_agent().trigger() == (UserMessage("caf\ufffd"),)


async def test_agent_prints_calls_after_an_answer(
    typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each call of an answer is printed on a line of its own, shortened, with control characters as visible codes."""
    calls = [
        ToolCall(name="get_weather", arguments='{"city": "Rome", "days": 2}'),
        ToolCall(name="say", arguments='{"text": "\\u202e\\u001b"}'),
        ToolCall(name="write", arguments=json.dumps({"text": "x" * 1000})),
        ToolCall(name="cut", arguments='{"text": "a\nb'),
    ]
    typed("exit\n")
    with pytest.raises(StopDialog):
        await create_console_user_agent().trigger([AssistantMessage("Let me see.", tool_calls=calls)])
    shown = capsys.readouterr().out.splitlines()
    assert shown[1:4] == [
        "ASSISTANT: Let me see.",
        '[get_weather(city="Rome", days=2)]',
        '[say(text="\\u202e\\u001b")]',
    ]
    assert shown[4].startswith('[write(text="xxx')
    assert shown[4].endswith("xxx...]")
    assert len(shown[4]) < 250
    assert shown[5] == '[cut({"text": "a\\x0ab)]'


@pytest.mark.parametrize(
    ("line", "result"),
    [
        ("y\n", "deleted \x1b[2J"),
        ("  YES \n", "deleted \x1b[2J"),
        ("\ny\n", "deleted \x1b[2J"),
        ("n\n", "The call did not run, because it was refused"),
        ("No\n", "The call did not run, because it was refused"),
        ("yes please\n", "The call did not run, because it was refused: yes please"),
        ("use the other file\n", "The call did not run, because it was refused: use the other file"),
    ],
)
async def test_approver_asks_about_a_call(
    line: str, result: str, typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The approver shows the call with its arguments; only "y" and "yes" let it run.

    "n" and "no" refuse the call, and another text refuses it with this text as the reason.
    """

    def delete(path: str) -> str:
        """Delete a file."""
        return f"deleted {path}"

    typed(line)
    agent = create_scripted_agent(
        [Step(tool_calls=[("delete", {"path": "\x1b[2J"})]), "done"],
        tools=[tool(delete, approve=create_console_approver())],
    )
    assert [str(message) for message in await agent.trigger("Hi")][1:] == [result, "done"]
    out = capsys.readouterr().out
    assert out.startswith('\nAPPROVAL: delete(path="\\u001b[2J")\nRun it? (y/n) ')
    assert "\x1b" not in out


async def test_approver_asks_one_question_after_the_other(
    typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Several calls of one answer, also of tools with approvers of their own, are asked about one after the other."""

    def delete(path: str) -> str:
        """Delete a file."""
        return f"deleted {path}"

    typed("y\nn\ny\n")
    tools = [tool(delete, name=name, approve=create_console_approver()) for name in ("d1", "d2")]
    paths = [("d1", {"path": "a"}), ("d2", {"path": "b"}), ("d1", {"path": "c"})]
    agent = create_scripted_agent([Step(tool_calls=paths), "done"], tools=tools)
    texts = [str(message) for message in await agent.trigger("Hi")]
    assert texts[1:] == ["deleted a", "The call did not run, because it was refused", "deleted c", "done"]
    assert capsys.readouterr().out == "".join(
        f'\nAPPROVAL: {name}(path="{path["path"]}")\nRun it? (y/n) {key}\n'
        for (name, path), key in zip(paths, "yny", strict=True)
    )


@pytest.mark.parametrize("line", ["exit\n", ""])
async def test_exit_or_the_end_of_input_at_an_approval_stops_the_dialog(
    line: str, typed: Callable[[str], None]
) -> None:
    """The word "exit" and the end of the input end the dialog in place of a decision, and the call does not run."""
    ran = []

    def act() -> None:
        """Act."""
        ran.append(True)

    typed(line)
    agent = create_scripted_agent(
        [Step(tool_calls=[("act", {})])], tools=[tool(act, approve=create_console_approver())]
    )
    with pytest.raises(StopDialog):
        await agent.trigger("Hi")
    assert ran == []


def test_agent_takes_alias_and_description() -> None:
    """`create_console_user_agent` sets alias and description, and raises `TypeError` for an unknown argument."""
    assert create_console_user_agent().alias == "USER_AGENT"
    agent = create_console_user_agent(alias="ME", description="me")
    assert (agent.alias, agent.description) == ("ME", "me")
    with pytest.raises(TypeError):
        create_console_user_agent(no_such_argument=1)


def test_make_agent_does_not_import_prompt_toolkit() -> None:
    """`create_console_user_agent` does not import prompt-toolkit."""
    program = (
        "import sys\nfrom miniagents.ext.console_user_agent import create_console_user_agent\n"
        "create_console_user_agent()\nassert 'prompt_toolkit' not in sys.modules\n"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", program]) == 0
