"""HTTP server on loopback whose answers are scripts of bytes, waits and resets; it counts its requests.

It runs in a thread with a loop of its own, so that clients of any kind can ask it. `h11` reads the requests, and frames
the answers.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import h11

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import TracebackType

__all__ = ["EVENTS", "GAP", "RESET", "Answer", "Request", "WireServer", "by_path", "spaced"]

RESET = object()
"""Step of an answer: the connection is reset. `None` closes it in an orderly way."""


@dataclass
class Request:
    """A request that has reached the server."""

    method: str
    path: str
    """Path and query; a whole URL if the client takes the server for a proxy."""
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Body as JSON."""
        return json.loads(self.body)


@dataclass
class Answer:
    """A response: chunks, and between them seconds to wait, `RESET`, or None to close the connection."""

    steps: Iterable[Any] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "text/event-stream"})
    """The body is chunked, unless `content-length` is one of them."""


class WireServer:
    """Server in a thread of its own, inside `with`.

    Args:
        answer: returns the response to a request; None resets the connection before there is a response.
        tls: context of the server's certificate, for HTTPS.
    """

    def __init__(self, answer: Callable[[Request], Answer | None], *, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        """Connections that were opened; several requests may share one."""
        self._answer = answer
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return f"http{'' if self._tls is None else 's'}://localhost:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            with suppress(OSError, h11.RemoteProtocolError, asyncio.CancelledError):  # cancelled by `_stop` only
                await self._converse(reader, writer)
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until either side closes it."""
        while True:
            connection = h11.Connection(h11.SERVER)
            request = await self._read(connection, reader, writer)
            if request is None:
                return
            if request.method == "CONNECT":
                await self._tunnel(request, reader, writer)
                return
            self.requests.append(request)
            answer = self._answer(request)
            if answer is None:
                self._reset(writer)
                return
            if request.method == "HEAD":
                answer = Answer((), answer.status, answer.headers)
            if not await self._respond(connection, answer, writer):
                return

    async def _read(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Request | None:
        """Read one request; return None at the end of the connection."""
        head: Any = None
        body = b""
        while True:
            event: Any = connection.next_event()
            if event is h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    writer.write(connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
                data = await reader.read(65536)
                if not data and head is None:
                    return None
                connection.receive_data(data)
            elif isinstance(event, h11.Request):
                head = event
                if head.method == b"CONNECT":
                    return Request("CONNECT", head.target.decode(), {}, b"")
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
                return Request(head.method.decode(), head.target.decode("latin-1"), headers, body)

    async def _respond(self, connection: h11.Connection, answer: Answer, writer: asyncio.StreamWriter) -> bool:
        """Send a response; return False if the connection takes no further request."""
        headers = [(name, value) for name, value in answer.headers.items()]
        writer.write(connection.send(h11.Response(status_code=answer.status, headers=headers)) or b"")
        for step in answer.steps:
            if isinstance(step, bytes):
                await writer.drain()
                writer.write(connection.send(h11.Data(data=step)) or b"")
            elif isinstance(step, (int, float)):
                await asyncio.sleep(step)
            else:
                await asyncio.sleep(0.02)  # the bytes before go out in a packet of their own
                if step is RESET:
                    self._reset(writer)
                return False
        writer.write(connection.send(h11.EndOfMessage()) or b"")
        await writer.drain()
        return bool(connection.our_state is h11.DONE)

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        """End a connection with a reset."""
        sock = writer.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def _tunnel(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass bytes on between a client and the port of this machine that it has asked a proxy for."""
        there, back = await asyncio.open_connection("127.0.0.1", int(request.path.rpartition(":")[2]))
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                target.write(data)
            target.close()

        await asyncio.gather(pump(reader, back), pump(there, writer))


# --- answers

GAP = 0.01
"""Seconds between two chunks, so that each arrives alone."""
EVENTS = [f"data: {number}\n\n".encode() for number in range(5)]


def spaced(chunks: Iterable[bytes]) -> Iterator[Any]:
    """Yield chunks with waits before them."""
    for chunk in chunks:
        yield GAP
        yield chunk


def by_path(request: Request) -> Answer | None:
    """Answer by the last part of the path: a status, or a name."""
    match request.path.partition("?")[0].rpartition("/")[2]:
        case "stream" | "again":
            return Answer(spaced(EVENTS))
        case "length":
            return Answer([GAP, b"ab", GAP, b"cd"], headers={"content-length": "4", "content-type": "text/plain"})
        case "gzip":
            body = gzip.compress(b"".join(EVENTS) * 100)
            return Answer(spaced([body[:30], body[30:]]), headers={"content-encoding": "gzip"})
        case "echo":
            kind = request.headers.get("content-type", "")
            return Answer([request.body], headers={"content-type": "text/plain", "x-request-id": kind})
        case "redirect":
            return Answer([b"go on"], 302, {"location": "/stream", "content-length": "5"})
        case "keep":
            return Answer([b"go on"], 307, {"location": "/echo", "content-length": "5"})
        case "reset":
            return Answer([*spaced(EVENTS[:2]), RESET])
        case "close":
            return Answer([*spaced(EVENTS[:2]), None])
        case "long":
            return Answer([*spaced(EVENTS), 600])
        case "gone":
            return None
        case "limited":
            return Answer([b"{}"], 429, {"retry-after": "30", "content-length": "2"})
        case status:
            return Answer((), int(status), {} if status in ("204", "304") else {"content-length": "0"})
