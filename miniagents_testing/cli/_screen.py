"""Input and output of the commands.

Output: text of any origin made safe for a terminal, colours on a terminal, plain lines in a pipe.

Input: the cassettes that a command line names, files as well as all cassettes in folders, and numbers of options.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import warnings
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, NoReturn

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleDimensions
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
_SUFFIXES = frozenset({".json", ".yaml", ".yml"})
_INTERACTIONS = re.compile(rb'^interactions:|"interactions"\s*:', re.MULTILINE)
_CHECKSUM = re.compile(r'^(?:miniagents| *"miniagents"):', re.MULTILINE)

typed_command: ContextVar[str] = ContextVar("typed_command", default="miniagents-testing")
"""Program and command as the user has typed them; messages begin with it."""


def parse_not_negative(text: str, refusal: str) -> float:
    """Return the number that an option was given.

    Args:
        text: as it was typed.
        refusal: what the error says after this text.

    Raises:
        argparse.ArgumentTypeError: the text is no number, or the number is negative or infinite.
    """
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} {refusal}")
    return number


def parse_port(text: str) -> int:
    """Return the port that an option was given.

    Raises:
        argparse.ArgumentTypeError: the text is no whole number from 0 to 65535.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text} is no port: give a number from 0 to 65535")
    return int(text)


def parse_file(text: str) -> Path:
    """Return the path of an argument that names one file, which need not exist.

    Raises:
        argparse.ArgumentTypeError: there is a folder at the path.
    """
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder: name one file")
    return path


class CommandError(Exception):
    """A command cannot be run; the message says why and what to do. The exit code is `NOT_DONE`."""


class Screen(Console):
    """Console that prints text as it is: without markup, emoji codes or automatic colours.

    On a terminal, lines are wrapped between words; a pipe gets whole lines. `NO_COLOR` and a dumb terminal get plain
    text.
    """

    def __init__(self, file: IO[str] | None = None, *, stderr: bool = False) -> None:
        colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
        super().__init__(file=file, stderr=stderr, markup=False, emoji=False, highlight=False, color_system=colours)
        self.soft_wrap = not self.is_for_people

    @property
    def is_for_people(self) -> bool:
        """True on a terminal; always False for a pipe, also with `FORCE_COLOR`."""
        return self.file.isatty()

    @property
    def live(self) -> bool:
        """True on a terminal that can move its cursor."""
        return self.is_for_people and not self.is_dumb_terminal

    @property
    def size(self) -> ConsoleDimensions:
        """Size of the terminal, also of a dumb one."""
        return ConsoleDimensions(*shutil.get_terminal_size()) if self.is_dumb_terminal else super().size

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    def print_row(self, *values: str, style: str = "") -> None:
        """Print values in one line: in a pipe with tabs between them, else with spaces and the first one in `style`."""
        values = tuple(map(make_safe_line, values))
        if self.is_for_people:
            self.print(Text(values[0], style).append("  ".join(("", *values[1:])), "default"))
        else:  # without rich, which replaces tabs by spaces
            print("\t".join(values), file=self.file)

    def on_broken_pipe(self) -> NoReturn:
        """Raise `BrokenPipeError` in place of rich's own exit, so that `main` can return its exit code."""
        self.quiet = True
        raise BrokenPipeError


def make_safe(text: str, style: str = "") -> Text:
    """Return text of any origin with its control characters as visible escapes, which do nothing on a terminal."""
    return Text(visible(text), style)


def make_safe_line(text: str, limit: int = 0) -> str:
    """Return text of any origin in one line, so that its control characters do nothing on a terminal.

    Args:
        text: the text; each run of white space becomes one space.
        limit: most characters of the result; of a longer text the end is kept, where prompts have their question.
    """
    text = visible_line(" ".join(text.split()))
    return f"…{text[1 - limit :]}" if limit and len(text) > limit else text


def shorten(text: str, width: int) -> str:
    """Return a line that takes at most `width` columns of a terminal, and at least one.

    A longer line is cut after a word (inside of a first word that is too long), without punctuation, and ends in an
    ellipsis.
    """
    if cell_len(text) <= width:
        return text
    cut = set_cell_size(text, max(0, width - 1)).rstrip()
    if text[len(cut) : len(cut) + 1].strip() and " " in cut:  # in the middle of a word that is not the first one
        cut = cut.rpartition(" ")[0]
    return f"{cut.rstrip(' ,;:.')}…"


def line_breaks(text: str, width: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each part of a text in whose place a line break must stand.

    Then no line is wider than `width`. The part is the white space before a word that does not fit. Inside of a word
    that is wider than a line, it is empty.
    """
    column, space = 0, 0
    for part in re.finditer(r"\n|[^\S\n]+|\S+", text):
        if part[0] == "\n":
            column = space = 0
        elif part[0].isspace():
            space = part.end() - part.start()
        else:
            size = cell_len(part[0])
            if (column or space) and column + space + size > width:
                yield part.start() - space, part.start()
                column = space = 0
            column, space = column + space, 0
            if size <= width:
                column += size
                continue
            for place, character in enumerate(part[0], part.start()):
                if column + cell_len(character) > width:
                    yield place, place
                    column = 0
                column += cell_len(character)


def print_error(message: str) -> None:
    """Print an error message on stderr, after the command as it was typed."""
    Screen(stderr=True).print(make_safe(f"{typed_command.get()}: {message}", "red"))


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
    """Return the given files, and all cassettes in the given folders and their subfolders, each once.

    They come in the order in which they were given, those of a folder sorted by path.

    Raises:
        CommandError: a file or folder does not exist, or a folder has no cassettes.
    """
    found: dict[Path, None] = {}
    for path in map(Path, given):
        if path.is_dir():
            inside = [file for file in sorted(path.rglob("*")) if _is_cassette(file, path)]
            if not inside:
                raise CommandError(f"there are no cassettes in {path}")
            found.update(dict.fromkeys(inside))
        elif path.exists():  # no regular file is a damaged cassette
            found[path] = None
        else:
            raise CommandError(f"there is no file or folder {path}")
    return list(found)


def _is_cassette(path: Path, folder: Path) -> bool:
    """Return True for a YAML or JSON file in `folder`, not hidden, with interactions in it, or with nothing.

    It may be damaged: an empty file, or one of zeros, is what a crash leaves of a cassette.
    """
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    if hidden or path.suffix not in _SUFFIXES or not path.is_file():
        return False
    with path.open("rb") as file:
        content = file.read(MOST_BYTES)
    return _INTERACTIONS.search(content) is not None or not content.strip(b"\0 \t\r\n")


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
