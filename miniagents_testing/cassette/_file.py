"""The file of a cassette: read and checked, written in one step, or read after an edit that its user wants to keep."""

from __future__ import annotations

import os
import stat
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from miniagents_testing.cassette import _chunkmap as chunkmap
from miniagents_testing.cassette._document import ends_of, entry_of, interaction_of, parse, parse_edited, with_checksum
from miniagents_testing.cassette._yaml import yaml_text
from miniagents_testing.errors import CassetteFormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from miniagents_testing.cassette._interaction import Interaction


_T = TypeVar("_T")

MOST_BYTES = 256 * 1024 * 1024
"""Size of the largest file that is read, in bytes."""


def save(path: str | os.PathLike[str], interactions: Sequence[Interaction]) -> None:
    """Write a cassette in one step: a reader, meanwhile or after a crash, has the old file or the new one."""
    write(path, yaml_text(with_checksum([entry_of(interaction) for interaction in interactions])))


def load(path: str | os.PathLike[str]) -> tuple[Interaction, ...]:
    """Return the interactions of a cassette, in the order in which their requests were started.

    Interactions of other recorders have no key `stream`; their bodies are played one event a chunk, without waits.

    Raises:
        CassetteFormatError: the file is no cassette, or differs from the one that was saved.
        OSError: the file cannot be read.
    """
    entries = read(path, parse)["interactions"]
    return tuple(interaction_of(entry, f"{path}, interaction {number}") for number, entry in enumerate(entries, 1))


def read(path: str | os.PathLike[str], parse: Callable[[bytes], _T]) -> _T:
    """Return the result of `parse` for the bytes of a file.

    Raises:
        CassetteFormatError: the file is not regular, is longer than `MOST_BYTES`, or `parse` raised this error. The
            message names the file.
        OSError: the file cannot be read.
    """
    try:
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode):
            raise CassetteFormatError("not a cassette: not a regular file")
        if found.st_size > MOST_BYTES:
            raise CassetteFormatError(f"not a cassette: {found.st_size} bytes long, more than {MOST_BYTES}")
        return parse(Path(path).read_bytes())
    except CassetteFormatError as error:
        raise CassetteFormatError(f"{path}: {error}") from error


def write(path: str | os.PathLike[str], text: str) -> None:
    """Write a text to a file in one step: a temporary file in the same folder replaces the file when it is whole.

    Missing folders are made. An error leaves no temporary file.
    """
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
        _sync_folder(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Make the entries of a folder durable; systems on which a folder cannot be opened do so by themselves."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def load_edited(path: str | os.PathLike[str]) -> tuple[list[Interaction], list[str]]:
    """Return the interactions of an edited file, and a line for each part that does not fit its checksum.

    If the edit has added or removed events, the chunk map does not fit; the n-th event then keeps the moment that the
    n-th event had.

    Raises:
        CassetteFormatError: the file is no cassette, or has neither checksum nor a key `stream`.
    """
    document, changes = read(path, parse_edited)
    entries = document["interactions"]
    if "miniagents" not in document and not any("stream" in entry["response"] for entry in entries):
        raise CassetteFormatError(
            f"{path}: another recorder made this file, so it has no checksum. Convert it with "
            "`python -m miniagents_testing import`"
        )
    interactions = []
    for number, entry in enumerate(entries, 1):
        interaction = interaction_of(entry, f"{path}, interaction {number}")
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            body = b"".join(chunk.data for chunk in interaction.response.chunks)
        if warned:
            changes.append(
                f"interaction {number}: its chunk map does not fit; the n-th event keeps the moment of its predecessor"
            )
            stream = entry["response"]["stream"]
            chunks = chunkmap.refitted(stream["chunks"], body, ends_of(stream, f"{path}, interaction {number}"))
            interaction = replace(interaction, response=replace(interaction.response, chunks=chunks))
        interactions.append(interaction)
    return interactions, changes
