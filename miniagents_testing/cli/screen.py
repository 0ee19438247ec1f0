"""Where the commands write: text of any origin made safe, colours on a terminal, plain lines in a pipe."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, NoReturn, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from miniagents.ext._terminal import visible, visible_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["FOUND", "IMPOSSIBLE", "Impossible", "Screen", "complain", "counted", "one_line", "progress", "styled"]

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
