"""Bytes of HTTP/1.1 that clients write and read, as a cassette sees them."""

from __future__ import annotations

import http.client
import io
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents_testing.cassette import Chunk, Interaction, ResponseStream
from miniagents_testing.cassette._headers import HeaderRule
from miniagents_testing.cassette._http1 import (
    PeerClosedError,
    RequestBytes,
    ResponseTee,
    error_name,
    os_error,
    played_bytes,
)
from miniagents_testing.cassette._playback import Playback
from miniagents_testing.cassette._recording import Recorder
from miniagents_testing.cassette._settings import RecordSettings


class _Library:
    """Library whose errors are those of sockets."""

    read_timeout = None

    def error(self, name: str, message: str) -> Exception:
        return os_error(name, message)


def play(response: ResponseStream, method: str = "GET") -> Playback:
    """Make a playback of a response."""
    interaction = Interaction(method, "https://x.test/", b"", response)
    return Playback(interaction, RecordSettings(), _Library(), 0.0, None, lambda _: None, "")


def tee(method: str = "GET") -> tuple[Any, ResponseTee, list[str]]:
    """Make a recording slot, a `ResponseTee` that fills it, and a list that gets an item if it refuses the answer."""
    slot = Recorder(lambda _: None, "truncate", 0.0, HeaderRule()).start(method, "https://x.test/", time.monotonic, "")
    refused: list[str] = []
    return slot, ResponseTee(slot, method, lambda: refused.append("refused")), refused


class _Socket:
    """Socket that has received these bytes, for `http.client`."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def parse(data: bytes, method: str = "GET") -> http.client.HTTPResponse:
    """Read a response as the standard library does."""
    response = http.client.HTTPResponse(_Socket(data), method=method)  # type: ignore[arg-type] # a file is all it needs
    response.begin()
    return response


@given(st.lists(st.binary(min_size=1)), st.booleans(), st.integers(1, 50))
def test_request_is_whole_when_its_last_byte_is_written(chunks: list[bytes], chunked: bool, size: int) -> None:
    """In whatever pieces a request is written, `RequestBytes` has its body, and is whole with the last byte only."""
    body = b"".join(chunks)
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    framed = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + b"0\r\n\r\n" if chunked else body
    data = b"POST /a?b=c HTTP/1.1\r\nHost: x\r\nX-Two: 1\r\nX-Two: 2\r\n" + framing + b"\r\n\r\n" + framed
    request = RequestBytes("https://x.test")
    for start in range(0, len(data), size):
        assert not request.is_whole
        request.write(data[start : start + size])
    assert request.is_whole
    live = request.live()
    assert (live.method, live.url, live.body) == ("POST", "https://x.test/a?b=c", body)
    assert [value for name, value in live.headers if name == "X-Two"] == ["1", "2"]
    assert b"".join(request.pieces(identity=False)) == data


def test_request_through_a_proxy_has_its_own_url() -> None:
    """A full URL in the request line is the URL of the request, wherever the connection leads."""
    request = RequestBytes("http://proxy.test:3128")
    request.write(b"GET http://x.test/a HTTP/1.1\r\n\r\n")
    assert request.live().url == "http://x.test/a"


def test_request_asks_for_an_answer_without_compression() -> None:
    """`pieces(identity=True)` changes only the `accept-encoding` of a request, and not the same words in its body."""
    request = RequestBytes("http://x.test")
    body = b"\r\naccept-encoding: gzip"
    request.write(b"POST / HTTP/1.1\r\nAccept-Encoding: gzip, br\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    assert b"".join(request.pieces(identity=True)) == (
        b"POST / HTTP/1.1\r\nAccept-Encoding: identity\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )


def test_request_that_expects_to_continue_waits() -> None:
    """A request with `Expect: 100-continue` waits for an answer after its head, until its body is written."""
    request = RequestBytes("http://x.test")
    request.write(b"PUT / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n")
    waited = request.waits_for_continue
    request.write(b"hi")
    assert (waited, request.waits_for_continue, request.is_whole) == (True, False, True)


@given(st.lists(st.binary(min_size=1)), st.sampled_from(["with its length", "chunked"]), st.integers(1, 70))
def test_played_answer_is_recorded_again_as_it_was(chunks: list[bytes], framing: str, size: int) -> None:
    """From the bytes of a played answer, `http.client` and `ResponseTee` read the recorded one, in any pieces."""
    headers = {"content-type": ["a/b"], "x-two": ["1", "2"]}
    if framing != "chunked":
        headers["content-length"] = [str(sum(map(len, chunks)))]
    answer = ResponseStream(tuple(Chunk(0, each) for each in chunks), headers=headers, reason="Fine")
    pieces = list(played_bytes(play(answer), "GET"))
    data = b"".join(pieces)
    response = parse(data)
    assert (response.status, response.reason, response.headers.get_all("x-two")) == (200, "Fine", ["1", "2"])
    assert response.read() == b"".join(chunks)
    slot, reader, refused = tee()
    for start in range(0, len(data), size):
        reader.received(data[start : start + size])
    recorded = slot.interaction().response
    assert (recorded.body, recorded.end, refused) == (b"".join(chunks), "eof", [])
    slot, reader, refused = tee()
    for piece in pieces:
        reader.received(piece)
    assert [chunk.data for chunk in slot.interaction().response.chunks] == chunks


@pytest.mark.parametrize(
    ("method", "status", "headers"),
    [("HEAD", 200, {"content-length": ["7"]}), ("GET", 204, {}), ("GET", 304, {"content-length": ["7"]})],
)
def test_answer_without_a_body_keeps_the_length_that_it_tells(method: str, status: int, headers: Any) -> None:
    """Answers to HEAD, and those with status 204 and 304, keep their headers, and end after the head."""
    data = b"".join(played_bytes(play(ResponseStream(status=status, headers=headers), method), method))
    response = parse(data, method)
    assert response.headers.get_all("content-length", []) == headers.get("content-length", [])
    assert response.read() == b""


def test_length_that_is_not_that_of_the_body_is_left_out() -> None:
    """If an edited body no longer has the recorded length, the answer is chunked, and the client reads all of it."""
    answer = ResponseStream((Chunk(0, b"longer"),), headers={"content-length": ["3"]})
    assert parse(b"".join(played_bytes(play(answer), "GET"))).read() == b"longer"


@pytest.mark.parametrize("headers", [{"content-length": ["9"]}, {}], ids=["with its length", "chunked"])
def test_connection_that_broke_ends_in_mid_body(headers: Any) -> None:
    """After a recorded early close of the server, `http.client` finds the played answer incomplete, too."""
    end = "raise RemoteProtocolError: peer closed connection"
    answer = ResponseStream((Chunk(0, b"half"),), headers=headers, end=end, complete=False)
    with pytest.raises(http.client.IncompleteRead):
        parse(b"".join(played_bytes(play(answer), "GET"))).read()


def test_error_of_a_connection_is_played_as_that_of_a_socket() -> None:
    """After the chunks that arrived, the recorded error comes with its class and number."""
    answer = ResponseStream((Chunk(0, b"half"),), end="raise ReadError: [Errno 104] gone", complete=False)
    received = b""
    with pytest.raises(ConnectionResetError):
        for piece in played_bytes(play(answer), "GET"):
            received += piece
    assert received.endswith(b"half\r\n")


@pytest.mark.parametrize(
    ("doing", "error", "name"),
    [
        ("Connect", ConnectionRefusedError(111, "refused"), "ConnectError"),
        ("Connect", TimeoutError("timed out"), "ConnectTimeout"),
        ("Read", ConnectionResetError(104, "reset"), "ReadError"),
        ("Read", TimeoutError("timed out"), "ReadTimeout"),
        ("Write", BrokenPipeError(32, "broken"), "WriteError"),
    ],
)
def test_error_is_the_same_after_recording(doing: Any, error: OSError, name: str) -> None:
    """An error of a socket has a name of httpx in the file, and is played with its own class."""
    assert error_name(doing, error) == name
    again = os_error(name, str(error))
    assert (type(again), str(again)) == (type(error), str(error))


def test_errors_of_other_libraries_become_those_of_sockets() -> None:
    """Recorded errors without a number become errors of a socket: reset, refused, or closed by the server."""
    assert isinstance(os_error("ReadError", ""), ConnectionResetError)
    assert isinstance(os_error("ConnectError", "All connection attempts failed"), ConnectionRefusedError)
    assert isinstance(os_error("RemoteProtocolError", "closed"), PeerClosedError)


_TOO_EARLY = (
    "raise RemoteProtocolError: peer closed connection without sending complete message body "
    "(received 4 bytes, expected 9)"
)


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (b"", "raise RemoteProtocolError: Server disconnected without sending a response."),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
            _TOO_EARLY,
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nall", "eof"),
    ],
    ids=["before the head", "in the body", "at the end of a body without a frame"],
)
def test_end_of_the_connection_is_recorded(data: bytes, end: str) -> None:
    """A connection that ends before the whole answer is an error; without a length, its end ends the body."""
    slot, reader, refused = tee()
    for piece in (data, b"") if data else (b"",):
        reader.received(piece)
    assert (slot.end, refused) == (end, [])


def test_answer_that_is_not_http_is_not_recorded() -> None:
    """An answer that is no HTTP is reported once, and its request is left out of the recording."""
    slot, reader, refused = tee()
    with suppress(StopIteration):
        reader.received(b"HELLO\r\n\r\n")
        reader.received(b"more")
    assert (refused, slot.dropped) == (["refused"], True)


def test_informational_answers_are_no_answers() -> None:
    """The status of a recording is that of the final answer, also after `100 Continue` and `103 Early Hints`."""
    slot, reader, _ = tee()
    reader.received(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
    reader.received(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi and more")
    assert (slot.status, slot.end, slot.interaction().response.body) == (200, "eof", b"hi")


def test_error_and_close_are_recorded_once() -> None:
    """If a connection is reset and then closed, the recorded end of the answer is the reset."""
    slot, reader, _ = tee()
    reader.received(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
    reader.failed(ConnectionResetError(104, "reset"))
    reader.closed()
    assert slot.end == "raise ReadError: [Errno 104] reset"
