"""With a pace above 0, chunks are played at their recorded times, multiplied by the pace, on the reader's clock."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import pytest

from miniagents import MiniAgents
from miniagents.ext.llm.openai import create_openai_agent
from miniagents_testing import run_in_virtual_time
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, load, save, timeline, use_cassette
from miniagents_testing.recut import all_at_once, byte_by_byte

if TYPE_CHECKING:
    from pathlib import Path

    from tests.testing.cassette.conftest import Kit

URL = "https://api.openai.com/v1/chat/completions"


def _stream(number: int, started_ms: float, *waits: int, headers_ms: float = 0.0) -> Interaction:
    chunks = tuple(Chunk(wait, f"{number}.{index} ".encode()) for index, wait in enumerate(waits))
    body = f'{{"number":{number}}}'.encode()
    return Interaction("POST", URL, body, ResponseStream(chunks, headers_ms=headers_ms), started_ms=started_ms)


async def _read(number: int, moments: list[tuple[str, float]], after: float = 0.0) -> None:
    await asyncio.sleep(after)
    loop = asyncio.get_running_loop()
    async with httpx2.AsyncClient() as client, client.stream("POST", URL, json={"number": number}) as response:
        moments.append((f"{number}", round(loop.time(), 5)))
        async for chunk in response.aiter_raw():
            moments.append((chunk.decode().strip(), round(loop.time(), 5)))


def _played(path: Path, readers: list[tuple[int, float]], **settings: Any) -> list[tuple[str, float]]:
    """Return what came when, for readers that start after some seconds."""
    moments: list[tuple[str, float]] = []

    async def play() -> None:
        with use_cassette(path, **settings):
            async with asyncio.TaskGroup() as group:
                for number, after in readers:
                    group.create_task(_read(number, moments, after))

    run_in_virtual_time(play())
    return moments


@pytest.mark.parametrize("pace", [1.0, 0.5, 3.0])
def test_chunks_come_at_their_moments_times_the_pace(tmp_path: Path, pace: float) -> None:
    """Headers and chunks come at their recorded times after the request, multiplied by the pace."""
    save(tmp_path / "c.yaml", [_stream(0, 0, 1000, 2000, 500, headers_ms=100)])
    moments = _played(tmp_path / "c.yaml", [(0, 1.0)], pace=pace)
    due = {"0": 0.1, "0.0": 0.11, "0.1": 0.13, "0.2": 0.135}
    assert dict(moments) == pytest.approx({name: 1.0 + moment * pace for name, moment in due.items()})


def test_delays_of_the_reader_do_not_add_up(tmp_path: Path) -> None:
    """A reader that is late for one chunk gets the next chunk at its recorded time."""
    save(tmp_path / "c.yaml", [_stream(0, 0, 1000, 1000, 1000, 1000)])
    moments: list[float] = []

    async def play() -> None:
        with use_cassette(tmp_path / "c.yaml", pace=1):
            async with httpx2.AsyncClient() as client, client.stream("POST", URL, json={"number": 0}) as response:
                async for _ in response.aiter_raw():
                    moments.append(asyncio.get_running_loop().time())
                    await asyncio.sleep(0.015)

    run_in_virtual_time(play())
    assert moments == pytest.approx([0.01, 0.025, 0.04, 0.055])


def test_parallel_streams_keep_their_places_on_the_timeline(tmp_path: Path) -> None:
    """Chunks of parallel streams keep their recorded times relative to each other, even if a request is late."""
    save(tmp_path / "c.yaml", [_stream(0, 0, 1000, 2000, 2000), _stream(1, 5, 1000, 2000, 2000)])
    for late in (0.0, 0.005, 0.012):
        moments = _played(tmp_path / "c.yaml", [(0, 0.0), (1, late)], pace=1)
        chunks = [(name, moment) for name, moment in moments if "." in name]
        assert chunks == [("0.0", 0.01), ("1.0", 0.015), ("0.1", 0.03), ("1.1", 0.035), ("0.2", 0.05), ("1.2", 0.055)]


def test_a_stream_that_runs_alone_begins_at_its_request(tmp_path: Path) -> None:
    """A stream that plays alone starts at its own request, so that recorded pauses between requests are skipped."""
    save(tmp_path / "c.yaml", [_stream(0, 0, 1000), _stream(1, 60_000, 1000)])
    moments = _played(tmp_path / "c.yaml", [(0, 0.0), (1, 1.0)], pace=1)
    assert moments == [("0", 0.0), ("0.0", 0.01), ("1", 1.0), ("1.0", 1.01)]


def test_a_response_that_is_collected_unclosed_leaves_the_timeline(tmp_path: Path) -> None:
    """After an unclosed response was garbage-collected, the next stream starts at its own request."""
    save(tmp_path / "c.yaml", [_stream(0, 0, 1000, 1000), _stream(1, 60_000, 1000)])
    moments: list[tuple[str, float]] = []

    async def play() -> None:
        with use_cassette(tmp_path / "c.yaml", pace=1):
            async with httpx2.AsyncClient() as client:
                response = await client.send(client.build_request("POST", URL, json={"number": 0}), stream=True)
                assert await anext(response.aiter_raw()) == b"0.0 "
                del response
                for _ in range(5):  # one generator within another, each is closed in a step of its own
                    gc.collect()
                    await asyncio.sleep(0)
                await _read(1, moments)

    run_in_virtual_time(play())
    assert moments == [("1", 0.01), ("1.0", 0.02)]


def test_anchor_request_gives_each_stream_its_own_timeline(tmp_path: Path) -> None:
    """With `anchor="request"`, the chunks of each parallel stream come at their times after its own request."""
    save(tmp_path / "c.yaml", [_stream(0, 0, 1000, 2000), _stream(1, 5, 1000, 2000)])
    moments = _played(tmp_path / "c.yaml", [(0, 0.0), (1, 0.012)], pace=1, anchor="request")
    assert [moment for moment in moments if moment[0].startswith("1.")] == [("1.0", 0.022), ("1.1", 0.042)]


def test_parallel_streams_keep_their_recorded_order_at_a_pace(tmp_path: Path) -> None:
    """At a pace, eight streams with 2,000 chunks that are 10 µs apart play in their recorded order."""
    dice = random.Random(1)
    interactions = [_stream(number, number / 10, *(dice.randrange(1, 3000) for _ in range(250))) for number in range(8)]
    save(tmp_path / "c.yaml", interactions)
    moments = _played(tmp_path / "c.yaml", [(number, 0.0) for number in range(8)], pace=1)
    places = {f"{moment.data.decode().strip()}": moment.ms for moment in timeline(interactions)}
    seen = [places[name] for name, _ in moments if "." in name]
    assert seen == sorted(seen)
    assert len(seen) == 2000


def test_threads_are_played_by_the_monotonic_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a thread without an event loop, chunks come at their times on `time.monotonic`."""
    save(tmp_path / "c.yaml", [_stream(0, 0, 1000, 2000, 500, headers_ms=100)])
    now, moments = 7.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    with use_cassette(tmp_path / "c.yaml", pace=2):
        with httpx2.Client() as client, client.stream("POST", URL, json={"number": 0}) as response:
            moments.append(now)
            moments.extend(now for _ in response.iter_raw())
    assert moments == pytest.approx([7.2, 7.22, 7.26, 7.27])


async def test_other_tasks_run_between_chunks_at_pace_0(tmp_path: Path) -> None:
    """At pace 0, recorded waits are skipped, and another task runs between each two chunks."""
    save(tmp_path / "c.yaml", [_stream(0, 0, 10**6, 10**6, 10**6)])
    steps = 0

    async def count() -> None:
        nonlocal steps
        while True:
            steps += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    with use_cassette(tmp_path / "c.yaml"):
        async with httpx2.AsyncClient() as client, client.stream("POST", URL, json={"number": 0}) as response:
            seen = [steps async for _ in response.aiter_raw()]
    counting.cancel()
    assert seen == sorted(set(seen))


@pytest.mark.parametrize(
    ("chunking", "expected"),
    [
        ("recorded", [b"data: 1\n", b"\ndata: 2\n\n"]),
        ("event", [b"data: 1\n\n", b"data: 2\n\n"]),
        (all_at_once, [b"data: 1\n\ndata: 2\n\n"]),
        (byte_by_byte, [bytes([byte]) for byte in b"data: 1\n\ndata: 2\n\n"]),
    ],
    ids=["recorded", "event", "all_at_once", "byte_by_byte"],
)
async def test_K12_a_stream_can_be_cut_differently(tmp_path: Path, chunking: Any, expected: list[bytes]) -> None:
    """With `chunking`, a stream plays event by event, or in the chunks that a function makes."""
    chunks = Chunk(0, b"data: 1\n"), Chunk(0, b"\ndata: 2\n\n")
    save(tmp_path / "c.yaml", [Interaction("POST", URL, b"{}", ResponseStream(chunks))])
    with use_cassette(tmp_path / "c.yaml", chunking=chunking):
        async with httpx2.AsyncClient() as client, client.stream("POST", URL, json={}) as response:
            assert [chunk async for chunk in response.aiter_raw()] == expected


def test_K10_K12_recording_and_playing_have_the_same_moments(kit: Kit) -> None:
    """While recording, each chunk reaches its reader when it is sent, and it is played at the same time."""
    sent = kit.chat("a", "b", "c")
    network = kit.network(kit.Reply([step for chunk in sent for step in (0.25, chunk)]))

    async def moments(mode: Any) -> list[float]:
        now = asyncio.get_running_loop().time
        with kit.cassette(mode, pace=1):
            started = now()
            async with httpx2.AsyncClient(transport=network) as client, client.stream("POST", URL, json={}) as response:
                return [now() - started async for _ in response.aiter_raw()]

    sending = pytest.approx([0.25 * number for number in range(1, len(sent) + 1)])
    assert run_in_virtual_time(moments("once")) == sending
    assert [chunk.wait for chunk in load(kit.path)[0].response.chunks] == [25_000] * len(sent)
    assert run_in_virtual_time(moments("none")) == sending


def test_recorded_times_are_those_at_which_the_client_reads(kit: Kit) -> None:
    """A client that takes longer for each chunk than the provider is recorded with the times at which it reads."""
    sent = kit.chat("a", "b", "c")
    network = kit.network(kit.Reply([step for chunk in sent for step in (0.25, chunk)]))

    async def read_slowly() -> None:
        with kit.cassette("once"):
            async with httpx2.AsyncClient(transport=network) as client, client.stream("POST", URL, json={}) as response:
                async for _ in response.aiter_raw():
                    await asyncio.sleep(1)

    run_in_virtual_time(read_slowly())
    first, *others = (chunk.wait for chunk in load(kit.path)[0].response.chunks)
    assert first == 25_000
    assert others == [125_000] * (len(sent) - 1)


def test_agents_are_recorded_with_the_times_of_the_provider_when_their_readers_are_slow(kit: Kit) -> None:
    """An agent of MiniAgents reads its answer at once, so a slow reader of its tokens changes no recorded time."""
    sent = kit.chat("a", "b", "c")
    network = kit.network(kit.Reply([step for chunk in sent for step in (0.25, chunk)]))

    async def read_slowly() -> None:
        with kit.cassette("once"):
            async with httpx2.AsyncClient(transport=network) as http_client, MiniAgents():
                client = openai.AsyncOpenAI(api_key="none", http_client=http_client)
                async for promise in create_openai_agent("m", async_client=client).trigger("Hi"):
                    async for _ in promise:
                        await asyncio.sleep(1)

    run_in_virtual_time(read_slowly())
    assert [chunk.wait for chunk in load(kit.path)[0].response.chunks] == [25_000] * len(sent)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("pace", -1),
        ("pace", float("inf")),
        ("pace", float("nan")),
        ("anchor", "start"),
        ("at_incomplete", "raise"),
        ("chunking", "bytes"),
        ("on_early_close", "keep"),
        ("retry_after", "wait"),
        ("unplayed", "warn"),
    ],
)
def test_an_unknown_setting_is_refused_before_anything_is_opened(tmp_path: Path, setting: str, value: Any) -> None:
    """The call of `use_cassette` with an invalid setting raises a `ValueError` that lists the allowed values."""
    with pytest.raises(ValueError, match=rf"^{setting} must be .*, not {value!r}"):
        use_cassette(tmp_path / "c.yaml", **{setting: value})
