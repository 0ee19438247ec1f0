"""Both clients of websockets, alone and under OpenAI's realtime clients, against servers on this machine.

Each test that is marked with `cell` is a column of the table in docs/how-to/cassettes.md, for both clients.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import socket
import struct
import time
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from conversation_table import Cells

from miniagents_testing import run_in_virtual_time, use_cassette
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, load, save
from miniagents_testing.cassette._conversation import Frame, line_of
from miniagents_testing.errors import CassetteFormatError, CassetteMissError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

pytest.importorskip("websockets", minversion="16")

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Response
from websockets.sync import client as sync_client
from websockets.sync.client import connect as connect_sync

KEY = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"
LARGE = "x" * 100_000

cell = Cells("websockets, asyncio and sync")


class EchoServer:
    """Server that echoes messages, and does what some of them say."""

    def __init__(self) -> None:
        self.requests = 0
        """Count of handshakes, also of those that were refused."""
        self.url = ""

    async def talk(self, connection: Any) -> None:
        """Answer the messages of one connection."""
        async for message in connection:
            match message:
                case "bye":
                    await connection.close(1011, "bad day")
                case "vanish":
                    connection.transport.abort()
                case "reset":
                    raw = connection.transport.get_extra_info("socket")
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    connection.transport.abort()
                case "many":
                    for part in ("a\r\nb", b"\xff\x00", "", LARGE):
                        await connection.send(part)
                case "parts":
                    await connection.send(["one ", "message"])
                case "silence":
                    pass
                case bytes():
                    await connection.send(message[::-1])
                case _:
                    await connection.send(f"echo {message}")

    def check(self, connection: Any, request: Any) -> Response | None:
        """Refuse or redirect some handshakes."""
        self.requests += 1
        if request.path.startswith("/moved"):
            return Response(302, "Found", Headers({"Location": "/here", "Content-Length": "0"}), b"")
        if request.path.startswith("/refused"):
            return Response(401, "Unauthorized", Headers({"Content-Length": "9", "X-Why": "key"}), b"wrong key")
        return None


@asynccontextmanager
async def echo_server() -> AsyncIterator[EchoServer]:
    """Run an `EchoServer` until the context is left."""
    server = EchoServer()
    async with serve(server.talk, "127.0.0.1", 0, process_request=server.check, subprotocols=["realtime"]) as running:
        port = running.sockets[0].getsockname()[1]
        server.url = f"ws://127.0.0.1:{port}"
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a cassette that does not exist yet."""
    return tmp_path / "c.yaml"


class Connection:
    """Connection of either client, with the methods of the asyncio one; those of the sync client run in threads."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def __getattr__(self, name: str) -> Any:
        """Return a method of the asyncio client, or a property of either."""
        found = getattr(self.connection, name)
        is_sync = name in ("send", "recv") and not asyncio.iscoroutinefunction(found)
        return partial(asyncio.to_thread, found) if is_sync else found


@asynccontextmanager
async def connected(client: str, url: str, **options: Any) -> AsyncIterator[Any]:
    """Open a connection with a client, "asyncio" or "sync", until the context is left."""
    options = {"subprotocols": ["realtime"], "proxy": None, **options}
    if client == "asyncio":
        async with connect(url, **options) as connection:
            yield connection
        return
    opened = await asyncio.to_thread(lambda: connect_sync(url, **options).__enter__())
    try:
        yield Connection(opened)
    finally:
        await asyncio.to_thread(opened.__exit__, None, None, None)


@pytest.fixture(params=["asyncio", "sync"])
def client(request: pytest.FixtureRequest) -> str:
    """Return the name of a client."""
    name: str = request.param
    return name


async def say(client: str, url: str, *messages: Any, answers: int | None = None) -> list[Any]:
    """Send messages, each after an answer to the one before; return what the client gets, and how it ends.

    Args:
        client: "asyncio" or "sync".
        url: of the server.
        messages: to send.
        answers: count of answers to read after the last message; None for one.
    """
    seen: list[Any] = []
    async with connected(client, url, additional_headers={"Authorization": f"Bearer {KEY}"}) as connection:
        seen.append(connection.subprotocol)
        try:
            for number, message in enumerate(messages, 1):
                await connection.send(message)
                count = 1 if answers is None or number < len(messages) else answers
                seen += [await connection.recv() for _ in range(count)]
        except ConnectionClosed as closed:
            seen.append((type(closed), str(closed)))
    return [*seen, connection.close_code, connection.close_reason]


async def in_all_ways(server: EchoServer, path: Path, call: Callable[[], Awaitable[Any]], *, requests: int = 1) -> Any:
    """Return the outcome of a call, which is the same live, recorded and played; a replay sends nothing."""
    outcomes, counts = [await call()], [server.requests]
    for mode in ("once", "none"):
        with use_cassette(path, record_mode=mode):
            outcomes.append(await call())
        counts.append(server.requests)
    live, recorded, played = outcomes
    assert recorded == live
    assert played == live
    assert counts == [requests, 2 * requests, 2 * requests]
    return live


@cell("record, play")
async def test_messages_are_the_same_live_recorded_and_played(client: str, path: Path) -> None:
    """Texts, bytes, large messages and those in parts come as they did; the file has no key of the request."""
    async with echo_server() as server:
        call = partial(say, client, f"{server.url}/v1?model=x", "hello", b"abc", LARGE, "parts", "many", answers=4)
        seen = await in_all_ways(server, path, call)
    answers = ["echo hello", b"cba", f"echo {LARGE}", "one message", "a\r\nb", b"\xff\x00", "", LARGE]
    assert seen == ["realtime", *answers, 1000, ""]
    [recorded] = load(path)
    assert (recorded.method, recorded.uri) == ("WEBSOCKET", f"{server.url}/v1?model=x")
    assert (recorded.response.status, recorded.response.end) == (101, "closed 1000")
    assert recorded.response.complete
    assert len(recorded.response.chunks) == 5 + len(answers)
    assert KEY.encode() not in recorded.response.body
    assert KEY not in str(recorded.response.headers)


@cell("early close")
async def test_client_that_leaves_early_leaves_early_again(client: str, path: Path) -> None:
    """A client that waits in vain and leaves does the same in a replay, where nothing more comes either."""

    async def leave(url: str) -> str:
        async with connected(client, url) as connection:
            await connection.send("silence")
            try:
                if client == "sync":
                    await connection.recv(timeout=0.1)
                async with asyncio.timeout(0.1):
                    await connection.recv()
            except TimeoutError:
                return "nothing came"
        return "something came"

    async with echo_server() as server:
        assert await in_all_ways(server, path, partial(leave, server.url)) == "nothing came"
    assert load(path)[0].response.end == "closed 1000"


@cell("server ends")
async def test_server_that_closes_closes_again(client: str, path: Path) -> None:
    """Live and in a replay, the client raises its own error with the server's code and reason for the close."""
    async with echo_server() as server:
        *_, (kind, text), code, reason = await in_all_ways(
            server, path, partial(say, client, server.url, "hello", "bye")
        )
    assert (kind.__name__, code, reason) == ("ConnectionClosedError", 1011, "bad day")
    assert text.startswith("received 1011 (internal error) bad day")
    assert load(path)[0].response.end == "eof 1011 bad day"


@cell("reset")
@pytest.mark.parametrize(("message", "end"), [("vanish", "eof"), ("reset", "raise ReadError: [Errno ")])
async def test_connection_that_is_lost_is_lost_again(message: str, end: str, client: str, path: Path) -> None:
    """Live and in a replay, the client raises its own error if the connection ends without a close, or is reset."""
    async with echo_server() as server:
        seen = await in_all_ways(server, path, partial(say, client, server.url, "hello", message))
    assert seen[1] == "echo hello"
    assert seen[2][0].__name__ == "ConnectionClosedError"
    assert load(path)[0].response.end.startswith(end)


@cell("redirect")
async def test_redirect_is_followed_as_it_was(client: str, path: Path) -> None:
    """A redirected handshake is two interactions, and a replay follows it; the sync client of version 16 refuses it."""
    async with echo_server() as server:
        if client == "sync" and not hasattr(sync_client, "reconnect"):

            async def refused() -> int:
                with pytest.raises(InvalidStatus) as raised:
                    await say(client, f"{server.url}/moved", "hello")
                status: int = raised.value.response.status_code
                return status

            assert await in_all_ways(server, path, refused) == 302
            return
        seen = await in_all_ways(server, path, partial(say, client, f"{server.url}/moved", "hello"), requests=2)
        assert seen[1] == "echo hello"
    assert [(each.uri, each.response.status) for each in load(path)] == [
        (f"{server.url}/moved", 302),
        (f"{server.url}/here", 101),
    ]


@cell("refused, down")
async def test_connection_that_is_refused_is_refused_again(client: str, path: Path) -> None:
    """A refused handshake keeps status, headers and body; a port without a server is the error of the socket."""

    async def fail(url: str) -> Any:
        try:
            await say(client, url, "hello")
        except InvalidStatus as refused:
            response = refused.response
            return response.status_code, response.headers["x-why"], bytes(response.body or b""), str(refused)
        except OSError as error:
            return type(error), error.errno
        return "connected"

    async with echo_server() as server:
        refused = await in_all_ways(server, path, partial(fail, f"{server.url}/refused"))
    assert refused[:3] == (401, "key", b"wrong key")
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        url = f"ws://127.0.0.1:{unused.getsockname()[1]}/"
    down = path.with_name("down.yaml")
    kind, _ = await in_all_ways(EchoServer(), down, partial(fail, url), requests=0)
    assert kind is ConnectionRefusedError
    assert load(down)[0].response.end.startswith("raise ConnectError: [Errno ")
    with use_cassette(down, ignore_hosts=["127.0.0.1"], unplayed="ignore"):
        assert (await fail(url))[0] is kind


@cell("miss")
async def test_message_that_differs_is_a_miss(client: str, path: Path) -> None:
    """A message that differs from the recorded one closes the connection; the miss has both. Another URL is a miss."""
    async with echo_server() as server:
        with use_cassette(path, record_mode="once"):
            await say(client, server.url, "hello", '{"type":"go","event_id":"1","text":"one"}')
        with use_cassette(path):
            await say(client, server.url, "hello", '{"event_id":"2","type":"go","text":"one"}')
        with pytest.raises(
            CassetteMissError, match=r"frame 2 that the client sends .*\n    text: recorded 'one', now 'two'"
        ):
            with use_cassette(path):
                *_, (kind, _), code, _ = await say(client, server.url, "hello", '{"type":"go","text":"two"}')
                assert (kind.__name__, code) == ("ConnectionClosedError", 1008)
        with pytest.raises(CassetteMissError, match=f"no answer for WEBSOCKET {server.url}/other"):
            with use_cassette(path, unplayed="ignore"):
                await say(client, f"{server.url}/other", "hello")
        assert server.requests == 1


def save_talk(path: Path, seconds: float) -> None:
    """Save a conversation in which a message of the client and two of the server take so many seconds each."""
    said = [(True, "go"), (False, "one"), (False, "two")]
    chunks = tuple(Chunk.after(seconds, line_of(Frame(*frame))) for frame in said)
    answer = ResponseStream(chunks, status=101, reason="Switching Protocols", end="eof 1000")
    save(path, [Interaction("WEBSOCKET", "wss://api.test/v1", b"", answer)])


@cell("pace")
def test_messages_come_at_their_recorded_times_in_virtual_time(path: Path) -> None:
    """At pace 1, messages come when they came in the recording, also after minutes in which only pings are sent."""
    save_talk(path, 90)

    async def listen() -> list[tuple[int, Any]]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with use_cassette(path, pace=1):
            async with connect("wss://api.test:443/v1", proxy=None) as connection:
                await connection.send("go")
                seen = [(round(loop.time() - began), message) async for message in connection]
        return seen

    assert run_in_virtual_time(listen()) == [(180, "one"), (270, "two")]


def test_messages_come_to_a_sync_client_no_earlier_than_recorded(path: Path) -> None:
    """At pace 1, a sync client waits for each message as long as in the recording."""
    save_talk(path, 0.02)
    with use_cassette(path, pace=1):
        began = time.monotonic()
        with connect_sync("wss://api.test:443/v1", proxy=None) as connection:
            connection.send("go")
            seen = [(message, time.monotonic() - began) for message in connection]
    assert [message for message, _ in seen] == ["one", "two"]
    assert seen[0][1] >= 0.04
    assert seen[1][1] >= 0.06


async def test_replay_needs_no_proxy_and_no_name(client: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay connects to no proxy and looks up no name; `record_as` gives a recording the provider's address."""
    async with echo_server() as server:
        with use_cassette(path, record_mode="once", record_as={f"{server.url}/": "wss://api.test/"}):
            live = await say(client, f"{server.url}/v1", "hello")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with use_cassette(path):
        assert await say(client, "wss://api.test/v1", "hello") == live


async def test_allowed_server_is_reached_and_not_recorded(client: str, path: Path) -> None:
    """A server of `allow_hosts` is reached while a cassette plays, and stays out of the recording."""
    save(path, [])
    async with echo_server() as server:
        with use_cassette(path, allow_hosts=["127.0.0.1"]):
            assert (await say(client, server.url, "hello"))[1] == "echo hello"
        assert server.requests == 1
    assert load(path) == ()


async def test_malformed_conversation_leaves_nothing_open(client: str, path: Path) -> None:
    """A conversation with a line that is no frame fails when its connection opens, and leaves no socket open."""
    answer = ResponseStream((Chunk(0, b"no frame\n"),), status=101, end="closed 1000")
    save(path, [Interaction("WEBSOCKET", "ws://a.test/", b"", answer)])
    with use_cassette(path), pytest.raises(CassetteFormatError, match="is no frame of a conversation"):
        await say(client, "ws://a.test/", "hello")
    gc.collect()


def test_sync_client_is_as_before_when_no_cassette_is_open(path: Path) -> None:
    """After nested cassettes are closed, the sync `connect`, imported by name, has its own code and signature again."""
    save(path, [])

    def now() -> list[object]:
        opened = getattr(getattr(sync_client, "reconnect", None), "open_connection", None)
        return [opened, connect_sync.__code__, inspect.signature(connect_sync)]

    before = now()
    with use_cassette(path), use_cassette(path):
        assert now() != before
    assert now() == before


@pytest.mark.filterwarnings(r"ignore:connect\(\) must be used as a context manager:DeprecationWarning")  # by OpenAI
async def test_realtime_client_is_the_same_live_recorded_and_played(client: str, path: Path) -> None:
    """OpenAI's realtime clients get the same events live, while recording, and played without a connection."""
    openai = pytest.importorskip("openai")
    connections = 0

    async def answer(connection: Any) -> None:
        nonlocal connections
        connections += 1
        await connection.send(
            json.dumps({"type": "session.created", "event_id": "e0", "session": {"type": "realtime"}})
        )
        async for message in connection:
            if json.loads(message)["type"] == "response.create":
                for text in ("Hel", "lo"):
                    delta = {"type": "response.output_text.delta", "event_id": "e", "response_id": "r", "item_id": "i"}
                    await connection.send(json.dumps({**delta, "output_index": 0, "content_index": 0, "delta": text}))
                await connection.send(json.dumps({"type": "response.done", "event_id": "e9", "response": {"id": "r"}}))

    async def ask(base: str) -> list[str]:
        if client == "sync":
            return await asyncio.to_thread(ask_sync, base)
        async with openai.AsyncOpenAI(api_key=KEY, websocket_base_url=base) as sdk:
            async with sdk.realtime.connect(model="gpt-realtime") as connection:
                seen: list[str] = []
                await connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
                await connection.response.create()
                async for event in connection:
                    seen.append(getattr(event, "delta", event.type))
                    if event.type == "response.done":
                        return seen
        raise AssertionError("the stream ended without a response")

    def ask_sync(base: str) -> list[str]:
        with openai.OpenAI(api_key=KEY, websocket_base_url=base) as sdk:
            with sdk.realtime.connect(model="gpt-realtime") as connection:
                seen: list[str] = []
                connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
                connection.response.create()
                for event in connection:
                    seen.append(getattr(event, "delta", event.type))
                    if event.type == "response.done":
                        return seen
        raise AssertionError("the stream ended without a response")

    async with serve(answer, "127.0.0.1", 0) as server:
        base = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        outcomes = [await ask(base)]
        for mode in ("once", "none"):
            with use_cassette(path, record_mode=mode):
                outcomes.append(await ask(base))
        assert connections == 2
    assert outcomes == [["session.created", "Hel", "lo", "response.done"]] * 3
    assert load(path)[0].uri == f"{base}/realtime?model=gpt-realtime"


def test_page_has_the_row_of_websockets() -> None:
    """docs/how-to/cassettes.md says what is recorded of websockets, exactly as the tests of this module show."""
    cell.assert_in_page()
