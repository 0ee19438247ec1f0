"""Chat history in a Markdown file that people can read, and that survives crashes of the process.

- A message is appended to the file as one record, in one write, under a lock for all processes. Records in the file
  never change. An append closes a record that a crash has cut off, and logs a warning.
- A message is written when it is complete. If the process is killed while the message streams, it is not in the file.
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
import hashlib
import os
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from miniagents.chat_history import StoringHistory, logger
from miniagents.errors import HistoryError, HistoryFormatError, HistoryWriteError
from miniagents.ext._markdown_records import (
    TORN_END,
    Problem,
    earlier_head,
    has_frames,
    may_become_history,
    missing_end,
    scan,
    to_bytes,
)
from miniagents.ext._terminal import visible_line

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from miniagents.messages import Message

__all__ = ["LOCK_TIMEOUT", "ChatHistoryMD"]

LOCK_TIMEOUT = 10.0
"""Seconds after which waiting for the lock of a history is an error; a writer holds the lock for one write only."""
_LOCK_POLL = 0.005
_END_BYTES = 4096
"""Size of the two ends of a file that an append checks."""


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
        """Lock the file, and return True; return False if it is locked already, even by this process.

        Return True also where the file system has no locks.
        """
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:  # without locks in the file system, single writes must do
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        return True


_State = tuple[int, int, int, int]
"""Device, inode, size and time of the last change of a file: what differs when another program has written the file."""


class _LockedFile:
    """Open file that no other `ChatHistoryMD` can open before it is closed; `try_open` opens it."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path
        self.size = os.fstat(descriptor).st_size
        self._has_new_name = not self.size

    @classmethod
    def try_open(cls, path: Path, *, create: bool) -> _LockedFile | None:
        """Open and lock the file at `path`.

        Return None if the file is locked already, or was moved before it was locked.

        With `create`, open it for writing and make it if it is missing; else only for reading.

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

    def state(self) -> _State:
        """Return device, inode, size and time of change of the file.

        One of them changes when it is written or replaced.
        """
        status = os.fstat(self._descriptor)
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def read(self, start: int = 0, size: int = sys.maxsize) -> bytes:
        """Return `size` bytes of the file, or fewer at its end, from the position `start` on."""
        os.lseek(self._descriptor, start, os.SEEK_SET)
        parts = []
        while size and (part := os.read(self._descriptor, min(size, 2**24))):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def append(self, data: bytes, *, fsync: bool) -> None:
        """Append `data` in one write. After a failure, the file gets its old size again if possible.

        Args:
            data: the bytes to append.
            fsync: True to force them to the disk, and the name of a new file in its folder, if the system offers that.

        Raises:
            OSError: the data cannot be written, such as on a full disk.
        """
        try:
            _write_all(self._descriptor, data)
            if fsync:
                self._sync()
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
            raise
        self.size += len(data)

    def _sync(self) -> None:
        """Force the data to the disk, and the name of a new file, if the system can open folders."""
        os.fsync(self._descriptor)
        if self._has_new_name and hasattr(os, "O_DIRECTORY"):
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self._has_new_name = False


def _is_same_file(path: Path, descriptor: int) -> bool:
    """Return True if the opened file is still the file at `path`.

    It may have been moved or deleted before it was locked.
    """
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _write_all(descriptor: int, data: bytes) -> None:
    """Write all data: usually in one call, but a full disk or a signal can make the kernel write less."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@dataclass
class _Rest:
    """End of a file behind the last whole record: a record that was cut off, or text of a person."""

    messages: list[Message] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    is_empty: bool = True


@dataclass
class _ReadPart:
    """Beginning of a file, up to the end of a whole record, that was read: a later load reads only the rest."""

    size: int = 0
    lines: int = 0
    digest: hashlib.blake2b = field(default_factory=hashlib.blake2b)
    """Digest of its bytes, which shows if they have changed."""
    messages: list[Message] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def is_beginning_of(self, data: bytes) -> bool:
        """Return True if these bytes begin with this part, unchanged."""
        return len(data) >= self.size and hashlib.blake2b(data[: self.size]).digest() == self.digest.digest()

    def read_on(self, data: bytes) -> _Rest:
        """Read the bytes behind this part, add whole records to it, and return the rest."""
        found = scan(data, first_line=self.lines + 1)
        whole = data[: found.end]
        self.size += found.end
        self.lines += whole.count(b"\n")
        self.digest.update(whole)
        self.messages += found.messages[: found.whole]
        self.problems += [problem for problem in found.problems if problem.line <= self.lines]
        later = [problem for problem in found.problems if problem.line > self.lines]
        return _Rest(found.messages[found.whole :], later, is_empty=found.end == len(data))


class ChatHistoryMD(StoringHistory):
    """Chat history in a Markdown file, to which several objects and processes may append at the same time.

    A message shows as a heading and its text; HTML comments hold its other fields. A member of an `Enum` in an untyped
    field is loaded as its value. A file that was edited by hand is loaded as it is now, with a warning for each place
    that does not fit.

    Args:
        path: the path of the file. The first append makes the file and its folder.
        fsync: True to force each message to the disk before `aappend` returns. This blocks the event loop meanwhile.
    """

    def __init__(self, path: str | os.PathLike[str], *, fsync: bool = False) -> None:
        super().__init__()
        self.path: Path = Path(path).absolute()
        self._name = visible_line(str(self.path))
        self.problems: tuple[Problem, ...] = ()
        """Problems of the file at the last load; each problem is logged once as a warning."""
        self._fsync = fsync
        self._reported: set[Problem] = set()
        self._read = _ReadPart()
        self._read_state: _State | None = None
        """State of the file in which it begins with `_read`."""
        self._whole_state: _State | None = None
        """State of the file in which its last record has its end."""

    # --- loading

    async def aload_chat_history(self) -> tuple[Message, ...]:
        """Return all messages in their order. An interrupted message has its text so far and `interrupted=True`.

        Messages not written yet come last. A missing file counts as empty. Records that were loaded before are parsed
        again only if they have changed.

        Raises:
            HistoryFormatError: the file is not a history, or an earlier version wrote it.
            HistoryError: the file cannot be read, or is locked for longer than `LOCK_TIMEOUT` seconds.
        """
        try:
            with await self._aopen_locked(create=False) as file:
                rest = self._read_on(file)
        except FileNotFoundError:
            self._read, self._read_state, rest = _ReadPart(), None, _Rest()
        except OSError as error:
            raise HistoryError(f"cannot read the chat history {self._name}: {error}") from error
        self._report((*self._read.problems, *rest.problems))
        return (*self._read.messages, *rest.messages, *self._waiting)

    def _read_on(self, file: _LockedFile) -> _Rest:
        """Read the records of the file that are new, or all if it has changed; return the rest behind them.

        Raises:
            HistoryFormatError: the file is no history, or an earlier version wrote it.
        """
        state = file.state()
        if state == self._read_state:  # only this object has appended since the last load
            data = file.read(self._read.size)
        else:
            data = file.read()
            self._check_format(data)
            if not self._read.is_beginning_of(data):
                self._read = _ReadPart()
            data = data[self._read.size :]
        rest = self._read.read_on(data)
        self._read_state = state
        if rest.is_empty:
            self._whole_state = state
        return rest

    def _check_format(self, data: bytes) -> None:
        """Raise `HistoryFormatError` if these bytes of the file are no history, or an earlier version wrote them."""
        if not has_frames(data) and not may_become_history(data):
            raise HistoryFormatError(f"{self._name}, line 1: this is not a chat history, no message begins in it")
        if line := earlier_head(data):
            raise HistoryFormatError(
                f"{self._name}, line {line}: an earlier version wrote this message, in a form that is no longer read. "
                f"Read the file with that version, or begin a new one."
            )

    def _report(self, problems: tuple[Problem, ...]) -> None:
        """Store the problems of the last load, and log those that are new."""
        self.problems = problems
        for problem in problems:
            if problem not in self._reported:
                self._reported.add(problem)
                logger.warning("%s, line %d: %s", self._name, problem.line, problem.what)

    # --- appending

    async def _awrite_waiting(self) -> None:
        """Append the records of all waiting messages in one write, also those that other tasks want to append.

        Raises:
            HistoryWriteError: the file cannot be written. The messages are kept, and written with the next append.
            HistoryFormatError: the file is not a history; it is not changed.
        """
        try:
            while self._waiting:
                with await self._aopen_locked(create=True) as file:
                    self._append_waiting(file)
        except OSError as error:
            raise HistoryWriteError(
                f"cannot write the chat history {self._name}: {error}. {len(self._waiting)} message(s) are in memory, "
                f"and are written together with the next one"
            ) from error

    def _append_waiting(self, file: _LockedFile) -> None:
        """Append the records of all waiting messages in one write.

        Before them, close a record that was cut, with a warning. If the write fails, the messages go on waiting, and
        the file gets its old size if possible.
        """
        state = file.state()
        missing = b"" if state == self._whole_state else self._missing_end(file)
        if missing == TORN_END:
            logger.warning("%s: the last message was not written to its end; it was closed as it is", self._name)
        records = [to_bytes(message) for message in self._waiting]
        file.append(missing + b"".join(records), fsync=self._fsync)
        del self._waiting[: len(records)]  # another thread may have added a message meanwhile
        self._whole_state = file.state()
        if state == self._read_state:
            self._read_state = self._whole_state

    def _missing_end(self, file: _LockedFile) -> bytes:
        """Return the bytes that must stand between the file and a new record; read only both ends of a long file.

        Raises:
            HistoryFormatError: the file is not a history, or an earlier version wrote it.
        """
        first, last = file.read(0, _END_BYTES), file.read(max(0, file.size - _END_BYTES))
        if not (has_frames(first) and has_frames(last)):
            first = last = file.read()
        self._check_format(first)
        return missing_end(last)

    async def _aopen_locked(self, *, create: bool) -> _LockedFile:
        """Open and lock the file, and wait while another writer holds the lock.

        With `create`, missing folders and the file are made.

        Raises:
            TimeoutError: the lock was held for `LOCK_TIMEOUT` seconds.
            HistoryError: the path is that of no regular file.
            OSError: the file cannot be opened; `FileNotFoundError`, if it does not exist and `create` is False.
        """
        waited = 0.0
        while (file := self._try_open(create=create)) is None:
            if waited >= LOCK_TIMEOUT:
                raise TimeoutError(f"another process has held the lock for {LOCK_TIMEOUT:g} s")
            await asyncio.sleep(_LOCK_POLL)
            waited += _LOCK_POLL
        return file

    def _try_open(self, *, create: bool) -> _LockedFile | None:
        """Open and lock the file, or return None, as `_LockedFile.try_open`; with `create`, make missing folders."""
        try:
            return _LockedFile.try_open(self.path, create=create)
        except FileNotFoundError:
            if not create:
                raise
        # of the file itself, as its path may be a link
        Path(os.path.realpath(self.path)).parent.mkdir(parents=True, exist_ok=True)
        return _LockedFile.try_open(self.path, create=True)
