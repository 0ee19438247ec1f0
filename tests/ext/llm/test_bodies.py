"""Bodies of responses that are compressed, broken off, or are no event streams."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents import errors
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.ext.llm.sse import Inflater, inflater_for
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from tests.ext.llm.conftest import Kit


def compressed(encoding: str, data: bytes) -> bytes:
    """Compress the data as a server would."""
    if encoding == "gzip":
        return gzip.compress(data, mtime=0)
    compressor = zlib.compressobj(wbits=-15 if encoding == "raw deflate" else 15)
    return compressor.compress(data) + compressor.flush()


ENCODINGS = {"gzip": "gzip", "deflate": "deflate", "raw deflate": "deflate"}


async def ask(wire: Any, **settings: Any) -> Any:
    """Return the reply of an agent that sends one request."""
    async with MiniAgents():
        (message,) = await create_openai_agent("m", async_client=wire.openai(), retry=None, **settings).trigger("Hello")
    return message


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_agent_reads_a_compressed_stream(encoding: str, size: int, kit: Kit) -> None:
    """An agent reads a compressed stream in chunks of any size, although it asked for an uncompressed one."""
    body = compressed(encoding, b"".join(kit.chat("Hel", "lo", "é")))
    chunks = [body[i : i + size] for i in range(0, len(body), size)]
    headers = {"content-type": "text/event-stream", "content-encoding": ENCODINGS[encoding]}
    assert (await ask(kit.Wire(kit.Reply(chunks, headers=headers)))).content == "Helloé"


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_S27_compressed_stream_is_truncated_when_cut_at_any_byte(encoding: str, kit: Kit) -> None:
    """A compressed stream truncated at any byte, even after its last event, is an error with the text so far."""
    body = compressed(encoding, b"".join(kit.chat("Hel", "lo")))
    headers = {"content-type": "text/event-stream", "content-encoding": ENCODINGS[encoding]}
    for cut in range(len(body)):
        with pytest.raises((errors.StreamTruncatedError, errors.EmptyStreamError)) as caught:
            await ask(kit.Wire(kit.Reply([body[:cut]], headers=headers)))
        assert "Hello".startswith(caught.value.partial.content)


@given(place=st.integers(0, 10_000), mask=st.integers(1, 255), encoding=st.sampled_from(sorted(ENCODINGS)))
def test_S28_inflater_raises_a_typed_error_or_returns_the_data_when_a_byte_changed(
    place: int, mask: int, encoding: str
) -> None:
    """If a byte of gzip data is changed, the inflater raises a typed error, or returns the same data.

    Deflate may return other data: its raw form has no checksum.
    """
    data = b'data: {"text": "some text, some more text"}\n\n' * 5
    body = bytearray(compressed(encoding, data))
    body[place % len(body)] ^= mask
    inflater = Inflater(ENCODINGS[encoding])
    try:
        result = inflater.feed(bytes(body))
        inflater.close()
    except (errors.StreamDecodeError, errors.EventTooLargeError, errors.StreamTruncatedError):
        return
    assert result == data or encoding != "gzip"


async def test_S28_agent_raises_a_stream_error_when_the_compression_is_corrupt(kit: Kit) -> None:
    """Corrupt compressed data reach the reader of an agent's reply as a stream error."""
    body = compressed("gzip", b"".join(kit.chat("Hi")))
    headers = {"content-type": "text/event-stream", "content-encoding": "gzip"}
    for broken in (b"plain text", body[:20] + b"\0\0\0\0" + body[24:], body + b"rest"):
        with pytest.raises((errors.StreamDecodeError, errors.StreamTruncatedError)):
            await ask(kit.Wire(kit.Reply([broken], headers=headers)))


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, br"])
async def test_agent_raises_decode_error_when_the_compression_is_unknown(encoding: str, kit: Kit) -> None:
    """An unknown compression is an error with its name, and the request is not sent again."""
    with pytest.raises(errors.StreamDecodeError, match=encoding) as caught:
        await ask(kit.Wire(kit.Reply([b"x"], headers={"content-encoding": encoding})))
    assert not caught.value.retryable


def test_inflater_for_returns_none_when_the_header_names_no_compression() -> None:
    """An absent, empty or identity header needs no inflater; gzip and deflate in any case do."""
    for header in (None, "", "identity", " Identity ", "identity, identity"):
        assert inflater_for(header) is None
    for header in ("gzip", "GZIP", "x-gzip", "identity, gzip", "deflate"):
        assert inflater_for(header) is not None


def test_inflater_joins_several_gzip_members() -> None:
    """Several gzip members in a row are one stream, as the format allows."""
    inflater = Inflater("gzip")
    body = gzip.compress(b"one ") + gzip.compress(b"two")
    assert b"".join(inflater.feed(body[i : i + 1]) for i in range(len(body))) == b"one two"
    inflater.close()


def test_S29_inflater_refuses_a_decompression_bomb_in_bounded_memory() -> None:
    """Some kilobytes that decompress to 64 MiB are refused before the memory grows by 48 MiB."""
    bomb = gzip.compress(b"\0" * (64 * 1024 * 1024))
    tracemalloc.start()
    try:
        with pytest.raises(errors.EventTooLargeError, match="bomb"):
            Inflater("gzip").feed(bomb)
        with pytest.raises(errors.EventTooLargeError, match="bomb"):
            inflater = Inflater("gzip")
            for start in range(0, len(bomb), 1000):
                inflater.feed(bomb[start : start + 1000])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 48 * 1024 * 1024


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "text/event-stream", "application/json", ""])
@pytest.mark.parametrize("stream", [True, False])
async def test_S30_agent_raises_protocol_error_when_the_response_is_an_html_page(
    kind: str, stream: bool, kit: Kit
) -> None:
    """An HTML page with any content type is a StreamProtocolError that quotes the beginning of the page."""
    page = b"<!DOCTYPE html><html><title>Log in to the hotel network</title>" + b" " * 200_000
    with pytest.raises(errors.StreamProtocolError, match="Log in to the hotel network") as caught:
        await ask(kit.Wire(kit.Reply([page], headers={"content-type": kind})), stream=stream)
    assert not caught.value.retryable
    assert len(str(caught.value)) < 500


async def test_S30_agent_refuses_plain_text_when_its_content_type_is_html(kit: Kit) -> None:
    """If the content type is HTML, an agent refuses a text without tags like an HTML page."""
    with pytest.raises(errors.StreamProtocolError, match="maintenance"):
        await ask(kit.Wire(kit.Reply([b"Down for maintenance"], headers={"content-type": "text/html"})))


@pytest.mark.parametrize("stream", [True, False])
async def test_S30_agent_raises_the_error_of_a_document_with_status_200(stream: bool, kit: Kit) -> None:
    """An error document with status 200 raises the error that its type names, as with an error status."""
    reply = kit.Reply.json({"error": {"message": "slow down", "type": "rate_limit_error"}})
    with pytest.raises(errors.RateLimitedError, match="slow down"):
        await ask(kit.Wire(reply), stream=stream)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("body", [b"", b"\n\n", b" "])
async def test_S4_agent_raises_empty_stream_error_when_the_body_is_empty(stream: bool, body: bytes, kit: Kit) -> None:
    """An empty body, or one of white space, is an EmptyStreamError and never an empty message."""
    with pytest.raises(errors.EmptyStreamError):
        await ask(kit.Wire(kit.Reply([body] if body else [])), stream=stream)


async def test_agent_refuses_a_document_above_the_limit(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A JSON document larger than MAX_DOCUMENT_BYTES is refused before its end."""
    monkeypatch.setattr("miniagents.ext.llm._streaming.MAX_DOCUMENT_BYTES", 100_000)
    with pytest.raises(errors.EventTooLargeError):
        await ask(kit.Wire(kit.Reply([b'{"a": "' + b"x" * 60_000] * 3)))


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", "", "TEXT/Event-Stream;charset=UTF-8"])
async def test_agent_reads_an_event_stream_with_any_content_type(kind: str, kit: Kit) -> None:
    """An agent recognises an event stream by its first bytes, whatever its content type is."""
    assert (await ask(kit.Wire(kit.Reply(kit.chat("Hi"), headers={"content-type": kind})))).content == "Hi"


async def test_agent_reads_a_body_that_the_transport_has_decoded(kit: Kit) -> None:
    """An agent reads a body that the transport has already read and decompressed, as httpx2's MockTransport does."""
    import httpx2
    import openai

    def handler(request: httpx2.Request) -> httpx2.Response:
        body = gzip.compress(b"".join(kit.chat("Hi")))
        return httpx2.Response(200, headers={"content-encoding": "gzip"}, content=body)

    http_client = httpx2.AsyncClient(transport=httpx2.MockTransport(handler))
    client = openai.AsyncOpenAI(api_key=kit.KEY, http_client=http_client)
    async with MiniAgents():
        (message,) = await create_openai_agent("m", async_client=client).trigger("Hello")
    assert message.content == "Hi"
