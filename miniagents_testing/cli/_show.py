"""`show`: what is in cassettes, as a table; or one interaction in full.

One interaction in full: what was sent, what came back, and the chunk map as a person reads it.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from miniagents_testing._streams import TICKS_PER_SECOND
from miniagents_testing.cassette import load
from miniagents_testing.cassette._interaction import ends_ms
from miniagents_testing.cli._reading import read
from miniagents_testing.cli._screen import (
    Impossible,
    Screen,
    cassette_paths,
    complain,
    one_line,
    open_cassette,
    progress,
    styled,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from miniagents_testing.cassette import Interaction
    from miniagents_testing.cli._commands import Commands
    from miniagents_testing.cli._reading import Reading
    from miniagents_testing.cli._screen import Cassette


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


_PROMPT_LIMIT = 200


class _Row(NamedTuple):
    """An interaction in a table."""

    number: str
    agent: str
    provider: str
    model: str
    asked: str
    chunks: str
    seconds: str
    end: str
    tokens_in: str
    tokens_out: str


_NUMBERS = frozenset({"number", "chunks", "seconds", "tokens_in", "tokens_out"})


def add_show(commands: Commands) -> None:
    """Add the arguments of `show`."""
    show = commands.add_parser(
        "show",
        help="what is in cassettes: who was asked what, and what came of it",
        description="One line an interaction. In a pipe: values with tabs between them, under a line with their names.",
    )
    show.add_argument("path", nargs="+", metavar="PATH", help="a cassette, or a folder with cassettes in it")
    show.add_argument("--number", "-n", type=int, metavar="N", help="show the N-th interaction of one file in full")
    show.set_defaults(run=_run_show)


def _run_show(options: argparse.Namespace) -> int:
    screen = Screen()
    paths = cassette_paths(options.path)
    if options.number is not None:
        if len(paths) != 1:
            raise Impossible("--number is for an interaction of one file")
        _show_in_full(paths[0], options.number, screen)
        return 0
    if not screen.live:
        screen.row("file", *_Row._fields)
    found = False
    for path in progress(paths, screen, "reading"):
        cassette = open_cassette(path)
        _show(cassette, screen)
        for damage in cassette.damage:
            found = True
            complain(damage)
    return int(found)


def _show(cassette: Cassette, screen: Screen) -> None:
    numbered = enumerate(zip(cassette.interactions, cassette.readings, strict=True), 1)
    rows = [_row(number, interaction, reading) for number, (interaction, reading) in numbered]
    if not screen.live:
        for row in rows:
            screen.row(str(cassette.path), *row)
    elif rows:
        screen.print(_table(cassette, rows), soft_wrap=False)
    elif not cassette.damage:
        screen.row(str(cassette.path), "no interactions")


def _row(number: int, interaction: Interaction, reading: Reading) -> _Row:
    answer = interaction.response
    seconds = (ends_ms([interaction]) - interaction.started_ms) / 1000
    usage = reading.outcome.usage if reading.outcome else None
    counts = (usage.input, usage.output) if usage else (None, None)
    return _Row(
        str(number),
        interaction.agent,
        reading.provider,
        reading.model,
        one_line(reading.prompt.last.text, _PROMPT_LIMIT) or f"{interaction.method} {interaction.uri}",
        str(len(answer.chunks)),
        f"{seconds:.2f}" if seconds else "",
        reading.ending.word,
        *("" if count is None else str(count) for count in counts),
    )


def _table(cassette: Cassette, rows: list[_Row]) -> Table:
    title = Text(one_line(str(cassette.path)), "bold")
    if cassette.interactions and not cassette.has_checksum:
        title.append("  (not ours: no times, no seal)", "dim")
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    known = [index for index in range(len(_Row._fields)) if any(row[index] for row in rows)]
    for name in (_Row._fields[index] for index in known):
        heading = "#" if name == "number" else name.replace("_", " ")
        table.add_column(heading, justify="right" if name in _NUMBERS else "left", no_wrap=True, overflow="ellipsis")
    for row, reading in zip(rows, cassette.readings, strict=True):
        style = "" if reading.ending.whole else "yellow"
        table.add_row(*(Text(one_line(row[index])) for index in known), style=style)
    return table


def _show_in_full(path: Path, number: int, screen: Screen) -> None:
    interactions = load(path)
    if not 1 <= number <= len(interactions):
        raise Impossible(f"{path} has {len(interactions)} interactions; there is no number {number}")
    interaction = interactions[number - 1]
    screen.print(Text(f"{one_line(str(path))}, interaction {number} of {len(interactions)}\n", "bold"))
    for text in in_full(interaction, read(interaction)):
        screen.print(text)
