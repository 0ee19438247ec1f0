"""Events and fields that deviate from an API's format: harmless ones are noted as doubts, others raise errors."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from short_answers import APIS, DONE, changed, chunk, read, session_of, streams

from miniagents import errors
from miniagents.ext.llm._sessions import ToolUse
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.ext.llm.sse import ServerSentEvent
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from tests.ext.llm.conftest import Kit


# --- events


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("data", [b"null", b"5", b"true", b"[]", b'""', b"", b" ", b"0.5"], ids=repr)
def test_S35_sessions_ignore_events_without_content(api: str, data: bytes) -> None:
    """An event that is null, a number or empty changes nothing in any session, and one doubt is noted."""
    events = streams()[api]
    for place in range(len(events)):
        outcome = read(api, *events[:place], data, *events[place:])
        assert outcome.content == "Hello"
        (doubt,) = outcome.doubts
        assert doubt.startswith(f"event {place + 1}: data is ")


@pytest.mark.parametrize(
    "done",
    [b" [DONE]", b"[DONE] ", b"[done]", b'"[DONE]"', b"'[DONE]'", b"[ DONE ]\t", b"[DONE];", "[DONE]\u00a0".encode()],
    ids=repr,
)
@pytest.mark.parametrize("api", APIS)
def test_S35_done_is_recognised_with_spaces_quotes_and_lower_case(api: str, done: bytes) -> None:
    """`[DONE]` with spaces or punctuation, in quotes or in lower case ends a chat, and changes no other answer."""
    assert read(api, *streams()[api], done).content == "Hello"
    assert read(api, *streams()[api][:-1], done if api == "chat" else streams()[api][-1]).content == "Hello"


@pytest.mark.parametrize("api", ["responses", "messages"])
def test_S36_event_with_an_invalid_type_is_read_by_its_name(api: str) -> None:
    """An event whose `type` is a number gets its type from its `event:` line, and one doubt is noted."""
    for place in range(len(streams()[api])):
        session = session_of(api)
        text = ""
        for number, event in enumerate(streams()[api]):
            data = {**event, "type": 7} if number == place else event
            text += session.feed(ServerSentEvent(json.dumps(data).encode(), event["type"]))
        outcome = session.close()
        assert (outcome.content, outcome.finish_reason, text) == ("Hello", "stop", "Hello")
        assert outcome.doubts == (f"event {place + 1}: type is 7",) or (api, place) == ("messages", 6)


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("data", [b"null", b'"slow down"', b"slow down", b"[]", b"{}"], ids=repr)
def test_S35_event_named_error_raises_a_provider_error_with_any_data(api: str, data: bytes) -> None:
    """An event with the name `error` raises a ProviderError with any data, and a text in the data is its message."""
    session = session_of(api)
    with pytest.raises(errors.ProviderError, match="slow down" if b"slow" in data else "without a message|error"):
        session.feed(ServerSentEvent(data, "error"))


# --- fields


@pytest.mark.parametrize("value", ["5", " 5 ", "5.0", 5.0, -1, -1.5, "many", True, [], {}, float("nan")], ids=repr)
@pytest.mark.parametrize(
    ("api", "path"),
    [
        ("chat", (3, "usage", "prompt_tokens")),
        ("responses", (6, "response", "usage", "input_tokens")),
        ("messages", (0, "message", "usage", "input_tokens")),
    ],
    ids=APIS,
)
def test_S36_usage_leaves_out_invalid_counts_and_reads_quoted_numbers(api: str, path: Any, value: Any) -> None:
    """An invalid count of tokens is left out, a quoted one is read; both are doubts, and the text is complete."""
    outcome = read(api, *changed(api, *path, to=value))
    assert outcome.content == "Hello"
    assert outcome.usage is not None
    reads = value == 5 or (isinstance(value, str) and value != "many")
    assert outcome.usage.input == (5 if reads else None)
    assert len(outcome.doubts) == (value != 5.0)


@pytest.mark.parametrize("value", [5, "5", [], [1], True], ids=repr)
@pytest.mark.parametrize(
    ("api", "path"),
    [("chat", (3, "usage")), ("responses", (6, "response", "usage")), ("messages", (0, "message", "usage"))],
    ids=APIS,
)
def test_S36_usage_is_left_out_when_it_is_no_object(api: str, path: Any, value: Any) -> None:
    """A usage that is not an object is left out, and the doubt is noted."""
    outcome = read(api, *changed(api, *path, to=value))
    assert outcome.content == "Hello"
    assert [doubt.partition(": ")[2] for doubt in outcome.doubts] == [f"usage is {value!r}"]


@pytest.mark.parametrize("field", ["id", "model"])
@pytest.mark.parametrize(
    ("api", "path"), [("chat", (0,)), ("responses", (0, "response")), ("messages", (0, "message"))], ids=APIS
)
def test_S36_id_or_model_that_is_a_number_becomes_a_text(api: str, path: Any, field: str) -> None:
    """An id or model that is a number becomes a text; other wrong values are left out, with a doubt."""
    for value, expected in ((7, "7"), (0, "0"), (1.5, "1.5"), ([1], None), ({}, None), (True, None)):
        events = changed(api, *path, field, to=value)
        for event in events[1:] if api == "chat" else ():
            event.pop(field)
        outcome = read(api, *events)
        assert (outcome.content, getattr(outcome, field)) == ("Hello", expected)
        assert len(outcome.doubts) == 1


ODD_INDEXES: list[Any] = [-1, None, "0", 0.0, "x", 1.5, True, [], {}]


@pytest.mark.parametrize("value", ODD_INDEXES, ids=repr)
@pytest.mark.parametrize("place", [2, 3])
@pytest.mark.parametrize(
    ("api", "field"),
    [("responses", "output_index"), ("responses", "content_index"), ("messages", "index")],
)
def test_S36_event_with_an_invalid_index_belongs_to_the_open_part(api: str, field: str, place: int, value: Any) -> None:
    """An event with an invalid index adds its text to the item, part or block that is open, and a doubt is noted."""
    assert read(api, *changed(api, place, field, to=value)).content == "Hello"
    everywhere = [{**event, field: value} if field in event else event for event in streams()[api]]
    outcome = read(api, *everywhere)
    assert outcome.content == "Hello"
    assert outcome.doubts[0].endswith(f"{field} is {value!r}")


@pytest.mark.parametrize("field", ["output_index", "content_index"])
def test_S36_event_without_content_index_belongs_to_the_open_part(field: str) -> None:
    """A delta without `content_index` goes to the part that is open; one without `output_index` and id is an error."""
    bare = [{k: v for k, v in event.items() if k not in (field, "item_id")} for event in streams()["responses"]]
    if field == "content_index":
        assert read("responses", *bare).content == "Hello"
    else:
        with pytest.raises(errors.StreamProtocolError, match="not added"):
            read("responses", *bare[:2], *bare[2:])


def test_S24_valid_index_of_no_open_part_raises_protocol_error() -> None:
    """An event with the index of a part that did not begin raises `StreamProtocolError`: events must have been lost."""
    for api, field in (("messages", "index"), ("responses", "output_index")):
        events = changed(api, 3, field, to=4)
        events[3].pop("item_id", None)
        with pytest.raises(errors.StreamProtocolError):
            read(api, *events)
    with pytest.raises(errors.StreamProtocolError, match="expected"):
        read("messages", *changed("messages", 1, "index", to=1))


def test_S36_blocks_and_items_with_equal_indexes_stay_separate() -> None:
    """If all blocks or items have index 0, the session keeps them apart, because one ends before the next begins."""
    events = streams()["messages"]
    tool = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    more = [
        {**events[1], "content_block": tool},
        {**events[2], "delta": {"type": "input_json_delta", "partial_json": "{}"}},
    ]
    outcome = read("messages", *events[:5], *more, *events[4:])
    assert (outcome.content, outcome.tool_calls, len(outcome.doubts)) == ("Hello", (ToolUse("t", "f", "{}"),), 1)
    events = streams()["responses"]
    call = {"type": "function_call", "id": "fc", "call_id": "c1", "name": "f", "arguments": '{"x":1}'}
    more = [{"type": f"response.output_item.{word}", "output_index": 0, "item": call} for word in ("added", "done")]
    outcome = read("responses", *events[:-1], *more, events[-1])
    assert (outcome.content, outcome.tool_calls) == ("Hello", (ToolUse("c1", "f", '{"x":1}'),))
    assert len(outcome.doubts) == 1


@pytest.mark.parametrize(
    ("api", "path"),
    [
        ("chat", (1, "choices", 0, "logprobs")),
        ("chat", (0, "choices", 0, "delta")),
        ("chat", (0, "choices", 0)),
        ("chat", (0, "choices")),
        ("chat", (3, "usage")),
        ("responses", (0, "response")),
        ("responses", (6, "response")),
        ("responses", (1, "item")),
        ("responses", (5, "item")),
        ("responses", (4, "text")),
        ("messages", (0, "message")),
        ("messages", (1, "content_block")),
        ("messages", (5, "delta")),
        ("messages", (5, "usage")),
    ],
    ids=str,
)
def test_S36_null_instead_of_an_object_or_a_list_counts_as_empty(api: str, path: Any) -> None:
    """With null in place of one object or list, the text is whole and the answer complete."""
    outcome = read(api, *changed(api, *path, to=None))
    assert (outcome.content, outcome.complete) == ("Hello", True)


@pytest.mark.parametrize(
    ("api", "path"), [("responses", (2, "delta")), ("messages", (2, "delta")), ("messages", (2, "delta", "text"))]
)
def test_S36_null_delta_is_skipped_or_found_by_the_whole_text(api: str, path: Any) -> None:
    """Anthropic's session skips a null delta; the Responses session raises, as the deltas do not fit the whole text."""
    if api == "messages":
        assert read(api, *changed(api, *path, to=None)).content == "lo"
    else:
        with pytest.raises(errors.StreamProtocolError, match="deltas"):
            read(api, *changed(api, *path, to=None))


def test_S36_session_keeps_one_short_doubt_for_each_field() -> None:
    """A long stream of odd values leaves one short doubt for each field."""
    events = [chunk("a", index="x" * 999) for _ in range(100)]
    outcome = read("chat", *({**event, "id": [i]} for i, event in enumerate(events)), b"null", chunk(finish="stop"))
    assert outcome.content == "a" * 100
    assert len(outcome.doubts) == 3
    assert all(len(doubt) < 150 for doubt in outcome.doubts)


async def test_S36_message_has_the_doubts_of_its_stream(kit: Kit) -> None:
    """If a stream, even a broken one, has odd values, the agent's message has a field `doubts`, and else none."""
    odd = [b"data: null\n\n", *kit.chat("Hi")]
    async with MiniAgents():
        for chunks, doubts in ((odd, ("event 1: data is None",)), (kit.chat("Hi"), None)):
            client = kit.Wire(kit.Reply(chunks)).openai()
            (message,) = await create_openai_agent("m", async_client=client).trigger("Hello")
            assert (message.content, getattr(message, "doubts", None)) == ("Hi", doubts)
        with pytest.raises(errors.StreamTruncatedError) as caught:
            client = kit.Wire(kit.Reply(odd[:2])).openai()
            await create_openai_agent("m", async_client=client, retry=None).trigger("Hello")
    assert caught.value.partial.doubts == ("event 1: data is None",)


@pytest.mark.parametrize(
    ("api", "body"),
    [
        ("chat", {"id": 7, "choices": [{"index": 3, "message": {"content": "Hello"}, "finish_reason": "stop"}]}),
        (
            "chat",
            {"usage": {"prompt_tokens": "x"}, "choices": [{"message": {"content": "Hello", "tool_calls": [None]}}]},
        ),
        ("responses", {"id": 7, "status": "completed", "output": [DONE], "usage": {"input_tokens": -1}}),
        ("messages", {"content": [None, {"type": "text", "text": "Hello"}], "stop_reason": "end_turn"}),
        ("messages", {"id": 7, "content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn", "usage": []}),
    ],
)
def test_S36_parse_reads_or_leaves_out_odd_fields_of_documents(api: str, body: Any) -> None:
    """Odd ids, counts and indexes in a document are read or left out, with a doubt."""
    outcome = session_of(api).parse(json.dumps(body).encode())
    assert (outcome.content, outcome.complete) == ("Hello", True)
    assert outcome.doubts


@pytest.mark.parametrize("value", [["x"], {}, 5, None])
@pytest.mark.parametrize(
    ("api", "path"),
    [
        ("messages", (2, "delta", "type")),
        ("messages", (1, "content_block", "type")),
        ("responses", (1, "item", "type")),
    ],
)
def test_type_that_is_no_text_ends_in_no_other_error_than_that_of_a_model(api: str, path: Any, value: Any) -> None:
    """A delta, a block or an item whose type is a list or an object is read as one of an unknown type, or refused."""
    with contextlib.suppress(errors.LLMError):
        read(api, *changed(api, *path, to=value))


def test_citations_that_are_no_list_are_replaced_by_the_first_citation() -> None:
    """A block that starts with `citations: true` takes the citations that follow."""
    events = changed("messages", 1, "content_block", "citations", to=True)
    events.insert(
        2, {"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": {"a": 1}}}
    )
    (block,) = read("messages", *events).extra["content_blocks"]
    assert block["citations"] == [{"a": 1}]
