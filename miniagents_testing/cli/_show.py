"""Command `show`: print the interactions of cassettes as a table, or one interaction in full.

In full means the request, the response, its ending, and the chunk map in readable form.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from miniagents_testing._reading import read_interaction
from miniagents_testing._streams import TICKS_PER_SECOND
from miniagents_testing.cassette import load
from miniagents_testing.cassette._interaction import ends_ms
from miniagents_testing.cli._screen import (
    CommandError,
    Screen,
    find_cassettes,
    make_safe,
    make_safe_line,
    print_error,
    read_cassette,
    show_progress,
)
from miniagents_testing.cli._transcript import transcript

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from miniagents_testing._reading import Reading
    from miniagents_testing.cassette import Interaction
    from miniagents_testing.cli._commands import Commands
    from miniagents_testing.cli._screen import CassetteFile


_MAX_QUESTION_CHARS = 200
_MAX_FRAME_CHARS = 100
_RIGHT_ALIGNED = frozenset({"number", "chunks", "seconds", "tokens_in", "tokens_out"})
_EVENT = re.compile(rb"^event: ?(\S+)|^data: ?(\[DONE\])", re.MULTILINE)


class _Row(NamedTuple):
    """Interaction as a row of the table."""

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


def add_show(commands: Commands) -> None:
    """Add the arguments of `show`."""
    show = commands.add_parser(
        "show",
        help="print the interactions of cassettes: agents, questions, sizes and endings",
        description="Prints one line for each interaction. In a pipe, tabs stand between the values, and the first "
        "line has the names of the columns.",
    )
    show.add_argument("path", nargs="+", metavar="PATH", help="a cassette, or a folder of cassettes")
    form = show.add_mutually_exclusive_group()
    form.add_argument("--number", "-n", type=int, metavar="N", help="print the N-th interaction of one file in full")
    form.add_argument(
        "--plain",
        action="store_true",
        help="print what the models read and said, one value a line: git diff can show cassettes so, as `textconv`",
    )
    show.set_defaults(run=_run_show)


def _run_show(options: argparse.Namespace) -> int:
    """Print a row for each interaction, or one interaction in full for `--number`. Return 1 if a file is damaged."""
    screen = Screen()
    paths = find_cassettes(options.path)
    if options.number is not None:
        if len(paths) != 1:
            raise CommandError(f"--number needs one cassette, and there are {len(paths)}: name a single file")
        _print_in_full(paths[0], options.number, screen)
        return 0
    if not screen.live and not options.plain:
        screen.print_row("file", *_Row._fields)
    has_damage = False
    for path in show_progress(paths, screen, "reading"):
        cassette = read_cassette(path)
        if options.plain:
            _print_plain(cassette, screen)
        else:
            _print_rows(cassette, screen)
        for damage in cassette.damage:
            has_damage = True
            print_error(damage)
    return int(has_damage)


def _print_rows(cassette: CassetteFile, screen: Screen) -> None:
    """Print the interactions of one cassette: as a table on a terminal, else as lines with tabs."""
    numbered = enumerate(zip(cassette.interactions, cassette.readings, strict=True), 1)
    rows = [_create_row(number, interaction, reading) for number, (interaction, reading) in numbered]
    if not screen.live:
        for row in rows:
            screen.print_row(str(cassette.path), *row)
    elif rows:
        screen.print(_create_table(cassette, rows), soft_wrap=False)
    elif not cassette.damage:
        screen.print_row(str(cassette.path), "no interactions")


def _print_plain(cassette: CassetteFile, screen: Screen) -> None:
    """Print the interactions of one cassette as plain lines, with a number in front of each."""
    numbered = enumerate(zip(cassette.interactions, cassette.readings, strict=True), 1)
    for number, (interaction, reading) in numbered:
        lines = [f"--- {number}", *transcript(interaction, reading), ""]
        if screen.live:
            screen.print(Text("\n".join(lines)))
        else:
            print("\n".join(lines), file=screen.file)


def _create_row(number: int, interaction: Interaction, reading: Reading) -> _Row:
    """Return the row of one interaction; unknown values are empty.

    The last question of the prompt stands for it, or method and URI if there is no prompt.
    """
    answer = interaction.response
    seconds = (ends_ms([interaction]) - interaction.started_ms) / 1000
    usage = reading.outcome.usage if reading.outcome else None
    counts = (usage.input, usage.output) if usage else (None, None)
    return _Row(
        str(number),
        interaction.agent,
        reading.provider,
        reading.model,
        make_safe_line(reading.prompt.last.text, _MAX_QUESTION_CHARS) or f"{interaction.method} {interaction.uri}",
        str(len(answer.chunks)),
        f"{seconds:.2f}" if seconds else "",
        reading.ending.word,
        *("" if count is None else str(count) for count in counts),
    )


def _create_table(cassette: CassetteFile, rows: list[_Row]) -> Table:
    """Return the table of one cassette, without columns that are empty in all rows. Incomplete answers are yellow."""
    title = Text(make_safe_line(str(cassette.path)), "bold")
    if cassette.interactions and not cassette.has_checksum:
        title.append("  (of another tool: no times, no checksums)", "dim")
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    known = [index for index in range(len(_Row._fields)) if any(row[index] for row in rows)]
    for name in (_Row._fields[index] for index in known):
        heading = "#" if name == "number" else name.replace("_", " ")
        table.add_column(
            heading, justify="right" if name in _RIGHT_ALIGNED else "left", no_wrap=True, overflow="ellipsis"
        )
    for row, reading in zip(rows, cassette.readings, strict=True):
        style = "" if reading.ending.complete else "yellow"
        table.add_row(*(Text(make_safe_line(row[index])) for index in known), style=style)
    return table


def _print_in_full(path: Path, number: int, screen: Screen) -> None:
    """Print one interaction of a file in full.

    Raises:
        CommandError: the file has no interaction with this number.
    """
    interactions = load(path)
    if not 1 <= number <= len(interactions):
        raise CommandError(f"{path} has {len(interactions)} interactions; there is no number {number}")
    interaction = interactions[number - 1]
    screen.print(Text(f"{make_safe_line(str(path))}, interaction {number} of {len(interactions)}\n", "bold"))
    for text in _render_in_full(interaction, read_interaction(interaction)):
        screen.print(text)


def _render_in_full(interaction: Interaction, reading: Reading) -> Iterator[Text]:
    """Yield texts to print: agent, request, response, decoded answer or raw body, end, and a table of chunks."""
    answer = interaction.response
    if interaction.agent:
        yield _heading("agent", interaction.agent)
    yield _heading("request", f"{interaction.method} {interaction.uri}", interaction.request_headers)
    yield _indent(_format_body(interaction.request_body))
    protocol = "HTTP " if interaction.uri.startswith(("http", "ws")) else ""
    status = f"{protocol}{answer.status} {answer.reason}, {answer.headers_ms:.2f} ms after the request"
    yield _heading("response", status if answer.status else "none", answer.headers)
    outcome = reading.outcome
    if outcome is None:
        yield _indent(_format_body(answer.body))
    else:
        for name, text in (("thinking", outcome.reasoning), ("text", outcome.content), ("refusal", outcome.refusal)):
            if text:
                yield _heading(name)
                yield _indent(text)
        for call in outcome.tool_calls:
            yield _heading("tool call", f"{call.name} ({call.id})")
            yield _indent(_format_body(call.arguments.encode()))
        for choice in outcome.choices:
            yield _heading(f"choice {choice.index}", choice.finish_reason or "")
            yield _indent(choice.content)
    facts = [reading.ending.sentence, reading.model, *_format_usage(reading)]
    yield _heading("end", ", ".join(filter(None, facts)))
    yield _heading("chunks", f"{len(answer.chunks)}, {len(answer.body):,} bytes")
    yield from _chunk_lines(interaction, reading)


def _heading(name: str, text: str = "", headers: Mapping[str, list[str]] | None = None) -> Text:
    """Return the first line of a section, which begins with its name, and the headers below it."""
    lines = [
        make_safe_line(text),
        *(make_safe_line(f"{key}: {value}") for key, values in (headers or {}).items() for value in values),
    ]
    head = Text().append(f"{name:10}", "bold cyan").append("\n          ".join(lines))
    head.rstrip()
    return head


def _indent(text: str) -> Text:
    """Return the text with two spaces before each line, safe to print."""
    lines = make_safe(text).split("\n")
    return Text("\n").join([Text("  ").append_text(line) for line in lines])


def _format_body(body: bytes) -> str:
    """Return JSON with line breaks, other text as it is, and the size of anything else."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return f"({len(body):,} bytes that are not text)"
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _format_usage(reading: Reading) -> list[str]:
    """Return the counts of tokens that the provider reported, one text each."""
    usage = reading.outcome.usage if reading.outcome else None
    if usage is None:
        return []
    names = (("in", usage.input), ("out", usage.output), ("cached", usage.cached), ("reasoning", usage.reasoning))
    return [f"{count} tokens {name}" for name, count in names if count is not None]


def _chunk_lines(interaction: Interaction, reading: Reading) -> Iterator[Text]:
    """Yield a table of the chunks: number, arrival, wait, size and text of each, or event names if it has no text."""
    yield Text(f"  {'#':>5} {'at ms':>10} {'wait ms':>9} {'bytes':>7}  says", "dim")
    moment = interaction.response.headers_ms
    for number, (chunk, pieces) in enumerate(zip(interaction.response.chunks, reading.chunks, strict=True), 1):
        wait = chunk.wait * 1000 / TICKS_PER_SECOND
        moment += wait
        says = " ".join(repr(piece.text) for piece in pieces) or _event_names(chunk.data)
        if interaction.method in ("STDIO", "WEBSOCKET"):
            says = chunk.data.decode(errors="replace")[:_MAX_FRAME_CHARS]
        yield Text(f"  {number:5} {moment:10.2f} {wait:9.2f} {len(chunk.data):7,}  {make_safe_line(says)}".rstrip())


def _event_names(data: bytes) -> str:
    """Return the names of the events in a chunk, in brackets; empty if it has none."""
    names = [(name or done).decode(errors="replace") for name, done in _EVENT.findall(data)]
    return f"({', '.join(names)})" if names else ""
