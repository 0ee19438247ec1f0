"""Patches of httpx2 and httpx: their transports are answered by the cassette, sync and async.

`Family` stands for one of the two libraries, which differ in name only. The aiohttp transports of the SDKs are
transports of httpx2, too.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from functools import lru_cache, partial, wraps
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from miniagents_testing.cassette._current import current_session, is_only_played, is_passing, passing
from miniagents_testing.cassette._headers import line_of
from miniagents_testing.cassette._patches import without_vcrpy
from miniagents_testing.cassette._playback import Playback
from miniagents_testing.cassette._session import LiveRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

    from miniagents_testing.cassette._patches import Target
    from miniagents_testing.cassette._recording import Slot
    from miniagents_testing.cassette._session import Session


MODULES = ("httpx2", "httpx")


def targets(module: Any) -> Iterator[Target]:
    """Yield the methods of the library's transports that open sockets, and the function that makes TLS contexts."""
    family = Family.of(module.__name__)
    for transport in family.transports():
        yield from _methods(family, transport)
    transports = import_module(f"{module.__name__}._transports.default")
    if hasattr(transports, "create_ssl_context"):  # private, so another version may lack it
        yield transports, "create_ssl_context", _sharing_context


def targets_of(transports: Iterable[type]) -> Iterator[Target]:
    """Yield the methods of further transport classes, of httpx2 or httpx.

    Raises:
        TypeError: a class is no transport.
    """
    families = [Family.of(name) for name in MODULES if find_spec(name) is not None]
    for transport in transports:
        found = [target for family in families for target in _methods(family, transport)]
        if not found:
            raise TypeError(f"{transport!r} is no transport class of {' or '.join(MODULES)}")
        yield from found


def _sharing_context(create: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that replaces the one that makes the TLS context of a new client.

    To load the certificates is most of the time that a client takes to make, and a client that is only answered from
    cassettes connects to no server. So clients with default settings share one context while no cassette records.
    """

    @wraps(create)
    def create_ssl_context(verify: Any = True, cert: Any = None, trust_env: bool = True) -> Any:
        """Return the shared context for default settings while cassettes only play, else a new one."""
        if verify is not True or cert is not None or not is_only_played():
            return create(verify=verify, cert=cert, trust_env=trust_env)
        return _shared_context(create, trust_env, *map(os.environ.get, ("SSL_CERT_FILE", "SSL_CERT_DIR")))

    return create_ssl_context


@lru_cache(maxsize=8)
def _shared_context(create: Callable[..., Any], trust_env: bool, *_locations: str | None) -> Any:
    """Make the default context once for each library and each value of the variables that name certificates."""
    return create(trust_env=trust_env)


def _methods(family: Family, transport: type) -> Iterator[Target]:
    """Yield the methods of a transport class to replace."""
    return ((transport, name, partial(family.replacement, name)) for name in family.methods(transport))


_ASYNC, _SYNC = "handle_async_request", "handle_request"
_RETRY_AFTER = "miniagents_retry_after"
"""Extension of a response with the recorded headers `retry-after`, which errors of MiniAgents read first."""
_DRAIN_SECONDS = 5.0
"""Seconds to read the rest of an error's body that its reader has closed unread."""


class Family:
    """HTTP library: httpx2 or httpx. `Family.of` makes it once for each."""

    def __init__(self, module: Any) -> None:
        self.module = module
        streams = module.AsyncByteStream, module.SyncByteStream
        self._played: Any = type("PlayedStream", (_Played, *streams), {})
        self._recorded: Any = type("RecordedStream", (_Recorded, *streams), {})

    @staticmethod
    @lru_cache
    def of(name: str) -> Family:
        """Import the library of this name, and return its family."""
        return Family(import_module(name))

    def transports(self) -> Iterator[type]:
        """Yield the transport classes that open sockets: the library's own, and those built on aiohttp."""
        yield self.module.HTTPTransport
        yield self.module.AsyncHTTPTransport
        classes = list(self.module.AsyncBaseTransport.__subclasses__())
        for transport in classes:
            classes += transport.__subclasses__()
            if transport.__name__ == "AiohttpTransport":
                yield transport

    def methods(self, transport: type) -> Iterator[str]:
        """Yield the names of the methods through which a transport class sends requests: async, sync, or both."""
        if issubclass(transport, self.module.AsyncBaseTransport):
            yield _ASYNC
        if issubclass(transport, self.module.BaseTransport):
            yield _SYNC

    def replacement(self, name: str, before: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function that replaces a transport's method while cassettes are open, async or sync as `name` is.

        It answers from the current session. Without a session it calls `before`, the method as it was found.
        """
        real = without_vcrpy(before)
        if name == _ASYNC:

            @wraps(real)
            async def handle_async_request(transport: Any, request: Any) -> Any:
                """Answer an async request from the current session; call the replaced method if no session is open."""
                session = current_session()
                if session is None:
                    return await (real if is_passing() else before)(transport, request)
                return await self.aanswer(session, request, lambda: real(transport, request))

            return handle_async_request

        @wraps(real)
        def handle_request(transport: Any, request: Any) -> Any:
            """Answer a sync request from the current session; call the replaced method if no session is open."""
            session = current_session()
            if session is None:
                return (real if is_passing() else before)(transport, request)
            return self.answer(session, request, lambda: real(transport, request))

        return handle_request

    async def aanswer(self, session: Session, request: Any, send: Callable[[], Awaitable[Any]]) -> Any:
        """Return the response of the cassette, or that of `send`, which is recorded as it is read, or only sent.

        Read the body of the request first. A recorded request is sent with `accept-encoding: identity`. An error of
        `send` is recorded and raised.
        """
        clock = asyncio.get_running_loop().time
        started = clock()
        await request.aread()
        live = _live(request)
        await session.prepare(live)
        answer = session.answer(live, _RequestLibrary(self.module, request), clock, started)
        if isinstance(answer, Playback):
            await answer.abegin()
            return self._response_of(answer)
        with passing():
            if answer is None:
                return await send()
            # a compressed body could be neither searched for secrets nor read in the file
            request.headers["accept-encoding"] = "identity"
            try:
                response = await send()
            except BaseException as error:
                answer.failed(error, is_network=isinstance(error, self.module.TransportError))
                raise
        return self._response_with(response, aiter(response.stream), answer)

    def answer(self, session: Session, request: Any, send: Callable[[], Any]) -> Any:
        """Do in a thread what `aanswer` does in a loop: return the response that is played, recorded, or only sent."""
        clock = time.monotonic
        started = clock()
        request.read()
        answer = session.answer(_live(request), _RequestLibrary(self.module, request), clock, started)
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
        """Return a response of the library with status and headers of a playback, whose body it plays."""
        return self.module.Response(
            playback.response.status,
            headers=[(name.encode(), line_of(value)) for name, value in playback.headers],
            stream=self._played(playback),
            extensions={
                "reason_phrase": line_of(playback.response.reason),
                _RETRY_AFTER: playback.retry_after,
            },
        )

    def _response_with(self, response: Any, source: Any, slot: Slot) -> Any:
        """Record the head of a live response, and return a response that records the body while it is read."""
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.headers.raw]
        slot.headers_arrived(response.status_code, response.reason_phrase, headers)
        return self.module.Response(
            response.status_code,
            headers=response.headers,
            stream=self._recorded(response.stream, source, slot, self.module.TransportError),
            extensions={**response.extensions, _RETRY_AFTER: slot.retry_after},
        )


class _RequestLibrary:
    """HTTP library of one request, for a playback: see `HTTPLibrary`."""

    def __init__(self, module: Any, request: Any) -> None:
        self._module = module
        self._request = request

    @property
    def read_timeout(self) -> float | None:
        """Seconds after which the client gives up waiting for bytes; None if it waits without limit."""
        seconds: float | None = self._request.extensions.get("timeout", {}).get("read")
        return seconds

    def error(self, name: str, message: str) -> Exception:
        """Return the library's transport error of this name, or a `ReadError` if it has none of that name."""
        kind = getattr(self._module, name, None)
        if not (isinstance(kind, type) and issubclass(kind, self._module.TransportError)):
            kind = self._module.ReadError
        error: Exception = kind(message, request=self._request)
        return error


class _Played:
    """Body of a response from a cassette."""

    def __init__(self, playback: Playback) -> None:
        self._playback = playback

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._playback.aread()

    def __iter__(self) -> Iterator[bytes]:
        return self._playback.read()

    async def aclose(self) -> None:
        """End the playback, because the reader has closed the response."""
        self._playback.close()

    def close(self) -> None:
        """End the playback, because the reader has closed the response."""
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
            self._record_end(error)
            raise
        self._slot.chunk_arrived(data)
        return data

    def __next__(self) -> bytes:
        try:
            data: bytes = next(self._source)
        except BaseException as error:
            self._record_end(error)
            raise
        self._slot.chunk_arrived(data)
        return data

    def _record_end(self, error: BaseException) -> None:
        """Record the end of the body, or the error that ended it."""
        if isinstance(error, (StopIteration, StopAsyncIteration)):
            self._slot.ended("eof")
        else:
            self._slot.failed(error, is_network=isinstance(error, self._network_error))

    async def aclose(self) -> None:
        """Record the rest of the body if the recorder drains it, note the early close, and close the stream.

        Network errors of the rest are dropped, and so is what comes late.
        """
        try:
            if self._slot.to_drain:
                with suppress(self._network_error, TimeoutError):  # closed by its reader: the error concerns no task
                    async with asyncio.timeout(None if self._slot.recorder.drains else _DRAIN_SECONDS):
                        while self._slot.to_drain:
                            self._slot.chunk_arrived(await anext(self._source))
        except StopAsyncIteration:
            self._slot.ended("eof")
        finally:
            self._slot.ended("closed")
            await self._stream.aclose()

    def close(self) -> None:
        """Record the rest of the body if the recorder drains it, note the early close, and close the stream."""
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
    """Return a request of the library as a `LiveRequest`, which sessions look up."""
    return LiveRequest(request.method, str(request.url), request.content, request.headers.multi_items())
