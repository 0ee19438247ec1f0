"""Texts of models and providers in errors, tracebacks, logs, files and consoles: escaped and without keys."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
import traceback
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from miniagents import errors
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.ext.console_user_agent import create_console_user_agent
from miniagents.ext.llm._sessions import ChatSession, MessagesSession, ResponsesSession, Session
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.ext.llm.sse import ServerSentEvent
from miniagents.messages import AssistantMessage, ErrorMessage, Message
from miniagents.miniagents import InteractionContext, MiniAgents, miniagent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from miniagents.messages import MessageType
    from tests.ext.llm.conftest import Kit

PROVIDERS = ["openai", "anthropic"]
PAYLOAD = "\x1b]52;c;aGk=\x07\x1b]0;t\x1b\\\x1b[2J\x9b2J\x9d0;t\x9c\u202e\u2066\U000e0041\x08\x7f\0\u2028\x85\ud800."
"""Sequences that set clipboard and title or clear the screen, also in 8 bits; invisible and reordering characters."""


def assert_escaped(text: str, shown: str = r"\x1b]52") -> None:
    """Assert that the text has no control characters, and shows the payload's as visible codes."""
    assert text.replace("\n", "").replace("\t", "").isprintable()
    assert shown in text.lower()


def agent(provider: str, client: Any, **settings: Any) -> Any:
    """Return the provider's agent with a single attempt."""
    create: Any = create_openai_agent if provider == "openai" else create_anthropic_agent
    return create("m", **{"async_client": client, "retry": None, **settings})


def failing_transports(kit: Kit) -> list[Any]:
    """Return transports with failures that quote the payload or the key."""
    said = {"message": f"bad {PAYLOAD} for {kit.KEY}", "type": PAYLOAD, "code": PAYLOAD}
    page = f"<html>{PAYLOAD}".encode(errors="replace")
    return [
        kit.Wire(kit.Reply.json({"error": said}, 500)),
        kit.Wire(kit.Reply.json({"error": {"message": {"nested": [PAYLOAD]}}}, 401)),
        kit.Wire(kit.Reply.json({"detail": PAYLOAD}, 404)),
        kit.Wire(kit.Reply([page], 502)),
        kit.Wire(kit.Reply([page])),
        kit.Wire(kit.Reply(kit.events({"type": "error", "error": said}))),
        kit.Wire(kit.Reply(kit.events({"type": "message_start", "message": PAYLOAD, "choices": [PAYLOAD]}))),
        kit.Wire(httpx2.ConnectError(f"cannot reach {PAYLOAD}")),
        kit.Wire(kit.Reply([b": begun\n\n", httpx2.RemoteProtocolError(f"illegal {PAYLOAD}")])),
    ]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_X10_P20_errors_and_tracebacks_hold_no_key_and_no_control_characters(provider: str, kit: Kit) -> None:
    """An error's text, and the traceback of it and its causes, are escaped and redacted."""
    for wire in failing_transports(kit):
        async with MiniAgents():
            with pytest.raises(errors.LLMError) as caught:
                await agent(provider, getattr(wire, provider)()).trigger("Hello")
        for text in (str(caught.value), "".join(traceback.format_exception(caught.value))):
            assert_escaped(text)
            assert kit.KEY not in text


@pytest.mark.parametrize("session", [ChatSession, MessagesSession, ResponsesSession], ids=lambda kind: kind.__name__)
def test_X10_error_of_a_session_holds_no_control_characters(session: type[Session]) -> None:
    """The text of an error that a session raises without an agent has control characters escaped."""
    event = {"type": "error", "error": {"message": PAYLOAD, "type": PAYLOAD}}
    with pytest.raises(errors.ProviderError) as caught:
        session().feed(ServerSentEvent(json.dumps(event).encode()))
    assert_escaped(str(caught.value))


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_X10_X12_log_lines_hold_no_key_and_no_control_characters(
    provider: str, kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    """Unobserved errors and the libraries' lines at level DEBUG are escaped and redacted in the log."""
    caplog.set_level(logging.DEBUG)

    @miniagent
    async def quoting(ctx: InteractionContext) -> None:
        raise ValueError(f"the model said {PAYLOAD}, and the key is {kit.KEY}")

    wires = failing_transports(kit)
    async with MiniAgents(unobserved_errors="log"):
        quoting.trigger()
        calls = [agent(provider, getattr(wire, provider)()).trigger("Hello") for wire in wires]
    del calls  # an error counts as unobserved only after its call is gone
    logged = [record for record in caplog.records if record.message == "An error that no reader observed"]
    assert len(logged) == len(wires) + 1
    assert kit.KEY not in caplog.text
    assert_escaped(caplog.text)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_X12_log_holds_no_prompt_and_no_key_when_the_connection_is_real(
    provider: str, kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    """With all loggers at DEBUG, a real connection logs no prompt, answer, or key, even one that headers repeat."""
    import anthropic
    import openai

    caplog.set_level(logging.DEBUG)
    answer = kit.chat("canary answer") if provider == "openai" else kit.message("canary answer")
    kind: Any = openai.AsyncOpenAI if provider == "openai" else anthropic.AsyncAnthropic
    secrets = {"extra_query": {"key": "canary-query"}, "extra_headers": {"x-token": "canary-header"}}
    echo = b"".join(name + b": canary-echo\r\n" for name in (b"set-cookie", b"x-request-id", b"request-id"))
    async with kit.served(answer, headers=echo) as address:
        address = address.replace("://", "://user:canary-password@")
        async with kind(api_key=kit.KEY, base_url=address) as client, MiniAgents():
            (message,) = await agent(provider, client, system="canary system", **secrets).trigger("canary prompt")
    assert message.content == "canary answer"
    assert "httpcore2" in {record.name.partition(".")[0] for record in caplog.records}
    assert "canary" not in caplog.text
    assert kit.KEY not in caplog.text


async def test_X10_T7_console_escapes_control_sequences_that_are_split_over_tokens(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The console prints control sequences in tokens, roles, errors and piped input as visible codes.

    So it does if two tokens split the sequence at any place.
    """
    for cut in range(len(PAYLOAD)):
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"typed {PAYLOAD}\n"))

        async def tokens(_: dict[str, Any], cut: int = cut) -> AsyncIterator[str]:
            yield PAYLOAD[:cut]
            yield PAYLOAD[cut:]

        async with MiniAgents():
            said: list[MessageType] = [
                AssistantMessage.promise(message_token_streamer=tokens, role=f"critic {PAYLOAD}"),
                ErrorMessage(f"ValueError: {PAYLOAD}"),
                AssistantMessage("", refusal=PAYLOAD),
            ]
            await create_console_user_agent().trigger(said)
        out = capsys.readouterr().out
        assert_escaped(out)
        assert out.lower().count(r"\x1b]52") == 5


async def test_T8_console_prints_nothing_between_tokens(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If tokens split combining marks, emoji and flags, the console prints the tokens with nothing between them."""
    text = "e\u0301 👨\u200d👩\u200d👧 ❤\ufe0f 🇩🇪 می\u200cخواهم"
    monkeypatch.setattr(sys, "stdin", io.StringIO("typed\n"))

    async def tokens(_: dict[str, Any]) -> AsyncIterator[str]:
        for char in text:
            yield char
            await asyncio.sleep(0)

    async with MiniAgents():
        await create_console_user_agent().trigger(AssistantMessage.promise(message_token_streamer=tokens))
    assert f"ASSISTANT: {text}\n" in capsys.readouterr().out


async def test_X10_history_error_escapes_its_path(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Control characters in the path of a history are escaped in its errors."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("typed\n"))
    path = tmp_path / "\x1b[2J\u202e.md"
    path.mkdir()
    async with MiniAgents():
        with pytest.raises(errors.HistoryError) as caught:
            await create_console_user_agent(ChatHistoryMD(path)).trigger()
        with pytest.raises(errors.HistoryError) as at_once:
            await ChatHistoryMD(path).aappend("text")
    for text in (capsys.readouterr().out, str(caught.value), str(at_once.value)):
        assert_escaped(text, r"\x1b[2j\u202e.md")


def test_X10_fork_refuses_an_alias_that_is_not_printable() -> None:
    """`fork` refuses an alias that is not one line of printable characters, because aliases stand in logs."""

    @miniagent
    async def helper(ctx: InteractionContext) -> None:
        """Do nothing."""

    for alias in ("\x1b[2J", "one\ntwo", "\u202ereversed", "\x9b"):
        with pytest.raises(ValueError, match="one line of printable characters"):
            helper.fork(alias=alias)
    assert helper.fork(alias="Дом 日本 é").alias == "Дом 日本 é"


async def test_X11_markdown_history_escapes_control_characters_and_loads_them_unchanged(tmp_path: Path) -> None:
    """Text, role and fields are escaped in the file, and load as they were."""
    path = tmp_path / "chat.md"
    written = Message(PAYLOAD, role=PAYLOAD, note=PAYLOAD)
    async with MiniAgents():
        await ChatHistoryMD(path).aappend(written)
    assert_escaped(path.read_text("utf-8"))
    assert await ChatHistoryMD(path).aload_chat_history() == (written,)


async def test_X12_history_logs_the_names_of_unreadable_fields_without_their_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If a message has an unreadable field, it is loaded with text and role only, and the warning holds no value."""

    class Sized(Message):
        size: int = 0

    path = tmp_path / "chat.md"
    for field, value in (("size", "canary"), ("when", {"$datetime": ["canary", 0, None]})):
        caplog.clear()
        head = json.dumps({"role": "user", "class_": Sized.class_name, "note": PAYLOAD, field: value})
        path.write_text(f"<!-- miniagents {head} -->\n## user\n\ntext\n<!-- /miniagents -->\n\n", encoding="utf-8")
        assert await ChatHistoryMD(path).aload_chat_history() == (Message("text", role="user"),)
        assert_escaped(caplog.text, "left out")
        assert "canary" not in caplog.text


async def test_X15_error_message_holds_no_key_and_is_left_out_of_prompts(kit: Kit) -> None:
    """With `errors_as_messages`, an error becomes an ErrorMessage, which is redacted and not sent to a model."""
    wire = kit.Wire(
        kit.Reply.json({"error": {"message": f"wrong key {kit.KEY} {PAYLOAD}"}}, 401), kit.Reply(kit.chat("Hi"))
    )
    async with MiniAgents(errors_as_messages=True):
        replies = await agent("openai", wire.openai()).trigger("Hello")
        (told,) = replies
        assert isinstance(told, ErrorMessage)
        assert told.role == "error"
        assert kit.KEY not in str(told)
        assert_escaped(str(told))
        assert [str(each) for each in await agent("openai", wire.openai()).trigger(["Go on", replies])] == ["Hi"]
    assert wire.bodies[1]["messages"] == [{"role": "user", "content": "Go on"}]
