"""Sent, recorded and played chunks are equal, with each client."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import anthropic
import httpx
import httpx2
import openai
import pytest

from miniagents_testing import ProviderServer, Step
from miniagents_testing.cassette import load, use_cassette

if TYPE_CHECKING:
    from tests.testing.cassette.conftest import Kit

each_stream = pytest.mark.parametrize(
    ("api", "kind", "how"),
    [
        pytest.param(*case, id="-".join(case))
        for case in product(("chat", "responses", "messages"), ("text", "tools", "error"), ("event", "odd", "whole"))
    ],
)


def _recorded(kit: Kit) -> list[bytes]:
    """Return the chunks of the recorded response."""
    (interaction,) = load(kit.path)
    return [chunk.data for chunk in interaction.response.chunks]


@each_stream
async def test_async_sdks_see_the_same_chunks_live_and_played(kit: Kit, api: str, kind: str, how: str) -> None:
    """An async SDK gets the same items, from the same chunks, while a cassette records and when it plays."""
    sent = kit.cut(kit.STREAMS[api, kind], how)
    live, played = kit.tap(kit.network(kit.Reply(sent))), kit.tap(kit.network())
    with kit.cassette("once"):
        seen_live = await kit.aask(api, httpx2.AsyncClient(transport=live))
    with kit.cassette():
        seen_played = await kit.aask(api, httpx2.AsyncClient(transport=played))
    assert played.bodies == live.bodies == [_recorded(kit)]
    assert seen_played == seen_live
    assert live.bodies[0] == sent[: len(live.bodies[0])]  # an SDK may stop at the last event
    assert len(seen_live) > 1


@each_stream
def test_sync_sdks_see_the_same_chunks_live_and_played(kit: Kit, api: str, kind: str, how: str) -> None:
    """A sync SDK gets the same items, from the same chunks, while a cassette records and when it plays."""
    sent = kit.cut(kit.STREAMS[api, kind], how)
    live, played = kit.tap(kit.network(kit.Reply(sent))), kit.tap(kit.network())
    with kit.cassette("once"):
        seen_live = kit.ask(api, httpx2.Client(transport=live))
    with kit.cassette():
        seen_played = kit.ask(api, httpx2.Client(transport=played))
    assert played.bodies == live.bodies == [_recorded(kit)]
    assert seen_played == seen_live
    assert live.bodies[0] == sent[: len(live.bodies[0])]
    assert len(seen_live) > 1


@pytest.mark.parametrize("how", ["event", "odd", "whole"])
@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_openais_sdk_sees_the_same_chunks_on_httpx(kit: Kit, api: str, how: str) -> None:
    """OpenAI's SDK on httpx clients, sync and async, gets the same chunks while recording and playing."""
    sent = kit.cut(kit.STREAMS[api, "text"], how)
    live = kit.tap(kit.network(kit.Reply(sent), kit.Reply(sent), library="httpx"), "httpx")
    played = kit.tap(kit.network(library="httpx"), "httpx")
    with kit.cassette("once"):
        seen_live = [
            await kit.aask(api, httpx.AsyncClient(transport=live)),
            kit.ask(api, httpx.Client(transport=live)),
        ]
    with kit.cassette():
        seen_played = [
            await kit.aask(api, httpx.AsyncClient(transport=played)),
            kit.ask(api, httpx.Client(transport=played)),
        ]
    assert played.bodies == live.bodies
    assert seen_played == seen_live


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
@pytest.mark.parametrize("how", ["event", "odd", "whole"])
async def test_a_client_without_sdk_sees_the_same_chunks(kit: Kit, library: Any, how: str) -> None:
    """A plain httpx or httpx2 client gets the same chunks while recording and playing Anthropic's format."""
    sent = kit.cut(kit.STREAMS["messages", "text"], how)
    url, body = "https://api.anthropic.com/v1/messages", {"model": "m", "stream": True}
    network = kit.network(kit.Reply(sent), kit.Reply(sent), library=library.__name__)

    async def read() -> list[list[bytes]]:
        async with library.AsyncClient(transport=network) as client:
            async with client.stream("POST", url, json=body) as response:
                seen = [[chunk async for chunk in response.aiter_raw()]]
        with library.Client(transport=network) as sync_client:
            with sync_client.stream("POST", url, json=body) as response:
                return [*seen, list(response.iter_raw())]

    with kit.cassette("once"):
        live = await read()
    with kit.cassette():
        played = await read()
    assert played == live == [sent, sent]
    assert len(network.requests) == 2


@pytest.mark.parametrize(("sdk", "api"), [(openai, "chat"), (anthropic, "messages")], ids=["openai", "anthropic"])
async def test_the_sdks_clients_on_aiohttp_see_the_same_items(kit: Kit, sdk: Any, api: str) -> None:
    """The SDKs' own aiohttp clients are recorded and played without `also_patch`, with the same items."""
    async with ProviderServer([Step(["one ", "two ", "three"], gap=0.01)]) as server:
        urls = {"chat": server.openai_base_url, "messages": server.anthropic_base_url}
        canonical = {"chat": "https://api.openai.com/v1", "messages": "https://api.anthropic.com"}
        with use_cassette(kit.path, record_mode="once", record_as={urls[api]: canonical[api]}) as session:
            async with kit.aiohttp_client(sdk) as http_client:
                live = await kit.aask(api, http_client, base_url=urls[api])
    assert len(session.recorded) == 1
    with use_cassette(kit.path) as session:
        async with kit.aiohttp_client(sdk) as http_client:
            assert await kit.aask(api, http_client) == live
    assert not session.unplayed
