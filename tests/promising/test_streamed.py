"""Streamed promises: one pump, many readers (laws 7-14)."""

from __future__ import annotations

import asyncio
import gc
import traceback
from typing import TYPE_CHECKING, Any

import pytest
from common import steps
from hypothesis import given
from hypothesis import strategies as st

from miniagents._promising.context import PromisingContext
from miniagents._promising.promise import Promise
from miniagents._promising.streamed import StreamedPromise
from miniagents.errors import NoActiveContextError, PromiseCancelledError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Source:
    """A source of numbers that counts how often it was started, what it gave, and whether it was closed."""

    def __init__(self, count: int, *, error: Exception | None = None, turns: bool = True) -> None:
        self.count = count
        self.error = error
        self.turns = turns
        self.started = 0
        self.given = 0
        self.closed = False

    async def __call__(self) -> AsyncIterator[int]:
        self.started += 1
        try:
            for number in range(self.count):
                if self.turns:
                    await asyncio.sleep(0)
                self.given += 1
                yield number
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True


async def test_any_number_of_readers_see_the_same_pieces_from_the_start() -> None:
    """Readers that come early, late and after the end all read the same pieces, and the source was started once."""
    async with PromisingContext():
        source = Source(20)
        promise = StreamedPromise(source)

        async def read() -> list[int]:
            return [piece async for piece in promise]

        early = asyncio.gather(*(read() for _ in range(3)))
        await steps(8)
        late = await read()
        assert [*await early, await read()] == [late] * 4 == [list(range(20))] * 4
        assert await promise == tuple(range(20))
        assert source.started == 1


async def test_C2_a_cancelled_reader_harms_nobody() -> None:
    """A reader that is cancelled, one that times out and one that breaks leave the stream whole for the others."""
    async with PromisingContext():
        promise = StreamedPromise(Source(30))

        async def read() -> list[int]:
            return [piece async for piece in promise]

        victim, witness = asyncio.create_task(read()), asyncio.create_task(read())
        await steps(5)
        victim.cancel()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await promise
        async for _ in promise:
            break
        assert await witness == list(range(30))
        assert await promise == tuple(range(30))
        with pytest.raises(asyncio.CancelledError):
            await victim


async def test_C3_wait_for_can_be_asked_again() -> None:
    """An await that timed out says nothing about the promise: the next await gets the result."""
    async with PromisingContext():
        go_on = asyncio.Event()

        async def resolver() -> str:
            await go_on.wait()
            return "done"

        promise = Promise(resolver)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_awaited(promise), 0.001)
        go_on.set()
        assert await promise == "done"


async def _awaited(promise: Promise[Any]) -> Any:
    return await promise


async def test_work_starts_without_a_reader_by_default() -> None:
    """A promise begins at the next task switch."""
    async with PromisingContext():
        source = Source(3)
        promise = StreamedPromise(source)
        assert source.started == 0
        await steps()
        assert source.given == 3
        assert promise.is_done


async def test_on_demand_nothing_is_produced_before_it_is_read() -> None:
    """With `start_soon=False` the source starts with the first reader and is never more than one piece ahead."""
    async with PromisingContext():
        source = Source(10, turns=False)
        promise = StreamedPromise(source, start_soon=False)
        await steps()
        assert source.started == 0
        async for piece in promise:
            await steps()
            assert source.given <= piece + 2
        assert source.given == 10


async def test_on_demand_an_await_takes_everything() -> None:
    """Awaiting the whole is a demand for all pieces."""
    async with PromisingContext(start_everything_soon_by_default=False):
        assert await StreamedPromise(Source(5)) == (0, 1, 2, 3, 4)


async def test_C24_an_abandoned_on_demand_source_is_closed_when_the_context_exits() -> None:
    """A generator left in the middle gets its `finally` at the latest with the context, which does not wait for it."""
    source = Source(10)
    async with PromisingContext():
        promise = StreamedPromise(source, start_soon=False)
        async for _ in promise:
            break
        assert not source.closed
    assert source.closed


async def test_C8_an_error_comes_at_its_place_for_every_reader() -> None:
    """Each reader gets the pieces before the error, then the same error instance; so does an await."""
    error = ValueError("broken")
    async with PromisingContext():
        promise = StreamedPromise(Source(2, error=error))
        for _ in range(3):
            seen = []
            with pytest.raises(ValueError, match="broken") as caught:
                async for piece in promise:
                    seen.append(piece)
            assert seen == [0, 1]
            assert caught.value is error
        with pytest.raises(ValueError, match="broken"):
            await promise


async def test_C9_awaiting_a_failed_promise_gives_one_error_whose_traceback_does_not_grow() -> None:
    """The traceback is reset to the stored one before each raise."""
    async with PromisingContext():

        async def resolver() -> None:
            raise ValueError("broken")

        promise = Promise(resolver)
        errors, lengths = [], set()
        for _ in range(20):
            with pytest.raises(ValueError, match="broken") as caught:
                await promise
            errors.append(caught.value)
            lengths.add(len(traceback.extract_tb(caught.value.__traceback__)))
        assert all(error is errors[0] for error in errors)
        assert len(lengths) == 1


async def test_none_is_a_result() -> None:
    """A resolver that returns None has resolved its promise, and is called once."""
    calls = []

    async def resolver() -> str | None:
        calls.append(1)
        return None

    async with PromisingContext():
        promise = Promise(resolver)
        assert [await promise, await promise] == [None, None]
    assert calls == [1]


async def test_cancel_stops_the_source_for_good() -> None:
    """Readers get the pieces so far and then `PromiseCancelledError`; the source is closed within a loop step."""
    async with PromisingContext():
        source = Source(1000)
        promise = StreamedPromise(source)
        await steps(5)
        promise.cancel()
        given = source.given
        await asyncio.sleep(0)
        assert source.closed
        seen = []
        with pytest.raises(PromiseCancelledError):
            async for piece in promise:
                seen.append(piece)
        assert seen == list(range(given))
        with pytest.raises(PromiseCancelledError):
            await promise


async def test_cancel_before_the_first_step_settles_the_promise() -> None:
    """A task that is cancelled before it ran is accounted for: nobody waits for ever."""
    async with PromisingContext():
        source = Source(3)
        promise = StreamedPromise(source)
        promise.cancel()
        with pytest.raises(PromiseCancelledError):
            await promise
        assert source.started == 0


async def test_a_source_cancelled_from_outside_ends_as_cancelled() -> None:
    """A `CancelledError` that comes out of a source does not travel through the promise."""
    async with PromisingContext():

        async def source() -> AsyncIterator[int]:
            yield 1
            raise asyncio.CancelledError

        with pytest.raises(PromiseCancelledError):
            await StreamedPromise(source)


async def test_work_needs_a_context() -> None:
    """Without an open context there is nobody to own the task, and the error says what to do."""
    with pytest.raises(NoActiveContextError, match="async with MiniAgents"):
        StreamedPromise(Source(1), start_soon=True)


async def test_work_that_never_had_a_context_fails_for_every_reader() -> None:
    """A stream made before the context was opened: each reader gets the error, and none waits for ever."""
    promise = StreamedPromise(Source(1))
    async with PromisingContext():
        for _ in range(2):
            with pytest.raises(NoActiveContextError):
                await promise
            with pytest.raises(NoActiveContextError):
                [piece async for piece in promise]


async def test_what_is_not_callable_is_refused_at_once() -> None:
    """A generator object instead of its function is a `TypeError` where it was passed."""
    generator = Source(1)()
    with pytest.raises(TypeError, match="async generator function"):
        StreamedPromise(generator)  # type: ignore[call-overload]  # that is the mistake
    with pytest.raises(TypeError, match="async function"):
        Promise(1)  # type: ignore[arg-type]  # that is the mistake
    await generator.aclose()  # type: ignore[attr-defined]  # it is a generator


async def test_batches_are_everything_that_is_there() -> None:
    """A reader that does not care for single pieces gets them in lists, and the error at its place."""
    async with PromisingContext():
        promise = StreamedPromise(Source(5, turns=False, error=ValueError("broken")))
        for _ in range(2):
            batches = []
            with pytest.raises(ValueError, match="broken"):
                async for batch in promise.batches():
                    batches.append(batch)
            assert batches == [[0, 1, 2, 3, 4]]


async def test_a_finished_promise_is_in_no_reference_cycle() -> None:
    """A promise that has been read and dropped is freed by its reference count alone."""
    async with PromisingContext():
        promise = StreamedPromise(Source(3))
        await promise
        await steps()
        gc.collect()
        gc.disable()
        try:
            cell = promise._cell
            del promise
            assert len(gc.get_referrers(cell)) <= 1
        finally:
            gc.enable()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), max_size=12), st.booleans())
def test_C2_readers_that_leave_anywhere_leave_the_rest_whole(leavers: list[tuple[int, int]], start_soon: bool) -> None:
    """However many readers come at any time and leave anywhere, the last one reads everything."""

    async def main() -> None:
        async with PromisingContext():
            promise = StreamedPromise(Source(8), start_soon=start_soon)

            async def leave_after(wait: int, pieces: int) -> None:
                await steps(wait)
                seen = []
                async for piece in promise:
                    seen.append(piece)
                    if len(seen) >= pieces:
                        break
                assert seen == list(range(len(seen)))

            tasks = [asyncio.create_task(leave_after(*leaver)) for leaver in leavers]
            await steps(3)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert [piece async for piece in promise] == list(range(8))

    asyncio.run(main())
