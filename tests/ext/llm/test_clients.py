"""Clients that agents make for themselves: when, how many, and what becomes of them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from miniagents import errors
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from tests.ext.llm.conftest import Kit, Wire


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, kit: Kit) -> list[Any]:
    """The default clients of both SDKs, on a scripted wire; they are noted when they are made."""
    import anthropic
    import openai

    clients: list[Any] = []

    def make(name: str, wire: Wire, kind: Any) -> Any:
        def default_client() -> Any:
            client = kind(http_client=wire._http())
            clients.append(client)
            return client

        return default_client

    openai_wire = kit.Wire(kit.Reply(kit.chat("Hi")))
    monkeypatch.setattr(openai, "AsyncOpenAI", make("openai", openai_wire, openai.AsyncOpenAI))
    anthropic_wire = kit.Wire(kit.Reply(kit.message("Hi")))
    monkeypatch.setattr(anthropic, "AsyncAnthropic", make("anthropic", anthropic_wire, anthropic.AsyncAnthropic))
    return clients


AGENTS = [
    pytest.param(create_openai_agent, "OPENAI", id="openai"),
    pytest.param(create_anthropic_agent, "ANTHROPIC", id="anthropic"),
]


@pytest.mark.parametrize(("create", "prefix"), AGENTS)
def test_many_agents_share_one_client_which_is_closed_with_the_loop(
    create: Any, prefix: str, made: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each loop and configuration, made at the first call; nothing is left open behind the loop."""
    agents = [create("m") for _ in range(50)]
    assert made == []

    async def main() -> None:
        made.clear()
        monkeypatch.setenv(f"{prefix}_API_KEY", "sk-first-0123456789")
        async with MiniAgents():
            await asyncio.gather(*(agent.trigger("Hello") for agent in agents))
            assert len(made) == 1
            monkeypatch.setenv(f"{prefix}_API_KEY", "sk-second-0123456789")
            await agents[0].trigger("Hello")
        assert [client.api_key for client in made] == ["sk-first-0123456789", "sk-second-0123456789"]
        assert not any(client.is_closed() for client in made)

    for _ in range(2):
        asyncio.run(main())
        assert all(client.is_closed() for client in made)


@pytest.mark.parametrize(("create", "prefix"), AGENTS)
async def test_a_missing_key_is_named_and_comes_through_the_reply(create: Any, prefix: str) -> None:
    """Making the agent needs none; the error names the variable."""
    agent = create("m")
    async with MiniAgents():
        with pytest.raises(errors.MissingAPIKeyError, match=f"{prefix}_API_KEY") as caught:
            await agent.trigger("Hello")
        assert caught.value.provider == prefix.lower()


@pytest.mark.parametrize(("create", "prefix"), AGENTS)
async def test_a_missing_sdk_is_named_with_the_line_that_installs_it(
    create: Any, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import fails at the first call, not when the agent is made."""
    package = prefix.lower()
    monkeypatch.setitem(sys.modules, package, None)
    agent = create("m")
    async with MiniAgents():
        with pytest.raises(errors.MissingExtraError, match=rf"pip install 'miniagents\[{package}\]'"):
            await agent.trigger("Hello")


def test_making_agents_imports_no_sdk_and_opens_nothing() -> None:
    """In a fresh interpreter, with sockets forbidden."""
    program = """
import sys
def refuse(event, args):
    if event.startswith("socket."):
        raise RuntimeError(event)
sys.addaudithook(refuse)
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.ext.llm.anthropic import create_anthropic_agent
create_openai_agent("m").fork(temperature=1)
create_anthropic_agent("m")
loaded = {"openai", "anthropic", "httpx2", "httpx"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


async def test_the_base_url_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the SDK's own client, which nobody configured otherwise."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(
            next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")).split()[1]
        )
        requests.append(head + await reader.readexactly(length))
        chunk = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + chunk)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-local-0123456789")
        async with MiniAgents():
            (message,) = await create_openai_agent("m").trigger("Hello")
    assert message.content == "Hi"
    assert requests[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert b"stream_options" not in requests[0]
