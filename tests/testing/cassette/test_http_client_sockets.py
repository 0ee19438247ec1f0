"""The stand-in for a connection's socket: when it connects, what it says of itself, and what is left of it."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from http_clients import Boto3
from loopback_server import EVENTS, Server

from miniagents import MiniAgents, miniagent
from miniagents_testing import use_cassette
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, load, save
from miniagents_testing.errors import CassetteMissError, LiveRequestError, UnrecordedWarning

if TYPE_CHECKING:
    from pathlib import Path

    from miniagents import InteractionContext


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a cassette that does not exist yet."""
    return tmp_path / "c.yaml"


def get(url: str, method: str = "GET", body: Any = None) -> tuple[int, bytes]:
    """Ask by urllib; return status and body, of an error, too."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, method=method), timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.parametrize(
    ("method", "behaviour", "status", "length"),
    [("HEAD", "length", 200, 0), ("HEAD", "stream", 200, 0), ("GET", "empty", 204, 0), ("GET", "closing", 200, 44)],
)
def test_answers_with_odd_bodies_are_played(
    server: Server, path: Path, method: str, behaviour: str, status: int, length: int
) -> None:
    """Answers without a body, and those that end with the connection, are the same in a replay."""
    url = f"{server.url}/{behaviour}"
    for mode in ("once", "none"):
        with use_cassette(path, record_mode=mode):
            answered, body = get(url, method)
        assert (answered, len(body)) == (status, length)
    assert len(server.seen) == 1


def test_known_request_connects_to_no_server(path: Path) -> None:
    """With `new_episodes`, a recorded request is played although no server listens; a new request tries to connect."""
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    save(path, [Interaction("GET", f"{url}/x", b"", ResponseStream((Chunk(0, b"hi"),), reason="OK"))])
    with use_cassette(path, record_mode="new_episodes"):
        connection = HTTPConnection(url.removeprefix("http://"))
        connection.connect()
        connection.request("GET", "/x")
        assert connection.getresponse().read() == b"hi"
        with pytest.raises(ConnectionRefusedError):
            connection.request("GET", "/y")


def test_connection_goes_on_after_the_cassette(server: Server, path: Path) -> None:
    """A connection that was told to connect while a cassette played connects when it is used after that."""
    save(path, [Interaction("GET", f"{server.url}/x", b"", ResponseStream(reason="OK"))])
    with closing(HTTPConnection("127.0.0.1", server.port)) as connection:
        with use_cassette(path, unplayed="ignore"):
            connection.connect()
        assert server.seen == []
        connection.request("GET", "/length")
        assert connection.getresponse().read() == b"".join(EVENTS)
        assert type(connection.sock) is socket.socket


def test_use_of_the_socket_that_is_no_request_is_refused(path: Path) -> None:
    """Bytes that are written to the socket without a request are refused while a cassette plays."""
    with pytest.raises(LiveRequestError, match=r"connect to x\.example\.com:80"):
        with use_cassette(path):
            connection = HTTPConnection("x.example.com")
            connection.connect()
            connection.send(b"PRI * HTTP/2.0\r\n\r\n")


def test_subclasses_are_caught_whenever_they_are_defined(server: Server, path: Path) -> None:
    """Subclasses of `HTTPConnection`, defined before or while a cassette is open, are recorded, played and restored."""

    class Before(HTTPConnection):
        def connect(self) -> None:
            super().connect()

    def ask(kind: type[HTTPConnection]) -> bytes:
        with closing(kind("127.0.0.1", server.port)) as connection:
            connection.connect()
            connection.request("GET", "/length")
            return connection.getresponse().read()

    own = Before.connect
    for mode in ("once", "none"):
        with use_cassette(path, record_mode=mode):

            class During(HTTPConnection):
                own = None

                def connect(self) -> None:
                    super().connect()

            assert [ask(Before), ask(During)] == [b"".join(EVENTS)] * 2
            assert During.connect.__code__.co_filename.endswith("_http_client.py")
        assert During.connect.__code__.co_filename == __file__
    assert Before.connect is own
    assert "__init_subclass__" not in vars(HTTPConnection)
    assert len(server.seen) == 2


def test_time_of_a_stream_is_played(server: Server, path: Path) -> None:
    """At `pace=1`, a stream in a thread lasts at least as long as its recording."""
    with use_cassette(path, record_mode="once"):
        get(f"{server.url}/stream")
    recorded = sum(chunk.wait for chunk in load(path)[0].response.chunks) / 100_000
    started = time.monotonic()
    with use_cassette(path, pace=1):
        get(f"{server.url}/stream")
    assert time.monotonic() - started >= recorded * 0.99


async def test_threads_play_the_cassette_of_their_task(server: Server, path: Path) -> None:
    """Ten parallel requests in threads, with the context of the task or without one, are recorded and played."""

    def ask(number: int) -> bytes:
        return get(f"{server.url}/stream/{number}")[1]

    for mode in ("once", "none"):
        async with use_cassette(path, record_mode=mode):
            found = await asyncio.gather(*(asyncio.to_thread(ask, number) for number in range(5)))
            with ThreadPoolExecutor() as pool:
                futures = [pool.submit(ask, number) for number in range(5, 10)]
                found += [await asyncio.wrap_future(future) for future in futures]
        assert found == [b"".join(EVENTS)] * 10
    assert len(server.seen) == 10


def test_parallel_streams_in_threads_are_played_whole(path: Path) -> None:
    """Two threads that read at pace 0 and start in another order than recorded get all chunks, one by one."""
    waits = {"a": (100, 300), "b": (200, 300)}
    for name in waits:
        chunks = tuple(Chunk(wait, name.encode()) for wait in waits[name])
        entry = Interaction("GET", f"http://x.test/{name}", b"", ResponseStream(chunks, reason="OK"))
        save(path.with_name(f"{name}.yaml"), [entry])
    save(path, [load(path.with_name(f"{name}.yaml"))[0] for name in waits])
    order: list[str] = []

    def read(name: str) -> None:
        with urllib.request.urlopen(f"http://x.test/{name}") as response:
            order.extend(data.decode() for data in iter(response.read1, b""))

    with use_cassette(path):
        threads = [threading.Thread(target=read, args=[name]) for name in ("b", "a")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(order) == ["a", "a", "b", "b"]


def test_answer_that_cannot_be_read_is_named(server: Server, path: Path) -> None:
    """An answer that strict parsers refuse reaches the client; it is not recorded, and the warning says so."""
    with pytest.warns(UnrecordedWarning, match=rf"urllib\.request to 127\.0\.0\.1:{server.port}"):
        with use_cassette(path, record_mode="once"):
            assert get(f"{server.url}/odd") == (200, b"hi")
    assert not path.exists() or load(path) == ()


def test_error_that_is_not_read_is_recorded_whole(server: Server, path: Path) -> None:
    """The body of an error that the client leaves unread is recorded; its played answer has no `retry-after`."""
    for mode in ("once", "none"):
        with use_cassette(path, record_mode=mode):
            with pytest.raises(urllib.error.HTTPError) as caught, urllib.request.urlopen(f"{server.url}/error"):
                pass
            caught.value.close()
    assert caught.value.headers["retry-after"] is None
    [recorded] = load(path)
    assert (recorded.response.end, recorded.response.body) == ("eof", b"".join(EVENTS))
    assert len(server.seen) == 1


def test_rest_is_drained_on_demand(server: Server, path: Path) -> None:
    """With `on_early_close="drain"`, the recorder also reads what the client has left unread."""
    with use_cassette(path, record_mode="once", on_early_close="drain"):
        with urllib.request.urlopen(f"{server.url}/stream") as response:
            response.read1()
    assert load(path)[0].response.body == b"".join(EVENTS)


def test_server_that_closes_too_early_does_so_again(server: Server, path: Path) -> None:
    """A body that is shorter than its length is `IncompleteRead` live, recorded and played."""
    for mode in ("once", "none"):
        with use_cassette(path, record_mode=mode):
            with pytest.raises(http.client.IncompleteRead) as caught:
                get(f"{server.url}/short")
        assert caught.value.partial == b"".join(EVENTS[:2])
    assert load(path)[0].response.end.startswith("raise RemoteProtocolError: peer closed connection")


def test_body_that_no_header_announces_is_sent(server: Server, path: Path) -> None:
    """Bytes after the announced end of a request reach the server, as they do without a cassette."""
    with use_cassette(path, record_mode="once"), closing(HTTPConnection("127.0.0.1", server.port)) as connection:
        connection.putrequest("GET", "/length")
        connection.endheaders()
        connection.send(b"GET /length/second HTTP/1.1\r\n\r\n")
        assert connection.getresponse().read() == b"".join(EVENTS)
        while len(server.seen) < 2:  # the test's time-out ends it
            time.sleep(0.01)
    assert [path for _, path, _ in server.seen] == ["/length", "/length/second"]


def test_one_cassette_has_requests_of_all_clients(server: Server, path: Path) -> None:
    """httpx2 and urllib share a cassette, and either plays what the other has recorded."""
    urls = [f"{server.url}/stream/{number}" for number in range(2)]
    with use_cassette(path, record_mode="once"):
        texts = [httpx2.get(urls[0]).content, get(urls[1])[1]]
    with use_cassette(path):
        assert [get(urls[0])[1], httpx2.get(urls[1]).content] == texts
    assert len(server.seen) == 2


def test_address_of_a_recording_is_changed(server: Server, path: Path) -> None:
    """With `record_as`, the cassette has the address of the provider, and plays for it."""
    with use_cassette(path, record_mode="once", record_as={server.url: "https://api.example.com"}):
        live = get(f"{server.url}/length")
    with use_cassette(path):
        assert get("https://api.example.com/length") == live


def test_key_of_a_request_does_not_stay_in_the_recording(server: Server, path: Path) -> None:
    """A value that is sent as a credential is replaced in the body, too, and the replay matches all the same."""
    key = "q7Rk2-own-9fTz"
    for mode in ("once", "none"):
        with use_cassette(path, record_mode=mode):
            request = urllib.request.Request(
                f"{server.url}/echo", f'{{"said": "{key}"}}'.encode(), {"Authorization": f"Bearer {key}"}
            )
            with urllib.request.urlopen(request) as response:
                response.read()
    assert key not in path.read_text(encoding="utf-8")
    assert len(server.seen) == 1
    assert key in server.seen[0][2].decode()


async def test_agent_is_known_in_a_thread(server: Server, path: Path) -> None:
    """A request that an agent makes in a thread is recorded with the agent's alias."""

    @miniagent
    async def asker(ctx: InteractionContext) -> None:
        ctx.reply((await asyncio.to_thread(get, f"{server.url}/length"))[1].decode())

    async with use_cassette(path, record_mode="once"), MiniAgents():
        await asker.trigger()
    assert load(path)[0].agent == "ASKER#1"


def test_miss_closes_nothing_but_its_request(server: Server, path: Path) -> None:
    """After a miss that the application has caught, the same connection can be used again."""
    with use_cassette(path, record_mode="once"):
        live = get(f"{server.url}/length")
    with pytest.raises(CassetteMissError), use_cassette(path):
        with closing(HTTPConnection("127.0.0.1", server.port)) as connection:
            with pytest.raises(CassetteMissError):
                connection.request("GET", "/other")
            connection.close()
            connection.request("GET", "/length")
            assert connection.getresponse().read() == live[1]
    assert len(server.seen) == 1


def test_stand_in_takes_time_outs_and_options_as_a_socket_does(path: Path) -> None:
    """The stand-in for a socket takes time-outs and options, and has a file number, before the answer comes."""
    save(path, [Interaction("GET", "http://x.test/", b"", ResponseStream(reason="OK"))])
    with use_cassette(path), closing(HTTPConnection("x.test", timeout=7)) as connection:
        connection.connect()
        sock: Any = connection.sock
        assert sock.gettimeout() == 7
        sock.settimeout(5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert (sock.gettimeout(), sock.fileno() > 0, hasattr(sock, "no_such_name")) == (5, True, False)
        connection.request("GET", "/")
        assert not hasattr(sock, "getpeername")
        assert connection.getresponse().status == 200
        assert connection.sock is None


def test_expect_continue_is_answered_at_once(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Botocore waits for `100 Continue` before an upload: the stand-in tells it to go on, recorded and played."""
    client = Boto3()
    client.check_installed()
    import urllib3.util

    found: list[bool] = []
    real = urllib3.util.wait_for_read

    def wait_for_read(sock: Any, timeout: float | None = None) -> bool:
        readable: bool = real(sock, timeout)
        found.extend([readable] if timeout else [])
        return readable

    monkeypatch.setattr(urllib3.util, "wait_for_read", wait_for_read)
    for mode in ("once", "none"):
        with client, use_cassette(path, record_mode=mode):
            client.upload(server.url, [b"body"])
    assert found == [True, True]
    assert [body for _, _, body in server.seen] == [b"body"]
