"""`show`: what is in cassettes, as a table; or one interaction in full."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from miniagents_testing.cassette._file import load
from miniagents_testing.cassette._interaction import ends_ms
from miniagents_testing.cassette.reading import read
from miniagents_testing.cli.detail import in_full
from miniagents_testing.cli.files import cassette_paths, open_cassette
from miniagents_testing.cli.screen import Impossible, Screen, complain, one_line, progress

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from miniagents_testing.cassette._interaction import Interaction
    from miniagents_testing.cassette.reading import Reading
    from miniagents_testing.cli.commands import Commands
    from miniagents_testing.cli.files import Cassette

__all__ = ["add_show"]

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
    if cassette.interactions and not cassette.sealed:
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
