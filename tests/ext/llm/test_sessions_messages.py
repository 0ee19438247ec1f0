"""The state machine of Anthropic's messages API."""

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
    """A content block from its start to its stop."""
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def text(index: int, *texts: str) -> list[dict[str, Any]]:
    """A text block."""
    return block(index, *({"type": "text_delta", "text": piece} for piece in texts), type="text", text="")


def end(stop_reason: str | None = "end_turn", **usage: Any) -> list[dict[str, Any]]:
    """The last two events."""
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    return [{"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5, **usage}}, STOP]


def feed(session: MessagesSession, items: list[Any]) -> str:
    """Feed JSON values or raw bytes; the deltas together."""
    datas = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in items]
    return "".join([session.feed(ServerSentEvent(data)) for data in datas])


def outcome(*items: Any) -> Outcome:
    """What a whole stream of these comes to."""
    session = MessagesSession()
    said = feed(session, list(items))
    result = session.close()
    assert result.content == said
    return result


PLAIN = [START, *text(0, "a", "b"), *end()]


def test_a_plain_stream_gives_its_text_and_its_end() -> None:
    """Text deltas make the content, the rest is told in the outcome."""
    result = outcome(*PLAIN)
    assert (result.content, result.finish_reason, result.provider_finish_reason) == ("ab", "stop", "end_turn")
    assert (result.id, result.model, result.complete) == ("msg", "m", True)
    assert result.extra["content_blocks"] == [{"type": "text", "text": "ab"}]


@pytest.mark.parametrize("cut", range(len(PLAIN) + 1))
def test_S1_only_with_a_stop_reason_is_a_message_complete(cut: int) -> None:
    """Cut anywhere before `message_delta` it is truncated, and its text is at hand."""
    session = MessagesSession()
    feed(session, PLAIN[:cut])
    if cut > 5:
        assert session.close().complete
        return
    with pytest.raises(errors.StreamTruncatedError if cut else errors.EmptyStreamError):
        session.close()
    assert session.outcome().content == "ab"[: max(0, cut - 2)]


def test_counts_are_running_totals_of_which_the_last_wins() -> None:
    """Adding start and delta would count twice; a count the delta leaves out stays."""
    result = outcome(START, *text(0, "a"), *end(input_tokens=12, cache_read_input_tokens=None))
    assert result.usage is not None
    assert (result.usage.input, result.usage.output, result.usage.cached) == (12, 5, 3)
    assert result.raw_usage == {**USAGE, "input_tokens": 12, "output_tokens": 5}
    thinking = outcome(START, *end(output_tokens_details={"thinking_tokens": 4}))
    assert thinking.usage is not None
    assert thinking.usage.reasoning == 4


def test_several_text_blocks_are_joined_with_nothing() -> None:
    """Citations and server tools split one answer into many blocks; white space is the model's."""
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


def test_tool_calls_are_collected_whole() -> None:
    """From fragments, from none at all, from the start alone, and cut short by the limit."""
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


def test_thinking_is_kept_with_its_signature_and_is_no_text() -> None:
    """Redacted thinking too; both must go back unchanged."""
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
def test_S22_unknown_events_and_pings_change_nothing_anywhere(place: int, unknown: dict[str, Any]) -> None:
    """An unknown event is counted, a ping is a sign of life."""
    session = MessagesSession()
    feed(session, [*PLAIN[:place], unknown, *PLAIN[place:]])
    result = session.close()
    assert result.content == "ab"
    assert (session.unknown_events, session.idle_events) == ((0, 1) if unknown is PING else (1, 0))


def test_S23_unknown_deltas_and_blocks_are_kept_opaque() -> None:
    """The rest of the answer is whole; the unknown delta is counted."""
    new = block(0, {"type": "sparkle_delta", "sparkle": 1}, type="sparkle", data={"x": 1})
    compaction = block(1, {"type": "compaction_delta", "content": "short"}, type="compaction", content=None)
    result = outcome(START, *new, *compaction, *text(2, "a"), *end())
    assert (result.content, result.unknown_events) == ("a", 1)
    assert result.extra["content_blocks"][:2] == [
        {"type": "sparkle", "data": {"x": 1}},
        {"type": "compaction", "content": "short"},
    ]


def _changed(place: int, **fields: Any) -> list[Any]:
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
def test_S16_S19_S24_events_out_of_place_are_protocol_errors(stream: list[Any]) -> None:
    """Before their start, after their stop, for a block that does not exist, or with the wrong types."""
    with pytest.raises(errors.StreamProtocolError):
        feed(MessagesSession(), stream)


def test_S20_what_comes_after_the_end_is_absorbed() -> None:
    """Two streams glued together are the first of them."""
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
def test_P1_an_error_event_anywhere_is_typed_by_its_word(place: int, word: str, kind: type, retryable: bool) -> None:
    """The status of the response was 200, so the word decides; what was said before stays."""
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
def test_P13_stop_reasons_are_normalised(word: str, reason: str) -> None:
    """A refusal may come with no content at all; it is a complete message."""
    result = outcome(START, *end(word))
    assert (result.finish_reason, result.provider_finish_reason, result.content) == (reason, word, "")


def test_what_the_last_delta_says_is_kept() -> None:
    """Containers, stop details and context management are fields of the outcome."""
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


def test_another_model_may_go_on_in_the_middle() -> None:
    """A fallback block names the model that answers from there on."""
    fallback = block(0, type="fallback", to={"model": "other"}, **{"from": {"model": "m"}})
    assert outcome(START, *fallback, *text(1, "a"), *end()).model == "other"


def test_S31_surrogate_halves_are_joined_across_deltas_and_replaced_where_alone() -> None:
    r"""Half a character at the end of a block waits no longer than the block."""
    result = outcome(START, *text(0, "a\ud83d", "\ude00b\ud83d"), *text(1, "\ude00c"), *end())
    assert result.content == "a\U0001f600b\ufffd\ufffdc"
    assert result.lossy


def test_the_type_may_stand_in_the_event_name_only() -> None:
    """The `event:` line is enough where the data have no type."""
    session = MessagesSession()
    session.feed(ServerSentEvent(json.dumps({"message": START["message"]}).encode(), "message_start"))
    assert session.outcome().id == "msg"


def test_an_answer_in_one_piece_has_the_same_outcome() -> None:
    """`parse` and the stream agree."""
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
def test_S4_S30_bodies_that_are_no_answer_are_typed_errors(body: bytes, kind: type[errors.LLMError]) -> None:
    """Nothing of the kind becomes an empty message."""
    with pytest.raises(kind):
        MessagesSession().parse(body)


def test_events_that_an_sdk_has_parsed_give_the_same_outcome() -> None:
    """Where a client does not speak server-sent events, the session takes its objects."""
    session = MessagesSession()
    said = "".join([session.feed_parsed(event) for event in [START, *text(0, "a", "\U0001f600"), *end(), *PLAIN]])
    assert session.close().content == said == "a\U0001f600"
