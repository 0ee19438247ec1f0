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
from miniagents_testing._playing import Gate, aplay, network_error, play
from miniagents_testing._script import Failure
from miniagents_testing._streams import HELD, Chunk, ResponseStream
from miniagents_testing.errors import IncompleteRecordingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from miniagents_testing._script import API


@pytest.fixture
def thread_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """The clock of threads, which goes on only while one sleeps; every sleep takes a little longer than it should."""
    now = 1000.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds + 0.001

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    return lambda: now


def now() -> float:
    """The clock of the loop."""
    return asyncio.get_running_loop().time()


def _stream(*chunks: Chunk, **more: Any) -> ResponseStream:
    return ResponseStream(chunks, **more)


PACED = _stream(Chunk(1000, b"1"), Chunk(2000, b"2"), Chunk(500, b"3"), headers_ms=100)


@pytest.mark.miniagents_virtual_time
@pytest.mark.parametrize("pace", [0.0, 0.5, 1.0])
async def test_chunks_are_due_at_fixed_moments(pace: float) -> None:
    """Each is counted from the start of the request, times the pace; a reader that is slow does not move the later."""
    start, moments = now(), []
    async for _ in aplay(PACED, start, pace):
        moments.append(now() - start)
        await asyncio.sleep(0.004 * pace)
    assert moments == pytest.approx([pace * wait for wait in (0.11, 0.13, 0.135)])


@pytest.mark.parametrize("pace", [0.5, 1.0])
def test_a_thread_gets_them_at_the_same_moments(pace: float, thread_time: Callable[[], float]) -> None:
    """By its own clock; that each sleep ends late does not add up."""
    start = thread_time()
    moments = [thread_time() - start for _ in play(PACED, start, pace)]
    assert moments == pytest.approx([pace * wait + 0.001 for wait in (0.11, 0.13, 0.135)])


@pytest.mark.miniagents_virtual_time
@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
async def test_tokens_come_at_the_times_of_the_step(api: API) -> None:
    """Whatever other events an API has around them; thinking and arguments take their time as well."""
    step = Step("one two three", reasoning="hm", tool_calls=[("look", "{} ")], first_wait=3.0, gap=(1.0, 2.0))
    start = now()
    async with MiniAgents():
        (promise,) = [promise async for promise in ScriptedLLM(step).agent(api=api).trigger("Hi")]
        moments = [(token, round(now() - start, 3)) async for token in promise]
        await promise
    assert moments == [("one", 4.0), (" two", 6.0), (" three", 7.0)]
    assert now() - start == pytest.approx(9.0)


@pytest.mark.miniagents_virtual_time
async def test_a_whole_answer_comes_when_its_last_token_would() -> None:
    """A failure comes when it is said to."""
    start = now()
    llm = ScriptedLLM([Step("one two three", first_wait=3.0, gap=1.0), Failure(500, first_wait=2.0)])
    async with httpx2.AsyncClient(transport=llm.transport(), timeout=10.0) as client:
        await client.post("https://api.openai.com/v1/responses", json={"input": "Hi"})
        assert now() - start == pytest.approx(5.0)
        await client.post("https://api.openai.com/v1/responses", json={"input": "Hi"})
        assert now() - start == pytest.approx(7.0)


@pytest.mark.miniagents_virtual_time
async def test_a_pause_in_the_middle() -> None:
    """`then` may be a number of seconds, on top of the gap; the stream goes on afterwards."""
    agent = ScriptedLLM(Step("one two", after=1, then=30, gap=1.0), pace=0.5).agent()
    start = now()
    async with MiniAgents():
        (promise,) = [promise async for promise in agent.trigger("Hi")]
        moments = [(token, round(now() - start, 3)) async for token in promise]
    assert moments == [("one", 0.0), (" two", 15.5)]


LATE = _stream(Chunk(0, b"1"), Chunk.after(30, b"2"))
OPEN = _stream(Chunk(0, b"1"), end="open", complete=False)


@pytest.mark.miniagents_virtual_time
@pytest.mark.parametrize("stream", [LATE, OPEN, _stream(Chunk(0, b"1"), Chunk(HELD, b"2"))])
async def test_a_client_waits_no_longer_than_its_timeout(stream: ResponseStream) -> None:
    """It gets the error that a socket would give it, and as late."""
    start, received = now(), []
    with pytest.raises(httpx2.ReadTimeout):
        async for chunk in aplay(stream, start, gate=Gate(), read_timeout=10.0):
            received.append(chunk)
    assert received == [b"1"]
    assert now() - start == pytest.approx(10.0)


@pytest.mark.miniagents_virtual_time
async def test_a_client_does_not_wait_for_late_headers_either() -> None:
    """Nothing has come by then at all."""
    llm, start = ScriptedLLM(Failure(500, first_wait=60.0)), now()
    async with httpx2.AsyncClient(transport=llm.transport(), timeout=10.0) as client:
        with pytest.raises(httpx2.ReadTimeout):
            await client.post("https://api.openai.com/v1/responses", json={"input": "Hi"})
    assert now() - start == pytest.approx(10.0)


def test_a_thread_waits_no_longer_than_its_timeout(thread_time: Callable[[], float]) -> None:
    """Where nothing would ever come, not at all: nobody could wake it."""
    start = thread_time()
    with pytest.raises(httpx2.ReadTimeout):
        list(play(LATE, start, read_timeout=10.0))
    assert round(thread_time() - start, 1) == 10.0
    with pytest.raises(httpx2.ReadTimeout):
        list(play(OPEN, thread_time()))
    assert round(thread_time() - start, 1) == 10.0


async def test_nothing_ever_comes_of_an_open_stream() -> None:
    """A reader without a timeout waits until it is cancelled."""
    chunks = aplay(OPEN, now())
    assert await anext(chunks) == b"1"
    waiting = asyncio.ensure_future(anext(chunks))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()


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


def test_a_thread_waits_at_the_gate_as_long_as_its_client_would() -> None:
    """Without a gate nothing is held."""
    stream = _stream(Chunk(HELD, b"1"))
    with pytest.raises(httpx2.ReadTimeout):
        list(play(stream, time.monotonic(), gate=Gate(), read_timeout=0.001))
    assert list(play(stream, time.monotonic())) == [b"1"]


def test_a_gate_outlives_the_loops_that_waited_at_it() -> None:
    """A stream that was abandoned while it was held does no harm to those who release others."""
    gate = Gate()

    async def wait_and_leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(gate.await_release(), 0.001)

    asyncio.run(wait_and_leave())
    gate.release()
    asyncio.run(gate.await_release())
