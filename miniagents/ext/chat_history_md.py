"""Chat history in a Markdown file that people can read and that survives crashes of the process and the system.

- A message is appended to the file as one record, in one write, under a lock for all processes. Records in the file
  never change. An append closes a record that a crash cut, and logs a warning.
- While a message streams, each piece of its text is added to a journal, `<file>.partial/<id>.md`. The record of the
  complete message goes to the file, and then the journal is removed. The journal of a process that died is loaded as an
  interrupted message. The next append makes a record of that journal.
- By default, no data are forced to the disk (`fsync`): the page cache survives the death of a process. After a loss of
  power, data that the system had not written are missing; the reader goes on after the damage.

All calls for files block, on purpose: a record has some kilobytes, which the page cache takes in microseconds. A thread
would not be faster, and a thread that waits for a dead disk would keep the process from ending.

The format of the records is in `_markdown_records`.
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

from miniagents.chat_history import ChatHistory, areceive, as_far_as_arrived, leaves_so_far
from miniagents.errors import INTERRUPTS, HistoryError, HistoryFormatError, HistoryWriteError
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
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Self

    from miniagents.messages import Message, MessagePromise, MessageType

__all__ = ["LOCK_TIMEOUT", "ChatHistoryMD"]


_FIRST_TAIL_BYTES = 65536
"""Size of the end of a file that is read first."""

if sys.platform == "win32":
    import msvcrt

    _FAR_BEYOND = 2**40  # a byte behind the data, because on Windows a locked byte cannot be read

    def _try_lock(descriptor: int) -> bool:
        """Lock the file, and return True; return False if it is locked already, even by this process."""
        os.lseek(descriptor, _FAR_BEYOND, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        """Lock the file, and return True; return False if it is locked already, even by this process."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:  # without locks in the file system, single writes must do
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        return True


class _LockedFile:
    """Open file that no other `ChatHistoryMD` can open before it is closed; `try_open` opens it."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path
        status = os.fstat(descriptor)
        self.size = status.st_size
        self._has_new_name = not self.size
        self.identity = (status.st_dev, status.st_ino)

    @classmethod
    def try_open(cls, path: Path, *, create: bool) -> _LockedFile | None:
        """Open and lock the file at `path`; return None if the file is locked already.

        Raises:
            HistoryError: `path` is a directory, a pipe or a device, and not a regular file.
            OSError: the file cannot be opened. `FileNotFoundError`, if it does not exist and `create` is False.
        """
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT if create else os.O_RDONLY
        # O_NONBLOCK: opening a pipe without a writer would hang otherwise
        flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(path, flags, 0o666)
        except (IsADirectoryError, NotADirectoryError) as error:
            raise HistoryError(f"{visible_line(str(path))} is not a regular file") from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise HistoryError(f"{visible_line(str(path))} is not a regular file")
            if _try_lock(descriptor) and _is_same_file(path, descriptor):
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
        """Return the bytes of the file from the position `start` on."""
        os.lseek(self._descriptor, start, os.SEEK_SET)
        parts = []
        while part := os.read(self._descriptor, 2**24):
            parts.append(part)
        return b"".join(parts)

    def tails(self) -> Iterator[bytes]:
        """Yield longer and longer ends of the file; the last one is the whole file."""
        window = _FIRST_TAIL_BYTES
        while window < self.size:
            yield self.read(self.size - window)
            window *= 4
        yield self.read()

    def append(self, data: bytes) -> None:
        """Append `data` in one write. After a failure, the file is cut to its old size if possible.

        Raises:
            OSError: the data cannot be written, such as on a full disk.
        """
        try:
            _write_all(self._descriptor, data)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
            raise
        self.size += len(data)

    def sync(self) -> None:
        """Force the data to the disk; for a new file also its name in the folder, if the system offers that."""
        os.fsync(self._descriptor)
        if self._has_new_name and hasattr(os, "O_DIRECTORY"):
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self._has_new_name = False


def _is_same_file(path: Path, descriptor: int) -> bool:
    """Return True if the opened file is still the file at `path`; it may have been moved before it was locked."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _write_all(descriptor: int, data: bytes) -> None:
    """Write all data: usually in one call, but a full disk or a signal can make the kernel write less."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class _Journal:
    """File beside the history for the text of a message that still streams.

    Each piece is written to the page cache at once, which survives the death of the process. A journal is locked while
    its writer lives, so a journal without a lock belongs to a process that died.

    Args:
        directory: the directory of the journal. It is made, and removed when it is empty.
        name: the name of the file.
        head: the bytes before the text.
        mode: the permissions of the file, less those that the umask takes away.
    """

    def __init__(self, directory: Path, name: str, head: bytes, mode: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / name
        self._descriptor: int | None = os.open(
            self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0), mode
        )
        _try_lock(self._descriptor)
        self.write(head)

    def write(self, data: bytes) -> None:
        """Append a piece of text. Errors are ignored, because the write of the whole record will report them."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                _write_all(self._descriptor, data)

    def close(self) -> None:
        """Close and unlock the file; the process that opens the history next makes a record of it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def remove(self) -> None:
        """Close and remove the file, because the record of its message is in the history."""
        self.close()
        _remove_journal(self.path)


def _abandoned_journals(directory: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield the path and the bytes of each journal whose writer died, the oldest first.

    Skip journals that a living writer has locked, and those that cannot be read.
    """
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == ".md")
    except (FileNotFoundError, NotADirectoryError):
        return
    for path in paths:
        try:
            file = _LockedFile.try_open(path, create=False)
            if file is None:
                continue
            with file:
                data = file.read()
        except (OSError, HistoryError):  # an unreadable journal must not hide the others
            continue
        yield path, data


def _remove_journal(path: Path) -> None:
    """Remove a journal, and its directory with the last one."""
    with contextlib.suppress(OSError):
        path.unlink()
        path.parent.rmdir()


logger = logging.getLogger("miniagents")

LOCK_TIMEOUT = 10.0
"""Seconds after which waiting for the lock of a history is an error; a writer holds the lock for one write only."""
_LOCK_POLL = 0.005
_EMPTY_JOURNAL_TIME = 60.0
"""Seconds for which an empty journal is kept, because its writer may not have locked it yet."""


@dataclass(frozen=True)
class _Pending:
    """Record that waits to be written, and its journal, which is removed afterwards."""

    data: bytes
    record: Record
    journal: _Journal | None


@dataclass(frozen=True)
class _ParsedFile:
    """Parsed content of a file, kept so that the next load parses the new end of the file only."""

    data: bytes = b""
    messages: list[tuple[Record, Message]] = field(default_factory=list)
    problems: tuple[Problem, ...] = ()

    def update(self, data: bytes) -> tuple[_ParsedFile, _ParsedFile]:
        """Parse the present bytes of the file: only those after the known part, or all if that part has changed.

        Returns: the parsed content of `data`, and the content from which the next update can start. That is the same
            content, or only the known part (nothing, if it has changed) while the last record is cut.
        """
        known = self if self.data and data.startswith(self.data) else _ParsedFile()
        rest = data[len(known.data) :]
        found = scan(rest, first_line=1 + known.data.count(b"\n"))
        messages = [(record, message_of(record)) for record in found.records]
        parsed = _ParsedFile(data, known.messages + messages, known.problems + found.problems)
        return parsed, known if missing_end(rest) else parsed


class ChatHistoryMD(ChatHistory):
    """Chat history in a Markdown file, to which several objects and processes may append at the same time.

    A message shows as a heading and its text; HTML comments hold its other fields. A member of an `Enum` in an untyped
    field is loaded as its value. A file that was edited by hand is loaded as it is now, with a warning for each place
    that does not fit.

    Args:
        path: the path of the file. The first append makes the file and its folder.
        fsync: True to force each message to the disk before `aappend` returns. This blocks the event loop meanwhile.
    """

    def __init__(self, path: str | os.PathLike[str], *, fsync: bool = False) -> None:
        self.path = Path(path).absolute()
        self._name = visible_line(str(self.path))
        self.problems: tuple[Problem, ...] = ()
        """Problems of the file at the last load; each problem is logged once as a warning."""
        self._fsync = fsync
        self._reported: set[Problem] = set()
        self._parsed = _ParsedFile()
        self._pending: list[_Pending] = []
        self._known_end: tuple[tuple[int, int], int] | None = None

    # --- loading

    async def aload_chat_history(self) -> tuple[Message, ...]:
        """Return all messages in their order. An interrupted message has its text so far and `interrupted=True`.

        Messages in journals of dead processes, and those not written yet, come last. A missing file counts as empty.

        Raises:
            HistoryFormatError: the file is not a history, or an earlier version wrote its values.
            HistoryError: the file cannot be read, or is locked for longer than `LOCK_TIMEOUT` seconds.
        """
        data = b""
        try:
            with contextlib.suppress(FileNotFoundError), await self._aopen_locked(create=False) as file:
                data = file.read()
            journals = [record for _, record in self._abandoned_records() if record is not None]
        except OSError as error:
            raise HistoryError(f"cannot read the chat history {self._name}: {error}") from error
        self._check_format(data)
        found, self._parsed = self._parsed.update(data)
        self._report(found.problems)
        later = [*journals, *(pending.record for pending in self._pending)]
        return _drop_repetitions([*found.messages, *((record, message_of(record)) for record in later)])

    def _check_format(self, data: bytes) -> None:
        """Raise `HistoryFormatError` for a file that is no history, or that has values of an earlier version."""
        text = data.replace(b"\0", b"").strip()  # a loss of power leaves zeros in place of unwritten data
        if text and not has_frames(data) and not HEAD.startswith(text):
            raise HistoryFormatError(f"{self._name}, line 1: this is not a chat history, no message begins in it")
        if line := earlier_head(data):
            raise HistoryFormatError(
                f"{self._name}, line {line}: the fields of this message were written by an earlier version, in a form "
                f"that is read no longer. Read the file with that version, or begin a new one."
            )

    def _report(self, problems: tuple[Problem, ...]) -> None:
        """Store the problems of the last load, and log those that are new."""
        self.problems = problems
        for problem in problems:
            if problem not in self._reported:
                self._reported.add(problem)
                logger.warning("%s, line %d: %s", self._name, problem.line, problem.what)

    # --- appending

    async def aappend(self, messages: MessageType) -> None:
        """Append messages, see `ChatHistory.aappend`. The text of a message that still streams is in its journal.

        Raises:
            HistoryWriteError: the file cannot be written. The messages are kept, and written with the next append.
            HistoryFormatError: the file is not a history; it is not changed.
        """
        failure: BaseException | None = None
        sequence = MessageSequence.turn_into_sequence_promise(messages)
        count = 0
        try:
            async for promise in sequence:
                count += 1
                error = await self._astore(promise)
                failure = failure or error
        except INTERRUPTS:
            await self._akeep_arrived(leaves_so_far(sequence, count))
            raise
        if failure is not None:
            raise failure

    async def _akeep_arrived(self, promises: Iterable[MessagePromise]) -> None:
        """Write the records of messages that have arrived when the task that stores is cancelled; never fail."""
        for promise in promises:
            message = as_far_as_arrived(promise)
            if message is not None:
                self._add_pending(message, _StreamedRecord(promise, self._open_journal))
        try:
            await self._awrite_pending()
        except HistoryError as error:
            logger.warning("%s", error)

    async def _astore(self, promise: MessagePromise) -> BaseException | None:
        """Append the record of a message, and keep a journal of its text while it streams.

        Return the error with which the message ended, if any; errors of writing are raised. A message that failed
        without text and without calls of tools gets no record.
        """
        writing = _StreamedRecord(promise, self._open_journal)
        try:
            message, error = await areceive(promise, writing.add)
        except BaseException:  # the task is being cancelled: `_akeep_arrived` writes the part that has arrived
            message = as_far_as_arrived(promise)
            if message is None:
                writing.close(remove=True)
            else:
                self._add_pending(message, writing)
            raise
        if message is None:
            writing.close(remove=True)
        else:
            self._add_pending(message, writing)
            await self._awrite_pending()
        return error

    def _add_pending(self, message: Message, writing: _StreamedRecord) -> None:
        """Add the record of a message to those that wait to be written."""
        record = record_of(message, writing.id)
        self._pending.append(_Pending(to_bytes(record), record, writing.journal))

    @property
    def _file(self) -> Path:
        """Path of the file itself, where links are followed: all writers share its journals, by whatever path."""
        return Path(os.path.realpath(self.path))

    @property
    def _journals(self) -> Path:
        """Path of the directory of the journals."""
        file = self._file
        return file.with_name(file.name + ".partial")

    def _open_journal(self, name: str, head: bytes) -> _Journal:
        """Make a journal, with the permissions of the file: the text of a private history stays private.

        Raises:
            OSError: the journal cannot be made.
        """
        try:
            mode = stat.S_IMODE(self._file.stat().st_mode) & 0o666
        except FileNotFoundError:
            mode = 0o666
        return _Journal(self._journals, name, head, mode)

    async def _awrite_pending(self) -> None:
        """Write all pending records in their order, and remove their journals.

        One task writes the records of all tasks. If the file cannot be written, keep the rest pending, and raise
        `HistoryWriteError`.
        """
        try:
            while self._pending:
                with await self._aopen_locked(create=True) as file:
                    self._prepare_for_append(file)
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

    def _prepare_for_append(self, file: _LockedFile) -> None:
        """Close a torn record at the end of the file, with a warning, and append the records of abandoned journals.

        A journal is removed then; a record that the file has already is not appended again. An empty journal stays for
        `_EMPTY_JOURNAL_TIME` seconds.
        """
        if self._known_end != (file.identity, file.size) and file.size:
            for tail in file.tails():
                if has_frames(tail):
                    break
            else:
                self._check_format(tail)
            if missing := missing_end(tail):
                logger.warning("%s: the last message was not written to its end; it was closed as it is", self._name)
                self._write(file, missing)
        for path, record in self._abandoned_records():
            if record is None and time.time() - path.stat().st_mtime < _EMPTY_JOURNAL_TIME:
                continue
            if record is not None and not _contains(scan(file.read()).records, record):
                logger.warning("%s: a message that was not finished is kept as far as it came", self._name)
                self._write(file, to_bytes(record))
            _remove_journal(path)

    def _write(self, file: _LockedFile, data: bytes) -> None:
        """Append bytes to the file, force them to the disk if the history has `fsync`, and note the end of the file."""
        file.append(data)
        if self._fsync:
            file.sync()
        self._known_end = (file.identity, file.size)

    def _abandoned_records(self) -> Iterable[tuple[Path, Record | None]]:
        """Yield the path and the record of each abandoned journal; None for a journal without a whole head."""
        for path, data in _abandoned_journals(self._journals):
            yield path, scan_open(data)

    async def _aopen_locked(self, *, create: bool) -> _LockedFile:
        """Open and lock the file, and wait while another writer holds the lock.

        With `create`, missing folders and the file are made.

        Raises:
            TimeoutError: the lock was held for `LOCK_TIMEOUT` seconds.
            HistoryError, OSError: see `_LockedFile.try_open`.
        """
        path = self._file
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        waited = 0.0
        while (file := _LockedFile.try_open(path, create=create)) is None:
            if waited >= LOCK_TIMEOUT:
                raise TimeoutError(f"another process has held the lock for {LOCK_TIMEOUT:g} s")
            await asyncio.sleep(_LOCK_POLL)
            waited += _LOCK_POLL
        return file


def _contains(records: Iterable[Record], wanted: Record) -> bool:
    """Return True if a record of the same message as `wanted` is among `records`, and is as complete or more so."""
    return any(record.id == wanted.id and not _is_more_complete(wanted, record) for record in records)


def _is_more_complete(record: Record, other: Record) -> bool:
    """Return True if `record` holds more of its message than `other`, another record of the same message."""
    return other.interrupted and (not record.interrupted or len(record.text or "") > len(other.text or ""))


class _StreamedRecord:
    """Record of a message that may still stream: its id, and a journal if the text arrives in several pieces."""

    def __init__(self, promise: MessagePromise, open_journal: Callable[[str, bytes], _Journal]) -> None:
        # ids sort by time, so that journals of several dead processes are loaded in their order
        self.id = f"{time.time_ns() // 1_000_000:x}-{secrets.token_hex(4)}"
        self.journal: _Journal | None = None
        self._promise = promise
        self._open_journal = open_journal
        self._without_journal = False

    def add(self, piece: str) -> None:
        """Add a piece of the text to the journal; the first piece makes the journal, unless it is the only one."""
        if self.journal is None:
            if self._without_journal or self._promise.is_done:
                return
            head = frame_open(opening_record(self._promise, self.id))
            try:
                self.journal = self._open_journal(f"{self.id}.md", head)
            except OSError:  # without a journal, only a kill of the process would lose text
                self._without_journal = True
                return
        self.journal.write(escape(piece).encode())

    def close(self, *, remove: bool = False) -> None:
        """Close the journal of a message that gets no record now; `remove` also deletes the journal."""
        if self.journal is not None:
            self.journal.remove() if remove else self.journal.close()


def _drop_repetitions(messages: list[tuple[Record, Message]]) -> tuple[Message, ...]:
    """Return one message for each id: that of the complete record, or else of the longest record.

    Complete records with one id and different contents are all kept: a person copied and edited one of them.
    """
    best: dict[str, Record] = {}
    for record, _ in messages:
        if record.id not in best or _is_more_complete(record, best[record.id]):
            best[record.id] = record
    return tuple(
        message
        for record, message in messages
        if best[record.id] is record or not (record.interrupted or record == best[record.id])
    )
