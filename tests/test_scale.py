"""Nothing is quadratic: sizes that a quadratic algorithm would not finish, and operations that are counted."""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from openai import AsyncOpenAI

from miniagents import (
    InteractionContext,
    Message,
    MessagePromise,
    MessageSequencePromise,
    MiniAgents,
    join_messages,
    miniagent,
    split_messages,
)
from miniagents._promising import frozen
from miniagents._promising import values as canonical
from miniagents.errors import EventTooLargeError
from miniagents.ext.llm.openai import create_openai_agent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MB = 1_000_000
TOKENS_OF_10_MB = 2_500_000


class Counts:
    """What the running loop is asked to do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gc.collect()  # clients that other tests left behind close themselves, in tasks of whatever loop is running
        self.tasks = self.steps = 0
        self._loop = loop = asyncio.get_running_loop()
        call_soon = loop.call_soon

        def counting_call_soon(*arguments: Any, **options: Any) -> asyncio.Handle:
            self.steps += 1
            return call_soon(*arguments, **options)

        monkeypatch.setattr(loop, "call_soon", counting_call_soon)
        loop.set_task_factory(self._create_task)

    def _create_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        self.tasks += 1
        return asyncio.Task(coroutine, loop=loop, **options)

    def restart(self) -> None:
        """Count from zero."""
        self.tasks = self.steps = 0


async def text_of(tokens: int, *, every: int = 0, paced: bool = False) -> AsyncIterator[str]:
    """Tokens of four characters; one in `every` is a blank line between two letters."""
    for number in range(1, tokens + 1):
        if paced:
            await asyncio.sleep(0)
        yield "a\n\nb" if every and number % every == 0 else "word"


def streamed(tokens: int, *, every: int = 0, paced: bool = False) -> MessagePromise:
    """A message promise of `text_of`."""
    return Message.promise(message_token_streamer=lambda _: text_of(tokens, every=every, paced=paced))


@miniagent
async def echo(ctx: InteractionContext) -> None:
    """Replies what it was sent, after it let others run."""
    await asyncio.sleep(0)
    ctx.reply(ctx.message_promises)


async def read_out(replies: MessageSequencePromise) -> int:
    """The number of tokens in `replies`, read one by one."""
    count = 0
    async for promise in replies:
        async for _ in promise:
            count += 1
    return count


async def test_T9_10_mb_in_small_tokens_join_to_one_message() -> None:
    """2,500,000 tokens of two messages come out of a join, each for itself, with one delimiter between them."""
    async with MiniAgents():
        halves = [streamed(TOKENS_OF_10_MB // 2), streamed(TOKENS_OF_10_MB // 2)]
        joined = join_messages(halves, reference_original_messages=False)
        count = 0
        async for batch in joined.batches():
            count += len(batch)

        assert count == TOKENS_OF_10_MB + 1
        assert len(str(await joined)) == 10 * MB + len("\n\n")


async def test_10_mb_in_small_tokens_split_into_parts() -> None:
    """2,500,000 tokens come out of a split in as many parts as the delimiters make, with nothing lost."""
    async with MiniAgents():
        delimiters = TOKENS_OF_10_MB // 1_000
        parts = 0
        length = 0
        async for part in split_messages(streamed(TOKENS_OF_10_MB, every=1_000)):
            parts += 1
            length += len(str(await part))

        assert parts == delimiters + 1
        assert length == 10 * MB - delimiters * len("\n\n")


async def test_one_part_of_10_mb_streams_through_a_split() -> None:
    """A text without any delimiter is never searched again from its start, nor held back."""
    async with MiniAgents():
        [part] = await split_messages(streamed(TOKENS_OF_10_MB))

        assert len(str(part)) == 10 * MB


async def test_C18_ten_thousand_agents_at_once_take_a_task_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 calls are alive at the same time, and the only tasks that they create are their own."""
    counts = Counts(monkeypatch)
    async with MiniAgents() as context:
        counts.restart()
        calls = [echo.trigger(f"message {number}") for number in range(10_000)]
        await asyncio.sleep(0)
        alive = len(context.tasks)
        replies = [await call for call in calls]

        assert alive == 10_000
        assert counts.tasks == 10_000
        assert [str(message) for [message] in replies] == [f"message {number}" for number in range(10_000)]


async def test_a_call_creates_one_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the messages that are sent, nor the replies, nor reading them costs a task of its own."""
    counts = Counts(monkeypatch)
    async with MiniAgents():
        counts.restart()
        await echo.trigger(["one", Message("two"), {"content": "three"}])

        assert counts.tasks == 1


async def test_C19_lists_nested_100_000_deep_can_be_replied() -> None:
    """Nesting is walked, not recursed into."""
    nested: list[Any] = ["the core"]
    for _ in range(100_000):
        nested = [nested]

    @miniagent
    async def nester(ctx: InteractionContext) -> None:
        ctx.reply(nested)

    async with MiniAgents():
        [message] = await nester.trigger()

    assert message == Message("the core")


async def test_C21_replies_passed_through_1_000_agents_cost_a_task_an_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sequence that is passed on is a reference: nothing is copied, pumped or forwarded on the way."""
    counts = Counts(monkeypatch)
    async with MiniAgents():
        counts.restart()
        replies = echo.trigger(["one", "two"])
        for _ in range(999):
            replies = echo.trigger(replies)

        assert [str(message) for message in await replies] == ["one", "two"]
        assert counts.tasks == 1_000


async def test_a_token_costs_a_place_in_a_list_and_no_object() -> None:
    """As much is alive after 100,000 tokens that two readers have seen as after 1,000, while the stream goes on."""

    async def objects(tokens: int) -> int:
        async def endless(_: dict[str, Any]) -> AsyncIterator[str]:
            async for token in text_of(tokens):
                yield token
            await asyncio.Event().wait()

        promise = Message.promise(message_token_streamer=endless)
        readers = [aiter(promise), aiter(promise)]
        for reader in readers:
            for _ in range(tokens):
                await anext(reader)
        gc.collect()
        alive = sys.getallocatedblocks()
        promise.cancel()
        return alive

    async with MiniAgents():
        await objects(1_000)
        few, many = await objects(1_000), await objects(100_000)
    assert many - few < 100


async def test_tokens_that_come_at_once_wake_their_reader_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop does as much for 100,000 tokens in a burst, through ten agents, as it does for 10."""
    counts = Counts(monkeypatch)
    steps = []
    async with MiniAgents():
        for tokens in (10, 100_000):
            counts.restart()
            replies = echo.trigger(streamed(tokens))
            for _ in range(9):
                replies = echo.trigger(replies)
            assert await read_out(replies) == tokens
            steps.append(counts.steps)

    assert steps[0] == steps[1]


async def test_a_token_that_comes_alone_costs_two_steps_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step is the source's own wait, the other one wakes the reader; agents on the way add nothing."""
    counts = Counts(monkeypatch)
    steps = []
    async with MiniAgents():
        for tokens in (1_000, 2_000):
            counts.restart()
            assert await read_out(echo.trigger(echo.trigger(streamed(tokens, paced=True)))) == tokens
            steps.append(counts.steps)

    assert steps[1] - steps[0] == 2 * 1_000


async def test_each_message_of_a_dialog_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that looks at the key of every message of the whole history, each turn, has each computed once."""
    digests = 0

    def counting_digest(*arguments: Any) -> str:
        nonlocal digests
        digests += 1
        return canonical.canonical_digest(*arguments)

    monkeypatch.setattr(frozen, "canonical_digest", counting_digest)

    @miniagent
    async def keyed(ctx: InteractionContext) -> None:
        keys = {message.hash_key for message in await ctx.message_promises}
        ctx.reply(f"{len(keys)} different messages so far")

    history: list[Message] = []
    async with MiniAgents():
        for turn in range(100):
            history.append(Message(f"question {turn}"))
            history.extend(await keyed.trigger(history))
    assert len({message.hash_key for message in history}) == 200
    assert digests == 200


async def test_a_history_is_passed_on_without_a_promise_for_each_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever awaits messages that are there already gets them; promises are made for those who iterate, once."""
    made = 0

    def counting_of_message(message: Message) -> MessagePromise:
        nonlocal made
        made += 1
        return of_message(message)

    of_message = MessagePromise.of_message
    monkeypatch.setattr(MessagePromise, "of_message", counting_of_message)
    history = [Message(str(number)) for number in range(1_000)]

    @miniagent
    async def repeating(ctx: InteractionContext) -> None:
        ctx.reply([await ctx.message_promises, "one more"])

    async with MiniAgents():
        replies = repeating.trigger(echo.trigger(history))
        messages = await replies
        assert made == 0
        assert all(message is sent for message, sent in zip(messages, history, strict=False))
        for _ in range(2):
            assert [await promise for promise in [each async for each in replies]] == list(messages)
        assert made == 1_001


class Endless(httpx2.AsyncByteStream):
    """A response whose only event is 100 MB long."""

    def __init__(self) -> None:
        self.sent = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        piece = b"x" * 65_536
        yield b'data: {"choices": "'
        while self.sent < 100 * MB:
            self.sent += len(piece)
            yield piece


async def test_an_event_of_100_mb_is_refused_in_bounded_memory() -> None:
    """The stream ends with a clear error long before its end, and was not kept in memory to get there."""
    body = Endless()

    def respond(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=body)

    http_client = httpx2.AsyncClient(transport=httpx2.MockTransport(respond))
    async with AsyncOpenAI(api_key="none", http_client=http_client) as client, MiniAgents():
        agent = create_openai_agent("gpt-4o", async_client=client, retry=None)
        tracemalloc.start()
        try:
            with pytest.raises(EventTooLargeError):
                await agent.trigger("Tell me everything")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert body.sent < 20 * MB
    assert peak < 60 * MB
