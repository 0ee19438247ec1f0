"""Waits that can never end are reported, and others are not (law 6)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from miniagents._promising.context import PromisingContext
from miniagents._promising.promise import Promise
from miniagents._promising.streamed import StreamAppender, StreamedPromise
from miniagents.errors import DeadlockError


async def awaited(promise: Promise[Any]) -> Any:
    """A coroutine that awaits a promise."""
    return await promise


@pytest.mark.parametrize("length", [1, 2, 3, 10])
async def test_C10_a_ring_of_promises_is_reported(length: int) -> None:
    """Each resolver awaits the next promise, the last one the first; alone, a promise awaits itself."""
    async with PromisingContext(unobserved_errors="log"):
        ring: list[Promise[Any]] = []

        def resolver(index: int) -> Any:
            async def resolve() -> Any:
                return await ring[(index + 1) % length]

            return resolve

        ring.extend(Promise(resolver(index)) for index in range(length))
        with pytest.raises(DeadlockError):
            await ring[0]


@pytest.mark.parametrize("through", ["gather", "task", "stream"])
async def test_a_ring_through_other_waits_is_reported(through: str) -> None:
    """Through `gather`, through a task that is awaited, and through reading a stream."""
    async with PromisingContext(unobserved_errors="log"):

        async def first() -> Any:
            if through == "gather":
                return await asyncio.gather(awaited(second), asyncio.sleep(0))
            if through == "task":
                return await asyncio.create_task(awaited(second))
            return [piece async for piece in second]

        async def read_first() -> Any:
            yield await one

        one = Promise(first)
        second = StreamedPromise(read_first)
        with pytest.raises(DeadlockError):
            await one


async def test_waiting_for_nobody_is_reported_when_nothing_can_go_on() -> None:
    """An appender that is never closed and awaited: nobody is left who could close it."""
    async with PromisingContext():
        with pytest.raises(DeadlockError, match="never closed"):
            await StreamAppender[str]().open().promise


async def test_leaving_the_context_reports_it_as_well() -> None:
    """The body has ended, and what is left waits for an appender that nobody closes."""
    appender = StreamAppender[str]().open()
    with pytest.raises(ExceptionGroup) as caught:
        async with PromisingContext():

            async def waits() -> Any:
                return await appender.promise

            Promise(waits)
    assert [type(error) for error in caught.value.exceptions] == [DeadlockError]


async def test_somebody_else_may_still_help() -> None:
    """A wait for an appender is no deadlock while another task, a timer or a callback may still close it."""
    for help_comes in ("task", "timer", "callback"):
        async with PromisingContext():
            appender = StreamAppender[str]().open()
            loop = asyncio.get_running_loop()

            async def close(appender: StreamAppender[str]) -> None:
                await asyncio.sleep(0.001)
                appender.close()

            if help_comes == "task":
                task = asyncio.create_task(close(appender))
            elif help_comes == "timer":
                loop.call_later(0.001, appender.close)
            else:
                loop.call_soon(loop.call_soon, loop.call_soon, appender.close)
            assert await appender.promise == ()
    await task


async def test_a_wait_with_a_deadline_is_no_deadlock() -> None:
    """Two that wait for each other, one of them under a timeout: the timeout ends it."""
    async with PromisingContext():

        async def patient() -> str:
            try:
                async with asyncio.timeout(0.01):
                    return str(await other)
            except TimeoutError:
                return "gave up"

        async def waits() -> Any:
            return await first

        first = Promise(patient)
        other = Promise(waits)
        assert await other == "gave up"


async def test_a_long_chain_is_no_ring() -> None:
    """A thousand promises that wait for each other in a row resolve."""
    async with PromisingContext():

        async def end() -> int:
            for _ in range(10):
                await asyncio.sleep(0)
            return 0

        promise = Promise(end)
        for _ in range(1000):

            async def follow(previous: Promise[int] = promise) -> int:
                return await previous + 1

            promise = Promise(follow)
        assert await promise == 1000
