"""aiohttp under a cassette: what an application sees is the same live, while it is recorded and when it is played."""

from __future__ import annotations

import asyncio
import io
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from wire_server import EVENTS, GAP, WireServer, by_path

from miniagents import InteractionContext, MiniAgents, miniagent
from miniagents_testing import run_in_virtual_time, use_cassette
from miniagents_testing.cassette import Interaction, ResponseStream, load, save
from miniagents_testing.errors import (
    CassetteMissError,
    IncompleteRecordingError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    Ask = Callable[[aiohttp.ClientSession, str], Awaitable[Any]]


@pytest.fixture
def server() -> Iterator[WireServer]:
    """Run a server until the test ends."""
    with WireServer(by_path) as started:
        yield started


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of the cassette of this test."""
    return tmp_path / "trip.yaml"


@pytest.fixture
def other(path: Path) -> Path:
    """Save a cassette with one interaction that no test asks for."""
    save(path, [Interaction("GET", "https://x.test/other", b"", ResponseStream())])
    return path


async def ask(work: Ask, url: str, **options: Any) -> Any:
    """Call `work` with a new client, and return its result, or the class and text of its error."""
    async with aiohttp.ClientSession(**options) as client:
        try:
            return await work(client, url)
        except aiohttp.ClientError as error:
            return type(error), str(error)


async def until(is_true: Callable[[], bool]) -> None:
    """Wait until `is_true()` is true, which happens in another task."""
    while not is_true():  # noqa: ASYNC110 - nothing tells when it happens
        await asyncio.sleep(0.001)


# --- the same live, recorded and played


async def any_chunks(client: aiohttp.ClientSession, url: str) -> Any:
    """Read chunks as they come; on a busy machine two of a live answer may come as one."""
    async with client.get(f"{url}/stream") as response:
        return response.status, response.reason, b"".join([chunk async for chunk in response.content.iter_any()])


async def http_chunks(client: aiohttp.ClientSession, url: str) -> Any:
    """Read chunks as the server has framed them; an end that comes alone is an empty one."""
    async with client.get(f"{url}/stream") as response:
        return [(chunk, is_whole) async for chunk, is_whole in response.content.iter_chunks() if chunk]


async def lines(client: aiohttp.ClientSession, url: str) -> Any:
    """Read line by line."""
    async with client.get(f"{url}/stream") as response:
        return [line async for line in response.content]


async def sized(client: aiohttp.ClientSession, url: str) -> Any:
    """Read a body with a length."""
    async with client.get(f"{url}/length") as response:
        return b"".join([chunk async for chunk in response.content.iter_any()])


async def compressed(client: aiohttp.ClientSession, url: str) -> Any:
    """Read a body that the server compresses, asked or not."""
    async with client.get(f"{url}/gzip") as response:
        return await response.read()


async def one_event(client: aiohttp.ClientSession, url: str) -> Any:
    """Read one chunk of a long stream, and close it."""
    async with client.get(f"{url}/long") as response:
        return await response.content.readany()


async def without_body(client: aiohttp.ClientSession, url: str) -> Any:
    """Send requests whose answers have no body."""
    seen: list[Any] = []
    for method, name in (("HEAD", "stream"), ("GET", "204"), ("GET", "304"), ("GET", "404"), ("DELETE", "200")):
        async with client.request(method, f"{url}/{name}") as response:
            seen.append((response.status, await response.read()))
    return seen


async def broken_body(client: aiohttp.ClientSession, url: str) -> Any:
    """Read a body until it breaks, by a reset and by an early end."""
    seen: list[Any] = []
    for name in ("reset", "close"):
        with suppress(aiohttp.ClientPayloadError):
            async with client.get(f"{url}/{name}") as response:
                async for chunk, _ in response.content.iter_chunks():
                    seen.append(chunk)
                seen.append("whole")
    return seen


async def broken_head(client: aiohttp.ClientSession, url: str) -> Any:
    """Send a request to which there is no answer."""
    await client.post(f"{url}/gone")


async def no_server(client: aiohttp.ClientSession, url: str) -> Any:
    """Connect to a port where nothing listens."""
    await client.get("http://127.0.0.1:1/")


async def too_slow(client: aiohttp.ClientSession, url: str) -> Any:
    """Wait for a server that has fallen silent, until aiohttp's own time-out."""
    seen: list[Any] = []
    async with client.get(f"{url}/long", timeout=aiohttp.ClientTimeout(sock_read=0.3)) as response:
        try:
            async for chunk, _ in response.content.iter_chunks():
                seen.append(chunk)
        except aiohttp.SocketTimeoutError as error:
            seen.append(str(error))
    return seen


async def redirected(client: aiohttp.ClientSession, url: str) -> Any:
    """Follow a redirect."""
    async with client.get(f"{url}/redirect") as response:
        return response.url.path, [each.status for each in response.history], await response.text()


async def redirected_upload(client: aiohttp.ClientSession, url: str) -> Any:
    """Follow a redirect that sends the body again."""
    async with client.post(f"{url}/keep", data=b"body") as response:
        return response.url.path, await response.read()


async def numbers() -> AsyncIterator[bytes]:
    """Yield the parts of a body."""
    for number in range(3):
        yield f"{number},".encode()


def pipe(data: bytes) -> Any:
    """Return a file that has these bytes, and no position to go back to."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    return os.fdopen(reading, "rb")


async def uploads(client: aiohttp.ClientSession, url: str) -> Any:
    """Send bodies of all kinds; the server returns them."""
    form = aiohttp.MultipartWriter("form-data", boundary="cut")  # `FormData` has another boundary each time
    form.append(b"\x00\xff").set_content_disposition("form-data", name="file", filename="a.bin")
    mixed = aiohttp.MultipartWriter("mixed", boundary="cut")
    mixed.append("zipped in its part", {"content-encoding": "gzip"})
    seen: list[Any] = []
    with pipe(b"can be read once") as once:
        bodies: list[dict[str, Any]] = [
            {"json": {"a": "ä"}},
            {"data": {"a": "1", "b": "ä"}},
            {"data": "text"},
            {"data": numbers()},
            {"data": io.BytesIO(b"file")},
            {"data": once},
            {"data": form},
            {"data": mixed},
            {"data": b"x" * 300_000},
            {"data": b"squeezed" * 100, "compress": "gzip"},
            {"data": b"asked for", "expect100": True},
            {},
        ]
        for body in bodies:
            async with client.post(f"{url}/echo", **body) as response:
                seen.append((response.headers["x-request-id"], await response.read()))
    return seen


async def in_parallel(client: aiohttp.ClientSession, url: str) -> Any:
    """Read several streams at once."""
    return await asyncio.gather(any_chunks(client, f"{url}/a"), lines(client, url), http_chunks(client, f"{url}/b"))


async def unread(client: aiohttp.ClientSession, url: str) -> Any:
    """Close responses without reading them."""
    seen = []
    for name in ("stream", "404", "length"):
        async with client.get(f"{url}/{name}") as response:
            seen.append(response.status)
    return seen


WORK: list[Ask] = [
    any_chunks,
    http_chunks,
    lines,
    sized,
    compressed,
    one_event,
    without_body,
    broken_body,
    broken_head,
    no_server,
    too_slow,
    redirected,
    redirected_upload,
    uploads,
    in_parallel,
    unread,
]


def loop_of(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return the function of asyncio or uvloop that makes an event loop; skip the test without uvloop."""
    return asyncio.new_event_loop if name == "asyncio" else pytest.importorskip("uvloop").new_event_loop


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_aiohttp_sees_the_same_live_recorded_and_played(server: WireServer, path: Path, work: Ask, loop: str) -> None:
    """Chunks, bodies, headers and errors are those of the live server, and no request reaches it in replay."""

    async def again(mode: Any) -> Any:
        async with use_cassette(path, record_mode=mode):
            return await ask(work, server.url)

    with asyncio.Runner(loop_factory=loop_of(loop)) as runner:
        live = runner.run(ask(work, server.url))
        sent = len(server.requests)
        assert runner.run(again("once")) == live
        assert len(server.requests) == 2 * sent
        connections = server.connections
        for _ in range(2):
            assert runner.run(again("none")) == live
    assert (len(server.requests), server.connections) == (2 * sent, connections)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_played_answers_keep_their_times_in_virtual_time(server: WireServer, path: Path, loop: str) -> None:
    """At `pace=1` chunks come when they came while recording, by a clock that jumps, and no socket is opened."""

    async def record() -> None:
        async with use_cassette(path, record_mode="once"), aiohttp.ClientSession() as client:
            await any_chunks(client, server.url)

    async def play() -> list[float]:
        clock = asyncio.get_running_loop().time
        async with use_cassette(path, pace=1), aiohttp.ClientSession() as client:
            started = clock()
            async with client.get(f"{server.url}/stream") as response:
                return [clock() - started async for _ in response.content.iter_any()]

    with asyncio.Runner(loop_factory=loop_of(loop)) as runner:
        runner.run(record())
    [recorded] = load(path)
    moments = [recorded.response.headers_ms / 1000]
    for chunk in recorded.response.chunks:
        moments.append(moments[-1] + chunk.wait / 100_000)
    assert run_in_virtual_time(play()) == pytest.approx(moments[1:])


# --- requests that are not played


async def test_request_that_is_not_in_the_cassette_is_a_miss(server: WireServer, other: Path) -> None:
    """An unrecorded request opens no connection and raises `CassetteMissError`; closing the cassette raises it, too."""
    with pytest.raises(CassetteMissError, match=r"has no answer for POST .*/echo"):
        async with use_cassette(other, unplayed="ignore"), aiohttp.ClientSession() as client:
            with suppress(CassetteMissError):
                await client.post(f"{server.url}/echo", json={"a": 1})
    assert (server.requests, server.connections) == ([], 0)


@pytest.mark.parametrize("upload", [{"a": 2}, {"a": 1, "b": 1}])
async def test_other_upload_is_a_miss(server: WireServer, path: Path, upload: Any) -> None:
    """A request with another body than the recorded one raises `CassetteMissError`."""
    async with use_cassette(path, record_mode="once"), aiohttp.ClientSession() as client:
        await client.post(f"{server.url}/echo", json={"a": 1})
    with pytest.raises(CassetteMissError):
        async with use_cassette(path, unplayed="ignore"), aiohttp.ClientSession() as client:
            await client.post(f"{server.url}/echo", json=upload)


async def test_form_with_a_file_is_matched_by_its_parts(server: WireServer, path: Path) -> None:
    """A form is matched without its boundary, which aiohttp draws anew each time; one with another file is a miss."""

    async def send(client: aiohttp.ClientSession, data: bytes) -> int:
        form = aiohttp.FormData({"purpose": "test"})
        form.add_field("file", data, filename="a.bin", content_type="application/octet-stream")
        async with client.post(f"{server.url}/echo", data=form) as response:
            return len(await response.read())

    async with use_cassette(path, record_mode="once"), aiohttp.ClientSession() as client:
        size = await send(client, b"\x00\xff")
    with pytest.raises(CassetteMissError):
        async with use_cassette(path), aiohttp.ClientSession() as client:
            assert await send(client, b"\x00\xff") == size
            await send(client, b"\x00\xfe")
    assert len(server.requests) == 1


async def test_reading_on_where_the_recorded_reader_stopped(server: WireServer, path: Path) -> None:
    """After a recorded early close, a reader gets an error; with `at_incomplete`, its own time-out or a plain end."""
    async with use_cassette(path, record_mode="once"), aiohttp.ClientSession() as client:
        await one_event(client, server.url)
    assert load(path)[0].response.end == "closed"

    async def read_all(**settings: Any) -> bytes:
        async with use_cassette(path, **settings), aiohttp.ClientSession() as client:
            timeout = aiohttp.ClientTimeout(sock_read=0.05)
            async with client.get(f"{server.url}/long", timeout=timeout) as response:
                return await response.read()

    with pytest.raises(IncompleteRecordingError):
        await read_all()
    with pytest.raises(aiohttp.SocketTimeoutError):
        await read_all(at_incomplete="hang")
    assert await read_all(at_incomplete="end") == EVENTS[0]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_rest_of_a_closed_response_is_recorded_if_asked(server: WireServer, path: Path, loop: str) -> None:
    """With `on_early_close="drain"` the recorder reads on after the application has closed the response."""
    with asyncio.Runner(loop_factory=loop_of(loop)) as runner:
        runner.run(close_early(server, path))
    assert load(path)[0].response.body == b"".join(EVENTS)


async def close_early(server: WireServer, path: Path) -> None:
    """Record a response of which the application reads one chunk, and wait for the rest."""
    async with use_cassette(path, record_mode="once", on_early_close="drain") as session:
        async with aiohttp.ClientSession() as client:
            async with client.get(f"{server.url}/stream") as response:
                assert await response.content.readany() == EVENTS[0]
            await until(lambda: session._recorder.slots[0].end == "eof")


async def test_cancelled_request_is_recorded_as_such(server: WireServer, path: Path) -> None:
    """A reader that is cancelled in mid-body leaves a recording with the end "cancelled" and the bytes until then."""
    async with use_cassette(path, record_mode="once"), aiohttp.ClientSession() as client:
        read: list[bytes] = []

        async def work() -> None:
            async with client.get(f"{server.url}/long") as response:
                async for chunk in response.content.iter_any():
                    read.append(chunk)

        task = asyncio.create_task(work())
        await until(lambda: len(read) == 5)
        task.cancel()
        await asyncio.wait([task])
    [recorded] = load(path)
    assert (recorded.response.end, recorded.response.body) == ("cancelled", b"".join(EVENTS))


# --- settings


async def test_recorded_address_may_stand_for_another(server: WireServer, path: Path) -> None:
    """With `record_as`, a recording made with a local server plays for the address of the provider."""
    async with use_cassette(path, record_mode="once", record_as={server.url: "https://api.test/v1"}):
        async with aiohttp.ClientSession() as client:
            await lines(client, server.url)
    async with use_cassette(path), aiohttp.ClientSession(base_url="https://api.test/v1/") as client:
        async with client.get("stream") as response:
            assert await response.read() == b"".join(EVENTS)


async def test_client_does_not_wait_as_long_as_a_recorded_answer_says(server: WireServer, path: Path) -> None:
    """At pace 0 the headers of a recorded 429 ask to retry at once; `retry_after="keep"` leaves them."""
    async with use_cassette(path, record_mode="once"), aiohttp.ClientSession() as client:
        await client.get(f"{server.url}/limited")

    async def waits(**settings: Any) -> list[str | None]:
        async with use_cassette(path, **settings), aiohttp.ClientSession() as client:
            async with client.get(f"{server.url}/limited") as response:
                return [response.headers.get(name) for name in ("retry-after", "retry-after-ms")]

    assert await waits() == [None, "1"]
    assert await waits(retry_after="keep") == ["30", None]


async def test_requests_of_agents_have_their_path(server: WireServer, path: Path) -> None:
    """Requests that agents send with aiohttp are recorded with the agents' aliases, and a replay sends none."""

    @miniagent
    async def asker(ctx: InteractionContext, which: str) -> None:
        async with aiohttp.ClientSession() as client, client.post(f"{server.url}/echo", data=b"same") as response:
            ctx.reply(f"{which} {await response.text()}")

    async def run() -> None:
        async with MiniAgents():
            await asyncio.gather(*(asker.fork(alias=f"asker_{each}").trigger(which=each) for each in "ab"))

    async with use_cassette(path, record_mode="once"):
        await run()
    assert sorted(each.agent for each in load(path)) == ["asker_a#1", "asker_b#1"]
    async with use_cassette(path):
        await run()
    assert len(server.requests) == 2


async def test_parallel_streams_keep_their_recorded_order(server: WireServer, path: Path) -> None:
    """At pace 0, chunks of two streams come in the order in which they came while recording."""

    async def run() -> list[str]:
        seen: list[str] = []

        async def read(client: aiohttp.ClientSession, name: str, wait: float) -> None:
            await asyncio.sleep(wait)
            async with client.get(f"{server.url}/{name}") as response:
                async for _ in response.content.iter_any():
                    seen.append(name)

        async with aiohttp.ClientSession() as client:
            await asyncio.gather(read(client, "stream", 0), read(client, "again", GAP / 2))
        return seen

    async with use_cassette(path, record_mode="once") as session:
        recorded = await run()
    moments = [each for each in session.timeline() if each.what == "chunk"]
    assert [("stream", "again")[each.number - 1] for each in moments] == recorded
    for _ in range(3):
        async with use_cassette(path):
            assert await run() == recorded
