"""Recorded streams, split into two chunks or ended at every byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from miniagents.errors import EmptyStreamError, StreamProtocolError, StreamTruncatedError
from miniagents.ext.llm._sessions import ChatSession, MessagesSession, ResponsesSession, Session
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.ext.llm.sse import SSEDecoder
from miniagents.miniagents import MiniAgents
from miniagents_testing import ScriptedLLM

if TYPE_CHECKING:
    from miniagents_testing._script import API
    from tests.ext.llm.conftest import Kit

CASSETTES = Path(__file__).resolve().parents[3] / "cassettes"
SESSIONS: dict[str, type[Session]] = {
    "/chat/completions": ChatSession,
    "/messages": MessagesSession,
    "/responses": ResponsesSession,
}

Streams = dict[str, tuple[type[Session], bytes]]


@pytest.fixture(scope="module")
def recorded() -> Streams:
    """Return the streams of all cassettes."""
    streams: Streams = {}
    for path in sorted(CASSETTES.glob("**/*.yaml")):
        for number, interaction in enumerate(yaml.safe_load(path.read_text("utf-8"))["interactions"]):
            body = interaction["response"]["body"]["string"]
            address = interaction["request"]["uri"].partition("?")[0]
            session = next(kind for end, kind in SESSIONS.items() if address.endswith(end))
            data = body.encode() if isinstance(body, str) else body
            if data[:1] not in b"{[":
                streams[f"{path.stem} {number}"] = session, data
    assert len(streams) > 13
    return streams


@pytest.fixture
def streams(recorded: Streams, kit: Kit) -> Streams:
    """Return the recorded streams, and made ones of Responses and Anthropic with multi-byte characters and escapes."""
    part: dict[str, Any] = {"output_index": 0, "content_index": 0}
    responses = kit.events(
        {"type": "response.created", "response": {"id": "r", "status": "in_progress"}},
        {"type": "response.output_item.added", **part, "item": {"type": "message", "content": []}},
        *({"type": "response.output_text.delta", **part, "delta": text} for text in ("日本", " 😀", "\n")),
        {"type": "response.output_text.done", **part, "text": "日本 😀\n"},
        {"type": "response.completed", "response": {"id": "r", "status": "completed", "output": []}},
    )
    messages = [line.replace(b"\\u00e9", "é".encode()) for line in kit.message("é", " 😀", "\n\n")]
    return {
        **recorded,
        "messages": (MessagesSession, b"".join(messages)),
        "responses": (ResponsesSession, b"".join(responses).replace(b"\n", b"\r\n")),
    }


def test_S7_decoder_returns_the_same_events_when_a_stream_is_cut_at_any_byte(streams: Streams) -> None:
    """Each short recorded stream, split in two at any byte, gives the same events as the whole stream."""
    for data in (data for _, data in streams.values() if len(data) <= 6000):
        whole = SSEDecoder().feed(data)
        for cut in range(len(data)):
            decoder = SSEDecoder(strict=True)
            assert decoder.feed(data[:cut]) + decoder.feed(data[cut:]) == whole


def end_of_last_event(data: bytes) -> int | None:
    """Return the position after the event that completes the answer; None if no event does.

    It is found without the tested code.
    """
    position = 0
    for line in data.splitlines(keepends=True):
        position += len(line)
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            delta = event.get("delta")
            if (
                any(choice["finish_reason"] for choice in event.get("choices", ()))
                or (isinstance(delta, dict) and delta.get("stop_reason"))
                or event.get("type") == "response.completed"
            ):
                return position + len(line) - len(line.rstrip(b"\r\n"))
    return None


def test_S1_S5_S10_session_raises_truncated_error_when_a_stream_ends_before_its_last_event(streams: Streams) -> None:
    """If a stream ends before its last event, the session raises, and its outcome has the text so far.

    If the stream ends later, the answer is complete.
    """
    answers = {
        name: (*stream, end) for name, stream in streams.items() if (end := end_of_last_event(stream[1])) is not None
    }
    assert len(answers) > len(streams) / 2
    for name, (kind, data, end) in answers.items():
        decoder, session = SSEDecoder(), kind()
        text = ""
        for length, byte in enumerate(data, 1):
            for event in decoder.feed(bytes([byte])):
                text += session.feed(event)
            if length < end - (data[end - 2 : end] == b"\r\n"):  # CR alone ends the blank line
                with pytest.raises((StreamTruncatedError, EmptyStreamError)):
                    session.close()
                assert session.outcome().content == text
            else:
                assert session.close().complete, f"{name}: {length} of {len(data)} bytes"
        assert text or session.outcome().tool_calls or session.outcome().refusal


@pytest.mark.parametrize(
    "cut", [b'"Hi', "é".encode()[:1], b"\\u00", b'"}}]}\n'], ids=["json", "utf-8", "escape", "line"]
)
async def test_S5_S10_error_tells_the_byte_at_which_an_event_was_cut(cut: bytes, kit: Kit) -> None:
    """A stream that ends inside an event is an error with the number of bytes and the text so far."""
    start = b"".join(kit.chat("Hel", "lo")[:2]) + b'data: {"choices": [{"delta": {"content": "' + cut
    async with MiniAgents():
        with pytest.raises(StreamTruncatedError, match=f"cut inside an event, after {len(start)} bytes") as caught:
            await create_openai_agent("m", async_client=kit.Wire(kit.Reply([start])).openai()).trigger("Hi")
    assert caught.value.partial.content == "Hello"


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
def test_S1_parse_raises_truncated_error_when_a_document_is_cut(api: API) -> None:
    """A document truncated at any byte is a retryable StreamTruncatedError; malformed JSON is a StreamProtocolError."""
    session = {"chat": ChatSession, "responses": ResponsesSession, "messages": MessagesSession}[api]
    body = ScriptedLLM('日本 "😀"\n').respond(api, {"model": "m"}).body
    assert session().parse(body).content == '日本 "😀"\n'
    for cut in range(1, len(body)):
        with pytest.raises(StreamTruncatedError, match=f"cut after {cut} bytes") as caught:
            session().parse(body[:cut])
        assert caught.value.retryable
    with pytest.raises(StreamProtocolError, match="malformed"):
        session().parse(b"{" + body)


async def test_S6_complete_answer_is_returned_when_the_usage_after_it_is_cut(kit: Kit) -> None:
    """An answer with a finish reason is complete, even if the usage after it is truncated."""
    rest = b'data: {"choices": [], "usage": {"prom'
    wire = kit.Wire(kit.Reply([*kit.chat("Hi")[:-1], rest]))
    async with MiniAgents():
        (reply,) = await create_openai_agent("m", async_client=wire.openai()).trigger("Hello")
    assert (reply.content, reply.finish_reason) == ("Hi", "stop")
