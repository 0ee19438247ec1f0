"""Patch of the client of websockets: its connections are recorded, or played without a server.

A conversation is an interaction with the method `WEBSOCKET`. Each message is a frame; pings and the parts of a message
are not recorded. The client parses and closes as it does live: it talks to a server of websockets in memory.
"""

from __future__ import annotations

import asyncio
from functools import wraps
from typing import TYPE_CHECKING, Any

from miniagents_testing.cassette._conversation import is_served
from miniagents_testing.cassette._current import current_session, passing
from miniagents_testing.cassette._playback import Playback
from miniagents_testing.cassette._session import LiveRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from miniagents_testing.cassette._patches import Target


MODULES = ("websockets.asyncio.client",)


def targets(module: Any) -> Iterator[Target]:
    """Yield the method that opens a connection: version 17 has given it another name."""
    name = "open_tcp_connection" if hasattr(module.connect, "open_tcp_connection") else "create_connection"
    yield module.connect, name, _answered


def _answered(before: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that replaces the one that opens a connection while cassettes are open."""

    @wraps(before)
    async def open_connection(connect: Any) -> Any:
        """Return a connection of the cassette, or a real one, which is recorded if the session records.

        Without a session that serves websockets, or a request that it lets pass, call `before`. A failed one is
        recorded and raised.
        """
        session = current_session()
        if session is None or not is_served(session):
            return await before(connect)
        from miniagents_testing.cassette import _websockets_wire as wire  # imports websockets

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
