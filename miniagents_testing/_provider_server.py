"""A local HTTP server that speaks the providers' wire formats, from a script or a recording.

```python
with ProviderServer(["Hello!", Step("One by one", gap=0.05)]) as server:
    os.environ["OPENAI_BASE_URL"] = server.openai_base_url
    ...
```

It answers OpenAI's chat completions and Responses and Anthropic's messages, streamed or whole, for any name of a model.
It listens on loopback only and knows no keys.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from typing import TYPE_CHECKING, Self

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse

from miniagents_testing._playing import aplay, asleep_until_headers
from miniagents_testing._scripted import ScriptedLLM
from miniagents_testing._scripted.transport import error_response, respond_to
from miniagents_testing.errors import UnexpectedCallError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from starlette.types import Receive, Scope, Send

    from miniagents_testing._script import Call, Script
    from miniagents_testing._streams import ResponseStream


_RESET_AT_ONCE = struct.pack("ii", 1, 0)
"""The socket option that closes a connection without a goodbye."""

_OF_THE_CONNECTION = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding"})
"""Recorded headers that were about a connection that is no more."""


class ProviderServer:
    """The server; it runs in a thread of its own between `with` and its end. `async with` works too.

    Network errors in the script, and answers that end with one, break the connection; other exceptions become status
    500, which no client repeats.

    Args:
        script: the answers: whatever `ScriptedLLM` takes, or one of them. For recordings see `recorded`.
        port: 0 takes any free one.
        pace: factor on all times of the script.
        overlay: what each response is changed by before it is played: other cuts, faults.
    """

    def __init__(
        self,
        script: Script | ScriptedLLM,
        *,
        port: int = 0,
        pace: float = 1.0,
        overlay: Callable[[ResponseStream], ResponseStream] | None = None,
    ) -> None:
        self.llm = script if isinstance(script, ScriptedLLM) else ScriptedLLM(script, pace=pace, overlay=overlay)
        self.url = ""
        """Scheme, host and port."""
        self._port = port
        self._stopping = False
        self._answering: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # of the thread, once there was a request
        self._listener: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def openai_base_url(self) -> str:
        """What `OPENAI_BASE_URL` or `base_url=` of OpenAI's client should be."""
        return f"{self.url}/v1"

    @property
    def anthropic_base_url(self) -> str:
        """What `ANTHROPIC_BASE_URL` or `base_url=` of Anthropic's client should be."""
        return self.url

    @property
    def calls(self) -> tuple[Call, ...]:
        """What was asked so far."""
        return self.llm.calls

    @property
    def last_call(self) -> Call:
        """The last of `calls`; `ScriptError` if there was none."""
        return self.llm.last_call

    def assert_complete(self) -> None:
        """See `ScriptedLLM.assert_complete`."""
        self.llm.assert_complete()

    def release(self) -> None:
        """Let the answers go on that stopped at `then="hold"`, and those that would."""
        self.llm.release()

    # --- starting and stopping

    def __enter__(self) -> Self:
        self._stopping, self._loop = False, None
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
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
        assert self._server is not None
        assert self._thread is not None
        assert self._listener is not None
        self._stopping = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop_answering)
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.__exit__, kind, error, traceback)

    # --- answering

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. A connection that breaks here must become neither an error page nor a line in the log."""
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        try:
            if self._stopping:
                raise asyncio.CancelledError
            await self._answer(scope, receive, send)
        except ClientDisconnect:
            pass
        except (asyncio.CancelledError, Exception) as error:
            if isinstance(error, asyncio.CancelledError) and not self._stopping:
                raise
            await self._break_connection(scope)
        finally:
            self._answering.discard(task)

    def _stop_answering(self) -> None:
        for task in self._answering:
            task.cancel()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = asyncio.get_running_loop().time()
        request = Request(scope, receive)
        stream = self._response_to(request.method, request.url.path, await request.body())
        await asleep_until_headers(stream, self.llm.pace)
        response = StreamingResponse(aplay(stream, started, self.llm.pace, gate=self.llm.gate), stream.status)
        response.raw_headers = [
            (name.encode(), value.encode())
            for name, values in stream.headers.items()
            if name not in _OF_THE_CONNECTION
            for value in values
        ]
        await response(scope, receive, send)

    def _response_to(self, method: str, path: str, body: bytes) -> ResponseStream:
        try:
            return respond_to(self.llm, method, path, body)
        except UnexpectedCallError as error:
            return error_response(400, str(error))
        except Exception as error:
            if _is_network_error(error):
                raise
            return error_response(500, f"the script raises {error!r}")

    async def _break_connection(self, scope: Scope) -> None:
        """Close the socket of this request hard: its client gets a reset."""
        assert self._server is not None
        for connection in list(self._server.server_state.connections):
            if getattr(connection, "client", None) == scope["client"] and connection.transport is not None:
                connection.transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_ONCE
                )
                connection.transport.abort()
        await asyncio.sleep(0)  # until uvicorn knows, and misses no end of the response


def _is_network_error(error: Exception) -> bool:
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("httpx2", "httpx")
