"""A local HTTP server that speaks the providers' wire formats, from a script.

```python
with ProviderServer(["Hello!", Answer("One by one", gap=0.05)]) as server:
    os.environ["OPENAI_BASE_URL"] = server.openai_base_url
    ...
```

It answers OpenAI chat completions and Anthropic messages, streamed or whole; requests get the answers of the script in
the order in which they come. It listens on loopback only and knows no keys.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from miniagents_testing.errors import ScriptError
from miniagents_testing.wire import Answer, anthropic_events, anthropic_message, openai_chunks, openai_completion

if TYPE_CHECKING:
    from types import TracebackType

    from starlette.requests import Request

__all__ = ["Answer", "ProviderServer", "Script"]

Script = Iterable[str | Answer] | Callable[[dict[str, Any]], str | Answer]
"""Answers one after the other, or a function from the body of a request to its answer."""


class ProviderServer:
    """The server; it runs in a thread of its own between `with` and its end. `async with` works too.

    Args:
        script: the answers.
        port: 0 takes any free one.
    """

    def __init__(self, script: Script, *, port: int = 0) -> None:
        self._script = script if callable(script) else iter(list(script))
        self._port = port
        self._released = threading.Event()
        self._held: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._listener: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self.requests: list[dict[str, Any]] = []
        """The bodies of the requests so far, as they came."""
        self.url = ""
        """Scheme, host and port."""

    @property
    def openai_base_url(self) -> str:
        """What `OPENAI_BASE_URL` or `base_url=` of OpenAI's client should be."""
        return f"{self.url}/v1"

    @property
    def anthropic_base_url(self) -> str:
        """What `ANTHROPIC_BASE_URL` or `base_url=` of Anthropic's client should be."""
        return self.url

    def release(self) -> None:
        """Let the answers go on that stopped at their `hold_after`, and those that would."""
        self._released.set()
        for loop, event in self._held:
            loop.call_soon_threadsafe(event.set)

    def assert_complete(self) -> None:
        """Raise `ScriptError` if answers are left over: fewer requests came than the script is for."""
        if not callable(self._script) and (left := list(self._script)):
            raise ScriptError(f"{len(left)} answers were not asked for, the first of them {left[0]!r}")

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(
            self._app(), log_config=None, lifespan="off", ws="none", access_log=False, timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        # The socket listens already: a request that comes before uvicorn does waits in its backlog.
        self._thread = threading.Thread(
            target=self._server.run, args=([self._listener],), name="provider server", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
        assert self._server is not None
        assert self._thread is not None
        assert self._listener is not None
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()
        self._held.clear()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, traceback)

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat_completions, methods=["POST"]),
                Route("/v1/messages", self._messages, methods=["POST"]),
            ]
        )

    async def _chat_completions(self, request: Request) -> Response:
        body, answer = await self._next(request)
        if not body.get("stream"):
            return JSONResponse(openai_completion(answer, body, len(self.requests)), answer.status)
        return self._streamed(answer, openai_chunks(answer, body, len(self.requests)))

    async def _messages(self, request: Request) -> Response:
        body, answer = await self._next(request)
        if not body.get("stream"):
            return JSONResponse(anthropic_message(answer, body, len(self.requests)), answer.status)
        return self._streamed(answer, anthropic_events(answer, body, len(self.requests)))

    async def _next(self, request: Request) -> tuple[dict[str, Any], Answer]:
        """The body of the request, and what to answer; an exhausted script answers with an error no client retries."""
        body: dict[str, Any] = await request.json()
        self.requests.append(body)
        if callable(self._script):
            answer = self._script(body)
        else:
            answer = next(self._script, None) or Answer.error(
                400, f"the script ends before request {len(self.requests)}"
            )
        return body, answer if isinstance(answer, Answer) else Answer(answer)

    def _streamed(self, answer: Answer, events: Sequence[bytes]) -> Response:
        if answer.status >= 400:
            return Response(b"".join(events), answer.status, media_type="application/json")
        return StreamingResponse(self._paced(answer, events), media_type="text/event-stream; charset=utf-8")

    async def _paced(self, answer: Answer, events: Sequence[bytes]) -> AsyncIterator[bytes]:
        """The events with their pauses, each as one chunk."""
        for number, event in enumerate(events):
            if number == answer.hold_after:
                await self._until_released()
            await asyncio.sleep(answer.wait_before(number))
            yield event

    async def _until_released(self) -> None:
        """Wait for `release`, of whichever thread."""
        event = asyncio.Event()
        self._held.append((asyncio.get_running_loop(), event))
        if not self._released.is_set():
            await event.wait()
