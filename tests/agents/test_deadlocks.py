"""Deadlocks of agents that wait for each other in a ring, and similar waits that are no deadlock (law 6)."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from contextlib import suppress
from typing import Any

import pytest
from common import steps

from miniagents._promising.streamed import StreamAppender
from miniagents.errors import DeadlockError
from miniagents.messages import MessageSequence, MessageSequencePromise
from miniagents.miniagents import InteractionContext, MiniAgents, miniagent


async def awaits(ctx: InteractionContext, other: MessageSequencePromise) -> None:
    """Await the other agent's replies."""
    await other


async def gathers(ctx: InteractionContext, other: MessageSequencePromise) -> None:
    """Await the other agent's replies among other things."""
    await asyncio.gather(_awaited(other), asyncio.sleep(0))


async def awaits_a_task(ctx: InteractionContext, other: MessageSequencePromise) -> None:
    """Await a task that awaits the other agent's replies."""
    await asyncio.create_task(_awaited(other))


async def waits_at_its_end(ctx: InteractionContext, other: MessageSequencePromise) -> None:
    """Let the end of this agent wait for the other agent's end, after some work."""
    ctx.make_sure_to_wait(other)
    await steps(5)


async def calls(ctx: InteractionContext, other: MessageSequencePromise) -> None:
    """Await a third agent, which awaits the other agent's replies."""
    await reader.trigger(other)


async def reads(ctx: InteractionContext, other: MessageSequencePromise) -> None:
    """Read the other agent's replies one by one, and each of their texts."""
    async for promise in other:
        await promise


async def joins(ctx: InteractionContext, other: MessageSequencePromise) -> None:
    """Await the other agent's replies as one message."""
    await other.as_single_text_promise()


@miniagent
async def reader(ctx: InteractionContext) -> None:
    """Wait for the messages that the agent was sent."""
    await ctx.message_promises


async def _awaited(promise: MessageSequencePromise) -> None:
    """Await the promise in a coroutine."""
    await promise


WAITS_FOR_ENDS = [awaits, gathers, awaits_a_task, waits_at_its_end, calls]


async def ring(length: int, wait: Any) -> list[MessageSequencePromise]:
    """Call agents A, B, C ... of which each waits for the replies of the next one, and the last one for the first."""
    replies: list[MessageSequencePromise] = []

    @miniagent
    async def member(ctx: InteractionContext, index: int) -> None:
        await wait(ctx, replies[(index + 1) % length])
        ctx.reply("done")

    replies.extend(member.fork(alias=chr(ord("A") + index)).trigger(index=index) for index in range(length))
    return replies


@pytest.mark.parametrize("wait", WAITS_FOR_ENDS, ids=lambda wait: wait.__name__)
@pytest.mark.parametrize("length", [1, 2, 5])
async def test_C10_ring_of_agents_raises_deadlock_error_with_their_names(length: int, wait: Any) -> None:
    """Agents that wait for each other in a ring get a `DeadlockError` with their names, even if a timer is pending."""
    async with MiniAgents(unobserved_errors="log"):
        timer = asyncio.get_running_loop().call_later(3600, print)
        busy = asyncio.create_task(asyncio.Event().wait())
        replies = await ring(length, wait)
        with pytest.raises(DeadlockError, match="wait for each other") as caught:
            await replies[0]
        for index in range(length):
            assert chr(ord("A") + index) in str(caught.value)
        timer.cancel()
        busy.cancel()


@pytest.mark.parametrize("wait", [reads, joins], ids=lambda wait: wait.__name__)
@pytest.mark.parametrize("length", [1, 2, 5])
async def test_ring_of_agents_that_read_one_by_one_logs_a_warning_with_their_names(
    length: int, wait: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A ring of agents that read one by one only logs a warning, because another task may still send a message."""
    async with MiniAgents():
        replies = await ring(length, wait)
        await steps(50)
        assert not any(each.is_done for each in replies)
        for each in replies:
            each.cancel()
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    for index in range(length):
        assert chr(ord("A") + index) in warning


async def test_deadlock_error_names_agents_in_the_order_of_their_waits() -> None:
    """The text of `DeadlockError` lists the agents in the order of their waits, and the first one again at the end."""
    async with MiniAgents(unobserved_errors="log"):
        replies = await ring(3, awaits)
        orders = "|".join(" -> ".join(f"{name}#1" for name in order) for order in ("ABCA", "BCAB", "CABC"))
        with pytest.raises(DeadlockError, match=rf": ({orders})\n"):
            await replies[0]
        alone = await ring(1, awaits)
        with pytest.raises(DeadlockError, match=": A#2 -> A#2\n"):
            await alone[0]


async def test_deadlock_error_reaches_all_agents_of_the_ring() -> None:
    """Readers of all agents of a ring get the same `DeadlockError` object."""
    async with MiniAgents():
        replies = await ring(3, awaits)
        errors = await asyncio.gather(*map(_awaited, replies), return_exceptions=True)
    assert isinstance(errors[0], DeadlockError)
    assert errors == [errors[0]] * 3


async def test_agents_that_forward_each_others_replies_raise_deadlock_error_in_readers() -> None:
    """If two agents reply each other's replies, readers of either get `DeadlockError`, although no agent waits."""
    replies: list[MessageSequencePromise] = []

    @miniagent
    async def member(ctx: InteractionContext, other: int) -> None:
        ctx.reply(["text", replies[other]])

    async with MiniAgents():
        replies.extend([member.trigger(other=1), member.trigger(other=0)])
        for each in replies:
            with pytest.raises(DeadlockError, match="MEMBER -> MEMBER"):
                await each
            with pytest.raises(DeadlockError):
                async for _ in each:
                    pass


async def test_ring_of_agents_raises_deadlock_error_after_the_body_has_ended() -> None:
    """If agents wait for each other while the context is left, the context raises `DeadlockError` and ends."""
    with pytest.raises(ExceptionGroup) as caught:
        async with MiniAgents():
            replies = await ring(2, awaits)
    assert [type(error) for error in caught.value.exceptions] == [DeadlockError]
    assert all(each.is_done for each in replies)


async def test_agent_may_catch_deadlock_error() -> None:
    """If one agent of a ring catches the `DeadlockError` at its wait, that agent and the others go on."""
    replies: list[MessageSequencePromise] = []

    @miniagent
    async def member(ctx: InteractionContext, other: int) -> None:
        try:
            ctx.reply(await replies[other])
        except DeadlockError:
            ctx.reply("caught")

    async with MiniAgents():
        replies.extend([member.trigger(other=1), member.trigger(other=0)])
        for each in replies:
            assert [str(message) for message in await each] == ["caught"]


# --- waits that are no deadlock


async def test_ring_that_a_task_of_the_agent_ends_logs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """An agent that reads its own replies, which a helper task sends, logs a warning and still gets them all."""
    replies: list[MessageSequencePromise] = []
    seen: list[str] = []

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        async def helper() -> None:
            for number in range(3):
                await steps(5)
                ctx.reply(str(number))

        task = asyncio.create_task(helper())
        async for promise in replies[0]:
            seen.append(str(await promise))
            if len(seen) == 3:
                break
        await task

    async with MiniAgents():
        replies.append(agent.trigger())
        await replies[0]
    assert seen == ["0", "1", "2"]
    [warning] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.endswith(": AGENT#1 -> AGENT#1")


@pytest.mark.parametrize("how", ["timeout", "wait_for", "call"])
async def test_ring_with_a_timeout_is_no_deadlock(how: str) -> None:
    """If one agent of a ring has a timeout, it gives up after that time, and the other agent goes on."""
    replies: list[MessageSequencePromise] = []

    @miniagent
    async def patient(ctx: InteractionContext) -> None:
        try:
            if how == "timeout":
                async with asyncio.timeout(0.01):
                    await replies[1]
            elif how == "wait_for":
                await asyncio.wait_for(_awaited(replies[1]), 0.01)
            else:
                await replies[1]
        except TimeoutError:
            ctx.reply("gave up")

    @miniagent
    async def waiting(ctx: InteractionContext) -> None:
        try:
            ctx.reply(await replies[0])
        except TimeoutError:
            ctx.reply("gave up")

    async with MiniAgents():
        replies.extend([patient.trigger(timeout=0.01 if how == "call" else None), waiting.trigger()])
        assert [str(message) for message in await replies[1]] == ["gave up"]


@pytest.mark.parametrize("wait", [awaits, reads], ids=lambda wait: wait.__name__)
async def test_ring_through_a_task_that_is_awaited_with_a_timeout_is_no_deadlock(
    wait: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A ring of an agent and a task is not reported if the body waits for the task with a timeout that cancels it."""
    replies: list[MessageSequencePromise] = []
    tasks: list[asyncio.Task[None]] = []

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        tasks.append(asyncio.create_task(wait(ctx, replies[0])))
        with suppress(asyncio.CancelledError):
            await tasks[0]
        ctx.reply("gave up")

    async with MiniAgents():
        replies.append(agent.trigger())
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.gather(*tasks)
        assert [str(message) for message in await replies[0]] == ["gave up"]
    assert not caplog.records


@pytest.mark.parametrize("helper", ["agent", "task", "timer", "new thread", "old thread", "file"])
async def test_wait_for_a_call_that_other_code_finishes_is_no_deadlock(helper: str) -> None:
    """The body may await a call that an agent, a task, a timer, a thread or a file callback finishes later."""

    @miniagent
    async def finishing(ctx: InteractionContext) -> None:
        await asyncio.sleep(0.001)
        call.finish()

    def finish() -> None:
        call.send_message("from outside").finish()

    released = threading.Event()
    thread = threading.Thread(target=lambda: (released.wait(), loop.call_soon_threadsafe(finish)))
    if helper == "old thread":  # older than the context
        thread.start()
    async with MiniAgents():
        call = reader.initiate_call("hello")
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        if helper == "agent":
            replies = finishing.trigger()
            assert not replies.is_done
        elif helper == "task":
            task = asyncio.create_task(asyncio.sleep(0.001))
            task.add_done_callback(lambda _: finish())
        elif helper == "timer":
            loop.call_later(0.001, finish)
        elif helper == "file":
            loop.add_reader(reading, finish)
            threading.Timer(0.01, os.write, (writing, b"x")).start()
        else:
            if helper == "new thread":
                thread.start()
            threading.Timer(0.01, released.set).start()
        assert await call.reply_sequence(finish_call=False) == ()
        loop.remove_reader(reading)
        os.close(reading)
        os.close(writing)
    if "thread" in helper:
        thread.join()


async def test_waits_for_the_same_agent_are_no_deadlock() -> None:
    """Many agents that all wait for one slow agent, directly or through each other, get its replies."""

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        await steps(20)
        ctx.reply("slow")

    @miniagent
    async def diamond(ctx: InteractionContext, depth: int) -> None:
        if depth:
            below = [diamond.trigger(ctx.message_promises, depth=depth - 1) for _ in range(2)]
            await asyncio.gather(*[_awaited(each) for each in below])
            ctx.reply(below)
        else:
            ctx.reply(ctx.message_promises)

    async with MiniAgents():
        assert len(await diamond.trigger(slow.trigger(), depth=5)) == 32


async def test_agents_that_append_to_each_others_sequences_are_no_deadlock(caplog: pytest.LogCaptureFixture) -> None:
    """Two agents may answer each other one message at a time through two sequences, without an error or a warning."""
    rounds = 20

    @miniagent
    async def player(ctx: InteractionContext, mine: MessageSequence, other: MessageSequencePromise) -> None:
        with mine:
            if ctx.this_agent.alias == "FIRST":
                mine.append("0")
            async for promise in other:
                number = int(str(await promise))
                if number >= rounds:
                    break
                mine.append(str(number + 1))

    async with MiniAgents():
        one = MessageSequence()
        two = MessageSequence()
        player.fork(alias="FIRST").trigger(mine=one, other=two.sequence_promise)
        player.trigger(mine=two, other=one.sequence_promise)
        assert len(await one.sequence_promise) + len(await two.sequence_promise) >= rounds
    assert not caplog.records


async def test_deadlock_in_one_loop_leaves_other_loops_alone() -> None:
    """A deadlock in one event loop does not disturb a wait in the event loop of another thread."""

    async def waits_for_a_while() -> Any:
        async with MiniAgents():
            appender = StreamAppender[str]().open()
            asyncio.get_running_loop().call_later(0.02, appender.close)
            return await appender.promise

    async def deadlocks() -> None:
        async with MiniAgents(unobserved_errors="log"):
            await (await ring(2, awaits))[0]

    results: tuple[Any, Any] = await asyncio.gather(
        asyncio.to_thread(asyncio.run, waits_for_a_while()),
        asyncio.to_thread(asyncio.run, deadlocks()),
        return_exceptions=True,
    )
    assert results[0] == ()
    assert isinstance(results[1], DeadlockError)
