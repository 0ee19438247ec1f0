"""Patch of aiohttp 3.12 and later: its sessions are answered by the cassette, below redirects and cookies.

A client middleware, the innermost of each request, asks the open cassette before aiohttp connects. A recorded answer is
played on a connection in memory, and while recording, a connection is overheard. So redirects, cookies, decompression
and time-outs stay aiohttp's own.

This module imports aiohttp; it is imported when the application has imported aiohttp.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import payload
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.helpers import BaseTimerContext, TimerNoop

from miniagents_testing._hosts import Address
from miniagents_testing.cassette import _other_clients as other_clients
from miniagents_testing.cassette import _vcrpy as vcrpy
from miniagents_testing.cassette._current import current_session, is_passing, passing
from miniagents_testing.cassette._http1 import ResponseTee, aplayed_bytes, error_name, os_error
from miniagents_testing.cassette._patches import replace_late, without_vcrpy
from miniagents_testing.cassette._playback import Playback
from miniagents_testing.cassette._session import LiveRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import TracebackType

    from aiohttp import BaseConnector, ClientRequest, ClientResponse, ClientSession, StreamReader
    from yarl import URL

    from miniagents_testing.cassette._patches import Target
    from miniagents_testing.cassette._recording import Slot
    from miniagents_testing.cassette._session import Session

    Handler = Callable[[ClientRequest], Awaitable[ClientResponse]]
    Connect = Callable[[], Awaitable[Connection]]


def targets(module: Any) -> Iterator[Target]:
    """Yield the method of sessions that sends a request, and the one of connectors that opens a connection.

    Sessions of older versions are refused by name.
    """
    if module.__name__ == "aiohttp.connector":
        yield module.BaseConnector, "connect", _linked
    elif hasattr(module.ClientRequest, "update_body"):
        yield module.ClientSession, "_request", _answered
    else:
        yield module.ClientSession, "_request", partial(other_clients.guarded, other_clients.OLD_AIOHTTP)


_link: ContextVar[Played | Recorded | None] = ContextVar("miniagents_testing_aiohttp_link", default=None)
"""Link that makes the connection of the request that is sent in this context."""


def _answered(before: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that replaces `ClientSession._request` while cassettes are open.

    It adds a middleware that answers from the open session. Without a session in this context, it calls `before`; while
    a cassette sends, the method below vcrpy's.
    """
    real = without_vcrpy(before)

    @wraps(real)
    async def _request(client: ClientSession, *call: Any, **options: Any) -> Any:
        """Send a request with a middleware that answers from the current session, or as it is without a session."""
        session = current_session()
        if session is None:
            return await (real if is_passing() else before)(client, *call, **options)
        if client.connector is not None:
            _replace_connect(type(client.connector))
        middlewares = options.get("middlewares")
        if middlewares is None:
            middlewares = client._middlewares  # no public name reads it
        answering = _Answering(session, client, call, options)
        return await real(client, *call, **{**options, "middlewares": (*middlewares, answering)})

    return _request


def _replace_connect(connector: type) -> None:
    """Replace the `connect` that a class of connectors or its bases have made for themselves."""
    replace_late(
        (each, "connect", _linked)
        for each in connector.__mro__
        if "connect" in vars(each) and getattr(vars(each)["connect"], "__globals__", None) is not globals()
    )


def _linked(before: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that replaces `BaseConnector.connect` while cassettes are open.

    It takes the connection from the link of the request, if there is one.
    """

    @wraps(before)
    async def connect(connector: BaseConnector, request: ClientRequest, *args: Any, **options: Any) -> Any:
        """Return the connection for the answer to a request; without an answer, call the replaced method."""
        link = _link.get()
        if link is None:
            return await before(connector, request, *args, **options)
        with _linking(None):  # a method of a subclass may call the one of its base
            return await link.connect(connector, request, partial(before, connector, request, *args, **options))

    return connect


@contextmanager
def _linking(link: Played | Recorded | None) -> Iterator[None]:
    """Make a link that of the requests in the block: `connect` takes their connection from it.

    Return None for the real one.
    """
    token = _link.set(link)
    try:
        yield
    finally:
        _link.reset(token)


class _Answering:
    """Client middleware of one call of a session, which gives the response of the cassette, or records the live one.

    Args:
        session: of the cassette.
        client: session of aiohttp.
        call: method and URL of the call.
        options: the other arguments of the call.
    """

    def __init__(self, session: Session, client: ClientSession, call: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._session = session
        self._client = client
        self._call = call
        self._options = options
        self._first: tuple[str, URL] | None = None
        """Method and URL of the request before redirects."""

    async def __call__(self, request: ClientRequest, send: Handler) -> ClientResponse:
        """Return the response of the cassette, or the response of `send`, which is recorded as it arrives."""
        clock = asyncio.get_running_loop().time
        started = clock()
        live = await self._live(request)
        await self._session.prepare(live)
        answer = self._session.answer(live, RequestLibrary(request), clock, started)
        if isinstance(answer, Playback):
            return await _through(Played(answer), request, send)
        with passing():
            if answer is None:
                return await send(request)
            # a compressed body could be neither searched for secrets nor read in the file
            request.headers["accept-encoding"] = "identity"
            unread = partial(self._session.connection_made, ["aiohttp"], Address.of_url(str(request.url)))
            return await _through(Recorded(answer, request.method, unread), request, send)

    async def _live(self, request: ClientRequest) -> LiveRequest:
        """Return a request of aiohttp as a `LiveRequest`, with its body as it is before aiohttp compresses it."""
        headers = [
            (str(name), value)
            for name, value in request.headers.items()
            if not (request.compress and name.lower() == "content-encoding")
        ]
        as_vcrpy = await self._as_vcrpy(request, headers) if self._session.matches_as_vcrpy else None
        return LiveRequest(request.method, str(request.url), await body_of(request), headers, as_vcrpy)

    async def _as_vcrpy(self, request: ClientRequest, headers: list[tuple[str, str]]) -> Any:
        """Make the request that vcrpy's own patch would look up.

        That patch sees the arguments of a call, and takes only redirects as they are sent, without their bodies.
        """
        self._first = self._first or (request.method, request.url)
        if self._first != (request.method, request.url):
            return vcrpy.request_of(request.method, str(request.url), None, headers)
        options = self._options
        if hasattr(options.get("data"), "__aiter__"):  # can be read once, which `request` has to do
            options = {**options, "data": await body_of(request)}
        return await vcrpy.request_of_aiohttp(self._client, *self._call, **options)


async def _through(link: Played | Recorded, request: ClientRequest, send: Handler) -> ClientResponse:
    """Send a request over the connection of a link, and return the response.

    Tell the link of the response or the error.
    """
    try:
        with _linking(link):
            response = await send(request)
    except BaseException as error:
        link.failed(error)
        raise
    link.started(response)
    return response


# --- errors


class RequestLibrary:
    """Library of one request of aiohttp, for a playback: see `HTTPLibrary`."""

    read_timeout = None
    """aiohttp's own timers end a request to a silent server."""

    def __init__(self, request: ClientRequest) -> None:
        self._request = request

    def error(self, name: str, message: str) -> Exception:
        """Make aiohttp's error of a connection that cannot be made, or the one of the socket below for all others."""
        error = os_error(name, message)
        if isinstance(error, TimeoutError):
            kind = aiohttp.SocketTimeoutError if name.startswith("Read") else aiohttp.ConnectionTimeoutError
            return kind(message)
        if name not in ("ConnectError", "ProxyError") or not isinstance(error, OSError):
            return error
        key = self._request.connection_key
        if isinstance(error, ssl.SSLCertVerificationError):
            return aiohttp.ClientConnectorCertificateError(key, error)
        kind_by_error: dict[type[OSError], type[aiohttp.ClientConnectorError]] = {
            ssl.SSLError: aiohttp.ClientConnectorSSLError,
            socket.gaierror: aiohttp.ClientConnectorDNSError,
        }
        is_proxy = name == "ProxyError"
        default = aiohttp.ClientProxyConnectionError if is_proxy else aiohttp.ClientConnectorError
        return kind_by_error.get(type(error), default)(key, error)


def _end(error: BaseException) -> str | None:
    """Return the end of a recorded answer for an error of the connection, in words of httpx; None for other errors."""
    match error:
        case aiohttp.ClientProxyConnectionError():
            return f"raise ProxyError: {error.os_error}"
        case aiohttp.ClientConnectorCertificateError():
            return f"raise ConnectError: {error.certificate_error}"
        case aiohttp.ClientConnectorError():
            return f"raise ConnectError: {error.os_error}"
        case aiohttp.ConnectionTimeoutError():
            return f"raise ConnectTimeout: {error}"
        case aiohttp.ServerDisconnectedError():
            return f"raise RemoteProtocolError: {error}"
        case OSError() | aiohttp.ClientConnectionError():
            return f"raise {error_name('Read', error)}: {error}"
    return None


# --- requests


class _Collector(AbstractStreamWriter):
    """Writer that keeps what the payload of a request writes, so that the body can be read."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Keep a part of the body."""
        self.chunks.append(bytes(chunk))

    async def write_eof(self, chunk: bytes = b"") -> None:
        """Keep the last part of the body."""
        self.chunks.append(chunk)

    async def drain(self) -> None:
        """Do nothing: there is no buffer."""

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        """Do nothing: the body is kept as it is before."""

    def enable_chunking(self) -> None:
        """Do nothing: the body is kept without its frame."""

    async def write_headers(self, status_line: str, headers: Any) -> None:
        """Do nothing: a payload writes no headers."""


async def body_of(request: ClientRequest) -> bytes:
    """Read the body of a request, and replace it by what was read: some can be read only once."""
    body = request.body
    if isinstance(body, bytes):
        return body
    if isinstance(body, payload.BytesPayload):
        return await body.as_bytes()
    collector = _Collector()
    await body.write(collector)
    data = b"".join(collector.chunks)
    await request.update_body(data)
    return data


# --- playing


class _DemandTimer(BaseTimerContext):
    """Timer of the reader of a body, which tells while the reader waits for more bytes.

    aiohttp enters the timer each time that its reader finds the buffer of the body empty.
    """

    def __init__(self, timer: BaseTimerContext, player: _Player) -> None:
        self._timer = timer
        self._player = player

    def assert_timeout(self) -> None:
        """Raise `TimeoutError` if the time of the request is over."""
        self._timer.assert_timeout()

    def __enter__(self) -> BaseTimerContext:
        self._player.reader_waits(True)
        return self._timer.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._player.reader_waits(False)
        return self._timer.__exit__(kind, error, traceback)


class _PlayedHandler(ResponseHandler):
    """Handler of aiohttp for one played answer; its connection is never used again."""

    def __init__(self, loop: asyncio.AbstractEventLoop, player: _Player) -> None:
        super().__init__(loop)
        self._player = player
        self.force_close()

    def set_response_params(self, *, timer: BaseTimerContext | None = None, **params: Any) -> None:
        """Give the reader of the body a timer that tells when it waits."""
        super().set_response_params(timer=_DemandTimer(timer or TimerNoop(), self._player), **params)

    def start_timeout(self) -> None:
        """Begin the answer: aiohttp calls this when the request is sent."""
        super().start_timeout()
        self._player.begin()


class _Player(asyncio.Transport):
    """Transport in memory that feeds a playback to the handler of aiohttp.

    The next chunk comes when the reader has taken the one before and waits. So chunks do not flow together, and
    parallel streams go on in the order in which their readers read them.
    """

    def __init__(self, playback: Playback, request: ClientRequest, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.content: StreamReader | None = None
        """Body of the response, after its head has arrived."""
        self._playback = playback
        self._method = request.method
        self._expects = "100-continue" in request.headers.get("expect", "").lower()
        self._loop = loop
        self._closing = False
        self._reader_waits = False
        self._wake: asyncio.Future[None] | None = None
        self._feeding: asyncio.Task[None] | None = None
        self.handler = _PlayedHandler(loop, self)
        self.handler.connection_made(self)

    # --- asked by the handler

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Drop a part of the request, which is known already; ask for the body if aiohttp waits for that."""
        if self._expects:
            self._expects = False
            self._loop.call_soon(self.handler.data_received, b"HTTP/1.1 100 Continue\r\n\r\n")

    def get_write_buffer_size(self) -> int:
        """Return 0: nothing is left to be sent."""
        return 0

    def is_closing(self) -> bool:
        """Return True after `close`."""
        return self._closing

    def pause_reading(self) -> None:
        """Do nothing: no byte comes while the reader does not wait for one."""

    def resume_reading(self) -> None:
        """Do nothing: reading was never paused."""

    def close(self) -> None:
        """End the playback, because the reader has closed the response or has read all of it."""
        self._lose(None)

    def abort(self) -> None:
        """Do the same as `close`."""
        self._lose(None)

    # --- the answer

    def begin(self) -> None:
        """Start to play; do nothing if the playback has begun or is closed."""
        if self._feeding is None and not self._closing:
            self._feeding = self._loop.create_task(self._feed(), name="playing a cassette to aiohttp")

    def reader_waits(self, waits: bool) -> None:
        """Note if the reader waits for more of the body, and wake the playback if so."""
        self._reader_waits = waits
        if waits and self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _feed(self) -> None:
        """Feed head, chunks and end of the answer to the handler, each when the reader waits for it.

        A recorded error is raised where the application waits, or ends the connection.
        """
        error: Exception | None = None
        try:
            async for data in aplayed_bytes(self._playback, self._method):
                if data:
                    self.handler.data_received(data)
                await self._demand()
        except OSError as broken:
            error = broken
        except Exception as other:
            self._tell_reader(other)
            return
        if isinstance(error, aiohttp.ClientConnectionError):
            self._tell_reader(error)
        else:
            self._lose(error)  # aiohttp makes its own error of it

    async def _demand(self) -> None:
        """Wait until the reader has taken the bytes that it got, and waits for more."""
        await asyncio.sleep(0)
        while not self._reader_waits:
            self._wake = self._loop.create_future()
            await self._wake

    def _tell_reader(self, error: Exception) -> None:
        """Raise an error where the application waits for the response or reads its body."""
        (self.handler if self.content is None else self.content).set_exception(error)

    def _lose(self, error: Exception | None) -> None:
        """End the connection and the playback, and tell the handler soon, with the error if there is one; only once."""
        if self._closing:
            return
        self._closing = True
        self._playback.close()
        if self._feeding is not None and self._feeding is not asyncio.current_task(self._loop):
            self._feeding.cancel()
        self._loop.call_soon(self.handler.connection_lost, error)


class Played:
    """Answer of a cassette to one request of aiohttp."""

    def __init__(self, playback: Playback) -> None:
        self._playback = playback
        self._player: _Player | None = None

    async def connect(self, connector: BaseConnector, request: ClientRequest, connect: Connect) -> Connection:
        """Return a connection in memory; the connector opens none, and reuses none."""
        loop = asyncio.get_running_loop()
        self._player = _Player(self._playback, request, loop)
        connector._acquired.add(self._player.handler)  # so that closing the client closes this connection, too
        return Connection(connector, request.connection_key, self._player.handler, loop)

    def started(self, response: ClientResponse) -> None:
        """Note the body of the response, whose head has arrived."""
        if self._player is not None:
            self._player.content = response.content

    def failed(self, error: BaseException) -> None:
        """End the playback, because there is no response."""
        self._playback.close()


# --- recording


class Recorded(asyncio.Protocol):
    """Recording of one request of aiohttp: a protocol between the transport and the handler of its connection.

    Args:
        slot: to fill.
        method: of the request.
        refused: called if the answer is no HTTP that can be recorded.
    """

    def __init__(self, slot: Slot, method: str, refused: Callable[[], object]) -> None:
        self._slot = slot
        self._tee = ResponseTee(slot, method, refused)
        self._content: StreamReader | None = None
        self._drains = False
        """True when the rest of the answer is only for the recording, because its reader has closed it."""
        self._transport: Any = None
        self._handler: Any = None

    async def connect(self, connector: BaseConnector, request: ClientRequest, connect: Connect) -> Connection:
        """Return the connection that the connector opens or has kept, and record what arrives on it."""
        connection = await connect()
        self._handler, self._transport = connection.protocol, connection.transport
        if self._transport is not None:  # it may be lost already
            self._transport.set_protocol(self)  # uvloop looks up the methods of a protocol here, and never again
            connection.add_callback(self._released)
        return connection

    def started(self, response: ClientResponse) -> None:
        """Note the body of the response, whose head has arrived."""
        self._content = response.content

    def failed(self, error: BaseException) -> None:
        """Record an error of the connection, or a cancellation, before there was a response.

        Another error drops the recording.
        """
        if (end := _end(error)) is not None:
            self._slot.ended(end)
        else:
            self._slot.failed(error, is_network=False)

    # --- told by the transport

    def data_received(self, data: bytes) -> None:
        """Record bytes of the answer, and pass them on; after its end the handler listens again itself.

        If the reader has closed the answer, only record, and close the connection at its end.
        """
        self._tee.received(data)
        if self._drains:
            if self._tee.is_done or self._slot.recorder.closed:
                self._transport.close()
            return
        if self._tee.is_done:
            self._transport.set_protocol(self._handler)
        self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        """Record that the server sends no more, and return what the handler returns; None if the reader has closed."""
        self._tee.received(b"")
        return None if self._drains else self._handler.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        """Record that the connection is lost; without an error, the application or `eof_received` has told why."""
        if error is not None:
            self._tee.failed(error)
        if not self._drains:
            self._handler.connection_lost(error)

    def pause_writing(self) -> None:
        """Tell the handler of aiohttp that the transport's buffer is full."""
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        """Tell the handler of aiohttp that the transport's buffer has room again."""
        self._handler.resume_writing()

    # --- told by the connection

    def _released(self) -> None:
        """Record why the application has released the connection before the answer's end.

        Do nothing after it, or before its head.

        The reason is a timeout, a cancellation, or that the reader closed it; or the rest is read for the recording.
        """
        if self._tee.is_done or not self._slot.status:
            return
        error = None if self._content is None else self._content.exception()
        if isinstance(error, TimeoutError):
            self._slot.ended(f"raise ReadTimeout: {error}")
        elif self._slot.recorder.drains:
            self._drains = True
            self._handler.transport = _Detached(self._handler)
            self._transport.resume_reading()
        elif isinstance(sys.exc_info()[1], asyncio.CancelledError):
            self._slot.ended("cancelled")
        else:
            self._tee.closed()


class _Detached(asyncio.Transport):
    """Transport for a handler whose own transport is read on by a recorder, although its reader has closed it."""

    def __init__(self, handler: ResponseHandler) -> None:
        super().__init__()
        self._handler = handler

    def is_closing(self) -> bool:
        """Return True: the handler can use it no more."""
        return True

    def close(self) -> None:
        """Tell the handler that its connection is closed."""
        asyncio.get_running_loop().call_soon(self._handler.connection_lost, None)

    def abort(self) -> None:
        """Do the same as `close`."""
        self.close()
