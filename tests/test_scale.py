"""Cost is linear: sizes that a quadratic algorithm would not finish, and operations that are counted."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from common import smallest_growth
from openai import AsyncOpenAI

from miniagents import (
    InteractionContext,
    Message,
    MessagePromise,
    MessageSequencePromise,
    MiniAgents,
    StreamedPromise,
    join_messages,
    miniagent,
    split_messages,
)
from miniagents._promising import frozen, values
from miniagents._promising import pauses as pauses_module
from miniagents.errors import EventTooLargeError
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing import run_in_virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MB = 1_000_000
TOKENS_OF_10_MB = 2_500_000


class Counts:
    """Counters of the tasks and steps of the running loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gc.collect()  # clients of other tests close themselves in tasks of the running loop when they are collected
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
    """Yield tokens of four characters; each token whose number is a multiple of `every` has a blank line in it."""
    for number in range(1, tokens + 1):
        if paced:
            await asyncio.sleep(0)
        yield "a\n\nb" if every and number % every == 0 else "word"


def streamed(tokens: int, *, every: int = 0, paced: bool = False) -> MessagePromise:
    """Return a message promise of `text_of`."""
    return Message.promise(message_token_streamer=lambda _: text_of(tokens, every=every, paced=paced))


@miniagent
async def echo(ctx: InteractionContext) -> None:
    """Reply the messages after a step of the loop."""
    await asyncio.sleep(0)
    ctx.reply(ctx.message_promises)


async def read_tokens(pieces: Any) -> int:
    """Read all pieces, and return their number."""
    return len([piece async for piece in pieces])


async def read_out(replies: MessageSequencePromise) -> int:
    """Read the replies token by token, and return the number of tokens."""
    count = 0
    async for promise in replies:
        async for _ in promise:
            count += 1
    return count


async def test_T9_join_handles_10_mb_in_small_tokens() -> None:
    """2,500,000 tokens of two messages come out of a join one by one, with one delimiter between the messages."""
    async with MiniAgents():
        halves = [streamed(TOKENS_OF_10_MB // 2), streamed(TOKENS_OF_10_MB // 2)]
        joined = join_messages(halves, reference_original_messages=False)
        count = 0
        async for batch in joined.batches():
            count += len(batch)

        assert count == TOKENS_OF_10_MB + 1
        assert len(str(await joined)) == 10 * MB + len("\n\n")


async def test_split_handles_10_mb_in_small_tokens() -> None:
    """2,500,000 tokens are split at all delimiters, and no text is lost."""
    async with MiniAgents():
        delimiters = TOKENS_OF_10_MB // 1_000
        parts = 0
        length = 0
        async for part in split_messages(streamed(TOKENS_OF_10_MB, every=1_000)):
            parts += 1
            length += len(str(await part))

        assert parts == delimiters + 1
        assert length == 10 * MB - delimiters * len("\n\n")


async def test_split_streams_one_part_of_10_mb() -> None:
    """A split of a 10 MB text without a delimiter gives one part, and does not search the text again for each token."""
    async with MiniAgents():
        [part] = await split_messages(streamed(TOKENS_OF_10_MB))

        assert len(str(part)) == 10 * MB


async def test_C18_ten_thousand_calls_at_once_create_a_task_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 calls are alive at the same time, and create one task each and no other."""
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


async def test_call_creates_one_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sending messages, replying and reading create no task besides the call's own."""
    counts = Counts(monkeypatch)
    async with MiniAgents():
        counts.restart()
        await echo.trigger(["one", Message("two"), {"content": "three"}])

        assert counts.tasks == 1


async def test_waiting_call_keeps_few_objects_alive() -> None:
    """A call and its reader in a `gather` keep at most 25 objects alive that the garbage collector must visit."""

    def count() -> int:
        """Return the number of objects, without the interpreter's nodes of context variables: others set some, too."""
        gc.collect()
        return sum(not type(each).__name__.startswith("hamt") for each in gc.get_objects())

    async def alive() -> float:
        """Return the number of objects for each of 1,000 unfinished calls."""
        before = count()
        calls = asyncio.gather(*[echo.trigger(message) for _ in range(1_000)])
        await asyncio.sleep(0)
        added = count() - before
        await calls
        await asyncio.sleep(0)  # until the context has forgotten the tasks
        return added / 1_000

    message = Message("text")
    async with MiniAgents():
        await alive()
        assert round(await alive()) <= 25


async def test_C19_agent_can_reply_lists_nested_100_000_deep() -> None:
    """An agent that replies lists nested 100,000 deep gives the one message in them, without recursion."""
    nested: list[Any] = ["the core"]
    for _ in range(100_000):
        nested = [nested]

    @miniagent
    async def nester(ctx: InteractionContext) -> None:
        ctx.reply(nested)

    async with MiniAgents():
        [message] = await nester.trigger()

    assert message == Message("the core")


async def test_C21_replies_forwarded_by_1_000_agents_create_a_task_an_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies that 1,000 agents forward create one task for each agent, because no agent copies messages."""
    counts = Counts(monkeypatch)
    async with MiniAgents():
        counts.restart()
        replies = echo.trigger(["one", "two"])
        for _ in range(999):
            replies = echo.trigger(replies)

        assert [str(message) for message in await replies] == ["one", "two"]
        assert counts.tasks == 1_000


async def test_stream_keeps_no_object_for_a_token() -> None:
    """An open stream keeps less than one object for every ten tokens that two readers have read."""
    tokens = 10_000
    kept: list[MessagePromise] = []

    async def endless(_: dict[str, Any]) -> AsyncIterator[str]:
        async for token in text_of(tokens):
            yield token
        await asyncio.Event().wait()

    async def read_a_stream() -> None:
        kept.append(Message.promise(message_token_streamer=endless))
        for reader in [aiter(kept[-1]), aiter(kept[-1])]:
            for _ in range(tokens):
                await anext(reader)

    async with MiniAgents():
        growth = await smallest_growth(read_a_stream, below=tokens // 10)
        for promise in kept:
            promise.cancel()
    assert growth < tokens // 10


async def test_tokens_that_arrive_at_once_wake_their_reader_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For 100,000 tokens that arrive at once, through ten agents, the loop takes as many steps as for 10."""
    monkeypatch.setattr(pauses_module, "perf_counter", lambda: 0.0)
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


class Clock:
    """Clock that only a test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        monkeypatch.setattr(pauses_module, "perf_counter", lambda: self.seconds)

    async def slow(self, pieces: int, seconds: float) -> AsyncIterator[str]:
        """Yield pieces without a wait, each after so many seconds of work."""
        for _ in range(pieces):
            self.seconds += seconds
            yield "word "

    async def watch(self, gaps: list[float]) -> None:
        """Append the seconds of each step of the loop to `gaps`."""
        while True:
            before = self.seconds
            await asyncio.sleep(0)
            gaps.append(self.seconds - before)


async def _awaited(promise: Any) -> None:
    await promise


async def _split(promise: Any) -> None:
    async for part in split_messages(promise):
        await part


@pytest.mark.parametrize("start_soon", [True, False])
def test_pauses_do_not_depend_on_the_machine_in_virtual_time(monkeypatch: pytest.MonkeyPatch, start_soon: bool) -> None:
    """A source that never waits lets other tasks run after the same pieces on a fast and on a slow machine."""

    async def steps_of_the_loop(seconds: float) -> int:
        """Return the number of steps in which 1,000 pieces of so many seconds are read."""
        gaps: list[float] = []
        clock = Clock(monkeypatch)
        async with MiniAgents():
            watching = asyncio.create_task(clock.watch(gaps))
            source = clock.slow(1_000, seconds)
            await _awaited(Message.promise(message_token_streamer=lambda _: source, start_soon=start_soon))
            watching.cancel()
        return len(gaps)

    fast, slow = (run_in_virtual_time(steps_of_the_loop(seconds)) for seconds in (0.0, 10.0))
    assert fast == slow
    assert fast >= 3


@pytest.mark.parametrize("microseconds", [0.1, 10, 1_000])
@pytest.mark.parametrize("start_soon", [True, False])
@pytest.mark.parametrize(
    ("make", "read"),
    [
        (MessagePromise, read_tokens),
        (MessagePromise, _awaited),
        (MessagePromise, _split),
        (lambda streamer, **options: StreamedPromise(lambda: streamer({}), **options), read_tokens),
        (lambda streamer, **_: MessageSequencePromise.of_items(streamer({})), read_tokens),
    ],
    ids=["tokens", "message", "split", "pieces", "sequence"],
)
async def test_source_that_never_waits_lets_other_tasks_run(
    make: Any, read: Any, start_soon: bool, microseconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step of the loop takes more than 5 ms for a source that never waits, whether it is fast or slow."""
    clock = Clock(monkeypatch)
    gaps: list[float] = []
    pieces = min(20_000, int(50_000 / microseconds))
    async with MiniAgents():
        watcher = asyncio.create_task(clock.watch(gaps))
        await asyncio.sleep(0)
        await read(make(lambda _: clock.slow(pieces, microseconds / 1e6), start_soon=start_soon))
        watcher.cancel()

    assert sum(gaps) >= 0.9 * pieces * microseconds / 1e6
    assert max(gaps) <= 0.005


@pytest.mark.parametrize(("microseconds", "first"), [(1, 0), (10, 20)], ids=["fast", "slow, once they run"])
@pytest.mark.parametrize(("links", "readers"), [(9, 1), (0, 20)], ids=["ten streams", "twenty readers"])
async def test_streams_that_never_wait_share_a_step_of_the_loop(
    links: int, readers: int, microseconds: float, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once ten streams in a chain, or twenty readers of one stream, run, no step of the loop takes more than 5 ms."""
    clock = Clock(monkeypatch)
    gaps: list[float] = []

    async def passed_on(tokens: Any) -> AsyncIterator[str]:
        async for token in tokens:
            clock.seconds += microseconds / 1e6
            yield token

    async def read(promise: MessagePromise) -> None:
        async for _ in passed_on(promise):
            pass

    async with MiniAgents():
        promise = Message.promise(message_token_streamer=lambda _: clock.slow(10_000, microseconds / 1e6))
        for _ in range(links):
            promise = Message.promise(message_token_streamer=lambda _, tokens=promise: passed_on(tokens))  # type: ignore[misc]
        watcher = asyncio.create_task(clock.watch(gaps))
        await asyncio.gather(*[read(promise) for _ in range(readers)])
        watcher.cancel()

    assert sum(gaps) >= 0.9 * 10_000 * microseconds / 1e6 * (links + readers)
    assert max(gaps[first:]) <= 0.005


@pytest.mark.parametrize("read", [aiter, MessagePromise.events], ids=["tokens", "events"])
async def test_reader_of_a_finished_message_lets_other_tasks_run(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of tokens or events that have all come already lets other tasks run after milliseconds of its work."""
    clock = Clock(monkeypatch)
    gaps: list[float] = []
    async with MiniAgents():
        promise = streamed(200_000)
        await promise
        watcher = asyncio.create_task(clock.watch(gaps))
        await asyncio.sleep(0)
        async for _ in read(promise):
            clock.seconds += 1e-7
        watcher.cancel()

    assert sum(gaps) >= 0.015
    assert max(gaps) <= 0.005


async def test_batches_of_a_finished_message_are_bounded() -> None:
    """A reader of batches gets the 200,000 tokens of a finished message in several lists."""
    async with MiniAgents():
        promise = streamed(200_000)
        await promise
        sizes = [len(batch) async for batch in promise.batches()]

    assert sum(sizes) == 200_000
    assert max(sizes) < 100_000


async def test_short_stream_looks_at_the_clock_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fast stream of 20 tokens asks for the time at its start, after the first token and after the ninth."""
    looks = 0

    def counting_clock() -> float:
        nonlocal looks
        looks += 1
        return 0.0

    monkeypatch.setattr(pauses_module, "perf_counter", counting_clock)
    async with MiniAgents():
        assert await read_tokens(streamed(20)) == 20

    assert looks == 3


async def test_source_on_demand_takes_few_steps_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that never waits gets, on average, at least 16 pieces of a source on demand in a step of the loop."""
    counts = Counts(monkeypatch)
    steps = []
    async with MiniAgents():
        for tokens in (1_000, 11_000):
            counts.restart()
            await read_tokens(MessagePromise(lambda _, size=tokens: text_of(size), start_soon=False))  # type: ignore[misc]
            steps.append(counts.steps)

    assert steps[1] - steps[0] <= 10_000 / 16


async def test_token_that_arrives_alone_takes_two_steps_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that arrives alone takes a step for its source's wait and one for its reader; agents add none."""
    counts = Counts(monkeypatch)
    steps = []
    async with MiniAgents():
        for tokens in (1_000, 2_000):
            counts.restart()
            assert await read_out(echo.trigger(echo.trigger(streamed(tokens, paced=True)))) == tokens
            steps.append(counts.steps)

    assert steps[1] - steps[0] == 2 * 1_000


async def test_message_of_a_dialog_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """If an agent reads the key of every message in each turn, each key is computed once."""
    digests = 0

    def counting_digest(*arguments: Any) -> str:
        nonlocal digests
        digests += 1
        return values.digest(*arguments)

    monkeypatch.setattr(frozen, "digest", counting_digest)

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


async def test_history_is_forwarded_without_a_promise_for_each_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Awaiting replies that repeat complete messages makes no promises for them; the first iteration makes one each."""
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
    """Response whose only event is 100 MB long."""

    def __init__(self) -> None:
        self.sent = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        piece = b"x" * 65_536
        yield b'data: {"choices": "'
        while self.sent < 100 * MB:
            self.sent += len(piece)
            yield piece


async def test_event_of_100_mb_is_refused_in_bounded_memory() -> None:
    """An agent stops an event of 100 MB early with an error, and does not hold the event in memory."""
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
