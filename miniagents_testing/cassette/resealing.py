"""A cassette that somebody edited on purpose: what was changed, and its interactions, to be saved under a new seal."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from miniagents_testing.cassette import chunkmap
from miniagents_testing.cassette.document import interaction_of, parse_edited
from miniagents_testing.errors import CassetteFormatError

if TYPE_CHECKING:
    import os

    from miniagents_testing.cassette.interaction import Interaction

__all__ = ["load_edited"]


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
