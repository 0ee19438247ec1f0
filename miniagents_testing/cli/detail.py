"""One interaction in full: what was sent, what came back, and the chunk map as a person reads it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from rich.text import Text

from miniagents_testing._streams import TICKS_PER_SECOND
from miniagents_testing.cli.screen import one_line, styled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from miniagents_testing.cassette._interaction import Interaction
    from miniagents_testing.cassette.reading import Reading

__all__ = ["in_full"]

_EVENT = re.compile(rb"^event: ?(\S+)|^data: ?(\[DONE\])", re.MULTILINE)


def in_full(interaction: Interaction, reading: Reading) -> Iterator[Text]:
    """The parts of the picture, each some lines to print."""
    answer = interaction.response
    if interaction.agent:
        yield _head("agent", interaction.agent)
    yield _head("request", f"{interaction.method} {interaction.uri}", interaction.request_headers)
    yield _indented(_pretty(interaction.request_body))
    status = f"HTTP {answer.status} {answer.reason}, {answer.headers_ms:.2f} ms after the request"
    yield _head("response", status if answer.status else "none", answer.headers)
    outcome = reading.outcome
    if outcome is None:
        yield _indented(_pretty(answer.body))
    else:
        for name, text in (("thinking", outcome.reasoning), ("text", outcome.content), ("refusal", outcome.refusal)):
            if text:
                yield _head(name)
                yield _indented(text)
        for call in outcome.tool_calls:
            yield _head("tool call", f"{call.name} ({call.id})")
            yield _indented(_pretty(call.arguments.encode()))
        for choice in outcome.choices:
            yield _head(f"choice {choice.index}", choice.finish_reason or "")
            yield _indented(choice.content)
    facts = [reading.ending.sentence, reading.model, *_usage(reading)]
    yield _head("end", ", ".join(filter(None, facts)))
    yield _head("chunks", f"{len(answer.chunks)}, {len(answer.body):,} bytes")
    yield from _chunk_lines(interaction, reading)


def _head(name: str, text: str = "", headers: Mapping[str, list[str]] | None = None) -> Text:
    """A line that begins with a name, and the headers below it."""
    lines = [
        one_line(text),
        *(one_line(f"{key}: {value}") for key, values in (headers or {}).items() for value in values),
    ]
    head = Text().append(f"{name:10}", "bold cyan").append("\n          ".join(lines))
    head.rstrip()
    return head


def _indented(text: str) -> Text:
    lines = styled(text).split("\n")
    return Text("\n").join([Text("  ").append_text(line) for line in lines])


def _pretty(body: bytes) -> str:
    """JSON in lines; any other text as it is; of anything else the size."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return f"({len(body):,} bytes that are no text)"
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _usage(reading: Reading) -> list[str]:
    usage = reading.outcome.usage if reading.outcome else None
    if usage is None:
        return []
    names = (("in", usage.input), ("out", usage.output), ("cached", usage.cached), ("reasoning", usage.reasoning))
    return [f"{count} tokens {name}" for name, count in names if count is not None]


def _chunk_lines(interaction: Interaction, reading: Reading) -> Iterator[Text]:
    """The chunk map as a person reads it: when each chunk came, how big it is, and what it says."""
    yield Text(f"  {'#':>5} {'at ms':>10} {'wait ms':>9} {'bytes':>7}  says", "dim")
    moment = interaction.response.headers_ms
    for number, (chunk, pieces) in enumerate(zip(interaction.response.chunks, reading.chunks, strict=True), 1):
        wait = chunk.wait * 1000 / TICKS_PER_SECOND
        moment += wait
        says = " ".join(repr(piece.text) for piece in pieces) or _names_of_events(chunk.data)
        yield Text(f"  {number:5} {moment:10.2f} {wait:9.2f} {len(chunk.data):7,}  {one_line(says)}".rstrip())


def _names_of_events(data: bytes) -> str:
    """What there is to say of a chunk that says nothing."""
    names = [(name or done).decode(errors="replace") for name, done in _EVENT.findall(data)]
    return f"({', '.join(names)})" if names else ""
