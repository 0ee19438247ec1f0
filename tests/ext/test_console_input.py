"""Reader of lines from any kind of stdin: it never blocks the event loop, and never keeps the process alive."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import weakref
from typing import IO, TYPE_CHECKING, NoReturn

import pytest

from miniagents.ext._console_input import LineReader

# ruff: noqa: PTH123 - stdin is an open file, whatever it is

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Pipe:
    """Pipe whose reading end stands for stdin."""

    def __init__(self) -> None:
        reading, self._writing = os.pipe()
        self.stdin = open(reading, encoding="utf-8")  # noqa: SIM115 - closed by `close`

    def write(self, data: bytes) -> None:
        """Write bytes into the pipe."""
        os.write(self._writing, data)

    def end(self) -> None:
        """Close the writing end."""
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1

    def close(self) -> None:
        """Close both ends."""
        self.end()
        self.stdin.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """Make a pipe."""
    pipe = Pipe()
    yield pipe
    pipe.close()


async def all_lines(stream: IO[str] | None) -> list[str]:
    """Read lines until the input has ended."""
    reader, lines = LineReader.of(stream), []
    while True:
        try:
            lines.append(await reader.readline())
        except EOFError:
            return lines


TEXT = "first\nwith \u010de\u0161tina\r\n\n  spaces  \nlast without an end"
LINES = ["first", "with \u010de\u0161tina", "", "  spaces  ", "last without an end"]


async def test_reader_returns_the_lines_of_a_pipe(pipe: Pipe) -> None:
    """Lines come without LF or CR LF; the last line needs no line end; after that the input stays ended."""
    pipe.write(TEXT.encode())
    pipe.end()
    assert await all_lines(pipe.stdin) == LINES
    assert await all_lines(pipe.stdin) == []


async def test_reader_returns_a_line_when_it_is_complete(pipe: Pipe) -> None:
    """A line that arrives byte by byte is returned at its end and not before."""
    reading = asyncio.ensure_future(LineReader.of(pipe.stdin).readline())
    for byte in "h\u00e9llo".encode():
        pipe.write(bytes([byte]))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not reading.done()
    pipe.write(b"\nnext")
    assert await reading == "h\u00e9llo"


async def test_reader_returns_the_lines_of_a_file(tmp_path: Path) -> None:
    """A file as stdin, which the event loop cannot watch, is read to its end."""
    (tmp_path / "input.txt").write_bytes(TEXT.encode())
    with open(tmp_path / "input.txt", encoding="utf-8") as stdin:  # noqa: ASYNC230 - stands for stdin
        assert await all_lines(stdin) == LINES


async def test_reader_returns_long_input_whole(tmp_path: Path) -> None:
    """Input longer than a chunk, in one line and in many, is whole."""
    lines = ["x" * 200_000, *(str(number) for number in range(20_000))]
    (tmp_path / "input.txt").write_text("\n".join(lines) + "\n")
    with open(tmp_path / "input.txt", encoding="utf-8") as stdin:  # noqa: ASYNC230 - stands for stdin
        assert await all_lines(stdin) == lines


async def test_reader_raises_eof_when_stdin_is_empty_or_closed() -> None:
    """`readline` raises `EOFError` if stdin is /dev/null or was closed before Python started."""
    with open(os.devnull, encoding="utf-8") as stdin:  # noqa: ASYNC230 - stands for stdin
        assert await all_lines(stdin) == []
    assert await all_lines(None) == []


async def test_reader_returns_the_lines_of_an_object_in_memory() -> None:
    """An object in memory in place of stdin, as in notebooks and tests, is read like a file."""
    assert await all_lines(io.StringIO(TEXT)) == LINES


async def test_reader_uses_a_daemon_thread_when_the_loop_cannot_watch_files(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the event loop has no `add_reader`, a daemon thread reads stdin, and a cancelled call loses no line."""

    def refuse(*_: object) -> NoReturn:
        raise NotImplementedError

    monkeypatch.setattr(asyncio.get_running_loop(), "add_reader", refuse)
    reading = asyncio.ensure_future(LineReader.of(pipe.stdin).readline())
    await asyncio.sleep(0)
    reading.cancel()
    pipe.write(TEXT.encode())
    pipe.end()
    assert await all_lines(pipe.stdin) == LINES
    assert reading.cancelled()


async def test_reader_raises_an_error_of_its_thread() -> None:
    """`readline` raises the error of a read that failed in the reader's thread."""

    class Broken(io.StringIO):
        def readline(self, size: int | None = -1, /) -> NoReturn:
            raise ValueError("broken")

    broken = Broken()
    with pytest.raises(ValueError, match="broken"):
        await LineReader.of(broken).readline()


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no pseudo-terminals")
async def test_reader_raises_eof_when_the_terminal_is_closed() -> None:
    """`readline` raises `EOFError`, and not the system's error, when the terminal is closed."""
    screen, keyboard = os.openpty()
    os.write(screen, b"last line\n")
    with open(keyboard, encoding="utf-8") as stdin:  # noqa: ASYNC230 - stands for stdin
        assert await LineReader.of(stdin).readline() == "last line"
        os.close(screen)
        assert await all_lines(stdin) == []


async def test_reader_raises_an_error_when_stdin_cannot_be_read(tmp_path: Path) -> None:
    """A stdin that is open for writing only raises `OSError`."""
    with open(tmp_path / "output", "w", encoding="utf-8") as stdin:  # noqa: ASYNC230 - stands for stdin
        with pytest.raises(OSError, match="Bad file descriptor"):
            await LineReader.of(stdin).readline()


async def test_reader_keeps_text_for_the_next_call(pipe: Pipe) -> None:
    """Lines that arrived together with the first one are returned by the next calls."""
    pipe.write(b"one\ntwo\nthree\n")
    pipe.end()
    assert await LineReader.of(pipe.stdin).readline() == "one"
    assert await all_lines(pipe.stdin) == ["two", "three"]


async def test_cancelled_readline_loses_no_line(pipe: Pipe) -> None:
    """A cancelled `readline` leaves the input to the next call, and no callback in the event loop."""
    reader = LineReader.of(pipe.stdin)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readline(), 0.001)
    assert not asyncio.get_running_loop().remove_reader(pipe.stdin.fileno())
    pipe.write(b"line\n")
    assert await reader.readline() == "line"


async def test_concurrent_calls_get_one_line_each(pipe: Pipe) -> None:
    """Two tasks that wait for the same stdin get one line each, in the order of their calls."""
    reader = LineReader.of(pipe.stdin)
    reading = [asyncio.ensure_future(reader.readline()) for _ in range(2)]
    await asyncio.sleep(0)
    pipe.write(b"one\n")
    pipe.write(b"two\n")
    assert await asyncio.gather(*reading) == ["one", "two"]


async def test_reader_replaces_bytes_that_are_not_utf8(pipe: Pipe) -> None:
    """The reader replaces bytes that are not UTF-8 by U+FFFD, and raises no error."""
    pipe.write(b"caf\xe9\n\xff")
    pipe.end()
    assert await all_lines(pipe.stdin) == ["caf\ufffd", "\ufffd"]


def test_reader_does_not_keep_its_stream_alive() -> None:
    """The table of readers drops a stream that has no other reference."""
    stream = io.StringIO()
    LineReader.of(stream)
    assert stream in LineReader._readers
    collected = weakref.ref(stream)
    del stream
    assert collected() is None


LEFT_WAITING = """
import asyncio, sys
from miniagents.ext._console_input import LineReader

async def amain():
    {before}
    waiting = asyncio.ensure_future(LineReader.of(sys.stdin).readline())
    await asyncio.sleep(0.01)

asyncio.run(amain())
print("gone")
"""
NO_WATCHING = "def add_reader(*_): raise NotImplementedError\n    asyncio.get_running_loop().add_reader = add_reader"


@pytest.mark.parametrize("before", ["pass", NO_WATCHING], ids=["watched", "thread"])
def test_process_ends_at_once_while_it_waits_for_a_line(before: str, pipe: Pipe) -> None:
    """A program that ends while it waits for input ends at once and without errors, even if a thread waits."""
    program = LEFT_WAITING.format(before=before)
    ended = subprocess.run(
        [sys.executable, "-c", program], stdin=pipe.stdin, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "gone\n", "")
