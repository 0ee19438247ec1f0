"""Patches of the clients of websockets, asyncio and sync: connections are recorded, or played without a server.

A conversation is an interaction with the method `WEBSOCKET`. Each message is a frame; pings and the parts of a message
are not recorded. The client parses and closes as it does live: it talks to a server of websockets in memory.

The sync client is played and recorded by its own public arguments: a socket, and the class of the connection.

This module imports websockets; it is imported when the application has imported a client of websockets.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from contextlib import ExitStack
from copy import copy
from functools import lru_cache, wraps
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from websockets.datastructures import Headers
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from miniagents_testing.cassette import _conversation as frames
from miniagents_testing.cassette._conversation import PlayedConversation, is_served
from miniagents_testing.cassette._current import current_session, passing
from miniagents_testing.cassette._http1 import error_name, os_error
from miniagents_testing.cassette._playback import Playback
from miniagents_testing.cassette._session import LiveRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from miniagents_testing.cassette._patches import Target
    from miniagents_testing.cassette._recording import Slot
    from miniagents_testing.cassette._session import Session


_SYNC = "websockets.sync.client"


def targets(module: Any) -> Iterator[Target]:
    """Yield the method that opens a connection: version 17 has given it another name, and made one for sync clients."""
    if module.__name__ != _SYNC:
        name = "open_tcp_connection" if hasattr(module.connect, "open_tcp_connection") else "create_connection"
        yield module.connect, name, _answered
    elif hasattr(module, "reconnect"):
        yield module.reconnect, "open_connection", _answered_sync
    else:
        yield _code_of(module.connect), "code", lambda before: _ask_cassette.__code__


def _answered(before: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that replaces the one that opens a connection.

    While cassettes are open, it plays or records.
    """

    @wraps(before)
    async def open_connection(connect: Any) -> Any:
        """Return a connection of the cassette, or a real one, which is recorded if the session records.

        Without a session that serves websockets, or a request that it lets pass, call `before`. A failed one is
        recorded and raised.
        """
        session = current_session()
        if session is None or not is_served(session):
            return await before(connect)
        clock = asyncio.get_running_loop().time
        headers = headers_of(connect.additional_headers)
        answer = session.answer(LiveRequest("WEBSOCKET", connect.uri, b"", headers), Library(), clock, clock())
        if isinstance(answer, Playback):
            if not answer.response.status:
                await answer.abegin()  # raises the error of a connection that failed
            return played(connect, session, answer)
        with passing():
            if answer is None:
                return await before(connect)
            try:
                connection = await before(connect)
            except BaseException as error:
                failed(answer, error)
                raise
        record(connection, answer)
        return connection

    return open_connection


class Library:
    """Maker of the errors of sockets, in the place of an HTTP library; see `HTTPLibrary`."""

    read_timeout = None

    def error(self, name: str, message: str) -> Exception:
        """Return the error that a socket raises for a recorded error with this name of httpx."""
        return os_error(name, message)


def headers_of(headers: Any) -> list[tuple[str, str]]:
    """Return the headers of a connection that its user has given, as pairs; [] for None."""
    return [] if headers is None else list(Headers(headers).raw_items())


# --- the sync client


def _answered_sync(before: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that replaces version 17's sync opening of a connection.

    With open cassettes, it plays or records.
    """

    @wraps(before)
    def open_connection(connecter: Any, deadline: Any) -> Any:
        """Return a connection of the cassette, or a real one; see `_open_sync`."""

        def live(**changed: Any) -> Any:
            """Open a connection with other arguments, which the next one after a redirect does not get."""
            changed_connecter = copy(connecter)
            vars(changed_connecter).update(changed)
            return before(changed_connecter, deadline)

        arguments = {**connecter.open_socket_kwargs, **vars(connecter)}
        return _open_sync(connecter.uri, arguments, live)

    return open_connection


class _Code:
    """Holder of the code of a function, which changes it also where the function was imported by name before.

    Args:
        function: without variables of functions around it.
    """

    code: Any

    def __init__(self, function: FunctionType) -> None:
        self.live = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
        self.live.__kwdefaults__ = function.__kwdefaults__
        """The function as it was."""
        vars(self)["code"] = function.__code__
        self._function = function

    def __setattr__(self, name: str, value: Any) -> None:
        vars(self)[name] = value
        if name == "code":
            self._function.__code__ = value


_code_of = lru_cache(_Code)


def _ask_cassette(uri: str, **arguments: Any) -> Any:
    """Open a connection by `connect_sync`.

    While cassettes are open, version 16's `connect` has this code, with the globals of websockets.
    """
    from miniagents_testing.cassette._websockets import connect_sync

    return connect_sync(uri, **arguments)


def connect_sync(uri: str, **arguments: Any) -> Any:
    """Return a connection of the cassette, or a real one, with the sync client of version 16; see `_open_sync`."""
    connect = _code_of(sys.modules[_SYNC].connect).live
    return _open_sync(uri, arguments, lambda **changed: connect(uri, **{**arguments, **changed}))


def _open_sync(uri: str, arguments: dict[str, Any], live: Callable[..., Any]) -> Any:
    """Return a connection of the cassette, or a real one, which is recorded if the session records.

    Without a session that serves websockets, a request that it lets pass, or for a Unix socket, call `live`. A failed
    connection is recorded and raised.

    Args:
        uri: of the server.
        arguments: of the client.
        live: opens a connection, with other values for some of the arguments.
    """
    session = current_session()
    if session is None or not is_served(session) or arguments.get("unix"):
        return live()
    clock = time.monotonic
    headers = headers_of(arguments.get("additional_headers"))
    answer = session.answer(LiveRequest("WEBSOCKET", uri, b"", headers), Library(), clock, clock())
    if isinstance(answer, Playback):
        if not answer.response.status:
            answer.begin()  # raises the error of a connection that failed
        return live(**played_sync(uri, session, answer))
    with passing():
        if answer is None:
            return live()
        create = arguments.get("create_connection") or sys.modules[_SYNC].ClientConnection
        try:
            return live(create_connection=recorded_sync(create, answer))
        except BaseException as error:
            failed(answer, error)
            raise


_OF_ONE_CONNECTION = ("sec-websocket-accept", "sec-websocket-extensions")
"""Headers of a handshake that are not recorded: an answer to a random key, and the compression."""


# --- recording


def failed(slot: Slot, error: BaseException) -> None:
    """Record that a connection could not be opened: its `OSError`, or a cancellation.

    Another error drops the recording.
    """
    if isinstance(error, OSError):
        slot.ended(f"raise {error_name('Connect', error)}: {error}")
    else:
        slot.failed(error, is_network=False)


def record(connection: Any, slot: Slot) -> None:
    """Record what goes over a connection from now on. Its methods are replaced on the connection itself."""
    recording = _Recording(connection, slot)
    _listen(connection, "connection_lost", recording.connection_lost)


def recorded_sync(create: Callable[..., Any], slot: Slot) -> Callable[..., Any]:
    """Return a function that makes a connection of the sync client, and records what goes over it."""

    def create_connection(*arguments: Any, **options: Any) -> Any:
        """Make a connection. Its thread reads from it already, but the server speaks after the handshake only."""
        connection = create(*arguments, **options)
        recording = _Recording(connection, slot)
        name = "set_recv_exc" if hasattr(connection, "set_recv_exc") else "set_connection_exc"  # version 17
        _listen(connection, name, recording.reading_failed)
        _listen(connection.protocol, "receive_eof", recording.reading_ended)
        return connection

    return create_connection


def _listen(owner: Any, name: str, listener: Callable[..., object]) -> None:
    """Let the listener be called before each call of the method `name` of an object, with the call's arguments."""
    method = getattr(owner, name)

    def call(*arguments: Any) -> Any:
        listener(*arguments)
        return method(*arguments)

    setattr(owner, name, call)


class _Recording:
    """Recording of one connection.

    Args:
        connection: of the client.
        slot: to fill.
    """

    def __init__(self, connection: Any, slot: Slot) -> None:
        self._protocol = connection.protocol
        self._slot = slot
        self._parts: dict[bool, list[Frame]] = {True: [], False: []}
        """Parts of the message that is being sent, and of the one that is being received."""
        self._error: BaseException | None = None
        _listen(self._protocol, "process_response", self.response_arrived)
        _listen(self._protocol, "recv_frame", self.frame_arrived)
        _listen(self._protocol, "send_frame", self.frame_sent)

    def response_arrived(self, response: Response) -> None:
        """Record the answer to the handshake; one that refuses it has a body, and ends the recording."""
        pairs = [(name.lower(), value) for name, value in response.headers.raw_items()]
        headers = [pair for pair in pairs if pair[0] not in _OF_ONE_CONNECTION]
        self._slot.headers_arrived(response.status_code, response.reason_phrase, headers)
        if response.status_code != 101:
            self._slot.chunk_arrived(bytes(response.body or b""))
            self._slot.ended("eof")

    def frame_arrived(self, frame: Frame) -> None:
        """Record a frame of the server; its close ends the recording, unless the client has closed before."""
        if frame.opcode is Opcode.CLOSE:
            self._slot.ended(f"eof {_described(frame)}")
        else:
            self._keep(frame, is_sent=False)

    def frame_sent(self, frame: Frame) -> None:
        """Record a frame of the client; its close ends the recording, unless it is the answer to one."""
        if frame.opcode is Opcode.CLOSE:
            if self._protocol.close_rcvd is None:
                self._slot.ended(f"closed {_described(frame)}")
        else:
            self._keep(frame, is_sent=True)

    def reading_failed(self, error: BaseException | None) -> None:
        """Keep the first error with which reading from a sync connection failed, for `reading_ended`."""
        self._error = self._error or error

    def reading_ended(self) -> None:
        """Record that a sync connection is lost, with the error of its reading."""
        self.connection_lost(self._error)

    def connection_lost(self, error: BaseException | None) -> None:
        """Record that the connection is lost, with its error if there is one, unless a side has closed it before."""
        self._slot.ended("eof" if error is None else f"raise {error_name('Read', error)}: {error}")

    def _keep(self, frame: Frame, *, is_sent: bool) -> None:
        """Record a message when its last part is there; ignore pings, pongs, and text that is not UTF-8."""
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return
        parts = self._parts[is_sent]
        parts.append(frame)
        if frame.fin:
            data = b"".join(bytes(part.data) for part in parts)
            is_text = parts[0].opcode is Opcode.TEXT
            parts.clear()
            try:
                message = frames.Frame(is_sent, data.decode() if is_text else data)
            except UnicodeDecodeError:  # the client fails on it
                return
            self._slot.chunk_arrived(frames.line_of(message))


def _described(frame: Frame) -> str:
    """Return code and reason of a frame that closes a connection; 1002, a protocol error, if it cannot be read."""
    try:
        close = Close.parse(frame.data)
    except Exception:  # the client fails on it
        return "1002"
    return f"{int(close.code)} {' '.join(close.reason.split())}".rstrip()


# --- playing


def played(connect: Any, session: Session, playback: Playback) -> Any:
    """Return a connection of the client that has a server in memory at its other end."""
    loop = asyncio.get_running_loop()
    uri = parse_uri(connect.uri)
    connection = (connect.factory if hasattr(connect, "factory") else connect.protocol_factory)(uri)
    connection.connection_made(_Server(connection, session, playback, loop))
    return connection


class _Server(asyncio.Transport):
    """Transport of a client, and the server in memory that plays a conversation to it.

    Args:
        connection: of the client.
        session: of the cassette.
        playback: of the conversation, or of an answer that refuses it.
        loop: that runs.
    """

    def __init__(self, connection: Any, session: Session, playback: Playback, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._connection = connection
        self._playback = playback
        self._loop = loop
        recorded = playback.response.headers
        subprotocols: Any = recorded.get("sec-websocket-protocol")
        self._protocol = ServerProtocol(subprotocols=subprotocols, max_size=None)
        self._talk = PlayedConversation(session, playback) if playback.response.status == 101 else None
        self._parts: list[Frame] = []
        self._closing = False
        self._reads = asyncio.Event()
        self._reads.set()
        self._playing: asyncio.Task[None] | None = None

    # --- asked by the client

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Give bytes of the client to the server: start playing at its handshake, check its messages.

        Do nothing once closed.
        """
        if self._closing:
            return
        self._protocol.receive_data(bytes(data))
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self._playing = self._loop.create_task(self._play(event), name="playing a cassette to websockets")
            elif isinstance(event, Frame):
                self._take(event)
        self._loop.call_soon(self._flush)

    def write_eof(self) -> None:
        """Do nothing: `close` follows."""

    def can_write_eof(self) -> bool:
        """Return True, as transports of sockets do."""
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: there is no buffer."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the default: there is no socket."""
        return default

    def is_closing(self) -> bool:
        """Return True after the connection was closed, or lost with an error."""
        return self._closing

    def pause_reading(self) -> None:
        """Hold back messages until the application has read some."""
        self._reads.clear()

    def resume_reading(self) -> None:
        """Send the messages that `pause_reading` has held back."""
        self._reads.set()

    def close(self) -> None:
        """Close the connection, as the client wants, and end the playback."""
        self._lose(None)

    def abort(self) -> None:
        """Do the same as `close`."""
        self._lose(None)

    # --- the server

    def _take(self, frame: Frame) -> None:
        """Compare a message of the client with the recorded one; close the connection with 1008 if it differs.

        A close frame ends the conversation; pings and pongs are ignored.
        """
        assert self._talk is not None
        if frame.opcode is Opcode.CLOSE:
            self._talk.close()
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return
        self._parts.append(frame)
        if frame.fin:
            data = b"".join(bytes(part.data) for part in self._parts)
            is_text = self._parts[0].opcode is Opcode.TEXT
            self._parts.clear()
            if not self._talk.send(data.decode() if is_text else data) and self._protocol.state is OPEN:
                self._protocol.send_close(1008, "this message is not in the cassette")

    async def _play(self, request: Request) -> None:
        """Answer the handshake, send the messages that were received in the recording, and end as it did.

        A recorded refusal is the whole answer. An error of the playback ends the connection.
        """
        try:
            await self._playback.abegin()
            response = self._response(request)
            if self._talk is None:
                response.body = b"".join([chunk async for chunk in self._playback.aread()])
                response.headers["Content-Length"] = str(len(response.body))
            self._protocol.send_response(response)
            self._flush()
            if self._talk is None:
                return
            async for data in self._talk.receive():
                await self._reads.wait()
                if self._protocol.state is not OPEN:
                    return
                if isinstance(data, str):
                    self._protocol.send_text(data.encode())
                else:
                    self._protocol.send_binary(data)
                self._flush()
            if not self._talk.is_over:
                self._end(self._talk.end)
        except Exception as error:
            self._lose(error)

    def _response(self, request: Request) -> Response:
        """Return the recorded answer to the handshake, without a body.

        An acceptance has the key that this client expects.
        """
        recorded = self._playback.response
        if self._talk is not None:
            response = self._protocol.accept(request)
            kept = {name: values for name, values in recorded.headers.items() if name not in response.headers}
        else:
            response = Response(recorded.status, recorded.reason, Headers())
            kept = {name: values for name, values in recorded.headers.items() if name != "content-length"}
        for name, values in kept.items():
            for value in values:
                response.headers[name] = value
        return response

    def _end(self, end: str) -> None:
        """End the connection as the recorded server did: with a close frame, an error, or without a word."""
        code = end.removeprefix("eof").strip()
        if end.startswith("raise "):
            name, _, message = end.removeprefix("raise ").partition(": ")
            self._lose(os_error(name, message))
        elif code and self._protocol.state is OPEN:
            number, _, reason = code.partition(" ")
            if int(number) == 1005:  # no code was sent
                self._protocol.send_close()
            else:
                self._protocol.send_close(int(number), reason)
            self._flush()
        else:
            self._lose(None)

    def _flush(self) -> None:
        """Give the client what the server has sent, and lose the connection where the server has ended it."""
        for data in self._protocol.data_to_send():
            if self._closing:
                return
            if data:
                self._connection.data_received(data)
            else:
                self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        """End the connection and the playback, and tell the client soon, with the error if there is one.

        Only the first call counts.
        """
        if self._closing:
            return
        self._closing = True
        if self._talk is not None:
            self._talk.close()
        self._playback.close()
        if self._playing is not None and self._playing is not asyncio.current_task(self._loop):
            self._playing.cancel()
        self._loop.call_soon(self._lost, error)

    def _lost(self, error: Exception | None) -> None:
        """Tell the client that the connection is lost: by its end, or with the error."""
        if error is None:
            self._connection.eof_received()
        self._connection.connection_lost(error)


# --- playing to the sync client


def played_sync(uri: str, session: Session, playback: Playback) -> dict[str, Any]:
    """Return the arguments with which the sync client talks to a server in memory, without a proxy and TLS."""
    tls = _WithoutTLS() if parse_uri(uri).secure else None
    return {"sock": _PlayedSocket(session, playback), "ssl": tls, "proxy": None, "proxy_ssl": None}


class _WithoutTLS:
    """Context of TLS that leaves a socket as it is."""

    def wrap_socket(self, sock: Any, **_: Any) -> Any:
        """Return the socket unchanged: the server in memory speaks no TLS."""
        return sock


class _PlayedSocket(socket.socket):
    """Socket of a sync client, one of a pair: a thread with the server in memory has the other one.

    Args:
        session: of the cassette.
        playback: of the conversation, or of an answer that refuses it.
    """

    def __init__(self, session: Session, playback: Playback) -> None:
        ours, theirs = socket.socketpair()
        super().__init__(ours.family, ours.type, ours.proto, ours.detach())
        self.error: Exception | None = None
        """Error with which the connection is lost in the recording."""
        with ExitStack() as opened:  # what is closed again if the recording is malformed
            loop = asyncio.SelectorEventLoop()
            for resource in (self, theirs, loop):
                opened.callback(resource.close)
            server = _ServerOfSocket(self, session, playback, loop)
            opened.pop_all()
        name = "playing a cassette to websockets"
        threading.Thread(target=server.serve, args=(theirs,), name=name, daemon=True).start()

    def recv(self, *arguments: Any) -> bytes:
        """Return bytes of the server; raise the error of the recording where they end."""
        data = super().recv(*arguments)
        if not data and self.error is not None:
            raise self.error
        return data

    def setsockopt(self, *_: Any) -> None:
        """Do nothing: the pair knows no options of TCP."""


class _ServerOfSocket(asyncio.Protocol):
    """Server in memory at one end of a pair of sockets, in an event loop of its own.

    Args:
        client: the other end.
        session: of the cassette.
        playback: of the conversation, or of an answer that refuses it.
        loop: of the server, which does not run yet.
    """

    def __init__(
        self, client: _PlayedSocket, session: Session, playback: Playback, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._client = client
        self._loop = loop
        self._closed = asyncio.Event()
        self._transport: Any = None
        told = SimpleNamespace(data_received=self._send, eof_received=lambda: None, connection_lost=self._lose)
        self._server = _Server(told, session, playback, loop)

    def serve(self, theirs: socket.socket) -> None:
        """Run the loop of this thread, in which the client is served until one side closes the connection."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve(theirs))

    async def _serve(self, theirs: socket.socket) -> None:
        """Connect the loop to the server's end of the pair, and wait until the connection is closed."""
        self._transport, _ = await self._loop.connect_accepted_socket(lambda: self, theirs)
        await self._closed.wait()

    def data_received(self, data: bytes) -> None:
        """Give bytes of the client to the server."""
        self._server.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the server that the client has closed the connection, and end the thread."""
        self._server.close()
        self._closed.set()

    def _send(self, data: bytes) -> None:
        """Give bytes of the server to the client."""
        self._transport.write(data)

    def _lose(self, error: Exception | None) -> None:
        """Close the connection, with an error for the client if there is one."""
        self._client.error = error
        self._transport.close()
