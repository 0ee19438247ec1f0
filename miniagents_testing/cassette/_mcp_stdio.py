"""Patch of mcp's client for servers over stdio: the server's process is recorded, or played without a process.

A conversation is an interaction with the method `STDIO` and the command as its address. Each line of JSON-RPC is a
frame.

This module imports anyio; it is imported when the application has imported mcp's client.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
from functools import wraps
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, Process

from miniagents_testing.cassette._conversation import Frame, PlayedConversation, is_served, line_of, text_or_bytes
from miniagents_testing.cassette._current import current_session
from miniagents_testing.cassette._playback import Playback
from miniagents_testing.cassette._recorded import Exceptions, described
from miniagents_testing.cassette._session import LiveRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from signal import Signals

    from miniagents_testing.cassette._patches import Target
    from miniagents_testing.cassette._recording import Slot


def targets(module: Any) -> Iterator[Target]:
    """Yield the function of mcp's client that starts the process of a server."""
    yield module, "_create_platform_compatible_process", _answered


def _answered(before: Callable[..., Any]) -> Callable[..., Any]:
    """Return a replacement for `before`, mcp's function that starts a server's process, while cassettes are open."""

    @wraps(before)
    async def create_process(command: str, args: list[str], *others: Any, **options: Any) -> Any:
        """Return a process of the cassette, or a started one, whose pipes are recorded if the session records.

        Without a session that serves processes, or a request that it lets pass, call `before`. A failed start is
        recorded and raised.
        """
        session = current_session()
        if session is None or not is_served(session):
            return await before(command, args, *others, **options)
        clock = asyncio.get_running_loop().time
        request = LiveRequest("STDIO", _uri_of(command, args), b"", [])
        answer = session.answer(request, Exceptions(), clock, clock())
        if answer is None:
            return await before(command, args, *others, **options)
        if isinstance(answer, Playback):
            await answer.abegin()
            return PlayedProcess(PlayedConversation(session, answer))
        try:
            process = await before(command, args, *others, **options)
        except Exception as error:
            answer.ended(f"raise {described(error)}")
            raise
        except BaseException:
            answer.ended("cancelled")
            raise
        answer.headers_arrived(200, "OK", [])
        return RecordedProcess(process, answer)

    return create_process


def _uri_of(command: str, args: list[str]) -> str:
    """Return the address of a command: `stdio:` and its words. The running Python is `python`, wherever it lies."""
    line = shlex.join(["python" if command == sys.executable else command, *args])
    return "stdio:" + re.sub(r"[?#%\x00-\x1f\x7f]", lambda found: quote(found[0]), line)


# --- playing


class PlayedProcess(Process):
    """Process that does not exist: it reads and writes the lines of a recorded conversation.

    Args:
        conversation: to play.
    """

    def __init__(self, conversation: PlayedConversation) -> None:
        self._conversation = conversation
        self._left = anyio.Event()
        self._stdin = _PlayedStdin(conversation, self._end)
        self._stdout = _PlayedStdout(conversation, self._end)

    @property
    def pid(self) -> int:
        """0: there is no process."""
        return 0

    @property
    def returncode(self) -> int | None:
        """0 after the conversation has ended, None before."""
        return 0 if self._left.is_set() else None

    @property
    def stdin(self) -> ByteSendStream:
        """Stream that compares what the client writes."""
        return self._stdin

    @property
    def stdout(self) -> ByteReceiveStream:
        """Stream of the recorded lines."""
        return self._stdout

    @property
    def stderr(self) -> None:
        """None: it is not recorded."""
        return None

    async def wait(self) -> int:
        """Wait until the conversation has ended, and return the exit status 0."""
        await self._left.wait()
        return 0

    async def aclose(self) -> None:
        """End the conversation, because the client closes the process."""
        self._end()

    def terminate(self) -> None:
        """End the conversation, as a terminated process does."""
        self._end()

    def kill(self) -> None:
        """End the conversation, as a killed process does."""
        self._end()

    def send_signal(self, signal: Signals) -> None:
        """End the conversation, whatever the signal is."""
        self._end()

    def _end(self) -> None:
        """End the conversation, and let `wait` and `returncode` report the exit."""
        self._conversation.close()
        self._left.set()


class _PlayedStdin(ByteSendStream):
    """Pipe into a played process, which compares the lines that the client writes with the recorded ones."""

    def __init__(self, conversation: PlayedConversation, end: Callable[[], None]) -> None:
        self._conversation = conversation
        self._lines = _Lines(lambda line: conversation.send(text_or_bytes(line)))
        self._end = end

    async def send(self, item: bytes) -> None:
        """Take bytes of the client.

        Raise `BrokenResourceError` if they are not those of the recording, or it has ended.
        """
        await anyio.lowlevel.checkpoint()
        if not self._conversation.is_over:
            self._lines.feed(bytes(item))
        if self._conversation.is_over:
            self._end()
            raise anyio.BrokenResourceError

    async def aclose(self) -> None:
        """End the conversation: a server ends when its input does."""
        self._end()


class _PlayedStdout(ByteReceiveStream):
    """Pipe out of a played process, from which the client reads the recorded lines."""

    def __init__(self, conversation: PlayedConversation, end: Callable[[], None]) -> None:
        self._received = conversation.receive()
        self._end = end

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return the next recorded line, of any length.

        After the last one, end the conversation and raise `EndOfStream`.
        """
        async for data in self._received:
            return (data if isinstance(data, bytes) else data.encode()) + b"\n"
        self._end()
        raise anyio.EndOfStream

    async def aclose(self) -> None:
        """End the conversation, because the client closes the pipe."""
        self._end()


# --- recording


class RecordedProcess(Process):
    """Process of a server whose lines are recorded.

    Args:
        process: that was started.
        slot: to fill.
    """

    def __init__(self, process: Any, slot: Slot) -> None:
        self._inner = process
        self._process = getattr(process, "_process", None)  # mcp closes the transport of this one
        self._stdin = _RecordedStdin(process.stdin, slot)
        self._stdout = _RecordedStdout(process.stdout, slot)

    @property
    def pid(self) -> int:
        """Number of the process."""
        return int(self._inner.pid)

    @property
    def returncode(self) -> int | None:
        """Exit status, None while the process runs."""
        code: int | None = self._inner.returncode
        return code

    @property
    def stdin(self) -> ByteSendStream:
        """Stream that records what the client writes."""
        return self._stdin

    @property
    def stdout(self) -> ByteReceiveStream:
        """Stream that records what the process writes."""
        return self._stdout

    @property
    def stderr(self) -> ByteReceiveStream | None:
        """Stream of the process itself, which is not recorded; None if the process has none."""
        stream: ByteReceiveStream | None = self._inner.stderr
        return stream

    async def wait(self) -> int:
        """Wait until the process has exited; return its exit status."""
        return int(await self._inner.wait())

    async def aclose(self) -> None:
        """Close the pipes and wait for the process."""
        await self._inner.aclose()

    def terminate(self) -> None:
        """Ask the process to exit."""
        self._inner.terminate()

    def kill(self) -> None:
        """Kill the process."""
        self._inner.kill()

    def send_signal(self, signal: Signals) -> None:
        """Send a signal to the process."""
        self._inner.send_signal(signal)


class _RecordedStdin(ByteSendStream):
    """Pipe into a recorded process, which records the lines that the client writes."""

    def __init__(self, stream: ByteSendStream, slot: Slot) -> None:
        self._stream = stream
        self._slot = slot
        self._lines = _Lines(lambda line: slot.chunk_arrived(line_of(Frame(True, text_or_bytes(line)))))

    async def send(self, item: bytes) -> None:
        """Record bytes before the process can answer them, and send them."""
        self._lines.feed(bytes(item))
        await self._stream.send(item)

    async def aclose(self) -> None:
        """Record that the client has ended the conversation, and close the pipe."""
        self._slot.ended("closed")
        await self._stream.aclose()


class _RecordedStdout(ByteReceiveStream):
    """Pipe out of a recorded process, which records the lines that the process writes."""

    def __init__(self, stream: ByteReceiveStream, slot: Slot) -> None:
        self._stream = stream
        self._slot = slot
        self._lines = _Lines(lambda line: slot.chunk_arrived(line_of(Frame(False, text_or_bytes(line)))))

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return the next bytes of the process, and record them. At their end, record that the server has ended."""
        try:
            data = await self._stream.receive(max_bytes)
        except anyio.EndOfStream:
            self._slot.ended("eof")
            raise
        self._lines.feed(data)
        return data

    async def aclose(self) -> None:
        """Close the pipe."""
        await self._stream.aclose()


class _Lines:
    """Lines that arrive in pieces.

    Args:
        arrived: called with each whole line, without its line feed.
    """

    def __init__(self, arrived: Callable[[bytes], object]) -> None:
        self._arrived = arrived
        self._rest: list[bytes] = []
        """Pieces of the line that is not whole yet."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes, and report each line that they complete; the rest waits for more."""
        first, *others = data.split(b"\n")
        self._rest.append(first)
        for piece in others:
            self._arrived(b"".join(self._rest))
            self._rest = [piece]
