"""Ends of answers, recorded and played: by the provider, by the reader, or by the network."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import openai
import pytest

from miniagents_testing import use_cassette
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, load, save
from miniagents_testing.errors import IncompleteRecordingError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.testing.cassette.conftest import Kit

EVENT = b'data: {"n":1}\n\n'


def _end(kit: Kit) -> tuple[str, bool]:
    """Return how the recorded response ended, and True if it is complete."""
    (interaction,) = load(kit.path)
    return interaction.response.end, interaction.response.complete


async def _read(network: Any, kit: Kit, library: Any = httpx2, chunks: int | None = None) -> list[bytes]:
    """Return the raw chunks of one answer, or only the first `chunks` of them."""
    seen: list[bytes] = []
    async with library.AsyncClient(transport=network, timeout=0.05) as client:
        async with client.stream("POST", kit.URL, json={}) as response:
            async for chunk in response.aiter_raw():
                seen.append(chunk)
                if len(seen) == chunks:
                    break
    return seen


def _read_sync(network: Any, kit: Kit, library: Any = httpx2) -> list[bytes]:
    """Return the raw chunks of one answer, read with a sync client."""
    with library.Client(transport=network, timeout=0.05) as client:
        with client.stream("POST", kit.URL, json={}) as response:
            return list(response.iter_raw())


async def test_a_response_that_is_read_to_its_end_is_complete(kit: Kit) -> None:
    """A response that the client reads to its end is recorded with the end `eof`, and as complete."""
    with kit.cassette("once") as session:
        await _read(kit.network(kit.Reply([EVENT, EVENT])), kit)
    assert _end(kit) == ("eof", True)
    assert session.incomplete == ()


@pytest.mark.parametrize(
    "last",
    [
        b"data: [DONE]\n\n",
        b'event: message_stop\ndata: {"type":"message_stop" }\n\n',
        b'event: response.incomplete\ndata: {"sequence_number":1,"type":"response.incomplete"}\n\n',
        b'data: {"type": "response.failed"}\n\n',
        b"event: error\r\ndata: {}\r\n\r\n",
    ],
)
async def test_a_response_closed_after_its_last_event_is_complete(kit: Kit, last: bytes) -> None:
    """A response closed by its reader after the API's final event, as SDKs do, is recorded as complete and plays."""
    with kit.cassette("once"):
        await _read(kit.network(kit.Reply([EVENT, last, b": more\n\n"])), kit, chunks=2)
    assert _end(kit) == ("closed", True)
    with kit.cassette():
        assert await _read(kit.network(), kit) == [EVENT, last]


async def test_K11_leaving_early_ends_the_download(kit: Kit) -> None:
    """When a reader leaves a recorded stream early, the download stops, and the read part is saved as incomplete."""
    reply = kit.Reply([EVENT] * 9)
    with kit.cassette("once") as session:
        await _read(kit.network(reply), kit, chunks=2)
    assert (reply.sent, reply.closed) == (2, True)
    assert _end(kit) == ("closed", False)
    assert [each.response.body for each in session.incomplete] == [EVENT * 2]


async def test_drain_records_what_a_reader_leaves_unread(kit: Kit) -> None:
    """With `on_early_close="drain"`, chunks that the reader left unread are downloaded and recorded."""
    reply = kit.Reply([EVENT] * 9)
    with kit.cassette("once", on_early_close="drain"):
        await _read(kit.network(reply), kit, chunks=2)
    assert (reply.sent, reply.closed) == (9, True)
    assert _end(kit) == ("eof", True)
    with kit.cassette():
        assert await _read(kit.network(), kit) == [EVENT] * 9


def test_early_close_in_a_thread_is_truncated_or_drained(kit: Kit) -> None:
    """When a sync client closes a stream early, "truncate" records the read chunks and "drain" records all."""
    for number, (how, sent) in enumerate([("truncate", 1), ("drain", 9)]):
        reply = kit.Reply([EVENT] * 9)
        with kit.cassette("rewrite", on_early_close=how):
            with httpx2.Client(transport=kit.network(reply)) as client:
                with client.stream("POST", kit.URL, json={}) as response:
                    next(response.iter_raw())
        assert (reply.sent, reply.closed) == (sent, True), number
        assert len(load(kit.path)[0].response.chunks) == sent


async def test_K9_a_cancelled_reader_is_recorded_as_cancelled(kit: Kit) -> None:
    """When the reader of a recorded stream is cancelled, the end is `cancelled`, and the chunks so far are saved."""
    with kit.cassette("once"):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await _read(kit.network(kit.Reply([EVENT, kit.HANG])), kit)
    assert _end(kit) == ("cancelled", False)
    assert load(kit.path)[0].response.body == EVENT


async def test_a_stream_that_is_still_read_when_the_cassette_closes_is_open(kit: Kit) -> None:
    """A cassette that closes while a stream is read saves it as `open`; the reader still gets the later chunks."""
    with kit.cassette("once"):
        client = httpx2.AsyncClient(transport=kit.network(kit.Reply([EVENT, EVENT])))
        response = await client.send(client.build_request("POST", kit.URL, json={}), stream=True)
        stream = response.aiter_raw()
        assert await anext(stream) == EVENT
    assert [chunk async for chunk in stream] == [EVENT]
    assert _end(kit) == ("open", False)
    assert load(kit.path)[0].response.body == EVENT


each_way = pytest.mark.parametrize(
    ("complete", "error"), [("error", IncompleteRecordingError), ("hang", httpx2.ReadTimeout), ("end", None)]
)


@each_way
async def test_at_incomplete_says_what_comes_after_an_early_end(
    kit: Kit, complete: Any, error: type[Exception] | None
) -> None:
    """A recording that broke off ends in an error, a timeout or a plain end, as `at_incomplete` says.

    The session lists this recording in `incomplete`.
    """
    with kit.cassette("once"):
        await _read(kit.network(kit.Reply([EVENT] * 9)), kit, chunks=2)
    with kit.cassette(at_incomplete=complete) as session:
        if error is None:
            assert await _read(kit.network(), kit) == [EVENT] * 2
        else:
            with pytest.raises(error, match=r"the recording .*ends here"):
                await _read(kit.network(), kit)
    assert len(session.incomplete) == 1


@each_way
def test_at_incomplete_applies_in_threads(kit: Kit, complete: Any, error: type[Exception] | None) -> None:
    """At the end of an incomplete recording, a sync client gets an error, a timeout or a plain end, as configured."""
    with kit.cassette("once"):
        with httpx2.Client(transport=kit.network(kit.Reply([EVENT] * 9))) as client:
            with client.stream("POST", kit.URL, json={}) as response:
                next(response.iter_raw())
    with kit.cassette(at_incomplete=complete):
        if error is None:
            assert _read_sync(kit.network(), kit) == [EVENT]
        else:
            with pytest.raises(error):
                _read_sync(kit.network(), kit)


async def test_an_sdk_passes_on_the_error_about_an_early_end(kit: Kit) -> None:
    """OpenAI's SDK raises the `IncompleteRecordingError` of a cassette unchanged."""
    with kit.cassette("once"):
        client = openai.AsyncOpenAI(api_key=kit.KEY, http_client=httpx2.AsyncClient(transport=_hello(kit)))
        async with await client.chat.completions.create(model="m", messages=[], stream=True) as stream:
            await anext(aiter(stream))
    with kit.cassette():
        client = openai.AsyncOpenAI(api_key=kit.KEY, http_client=httpx2.AsyncClient(transport=kit.network()))
        with pytest.raises(IncompleteRecordingError):
            async for _ in await client.chat.completions.create(model="m", messages=[], stream=True):
                pass


def _hello(kit: Kit) -> Any:
    return kit.network(kit.Reply(kit.chat("Hel", "lo")))


@pytest.mark.parametrize("library", [httpx2, httpx], ids=["httpx2", "httpx"])
@pytest.mark.parametrize("name", ["ReadError", "RemoteProtocolError", "ReadTimeout"])
async def test_K9_a_reset_is_played_as_the_same_error(kit: Kit, library: Any, name: str) -> None:
    """A connection error within a recorded stream is played after the same chunks, as the same class of error."""
    network = kit.network(kit.Reply([EVENT, name]), library=library.__name__)
    with kit.cassette("once"), pytest.raises(getattr(library, name), match="it broke"):
        await _read(network, kit, library)
    assert _end(kit) == (f"raise {name}: it broke", False)
    for player in (library, httpx2, httpx):
        with kit.cassette():
            seen = []
            with pytest.raises(getattr(player, name), match="it broke") as caught:
                async with player.AsyncClient(transport=kit.network(library=player.__name__)) as client:
                    async with client.stream("POST", kit.URL, json={}) as response:
                        async for chunk in response.aiter_raw():
                            seen.append(chunk)
        assert seen == [EVENT]
        assert caught.value.request.url == kit.URL


@pytest.mark.parametrize("library", [httpx2, httpx], ids=["httpx2", "httpx"])
async def test_a_failed_connection_is_played_as_the_same_error(kit: Kit, library: Any) -> None:
    """A connection that failed before any response is played as the same error; the file has status 599 for vcrpy."""
    with kit.cassette("once"):
        with pytest.raises(library.ConnectError, match="it broke"):
            await _read(kit.network("ConnectError", library=library.__name__), kit, library)
        with pytest.raises(library.ConnectTimeout, match="it broke"):
            _read_sync(kit.network("ConnectTimeout", library=library.__name__), kit, library)
    first, second = load(kit.path)
    assert (first.response.status, first.response.end) == (0, "raise ConnectError: it broke")
    assert (second.response.status, second.response.end) == (0, "raise ConnectTimeout: it broke")
    assert "code: 599" in kit.path.read_text(encoding="utf-8")
    with kit.cassette():
        with pytest.raises(library.ConnectError, match="it broke"):
            await _read(kit.network(library=library.__name__), kit, library)
        with pytest.raises(library.ConnectTimeout, match="it broke"):
            _read_sync(kit.network(library=library.__name__), kit, library)


@pytest.mark.parametrize("library", [httpx2, httpx], ids=["httpx2", "httpx"])
async def test_error_of_a_played_connection_says_that_it_was_recorded(kit: Kit, library: Any) -> None:
    """An error before or within a played answer has a note with the file and the way to record it again."""
    network = kit.network(*["ConnectError", kit.Reply([EVENT, "ReadError"])] * 2, library=library.__name__)
    notes = []
    for mode in ("once", "none"):
        with kit.cassette(mode):
            for kind in (library.ConnectError, library.ReadError):
                with pytest.raises(kind, match="it broke") as caught:
                    await _read(network, kit, library)
                notes.append(getattr(caught.value, "__notes__", []))
            for kind in (library.ConnectError, library.ReadError):
                with pytest.raises(kind, match="it broke") as caught:
                    _read_sync(network, kit, library)
                notes.append(getattr(caught.value, "__notes__", []))
    assert notes[:4] == [[]] * 4
    said = f"Played from {kit.path}, where the request failed like this when it was recorded"
    assert notes[4:] == [[f"{said}\n  to record it again: record_mode='rewrite' (now: 'none')"]] * 4


async def test_an_unknown_error_is_played_as_a_read_error(kit: Kit) -> None:
    """If a file names an error that is no transport error of the library, a `ReadError` is played."""
    with kit.cassette("once"), pytest.raises(httpx2.ReadError):
        await _read(kit.network(kit.Reply(["ReadError"])), kit)
    text = kit.path.read_text(encoding="utf-8").replace("raise ReadError", "raise Client")
    kit.path.write_text(text.partition("miniagents:")[0], encoding="utf-8")
    (interaction,) = load(_with_new_checksum(kit))
    assert interaction.response.end == "raise Client: it broke"
    with kit.cassette(), pytest.raises(httpx2.ReadError, match="it broke"):
        await _read(kit.network(), kit)


def _with_new_checksum(kit: Kit) -> Any:
    """Write the cassette again with a new checksum."""
    import yaml

    from miniagents_testing.cassette._document import with_checksum
    from miniagents_testing.cassette._yaml import yaml_text

    document = yaml.safe_load(kit.path.read_text(encoding="utf-8"))
    kit.path.write_text(yaml_text(with_checksum(document["interactions"])), encoding="utf-8")
    return kit.path


@pytest.mark.filterwarnings("ignore::miniagents_testing.errors.UnrecordedWarning")
async def test_a_bug_in_a_transport_is_not_recorded(kit: Kit) -> None:
    """An exception of a transport that is no transport error, such as `IndexError`, is raised and not recorded."""
    network = kit.network()  # it has no reply, and raises IndexError
    with kit.cassette("once") as session, pytest.raises(IndexError):
        await _read(network, kit)
    assert session.recorded == ()
    assert not kit.path.exists()


async def test_an_error_that_an_sdk_closes_unread_is_recorded_whole(kit: Kit) -> None:
    """A 429 that the SDK closes unread before its retry is recorded whole; the retry then works live and played."""
    limited = kit.Reply(
        [b'{"error":', b'{"message":"slow down"}}'], 429, {"content-type": "application/json", "retry-after": "0.01"}
    )
    network = kit.network(limited, kit.Reply(kit.chat("Hello")))
    with kit.cassette("once"):
        live = await kit.aask("chat", httpx2.AsyncClient(transport=network))
    refused, answered = load(kit.path)
    assert refused.response.body == b'{"error":{"message":"slow down"}}'
    assert (refused.response.end, refused.response.complete) == ("eof", True)
    assert refused.response.headers["retry-after"] == ["0.01"]
    assert answered.response.status == 200
    with kit.cassette():
        assert await kit.aask("chat", httpx2.AsyncClient(transport=kit.network())) == live
        assert limited.closed


async def test_an_endless_error_is_read_up_to_a_limit(kit: Kit) -> None:
    """When the client leaves the body of an error response unread, the recorder reads it up to a limit only."""
    endless = kit.Reply(iter(lambda: b"x" * 1024, b""), 500, {"x-should-retry": "false"})
    with kit.cassette("once"):
        await kit.aask("chat", httpx2.AsyncClient(transport=_closing(kit.network(endless))))
    assert 64 * 1024 <= len(load(kit.path)[0].response.body) <= 65 * 1024


def _closing(network: Any) -> httpx2.AsyncBaseTransport:
    """Make a transport that closes its responses unread."""

    class Closing(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            response = await network.handle_async_request(request)
            await response.stream.aclose()
            return httpx2.Response(response.status_code, headers=response.headers, content=b"")

    return Closing()


@pytest.mark.parametrize(
    ("pace", "setting", "expected"),
    [
        (0, "skip", [("retry-after-ms", "1")]),
        (0, "keep", [("retry-after", "30")]),
        (0.001, "skip", [("retry-after", "30")]),
    ],
)
@pytest.mark.parametrize("status", [408, 409, 429, 500, 529])
async def test_retry_after_is_skipped_at_pace_0_unless_kept(
    kit: Kit, status: int, pace: float, setting: Any, expected: list[tuple[str, str]]
) -> None:
    """At pace 0 the client gets `retry-after` rewritten so that it does not wait, unless a setting keeps the header."""
    with kit.cassette("once"):
        await _read(kit.network(kit.Reply([b"{}"], status, {"retry-after": "30"})), kit)
    with kit.cassette(pace=pace, retry_after=setting):
        async with httpx2.AsyncClient(transport=kit.network()) as client:
            response = await client.post(kit.URL, json={})
    assert [(name, value) for name, value in response.headers.multi_items() if "retry" in name] == expected
    assert load(kit.path)[0].response.headers == {"retry-after": ["30"]}


async def test_headers_of_a_success_and_of_a_final_failure_are_played_unchanged(kit: Kit) -> None:
    """A success, and a failure that is not retried, are played with their recorded headers and no others."""
    replies = [kit.Reply([b"{}"], status, {"request-id": "r"}) for status in (200, 400)]
    with kit.cassette("once"):
        for reply in replies:
            await _read(kit.network(reply), kit)
    with kit.cassette():
        async with httpx2.AsyncClient(transport=kit.network()) as client:
            for status in (200, 400):
                response = await client.post(kit.URL, json={})
                assert (response.status_code, response.headers.multi_items()) == (status, [("request-id", "r")])


async def test_X5_a_recorded_request_asks_for_an_uncompressed_answer(kit: Kit) -> None:
    """While a cassette records, requests ask the provider for an uncompressed answer."""
    network = kit.network(kit.Reply([EVENT]), kit.Reply([EVENT]))
    with kit.cassette("once"):
        await _read(network, kit)
        _read_sync(network, kit)
    assert [request.headers["accept-encoding"] for request in network.requests] == ["identity"] * 2


async def test_a_body_that_is_compressed_all_the_same_is_played_as_it_came(kit: Kit) -> None:
    """A compressed response is recorded and played with the same bytes and the same `content-encoding` header."""
    import gzip

    packed = gzip.compress(EVENT * 3)
    headers = {"content-encoding": "gzip", "content-type": "text/event-stream"}
    with kit.cassette("once"):
        await _read(kit.network(kit.Reply([packed[:9], packed[9:]], headers=headers)), kit)
    with kit.cassette():
        async with httpx2.AsyncClient(transport=kit.network()) as client:
            assert (await client.post(kit.URL, json={})).content == EVENT * 3


async def test_a_second_iteration_goes_on_where_the_first_stopped(kit: Kit) -> None:
    """A second loop over a response body continues where the first one broke off, while recording and playing."""

    async def twice() -> list[bytes]:
        async with httpx2.AsyncClient(transport=network) as client:
            response = await client.send(client.build_request("POST", kit.URL, json={}), stream=True)
            stream: Any = response.stream
            seen = []
            async for chunk in stream:
                seen.append(chunk)
                break
            seen += [chunk async for chunk in stream]
            await response.aclose()
        return seen

    network = kit.network(kit.Reply([b"1", b"2", b"3"]))
    with kit.cassette("once"):
        assert await twice() == [b"1", b"2", b"3"]
    with kit.cassette():
        assert await twice() == [b"1", b"2", b"3"]


@pytest.mark.parametrize("end", ["cancelled", "open"])
async def test_events_that_a_reader_listened_to_wait_for_the_reader(end: str, tmp_path: Path) -> None:
    """A played GET of events without an end waits for its reader to leave; a POST answer without an end fails."""
    headers = {"content-type": ["text/event-stream"]}
    answer = ResponseStream((Chunk(0, EVENT),), reason="OK", headers=headers, end=end, complete=False)
    url = "https://mcp.test/mcp"
    save(
        tmp_path / "c.yaml", [Interaction("GET", url, b"", answer), Interaction("POST", url, b"", answer, started_ms=9)]
    )
    seen: list[bytes] = []
    arrived = asyncio.Event()

    async def read(method: str) -> None:
        async with httpx2.AsyncClient() as client, client.stream(method, url) as response:
            async for chunk in response.aiter_raw():
                seen.append(chunk)
                arrived.set()

    with use_cassette(tmp_path / "c.yaml"):
        listener = asyncio.create_task(read("GET"))
        await arrived.wait()
        await asyncio.sleep(0.01)
        assert not listener.done()
        listener.cancel()
        with pytest.raises(IncompleteRecordingError):
            await read("POST")
    assert seen == [EVENT] * 2
