"""The file of a cassette: read and checked, or written in one step.

A cassette that somebody edited on purpose: what was changed, and its interactions, to be saved under a new seal.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from miniagents_testing.cassette import _chunkmap as chunkmap
from miniagents_testing.cassette._document import entry_of, interaction_of, parse, parse_edited, with_checksum
from miniagents_testing.cassette._yaml import yaml_text
from miniagents_testing.errors import CassetteFormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from miniagents_testing.cassette._interaction import Interaction


def save(path: str | os.PathLike[str], interactions: Sequence[Interaction]) -> None:
    """Write a cassette in one step: whoever reads meanwhile, or after a crash, has the old file or the new one."""
    write(path, yaml_text(with_checksum([entry_of(interaction) for interaction in interactions])))


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


def load_edited(path: str | os.PathLike[str]) -> tuple[list[Interaction], list[str]]:
    """The interactions of an edited file, and what is not as it was sealed, one line each.

    Where events came or went, the chunk map does not fit any more; the events that are there then keep the moments of
    those that were there.

    Raises:
        CassetteFormatError: no cassette, or none of ours.
    """
    try:
        document, changes = parse_edited(Path(path).read_bytes())
    except CassetteFormatError as error:
        raise CassetteFormatError(f"{path}: {error}") from error
    entries = document["interactions"]
    if "miniagents" not in document and not any("stream" in entry["response"] for entry in entries):
        raise CassetteFormatError(f"{path}: others recorded this, and there is no seal; `import` makes it ours")
    interactions = []
    for number, entry in enumerate(entries, 1):
        interaction = interaction_of(entry, f"{path}, interaction {number}")
        with warnings.catch_warnings(record=True) as misfit:
            warnings.simplefilter("always")
            body = b"".join(chunk.data for chunk in interaction.response.chunks)
        if misfit:
            changes.append(f"interaction {number}: its chunk map does not fit; events keep the moments of the old ones")
            chunks = chunkmap.refitted(entry["response"]["stream"]["chunks"], body)
            interaction = replace(interaction, response=replace(interaction.response, chunks=chunks))
        interactions.append(interaction)
    return interactions, changes
