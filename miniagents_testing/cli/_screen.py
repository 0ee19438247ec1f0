"""Where the commands write: text of any origin made safe, colours on a terminal, plain lines in a pipe.

The cassettes that a command line names: files, and all there are in folders.
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
from miniagents_testing.cassette import load
from miniagents_testing.cli._reading import read
from miniagents_testing.errors import CassetteFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from miniagents_testing.cassette import Interaction
    from miniagents_testing.cli._reading import Reading


FOUND, IMPOSSIBLE = 1, 2
"""Exit codes, as the help explains them."""

T = TypeVar("T")

_WORTH_A_BAR = 20
"""Fewer files are done before a person has read what the bar says."""


class Impossible(Exception):  # noqa: N818 - it ends a command, with the exit code of that name
    """A command cannot be carried out; the message says why and what to do."""


class Screen(Console):
    """A console that takes nothing in a text for a command: no markup, no emoji codes, no guesses at colours."""

    def __init__(self, file: IO[str] | None = None, *, stderr: bool = False) -> None:
        super().__init__(file=file, stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)

    @property
    def live(self) -> bool:
        """Whether a person watches, on a terminal that can move its cursor. `FORCE_COLOR` makes none of a pipe."""
        return self.file.isatty() and not self.is_dumb_terminal

    def row(self, *values: str, style: str = "") -> None:
        """Values of one thing in one line: tabs between them in a pipe, else two spaces, and the first in the style."""
        values = tuple(map(one_line, values))
        if self.live:
            self.print(Text(values[0], style).append("  ".join(("", *values[1:])), "default"))
        else:  # not through rich, which makes spaces of tabs
            print("\t".join(values), file=self.file)

    def on_broken_pipe(self) -> NoReturn:
        """Leave it to `main`, which knows the exit code."""
        self.quiet = True
        raise BrokenPipeError


def styled(text: str, style: str = "") -> Text:
    """Text of any origin, safe to print."""
    return Text(visible(text), style)


def one_line(text: str, limit: int = 0) -> str:
    """Text of any origin, safe to print and in one line; with a limit, its end, because there the question stands."""
    text = visible_line(" ".join(text.split()))
    return f"…{text[1 - limit :]}" if limit and len(text) > limit else text


def counted(count: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def complain(message: str) -> None:
    """Say on stderr what is wrong."""
    Screen(stderr=True).print(styled(message, "red"))


def progress(items: Sequence[T], screen: Screen, doing: str) -> Iterator[T]:
    """The items, with a bar on the terminal while they are worked through."""
    terminal = screen if screen.live else Screen(stderr=True)
    if not terminal.live or len(items) < _WORTH_A_BAR:
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=terminal, transient=True) as bar:
        yield from bar.track(items, description=doing)


_SUFFIXES = frozenset({".json", ".yaml", ".yml"})
_INTERACTIONS = re.compile(rb'^interactions:|"interactions"\s*:', re.MULTILINE)
_CHECKSUM = re.compile(r'^(?:miniagents| *"miniagents"):', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Cassette:
    """A file, read as far as it can be."""

    path: Path
    interactions: tuple[Interaction, ...] = ()
    readings: tuple[Reading, ...] = ()
    """What the interactions say, in the same order."""
    has_checksum: bool = False
    """Whether it is ours; others have no digests."""
    damage: list[str] = field(default_factory=list)
    """What is wrong with the file, each with the name of the file in it."""


def cassette_paths(given: Sequence[str]) -> list[Path]:
    """The files that are named, and in folders all that look like cassettes, each once and in order.

    Raises:
        Impossible: something is not there, or a folder has no cassettes.
    """
    found: dict[Path, None] = {}
    for path in map(Path, given):
        if path.is_file():
            found[path] = None
        elif path.is_dir():
            inside = [file for file in sorted(path.rglob("*")) if _looks_like_a_cassette(file, path)]
            if not inside:
                raise Impossible(f"{path}: there are no cassettes in this folder")
            found.update(dict.fromkeys(inside))
        else:
            raise Impossible(f"{path}: there is no such file or folder")
    return list(found)


def _looks_like_a_cassette(path: Path, folder: Path) -> bool:
    """Whether somebody would call it one, damaged or not: other YAML and JSON lies beside cassettes."""
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    if hidden or path.suffix not in _SUFFIXES or not path.is_file():
        return False
    return _INTERACTIONS.search(path.read_bytes()) is not None


def open_cassette(path: Path) -> Cassette:
    """Read a cassette; damage is noted, not raised.

    Raises:
        OSError: the file cannot be read.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            interactions = load(path)
            for interaction in interactions:  # the chunks too: a map that does not fit its body is a warning
                tuple(interaction.response.chunks)
        except CassetteFormatError as error:
            return Cassette(path, damage=[str(error)])
    has_checksum = _CHECKSUM.search(path.read_text(encoding="utf-8")) is not None
    readings = tuple(map(read, interactions))
    return Cassette(path, interactions, readings, has_checksum, [str(warning.message) for warning in caught])
