"""At pace 0, parallel streams are played in their recorded order, and no stream waits for one that is not read.

The order is that of all arrivals: the headers, chunks and ends of all streams, as they came when they were recorded.
"""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import vcr
from hypothesis import given
from hypothesis import strategies as st

from miniagents_testing import ReplayTransport, run_in_virtual_time, stream_layer
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, _playback, timeline
from miniagents_testing.cassette._playback import Order

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

URL = "https://api.openai.com/v1/chat/completions"


def _recorded(number: int, started: int, waits: Iterable[int], **response: Any) -> Interaction:
    """Make a stream that begins `started` ticks after the first one, with `waits` ticks before its chunks."""
    chunks = tuple(Chunk(wait, f"{number}.{index} ".encode()) for index, wait in enumerate(waits))
    stream = ResponseStream(chunks, **response)
    return Interaction("POST", URL, f'{{"number":{number}}}'.encode(), stream, started_ms=started / 100)


def _apart(starts: Sequence[int], waits: Sequence[Sequence[int]]) -> list[Interaction]:
    """Make streams of which no two have an arrival at the same moment, as in a recording."""
    count = len(starts)
    moments = [list(accumulate(each, initial=start)) for start, each in zip(starts, waits, strict=True)]
    spread = [[moment * 2 * count + number for moment in each] for number, each in enumerate(moments)]
    return [
        _recorded(number, each[0], [late - early for early, late in pairwise(each)])
        for number, each in enumerate(spread)
    ]


class Reader:
    """Reader of the streams of one transport that notes the order of their chunks."""

    def __init__(self, interactions: Sequence[Interaction], turns: Sequence[int] = ()) -> None:
        self.transport = ReplayTransport(interactions)
        self.client = httpx2.AsyncClient(transport=self.transport)
        self.order = [moment.data.decode() for moment in timeline(interactions) if moment.what == "chunk"]
        self.turns = turns
        self.seen: list[str] = []

    def open(self, number: int) -> Any:
        """Open the response of one stream."""
        return self.client.stream("POST", URL, json={"number": number})

    async def read(self, number: int, after_chunk: Callable[[], Awaitable[Any]] | None = None) -> None:
        """Read a stream to its end; after each chunk the reader waits for some turns of the loop."""
        async with self.open(number) as response:
            async for chunk in response.aiter_raw():
                self.seen.append(chunk.decode())
                for _ in range(self.turns[number] if self.turns else 0):
                    await asyncio.sleep(0)
                if after_chunk is not None:
                    await after_chunk()


@given(st.data())
def test_parallel_streams_keep_their_recorded_order(data: st.DataObject) -> None:
    """Readers that start in any order and pause at random get the chunks of all streams in recorded order."""
    count = data.draw(st.integers(1, 5))
    ticks = st.integers(0, 30)
    starts = data.draw(st.lists(ticks, min_size=count, max_size=count).map(sorted))
    waits = data.draw(st.lists(st.lists(ticks, min_size=1, max_size=6), min_size=count, max_size=count))
    turns = data.draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))
    started = data.draw(st.permutations(range(count)))

    async def play() -> Reader:
        reader = Reader(_apart(starts, waits), turns)
        async with asyncio.TaskGroup() as group:
            for number in started:
                group.create_task(reader.read(number))
        return reader

    reader = asyncio.run(play())
    assert reader.seen == reader.order


INTERLEAVED = [[1, 2, 2, 2, 2], [2, 2, 2, 2, 2], [1, 1, 7, 1, 1]]


async def test_streams_wait_for_a_request_that_is_prepared_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream waits for an earlier one whose request is still prepared in a thread, as SDKs do for their first."""
    monkeypatch.setattr(_playback, "_PATIENCE_WITH_REQUESTS", 60.0)  # the thread may start late on a busy machine
    reader = Reader(_apart([0, 0], INTERLEAVED[:2]))

    async def prepare_and_read() -> None:
        await asyncio.to_thread(time.sleep, 0.02)
        await reader.read(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(prepare_and_read())
        group.create_task(reader.read(1))
    assert reader.seen == reader.order


async def test_a_stopped_reader_does_not_block_other_streams() -> None:
    """When a reader stops reading and leaves its response open, the other streams end in order."""
    reader = Reader(_apart([0, 0, 0], INTERLEAVED))
    stopped = asyncio.Event()

    async def stop() -> None:
        await stopped.wait()

    lazy = asyncio.create_task(reader.read(0, stop))
    async with asyncio.TaskGroup() as group:
        group.create_task(reader.read(1))
        group.create_task(reader.read(2))
    others = [piece for piece in reader.order if not piece.startswith("0")]
    assert [piece for piece in reader.seen if not piece.startswith("0")] == others
    stopped.set()
    await lazy
    assert sorted(reader.seen) == sorted(reader.order)


async def test_a_closed_stream_does_not_block_other_streams() -> None:
    """When a reader closes its stream early, the other streams go on without the unread chunks."""
    reader = Reader(_apart([0, 0], INTERLEAVED[:2]))

    async def leave() -> None:
        async with reader.open(0) as response:
            async for chunk in response.aiter_raw():
                reader.seen.append(chunk.decode())
                break

    async with asyncio.TaskGroup() as group:
        group.create_task(leave())
        group.create_task(reader.read(1))
    assert reader.seen == ["0.0 ", *(piece for piece in reader.order if piece.startswith("1"))]


async def test_a_stream_without_request_does_not_block_other_streams() -> None:
    """When the application never requests one recorded stream, the other streams play to their end."""
    reader = Reader(_apart([0, 1, 2], INTERLEAVED))
    await reader.read(2)
    assert reader.seen == [piece for piece in reader.order if piece.startswith("2")]


async def test_one_task_reads_two_streams_in_any_order() -> None:
    """One task can read two parallel streams in turns, one chunk of each, although it takes the later stream first."""
    reader = Reader(_apart([0, 0], INTERLEAVED[:2]))
    async with reader.open(0) as first, reader.open(1) as second:
        streams = first.aiter_raw(), second.aiter_raw()
        for _ in INTERLEAVED[0]:
            for stream in reversed(streams):
                reader.seen.append((await anext(stream)).decode())
    assert sorted(reader.seen) == sorted(reader.order)


async def test_a_stream_ends_while_an_earlier_one_waits_for_its_end() -> None:
    """A stream plays to its end although an earlier stream has unread chunks."""
    reader = Reader(_apart([0, 0], INTERLEAVED[:2]))
    ended = asyncio.Event()

    async def second() -> None:
        await reader.read(1)
        ended.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(reader.read(0, ended.wait))
        group.create_task(second())
    assert sorted(reader.seen) == sorted(reader.order)


async def test_a_stream_that_is_closed_while_its_reader_waits_does_not_block_others() -> None:
    """When a stream is closed while its reader waits, that reader and the next waiting reader end."""
    reader = Reader(_apart([0, 0, 0], INTERLEAVED))
    async with reader.open(0) as first, reader.open(1) as second:
        waiting = asyncio.create_task(anext(second.aiter_raw()))  # for the first, which is not read
        await asyncio.sleep(0)
        third = asyncio.create_task(reader.read(2))
        await asyncio.sleep(0)
        await second.stream.aclose()
        await asyncio.wait([waiting, third])
    assert first.is_closed
    assert reader.seen == [piece for piece in reader.order if piece.startswith("2")]


async def test_a_cancelled_reader_does_not_block_the_reader_behind_it() -> None:
    """When a waiting reader is cancelled, the reader that waits for it reads its whole stream in the recorded order."""
    reader = Reader(_apart([0, 0, 0], INTERLEAVED))
    async with reader.open(0):
        second, third = (asyncio.create_task(reader.read(number)) for number in (1, 2))
        for _ in range(5):
            await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second, third])
    assert [piece for piece in reader.order if piece.startswith("2")] == [
        piece for piece in reader.seen if piece.startswith("2")
    ]


async def test_a_repeated_recording_is_played_in_parallel(kit: Any) -> None:
    """Five parallel requests for one recording that may be repeated all get its answer."""
    with kit.cassette("once"):
        await kit.aask("chat", httpx2.AsyncClient(transport=kit.network(kit.Reply(kit.chat("a", "b")))))
    with vcr.use_cassette(str(kit.path), record_mode="none", allow_playback_repeats=True) as cassette:
        with stream_layer(cassette, also_patch=[type(kit.network())]):
            client = httpx2.AsyncClient(transport=kit.network())
            seen = await asyncio.gather(*(kit.aask("chat", client) for _ in range(5)))
    assert seen == [seen[0]] * 5


@pytest.mark.parametrize("count", [10, 100])
async def test_a_chunk_costs_the_same_however_many_streams_wait(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of searches for the next arrival grows with the chunks, not with the readers that wait."""
    looks = 0
    look = Order._first

    def counted(order: Order) -> Any:
        nonlocal looks
        looks += 1
        return look(order)

    monkeypatch.setattr(Order, "_first", counted)
    reader = Reader(_apart(range(count), [[count] * 10] * count))
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(reader.read(number))
    assert reader.seen == reader.order
    assert looks < 7 * 11 * count


@given(st.data())
def test_every_reader_ends_whatever_the_others_do(data: st.DataObject) -> None:
    """Each reader ends, whether the other readers finish, stop for a while, close, are cancelled, or never begin."""
    count = data.draw(st.integers(2, 6))
    ticks = st.integers(0, 30)
    starts = data.draw(st.lists(ticks, min_size=count, max_size=count).map(sorted))
    waits = data.draw(st.lists(st.lists(ticks, min_size=1, max_size=5), min_size=count, max_size=count))
    ways = data.draw(
        st.lists(st.sampled_from(["read", "stop", "leave", "cancel", "never"]), min_size=count, max_size=count)
    )
    after = data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    seed = data.draw(st.none() | st.integers(0, 99))

    async def play() -> None:
        reader = Reader(_apart(starts, waits))
        others_ended = asyncio.Event()

        async def one(number: int) -> None:
            async with reader.open(number) as response:
                stream = response.aiter_raw()
                for _ in range(min(after[number], len(waits[number]))):
                    await anext(stream)
                if ways[number] == "stop":
                    await others_ended.wait()
                if ways[number] != "leave":
                    assert len([chunk async for chunk in stream]) == max(0, len(waits[number]) - after[number])

        tasks = {number: asyncio.create_task(one(number)) for number in range(count) if ways[number] != "never"}
        for number, task in tasks.items():
            if ways[number] == "cancel":
                for _ in range(after[number] * 3):
                    await asyncio.sleep(0)
                task.cancel()
        if others := [task for number, task in tasks.items() if ways[number] != "stop"]:
            await asyncio.wait(others)
        others_ended.set()
        for result in await asyncio.gather(*tasks.values(), return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError)

    run_in_virtual_time(play(), seed=seed)


async def test_a_failing_stream_fails_in_its_turn() -> None:
    """The error of a stream is raised after all earlier arrivals, and the other streams go on."""
    broken = _recorded(0, 0, [3, 4], end="raise ReadError: reset", complete=False)
    reader = Reader([broken, _recorded(1, 1, [1, 4, 2])])
    async with asyncio.TaskGroup() as group:
        group.create_task(reader.read(1))
        with pytest.raises(httpx2.ReadError, match="reset"):
            await reader.read(0)
        reader.seen.append("broken")
    assert reader.seen == ["1.0 ", "0.0 ", "1.1 ", "0.1 ", "broken", "1.2 "]


def test_threads_read_parallel_streams_to_the_end() -> None:
    """Three threads that each read one of three parallel streams get all recorded chunks together."""
    interactions = _apart([0, 0, 0], INTERLEAVED)
    transport, seen = ReplayTransport(interactions), list[str]()

    def read(number: int) -> None:
        with httpx2.Client(transport=transport) as client:
            with client.stream("POST", URL, json={"number": number}) as response:
                seen.extend(chunk.decode() for chunk in response.iter_raw())

    threads = [threading.Thread(target=partial(read, number)) for number in (2, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == sorted(moment.data.decode() for moment in timeline(interactions) if moment.data)


async def test_ten_parallel_requests_get_each_its_own_answer(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten parallel requests, each gets its own answer, and in twenty playbacks they end in the same order."""
    monkeypatch.setattr(_playback, "_PATIENCE_WITH_REQUESTS", 60.0)  # a busy machine starts the SDK's threads late
    replies = [kit.Reply(kit.chat(*f"{number} a b c d".split())) for number in range(10)]

    async def all_at_once(network: httpx2.AsyncBaseTransport) -> tuple[list[Any], list[str]]:
        arrived: list[str] = []

        async def one(number: int) -> list[Any]:
            seen = await kit.aask("chat", httpx2.AsyncClient(transport=network), f"number {number}")
            arrived.append(f"{number} has all")
            return list(seen)

        return await asyncio.gather(*(one(number) for number in range(10))), arrived

    with kit.cassette("once"):
        live, arrived = await all_at_once(kit.network(*replies))
    for _ in range(20):
        with kit.cassette():
            assert await all_at_once(kit.network()) == (live, arrived)
