"""The Anthropic agent with the real SDK client: its requests and its replies."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from miniagents import errors
from miniagents.ext.llm.anthropic import AnthropicMessage, create_anthropic_agent
from miniagents.messages import AssistantMessage, ErrorMessage, Message, SystemMessage, ToolCall, UserMessage
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from tests.ext.llm.conftest import Kit


async def ask(agent: Any, *messages: Any) -> AnthropicMessage:
    """Return the one reply to these messages."""
    async with MiniAgents():
        (message,) = await agent.trigger(list(messages) or "Hello")
    assert isinstance(message, AnthropicMessage)
    return message


async def test_agent_streams_deltas_and_fills_the_fields_of_its_message(kit: Kit) -> None:
    """The agent's tokens are the provider's deltas; its message has id, model, usage, finish reason and blocks."""
    wire = kit.Wire(kit.Reply(kit.message("Hel", "lo")))
    async with MiniAgents():
        replies = create_anthropic_agent("m", async_client=wire.anthropic()).trigger("Hi")
        (promise,) = [promise async for promise in replies]
        assert [token async for token in promise] == ["Hel", "lo"]
        message: Any = await promise
    assert (message.content, message.role, message.model, message.id) == ("Hello", "assistant", "c-1", "msg_1")
    assert (message.finish_reason, message.provider_finish_reason) == ("stop", "end_turn")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (5, 7)
    assert message.content_blocks == ({"type": "text", "text": "Hello"},)


async def test_H2_request_has_alternating_turns_and_no_private_fields(kit: Kit) -> None:
    """Turns alternate, system messages become a parameter, and errors and interrupted messages are left out."""
    wire = kit.Wire(kit.Reply(kit.message("ok")))
    agent = create_anthropic_agent("m", async_client=wire.anthropic(), system="Be brief", top_k=3, tools=TOOLS)
    image = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    await ask(
        agent,
        SystemMessage("more rules"),
        "one",
        Message("two", custom=1),
        UserMessage([image, "three"]),
        ErrorMessage("ValueError: secret"),
        AssistantMessage("an answer", id="x"),
        AssistantMessage(""),
        AssistantMessage("half", interrupted=True),
        AssistantMessage("goes on", tool_calls=(ToolCall(id="t1", name="f"), ToolCall(id="t2", name="f"))),
        {"content": "late rules", "role": "developer"},
        Message("42", role="tool", tool_call_id="t1"),
        Message("no", role="tool", tool_use_id="t2", is_error=True),
        "and now?",
    )
    (body,) = wire.bodies
    assert body.pop("messages") == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "one"},
                {"type": "text", "text": "two"},
                image,
                {"type": "text", "text": "three"},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "an answer"},
                {"type": "text", "text": "goes on"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {}},
                {"type": "tool_use", "id": "t2", "name": "f", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "42"},
                {"type": "tool_result", "tool_use_id": "t2", "content": "no", "is_error": True},
                {"type": "text", "text": "and now?"},
            ],
        },
    ]
    assert body == {
        "model": "m",
        "max_tokens": 4096,
        "stream": True,
        "system": "Be brief\n\nmore rules\n\nlate rules",
        "tools": TOOLS,
        "top_k": 3,
    }
    assert wire.requests[0].headers["accept-encoding"] == "identity"


async def test_request_has_a_plain_text_when_there_is_one_question(kit: Kit) -> None:
    """One question is sent as a string, without a system parameter; instructions with blocks are sent as blocks."""
    wire = kit.Wire(kit.Reply(kit.message("ok")))
    agent = create_anthropic_agent("m", async_client=wire.anthropic(), max_tokens=7)
    await ask(agent)
    assert wire.bodies[0] == {
        "model": "m",
        "max_tokens": 7,
        "stream": True,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    cached = {"type": "text", "text": "rules", "cache_control": {"type": "ephemeral"}}
    await ask(agent.fork(system=[cached]), SystemMessage("more"), "Hello")
    assert wire.bodies[1]["system"] == [cached, {"type": "text", "text": "more"}]


BLOCKS: list[dict[str, Any]] = [
    {"type": "thinking", "thinking": "hm", "signature": "sig"},
    {"type": "redacted_thinking", "data": "opaque"},
    {"type": "text", "text": "Let me see"},
    {"type": "text", "text": ""},
    {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}},
]


TOOLS = [{"name": "f", "input_schema": {"type": "object"}}]
"""Tools of a request; without any, calls and results are sent as text."""


def _streamed(kit: Kit) -> list[bytes]:
    """Return the chunks of an answer whose content blocks are `BLOCKS`."""
    start = {"id": "msg", "role": "assistant", "model": "c-1", "content": []}
    blocks = [
        event
        for index, block in enumerate(BLOCKS)
        for event in (
            {"type": "content_block_start", "index": index, "content_block": block},
            {"type": "content_block_stop", "index": index},
        )
    ]
    last = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 1}}
    return kit.events({"type": "message_start", "message": start}, *blocks, last, {"type": "message_stop"})


async def test_request_repeats_blocks_of_thinking_and_tools_unchanged(kit: Kit) -> None:
    """A later prompt sends the blocks of an answer unchanged, without empty texts, unless its text was edited."""
    wire = kit.Wire(kit.Reply(_streamed(kit)), kit.Reply(kit.message("ok")))
    agent = create_anthropic_agent("m", async_client=wire.anthropic(), tools=TOOLS)
    message = await ask(agent, "compute")
    assert (message.content, message.reasoning, message.finish_reason) == ("Let me see", "hm", "tool_calls")
    await ask(agent, "compute", message, Message("1", role="tool", tool_call_id="t1"))
    assert wire.bodies[1]["messages"][1] == {"role": "assistant", "content": [b for b in BLOCKS if b.get("text") != ""]}
    # the blocks of an edited text are not sent, because they hold the old text
    await ask(
        agent, "compute", message.model_copy(update={"content": "I see"}), Message("1", role="tool", tool_call_id="t1")
    )
    assert wire.bodies[2]["messages"][1]["content"] == [{"type": "text", "text": "I see"}, BLOCKS[-1]]


async def test_request_converts_tool_calls_of_other_providers(kit: Kit) -> None:
    """Tool calls of another provider's message become blocks; invalid arguments become an empty object."""
    wire = kit.Wire(kit.Reply(kit.message("ok")))
    calls = [{"id": "a", "name": "f", "arguments": '{"x":1}'}, {"id": "b", "name": "g", "arguments": '{"cut'}]
    answer = AssistantMessage("", tool_calls=calls)
    await ask(
        create_anthropic_agent("m", async_client=wire.anthropic(), tools=TOOLS),
        "q",
        answer,
        Message("1", role="tool", tool_call_id="a"),
    )
    assert wire.bodies[0]["messages"][1]["content"] == [
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "b", "name": "g", "input": {}},
    ]


async def test_agent_asks_for_one_document_when_stream_is_false(kit: Kit) -> None:
    """With `stream=False`, the agent asks for one document and replies the same kind of message."""
    body = {
        "id": "msg",
        "type": "message",
        "role": "assistant",
        "model": "c-1",
        "content": BLOCKS[2:3],
        "stop_reason": "max_tokens",
    }
    wire = kit.Wire(kit.Reply.json(body))
    message = await ask(create_anthropic_agent("m", async_client=wire.anthropic(), stream=False))
    assert (message.content, message.finish_reason) == ("Let me see", "length")
    assert "stream" not in wire.bodies[0] or wire.bodies[0]["stream"] is False


async def test_agent_raises_value_error_when_all_messages_are_instructions(kit: Kit) -> None:
    """Anthropic's API needs a message of the user, so instructions alone are a ValueError."""
    wire = kit.Wire()
    async with MiniAgents():
        with pytest.raises(ValueError, match="something to answer"):
            await create_anthropic_agent("m", async_client=wire.anthropic()).trigger(SystemMessage("rules"))


@pytest.mark.parametrize("place", range(8))
async def test_P1_error_event_in_a_stream_raises_overloaded_error_with_the_text_so_far(place: int, kit: Kit) -> None:
    """An `overloaded_error` event is a ProviderOverloadedError with the text so far, although the status is 200."""
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    chunks = kit.message("Hel", "lo")[:place] + kit.events(overloaded)
    wire = kit.Wire(kit.Reply(chunks))
    async with MiniAgents():
        with pytest.raises(errors.ProviderOverloadedError, match="Overloaded") as caught:
            await create_anthropic_agent("m", async_client=wire.anthropic(), retry=None).trigger("Hello")
    assert caught.value.partial.content == "Hello"[: {4: 3}.get(place, 5 if place > 4 else 0)]
    assert (caught.value.retryable, caught.value.status, caught.value.provider) == (True, 200, "anthropic")


async def test_agent_reads_events_of_the_sdk_when_the_response_is_an_amazon_eventstream(kit: Kit) -> None:
    """Bedrock's event format is decoded by the SDK; text, usage and errors are the same as for server-sent events."""
    headers = {"content-type": "application/vnd.amazon.eventstream"}
    wire = kit.Wire(kit.Reply(kit.message("Hel", "lo"), headers=headers))
    message: Any = await ask(create_anthropic_agent("m", async_client=wire.anthropic()))
    assert (message.content, message.finish_reason, message.usage.output_tokens) == ("Hello", "stop", 7)
    assert wire.responses[0].closed
    error = kit.events({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    wire = kit.Wire(kit.Reply(kit.message("Hel", "lo")[:4] + error, headers=headers))
    async with MiniAgents():
        with pytest.raises(errors.ProviderOverloadedError) as caught:
            await create_anthropic_agent("m", async_client=wire.anthropic()).trigger("Hello")
    assert caught.value.partial.content == "Hel"


async def test_fields_of_the_response_get_a_prefix_when_messages_use_their_names(kit: Kit) -> None:
    """A response's field named like one of messages, such as `hash_key`, becomes `provider_hash_key`."""
    chunks = kit.message("Hi")
    start = json.loads(chunks[0].split(b"data: ")[1])
    start["message"] |= {
        "hash_key": "x",
        "model_dump": 1,
        "class_": "C",
        "_private": 2,
        "interrupted": True,
        "fine": [1],
    }
    message: Any = await ask(
        create_anthropic_agent("m", async_client=kit.Wire(kit.Reply([*kit.events(start), *chunks[1:]])).anthropic())
    )
    assert (message.provider_hash_key, message.provider_model_dump, message.provider_class_) == ("x", 1, "C")
    assert (message.fine, message.interrupted, message.provider_interrupted) == ((1,), False, True)
    assert message.hash_key != "x"
