"""Waits that may never end, in each shape and on each event loop (law 6).

A shape is a small program. A ring is a circle of promises, agents or streams of which each waits for the next one.
Each shape runs on asyncio's loop, on uvloop, and in virtual time under several schedules. Rings of promises are
reported alike on all of them. Only a virtual-time loop reports other waits, when it goes idle.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from common import steps

from miniagents import (
    DeadlockError,
    InMemoryChatHistory,
    InteractionContext,
    MessageSequence,
    MessageSequencePromise,
    MiniAgents,
    Promise,
    StreamAppender,
    StreamedPromise,
    join_messages,
    miniagent,
    split_messages,
)
from miniagents_testing import run_in_virtual_time, schedules, search_schedules
from miniagents_testing.errors import IdleLoopError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    Wait = Callable[[InteractionContext, MessageSequencePromise], Awaitable[object]]
    Shape = Callable[[], Coroutine[Any, Any, object]]

A_WHILE = 0.05
"""Seconds after which a test on a loop in real time takes a wait for one that does not end."""


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return the function of a library that makes event loops; skip the test if the library is not installed."""
    if name == "asyncio":
        return asyncio.new_event_loop
    uvloop: Any = pytest.importorskip("uvloop", reason="uvloop has no version for Windows")
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def ring(length: int, wait: Wait) -> None:
    """Call agents A, B, C ... of which each waits for the replies of the next one, and the last one for the first."""
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


# --- rings that no other task can end


async def alone() -> None:
    """Let an agent await its own replies."""
    await ring(1, lambda _, other: _awaited(other))


async def pair() -> None:
    """Let two agents await each other's replies."""
    await ring(2, lambda _, other: _awaited(other))


async def ring_of_seven() -> None:
    """Let seven agents await each other's replies in a ring."""
    await ring(7, lambda _, other: _awaited(other))


async def through_another_agent() -> None:
    """Let each of two agents send the other's replies to an echo agent, and await its answer."""

    @miniagent
    async def echo(ctx: InteractionContext) -> None:
        ctx.reply(await ctx.message_promises)

    await ring(2, lambda _, other: _awaited(echo.trigger(other)))


async def through_a_task() -> None:
    """Let each of two agents await the other's replies in a task of its own."""
    await ring(2, lambda _, other: asyncio.create_task(_awaited(other)))


async def through_gather() -> None:
    """Let each of two agents wait for the other's replies and for a timer."""
    await ring(2, lambda _, other: asyncio.gather(_awaited(other), asyncio.sleep(1)))


async def through_make_sure_to_wait() -> None:
    """Let each of two agents return at once, with `make_sure_to_wait` for the other's replies."""

    async def wait_at_the_end(ctx: InteractionContext, other: MessageSequencePromise) -> None:
        ctx.make_sure_to_wait(other)

    await ring(2, wait_at_the_end)


async def through_a_timeout_without_limit() -> None:
    """Let each of two agents wait for the other's replies under a timeout that has no deadline."""

    async def wait(ctx: InteractionContext, other: MessageSequencePromise) -> None:
        async with asyncio.timeout(60) as left:
            await asyncio.sleep(0)
        async with asyncio.timeout(None):
            await other
        assert not left.expired()

    await ring(2, wait)


async def promises_of_each_other() -> None:
    """Let two promises await each other; the first reader starts both."""
    promises: list[Promise[Any]] = []
    async with MiniAgents(unobserved_errors="log"):
        promises.append(Promise(lambda: _awaited(promises[1]), start_soon=False))
        promises.append(Promise(lambda: _awaited(promises[0]), start_soon=False))
        await promises[0]


async def streams_of_each_other() -> None:
    """Let two streams yield each other's pieces, so that neither gets a first piece."""
    streams: list[StreamedPromise[str, tuple[str, ...]]] = []

    def pieces_of(index: int) -> Callable[[], AsyncIterator[str]]:
        async def pieces() -> AsyncIterator[str]:
            async for piece in streams[index]:
                yield piece

        return pieces

    async with MiniAgents(unobserved_errors="log"):
        streams.extend([StreamedPromise(pieces_of(1)), StreamedPromise(pieces_of(0))])
        await streams[0]


async def _out_of_order(wait: Wait) -> None:
    """Run agent A, which replies the replies of B out of order, and agent B, which waits for them."""

    async def copy_or_wait(ctx: InteractionContext, other: MessageSequencePromise) -> None:
        if ctx.this_agent.alias == "A":
            ctx.reply_out_of_order(other)
        else:
            await wait(ctx, other)

    await ring(2, copy_or_wait)


async def through_replies_out_of_order() -> None:
    """Let agent A copy the replies of B into its own as they come, while B awaits all replies of A."""
    await _out_of_order(lambda _, other: _awaited(other))


DEADLOCKS = [
    (alone, "A"),
    (pair, "AB"),
    (ring_of_seven, "ABCDEFG"),
    (through_another_agent, "AB"),
    (through_a_task, "AB"),
    (through_gather, "AB"),
    (through_make_sure_to_wait, "AB"),
    (through_a_timeout_without_limit, "AB"),
    (through_replies_out_of_order, "B"),
    (promises_of_each_other, ""),
    (streams_of_each_other, ""),
]


# --- rings that another task may end


async def _read(ctx: InteractionContext, other: MessageSequencePromise) -> None:
    async for promise in other:
        await promise


async def one_by_one() -> None:
    """Let each of two agents read the other's replies one by one."""
    await ring(2, _read)


async def through_a_join() -> None:
    """Let each of two agents await the other's replies as one joined message."""
    await ring(2, lambda _, other: _awaited(join_messages(other)))


async def through_a_split() -> None:
    """Let each of two agents await the split parts of the other's replies."""
    await ring(2, lambda _, other: _awaited(split_messages(other)))


async def through_a_history() -> None:
    """Let each of two agents store the other's replies in a history before it replies."""
    await ring(2, lambda _, other: InMemoryChatHistory().aappend(other))


async def reading_replies_out_of_order() -> None:
    """Let agent A copy the replies of B into its own as they come, while B reads those of A one by one."""
    await _out_of_order(_read)


READERS = [
    (one_by_one, "AB"),
    (through_a_join, "AB"),
    (through_a_split, "AB"),
    (through_a_history, "AB"),
    (reading_replies_out_of_order, "B"),
]


# --- waits that are no ring of promises


async def a_call_never_finished() -> None:
    """Let an agent await replies to a call that the agent itself never finishes."""

    @miniagent
    async def listener(ctx: InteractionContext) -> None:
        await ctx.message_promises

    @miniagent
    async def caller(ctx: InteractionContext) -> None:
        await listener.initiate_call("hello").reply_sequence(finish_call=False)

    async with MiniAgents(unobserved_errors="log"):
        await caller.trigger()


async def an_appender_never_closed() -> None:
    """Let an agent read a stream whose appender is left open."""

    @miniagent
    async def reader(ctx: InteractionContext) -> None:
        appender = StreamAppender[str]().open().append("piece")
        async for _ in appender.promise:
            pass

    async with MiniAgents(unobserved_errors="log"):
        await reader.trigger()


async def a_sequence_never_closed() -> None:
    """Let an agent await a sequence whose appender was never opened."""

    @miniagent
    async def reader(ctx: InteractionContext) -> None:
        await MessageSequence().sequence_promise

    async with MiniAgents(unobserved_errors="log"):
        await reader.trigger()


async def through_a_task_group() -> None:
    """Let each of two agents await the other's replies in a task group."""

    async def wait(ctx: InteractionContext, other: MessageSequencePromise) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_awaited(other))

    await ring(2, wait)


async def through_a_queue() -> None:
    """Let each of two agents wait for a first item from the other's queue."""
    queues = [asyncio.Queue[str](), asyncio.Queue[str]()]

    @miniagent
    async def player(ctx: InteractionContext, mine: int) -> None:
        ball = await queues[mine].get()
        queues[1 - mine].put_nowait(ball)

    async with MiniAgents():
        players = [player.fork(alias="AB"[index]).trigger(mine=index) for index in range(2)]
        await asyncio.gather(*map(_awaited, players))


async def through_an_event() -> None:
    """Let agent A wait for an event that agent B sets only after it has all replies of A."""
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
    """Let two agents take two locks in opposite orders."""
    locks = [asyncio.Lock(), asyncio.Lock()]

    @miniagent
    async def holder(ctx: InteractionContext, first: int) -> None:
        async with locks[first]:
            await asyncio.sleep(A_WHILE / 10)
            async with locks[1 - first]:
                ctx.reply("both")

    async with MiniAgents():
        replies = [holder.fork(alias="AB"[index]).trigger(first=index) for index in range(2)]
        await asyncio.gather(*map(_awaited, replies))


async def beside_a_heartbeat() -> None:
    """Let two agents wait for each other through task groups, beside a task that wakes ten times."""

    async def beat() -> None:
        for _ in range(10):
            await asyncio.sleep(1)

    beating = asyncio.create_task(beat())
    await through_a_task_group()
    await beating


NO_RINGS = [
    (a_call_never_finished, {"CALLER#1", "LISTENER#1 <- CALLER"}),
    (an_appender_never_closed, {"READER#1"}),
    (a_sequence_never_closed, {"READER#1"}),
    (through_a_task_group, {"A#1", "B#1"}),
    (through_a_queue, {"A#1", "B#1"}),
    (through_an_event, {"A#1", "B#1"}),
    (through_locks, {"A#1", "B#1"}),
    (beside_a_heartbeat, {"A#1", "B#1"}),
]


def _name(each: Any) -> Any:
    if not callable(each):
        return ""
    return f"{'C11' if each is a_call_never_finished else 'C10'}-{each.__name__}"


def _assert_in_order(described: str, members: str) -> None:
    """Check that a report names these agents in order, from any of them on, and the first one again at the end."""
    names = described.split("\n")[0].rpartition(": ")[2].split(" -> ")
    assert names[0] == names[-1]
    if members:
        agents = [name.removesuffix("#1") for name in names[:-1] if len(name) == len("A#1")]
        start = agents.index(members[0])
        assert "".join(dict.fromkeys(agents[start:] + agents[:start])) == members


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def _run_for_a_while(shape: Shape, loop: str) -> BaseException | None:
    """Run a shape; return its error, or None if the shape ended without an error or still ran after a while."""

    async def main() -> BaseException | None:
        task = asyncio.create_task(shape())
        await steps(200)  # enough for each ring, however slow the machine is
        await asyncio.wait([task], timeout=A_WHILE)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
            return None
        return task.exception()

    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        return runner.run(main())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(("shape", "members"), DEADLOCKS, ids=_name)
def test_C10_a_ring_that_no_other_task_can_end_is_an_error_on_each_loop(
    shape: Shape, members: str, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A ring that no other task can end raises a `DeadlockError` that names its agents in order, on each real loop."""
    error = _run_for_a_while(shape, loop)
    assert isinstance(error, DeadlockError)
    assert str(error).startswith("These wait for each other and would wait for ever: ")
    _assert_in_order(str(error), members)
    assert _warnings(caplog) == []


@pytest.mark.parametrize("seed", [None, *schedules(10)])
@pytest.mark.parametrize(("shape", "members"), DEADLOCKS, ids=_name)
def test_a_ring_that_no_other_task_can_end_is_an_error_under_each_schedule(
    shape: Shape, members: str, seed: int | None
) -> None:
    """In virtual time, a ring that no task can end raises `DeadlockError`, not `IdleLoopError`, on each schedule."""
    with pytest.raises(DeadlockError, match="These wait for each other and would wait for ever: ") as caught:
        run_in_virtual_time(shape(), seed=seed)
    assert not isinstance(caught.value, IdleLoopError)
    _assert_in_order(str(caught.value), members)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(("shape", "members"), READERS, ids=_name)
def test_a_ring_that_another_task_may_end_is_a_warning_on_each_loop(
    shape: Shape, members: str, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A ring that another task could still end logs one warning with its agents, and raises no error in real time."""
    assert _run_for_a_while(shape, loop) is None
    [warning] = _warnings(caplog)
    assert warning.startswith("These wait for each other, for ever unless another task adds to what one of them reads")
    _assert_in_order(warning, members)


@pytest.mark.parametrize("seed", [None, *schedules(10)])
@pytest.mark.parametrize(("shape", "members"), READERS, ids=_name)
def test_a_ring_that_another_task_may_end_is_an_error_when_virtual_time_goes_idle(
    shape: Shape, members: str, seed: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """In virtual time, a ring that a task could end but none does logs a warning, and then raises `IdleLoopError`."""
    with pytest.raises(IdleLoopError) as caught:
        run_in_virtual_time(shape(), seed=seed)
    assert {"A#1", "B#1"} & {line.strip() for line in str(caught.value).splitlines()}
    [warning] = _warnings(caplog)
    _assert_in_order(warning, members)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(("shape", "members"), NO_RINGS, ids=_name)
def test_a_wait_outside_of_rings_is_not_reported_in_real_time(
    shape: Shape, members: set[str], loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    """On real loops, an endless wait that is no ring gives neither error nor warning, since a socket may end it."""
    assert _run_for_a_while(shape, loop) is None
    assert _warnings(caplog) == []


@pytest.mark.parametrize("seed", [None, *schedules(10)])
@pytest.mark.parametrize(("shape", "members"), NO_RINGS, ids=_name)
def test_C11_a_wait_outside_of_rings_is_an_error_when_virtual_time_goes_idle(
    shape: Shape, members: set[str], seed: int | None
) -> None:
    """In virtual time, an endless wait that is no ring raises `IdleLoopError` with the waiting agents and lines."""
    with pytest.raises(IdleLoopError) as caught:
        run_in_virtual_time(shape(), seed=seed)
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert members <= set(lines)
    assert sum(line.startswith(f'File "{__file__}"') for line in lines) > len(members)


# --- no false reports


async def slow_ones() -> None:
    """Let agents wait in a diamond, with timers, threads, deadlines and a lock, until all end."""
    lock = asyncio.Lock()

    @miniagent
    async def slow(ctx: InteractionContext) -> None:
        async with lock:
            await asyncio.sleep(A_WHILE / 10)
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
    """Let two agents wait for each other by turns, while one of them always works."""
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
                await asyncio.sleep(A_WHILE / 100)
                out.append(str(number + 1))

    async with MiniAgents():
        for index in range(2):
            player.trigger(mine=index)


async def a_call_with_a_deadline() -> None:
    """Let two agents call each other, one with a timeout that ends the wait of both."""
    replies: list[MessageSequencePromise] = []

    @miniagent
    async def member(ctx: InteractionContext, index: int) -> None:
        await replies[1 - index]

    async with MiniAgents(unobserved_errors="log"):
        replies.append(member.trigger(index=0, timeout=A_WHILE / 10))
        replies.append(member.trigger(index=1))
        with pytest.raises(TimeoutError):
            await replies[1]


ENDING = [slow_ones, ping_pong, a_call_with_a_deadline]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("shape", ENDING, ids=_name)
def test_waits_that_end_are_not_reported_on_any_loop(shape: Shape, loop: str, caplog: pytest.LogCaptureFixture) -> None:
    """Agents that wait for each other but all end cause neither an error nor a warning, on each loop."""
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(shape())
    assert _warnings(caplog) == []


@pytest.mark.parametrize("shape", ENDING, ids=_name)
def test_waits_that_end_are_not_reported_under_any_schedule(shape: Shape, caplog: pytest.LogCaptureFixture) -> None:
    """In virtual time, agents that wait for each other but all end cause no error or warning, on each schedule."""
    search_schedules(shape, schedules(50))
    assert _warnings(caplog) == []
