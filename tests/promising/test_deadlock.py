"""Rings of promises that wait for each other raise `DeadlockError`; waits that may end do not (law 6)."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from common import steps

from miniagents._promising.context import PromisingContext
from miniagents._promising.deadlock import waiting_on
from miniagents._promising.promise import Promise
from miniagents._promising.streamed import StreamAppender, StreamedPromise
from miniagents.errors import DeadlockError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Wait = Callable[[Awaitable[Any]], Awaitable[Any]]


async def awaited(awaitable: Awaitable[Any]) -> Any:
    """Await in a coroutine."""
    return await awaitable


def ring(*waits: Wait) -> list[Promise[Any]]:
    """Return promises of which each awaits the next one, in the given way, and the last one the first."""
    promises: list[Promise[Any]] = []

    def resolver(index: int) -> Any:
        async def resolve() -> Any:
            return await waits[index](promises[(index + 1) % len(waits)])

        return resolve

    promises.extend(Promise(resolver(index)) for index in range(len(waits)))
    return promises


async def gathers(promise: Awaitable[Any]) -> Any:
    """Wait through `gather`."""
    return await asyncio.gather(awaited(promise), asyncio.sleep(0))


async def gathers_twice(promise: Awaitable[Any]) -> Any:
    """Wait through a `gather` inside another `gather`."""
    return await asyncio.gather(asyncio.sleep(0), asyncio.gather(awaited(promise)))


async def awaits_a_task(promise: Awaitable[Any]) -> Any:
    """Wait through a task that is awaited."""
    return await asyncio.create_task(awaited(promise))


async def reads_a_stream(promise: Awaitable[Any]) -> Any:
    """Wait through reading a stream piece by piece."""

    async def pieces() -> AsyncIterator[Any]:
        yield await promise

    return [piece async for piece in StreamedPromise(pieces)]


async def waits_after_a_timeout(promise: Awaitable[Any]) -> Any:
    """Wait under no timeout, although a variable still holds a timeout that was left in time."""
    async with asyncio.timeout(60) as left:
        await asyncio.sleep(0)
    try:
        return await promise
    finally:
        assert not left.expired()


async def waits_without_limit(promise: Awaitable[Any]) -> Any:
    """Wait under a timeout that has no deadline."""
    async with asyncio.timeout(None):
        return await asyncio.wait_for(awaited(promise), None)


async def waits_beside_a_timeout(promise: Awaitable[Any]) -> Any:
    """Wait under no timeout, although this task refers to another task that is under one."""

    async def other() -> None:
        async with asyncio.timeout(60) as timeout:
            timeouts.append(timeout)
            await asyncio.Event().wait()

    timeouts: list[asyncio.Timeout] = []
    task = asyncio.create_task(other())
    await asyncio.sleep(0)
    [timeout] = timeouts
    try:
        return await promise
    finally:
        task.cancel()
        assert not timeout.expired()


@pytest.mark.parametrize("length", [1, 2, 3, 10])
async def test_C10_a_ring_of_promises_is_an_error(length: int) -> None:
    """Promises that await each other in a ring, or one that awaits itself, raise `DeadlockError`."""
    async with PromisingContext(unobserved_errors="log"):
        with pytest.raises(DeadlockError, match="would wait for ever: "):
            await ring(*[awaited] * length)[0]
    assert not waiting_on


@pytest.mark.parametrize(
    "wait",
    [
        gathers,
        gathers_twice,
        awaits_a_task,
        reads_a_stream,
        waits_after_a_timeout,
        waits_without_limit,
        waits_beside_a_timeout,
    ],
    ids=lambda wait: wait.__name__,
)
@pytest.mark.parametrize("turn", [0, 1])
async def test_a_ring_through_other_waits_is_an_error(wait: Wait, turn: int) -> None:
    """A ring of two promises, one of which waits in another way than `await`, raises `DeadlockError` in any order."""
    async with PromisingContext(unobserved_errors="log"):
        with pytest.raises(DeadlockError):
            await ring(*[awaited, wait][:: -1 if turn else 1])[0]
    assert not waiting_on


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="eager tasks came with 3.12")
@pytest.mark.parametrize("wait", [awaited, gathers, awaits_a_task], ids=lambda wait: wait.__name__)
async def test_a_ring_of_eager_tasks_is_an_error(wait: Wait) -> None:
    """A ring of two promises that are resolved by eager tasks raises `DeadlockError`."""
    asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 - unknown to mypy on 3.11
    promises: list[Promise[Any]] = []
    async with PromisingContext(unobserved_errors="log"):
        promises.append(Promise(lambda: awaited(wait(promises[1])), start_soon=False))
        promises.append(Promise(lambda: awaited(wait(promises[0])), start_soon=False))
        with pytest.raises(DeadlockError):
            await promises[0]


async def test_a_ring_is_reported_one_loop_step_after_its_last_wait_began() -> None:
    """A callback that was scheduled before the last wait of a ring runs before the `DeadlockError` is raised."""
    async with PromisingContext(unobserved_errors="log"):
        log: list[str] = []

        async def resolve() -> Any:
            asyncio.get_running_loop().call_soon(log.append, "a callback")
            try:
                return await promise
            except DeadlockError:
                log.append("the error")
                raise

        promise = Promise(resolve)
        await asyncio.sleep(0)
        assert log == []
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert log == ["a callback", "the error"]
        with pytest.raises(DeadlockError):
            await promise


# --- no false reports


@asynccontextmanager
async def _deadline() -> AsyncIterator[None]:
    """Run the block under a short timeout."""
    async with asyncio.timeout(0.01):
        yield


async def under_a_timeout(promise: Awaitable[Any]) -> Any:
    """Wait inside `asyncio.timeout`."""
    async with asyncio.timeout(0.01):
        await promise


async def under_an_outer_timeout(promise: Awaitable[Any]) -> Any:
    """Wait in coroutines below the one with `asyncio.timeout`."""
    async with asyncio.timeout(0.01):
        await awaited(awaited(promise))


async def under_a_manager_with_a_timeout(promise: Awaitable[Any]) -> Any:
    """Wait inside a context manager of the program that has the timeout."""
    async with _deadline():
        await promise


async def under_an_exit_stack(promise: Awaitable[Any]) -> Any:
    """Wait inside an `AsyncExitStack` that has the timeout."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_deadline())
        await awaited(promise)


async def in_an_async_generator(promise: Awaitable[Any]) -> Any:
    """Wait in an async generator with a timeout in it."""

    async def pieces() -> AsyncIterator[None]:
        async with asyncio.timeout(0.01):
            await promise
        yield

    async for _ in pieces():
        pass


class UnderATimeout:
    """Awaitable whose `__await__` is a generator, with a timeout in it."""

    def __init__(self, promise: Awaitable[Any]) -> None:
        self.promise = promise

    def __await__(self) -> Any:
        return (yield from under_a_timeout(self.promise).__await__())


async def with_wait_for(promise: Awaitable[Any]) -> Any:
    """Wait in `asyncio.wait_for`."""
    await asyncio.wait_for(awaited(promise), 0.01)


async def with_wait(promise: Awaitable[Any]) -> Any:
    """Wait in `asyncio.wait` with a timeout."""
    task = asyncio.ensure_future(awaited(promise))
    await asyncio.wait([task], timeout=0.01)
    task.cancel()
    raise TimeoutError


async def with_gather_under_a_timeout(promise: Awaitable[Any]) -> Any:
    """Wait through `gather`, of which a member is under a timeout."""
    await asyncio.gather(under_a_timeout(promise), asyncio.sleep(0))


@pytest.mark.parametrize(
    "wait",
    [
        under_a_timeout,
        under_an_outer_timeout,
        under_a_manager_with_a_timeout,
        under_an_exit_stack,
        in_an_async_generator,
        UnderATimeout,
        with_wait_for,
        with_wait,
        with_gather_under_a_timeout,
    ],
    ids=lambda wait: wait.__name__,
)
@pytest.mark.parametrize("turn", [0, 1])
async def test_a_ring_with_a_member_under_a_timeout_is_not_reported(
    wait: Wait, turn: int, caplog: pytest.LogCaptureFixture
) -> None:
    """If one promise of a ring waits under a timeout, the ring ends with `TimeoutError`, and nothing is logged."""
    async with PromisingContext(unobserved_errors="log"):
        with pytest.raises(TimeoutError):
            await ring(*[awaited, awaited, wait][:: -1 if turn else 1])[0]
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("through", ["gather", "task and gather"])
async def test_a_ring_with_a_member_that_is_awaited_under_a_timeout_is_not_reported(through: str) -> None:
    """A ring of a promise and a task ends without `DeadlockError` if the body awaits the task under a timeout."""
    async with PromisingContext():

        async def resolve() -> str:
            with suppress(asyncio.CancelledError):
                await member
            return "resolved"

        promise = Promise(resolve)
        member = asyncio.create_task(awaited(promise))
        outside = awaited(member) if through == "task and gather" else member
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.gather(outside, asyncio.sleep(60))
        assert await promise == "resolved"


@pytest.mark.parametrize("helper", ["task", "timer", "callback", "thread"])
async def test_a_wait_for_an_appender_that_is_closed_later_is_not_reported(helper: str) -> None:
    """A wait for a stream whose appender a task, timer, callback or thread closes later gets the result."""
    async with PromisingContext():
        appender = StreamAppender[str]().open()
        loop = asyncio.get_running_loop()

        async def close() -> None:
            await asyncio.sleep(0.001)
            appender.close()

        if helper == "task":
            task = asyncio.create_task(close())
        elif helper == "timer":
            loop.call_later(0.001, appender.close)
        elif helper == "callback":
            loop.call_soon(loop.call_soon, loop.call_soon, appender.close)
        else:
            threading.Timer(0.01, loop.call_soon_threadsafe, (appender.close,)).start()
        assert await appender.promise == ()
    if helper == "task":
        await task


async def test_a_wait_for_an_appender_that_is_never_closed_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    """A wait for an open appender logs nothing, in the body or at the exit, because a thread may still close it."""
    appender = StreamAppender[str]().open()

    async def leave() -> None:
        async with PromisingContext():
            Promise(lambda: awaited(appender.promise))

    body, leaving = asyncio.create_task(awaited(appender.promise)), asyncio.create_task(leave())
    done, _ = await asyncio.wait([body, leaving], timeout=0.02)
    assert not done
    assert not caplog.records
    appender.close()
    await body
    await leaving


async def test_a_member_that_is_about_to_run_is_not_reported() -> None:
    """Two promises that wait for each other are no ring if the wait of one has ended, but its task has not run yet."""
    async with PromisingContext():
        appender = StreamAppender[str]().open()

        async def first() -> str:
            await appender.promise
            return "first"

        async def second() -> Any:
            appender.close()  # promise `one` goes on at its next step
            return await one

        one = Promise(first)
        two = Promise(second)
        assert [await one, await two] == ["first", "first"]


@pytest.mark.parametrize("when", ["before the wait", "after the wait"])
async def test_a_member_that_is_cancelled_ends_the_ring(when: str) -> None:
    """If a task of a ring is cancelled and returns a result, the other promise gets it, and no error is raised."""
    async with PromisingContext():

        async def gives_up() -> str:
            task = asyncio.current_task()
            assert task is not None
            if when == "before the wait":
                task.cancel()
            else:
                asyncio.get_running_loop().call_soon(task.cancel)
            with suppress(asyncio.CancelledError):
                await two
            task.uncancel()
            return "gave up"

        one = Promise(gives_up)
        two = Promise(lambda: awaited(one))
        assert await two == "gave up"


async def test_a_reader_outside_of_a_ring_is_not_reported() -> None:
    """A task outside of a ring that awaits one of its promises gets the `DeadlockError`, and can go on."""
    async with PromisingContext(unobserved_errors="log"):
        promises = ring(awaited, awaited)

        async def read() -> str:
            with pytest.raises(DeadlockError):
                await promises[0]
            return "read"

        for reader in [asyncio.create_task(read()) for _ in range(2)]:
            assert await reader == "read"


async def test_a_long_chain_is_not_reported() -> None:
    """A thousand promises, each of which awaits the one before, resolve without a `DeadlockError`."""
    async with PromisingContext():

        async def end() -> int:
            await steps(10)
            return 0

        promise = Promise(end)
        for _ in range(1000):

            async def follow(previous: Promise[int] = promise) -> int:
                return await previous + 1

            promise = Promise(follow)
        assert await promise == 1000
