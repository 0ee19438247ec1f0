"""Connections and requests: limits after cancellations, redirects, large prompts, names of models."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from miniagents.errors import PromiseCancelledError, RequestRejectedError
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.messages import AssistantMessage
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ext.llm.conftest import Kit


def agent(provider: str, client: Any, **settings: Any) -> Any:
    """Return the provider's agent with a single attempt."""
    create: Any = create_openai_agent if provider == "openai" else create_anthropic_agent
    return create("m", async_client=client, retry=None, **settings)


async def test_C25_request_releases_its_slot_when_cancelled_while_connecting(kit: Kit) -> None:
    """With one concurrent request allowed, a second one is answered after the first was cancelled while connecting."""

    class Connecting(kit.Wire):  # type: ignore[name-defined, misc]  # the class comes from a fixture
        connecting = asyncio.Event()

        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            if not self.connecting.is_set():
                self.connecting.set()
                await asyncio.Event().wait()
            response: httpx2.Response = await super().handle_async_request(request)
            return response

    wire = Connecting(kit.Reply(kit.chat("Hi")))
    limited = agent("openai", wire.openai(), max_concurrent_requests=1)
    async with MiniAgents():
        async for promise in limited.trigger("Hello"):
            await wire.connecting.wait()
            promise.cancel()
            with pytest.raises(PromiseCancelledError):
                await promise
        (message,) = await limited.trigger("Hello")
    assert message.content == "Hi"


async def test_C25_pool_of_one_connection_serves_the_next_request_after_a_cancelled_one(kit: Kit) -> None:
    """A cancelled request's connection is closed, so a pool of one connection serves the next request."""
    import openai

    pool = openai.DefaultAsyncHttpxClient(limits=httpx2.Limits(max_connections=1), timeout=20)
    async with kit.served([kit.chat("Hi")[0], kit.HANG], kit.chat("Hi", "there")) as address:
        async with openai.AsyncOpenAI(api_key=kit.KEY, base_url=address, http_client=pool) as client:
            one_at_a_time = agent("openai", client)
            async with MiniAgents():
                async for promise in one_at_a_time.trigger("Hello"):
                    assert await anext(aiter(promise)) == "Hi"
                    promise.cancel()
                (message,) = await one_at_a_time.trigger("Hello")
    assert message.content == "Hithere"


def redirecting(kit: Kit, *, follow: bool) -> Any:
    """Return a class of transports that redirect the first request to another host."""

    class Redirecting(kit.Wire):  # type: ignore[name-defined, misc]  # the class comes from a fixture
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            await request.aread()
            if self.requests:
                response: httpx2.Response = await super().handle_async_request(request)
                return response
            self.requests.append(request)
            return httpx2.Response(307, headers={"location": "https://elsewhere.example/x"}, request=request)

        def _http(self) -> httpx2.AsyncClient:
            return httpx2.AsyncClient(transport=self, trust_env=False, follow_redirects=follow)

    return Redirecting


@pytest.mark.parametrize("provider", ["openai", "azure", "anthropic"])
async def test_X14_redirected_request_has_no_key(provider: str, kit: Kit) -> None:
    """If the HTTP client follows a redirect to another host, the request there has no API key."""
    wire = redirecting(kit, follow=True)(kit.Reply(kit.message("Hi") if provider == "anthropic" else kit.chat("Hi")))
    kind = "anthropic" if provider == "anthropic" else "openai"
    async with MiniAgents():
        (message,) = await agent(kind, getattr(wire, provider)()).trigger("Hello")
    assert message.content == "Hi"
    first, second = wire.requests
    assert kit.KEY in str(first.headers.raw)
    assert second.url.host == "elsewhere.example"
    assert kit.KEY not in str(second.headers.raw)


@pytest.mark.parametrize("provider", ["openai", "azure", "anthropic", "foundry"])
async def test_X14_redirect_raises_request_rejected_error_when_the_client_follows_none(provider: str, kit: Kit) -> None:
    """If the HTTP client follows no redirects, nothing is sent to the other host, and the error names it."""
    import anthropic

    wire = redirecting(kit, follow=False)()
    if provider == "foundry":
        client: Any = anthropic.AsyncAnthropicFoundry(api_key=kit.KEY, resource="r", http_client=wire._http())
    else:
        client = getattr(wire, provider)()
    async with MiniAgents():
        with pytest.raises(RequestRejectedError, match=r"307.* redirected to https://elsewhere\.example/x") as caught:
            await agent("openai" if provider in ("openai", "azure") else "anthropic", client).trigger("Hello")
    assert not caught.value.retryable
    assert len(wire.requests) == 1


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_T9_message_of_10_mb_is_sent_once_and_raises_the_refusal_of_the_provider(provider: str, kit: Kit) -> None:
    """A prompt of 10 MB is sent once; the provider's refusal is a RequestRejectedError without the prompt."""
    refusal = {"error": {"message": "too large", "type": "request_too_large"}}
    wire = kit.Wire(kit.Reply.json(refusal, 413))
    async with MiniAgents():
        with pytest.raises(RequestRejectedError, match="too large") as caught:
            await agent(provider, getattr(wire, provider)()).trigger("x" * 10_000_000)
    assert len(str(caught.value)) < 200
    (request,) = wire.requests
    assert 10_000_000 < len(request.content) < 10_001_000


@pytest.mark.parametrize("model", ["anthropic/claude-4", "../../secret", "C:\\CON", "a b\n", "é" * 300], ids=ascii)
async def test_P19_name_of_a_model_makes_no_file(
    model: str, kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model's name with slashes or other special characters is data, and names no file."""
    monkeypatch.chdir(tmp_path)
    wire = kit.Wire(kit.Reply([chunk.replace(b'"m-1"', b'"gateway/m-1"') for chunk in kit.chat("Hi")]))
    history = ChatHistoryMD(tmp_path / "chat.md")
    async with MiniAgents():
        await history.aappend(create_openai_agent(model, async_client=wire.openai()).trigger("Hello"))
        await history.aappend(AssistantMessage("by name", role=f"assistant / {model}", model=model))
    first, second = await ChatHistoryMD(tmp_path / "chat.md").aload_chat_history()
    assert (wire.bodies[0]["model"], first.model) == (model, "gateway/m-1")
    assert (second.role, second.model) == (f"assistant / {model}", model)
    assert names_in(tmp_path) == ["chat.md"]


def names_in(folder: Path) -> list[str]:
    """Return the names of the files in a folder."""
    return [path.name for path in folder.iterdir()]


async def test_agent_reads_a_stream_that_a_hook_of_the_http_client_has_replaced(kit: Kit) -> None:
    """If a response hook puts a stream of its own in place of the response's, that stream sees each chunk.

    The iterator of that stream may be no generator. The agent gets the whole text, and no request stays open.
    """
    seen: list[bytes] = []

    class Watched(httpx2.AsyncByteStream):
        def __init__(self, stream: Any) -> None:
            self.stream = stream
            self.chunks = aiter(stream)

        def __aiter__(self) -> Watched:
            return self

        async def __anext__(self) -> bytes:
            chunk: bytes = await anext(self.chunks)
            seen.append(chunk)
            return chunk

        async def aclose(self) -> None:
            await self.stream.aclose()

    async def watch(response: httpx2.Response) -> None:
        response.stream = Watched(response.stream)

    chunks = kit.chat("Hi")
    wire = kit.Wire(kit.Reply(chunks))
    http_client = httpx2.AsyncClient(transport=wire, event_hooks={"response": [watch]})
    async with MiniAgents():
        (message,) = await agent("openai", wire.openai(http_client=http_client)).trigger("Hello")
    assert (message.content, seen, wire.in_flight) == ("Hi", chunks, 0)
