"""The file of a cassette: read and checked, or written in one step."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from miniagents_testing.cassette.document import entry_of, interaction_of, parse, sealed
from miniagents_testing.cassette.yaml_text import yaml_text
from miniagents_testing.errors import CassetteFormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miniagents_testing.cassette.interaction import Interaction

__all__ = ["load", "save", "write"]


def save(path: str | os.PathLike[str], interactions: Sequence[Interaction]) -> None:
    """Write a cassette in one step: whoever reads meanwhile, or after a crash, has the old file or the new one."""
    write(path, yaml_text(sealed([entry_of(interaction) for interaction in interactions])))


def load(path: str | os.PathLike[str]) -> tuple[Interaction, ...]:
    """The interactions of a cassette, in the order in which their requests were started.

    What others recorded has no `stream` keys; its bodies are played one event a chunk, without waits.

    Raises:
        CassetteFormatError: no cassette, or not the one that was saved.
        OSError: the file cannot be read.
    """
    try:
        entries = parse(Path(path).read_bytes())["interactions"]
    except CassetteFormatError as error:
        raise CassetteFormatError(f"{path}: {error}") from error
    return tuple(interaction_of(entry, f"{path}, interaction {number}") for number, entry in enumerate(entries, 1))


def write(path: str | os.PathLike[str], text: str) -> None:
    """Put a text into a file in one step, through a file beside it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
        _sync(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _sync(folder: Path) -> None:
    """Make a new name last, where folders are files; elsewhere names need nothing."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
