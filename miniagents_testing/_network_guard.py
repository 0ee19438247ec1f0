"""Guard for tests: no request reaches the network, and each attempt becomes an error of the test.

The guard has two parts:

- Under the transports of httpx2 and httpx it refuses a request when a connection would be opened or used for it. So the
  message has the URL, and a cassette or a mock that answers without a connection is not disturbed.
- An audit hook of the interpreter refuses all other connections, datagrams and look-ups of names, of any library and in
  any thread.

Open cassettes have a hook of their own; while a guard blocks, its hook asks the cassettes first, through `watchers`.
Subprocesses are not covered.
"""

from __future__ import annotations

import functools
import inspect
import socket
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from miniagents_testing._hosts import Address, AllowedHosts, canonical_host, is_loopback, is_numeric
from miniagents_testing._waiting import describe_running_code
from miniagents_testing.errors import LiveRequestError, causes, with_sdk_bases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_TRANSPORTS = (("HTTPTransport", "handle_request"), ("AsyncHTTPTransport", "handle_async_request"))

blocking: list[NetworkGuard] = []
"""The guards that block now, the innermost last. Only the last one decides."""


class Attempt(NamedTuple):
    """An attempt to reach the network or this machine, as an audit event tells it."""

    verb: str
    """The words between the client and the address in a message."""
    address: Address
    is_lookup: bool


watchers: list[Callable[[Attempt], bool]] = []
"""Functions that see each attempt before the guards: they raise to refuse it, and return True to let it through."""


@contextmanager
def block_live_requests(*, allow_loopback: bool = False) -> Iterator[NetworkGuard]:
    """Refuse all network access of this process, in all threads, until the end of the `with` block.

    Args:
        allow_loopback: allow connections to this machine.

    Raises:
        LiveRequestError: at each attempt, and again at the end of the block if the code in it has caught the error.
            The class is also a subclass of the SDKs' own errors, so that the SDKs neither retry nor hide it.
    """
    guard = NetworkGuard(allow_loopback=allow_loopback)
    guard.start_blocking()
    try:
        yield guard
    except BaseException as error:
        guard.mark_seen(error)
        if unseen := guard.summarize_unseen():
            error.add_note(str(unseen))
        raise
    else:
        if unseen := guard.summarize_unseen():
            raise unseen
    finally:
        guard.stop_blocking()


class NetworkGuard:
    """Guard that refuses live requests from `start_blocking` to `stop_blocking`, and records each attempt.

    Args:
        allow_loopback: allow connections to this machine.
        allow_hosts: hosts that are reached all the same.
    """

    def __init__(self, *, allow_loopback: bool = False, allow_hosts: AllowedHosts | None = None) -> None:
        self.allow_loopback = allow_loopback
        self.allow_hosts = allow_hosts or AllowedHosts()
        self.refused: list[LiveRequestError] = []
        """Errors of refused attempts that the test has not seen; see `mark_seen`."""

    def start_blocking(self) -> None:
        """Start blocking requests. Until `stop_blocking`, this guard decides in place of outer ones."""
        _install_hook()
        blocking.append(self)
        self._restore_transports = _patch_transports()

    def stop_blocking(self) -> None:
        """Stop blocking requests, and let the next outer guard decide again; do nothing if the guard does not block."""
        if self not in blocking:
            return
        self._restore_transports()
        blocking.remove(self)

    def refuse(self, what: str) -> None:
        """Raise the error for an attempt to reach the network, and add it to `refused`.

        Args:
            what: the attempt, as the first words of the message.

        Raises:
            LiveRequestError: always.
        """
        error = with_sdk_bases(LiveRequestError)(
            f"{what}, while live requests are blocked:\n{describe_running_code()}\n"
            f"Play a cassette or a script instead; a server on this machine can be let through with "
            f"block_live_requests(allow_loopback=True) or @pytest.mark.miniagents_allow_loopback."
        )
        self.refused.append(error)
        raise error

    def mark_seen(self, error: BaseException) -> None:
        """Remove the refusals that `error` is or was caused by from `refused`: the test has seen them."""
        seen = {id(each) for each in causes(error)}
        self.refused = [each for each in self.refused if id(each) not in seen]

    def summarize_unseen(self) -> LiveRequestError | None:
        """Return an error that lists all refusals that the test has not seen, or None if there are none."""
        if not self.refused:
            return None
        attempts = "\n\n".join(str(error) for error in self.refused)
        return LiveRequestError(f"The network was tried, and the refusal was caught ({len(self.refused)}):\n{attempts}")


# --- the audit hook


def _address_of_socket(sock: socket.socket, address: Any) -> Address | None:
    """Return the address that a socket is about to reach.

    None for a socket that is not of the internet, or no address.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or not isinstance(address, tuple) or not address:
        return None
    return Address(str(address[0]), address[1])


def _address_of_lookup(host: Any, *_: Any) -> Address | None:
    """Return the name that is looked up; None for numeric addresses and names of this machine."""
    if isinstance(host, tuple):
        host = host[0]
    name = host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else str(host or "")
    return None if is_numeric(name) or is_loopback(name) else Address(name)


class _Event(NamedTuple):
    """Texts about an audit event, and the function that reads the address from its arguments."""

    text: str
    """The first words of a guard's message."""
    verb: str
    address_of: Callable[..., Address | None]


_LOOKUP = _Event("The address of {} was about to be looked up", "look up", _address_of_lookup)
_NAME_LOOKUP = _Event("The name of {} was about to be looked up", "look up the name of", _address_of_lookup)
EVENTS = {
    "socket.connect": _Event("A connection to {} was about to be made", "connect to", _address_of_socket),
    "socket.sendto": _Event("A datagram to {} was about to be sent", "send a datagram to", _address_of_socket),
    "socket.sendmsg": _Event("A message to {} was about to be sent", "send a message to", _address_of_socket),
    "socket.getaddrinfo": _LOOKUP,
    "socket.gethostbyname": _LOOKUP,
    "socket.gethostbyaddr": _NAME_LOOKUP,
    "socket.getnameinfo": _NAME_LOOKUP,
}


@functools.cache
def _install_hook() -> None:
    """Add the audit hook to the interpreter at the first call.

    It cannot be removed, so it does nothing while no guard blocks.
    """
    sys.addaudithook(_audit)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    """Refuse an audit event that reaches the network, unless a watcher or the innermost guard lets it through.

    A refused socket is closed. Without a guard, nothing is refused.
    """
    if not blocking or event not in EVENTS or (attempt := attempt_of(event, args)) is None:
        return
    with closed_if_refused(event, args):
        if any(watch(attempt) for watch in watchers):
            return
        guard, address = blocking[-1], attempt.address
        canonical = address._replace(host=canonical_host(address.host))
        if (is_loopback(address.host) and guard.allow_loopback) or guard.allow_hosts.match(canonical):
            return
        shown = address.host if address.port is None else f"{address.host} port {address.port}"
        guard.refuse(EVENTS[event].text.format(shown))


def attempt_of(event: str, args: tuple[Any, ...]) -> Attempt | None:
    """Return the connection or look-up that an audit event of `EVENTS` tells; None if it needs no network.

    Such are socket pairs, sockets that are not of the internet, and look-ups of numbers and of this machine.
    """
    address = EVENTS[event].address_of(*args)
    if address is None or _in_socketpair():
        return None
    return Attempt(EVENTS[event].verb, address, is_lookup=address.port is None)


@contextmanager
def closed_if_refused(event: str, args: tuple[Any, ...]) -> Iterator[None]:
    """Close the socket `args[0]` if the `with` block refuses to connect it, and pass the error on.

    Refusals of other events, and other errors, close nothing. `event` and `args` are those of the audit hook.
    """
    try:
        yield
    except LiveRequestError:
        if event == "socket.connect":
            args[0].close()
        raise


def _in_socketpair() -> bool:
    """Return True while `socket.socketpair` connects its two sockets over loopback, as it does on some systems."""
    frame = sys._getframe(3)
    return frame.f_globals.get("__name__") == "socket" and frame.f_code.co_name.endswith("socketpair")


# --- the transports


def _patch_transports() -> Callable[[], None]:
    """Check requests in the transports of the HTTP libraries that are imported.

    Returns:
        A function that restores the transports. It leaves a method that other code has replaced in the meantime, such
        as a cassette that stays open: the check under that method does nothing without a guard.
    """
    replaced: list[tuple[type, str, Any, Any]] = []
    for module in (sys.modules.get("httpx2"), sys.modules.get("httpx")):
        for class_name, name in _TRANSPORTS if module is not None else ():
            transport = getattr(module, class_name)
            method = getattr(transport, name)
            if not hasattr(method, _CHECKED):
                checked = _with_check(method)
                replaced.append((transport, name, method, checked))
                setattr(transport, name, checked)

    def restore() -> None:
        for transport, name, method, checked in replaced:
            if getattr(transport, name) is checked:
                setattr(transport, name, method)

    return restore


_CHECKED = "_miniagents_checks_requests"
"""Attribute of a method that checks requests, and of those that are wrapped around it with `functools.wraps`."""


def _with_check(send: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a transport's method that traces each request with a `_RequestCheck`."""

    @functools.wraps(send)
    def checked_send(transport: Any, request: Any) -> Any:
        """Add the check to the request as its `trace` extension, async or sync as the method is, and send it."""
        check: Any = _RequestCheck(request)
        if inspect.iscoroutinefunction(send):

            async def check_async(event: str, info: dict[str, Any]) -> None:
                if (application_trace := check(event, info)) is not None:
                    await application_trace

            request.extensions = {**request.extensions, "trace": check_async}
        else:
            request.extensions = {**request.extensions, "trace": check}
        return send(transport, request)

    setattr(checked_send, _CHECKED, True)
    return checked_send


class _RequestCheck:
    """`trace` extension of a request that refuses it before it reaches the network.

    A call passes the event on to the trace of the application, and returns what that returns.
    """

    def __init__(self, request: Any) -> None:
        self._request = request
        self._application_trace = request.extensions.get("trace")
        self._is_local = False

    def __call__(self, event: str, info: dict[str, Any]) -> Any:
        if event == "connection.connect_unix_socket.started":
            self._is_local = True
        elif event.endswith(("connect_tcp.started", "send_request_headers.started")) and not self._is_local:
            self._check()
        return None if self._application_trace is None else self._application_trace(event, info)

    def _check(self) -> None:
        """Refuse the request, unless no guard blocks, or the innermost guard or a watcher allows its host."""
        url = self._request.url
        if not blocking or (blocking[-1].allow_loopback and is_loopback(url.host)):
            return
        attempt = Attempt("send a request to", Address.of_url(str(url)), is_lookup=False)
        if not (blocking[-1].allow_hosts.match(attempt.address) or any(watch(attempt) for watch in watchers)):
            blocking[-1].refuse(f"{self._request.method} {url.copy_with(query=None)} was about to be sent")
