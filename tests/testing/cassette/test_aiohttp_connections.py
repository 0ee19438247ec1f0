"""Connections of aiohttp under a cassette: kept, secure, through proxies, of classes of the user's own, WebSockets."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import aiohttp
import anthropic
import openai
import pytest
from wire_server import EVENTS, WireServer, by_path

from miniagents_testing import ProviderServer, use_cassette
from miniagents_testing.cassette import Interaction, ResponseStream, load, save
from miniagents_testing.errors import LiveRequestError, UnrecordedWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


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


def loop_of(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return the function of asyncio or uvloop that makes an event loop; skip the test without uvloop."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if name == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop
    return factory


async def read(client: aiohttp.ClientSession, url: str) -> bytes:
    """Read a whole stream."""
    async with client.get(f"{url}/stream") as response:
        return await response.read()


async def test_connection_from_before_is_recorded_and_not_used_in_replay(server: WireServer, path: Path) -> None:
    """A client's open connection is used while a cassette records, not while one plays, and again after that."""
    async with aiohttp.ClientSession() as client:
        live = await read(client, server.url)
        async with use_cassette(path, record_mode="once"):
            assert await read(client, server.url) == live
        async with use_cassette(path):
            assert await read(client, server.url) == live
        assert (len(server.requests), server.connections) == (2, 1)
        assert await read(client, server.url) == live
        assert (len(server.requests), server.connections) == (3, 1)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate for localhost, with its key in the same file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not there")
    folder = tmp_path_factory.mktemp("tls")
    options = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2", "-nodes"]
    made = ["-keyout", "key.pem", "-out", "certificate.pem"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", *options, *made]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (folder / "both.pem").write_text((folder / "certificate.pem").read_text() + (folder / "key.pem").read_text())
    return folder / "both.pem"


@pytest.fixture
def secure_server(certificate: Path) -> Iterator[WireServer]:
    """Run a server for HTTPS until the test ends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with WireServer(by_path, tls=context) as started:
        yield started


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("through", ["directly", "a proxy", "a proxy of the environment"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_https_and_proxies_are_recorded_and_played(
    server: WireServer,
    secure_server: WireServer,
    certificate: Path,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    through: str,
    scheme: str,
    loop: str,
) -> None:
    """Chunks are the same live and played; a replay asks neither server nor proxy, and needs no certificate."""
    target = secure_server if scheme == "https" else server

    async def get(tls: Any) -> Any:
        options: dict[str, Any] = {"proxy": proxy.url} if through == "a proxy" else {}
        async with aiohttp.ClientSession(trust_env=through != "directly") as client:
            async with client.get(f"{target.url}/stream", ssl=tls, **options) as response:
                return [
                    chunk async for chunk, _ in response.content.iter_chunks() if chunk
                ]  # also if two arrive at once

    async def again(mode: Any, tls: Any) -> Any:
        # the proxy connects in this process: by an address that the client does not use
        async with use_cassette(path, record_mode=mode, allow_hosts=["127.0.0.1"]):
            return await get(tls)

    with WireServer(by_path) as proxy, asyncio.Runner(loop_factory=loop_of(loop)) as runner:
        if through == "a proxy of the environment":
            monkeypatch.setenv(f"{scheme}_proxy", proxy.url)
            monkeypatch.delenv("no_proxy", raising=False)
        assert runner.run(again("once", ssl.create_default_context(cafile=str(certificate)))) == EVENTS
        before = [server.connections, secure_server.connections, proxy.connections]
        assert runner.run(again("none", True)) == EVENTS
        assert [server.connections, secure_server.connections, proxy.connections] == before
        assert (proxy.connections > 0) == (through != "directly")
    assert load(path)[0].uri == f"{target.url}/stream"


async def test_certificate_that_is_refused_is_played_as_such(secure_server: WireServer, path: Path) -> None:
    """A connection that failed for its certificate fails in replay with aiohttp's own error for that."""
    errors = []
    for mode in ("once", "none"):
        async with use_cassette(path, record_mode=mode), aiohttp.ClientSession() as client:
            with pytest.raises(aiohttp.ClientConnectorCertificateError) as caught:
                await client.get(secure_server.url)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


async def test_session_that_may_play_connects_only_for_unknown_requests(server: WireServer, path: Path) -> None:
    """In mode `new_episodes`, no connection is opened for a recorded request; another request is sent and added."""
    async with use_cassette(path, record_mode="once"), aiohttp.ClientSession() as client:
        await read(client, server.url)
    before = server.connections
    async with use_cassette(path, record_mode="new_episodes"), aiohttp.ClientSession() as client:
        await read(client, server.url)
        assert server.connections == before
        await read(client, server.url)
    assert (server.connections, len(server.requests), len(load(path))) == (before + 1, 2, 2)


async def test_closing_the_client_closes_a_played_answer(server: WireServer, path: Path) -> None:
    """Reading a response after its client was closed raises the same error live, recorded and played."""

    async def read_late() -> tuple[type[Exception], str]:
        async with aiohttp.ClientSession() as client:
            response = await client.get(f"{server.url}/stream")
        await asyncio.sleep(0)
        with pytest.raises((aiohttp.ClientError, RuntimeError)) as caught:
            await response.read()
        return caught.type, str(caught.value)

    live = await read_late()
    async with use_cassette(path, record_mode="once"):
        assert await read_late() == live
    async with use_cassette(path):
        assert await read_late() == live


async def test_played_connections_are_not_kept(server: WireServer, path: Path) -> None:
    """After a cassette is closed, a client sends its requests over live connections, and over none that was played."""
    async with aiohttp.ClientSession() as client:
        async with use_cassette(path, record_mode="once"):
            await read(client, server.url)
        async with use_cassette(path):
            await read(client, server.url)
        async with client.get(f"{server.url}/404") as response:
            assert response.status == 404
    assert len(server.requests) == 2


@pytest.mark.skipif(not hasattr(asyncio, "start_unix_server"), reason="there are no such sockets here")
async def test_unix_sockets_are_recorded_and_played(tmp_path: Path, path: Path) -> None:
    """A request over a socket of this machine is recorded with its URL; in replay the socket may be gone."""
    asked = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
        await writer.drain()
        writer.close()

    async def get() -> str:
        connector = aiohttp.UnixConnector(str(tmp_path / "s"))
        async with aiohttp.ClientSession(connector=connector) as client, client.get("http://local/x") as response:
            return await response.text()

    async with await asyncio.start_unix_server(answer, tmp_path / "s"):
        async with use_cassette(path, record_mode="once"):
            assert await get() == "hi"
    async with use_cassette(path):
        assert await get() == "hi"
    assert len(asked) == 1


# --- classes of the user's own


with pytest.deprecated_call():  # aiohttp would rather have no subclasses

    class EarlySession(aiohttp.ClientSession):
        """Client that was defined before a cassette is opened."""


class EarlyConnector(aiohttp.TCPConnector):
    """Connector with a method of its own."""

    async def connect(self, *args: Any, **options: Any) -> Any:
        return await super().connect(*args, **options)


class OtherConnector(aiohttp.TCPConnector):
    """Connector that does not call the method of its base."""

    async def connect(self, request: Any, traces: Any, timeout: Any) -> Any:
        handler = await self._create_connection(request, traces, timeout)
        return aiohttp.connector.Connection(self, request.connection_key, handler, self._loop)


@pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")
@pytest.mark.parametrize("connector", [EarlyConnector, OtherConnector, None])
async def test_classes_of_a_users_own_are_recorded_and_played(
    server: WireServer, path: Path, connector: type[aiohttp.TCPConnector] | None
) -> None:
    """Requests of the user's client and connector classes are recorded and played, also of those defined later."""
    for mode in ("once", "none"):
        async with use_cassette(path, record_mode=mode):
            if connector is None:

                class LateSession(aiohttp.ClientSession):
                    async def _request(self, *args: Any, **options: Any) -> Any:
                        return await super()._request(*args, **options)

                class LateConnector(aiohttp.TCPConnector):
                    async def connect(self, *args: Any, **options: Any) -> Any:
                        return await super().connect(*args, **options)

                client: aiohttp.ClientSession = LateSession(connector=LateConnector())
            else:
                client = EarlySession(connector=connector())
            async with client:
                assert await read(client, server.url) == b"".join(EVENTS)
    assert len(server.requests) == 1
    [recorded] = load(path)
    assert [chunk.data for chunk in recorded.response.chunks] == EVENTS
    assert not hasattr(EarlyConnector.connect, "__wrapped__"), "a patch stayed"


async def test_middlewares_of_the_user_go_around_the_cassette(server: WireServer, path: Path) -> None:
    """What a middleware adds to a request is recorded and matched, and a replay sends nothing."""

    async def sign(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        request.url = request.url.with_query(signed="1")
        return await send(request)

    for mode in ("once", "none"):
        async with use_cassette(path, record_mode=mode):
            async with aiohttp.ClientSession(middlewares=[sign]) as client:
                await read(client, server.url)
    assert [each.path for each in server.requests] == ["/stream?signed=1"]
    assert load(path)[0].uri == f"{server.url}/stream?signed=1"


# --- connections that are not recorded


async def fail_to_connect(url: str) -> None:
    """Ask a server for a WebSocket that it does not have."""
    async with aiohttp.ClientSession() as client:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await client.ws_connect(f"{url}/404")


async def test_websocket_is_refused_by_name_and_warned_of(server: WireServer, other: Path, tmp_path: Path) -> None:
    """While a cassette plays, the error that refuses `ws_connect` names it; while one records, a warning does."""
    with pytest.raises(
        LiveRequestError, match=r"aiohttp\.ws_connect was about to .* is played; aiohttp\.ws_connect is"
    ):
        async with use_cassette(other, unplayed="ignore"), aiohttp.ClientSession() as client:
            await client.ws_connect(server.url)
    assert not server.requests
    with pytest.warns(UnrecordedWarning, match=rf"aiohttp\.ws_connect to localhost:{server.port}"):
        async with use_cassette(tmp_path / "new.yaml", record_mode="once"):
            await fail_to_connect(server.url)
    assert len(server.requests) == 1


async def test_older_aiohttp_is_refused_by_name(
    server: WireServer, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a cassette plays, a request of aiohttp before 3.12, which cannot be recorded, is refused by name."""
    monkeypatch.delattr(aiohttp.ClientRequest, "update_body")
    with pytest.raises(LiveRequestError, match=r"aiohttp was about to connect to .*; aiohttp is not recorded"):
        async with use_cassette(other, unplayed="ignore"), aiohttp.ClientSession() as client:
            await client.get(server.url)
    assert not server.requests


async def test_answer_that_is_no_http_is_named(tmp_path: Path) -> None:
    """An answer that the recorder cannot read reaches the client all the same, and a warning names its server."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nbad header : x\r\ncontent-length: 2\r\n\r\nhi")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]

        async def get() -> tuple[str, str]:
            try:
                async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{port}") as response:
                    return "body", await response.text()
            except aiohttp.ClientError as error:
                return type(error).__name__, str(error)

        live = await get()
        with pytest.warns(UnrecordedWarning, match=f"aiohttp to 127.0.0.1:{port}"):
            async with use_cassette(tmp_path / "new.yaml", record_mode="once"):
                assert await get() == live
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "new.yaml")  # there was nothing to record


@pytest.mark.parametrize("sdk", [openai, anthropic])
async def test_request_of_an_sdk_on_aiohttp_is_recorded_once(path: Path, sdk: Any) -> None:
    """A request of an SDK through httpx2 on aiohttp is recorded as one interaction, and played without the server."""
    client_class = sdk.AsyncOpenAI if sdk is openai else sdk.AsyncAnthropic
    async with ProviderServer(["Hello", "Hello"]) as server:
        base_url = server.openai_base_url if sdk is openai else server.anthropic_base_url
        for mode in ("once", "none"):
            async with use_cassette(path, record_mode=mode):
                async with client_class(
                    api_key="for-tests", base_url=base_url, http_client=sdk.DefaultAioHttpClient()
                ) as client:
                    messages = [{"role": "user", "content": "Hi"}]
                    if sdk is openai:
                        await client.chat.completions.create(model="m", messages=messages)
                    else:
                        await client.messages.create(model="m", messages=messages, max_tokens=9)
    assert len(server.calls) == 1
    assert len(load(path)) == 1


def test_threads_with_loops_of_their_own_are_recorded_and_played(server: WireServer, path: Path) -> None:
    """A thread without a context of its own uses the only open cassette, with a client that it makes itself."""

    async def get() -> bytes:
        async with aiohttp.ClientSession() as client:
            return await read(client, server.url)

    for mode in ("once", "none"):
        with use_cassette(path, record_mode=mode), ThreadPoolExecutor() as pool:
            assert pool.submit(asyncio.run, get()).result() == b"".join(EVENTS)
    assert len(server.requests) == 1


async def test_allowed_and_ignored_hosts_go_past_the_cassette(server: WireServer, other: Path, tmp_path: Path) -> None:
    """`allow_hosts` are reached in every mode, `ignore_hosts` only while recording: else connecting to them fails."""
    host = f"localhost:{server.port}"
    async with aiohttp.ClientSession() as client:
        async with use_cassette(other, unplayed="ignore", allow_hosts=[host]):
            await read(client, server.url)
        async with use_cassette(other, unplayed="ignore", ignore_hosts=[host]) as session:
            with pytest.raises(aiohttp.ClientConnectorError, match="in ignore_hosts"):
                await read(client, server.url)
        assert not session.misses
        for option in ("allow_hosts", "ignore_hosts"):
            with pytest.warns(UnrecordedWarning, match="Nothing was recorded"):
                async with use_cassette(tmp_path / "new.yaml", record_mode="once", **{option: [host]}) as session:  # type: ignore[arg-type]
                    await read(client, server.url)
            assert session.unrecorded == ()
    assert len(server.requests) == 3
