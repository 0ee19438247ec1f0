"""`ReplayTransport`, which plays a cassette to one client only."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from miniagents_testing import ReplayTransport, run_in_virtual_time
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, save
from miniagents_testing.errors import CassetteMissError, UnplayedError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.testing.cassette.conftest import Kit

URL = "https://api.openai.com/v1/chat/completions"


def _streamed(*chunks: bytes, **response: Any) -> Interaction:
    """Make an interaction with these chunks."""
    return Interaction("POST", URL, b"{}", ResponseStream(tuple(Chunk(1000, data) for data in chunks), **response))


async def test_replay_transport_plays_a_file_to_its_client_only(tmp_path: Path, kit: Kit) -> None:
    """A client with a `ReplayTransport` gets the recorded answer, and other clients use their own networks."""
    save(tmp_path / "c.yaml", [_streamed(b"recorded")])
    async with httpx2.AsyncClient(transport=ReplayTransport(tmp_path / "c.yaml")) as client:
        async with httpx2.AsyncClient(transport=kit.network(kit.Reply([b"live"]))) as other:
            assert (await client.post(URL, json={})).text == "recorded"
            assert (await other.post(URL, json={})).text == "live"


async def test_replay_transport_plays_interactions_without_a_file() -> None:
    """A `ReplayTransport` made of interactions, without a file, plays to a sync and an async client."""
    transport = ReplayTransport([_streamed(b"first"), _streamed(b"second")])
    async with httpx2.AsyncClient(transport=transport) as client:
        assert (await client.post(URL, json={})).text == "first"
    with httpx2.Client(transport=transport) as sync_client:
        assert sync_client.post(URL, json={}).text == "second"
    transport.assert_complete()


def test_replay_transport_plays_at_its_pace() -> None:
    """A `ReplayTransport` waits between chunks for the recorded times, multiplied by its pace."""
    moments: list[float] = []

    async def read() -> None:
        async with httpx2.AsyncClient(transport=ReplayTransport([_streamed(b"1", b"2")], pace=3)) as client:
            async with client.stream("POST", URL, json={}) as response:
                moments.extend([asyncio.get_running_loop().time() async for _ in response.aiter_raw()])

    run_in_virtual_time(read())
    assert moments[1] - moments[0] == pytest.approx(0.03)


async def test_assert_complete_raises_misses_and_unplayed_interactions() -> None:
    """`ReplayTransport.assert_complete` raises a miss again, or an error about unplayed interactions."""
    transport = ReplayTransport([_streamed()])
    with pytest.raises(UnplayedError, match=rf"1 interaction was not played .*\n.* 1: POST {URL}"):
        transport.assert_complete()
    empty = ReplayTransport([])
    empty.assert_complete()
    async with httpx2.AsyncClient(transport=empty) as client:
        with pytest.raises(CassetteMissError, match="the cassette has no answers"):
            await client.get(URL)
    with pytest.raises(CassetteMissError):
        empty.assert_complete()
