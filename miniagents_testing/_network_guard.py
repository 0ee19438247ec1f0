"""A guard for tests: nothing reaches the network, and no attempt to stays unseen.

Two fences. Under the transports of httpx2 and httpx a request is refused as soon as a connection would be made or used
for it, so that the message has its URL; what answers without one (a cassette, a mock at whatever level) is not
disturbed. Under everything else an audit hook of the interpreter refuses connections, datagrams and look-ups of names,
whoever makes them, in whichever thread. Subprocesses are not covered.
"""

from __future__ import annotations

import functools
import inspect
import ipaddress
import socket
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from miniagents_testing._waiting import here
from miniagents_testing.errors import LiveRequestError, with_sdk_bases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_TRANSPORTS = (("HTTPTransport", "handle_request"), ("AsyncHTTPTransport", "handle_async_request"))

_blocking: list[NetworkGuard] = []
"""The belts that are on, the innermost last: that one decides."""


@contextmanager
def block_live_requests(*, allow_loopback: bool = False) -> Iterator[NetworkGuard]:
    """Refuse whatever would leave the process over a network, in all threads, until the block is left.

    Args:
        allow_loopback: let connections to this machine be made.

    Raises:
        LiveRequestError: where something is tried, and again at the end if it was caught there. The class raised is
            also one of the SDKs' own errors, so that they neither retry nor hide it.
    """
    guard = NetworkGuard(allow_loopback=allow_loopback)
    guard.start_blocking()
    try:
        yield guard
    except BaseException as error:
        guard.seen_in(error)
        if swallowed := guard.swallowed():
            error.add_note(str(swallowed))
        raise
    else:
        if swallowed := guard.swallowed():
            raise swallowed
    finally:
        guard.stop_blocking()


class NetworkGuard:
    """Refuses live requests from `start_blocking` to `stop_blocking`, and remembers those that were tried."""

    def __init__(self, *, allow_loopback: bool = False) -> None:
        self.allow_loopback = allow_loopback
        self.refused: list[LiveRequestError] = []
        """What was refused, and has not been seen since."""

    def start_blocking(self) -> None:
        """From now on this guard decides."""
        _install_hook()
        _blocking.append(self)
        self._leave_transports = _watch_transports()

    def stop_blocking(self) -> None:
        """This guard has no say any more."""
        self._leave_transports()
        _blocking.remove(self)

    def refuse(self, what: str) -> None:
        """Raise, and remember, the error for something that was about to happen.

        Raises:
            LiveRequestError: always.
        """
        error = with_sdk_bases(LiveRequestError)(
            f"{what}, while live requests are blocked:\n{here()}\nPlay a cassette or a script instead; a server on "
            f"this machine can be let through with block_live_requests(allow_loopback=True) or "
            f"@pytest.mark.miniagents_allow_loopback."
        )
        self.refused.append(error)
        raise error

    def seen_in(self, error: BaseException) -> None:
        """Somebody has seen `error`, and with it the refusals that it stems from."""
        seen = {id(each) for each in _stems_from(error)}
        self.refused = [each for each in self.refused if id(each) not in seen]

    def swallowed(self) -> LiveRequestError | None:
        """An error that tells of all refusals that nobody has seen, if there are any."""
        if not self.refused:
            return None
        tried = "\n\n".join(str(error) for error in self.refused)
        return LiveRequestError(f"The network was tried, and the refusal was caught ({len(self.refused)}):\n{tried}")


def _stems_from(error: BaseException) -> Iterator[BaseException]:
    """An error, its causes and members, and theirs."""
    found: dict[int, BaseException] = {}
    left: list[BaseException | None] = [error]
    while left:
        each = left.pop()
        if each is not None and id(each) not in found:
            found[id(each)] = each
            left += (each.__cause__, each.__context__)
            if isinstance(each, BaseExceptionGroup):
                left += each.exceptions
    yield from found.values()


# --- the audit hook


def _address(sock: socket.socket, address: Any) -> tuple[str, str] | None:
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or not address:
        return None
    return str(address[0]), f"{address[0]} port {address[1]}"


def _name(host: Any, *_: Any) -> tuple[str, str] | None:
    if isinstance(host, tuple):
        host = host[0]
    name = host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else str(host or "")
    return None if _is_numeric(name) or _is_loopback(name) else (name, name)


_EVENTS: dict[str, tuple[str, Callable[..., tuple[str, str] | None]]] = {
    "socket.connect": ("A connection to {} was about to be made", _address),
    "socket.sendto": ("A datagram to {} was about to be sent", _address),
    "socket.sendmsg": ("A message to {} was about to be sent", _address),
    "socket.getaddrinfo": ("The address of {} was about to be looked up", _name),
    "socket.gethostbyname": ("The address of {} was about to be looked up", _name),
    "socket.gethostbyaddr": ("The name of {} was about to be looked up", _name),
    "socket.getnameinfo": ("The name of {} was about to be looked up", _name),
}
"""What is said of an event, and whom it is about: the host, and how it is named."""


@functools.cache
def _install_hook() -> None:
    sys.addaudithook(_audit)  # there is no way to take it off again: it looks at `_blocking` first


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _blocking or event not in _EVENTS:
        return
    text, about = _EVENTS[event]
    target = about(*args)
    if target is None:
        return
    host, name = target
    guard = _blocking[-1]
    if _is_loopback(host) and (guard.allow_loopback or _in_socketpair()):
        return
    if event == "socket.connect":
        args[0].close()  # its maker counts on an OSError, and would leave it open
    guard.refuse(text.format(name))


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    if not _is_numeric(host):
        return host in ("", "localhost") or host.endswith(".localhost")
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or mapped.is_unspecified


def _in_socketpair() -> bool:
    """Whether the standard library makes a pair of sockets, which it connects over loopback where it has to."""
    frame = sys._getframe(2)
    return frame.f_globals.get("__name__") == "socket" and frame.f_code.co_name.endswith("socketpair")


# --- the transports


def _watch_transports() -> Callable[[], None]:
    """Have requests refused under the HTTP libraries that are loaded; returns what ends it."""
    originals: list[tuple[type, str, Any]] = []
    for module in (sys.modules.get("httpx2"), sys.modules.get("httpx")):
        for class_name, method in _TRANSPORTS if module is not None else ():
            transport = getattr(module, class_name)
            originals.append((transport, method, getattr(transport, method)))
            setattr(transport, method, _watched(getattr(transport, method)))

    def leave() -> None:
        for transport, method, original in originals:
            setattr(transport, method, original)

    return leave


def _watched(send: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The method of a transport, with a look at what happens under it (its `trace` extension)."""

    @functools.wraps(send)
    def watched(transport: Any, request: Any) -> Any:
        look: Any = _Look(request)
        if inspect.iscoroutinefunction(send):

            async def look_async(event: str, info: dict[str, Any]) -> None:
                if (passed_on := look(event, info)) is not None:
                    await passed_on

            request.extensions = {**request.extensions, "trace": look_async}
        else:
            request.extensions = {**request.extensions, "trace": look}
        return send(transport, request)

    return watched


class _Look:
    """Hears of the steps of a request, and refuses those that would leave the process."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._others = request.extensions.get("trace")
        self._is_local = False

    def __call__(self, event: str, info: dict[str, Any]) -> Any:
        if event == "connection.connect_unix_socket.started":
            self._is_local = True
        elif event.endswith(("connect_tcp.started", "send_request_headers.started")) and not self._is_local:
            self._check()
        return None if self._others is None else self._others(event, info)

    def _check(self) -> None:
        url = self._request.url
        if _blocking and not (_blocking[-1].allow_loopback and _is_loopback(url.host)):
            _blocking[-1].refuse(f"{self._request.method} {url.copy_with(query=None)} was about to be sent")
