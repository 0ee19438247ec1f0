"""Every check fails on something that has the defect it is for, and says so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import pytest
from common import QuietHistory

from miniagents import (
    AssistantMessage,
    ChatHistory,
    InMemoryChatHistory,
    InteractionContext,
    Message,
    MessagePromise,
    join_messages,
    miniagent,
    split_messages,
)
from miniagents.errors import StreamTruncatedError
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing import ScriptedLLM, checks
from miniagents_testing.checks import CheckFailedError
from miniagents_testing.recut import all_at_once

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from pathlib import Path

    from miniagents import MessageType, MiniAgent


async def failure(check: Coroutine[Any, Any, None]) -> str:
    """What a check says that must fail, without the line that says how to see it again."""
    with pytest.raises(CheckFailedError) as caught:
        await check
    *lines, again = str(caught.value).split("\n")
    assert again.startswith("  again:    await check_")
    return "\n".join(lines)


# --- agents


def agent_of(*promises: Callable[[], Any]) -> MiniAgent[Any]:
    """An agent that replies these."""

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        for promise in promises:
            ctx.reply(promise())

    return agent


def streamed(*tokens: str, promise_class: type[MessagePromise] = MessagePromise, **fields: Any) -> MessagePromise:
    """A message that streams."""

    async def streamer(metadata: dict[str, Any]) -> AsyncIterator[str]:
        metadata.update(fields)
        for token in tokens:
            await asyncio.sleep(0)
            yield token

    return promise_class(streamer, message_class=AssistantMessage)


class Forgetful(MessagePromise):
    """Gives every reader one token less than the one before."""

    readers = -1

    def __aiter__(self) -> AsyncIterator[str]:
        type(self).readers += 1
        return self._read(type(self).readers)

    async def _read(self, left_out: int) -> AsyncIterator[str]:
        whole = super().__aiter__()
        tokens = [token async for token in whole]
        for token in tokens[left_out:]:
            yield token


class Uncancellable(MessagePromise):
    """Goes on."""

    def cancel(self) -> None:
        """Do nothing."""


async def test_agents() -> None:
    """Nothing replied, tokens that are not the message, readers that differ, no stream, no count of tokens."""
    check = checks.check_stream_equals_resolved
    assert "replied nothing" in await failure(check(agent_of()))
    Forgetful.readers = 0
    unequal = agent_of(lambda: streamed("a", "b", promise_class=Forgetful))
    assert "does not say what its tokens said\n  expected: 'b'\n  came:     'ab'" in await failure(check(unequal))
    Forgetful.readers = -1
    assert "saw different tokens" in await failure(checks.check_rereading(unequal))
    at_once = agent_of(lambda: Message("at once"))
    assert "first token came with the last one" in await failure(checks.check_tokens_before_completion(at_once))
    assert "does not say its input_tokens" in await failure(checks.check_usage(at_once))
    failing = agent_of(lambda: ValueError("boom"))
    assert "came:     ValueError: boom" in await failure(check(failing))


async def test_an_agent_that_never_ends() -> None:
    """It is given up after a time that can be chosen."""

    async def endless(metadata: dict[str, Any]) -> AsyncIterator[str]:
        yield "first"
        await asyncio.Event().wait()

    agent = agent_of(lambda: Message.promise(message_token_streamer=endless))
    said = await failure(checks.check_stream_equals_resolved(agent, timeout=0.01))
    assert "came:     nothing for 0.01 seconds" in said


async def test_cancelling() -> None:
    """A source that stays open, and a cancellation that nobody notices."""
    said = await failure(checks.check_cancel_closes_source(agent_of(lambda: streamed(*"abcdef")), closed=lambda: False))
    assert "cancel() left the source open" in said
    stubborn = agent_of(lambda: streamed(*"abcdef", promise_class=Uncancellable))
    said = await failure(checks.check_cancel_closes_source(stubborn, closed=lambda: True))
    assert "cancel() looks like an end" in said
    said = await failure(checks.check_cancel_closes_source(agent_of(lambda: "short"), closed=lambda: True))
    assert "nothing is left to cancel" in said


# --- agents on a model


class Changed(httpx2.AsyncBaseTransport):
    """Another transport, of which something else arrives; makes a defect of an agent that has none."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, change: Callable[[bytes], bytes]) -> None:
        self.inner = inner
        self.change = change

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self.inner.handle_async_request(request)
        try:
            content = b"".join([chunk async for chunk in response.stream])  # type: ignore[union-attr]  # an async one
        except httpx2.RequestError:
            content = b""
        return httpx2.Response(response.status_code, headers=response.headers, content=self.change(content))


def agent_with(change: Callable[[bytes], bytes]) -> Callable[[httpx2.AsyncBaseTransport], MiniAgent[Any]]:
    """Makes an agent that reads what `change` makes of the whole response, when it is there."""

    def make(transport: httpx2.AsyncBaseTransport) -> MiniAgent[Any]:
        client = openai.AsyncOpenAI(api_key="k", http_client=httpx2.AsyncClient(transport=Changed(transport, change)))
        return create_openai_agent("any", async_client=client, retry=None)

    return make


async def test_tokens_that_come_all_at_once() -> None:
    """A reader that waits for the whole response has no tokens while it comes."""
    said = await failure(checks.check_live_tokens(agent_with(lambda content: content), timeout=0.05))
    assert "what had come could not be read while the answer was not complete" in said


async def test_what_is_lost_of_an_answer() -> None:
    """Each check says which field, or which error, is not as it should be."""
    no_usage = agent_with(lambda content: content.replace(b'"usage"', b'"usages"'))
    assert "first token came with the last one" in await failure(checks.check_scripted_answer(no_usage))
    assert "usage=None" in await failure(checks.check_dialects(no_usage))
    shouting = agent_with(lambda content: content.replace(b"One,", b"ONE,"))
    said = await failure(checks.check_chunk_invariance(shouting))
    assert "expected: content='One, zwei" in said
    assert "came:     content='ONE, zwei" in said
    whole = b'{"choices":[{"index":0,"delta":{"content":"?"},"finish_reason":"stop"}]}'
    soothing = agent_with(lambda content: content + b"\n\ndata: " + whole + b"\n\n")
    assert "passes for a whole one" in await failure(checks.check_truncation(soothing))
    assert "a fault passes unseen: reset after event" in await failure(checks.check_errors_keep_text(soothing))
    refusing = agent_with(lambda content: b"")
    assert "a whole answer is refused" in await failure(checks.check_dialects(refusing))


async def test_errors_without_what_had_come() -> None:
    """An error says nothing of the text before it, or is of no kind that could."""

    def make(transport: httpx2.AsyncBaseTransport) -> MiniAgent[Any]:
        return agent_of(lambda: StreamTruncatedError("cut"))

    said = await failure(checks.check_truncation(make, lengths=[2_500]))
    assert "the error has another text than what had come\n  expected: 'One" in said
    said = await failure(checks.check_truncation(lambda transport: agent_of(lambda: OSError("gone")), lengths=[9]))
    assert "came:     OSError: gone" in said


async def test_a_response_that_stays_open() -> None:
    """The reply is cancelled, and the provider goes on."""

    def make(transport: httpx2.AsyncBaseTransport) -> MiniAgent[Any]:
        return agent_of(lambda: streamed(*"abcdef"))

    assert "cancel() left the source open" in await failure(checks.check_cancel_closes_response(make))


def test_the_checks_of_models_are_on_streams_that_really_stream() -> None:
    """A stream of one chunk would show nothing."""
    stream = ScriptedLLM("one two").respond("chat", {"stream": True})
    assert len(stream.chunks) > 3
    assert len(all_at_once(stream).chunks) == 1


# --- messages


def found(check: Callable[[], None]) -> str:
    """What a check says that must fail."""
    with pytest.raises(CheckFailedError) as caught:
        check()
    return str(caught.value)


class Mutable(Message, class_="message that can be changed"):
    """Keeps a list as it is."""

    def __iter__(self) -> Iterator[tuple[str, Any]]:  # type: ignore[override]  # as pydantic has it
        yield from super().__iter__()
        yield "things", [1]


class Loose(Message, class_="message that lets itself be changed"):
    """Takes what it is given."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Say nothing."""


class Alike(Message, class_="message like all others"):
    """Equal to every other one of its class."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alike)

    def __hash__(self) -> int:
        return 1


class Lossy(Message, class_="message that loses a field"):
    """Does not dump all of itself."""

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """Leave out the content."""
        return {**super().model_dump(**options), "content": None}


def test_messages() -> None:
    """A list in them, a field that can be set, equality by nothing, dumps that lose something."""
    said = found(lambda: checks.check_immutable(Mutable("x")))
    assert "message.things could be changed" in said
    assert "came:     [1] of type list" in said
    assert "setattr changed message.content" in found(lambda: checks.check_immutable(Loose("x")))
    assert "another field makes no difference" in found(lambda: checks.check_hash(Alike("x")))
    assert "model_validate(model_dump()) gives another message" in found(lambda: checks.check_copies(Lossy("x")))
    kept: list[Any] = []

    def make(fields: Any) -> Message:
        kept.append(fields)
        return Message(str(kept[0]["items"]))

    said = found(lambda: checks.check_message_class(make, {"items": ["a"]}))
    assert "what was done to the fields later shows in the message" in said


# --- texts


async def test_splitters_and_joiners() -> None:
    """Text that is lost, parts that are empty or invented, a join without its originals."""

    async def losing(message: MessagePromise, delimiter: str) -> AsyncIterator[MessagePromise]:
        for part in str(await message).split(delimiter)[:1]:
            yield Message(part).as_promise

    async def empty(message: MessagePromise, delimiter: str) -> AsyncIterator[MessagePromise]:
        for part in str(await message).split(delimiter):
            yield Message(part).as_promise

    assert "are not the text" in await failure(checks.check_split_keeps_text(losing, "a\n\nb"))
    assert "a part is empty" in await failure(checks.check_split_keeps_text(empty, "a\n\n\n\nb"))

    def forgetful_join(messages: MessageType, delimiter: str) -> MessagePromise:
        return join_messages(messages, delimiter, reference_original_messages=False)

    said = await failure(checks.check_join_split(forgetful_join, split_messages, ["a", "b"]))
    assert "lost what it was made of" in said
    said = await failure(checks.check_join_split(join_messages, losing, ["a", "b"]))
    assert "the parts did not come back" in said


# --- histories


class Shouting(InMemoryChatHistory):
    """Stores something else."""

    async def aload_chat_history(self) -> tuple[Message, ...]:
        """In capitals."""
        return tuple(Message(str(message).upper()) for message in await super().aload_chat_history())


class Full(InMemoryChatHistory):
    """Has room for one."""

    async def aload_chat_history(self) -> tuple[Message, ...]:
        """The first."""
        return (await super().aload_chat_history())[:1]


class Torn(ChatHistoryMD):
    """Takes what there is for whole."""

    async def aload_chat_history(self) -> tuple[Message, ...]:
        """Without the mark of what was interrupted."""
        loaded = await super().aload_chat_history()
        return tuple(
            Message(message.content, role=message.role) if message.role == "system" else message for message in loaded
        )


async def test_histories() -> None:
    """Text that changes, messages that are lost, failures that are hidden, and what is torn taken for whole."""

    def made(kind: Callable[[], ChatHistory]) -> Callable[[Path], ChatHistory]:
        return lambda folder: kind()

    messages = [Message("a"), Message("b")]
    said = await failure(checks.check_history_returns(made(Shouting), messages, reopens=False))
    assert "message 1 came out changed\n  expected: Message(content='a')\n  came:     Message(content='A')" in said
    said = await failure(checks.check_history_returns(made(Full), messages, reopens=False))
    assert "messages were lost or invented\n  expected: 2\n  came:     1" in said
    assert "hides that a message failed" in await failure(
        checks.check_history_keeps_failed(made(QuietHistory), reopens=False)
    )
    said = await failure(checks.check_history_keeps_failed(made(Full), reopens=False))
    assert "not kept as far as it came" in said
    assert "is not what was stored" in await failure(checks.check_history_passes_on(made(Shouting)))
    assert "keeps no file" in await failure(checks.check_crash_states(made(InMemoryChatHistory)))
    said = await failure(checks.check_crash_states(lambda folder: Torn(folder / "chat.md")))
    assert "a message that is not whole is not marked" in said
