"""Patch of aiohttp 3.12 and later: its sessions are answered by the cassette, below redirects and cookies.

A client middleware, the innermost of each request, asks the open cassette before aiohttp connects. A recorded answer is
played on a connection in memory, and while recording, a connection is overheard, see `_aiohttp_wire`. So redirects,
cookies, decompression and time-outs stay aiohttp's own.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from miniagents_testing._hosts import Address
from miniagents_testing.cassette import _other_clients as other_clients
from miniagents_testing.cassette import _vcrpy as vcrpy
from miniagents_testing.cassette._aiohttp_wire import Played, Recorded, RequestLibrary, body_of
from miniagents_testing.cassette._current import current_session, is_passing, passing
from miniagents_testing.cassette._patches import replace_late, without_vcrpy
from miniagents_testing.cassette._playback import Playback
from miniagents_testing.cassette._session import LiveRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from aiohttp import BaseConnector, ClientRequest, ClientResponse, ClientSession
    from yarl import URL

    from miniagents_testing.cassette._patches import Target
    from miniagents_testing.cassette._session import Session

    Handler = Callable[[ClientRequest], Awaitable[ClientResponse]]


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
