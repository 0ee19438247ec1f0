"""Lines that a person types or a program pipes in, read without a thread that would keep the process from ending.

`input()` in the default executor is what everybody writes first; but the executor's threads are joined at exit, and
one that waits for a line cannot be woken. So a terminal or a pipe is watched by the event loop; a file, which is
always ready, is read directly; and only where the loop cannot watch (Windows, a stand-in for stdin in memory) a
daemon thread waits, which nobody joins.
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
    """Lines of one input stream.

    `LineReader.of(sys.stdin)` gives everybody the same reader of the same stream: what was read ahead of the line
    somebody asked for belongs to the stream, and to whoever asks next. (Lines that `input()` has read ahead before
    are out of reach.)
    """

    _readers: ClassVar[WeakKeyDictionary[IO[str], LineReader]] = WeakKeyDictionary()

    def __init__(self, stream: IO[str]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._text = ""
        self._searched = 0
        self._ended = False
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._thread_read: concurrent.futures.Future[bytes] | None = None
        try:
            self._descriptor: int | None = stream.fileno()
        except (OSError, ValueError, AttributeError):  # no file behind it
            self._descriptor = None
            weak_stream = ref(stream)  # the key of the table that holds us must not be held by us
            self._read_blocking: Callable[[], bytes] = lambda: _readline(weak_stream())
        else:
            # a file object of our own: at exit Python waits for the lock of sys.stdin, which a blocked read holds
            raw: Any = io.FileIO(self._descriptor, closefd=False)
            self._read_blocking = lambda: raw.read(_CHUNK)

    @classmethod
    def of(cls, stream: IO[str] | None) -> LineReader:
        """The reader of `stream`; None, as Python has it for a closed stdin, is an input that has ended."""
        if stream is None:
            stream = io.StringIO()
        reader = cls._readers.get(stream)
        if reader is None:
            reader = cls._readers[stream] = cls(stream)
        return reader

    async def readline(self) -> str:
        """The next line without its end; of several who ask at once, each gets one.

        Raises:
            EOFError: there is none; on a terminal, Ctrl-D.
        """
        async with self._turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            return await self._readline()

    async def _readline(self) -> str:
        while (end := self._text.find("\n", self._searched)) < 0 and not self._ended:
            self._searched = len(self._text)
            chunk = await self._read()
            self._text += self._decoder.decode(chunk, final=not chunk)
            self._ended = not chunk
        self._searched = 0
        if end < 0:
            end = len(self._text)
            if not end:
                self._ended = False  # a terminal goes on after Ctrl-D
                raise EOFError
        line, self._text = self._text[:end], self._text[end + 1 :]
        return line.removesuffix("\r")

    async def _read(self) -> bytes:
        """What there is, as soon as there is something; nothing at the end."""
        if self._descriptor is None or not _LOOPS_WATCH_FILES:
            return await self._read_in_thread()
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            try:
                await _until_readable(self._descriptor)
            except PermissionError:
                pass  # epoll does not watch what is always ready, like /dev/null
            except NotImplementedError:  # a loop that watches no files
                return await self._read_in_thread()
        try:
            return os.read(self._descriptor, _CHUNK)
        except OSError as error:
            if error.errno == errno.EIO:  # the terminal has gone
                return b""
            raise

    async def _read_in_thread(self) -> bytes:
        # Whoever waits may be cancelled, but the thread reads on: what it gets is for the next one who asks
        if self._thread_read is None:
            self._thread_read = concurrent.futures.Future()
            self._thread_read.set_running_or_notify_cancel()
            threading.Thread(
                target=_settle, args=(self._thread_read, self._read_blocking), name="console input", daemon=True
            ).start()
        read = asyncio.wrap_future(self._thread_read)
        try:
            await asyncio.wait([read])
        finally:
            read.cancel()  # of no effect on the thread, nor on what is done
        self._thread_read = None
        return read.result()


def without_surrogates(text: str) -> str:
    """`text` with the replacement character for bytes that were no UTF-8, which Python keeps as lone surrogates."""
    return _SURROGATE.sub("\ufffd", text)


def _readline(stream: IO[str] | None) -> bytes:
    return b"" if stream is None else without_surrogates(stream.readline()).encode()


def _settle(future: concurrent.futures.Future[bytes], read: Callable[[], bytes]) -> None:
    try:
        result = read()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


async def _until_readable(descriptor: int) -> None:
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
