"""Interactions as plain lines: what the models read and said, without times, chunks, ids and checksums.

`show --plain` prints these lines, and `diff` compares them; `git diff` can show them in place of a cassette.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from miniagents.ext._terminal import visible_line
from miniagents_testing._words import counted
from miniagents_testing.cassette import Matching

if TYPE_CHECKING:
    from collections.abc import Iterator

    from miniagents_testing._reading import Reading
    from miniagents_testing.cassette import Interaction


_ALL = Matching(ignore=())


def transcript(interaction: Interaction, reading: Reading, matching: Matching = _ALL) -> list[str]:
    """Return the lines of an interaction, in one line for each value, and for each line of a longer text.

    Args:
        interaction: the request and the answer.
        reading: of the same interaction.
        matching: says which fields of the request and of the answer are left out.
    """
    values = {
        "agent": interaction.agent_path or None,
        "request": f"{interaction.method} {interaction.uri}",
        "read": _content(interaction.request_body, matching),
        "said": _without_ignored(_answer(interaction, reading, matching), matching),
    }
    found: list[str] = []
    for name, value in values.items():
        if value is not None:
            try:
                found += _lines(name, value, "")
            except RecursionError:  # nested as deep as it can be read
                found.append(f"{name}: {json.dumps(value, ensure_ascii=False)}")
    return [visible_line(line) for line in found]


def _answer(interaction: Interaction, reading: Reading, matching: Matching) -> dict[str, Any]:
    """Return the answer of a model, or status and body of another one, without empty parts."""
    response, outcome = interaction.response, reading.outcome
    found: dict[str, Any] = {"end": reading.ending.sentence}
    if outcome is None or response.status >= 400:
        found |= {"status": f"{response.status} {response.reason}".strip(), "body": _content(response.body, matching)}
    else:
        calls = [
            {"name": call.name, "arguments": _content(call.arguments.encode(), matching)} for call in outcome.tool_calls
        ]
        choices = [{"text": choice.content, "end": choice.finish_reason} for choice in outcome.choices]
        found |= {"model": outcome.model, "thinking": outcome.reasoning, "text": outcome.content}
        found |= {"refusal": outcome.refusal, "tool calls": calls, "other choices": choices}
    return {name: value for name, value in found.items() if value not in (None, "", [])}


def _content(body: bytes, matching: Matching) -> Any:
    """Return a body as data if it is JSON, as text, or as its size and hash if it is neither; None if it is empty."""
    if not body:
        return None
    try:
        text = matching.canonical_body(body).decode()
    except UnicodeDecodeError:
        return f"({counted(len(body), 'byte')} of no text, SHA-256 {hashlib.sha256(body).hexdigest()[:16]})"
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _without_ignored(value: dict[str, Any], matching: Matching) -> Any:
    return json.loads(matching.canonical_body(json.dumps(value).encode()))


def _lines(name: str, value: Any, indent: str) -> Iterator[str]:
    """Yield a value with its name in front, over several lines if it is a longer text, an object or an array."""
    begin = f"{indent}{name}" if name == "-" else f"{indent}{name}:"
    if isinstance(value, dict) and value:
        yield begin
        for key, inner in value.items():
            yield from _lines(key, inner, f"{indent}  ")
    elif isinstance(value, list) and value:
        yield begin
        for inner in value:
            yield from _lines("-", inner, f"{indent}  ")
    elif isinstance(value, str) and "\n" in value:
        yield f"{begin} |"
        yield from (f"{indent}  {line}" if line else "" for line in value.split("\n"))
    else:
        yield f"{begin} {_word(value)}"


def _word(value: Any) -> str:
    """Return a value in one line: a text as it is, unless it could be taken for another value."""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    try:
        json.loads(value)
    except ValueError:
        return value if value and value == value.strip() and value != "|" else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)
