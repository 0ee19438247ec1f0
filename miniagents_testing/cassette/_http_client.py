"""Patch of `http.client`, and so of urllib, urllib3, requests and botocore, which send by its connections.

From the start of a request to its answer, a connection has a `_StandIn` in place of its socket. It holds the bytes of
the request until they are whole, and asks the session. Then either the answer is played, and nothing is connected; or
the stand-in connects, sends what it holds, and records what the client reads. After that, the connection has its own
socket again.

The client parses the answer itself, so its errors, redirects, cookies, decompression and time-outs are as they are
live. While recording, it asks for an answer without compression, as httpx does; an answer that is compressed all the
same is recorded as it is.
"""

from __future__ import annotations

import io
import socket
import ssl
import sys
import time
from contextlib import suppress
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from miniagents_testing._hosts import Address
from miniagents_testing._waiting import running_packages
from miniagents_testing.cassette._current import current_session, passing
from miniagents_testing.cassette._http1 import RequestBytes, ResponseTee, error_name, os_error, played_bytes
from miniagents_testing.cassette._other_clients import judge_connection
from miniagents_testing.cassette._patches import replace_late
from miniagents_testing.cassette._playback import Playback
from miniagents_testing.errors import CassetteError, causes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from miniagents_testing.cassette._patches import Target
    from miniagents_testing.cassette._recording import Slot
    from miniagents_testing.cassette._session import Session


MODULES = ("http.client", "botocore.httpsession", "vcr.stubs", "vcr.stubs.urllib3_stubs")


def targets(module: Any) -> Iterator[Target]:
    """Yield the methods of connections to replace, and those of libraries that wrap them."""
    if module.__name__ == "http.client":
        # vcrpy has put its own class in the place, if it serves clients at the moment
        owner = getattr(module.HTTPConnection, "_baseclass", module.HTTPConnection)
        yield owner, "putrequest", _putrequest
        yield owner, "getresponse", _getresponse
        yield owner, "__init_subclass__", partial(_init_subclass, owner)
        yield from _connects(owner)
    elif module.__name__ == "botocore.httpsession":
        yield module.URLLib3Session, "send", _unwrapping
    elif module.__name__ == "vcr.stubs":
        for name in ("request", "putrequest", "putheader", "endheaders", "send", "getresponse", "connect"):
            yield module.VCRConnection, name, partial(_by_the_real_connection, name)
    else:
        yield module._VCRRequestsConnectionMixin, "getresponse", partial(_by_the_real_connection, "getresponse")


def _connects(owner: Any) -> Iterator[Target]:
    """Yield `connect` of a class of connections and of all its subclasses that have their own."""
    if "connect" in vars(owner):
        yield owner, "connect", _connect
    for subclass in owner.__subclasses__():
        yield from _connects(subclass)


def _init_subclass(owner: Any, _: Any) -> Any:
    """Return a class method that patches classes of connections which are defined while a cassette is open."""

    def __init_subclass__(cls: Any, /, **kwargs: Any) -> None:  # noqa: N807 - it is one
        super(owner, cls).__init_subclass__(**kwargs)
        replace_late(_connects(cls))

    return classmethod(__init_subclass__)


def _connect(before: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that replaces `connect` of a connection.

    While a cassette is open, it only puts a stand-in in the place of the socket, which connects when the request is
    known.
    """

    @wraps(before)
    def connect(connection: Any, *args: Any, **kwargs: Any) -> Any:
        """Put a stand-in in the place of the socket if a cassette is open, otherwise connect."""
        if _session_of(connection) is None:
            return before(connection, *args, **kwargs)
        connection.sock = _StandIn(connection, None, partial(before, connection, *args, **kwargs))
        if hasattr(connection, "is_verified"):
            _tell_urllib3(connection)
        return None

    return connect


def _tell_urllib3(connection: Any) -> None:
    """Set what urllib3 wants to know of a new connection; otherwise it warns, or takes errors for those of a proxy."""
    required = getattr(connection, "cert_reqs", None) in (ssl.CERT_REQUIRED, "CERT_REQUIRED", "REQUIRED")
    connection.is_verified = required or bool(getattr(connection, "assert_fingerprint", None))
    connection._has_connected_to_proxy = bool(getattr(connection, "proxy", None))


def _putrequest(before: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `putrequest` that puts a stand-in in the place of the socket while a cassette is open."""

    @wraps(before)
    def putrequest(connection: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        """Start a request; while a cassette is open, a stand-in keeps its bytes until it is whole."""
        session = _session_of(connection)
        before(connection, method, *args, **kwargs)
        if session is not None:
            found = connection.sock
            stand_in = found if isinstance(found, _StandIn) else _StandIn(connection, found, connection.connect)
            stand_in.start(session, method)
            connection.sock = stand_in

    return putrequest


def _getresponse(before: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `getresponse` that reads from the stand-in, and gives the connection its own socket back."""

    @wraps(before)
    def getresponse(connection: Any, *args: Any, **kwargs: Any) -> Any:
        """Read the head of the answer, of the cassette or of the server.

        Then give the connection its own socket back.
        """
        found = connection.sock
        try:
            return before(connection, *args, **kwargs)
        finally:
            if isinstance(found, _StandIn):
                found.release()
                if connection.sock is found:
                    connection.sock = found.real

    return getresponse


def _unwrapping(before: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `send` of botocore that raises errors of a cassette as they are; botocore tries its own errors again."""

    @wraps(before)
    def send(session: Any, request: Any) -> Any:
        """Send a request; raise the cassette's error in place of the error that botocore makes of it."""
        try:
            return before(session, request)
        except Exception as error:
            for cause in causes(error):
                if isinstance(cause, CassetteError):
                    raise cause from None
            raise

    return send


def _by_the_real_connection(name: str, before: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of vcrpy's connections that leaves the work to the connection that vcrpy stands in for.

    vcrpy still makes its own request of what the application gives, without the headers that libraries add.
    """

    @wraps(before)
    def method(connection: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the method of the real connection while one of our cassettes is open; it is patched itself."""
        if current_session() is None:
            return before(connection, *args, **kwargs)
        setattr(connection.real_connection, _OF_VCRPY, True)
        if name == "request":
            _note_request(before, connection, *args, **kwargs)
        elif name in ("putrequest", "putheader"):
            before(connection, *args, **kwargs)
        return getattr(connection.real_connection, name)(*args, **kwargs)

    return method


def _note_request(
    before: Callable[..., Any], connection: Any, method: str, url: str, body: Any = None, headers: Any = None, **_: Any
) -> None:
    """Let vcrpy note a request. Its body, which may be an iterator that can be read once, follows in `_as_vcrpy`."""
    before(connection, method, url, None if body is None else b"", headers)
    connection._sock = None  # vcrpy's stand-in for a socket


def _as_vcrpy(connection: Any, body: bytes) -> Any:
    """Return the request that vcrpy has noted for its connection, with the body that was sent; None for no request."""
    request = getattr(connection, "_vcr_request", None)
    if request is not None and body:
        request.body = body
    return request


_OF_VCRPY = "_miniagents_of_vcrpy"
"""Attribute of the real connections that vcrpy stands in for."""


def _session_of(connection: Any) -> Session | None:
    """Return the session that answers the requests of a connection; None if no session is open.

    In a test that was written for vcrpy, return None for a connection that vcrpy does not patch, either.
    """
    session = current_session()
    if session is None or session.judges or hasattr(connection, _OF_VCRPY):
        return session
    return None


_DRAIN_SECONDS = 5.0
"""Seconds to read the rest of an error's body that its reader has closed unread."""


class _StandIn:
    """Object in the place of a connection's socket, from the start of a request to its answer.

    Args:
        connection: of `http.client`.
        real: its own socket, if it has been connected before.
        connect: connects it otherwise.
    """

    def __init__(self, connection: Any, real: Any, connect: Callable[[], Any]) -> None:
        self.real = real
        self._connection = connection
        self._connect = connect
        self._timeout: Any = connection.timeout if real is None else real.gettimeout()
        self._session: Session | None = None
        self._answer: Playback | Slot | None = None
        self._is_answered = False
        self._pair: tuple[socket.socket, socket.socket] | None = None

    def start(self, session: Session, method: str) -> None:
        """Begin to hold the bytes of a request with this method, which `session` will answer."""
        self._session = session
        self._method = method
        self._origin = _origin(self._connection)
        self._request = RequestBytes(self._origin)
        self._started = time.monotonic()
        self._write_error: OSError | None = None

    # --- the request

    def sendall(self, data: Any) -> None:
        """Take bytes of the request; the last ones make the session answer it.

        Later bytes go to the server, or nowhere if the answer is played. Without a request, connect and send for real.
        """
        if self._session is None:
            self._open_unrecorded().sendall(data)
        elif not self._is_answered:
            self._request.write(data if type(data) is bytes else memoryview(data).tobytes())
            if self._request.is_whole:
                self._ask(self._session)
        elif not isinstance(self._answer, Playback):
            self.real.sendall(data)  # more than the headers have announced

    def send(self, data: Any) -> int:
        """Do what `sendall` does, and return the length of the data."""
        self.sendall(data)
        return len(data)

    def _ask(self, session: Session) -> None:
        """Ask the session for the answer; connect and send what is held, if it is to be sent.

        Raise a recorded failure to connect, the session's refusal, and the error of connecting or sending.
        """
        self._is_answered = True
        live = self._request.live()
        if session.matches_as_vcrpy:
            live = live._replace(as_vcrpy=_as_vcrpy(self._connection, live.body))
        self._answer = answer = session.answer(live, self, time.monotonic, self._started)
        if isinstance(answer, Playback):
            if answer.response.end.startswith("raise Connect"):
                answer.begin()  # which raises it: clients expect it before they ask for the answer
            return
        with passing():
            if self.real is None:
                self._open(answer)
            if answer is None:
                self._connection.sock = self.real
            try:
                for piece in self._request.pieces(identity=answer is not None):
                    self.real.sendall(piece)
            except OSError as error:
                self._write_error = error  # clients may go on to read the answer of a server that has closed early
                raise

    def _open(self, slot: Slot | None) -> None:
        """Connect for real; if that fails, the slot gets the error, which is raised."""
        try:
            self._connect()
        except Exception as error:
            if slot is not None:
                cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
                slot.ended(f"raise {error_name('Connect', cause)}: {cause}")
            raise
        self.real, self._connection.sock = self._connection.sock, self

    def _open_unrecorded(self) -> Any:
        """Connect, and return the real socket, for a client that uses the socket without a request of `http.client`.

        Raise an error if an open cassette refuses the connection.
        """
        judge_connection(Address.of_url(_origin(self._connection)))
        with passing():
            self._connect()
        return self._connection.sock

    # --- the answer

    def makefile(self, mode: str = "r", buffering: int | None = None, **_: Any) -> Any:
        """Return a file with the answer, which is played or recorded as it is read.

        A client that waits for `100 Continue` gets only that. Without a request, return the file of the real socket.
        """
        if self._session is None:
            return self._open_unrecorded().makefile(mode, buffering)
        if self._request.waits_for_continue and not self._is_answered:
            return io.BytesIO(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self._is_answered:
            self._ask(self._session)
        if isinstance(self._answer, Playback):
            raw: io.RawIOBase = _PlayedFile(self._answer, self._method)
        elif self._answer is None:
            return self.real.makefile(mode, buffering)
        else:
            tee = ResponseTee(self._answer, self._method, partial(_refuse, self._session, self._origin))
            raw = _TeedFile(self.real, tee, self._answer)
            self._answer = None
        return raw if buffering == 0 else io.BufferedReader(raw)

    def error(self, name: str, message: str) -> Exception:
        """Return the error of the connection's library for a recorded error with this name of httpx.

        A failure to connect is urllib3's error if urllib3 made the connection. Any other is that of the socket.
        """
        error = os_error(name, message)
        if not name.startswith("Connect") or isinstance(error, ssl.SSLError):
            return error
        for owner in type(self._connection).__mro__:
            names = vars(sys.modules.get(owner.__module__, io))
            if "NewConnectionError" in names:  # urllib3, also one that is a part of another package
                self._connection._has_connected_to_proxy = False
                if isinstance(error, TimeoutError):
                    return names["ConnectTimeoutError"](self._connection, str(error))  # type: ignore[no-any-return]
                text = f"Failed to establish a new connection: {error}"
                return names["NewConnectionError"](self._connection, text)  # type: ignore[no-any-return]
        return error

    @property
    def read_timeout(self) -> float | None:
        """Seconds after which the client gives up on a silent server; None if it never does."""
        is_number = self._timeout is None or isinstance(self._timeout, int | float)
        return self._timeout if is_number else socket.getdefaulttimeout()

    # --- other methods of sockets that libraries use

    def settimeout(self, seconds: float | None) -> None:
        """Set the seconds after which the client gives up, also on the real socket."""
        self._timeout = seconds
        if self.real is not None:
            self.real.settimeout(seconds)

    def gettimeout(self) -> float | None:
        """Return the seconds after which the client gives up; None if it waits without limit."""
        return self.read_timeout

    def setsockopt(self, *args: Any) -> None:
        """Set an option of the real socket; do nothing if there is none yet."""
        if self.real is not None:
            self.real.setsockopt(*args)

    def fileno(self) -> int:
        """Return the number of a file that is readable if the client may go on after `Expect: 100-continue`."""
        if self._pair is None:
            self._pair = socket.socketpair()
            if self._session is not None and self._request.waits_for_continue:
                self._pair[1].send(b"x")
        return self._pair[0].fileno()

    def shutdown(self, how: int) -> None:
        """Shut the real socket down, which wakes a thread that reads from it; do nothing if the answer is played."""
        if self.real is not None:
            self.real.shutdown(how)

    def release(self) -> None:
        """Close the pair of sockets that `fileno` may have made."""
        for each in self._pair or ():
            each.close()
        self._pair = None

    def close(self) -> None:
        """Close the connection: end the playback, or the recording of an answer that was not read.

        Such a recording is dropped, or has the error of a failed write.
        """
        self.release()
        if isinstance(self._answer, Playback):
            self._answer.close()
        elif self._answer is not None and not self._answer.end:
            if self._write_error is None:
                self._answer.dropped = True
            else:
                name = error_name("Write", self._write_error)
                self._answer.ended(f"raise {name}: {self._write_error}")
        if self.real is not None:
            self.real.close()

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the real socket, which is opened for it if no request is going on.

        Raise `AttributeError` for a name that sockets lack, and during a request before the socket is open.
        """
        if not name.startswith("_") and hasattr(ssl.SSLSocket, name):
            if self.real is not None:
                return getattr(self.real, name)
            if self._session is None:
                return getattr(self._open_unrecorded(), name)
        raise AttributeError(f"a connection has no {name!r} while a cassette answers its request")


def _origin(connection: Any) -> str:
    """Return scheme, host and port to which a connection's requests go, also through a tunnel."""
    host, port = connection.host, connection.port
    if connection._tunnel_host:
        host, port = connection._tunnel_host, connection._tunnel_port
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    scheme = "https" if connection.default_port == 443 else "http"
    return f"{scheme}://{host}" if port in (None, connection.default_port) else f"{scheme}://{host}:{port}"


def _refuse(session: Session, origin: str) -> None:
    """Note in a session, for its warning, a connection whose answer could not be read as HTTP/1.1."""
    session.connection_made(running_packages(), Address.of_url(origin))


class _PlayedFile(io.RawIOBase):
    """Answer of a cassette as bytes: each read gives what has arrived, one chunk at most."""

    def __init__(self, playback: Playback, method: str) -> None:
        self._playback = playback
        self._pieces = played_bytes(playback, method)
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """Return True, as a file for reading does."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Copy the next bytes into the buffer, and return their number; 0 at the end.

        Wait until the next chunk is due, unless a part of the last one is left.
        """
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def close(self) -> None:
        """Close the file, and end the playback."""
        if not self.closed:
            self._playback.close()
        super().close()


class _TeedFile(io.RawIOBase):
    """Answer of a server as bytes, recorded as the client reads them."""

    def __init__(self, real: Any, tee: ResponseTee, slot: Slot) -> None:
        self._sock = real  # a name of `socket.SocketIO` that libraries use
        self._source = real.makefile("rb", buffering=0)
        self._tee = tee
        self._slot = slot

    def readable(self) -> bool:
        """Return True, as a file for reading does."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read what has arrived into the buffer, record it, and return its size, None if nothing came.

        Record an error and raise it.
        """
        try:
            count: int | None = self._source.readinto(buffer)
        except BaseException as error:
            self._tee.failed(error)
            raise
        if count is not None:
            self._tee.received(bytes(memoryview(buffer)[:count]))
        return count

    def close(self) -> None:
        """Record the rest of the body if the recorder drains it, note the early close, and close the file."""
        if not self.closed:
            try:
                self._drain()
            finally:
                self._tee.closed()
                self._source.close()
        super().close()

    def _drain(self) -> None:
        """Read and record as much of the rest of the body as the recorder wants; ignore an error of the connection."""
        if not self._slot.to_drain or self._sock.fileno() < 0:
            return
        before = self._sock.gettimeout()
        with suppress(OSError):
            if not self._slot.recorder.drains:
                self._sock.settimeout(_DRAIN_SECONDS if before is None else min(before, _DRAIN_SECONDS))
            buffer = bytearray(io.DEFAULT_BUFFER_SIZE)
            while self._slot.to_drain:
                self.readinto(buffer)
            self._sock.settimeout(before)
