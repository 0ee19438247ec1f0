"""Tool calls in contradictory fragments, and arguments that are a JSON value instead of its text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from short_answers import chunk, read, streams

from miniagents import errors
from miniagents.ext.llm._sessions import ChatSession, MessagesSession, ToolUse


def calls_of(*fragments: dict[str, Any]) -> tuple[ToolUse, ...]:
    """Return the tool calls that these fragments make, with one fragment in each chunk."""
    return read("chat", *(chunk(delta={"tool_calls": [each]}) for each in fragments), chunk(finish="stop")).tool_calls


def fragment(arguments: Any = None, name: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return a fragment of a tool call."""
    function = {"name": name, "arguments": arguments}
    return {**fields, "function": {key: value for key, value in function.items() if value is not None}}


@pytest.mark.parametrize(
    "indexes",
    [(0, 0, 0), (0, 1, 2), (3, 4, 5), (None, None, None), (0, None, None), (None, 0, 0), (-1, -1, -1), ("0", "0", "0")],
    ids=str,
)
@pytest.mark.parametrize("repeated", [{}, {"id": "c1"}, {"id": "c1", "name": "f"}, {"name": "f"}], ids=str)
def test_P11_fragments_make_one_call_with_any_indexes(indexes: Any, repeated: dict[str, Any]) -> None:
    """Fragments with rising, missing, negative or quoted indexes make one call, with or without repeated ids."""
    pieces = ['{"x"', ":1", "}"]
    fragments = [
        fragment(piece, index=index, **(repeated if i else {"id": "c1", "name": "f"}))
        for i, (piece, index) in enumerate(zip(pieces, indexes, strict=True))
    ]
    assert calls_of(*fragments) == (ToolUse("c1", "f", '{"x":1}'),)


@pytest.mark.parametrize(
    "indexes",
    [(0.0, 1.0), (-2, -1), ("a", "b"), (True, False), ("0.0", "1.0"), (" 0", " 1"), ([0], [1]), (0.5, 1)],
    ids=str,
)
def test_P11_interleaved_calls_keep_their_arguments_with_odd_indexes(indexes: tuple[Any, Any]) -> None:
    """Interleaved fragments belong to the call with the same index, also if the indexes are no natural numbers."""
    first, second = indexes
    fragments = [
        fragment("", "f", index=first, id="c1"),
        fragment("", "g", index=second, id="c2"),
        *(fragment(piece, index=index) for pieces in ('{"', "xy", '":1}') for piece, index in _pairs(pieces, indexes)),
    ]
    events = [chunk(delta={"tool_calls": [each]}) for each in fragments]
    outcome = read("chat", *events, chunk(finish="tool_calls"))
    assert outcome.tool_calls == (ToolUse("c1", "f", '{"x":1}'), ToolUse("c2", "g", '{"y":1}'))
    assert outcome.doubts[0].endswith(f"index of a tool call is {first!r}")


def _pairs(pieces: str, indexes: tuple[Any, Any]) -> list[tuple[str, Any]]:
    """Return a fragment for each call: its own letter of "xy", or the same piece for both."""
    return list(zip(pieces if pieces == "xy" else [pieces, pieces], indexes, strict=True))


def test_P11_new_name_after_whole_arguments_begins_a_call() -> None:
    """Calls with one index and without ids are separate if a name follows whole arguments."""
    assert calls_of(fragment("{}", "f", index=0), fragment('{"y":2}', "g", index=0)) == (
        ToolUse("", "f", "{}"),
        ToolUse("", "g", '{"y":2}'),
    )
    assert calls_of(fragment("{}", "f", index=0, id=0), fragment("{}", "f", index=1, id=1)) == (
        ToolUse("0", "f", "{}"),
        ToolUse("1", "f", "{}"),
    )


@pytest.mark.parametrize("value", [{"x": 1}, {}, [1], [], {"é": None}], ids=repr)
def test_P23_arguments_become_text_when_the_server_sends_a_json_value(value: Any) -> None:
    """In each API, arguments that are a JSON value become its text, and the doubt is noted."""
    text = json.dumps(value, ensure_ascii=False)
    outcome = read("chat", chunk(delta={"tool_calls": [fragment(value, "f", id="c")]}), chunk(finish="stop"))
    assert outcome.tool_calls == (ToolUse("c", "f", text),)
    assert outcome.doubts == (f"event 1: arguments is {value!r}",)
    call = {"type": "function_call", "id": "fc", "call_id": "c", "name": "f", "arguments": value}
    events = streams()["responses"]
    at = {"output_index": 1}
    added = {"type": "response.output_item.added", **at, "item": {**call, "arguments": ""}}
    done = {"type": "response.function_call_arguments.done", **at, "arguments": value}
    outcome = read("responses", *events[:-1], added, done, events[-1])
    assert outcome.tool_calls == (ToolUse("c", "f", text),)
    if isinstance(value, dict):
        events = streams()["messages"]
        start = {**events[1], "index": 1, "content_block": {"type": "tool_use", "id": "c", "name": "f", "input": {}}}
        delta = {**events[2], "index": 1, "delta": {"type": "input_json_delta", "partial_json": value}}
        outcome = read("messages", *events[:5], start, delta, *events[5:])
        assert outcome.tool_calls == (ToolUse("c", "f", text),)
        assert outcome.extra["content_blocks"][1]["input"] == value
    message = {"content": None, "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": value}}]}
    body = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    assert ChatSession(1).parse(json.dumps(body).encode()).tool_calls == (ToolUse("c", "f", text),)


def test_P23_messages_session_reads_the_input_of_a_tool_from_a_text() -> None:
    """An input that is a text instead of an object is parsed, and an id that is a number becomes a text."""
    block = {"type": "tool_use", "id": 7, "name": "f", "input": '{"x":1}'}
    body = {"content": [block], "stop_reason": "tool_use"}
    outcome = MessagesSession().parse(json.dumps(body).encode())
    assert outcome.tool_calls == (ToolUse("7", "f", '{"x":1}'),)
    assert outcome.extra["content_blocks"] == [{**block, "id": "7", "input": {"x": 1}}]


def test_P23_arguments_raise_protocol_error_when_value_and_text_contradict() -> None:
    """Arguments sent as a JSON value and as a text that contradicts it are an error; a repeated value is harmless."""
    assert calls_of(fragment('{"x":1}', "f", index=0), fragment({"x": 1}, index=0)) == (ToolUse("", "f", '{"x":1}'),)
    assert calls_of(fragment({}, "f", index=0), fragment({"x": 1}, index=0), fragment(" ", index=0)) == (
        ToolUse("", "f", '{"x": 1}'),
    )
    for second in ({"x": 2}, [1]):
        with pytest.raises(errors.StreamProtocolError, match="arguments"):
            calls_of(fragment('{"x":', "f", index=0), fragment(second, index=0))
    with pytest.raises(errors.StreamProtocolError, match="whole value"):
        calls_of(fragment({"x": 1}, "f", index=0), fragment("}", index=0))
