"""The example of a web chat, served on a free port of this machine."""

from __future__ import annotations

import asyncio
import runpy
import socket
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from miniagents_testing import create_scripted_agent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    Serve = Callable[..., AbstractAsyncContextManager[str]]


class CutStreams:
    """ASGI application that passes requests to another one, and ends its first event streams early.

    Args:
        app: the other application.
        cuts: numbers of bytes after which the first streams end, one for each connection.
    """

    def __init__(self, app: Any, cuts: list[int]) -> None:
        self._app = app
        self._cuts = cuts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request; end a stream of events after its number of bytes, also inside an event."""
        is_stream = scope["type"] == "http" and scope["method"] == "GET" and scope["path"].startswith("/runs/")
        if not is_stream or not self._cuts:
            await self._app(scope, receive, send)
            return
        left = self._cuts.pop(0)
        ended = False

        async def send_some(event: Any) -> None:
            nonlocal left, ended
            body = event.get("body", b"")
            if ended:
                return
            ended = left < len(body)
            await send({**event, "body": body[:left], "more_body": False} if ended else event)
            left -= len(body)

        await self._app(scope, receive, send_some)


@pytest.fixture
def serve(root: Path, tmp_path: Path) -> Serve:
    """Function that serves the web chat with a script in place of the model; all servers of a test share a database."""
    web_chat = runpy.run_path(str(root / "examples/web_chat.py"))["WebChat"]

    @asynccontextmanager
    async def serving(script: Any, cuts: list[int] | None = None) -> AsyncIterator[str]:
        chat = web_chat(f"sqlite+aiosqlite:///{tmp_path / 'chats.db'}", create_scripted_agent(script))
        config = uvicorn.Config(CutStreams(chat.app, cuts or []), log_config=None, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            task = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                await task

    return serving
