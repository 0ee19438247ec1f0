"""Clients that no cassette records, while cassettes are open: they are refused by name, or their connections are noted.

A *call* of such a client is judged: in a session that only plays, it is refused, or finds the network down if its host
is ignored; in one that records, its connection is noted for a warning. Hosts of `allow_hosts` are always reached.

`_patches` brings calls from three places: the table `CLIENTS` of methods, for clients whose address is known before
they connect and for those in C, which raise no audit event; an audit hook, for sockets of all other clients; and the
look-ups of names by event loops, whose threads do not know the cassette of their task.
"""

from __future__ import annotations

import errno
import socket
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from miniagents_testing._hosts import Address, canonical_host, is_loopback, is_numeric
from miniagents_testing._waiting import running_packages
from miniagents_testing.cassette._session import is_passing, may_look_up, sessions_here

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from miniagents_testing._network_guard import Attempt
    from miniagents_testing.cassette._session import Session


# --- what happens to a call


def _is_refused(text: str) -> Exception:
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
    if packages[-1].partition(".")[0] in sys.stdlib_module_names:
        packages.pop()
    return [*packages, call.client]


# --- sockets

names: dict[tuple[str, int | None], dict[str, None]] = {}
"""Names that were looked up while cassettes were open, by address and port (None: for any port)."""


def _addresses(address: Address) -> tuple[Address, ...]:
    """Return a place by its names first, and by its address."""
    host, port = canonical_host(address.host), address.port
    found = {**names.get((host, port), {}), **names.get((host, None), {}), host: None}
    return tuple(Address(name, port) for name in sorted(found, key=host.__eq__) if name)


def _is_own_name(host: str) -> bool:
    """Return True for the name of this machine, which programs look up to introduce themselves."""
    return host == canonical_host(socket.gethostname())


def watch(attempt: Attempt) -> bool:
    """Judge a connection or look-up that Python's audit hook reports, and raise an error if a cassette refuses it.

    The result is True if the cassette's `allow_hosts` has it: then a guard against live requests lets it pass, too.
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


def _no_such_name(text: str) -> Exception:
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


def _http_client_address(connection: Any, method: str, url: str, *_: Any, **__: Any) -> Address:
    """Return the address of a request by `http.client`: that of a full URL through a proxy, else of the connection."""
    if "://" in url:
        return Address.of_url(url)  # through a proxy
    host, port = connection._tunnel_host or connection.host, connection._tunnel_port or connection.port
    scheme = "https" if connection.default_port == 443 else "http"
    return Address(canonical_host(host), port, scheme, url)


def _pool_address(pool: Any, method: str, url: str, *_: Any, **__: Any) -> Address:
    """Return the address of a request by a urllib3 pool: that of a full URL, else of the pool."""
    if "://" in url:
        return Address.of_url(url)
    port = pool.port or {"http": 80, "https": 443}.get(pool.scheme)
    return Address(canonical_host(pool.host), port, pool.scheme, url)


def _pool_is_down(pool: Any) -> Callable[[str], Exception]:
    """Return a function that makes urllib3's error for a refused connection, with a text."""
    exceptions = sys.modules["urllib3.exceptions"]

    def down(text: str) -> Exception:
        reason = exceptions.NewConnectionError(pool, text)
        error: Exception = exceptions.MaxRetryError(pool, "", reason)
        return error

    return down


def _aiohttp_address(session: Any, method: str, url: Any, *_: Any, **__: Any) -> Address:
    """Return the address of a request by aiohttp, whose base URL is added to a relative URL."""
    try:
        return Address.of_url(str(session._build_url(url)))
    except Exception:  # a URL that aiohttp refuses itself
        return Address.of_url(str(url))


def _aiohttp_is_down(_: Any) -> Callable[[str], Exception]:
    return partial(sys.modules["aiohttp"].ClientOSError, errno.ECONNREFUSED)


def _httpcore_address(pool: Any, request: Any) -> Address:
    """Return the address of a request by httpcore, with the scheme's usual port if the URL has none."""
    url = request.url
    scheme = url.scheme.decode("ascii")
    port = url.port or {"http": 80, "https": 443}.get(scheme)
    return Address(canonical_host(url.host.decode("ascii")), port, scheme, url.target.decode("ascii", "replace"))


def _grpc_address(call: Any, *_: Any, **__: Any) -> Address | None:
    target = getattr(call, "_target", None)
    return _of_target(target.decode() if isinstance(target, bytes) else target)


def _grpc_aio_address(call: Any, *_: Any, **__: Any) -> Address | None:
    target = getattr(call._channel, "target", None)
    return _of_target(target.decode() if isinstance(target, bytes) else target)


def _of_target(target: str | None) -> Address | None:
    """Return the address of a target of gRPC such as `dns:///host:443`; None for a socket of this machine."""
    if target is None:
        return _UNKNOWN
    if target.startswith(("unix:", "unix-abstract:", "vsock:")):
        return None
    host = target.rpartition("/")[2].removeprefix("dns:").removeprefix("ipv4:").removeprefix("ipv6:")
    return Address.of_url(f"//{host}")


def curl_address(curl: Any, *_: Any, **__: Any) -> Address:
    return _of_curl(getattr(curl, "_miniagents_url", None))


def added_curl_address(_: Any, curl: Any, *__: Any, **___: Any) -> Address:
    return curl_address(curl)


def _of_curl(url: str | None) -> Address:
    if url is None:
        return _UNKNOWN
    return Address.of_url(url if "://" in url else f"http://{url}")


def _uvloop_address(loop: Any, factory: Any, host: Any = None, port: Any = None, *_: Any, **__: Any) -> Address | None:
    return None if host is None else Address(canonical_host(str(host)), port)


def _datagram_address(_: Any, __: Any, ___: Any = None, remote_addr: Any = None, **____: Any) -> Address | None:
    return Address(canonical_host(str(remote_addr[0])), remote_addr[1]) if isinstance(remote_addr, tuple) else None


CLIENTS = (
    Client("http.client", "HTTPConnection", ("putrequest",), _http_client_address, "", is_served_by_vcrpy=True),
    Client(
        "urllib3.connectionpool",
        "HTTPConnectionPool",
        ("urlopen",),
        _pool_address,
        "urllib3",
        is_served_by_vcrpy=True,
        down=_pool_is_down,
    ),
    Client(
        "aiohttp.client",
        "ClientSession",
        ("_request",),
        _aiohttp_address,
        "aiohttp",
        is_served_by_vcrpy=True,
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


def goes_past(client: Client, args: Any, kwargs: Any) -> bool:
    """Judge a call of a client in the table; return True if it goes past all cassettes.

    Raises the errors of `_judge` if a cassette refuses the call.
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

    Numeric addresses and names of this machine are not judged.
    """
    name = host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else str(host or "")
    address = Address(canonical_host(name))
    if not is_loopback(address.host) and not is_numeric(address.host) and not _is_own_name(address.host):
        _judge(_Call((address,), "look up", is_lookup=True, down=_no_such_name))
