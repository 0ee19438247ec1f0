"""At no pace, parallel streams keep their recorded order, and none waits for one that does not come."""

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
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, timeline
from miniagents_testing.cassette._order import Order

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

URL = "https://api.openai.com/v1/chat/completions"


def _recorded(number: int, started: int, waits: Iterable[int], **response: Any) -> Interaction:
    """A stream that begins so many ticks after the first, with these ticks before each chunk."""
    chunks = tuple(Chunk(wait, f"{number}.{index} ".encode()) for index, wait in enumerate(waits))
    stream = ResponseStream(chunks, **response)
    return Interaction("POST", URL, f'{{"number":{number}}}'.encode(), stream, started_ms=started / 100)


def _apart(starts: Sequence[int], waits: Sequence[Sequence[int]]) -> list[Interaction]:
    """Streams of which no two do something at the same moment, as in a recording."""
    count = len(starts)
    moments = [list(accumulate(each, initial=start)) for start, each in zip(starts, waits, strict=True)]
    spread = [[moment * 2 * count + number for moment in each] for number, each in enumerate(moments)]
    return [
        _recorded(number, each[0], [late - early for early, late in pairwise(each)])
        for number, each in enumerate(spread)
    ]


class Reader:
    """Reads streams of one transport, and notes what came in which order."""

    def __init__(self, interactions: Sequence[Interaction], turns: Sequence[int] = ()) -> None:
        self.transport = ReplayTransport(interactions)
        self.client = httpx2.AsyncClient(transport=self.transport)
        self.order = [moment.data.decode() for moment in timeline(interactions) if moment.what == "chunk"]
        self.turns = turns
        self.seen: list[str] = []

    def open(self, number: int) -> Any:
        """The response of one stream."""
        return self.client.stream("POST", URL, json={"number": number})

    async def read(self, number: int, after_chunk: Callable[[], Awaitable[Any]] | None = None) -> None:
        """Read a stream to its end; after each chunk the reader is away for some turns of the loop."""
        async with self.open(number) as response:
            async for chunk in response.aiter_raw():
                self.seen.append(chunk.decode())
                for _ in range(self.turns[number] if self.turns else 0):
                    await asyncio.sleep(0)
                if after_chunk is not None:
                    await after_chunk()


@given(st.data())
def test_parallel_streams_keep_their_recorded_order(data: st.DataObject) -> None:
    """Whichever reader is started first, and however many turns of the loop each is away between its chunks."""
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


async def test_a_request_that_is_prepared_in_a_thread_is_waited_for() -> None:
    """As SDKs prepare the first one of a client, while the other loop turns and turns."""
    reader = Reader(_apart([0, 0], INTERLEAVED[:2]))

    async def prepare_and_read() -> None:
        await asyncio.to_thread(time.sleep, 0.02)
        await reader.read(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(prepare_and_read())
        group.create_task(reader.read(1))
    assert reader.seen == reader.order


async def test_a_reader_that_stops_holds_up_nobody() -> None:
    """It keeps its response open and reads no more; the others come to their end, in order."""
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


async def test_a_reader_that_leaves_holds_up_nobody() -> None:
    """What is left of its stream is nobody's concern."""
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


async def test_a_stream_that_is_never_asked_for_holds_up_nobody() -> None:
    """The application does less than it did when it was recorded."""
    reader = Reader(_apart([0, 1, 2], INTERLEAVED))
    await reader.read(2)
    assert reader.seen == [piece for piece in reader.order if piece.startswith("2")]


async def test_one_task_reads_two_streams_in_an_order_of_its_own() -> None:
    """Who waits for one cannot read the other meanwhile, so the other is not waited for."""
    reader = Reader(_apart([0, 0], INTERLEAVED[:2]))
    async with reader.open(0) as first, reader.open(1) as second:
        streams = first.aiter_raw(), second.aiter_raw()
        for _ in INTERLEAVED[0]:
            for stream in reversed(streams):
                reader.seen.append((await anext(stream)).decode())
    assert sorted(reader.seen) == sorted(reader.order)


async def test_a_reader_that_waits_for_the_end_of_another_gets_it() -> None:
    """What it has not read does not keep the other from ending."""
    reader = Reader(_apart([0, 0], INTERLEAVED[:2]))
    ended = asyncio.Event()

    async def second() -> None:
        await reader.read(1)
        ended.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(reader.read(0, ended.wait))
        group.create_task(second())
    assert sorted(reader.seen) == sorted(reader.order)


async def test_a_stream_that_is_closed_while_it_is_waited_for_holds_up_nobody() -> None:
    """Whoever closes it, and whoever waits behind it."""
    reader = Reader(_apart([0, 0, 0], INTERLEAVED))
    async with reader.open(0) as first, reader.open(1) as second:
        waiting = asyncio.create_task(anext(second.aiter_raw()))  # for the first, which nobody reads
        await asyncio.sleep(0)
        third = asyncio.create_task(reader.read(2))
        await asyncio.sleep(0)
        await second.stream.aclose()
        await asyncio.wait([waiting, third])
    assert first.is_closed
    assert reader.seen == [piece for piece in reader.order if piece.startswith("2")]


async def test_a_cancelled_reader_lets_the_next_one_go() -> None:
    """Those who wait behind it are not forgotten."""
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


async def test_one_recording_is_played_to_several_at_once(kit: Any) -> None:
    """Where repeats are allowed, the second reader has no place in the order, and waits for nobody."""
    with kit.cassette("once"):
        await kit.aask("chat", httpx2.AsyncClient(transport=kit.network(kit.Reply(kit.chat("a", "b")))))
    with vcr.use_cassette(str(kit.path), record_mode="none", allow_playback_repeats=True) as cassette:
        with stream_layer(cassette, also_patch=[type(kit.network())]):
            client = httpx2.AsyncClient(transport=kit.network())
            seen = await asyncio.gather(*(kit.aask("chat", client) for _ in range(5)))
    assert seen == [seen[0]] * 5


@pytest.mark.parametrize("count", [10, 100])
async def test_a_chunk_costs_the_same_however_many_streams_wait(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one of those who wait looks out."""
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
def test_whatever_readers_do_everybody_comes_to_an_end(data: st.DataObject) -> None:
    """Read to the end, stop until the others have ended, leave, be cancelled, or never begin; on any schedule."""
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
    """Its error comes after all that came before, and the others go on."""
    broken = _recorded(0, 0, [3, 4], end="raise ReadError: reset", complete=False)
    reader = Reader([broken, _recorded(1, 1, [1, 4, 2])])
    async with asyncio.TaskGroup() as group:
        group.create_task(reader.read(1))
        with pytest.raises(httpx2.ReadError, match="reset"):
            await reader.read(0)
        reader.seen.append("broken")
    assert reader.seen == ["1.0 ", "0.0 ", "1.1 ", "0.1 ", "broken", "1.2 "]


def test_threads_keep_the_recorded_order() -> None:
    """Readers in threads of their own, too."""
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


async def test_ten_requests_at_once_go_to_those_who_asked(kit: Any) -> None:
    """Recorded at once and played at once, twenty times: each caller gets its own answer, all in the same order."""
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
