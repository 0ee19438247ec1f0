"""Rules of the APIs about the messages of a request, as validators that tests call."""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["check_prompt"]


def check_prompt(api: str, prompt: list[dict[str, Any]], *, has_tools: bool = True) -> None:
    """Raise `AssertionError` if an API would refuse these messages, items or turns for their calls and results."""
    if api == "chat":
        _check_chat(prompt)
    elif api == "responses":
        _check_responses(prompt)
    else:
        _check_turns(prompt, has_tools)


def _check_arguments(text: str) -> None:
    """Check that the arguments of a call are the text of a JSON object."""
    assert isinstance(json.loads(text, parse_constant=lambda name: 1 / 0), dict)


def _check_chat(messages: list[dict[str, Any]]) -> None:
    """Check that each answer with calls is followed by one result for each, and that no other result is there."""
    position = 0
    while position < len(messages):
        message = messages[position]
        position += 1
        assert message["role"] in ("system", "developer", "user", "assistant"), message
        assert message.get("content") is not None or message.get("tool_calls") or message.get("refusal")
        calls = message.get("tool_calls", [])
        ids = [call["id"] for call in calls]
        assert all(isinstance(id_, str) and id_ for id_ in ids)
        assert len(set(ids)) == len(ids)
        for call in calls:
            if call["type"] == "function":
                assert call["function"]["name"]
                _check_arguments(call["function"]["arguments"])
        results = messages[position : position + len(ids)]
        assert [(each["role"], each["tool_call_id"]) for each in results] == [("tool", id_) for id_ in ids]
        assert all(isinstance(each["content"], (str, list)) for each in results)
        position += len(ids)


def _check_responses(items: list[dict[str, Any]]) -> None:
    """Check that each call has exactly one output, behind it, under an id of its own."""
    kinds = {"function_call_output": "function_call", "custom_tool_call_output": "custom_tool_call"}
    calls: dict[str, str] = {}
    answered: set[str] = set()
    for item in items:
        kind = item.get("type", "message")
        if kind in kinds.values():
            assert item["call_id"] not in calls
            assert 1 <= len(item["call_id"]) <= 64
            calls[item["call_id"]] = kind
            if kind == "function_call":
                _check_arguments(item["arguments"])
        elif kind in kinds:
            assert calls.get(item["call_id"]) == kinds[kind]
            assert item["call_id"] not in answered
            answered.add(item["call_id"])
    assert answered == calls.keys()


def _check_turns(turns: list[dict[str, Any]], has_tools: bool) -> None:
    """Check that turns alternate, and that the turn behind calls begins with one result for each of them."""
    seen: set[str] = set()
    expected: list[str] = []
    for number, turn in enumerate(turns):
        assert turn["role"] == ("assistant" if number % 2 == (turns[0]["role"] != "assistant") else "user")
        assert turn["content"]
        blocks = turn["content"] if isinstance(turn["content"], list) else [{"type": "text", "text": turn["content"]}]
        assert all(str(block["text"]).strip() for block in blocks if block["type"] == "text")
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        assert results == expected
        assert all(block["type"] == "tool_result" for block in blocks[: len(results)])
        expected = [block["id"] for block in blocks if block["type"] == "tool_use"]
        assert not expected or (turn["role"] == "assistant" and has_tools)
        assert all(re.fullmatch(r"[a-zA-Z0-9_-]+", id_) for id_ in expected)
        assert not seen & {*expected}
        assert len({*expected}) == len(expected)
        seen |= {*expected}
        assert all(isinstance(block["input"], dict) for block in blocks if block["type"] == "tool_use")
    assert not expected
