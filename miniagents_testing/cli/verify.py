"""`verify`: whether cassettes are what was recorded, can be read, and how their streams ended."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from miniagents_testing.cli.files import cassette_paths, open_cassette
from miniagents_testing.cli.screen import Screen, counted, progress

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from miniagents_testing.cli.commands import Commands
    from miniagents_testing.cli.files import Cassette

__all__ = ["add_verify", "faults", "summary", "without_path"]


def add_verify(commands: Commands) -> None:
    """Add the arguments of `verify`."""
    verify = commands.add_parser(
        "verify",
        help="whether cassettes are undamaged and can be decoded, and how their streams ended",
        description="One line a file. What a recording says of a failure (a 429, a broken connection, a reader that "
        "left) is no fault of the file. A stream that just stops is, where the file has no seal: who knows who cut it.",
    )
    verify.add_argument("path", nargs="+", metavar="PATH", help="a cassette, or a folder with cassettes in it")
    verify.set_defaults(run=_run_verify)


def _run_verify(options: argparse.Namespace) -> int:
    screen = Screen()
    found = 0
    paths = cassette_paths(options.path)
    for path in progress(paths, screen, "verifying"):
        cassette = open_cassette(path)
        wrong = faults(cassette)
        found += bool(wrong)
        if wrong:
            screen.row("bad", str(path), "; ".join(without_path(fault, path) for fault in wrong), style="red")
        else:
            seal = "" if cassette.sealed else " (not sealed)"
            screen.row("ok", str(path), summary(cassette) + seal, style="green")
    if screen.live and len(paths) > 1:
        screen.print(f"{found or 'none'} of {len(paths)} cassettes bad", style="red" if found else "green")
    return int(found > 0)


def faults(cassette: Cassette) -> list[str]:
    """What is wrong with a cassette; each names the file, and the interaction where it is one."""
    found = list(cassette.damage)
    for number, reading in enumerate(cassette.readings, 1):
        if reading.problem or (reading.ending.word == "cut off" and not cassette.sealed):
            found.append(f"{cassette.path}, interaction {number}: {reading.ending.sentence}")
    return found


def without_path(fault: str, path: Path) -> str:
    """What is left to say where the file was named already."""
    return fault.removeprefix(str(path)).lstrip(":, ")


def summary(cassette: Cassette) -> str:
    """How much there is, and how it ended."""
    endings = Counter(reading.ending.word for reading in cassette.readings)
    said = ", ".join(f"{count} {word}" for word, count in endings.most_common()) or "empty"
    chunks = sum(len(interaction.response.chunks) for interaction in cassette.interactions)
    size = f"{counted(len(cassette.interactions), 'interaction')}, {counted(chunks, 'chunk')}"
    return f"{size}: {said}"
