"""`lint`: what should not be in committed cassettes, and cassettes that should not be there.

`verify`: whether cassettes are what was recorded, can be read, and how their streams ended.

Cassettes that no test of a tree names. Tests are read, not run.
"""

from __future__ import annotations

import ast
import os
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from miniagents_testing.cassette._interaction import KEPT_HEADERS, is_text
from miniagents_testing.cassette._secrets import known_secrets, scan
from miniagents_testing.cli._screen import Impossible, Screen, cassette_paths, counted, open_cassette, progress

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Sequence

    from miniagents_testing.cassette import Interaction
    from miniagents_testing.cli._commands import Commands
    from miniagents_testing.cli._screen import Cassette


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
            seal = "" if cassette.has_checksum else " (not sealed)"
            screen.row("ok", str(path), summary(cassette) + seal, style="green")
    if screen.live and len(paths) > 1:
        screen.print(f"{found or 'none'} of {len(paths)} cassettes bad", style="red" if found else "green")
    return int(found > 0)


def faults(cassette: Cassette) -> list[str]:
    """What is wrong with a cassette; each names the file, and the interaction where it is one."""
    found = list(cassette.damage)
    for number, reading in enumerate(cassette.readings, 1):
        if reading.problem or (reading.ending.word == "cut off" and not cassette.has_checksum):
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


class TestNames:
    """What the tests of some folders call cassettes.

    A test has its cassette by default at `<module>/<test>.yaml`, where `<test>` begins with the class if there is one
    and goes on with the parameters in brackets. Others are named in a text: a marker, an argument, a path.
    """

    __test__ = False  # no test class, whatever pytest makes of the name

    def __init__(self, folders: Iterable[Path]) -> None:
        self._texts: set[str] = set()
        self._tests: defaultdict[str, set[str]] = defaultdict(set)
        """Names of tests, by module."""
        for folder in folders:
            for path in sorted(folder.rglob("*.py")):
                try:
                    tree = ast.parse(path.read_bytes(), str(path))
                except (SyntaxError, ValueError):  # data of a test, and no test
                    continue
                self._texts |= {
                    node.value
                    for node in ast.walk(tree)
                    if isinstance(node, ast.Constant) and isinstance(node.value, str)
                }
                self._tests[path.stem].update(_tests(tree.body))

    def claim(self, cassette: Path) -> bool:
        """Whether any of them names this cassette, by the last parts of its path, with or without the ending."""
        if cassette.stem.partition("[")[0] in self._tests[cassette.parent.name]:
            return True
        return any(tail in self._texts for path in (cassette, cassette.with_suffix("")) for tail in _tails(path.parts))


def _tests(body: Sequence[ast.stmt], prefix: str = "") -> Iterator[str]:
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + node.name
        elif isinstance(node, ast.ClassDef):
            yield from _tests(node.body, f"{prefix}{node.name}.")


def _tails(parts: Sequence[str]) -> Iterator[str]:
    """`c.yaml`, `b/c.yaml`, `a/b/c.yaml`."""
    for start in range(len(parts)):
        yield "/".join(parts[start:])


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
