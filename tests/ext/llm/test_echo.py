"""Fields of an answer that no code here knows: kept, stored, and sent back to the API and host that sent them."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents.chat_history import InMemoryChatHistory
from miniagents.ext.chat_history_md import ChatHistoryMD
from miniagents.ext.llm._prompts import chat_prompt
from miniagents.ext.llm._sessions import ChatSession
from miniagents.ext.llm._sessions.fields import REPEATED, merge_pieces
from miniagents.ext.llm.anthropic import create_anthropic_agent
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.ext.llm.sse import SSEDecoder
from miniagents.messages import AssistantMessage, Message, ToolCall, UserMessage
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ext.llm.conftest import Kit

CALL: dict[str, Any] = {"id": "f1", "type": "function", "index": 0, "function": {"name": "f", "arguments": "{}"}}
RESULT = Message("21 degrees", role="tool", tool_call_id="f1")
SIGNED = {"google": {"thought_signature": "c2lnbmF0dXJl"}}
HOST = "https://one.example/v1"


async def ask(agent: Any, *messages: Any) -> AssistantMessage:
    """Return the one reply to these messages."""
    async with MiniAgents():
        (message,) = await agent.trigger(list(messages) or "Hello")
    assert isinstance(message, AssistantMessage)
    return message


async def answer_of(kit: Kit, *deltas: dict[str, Any], whole: bool = False) -> AssistantMessage:
    """Return the answer to a chat completion with these deltas, or with the first of them as a whole message."""
    if whole:
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **deltas[0]}}
        reply = kit.Reply.json({"id": "c1", "model": "m", "choices": [choice]})
    else:
        chunks = [kit.chat_chunk(**delta) for delta in deltas]
        reply = kit.Reply(kit.events(*chunks, kit.chat_chunk(finish_reason="stop"), "[DONE]"))
    client = kit.Wire(reply).openai(base_url=HOST)
    return await ask(create_openai_agent("m", async_client=client, stream=not whole))


async def sent(kit: Kit, message: Message, *, base_url: str = HOST) -> dict[str, Any]:
    """Return the form in which the next chat completion, at this host, has the answer `message` in its prompt."""
    wire = kit.Wire(kit.Reply(kit.chat("ok")))
    await ask(create_openai_agent("m", async_client=wire.openai(base_url=base_url)), UserMessage("q"), message, RESULT)
    found: dict[str, Any] = wire.bodies[0]["messages"][1]
    return found


# --- what goes back


@pytest.mark.parametrize("whole", [False, True])
async def test_thought_signature_of_a_call_goes_back(whole: bool, kit: Kit) -> None:
    """Unknown fields of a call and of its function go back in the call, beside id, name and arguments."""
    call = {**CALL, "extra_content": SIGNED, "call_id": 7, "function": {**CALL["function"], "signature": "s"}}
    message = await answer_of(kit, {"tool_calls": [call]}, whole=whole)
    back = await sent(kit, message)
    del call["index"]
    assert back["tool_calls"] == [call]
    names = {"extra_content": "extra_content", "call_id": "provider_call_id", "function": "provider_function"}
    assert message.tool_calls[0].echo == names


@pytest.mark.parametrize("whole", [False, True])
async def test_field_of_a_message_goes_back_under_its_name(whole: bool, kit: Kit) -> None:
    """Unknown fields of an answer go back under their names, even names that `Message` itself uses: `model_copy`."""
    odd = {"choices": [1], "model_copy": {"a": 1}, "_x": 0.5, "name": "Ada", "flag": False}
    fields = {"reasoning_content": "hm", **odd}
    message = await answer_of(kit, {"content": "hi", **fields}, whole=whole)
    assert message.reasoning == "hm"
    assert message.echo is not None
    assert message.echo["reasoning_content"] == "reasoning"
    assert message.echo["model_copy"] == "provider_model_copy"
    assert await sent(kit, message) == {"role": "assistant", "content": "hi", **fields}


async def test_number_that_json_lacks_goes_back_as_null(kit: Kit) -> None:
    """NaN or infinity in a field of an answer fails no later prompt, which has null in its place."""
    given = {"scores": [float("nan"), float("-inf"), 0.5]}
    assert (await sent(kit, await answer_of(kit, {"content": "Hi", **given})))["scores"] == [None, None, 0.5]


async def test_response_with_a_content_that_is_a_text_goes_back(kit: Kit) -> None:
    """An item of the Responses API whose content is a text, or has null among its parts, fails no later prompt."""
    for content in ("Hello", [{"type": "output_text", "text": "Hello"}, None]):
        item = {"id": "m", "type": "message", "role": "assistant", "content": content}
        body = {"id": "r", "object": "response", "status": "completed", "output": [item]}
        wire = kit.Wire(kit.Reply.json(body))
        agent = create_openai_agent("m", api="responses", async_client=wire.openai(base_url=HOST), stream=False)
        answer = await ask(agent)
        assert answer.content == "Hello"
        await ask(agent, "Hi", answer, "go on")
        assert wire.bodies[1]["input"][1] == item


async def test_reasoning_goes_back_under_each_name_that_it_came_with(kit: Kit) -> None:
    """Reasoning that came under two names goes back under both; if their texts differ, each has its own."""
    message = await answer_of(kit, {"reasoning": "a", "reasoning_content": "a"}, {"reasoning": "b", "content": "c"})
    assert message.reasoning == "ab"
    assert message.echo == {"reasoning": "reasoning", "reasoning_content": "reasoning_content"}
    back = await sent(kit, message)
    assert (back["reasoning"], back["reasoning_content"]) == ("ab", "a")


async def test_each_choice_has_fields_of_its_own(kit: Kit) -> None:
    """The unknown fields of a further choice are fields of that choice's message, and go back with it."""
    chunks = [kit.chat_chunk("a", note="first"), kit.chat_chunk("b", note="second", reasoning="r")]
    chunks[1]["choices"][0]["index"] = 1
    ends = [kit.chat_chunk(finish_reason="stop") for _ in range(2)]
    ends[1]["choices"][0]["index"] = 1
    wire = kit.Wire(kit.Reply(kit.events(*chunks, *ends, "[DONE]")))
    message = await ask(create_openai_agent("m", async_client=wire.openai(base_url=HOST), n=2))
    back = [await sent(kit, each) for each in (message, *message.choices)]
    assert back[0] == {"role": "assistant", "content": "a", "note": "first"}
    assert back[1] == {"role": "assistant", "content": "b", "note": "second", "reasoning": "r"}


async def test_audio_goes_back_as_its_id(kit: Kit) -> None:
    """The audio of an answer goes back as its id, because the API keeps the sound."""
    pieces = [{"audio": {"id": "au", "data": "AA", "transcript": "he"}}, {"audio": {"data": "BB", "transcript": "y"}}]
    message = await answer_of(kit, *pieces)
    assert message.audio == {"id": "au", "data": "AABB", "transcript": "hey"}
    assert await sent(kit, message) == {"role": "assistant", "content": None, "audio": {"id": "au"}}


async def test_broken_arguments_go_back_as_an_empty_object_with_the_fields_of_their_call(kit: Kit) -> None:
    """Arguments that are no JSON go back as `{}`, and the unknown fields of the call unchanged."""
    call = {**CALL, "function": {"name": "f", "arguments": '{"x'}, "extra_content": SIGNED}
    back = await sent(kit, await answer_of(kit, {"tool_calls": [call]}))
    assert (back["tool_calls"][0]["function"]["arguments"], back["tool_calls"][0]["extra_content"]) == ("{}", SIGNED)


# --- where it goes


@pytest.mark.parametrize("base_url", ["https://two.example/v1", "https://one.example:8443/v1"])
async def test_field_does_not_go_to_another_host(base_url: str, kit: Kit) -> None:
    """A prompt for another host, or for another port, has text and calls without the unknown fields."""
    call = {**CALL, "extra_content": SIGNED}
    message = await answer_of(kit, {"content": "hi", "reasoning_content": "hm", "name": "Ada", "tool_calls": [call]})
    assert message.origin == "chat one.example"
    plain = {name: CALL[name] for name in ("id", "type", "function")}
    expected = {"role": "assistant", "content": "hi", "tool_calls": [plain]}
    assert await sent(kit, message, base_url=base_url) == expected


async def test_field_does_not_go_to_another_api(kit: Kit) -> None:
    """Prompts for Responses and for Anthropic's API have none of the fields of a chat completion."""
    call = {**CALL, "extra_content": SIGNED}
    message = await answer_of(kit, {"content": "hi", "note": "secret", "output": [], "tool_calls": [call]})
    done = {"type": "response.completed", "response": {"status": "completed", "output": []}}
    wires = [kit.Wire(kit.Reply(kit.events(done))), kit.Wire(kit.Reply(kit.message("ok")))]
    openai = create_openai_agent("m", async_client=wires[0].openai(base_url=HOST), api="responses")
    anthropic = create_anthropic_agent("m", async_client=wires[1].anthropic(base_url=HOST))
    for agent, wire in ((openai, wires[0]), (anthropic, wires[1])):
        await ask(agent, UserMessage("q"), message, RESULT)
        body = json.dumps(wire.bodies)
        assert "called" in body or '"f1"' in body
        assert not any(text in body for text in ("secret", "c2lnbmF0dXJl", "extra_content"))


async def test_message_that_an_application_made_sends_no_further_fields(kit: Kit) -> None:
    """A message that an application made has no `origin`, and is sent without its extra fields."""
    call = ToolCall(id="f1", name="f", arguments="{}", label="mine")
    back = await sent(kit, AssistantMessage("hi", tool_calls=[call], label="mine"))
    assert "mine" not in json.dumps(back)


async def test_items_of_a_response_go_back_to_their_host_only(kit: Kit) -> None:
    """Items with ids and encrypted reasoning go back unchanged to their host; another host gets text and calls."""
    items: list[dict[str, Any]] = [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "enc", "odd": 1},
        {"type": "function_call", "id": "fc_1", "call_id": "f1", "name": "f", "arguments": "{}", "signature": "s"},
    ]
    response = {"id": "r", "model": "m", "status": "completed", "output": items}
    wire = kit.Wire(kit.Reply(kit.events({"type": "response.completed", "response": response})))
    agent = create_openai_agent("m", async_client=wire.openai(base_url=HOST), api="responses")
    message = await ask(agent)
    await ask(agent, UserMessage("q"), message, RESULT)
    assert wire.bodies[1]["input"][1:3] == items
    other = kit.Wire(wire.replies[0])
    await ask(agent.fork(async_client=other.openai(base_url="https://two.example")), UserMessage("q"), message, RESULT)
    call = {"type": "function_call", "call_id": "f1", "name": "f", "arguments": "{}"}
    assert other.bodies[0]["input"][1:2] == [call]


async def test_call_of_a_response_without_its_last_form_goes_back_with_its_arguments(kit: Kit) -> None:
    """A function call whose item was never reported as done goes back with the arguments of its deltas."""
    item = {"type": "function_call", "id": "fc_1", "call_id": "f1", "name": "f", "arguments": "", "odd": 1}
    at = {"output_index": 0, "item_id": "fc_1"}
    stream = kit.events(
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.function_call_arguments.delta", **at, "delta": '{"x":'},
        {"type": "response.function_call_arguments.delta", **at, "delta": "1}"},
        {"type": "response.completed", "response": {"status": "completed", "output": []}},
    )
    wire = kit.Wire(kit.Reply(stream))
    agent = create_openai_agent("m", async_client=wire.openai(base_url=HOST), api="responses")
    message = await ask(agent)
    await ask(agent, UserMessage("q"), message, RESULT)
    assert wire.bodies[1]["input"][1] == {**item, "arguments": '{"x":1}'}


async def test_block_grows_by_deltas_of_unknown_types(kit: Kit) -> None:
    """The fields of a delta of an unknown type become fields of its block, which goes back unchanged."""
    block: dict[str, Any] = {"type": "brand_new", "seal": "a", "odd": [1]}
    deltas: list[dict[str, Any]] = [
        {"type": "seal_delta", "seal": "b"},
        {"type": "seal_delta", "seal": "c", "signature": "x"},
        {"type": "seal_delta", "signature": "y", "parts": [{"index": 0, "text": "p"}]},
        {"type": "seal_delta", "parts": [{"index": 0, "text": "q"}]},
    ]
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": "m", "type": "message", "role": "assistant", "model": "c"}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message_stop"},
    ]
    wire = kit.Wire(kit.Reply(kit.events(*events)))
    agent = create_anthropic_agent("m", async_client=wire.anthropic())
    message = await ask(agent)
    await ask(agent, UserMessage("q"), message, UserMessage("and?"))
    whole = {**block, "seal": "abc", "signature": "y", "parts": [{"index": 0, "text": "pq"}]}
    assert wire.bodies[1]["messages"][1] == {"role": "assistant", "content": [whole]}
    assert message.unknown_events == len(deltas)


# --- stored answers


async def test_stored_answer_goes_back_like_the_first_one(kit: Kit, tmp_path: Path) -> None:
    """An answer from a history, a dump or a pickle goes back with the same fields, in the same order."""
    details = [{"type": "reasoning.text", "text": "é\ud83d\ude00", "signature": None, "index": 0}]
    call = {**CALL, "extra_content": SIGNED}
    fields = {"reasoning_content": "hm", "reasoning_details": details, "z": {"b": 1, "a": [None, 2.5]}}
    message = await answer_of(kit, {"content": "hi", **fields, "tool_calls": [call]})
    expected = json.dumps(await sent(kit, message))
    assert all(name in expected for name in fields)
    stores = [InMemoryChatHistory(), ChatHistoryMD(tmp_path / "chat.md")]
    stored = [pickle.loads(pickle.dumps(message)), Message.model_validate_json(message.model_dump_json())]
    async with MiniAgents():
        for store in stores:
            await store.aappend(message)
        stored += [(await store.aload_chat_history())[0] for store in [stores[0], ChatHistoryMD(tmp_path / "chat.md")]]
    stored.append(Message.model_validate(message.serialize()))
    for each in stored:
        assert json.dumps(await sent(kit, each)) == expected


# --- the rule of merging


def test_merge_joins_strings_and_keeps_the_last_of_repeated_fields() -> None:
    """Strings are joined, repeated fields and other values keep the last one, and a null changes nothing."""
    pieces = [
        {"text": "a", "id": "1", "format": "f", "n": 1, "flag": True, "signature": None},
        {"text": "b", "id": "1", "format": "", "n": 2, "late": "x"},
        {"text": None, "signature": "s", "n": None, "deep": {"text": "c"}},
        {"deep": {"text": "d", "type": "t"}, "flag": False},
    ]
    assert merge_pieces(pieces) == {
        "text": "ab",
        "id": "1",
        "format": "f",
        "n": 2,
        "flag": False,
        "signature": "s",
        "late": "x",
        "deep": {"text": "cd", "type": "t"},
    }
    assert merge_pieces(["a", {"x": "b"}, {"x": "c"}]) == {"x": "bc"}
    assert merge_pieces(["a", 1]) == 1
    assert merge_pieces([None, None]) is None


def test_merge_joins_the_items_of_lists_by_index_and_type() -> None:
    """Items of one index become one, unless their types differ or they came in one list; others are appended."""

    def item(index: int | None, text: str, kind: str | None = "t") -> dict[str, Any]:
        return {"index": index, "text": text, "type": kind}

    assert merge_pieces([[item(0, "a")], [item(1, "b"), item(0, "c", None)], [item(0, "d")]]) == [
        item(0, "acd"),
        item(1, "b"),
    ]
    assert merge_pieces([[item(0, "a")], [item(0, "b", "u")], [item(0, "c")]]) == [item(0, "ac"), item(0, "b", "u")]
    assert merge_pieces([[item(0, "a"), item(0, "b")]]) == [item(0, "a"), item(0, "b")]
    assert merge_pieces([[1, {"a": 1}], [], [2, {"a": 2}]]) == [1, {"a": 1}, 2, {"a": 2}]


def test_merge_looks_at_each_piece_once() -> None:
    """Tens of thousands of pieces and of items are merged within the time limit of a test."""
    pieces = [[{"index": number, "type": "t", "text": "x"} for number in range(20_000)] for _ in range(2)]
    same = [[{"index": 0, "type": "t", "text": "x"}] * 20_000 for _ in range(3)]
    assert len(merge_pieces(pieces)) == 20_000
    assert len(merge_pieces(same)) >= 20_000
    assert merge_pieces([{"a": {"b": "x"}}] * 50_000) == {"a": {"b": "x" * 50_000}}


# --- wherever the stream is cut

TEXTS = st.text(max_size=8)
LEAVES = st.none() | st.booleans() | st.integers(-5, 5) | TEXTS
NAMES = st.sampled_from(["text", "data", "note", "größe", *sorted(REPEATED - {"index"})])


@st.composite
def pieces_of(draw: st.DrawFn, depth: int = 2) -> tuple[Any, list[Any]]:
    """Draw a value, and pieces in which a stream may send it; merged, the pieces give the value."""
    kind = draw(st.sampled_from(["text", "leaf", "dict", "list"] if depth else ["text", "leaf"]))
    if kind == "text":
        texts = draw(st.lists(TEXTS, min_size=1, max_size=4))
        return "".join(texts), list(texts)
    if kind == "leaf":
        value = draw(LEAVES)
        return value, [value]
    if kind == "dict":
        whole: dict[str, Any] = {}
        parts: list[Any] = []
        for name in draw(st.lists(NAMES, min_size=1, max_size=4, unique=True)):
            value, pieces = draw(pieces_of(depth - 1))
            if name in REPEATED:
                value = draw(TEXTS)
                pieces = [value] * draw(st.integers(1, 3))
            whole[name] = value
            parts += [{name: piece} for piece in pieces]
        return whole, parts
    items: list[dict[str, Any]] = []
    parts = []
    for index in range(draw(st.integers(1, 3))):
        value, pieces = draw(pieces_of(depth - 1))
        items.append({"index": index, "value": value})
        parts += [[{"index": index, "value": piece}] for piece in pieces]
    return items, parts


@given(st.lists(pieces_of(), min_size=1, max_size=3), st.data())
def test_echo_survives_any_cut_of_the_stream(fields: list[tuple[Any, list[Any]]], data: st.DataObject) -> None:
    """Unknown fields that come in pieces, in a stream split anywhere, are whole in the message and in its call."""
    deltas: list[dict[str, Any]] = [{"tool_calls": [CALL]}]
    for number, (_, pieces) in enumerate(fields):
        for piece in pieces:
            delta: dict[str, Any] = {f"field{number}": piece}
            deltas.append({**delta, "tool_calls": [{"index": 0, **delta, "function": delta}]})
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    ascii_ = data.draw(st.booleans())
    body = b"".join(b"data: %s\n\n" % json.dumps(chunk, ensure_ascii=ascii_).encode() for chunk in chunks)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    decoder, session = SSEDecoder(), ChatSession()
    for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        for event in decoder.feed(body[start:end]):
            session.feed(event)
    outcome = session.close()
    expected = {
        f"field{number}": whole
        for number, (whole, pieces) in enumerate(fields)
        if any(piece not in (None, "", [], {}) for piece in pieces)
    }
    assert outcome.fields == expected
    call = dict(outcome.tool_calls[0].fields)
    inner = call.pop("function", {})
    assert call == expected
    assert {name: inner.get(name) for name in expected} == expected


def test_chat_prompt_leaves_out_a_field_that_was_removed_from_the_message() -> None:
    """A field of `echo` that the message no longer has is left out of the prompt."""
    message = AssistantMessage("hi", origin="chat h", echo={"reasoning_content": "reasoning", "note": "note"}, note=1)
    assert chat_prompt([message], origin="chat h") == [{"role": "assistant", "content": "hi", "note": 1}]
