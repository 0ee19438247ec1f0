"""Costs of a chunk of a stream, as counts of calls, which are independent of clocks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from pydantic_core import from_json

from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.ext.llm.conftest import Kit

WORDS = [f"word{number} " for number in range(200)]


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_agent_parses_the_json_of_each_event_once(
    provider: str, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's session parses the JSON of each event once, and the SDK does not parse it again."""
    parsed: list[bytes] = []
    by_others: list[Any] = []

    def counting(parse: Callable[..., Any], seen: list[Any]) -> Callable[..., Any]:
        def counted(text: Any, *arguments: Any, **options: Any) -> Any:
            seen.append(text)
            return parse(text, *arguments, **options)

        return counted

    chunks = kit.chat(*WORDS) if provider == "openai" else kit.message(*WORDS)
    wire = kit.Wire(kit.Reply(chunks))
    create: Any = create_openai_agent if provider == "openai" else create_anthropic_agent
    agent = create("m", async_client=getattr(wire, provider)())
    monkeypatch.setattr("miniagents.ext.llm._sessions.base.from_json", counting(from_json, parsed))
    monkeypatch.setattr(json, "loads", counting(json.loads, by_others))
    async with MiniAgents():
        (message,) = await agent.trigger("Hello")
    assert message.content == "".join(WORDS)
    events = [line for chunk in chunks for line in chunk.splitlines() if line.startswith(b"data: {")]
    assert len(events) > len(WORDS)
    assert parsed == [event.removeprefix(b"data: ") for event in events]
    assert by_others == []
