"""Faults as changes of a stream: the changed place, the unchanged rest, and refused arguments."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents.ext.llm.sse import SSEDecoder
from miniagents_testing import faults
from miniagents_testing._streams import HELD, Chunk, ResponseStream
from miniagents_testing.faults import Fault, laid_over
from miniagents_testing.recut import cut_at


def stream_of(*chunks: bytes, **fields: Any) -> ResponseStream:
    """Return a stream of these chunks, each 10 ticks after the one before."""
    headers = {"content-type": ["text/event-stream"], "content-length": ["99"]}
    return ResponseStream(tuple(Chunk(10, chunk) for chunk in chunks), headers=headers, **fields)


EVENTS = [f"data: {number}\n\n".encode() for number in range(1, 6)]
STREAM = stream_of(EVENTS[0], EVENTS[1] + EVENTS[2][:4], EVENTS[2][4:] + EVENTS[3], EVENTS[4])


def events(stream: ResponseStream) -> list[str]:
    """Return the data of the events that a decoder finds in a stream."""
    return [event.data.decode() for event in SSEDecoder().feed(stream.body)]


def times(stream: ResponseStream) -> list[int]:
    """Return the waits before the chunks of a stream."""
    return [chunk.wait for chunk in stream.chunks]


@pytest.mark.parametrize("after", range(6))
def test_cut_ends_the_stream_after_an_event_as_if_it_were_complete(after: int) -> None:
    """`cut` ends the stream right after the given event, even inside a chunk, as if it had ended normally."""
    cut = faults.cut(after=after)(STREAM)
    assert cut.body == b"".join(EVENTS[:after])
    assert (cut.end, cut.complete) == ("eof", True)


def test_places_are_counted_in_events_chunks_or_bytes() -> None:
    """`after=2` of `cut` means after the second event, or after the second chunk or byte with `of=`."""
    assert faults.cut(after=2)(STREAM).body == b"".join(EVENTS[:2])
    assert faults.cut(after=2, of="chunks")(STREAM).body == b"".join(chunk.data for chunk in STREAM.chunks[:2])
    assert faults.cut(after=2, of="bytes")(STREAM).body == STREAM.body[:2]


def test_comments_and_blocks_without_data_are_no_events() -> None:
    """Comments and blocks without data are counted as a part of the next event, with each kind of line end."""
    stream = stream_of(b": ping\r\n\r\ndata: 1\r\n\r\nretry: 3\r\r: x\n\ndata: 2\r\n\r", b"\ndata: 3\n\n")
    assert events(faults.cut(after=2)(stream)) == ["1", "2"]
    assert events(faults.drop(at=2)(stream)) == ["1", "3"]


def test_reset_ends_the_stream_with_a_read_error() -> None:
    """`reset` ends the stream after the given event with the `ReadError` of a reset connection."""
    broken = faults.reset(after=3)(STREAM)
    assert (broken.body, broken.end) == (b"".join(EVENTS[:3]), "raise ReadError: Connection reset by peer")


@pytest.mark.parametrize(
    ("of", "waits"), [("events", [10, 10, 3_000_000, 10, 10]), ("chunks", [10, 3_000_010, 10, 10])]
)
def test_stall_delays_the_next_bytes(of: Any, waits: list[int]) -> None:
    """`stall(30)` delays all bytes after the given event or chunk by 30 seconds, and loses none."""
    stalled = faults.stall(30, after=1 if of == "chunks" else 2, of=of)(STREAM)
    assert (stalled.body, times(stalled), stalled.end) == (STREAM.body, waits, "eof")


def test_stall_without_seconds_keeps_the_stream_open() -> None:
    """`stall` without seconds keeps the stream open after the given event, with no further bytes and no end."""
    stalled = faults.stall(after=2)(STREAM)
    assert (stalled.body, stalled.end, stalled.complete) == (b"".join(EVENTS[:2]), "open", False)


@pytest.mark.parametrize("of", ["events", "chunks", "bytes"])
def test_duplicate_drop_and_edit_change_one_unit_only(of: Any) -> None:
    """`duplicate`, `drop` and `edit` change one event, chunk or byte, and leave the others as they are."""
    whole: list[bytes] = EVENTS
    if of != "events":
        whole = [chunk.data for chunk in STREAM.chunks] if of == "chunks" else [bytes([b]) for b in STREAM.body]
    for at, unit in enumerate(whole, 1):
        before, after = b"".join(whole[: at - 1]), b"".join(whole[at:])
        assert faults.duplicate(at=at, of=of)(STREAM).body == before + unit + unit + after
        assert faults.drop(at=at, of=of)(STREAM).body == before + after
        assert faults.edit(bytes.upper, at=at, of=of)(STREAM).body == before + unit.upper() + after


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_swap_exchanges_two_events(at: int) -> None:
    """`swap` exchanges the given event and the next one; if there is no next one, nothing changes."""
    swapped = [*EVENTS[: at - 1], EVENTS[at], EVENTS[at - 1], *EVENTS[at + 1 :]]
    assert faults.swap(at=at)(STREAM).body == b"".join(swapped)
    assert faults.swap(at=5)(STREAM).body == STREAM.body


def test_malformed_breaks_the_json_of_one_event() -> None:
    """`malformed` makes the JSON of the given event invalid, and leaves the others unchanged."""
    first, broken, third, *_ = events(faults.malformed(at=2)(STREAM))
    assert (first, third) == ("1", "3")
    with pytest.raises(json.JSONDecodeError):
        json.loads(broken)


def test_drop_last_event_leaves_the_last_event_out() -> None:
    """`drop_last_event` leaves out the last complete event, and all bytes after it."""
    for stream in (STREAM, stream_of(*EVENTS, b": done\n\n", b"data: unfin")):
        assert faults.drop_last_event()(stream).body == b"".join(EVENTS[:-1])
    assert faults.drop_last_event()(stream_of(b"data: 1")).body == b""


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (faults.error_event(at=3, kind="billing_error"), "billing_error"),
        (faults.overloaded(at=3), "overloaded_error"),
        (faults.rate_limit(at=3), "rate_limit_error"),
    ],
    ids=str,
)
def test_error_event_replaces_an_event_and_ends_the_stream(fault: Fault, kind: str) -> None:
    """An error at an event replaces that event and ends the stream, whose status stays 200."""
    broken = fault(STREAM)
    assert events(broken)[:2] == ["1", "2"]
    (error,) = SSEDecoder().feed(broken.body)[2:]
    assert error.event == "error"
    assert json.loads(error.data)["error"]["type"] == kind
    assert (broken.status, broken.end) == (200, "eof")


@pytest.mark.parametrize(
    ("fault", "status", "headers"),
    [
        (faults.rate_limit(), 429, {}),
        (faults.rate_limit(retry_after=2), 429, {"retry-after": ["2"]}),
        (faults.rate_limit(retry_after=0.25), 429, {"retry-after-ms": ["250"]}),
        (faults.overloaded(), 529, {}),
        (
            faults.error_status(401, kind="authentication_error", x_should_retry="false"),
            401,
            {"x-should-retry": ["false"]},
        ),
    ],
    ids=str,
)
def test_error_status_replaces_the_response(fault: Fault, status: int, headers: dict[str, list[str]]) -> None:
    """An error status replaces the response, with its headers and a JSON body with type and message of the error."""
    refused = fault(STREAM)
    assert (refused.status, refused.headers) == (status, {"content-type": ["application/json"], **headers})
    assert set(json.loads(refused.body)["error"]) == {"type", "message"}


def test_html_page_empty_and_content_type_replace_a_successful_response() -> None:
    """`html_page` sends a page, `empty` an empty stream, and `content_type` another content type."""
    assert faults.html_page()(STREAM).headers["content-type"] == ["text/html"]
    assert b"<html>" in faults.html_page(status=502)(STREAM).body
    assert (faults.empty()(STREAM).chunks, faults.empty()(STREAM).status) == ((), 200)
    page = faults.content_type("text/plain")(STREAM)
    assert (page.headers["content-type"], page.body) == (["text/plain"], STREAM.body)


def test_refuse_ends_the_request_with_a_connect_error() -> None:
    """`refuse` replaces a stream by one without a response, whose end is the HTTP library's `ConnectError`."""
    refused = faults.refuse()(STREAM)
    assert (refused.status, refused.chunks, refused.end) == (0, (), "raise ConnectError: Connection refused")


@pytest.mark.parametrize("missing", [0, 1, 8, 12])
def test_gzipped_body_streams_and_may_miss_its_last_bytes(missing: int) -> None:
    """`gzipped` compresses each chunk so that it can be inflated at once; with `missing`, the body has no valid end."""
    squeezed = faults.gzipped(missing=missing)(STREAM)
    assert squeezed.headers["content-encoding"] == ["gzip"]
    if missing == 0:
        assert zlib.decompressobj(wbits=31).decompress(squeezed.chunks[0].data) == EVENTS[0]
        assert gzip.decompress(squeezed.body) == STREAM.body
        return
    inflater = zlib.decompressobj(wbits=31)
    assert STREAM.body.startswith(inflater.decompress(squeezed.body))
    assert not inflater.eof
    with pytest.raises(EOFError):
        gzip.decompress(squeezed.body)


def test_laid_over_applies_faults_one_after_the_other() -> None:
    """`laid_over` applies each fault to the result of the fault before it."""
    assert events(laid_over(STREAM, faults.drop(at=1), faults.cut(after=2))) == ["2", "3"]
    assert events(laid_over(STREAM, faults.cut(after=2), faults.duplicate(at=2))) == ["1", "2", "2"]
    assert events(laid_over(STREAM, faults.cut(after=2), faults.drop_last_event())) == ["1"]
    torn = laid_over(STREAM, faults.gzipped(), faults.cut(after=20, of="bytes"))
    assert len(torn.body) == 20
    page = laid_over(STREAM, faults.html_page(), faults.cut(after=9, of="bytes"))
    assert page.body == b"<!DOCTYPE"


def test_fault_keeps_headers_times_and_end() -> None:
    """A fault at an event keeps the stream's headers except `content-length`, its times, and its end."""
    stream = stream_of(*EVENTS, headers_ms=3.0, end="raise ReadTimeout: gone")
    changed = faults.duplicate(at=2)(stream)
    assert (changed.headers, changed.headers_ms) == ({"content-type": ["text/event-stream"]}, 3.0)
    assert (times(changed), changed.end) == ([10] * 5, "raise ReadTimeout: gone")


def test_fault_keeps_chunks_held() -> None:
    """A chunk that waits for `release()` still waits for it after a fault has moved or split it."""
    held = ResponseStream((Chunk(5, EVENTS[0]), Chunk(HELD, EVENTS[1] + EVENTS[2]), Chunk(5, EVENTS[3])))
    assert times(faults.stall(1, after=1)(held)) == [5, HELD, 5]
    assert times(faults.stall(1, after=2)(held)) == [5, HELD, 100_000, 5]
    assert times(faults.drop(at=2)(held)) == [5, HELD, 5]
    assert times(faults.duplicate(at=1)(held)) == [5, HELD, 5]
    assert times(faults.gzipped()(held))[:3] == [5, HELD, 5]


def test_fault_can_be_applied_to_several_streams() -> None:
    """A fault that is applied twice to one stream makes the same changed stream both times: it keeps no state."""
    for fault in (faults.cut(after=2), faults.gzipped(missing=4), faults.malformed(at=3), faults.stall(1, after=2)):
        assert fault(STREAM) == fault(STREAM) != STREAM


@given(st.lists(st.integers(0, len(STREAM.body)), max_size=5), st.integers(1, 5))
def test_faults_at_events_and_bytes_do_not_depend_on_cuts(places: list[int], at: int) -> None:
    """A fault at an event or byte gives the same changed body, however the stream is cut into chunks."""
    for fault in (
        faults.cut(after=at),
        faults.malformed(at=at),
        faults.duplicate(at=at, of="bytes"),
        faults.drop(at=at),
        faults.swap(at=at),
        faults.drop_last_event(),
        faults.error_event(at=at),
        faults.stall(5, after=at),
    ):
        assert fault(cut_at(STREAM, places)).body == fault(STREAM).body


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: faults.cut(after=-1), "after must be a number of events from 0 on, not -1"),
        (lambda: faults.reset(after=1.5, of="bytes"), "after must be a number of bytes from 0 on, not 1.5"),  # type: ignore[arg-type]  # the mistake
        (lambda: faults.malformed(at=0), "at must be a number of events from 1 on, not 0"),
        (lambda: faults.error_event(at=0), "at must be a number of events from 1 on"),
        (lambda: faults.drop(at=True), "not True"),
        (lambda: faults.cut(after=1, of="tokens"), "of must be one of events, chunks, bytes, not 'tokens'"),  # type: ignore[arg-type]  # the mistake
        (lambda: faults.stall(0), "seconds must be positive, not 0"),
        (lambda: faults.stall(math.nan), "seconds must be positive, not nan"),
        (lambda: faults.gzipped(missing=-1), "missing"),
        (lambda: faults.error_status(200), "status must be that of an error"),
        (lambda: faults.rate_limit(retry_after=1, at=2), "retry_after is a header"),
        (lambda: faults.cut(after=1).on(0), "numbers from 1 on"),
        (lambda: faults.cut(after=1).on(), r"on\(\) needs the requests"),
    ],
)
def test_faults_refuse_wrong_arguments(make: Any, message: str) -> None:
    """A fault made with a wrong argument, such as a negative place, raises a `ValueError` that names the argument."""
    with pytest.raises(ValueError, match=message):
        make()
