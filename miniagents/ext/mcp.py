"""Tools of MCP servers, for `tools=`: `mcp_tools` lists those of a server to which the user has opened a client.

The client, `mcp.Client`, is the user's: where the server runs, timeouts, and what the server may ask for. Schemas go to
the model as they are, and the server checks the arguments. The package is imported by `mcp_tools` only.
"""

from __future__ import annotations

import hashlib
import json
import re
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from miniagents.errors import MissingExtraError, ToolError
from miniagents.tools import Tool

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from mcp import Client

    from miniagents.messages import ToolCall
    from miniagents.miniagents import MiniAgent

__all__ = ["mcp_tools"]

_LONGEST_NAME = 64
_SHOWN_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
"""Types of images that models see; an answer with another type would be refused by the APIs."""


async def mcp_tools(client: Client, *, approve: MiniAgent[Any] | None = None, prefix: str = "") -> list[Tool]:
    """Return the tools of an MCP server, for `tools=` of an agent.

    A call may run as long as the client is open. A name that models' APIs do not take is changed for the model: other
    characters than letters, digits, hyphens and underscores become underscores. `tool.name` has that name, so a part
    of the tools can be picked.

    Args:
        client: an open `mcp.Client`. Its `read_timeout_seconds` limits each call.
        approve: agent that decides on each call before it runs, see `miniagents.tool`.
        prefix: text before each name, to tell the tools of several servers apart.

    Raises:
        MissingExtraError: the package mcp is not installed.
        TypeError: `client` is no `mcp.Client`, or `approve` no agent.
        RuntimeError: the client is not open.
    """
    try:
        from mcp import Client
    except ImportError as error:
        raise MissingExtraError.of("mcp", "mcp") from error
    if not isinstance(client, Client):
        raise TypeError(f"mcp_tools() needs an open mcp.Client, not {client!r:.100}")
    tools: dict[str, Tool] = {}
    for listed in await _list_tools(client):
        name = _free_name(prefix + listed.name, tools)
        tools[name] = _MCPTool(client, listed, name, approve)
    return list(tools.values())


class _MCPTool(Tool):
    """A tool of an MCP server.

    Args:
        client: the client of the server.
        listed: the server's own description of the tool.
        name: the name for the model.
        approve: agent that decides on each call.
    """

    def __init__(self, client: Client, listed: Any, name: str, approve: MiniAgent[Any] | None) -> None:
        texts = (listed.description, listed.title, listed.name)
        description = next((text for text in texts if text and text.strip()), name)
        schema = deepcopy(listed.input_schema)
        schema.setdefault("properties", {})  # which OpenAI's API requires
        super().__init__(name, description, schema, approve=approve)
        self._client = client
        self._name_at_server = listed.name

    def read_arguments(self, arguments: str) -> dict[str, Any]:
        """Return the arguments as JSON values; raise `ToolError` if they are no JSON object.

        Blank text and `null` stand for no arguments, as for other tools.
        """
        try:
            values = json.loads(arguments.strip() or "null")
        except (ValueError, RecursionError) as error:
            raise ToolError(f"ValueError: the arguments of {self.name} are no JSON: {error}") from None
        if values is None:
            return {}
        if not isinstance(values, dict):
            raise ToolError(f"ValueError: the arguments of {self.name} are no JSON object")
        return values

    async def run(self, call: ToolCall, arguments: dict[str, Any]) -> AsyncGenerator[str | tuple[Any, ...]]:
        """Call the tool at the server, and yield its result; if the call is cancelled, the server is told so.

        Raises:
            ToolError: the tool reports an error.
            MCPError: the server refuses the call, has gone, or does not answer in time.
        """
        result = await self._client.call_tool(self._name_at_server, arguments)
        parts = [_part_of(block) for block in result.content]
        if not parts and result.structured_content is not None:
            parts = [json.dumps(result.structured_content, ensure_ascii=False)]
        texts = [part for part in parts if isinstance(part, str)]
        if result.is_error:
            raise ToolError("\n".join(texts) or "the tool reports an error")
        yield "\n".join(texts) if len(texts) == len(parts) else tuple(parts)


async def _list_tools(client: Client) -> list[Any]:
    """Return the tools of all pages of the server's list; stop at a page that comes again."""
    tools: list[Any] = []
    cursor: str | None = None
    seen: set[str | None] = set()
    while cursor not in seen:
        seen.add(cursor)
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor or None
    return tools


def _free_name(wanted: str, taken: dict[str, Tool]) -> str:
    """Return a name as the models' APIs take it, made of the `wanted` name at a server, that no other tool has.

    A name that is too long, or taken after its other characters were replaced, ends in a digest of the wanted name.
    """
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", wanted) or "_"
    plain, number = name, 0
    while len(name) > _LONGEST_NAME or name in taken:
        digest = hashlib.sha256(f"{wanted}{number or ''}".encode()).hexdigest()[:8]
        name = f"{plain[: _LONGEST_NAME - 9]}_{digest}"
        number += 1
    return name


def _part_of(block: Any) -> str | dict[str, Any]:
    """Return a block of a result as a text, or as an image in Anthropic's form if models see its type.

    A link becomes its name, address and description. Other data become a note with their type and size.
    """
    if block.type == "text":
        return str(block.text)
    if block.type == "resource_link":
        lines = [f"{block.title or block.name}: {block.uri}", block.description]
        return "\n".join(filter(None, lines))
    resource = block.resource if block.type == "resource" else None
    if resource is not None and hasattr(resource, "text"):
        return str(resource.text)
    data, kind = (block.data, block.mime_type) if resource is None else (resource.blob, resource.mime_type)
    if kind in _SHOWN_IMAGES:
        return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}
    return f"[{kind or block.type}, {len(data) * 3 // 4} bytes, not shown]"
