"""Clients that no cassette records, while cassettes are open: they are refused by name, or their connections are noted.

A *call* of such a client is judged: in a session that only plays, it is refused, or finds the network down if its host
is ignored; in one that records, its connection is noted for a warning. Hosts of `allow_hosts` are always reached.

Calls come from three places: the table `CLIENTS` of methods, for clients whose address is known before they connect and
for those in C, which raise no audit event; an audit hook, for sockets of all other clients; and the look-ups of names
by event loops, whose threads do not know the cassette of their task.
"""

from __future__ import annotations

import errno
import inspect
import socket
import sys
from contextlib import contextmanager
from functools import cache, partial, wraps
from typing import TYPE_CHECKING, Any, NamedTuple

from miniagents_testing._hosts import Address, canonical_host, is_loopback, is_numeric
from miniagents_testing._network_guard import EVENTS, attempt_of, blocking, closed_if_refused, watchers
from miniagents_testing._waiting import running_packages
from miniagents_testing.cassette._current import is_passing, may_look_up, passing, sessions_here
from miniagents_testing.cassette._patches import without_vcrpy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from miniagents_testing._network_guard import Attempt
    from miniagents_testing.cassette._patches import Target
    from miniagents_testing.cassette._session import Session


# --- what happens to a call


def _is_refused(text: str) -> Exception:
    """Return the error of a connection that the network refuses."""
    return ConnectionRefusedError(errno.ECONNREFUSED, text)


class _Call(NamedTuple):
    """A call of a client that is not recorded."""

    addresses: tuple[Address, ...]
    """Names of the place where it goes; the first one is for messages."""
    verb: str = "connect to"
    client: str = ""
    """Package of the client; empty where only the stack tells it."""
    is_socket: bool = False
    """True if it is a connection of a socket, which may reach this machine."""
    is_lookup: bool = False
    down: Callable[[str], Exception] = _is_refused
    """Makes the client's own error for a network that is down."""


def _judge(call: _Call) -> bool:
    """Return True if a call goes past all cassettes, and False if no cassette is concerned.

    A look-up of a name is not noted, and passes if any session records.

    Add a connection to `unrecorded` if all sessions record. A socket to this machine is not judged while one plays.

    Raises:
        LiveRequestError: an open cassette plays only.
        Exception: the same, and the host is ignored; the error is the client's own.
    """
    sessions = sessions_here()
    if not sessions:
        return False
    if any(session.settings.allowed.match(*call.addresses) for session in sessions):
        return True
    playing = [session for session in sessions if not session.records]
    ignoring = [session for session in sessions if session.settings.ignored.match(*call.addresses)]
    if ignoring:
        if len(playing) < len(sessions):
            return True
        raise call.down(ignoring[0].network_is_down(call.addresses[0]))
    if not playing:
        if not call.is_lookup:
            _note(call, sessions)
        return True
    if call.is_lookup and len(playing) < len(sessions):
        return True  # a thread of an event loop may look it up for the session that records
    if call.is_socket and is_loopback(call.addresses[0].host):
        return False
    raise playing[0].refuse(_packages(call), call.verb, call.addresses[0])


def _note(call: _Call, sessions: list[Session]) -> None:
    """Note a connection of a client in sessions that record, for their warnings about clients that are not recorded."""
    packages = _packages(call)
    for session in sessions:
        session.connection_made(packages, call.addresses[0])


def _packages(call: _Call) -> list[str]:
    """Return the packages on the stack, the client at the end; see `running_packages`.

    A client that is not on the stack is added, in place of a module of the standard library.
    """
    packages = running_packages()
    if not call.client or call.client in packages:
        return packages
    if packages[-1].partition(".")[0] in sys.stdlib_module_names or call.client.startswith(f"{packages[-1]}."):
        packages.pop()
    return [*packages, call.client]


# --- sockets

names: dict[tuple[str, int | None], dict[str, None]] = {}
"""Names that were looked up while cassettes were open, by address and port (None: for any port)."""


def _addresses(address: Address) -> tuple[Address, ...]:
    """Return the address of a call as all names for which it was looked up, and last as it is."""
    host, port = canonical_host(address.host), address.port
    found = {**names.get((host, port), {}), **names.get((host, None), {}), host: None}
    return tuple(Address(name, port) for name in sorted(found, key=host.__eq__) if name)


def _is_own_name(host: str) -> bool:
    """Return True for the name of this machine, which programs look up to introduce themselves."""
    return host == canonical_host(socket.gethostname())


def watch(attempt: Attempt) -> bool:
    """Judge a connection or look-up that Python's audit hook reports, and raise an error if a cassette refuses it.

    The result is True if the cassette's `allow_hosts` has it: then a guard against live requests lets it pass, too.
    Look-ups of this machine's name, and calls of vcrpy, are not judged.
    """
    addresses = _addresses(attempt.address)
    if may_look_up() if attempt.is_lookup else is_passing():
        return any(session.settings.allowed.match(*addresses) for session in sessions_here())
    if attempt.is_lookup and _is_own_name(addresses[0].host):
        return False
    if _is_called_by_vcrpy():
        return False
    down = _no_such_name if attempt.is_lookup else _is_refused
    call = _Call(addresses, attempt.verb, is_socket=not attempt.is_lookup, is_lookup=attempt.is_lookup, down=down)
    return _judge(call) and any(session.settings.allowed.match(*addresses) for session in sessions_here())


def judge_connection(address: Address) -> None:
    """Judge a connection that is about to be made to an address; raise an error if an open cassette refuses it."""
    _judge(_Call((address,)))


def _no_such_name(text: str) -> Exception:
    """Return the error of a look-up for a name that does not exist."""
    return socket.gaierror(socket.EAI_NONAME, text)


def _is_vcrpy_active() -> bool:
    """Return True if vcrpy serves clients on `http.client` at the moment."""
    if "http.client" not in sys.modules:
        return False
    return bool(sys.modules["http.client"].HTTPConnection.__module__.startswith("vcr."))


def _is_called_by_vcrpy() -> bool:
    """Return True if code of vcrpy that stands in for a client is on the stack: vcrpy sends a request."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("vcr.stubs"):
            return True
        frame = frame.f_back
    return False


# --- the table


class Client(NamedTuple):
    """Methods of a client that send a request or open a connection."""

    module: str
    owner: str
    """Class in the module; empty for functions of the module."""
    methods: tuple[str, ...]
    address_of: Callable[..., Address | None]
    """Called with the arguments of the method; returns None for a call that does not reach the network."""
    name: str
    """Name of the package in messages; empty where the stack tells it."""
    is_served_by_vcrpy: bool = False
    is_socket: bool = False
    down: Callable[..., Callable[[str], Exception]] | None = None
    """Called with the first argument, makes a function for the client's own error; None for a refused connection."""


_UNKNOWN = Address("an unknown address")


def _aiohttp_address(session: Any, url: Any, *_: Any, **__: Any) -> Address:
    """Return the address of a request or WebSocket of aiohttp, whose base URL is added to a relative URL."""
    try:
        return Address.of_url(str(session._build_url(url)))
    except Exception:  # a URL that aiohttp refuses itself
        return Address.of_url(str(url))


def _aiohttp_is_down(_: Any) -> Callable[[str], Exception]:
    """Return the maker of aiohttp's error for a connection that the network refuses."""
    return partial(sys.modules["aiohttp"].ClientOSError, errno.ECONNREFUSED)


def _httpcore_address(pool: Any, request: Any) -> Address:
    """Return the address of a request by httpcore, with the scheme's usual port if the URL has none."""
    url = request.url
    scheme = url.scheme.decode("ascii")
    port = url.port or {"http": 80, "https": 443}.get(scheme)
    return Address(canonical_host(url.host.decode("ascii")), port, scheme, url.target.decode("ascii", "replace"))


def _grpc_address(call: Any, *_: Any, **__: Any) -> Address | None:
    """Return the address of a call on a sync gRPC object; None for a Unix or VM socket, which needs no network."""
    target = getattr(call, "_target", None)
    return _of_target(target.decode() if isinstance(target, bytes) else target)


def _grpc_aio_address(call: Any, *_: Any, **__: Any) -> Address | None:
    """Return the address of a call on an async gRPC object; None for a Unix or VM socket, which needs no network."""
    target = getattr(call._channel, "target", None)
    return _of_target(target.decode() if isinstance(target, bytes) else target)


def _of_target(target: str | None) -> Address | None:
    """Return the address of a target of gRPC such as `dns:///host:443`; None for a Unix or VM socket.

    The address is `_UNKNOWN` if the target is None.
    """
    if target is None:
        return _UNKNOWN
    if target.startswith(("unix:", "unix-abstract:", "vsock:")):
        return None
    host = target.rpartition("/")[2].removeprefix("dns:").removeprefix("ipv4:").removeprefix("ipv6:")
    return Address.of_url(f"//{host}")


def curl_address(curl: Any, *_: Any, **__: Any) -> Address:
    """Return the address of the URL that was set on a handle of curl."""
    return _of_curl(getattr(curl, "_miniagents_url", None))


def added_curl_address(_: Any, curl: Any, *__: Any, **___: Any) -> Address:
    """Return the address of the handle of curl that is added to a set of parallel requests."""
    return curl_address(curl)


def _of_curl(url: str | None) -> Address:
    """Return the address of a URL of curl, whose scheme is `http` if it has none; an unknown address for None."""
    if url is None:
        return _UNKNOWN
    return Address.of_url(url if "://" in url else f"http://{url}")


def _uvloop_address(loop: Any, factory: Any, host: Any = None, port: Any = None, *_: Any, **__: Any) -> Address | None:
    """Return the address of a connection that a loop of uvloop makes; None if it is given a socket."""
    return None if host is None else Address(canonical_host(str(host)), port)


def _datagram_address(_: Any, __: Any, ___: Any = None, remote_addr: Any = None, **____: Any) -> Address | None:
    """Return the remote address of a datagram endpoint; None if it has none."""
    return Address(canonical_host(str(remote_addr[0])), remote_addr[1]) if isinstance(remote_addr, tuple) else None


CLIENTS = (
    Client(
        "aiohttp.client",
        "ClientSession",
        ("_ws_connect",),
        _aiohttp_address,
        "aiohttp.ws_connect",
        down=_aiohttp_is_down,
    ),
    *(
        Client(f"{library}.{module}.connection_pool", owner, (method,), _httpcore_address, library)
        for library in ("httpcore", "httpcore2")
        for module, owner, method in (
            ("_sync", "ConnectionPool", "handle_request"),
            ("_async", "AsyncConnectionPool", "handle_async_request"),
        )
    ),
    *(
        Client("grpc._channel", f"{name}MultiCallable", methods, _grpc_address, "grpc")
        for name, methods in (
            ("_UnaryUnary", ("__call__", "with_call", "future")),
            ("_SingleThreadedUnaryStream", ("__call__",)),
            ("_UnaryStream", ("__call__",)),
            ("_StreamUnary", ("__call__", "with_call", "future")),
            ("_StreamStream", ("__call__",)),
        )
    ),
    Client("grpc._channel", "Channel", ("subscribe",), _grpc_address, "grpc"),
    *(
        Client("grpc.aio._channel", f"{name}MultiCallable", ("__call__",), _grpc_aio_address, "grpc")
        for name in ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
    ),
    Client("grpc.aio._channel", "Channel", ("channel_ready",), _grpc_aio_address, "grpc"),
    Client("curl_cffi.curl", "Curl", ("perform",), curl_address, "curl_cffi"),
    Client("curl_cffi.aio", "AsyncCurl", ("add_handle",), added_curl_address, "curl_cffi"),
    Client("uvloop", "Loop", ("create_connection",), _uvloop_address, "", is_socket=True),
    Client("uvloop", "Loop", ("create_datagram_endpoint",), _datagram_address, "", is_socket=True),
)


OLD_AIOHTTP = Client(
    "aiohttp.client",
    "ClientSession",
    ("_request",),
    lambda session, method, url, **_: _aiohttp_address(session, url),
    "aiohttp",
    is_served_by_vcrpy=True,
    down=_aiohttp_is_down,
)
"""aiohttp before 3.12, of which `_aiohttp` records nothing."""


def goes_past(client: Client, args: Any, kwargs: Any) -> bool:
    """Judge a call of one of `CLIENTS`; return True if it goes past all cassettes, or vcrpy serves it.

    Return False if no cassette is open, or for a call that needs no network. Raise the errors of `_judge` if a cassette
    refuses the call.

    Args:
        client: the client whose method is called.
        args: positional arguments of the call, the object itself first.
        kwargs: keyword arguments of the call.
    """
    if client.is_served_by_vcrpy and (_is_vcrpy_active() or _is_called_by_vcrpy()):
        return True  # vcrpy plays or records it, or sends it because its user's hooks ignore it
    address = client.address_of(*args, **kwargs)
    if address is None:
        return False
    down = _is_refused if client.down is None else client.down(args[0])
    return _judge(_Call((address,), client=client.name, is_socket=client.is_socket, down=down))


def judge_lookup(host: Any) -> None:
    """Raise an error if an open cassette refuses that a task looks up this host; see `_judge`.

    Numeric addresses and names of this machine are not judged.
    """
    name = host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else str(host or "")
    address = Address(canonical_host(name))
    if not is_loopback(address.host) and not is_numeric(address.host) and not _is_own_name(address.host):
        _judge(_Call((address,), "look up", is_lookup=True, down=_no_such_name))


# --- the patches

MODULES = (*dict.fromkeys(client.module for client in CLIENTS), "pycurl", "socket", "asyncio.base_events")


def targets(module: Any) -> Iterator[Target]:
    """Yield the methods of a client to judge, and the functions that look names up, as far as this version has them."""
    for client in CLIENTS:
        if client.module == module.__name__ and (owner := getattr(module, client.owner, None)) is not None:
            owner = getattr(owner, "_baseclass", owner)  # vcrpy has put its own class in the place
            yield from (
                (owner, method, partial(guarded, client)) for method in client.methods if hasattr(owner, method)
            )
    for owner_name, attribute, replacement in _MORE.get(module.__name__, ()):
        owner = getattr(module, owner_name, None) if owner_name else module
        if hasattr(owner, attribute):
            yield owner, attribute, replacement


def guarded(client: Client, before: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that judges each call of the client before it is made; a cassette may refuse it.

    A call that all cassettes let past is not judged again below. What a cassette itself sends is not judged.
    """
    real = without_vcrpy(before)

    if inspect.iscoroutinefunction(real):

        async def call_past(*args: Any, **kwargs: Any) -> Any:
            with passing():
                return await before(*args, **kwargs)

        @wraps(real)
        def call_async(*args: Any, **kwargs: Any) -> Any:
            if is_passing():  # the request of a cassette: vcrpy would refuse it
                return real(*args, **kwargs)
            return (call_past if goes_past(client, args, kwargs) else before)(*args, **kwargs)

        return call_async

    @wraps(real)
    def call(*args: Any, **kwargs: Any) -> Any:
        """Judge a call before it is made: a cassette may refuse it. If all let it past, it is not judged again."""
        if is_passing():
            return real(*args, **kwargs)
        if not goes_past(client, args, kwargs):
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
    client = Client("pycurl", "Curl", (), curl_address, "pycurl")

    class Curl(before):  # type: ignore[misc]
        setopt = _keeping_url(before.setopt)

        def __getattribute__(self, name: str) -> Any:  # the class of pytest-recording has this method only
            value = super().__getattribute__(name)
            return partial(guarded(client, lambda curl: value()), self) if name == "perform" else value

    return Curl


def _curl_multi_class(before: Any) -> Any:
    """Return a class of pycurl for parallel requests whose `add_handle` judges each request; see `_curl_class`."""
    client = Client("pycurl", "CurlMulti", (), added_curl_address, "pycurl")

    class CurlMulti(before):  # type: ignore[misc]
        add_handle = guarded(client, before.add_handle)

    return CurlMulti


def _learn_names(host: Any, found: Any) -> None:
    """Remember for each address that `getaddrinfo` has found the host for which it was found, see `_addresses`."""
    name = (host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else str(host or "")).lower()
    for *_, address in found:
        if isinstance(address, tuple) and isinstance(address[0], str):
            names.setdefault((address[0], address[1] or None), {})[name.rstrip(".")] = None


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
            judge_lookup(host)
        found = await before(loop, host, *args, **kwargs)
        _learn_names(host, found)
        return found

    return getaddrinfo


_MORE: dict[str, tuple[Target, ...]] = {
    "asyncio.base_events": (("BaseEventLoop", "getaddrinfo", _looked_up_by_loop),),
    "curl_cffi.curl": (("Curl", "setopt", _keeping_url),),
    "pycurl": (("", "Curl", _curl_class), ("", "CurlMulti", _curl_multi_class)),
    "socket": (("", "getaddrinfo", _looked_up),),
    "uvloop": (("Loop", "getaddrinfo", _looked_up_by_loop),),
}
"""Replacements that are no rows of `CLIENTS`; an empty owner stands for the module."""


# --- sockets and look-ups, through the audit hook


@contextmanager
def watching() -> Iterator[None]:
    """Judge connections and look-ups of all clients through the audit hook while the context is open."""
    _install_hook()
    watchers.append(watch)
    try:
        yield
    finally:
        watchers.remove(watch)
        if not watchers:
            names.clear()


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
            watch(attempt)
