"""Default SDK clients of agents: when they are made, shared and closed."""

from __future__ import annotations

import asyncio
import gc
import re
import subprocess
import sys
import weakref
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from miniagents import errors
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from tests.ext.llm.conftest import Kit, Wire


@pytest.fixture
def made_clients(monkeypatch: pytest.MonkeyPatch, kit: Kit) -> list[Any]:
    """Return the list of the default clients that the agents make, on scripted transports."""
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
def test_agents_share_one_client_which_is_closed_with_the_loop(
    create: Any, prefix: str, made_clients: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call makes one client for each event loop and environment.

    The end of the event loop closes the client.
    """
    agents = [create("m") for _ in range(50)]
    assert made_clients == []

    async def main() -> None:
        made_clients.clear()
        monkeypatch.setenv(f"{prefix}_API_KEY", "sk-first-0123456789")
        async with MiniAgents():
            await asyncio.gather(*(agent.trigger("Hello") for agent in agents))
            assert len(made_clients) == 1
            monkeypatch.setenv(f"{prefix}_API_KEY", "sk-second-0123456789")
            await agents[0].trigger("Hello")
        assert [client.api_key for client in made_clients] == ["sk-first-0123456789", "sk-second-0123456789"]
        assert not any(client.is_closed() for client in made_clients)

    for _ in range(2):
        asyncio.run(main())
        assert all(client.is_closed() for client in made_clients)


@pytest.mark.parametrize(("create", "prefix"), AGENTS)
async def test_reply_raises_missing_api_key_error_when_there_is_no_key(create: Any, prefix: str) -> None:
    """An agent can be made without a key; its reply raises an error with the name of the variable."""
    agent = create("m")
    async with MiniAgents():
        with pytest.raises(errors.MissingAPIKeyError, match=f"{prefix}_API_KEY") as caught:
            await agent.trigger("Hello")
        assert caught.value.provider == prefix.lower()


@pytest.mark.parametrize(("create", "prefix"), AGENTS)
async def test_reply_raises_missing_extra_error_when_the_sdk_is_not_installed(
    create: Any, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent can be made without the SDK; its reply raises an error with the pip command."""
    package = prefix.lower()
    monkeypatch.setitem(sys.modules, package, None)
    agent = create("m")
    async with MiniAgents():
        with pytest.raises(errors.MissingExtraError, match=re.escape(errors.install_line(package))):
            await agent.trigger("Hello")


def test_creating_agents_imports_no_sdk_and_opens_no_socket() -> None:
    """In a fresh interpreter, creating and forking agents loads no SDK and uses no socket."""
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
    subprocess.run([sys.executable, "-c", program], check=True)


async def test_default_client_uses_the_base_url_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default client sends to OPENAI_BASE_URL, without `stream_options`, which an unknown server might refuse."""
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


@pytest.fixture(params=["openai", "anthropic"])
def agent_of(request: pytest.FixtureRequest, kit: Kit) -> tuple[Wire, Any, Any]:
    """Return a scripted transport, a client of the provider on it, and an agent with this client."""
    if request.param == "openai":
        wire = kit.Wire(kit.Reply(kit.chat("Hi")))
        openai = wire.openai(api_key="sk-first-0123456789")
        return wire, openai, create_openai_agent("m", async_client=openai)
    wire = kit.Wire(kit.Reply(kit.message("Hi")))
    anthropic = wire.anthropic(api_key="sk-first-0123456789")
    return wire, anthropic, create_anthropic_agent("m", async_client=anthropic)


async def test_a_client_asks_for_the_platform_once_for_all_calls(
    agent_of: tuple[Wire, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls of an agent and its fork ask a thread for the platform once, because they share a copy of the client."""
    import anthropic._base_client
    import openai._base_client

    asked: list[str] = []

    def get_platform() -> str:
        asked.append("platform")
        return "Linux"

    for sdk in (openai._base_client, anthropic._base_client):
        monkeypatch.setattr(sdk, "get_platform", get_platform)
    wire, _, agent = agent_of
    async with MiniAgents():
        for each in (agent, agent, agent.fork(temperature=0.1)):
            await each.trigger("Hello")
    assert (len(wire.requests), asked) == (3, ["platform"])


async def test_a_call_uses_the_settings_that_its_client_has_then(agent_of: tuple[Wire, Any, Any]) -> None:
    """If the application changes the key or URL of its client between two calls, the next request uses the new one."""
    wire, client, agent = agent_of
    async with MiniAgents():
        await agent.trigger("Hello")
        client.api_key = "sk-other-0123456789"
        await agent.trigger("Hello")
        client.base_url = "https://other.example/v1"
        await agent.trigger("Hello")
    keys = [sent.headers.get("x-api-key") or sent.headers["authorization"][7:] for sent in wire.requests]
    assert keys == ["sk-first-0123456789", "sk-other-0123456789", "sk-other-0123456789"]
    assert [sent.url.host == "other.example" for sent in wire.requests] == [False, False, True]


@pytest.mark.parametrize("method", ["create", "post", "request", "_build_request"])
async def test_replaced_method_of_a_client_object_is_called(agent_of: tuple[Wire, Any, Any], method: str) -> None:
    """A mock or tracer that replaces a method of a client, or of its resource, gets each request until it is removed.

    It gets the prompt as the SDK has it.
    """
    wire, client, agent = agent_of
    owner = client
    if method == "create":
        owner = client.messages if hasattr(client, "messages") else client.chat.completions
    async with MiniAgents():
        await agent.trigger("before")
        with mock.patch.object(owner, method, wraps=getattr(owner, method)) as replaced:
            await agent.trigger("meanwhile")
            await agent.trigger("again")
        await agent.trigger("after")
    assert [sent["messages"][0]["content"] for sent in wire.bodies] == ["before", "meanwhile", "again", "after"]
    assert ["meanwhile" in repr(call) or "again" in repr(call) for call in replaced.call_args_list] == [True] * 2


async def test_mock_in_the_place_of_a_client_method_lets_no_request_out(agent_of: tuple[Wire, Any, Any]) -> None:
    """If a test replaces `request` of a client object by a mock that fails, the reply fails, and no request is sent."""
    wire, client, agent = agent_of
    with mock.patch.object(client, "request", side_effect=RuntimeError("no requests in this test")):
        async with MiniAgents():
            with pytest.raises(RuntimeError, match="no requests in this test"):
                await agent.trigger("Hello")
    assert wire.requests == []


async def test_a_client_lives_no_longer_than_its_owners(kit: Kit) -> None:
    """When the application and the agents have dropped a client, it is freed, even if requests went through it."""
    wires = kit.Wire(kit.Reply(kit.chat("Hi"))), kit.Wire(kit.Reply(kit.message("Hi")))
    for create, make in ((create_openai_agent, wires[0].openai), (create_anthropic_agent, wires[1].anthropic)):
        client: Any = make()
        gone = weakref.ref(client)
        async with MiniAgents():
            await create("m", async_client=client).trigger("Hello")
        del client
        gc.collect()
        assert gone() is None
