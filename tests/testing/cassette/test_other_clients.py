"""Clients that no cassette records: refused while a cassette plays, named in a warning while it records."""

from __future__ import annotations

import asyncio
import http.client
import re
import smtplib
import socket
import subprocess
import sys
import textwrap
import threading
import urllib.request
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import aiohttp
import httpcore2
import httpx
import httpx2
import pytest
import vcr
from vcr.errors import CannotOverwriteExistingCassetteException

from miniagents_testing import block_live_requests, stream_layer, use_cassette
from miniagents_testing.cassette import Interaction, ResponseStream, save
from miniagents_testing.errors import CassetteMissError, LiveRequestError, UnrecordedWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OUTSIDE = "192.0.2.1"
"""An address that is reserved for documentation (RFC 5737)."""
_NO_WARNING = pytest.mark.filterwarnings("ignore::miniagents_testing.errors.UnrecordedWarning")


class Server(ThreadingHTTPServer):
    """HTTP server on this machine that counts its requests, and answers each with `hi`."""

    daemon_threads = True

    def __init__(self) -> None:
        self.seen: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Write no log."""

            def do_GET(self) -> None:
                """Answer a request."""
                server.seen.append(self.path)
                self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"hi")

        super().__init__(("127.0.0.1", 0), Handler)
        self.port: int = self.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/x"


@pytest.fixture
def server() -> Iterator[Server]:
    """Run a server until the test ends."""
    with Server() as started:
        thread = threading.Thread(target=started.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield started
        started.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Save a cassette with one interaction that no test asks for."""
    save(tmp_path / "trip.yaml", [Interaction("GET", "https://x.test/other", b"", ResponseStream(reason="OK"))])
    return tmp_path / "trip.yaml"


def get_by_urllib(url: str) -> None:
    """Send a request with the standard library."""
    with urllib.request.urlopen(url, timeout=5) as response:
        response.read()


def get_by_http_client(url: str) -> None:
    """Send a request with the class below urllib."""
    host, port = re.fullmatch(r"http://(.*):(\d+)/x", url).groups()  # type: ignore[union-attr]
    with closing(http.client.HTTPConnection(host, int(port), timeout=5)) as connection:
        connection.request("GET", "/x")
        connection.getresponse().read()


def get_by_aiohttp(url: str) -> None:
    """Send a request with aiohttp."""

    async def main() -> None:
        async with aiohttp.ClientSession() as client, client.get(url) as response:
            await response.read()

    asyncio.run(main())


def get_by_requests(url: str) -> None:
    """Send a request with requests."""
    pytest.importorskip("requests").get(url, timeout=5)


def get_by_httpcore(url: str) -> None:
    """Send a request with the library below httpx2, as a transport of a user's own may."""
    with httpcore2.ConnectionPool() as pool:
        pool.request("GET", url)


async def aget_by_httpcore(url: str) -> None:
    """Send a request with the library below httpx2, in a task."""
    async with httpcore2.AsyncConnectionPool() as pool:
        await pool.request("GET", url)


def get_in_a_thread(url: str) -> None:
    """Send a request in a thread without a context of its own."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            get_by_httpcore(url)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in errors:
        raise error


CLIENTS: list[tuple[Callable[[str], None], str]] = [
    (get_by_httpcore, "httpcore2"),
    (get_in_a_thread, "httpcore2"),
]
each_client = pytest.mark.parametrize(("get", "name"), CLIENTS, ids=[get.__name__ for get, _ in CLIENTS])


# --- playing


@each_client
@pytest.mark.parametrize("exists", [True, False], ids=["a file", "no file"])
def test_K22_a_client_that_is_not_recorded_is_refused_by_name(
    server: Server, path: Path, get: Callable[[str], None], name: str, exists: bool
) -> None:
    """While a cassette plays, a client that it cannot record is refused; the error has client, address and cassette."""
    if not exists:
        path = path.with_name("missing.yaml")
    last = name.rpartition(" > ")[2]
    expected = f"{name} was about to connect to 127.0.0.1:{server.port} while {path} is played; {last} is not recorded"
    with pytest.raises(LiveRequestError, match=re.escape(expected)), use_cassette(path, unplayed="ignore"):
        get(server.url)
    assert not server.seen
    get(server.url)
    assert server.seen, "the patches stayed"


@pytest.mark.parametrize(
    ("send", "said"),
    [
        (lambda: socket.create_connection((OUTSIDE, 443)), f"socket was about to connect to {OUTSIDE}:443"),
        (lambda: socket.getaddrinfo("api.example.com", 443), "socket was about to look up api.example.com"),
        (lambda: smtplib.SMTP("mail.example.com"), "smtplib was about to look up mail.example.com"),
        (lambda: asyncio.run(asyncio.open_connection("x.example.com", 443)), "asyncio was about to look up x.example"),
        (lambda: asyncio.run(asyncio.open_connection(OUTSIDE, 443)), f"asyncio was about to connect to {OUTSIDE}:443"),
        (lambda: get_by_httpcore("https://x.example.com"), "httpcore2 was about to connect to x.example.com:443"),
    ],
    ids=["socket", "name", "smtplib", "asyncio name", "asyncio", "httpcore"],
)
def test_K22_no_client_reaches_the_network_while_a_cassette_plays(
    path: Path, send: Callable[[], Any], said: str
) -> None:
    """While a cassette plays, connections and name look-ups are refused, and the error names the client."""
    with pytest.raises(LiveRequestError, match=re.escape(said)), use_cassette(path, unplayed="ignore"):
        send()


def test_K22_datagrams_are_refused_while_a_cassette_plays(path: Path) -> None:
    """Sending a datagram to another machine raises `LiveRequestError`, although no connection is opened."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        with pytest.raises(LiveRequestError, match=f"was about to send a datagram to {OUTSIDE}:53"):
            with use_cassette(path, unplayed="ignore"):
                sock.sendto(b"x", (OUTSIDE, 53))


def test_K22_a_connection_from_before_is_refused(server: Server, path: Path) -> None:
    """While a cassette plays, a request over a connection that was opened before is refused, and not sent."""
    with httpcore2.ConnectionPool() as pool:
        pool.request("GET", server.url)
        with pytest.raises(LiveRequestError), use_cassette(path, unplayed="ignore"):
            pool.request("GET", server.url)
    assert len(server.seen) == 1


def test_K22_a_refusal_that_was_caught_is_raised_at_the_end(server: Server, path: Path) -> None:
    """If the application catches the `LiveRequestError` of a refused request, leaving the cassette raises it again."""
    with pytest.raises(LiveRequestError, match="httpcore2 was about to"):
        with use_cassette(path, unplayed="ignore") as session, suppress(Exception):
            get_by_httpcore(server.url)
    assert len(session.refused) == 1


def test_refusal_beside_another_error_is_a_note(server: Server, path: Path) -> None:
    """If the block raises another error, that error leaves the cassette, with a note on the request refused before."""
    with pytest.raises(ZeroDivisionError) as caught, use_cassette(path):
        with suppress(LiveRequestError):
            get_by_httpcore(server.url)
        raise ZeroDivisionError
    assert "Before that, a request was refused: httpcore2" in caught.value.__notes__[0]


def test_sockets_may_reach_this_machine_while_a_cassette_plays(server: Server, path: Path) -> None:
    """A bare socket connects to a server on this machine, such as a test's database, while a cassette plays."""
    with use_cassette(path, unplayed="ignore"):
        socket.create_connection(("localhost", server.port)).close()


def test_session_inside_decides(server: Server, path: Path, tmp_path: Path) -> None:
    """A recording inside a playing cassette sends its requests; a playing cassette inside a playing one refuses."""
    with use_cassette(path, unplayed="ignore"):
        with pytest.warns(UnrecordedWarning), use_cassette(tmp_path / "new.yaml", record_mode="once"):
            get_by_httpcore(server.url)
        with pytest.raises(LiveRequestError):
            get_by_httpcore(server.url)
        with pytest.raises(LiveRequestError), use_cassette(path, unplayed="ignore"):
            get_by_httpcore(server.url)
        assert len(server.seen) == 1
        # the refusals of the outer session were caught on purpose
        _forget_refusals()


def _forget_refusals() -> None:
    from miniagents_testing.cassette._current import sessions_here

    [session] = sessions_here()
    for error in session.refused:
        session.mark_seen(error)


async def test_parallel_sessions_judge_their_own_tasks(server: Server, path: Path, tmp_path: Path) -> None:
    """Of two parallel tasks, the one that plays has its request refused; the one that records sends it and warns."""
    both_open = asyncio.Barrier(2)

    async def get(mode: Any, path: Path) -> Any:
        async with use_cassette(path, record_mode=mode, unplayed="ignore") as session:
            await both_open.wait()
            if mode == "none":
                with pytest.raises(LiveRequestError) as refused:
                    await aget_by_httpcore(server.url)
                session.mark_seen(refused.value)
            else:
                await aget_by_httpcore(server.url.replace("127.0.0.1", "localhost"))
            await both_open.wait()
            return session

    with pytest.warns(UnrecordedWarning, match=r"httpcore2 to localhost"):
        _, recorder = await asyncio.gather(get("none", path), get("once", tmp_path / "new.yaml"))
    assert recorder.unrecorded == (f"httpcore2 to localhost:{server.port}",)
    assert len(server.seen) == 1


def test_K22_a_transport_of_a_users_own_is_refused(server: Server, path: Path) -> None:
    """A user's transport that sends by the connection pool of httpx2, without its recorded method, is refused."""

    class Transport(httpx2.HTTPTransport):
        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            headers = [("host", request.url.host)]
            answer = self._pool.handle_request(httpcore2.Request(request.method, str(request.url), headers=headers))
            return httpx2.Response(answer.status)

    with httpx2.Client(transport=Transport()) as client:
        with pytest.raises(LiveRequestError, match="httpcore2 is not recorded"):
            with use_cassette(path, unplayed="ignore"):
                client.get(server.url)
        assert client.get(server.url).status_code == 200


def test_K22_a_client_that_is_imported_later_is_refused(server: Server, path: Path) -> None:
    """Opening a cassette imports no client, refuses one that is imported afterwards, and restores it when it closes."""
    program = """
        import sys
        from miniagents_testing import use_cassette
        from miniagents_testing.errors import LiveRequestError
        with use_cassette(sys.argv[1], unplayed="ignore") as session:
            names = ["grpc", "curl_cffi", "httpcore", "pycurl", "uvloop", "anyio", "mcp", "websockets"]
            print(*[name for name in names if name in sys.modules])
            import httpcore
            for _ in range(2):
                try:
                    httpcore.request("GET", sys.argv[2])
                except LiveRequestError as error:
                    session.mark_seen(error)
                    print(str(error).split(" was ")[0])
        print(httpcore.ConnectionPool.handle_request.__code__.co_filename, httpcore.request("GET", sys.argv[2]).content)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(path), server.url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *refused, restored = done.stdout.splitlines()
    assert refused == ["", "httpcore", "httpcore"]
    assert restored.endswith("connection_pool.py b'hi'")


def test_without_a_cassette_no_method_is_replaced(path: Path) -> None:
    """Methods of clients and sockets stay replaced while a cassette is open; closing the last one restores them."""
    methods = [
        (http.client.HTTPConnection, "putrequest"),
        (aiohttp.ClientSession, "_request"),
        (httpcore2.ConnectionPool, "handle_request"),
        (socket, "getaddrinfo"),
        (asyncio.BaseEventLoop, "getaddrinfo"),
    ]
    before = [getattr(owner, name) for owner, name in methods]
    with use_cassette(path, unplayed="ignore"):
        with use_cassette(path, unplayed="ignore"):
            pass
        assert all(getattr(owner, name) is not old for (owner, name), old in zip(methods, before, strict=True))
    assert [getattr(owner, name) for owner, name in methods] == before


async def test_K22_uvloop_reaches_this_machine_only(server: Server, path: Path) -> None:
    """Under uvloop, which raises no audit events, connections to this machine work, and others are refused."""
    uvloop: Any = pytest.importorskip("uvloop")

    async def connect(host: str) -> None:
        with use_cassette(path, unplayed="ignore"):
            _, writer = await asyncio.open_connection(host, server.port)
            writer.close()

    def run(host: str) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(connect(host))

    await asyncio.to_thread(run, "127.0.0.1")
    for host in (OUTSIDE, "api.example.com"):
        with pytest.raises(LiveRequestError, match=f"asyncio was about to .* {host}"):
            await asyncio.to_thread(run, host)


def test_K22_stream_layer_refuses_clients_that_vcrpy_does_not_serve(server: Server, path: Path) -> None:
    """Requests that a cassette of vcrpy answers, or lets through by its hook, are not refused; a bare socket is."""

    def hook(request: Any) -> Any:
        return None if request.path == "/x" else request

    with vcr.use_cassette(str(path), record_mode="none", before_record_request=hook) as cassette:
        with pytest.raises(LiveRequestError, match="socket was about to"), stream_layer(cassette, unplayed="ignore"):
            get_by_urllib("https://x.test/other")
            get_by_urllib(server.url)
            get_by_aiohttp(server.url)
            assert httpx2.get(server.url).text == "hi"
            socket.create_connection((OUTSIDE, 443))
    assert len(server.seen) == 3
    with pytest.raises(CannotOverwriteExistingCassetteException):
        with vcr.use_cassette(str(path), record_mode="none") as cassette, stream_layer(cassette, unplayed="ignore"):
            with suppress(CannotOverwriteExistingCassetteException):
                get_by_urllib("https://y.test/")


# --- recording


@each_client
def test_K23_a_connection_that_is_not_recorded_ends_in_a_warning(
    server: Server, tmp_path: Path, get: Callable[[str], None], name: str
) -> None:
    """At its end, a recording warns of connections that it did not record, with packages and address."""
    with pytest.warns(UnrecordedWarning) as warned:
        with use_cassette(tmp_path / "new.yaml", record_mode="once") as session:
            get(server.url)
    assert session.unrecorded == (f"{name} to 127.0.0.1:{server.port}",)
    [warning] = warned
    assert (
        f"Nothing was recorded. Clients that are not recorded made connections while recording:\n  {name} to "
        in str(warning.message)
    )
    assert warning.filename == __file__
    assert len(server.seen) == 1


def test_K23_connections_beside_a_recording_are_named_with_their_host(server: Server, tmp_path: Path) -> None:
    """The warning names the host of a bare socket's connection; the request of httpx2 is recorded all the same."""
    path = tmp_path / "new.yaml"

    def get(url: str) -> None:
        httpx2.get(url)
        socket.create_connection(("localhost", server.port)).close()

    with pytest.warns(UnrecordedWarning) as warned, use_cassette(path, record_mode="once"):
        get(server.url)
    assert f"connections while recording:\n  socket to localhost:{server.port}\n" in str(warned[0].message)
    assert server.url in path.read_text(encoding="utf-8")


def test_K23_a_recording_of_nothing_ends_in_a_warning(tmp_path: Path) -> None:
    """Recording without any request warns, because the test would fail when its cassette is played."""
    with pytest.warns(UnrecordedWarning, match="Nothing was recorded: no client"):
        with use_cassette(tmp_path / "new.yaml", record_mode="once"):
            pass


def test_a_recording_without_other_clients_ends_without_a_warning(server: Server, tmp_path: Path) -> None:
    """If httpx2 sends all requests, recording warns of nothing, nor does `new_episodes` when it has nothing to add."""
    for mode in ("once", "new_episodes"):
        with use_cassette(tmp_path / "new.yaml", record_mode=mode):
            httpx2.get(server.url)
    assert len(server.seen) == 1


# --- hosts


@pytest.mark.parametrize("get", [*[get for get, _ in CLIENTS], get_by_urllib, get_by_http_client, get_by_requests])
def test_allowed_hosts_are_reached_in_every_mode(
    server: Server, path: Path, tmp_path: Path, get: Callable[[str], None]
) -> None:
    """Requests to allowed hosts are never recorded, missed, refused or warned of, even under `block_live_requests`."""
    hosts = [f"127.0.0.1:{server.port}"]
    with block_live_requests(), use_cassette(path, unplayed="ignore", allow_hosts=hosts):
        get(server.url)
        httpx2.get(server.url)
    with use_cassette(tmp_path / "new.yaml", record_mode="once", allow_hosts=hosts) as session:
        get(server.url)
        httpx2.get(server.url)
        with pytest.raises(httpx2.TransportError):
            httpx2.get("http://127.0.0.1:1/")  # recorded
    assert not session.unrecorded
    assert [each.uri for each in session.recorded] == ["http://127.0.0.1:1/"]
    assert len(server.seen) == 4


def test_allowed_host_has_one_port_if_it_names_one(server: Server, path: Path) -> None:
    """If an allowed host has a port, a request to another port of the host is refused or a miss."""
    with pytest.raises(LiveRequestError), use_cassette(path, unplayed="ignore", allow_hosts=["127.0.0.1:1"]):
        get_by_httpcore(server.url)
    with pytest.raises(CassetteMissError), use_cassette(path, unplayed="ignore", allow_hosts=["127.0.0.1:1"]):
        httpx2.get(server.url)


def test_sockets_of_an_allowed_name_are_let_through(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection is let through if its name is allowed; one by another name to the same address is refused."""
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (OUTSIDE, 443))]
    )
    with use_cassette(path, unplayed="ignore", allow_hosts=["db"]), suppress(OSError):
        socket.create_connection(("db", 443), timeout=0.01)
    with pytest.raises(LiveRequestError, match=r"connect to web:443"):
        with use_cassette(path, unplayed="ignore", allow_hosts=["db"]):
            socket.create_connection(("web", 443), timeout=0.01)


async def aget_by_httpx2(url: str) -> None:
    """Send a request with the async client."""
    async with httpx2.AsyncClient() as client:
        await client.get(url)


IGNORING: list[tuple[Callable[[str], Any], type[Exception]]] = [
    (httpx2.get, httpx2.ConnectError),
    (httpx.get, httpx.ConnectError),
    (lambda url: asyncio.run(aget_by_httpx2(url)), httpx2.ConnectError),
    (get_by_urllib, URLError),
    (get_by_http_client, ConnectionRefusedError),
    (get_by_aiohttp, aiohttp.ClientConnectionError),
]


@pytest.mark.parametrize(
    ("get", "error"), IGNORING, ids=["httpx2", "httpx", "async", "urllib", "http.client", "aiohttp"]
)
@pytest.mark.parametrize("hosts", ["127.0.0.1", "127.0.0.1:{port}", "http://127.0.0.1:{port}/x"])
def test_K24_ignored_hosts_are_sent_while_recording_and_down_while_playing(
    server: Server, path: Path, tmp_path: Path, get: Callable[[str], Any], error: type[Exception], hosts: str
) -> None:
    """For `ignore_hosts`, a client gets its own connection error in a replay, an unrecorded answer in a recording."""
    ignored = [hosts.format(port=server.port)]
    with use_cassette(path, unplayed="ignore", ignore_hosts=ignored) as session:
        with pytest.raises(error):
            get(server.url)
    assert (session.misses, session.refused, server.seen) == ((), (), [])
    with pytest.warns(UnrecordedWarning, match="Nothing was recorded: no client that can be recorded sent a request"):
        with use_cassette(tmp_path / "new.yaml", record_mode="once", ignore_hosts=ignored) as session:
            get(server.url)
    assert (session.recorded, session.unrecorded) == ((), ())
    assert len(server.seen) == 1


def test_K24_requests_finds_an_ignored_host_down(server: Server, path: Path) -> None:
    """While playing, requests raises its `ConnectionError`, which names `ignore_hosts`, and the server gets nothing."""
    requests: Any = pytest.importorskip("requests")
    with use_cassette(path, unplayed="ignore", ignore_hosts=["127.0.0.1"]):
        with pytest.raises(requests.ConnectionError, match="in ignore_hosts"):
            requests.get(server.url)
    assert not server.seen


def test_K24_sockets_find_an_ignored_host_down(path: Path) -> None:
    """While a cassette plays, a look-up of an ignored name fails, and a connection to an ignored address is refused."""
    with use_cassette(path, unplayed="ignore", ignore_hosts=["*.example.com", OUTSIDE]):
        with pytest.raises(socket.gaierror):
            socket.getaddrinfo("traces.example.com", 443)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((OUTSIDE, 443))


def test_url_is_ignored_up_to_its_path_only(server: Server, path: Path) -> None:
    """If `ignore_hosts` has a URL with a path, a request to another path of the host is a miss."""
    with pytest.raises(CassetteMissError):
        with use_cassette(path, unplayed="ignore", ignore_hosts=[f"{server.url}/traces"]):
            httpx2.get(server.url)


@pytest.mark.parametrize("name", ["allow_hosts", "ignore_hosts"])
@pytest.mark.parametrize(
    ("hosts", "error"),
    [
        ("localhost", TypeError),
        (5, TypeError),
        ([5], TypeError),
        ([""], ValueError),
        (["a b"], ValueError),
        (["host:port"], ValueError),
        (["host:70000"], ValueError),
        (["ho/st"], ValueError),
        (["a.*.com"], ValueError),
    ],
)
def test_hosts_that_cannot_be_read_are_refused_where_they_are_given(
    tmp_path: Path, name: str, hosts: Any, error: type[Exception]
) -> None:
    """`use_cassette` raises for hosts of a wrong type or form, and the message says which ones are allowed."""
    with pytest.raises(error, match=f"{name} takes .*names such as"):
        use_cassette(tmp_path / "c.yaml", **{name: hosts})


@pytest.mark.parametrize("host", ["*.example.com", "https://example.com"])
def test_allowed_hosts_are_names_and_ports_only(tmp_path: Path, host: str) -> None:
    """`allow_hosts` refuses wildcards and URLs, so that the list is exact; `ignore_hosts` takes them."""
    with pytest.raises(ValueError, match="allow_hosts takes names"):
        use_cassette(tmp_path / "c.yaml", allow_hosts=[host])
    use_cassette(tmp_path / "c.yaml", ignore_hosts=[host])


# --- clients that are not among the dependencies: `tox -e clients` has them

_C_CLIENTS = {
    "grpc": "grpc.insecure_channel(host).unary_unary('/a/b')(b'', timeout=5)",
    "grpc future": "grpc.insecure_channel(host).unary_unary('/a/b').future(b'').result()",
    "grpc stream": "next(grpc.insecure_channel(host).unary_stream('/a/b')(b'', timeout=5))",
    "grpc ready": "grpc.channel_ready_future(grpc.insecure_channel(host)).result(5)",
    "grpc.aio": "asyncio.run(call_async(host))",
    "curl_cffi": "curl_cffi.requests.get(f'http://{host}/x')",
    "curl_cffi async": "asyncio.run(get_async(f'http://{host}/x'))",
    "pycurl": "curl(f'http://{host}/x')",
}

_C_PROGRAM = """
import asyncio, importlib, sys
from miniagents_testing import use_cassette
from miniagents_testing.errors import LiveRequestError, UnrecordedWarning

async def call_async(host):
    import grpc.aio
    async with grpc.aio.insecure_channel(host) as channel:
        await channel.unary_unary("/a/b")(b"", timeout=5)

async def get_async(url):
    async with curl_cffi.requests.AsyncSession() as session:
        await session.get(url)

def curl(url):
    handle = pycurl.Curl()
    handle.setopt(pycurl.URL, url)
    handle.setopt(pycurl.WRITEFUNCTION, lambda data: None)
    handle.perform()

path, module, call, host, order = sys.argv[1:]
if order == "before":
    globals()[module.partition(".")[0]] = importlib.import_module(module.partition(".")[0])
    importlib.import_module(module)
try:
    with use_cassette(path, unplayed="ignore"):
        if order == "after":
            globals()[module.partition(".")[0]] = importlib.import_module(module.partition(".")[0])
            importlib.import_module(module)
        eval(call)
except LiveRequestError as error:
    print(str(error).splitlines()[0])
"""


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("client", _C_CLIENTS)
def test_K22_clients_in_c_are_refused_by_name(server: Server, path: Path, client: str, order: str) -> None:
    """Clients in C, which raise no audit event, are refused by name, whether imported before or after the opening."""
    name = client.partition(" ")[0]
    package = name.partition(".")[0]
    pytest.importorskip(package)
    module = "curl_cffi.requests" if package == "curl_cffi" else name
    host = f"127.0.0.1:{server.port}"
    command = [sys.executable, "-c", _C_PROGRAM, str(path), module, _C_CLIENTS[client], host, order]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    expected = f"{package} was about to connect to {host} while {path} is played; {package} is not recorded:"
    assert done.stdout.strip() == expected, done.stderr
    assert not server.seen
