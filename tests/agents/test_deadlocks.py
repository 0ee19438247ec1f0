"""Agents that wait for each other are told so, and others are not (law 6)."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import pytest

from miniagents._promising.streamed import StreamAppender
from miniagents.errors import DeadlockError
from miniagents.messages import MessageSequence, MessageSequencePromise
from miniagents.miniagents import InteractionContext, MiniAgents, miniagent


async def awaits(ctx: InteractionContext, other: MessageSequencePromise) -> None:
    """Awaits the other's replies."""
    await other


async def reads(ctx: InteractionContext, other: MessageSequencePromise) -> None:
    """Reads the other's replies, and each of their texts."""
    async for promise in other:
        await promise


async def gathers(ctx: InteractionContext, other: MessageSequencePromise) -> None:
    """Awaits the other's replies among other things."""

    async def read() -> None:
        await other

    await asyncio.gather(read(), asyncio.sleep(0))


async def awaits_a_task(ctx: InteractionContext, other: MessageSequencePromise) -> None:
    """Has a task of its own do the waiting."""

    async def read() -> None:
        await other

    await asyncio.create_task(read())


async def joins(ctx: InteractionContext, other: MessageSequencePromise) -> None:
    """Awaits the other's replies as one message."""
    await other.as_single_text_promise()


async def hands_over(ctx: InteractionContext, other: MessageSequencePromise) -> None:
    """Has its own end wait for the other's, after it has worked for a while."""
    ctx.make_sure_to_wait(other)
    for _ in range(5):
        await asyncio.sleep(0)


async def calls(ctx: InteractionContext, other: MessageSequencePromise) -> None:
    """Has somebody else do the waiting, and awaits that one."""
    await reader.trigger(other)


@miniagent
async def reader(ctx: InteractionContext) -> None:
    """Waits for what it was sent."""
    await ctx.message_promises


WAITS = [awaits, reads, gathers, awaits_a_task, joins, hands_over, calls]


async def ring(length: int, wait: Any) -> list[MessageSequencePromise]:
    """Agents named A, B, C ... of which each waits for the next one's replies, and the last one for the first."""
    replies: list[MessageSequencePromise] = []

    @miniagent
    async def member(ctx: InteractionContext, index: int) -> None:
        await wait(ctx, replies[(index + 1) % length])
        ctx.reply("done")

    replies.extend(member.fork(alias=chr(ord("A") + index)).trigger(index=index) for index in range(length))
    return replies


@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.__name__)
@pytest.mark.parametrize("length", [1, 2, 5])
async def test_C10_a_ring_of_agents_is_reported(length: int, wait: Any) -> None:
    """However each waits for the next one; it ends at once, and the error names them."""
    async with MiniAgents(unobserved_errors="log"):
        replies = await ring(length, wait)
        with pytest.raises(DeadlockError) as caught:
            await replies[0]
        for index in range(length):
            assert chr(ord("A") + index) in str(caught.value)


@pytest.mark.parametrize("wait", [awaits, gathers, awaits_a_task, hands_over, calls], ids=lambda wait: wait.__name__)
async def test_others_at_work_do_not_hide_a_ring(wait: Any) -> None:
    """A ring that nobody else can help is reported although timers run and others work.

    The ways to wait that are left out read: another task might still append to what is read.
    """
    async with MiniAgents(unobserved_errors="log"):
        timer = asyncio.get_running_loop().call_later(3600, print)
        busy = asyncio.create_task(asyncio.Event().wait())
        replies = await ring(3, wait)
        with pytest.raises(DeadlockError, match="wait for each other"):
            await replies[0]
        timer.cancel()
        busy.cancel()


async def test_the_circle_is_named_in_order() -> None:
    """Who waits for whom."""
    async with MiniAgents(unobserved_errors="log"):
        replies = await ring(3, awaits)
        with pytest.raises(DeadlockError, match=r": (A -> B -> C -> A|B -> C -> A -> B|C -> A -> B -> C)\n"):
            await replies[0]
        alone = await ring(1, awaits)
        with pytest.raises(DeadlockError, match=": A -> A\n"):
            await alone[0]


async def test_agents_that_pass_on_each_others_replies_are_reported() -> None:
    """Nobody waits then: whoever reads would read for ever."""
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


async def test_C11_a_call_that_is_never_finished_is_reported() -> None:
    """Awaited by the one who would have to finish it, in the body or in an agent."""

    @miniagent
    async def caller(ctx: InteractionContext) -> None:
        await reader.initiate_call("hello").reply_sequence(finish_call=False)

    async with MiniAgents(unobserved_errors="log"):
        with pytest.raises(DeadlockError, match="never finished"):
            await reader.initiate_call("hello").reply_sequence(finish_call=False)
        with pytest.raises(DeadlockError, match="CALLER, READER all wait"):
            await caller.trigger()


async def test_it_is_reported_as_well_while_the_context_waits_for_its_agents() -> None:
    """The body has ended, and the agents that are left hold each other up."""
    with pytest.raises(ExceptionGroup) as caught:
        async with MiniAgents():
            replies = await ring(2, awaits)
    assert [type(error) for error in caught.value.exceptions] == [DeadlockError]
    assert all(each.is_done for each in replies)


async def test_the_error_is_the_agents_to_handle() -> None:
    """It is raised where the wait would have begun, and all others go on if it is caught there."""
    replies: list[MessageSequencePromise] = []

    @miniagent
    async def member(ctx: InteractionContext, other: int) -> None:
        try:
            ctx.reply(await replies[other])
        except DeadlockError:
            ctx.reply("somebody had to give in")

    async with MiniAgents():
        replies.extend([member.trigger(other=1), member.trigger(other=0)])
        assert [str(message) for message in await replies[0]] == ["somebody had to give in"]


# --- what is no deadlock


async def test_a_helper_that_replies_later_is_no_deadlock() -> None:
    """An agent reads its own replies, and a task of its own still adds to them."""
    replies: list[MessageSequencePromise] = []
    seen: list[str] = []

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        async def helper() -> None:
            for _ in range(5):
                await asyncio.sleep(0)
            ctx.reply("later")

        task = asyncio.create_task(helper())
        async for promise in replies[0]:
            seen.append(str(await promise))
            break
        await task

    async with MiniAgents():
        replies.append(agent.trigger())
        await replies[0]
    assert seen == ["later"]


@pytest.mark.parametrize("how", ["timeout", "wait_for", "call"])
async def test_a_ring_with_a_deadline_is_no_deadlock(how: str) -> None:
    """One of them gives up after a while, and then all can go on."""
    replies: list[MessageSequencePromise] = []

    async def awaited(promise: MessageSequencePromise) -> None:
        await promise

    @miniagent
    async def patient(ctx: InteractionContext) -> None:
        try:
            if how == "timeout":
                async with asyncio.timeout(0.01):
                    await replies[1]
            elif how == "wait_for":
                await asyncio.wait_for(awaited(replies[1]), 0.01)
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


@pytest.mark.parametrize("who", ["agent", "task", "timer", "thread", "file"])
async def test_a_call_that_somebody_else_may_still_finish_is_no_deadlock(who: str) -> None:
    """The one who awaits it cannot finish it, but others can: another agent, a task, a timer, a thread, a file."""

    @miniagent
    async def finishing(ctx: InteractionContext) -> None:
        await asyncio.sleep(0.001)
        call.finish()

    def finish() -> None:
        call.send_message("from outside").finish()

    async with MiniAgents():
        call = reader.initiate_call("hello")
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        thread = threading.Thread(target=lambda: (let_go.wait(), loop.call_soon_threadsafe(finish)))
        let_go = threading.Event()
        if who == "agent":
            replies = finishing.trigger()
            assert not replies.is_done
        elif who == "task":
            task = asyncio.create_task(asyncio.sleep(0.001))
            task.add_done_callback(lambda _: finish())
        elif who == "timer":
            loop.call_later(0.001, finish)
        elif who == "thread":
            thread.start()
            os.write(writing, b"x")
            loop.call_soon(loop.call_soon, loop.call_soon, let_go.set)
        else:
            loop.add_reader(reading, finish)
            threading.Timer(0.01, os.write, (writing, b"x")).start()
        assert await call.reply_sequence(finish_call=False) == ()
        loop.remove_reader(reading)
        os.close(reading)
        os.close(writing)
        if who == "thread":
            thread.join()


async def test_waiting_for_the_same_agent_is_no_deadlock() -> None:
    """Many agents wait for one, in rings of references but not of waits."""

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
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


async def _awaited(promise: MessageSequencePromise) -> None:
    await promise


async def test_an_appender_that_others_fill_is_no_deadlock() -> None:
    """Agents that feed each other through appenders, one message at a time."""
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


async def test_two_loops_do_not_mistake_each_other() -> None:
    """A wait in one loop is no affair of another one: each looks at its own."""

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
