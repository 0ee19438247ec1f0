"""Input of a console: lines from a terminal, a pipe, a file or any other stdin, and Ctrl-C.

A wait for a line never keeps the process from ending. `input()` in the default executor would: Python joins the
executor's threads at exit, and a thread that waits for a line cannot be woken. So the event loop watches a terminal or
a pipe, and a file, which is always ready, is read directly. Where the loop cannot watch stdin (on Windows, or when
stdin is an object in memory), a daemon thread reads, and Python does not join daemon threads.

Ctrl-C stops the answer, clears the text at a prompt, or ends the program. It must be a signal at all times.
prompt-toolkit reads it as a key while it edits a line; pressed just after Enter, the key waits for the next prompt,
until the whole answer is printed. `make_input` keeps the signal, and also what was typed before it, which terminals
drop by default.
"""

from __future__ import annotations

import asyncio
import codecs
import concurrent.futures
import errno
import io
import math
import os
import re
import signal
import stat
import sys
import threading
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary, ref

from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
        """Wait for input, and return the bytes that are available; b"" at the end.

        A stream that the event loop cannot watch is read in a daemon thread.
        """
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
        """Let a daemon thread read, and return the bytes that it has read.

        The thread goes on if the caller is cancelled; the next call then returns its bytes.
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
    """Call `read` in this thread, and set its result or error on the future."""
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


# --- Ctrl-C


if sys.platform != "win32":
    import array
    import fcntl
    import termios


_SECONDS_BETWEEN_TWO = 2.0
"""Seconds within which a second Ctrl-C ends the program."""


class ConsoleInterrupts:
    """Ctrl-C of one event loop: `listen` catches it; the context managers `answer` and `prompt` say what it does."""

    _of_loops: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, ConsoleInterrupts]] = WeakKeyDictionary()

    @classmethod
    def of_running_loop(cls) -> ConsoleInterrupts:
        """Return the object of the running loop, which all consoles of a program share."""
        return cls._of_loops.setdefault(asyncio.get_running_loop(), cls())

    def __init__(self) -> None:
        self.answer_was_stopped = False
        """True if the user has stopped the answer that is printed, or the next one."""
        self._stop: Callable[[], object] | None = None
        self._clear: Callable[[], bool | None] | None = None
        self._last_stop = -math.inf
        self._caught = ExitStack()
        self._waiting: asyncio.Task[Any] | None = None

    def listen(self) -> None:
        """Catch Ctrl-C until the run ends, or `release` is called; do nothing if it is caught already."""
        if self._waiting is not None:
            return
        self.answer_was_stopped = False  # it was an answer of a dialog that has ended
        context = MiniAgents.get_current()
        self._caught.enter_context(context.catch_signal(signal.SIGINT, self._on_ctrl_c))

        def run_ended(task: asyncio.Task[Any]) -> None:
            """Stop catching Ctrl-C, unless another dialog has begun to catch it."""
            context.forget(task)
            if self._waiting is task:
                self.release()

        self._waiting = context.spawn(
            asyncio.Event().wait(), run_ended, name="Ctrl-C", context=context.variables.copy()
        )
        context.park(self._waiting)  # the run does not wait for it

    def release(self) -> None:
        """Stop catching Ctrl-C, because the dialog has ended."""
        self._caught.close()
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()

    @contextmanager
    def answer(self, stop: Callable[[], object]) -> Iterator[None]:
        """Let Ctrl-C call `stop` inside of the block; call it at once if Ctrl-C was pressed since the last prompt."""
        self._stop = stop
        if self.answer_was_stopped:
            stop()
        try:
            yield
        finally:
            self._stop = None
            self.answer_was_stopped = False

    @contextmanager
    def prompt(self, clear: Callable[[], bool | None]) -> Iterator[None]:
        """Let Ctrl-C clear the text at a prompt inside of the block.

        Args:
            clear: clears the text, and returns True; returns False if there is none, and the signal is to interrupt.
                It returns None if the text was sent just now: then the answer is to be stopped.
        """
        outer, self._clear = self._clear, clear
        try:
            yield
        finally:
            self._clear = outer

    def _on_ctrl_c(self) -> bool:
        """Clear the text at a prompt, or else stop the answer; return False if the program is to end.

        It ends at an empty prompt, and within `_SECONDS_BETWEEN_TWO` after a Ctrl-C that stopped an answer.
        """
        cleared = None if self._clear is None else self._clear()
        if cleared is not None:
            return cleared
        now = asyncio.get_running_loop().time()
        if now - self._last_stop < _SECONDS_BETWEEN_TWO:
            return False
        self._last_stop = now
        self.answer_was_stopped = True
        if self._stop is not None:
            self._stop()
        return True


# --- modes of a terminal, on POSIX


if sys.platform != "win32":

    def make_input(stdin: Any) -> Any:
        """Return the input of prompt-toolkit for a terminal, with Ctrl-C as a signal.

        Ctrl-Z and Ctrl-Backslash stay keys: as signals, they would leave the terminal to the shell in this mode.
        """
        from prompt_toolkit.input.vt100 import Vt100Input, raw_mode

        class ModeWithCtrlC(raw_mode):
            def __enter__(self) -> None:
                """Put the terminal into raw mode with Ctrl-C as a signal; Ctrl-Z and Ctrl-Backslash stay keys."""
                super().__enter__()
                with _changed(self.fileno) as mode:
                    mode[_LOCAL] |= termios.ISIG | termios.NOFLSH
                    for key in (termios.VSUSP, termios.VQUIT):
                        mode[_KEYS][key] = os.fpathconf(self.fileno, "PC_VDISABLE").to_bytes(1, "big")

        class InputWithCtrlC(Vt100Input):
            def raw_mode(self) -> raw_mode:
                return ModeWithCtrlC(self.fileno())

        return InputWithCtrlC(stdin)

    @contextmanager
    def keep_typed_text(descriptor: int) -> Iterator[None]:
        """Let a terminal keep what was typed before Ctrl-C, inside of the block; then restore its mode."""
        before = termios.tcgetattr(descriptor)
        with _changed(descriptor) as mode:
            mode[_LOCAL] |= termios.NOFLSH
        try:
            yield
        finally:
            termios.tcsetattr(descriptor, termios.TCSANOW, before)

    def drop_typed_text(descriptor: int) -> bool:
        """Drop what was typed on the current line of a terminal; return False if that is nothing."""
        before = termios.tcgetattr(descriptor)
        with _changed(descriptor) as mode:
            mode[_LOCAL] &= ~termios.ICANON  # or the number of characters is that of whole lines
        count = array.array("i", [0])
        fcntl.ioctl(descriptor, termios.FIONREAD, count)
        termios.tcflush(descriptor, termios.TCIFLUSH)
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
        return count[0] > 0

    _LOCAL, _KEYS = 3, 6  # places in the list of `tcgetattr`

    @contextmanager
    def _changed(descriptor: int) -> Iterator[list[Any]]:
        """Give the block the mode of a terminal to change, and set the changed mode after the block."""
        mode = termios.tcgetattr(descriptor)
        yield mode
        termios.tcsetattr(descriptor, termios.TCSANOW, mode)

else:  # prompt-toolkit reads Ctrl-C as a key there, and the console of Windows has no such modes

    def make_input(stdin: Any) -> Any:
        """Return the input of prompt-toolkit for a console of Windows."""
        from prompt_toolkit.input import create_input

        return create_input(stdin)

    @contextmanager
    def keep_typed_text(descriptor: int) -> Iterator[None]:
        """Do nothing: Windows keeps what was typed."""
        yield

    def drop_typed_text(descriptor: int) -> bool:
        """Return False: Windows drops what was typed by itself."""
        return False
