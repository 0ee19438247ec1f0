"""Scripted streams compared with recorded ones: the same events, in a recorded order, with the same fields."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from miniagents.ext.llm.sse import SSEDecoder
from miniagents_testing import ScriptedLLM, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miniagents_testing._script import API

CORPUS = Path(os.environ.get("MINIAGENTS_CORPUS", ""))
NATIVE = {"chat": "openai/chat", "responses": "openai/responses", "messages": "anthropic/messages"}
CALLS: Any = [("look", {"where": "over there"}), ("find", {"what": 1})]
STEPS = {
    "text": Step("one two"),
    "length": Step("one two", finish_reason="length"),
    "calls": Step(tool_calls=CALLS),
    "text_and_call": Step("one two", tool_calls=CALLS[:1]),
    "refusal": Step(refusal="one two"),
    "reasoning": Step("one two", reasoning="three four"),
}

pytestmark = pytest.mark.skipif(
    not os.environ.get("MINIAGENTS_CORPUS"), reason="MINIAGENTS_CORPUS does not name a folder of recorded streams"
)


class Seen(NamedTuple):
    """Orders of events, and fields of events, in the streams that a provider really sent."""

    orders: set[tuple[str, ...]]
    """Kinds of events, neighbours of one kind as one."""
    sometimes: dict[str, set[str]]
    """Of each kind, the fields that at least one event had."""
    always: dict[str, set[str]]
    """Of each kind, the fields that every event had."""


# OpenAI shows no reasoning in chat completions, and those who do are not alike
PAIRS = [(api, name) for api in NATIVE for name in STEPS if (api, name) != ("chat", "reasoning")]


@pytest.mark.parametrize(("api", "name"), PAIRS)
def test_scripted_stream_has_the_events_and_fields_of_recorded_ones(api: API, name: str) -> None:
    """A scripted stream has a recorded order of events, only recorded fields, and each field that all events had."""
    request = {"model": "m", "stream": True, "stream_options": {"include_usage": True}, "messages": [], "input": []}
    events = list(_events(ScriptedLLM(STEPS[name]).respond(api, request).body))
    seen = _seen(api)
    assert _order(api, events) in seen.orders
    for event in events:
        kind, fields = _kind(api, event), set(_fields(event))
        known = seen.sometimes[kind]
        if kind == "response.incomplete ":  # few were recorded, and their response has the fields of a complete one
            known = known | seen.sometimes["response.completed "]
        assert fields <= known, kind
        assert fields >= seen.always[kind], kind


@cache
def _seen(api: str) -> Seen:
    seen = Seen(set(), defaultdict(set), {})
    for path in sorted((CORPUS / NATIVE[api]).glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["authenticity"] not in ("recorded", "likely-recorded") or record["response"]["status"] != 200:
            continue
        events = list(_events(record["response"]["body_text"].encode()))
        seen.orders.add(_order(api, events))
        for event in events:
            kind, fields = _kind(api, event), set(_fields(event))
            seen.sometimes[kind] |= fields
            seen.always[kind] = seen.always.get(kind, fields) & fields
    assert seen.orders, f"{CORPUS / NATIVE[api]} has no recorded streams"
    return seen


def _events(body: bytes) -> Iterator[Any]:
    for event in SSEDecoder().feed(body):
        yield None if event.data == b"[DONE]" else json.loads(event.data)


def _order(api: str, events: list[Any]) -> tuple[str, ...]:
    return tuple(kind for kind, _ in groupby(_kind(api, event) for event in events))


def _kind(api: str, event: Any) -> str:
    """Return the kind of an event, with the kind of its content."""
    if event is None:
        return "[DONE]"
    if api == "chat":
        return _kind_of_chunk(event)
    inner = next((event[name]["type"] for name in ("item", "part", "content_block") if name in event), "")
    if event["type"] == "content_block_delta":
        inner = event["delta"]["type"]
    return f"{event['type']} {inner}"


def _kind_of_chunk(chunk: Any) -> str:
    if not chunk.get("choices"):
        return "no choices"
    choice = chunk["choices"][0]
    delta = choice.get("delta") or {}
    if choice.get("finish_reason"):
        return "finish"
    if "role" in delta:
        return "role"
    if delta.get("tool_calls"):
        return "tool call" if "id" in delta["tool_calls"][0] else "arguments"
    return ", ".join(name for name, value in delta.items() if value is not None)


def _fields(value: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of all fields at every depth, except the arguments of tool calls."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield f"{path}.{name}"
            if name != "input":
                yield from _fields(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from _fields(inner, path)
