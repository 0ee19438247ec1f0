"""Patch of mcp's client for servers over stdio: the server's process is recorded, or played without a process.

A conversation is an interaction with the method `STDIO` and the command as its address. Each line of JSON-RPC is a
frame.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
from functools import wraps
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from miniagents_testing.cassette import _mcp_process
from miniagents_testing.cassette._conversation import PlayedConversation, is_served
from miniagents_testing.cassette._current import current_session
from miniagents_testing.cassette._playback import Playback
from miniagents_testing.cassette._recorded import Exceptions, described
from miniagents_testing.cassette._session import LiveRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from miniagents_testing.cassette._patches import Target


def targets(module: Any) -> Iterator[Target]:
    """Yield the function of mcp's client that starts the process of a server."""
    yield module, "_create_platform_compatible_process", _answered


def _answered(before: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that replaces the one that starts a process while cassettes are open."""

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
            return _mcp_process.PlayedProcess(PlayedConversation(session, answer))
        try:
            process = await before(command, args, *others, **options)
        except Exception as error:
            answer.ended(f"raise {described(error)}")
            raise
        except BaseException:
            answer.ended("cancelled")
            raise
        answer.headers_arrived(200, "OK", [])
        return _mcp_process.RecordedProcess(process, answer)

    return create_process


def _uri_of(command: str, args: list[str]) -> str:
    """Return the address of a command: `stdio:` and its words. The running Python is `python`, wherever it lies."""
    line = shlex.join(["python" if command == sys.executable else command, *args])
    return "stdio:" + re.sub(r"[?#%\x00-\x1f\x7f]", lambda found: quote(found[0]), line)
