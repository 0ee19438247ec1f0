"""Lines from any kind of stdin, without blocking the loop and without a thread that anybody waits for at exit."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from typing import IO, TYPE_CHECKING, NoReturn

import pytest

from miniagents.ext._console_input import LineReader

# ruff: noqa: PTH123 - stdin is an open file, whatever it is

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Pipe:
    """A pipe whose reading end stands for stdin."""

    def __init__(self) -> None:
        reading, self._writing = os.pipe()
        self.stdin = open(reading, encoding="utf-8")  # noqa: SIM115 - closed by `close`

    def write(self, data: bytes) -> None:
        """Pipe something in."""
        os.write(self._writing, data)

    def end(self) -> None:
        """Say that no more will come."""
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1

    def close(self) -> None:
        """Close both ends."""
        self.end()
        self.stdin.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe."""
    pipe = Pipe()
    yield pipe
    pipe.close()


async def all_lines(stream: IO[str] | None) -> list[str]:
    """Everything that can be read."""
    reader, lines = LineReader.of(stream), []
    while True:
        try:
            lines.append(await reader.readline())
        except EOFError:
            return lines


TEXT = "first\nwith \u010de\u0161tina\r\n\n  spaces  \nlast without an end"
LINES = ["first", "with \u010de\u0161tina", "", "  spaces  ", "last without an end"]


async def test_lines_of_a_pipe(pipe: Pipe) -> None:
    """Lines come without their ends, CR LF too; the last one needs none; then the input has ended, and stays so."""
    pipe.write(TEXT.encode())
    pipe.end()
    assert await all_lines(pipe.stdin) == LINES
    assert await all_lines(pipe.stdin) == []


async def test_a_line_is_given_when_it_is_whole(pipe: Pipe) -> None:
    """A line that arrives in pieces, cut inside a character, is given at its end and not before."""
    reading = asyncio.ensure_future(LineReader.of(pipe.stdin).readline())
    for byte in "h\u00e9llo".encode():
        pipe.write(bytes([byte]))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not reading.done()
    pipe.write(b"\nnext")
    assert await reading == "h\u00e9llo"


async def test_lines_of_a_file(tmp_path: Path) -> None:
    """A file as stdin, which the loop cannot watch, is read to its end."""
    (tmp_path / "input.txt").write_bytes(TEXT.encode())
    with open(tmp_path / "input.txt", encoding="utf-8") as stdin:  # noqa: ASYNC230 - stands for stdin
        assert await all_lines(stdin) == LINES


async def test_long_input_of_a_file(tmp_path: Path) -> None:
    """Input longer than a chunk, in one line and in many, is whole."""
    lines = ["x" * 200_000, *(str(number) for number in range(20_000))]
    (tmp_path / "input.txt").write_text("\n".join(lines) + "\n")
    with open(tmp_path / "input.txt", encoding="utf-8") as stdin:  # noqa: ASYNC230 - stands for stdin
        assert await all_lines(stdin) == lines


async def test_nothing_to_read() -> None:
    """/dev/null and a stdin that was closed before Python began have ended from the start."""
    with open(os.devnull, encoding="utf-8") as stdin:  # noqa: ASYNC230 - stands for stdin
        assert await all_lines(stdin) == []
    assert await all_lines(None) == []


async def test_a_stand_in_for_stdin_without_a_file() -> None:
    """An object in memory, as notebooks and tests put in the place of stdin, is read like everything else."""
    assert await all_lines(io.StringIO(TEXT)) == LINES


async def test_a_loop_that_watches_no_files(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the loop has no `add_reader`, a daemon thread reads; a reader that is cancelled loses no line."""

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


async def test_an_error_of_the_thread_reaches_the_reader() -> None:
    """What reading fails with is raised where the line was asked for."""

    class Broken(io.StringIO):
        def readline(self, size: int | None = -1, /) -> NoReturn:
            raise ValueError("broken")

    broken = Broken()
    with pytest.raises(ValueError, match="broken"):
        await LineReader.of(broken).readline()


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")
async def test_a_terminal_that_goes_away_has_ended() -> None:
    """When the window is closed, the input ends; the error that the system gives for it is not an error here."""
    screen, keyboard = os.openpty()
    os.write(screen, b"last line\n")
    with open(keyboard, encoding="utf-8") as stdin:  # noqa: ASYNC230 - stands for stdin
        assert await LineReader.of(stdin).readline() == "last line"
        os.close(screen)
        assert await all_lines(stdin) == []


async def test_an_input_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """A stdin that is open for writing only says so."""
    with open(tmp_path / "output", "w", encoding="utf-8") as stdin:  # noqa: ASYNC230 - stands for stdin
        with pytest.raises(OSError, match="Bad file descriptor"):
            await LineReader.of(stdin).readline()


async def test_who_reads_next_gets_what_was_read_ahead(pipe: Pipe) -> None:
    """Lines that came together with the first one are not lost when somebody else asks for them."""
    pipe.write(b"one\ntwo\nthree\n")
    pipe.end()
    assert await LineReader.of(pipe.stdin).readline() == "one"
    assert await all_lines(pipe.stdin) == ["two", "three"]


async def test_a_cancelled_reader_loses_no_line(pipe: Pipe) -> None:
    """A wait that is given up leaves the input to the next one, and nothing registered in the loop."""
    reader = LineReader.of(pipe.stdin)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readline(), 0.001)
    assert not asyncio.get_running_loop().remove_reader(pipe.stdin.fileno())
    pipe.write(b"line\n")
    assert await reader.readline() == "line"


async def test_each_of_several_readers_gets_a_line(pipe: Pipe) -> None:
    """Two tasks that wait for the same stdin get one line each, in the order in which they asked."""
    reader = LineReader.of(pipe.stdin)
    reading = [asyncio.ensure_future(reader.readline()) for _ in range(2)]
    await asyncio.sleep(0)
    pipe.write(b"one\n")
    pipe.write(b"two\n")
    assert await asyncio.gather(*reading) == ["one", "two"]


async def test_bytes_that_are_no_utf8_are_replaced(pipe: Pipe) -> None:
    """Input in another encoding does not end the program."""
    pipe.write(b"caf\xe9\n\xff")
    pipe.end()
    assert await all_lines(pipe.stdin) == ["caf\ufffd", "\ufffd"]


def test_a_stream_is_not_kept_by_its_reader() -> None:
    """The table of readers holds no stream that nobody else needs."""
    before = len(LineReader._readers)
    stream = io.StringIO()
    LineReader.of(stream)
    assert len(LineReader._readers) == before + 1
    del stream
    assert len(LineReader._readers) == before


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
def test_waiting_for_a_line_keeps_no_process_alive(before: str, pipe: Pipe) -> None:
    """A program that ends while it waits for input ends at once, and cleanly, also where a thread waits."""
    program = LEFT_WAITING.format(before=before)
    ended = subprocess.run(
        [sys.executable, "-c", program], stdin=pipe.stdin, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "gone\n", "")
