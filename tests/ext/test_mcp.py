"""Tools of MCP servers: names, schemas, results and errors, over memory, HTTP and stdio, and of a foreign server."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import os
import re
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from prompt_rules import check_prompt
from scripted_loops import agent_of

from miniagents import InteractionContext, MiniAgents, PendingApproval, Tool, ToolMessage, miniagent
from miniagents.errors import install_line
from miniagents.ext.mcp import mcp_tools
from miniagents_testing import ScriptedLLM
from miniagents_testing._script import Step

mcp = pytest.importorskip("mcp")

from mcp import types  # noqa: E402 - it may be missing
from mcp.server import MCPServer, Server  # noqa: E402 - as above

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PNG = base64.b64encode(b"\x89PNG not a whole picture").decode()
APIS = ["chat", "responses", "messages"]

SERVER = '''
import asyncio, base64, os, sys
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import (
    AudioContent, BlobResourceContents, CallToolResult, EmbeddedResource, ImageContent, ResourceLink, TextContent,
    TextResourceContents,
)

server = MCPServer("tests")
PNG = base64.b64encode(b"\\x89PNG not a whole picture").decode()

@server.tool()
async def measure(city: str, days: int = 1) -> dict[str, int]:
    """Measure the temperature of a city."""
    return {city: 21 * days}

@server.tool()
async def look() -> list[TextContent | ImageContent]:
    """Look out of the window."""
    return [TextContent(text="It rains."), ImageContent(data=PNG, mime_type="image/png")]

@server.tool(name="admin.files/list everything that there is, in a name that is much too long")
async def named() -> str:
    return "named"

@server.tool()
async def fail() -> str:
    """Fail."""
    raise ToolError("no such city")

@server.tool()
async def many() -> CallToolResult:
    """Return all kinds of content."""
    return CallToolResult(content=[
        ResourceLink(name="map", uri="file:///map.txt", description="A map."),
        EmbeddedResource(resource=TextResourceContents(uri="file:///a.txt", text="embedded")),
        EmbeddedResource(resource=BlobResourceContents(uri="file:///a.bin", blob="AAAA", mime_type="text/x")),
        AudioContent(data="AAAA", mime_type="audio/wav"),
        ImageContent(data="AAAA", mime_type="image/svg+xml"),
    ])

@server.tool()
async def only_structured() -> CallToolResult:
    """Return structured content only."""
    return CallToolResult(content=[], structured_content={"x": "é"})

@server.tool()
async def empty_error() -> CallToolResult:
    """Return an error without a text."""
    return CallToolResult(content=[], is_error=True)

@server.tool()
async def hang(folder: str) -> str:
    """Hang until the call is cancelled; make a file in a folder at the beginning and at the end."""
    open(f"{folder}/begun", "x").close()
    try:
        await asyncio.sleep(3600)
    finally:
        open(f"{folder}/cancelled", "x").close()

@server.tool()
async def crash() -> str:
    """End the process of the server."""
    os._exit(3)
'''
OVER_HTTP = """
import socket, uvicorn

listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(server.streamable_http_app(), log_level="warning")).run(sockets=[listener])
"""


@asynccontextmanager
async def client_of(kind: str, **options: Any) -> AsyncIterator[Any]:
    """Open a client of the server: in memory, in a process over stdio, or in a process over HTTP."""
    if kind == "memory":
        names: dict[str, Any] = {}
        exec(SERVER, names)
        async with mcp.Client(names["server"], **options) as client:
            yield client
    elif kind == "stdio":
        parameters = mcp.StdioServerParameters(command=sys.executable, args=["-c", f"{SERVER}\nserver.run()"])
        async with mcp.Client(parameters, **options) as client:
            yield client
    else:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVER + OVER_HTTP, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            port = int(await process.stdout.readline())
            async with mcp.Client(f"http://127.0.0.1:{port}/mcp", **options) as client:
                yield client
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def results_of(tools: list[Tool], *calls: str | tuple[str, Any], **settings: Any) -> list[ToolMessage]:
    """Let a model call tools in one answer, and return the results."""
    made = [(each, {}) if isinstance(each, str) else each for each in calls]
    llm = ScriptedLLM([Step(tool_calls=made), "done"])
    async with MiniAgents():
        replies = await llm.agent(tools=tools, **settings).trigger("Hi")
    return [message for message in replies if isinstance(message, ToolMessage)]


@pytest.mark.parametrize("kind", ["memory", "stdio", "http"])
async def test_tools_of_a_server_are_called(kind: str) -> None:
    """Over each transport, results come in the order of the calls: texts, structured values, and marked errors."""
    async with client_of(kind) as client:
        tools = await mcp_tools(client)
        results = await results_of(tools, ("measure", {"city": "Rome", "days": 2}), "fail", "measure", "empty_error")
    assert json.loads(str(results[0])) == {"Rome": 42}
    assert [result.is_error for result in results] == [False, True, True, True]
    assert "no such city" in str(results[1])
    assert "city" in str(results[2])
    assert str(results[3]) == "the tool reports an error"


async def test_schemas_and_descriptions_pass_through() -> None:
    """A tool has the server's schema, with empty `properties` if it has none, and its description, or else its name."""
    async with client_of("memory") as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        tools = await mcp_tools(client)
    assert [tool.schema for tool in tools] == [{"properties": {}, **tool.input_schema} for tool in listed.values()]
    assert tools[0].description == "Measure the temperature of a city."
    assert tools[2].description == [*listed][2]


async def test_names_become_names_that_apis_take() -> None:
    """A name that is too long or has characters that APIs refuse is changed for the model.

    The server is called by its own name.
    """
    async with client_of("memory") as client:
        named = (await mcp_tools(client, prefix="one."))[2]
        assert named.name.startswith("one_admin_files_list_everything")
        assert len(named.name) == 64
        (result,) = await results_of([named], named.name)
        assert str(result) == "named"
        both = [*await mcp_tools(client, prefix="a_"), *await mcp_tools(client, prefix="b_")]
        assert len({tool.name for tool in both}) == len(both)
        results = await results_of(both, ("a_measure", {"city": "x"}), ("b_measure", {"city": "y"}))
        assert [json.loads(str(result)) for result in results] == [{"x": 21}, {"y": 21}]


async def test_names_that_become_equal_stay_apart() -> None:
    """Names that differ only in characters that APIs do not take get different names, and each call its own tool."""
    server = MCPServer("names")

    def add(name: str) -> None:
        """Add a tool that returns its own name."""
        server.add_tool(lambda: name, name=name, description="Say the name.")

    for name in ("a.b", "a/b", "a_b", "ä"):
        add(name)
    async with mcp.Client(server) as client:
        tools = await mcp_tools(client)
        names = [tool.name for tool in tools]
        assert (names[0], names[3], len({*names})) == ("a_b", "_", 4)
        results = await results_of(tools, *names)
        assert [str(result) for result in results] == ["a.b", "a/b", "a_b", "ä"]


@pytest.mark.parametrize("api", APIS)
async def test_image_of_a_result_reaches_the_model(api: str) -> None:
    """An image is sent in the form of each API.

    Chat Completions gets the image in a user message behind the results.
    """
    llm = ScriptedLLM([Step(tool_calls=[("look", {}), ("measure", {"city": "Rome"})]), "Wet."])
    async with client_of("memory") as client, MiniAgents():
        replies = await agent_of(llm, api, tools=await mcp_tools(client)).trigger("Hi")
    assert replies[1].content == (
        "It rains.",
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
    )
    request = json.loads(json.dumps(llm.last_call.request, default=dict))
    prompt = request.get("messages") or request["input"]
    check_prompt(api, prompt)
    if api == "messages":
        image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
        assert prompt[-1]["content"][0]["content"] == [{"type": "text", "text": "It rains."}, image]
    elif api == "responses":
        image = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}
        assert prompt[-2]["output"] == [{"type": "input_text", "text": "It rains."}, image]
    else:
        assert [message["role"] for message in prompt] == ["user", "assistant", "tool", "tool", "user"]
        assert prompt[-1]["content"][1:] == [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
        ]
        assert {part["type"] for part in prompt[2]["content"]} == {"text"}


async def test_other_content_becomes_text() -> None:
    """Links, embedded resources and media that models do not see are told as text; structured content as JSON."""
    async with client_of("memory") as client:
        many, structured = await results_of(await mcp_tools(client), "many", "only_structured")
    assert str(many).splitlines() == [
        "map: file:///map.txt",
        "A map.",
        "embedded",
        "[text/x, 3 bytes, not shown]",
        "[audio/wav, 3 bytes, not shown]",
        "[image/svg+xml, 3 bytes, not shown]",
    ]
    assert str(structured) == '{"x": "é"}'


async def test_all_pages_of_a_list_are_read() -> None:
    """Tools of further pages are found; a server that gives the same page again and again is asked no more."""
    asked: list[str | None] = []

    async def list_tools(ctx: Any, params: Any) -> Any:
        """Return a page with one tool; the second page names itself as the next."""
        cursor = params.cursor if params else None
        asked.append(cursor)
        listed = types.Tool(name=f"t{len(asked)}", description=" ", input_schema={"type": "object"})
        return types.ListToolsResult(tools=[listed], next_cursor="more")

    async with mcp.Client(Server("pages", on_list_tools=list_tools)) as client:
        tools = await mcp_tools(client)
    assert [(tool.name, tool.description) for tool in tools] == [("t1", "t1"), ("t2", "t2")]
    assert asked == [None, "more"]
    assert tools[0].schema == {"type": "object", "properties": {}}


@pytest.mark.parametrize("arguments", ["[1]", '{"city": ', "7", "[" * 100_000])
async def test_arguments_that_are_no_object_are_told(arguments: str) -> None:
    """The model is told of arguments that are no JSON object, without a call to the server."""
    async with client_of("memory") as client:
        (result,) = await results_of([(await mcp_tools(client))[0]], ("measure", arguments))
    assert result.is_error
    assert "the arguments of measure are no JSON" in str(result)


@pytest.mark.parametrize("arguments", ["", "null", " {} "])
async def test_no_arguments_may_be_blank(arguments: str) -> None:
    """A call of a tool without parameters succeeds with blank arguments, `null`, or an empty object."""
    async with client_of("memory") as client:
        (result,) = await results_of(await mcp_tools(client), ("only_structured", arguments))
    assert not result.is_error


@pytest.mark.parametrize("kind", ["memory", "http"])
async def test_timeout_of_the_client_is_told(kind: str, tmp_path: Path) -> None:
    """A call that takes longer than the client's timeout gets an error as its result, and the tool loop goes on."""
    async with client_of(kind, read_timeout_seconds=5.0) as client:
        (result,) = await results_of(await mcp_tools(client), ("hang", {"folder": str(tmp_path)}))
    assert result.is_error
    assert "timed out" in str(result).lower()


async def test_server_that_crashes_is_told() -> None:
    """If the process of the server ends during a call, the model is told, and further calls get errors, too."""
    async with client_of("stdio") as client:
        tools = await mcp_tools(client)
        for name in ("crash", "only_structured"):
            (result,) = await results_of(tools, name)
            assert result.is_error
            assert str(result)


async def test_error_of_the_connection_is_raised_in_raise_mode() -> None:
    """With `tool_errors="raise"`, a lost server ends the tool loop.

    An error that a tool reports is told to the model, and the loop goes on.
    """
    async with client_of("stdio") as client:
        tools = await mcp_tools(client)
        (told,) = await results_of(tools, "fail", tool_errors="raise")
        assert "no such city" in str(told)
        with pytest.raises(mcp.MCPError):
            await results_of(tools, "crash", tool_errors="raise")


async def test_closed_client_is_told() -> None:
    """A call after the client was closed gets an error as its result."""
    async with client_of("memory") as client:
        tools = await mcp_tools(client)
    (result,) = await results_of(tools, "only_structured")
    assert result.is_error


@pytest.mark.parametrize("kind", ["memory", "stdio", "http"])
async def test_cancelled_call_is_cancelled_at_the_server(kind: str, tmp_path: Path) -> None:
    """If the replies are cancelled during a call, the server stops the call, and the client can be used again."""
    async with client_of(kind) as client:
        tools = await mcp_tools(client)
        async with MiniAgents():
            calls = [("hang", {"folder": str(tmp_path)})]
            replies = ScriptedLLM([Step(tool_calls=calls)]).agent(tools=tools).trigger("Hi")
            await file_is_there(tmp_path / "begun")
            replies.cancel()
        await file_is_there(tmp_path / "cancelled")
        (result,) = await results_of(tools, "only_structured")
        assert not result.is_error


async def file_is_there(path: Path) -> None:
    """Wait until a file exists."""
    async with asyncio.timeout(100):
        while not await asyncio.to_thread(path.exists):  # noqa: ASYNC110 - another process may make the file
            await asyncio.sleep(0.01)


async def test_calls_of_a_server_can_need_an_approval() -> None:
    """With `approve=`, the approver is asked about each call, and a refused call is an error.

    Anything but an agent as `approve=` raises `TypeError`.
    """
    asked: list[str] = []
    not_an_agent: Any = True

    @miniagent
    async def approver(ctx: InteractionContext) -> None:
        (question,) = await ctx.message_promises
        assert isinstance(question, PendingApproval)
        asked.append(str(question.call))
        ctx.reply(question.grant() if "Rome" in question.call.arguments else question.refuse("only Rome"))

    async with client_of("memory") as client:
        tools = await mcp_tools(client, approve=approver)
        results = await results_of(tools, ("measure", {"city": "Rome"}), ("measure", {"city": "Oslo"}))
        with pytest.raises(TypeError, match="approve must be an agent"):
            await mcp_tools(client, approve=not_an_agent)
    assert asked == ['measure(city="Rome")', 'measure(city="Oslo")']
    assert [result.is_error for result in results] == [False, True]


@pytest.mark.parametrize("client", ["http://127.0.0.1:1/mcp", None])
async def test_client_must_be_a_client(client: Any) -> None:
    """Anything but an `mcp.Client` is refused, such as the address of a server."""
    with pytest.raises(TypeError, match=r"needs an open mcp\.Client"):
        await mcp_tools(client)


async def test_client_must_be_open() -> None:
    """`mcp_tools` raises a `RuntimeError` for an MCP client that was not opened."""
    with pytest.raises(RuntimeError):
        await mcp_tools(mcp.Client(MCPServer("closed")))


async def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package `mcp`, `mcp_tools` raises an `ImportError` that says how to install it."""
    monkeypatch.setitem(sys.modules, "mcp", None)
    no_client: Any = None  # there is none without the package
    with pytest.raises(ImportError, match=re.escape(install_line("mcp"))):
        await mcp_tools(no_client)


@pytest.mark.skipif(importlib.util.find_spec("mcp_server_time") is None, reason="needs the server mcp-server-time")
@pytest.mark.parametrize("api", APIS)
async def test_foreign_server_is_used_over_stdio(api: str) -> None:
    """The server mcp-server-time tells the time to a model, and an error to one that asks for an unknown zone."""
    calls = [
        ("convert_time", {"source_timezone": "Europe/Berlin", "time": "12:00", "target_timezone": "Asia/Tokyo"}),
        ("get_current_time", {"timezone": "Nowhere/Land"}),
    ]
    llm = ScriptedLLM([Step(tool_calls=calls), "done"])
    parameters = mcp.StdioServerParameters(
        command=sys.executable, args=["-m", "mcp_server_time", "--local-timezone=UTC"], env=dict(os.environ)
    )
    async with mcp.Client(parameters) as client, MiniAgents():
        replies = await agent_of(llm, api, tools=await mcp_tools(client)).trigger("Hi")
    assert "Asia/Tokyo" in str(replies[1])
    assert [getattr(reply, "is_error", False) for reply in replies[1:3]] == [False, True]
    request = json.loads(json.dumps(llm.last_call.request, default=dict))
    check_prompt(api, request.get("messages") or request["input"])
    assert {tool.get("name") or tool["function"]["name"] for tool in request["tools"]} == {
        "get_current_time",
        "convert_time",
    }
