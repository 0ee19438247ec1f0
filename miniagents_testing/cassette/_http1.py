"""HTTP/1.1 between a cassette and clients that write and read bytes: what they send, what they are sent.

- `RequestBytes` collects what a client writes until the request is whole, and makes a `LiveRequest` of it.
- `played_bytes` and `aplayed_bytes` write a `Playback` as the bytes of a response: the head when it is due, then each
  recorded chunk in one piece when it is due, then the end. The body is framed by the recorded `content-length` if that
  is its length, else it is chunked. A connection that broke ends with the library's own error, or in mid-body.
- `ResponseTee` reads the bytes of a live response beside the client, and fills a `Slot`: status, headers, chunks, end.
- Errors of connections have the names of httpx in a file: `error_name` gives them, `os_error` makes errors of them.

The client parses the same bytes itself, so redirects, cookies, decompression and time-outs stay its own.
"""

from __future__ import annotations

import errno
import io
import re
import socket
import ssl
from http.client import parse_headers
from typing import TYPE_CHECKING, Any, Literal

import h11

from miniagents_testing.cassette._headers import line_of
from miniagents_testing.cassette._session import LiveRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from miniagents_testing.cassette._playback import Playback
    from miniagents_testing.cassette._recording import Slot


# --- requests


class RequestBytes:
    """Bytes that a client writes for one request.

    Args:
        origin: scheme, host and port, as in `https://example.com:8443`. A full URL in the request line, as for a proxy,
            is taken alone.
    """

    def __init__(self, origin: str) -> None:
        self.is_whole = False
        """True when all of the request was written, as its framing headers say."""
        self.headers: list[tuple[str, str]] = []
        """Headers; empty before `has_head`."""
        self.has_head = False
        self._origin = origin
        self._head = b""
        self._body: list[bytes] = []
        self._line: tuple[str, str] = "", ""
        self._left = 0
        self._chunked: Any = None
        self._chunks: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Add bytes that the client has written; read the head when it is whole, and note the end of the request.

        Later bytes are kept, and are no part of it.
        """
        if not self.has_head:
            self._head += data
            head, blank, rest = self._head.partition(b"\r\n\r\n")
            if not blank:
                return
            self._head, data = head + blank, rest
            self._read_head()
        if not data:
            return
        self._body.append(data)
        if self._chunked is not None:
            self._chunked.receive_data(data)
            self._read_chunks()
        elif not self.is_whole:
            self._left -= len(data)
            self.is_whole = self._left <= 0

    def _read_head(self) -> None:
        """Read the request line and headers, and find out how the end of the body is marked."""
        line, _, rest = self._head.partition(b"\r\n")
        method, _, target = line.decode("latin-1").rpartition(" ")[0].partition(" ")
        self._line = method, target
        self.headers = list(parse_headers(io.BytesIO(rest)).items())
        self.has_head = True
        framing = {name.lower(): value.strip().lower() for name, value in self.headers}
        if framing.get("transfer-encoding") == "chunked":
            self._chunked = h11.Connection(h11.SERVER)
            self._chunked.receive_data(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            self._chunked.next_event()
        else:
            length = framing.get("content-length", "")
            self._left = int(length) if length.isdecimal() else 0
            self.is_whole = not self._left

    def _read_chunks(self) -> None:
        """Take the data out of the chunks that have come; a body that is not chunked is left as it is."""
        try:
            while not self.is_whole and (event := self._chunked.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Data):
                    self._chunks.append(bytes(event.data))
                self.is_whole = isinstance(event, h11.EndOfMessage)
        except h11.RemoteProtocolError:
            self._chunked = None

    @property
    def waits_for_continue(self) -> bool:
        """True if the client has sent the head and may wait for the server to ask for the body."""
        expects = (value for name, value in self.headers if name.lower() == "expect")
        return not self.is_whole and "100-continue" in (value.lower() for value in expects)

    def live(self) -> LiveRequest:
        """Return the request as it is written so far; chunks are joined."""
        method, target = self._line
        url = target if "://" in target.partition("?")[0] else self._origin + target
        body = b"".join(self._body if self._chunked is None else self._chunks)
        return LiveRequest(method, url, body, self.headers)

    def pieces(self, *, identity: bool) -> list[bytes]:
        """Return the bytes to send.

        Args:
            identity: True to ask for an answer without compression, which can be searched for secrets and read.
        """
        head = _ACCEPTED.sub(rb"\1identity", self._head) if identity else self._head
        return [head, *self._body]


_ACCEPTED = re.compile(rb"(\r\naccept-encoding:[ \t]*)[^\r\n]*", re.IGNORECASE)


# --- answers from a cassette


class PeerClosedError(Exception):
    """Error that `HTTPLibrary.error` returns for a server that closed too early: then the bytes just end."""


def played_bytes(playback: Playback, method: str) -> Iterator[bytes]:
    """Yield the bytes of a response when they are due: head, each chunk in one piece, end.

    After `PeerClosedError` the bytes just end. A response to `method` HEAD has no body.

    Raises:
        Exception: the library's own error for a connection that broke in the recording.
    """
    try:
        playback.begin()
        writer = _Writer(playback, method)
        yield writer.head
        for chunk in playback.read():
            yield writer.chunk(chunk)
        yield writer.end()
    except PeerClosedError:
        return


async def aplayed_bytes(playback: Playback, method: str) -> AsyncIterator[bytes]:
    """Yield the bytes of a response in a task when they are due: head, each chunk in one piece, end.

    It ends and raises as `played_bytes` does.
    """
    try:
        await playback.abegin()
        writer = _Writer(playback, method)
        yield writer.head
        async for chunk in playback.aread():
            yield writer.chunk(chunk)
        yield writer.end()
    except PeerClosedError:
        return


class _Writer:
    """Writer of one recorded response as bytes."""

    def __init__(self, playback: Playback, method: str) -> None:
        response = playback.response
        server = h11.Connection(h11.SERVER)
        server.receive_data(f"{method} / HTTP/1.1\r\nhost: x\r\n\r\n".encode("latin-1"))
        while server.next_event() not in (h11.PAUSED, h11.NEED_DATA):
            pass
        self._has_body = method != "HEAD" and response.status not in (204, 304)
        is_broken = response.end.startswith("raise ")
        length = str(sum(len(chunk.data) for chunk in response.chunks))
        headers = [
            (name.encode(), line_of(value))
            for name, value in playback.headers
            if name.lower() not in _CONNECTION_HEADERS
            and (name.lower() != "content-length" or not self._has_body or is_broken or value == length)
        ]
        reason = line_of(response.reason)
        self.head = server.send(h11.Response(status_code=response.status, headers=headers, reason=reason)) or b""
        self._is_chunked = self._has_body and all(name.lower() != b"content-length" for name, _ in headers)

    def chunk(self, data: bytes) -> bytes:
        """Return a chunk of the body with its chunked framing, if the body has that; nothing if there is no body."""
        if not self._is_chunked or not data:
            return data if self._has_body else b""
        return b"%x\r\n%b\r\n" % (len(data), data)  # h11 would take most of the time of a replay

    def end(self) -> bytes:
        """Return the mark of the end of a chunked body; empty for others."""
        return b"0\r\n\r\n" if self._is_chunked else b""


_CONNECTION_HEADERS = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})
"""Headers of a recorded answer that say how its body was framed, which is decided anew."""


# --- answers of a server


class ResponseTee:
    """Reader of a live response's bytes, beside the client that reads them: it records the bytes.

    Args:
        slot: recording of the request and its response.
        method: method of the request.
        refused: called once if the answer is no HTTP/1.1 that h11 can read. The recording is dropped then.
    """

    def __init__(self, slot: Slot, method: str, refused: Callable[[], object]) -> None:
        self._slot = slot
        self._refused = refused
        self._parser: Any = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LONGEST_HEAD)
        self._parser.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        self._parser.send(h11.EndOfMessage())
        self.is_done = False
        """True when the answer has ended; what comes after it is not recorded."""

    def received(self, data: bytes) -> None:
        """Record bytes that have arrived; empty bytes stand for the end of the connection.

        Do nothing after the answer's end.

        Bytes that are no HTTP drop the recording and call `refused`. An end in mid-answer is recorded as an error.
        """
        if self.is_done:
            return
        try:
            self._parser.receive_data(data)
            while self._record(self._parser.next_event()):
                pass
        except h11.RemoteProtocolError as error:
            self.is_done = True
            if data:
                self._slot.dropped = True
                self._refused()
            else:
                self._slot.ended(f"raise RemoteProtocolError: {error if self._slot.status else _NO_ANSWER}")

    def _record(self, event: Any) -> bool:
        """Record an event of the parser.

        Return True if others may follow at once, False at the end or without more bytes.
        """
        if type(event) is h11.Data:
            self._slot.chunk_arrived(bytes(event.data))
        elif type(event) is h11.Response:
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers.raw_items()]
            self._slot.headers_arrived(event.status_code, event.reason.decode("latin-1"), headers)
        elif type(event) is h11.EndOfMessage:
            self.is_done = True
            self._slot.ended("eof")
        return not self.is_done and event not in (h11.NEED_DATA, h11.PAUSED)

    def failed(self, error: BaseException) -> None:
        """Record an error of the connection, or a cancellation, while the answer was read.

        Other errors end it as closed.

        Before its head, another error drops the recording.
        """
        if isinstance(error, OSError):
            self._slot.ended(f"raise {error_name('Read', error)}: {error}")
        else:
            self._slot.failed(error, is_network=False)

    def closed(self) -> None:
        """Record that the client has closed the response; do nothing if the response has ended before."""
        self.is_done = True
        self._slot.ended("closed")


_LONGEST_HEAD = 100 * 1024
"""Most bytes of a response's head, as httpx allows."""
_NO_ANSWER = "Server disconnected without sending a response."


# --- errors


def error_name(doing: Literal["Connect", "Read", "Write"], error: BaseException) -> str:
    """Return the name of an error of a connection in a cassette: that of httpx, so that every client can play it."""
    return f"{doing}{'Timeout' if isinstance(error, TimeoutError) else 'Error'}"


def os_error(name: str, message: str) -> Exception:
    """Return the error that a socket raises for a recorded one: a timeout, an error of TLS, or an `OSError`.

    `RemoteProtocolError` becomes `PeerClosedError`.

    Args:
        name: of the error in httpx; others count as a connection that was reset.
        message: with the number of the error in front, as in `[Errno 104] Connection reset by peer`, or without.
    """
    if name == "RemoteProtocolError":
        return PeerClosedError(message)
    if name.endswith("Timeout"):
        return TimeoutError(message or "timed out")
    if message.startswith("[SSL"):
        kind = ssl.SSLCertVerificationError if "CERTIFICATE_VERIFY_FAILED" in message else ssl.SSLError
        return kind(1, message)
    if found := re.search(r"\[Errno (-?\d+)\] (.*)", message, re.DOTALL):
        number = int(found[1])
        return socket.gaierror(number, found[2]) if number < 0 else OSError(number, found[2])
    number = errno.ECONNREFUSED if name == "ConnectError" else errno.ECONNRESET
    return OSError(number, message)
