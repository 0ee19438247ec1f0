"""Clients on `http.client`, and aiohttp, each against a real server: live, recorded and played, they see the same.

Each test that is marked with `cell` is a column of the table in docs/how-to/cassettes.md, and runs for each client.
"""

from __future__ import annotations

import json
import socket
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest
from http_clients import CLIENTS, Answer, Client, HTTPClient, each_client, outcome
from loopback_server import EVENTS, TEXTS, Server

from miniagents_testing import use_cassette
from miniagents_testing.cassette import Chunk, Interaction, ResponseStream, load, save
from miniagents_testing.errors import CassetteMissError, IncompleteRecordingError

if TYPE_CHECKING:
    from collections.abc import Callable

_DOCS = Path(__file__).resolve().parents[3] / "docs/how-to/cassettes.md"


CELLS: dict[str, str] = {}
"""Names of the tests that are columns of the table, by column."""


def cell(column: str) -> Callable[[Callable[..., Any]], Any]:
    """Make a test a column of the table: it runs for each client."""

    def mark(test: Callable[..., Any]) -> Any:
        CELLS[column] = test.__name__
        return each_client(test)

    return mark


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a cassette that does not exist yet."""
    return tmp_path / "c.yaml"


def in_all_ways(client: Client, server: Server, path: Path, call: Callable[[Client], Any], *, most: int = 1) -> Any:
    """Return the outcome of a call, which is the same live, recorded and played; check what the server has seen.

    Args:
        client: asks the server.
        server: counts requests.
        path: of the cassette to record and play.
        call: called with the client.
        most: requests that a live call sends.
    """
    counts, outcomes = [], []
    for mode in (None, "once", "none"):
        before = len(server.seen)
        with client:
            if mode is None:
                outcomes.append(outcome(lambda: call(client)))
            else:
                with use_cassette(path, record_mode=mode):
                    outcomes.append(outcome(lambda: call(client)))
        counts.append(len(server.seen) - before)
    live, recorded, played = outcomes
    assert recorded == live
    assert played == live
    assert counts == [most, most, 0]
    return live


# --- the table


@cell("record, play")
def test_stream_is_the_same_live_recorded_and_played(client: Client, server: Server, path: Path) -> None:
    """The client gets the chunks of the server one by one, and so does the recording; a replay sends nothing."""
    answer = in_all_ways(client, server, path, lambda client: client.get(f"{server.url}/stream{client.path}"))
    if client.name == "boto3":
        assert [json.loads(each).get("contentBlockDelta", {}).get("delta") for each in answer.chunks[1:-1]] == [
            {"text": text} for text in TEXTS
        ]
    else:
        assert answer == Answer(200, EVENTS)
    [recorded] = load(path)
    assert [chunk.data for chunk in recorded.response.chunks] == client.events
    assert recorded.response.end == "eof"


@cell("early close")
def test_answer_that_is_closed_early_is_closed_early_again(client: Client, server: Server, path: Path) -> None:
    """The chunks before an early close are recorded and played; reading on raises `IncompleteRecordingError`."""
    url = f"{server.url}/stream{client.path}"
    first = in_all_ways(client, server, path, lambda client: client.first(url))
    assert first == (client.events[0] if client.name != "boto3" else first)
    [recorded] = load(path)
    assert recorded.response.end == "closed"
    assert client.events[: len(recorded.response.chunks)] == [chunk.data for chunk in recorded.response.chunks]
    assert len(recorded.response.chunks) < len(client.events)
    with client, use_cassette(path), pytest.raises(IncompleteRecordingError):
        client.get(url)


@cell("reset")
def test_connection_that_is_reset_is_reset_again(client: Client, server: Server, path: Path) -> None:
    """Live and in a replay, the client raises an error of its own kind for a reset in the middle of an answer."""
    in_all_ways(client, server, path, lambda client: client.get(f"{server.url}/reset{client.path}"))
    [recorded] = load(path)
    assert recorded.response.end.startswith("raise ReadError: [Errno ")
    assert [chunk.data for chunk in recorded.response.chunks] == client.events[:2]


@cell("redirect")
def test_redirect_is_followed_as_it_was(client: Client, server: Server, path: Path) -> None:
    """A client that follows redirects does so in a replay; the others get the same answer, or the same error."""
    follows = client.name in ("urllib", "urllib3", "requests", "aiohttp")
    call = lambda client: client.get(f"{server.url}/redirect{client.path}")  # noqa: E731 - a call of one line
    answer = in_all_ways(client, server, path, call, most=1 + follows)
    assert not follows or answer == Answer(200, EVENTS)


@cell("gzip")
def test_answer_that_may_be_compressed_says_the_same(client: Client, server: Server, path: Path) -> None:
    """A recording asks for no compression; where the server compresses all the same, its bytes are kept."""
    url = f"{server.url}/{{}}{client.path}"
    texts = in_all_ways(client, server, path, lambda client: client.get(url.format("gzip")).body)
    assert texts == b"".join(EVENTS) or client.name == "boto3"
    assert load(path)[0].response.body == b"".join(client.events)
    other = path.with_name("zipped.yaml")
    in_all_ways(client, server, other, lambda client: client.get(url.format("zipped")))
    assert load(other)[0].response.body.startswith(b"\x1f\x8b")  # boto3 does not decompress streams: an error


@pytest.mark.parametrize("secret", ["", "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"])
def test_answer_in_zstd_is_searched_where_it_can_be_read(server: Server, path: Path, secret: str) -> None:
    """An answer in zstd is kept as it came; if a secret in it is replaced, it is kept without the compression."""
    pytest.importorskip("zstandard")
    said = json.dumps({"text": f"{secret} and more"}).encode()
    with use_cassette(path, record_mode="once"), urlopen(f"{server.url}/zstd", said) as response:
        sent = response.read()
    [recorded] = load(path)
    assert recorded.response.body == (b'{"text": "[redacted] and more"}' if secret else sent)
    assert recorded.response.headers.get("content-encoding") == (None if secret else ["zstd"])
    with use_cassette(path), urlopen(f"{server.url}/zstd", said) as response:
        assert response.read() == recorded.response.body


@cell("upload")
def test_upload_is_recorded_whole(client: Client, server: Server, path: Path) -> None:
    """The server gets a body that is sent in parts, the cassette has it whole, and another body is a miss."""
    parts = [b"one", b"two" * 50_000, b"three"]
    url = server.url if client.name == "boto3" else f"{server.url}/echo"
    assert in_all_ways(client, server, path, lambda client: client.upload(url, parts)).status == 200
    [recorded] = load(path)
    assert server.seen[-1][2] == b"".join(parts)
    assert recorded.request_body == b"".join(parts)
    with client, pytest.raises(CassetteMissError), use_cassette(path):
        client.upload(url, [*parts, b"four"])


@cell("miss")
def test_miss_is_raised_once_and_nothing_is_sent(client: Client, server: Server, path: Path) -> None:
    """The error of a miss reaches the application as it is, and no client sends a request or asks a second time."""
    save(path, [Interaction("GET", "https://x.test/", b"", ResponseStream(reason="OK"))])
    with client, pytest.raises(CassetteMissError) as outer:
        with use_cassette(path) as session:
            with pytest.raises(CassetteMissError) as missed:
                client.get(f"{server.url}/stream{client.path}")
            assert session.misses == (missed.value,)
    assert outer.value is missed.value
    assert server.seen == []


@cell("keep-alive")
def test_connection_from_before_is_not_used_while_a_cassette_plays(client: Client, server: Server, path: Path) -> None:
    """A connection open before a cassette is used while it records, is idle while it plays, and works after it."""
    url = f"{server.url}/stream{client.path}"
    with client:
        live = client.get(url)
        with use_cassette(path, record_mode="once"):
            assert [client.get(url), client.get(url)] == [live, live]
        assert client.get(url) == live
        before = len(server.seen)
        with use_cassette(path):
            assert [client.get(url), client.get(url)] == [live, live]
        assert len(server.seen) == before
        assert client.get(url) == live


@cell("HTTPS")
def test_https_is_recorded_with_the_clients_own_checks(client: Client, path: Path) -> None:
    """A request by HTTPS to a server with a certificate that the client trusts is recorded, and played offline."""
    with Server(tls=True) as server:
        in_all_ways(client, server, path, lambda client: client.get(f"{server.url}/stream{client.path}"))
    assert load(path)[0].uri.startswith("https://")


def _get(url: str, client: Client) -> Answer:
    return client.get(url)


@cell("proxy")
def test_proxy_is_used_while_recording_only(
    client: Client, server: Server, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cassette has the address behind the proxy, for HTTP and HTTPS; a replay connects to no proxy."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, server.url)
    client.proxy = server.url
    for scheme in ("http", "https"):
        url, cassette = f"{scheme}://api.test/stream{client.path}", path.with_name(f"{scheme}.yaml")
        in_all_ways(client, server, cassette, partial(_get, url))
        assert load(cassette)[0].uri == url
    assert server.tunnels == ["api.test:443"] * 2


@cell("refused, down")
def test_errors_of_connections_are_the_clients_own(client: Client, server: Server, path: Path) -> None:
    """A refused connection is an error of the same kind live, recorded, played, and for a host that is ignored."""
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/stream{client.path}"
    kind, _ = in_all_ways(client, server, path, lambda client: client.get(url), most=0)
    assert load(path)[0].response.end.startswith("raise ConnectError: [Errno ")
    with client, use_cassette(path, ignore_hosts=["127.0.0.1"], unplayed="ignore"):
        assert outcome(lambda: client.get(f"{server.url}/stream{client.path}"))[0] is kind
    assert server.seen == []


@cell("time-out")
def test_time_out_is_the_clients_own(client: Client, server: Server, path: Path) -> None:
    """A server that falls silent is an error of the client's own kind, as is a cassette with `at_incomplete="hang"`."""
    client.timeout = 0.5
    url = f"{server.url}/hang{client.path}"
    kind, _ = in_all_ways(client, server, path, lambda client: client.get(url))
    assert load(path)[0].response.end.startswith("raise ReadTimeout: ")
    half = ResponseStream((Chunk(0, client.events[0]),), reason="OK", end="closed", complete=False)
    recorded = load(path)[0]
    save(path, [Interaction(recorded.method, recorded.uri, recorded.request_body, half)])
    with client, use_cassette(path, at_incomplete="hang"):
        assert outcome(lambda: client.get(url))[0] is kind


def table() -> list[str]:
    """Return the table of docs/how-to/cassettes.md, made of the tests of this module."""
    head = ["client", *CELLS]
    rows = [[f"`{each.name}`" if each is HTTPClient else each.name, *("yes" for _ in CELLS)] for each in CLIENTS]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def test_page_has_the_table_of_clients() -> None:
    """docs/how-to/cassettes.md says which clients do what, exactly as the tests of this module show."""
    page = _DOCS.read_text(encoding="utf-8").splitlines()
    assert [line for line in page if line in table()] == table()
