"""Responses that are compressed, cut, or no event streams at all."""

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
    """The data as a server would send them."""
    if encoding == "gzip":
        return gzip.compress(data, mtime=0)
    compressor = zlib.compressobj(wbits=-15 if encoding == "raw deflate" else 15)
    return compressor.compress(data) + compressor.flush()


ENCODINGS = {"gzip": "gzip", "deflate": "deflate", "raw deflate": "deflate"}


async def ask(wire: Any, **settings: Any) -> Any:
    """The one reply, on the only attempt."""
    async with MiniAgents():
        (message,) = await create_openai_agent("m", async_client=wire.openai(), retry=None, **settings).trigger("Hello")
    return message


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_a_stream_that_comes_compressed_is_read_all_the_same(encoding: str, size: int, kit: Kit) -> None:
    """It was asked for uncompressed; the order of the bytes is the same."""
    body = compressed(encoding, b"".join(kit.chat("Hel", "lo", "é")))
    chunks = [body[i : i + size] for i in range(0, len(body), size)]
    headers = {"content-type": "text/event-stream", "content-encoding": ENCODINGS[encoding]}
    assert (await ask(kit.Wire(kit.Reply(chunks, headers=headers)))).content == "Helloé"


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_S27_a_compressed_stream_that_is_cut_is_truncated_wherever_it_is_cut(encoding: str, kit: Kit) -> None:
    """Also after the last event: without the end of the compression nobody knows that this is all."""
    body = compressed(encoding, b"".join(kit.chat("Hel", "lo")))
    headers = {"content-type": "text/event-stream", "content-encoding": ENCODINGS[encoding]}
    for cut in range(len(body)):
        with pytest.raises((errors.StreamTruncatedError, errors.EmptyStreamError)) as caught:
            await ask(kit.Wire(kit.Reply([body[:cut]], headers=headers)))
        assert "Hello".startswith(caught.value.partial.content)


@given(place=st.integers(0, 10_000), mask=st.integers(1, 255), encoding=st.sampled_from(sorted(ENCODINGS)))
def test_S28_corrupt_compression_is_typed_or_harmless(place: int, mask: int, encoding: str) -> None:
    """One changed byte gives a typed error, an end that is missing, or the same data; raw deflate has no checksum."""
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


async def test_S28_corrupt_compression_comes_through_the_agent_as_a_typed_error(kit: Kit) -> None:
    """With what was said before it."""
    body = compressed("gzip", b"".join(kit.chat("Hi")))
    headers = {"content-type": "text/event-stream", "content-encoding": "gzip"}
    for broken in (b"plain text", body[:20] + b"\0\0\0\0" + body[24:], body + b"rest"):
        with pytest.raises((errors.StreamDecodeError, errors.StreamTruncatedError)):
            await ask(kit.Wire(kit.Reply([broken], headers=headers)))


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, br"])
async def test_a_compression_that_nobody_asked_for_and_nobody_can_read_is_named(encoding: str, kit: Kit) -> None:
    """It is not tried again: the next response would be the same."""
    with pytest.raises(errors.StreamDecodeError, match=encoding) as caught:
        await ask(kit.Wire(kit.Reply([b"x"], headers={"content-encoding": encoding})))
    assert not caught.value.retryable


def test_headers_that_name_no_compression_need_no_inflating() -> None:
    """Absent, empty, identity, in any case."""
    for header in (None, "", "identity", " Identity ", "identity, identity"):
        assert inflater_for(header) is None
    for header in ("gzip", "GZIP", "x-gzip", "identity, gzip", "deflate"):
        assert inflater_for(header) is not None


def test_several_gzip_members_are_one_stream() -> None:
    """As the format allows."""
    inflater = Inflater("gzip")
    body = gzip.compress(b"one ") + gzip.compress(b"two")
    assert b"".join(inflater.feed(body[i : i + 1]) for i in range(len(body))) == b"one two"
    inflater.close()


def test_S29_a_decompression_bomb_is_refused_in_bounded_memory() -> None:
    """62 kilobytes that hold 64 megabytes."""
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
async def test_S30_a_page_instead_of_an_answer_is_an_error_with_its_beginning(
    kind: str, stream: bool, kit: Kit
) -> None:
    """A captive portal, a proxy, a wrong base URL; whatever it says it is."""
    page = b"<!DOCTYPE html><html><title>Log in to the hotel network</title>" + b" " * 200_000
    with pytest.raises(errors.StreamProtocolError, match="Log in to the hotel network") as caught:
        await ask(kit.Wire(kit.Reply([page], headers={"content-type": kind})), stream=stream)
    assert not caught.value.retryable
    assert len(str(caught.value)) < 500


async def test_S30_a_page_without_a_bracket_is_known_by_its_type(kit: Kit) -> None:
    """The first bytes decide, and where they say nothing the header does."""
    with pytest.raises(errors.StreamProtocolError, match="maintenance"):
        await ask(kit.Wire(kit.Reply([b"Down for maintenance"], headers={"content-type": "text/html"})))


@pytest.mark.parametrize("stream", [True, False])
async def test_S30_an_error_document_with_status_200_is_the_error_it_names(stream: bool, kit: Kit) -> None:
    """As if the status had said so."""
    reply = kit.Reply.json({"error": {"message": "slow down", "type": "rate_limit_error"}})
    with pytest.raises(errors.RateLimitedError, match="slow down"):
        await ask(kit.Wire(reply), stream=stream)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("body", [b"", b"\n\n", b" "])
async def test_S4_an_empty_body_is_an_error(stream: bool, body: bytes, kit: Kit) -> None:
    """Never an empty message."""
    with pytest.raises(errors.EmptyStreamError):
        await ask(kit.Wire(kit.Reply([body] if body else [])), stream=stream)


async def test_a_document_without_end_is_refused(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is collected before it can be parsed has a limit."""
    monkeypatch.setattr("miniagents.ext.llm._streaming.MAX_DOCUMENT_BYTES", 100_000)
    with pytest.raises(errors.EventTooLargeError):
        await ask(kit.Wire(kit.Reply([b'{"a": "' + b"x" * 60_000] * 3)))


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", "", "TEXT/Event-Stream;charset=UTF-8"])
async def test_a_stream_is_known_by_its_bytes_whatever_its_content_type(kind: str, kit: Kit) -> None:
    """Content types are wrong more often than first bytes."""
    assert (await ask(kit.Wire(kit.Reply(kit.chat("Hi"), headers={"content-type": kind})))).content == "Hi"


async def test_a_transport_that_gives_the_whole_body_at_once_is_fine_too(kit: Kit) -> None:
    """httpx2's own MockTransport with `content=`: the response has been read, and decoded, already."""
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
