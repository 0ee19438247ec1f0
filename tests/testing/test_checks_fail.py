"""Each check of the testing kit fails on an object with its defect, with a message that says what is wrong."""

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
    """Run a check that must fail, and return its message without the line that says how to repeat the check."""
    with pytest.raises(CheckFailedError) as caught:
        await check
    *lines, again = str(caught.value).split("\n")
    assert again.startswith("  again:    await check_")
    return "\n".join(lines)


# --- agents


def agent_of(*promises: Callable[[], Any]) -> MiniAgent[Any]:
    """Return an agent that replies these messages or errors."""

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        for promise in promises:
            ctx.reply(promise())

    return agent


def streamed(*tokens: str, promise_class: type[MessagePromise] = MessagePromise, **fields: Any) -> MessagePromise:
    """Return a message that streams these tokens."""

    async def streamer(metadata: dict[str, Any]) -> AsyncIterator[str]:
        metadata.update(fields)
        for token in tokens:
            await asyncio.sleep(0)
            yield token

    return promise_class(streamer, message_class=AssistantMessage)


class Forgetful(MessagePromise):
    """Promise that gives each reader one token less than the reader before."""

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
    """Promise whose `cancel()` has no effect."""

    def cancel(self) -> None:
        """Do nothing."""


async def test_checks_of_agents_fail_on_their_defects() -> None:
    """Checks of agents fail for no replies, an error, tokens unlike the text, unequal readers, no stream, no usage."""
    check = checks.check_stream_equals_resolved
    assert "replied nothing" in await failure(check(agent_of()))
    Forgetful.readers = 0
    unequal = agent_of(lambda: streamed("a", "b", promise_class=Forgetful))
    assert "the text of the message differs from its tokens\n  expected: 'b'\n  came:     'ab'" in await failure(
        check(unequal)
    )
    Forgetful.readers = -1
    assert "saw different tokens" in await failure(checks.check_rereading(unequal))
    at_once = agent_of(lambda: Message("at once"))
    assert "first token came with the last one" in await failure(checks.check_tokens_before_completion(at_once))
    assert "has no number of input_tokens" in await failure(checks.check_usage(at_once))
    failing = agent_of(lambda: ValueError("boom"))
    assert "came:     ValueError: boom" in await failure(check(failing))


async def test_check_fails_when_an_agent_takes_longer_than_its_timeout() -> None:
    """An agent that never ends fails the check after the given timeout."""

    async def endless(metadata: dict[str, Any]) -> AsyncIterator[str]:
        yield "first"
        await asyncio.Event().wait()

    agent = agent_of(lambda: Message.promise(message_token_streamer=endless))
    message = await failure(checks.check_stream_equals_resolved(agent, timeout=0.01))
    assert "came:     nothing for 0.01 seconds" in message


async def test_check_of_cancel_fails_on_open_sources_and_ignored_cancellations() -> None:
    """The check of `cancel()` fails if the source stays open, `cancel()` has no effect, or the reply has ended."""
    message = await failure(
        checks.check_cancel_closes_source(agent_of(lambda: streamed(*"abcdef")), closed=lambda: False)
    )
    assert "cancel() left the source open" in message
    stubborn = agent_of(lambda: streamed(*"abcdef", promise_class=Uncancellable))
    message = await failure(checks.check_cancel_closes_source(stubborn, closed=lambda: True))
    assert "a cancelled reply looks like a complete one" in message
    message = await failure(checks.check_cancel_closes_source(agent_of(lambda: "short"), closed=lambda: True))
    assert "the reply ended before it could be cancelled" in message


# --- agents on a model


class Changed(httpx2.AsyncBaseTransport):
    """Transport that changes the responses of another one, so that a correct agent has a defect."""

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
    """Return a function that makes an agent on a transport, whose responses come complete and changed by `change`."""

    def make(transport: httpx2.AsyncBaseTransport) -> MiniAgent[Any]:
        client = openai.AsyncOpenAI(api_key="k", http_client=httpx2.AsyncClient(transport=Changed(transport, change)))
        return create_openai_agent("any", async_client=client, retry=None)

    return make


async def test_check_of_live_tokens_fails_on_an_agent_that_waits_for_the_response() -> None:
    """`check_live_tokens` fails for an agent that has no tokens before the response is complete."""
    message = await failure(checks.check_live_tokens(agent_with(lambda content: content), timeout=0.05))
    assert "received tokens could not be read while the answer was not complete" in message


async def test_checks_of_llm_agents_name_the_wrong_field_or_error() -> None:
    """Checks of LLM agents fail with a message that names the wrong field of the answer, or the wrong error."""
    no_usage = agent_with(lambda content: content.replace(b'"usage"', b'"usages"'))
    assert "first token came with the last one" in await failure(checks.check_scripted_answer(no_usage))
    assert "usage=None" in await failure(checks.check_dialects(no_usage))
    shouting = agent_with(lambda content: content.replace(b"One,", b"ONE,"))
    message = await failure(checks.check_chunk_invariance(shouting))
    assert "expected: content='One, zwei" in message
    assert "came:     content='ONE, zwei" in message
    whole = b'{"choices":[{"index":0,"delta":{"content":"?"},"finish_reason":"stop"}]}'
    soothing = agent_with(lambda content: content + b"\n\ndata: " + whole + b"\n\n")
    assert "passes as a complete one" in await failure(checks.check_truncation(soothing))
    assert "a fault passes unnoticed: reset after event" in await failure(checks.check_errors_keep_text(soothing))
    refusing = agent_with(lambda content: b"")
    assert "a complete answer is an error" in await failure(checks.check_dialects(refusing))


async def test_check_of_truncation_fails_on_errors_without_the_received_text() -> None:
    """`check_truncation` fails for an `LLMError` without the received text, and for an error of another class."""

    def make(transport: httpx2.AsyncBaseTransport) -> MiniAgent[Any]:
        return agent_of(lambda: StreamTruncatedError("cut"))

    message = await failure(checks.check_truncation(make, lengths=[2_500]))
    assert "the error has another text than the received one\n  expected: 'One" in message
    message = await failure(checks.check_truncation(lambda transport: agent_of(lambda: OSError("gone")), lengths=[9]))
    assert "came:     OSError: gone" in message


async def test_check_of_cancel_fails_on_a_response_that_stays_open() -> None:
    """`check_cancel_closes_response` fails for an agent that leaves the response open after a cancellation."""

    def make(transport: httpx2.AsyncBaseTransport) -> MiniAgent[Any]:
        return agent_of(lambda: streamed(*"abcdef"))

    assert "cancel() left the source open" in await failure(checks.check_cancel_closes_response(make))


def test_scripted_streams_of_the_checks_have_several_chunks() -> None:
    """The streams on which agents are checked have several chunks."""
    stream = ScriptedLLM("one two").respond("chat", {"stream": True})
    assert len(stream.chunks) > 3
    assert len(all_at_once(stream).chunks) == 1


# --- messages


def found(check: Callable[[], None]) -> str:
    """Run a check that must fail, and return its message."""
    with pytest.raises(CheckFailedError) as caught:
        check()
    return str(caught.value)


class Mutable(Message, class_="message that can be changed"):
    """Message class whose messages keep a list as a field."""

    def __iter__(self) -> Iterator[tuple[str, Any]]:  # type: ignore[override]  # as pydantic has it
        yield from super().__iter__()
        yield "things", [1]


class Loose(Message, class_="message that lets itself be changed"):
    """Message class whose messages ignore attempts to set their fields."""

    def __setattr__(self, name: str, value: Any) -> None:
        """Do nothing."""


class Alike(Message, class_="message like all others"):
    """Message class whose messages are all equal."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Alike)

    def __hash__(self) -> int:
        return 1


class Lossy(Message, class_="message that loses a field"):
    """Message class whose dumps miss the content."""

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """Leave out the content."""
        return {**super().model_dump(**options), "content": None}


def test_checks_of_messages_fail_on_their_defects() -> None:
    """Checks of message classes fail for lists in fields, settable fields, equality of all, and incomplete dumps."""
    message = found(lambda: checks.check_immutable(Mutable("x")))
    assert "message.things could be changed" in message
    assert "came:     [1] of type list" in message
    assert "setattr changed message.content" in found(lambda: checks.check_immutable(Loose("x")))
    assert "another field makes no difference" in found(lambda: checks.check_hash(Alike("x")))
    assert "model_validate(model_dump()) gives another message" in found(lambda: checks.check_copies(Lossy("x")))
    kept: list[Any] = []

    def make(fields: Any) -> Message:
        kept.append(fields)
        return Message(str(kept[0]["items"]))

    message = found(lambda: checks.check_message_class(make, {"items": ["a"]}))
    assert "the message shows later changes of its fields" in message


# --- texts


async def test_checks_of_splitters_and_joiners_fail_on_their_defects() -> None:
    """Checks of splitters and joiners fail for lost text, empty parts, lost original messages, and changed parts."""

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

    message = await failure(checks.check_join_split(forgetful_join, split_messages, ["a", "b"]))
    assert "lost its original messages" in message
    message = await failure(checks.check_join_split(join_messages, losing, ["a", "b"]))
    assert "the parts did not come back" in message


# --- histories


class Shouting(InMemoryChatHistory):
    """History that loads its texts in capitals."""

    async def aload_chat_history(self) -> tuple[Message, ...]:
        """Load the messages in capitals."""
        return tuple(Message(str(message).upper()) for message in await super().aload_chat_history())


class Full(InMemoryChatHistory):
    """History that loads only its first message."""

    async def aload_chat_history(self) -> tuple[Message, ...]:
        """Load the first message only."""
        return (await super().aload_chat_history())[:1]


class Torn(ChatHistoryMD):
    """History that loads an interrupted message as a complete one."""

    async def aload_chat_history(self) -> tuple[Message, ...]:
        """Load the messages without the mark of interruption."""
        loaded = await super().aload_chat_history()
        return tuple(
            Message(message.content, role=message.role) if message.role == "system" else message for message in loaded
        )


async def test_checks_of_histories_fail_on_their_defects() -> None:
    """Checks of histories fail for changed texts, lost messages, hidden failures, lost interruption marks, no file."""

    def made(kind: Callable[[], ChatHistory]) -> Callable[[Path], ChatHistory]:
        return lambda folder: kind()

    messages = [Message("a"), Message("b")]
    message = await failure(checks.check_history_returns(made(Shouting), messages, reopens=False))
    assert (
        "message 1 was loaded with changes\n  expected: Message(content='a')\n  came:     Message(content='A')"
        in message
    )
    message = await failure(checks.check_history_returns(made(Full), messages, reopens=False))
    assert "messages were lost or invented\n  expected: 2\n  came:     1" in message
    assert "hides that a message failed" in await failure(
        checks.check_history_keeps_failed(made(QuietHistory), reopens=False)
    )
    message = await failure(checks.check_history_keeps_failed(made(Full), reopens=False))
    assert "the received part of a failed message is not kept" in message
    assert "the stored messages differ from the sent ones" in await failure(
        checks.check_history_passes_on(made(Shouting))
    )
    assert "keeps no file" in await failure(checks.check_crash_states(made(InMemoryChatHistory)))
    message = await failure(checks.check_crash_states(lambda folder: Torn(folder / "chat.md")))
    assert "an incomplete message is not marked" in message


# --- loops of tools


def loop_with(defect: Callable[[list[Any], dict[str, Any]], None]) -> Callable[..., MiniAgent[Any]]:
    """Return a function that makes an agent with tools, after `defect` has changed its list of tools or settings."""

    def make_agent(transport: httpx2.AsyncBaseTransport, *, tools: list[Any]) -> MiniAgent[Any]:
        client = openai.AsyncOpenAI(api_key="none", http_client=httpx2.AsyncClient(transport=transport))
        settings: dict[str, Any] = {}
        tools = list(tools)
        defect(tools, settings)
        return create_openai_agent("any", async_client=client, retry=None, tools=tools, **settings)

    return make_agent


async def test_check_tool_order_fails_when_calls_run_one_after_another() -> None:
    """`check_tool_order` fails if calls run one after another, because its three calls wait for each other in vain."""

    def one_at_a_time(tools: list[Any], _: dict[str, Any]) -> None:
        lock = asyncio.Lock()
        inner = tools[0]

        async def send(to: str) -> str:
            """Send a letter."""
            async with lock:
                result: str = await inner(to)
                return result

        tools[:] = [send]

    found = await failure(checks.check_tool_order(loop_with(one_at_a_time), timeout=0.2))
    assert "a loop with three calls that wait for each other" in found


async def test_check_tool_order_fails_for_other_results() -> None:
    """`check_tool_order` fails if the tool loop replies another result than the tool returned, and shows it."""

    def shout(tools: list[Any], _: dict[str, Any]) -> None:
        inner = tools[0]

        async def send(to: str) -> str:
            """Send a letter."""
            return str(await inner(to)).upper()

        tools[:] = [send]

    found = await failure(checks.check_tool_order(loop_with(shout)))
    assert "the replies of the loop are not in order" in found
    assert "SENT TO ANN" in found


async def test_check_tool_errors_fails_for_a_loop_that_raises() -> None:
    """`check_tool_errors` fails for a tool loop that ends with the exception of a tool."""
    found = await failure(checks.check_tool_errors(loop_with(lambda _, settings: settings.update(tool_errors="raise"))))
    assert "a loop whose tools fail" in found
    assert "ValueError: broken" in found


async def test_check_tool_cancellation_fails_for_a_tool_that_goes_on() -> None:
    """`check_tool_cancellation` fails for a tool that runs in a task of its own, and goes on after the cancellation."""
    tasks: list[asyncio.Task[Any]] = []

    def detach(tools: list[Any], _: dict[str, Any]) -> None:
        inner = tools[0]

        async def send(to: str) -> str:
            """Send a letter."""
            tasks.append(asyncio.create_task(inner(to * 20)))
            return str(await asyncio.shield(tasks[-1]))

        tools[:] = [send]

    found = await failure(checks.check_tool_cancellation(loop_with(detach)))
    assert "a tool goes on after the cancellation" in found
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_check_output_fails_for_an_agent_that_only_asks_for_json() -> None:
    """`check_output` fails for an agent that asks the model for a schema, but whose answers have no value."""
    schema = {"type": "json_schema", "json_schema": {"name": "any", "schema": {"type": "object"}}}

    def make_agent(transport: httpx2.AsyncBaseTransport, **settings: Any) -> MiniAgent[Any]:
        client = openai.AsyncOpenAI(api_key="none", http_client=httpx2.AsyncClient(transport=transport))
        return create_openai_agent("any", async_client=client, retry=None, response_format=schema)

    text = await failure(checks.check_output(make_agent))
    assert "check_output: an output has another value (output_mode='schema')" in text
    assert "came:     None" in text
