"""Patches of the clients of websockets, asyncio and sync: connections are recorded, or played without a server.

A conversation is an interaction with the method `WEBSOCKET`. Each message is a frame; pings and the parts of a message
are not recorded. The client parses and closes as it does live: it talks to a server of websockets in memory.

The sync client is played and recorded by its own public arguments: a socket, and the class of the connection.
"""

from __future__ import annotations

import asyncio
import sys
import time
from copy import copy
from functools import lru_cache, wraps
from types import FunctionType
from typing import TYPE_CHECKING, Any

from miniagents_testing.cassette import _websockets_wire as wire
from miniagents_testing.cassette._conversation import is_served
from miniagents_testing.cassette._current import current_session, passing
from miniagents_testing.cassette._playback import Playback
from miniagents_testing.cassette._session import LiveRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from miniagents_testing.cassette._patches import Target


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
        headers = wire.headers_of(connect.additional_headers)
        answer = session.answer(LiveRequest("WEBSOCKET", connect.uri, b"", headers), wire.Library(), clock, clock())
        if isinstance(answer, Playback):
            if not answer.response.status:
                await answer.abegin()  # raises the error of a connection that failed
            return wire.played(connect, session, answer)
        with passing():
            if answer is None:
                return await before(connect)
            try:
                connection = await before(connect)
            except BaseException as error:
                wire.failed(answer, error)
                raise
        wire.record(connection, answer)
        return connection

    return open_connection


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
    headers = wire.headers_of(arguments.get("additional_headers"))
    answer = session.answer(LiveRequest("WEBSOCKET", uri, b"", headers), wire.Library(), clock, clock())
    if isinstance(answer, Playback):
        if not answer.response.status:
            answer.begin()  # raises the error of a connection that failed
        return live(**wire.played_sync(uri, session, answer))
    with passing():
        if answer is None:
            return live()
        create = arguments.get("create_connection") or sys.modules[_SYNC].ClientConnection
        try:
            return live(create_connection=wire.recorded_sync(create, answer))
        except BaseException as error:
            wire.failed(answer, error)
            raise
