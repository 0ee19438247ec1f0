"""Words of messages: numbers with their nouns, lists that end in a count, short paths, and names of missing files.

Each plural of a counted noun in a message is made by `counted`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number with its noun: `1 file`, `2 files`.

    Args:
        count: the number.
        one: the noun, or noun and verb, for the number 1.
        many: the same for other numbers; by default, `one` with an s.
    """
    return f"{count:,} {one}" if count == 1 else f"{count:,} {many or f'{one}s'}"


def first_lines(lines: Sequence[str], most: int) -> list[str]:
    """Return the first lines, each indented, and a last one that counts the others: `and 3 more`.

    Args:
        lines: all lines.
        most: most lines that are shown; the one with the count comes on top.
    """
    more = [f"and {len(lines) - most:,} more"] if len(lines) > most else []
    return [f"  {line}" for line in [*lines[:most], *more]]


def short_path(path: str | os.PathLike[str]) -> str:
    """Return a path relative to the current folder if the path is below it, else the path as it is."""
    given = Path(path)
    here = Path.cwd()
    return str(given.relative_to(here)) if given.is_relative_to(here) else os.fspath(path)


def similar_paths(path: str | os.PathLike[str]) -> str:
    """Return the question if the path of a missing file was meant to be a similar one in its folder; "" if none is."""
    given = Path(path)
    if not given.parent.is_dir():
        return ""
    from difflib import get_close_matches  # the pytest plugin is loaded in many projects that never miss a file

    names = [each.name for each in given.parent.iterdir()]
    near = get_close_matches(given.name, names, n=3, cutoff=0.8)
    return f"did you mean {' or '.join(short_path(given.with_name(each)) for each in near)}?" if near else ""
