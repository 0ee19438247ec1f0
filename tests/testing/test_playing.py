"""Scripts and recordings are played by the clock of the event loop, chunk by chunk, to the end that they have."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from miniagents import MiniAgents
from miniagents_testing import ScriptedLLM, Step
from miniagents_testing.errors import IncompleteRecordingError
from miniagents_testing.playing import Gate, aplay, network_error, play
from miniagents_testing.script import Failure
from miniagents_testing.streams import HELD, Chunk, ResponseStream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miniagents_testing.call import API


class Clock:
    """A loop whose time goes on only while somebody sleeps, and a thread whose time does."""

    def __init__(self) -> None:
        self.now = 1000.0

    async def asleep(self, seconds: float) -> None:
        """A sleep that is over, a little late, when everybody else has done what there was to do."""
        for _ in range(10):
            await _real_sleep(0)
        self.now += seconds + 0.001

    def sleep(self, seconds: float) -> None:
        """The same for threads."""
        self.now += seconds + 0.001

    def time(self) -> float:
        """What everybody reads."""
        return self.now


_real_sleep = asyncio.sleep


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time that costs none."""
    clock = Clock()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", clock.time)
    monkeypatch.setattr(asyncio, "sleep", clock.asleep)
    monkeypatch.setattr(time, "monotonic", clock.time)
    monkeypatch.setattr(time, "sleep", clock.sleep)
    return clock


def _stream(*chunks: Chunk, **more: Any) -> ResponseStream:
    return ResponseStream(chunks, **more)


@pytest.mark.parametrize("pace", [0.0, 0.5, 1.0])
async def test_chunks_are_due_at_moments_that_delays_do_not_move(clock: Clock, pace: float) -> None:
    """Each is counted from the start of the request, times the pace; async or in a thread."""
    stream = _stream(Chunk(1000, b"1"), Chunk(2000, b"2"), Chunk(500, b"3"), headers_ms=100)
    expected = [pace * wait + 0.001 for wait in (0.11, 0.13, 0.135)]
    start = clock.now
    moments = [clock.now - start async for _ in aplay(stream, start, pace)]
    sync_start = clock.now
    sync_moments = [clock.now - sync_start for _ in play(stream, sync_start, pace)]
    if pace:  # without a pace nothing is ever waited for, and each step is late
        assert moments == pytest.approx(expected)
        assert sync_moments == pytest.approx(expected)
    assert moments == pytest.approx(sync_moments)


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
async def test_tokens_come_at_the_times_of_the_step(clock: Clock, api: API) -> None:
    """Whatever other events an API has around them; thinking and arguments take their time as well."""
    step = Step("one two three", reasoning="hm", tool_calls=[("look", "{} ")], first_wait=3.0, gap=(1.0, 2.0))
    start = clock.now
    async with MiniAgents():
        (promise,) = [promise async for promise in ScriptedLLM(step).agent(api=api).trigger("Hi")]
        moments = [(token, round(clock.now - start, 1)) async for token in promise]
        await promise
    assert moments == [("one", 4.0), (" two", 6.0), (" three", 7.0)]
    assert round(clock.now - start, 1) == 9.0


async def test_a_whole_answer_comes_when_its_last_token_would(clock: Clock) -> None:
    """A failure comes when it is said to."""
    start = clock.now
    llm = ScriptedLLM([Step("one two three", first_wait=3.0, gap=1.0), Failure(500, first_wait=2.0)])
    async with httpx2.AsyncClient(transport=llm.transport()) as client:
        await client.post("https://api.openai.com/v1/responses", json={"input": "Hi"})
        assert round(clock.now - start, 1) == 5.0
        await client.post("https://api.openai.com/v1/responses", json={"input": "Hi"})
        assert round(clock.now - start, 1) == 7.0


async def test_a_pause_in_the_middle(clock: Clock) -> None:
    """`then` may be a number of seconds, on top of the gap; the stream goes on afterwards."""
    start = clock.now
    async with MiniAgents():
        (promise,) = [
            promise
            async for promise in ScriptedLLM(Step("one two", after=1, then=30, gap=1.0), pace=0.5).agent().trigger("Hi")
        ]
        moments = [(token, round(clock.now - start, 1)) async for token in promise]
    assert moments == [("one", 0.0), (" two", 15.5)]


async def test_a_client_waits_no_longer_than_its_timeout(clock: Clock) -> None:
    """It gets the error that a socket would give it, and as late."""
    stream = _stream(Chunk(0, b"1"), Chunk.after(30, b"2"))
    for seconds, play_it in ((10.0, stream), (20.0, _stream(Chunk(0, b"1"), end="open", complete=False))):
        start, received = clock.now, []
        with pytest.raises(httpx2.ReadTimeout):
            async for chunk in aplay(play_it, start, read_timeout=seconds):
                received.append(chunk)
        assert received == [b"1"]
        assert round(clock.now - start, 1) == seconds
    start = clock.now
    with pytest.raises(httpx2.ReadTimeout):
        list(play(stream, start, read_timeout=10.0))
    assert round(clock.now - start, 1) == 10.0


async def test_nothing_ever_comes_of_an_open_stream() -> None:
    """A reader without a timeout waits until it is cancelled; in a thread, which nobody can cancel, not at all."""
    stream = _stream(Chunk(0, b"1"), end="open", complete=False)
    chunks = aplay(stream, asyncio.get_running_loop().time())
    assert await anext(chunks) == b"1"
    waiting = asyncio.ensure_future(anext(chunks))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    with pytest.raises(httpx2.ReadTimeout):
        list(play(stream, time.monotonic()))


@pytest.mark.parametrize("end", ["closed", "cancelled"])
async def test_a_recording_that_its_reader_left_is_not_read_on(end: str) -> None:
    """Nobody knows what would have come; if the last event had, nothing was lost."""
    stream = _stream(Chunk(0, b"1"), end=end, complete=False)
    with pytest.raises(IncompleteRecordingError, match=end):
        _ = [chunk async for chunk in aplay(stream, 0.0, 0.0)]
    with pytest.raises(IncompleteRecordingError, match=end):
        list(play(stream, 0.0, 0.0))
    assert list(play(_stream(Chunk(0, b"1"), end=end), 0.0, 0.0)) == [b"1"]


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        ("raise RemoteProtocolError: peer closed", httpx2.RemoteProtocolError),
        ("raise ConnectTimeout: too long", httpx2.ConnectTimeout),
        ("raise Nonsense: what", httpx2.ReadError),
        ("raise Client: not an error", httpx2.ReadError),
    ],
)
def test_an_end_that_is_an_error_is_raised(end: str, kind: type[Exception]) -> None:
    """By the name of its class; what is no error of the library is a broken connection."""
    with pytest.raises(kind, match=end.partition(": ")[2]):
        list(play(_stream(end=end, complete=False), 0.0, 0.0))


@pytest.mark.parametrize(("end", "kind"), [("raise ReadTimeout: late", TimeoutError), ("raise ReadError: x", OSError)])
def test_errors_need_no_http_library(end: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one they are those of the socket."""
    monkeypatch.setitem(__import__("sys").modules, "httpx2", None)
    assert type(network_error(end)) in (kind, ConnectionResetError)


async def test_what_is_held_waits_for_its_gate() -> None:
    """Of whatever thread and loop; what comes later goes on from there."""
    gate = Gate()
    stream = _stream(Chunk(0, b"1"), Chunk(HELD, b"2"), Chunk(0, b"3"))
    received: list[bytes] = []
    came = threading.Event()

    def read() -> Iterator[None]:
        for chunk in play(stream, time.monotonic(), gate=gate):
            received.append(chunk)
            came.set()
            yield

    reader = threading.Thread(target=lambda: list(read()))
    reader.start()
    chunks = aplay(stream, asyncio.get_running_loop().time(), gate=gate)
    assert await anext(chunks) == b"1"
    held = asyncio.ensure_future(anext(chunks))
    await asyncio.to_thread(came.wait)
    assert received == [b"1"]
    assert not held.done()
    gate.release()
    assert await held == b"2"
    assert [chunk async for chunk in chunks] == [b"3"]
    await asyncio.to_thread(reader.join)
    assert received == [b"1", b"2", b"3"]
    assert [chunk async for chunk in aplay(stream, 0.0, gate=gate)] == [b"1", b"2", b"3"]


async def test_what_is_held_ends_with_the_readers_timeout() -> None:
    """Without a gate nothing is held."""
    stream = _stream(Chunk(HELD, b"1"))
    with pytest.raises(httpx2.ReadTimeout):
        _ = [chunk async for chunk in aplay(stream, 0.0, gate=Gate(), read_timeout=0.001)]
    with pytest.raises(httpx2.ReadTimeout):
        list(play(stream, 0.0, gate=Gate(), read_timeout=0.001))
    assert list(play(stream, 0.0)) == [b"1"]


def test_a_gate_outlives_the_loops_that_waited_at_it() -> None:
    """A stream that was abandoned while it was held does no harm to those who release others."""
    gate = Gate()

    async def wait_and_leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(gate.apass(), 0.001)

    asyncio.run(wait_and_leave())
    gate.release()
    asyncio.run(gate.apass())
