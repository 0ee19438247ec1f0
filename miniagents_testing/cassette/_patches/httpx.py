"""httpx2 and httpx, which differ in name only: their requests are answered out of a cassette, or into one.

The aiohttp transports that the SDKs bring along are transports of httpx2, too.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import lru_cache, wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any

from miniagents_testing.cassette._patches.aiohttp import beneath_vcrpy
from miniagents_testing.cassette._playback import Playback
from miniagents_testing.cassette._session import LiveRequest, current_session, is_passing, passing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from miniagents_testing.cassette._recording import Slot
    from miniagents_testing.cassette._session import Session


_ASYNC, _SYNC = "handle_async_request", "handle_request"
_DRAIN_SECONDS = 5.0
"""For the rest of an error that its reader has left unread."""


class Family:
    """One of the two libraries. Made by `Family.of`."""

    def __init__(self, module: Any) -> None:
        self.module = module
        streams = module.AsyncByteStream, module.SyncByteStream
        self._played: Any = type("PlayedStream", (_Played, *streams), {})
        self._recorded: Any = type("RecordedStream", (_Recorded, *streams), {})

    @staticmethod
    @lru_cache
    def of(name: str) -> Family:
        """The library of this name; imports it."""
        return Family(import_module(name))

    def transports(self) -> Iterator[type]:
        """The classes that open sockets: the library's own, and all there are on aiohttp."""
        yield self.module.HTTPTransport
        yield self.module.AsyncHTTPTransport
        classes = list(self.module.AsyncBaseTransport.__subclasses__())
        for transport in classes:
            classes += transport.__subclasses__()
            if transport.__name__ == "AiohttpTransport":
                yield transport

    def methods(self, transport: type) -> Iterator[str]:
        """The names of those through which requests go."""
        if issubclass(transport, self.module.AsyncBaseTransport):
            yield _ASYNC
        if issubclass(transport, self.module.BaseTransport):
            yield _SYNC

    def replacement(self, name: str, before: Callable[..., Any]) -> Callable[..., Any]:
        """What stands in place of a method while cassettes are open."""
        real = beneath_vcrpy(before)
        if name == _ASYNC:

            @wraps(real)
            async def handle_async_request(transport: Any, request: Any) -> Any:
                session = current_session()
                if session is None:
                    return await (real if is_passing() else before)(transport, request)
                return await self.aanswer(session, request, lambda: real(transport, request))

            return handle_async_request

        @wraps(real)
        def handle_request(transport: Any, request: Any) -> Any:
            session = current_session()
            if session is None:
                return (real if is_passing() else before)(transport, request)
            return self.answer(session, request, lambda: real(transport, request))

        return handle_request

    async def aanswer(self, session: Session, request: Any, send: Callable[[], Awaitable[Any]]) -> Any:
        """The response out of the cassette, or that of `send`, which goes into it."""
        clock = asyncio.get_running_loop().time
        started = clock()
        await request.aread()
        answer = session.answer(_live(request), _Asker(self.module, request), clock, started)
        if isinstance(answer, Playback):
            await answer.abegin()
            return self._response_of(answer)
        with passing():
            if answer is None:
                return await send()
            request.headers["accept-encoding"] = "identity"  # compressed chunks could be cut and read by nobody
            try:
                response = await send()
            except BaseException as error:
                answer.failed(error, is_network=isinstance(error, self.module.TransportError))
                raise
        return self._response_with(response, aiter(response.stream), answer)

    def answer(self, session: Session, request: Any, send: Callable[[], Any]) -> Any:
        """`aanswer`, for threads."""
        clock = time.monotonic
        started = clock()
        request.read()
        answer = session.answer(_live(request), _Asker(self.module, request), clock, started)
        if isinstance(answer, Playback):
            answer.begin()
            return self._response_of(answer)
        with passing():
            if answer is None:
                return send()
            request.headers["accept-encoding"] = "identity"
            try:
                response = send()
            except BaseException as error:
                answer.failed(error, is_network=isinstance(error, self.module.TransportError))
                raise
        return self._response_with(response, iter(response.stream), answer)

    def _response_of(self, playback: Playback) -> Any:
        return self.module.Response(
            playback.response.status,
            headers=playback.headers,
            stream=self._played(playback),
            extensions={"reason_phrase": playback.response.reason.encode("ascii", "replace")},
        )

    def _response_with(self, response: Any, source: Any, slot: Slot) -> Any:
        slot.headers_arrived(response.status_code, response.reason_phrase, response.headers.multi_items())
        return self.module.Response(
            response.status_code,
            headers=response.headers,
            stream=self._recorded(response.stream, source, slot, self.module.TransportError),
            extensions=response.extensions,
        )


class _Asker:
    """What a playback knows about the client: see `HTTPLibrary`."""

    def __init__(self, module: Any, request: Any) -> None:
        self._module = module
        self._request = request

    @property
    def read_timeout(self) -> float | None:
        seconds: float | None = self._request.extensions.get("timeout", {}).get("read")
        return seconds

    def error(self, name: str, message: str) -> Exception:
        kind = getattr(self._module, name, None)
        if not (isinstance(kind, type) and issubclass(kind, self._module.TransportError)):
            kind = self._module.ReadError
        error: Exception = kind(message, request=self._request)
        return error


class _Played:
    """The body of a response out of a cassette."""

    def __init__(self, playback: Playback) -> None:
        self._playback = playback

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._playback.aread()

    def __iter__(self) -> Iterator[bytes]:
        return self._playback.read()

    async def aclose(self) -> None:
        self._playback.close()

    def close(self) -> None:
        self._playback.close()


class _Recorded:
    """Body of a live response, passed on to its reader and written into its slot, in a loop or a thread.

    All iterations share one source: a later one goes on where the one before stopped.
    """

    def __init__(self, stream: Any, source: Any, slot: Slot, network_error: type[Exception]) -> None:
        self._stream = stream
        self._source = source
        self._slot = slot
        self._network_error = network_error

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    def __iter__(self) -> Iterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            data: bytes = await anext(self._source)
        except BaseException as error:
            self._note(error)
            raise
        self._slot.chunk_arrived(data)
        return data

    def __next__(self) -> bytes:
        try:
            data: bytes = next(self._source)
        except BaseException as error:
            self._note(error)
            raise
        self._slot.chunk_arrived(data)
        return data

    def _note(self, error: BaseException) -> None:
        if isinstance(error, (StopIteration, StopAsyncIteration)):
            self._slot.ended("eof")
        else:
            self._slot.failed(error, is_network=isinstance(error, self._network_error))

    async def aclose(self) -> None:
        try:
            if self._slot.to_drain:
                with suppress(self._network_error, TimeoutError):  # the reader has left: the error concerns no task
                    async with asyncio.timeout(None if self._slot.recorder.drains else _DRAIN_SECONDS):
                        while self._slot.to_drain:
                            self._slot.chunk_arrived(await anext(self._source))
        except StopAsyncIteration:
            self._slot.ended("eof")
        finally:
            self._slot.ended("closed")
            await self._stream.aclose()

    def close(self) -> None:
        try:
            with suppress(self._network_error):
                while self._slot.to_drain:
                    self._slot.chunk_arrived(next(self._source))
        except StopIteration:
            self._slot.ended("eof")
        finally:
            self._slot.ended("closed")
            self._stream.close()


def _live(request: Any) -> LiveRequest:
    return LiveRequest(request.method, str(request.url), request.content, request.headers.multi_items())
