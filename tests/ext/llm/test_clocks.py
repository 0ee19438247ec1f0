"""The two time limits of a stream: the client's read timeout, which every byte resets, and `stall_timeout`."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from miniagents.errors import StreamStalledError
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from tests.ext.llm.conftest import Kit

PROVIDERS = ["openai", "anthropic"]
PINGS = {
    "openai": [b": keep-alive\n\n", b"\n", b'data: {"choices": []}\n\n'],
    "anthropic": [b": keep-alive\n\n", b"\n", b'event: ping\ndata: {"type": "ping"}\n\n'],
}


def agent(provider: str, client: Any, **settings: Any) -> Any:
    """Return the provider's agent with a single attempt."""
    create: Any = create_openai_agent if provider == "openai" else create_anthropic_agent
    return create("m", async_client=client, retry=None, **settings)


async def stalled(agent: Any) -> StreamStalledError:
    """Return the error with which the agent's answer ends."""
    async with MiniAgents():
        with pytest.raises(StreamStalledError) as caught:
            await agent.trigger("Hello")
    assert caught.value.partial.content == "Hi"
    assert caught.value.retryable
    return caught.value


def beginning(provider: str, kit: Kit) -> list[bytes]:
    """Return the chunks of an answer up to the text "Hi", without its end."""
    return kit.chat("Hi")[:1] if provider == "openai" else kit.message("Hi")[:4]


@pytest.mark.miniagents_virtual_time
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_S13_S34_silence_ends_with_the_timeout_of_the_client(provider: str, kit: Kit) -> None:
    """A silent stream ends with the HTTP client's read timeout, even if `stall_timeout` is longer."""
    wire = kit.Wire(kit.Reply([*beginning(provider, kit), kit.HANG]))
    client = getattr(wire, provider)()
    error = await stalled(agent(provider, client, timeout=httpx2.Timeout(60, read=0.01), stall_timeout=60))
    assert "sent nothing for too long" in str(error)
    assert isinstance(error.__cause__, httpx2.ReadTimeout)
    assert wire.responses[0].closed


@pytest.mark.miniagents_virtual_time
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_S13_P17_endless_pings_end_with_stall_timeout(provider: str, kit: Kit) -> None:
    """A stream of comments, blank lines and pings only ends with `stall_timeout`, because they are no progress."""
    for ping in PINGS[provider]:

        def script(ping: bytes = ping) -> Any:
            yield from beginning(provider, kit)
            while True:
                yield ping
                yield 1.0

        wire = kit.Wire(kit.Reply(script()))
        client = getattr(wire, provider)()
        error = await stalled(agent(provider, client, timeout=httpx2.Timeout(60, read=60), stall_timeout=20))
        assert "made no progress for 20 seconds" in str(error)
        assert wire.responses[0].served > 20


@pytest.mark.miniagents_virtual_time
async def test_stream_stalls_when_nothing_follows_a_chunk_with_text_and_an_empty_delta(kit: Kit) -> None:
    """A chunk with text in one choice and an empty delta in another is progress, and silence after it is a stall."""
    choices = [{"index": 0, "delta": {"content": "Hi"}}, {"index": 1, "delta": {"content": ""}}]
    wire = kit.Wire(kit.Reply([f"data: {json.dumps({'choices': choices})}\n\n".encode(), kit.HANG]))
    error = await stalled(agent("openai", wire.openai(), timeout=60, stall_timeout=20, n=2))
    assert "made no progress" in str(error)


@pytest.mark.miniagents_virtual_time
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_stream_does_not_stall_when_the_reader_is_slow(provider: str, kit: Kit) -> None:
    """The time that a reader takes between tokens does not count, even if it is longer than `stall_timeout`."""
    chunks = kit.chat("Hi", " there") if provider == "openai" else kit.message("Hi", " there")
    slow = agent(provider, getattr(kit.Wire(kit.Reply(chunks)), provider)(), stall_timeout=20)
    async with MiniAgents(start_everything_soon_by_default=False):
        tokens = []
        async for promise in slow.trigger("Hello"):
            async for token in promise:
                await asyncio.sleep(50)
                tokens.append(token)
    assert tokens == ["Hi", " there"]


@pytest.mark.parametrize("pings", [False, True], ids=["silence", "pings"])
async def test_S13_S34_both_timeouts_end_a_stream_on_a_real_connection(pings: bool, kit: Kit) -> None:
    """On a real connection, silence ends with the client's timeout, and endless pings with `stall_timeout`."""
    import openai

    endless = itertools.cycle([b": keep-alive\n\n", 0.005])
    read, progress = (60, 0.2) if pings else (0.2, 60)
    async with kit.served(itertools.chain(kit.chat("Hi")[:1], endless if pings else [kit.HANG])) as address:
        async with openai.AsyncOpenAI(api_key=kit.KEY, base_url=address) as client:
            timeout = httpx2.Timeout(60, read=read)
            error = await stalled(agent("openai", client, timeout=timeout, stall_timeout=progress))
    assert ("no progress" if pings else "sent nothing") in str(error)
