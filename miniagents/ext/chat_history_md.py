"""A chat kept in a Markdown file that a person can read, and that survives what happens to processes and disks.

- Records are only ever appended, each in one write, under a lock that all processes share. What stands in the file is
  never changed: what a crash left torn is closed with a comment, and reported.
- While a message streams, its text so far stands in a journal, `<file>.partial/<id>.md`, to which each piece is added
  as it comes. When the message is complete, its record goes to the file and the journal is removed. The journal of a
  process that died is part of the chat for everybody who loads it, as an interrupted message, and becomes a record with
  the next append.
- By default nothing is forced to the disk (`fsync`): the page cache survives the death of the process, which is what
  happens every day. A loss of power may cost what the system had not written yet; the reader then goes on behind the
  damage.

Files that outlive crashes: one lock for all who write, whole records only, and journals of texts still to come.

All of it blocks, on purpose: a record is some kilobytes that go to the page cache in microseconds. A thread would not
make that faster, and one that waits for a dead disk would keep the process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import secrets
import stat
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from miniagents.chat_history import ChatHistory, areceive
from miniagents.errors import HistoryError, HistoryFormatError, HistoryWriteError
from miniagents.ext._markdown_records import (
    HEAD,
    Problem,
    Record,
    earlier_head,
    escape,
    frame_open,
    has_frames,
    message_of,
    missing_end,
    opening_record,
    record_of,
    scan,
    scan_open,
    to_bytes,
)
from miniagents.ext._terminal import visible_line
from miniagents.messages import MessageSequence

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType
    from typing import Self

    from miniagents.messages import Message, MessagePromise, MessageType

__all__ = ["LOCK_TIMEOUT", "ChatHistoryMD"]


_WINDOW = 65536

if sys.platform == "win32":
    import msvcrt

    _FAR_BEYOND = 2**40  # Windows keeps others from reading what is locked, so a byte is locked that is never there

    def _lock(descriptor: int) -> bool:
        os.lseek(descriptor, _FAR_BEYOND, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        """Whether nobody else holds the file now; `flock` also tells apart two openings by the same process."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:  # a file system without locks: appending in one write is what is left
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        return True


class LockedFile:
    """A file that nobody else of us reads or writes while it is open; made by `try_open`."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path
        status = os.fstat(descriptor)
        self.size = status.st_size
        self._has_new_name = not self.size
        self.identity = (status.st_dev, status.st_ino)

    @classmethod
    def try_open(cls, path: Path, *, create: bool) -> LockedFile | None:
        """Open and lock `path`; None while somebody else has it.

        Raises:
            HistoryError: it is a directory, a pipe, a device: nothing that can be appended to and read again.
            OSError: it cannot be opened; FileNotFoundError if it is not there and `create` is False.
        """
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT if create else os.O_RDONLY
        # O_NONBLOCK: opening a pipe that nobody writes to must not hang before it can be refused
        flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(path, flags, 0o666)
        except (IsADirectoryError, NotADirectoryError) as error:
            raise HistoryError(f"{visible_line(str(path))} is not a regular file") from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise HistoryError(f"{visible_line(str(path))} is not a regular file")
            if _lock(descriptor) and _is_still(path, descriptor):
                return cls(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def read(self, start: int = 0) -> bytes:
        """Everything from byte `start` on."""
        os.lseek(self._descriptor, start, os.SEEK_SET)
        parts = []
        while part := os.read(self._descriptor, 2**24):
            parts.append(part)
        return b"".join(parts)

    def tails(self) -> Iterator[bytes]:
        """Ever longer ends of the file; the last one is all of it."""
        window = _WINDOW
        while window < self.size:
            yield self.read(self.size - window)
            window *= 4
        yield self.read()

    def append(self, data: bytes) -> None:
        """Add `data` in one write; if that fails, the file is as it was, as far as the disk lets us.

        Raises:
            OSError: disk full and the like.
        """
        try:
            write_all(self._descriptor, data)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
            raise
        self.size += len(data)

    def sync(self) -> None:
        """Return when the disk has it; of a new file, its name in the folder too (where the system offers that)."""
        os.fsync(self._descriptor)
        if self._has_new_name and hasattr(os, "O_DIRECTORY"):
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self._has_new_name = False


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the opened file is the one at `path`; somebody may have moved it away before we had the lock."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it: usually one call, but a full disk or a signal can make the kernel take less."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class Journal:
    """What there is of a text that is still to come, in a file of its own beside the history.

    Each piece goes to the page cache as it comes, which a killed process does not take along. A journal is locked
    while its writer lives: one that is not belongs to a process that died.

    Args:
        directory: where it lies; made, and removed again when it is empty.
        name: of the file.
        head: what stands before the text.
    """

    def __init__(self, directory: Path, name: str, head: bytes) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / name
        self._descriptor: int | None = os.open(
            self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666
        )
        _lock(self._descriptor)
        self.write(head)

    def write(self, data: bytes) -> None:
        """Add a piece. A disk that does not take it will not take the whole record either, and that is reported."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                write_all(self._descriptor, data)

    def close(self) -> None:
        """Leave the file to whoever opens the history next."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def remove(self) -> None:
        """The record is where it belongs: the journal has done its work."""
        self.close()
        remove_journal(self.path)


def abandoned_journals(directory: Path) -> Iterator[tuple[Path, bytes]]:
    """The journals whose writers died, the oldest first, each with what is in it."""
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == ".md")
    except (FileNotFoundError, NotADirectoryError):
        return
    for path in paths:
        try:
            file = LockedFile.try_open(path, create=False)
            if file is None:
                continue
            with file:
                data = file.read()
        except (OSError, HistoryError):  # one that cannot be read is no reason to lose the others
            continue
        yield path, data


def remove_journal(path: Path) -> None:
    """Remove a journal, and its directory with the last one."""
    with contextlib.suppress(OSError):
        path.unlink()
        path.parent.rmdir()


logger = logging.getLogger("miniagents")

LOCK_TIMEOUT = 10.0
"""Seconds; others hold the lock for as long as a write takes."""
_LOCK_POLL = 0.005
_BEING_MADE = 60.0
"""Seconds for which an empty journal is taken for one that its writer has not locked yet."""


@dataclass(frozen=True)
class _Pending:
    """A record on its way to the file, and the journal that is of no use once it is there."""

    data: bytes
    record: Record
    journal: Journal | None


@dataclass(frozen=True)
class _Read:
    """What has been read of a file: a chat is loaded again with every turn, and only its end is new."""

    data: bytes = b""
    messages: list[tuple[Record, Message]] = field(default_factory=list)
    problems: tuple[Problem, ...] = ()

    def read_on(self, data: bytes) -> tuple[_Read, _Read]:
        """What is in `data`, and what can be built on next time: something that ends where a record ends."""
        known = self if self.data and data.startswith(self.data) else _Read()
        rest = data[len(known.data) :]
        found = scan(rest, first_line=1 + known.data.count(b"\n"))
        messages = [(record, message_of(record)) for record in found.records]
        read = _Read(data, known.messages + messages, known.problems + found.problems)
        return read, known if missing_end(rest) else read


class ChatHistoryMD(ChatHistory):
    """A history in a Markdown file. Several objects and processes may append to one file; each message is one piece.

    Metadata is kept in the comments; a member of an Enum in an untyped field comes back as its value. A file edited
    by hand is read as it is, with a warning where something is not as it was written.

    Args:
        path: the file; made with the first message, its folder too.
        fsync: whether an append returns only when the disk has the message; blocks the event loop for so long.
    """

    def __init__(self, path: str | os.PathLike[str], *, fsync: bool = False) -> None:
        self.path = Path(path).absolute()
        self._name = visible_line(str(self.path))
        self.problems: tuple[Problem, ...] = ()
        """What was wrong with the file when it was last loaded; each is logged as a warning once."""
        self._fsync = fsync
        self._reported: set[Problem] = set()
        self._read = _Read()
        self._pending: list[_Pending] = []
        self._known_end: tuple[tuple[int, int], int] | None = None

    # --- loading

    async def aload_chat_history(self) -> tuple[Message, ...]:
        """All messages in their order; interrupted ones have what there is of their text and `interrupted=True`.

        Raises:
            HistoryFormatError: the file is not a history.
            HistoryError: it cannot be read, or is in use for longer than 10 s.
        """
        data = b""
        try:
            with contextlib.suppress(FileNotFoundError), await self._alocked(create=False) as file:
                data = file.read()
            journals = [record for _, record in self._left_behind() if record is not None]
        except OSError as error:
            raise HistoryError(f"cannot read the chat history {self._name}: {error}") from error
        self._check_format(data)
        found, self._read = self._read.read_on(data)
        self._report(found.problems)
        later = [*journals, *(pending.record for pending in self._pending)]
        return _without_repetitions([*found.messages, *((record, message_of(record)) for record in later)])

    def _check_format(self, data: bytes) -> None:
        text = data.replace(b"\0", b"").strip()  # zeros are what a loss of power leaves of a text that was not written
        if text and not has_frames(data) and not HEAD.startswith(text):
            raise HistoryFormatError(f"{self._name}, line 1: this is not a chat history, no message begins in it")
        if line := earlier_head(data):
            raise HistoryFormatError(
                f"{self._name}, line {line}: the fields of this message were written by an earlier version, in a form "
                f"that is read no longer. Read the file with that version, or begin a new one."
            )

    def _report(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        for problem in problems:
            if problem not in self._reported:
                self._reported.add(problem)
                logger.warning("%s, line %d: %s", self._name, problem.line, problem.what)

    # --- appending

    async def aappend(self, messages: MessageType) -> None:
        """Store messages, see `ChatHistory.aappend`; a message that still streams is on the disk as far as it is."""
        failure: BaseException | None = None
        async for promise in MessageSequence.turn_into_sequence_promise(messages):
            error = await self._astore(promise)
            failure = failure or error
        if failure is not None:
            raise failure

    async def _astore(self, promise: MessagePromise) -> BaseException | None:
        writing = _Writing(promise, self._journals)
        try:
            message, error = await areceive(promise, writing.take)
        except BaseException:  # the program is being stopped; the journal has what was said
            writing.leave()
            raise
        if message is None:
            writing.leave(remove=True)
        else:
            record = record_of(message, writing.id)
            self._pending.append(_Pending(to_bytes(record), record, writing.journal))
            await self._awrite_pending()
        return error

    @property
    def _journals(self) -> Path:
        return self.path.with_name(self.path.name + ".partial")

    async def _awrite_pending(self) -> None:
        """Write everything that waits, in its order; of several tasks that try at once, one does it for all."""
        try:
            while self._pending:
                with await self._alocked(create=True) as file:
                    self._make_ready(file)
                    while self._pending:
                        self._write(file, self._pending[0].data)
                        pending = self._pending.pop(0)
                        if pending.journal is not None:
                            pending.journal.remove()
        except OSError as error:
            raise HistoryWriteError(
                f"cannot write the chat history {self._name}: {error}. {len(self._pending)} message(s) are in memory, "
                f"and are written together with the next one"
            ) from error

    def _make_ready(self, file: LockedFile) -> None:
        """See to it that the file ends where a record ends, and take over what dead processes left behind."""
        if self._known_end != (file.identity, file.size) and file.size:
            for tail in file.tails():
                if has_frames(tail):
                    break
            else:
                self._check_format(tail)
            if missing := missing_end(tail):
                logger.warning("%s: the last message was not written to its end; it was closed as it is", self._name)
                self._write(file, missing)
        for path, record in self._left_behind():
            if record is None and time.time() - path.stat().st_mtime < _BEING_MADE:
                continue
            if record is not None and not _has(scan(file.read()).records, record):
                logger.warning("%s: a message that was not finished is kept as far as it came", self._name)
                self._write(file, to_bytes(record))
            remove_journal(path)

    def _write(self, file: LockedFile, data: bytes) -> None:
        file.append(data)
        if self._fsync:
            file.sync()
        self._known_end = (file.identity, file.size)

    def _left_behind(self) -> Iterable[tuple[Path, Record | None]]:
        for path, data in abandoned_journals(self._journals):
            yield path, scan_open(data)

    async def _alocked(self, *, create: bool) -> LockedFile:
        """The file, locked. Others hold it for as long as a write takes, so it is tried until it works."""
        if create:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        waited = 0.0
        while (file := LockedFile.try_open(self.path, create=create)) is None:
            if waited >= LOCK_TIMEOUT:
                raise TimeoutError(f"another process has held the lock for {LOCK_TIMEOUT:g} s")
            await asyncio.sleep(_LOCK_POLL)
            waited += _LOCK_POLL
        return file


def _has(records: Iterable[Record], wanted: Record) -> bool:
    """Whether the message is among them, whole or at least as far as it is known."""
    return any(record.id == wanted.id and not _is_better(wanted, record) for record in records)


def _is_better(record: Record, other: Record) -> bool:
    """Of two records of one message: whether there is more of it in the first."""
    return other.interrupted and (not record.interrupted or len(record.text or "") > len(other.text or ""))


class _Writing:
    """A message on its way: its id, and a journal from the first piece that is not the last on."""

    def __init__(self, promise: MessagePromise, directory: Path) -> None:
        # ids sort by time, so that what several dead processes left behind comes back in its order
        self.id = f"{time.time_ns() // 1_000_000:x}-{secrets.token_hex(4)}"
        self.journal: Journal | None = None
        self._promise = promise
        self._directory = directory
        self._given_up = False

    def take(self, piece: str) -> None:
        """A piece has come."""
        if self.journal is None:
            if self._given_up or self._promise.is_done:
                return
            head = frame_open(opening_record(self._promise, self.id))
            try:
                self.journal = Journal(self._directory, f"{self.id}.md", head)
            except OSError:  # without a journal, a kill costs this message; that is no reason to stop
                self._given_up = True
                return
        self.journal.write(escape(piece).encode())

    def leave(self, *, remove: bool = False) -> None:
        """No more pieces will come, and no record either."""
        if self.journal is not None:
            self.journal.remove() if remove else self.journal.close()


def _without_repetitions(messages: list[tuple[Record, Message]]) -> tuple[Message, ...]:
    """A message that was written more than once counts once: the complete record, or else the longest.

    A record with the id of another one that says something else was made by a person who copied and edited it.
    """
    best: dict[str, Record] = {}
    for record, _ in messages:
        if record.id not in best or _is_better(record, best[record.id]):
            best[record.id] = record
    return tuple(
        message
        for record, message in messages
        if best[record.id] is record or not (record.interrupted or record == best[record.id])
    )
