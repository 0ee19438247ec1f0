"""Files that outlive crashes: one lock for all who write, whole records only, and journals of texts still to come.

All of it blocks, on purpose: a record is some kilobytes that go to the page cache in microseconds. A thread would not
make that faster, and one that waits for a dead disk would keep the process from ending.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from typing import TYPE_CHECKING

from miniagents.errors import HistoryError
from miniagents.ext.terminal import visible_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

__all__ = ["Journal", "LockedFile"]

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
