"""Cost of recording: a stream over a socket and from a mock, a request of 8 MB, and a test with a cassette.

Each work is measured beside the same work without a recorder, or with vcrpy. The server of the streams is a process of
its own, so that its CPU time does not count. A recording includes the search for secrets and the file.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
import vcr
from openai import AsyncOpenAI

from benchmarks.cassettes import URL, copies
from benchmarks.measure import Plan, Table, main
from benchmarks.provider import TURN, http_client, openai_chunks, raw_openai
from benchmarks.served import provider
from miniagents_testing import use_cassette
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from benchmarks.measure import Side

    Recorder = Callable[[], AbstractContextManager[Any]]
    """Function that opens a recorder for one round, with a new file."""

EVENTS = 500
TOKENS_OF_A_TEST = 20
REQUEST: dict[str, Any] = {"messages": [TURN], "model": "gpt-4o", "stream": True}


def recorders(folder: Path) -> dict[str, Recorder]:
    """Return our recorder, that of vcrpy, and one that records nothing; each recording gets a file of its own."""
    numbers = count()
    mocks = [httpx2.MockTransport]
    return {
        "ours": lambda: use_cassette(folder / f"{next(numbers)}.yaml", record_mode="once", also_patch=mocks),
        "vcrpy": lambda: vcr.use_cassette(str(folder / f"{next(numbers)}.yaml"), record_mode="once"),
        "not recording": nullcontext,
    }


def recorded(opened: Recorder, asked: Side) -> Side:
    """Return a side that makes a request while a recorder is open."""

    async def side() -> None:
        with opened():
            await asked()

    return side


def through_sdk(url: str, words: int) -> Side:
    """Return a side that reads an answer with the SDK and a client of its own."""

    async def side() -> None:
        async with AsyncOpenAI(api_key="none", base_url=url) as client:
            await raw_openai(client, words)()

    return side


def is_word(line: bytes | str) -> bool:
    """Parse a line of a stream; return True if it has a word."""
    text = line.decode() if isinstance(line, bytes) else line
    if not text.startswith("data: {"):
        return False
    return bool(json.loads(text[6:])["choices"][0]["delta"].get("content"))


def through_httpx(url: str, words: int) -> Side:
    """Return a side that reads the lines of an answer with httpx, and parses them."""

    async def side() -> None:
        async with httpx.AsyncClient() as client:
            async with client.stream("POST", f"{url}/chat/completions", json=REQUEST) as response:
                assert sum([is_word(line) async for line in response.aiter_lines()]) == words

    return side


def through_requests(url: str, words: int) -> Side:
    """Return a side that reads the lines of an answer with requests, and parses them."""
    import requests

    async def side() -> None:
        with requests.Session() as session:
            with session.post(f"{url}/chat/completions", json=REQUEST, stream=True) as response:
                assert sum(map(is_word, response.iter_lines())) == words

    return side


async def streams(table: Table, plan: Plan, by: dict[str, Recorder]) -> None:
    """Measure recording a stream of 500 chunks with each client."""
    words = plan.sized(EVENTS)

    async def compare(client: str, asked: Side, base: str, goal: float | None = None) -> None:
        await table.compare(
            f"recording {EVENTS} chunks: {client}",
            recorded(by[base], asked),
            recorded(by["ours"], asked),
            plan,
            units=words,
            unit="us a chunk",
            base_name=base,
            repeat=3,
            goal=goal,
        )

    with provider(words) as server:
        url = f"{server}/v1"
        sdk = through_sdk(url, words)
        await compare("SDK on httpx2, over a socket", sdk, "not recording", 1.1)
        await compare("SDK on httpx2, over a socket", sdk, "vcrpy")
        await compare("lines of httpx, over a socket", through_httpx(url, words), "not recording")
        await compare("lines of httpx, over a socket", through_httpx(url, words), "vcrpy")
        if find_spec("requests") is not None:  # with the clients of `tox -e clients`
            lines = through_requests(url, words)
            await compare("lines of requests, over a socket", lines, "not recording")
            await compare("lines of requests, over a socket", lines, "vcrpy", 2)
    async with AsyncOpenAI(api_key="none", http_client=http_client(openai_chunks(words))) as mocked:
        await compare("SDK on httpx2, from a mock", raw_openai(mocked, words), "not recording", 1.1)


class _Echo(BaseHTTPRequestHandler):
    """Handler that reads a request, and answers with an empty object."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Read the body, and answer."""
        left = int(self.headers["content-length"])
        while left:
            left -= len(self.rfile.read1(left))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the library
        """Print nothing."""


@contextmanager
def echo() -> Iterator[str]:
    """Serve requests of any size in a thread, which costs every side the same, and yield the URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/chat/completions"
    finally:
        server.shutdown()
        server.server_close()


async def large(table: Table, plan: Plan, by: dict[str, Recorder], folder: Path) -> None:
    """Measure a request of 8 MB, recorded and played."""
    prose = "Some words of a long prompt, one after the other. " * plan.sized(160_000)
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": prose}]}).encode()
    files = folder / "ours.yaml", folder / "vcrpy.yaml"

    with echo() as url:

        async def asked() -> None:
            with httpx2.Client() as client:
                answer = client.post(url, content=body, headers={"content-type": "application/json"})
            assert answer.json() == {}

        row: dict[str, Any] = {"units": 1, "unit": "us a request", "base_name": "vcrpy", "goal": 2.5}
        await table.compare(
            "recording a request of 8 MB", recorded(by["vcrpy"], asked), recorded(by["ours"], asked), plan, **row
        )
        with use_cassette(files[0], record_mode="once"):
            await asked()
        with vcr.use_cassette(str(files[1]), record_mode="once"):
            await asked()
        matching: dict[str, Any] = {"match_on": ("method", "uri", "body"), "allow_playback_repeats": True}
        ours = recorded(lambda: use_cassette(files[0]), asked)
        theirs = recorded(lambda: vcr.use_cassette(str(files[1]), record_mode="none", **matching), asked)
        await table.compare("playing a request of 8 MB", theirs, ours, plan, **row)


async def tests(table: Table, plan: Plan, folder: Path) -> None:
    """Measure a test that plays a cassette with the SDK's default client, beside the same test over a mock."""
    chunks, repeat = openai_chunks(TOKENS_OF_A_TEST), 5
    headers = {"content-type": ["text/event-stream"]}
    stream = ResponseStream(tuple(Chunk(0, chunk) for chunk in chunks), headers=headers)
    recorded = Interaction("POST", URL, json.dumps(REQUEST).encode(), stream)
    paths = copies(folder / "test.yaml", recorded, plan.rounds * repeat + 1)

    async def ask(client: AsyncOpenAI) -> None:
        async with client:
            await raw_openai(client, TOKENS_OF_A_TEST)()

    async def mocked() -> None:
        await asyncio.to_thread(asyncio.run, ask(AsyncOpenAI(api_key="none", http_client=http_client(chunks))))

    async def played() -> None:
        with use_cassette(next(paths)):
            await asyncio.to_thread(asyncio.run, ask(AsyncOpenAI(api_key="none")))

    await table.compare(
        "a test of one answer, the SDK's default client",
        mocked,
        played,
        plan,
        units=1,
        unit="us a test",
        base_name="over a mock transport",
        repeat=repeat,
        goal=1.5,
    )


async def benchmark(plan: Plan) -> Table:
    """Measure recording streams and large requests, and a test with a cassette."""
    table = Table("Recording")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        by = recorders(folder)
        await streams(table, plan, by)
        await large(table, plan, by, folder)
        await tests(table, plan, folder)
    return table


if __name__ == "__main__":
    main(benchmark)
