"""Local HTTP server that answers in the providers' wire formats, from a script or a recording.

```python
with ProviderServer(["Hello!", Step("One by one", gap=0.05)]) as server:
    os.environ["OPENAI_BASE_URL"] = server.openai_base_url
    ...
```

It answers requests to OpenAI's chat completions and Responses and to Anthropic's messages, streamed or whole, for any
model name. It listens on loopback only, and accepts requests with any API key or none.
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

from miniagents_testing._scripted import ScriptedLLM
from miniagents_testing._scripted.transport import error_message, error_response, respond_to
from miniagents_testing._streams import aplay, await_headers
from miniagents_testing._wire import FORMATS
from miniagents_testing.errors import UnexpectedCallError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from starlette.types import Receive, Scope, Send

    from miniagents_testing._script import Call, Script
    from miniagents_testing._streams import ResponseStream


_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""Value of `SO_LINGER` with which a closed connection is reset, in place of an orderly end."""

_CONNECTION_HEADERS = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding"})
"""Recorded headers that describe the recorded connection, so the server must not send them."""


class ProviderServer:
    """Server that runs in a thread of its own inside `with` or `async with`.

    A network error that the script raises, or that an answer ends with, breaks the connection. Other exceptions of the
    script become a response with status 500 that no client repeats, and so does a request for which no step is left. A
    request whose client has a wrong base URL, without the version or with it twice, gets the status 404, as from the
    providers, and takes no step.

    Args:
        script: the answers, as `ScriptedLLM` takes them, or a `ScriptedLLM`.
        port: port to listen on; 0 means any free one.
        pace: factor on all waits of the script; ignored for a `ScriptedLLM`, which has its own.
        overlay: function that changes each response before it is played, such as a cut or a fault; ignored for a
            `ScriptedLLM`.
        log: function that is called with a line about each request, in the thread of the server.
    """

    def __init__(
        self,
        script: Script | ScriptedLLM,
        *,
        port: int = 0,
        pace: float = 1.0,
        overlay: Callable[[ResponseStream], ResponseStream] | None = None,
        log: Callable[[str], object] | None = None,
    ) -> None:
        self._log = log
        self.llm = script if isinstance(script, ScriptedLLM) else ScriptedLLM(script, pace=pace, overlay=overlay)
        self.url = ""
        """Address of the server: scheme, host and port. Empty before `with`."""
        self._port = port
        self._stopping = False
        self._answering: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # the loop of the thread, from the first request on
        self._listener: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def openai_base_url(self) -> str:
        """Value for `OPENAI_BASE_URL`, or for `base_url=` of OpenAI's client."""
        return f"{self.url}/v1"

    @property
    def anthropic_base_url(self) -> str:
        """Value for `ANTHROPIC_BASE_URL`, or for `base_url=` of Anthropic's client."""
        return self.url

    @property
    def calls(self) -> tuple[Call, ...]:
        """All calls until now, in their order."""
        return self.llm.calls

    @property
    def last_call(self) -> Call:
        """Last one of `calls`; `ScriptError` is raised if there was none."""
        return self.llm.last_call

    def assert_complete(self) -> None:
        """Check that all steps were used, as `ScriptedLLM.assert_complete` does."""
        self.llm.assert_complete()

    def release(self) -> None:
        """Let the answers go on that wait at `then="hold"`, and all later ones without a wait."""
        self.llm.release()

    # --- starting and stopping

    def __enter__(self) -> Self:
        """Listen on the port, start the thread of the server, and return this object, which then has its `url`."""
        self._stopping, self._loop = False, None
        self._listener = socket.create_server(("127.0.0.1", self._port))
        # Connections inherit it. asyncio sets it only on sockets with a protocol number; chunks would wait up to 40 ms.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            loop="asyncio",  # on uvloop, which uvicorn would take, 0.38 leaves a socket open if it stops at once
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        # The socket listens already: requests that arrive before uvicorn runs wait in its backlog.
        self._thread = threading.Thread(
            target=self._server.run, args=([self._listener],), name="provider server", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop unfinished answers and the server, wait for its thread, and close the port."""
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
        """Answer one request, as an ASGI application.

        After an error of the script, or when the server stops, break the connection. A client that has gone is ignored.
        """
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
        """Cancel all running answers. Runs in the thread of the server."""
        for task in self._answering:
            task.cancel()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the scripted response to one request, status and headers first, then the chunks at the model's pace."""
        started = asyncio.get_running_loop().time()
        request = Request(scope, receive)
        stream = self._logged_response(request.method, request.url.path, await request.body())
        await await_headers(stream, self.llm.pace)
        response = StreamingResponse(aplay(stream, started, self.llm.pace, gate=self.llm.gate), stream.status)
        response.raw_headers = [
            (name.encode(), value.encode())
            for name, values in stream.headers.items()
            if name not in _CONNECTION_HEADERS
            for value in values
        ]
        await response(scope, receive, send)

    def _logged_response(self, method: str, path: str, body: bytes) -> ResponseStream:
        """Return the response to a request, and call `log` with a line about both."""
        known = len(self.llm.calls)
        try:
            stream = self._response_to(method, path, body)
        except Exception as error:
            self._note(f"{method} {path}: the connection breaks: {error!r}")
            raise
        calls = [str(call) for call in self.llm.calls[known:]]
        reason = [error_message(stream).partition("\n")[0]] if stream.status >= 400 else []
        self._note(f"{stream.status} {method} {path}{''.join(f': {each}' for each in (*calls, *reason))}")
        return stream

    def _note(self, line: str) -> None:
        """Call `log`, if there is one."""
        if self._log is not None:
            self._log(line)

    def _response_to(self, method: str, path: str, body: bytes) -> ResponseStream:
        """Return the response to a request; an exception of the script becomes an error response.

        Raises:
            Exception: a network error of the script, which has to break the connection.
        """
        if _has_wrong_version(path):
            return error_response(
                404,
                f"there is no answer to {method} {path} here: the base URL of OpenAI's clients is "
                f"{self.openai_base_url}, and that of Anthropic's is {self.anthropic_base_url}",
            )
        try:
            return respond_to(self.llm, method, path, body)
        except UnexpectedCallError as error:
            return error_response(500, str(error))
        except Exception as error:
            if _is_network_error(error):
                raise
            return error_response(500, f"the script raises {error!r}")

    async def _break_connection(self, scope: Scope) -> None:
        """Reset the TCP connection of a request, so that its client gets an error and no regular end."""
        assert self._server is not None
        for connection in list(self._server.server_state.connections):
            if getattr(connection, "client", None) == scope["client"] and connection.transport is not None:
                connection.transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE
                )
                connection.transport.abort()
        await asyncio.sleep(0)  # now uvicorn knows that the connection is lost, and logs no missing end of the response


def _has_wrong_version(path: str) -> bool:
    """Return True for a path that begins without the version, or with it twice: the client has a wrong base URL.

    The base URL of OpenAI's clients ends with the version, and Anthropic's clients add the version themselves. Paths of
    other beginnings, such as Azure's, are those of other clients.
    """
    path = path.rstrip("/")
    ends = (*(each.path for each in FORMATS.values()), "/models")
    return any(path in (end, f"/v1/v1{end}") for end in ends)


def _is_network_error(error: Exception) -> bool:
    """Return True for errors of sockets and of the HTTP libraries."""
    return isinstance(error, OSError) or type(error).__module__.partition(".")[0] in ("httpx2", "httpx")
