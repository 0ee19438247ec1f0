"""Commands that check cassettes.

`verify`: check that cassettes are undamaged and can be decoded.

`lint`: find secrets and other content that should not be committed, and cassettes that no test names.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from miniagents_testing._words import counted
from miniagents_testing.cassette._bodies import CONTENT_HEADERS
from miniagents_testing.cassette._headers import HeaderRule
from miniagents_testing.cassette._interaction import is_text
from miniagents_testing.cli._drift import find_drift
from miniagents_testing.cli._leaks import secrets_in_file
from miniagents_testing.cli._screen import (
    CommandError,
    Screen,
    find_cassettes,
    read_cassette,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Sequence

    from miniagents_testing.cassette import Interaction
    from miniagents_testing.cli._commands import Commands
    from miniagents_testing.cli._screen import CassetteFile


_MAX_HEADERS_SHOWN = 6
"""The longest list of header names in one finding; the others are counted."""
_INDENTED_LINE = re.compile(rb"^[ \t]+(?:data|event):", re.MULTILINE)


def add_verify(commands: Commands) -> None:
    """Add the arguments of `verify`."""
    verify = commands.add_parser(
        "verify",
        help="check that cassettes are undamaged and can be decoded, and show how their streams ended",
        description="Prints one line for each file. A recorded failure is not a problem of the file: a 429, a broken "
        "connection, a reader that left. A stream that stops without an end is a problem if the file has no checksums: "
        "then the file itself may have been cut.",
    )
    verify.add_argument("path", nargs="+", metavar="PATH", help="a cassette, or a folder of cassettes")
    verify.add_argument(
        "--drift",
        action="store_true",
        help="also count the fields of answers that the models of the installed SDKs do not know, or that are missing",
    )
    verify.add_argument("--strict", action="store_true", help="with --drift: such fields are a problem")
    verify.set_defaults(run=_run_verify)


def _run_verify(options: argparse.Namespace) -> int:
    """Run `verify`, and return the exit code."""
    if options.strict and not options.drift:
        raise CommandError("--strict says that what --drift finds is a problem: give both")
    screen = Screen()
    bad = drifted = 0
    paths = find_cassettes(options.path)
    for path in paths:
        cassette = read_cassette(path)
        problems = _find_problems(cassette)
        bad += bool(problems)
        if problems:
            text = "; ".join(_without_path(problem, path) for problem in problems)
            screen.print_row("bad", str(path), text, style="red")
        else:
            note = "" if cassette.has_checksum else " (no checksums)"
            screen.print_row("ok", str(path), summarize(cassette) + note, style="green")
        drift = find_drift(cassette) if options.drift else []
        drifted += bool(drift)
        for text in drift:
            screen.print_row("drift", str(path), text, style="yellow")
    if screen.is_for_people and len(paths) > 1:
        screen.print(f"{bad or 'none'} of {counted(len(paths), 'cassette')} bad", style="red" if bad else "green")
    return int(bad > 0 or (options.strict and drifted > 0))


def _find_problems(cassette: CassetteFile) -> list[str]:
    """Return the problems of a cassette, one line each, with the path of the file and the number of the interaction.

    Problems are damage, what cannot be decoded, and streams that are cut off in a file without checksums.
    """
    problems = list(cassette.damage)
    for number, reading in enumerate(cassette.readings, 1):
        if reading.problem or (reading.ending.word == "cut off" and not cassette.has_checksum):
            problems.append(f"{cassette.path}, interaction {number}: {reading.ending.sentence}")
    return problems


def _without_path(problem: str, path: Path) -> str:
    """Return the description of a problem without the path at its beginning."""
    return problem.removeprefix(str(path)).lstrip(":, ")


def summarize(cassette: CassetteFile) -> str:
    """Return the size of a cassette, and the number of its streams for each kind of ending."""
    endings = Counter(reading.ending.word for reading in cassette.readings)
    counts = ", ".join(f"{count} {word}" for word, count in endings.most_common()) or "empty"
    chunks = sum(len(interaction.response.chunks) for interaction in cassette.interactions)
    size = f"{counted(len(cassette.interactions), 'interaction')}, {counted(chunks, 'chunk')}"
    return f"{size}: {counts}"


def add_lint(commands: Commands) -> None:
    """Add the arguments of `lint`."""
    lint = commands.add_parser(
        "lint",
        help="find secrets, unreadable bodies, unneeded headers, cassettes that no test names, and damage",
        description="Prints one line for each finding, or how many cassettes were searched. Secrets are texts of "
        "fields with names such as client_secret or password, values of environment variables with names such as "
        "OPENAI_API_KEY or DB_PASSWORD, and keys of known "
        "shapes: in plain, JSON, percent or base64 spelling, and across the chunks of a stream. Headers that a "
        "recording of today drops or redacts are reported: they often hold keys and cookies. In a file that cannot be "
        "read, secrets are looked for line by line.",
    )
    lint.add_argument("path", nargs="+", metavar="PATH", help="a cassette, or a folder of cassettes")
    lint.add_argument(
        "--tests",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="also find the cassettes that no test in this folder names; may be given several times",
    )
    lint.set_defaults(run=_run_lint)


def _run_lint(options: argparse.Namespace) -> int:
    """Run `lint`, and return the exit code."""
    screen = Screen()
    missing = [folder for folder in options.tests if not folder.is_dir()]
    if missing:
        raise CommandError(f"there is no folder {missing[0]}")
    references = _CassetteReferences(options.tests) if options.tests else None
    paths = find_cassettes(options.path)
    found = 0
    for path in paths:
        for finding in _find(read_cassette(path), references):
            found += 1
            screen.print_row(*finding, style="red")
    if screen.is_for_people or not found:
        screen.print(
            f"{counted(found, 'finding')} in {counted(len(paths), 'cassette')}",
            style="red" if found else "green",
        )
    return int(found > 0)


class _Finding(NamedTuple):
    """Row of the output of `lint`."""

    kind: str
    where: str
    what: str


def _find(cassette: CassetteFile, references: _CassetteReferences | None) -> Iterator[_Finding]:
    """Yield the findings in a cassette; without `references`, cassettes that no test names are not found."""
    path = str(cassette.path)
    for problem in _find_problems(cassette):
        yield _Finding("damage", path, _without_path(problem, cassette.path))
    for leak in secrets_in_file(cassette):
        yield _Finding("secret", f"{path}, {leak.where}", leak.what)
    for number, interaction in enumerate(cassette.interactions, 1):
        for kind, what in _find_in_bodies(interaction):
            yield _Finding(kind, f"{path}, interaction {number}", what)
    unneeded = _unneeded_headers(cassette)
    if unneeded:
        more = f" and {len(unneeded) - _MAX_HEADERS_SHOWN} more" if len(unneeded) > _MAX_HEADERS_SHOWN else ""
        yield _Finding(
            "headers", path, f"a recording of today drops or redacts {', '.join(unneeded[:_MAX_HEADERS_SHOWN])}{more}"
        )
    if references is not None and not references.include(cassette.path):
        yield _Finding("orphan", path, "no test names it")


def _find_in_bodies(interaction: Interaction) -> Iterator[tuple[str, str]]:
    """Yield kind and description of findings in bodies: no UTF-8 ("opaque"), stream lines after a space ("damage")."""
    for side, body in (("request", interaction.request_body), ("response", interaction.response.body)):
        if not is_text(body):
            yield "opaque", f"the {side} body is {counted(len(body), 'byte')} of no text: secrets in it cannot be found"
    if _INDENTED_LINE.search(interaction.response.body):
        yield "damage", "a line of the stream begins with a space, so clients ignore it; remove the space"


def _unneeded_headers(cassette: CassetteFile) -> list[str]:
    """Return the recorded headers that a recording of today would drop or redact: sorted, in lower case."""
    rule = HeaderRule()
    names: set[str] = set()
    for interaction in cassette.interactions:
        names |= {name.lower() for name in interaction.request_headers} - CONTENT_HEADERS
        kept = rule.of_response(
            (name, value) for name, values in interaction.response.headers.items() for value in values
        )
        names |= {name.lower() for name, values in interaction.response.headers.items() if kept.get(name) != values}
    return sorted(names)


class _CassetteReferences:
    """Index of the cassettes that the tests in some folders name. Tests are parsed, not run.

    The default cassette of a test is `<module>/<test>.yaml`. There `<test>` begins with the class, if there is one, and
    ends with the parameters in brackets. Other cassettes are named in a string: in a marker, an argument or a path. The
    shared ones, `<module>/module.yaml` and `session.yaml`, are named by the fixtures `module_cassette` and
    `session_cassette`.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._strings: set[str] = set()
        self._tests: defaultdict[str, set[str]] = defaultdict(set)
        """Names of the tests, by module."""
        self._arguments: set[str] = set()
        for folder in folders:
            for path in sorted(folder.rglob("*.py")):
                try:
                    tree = ast.parse(path.read_bytes(), str(path))
                except (SyntaxError, ValueError):  # a file that is the data of a test
                    continue
                self._strings |= {
                    node.value
                    for node in ast.walk(tree)
                    if isinstance(node, ast.Constant) and isinstance(node.value, str)
                }
                self._tests[path.stem].update(_names_of_tests(tree.body))
                self._arguments |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}

    def include(self, cassette: Path) -> bool:
        """Return True if a test names this cassette.

        A string names it with the last parts of its path, with or without the suffix.
        """
        if cassette.stem.partition("[")[0] in self._tests[cassette.parent.name]:
            return True
        is_shared = cassette.stem == "session" or (cassette.stem == "module" and cassette.parent.name in self._tests)
        if is_shared and f"{cassette.stem}_cassette" in self._arguments:
            return True
        paths = (cassette, cassette.with_suffix(""))
        return any(end in self._strings for path in paths for end in _path_ends(path.parts))


def _names_of_tests(body: Sequence[ast.stmt], prefix: str = "") -> Iterator[str]:
    """Yield the names of all functions in the body of a module, and of its classes as `Class.name`."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + node.name
        elif isinstance(node, ast.ClassDef):
            yield from _names_of_tests(node.body, f"{prefix}{node.name}.")


def _path_ends(parts: Sequence[str]) -> Iterator[str]:
    """Yield all ends of a path, the longest first: `a/b/c.yaml`, `b/c.yaml`, `c.yaml`."""
    for start in range(len(parts)):
        yield "/".join(parts[start:])
