"""`lint`: what should not be in committed cassettes, and cassettes that should not be there."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from miniagents_testing.cassette._interaction import KEPT_HEADERS, is_text
from miniagents_testing.cassette._secrets import known_secrets, scan
from miniagents_testing.cli.files import cassette_paths, open_cassette
from miniagents_testing.cli.orphans import TestNames
from miniagents_testing.cli.screen import Impossible, Screen, counted, progress
from miniagents_testing.cli.verify import faults, without_path

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from miniagents_testing.cassette._interaction import Interaction
    from miniagents_testing.cli.commands import Commands
    from miniagents_testing.cli.files import Cassette

__all__ = ["add_lint"]

_NAMED = 6
"""Headers that are named of those that should not be there."""

_LOST_EVENT = re.compile(rb"^[ \t]+(?:data|event):", re.MULTILINE)


class _Finding(NamedTuple):
    kind: str
    where: str
    what: str


def add_lint(commands: Commands) -> None:
    """Add the arguments of `lint`."""
    lint = commands.add_parser(
        "lint",
        help="secrets, bodies nobody can read, headers that nothing needs, orphans, damage",
        description="One line a finding. Secrets: the values of environment variables that are named like one "
        "(OPENAI_API_KEY, DB_PASSWORD), in any encoding and across the pieces of a stream, and what looks like a key. "
        "Headers: those that no client acts on are where keys and cookies stand.",
    )
    lint.add_argument("path", nargs="+", metavar="PATH", help="a cassette, or a folder with cassettes in it")
    lint.add_argument(
        "--tests",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="also name the cassettes that nothing in this folder uses; may be given several times",
    )
    lint.set_defaults(run=_run_lint)


def _run_lint(options: argparse.Namespace) -> int:
    screen = Screen()
    missing = [folder for folder in options.tests if not folder.is_dir()]
    if missing:
        raise Impossible(f"{missing[0]}: there is no such folder")
    names = TestNames(options.tests) if options.tests else None
    paths = cassette_paths(options.path)
    found = 0
    for path in progress(paths, screen, "looking"):
        for finding in _findings(open_cassette(path), names):
            found += 1
            screen.row(*finding, style="red")
    if screen.live:
        screen.print(
            f"{counted(found, 'finding')} in {counted(len(paths), 'cassette')}", style="red" if found else "green"
        )
    return int(found > 0)


def _findings(cassette: Cassette, names: TestNames | None) -> Iterator[_Finding]:
    path = str(cassette.path)
    for fault in faults(cassette):
        yield _Finding("damage", path, without_path(fault, cassette.path))
    for leak in scan(cassette.interactions, known_secrets(os.environ), keys=True):
        yield _Finding("secret", f"{path}, interaction {leak.interaction}", str(replace(leak, interaction=0)))
    for number, interaction in enumerate(cassette.interactions, 1):
        for kind, what in _of_bodies(interaction):
            yield _Finding(kind, f"{path}, interaction {number}", what)
    superfluous = _superfluous_headers(cassette)
    if superfluous:
        more = f" and {len(superfluous) - _NAMED} more" if len(superfluous) > _NAMED else ""
        yield _Finding("headers", path, f"no client acts on {', '.join(superfluous[:_NAMED])}{more}")
    if names is not None and not names.claim(cassette.path):
        yield _Finding("orphan", path, "no test names it")


def _of_bodies(interaction: Interaction) -> Iterator[tuple[str, str]]:
    for whose, body in (("request", interaction.request_body), ("response", interaction.response.body)):
        if not is_text(body):
            yield "opaque", f"the {whose} body is {len(body):,} bytes that nobody can read, and nobody can search"
    if _LOST_EVENT.search(interaction.response.body):
        yield "damage", "a line of the stream begins with a space: clients pass over it, without a word"


def _superfluous_headers(cassette: Cassette) -> list[str]:
    """The names of all headers that are not on the list, each once."""
    names = {
        name.lower()
        for interaction in cassette.interactions
        for headers in (interaction.request_headers, interaction.response.headers)
        for name in headers
    }
    return sorted(names - KEPT_HEADERS)
