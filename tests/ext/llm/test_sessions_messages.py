"""The session of Anthropic's messages API, which reads the events of one answer into an outcome."""

from __future__ import annotations

import json
from typing import Any

import pytest

from miniagents import errors
from miniagents.ext.llm._sessions import MessagesSession, Outcome, ToolUse
from miniagents.ext.llm.sse import ServerSentEvent

USAGE = {"input_tokens": 10, "output_tokens": 1, "cache_read_input_tokens": 3, "cache_creation_input_tokens": None}
START = {
    "type": "message_start",
    "message": {"id": "msg", "role": "assistant", "model": "m", "content": [], "usage": USAGE},
}
STOP = {"type": "message_stop"}
PING = {"type": "ping"}


def block(index: int, *deltas: dict[str, Any], **start: Any) -> list[dict[str, Any]]:
    """Return the events of a content block."""
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def text(index: int, *texts: str) -> list[dict[str, Any]]:
    """Return the events of a text block."""
    return block(index, *({"type": "text_delta", "text": piece} for piece in texts), type="text", text="")


def end(stop_reason: str | None = "end_turn", **usage: Any) -> list[dict[str, Any]]:
    """Return the last two events of a message."""
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    return [{"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5, **usage}}, STOP]


def feed(session: MessagesSession, items: list[Any]) -> str:
    """Feed JSON values or raw bytes, and return the joined deltas."""
    datas = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in items]
    return "".join([session.feed(ServerSentEvent(data)) for data in datas])


def outcome(*items: Any) -> Outcome:
    """Return the outcome of a whole stream of these events."""
    session = MessagesSession()
    said = feed(session, list(items))
    result = session.close()
    assert result.content == said
    return result


PLAIN = [START, *text(0, "a", "b"), *end()]


def test_session_returns_text_id_model_and_finish_reason_of_a_stream() -> None:
    """The outcome of a plain message has its joined text deltas, id, model, stop reason and blocks."""
    result = outcome(*PLAIN)
    assert (result.content, result.finish_reason, result.provider_finish_reason) == ("ab", "stop", "end_turn")
    assert (result.id, result.model, result.complete) == ("msg", "m", True)
    assert result.extra["content_blocks"] == [{"type": "text", "text": "ab"}]


@pytest.mark.parametrize("cut", range(len(PLAIN) + 1))
def test_S1_session_raises_truncated_error_before_the_stop_reason(cut: int) -> None:
    """A message that ends before `message_delta` is an error with the text so far; after it, a message is complete."""
    session = MessagesSession()
    feed(session, PLAIN[:cut])
    if cut > 5:
        assert session.close().complete
        return
    with pytest.raises(errors.StreamTruncatedError if cut else errors.EmptyStreamError):
        session.close()
    assert session.outcome().content == "ab"[: max(0, cut - 2)]


def test_session_takes_the_last_value_of_each_count() -> None:
    """Token counts in a stream are running totals: the last value counts, and null or absent changes nothing."""
    result = outcome(START, *text(0, "a"), *end(input_tokens=12, cache_read_input_tokens=None))
    assert result.usage is not None
    assert (result.usage.input, result.usage.output, result.usage.cached) == (15, 5, 3)
    assert result.raw_usage == {**USAGE, "input_tokens": 12, "output_tokens": 5}
    thinking = outcome(START, *end(output_tokens_details={"thinking_tokens": 4}))
    assert thinking.usage is not None
    assert thinking.usage.reasoning == 4


def test_content_joins_text_blocks_without_a_separator() -> None:
    """The content joins the text blocks of a message, also around citations and server tools, without a separator."""
    cited = block(
        2,
        {"type": "text_delta", "text": "cited "},
        {"type": "citations_delta", "citation": {"cited_text": "x"}},
        {"type": "citations_delta", "citation": {"cited_text": "y"}},
        type="text",
        text="",
        citations=[],
    )
    search = block(
        1,
        {"type": "input_json_delta", "partial_json": '{"query":"q"}'},
        type="server_tool_use",
        id="s",
        name="web",
        input={},
    )
    result = outcome(START, *text(0, " a"), *search, *cited, *text(3, "b "), *end())
    assert result.content == " acited b "
    assert result.tool_calls == ()
    blocks = result.extra["content_blocks"]
    assert blocks[1]["input"] == {"query": "q"}
    assert blocks[2]["citations"] == [{"cited_text": "x"}, {"cited_text": "y"}]


def test_session_returns_tool_calls_from_fragments_or_from_the_start_event() -> None:
    """Arguments of calls come from fragments or the start event, and are `{}` if empty.

    An input that broke off stays as it is in the call, and is completed in its block.
    """
    fragments = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", '{"x"', ":1}")]
    empty = {"type": "input_json_delta", "partial_json": ""}
    result = outcome(
        START,
        *block(0, *fragments, type="tool_use", id="a", name="f", input={}),
        *block(1, empty, type="tool_use", id="b", name="g", input={}),
        *block(2, type="tool_use", id="c", name="h", input={"q": "é"}, caller={"type": "code"}),
        *block(
            3, {"type": "input_json_delta", "partial_json": '{"y": [1, 2'}, type="tool_use", id="d", name="i", input={}
        ),
        *end("tool_use"),
    )
    assert result.tool_calls == (
        ToolUse("a", "f", '{"x":1}'),
        ToolUse("b", "g", "{}"),
        ToolUse("c", "h", '{"q": "é"}'),
        ToolUse("d", "i", '{"y": [1, 2'),
    )
    inputs = [part["input"] for part in result.extra["content_blocks"]]
    assert inputs == [{"x": 1}, {}, {"q": "é"}, {"y": [1, 2]}]
    assert result.finish_reason == "tool_calls"


def test_thinking_blocks_keep_their_signature_and_are_no_content() -> None:
    """Thinking is in `reasoning` and, with its signature, in `content_blocks`, but not in the content."""
    thinking = [{"type": "thinking_delta", "thinking": piece} for piece in ("I ", "think", "")]
    signature = {"type": "signature_delta", "signature": "sig"}
    result = outcome(
        START,
        *block(0, *thinking, signature, type="thinking", thinking="", signature=""),
        *block(1, type="redacted_thinking", data="opaque"),
        *text(2, "answer"),
        *end(),
    )
    assert (result.content, result.reasoning) == ("answer", "I think")
    assert result.extra["content_blocks"][:2] == [
        {"type": "thinking", "thinking": "I think", "signature": "sig"},
        {"type": "redacted_thinking", "data": "opaque"},
    ]


@pytest.mark.parametrize("place", range(1, len(PLAIN)))
@pytest.mark.parametrize("unknown", [{"type": "brand_new", "x": [1]}, PING], ids=["unknown", "ping"])
def test_S22_unknown_events_and_pings_change_nothing(place: int, unknown: dict[str, Any]) -> None:
    """An unknown event anywhere is counted, a ping is an idle event, and neither changes the answer."""
    session = MessagesSession()
    feed(session, [*PLAIN[:place], unknown, *PLAIN[place:]])
    result = session.close()
    assert result.content == "ab"
    assert (session.unknown_events, session.idle_events) == ((0, 1) if unknown is PING else (1, 0))


def test_S23_unknown_blocks_are_kept_unchanged() -> None:
    """Unknown blocks are kept, with the fields of their deltas; unknown deltas are counted, and the text is whole."""
    new = block(0, {"type": "sparkle_delta", "sparkle": 1}, type="sparkle", data={"x": 1})
    compaction = block(1, {"type": "compaction_delta", "content": "short"}, type="compaction", content=None)
    result = outcome(START, *new, *compaction, *text(2, "a"), *end())
    assert (result.content, result.unknown_events) == ("a", 1)
    assert result.extra["content_blocks"][:2] == [
        {"type": "sparkle", "data": {"x": 1}, "sparkle": 1},
        {"type": "compaction", "content": "short"},
    ]


def _changed(place: int, **fields: Any) -> list[Any]:
    """Return the stream of a plain answer with other fields in the event at `place`."""
    stream = [dict(event) for event in PLAIN]
    stream[place] |= fields
    return stream


@pytest.mark.parametrize(
    "stream",
    [
        PLAIN[1:],
        [START, START],
        [START, *end()[:1], {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}}],
        [STOP],
        end(),
        [*PLAIN[:2], PLAIN[1]],
        [*PLAIN[:5], PLAIN[3]],
        [*PLAIN[:5], PLAIN[4]],
        _changed(1, index=1),
        _changed(2, index=1),
        _changed(2, delta={"type": "thinking_delta", "thinking": 5}),
        _changed(2, delta={"type": "text_delta", "text": 5}),
        _changed(2, delta="a"),
        _changed(1, content_block="text"),
        _changed(4, index=7),
        _changed(0, message="msg"),
        _changed(5, delta="end_turn"),
        [START, b'{"type":"message_delta"'],
        [START, ["text"]],
    ],
    ids=str,
)
def test_S16_S19_S24_misplaced_or_malformed_event_raises_protocol_error(stream: list[Any]) -> None:
    """An event outside of its message or block, for an unknown block, or with wrong types raises an error."""
    with pytest.raises(errors.StreamProtocolError):
        feed(MessagesSession(), stream)


def test_S20_session_ignores_events_after_the_end() -> None:
    """Events of a second message, or malformed data, after the end of a message change nothing."""
    assert outcome(*PLAIN, *PLAIN, b"rubbish", b"[DONE]").content == "ab"


@pytest.mark.parametrize("place", range(len(PLAIN)))
@pytest.mark.parametrize(
    ("word", "kind", "retryable"),
    [
        ("overloaded_error", errors.ProviderOverloadedError, True),
        ("rate_limit_error", errors.RateLimitedError, True),
        ("api_error", errors.ProviderError, True),
        ("invalid_request_error", errors.RequestRejectedError, False),
        ("authentication_error", errors.AuthenticationFailedError, False),
    ],
)
def test_P1_error_event_raises_the_error_of_its_word(place: int, word: str, kind: type, retryable: bool) -> None:
    """An error event at any place raises the class that its type names, and the text so far stays."""
    session = MessagesSession()
    feed(session, PLAIN[:place])
    with pytest.raises(errors.LLMError) as caught:
        feed(session, [{"type": "error", "error": {"type": word, "message": "m"}, "request_id": None}])
    assert type(caught.value) is kind
    assert caught.value.retryable is retryable
    assert caught.value.provider == "anthropic"
    assert session.outcome().content == "ab"[: max(0, min(place, 4) - 2)]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("pause_turn", "pause"),
        ("refusal", "refusal"),
        ("something_new", "something_new"),
    ],
)
def test_P13_stop_reason_is_normalised(word: str, reason: str) -> None:
    """A known stop reason is translated, an unknown one stays; the content may be empty."""
    result = outcome(START, *end(word))
    assert (result.finish_reason, result.provider_finish_reason, result.content) == (reason, word, "")


def test_outcome_has_the_fields_of_message_delta() -> None:
    """Container, stop sequence and context management of the last delta are fields of the outcome."""
    last: dict[str, Any] = {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": "X", "container": {"id": "c"}},
        "usage": None,
        "context_management": {"applied_edits": []},
    }
    result = outcome(START, last, STOP)
    assert result.extra["container"] == {"id": "c"}
    assert result.extra["context_management"] == {"applied_edits": []}
    assert result.extra["stop_sequence"] == "X"


def test_outcome_has_the_model_of_a_fallback_block() -> None:
    """If an answer has a `fallback` block, its outcome names the model of that block, which continues the answer."""
    fallback = block(0, type="fallback", to={"model": "other"}, **{"from": {"model": "m"}})
    assert outcome(START, *fallback, *text(1, "a"), *end()).model == "other"


def test_S31_surrogate_halves_are_joined_across_deltas_and_lone_ones_replaced() -> None:
    """Surrogate halves in two deltas of a block become one character; a half at the end of a block becomes U+FFFD."""
    result = outcome(START, *text(0, "a\ud83d", "\ude00b\ud83d"), *text(1, "\ude00c"), *end())
    assert result.content == "a\U0001f600b\ufffd\ufffdc"
    assert result.lossy


def test_S31_arguments_may_hold_half_a_surrogate_pair() -> None:
    """Arguments with half a surrogate pair, also at their end, are kept with U+FFFD in its place."""
    use = {"type": "tool_use", "id": "i", "name": "f", "input": {}}
    for half in ('{"a": "\ud83d"}', '{"a": "\ud83d'):
        start = {"type": "content_block_start", "index": 0, "content_block": use}
        delta = {"type": "input_json_delta", "partial_json": half}
        result = outcome(START, start, {"type": "content_block_delta", "index": 0, "delta": delta}, *end())
        assert result.tool_calls[0].arguments == half.replace("\ud83d", "\ufffd")


def test_session_takes_the_type_from_the_event_name_when_the_data_have_none() -> None:
    """An event whose data have no `type` gets its type from its `event:` line."""
    session = MessagesSession()
    session.feed(ServerSentEvent(json.dumps({"message": START["message"]}).encode(), "message_start"))
    assert session.outcome().id == "msg"


def test_parse_returns_the_same_outcome_as_a_stream() -> None:
    """`parse` of a document with thinking, text and a tool call gives an outcome equal to that of its stream."""
    body = {
        "id": "msg",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "content": [
            {"type": "thinking", "thinking": "t", "signature": "s"},
            {"type": "text", "text": "ab"},
            {"type": "tool_use", "id": "i", "name": "f", "input": {"x": 1}},
        ],
        "usage": {**USAGE, "output_tokens": 5},
    }
    parsed = MessagesSession().parse(json.dumps(body).encode())
    streamed = outcome(
        START,
        *block(0, {"type": "signature_delta", "signature": "s"}, type="thinking", thinking="t", signature=""),
        *text(1, "a", "b"),
        *block(
            2, {"type": "input_json_delta", "partial_json": '{"x": 1}'}, type="tool_use", id="i", name="f", input={}
        ),
        *end("tool_use"),
    )
    assert parsed == streamed


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", errors.EmptyStreamError),
        (b"<html>", errors.StreamProtocolError),
        (b"{}", errors.StreamProtocolError),
        (b'{"type":"error","error":{"type":"overloaded_error","message":"m"}}', errors.ProviderOverloadedError),
    ],
)
def test_S4_S30_parse_raises_an_error_when_a_body_is_no_answer(body: bytes, kind: type[errors.LLMError]) -> None:
    """`parse` raises the error of its kind for an empty body, a page, another JSON value and an error document."""
    with pytest.raises(kind):
        MessagesSession().parse(body)


def test_feed_parsed_returns_the_same_text_as_feed() -> None:
    """Events that an SDK has parsed give the same text as server-sent events."""
    session = MessagesSession()
    said = "".join([session.feed_parsed(event) for event in [START, *text(0, "a", "\U0001f600"), *end(), *PLAIN]])
    assert session.close().content == said == "a\U0001f600"
