"""Numbers of tokens with one meaning: the input includes caches, the output reasoning, whatever the provider sends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents.ext.llm._sessions import Tokens
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.messages import Message, Usage
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from tests.ext.llm.conftest import Kit

NAMES = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens", "total_tokens")


async def usage_of(agent: Any) -> Usage:
    """Return the usage of the one reply of an agent."""
    async with MiniAgents():
        (message,) = await agent.trigger("Hello")
    usage: Usage = message.usage
    return usage


def counts(usage: Usage) -> tuple[int | None, ...]:
    """Return the numbers in the order of `NAMES`."""
    return tuple(getattr(usage, name) for name in NAMES)


async def chat_usage(kit: Kit, *usages: Any, whole: bool = False) -> Usage:
    """Return the usage of a chat completion that sends these usage objects, each in a chunk of its own."""
    if whole:
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}
        reply = kit.Reply.json({"id": "c", "model": "m", "choices": [choice], "usage": usages[-1]})
    else:
        chunks = [{**kit.chat_chunk("a"), "usage": usage} for usage in usages]
        reply = kit.Reply(kit.events(*chunks, kit.chat_chunk(finish_reason="stop"), "[DONE]"))
    return await usage_of(create_openai_agent("m", async_client=kit.Wire(reply).openai(), stream=not whole))


async def responses_usage(kit: Kit, usage: dict[str, Any], *, whole: bool = False) -> Usage:
    """Return the usage of a response with this usage object."""
    response = {"id": "r", "model": "m", "status": "completed", "output": [], "usage": usage}
    done = kit.Reply(kit.events({"type": "response.completed", "response": response}))
    client = kit.Wire(kit.Reply.json(response) if whole else done).openai()
    return await usage_of(create_openai_agent("m", async_client=client, api="responses", stream=not whole))


async def messages_usage(kit: Kit, *usages: dict[str, Any], whole: bool = False) -> Usage:
    """Return the usage of a message of Anthropic's API, with one usage object at the start and others after it."""
    start: dict[str, Any] = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "c",
        "content": [],
        "stop_reason": None,
    }
    ended = [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage} for usage in usages[1:]]
    stream: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**start, "usage": usages[0]}},
        *ended,
        {"type": "message_stop"},
    ]
    document = kit.Reply.json({**start, "stop_reason": "end_turn", "usage": usages[-1]})
    client = kit.Wire(document if whole else kit.Reply(kit.events(*stream))).anthropic()
    return await usage_of(create_anthropic_agent("m", async_client=client, stream=not whole))


# --- Anthropic


@pytest.mark.parametrize("whole", [False, True])
async def test_input_includes_cache_reads_and_writes_of_anthropic(whole: bool, kit: Kit) -> None:
    """Anthropic counts cached tokens beside the input; in `Usage` they are part of the input, and so of the total."""
    raw = {
        "input_tokens": 10,
        "cache_read_input_tokens": 1000,
        "cache_creation_input_tokens": 200,
        "output_tokens": 5,
        "output_tokens_details": {"thinking_tokens": 2},
        "cache_creation": {"ephemeral_5m_input_tokens": 200},
    }
    usage = await messages_usage(kit, {**raw, "output_tokens": 1}, raw, whole=whole)
    assert counts(usage) == (1210, 5, 1000, 200, 2, 1215)
    assert usage.raw == raw


async def test_usage_of_anthropic_comes_in_several_events(kit: Kit) -> None:
    """Anthropic sends the input at the start and the output at the end; a later number replaces the earlier one."""
    start = {"input_tokens": 10, "cache_read_input_tokens": 7, "cache_creation_input_tokens": None, "output_tokens": 1}
    usage = await messages_usage(kit, start, {"output_tokens": 3}, {"output_tokens": 5, "input_tokens": None})
    assert counts(usage) == (17, 5, 7, None, None, 22)
    assert usage.raw == {**start, "output_tokens": 5}


# --- chat completions

ODD_USAGES: dict[str, tuple[dict[str, Any], tuple[int | None, ...]]] = {
    "openai": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        (100, 50, 64, None, 20, 150),
    ),
    "deepseek": (
        {"prompt_tokens": 12, "completion_tokens": 8, "total_tokens": 20, "prompt_cache_hit_tokens": 10},
        (12, 8, 10, None, None, 20),
    ),
    "openrouter": (
        {
            "prompt_tokens": 97,
            "completion_tokens": 2,
            "total_tokens": 99,
            "cost": 0.5,
            "prompt_tokens_details": {"cached_tokens": 10, "cache_write_tokens": 80},
        },
        (97, 2, 10, 80, None, 99),
    ),
    "litellm": (
        {
            "prompt_tokens": 97,
            "completion_tokens": 2,
            "total_tokens": 99,
            "cache_read_input_tokens": 10,
            "cache_creation_input_tokens": 80,
        },
        (97, 2, 10, 80, None, 99),
    ),
    "xai, reasoning beside the output": (
        {
            "prompt_tokens": 466,
            "completion_tokens": 68,
            "total_tokens": 800,
            "completion_tokens_details": {"reasoning_tokens": 266},
        },
        (466, 334, None, None, 266, 800),
    ),
    "xai, little reasoning": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 170,
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        (100, 70, None, None, 20, 170),
    ),
    "vercel, reasoning not in the total": (
        {
            "prompt_tokens": 28,
            "completion_tokens": 5,
            "total_tokens": 33,
            "completion_tokens_details": {"reasoning_tokens": 48},
        },
        (28, 53, None, None, 48, 81),
    ),
    "gemini, thoughts only in the total": (
        {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 130},
        (10, 120, None, None, None, 130),
    ),
    "azure, cache beside the input": (
        {
            "prompt_tokens": 7,
            "completion_tokens": 8,
            "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 161},
        },
        (168, 8, 161, None, None, 176),
    ),
    "without a total": ({"prompt_tokens": 3, "completion_tokens": 4}, (3, 4, None, None, None, 7)),
    "texts and floats": (
        {"prompt_tokens": "3", "completion_tokens": 4.0, "reasoning_tokens": "2"},
        (3, 4, None, None, 2, 7),
    ),
    "names of another api": ({"input_tokens": 3, "output_tokens": 4}, (3, 4, None, None, None, 7)),
    "output only": ({"completion_tokens": 4}, (None, 4, None, None, None, None)),
    "total only": ({"total_tokens": 4}, (None, None, None, None, None, 4)),
}


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("name", ODD_USAGES)
async def test_usage_of_a_chat_completion_has_one_meaning(name: str, whole: bool, kit: Kit) -> None:
    """The numbers of compatible servers have the meaning of `Usage`, and `raw` is the server's own object."""
    raw, expected = ODD_USAGES[name]
    usage = await chat_usage(kit, raw, whole=whole)
    assert counts(usage) == expected
    assert usage.raw == raw
    assert json.loads(json.dumps(dict(usage.raw or {}), default=dict)) == raw


async def test_usage_of_a_chat_completion_comes_in_several_chunks(kit: Kit) -> None:
    """Running totals replace earlier ones, numbers under new names are added, and an empty usage changes nothing."""
    usage = await chat_usage(
        kit,
        {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5},
        None,
        {"completion_tokens": 3, "total_tokens": 8},
        {"completion_tokens": 4, "total_tokens": 9, "prompt_tokens": None},
        {},
    )
    assert counts(usage) == (5, 4, None, None, None, 9)
    assert usage.raw == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}


# --- responses


@pytest.mark.parametrize("whole", [False, True])
async def test_usage_of_a_response_has_one_meaning(whole: bool, kit: Kit) -> None:
    """Caches are a part of the input, and reasoning of the output, also if a server counts reasoning beside it."""
    raw = {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 30},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 20},
        "total_tokens": 129,
        "cost_in_usd_ticks": 5,
    }
    usage = await responses_usage(kit, raw, whole=whole)
    assert counts(usage) == (100, 29, 40, 30, 20, 129)
    assert (usage.raw, usage.cost_in_usd_ticks) == (raw, 5)


# --- for all


async def test_usage_survives_a_store_with_the_object_of_the_provider(kit: Kit) -> None:
    """A usage that was stored and loaded is equal to the first one, `raw` included."""
    usage = await chat_usage(kit, {"prompt_tokens": 1, "completion_tokens": 2, "raw": {"x": [1]}, "_x": 1})
    message = Message("hi", usage=usage)
    assert Message.model_validate_json(message.model_dump_json()).usage == usage
    assert usage.raw == {"prompt_tokens": 1, "completion_tokens": 2, "raw": {"x": (1,)}, "_x": 1}


COUNTS = st.none() | st.integers(0, 1000)


@given(COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS)
def test_parts_are_never_larger_than_their_whole(
    input_: int | None,
    output: int | None,
    cached: int | None,
    written: int | None,
    reasoning: int | None,
    total: int | None,
) -> None:
    """For any counts of a provider, caches are in the input, reasoning is in the output, and the total is the sum."""
    tokens = Tokens.of_parts(
        input=input_, output=output, cached=cached, written=written, reasoning=reasoning, total=total
    )
    if tokens.input is not None:
        assert (cached or 0) + (written or 0) <= tokens.input
    if tokens.output is not None:
        assert (reasoning or 0) <= tokens.output
    if tokens.input is not None and tokens.output is not None:
        assert tokens.total == tokens.input + tokens.output >= (total or 0)
    assert (tokens.cached, tokens.written, tokens.reasoning) == (cached, written, reasoning)
    again = Tokens.of_parts(
        input=tokens.input,
        output=tokens.output,
        cached=cached,
        written=written,
        reasoning=reasoning,
        total=tokens.total,
    )
    assert again == tokens
