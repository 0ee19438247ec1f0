"""The cassettes that a command line names: files, and all there are in folders."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from miniagents_testing.cassette._file import load
from miniagents_testing.cassette.reading import read
from miniagents_testing.cli.screen import Impossible
from miniagents_testing.errors import CassetteFormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miniagents_testing.cassette._interaction import Interaction
    from miniagents_testing.cassette.reading import Reading

__all__ = ["Cassette", "cassette_paths", "open_cassette"]

_SUFFIXES = frozenset({".json", ".yaml", ".yml"})
_INTERACTIONS = re.compile(rb'^interactions:|"interactions"\s*:', re.MULTILINE)
_SEAL = re.compile(r'^(?:miniagents| *"miniagents"):', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Cassette:
    """A file, read as far as it can be."""

    path: Path
    interactions: tuple[Interaction, ...] = ()
    readings: tuple[Reading, ...] = ()
    """What the interactions say, in the same order."""
    sealed: bool = False
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
    sealed = _SEAL.search(path.read_text(encoding="utf-8")) is not None
    readings = tuple(map(read, interactions))
    return Cassette(path, interactions, readings, sealed, [str(warning.message) for warning in caught])
