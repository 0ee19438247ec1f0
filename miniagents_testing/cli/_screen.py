"""Input and output of the commands.

Output: text of any origin made safe for a terminal, colours on a terminal, plain lines in a pipe.

Input: the cassettes that a command line names, files as well as all cassettes in folders.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from miniagents.ext._terminal import visible, visible_line
from miniagents_testing._reading import read_interaction
from miniagents_testing.cassette import load
from miniagents_testing.cassette._file import MOST_BYTES
from miniagents_testing.errors import CassetteFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from miniagents_testing._reading import Reading
    from miniagents_testing.cassette import Interaction


PROBLEMS_FOUND, NOT_DONE = 1, 2
"""Exit codes of commands; the help of the command line explains them."""
_T = TypeVar("_T")
_MIN_ITEMS_FOR_BAR = 20
"""Fewest items that get a progress bar: fewer ones are done before a user could read it."""
_SUFFIXES = frozenset({".json", ".yaml", ".yml"})
_INTERACTIONS = re.compile(rb'^interactions:|"interactions"\s*:', re.MULTILINE)
_CHECKSUM = re.compile(r'^(?:miniagents| *"miniagents"):', re.MULTILINE)


class CommandError(Exception):
    """A command cannot be run; the message says why and what to do. The exit code is `NOT_DONE`."""


class Screen(Console):
    """Console that prints text as it is: without markup, emoji codes or automatic colours."""

    def __init__(self, file: IO[str] | None = None, *, stderr: bool = False) -> None:
        super().__init__(file=file, stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)

    @property
    def live(self) -> bool:
        """True on a terminal that can move its cursor; always False for a pipe, also with `FORCE_COLOR`."""
        return self.file.isatty() and not self.is_dumb_terminal

    def print_row(self, *values: str, style: str = "") -> None:
        """Print values in one line: in a pipe with tabs between them, else with spaces and the first one in `style`."""
        values = tuple(map(make_safe_line, values))
        if self.live:
            self.print(Text(values[0], style).append("  ".join(("", *values[1:])), "default"))
        else:  # without rich, which replaces tabs by spaces
            print("\t".join(values), file=self.file)

    def on_broken_pipe(self) -> NoReturn:
        """Raise `BrokenPipeError` in place of rich's own exit, so that `main` can return its exit code."""
        self.quiet = True
        raise BrokenPipeError


def make_safe(text: str, style: str = "") -> Text:
    """Return text of any origin so that its control characters do nothing on a terminal."""
    return Text(visible(text), style)


def make_safe_line(text: str, limit: int = 0) -> str:
    """Return text of any origin in one line, so that its control characters do nothing on a terminal.

    Args:
        text: the text; each run of white space becomes one space.
        limit: most characters of the result; of a longer text the end is kept, where prompts have their question.
    """
    text = visible_line(" ".join(text.split()))
    return f"…{text[1 - limit :]}" if limit and len(text) > limit else text


def format_count(count: int, noun: str) -> str:
    """Return a number with its noun: `1 file`, `2 files`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def print_error(message: str) -> None:
    """Print an error message on stderr."""
    Screen(stderr=True).print(make_safe(message, "red"))


def show_progress(items: Sequence[_T], screen: Screen, doing: str) -> Iterator[_T]:
    """Yield the items, with a progress bar on a terminal if there are many.

    Args:
        items: the items.
        screen: the screen of the results; if it is a pipe, the bar is shown on stderr.
        doing: the work, as text beside the bar.
    """
    terminal = screen if screen.live else Screen(stderr=True)
    if not terminal.live or len(items) < _MIN_ITEMS_FOR_BAR:
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=terminal, transient=True) as bar:
        yield from bar.track(items, description=doing)


@dataclass(frozen=True, slots=True)
class CassetteFile:
    """File with a cassette, read as far as it is undamaged."""

    path: Path
    interactions: tuple[Interaction, ...] = ()
    readings: tuple[Reading, ...] = ()
    """Readings of the interactions, in the same order."""
    has_checksum: bool = False
    """True for cassettes of this testing kit; other tools write no checksums."""
    damage: list[str] = field(default_factory=list)
    """Descriptions of the damage, each with the path of the file."""


def find_cassettes(given: Sequence[str]) -> list[Path]:
    """Return the given files, and all cassettes in the given folders, each once and in order.

    Raises:
        CommandError: a file or folder does not exist, or a folder has no cassettes.
    """
    found: dict[Path, None] = {}
    for path in map(Path, given):
        if path.is_dir():
            inside = [file for file in sorted(path.rglob("*")) if _is_cassette(file, path)]
            if not inside:
                raise CommandError(f"{path}: there are no cassettes in this folder")
            found.update(dict.fromkeys(inside))
        elif path.exists():  # no regular file is a damaged cassette
            found[path] = None
        else:
            raise CommandError(f"{path}: there is no such file or folder")
    return list(found)


def _is_cassette(path: Path, folder: Path) -> bool:
    """Return True for a YAML or JSON file in `folder`, not hidden, with interactions in it. It may be damaged."""
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    if hidden or path.suffix not in _SUFFIXES or not path.is_file():
        return False
    with path.open("rb") as file:
        return _INTERACTIONS.search(file.read(MOST_BYTES)) is not None


def read_cassette(path: Path) -> CassetteFile:
    """Read a cassette. Damage is noted in the result, and raises nothing.

    Raises:
        OSError: the file cannot be read.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            interactions = load(path)
            for interaction in interactions:
                # the chunks, too: a chunk map that does not fit its body is a warning
                tuple(interaction.response.chunks)
        except CassetteFormatError as error:
            return CassetteFile(path, damage=[str(error)])
    has_checksum = _CHECKSUM.search(path.read_text(encoding="utf-8")) is not None
    readings = tuple(map(read_interaction, interactions))
    return CassetteFile(path, interactions, readings, has_checksum, [str(warning.message) for warning in caught])
