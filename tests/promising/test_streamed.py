"""Streamed promises: one task reads the source, and any number of readers replay its pieces (laws 7-14)."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import traceback
import weakref
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
    """A source of numbers that counts its starts and its numbers, and notes when it is closed."""

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


async def test_readers_get_all_pieces_whenever_they_come() -> None:
    """Readers that come early, late and after the end read the same pieces, and the source is started once."""
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


async def test_C2_readers_that_stop_early_do_not_affect_others() -> None:
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


async def test_C3_promise_can_be_awaited_again_after_a_timeout() -> None:
    """An await that timed out leaves the promise as it is: the next await gets the result."""
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
    """Await the promise in a coroutine."""
    return await promise


async def test_work_starts_without_a_reader_by_default() -> None:
    """A promise starts its work at the next task switch."""
    async with PromisingContext():
        source = Source(3)
        promise = StreamedPromise(source)
        assert source.started == 0
        await steps()
        assert source.given == 3
        assert promise.is_done


async def test_on_demand_source_stays_one_piece_ahead_of_its_reader() -> None:
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


@pytest.mark.parametrize("read_before", [1, 5, 1_000])
async def test_on_demand_source_stays_64_pieces_ahead_of_a_reader_that_stops(read_before: int) -> None:
    """A source on demand gets at most 64 pieces ahead when its reader stops, and later at most one ahead again."""
    async with PromisingContext():
        source = Source(2_000, turns=False)
        pieces = aiter(StreamedPromise(source, start_soon=False))
        for number in range(read_before):
            assert await anext(pieces) == number
        await steps()
        assert source.given <= read_before + 64
        async for piece in pieces:
            await steps(3)
            if piece > read_before + 64:
                assert source.given <= piece + 2


async def test_reader_releases_its_stream_when_it_is_dropped() -> None:
    """An `async for` that ends early keeps neither the promise nor its pieces alive."""
    async with PromisingContext():
        promise = StreamedPromise(Source(10))
        lost = weakref.ref(promise)
        async for _ in promise:
            break
        del promise
        assert lost() is None


@pytest.mark.parametrize("method", ["__aiter__", "batches"])
async def test_copy_of_a_reader_is_refused(method: str) -> None:
    """A reader of a stream can be neither copied nor pickled."""
    async with PromisingContext():
        reader = getattr(StreamedPromise(Source(3)), method)()
        for copied in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot"):
                copied(reader)


async def test_await_reads_an_on_demand_source_to_its_end() -> None:
    """If a stream works on demand, awaiting its promise reads the source to the end and gives all pieces."""
    async with PromisingContext(start_everything_soon_by_default=False):
        assert await StreamedPromise(Source(5)) == (0, 1, 2, 3, 4)


async def test_C24_an_abandoned_on_demand_source_is_closed_when_the_context_exits() -> None:
    """The `finally` of a generator that was left in the middle runs at the latest when the context is left."""
    source = Source(10)
    async with PromisingContext():
        promise = StreamedPromise(source, start_soon=False)
        async for _ in promise:
            break
        assert not source.closed
    assert source.closed


async def test_C8_each_reader_gets_the_error_after_the_pieces_before_it() -> None:
    """If a source fails, each reader gets the pieces before the error, then that error object; an await raises it."""
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


async def test_C9_failed_promise_raises_one_error_whose_traceback_does_not_grow() -> None:
    """A failed promise that is awaited many times raises one error object, whose traceback does not grow."""
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


async def test_resolver_that_returns_none_resolves_its_promise() -> None:
    """A promise whose resolver returns `None` resolves to `None`, and calls its resolver once only."""
    calls = []

    async def resolver() -> str | None:
        calls.append(1)
        return None

    async with PromisingContext():
        promise = Promise(resolver)
        assert [await promise, await promise] == [None, None]
    assert calls == [1]


async def test_cancel_stops_the_source_for_good() -> None:
    """After `cancel`, readers get the pieces so far and an error, and the source is closed within a loop step."""
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


async def test_cancel_settles_a_promise_whose_task_has_not_begun() -> None:
    """If a promise is cancelled before its task has begun, a reader gets `PromiseCancelledError` and does not hang."""
    async with PromisingContext():
        source = Source(3)
        promise = StreamedPromise(source)
        promise.cancel()
        with pytest.raises(PromiseCancelledError):
            await promise
        assert source.started == 0


async def test_source_that_raises_cancelled_error_ends_as_cancelled() -> None:
    """A `CancelledError` of a source becomes a `PromiseCancelledError` for readers."""
    async with PromisingContext():

        async def source() -> AsyncIterator[int]:
            yield 1
            raise asyncio.CancelledError

        with pytest.raises(PromiseCancelledError):
            await StreamedPromise(source)


async def test_work_without_a_context_is_refused() -> None:
    """Making a stream that starts at once, outside of a context, raises an error that says how to open one."""
    with pytest.raises(NoActiveContextError, match="async with MiniAgents"):
        StreamedPromise(Source(1), start_soon=True)


async def test_stream_made_without_a_context_raises_for_each_reader() -> None:
    """A stream that was made before the context was opened raises an error, and no reader waits for ever."""
    promise = StreamedPromise(Source(1))
    async with PromisingContext():
        for _ in range(2):
            with pytest.raises(NoActiveContextError):
                await promise
            with pytest.raises(NoActiveContextError):
                [piece async for piece in promise]


async def test_promise_refuses_a_source_that_is_not_callable() -> None:
    """A generator object instead of its function is a `TypeError` where it was passed."""
    generator = Source(1)()
    with pytest.raises(TypeError, match="async generator function"):
        StreamedPromise(generator)  # type: ignore[call-overload]  # that is the mistake
    with pytest.raises(TypeError, match="async function"):
        Promise(1)  # type: ignore[arg-type]  # that is the mistake
    await generator.aclose()  # type: ignore[attr-defined]  # it is a generator


async def test_batches_have_all_pieces_that_have_come() -> None:
    """A reader of batches gets all pieces that have come in one list, and the error after them."""
    async with PromisingContext():
        promise = StreamedPromise(Source(5, turns=False, error=ValueError("broken")))
        for _ in range(2):
            batches = []
            with pytest.raises(ValueError, match="broken"):
                async for batch in promise.batches():
                    batches.append(batch)
            assert batches == [[0, 1, 2, 3, 4]]


async def test_finished_promise_is_in_no_reference_cycle() -> None:
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
def test_C2_reader_gets_all_pieces_wherever_others_stop(leavers: list[tuple[int, int]], start_soon: bool) -> None:
    """However many readers come at any time and stop anywhere, the last one reads all pieces."""

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
