"""Clients on `http.client`, and aiohttp, each against a real server: live, recorded and played, they see the same.

Each test that is marked with `cell` is a column of the table in docs/cassettes.md, and runs for each client.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import urllib.error
import urllib.request
import warnings
from contextlib import ExitStack, closing
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection, HTTPSConnection
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

import aiohttp
import pytest
from loopback_server import BEDROCK_EVENTS, CERTIFICATE, EVENTS, TEXTS, Server, unzipped

from miniagents_testing import use_cassette
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, load, save
from miniagents_testing.errors import CassetteMissError, IncompleteRecordingError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

_DOCS = Path(__file__).resolve().parents[3] / "docs/cassettes.md"


# --- the clients


@dataclass
class Answer:
    """An answer as a client gives it."""

    status: int
    chunks: list[bytes] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        """The body, decompressed if the client has not done that."""
        whole = b"".join(self.chunks)
        return unzipped([whole]) if whole.startswith(b"\x1f\x8b") else whole


class Client:
    """HTTP client. Its methods ask for a URL; connections stay open until the `with` block ends."""

    name: ClassVar[str]
    path: ClassVar[str] = ""
    """What follows the behaviour in the path."""
    events: ClassVar[list[bytes]] = EVENTS
    """Chunks of a streamed answer."""

    def __init__(self) -> None:
        self.timeout = 30.0
        self.proxy = ""
        """Address of a proxy; clients that read the environment find it there, too."""

    def __enter__(self) -> Any:
        self.stack = ExitStack()
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def get(self, url: str) -> Answer:
        """Ask for compressed answers, if the client can, and read the answer chunk for chunk."""
        raise NotImplementedError

    def first(self, url: str) -> bytes:
        """Read one chunk and close the answer."""
        raise NotImplementedError

    def upload(self, url: str, parts: list[bytes]) -> Answer:
        """Send a body part by part, and read the answer."""
        raise NotImplementedError


class HTTPClient(Client):
    """The classes of `http.client`."""

    name = "http.client"

    def __enter__(self) -> Any:
        self.connections: dict[str, HTTPConnection] = {}
        return super().__enter__()

    def _ask(self, method: str, url: str, body: Any = None) -> Any:
        parts = urlsplit(url)
        connection = self.connections.get(parts.netloc) or self.stack.enter_context(closing(self._open(parts)))
        self.connections[parts.netloc] = connection
        target = url if self.proxy and parts.scheme == "http" else f"{parts.path}"
        connection.request(method, target, body, {"accept-encoding": "gzip"})
        return connection.getresponse()

    def _open(self, parts: Any) -> HTTPConnection:
        netloc = urlsplit(self.proxy).netloc or parts.netloc
        if parts.scheme == "http":
            return HTTPConnection(netloc, timeout=self.timeout)
        context = ssl.create_default_context(cafile=CERTIFICATE)
        connection = HTTPSConnection(netloc, timeout=self.timeout, context=context)
        if self.proxy:
            connection.set_tunnel(parts.netloc)
        return connection

    def get(self, url: str) -> Answer:
        with self._ask("GET", url) as response:
            return Answer(response.status, list(iter(response.read1, b"")))

    def first(self, url: str) -> bytes:
        with self._ask("GET", url) as response:
            data: bytes = response.read1()
            return data

    def upload(self, url: str, parts: list[bytes]) -> Answer:
        with self._ask("POST", url, iter(parts)) as response:
            return Answer(response.status, [response.read()])


class Urllib(Client):
    """The module `urllib.request`."""

    name = "urllib"

    def _ask(self, url: str, body: Any = None) -> Any:
        context = ssl.create_default_context(cafile=CERTIFICATE)
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
        request = urllib.request.Request(url, body, {"accept-encoding": "gzip"})
        return opener.open(request, timeout=self.timeout)

    def get(self, url: str) -> Answer:
        with self._ask(url) as response:
            return Answer(response.status, list(iter(response.read1, b"")))

    def first(self, url: str) -> bytes:
        with self._ask(url) as response:
            data: bytes = response.read1()
            return data

    def upload(self, url: str, parts: list[bytes]) -> Answer:
        with self._ask(url, iter(parts)) as response:
            return Answer(response.status, [response.read()])


class Urllib3(Client):
    """urllib3, with a pool of connections."""

    name = "urllib3"

    def __enter__(self) -> Any:
        super().__enter__()
        urllib3 = pytest.importorskip("urllib3")
        options: Any = {
            "ca_certs": str(CERTIFICATE),
            "timeout": self.timeout,
            "retries": urllib3.Retry(connect=0, read=0),
        }
        pool = urllib3.ProxyManager(self.proxy, **options) if self.proxy else urllib3.PoolManager(**options)
        self.pool = self.stack.enter_context(pool)
        return self

    def get(self, url: str) -> Answer:
        response = self.pool.request("GET", url, preload_content=False, headers={"accept-encoding": "gzip"})
        answer = Answer(response.status, list(response.stream(None)))
        response.release_conn()
        return answer

    def first(self, url: str) -> bytes:
        response = self.pool.request("GET", url, preload_content=False)
        data: bytes = next(response.stream(None))
        response.close()
        return data

    def upload(self, url: str, parts: list[bytes]) -> Answer:
        response = self.pool.request("POST", url, body=iter(parts))
        return Answer(response.status, [response.data])


class Requests(Client):
    """requests, with a session."""

    name = "requests"

    def __enter__(self) -> Any:
        super().__enter__()
        self.session = self.stack.enter_context(pytest.importorskip("requests").Session())
        self.session.verify = str(CERTIFICATE)
        return self

    def get(self, url: str) -> Answer:
        with self.session.get(url, stream=True, timeout=self.timeout) as response:
            return Answer(response.status_code, list(response.iter_content(None)))

    def first(self, url: str) -> bytes:
        with self.session.get(url, stream=True, timeout=self.timeout) as response:
            data: bytes = next(response.iter_content(None))
            return data

    def upload(self, url: str, parts: list[bytes]) -> Answer:
        response = self.session.post(url, data=iter(parts), timeout=self.timeout)
        return Answer(response.status_code, [response.content])


class AioHTTP(Client):
    """aiohttp, with a session in a loop of its own."""

    name = "aiohttp"

    def __enter__(self) -> Any:
        super().__enter__()
        self.runner = self.stack.enter_context(asyncio.Runner())
        self.session: aiohttp.ClientSession | None = None
        self.stack.callback(lambda: self.session and self.runner.run(self.session.close()))
        return self

    def _run(self, work: Any) -> Any:
        """Run a function with the session, in the context of the caller."""

        async def run() -> Any:
            if self.session is None:
                timeout = aiohttp.ClientTimeout(sock_read=self.timeout)
                self.session = aiohttp.ClientSession(timeout=timeout, trust_env=bool(self.proxy))
            return await work(self.session, ssl.create_default_context(cafile=CERTIFICATE))

        return self.runner.run(run(), context=copy_context())

    def get(self, url: str) -> Answer:
        async def work(session: aiohttp.ClientSession, tls: ssl.SSLContext) -> Answer:
            async with session.get(url, ssl=tls) as response:
                return Answer(response.status, [chunk async for chunk in response.content.iter_any()])

        answer: Answer = self._run(work)
        return answer

    def first(self, url: str) -> bytes:
        async def work(session: aiohttp.ClientSession, tls: ssl.SSLContext) -> bytes:
            async with session.get(url, ssl=tls) as response:
                return await response.content.readany()

        data: bytes = self._run(work)
        return data

    def upload(self, url: str, parts: list[bytes]) -> Answer:
        async def body() -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        async def work(session: aiohttp.ClientSession, _: ssl.SSLContext) -> Answer:
            async with session.post(url, data=body()) as response:
                return Answer(response.status, [await response.read()])

        answer: Answer = self._run(work)
        return answer


class Boto3(Client):
    """boto3: streams of Amazon Bedrock, uploads to S3."""

    name = "boto3"
    path = "/model/m/converse-stream"
    events = BEDROCK_EVENTS

    def _client(self, service: str, url: str, retries: int = 1) -> Any:
        config = pytest.importorskip("botocore.config").Config(
            retries={"mode": "standard", "total_max_attempts": retries},
            s3={"addressing_style": "path"},
            read_timeout=self.timeout,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pytest.importorskip("boto3").client(
                service,
                region_name="us-east-1",
                endpoint_url=url.removesuffix(self.path),
                aws_access_key_id="for-tests",
                aws_secret_access_key="for-tests-only",
                verify=str(CERTIFICATE),
                config=config,
            )

    def _events(self, url: str) -> Iterator[bytes]:
        with closing(self._client("bedrock-runtime", url)) as client:
            stream = client.converse_stream(modelId="m", messages=[{"role": "user", "content": [{"text": "Hi"}]}])
            with closing(stream["stream"]) as events:
                for event in events:
                    yield json.dumps(event).encode()

    def get(self, url: str) -> Answer:
        return Answer(200, list(self._events(url)))

    def first(self, url: str) -> bytes:
        with closing(self._events(url)) as events:  # type: ignore[type-var]  # a generator
            return next(events)

    def upload(self, url: str, parts: list[bytes]) -> Answer:
        with closing(self._client("s3", url)) as client:
            answer = client.put_object(Bucket="echo", Key="k", Body=BytesIO(b"".join(parts)))
            return Answer(answer["ResponseMetadata"]["HTTPStatusCode"])


CLIENTS = [HTTPClient, Urllib, Urllib3, Requests, Boto3, AioHTTP]
each_client = pytest.mark.parametrize("client", CLIENTS, ids=[client.name for client in CLIENTS], indirect=True)
CELLS: dict[str, str] = {}
"""Names of the tests that are columns of the table, by column."""


def cell(column: str) -> Callable[[Callable[..., Any]], Any]:
    """Make a test a column of the table: it runs for each client."""

    def mark(test: Callable[..., Any]) -> Any:
        CELLS[column] = test.__name__
        return each_client(test)

    return mark


@pytest.fixture
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Make a client, with an environment that names no proxy."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle", "curl_ca_bundle"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    made: Client = request.param()
    with made:  # skips the test if the library is not installed
        if isinstance(made, Boto3):
            made._client("s3", "http://127.0.0.1").close()
    return made


@pytest.fixture
def server() -> Iterator[Server]:
    """Run a server until the test ends."""
    with Server() as started:
        yield started


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a cassette that does not exist yet."""
    return tmp_path / "c.yaml"


def outcome(call: Callable[[], Any]) -> Any:
    """Return the result of a call, or class and text of its exception, without addresses of objects."""
    try:
        return call()
    except Exception as error:
        return type(error), re.sub(r" at 0x[0-9a-f]+", "", str(error))


def in_all_ways(client: Client, server: Server, path: Path, call: Callable[[Client], Any], *, most: int = 1) -> Any:
    """Return the outcome of a call, which is the same live, recorded and played; check what the server has seen.

    Args:
        client: asks the server.
        server: counts requests.
        path: of the cassette to record and play.
        call: called with the client.
        most: requests that a live call sends.
    """
    counts, outcomes = [], []
    for mode in (None, "once", "none"):
        before = len(server.seen)
        with client:
            if mode is None:
                outcomes.append(outcome(lambda: call(client)))
            else:
                with use_cassette(path, record_mode=mode):
                    outcomes.append(outcome(lambda: call(client)))
        counts.append(len(server.seen) - before)
    live, recorded, played = outcomes
    assert recorded == live
    assert played == live
    assert counts == [most, most, 0]
    return live


# --- the table


@cell("record, play")
def test_stream_is_the_same_live_recorded_and_played(client: Client, server: Server, path: Path) -> None:
    """The client gets the chunks of the server one by one, and so does the recording; a replay sends nothing."""
    answer = in_all_ways(client, server, path, lambda client: client.get(f"{server.url}/stream{client.path}"))
    if client.name == "boto3":
        assert [json.loads(each).get("contentBlockDelta", {}).get("delta") for each in answer.chunks[1:-1]] == [
            {"text": text} for text in TEXTS
        ]
    else:
        assert answer == Answer(200, EVENTS)
    [recorded] = load(path)
    assert [chunk.data for chunk in recorded.response.chunks] == client.events
    assert recorded.response.end == "eof"


@cell("early close")
def test_answer_that_is_closed_early_is_closed_early_again(client: Client, server: Server, path: Path) -> None:
    """What came until the close is recorded and played; a reader that reads on gets an error that says so."""
    url = f"{server.url}/stream{client.path}"
    first = in_all_ways(client, server, path, lambda client: client.first(url))
    assert first == (client.events[0] if client.name != "boto3" else first)
    [recorded] = load(path)
    assert recorded.response.end == "closed"
    assert client.events[: len(recorded.response.chunks)] == [chunk.data for chunk in recorded.response.chunks]
    assert len(recorded.response.chunks) < len(client.events)
    with client, use_cassette(path), pytest.raises(IncompleteRecordingError):
        client.get(url)


@cell("reset")
def test_connection_that_is_reset_is_reset_again(client: Client, server: Server, path: Path) -> None:
    """A reset in the middle of an answer is an error of the client's own kind, in a replay, too."""
    in_all_ways(client, server, path, lambda client: client.get(f"{server.url}/reset{client.path}"))
    [recorded] = load(path)
    assert recorded.response.end.startswith("raise ReadError: [Errno ")
    assert [chunk.data for chunk in recorded.response.chunks] == client.events[:2]


@cell("redirect")
def test_redirect_is_followed_as_it_was(client: Client, server: Server, path: Path) -> None:
    """A client that follows redirects does so in a replay; the others get the same answer, or the same error."""
    follows = client.name in ("urllib", "urllib3", "requests", "aiohttp")
    call = lambda client: client.get(f"{server.url}/redirect{client.path}")  # noqa: E731 - a call of one line
    answer = in_all_ways(client, server, path, call, most=1 + follows)
    assert not follows or answer == Answer(200, EVENTS)


@cell("gzip")
def test_answer_that_may_be_compressed_says_the_same(client: Client, server: Server, path: Path) -> None:
    """A recording asks for no compression; where the server compresses all the same, its bytes are kept."""
    url = f"{server.url}/{{}}{client.path}"
    texts = in_all_ways(client, server, path, lambda client: client.get(url.format("gzip")).body)
    assert texts == b"".join(EVENTS) or client.name == "boto3"
    assert load(path)[0].response.body == b"".join(client.events)
    other = path.with_name("zipped.yaml")
    in_all_ways(client, server, other, lambda client: client.get(url.format("zipped")))
    assert load(other)[0].response.body.startswith(b"\x1f\x8b")  # boto3 does not decompress streams: an error


@cell("upload")
def test_upload_is_recorded_whole(client: Client, server: Server, path: Path) -> None:
    """The server gets a body that is sent in parts, the cassette has it whole, and another body is a miss."""
    parts = [b"one", b"two" * 50_000, b"three"]
    url = server.url if client.name == "boto3" else f"{server.url}/echo"
    in_all_ways(client, server, path, lambda client: client.upload(url, parts))
    [recorded] = load(path)
    assert server.seen[-1][2] == b"".join(parts)
    assert recorded.request_body == b"".join(parts)
    with client, pytest.raises(CassetteMissError), use_cassette(path):
        client.upload(url, [*parts, b"four"])


@cell("miss")
def test_miss_is_raised_once_and_nothing_is_sent(client: Client, server: Server, path: Path) -> None:
    """The error reaches the application as it is; no client asks a second time."""
    save(path, [Interaction("GET", "https://x.test/", b"", ResponseStream(reason="OK"))])
    with client, pytest.raises(CassetteMissError) as outer:
        with use_cassette(path) as session:
            with pytest.raises(CassetteMissError) as missed:
                client.get(f"{server.url}/stream{client.path}")
            assert session.misses == (missed.value,)
    assert outer.value is missed.value
    assert server.seen == []


@cell("keep-alive")
def test_connection_from_before_is_not_used_while_a_cassette_plays(client: Client, server: Server, path: Path) -> None:
    """A connection from before a cassette is recorded; it sends nothing in a replay, and works after it."""
    url = f"{server.url}/stream{client.path}"
    with client:
        live = client.get(url)
        with use_cassette(path, record_mode="once"):
            assert [client.get(url), client.get(url)] == [live, live]
        assert client.get(url) == live
        before = len(server.seen)
        with use_cassette(path):
            assert [client.get(url), client.get(url)] == [live, live]
        assert len(server.seen) == before
        assert client.get(url) == live


@cell("HTTPS")
def test_https_is_recorded_with_the_clients_own_checks(client: Client, path: Path) -> None:
    """While recording, the client checks the server's certificate; a replay needs no server."""
    with Server(tls=True) as server:
        in_all_ways(client, server, path, lambda client: client.get(f"{server.url}/stream{client.path}"))
    assert load(path)[0].uri.startswith("https://")


def _get(url: str, client: Client) -> Answer:
    return client.get(url)


@cell("proxy")
def test_proxy_is_used_while_recording_only(
    client: Client, server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cassette has the address behind the proxy, for HTTP and HTTPS; a replay connects to no proxy."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, server.url)
    client.proxy = server.url
    for scheme in ("http", "https"):
        url, cassette = f"{scheme}://api.test/stream{client.path}", path.with_name(f"{scheme}.yaml")
        in_all_ways(client, server, cassette, partial(_get, url))
        assert load(cassette)[0].uri == url
    assert server.tunnels == ["api.test:443"] * 2


@cell("refused, down")
def test_errors_of_connections_are_the_clients_own(client: Client, server: Server, path: Path) -> None:
    """A refused connection is an error of the same kind live, recorded, played, and for a host that is ignored."""
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/stream{client.path}"
    kind, _ = in_all_ways(client, server, path, lambda client: client.get(url), most=0)
    assert load(path)[0].response.end.startswith("raise ConnectError: [Errno ")
    with client, use_cassette(path, ignore_hosts=["127.0.0.1"], unplayed="ignore"):
        assert outcome(lambda: client.get(f"{server.url}/stream{client.path}"))[0] is kind
    assert server.seen == []


@cell("time-out")
def test_time_out_is_the_clients_own(client: Client, server: Server, path: Path) -> None:
    """A server that falls silent is an error of the client's own kind, also where a cassette hangs."""
    client.timeout = 0.5
    url = f"{server.url}/hang{client.path}"
    kind, _ = in_all_ways(client, server, path, lambda client: client.get(url))
    assert load(path)[0].response.end.startswith("raise ReadTimeout: ")
    half = ResponseStream((Chunk(0, client.events[0]),), reason="OK", end="closed", complete=False)
    recorded = load(path)[0]
    save(path, [Interaction(recorded.method, recorded.uri, recorded.request_body, half)])
    with client, use_cassette(path, at_incomplete="hang"):
        assert outcome(lambda: client.get(url))[0] is kind


def table() -> list[str]:
    """Return the table of docs/cassettes.md, made of the tests of this module."""
    head = ["client", *CELLS]
    rows = [[f"`{each.name}`" if each is HTTPClient else each.name, *("yes" for _ in CELLS)] for each in CLIENTS]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def test_page_has_the_table_of_clients() -> None:
    """docs/cassettes.md says which clients do what, exactly as the tests of this module show."""
    page = _DOCS.read_text(encoding="utf-8").splitlines()
    assert [line for line in page if line in table()] == table()
