"""aiohttp with cassettes of vcrpy, alone and under a stream layer, which keeps the verdicts and streams each chunk.

"The layer" is that of `layer_for_vcr_test`, which the plugin lays if the ini file says so; `stream_layer` is the other.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import vcr
from wire_server import EVENTS, WireServer, by_path

from miniagents_testing import stream_layer
from miniagents_testing.cassette import load
from miniagents_testing.cassette._contexts import layer_for_vcr_test

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    Send = Callable[[aiohttp.ClientSession, str], Any]

pytestmark = pytest.mark.filterwarnings("ignore:Caught exception while closing:DeprecationWarning")


@pytest.fixture
def server() -> Iterator[WireServer]:
    """Run a server until the test ends."""
    with WireServer(by_path) as started:
        yield started


async def letters() -> AsyncIterator[bytes]:
    """Yield the parts of a body."""
    yield b"a"
    yield b"b"


REQUESTS: dict[str, Send] = {
    "get": lambda client, url: client.get(f"{url}/stream"),
    "query": lambda client, url: client.get(f"{url}/stream", params={"a": "1"}),
    "headers": lambda client, url: client.get(f"{url}/stream", headers={"X-A": "1", "Authorization": "Bearer abc"}),
    "cookies": lambda client, url: client.get(f"{url}/stream", cookies={"a": "1"}),
    "head": lambda client, url: client.head(f"{url}/stream"),
    "json": lambda client, url: client.post(f"{url}/echo", json={"a": ["ä"]}),
    "form": lambda client, url: client.post(f"{url}/echo", data={"a": "1 2"}),
    "bytes": lambda client, url: client.post(f"{url}/echo", data=b"body"),
    "generator": lambda client, url: client.post(f"{url}/echo", data=letters()),
    "redirect": lambda client, url: client.get(f"{url}/redirect"),
    "redirected upload": lambda client, url: client.post(f"{url}/keep", data=b"body"),
    "compressed": lambda client, url: client.get(f"{url}/gzip"),
    "error": lambda client, url: client.get(f"{url}/404", raise_for_status=True),
}
OTHERS: dict[str, Send] = {
    "query": lambda client, url: client.get(f"{url}/stream", params={"a": "2"}),
    "headers": lambda client, url: client.get(f"{url}/stream", headers={"X-A": "2"}),
    "json": lambda client, url: client.post(f"{url}/echo", json={"a": ["b"]}),
    "form": lambda client, url: client.post(f"{url}/echo", data={"a": "2"}),
    "bytes": lambda client, url: client.post(f"{url}/echo", data=b"other"),
}
"""The same requests with other contents."""
DEFAULT = ["method", "scheme", "host", "port", "path", "query"]
MATCHERS = [DEFAULT, ["method", "uri", "body"], ["method", "uri", "raw_body"], ["uri", "headers"]]


async def ask(send: Send, url: str) -> Any:
    """Send a request; return what comes back, or the name of the error."""
    async with aiohttp.ClientSession() as client, send(client, url) as response:
        return response.status, await response.read(), len(response.history)


def run(path: Path, mode: str, send: Send, url: str, *, layer: bool, match_on: list[str] = DEFAULT) -> Any:
    """Send a request under a cassette of vcrpy, with a stream layer or not; return the answer, or the error's name."""
    try:
        with vcr.use_cassette(str(path), record_mode=mode, match_on=match_on) as cassette:
            with layer_for_vcr_test(cassette) or nullcontext() if layer else nullcontext():
                return asyncio.run(ask(send, url))
    except Exception as error:
        return type(error).__name__


@pytest.mark.parametrize("match_on", MATCHERS, ids="-".join)
@pytest.mark.parametrize("name", REQUESTS)
def test_recording_of_vcrpy_keeps_its_verdict_under_the_layer(
    server: WireServer, tmp_path: Path, name: str, match_on: list[str]
) -> None:
    """With each of its matchers, vcrpy plays or refuses the same requests of aiohttp with a stream layer as without."""
    if "redirect" in name and "headers" in match_on:
        pytest.skip("vcrpy does not play what it has recorded here: it looks for headers of the request before")
    run(tmp_path / "c.yaml", "once", REQUESTS[name], server.url, layer=False)
    sent = len(server.requests)
    for send in [REQUESTS[name], *([OTHERS[name]] if name in OTHERS else [])]:
        plain, layered = (
            run(tmp_path / "c.yaml", "none", send, server.url, layer=layer, match_on=match_on)
            for layer in (False, True)
        )
        assert layered == plain
    assert len(server.requests) == sent


@pytest.mark.parametrize("match_on", MATCHERS, ids="-".join)
@pytest.mark.parametrize("name", REQUESTS)
def test_recording_under_the_layer_is_played_there_and_by_vcrpy(
    server: WireServer, tmp_path: Path, name: str, match_on: list[str]
) -> None:
    """A recording under a stream layer plays under it with each matcher, and in plain vcrpy with its usual ones."""
    recorded = run(tmp_path / "c.yaml", "once", REQUESTS[name], server.url, layer=True, match_on=match_on)
    sent = len(server.requests)
    assert run(tmp_path / "c.yaml", "none", REQUESTS[name], server.url, layer=True, match_on=match_on) == recorded
    if name != "compressed":  # vcrpy does not decompress for aiohttp
        assert run(tmp_path / "c.yaml", "none", REQUESTS[name], server.url, layer=False) == recorded
    assert len(server.requests) == sent


def chunks_of(url: str) -> list[bytes]:
    """Read the chunks of a stream."""

    async def read() -> list[bytes]:
        async with aiohttp.ClientSession() as client, client.get(f"{url}/stream") as response:
            return [chunk async for chunk, _ in response.content.iter_chunks() if chunk]  # also if two arrive at once

    return asyncio.run(read())


def test_aiohttp_gets_each_chunk_under_a_stream_layer_only(server: WireServer, tmp_path: Path) -> None:
    """Vcrpy alone gives the whole body at once; under either stream layer, it records and plays each chunk."""
    layers: dict[str, Any] = {"plain": lambda _: nullcontext(), "ini": layer_for_vcr_test, "layer": stream_layer}
    for name, layer in layers.items():
        for mode in ("once", "none"):
            with vcr.use_cassette(str(tmp_path / f"{name}.yaml"), record_mode=mode) as cassette, layer(cassette):
                assert chunks_of(server.url) == ([b"".join(EVENTS)] if name == "plain" else EVENTS)
    assert len(server.requests) == 3


def test_hooks_see_requests_of_aiohttp_as_vcrpy_gives_them(server: WireServer, tmp_path: Path) -> None:
    """Under a stream layer, a hook of vcrpy gets the object that is sent as JSON, and may ignore a request."""
    seen: list[Any] = []

    def hook(request: Any) -> Any:
        seen.append(request.body)
        return None if request.path == "/404" else request

    my_vcr = vcr.VCR(before_record_request=hook)
    with my_vcr.use_cassette(str(tmp_path / "c.yaml")) as cassette, layer_for_vcr_test(cassette) or nullcontext():
        asyncio.run(ask(REQUESTS["json"], server.url))
        asyncio.run(ask(lambda client, url: client.get(f"{url}/404"), server.url))
    assert {"a": ["ä"]} in seen
    [recorded] = load(tmp_path / "c.yaml")
    assert json.loads(recorded.request_body) == {"a": ["ä"]}


def test_content_of_a_recording_of_vcrpy_is_matched(server: WireServer, tmp_path: Path) -> None:
    """`stream_layer` compares the JSON that vcrpy has kept as an object with the JSON that aiohttp sends."""
    run(tmp_path / "c.yaml", "once", REQUESTS["json"], server.url, layer=False)
    with vcr.use_cassette(str(tmp_path / "c.yaml"), record_mode="none") as cassette, stream_layer(cassette):
        asyncio.run(ask(REQUESTS["json"], server.url))
    assert len(server.requests) == 1
