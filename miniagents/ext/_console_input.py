"""Asynchronous reader of lines from a terminal, a pipe, a file or any other stdin.

A wait for a line never keeps the process from ending. `input()` in the default executor would: Python joins the
executor's threads at exit, and a thread that waits for a line cannot be woken. So the event loop watches a terminal or
a pipe, and a file, which is always ready, is read directly. Where the loop cannot watch stdin (on Windows, or when
stdin is an object in memory), a daemon thread reads, and Python does not join daemon threads.
"""

from __future__ import annotations

import asyncio
import codecs
import concurrent.futures
import errno
import io
import os
import re
import stat
import sys
import threading
from typing import IO, TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary, ref

if TYPE_CHECKING:
    from collections.abc import Callable


_CHUNK = 65536
_LOOPS_WATCH_FILES = sys.platform != "win32"
_SURROGATE = re.compile("[\ud800-\udfff]")


class LineReader:
    """Reader of the lines of one input stream.

    It needs no thread where the event loop can watch the stream; elsewhere a daemon thread reads.
    `LineReader.of(sys.stdin)` returns the same reader at each call, because it may have read more than one line, and
    keeps the rest for the next caller. The reader does not get lines that Python's `input()` has buffered.
    """

    _readers: ClassVar[WeakKeyDictionary[IO[str], LineReader]] = WeakKeyDictionary()

    def __init__(self, stream: IO[str]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._text = ""
        self._searched = 0  # characters at the start of `_text` that contain no newline
        self._ended = False
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._thread_read: concurrent.futures.Future[bytes] | None = None
        try:
            self._descriptor: int | None = stream.fileno()
        except (OSError, ValueError, AttributeError):  # the stream is not an open file of the system
            self._descriptor = None
            weak_stream = ref(stream)  # a strong reference from a value of `_readers` would keep its key alive
            self._read_blocking: Callable[[], bytes] = lambda: _read_line_as_bytes(weak_stream())
        else:
            # A separate file object, because a blocked read holds the lock of its file, and Python waits at exit for
            # the lock of sys.stdin.
            raw: Any = io.FileIO(self._descriptor, closefd=False)
            self._read_blocking = lambda: raw.read(_CHUNK)

    @classmethod
    def of(cls, stream: IO[str] | None) -> LineReader:
        """Return the reader of `stream`, a new one at the first call.

        None, which is the value of `sys.stdin` when it is closed, is treated as an input that has ended.
        """
        if stream is None:
            stream = io.StringIO()
        reader = cls._readers.get(stream)
        if reader is None:
            reader = cls._readers[stream] = cls(stream)
        return reader

    async def readline(self) -> str:
        """Return the next line without its line end. Of several callers at once, each gets a line of its own.

        Raises:
            EOFError: the input has ended; on a terminal, the user pressed Ctrl-D.
        """
        async with self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            return await self._next_line()

    async def _next_line(self) -> str:
        """Read until a line is complete, and return it without its line end.

        The last line may lack one. At the end of the input, raise `EOFError`. The caller holds the lock.
        """
        while (end := self._text.find("\n", self._searched)) < 0 and not self._ended:
            self._searched = len(self._text)
            chunk = await self._read_chunk()
            self._text += self._decoder.decode(chunk, final=not chunk)
            self._ended = not chunk
        self._searched = 0
        if end < 0:
            end = len(self._text)
            if not end:
                self._ended = False  # a terminal can be read again after Ctrl-D
                raise EOFError
        line, self._text = self._text[:end], self._text[end + 1 :]
        return line.removesuffix("\r")

    async def _read_chunk(self) -> bytes:
        """Wait for input, and return the bytes that are available; b"" at the end of the input."""
        if self._descriptor is None or not _LOOPS_WATCH_FILES:
            return await self._read_in_thread()
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            try:
                await _wait_until_readable(self._descriptor)
            except PermissionError:
                pass  # epoll does not watch files that are always ready, like /dev/null
            except NotImplementedError:  # this event loop cannot watch files
                return await self._read_in_thread()
        try:
            return os.read(self._descriptor, _CHUNK)
        except OSError as error:
            if error.errno == errno.EIO:  # the terminal was closed
                return b""
            raise

    async def _read_in_thread(self) -> bytes:
        """Read in a daemon thread.

        The thread continues if the caller is cancelled, and the next call returns the bytes that the thread has read.
        """
        if self._thread_read is None:
            self._thread_read = concurrent.futures.Future()
            self._thread_read.set_running_or_notify_cancel()
            threading.Thread(
                target=_run_into_future,
                args=(self._thread_read, self._read_blocking),
                name="console input",
                daemon=True,
            ).start()
        read = asyncio.wrap_future(self._thread_read)
        try:
            await asyncio.wait([read])
        finally:
            read.cancel()  # cancels this wait only: the thread and its result are unaffected
        self._thread_read = None
        return read.result()


def replace_surrogates(text: str) -> str:
    """Return text with U+FFFD for each lone surrogate, which is how Python's stdin keeps a byte that is not UTF-8."""
    return _SURROGATE.sub("\ufffd", text)


def _read_line_as_bytes(stream: IO[str] | None) -> bytes:
    """Return the next line of a text stream as UTF-8; b"" if the stream has ended or no longer exists."""
    return b"" if stream is None else replace_surrogates(stream.readline()).encode()


def _run_into_future(future: concurrent.futures.Future[bytes], read: Callable[[], bytes]) -> None:
    """Call `read`, and set its result or error on the future."""
    try:
        result = read()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


async def _wait_until_readable(descriptor: int) -> None:
    """Wait until the event loop reports that a file descriptor can be read."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(descriptor, ready)
    try:
        await readable
    finally:
        loop.remove_reader(descriptor)
