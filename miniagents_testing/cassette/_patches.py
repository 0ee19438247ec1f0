"""Patches of HTTP libraries: methods of their classes are replaced while any cassette is open.

Each method is replaced once, however many cassettes are open, and restored exactly when the last cassette is closed.
In a context without a cassette, a replacement calls the method that it replaces.

`Family` stands for httpx2 or httpx, which differ in name only. The aiohttp transports of the SDKs are transports of
httpx2, too. `_other_clients` has the methods of clients that are not recorded.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache, partial, wraps
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from miniagents_testing._network_guard import EVENTS, attempt_of, blocking, closed_if_refused, watchers
from miniagents_testing.cassette import _other_clients as other_clients
from miniagents_testing.cassette._playback import Playback
from miniagents_testing.cassette._session import LiveRequest, current_session, is_passing, passing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

    from miniagents_testing.cassette._recording import Slot
    from miniagents_testing.cassette._session import Session

    Target = tuple[Any, str, Callable[[Any], Any]]
    """A class or module, the name of a method, and a function that makes the replacement of the method."""


_FAMILIES = ("httpx2", "httpx")


@dataclass
class _Patch:
    """A replaced method."""

    owner: Any
    """Class or module."""
    name: str
    before: Any
    """The method in the class itself before, or `_INHERITED`."""
    during: Any
    users: int = 0
    """Number of open cassettes that need the replacement."""


_INHERITED = object()
_patches: dict[tuple[Any, str], _Patch] = {}
_late: list[Target] = []
"""Methods of modules that were imported while cassettes are open; they stay replaced until the last one is closed."""
_open_cassettes = 0
_lock = threading.RLock()


@contextmanager
def patched(more: Iterable[type] = ()) -> Iterator[None]:
    """Let open cassettes answer the requests of transports, and judge other clients, while the context is open.

    Args:
        more: further transport classes, of httpx2 or httpx, beside those that open sockets.

    Raises:
        TypeError: a class is no transport.
    """
    global _open_cassettes
    _register_hooks()
    targets = list(_targets(more))
    with _lock:
        _open_cassettes += 1
        for target in targets:
            _install(*target)
    try:
        with _watching():
            yield
    finally:
        with _lock:
            _open_cassettes -= 1
            for owner, name, _ in [*targets, *(() if _open_cassettes else _late)]:
                _uninstall(owner, name)
            if not _open_cassettes:
                _late.clear()


@cache
def _register_hooks() -> None:
    """Let modules that are imported later be patched, too; nothing is imported here."""
    from wrapt import register_post_import_hook

    for name in _modules():
        if name not in sys.modules:
            register_post_import_hook(_patch_late, name)


def _patch_late(module: Any) -> None:
    """Replace the methods of a module that was just imported, if cassettes are open."""
    with _lock:
        if _open_cassettes:
            targets = list(_targets_in(module.__name__))
            for target in targets:
                _install(*target)
            _late.extend(targets)


def _targets(more: Iterable[type]) -> Iterator[Target]:
    """Yield the methods to replace: of transports that open sockets, of `more`, and of other clients."""
    families = [Family.of(name) for name in _FAMILIES if find_spec(name) is not None]
    for family in families:
        for transport in family.transports():
            yield from _methods(family, transport)
    for transport in more:
        found = [target for family in families for target in _methods(family, transport)]
        if not found:
            raise TypeError(f"{transport!r} is no transport class of {' or '.join(_FAMILIES)}")
        yield from found
    for module in _modules():
        yield from _targets_in(module)
    yield from _standard_targets()


def _methods(family: Family, transport: type) -> Iterator[Target]:
    """Yield the methods of a transport class to replace."""
    return ((transport, name, partial(family.replacement, name)) for name in family.methods(transport))


def _install(owner: Any, name: str, replacement: Callable[[Any], Any]) -> None:
    """Replace a method, or count one more user of its replacement."""
    patch = _patches.get((owner, name))
    if patch is None:
        before = vars(owner).get(name, _INHERITED)
        patch = _Patch(owner, name, before, replacement(getattr(owner, name)))
        setattr(owner, name, patch.during)
        _patches[owner, name] = patch
    patch.users += 1


def _uninstall(owner: Any, name: str) -> None:
    """Restore a method when the last user of its replacement has gone."""
    patch = _patches[owner, name]
    patch.users -= 1
    if patch.users:
        return
    del _patches[owner, name]
    if vars(owner).get(name) is not patch.during:
        return  # other code has replaced it since, and may restore our replacement, which does nothing by then
    if patch.before is _INHERITED:
        delattr(owner, name)
    else:
        setattr(owner, name, patch.before)


_ASYNC, _SYNC = "handle_async_request", "handle_request"
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
        real = _without_vcrpy(before)
        if name == _ASYNC:

            @wraps(real)
            async def handle_async_request(transport: Any, request: Any) -> Any:
                """Answer an async request from the current session, or call the replaced method without one."""
                session = current_session()
                if session is None:
                    return await (real if is_passing() else before)(transport, request)
                return await self.aanswer(session, request, lambda: real(transport, request))

            return handle_async_request

        @wraps(real)
        def handle_request(transport: Any, request: Any) -> Any:
            """Answer a sync request from the current session, or call the replaced method without one."""
            session = current_session()
            if session is None:
                return (real if is_passing() else before)(transport, request)
            return self.answer(session, request, lambda: real(transport, request))

        return handle_request

    async def aanswer(self, session: Session, request: Any, send: Callable[[], Awaitable[Any]]) -> Any:
        """Return the response of the cassette, or the response of `send`, which is recorded as it is read."""
        clock = asyncio.get_running_loop().time
        started = clock()
        await request.aread()
        answer = session.answer(_live(request), _RequestLibrary(self.module, request), clock, started)
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
        """Return the response in a thread, see `aanswer`."""
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
        """Make a response of the library that streams a playback."""
        return self.module.Response(
            playback.response.status,
            headers=playback.headers,
            stream=self._played(playback),
            extensions={"reason_phrase": playback.response.reason.encode("ascii", "replace")},
        )

    def _response_with(self, response: Any, source: Any, slot: Slot) -> Any:
        """Make a response that records the body of a live response while it is read."""
        slot.headers_arrived(response.status_code, response.reason_phrase, response.headers.multi_items())
        return self.module.Response(
            response.status_code,
            headers=response.headers,
            stream=self._recorded(response.stream, source, slot, self.module.TransportError),
            extensions=response.extensions,
        )


class _RequestLibrary:
    """HTTP library of one request, for a playback: see `HTTPLibrary`."""

    def __init__(self, module: Any, request: Any) -> None:
        self._module = module
        self._request = request

    @property
    def read_timeout(self) -> float | None:
        seconds: float | None = self._request.extensions.get("timeout", {}).get("read")
        return seconds

    def error(self, name: str, message: str) -> Exception:
        """Make the library's transport error of this name, or a `ReadError` if it has none of that name."""
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
        """Record the rest of the body if the recorder drains it, note the early close, and close the stream."""
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
    """Make a `LiveRequest` of a request of the library."""
    return LiveRequest(request.method, str(request.url), request.content, request.headers.multi_items())


# --- clients that are not recorded


def _without_vcrpy(method: Any) -> Any:
    """Return the method that vcrpy has replaced by this one, or this one if vcrpy has not made it.

    Replacements by other libraries, such as tracers, stay: the user has set them up.
    """
    while getattr(method, "__globals__", {}).get("__name__", "").startswith("vcr."):
        method = method.__wrapped__
    return method


def _guarded(client: other_clients.Client, before: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that judges each call of the client before it is made."""
    real = _without_vcrpy(before)

    if inspect.iscoroutinefunction(real):

        async def call_past(*args: Any, **kwargs: Any) -> Any:
            with passing():
                return await before(*args, **kwargs)

        @wraps(real)
        def call_async(*args: Any, **kwargs: Any) -> Any:
            if is_passing():  # what a cassette sends is none of vcrpy's, which would refuse it
                return real(*args, **kwargs)
            return (call_past if other_clients.goes_past(client, args, kwargs) else before)(*args, **kwargs)

        return call_async

    @wraps(real)
    def call(*args: Any, **kwargs: Any) -> Any:
        """Judge a call before it is made: a cassette may refuse it. If all let it past, it is not judged again."""
        if is_passing():
            return real(*args, **kwargs)
        if not other_clients.goes_past(client, args, kwargs):
            return before(*args, **kwargs)
        with passing():
            return before(*args, **kwargs)

    return call


def _keeping_url(before: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `setopt` of curl that also stores the URL on the handle, as curl does not tell it before it connects."""

    @wraps(before)
    def setopt(curl: Any, option: Any, value: Any) -> Any:
        if option == _CURLOPT_URL:
            curl._miniagents_url = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        return before(curl, option, value)

    return setopt


_CURLOPT_URL = 10002


def _curl_class(before: Any) -> Any:
    """Return a class of pycurl, which cannot be changed itself, with methods that judge each call."""
    client = other_clients.Client("pycurl", "Curl", (), other_clients.curl_address, "pycurl")

    class Curl(before):  # type: ignore[misc]
        setopt = _keeping_url(before.setopt)

        def __getattribute__(self, name: str) -> Any:  # the class of pytest-recording has this method only
            value = super().__getattribute__(name)
            return partial(_guarded(client, lambda curl: value()), self) if name == "perform" else value

    return Curl


def _curl_multi_class(before: Any) -> Any:
    """Return a class of pycurl for parallel requests whose `add_handle` judges each request; see `_curl_class`."""
    client = other_clients.Client("pycurl", "CurlMulti", (), other_clients.added_curl_address, "pycurl")

    class CurlMulti(before):  # type: ignore[misc]
        add_handle = _guarded(client, before.add_handle)

    return CurlMulti


def _learn_names(host: Any, found: Any) -> None:
    """Remember the name of the addresses that `getaddrinfo` has found."""
    name = (host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else str(host or "")).lower()
    for *_, address in found:
        if isinstance(address, tuple) and isinstance(address[0], str):
            other_clients.names.setdefault((address[0], address[1] or None), {})[name.rstrip(".")] = None


def _looked_up(before: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `getaddrinfo` that remembers which name each address was found for, so that hosts match by name."""

    @wraps(before)
    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        found = before(host, *args, **kwargs)
        _learn_names(host, found)
        return found

    return getaddrinfo


def _looked_up_by_loop(before: Callable[..., Any]) -> Callable[..., Any]:
    """Return a loop's `getaddrinfo` that judges a look-up in the task that asks, before a thread makes it.

    The stack and the cassette of the task are known there only. The names of what it finds are kept.
    """

    @wraps(before)
    async def getaddrinfo(loop: Any, host: Any, *args: Any, **kwargs: Any) -> Any:
        """Judge a look-up unless a cassette makes it, then do it and keep the names of what it finds."""
        if not is_passing():
            other_clients.judge_lookup(host)
        found = await before(loop, host, *args, **kwargs)
        _learn_names(host, found)
        return found

    return getaddrinfo


def _modules() -> Iterator[str]:
    """Yield the names of the modules that have methods to replace."""
    yield from dict.fromkeys((*(client.module for client in other_clients.CLIENTS), "pycurl", "uvloop"))


def _targets_in(name: str) -> Iterator[Target]:
    """Yield the methods of an imported module to replace while cassettes are open."""
    module = sys.modules.get(name)
    if not isinstance(module, ModuleType):
        return
    if getattr(module.__spec__, "_initializing", False):
        import_module(name)  # another thread imports it: wait until it has
    for client in other_clients.CLIENTS:
        if client.module == name and (owner := getattr(module, client.owner, None)) is not None:
            owner = getattr(owner, "_baseclass", owner)  # vcrpy has put its own class in the place
            yield from (
                (owner, method, partial(_guarded, client)) for method in client.methods if hasattr(owner, method)
            )
    more: dict[str, tuple[Target, ...]] = {
        "curl_cffi.curl": (("Curl", "setopt", _keeping_url),),
        "pycurl": (("", "Curl", _curl_class), ("", "CurlMulti", _curl_multi_class)),
        "uvloop": (("Loop", "getaddrinfo", _looked_up_by_loop),),
    }
    for owner_name, attribute, replacement in more.get(name, ()):
        owner = getattr(module, owner_name, None) if owner_name else module
        if hasattr(owner, attribute):
            yield owner, attribute, replacement


def _standard_targets() -> Iterator[Target]:
    """Yield the functions of the standard library to replace while cassettes are open."""
    yield socket, "getaddrinfo", _looked_up
    yield asyncio.BaseEventLoop, "getaddrinfo", _looked_up_by_loop


@contextmanager
def _watching() -> Iterator[None]:
    """Judge connections and look-ups of all clients through the audit hook while the context is open."""
    _install_hook()
    watchers.append(other_clients.watch)
    try:
        yield
    finally:
        watchers.remove(other_clients.watch)
        if not watchers:
            other_clients.names.clear()


@cache
def _install_hook() -> None:
    """Add the audit hook to the interpreter, once. It cannot be removed, so it does nothing while nothing is open."""
    sys.addaudithook(_audit)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    """Judge a connection or look-up of an audit event while a cassette is open, and close a socket that is refused.

    While a guard blocks, its own hook asks `watchers` instead.
    """
    if not watchers or blocking or event not in EVENTS or is_passing():
        return
    attempt = attempt_of(event, args)
    if attempt is not None:
        with closed_if_refused(event, args):
            other_clients.watch(attempt)
