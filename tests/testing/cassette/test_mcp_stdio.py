"""mcp's client and servers over stdio: what they say is the same live, recorded and played without a process.

Each test that is marked with `cell` is a column of the table in docs/how-to/cassettes.md. Servers over HTTP are
here, too.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from conversation_table import Cells

from miniagents_testing import run_in_virtual_time, use_cassette
from miniagents_testing.cassette import Chunk, Redaction, load, save
from miniagents_testing.cassette._conversation import frames_in
from miniagents_testing.errors import CassetteMissError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

mcp = pytest.importorskip("mcp")

from mcp.client.stdio import StdioServerParameters, stdio_client  # noqa: E402 - it may be missing

SERVER = """
import asyncio, os, sys
from mcp.server import MCPServer
from mcp.server.mcpserver import Context

with open(sys.argv[1], "a") as starts:
    starts.write("x")
server = MCPServer("weather")

@server.tool()
async def measure(city: str, ctx: Context) -> str:
    await ctx.report_progress(1, 2)
    return f"{city}: 21.5"

@server.tool()
async def read_environment(name: str) -> str:
    return os.environ[name]

@server.tool()
async def hang() -> str:
    await asyncio.sleep(3600)

@server.tool()
async def crash() -> str:
    os._exit(3)

"""
OVER_STDIO = "server.run()\n"
OVER_HTTP = """
import socket, uvicorn

app = server.streamable_http_app()

async def counted(scope, receive, send):
    if scope["type"] == "http":
        with open(sys.argv[1], "a") as requests:
            requests.write("x")
    await app(scope, receive, send)

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(counted, log_level="warning")).run(sockets=[listener])
"""

cell = Cells("mcp, servers over stdio")
"""Decorator that marks a test as the proof of one cell in the table of `docs/how-to/cassettes.md`."""


class Weather:
    """Server of mcp in a process, and the calls of its client.

    Args:
        folder: for its program and for its counter of starts.
        mode: of the client: `auto` or `legacy`, which begins with `initialize`.
    """

    def __init__(self, folder: Path, mode: str) -> None:
        self._starts = folder / "starts"
        self._starts.touch()
        self._program = folder / "server.py"
        self._program.write_text(SERVER + OVER_STDIO)
        self._mode = mode
        self.environment: dict[str, str] = {}

    @property
    def starts(self) -> int:
        """Count of processes that were started."""
        return len(self._starts.read_text())

    @property
    def parameters(self) -> StdioServerParameters:
        """Command of the server."""
        arguments = [str(self._program), str(self._starts)]
        return StdioServerParameters(command=sys.executable, args=arguments, env=self.environment)

    async def ask(self, *calls: tuple[str, dict[str, Any]]) -> list[Any]:
        """Return the names of the tools, and the text of each call or the type and text of its error."""
        async with mcp.Client(stdio_client(self.parameters), mode=self._mode) as client:
            seen: list[Any] = [sorted(tool.name for tool in (await client.list_tools()).tools)]
            for name, arguments in calls:
                try:
                    seen.append((await client.call_tool(name, arguments)).content[0].text)
                except mcp.MCPError as error:
                    seen.append((type(error), str(error)))
            return seen


@pytest.fixture(params=["auto", "legacy"])
def weather(request: pytest.FixtureRequest, tmp_path: Path) -> Weather:
    """Return a server, for each way in which a client begins to talk."""
    return Weather(tmp_path, request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a cassette that does not exist yet."""
    return tmp_path / "c.yaml"


async def in_all_ways(weather: Weather, path: Path, call: Callable[[], Awaitable[Any]]) -> Any:
    """Return the outcome of a call, which is the same live, recorded and played, with a process for the first two."""
    outcomes, starts = [], []
    for mode in (None, "once", "none"):
        before = weather.starts
        if mode is None:
            outcomes.append(await call())
        else:
            with use_cassette(path, record_mode=mode):
                outcomes.append(await call())
        starts.append(weather.starts - before)
    live, recorded, played = outcomes
    assert recorded == live
    assert played == live
    assert starts == [1, 1, 0]
    return live


@cell("record, play")
async def test_server_is_the_same_live_recorded_and_played(weather: Weather, path: Path) -> None:
    """The client gets the same answers, and no process starts in a replay; the file has a line for each message."""
    seen = await in_all_ways(weather, path, partial(weather.ask, ("measure", {"city": "Rome"})))
    assert seen == [["crash", "hang", "measure", "read_environment"], "Rome: 21.5"]
    [recorded] = load(path)
    assert recorded.method == "STDIO"
    assert recorded.uri.startswith("stdio:python /")
    assert (recorded.response.end, recorded.response.complete) == ("closed", True)
    said = [frame for chunk in recorded.response.chunks for frame in frames_in(chunk.data)]
    assert len(said) == len(recorded.response.chunks)
    assert any(frame.is_sent and '"measure"' in str(frame.data) for frame in said)


@cell("early close")
async def test_call_that_the_client_gives_up_is_given_up_again(weather: Weather, path: Path) -> None:
    """A call without an answer waits in a replay, too, until the client gives it up and leaves."""

    async def ask() -> str:
        async with mcp.Client(stdio_client(weather.parameters)) as client:
            await client.list_tools()
            try:
                async with asyncio.timeout(0.2):
                    await client.call_tool("hang", {})
            except TimeoutError:
                return "timed out"
        return "answered"

    assert await in_all_ways(weather, path, ask) == "timed out"
    [recorded] = load(path)
    assert recorded.response.end == "closed"


@cell("server ends")
@cell("reset")
async def test_server_that_crashes_crashes_again(weather: Weather, path: Path) -> None:
    """Live and in a replay, the client raises its own error if the process ends in the middle of a call."""
    _, (kind, _) = await in_all_ways(weather, path, partial(weather.ask, ("crash", {})))
    assert kind is mcp.MCPError
    assert load(path)[0].response.end == "eof"


@cell("refused, down")
async def test_command_that_does_not_exist_is_the_same_error(weather: Weather, path: Path) -> None:
    """A command that cannot be started is the same error live, recorded and played."""

    async def start() -> tuple[type, str]:
        with pytest.raises(FileNotFoundError) as raised:
            async with stdio_client(StdioServerParameters(command="no-such-command", args=["a b"])):
                pass
        return type(raised.value), str(raised.value)

    outcomes = [await start()]
    for mode in ("once", "none"):
        with use_cassette(path, record_mode=mode):
            outcomes.append(await start())
    assert outcomes == [outcomes[0]] * 3
    assert load(path)[0].uri == "stdio:no-such-command 'a b'"


@cell("miss")
async def test_call_that_differs_is_a_miss(weather: Weather, path: Path) -> None:
    """A call that differs from the recorded one ends the connection; `use_cassette` raises the difference."""
    with use_cassette(path, record_mode="once"):
        await weather.ask(("measure", {"city": "Rome"}))
    with pytest.raises(CassetteMissError, match=r"params.arguments.city: recorded 'Rome', now 'Paris'"):
        with use_cassette(path):
            _, (kind, _) = await weather.ask(("measure", {"city": "Paris"}))
            assert kind is mcp.MCPError
    assert weather.starts == 1


async def test_server_that_is_not_in_the_cassette_is_a_miss(weather: Weather, path: Path) -> None:
    """A command that was not recorded is a miss before any process starts."""
    save(path, [])
    with pytest.raises(CassetteMissError, match="has no answers, so none for STDIO stdio:python "):
        with use_cassette(path):
            await weather.ask()
    assert weather.starts == 0


@cell("pace")
def test_server_keeps_its_pace_in_virtual_time(weather: Weather, path: Path) -> None:
    """At pace 1 an answer takes as much virtual time as it took when it was recorded."""

    async def timed() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with use_cassette(path, pace=1):
            await weather.ask(("measure", {"city": "Rome"}))
        return loop.time() - began

    with use_cassette(path, record_mode="once"):
        asyncio.run(weather.ask(("measure", {"city": "Rome"})))
    [recorded] = load(path)
    chunks = tuple(Chunk.after(2, chunk.data) for chunk in recorded.response.chunks)
    object.__setattr__(recorded, "response", type(recorded.response)(chunks, reason="OK", end="closed"))
    save(path, [recorded])
    last = max(n for n, chunk in enumerate(chunks, 1) if chunk.data.startswith(b"<"))
    assert run_in_virtual_time(timed()) == pytest.approx(2 * last, abs=0.5)


async def test_secret_of_a_server_is_not_recorded(
    weather: Weather, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A known value in an answer is replaced in the file, and the replay gives the replacement."""
    secret = "V3ry-s3cret-p4ss-0123456789"
    weather.environment["PRIVATE"] = secret
    with use_cassette(path, record_mode="once", redact=Redaction([secret])):
        assert (await weather.ask(("read_environment", {"name": "PRIVATE"})))[1] == secret
    assert all(secret.encode() not in each.response.body for each in load(path))
    with use_cassette(path, redact=Redaction([])):
        assert (await weather.ask(("read_environment", {"name": "PRIVATE"})))[1] == "[redacted]"


async def test_two_servers_are_played_in_their_order(weather: Weather, path: Path) -> None:
    """Of two conversations with one command, the first is played first."""

    async def ask_twice() -> list[Any]:
        return [(await weather.ask(("measure", {"city": city})))[1] for city in ("Rome", "Paris")]

    with use_cassette(path, record_mode="once"):
        live = await ask_twice()
    with use_cassette(path):
        assert await ask_twice() == live
    assert weather.starts == 2


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Yield the address of the server over HTTP, which counts requests in a file."""
    program, requests = tmp_path / "http_server.py", tmp_path / "requests"
    program.write_text(SERVER + OVER_HTTP)
    requests.touch()
    with subprocess.Popen([sys.executable, str(program), str(requests)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/mcp"
        finally:
            process.kill()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_server_over_http_is_the_same_live_recorded_and_played(
    mode: str, url: str, tmp_path: Path, path: Path
) -> None:
    """A server over HTTP gets no request in a replay; the GET by which a client listens waits there as it did."""

    async def ask() -> str:
        async with mcp.Client(url, mode=mode) as client:
            answer = (await client.call_tool("measure", {"city": "Rome"})).content[0].text
            await asyncio.sleep(0.05)  # a client whose listening has failed would listen again by now
            return str(answer)

    outcomes, counts = [await ask()], []
    for record_mode in ("once", "none"):
        with use_cassette(path, record_mode=record_mode, unplayed="ignore"):  # a client may leave before it listens
            outcomes.append(await ask())
        counts.append(len((tmp_path / "requests").read_text()))
    assert outcomes == ["Rome: 21.5"] * 3
    assert counts[0] == counts[1] > 0
    listening = [each for each in load(path) if each.method == "GET"]
    assert {each.response.end for each in listening} <= {"cancelled", "eof"}  # the server may end it before the client


def test_page_has_the_row_of_servers_over_stdio() -> None:
    """docs/how-to/cassettes.md says what is recorded of servers over stdio, exactly as these tests show."""
    cell.assert_in_page()
