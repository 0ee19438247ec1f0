"""Waits without an end, shape by shape: reported at once on a virtual-time loop, with everybody who is in it (law 6).

Circles of promises are the framework's own to report, in order. What else closes a circle (a queue, an event, a group
of tasks) nobody can see while something might still happen; when nothing can, the loop says who waits where.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from miniagents import (
    DeadlockError,
    InMemoryChatHistory,
    InteractionContext,
    MessageSequence,
    MessageSequencePromise,
    MiniAgents,
    Promise,
    StreamAppender,
    join_messages,
    miniagent,
    split_messages,
)
from miniagents_testing import run_in_virtual_time, schedules, search_schedules
from miniagents_testing.errors import IdleLoopError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    Wait = Callable[[InteractionContext, MessageSequencePromise], Awaitable[object]]
    Shape = Callable[[], Coroutine[Any, Any, object]]


async def ring(length: int, wait: Wait) -> None:
    """Agents A, B, C ... of which each waits for the replies of the next one, and the last one for the first."""
    replies: list[MessageSequencePromise] = []

    @miniagent
    async def member(ctx: InteractionContext, index: int) -> None:
        await wait(ctx, replies[(index + 1) % length])
        ctx.reply("done")

    async with MiniAgents(unobserved_errors="log"):
        for index in range(length):
            replies.append(member.fork(alias=chr(ord("A") + index)).trigger(index=index))
        await replies[0]


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def alone() -> None:
    """An agent that awaits its own replies."""
    await ring(1, lambda _, other: _awaited(other))


async def pair() -> None:
    """Two that await each other's."""
    await ring(2, lambda _, other: _awaited(other))


async def ring_of_seven() -> None:
    """And so on."""
    await ring(7, lambda _, other: _awaited(other))


async def through_a_join() -> None:
    """What is awaited is made of the other's replies."""
    await ring(2, lambda _, other: _awaited(join_messages(other)))


async def through_a_split() -> None:
    """The parts of the other's reply."""
    await ring(2, lambda _, other: _awaited(split_messages(other)))


async def through_a_history() -> None:
    """The other's replies are to be stored first."""
    await ring(2, lambda _, other: InMemoryChatHistory().aappend(other))


async def through_another_agent() -> None:
    """Somebody who passes on what it is sent."""

    @miniagent
    async def echo(ctx: InteractionContext) -> None:
        ctx.reply(await ctx.message_promises)

    await ring(2, lambda _, other: _awaited(echo.trigger(other)))


async def through_gather() -> None:
    """One of several things."""
    await ring(2, lambda _, other: asyncio.gather(_awaited(other), asyncio.sleep(1)))


async def through_what_is_handed_over() -> None:
    """The ends of the agents wait for each other, after they have returned."""

    async def hand_over(ctx: InteractionContext, other: MessageSequencePromise) -> None:
        ctx.make_sure_to_wait(other)

    await ring(2, hand_over)


async def promises_of_each_other() -> None:
    """No agents at all; the one who asks first closes the circle."""
    promises: list[Promise[Any]] = []
    async with MiniAgents(unobserved_errors="log"):
        promises.append(Promise(lambda: _awaited(promises[1]), start_soon=False))
        promises.append(Promise(lambda: _awaited(promises[0]), start_soon=False))
        await promises[0]


CIRCLES = [
    (alone, "A"),
    (pair, "AB"),
    (ring_of_seven, "ABCDEFG"),
    (through_a_join, "AB"),
    (through_a_split, "AB"),
    (through_a_history, "AB"),
    (through_another_agent, "AB"),
    (through_gather, "AB"),
    (through_what_is_handed_over, "AB"),
    (promises_of_each_other, ""),
]


async def a_call_never_finished() -> None:
    """The one who awaits it would have to finish it."""

    @miniagent
    async def listener(ctx: InteractionContext) -> None:
        await ctx.message_promises

    @miniagent
    async def caller(ctx: InteractionContext) -> None:
        await listener.initiate_call("hello").reply_sequence(finish_call=False)

    async with MiniAgents(unobserved_errors="log"):
        await caller.trigger()


async def an_appender_never_closed() -> None:
    """Filled, read, and left open."""

    @miniagent
    async def reader(ctx: InteractionContext) -> None:
        appender = StreamAppender[str]().open().append("piece")
        async for _ in appender.promise:
            pass

    async with MiniAgents(unobserved_errors="log"):
        await reader.trigger()


async def a_sequence_never_closed() -> None:
    """One that was not even opened."""

    @miniagent
    async def reader(ctx: InteractionContext) -> None:
        await MessageSequence().sequence_promise

    async with MiniAgents(unobserved_errors="log"):
        await reader.trigger()


OPEN_ENDS = [
    (a_call_never_finished, ["CALLER", "LISTENER"]),
    (an_appender_never_closed, ["READER"]),
    (a_sequence_never_closed, ["READER"]),
]


async def through_a_task_group() -> None:
    """The waiting is done by a task of a group."""

    async def wait(ctx: InteractionContext, other: MessageSequencePromise) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_awaited(other))

    await ring(2, wait)


async def through_a_queue() -> None:
    """Each waits for the other to begin."""
    queues = [asyncio.Queue[str](), asyncio.Queue[str]()]

    @miniagent
    async def player(ctx: InteractionContext, mine: int) -> None:
        ball = await queues[mine].get()
        queues[1 - mine].put_nowait(ball)

    async with MiniAgents():
        players = [player.fork(alias="AB"[index]).trigger(mine=index) for index in range(2)]
        await asyncio.gather(*map(_awaited, players))


async def through_an_event() -> None:
    """It is set by one who waits for the one who waits for it."""
    event = asyncio.Event()

    @miniagent
    async def sleeper(ctx: InteractionContext) -> None:
        await event.wait()

    @miniagent
    async def waker(ctx: InteractionContext, other: MessageSequencePromise) -> None:
        await other
        event.set()

    async with MiniAgents():
        await waker.fork(alias="B").trigger(other=sleeper.fork(alias="A").trigger())


async def through_locks() -> None:
    """Two of them, taken in two orders."""
    locks = [asyncio.Lock(), asyncio.Lock()]

    @miniagent
    async def holder(ctx: InteractionContext, first: int) -> None:
        async with locks[first]:
            await asyncio.sleep(1)
            async with locks[1 - first]:
                ctx.reply("both")

    async with MiniAgents():
        replies = [holder.fork(alias="AB"[index]).trigger(first=index) for index in range(2)]
        await asyncio.gather(*map(_awaited, replies))


async def beside_a_heartbeat() -> None:
    """A pair, while an agent of the program's does something every second, for ten seconds."""

    async def wait(ctx: InteractionContext, other: MessageSequencePromise) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_awaited(other))

    async def beat() -> None:
        for _ in range(10):
            await asyncio.sleep(1)

    beating = asyncio.create_task(beat())
    await ring(2, wait)
    await beating


UNSEEN = [through_a_task_group, through_a_queue, through_an_event, through_locks, beside_a_heartbeat]


def _name(each: Any) -> Any:
    if not callable(each):
        return ""
    return f"{'C11' if each is a_call_never_finished else 'C10'}-{each.__name__}"


@pytest.mark.parametrize("seed", [None, *schedules(10)])
@pytest.mark.parametrize(("shape", "members"), CIRCLES, ids=_name)
def test_a_circle_is_told_in_order(shape: Shape, members: str, seed: int | None) -> None:
    """Under any schedule; from wherever it was found, with the first one again at its end."""
    with pytest.raises(DeadlockError, match="These wait for each other and would wait for ever: ") as caught:
        run_in_virtual_time(shape(), seed=seed)
    assert not isinstance(caught.value, IdleLoopError)
    circle = str(caught.value).partition("for ever: ")[2].split("\n")[0].split(" -> ")
    assert circle[0] == circle[-1]
    if members:
        agents = [name for name in circle[:-1] if len(name) == 1]
        start = agents.index("A")
        assert "".join(dict.fromkeys(agents[start:] + agents[:start])) == members


@pytest.mark.parametrize("seed", [None, *schedules(10)])
@pytest.mark.parametrize(("shape", "members"), OPEN_ENDS, ids=_name)
def test_a_source_that_nobody_will_end_is_told(shape: Shape, members: list[str], seed: int | None) -> None:
    """As soon as all others wait as well; with what was forgotten."""
    with pytest.raises(DeadlockError, match="never finished, or an appender never closed") as caught:
        run_in_virtual_time(shape(), seed=seed)
    assert all(name in str(caught.value) for name in members)


@pytest.mark.parametrize("seed", [None, *schedules(10)])
@pytest.mark.parametrize("shape", UNSEEN, ids=_name)
def test_what_nobody_can_see_is_told_when_the_loop_goes_idle(shape: Shape, seed: int | None) -> None:
    """At once, with all who take part, and the line in which each of them waits."""
    with pytest.raises(IdleLoopError) as caught:
        run_in_virtual_time(shape(), seed=seed)
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert {"A", "B"} <= set(lines)
    assert sum(line.startswith(f'File "{__file__}"') for line in lines) >= 2


# --- no false reports


async def slow_ones() -> None:
    """A diamond of waits, with timers, threads, deadlines and a lock, in which everybody gets what it waits for."""
    lock = asyncio.Lock()

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        async with lock:
            await asyncio.sleep(5)
        ctx.reply(await asyncio.to_thread(str, 7))

    @miniagent
    async def diamond(ctx: InteractionContext, depth: int) -> None:
        if not depth:
            ctx.reply(ctx.message_promises)
            return
        below = [diamond.trigger(ctx.message_promises, depth=depth - 1) for _ in range(2)]
        async with asyncio.TaskGroup() as group:
            for each in below:
                group.create_task(_awaited(each))
        ctx.reply(below)

    async with MiniAgents():
        replies = await diamond.trigger([slow.trigger(), slow.trigger()], depth=3)
        assert [str(message) for message in replies] == ["7"] * 16


async def ping_pong() -> None:
    """Each waits for the other, in turn; one is always at work."""
    sequences = [MessageSequence(), MessageSequence()]

    @miniagent
    async def player(ctx: InteractionContext, mine: int) -> None:
        with sequences[mine] as out:
            if not mine:
                out.append("0")
            async for promise in sequences[1 - mine].sequence_promise:
                number = int(str(await promise))
                if number >= 10:
                    break
                await asyncio.sleep(0.5)
                out.append(str(number + 1))

    async with MiniAgents():
        for index in range(2):
            player.trigger(mine=index)


async def a_ring_with_a_deadline() -> None:
    """One gives up after a while, and all can go on."""
    replies: list[MessageSequencePromise] = []

    @miniagent
    async def member(ctx: InteractionContext, index: int) -> None:
        await replies[1 - index]

    async with MiniAgents(unobserved_errors="log"):
        replies.append(member.trigger(index=0, timeout=60))
        replies.append(member.trigger(index=1))
        with pytest.raises(TimeoutError):
            await replies[1]


@pytest.mark.parametrize("shape", [slow_ones, ping_pong, a_ring_with_a_deadline], ids=_name)
def test_waits_that_end_are_not_told(shape: Shape) -> None:
    """Under no schedule."""
    search_schedules(shape, schedules(50))
