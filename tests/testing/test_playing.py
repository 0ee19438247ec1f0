"""Players of streams: the times of chunks in loops and threads, read timeouts, ends, and held chunks."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from miniagents import MiniAgents
from miniagents_testing import ScriptedLLM, Step
from miniagents_testing._script import Failure
from miniagents_testing._streams import HELD, Chunk, Gate, ResponseStream, aplay, network_error, play
from miniagents_testing.errors import IncompleteRecordingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from miniagents_testing._script import API


@pytest.fixture
def thread_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """Replace the clock of threads: it advances in `time.sleep` only, and each sleep takes 1 ms longer than asked."""
    now = 1000.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds + 0.001

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    return lambda: now


def now() -> float:
    """Return the time of the running loop."""
    return asyncio.get_running_loop().time()


def _stream(*chunks: Chunk, **more: Any) -> ResponseStream:
    return ResponseStream(chunks, **more)


PACED = _stream(Chunk(1000, b"1"), Chunk(2000, b"2"), Chunk(500, b"3"), headers_ms=100)


@pytest.mark.miniagents_virtual_time
@pytest.mark.parametrize("pace", [0.0, 0.5, 1.0])
async def test_chunks_arrive_at_fixed_moments_when_the_reader_is_slow(pace: float) -> None:
    """Each chunk comes at its time after the request, so that a slow reader delays no later chunk."""
    start, moments = now(), []
    async for _ in aplay(PACED, start, pace):
        moments.append(now() - start)
        await asyncio.sleep(0.004 * pace)
    assert moments == pytest.approx([pace * wait for wait in (0.11, 0.13, 0.135)])


@pytest.mark.parametrize("pace", [0.5, 1.0])
def test_chunks_arrive_at_fixed_moments_in_a_thread(pace: float, thread_time: Callable[[], float]) -> None:
    """In a thread, each chunk comes at its time after the request, though each sleep takes longer than asked."""
    start = thread_time()
    moments = [thread_time() - start for _ in play(PACED, start, pace)]
    assert moments == pytest.approx([pace * wait + 0.001 for wait in (0.11, 0.13, 0.135)])


@pytest.mark.miniagents_virtual_time
@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
async def test_tokens_arrive_at_the_times_of_the_step(api: API) -> None:
    """Each token of a scripted step arrives one gap after the token before it, for each API."""
    step = Step("one two three", reasoning="hm", tool_calls=[("look", "{} ")], first_wait=3.0, gap=(1.0, 2.0))
    start = now()
    async with MiniAgents():
        (promise,) = [promise async for promise in ScriptedLLM(step).agent(api=api).trigger("Hi")]
        moments = [(token, round(now() - start, 3)) async for token in promise]
        await promise
    assert moments == [("one", 4.0), (" two", 6.0), (" three", 7.0)]
    assert now() - start == pytest.approx(9.0)


@pytest.mark.miniagents_virtual_time
async def test_answer_without_streaming_arrives_with_its_last_token() -> None:
    """A scripted answer without streaming arrives when its last token would, and a failure after its first wait."""
    start = now()
    llm = ScriptedLLM([Step("one two three", first_wait=3.0, gap=1.0), Failure(500, first_wait=2.0)])
    async with httpx2.AsyncClient(transport=llm.transport(), timeout=10.0) as client:
        await client.post("https://api.openai.com/v1/responses", json={"input": "Hi"})
        assert now() - start == pytest.approx(5.0)
        await client.post("https://api.openai.com/v1/responses", json={"input": "Hi"})
        assert now() - start == pytest.approx(7.0)


@pytest.mark.miniagents_virtual_time
async def test_stream_pauses_when_then_is_a_number() -> None:
    """If a step's `then` is a number, the stream pauses that many seconds, times the pace, after `after` tokens."""
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
async def test_client_gets_a_read_timeout_when_no_bytes_come(stream: ResponseStream) -> None:
    """A client whose stream pauses longer than its read timeout gets `ReadTimeout` at that time."""
    start, received = now(), []
    with pytest.raises(httpx2.ReadTimeout):
        async for chunk in aplay(stream, start, gate=Gate(), read_timeout=10.0):
            received.append(chunk)
    assert received == [b"1"]
    assert now() - start == pytest.approx(10.0)


@pytest.mark.miniagents_virtual_time
async def test_client_gets_a_read_timeout_when_the_headers_are_late() -> None:
    """A client gets `ReadTimeout` when the headers come later than its read timeout."""
    llm, start = ScriptedLLM(Failure(500, first_wait=60.0)), now()
    async with httpx2.AsyncClient(transport=llm.transport(), timeout=10.0) as client:
        with pytest.raises(httpx2.ReadTimeout):
            await client.post("https://api.openai.com/v1/responses", json={"input": "Hi"})
    assert now() - start == pytest.approx(10.0)


def test_thread_gets_a_read_timeout_when_no_bytes_come(thread_time: Callable[[], float]) -> None:
    """A thread gets its read timeout before a late chunk, and at once at the end of a stream that stays open."""
    start = thread_time()
    with pytest.raises(httpx2.ReadTimeout):
        list(play(LATE, start, read_timeout=10.0))
    assert round(thread_time() - start, 1) == 10.0
    with pytest.raises(httpx2.ReadTimeout):
        list(play(OPEN, thread_time()))
    assert round(thread_time() - start, 1) == 10.0


async def test_reader_of_an_open_stream_waits_until_it_is_cancelled() -> None:
    """Without a read timeout, the reader of an open stream waits for ever."""
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
async def test_reading_beyond_a_recording_that_its_reader_left_is_an_error(end: str) -> None:
    """A reader that goes past the end of an incomplete recording gets an error; a complete one ends normally."""
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
def test_end_that_is_an_error_is_raised(end: str, kind: type[Exception]) -> None:
    """A recorded end `raise ...` raises the httpx2 error of that name, or `ReadError` for an unknown name."""
    with pytest.raises(kind, match=end.partition(": ")[2]):
        list(play(_stream(end=end, complete=False), 0.0, 0.0))


@pytest.mark.parametrize(("end", "kind"), [("raise ReadTimeout: late", TimeoutError), ("raise ReadError: x", OSError)])
def test_network_error_is_builtin_without_the_http_library(
    end: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without httpx2, a recorded network error is raised as Python's own connection or timeout error."""
    monkeypatch.setitem(__import__("sys").modules, "httpx2", None)
    assert type(network_error(end)) in (kind, ConnectionResetError)


async def test_held_chunk_waits_for_the_release_of_its_gate() -> None:
    """Readers in threads and loops wait at a held chunk until its gate is released; later readers do not wait."""
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


def test_thread_gets_a_read_timeout_at_a_closed_gate() -> None:
    """A thread that waits at a closed gate gets its read timeout; without a gate, a held chunk comes at once."""
    stream = _stream(Chunk(HELD, b"1"))
    with pytest.raises(httpx2.ReadTimeout):
        list(play(stream, time.monotonic(), gate=Gate(), read_timeout=0.001))
    assert list(play(stream, time.monotonic())) == [b"1"]


def test_gate_can_be_released_after_a_waiting_loop_was_closed() -> None:
    """A gate can be released after the event loop of a waiting reader was closed."""
    gate = Gate()

    async def wait_and_leave() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(gate.await_release(), 0.001)

    asyncio.run(wait_and_leave())
    gate.release()
    asyncio.run(gate.await_release())
