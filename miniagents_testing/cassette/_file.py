"""The file of a cassette: read and checked, written in one step, or read after an edit that its user wants to keep."""

from __future__ import annotations

import os
import secrets
import stat
import warnings
from contextlib import suppress
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
        CassetteFormatError: the file is not regular, is longer than `MOST_BYTES`, or `parse` raised this error.
        OSError: the file cannot be read.
    """
    found = status_of(path)
    if found is not None and found.st_size > MOST_BYTES:
        raise CassetteFormatError(f"{path} is no cassette: it has {found.st_size:,} bytes, more than {MOST_BYTES:,}")
    content = Path(path).read_bytes()
    try:
        return parse(content)
    except CassetteFormatError as error:
        raise CassetteFormatError(f"{path} {error}") from None


def status_of(path: str | os.PathLike[str]) -> os.stat_result | None:
    """Return the status of a file, or None if there is no file at the path. Links are followed.

    Raises:
        CassetteFormatError: the file is a folder, a pipe, a socket or a device.
        OSError: the file cannot be looked at, such as a link that leads to itself.
    """
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise CassetteFormatError(f"{path} is no cassette: it is not a regular file")
    return found


def write(path: str | os.PathLike[str], content: str | bytes, *, like: str | os.PathLike[str] | None = None) -> None:
    """Write a file in one step: a temporary file in the same folder replaces the file when it is whole.

    Missing folders are made, and links are followed, also to files and folders that do not exist. A new file gets the
    permissions that `open` would give it. A file that exists keeps its permissions, and its owner as far as the system
    allows. An error leaves no temporary file.

    Args:
        path: of the file.
        content: text, which is written as UTF-8, or bytes.
        like: a file whose permissions and owner the file gets; None for those of the file itself.

    Raises:
        CassetteFormatError: there is a folder, a pipe, a socket or a device at the path.
        OSError: the file cannot be written.
    """
    path = Path(os.path.realpath(path))
    there = status_of(path)
    kept = there if like is None else status_of(like)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    # The system subtracts the umask. A file that replaces another one is private until it has that one's permissions.
    descriptor = os.open(temporary, flags, 0o666 if kept is None else 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
            if kept is not None:
                _keep_owner_and_mode(descriptor, kept)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
        _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _keep_owner_and_mode(descriptor: int, kept: os.stat_result) -> None:
    """Give an open file the owner, the group and the permissions in `kept`, as far as the system allows."""
    if not hasattr(os, "fchown"):  # Windows: the file has the permissions of its folder
        return
    for user, group in ((-1, kept.st_gid), (kept.st_uid, -1)):  # apart: most users may change the group only
        with suppress(OSError):
            os.fchown(descriptor, user, group)
    os.fchmod(descriptor, stat.S_IMODE(kept.st_mode))  # last, because a new owner loses some permissions


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
            "`miniagents-testing import`"
        )
    interactions = []
    for number, entry in enumerate(entries, 1):
        interaction = interaction_of(entry, f"{path}, interaction {number}")
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            body = b"".join(chunk.data for chunk in interaction.response.chunks)
        if warned:
            changes.append(
                f"interaction {number}: its chunk map does not fit; the n-th event gets the moment of the former n-th"
            )
            stream = entry["response"]["stream"]
            chunks = chunkmap.refitted(stream["chunks"], body, ends_of(stream, f"{path}, interaction {number}"))
            interaction = replace(interaction, response=replace(interaction.response, chunks=chunks))
        interactions.append(interaction)
    return interactions, changes
