"""Command `export`: write a cassette as a picture, one HTML page without any other file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from miniagents_testing._pictures import read_run
from miniagents_testing._pictures.page import facts_of, is_page, write_page
from miniagents_testing._words import counted
from miniagents_testing.cli._lint import secrets_in
from miniagents_testing.cli._screen import PROBLEMS_FOUND, CommandError, Screen, print_error, read_cassette

if TYPE_CHECKING:
    import argparse

    from miniagents_testing.cli._commands import Commands


def add_export(commands: Commands) -> None:
    """Register the command `export` with its help and its arguments."""
    export = commands.add_parser(
        "export",
        help="write a cassette as one HTML page that shows and plays the run",
        description="The page has a lane for each agent, with its requests and tokens over time, the transcript, and "
        "a player. It needs no network and no other file. A cassette with a secret is refused.",
    )
    export.add_argument("file", type=Path, metavar="FILE", help="a cassette")
    export.add_argument("-o", "--output", required=True, type=Path, metavar="PAGE", help="the HTML file to write")
    export.add_argument(
        "--force", action="store_true", help="write the page also if a secret is in it, or another file is in its place"
    )
    export.set_defaults(run=_run_export)


def _run_export(options: argparse.Namespace) -> int:
    """Write the page, and return 0; write nothing and return 1 if the cassette is damaged or has a secret.

    Raises:
        CommandError: there is another file at the path of the page.
        OSError: the cassette cannot be read, or the page cannot be written.
    """
    file, target = options.file, options.output
    cassette = read_cassette(file)
    problems = [*cassette.damage]
    if not (problems or options.force):
        problems += [
            f"{file}, {secret.where}, {secret.what}: a secret; remove it, or write the page with --force"
            for secret in secrets_in(cassette.interactions)
        ]
    if problems:
        for problem in problems:
            print_error(problem)
        return PROBLEMS_FOUND
    if target.is_dir():
        raise CommandError(f"{target} is a folder: give the path of a file, such as {target / file.stem}.html")
    if target.exists() and (target.samefile(file) or not (options.force or is_page(target))):
        raise CommandError(f"{target} exists already and is no picture; --force replaces it, but never the cassette")
    run = read_run(cassette.interactions, cassette.readings)
    size = write_page(target, run, file.name)
    Screen().print_row(str(target), facts_of(run), counted(size, "byte"), style="green")
    return 0
