"""The session of OpenAI's Responses API, which reads the events of one answer into an outcome and notes doubts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from miniagents import errors
from miniagents.ext.llm._sessions import Outcome, ResponsesSession, ToolUse
from miniagents.ext.llm.sse import ServerSentEvent

USAGE = {
    "input_tokens": 7,
    "input_tokens_details": {"cached_tokens": 2},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 1},
    "total_tokens": 12,
}


def response(status: str = "in_progress", **fields: Any) -> dict[str, Any]:
    """Return the response object of lifecycle events."""
    return {"id": "resp", "object": "response", "model": "m", "status": status, "output": [], "usage": None, **fields}


CREATED = {"type": "response.created", "response": response()}


def message_item(text: str, *, refusal: str = "") -> dict[str, Any]:
    """Return a finished message."""
    parts = [{"type": "output_text", "text": text, "annotations": []}] if text else []
    parts += [{"type": "refusal", "refusal": refusal}] if refusal else []
    return {"type": "message", "id": "msg", "role": "assistant", "status": "completed", "content": parts}


def item(index: int, done: dict[str, Any], *between: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events of an output item from `added` to `done`; the events between get its index."""
    start = {key: value for key, value in done.items() if key in ("type", "id", "name", "call_id")}
    return [
        {"type": "response.output_item.added", "output_index": index, "item": start},
        *({"output_index": index, **event} for event in between),
        {"type": "response.output_item.done", "output_index": index, "item": done},
    ]


def delta(text: str, content_index: int = 0) -> dict[str, Any]:
    """Return a text delta."""
    return {"type": "response.output_text.delta", "content_index": content_index, "delta": text}


def text_item(index: int, *texts: str, content_index: int = 0) -> list[dict[str, Any]]:
    """Return the events of a message, with its text in deltas, part and item, as the API sends it."""
    whole = "".join(texts)
    deltas = [delta(text, content_index) for text in texts]
    return item(
        index,
        message_item(whole),
        {"type": "response.content_part.added", "content_index": content_index, "part": {}},
        *deltas,
        {"type": "response.output_text.done", "content_index": content_index, "text": whole},
        {"type": "response.content_part.done", "content_index": content_index, "part": {}},
    )


def end(kind: str = "completed", **fields: Any) -> dict[str, Any]:
    """Return the last event of a response, with its status."""
    return {"type": f"response.{kind}", "response": response(kind, **{"usage": USAGE, **fields})}


def numbered(*events: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events with rising sequence numbers."""
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def feed(session: ResponsesSession, items: list[Any]) -> str:
    """Feed JSON values or raw bytes, and return the joined deltas."""
    datas = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in items]
    return "".join([session.feed(ServerSentEvent(data)) for data in datas])


def outcome(*events: Any) -> Outcome:
    """Return the outcome of a whole stream of these events."""
    session = ResponsesSession()
    said = feed(session, list(events))
    result = session.close()
    assert result.content == said
    return result


PLAIN = numbered(CREATED, *text_item(0, "a", "b"), end(output=[message_item("ab")]))


def test_session_returns_the_text_once_although_the_api_sends_it_four_times() -> None:
    """The content is the joined deltas, and not repeated by the whole texts of part, item and response."""
    result = outcome(*PLAIN)
    assert (result.content, result.finish_reason, result.provider_finish_reason) == ("ab", "stop", "completed")
    assert (result.id, result.model, result.complete) == ("resp", "m", True)
    assert result.usage is not None
    tokens = result.usage
    assert (tokens.input, tokens.output, tokens.cached, tokens.reasoning, tokens.total) == (7, 5, 2, 1, 12)
    assert result.extra["output"] == [message_item("ab")]


@pytest.mark.parametrize("cut", range(len(PLAIN)))
def test_S1_session_raises_truncated_error_before_the_last_event(cut: int) -> None:
    """A response without `completed` or `incomplete` is an error with the text so far, even after `[DONE]`."""
    session = ResponsesSession()
    said = feed(session, [*PLAIN[:cut], b"[DONE]"][: cut or None] if cut else [])
    with pytest.raises(errors.StreamTruncatedError if cut else errors.EmptyStreamError):
        session.close()
    assert session.outcome().content == said == "ab"[: max(0, min(cut, 5) - 3)]


@pytest.mark.parametrize("place", range(len(PLAIN) - 1))
def test_S19_S37_missing_event_raises_protocol_error_only_when_it_held_text(place: int) -> None:
    """If the item's start or a delta is missing, the session raises; another missing event is at most a doubt."""
    stream = PLAIN[:place] + PLAIN[place + 1 :]
    if place in (1, 3, 4):  # the start of the item, and both deltas
        session = ResponsesSession()
        with pytest.raises(errors.StreamProtocolError, match="not added" if place == 1 else "sequence_number"):
            feed(session, stream)
        assert session.outcome().content == {4: "a"}.get(place, "")
        return
    result = outcome(*stream)
    assert result.content == "ab"
    assert result.doubts == (
        () if place == 0 else (f"event {place + 1}: sequence_number is '{place + 1} after {place - 1}'",)
    )


@pytest.mark.parametrize("place", range(len(PLAIN) - 1))
def test_S19_S37_swapped_events_raise_protocol_error_or_give_the_same_text(place: int) -> None:
    """Swapped deltas, or a delta after its done text, raise `StreamProtocolError`; other swaps keep the text."""
    stream = list(PLAIN)
    stream[place], stream[place + 1] = stream[place + 1], stream[place]
    session = ResponsesSession()
    if place in (3, 4):
        with pytest.raises(errors.StreamProtocolError):
            feed(session, stream)
        assert "ab".startswith(session.outcome().content)
    else:
        assert feed(session, stream) == session.close().content == "ab"


def test_S37_text_after_a_gap_is_withheld_until_the_whole_text_arrives() -> None:
    """If an event is missing, later deltas are withheld until the whole text of their part arrives."""
    stream = [event for event in PLAIN if event["type"] != "response.content_part.added"]
    session = ResponsesSession()
    assert [feed(session, [event]) for event in stream] == ["", "", "", "", "ab", "", "", ""]
    assert session.close().content == "ab"


@pytest.mark.parametrize("number", [0, -1, None, "x", 1.5, True, [], 10**30])
def test_S37_session_streams_text_when_all_sequence_numbers_are_equal_or_invalid(number: Any) -> None:
    """Equal or invalid sequence numbers in all events do not delay the text, and one doubt is noted."""
    stream = [{**event, "sequence_number": number} for event in PLAIN]
    result = outcome(*stream)
    assert (result.content, len(result.doubts)) == ("ab", 1)
    session = ResponsesSession()
    assert [feed(session, [event]) for event in stream[:5]] == ["", "", "", "a", "b"]


@pytest.mark.parametrize("place", range(len(PLAIN)))
@pytest.mark.parametrize("number", [0, 50, -1, "7", None])
def test_S37_one_wrong_sequence_number_changes_no_text(place: int, number: Any) -> None:
    """One event with a wrong sequence number, at any place of a stream, changes nothing in the text of the answer."""
    stream = list(PLAIN)
    stream[place] = {**stream[place], "sequence_number": number}
    assert outcome(*stream).content == "ab"


def test_S37_equal_deltas_all_count_when_sequence_numbers_are_wrong() -> None:
    """With wrong sequence numbers, equal deltas in a row are all part of the text, and none counts as repeated."""
    stream = [CREATED, *text_item(0, "ha", "ha", "ha"), end(output=[message_item("hahaha")])]
    assert outcome(*({**event, "sequence_number": 3} for event in stream)).content == "hahaha"


@pytest.mark.parametrize("number", [0, 1, 99, -1, None, "x"])
@pytest.mark.parametrize("kind", ["error", "response.failed"])
def test_S37_error_event_with_a_wrong_sequence_number_raises_its_error(kind: str, number: Any) -> None:
    """An error event raises its error even if its sequence number is wrong, as in an event that a gateway made."""
    error = {"code": "rate_limit_exceeded", "message": "slow down"}
    event = {"type": kind, "sequence_number": number, "error": error, "response": response("failed", error=error)}
    with pytest.raises(errors.RateLimitedError, match="slow down"):
        feed(ResponsesSession(), [*PLAIN[:4], event])


def test_S37_gap_raises_protocol_error_when_no_whole_text_confirms_the_answer() -> None:
    """If the last event has no output, a gap in the sequence numbers that may hide an item is an error."""
    bare = [*PLAIN[:-1], {**PLAIN[-1], "response": response("completed")}]
    assert outcome(*bare).content == "ab"
    assert outcome(*bare[:2], *bare[3:]).content == "ab"  # a lost item would leave a gap of two events at least
    with pytest.raises(errors.StreamProtocolError, match="events were lost"):
        outcome(*bare[:-1], {**bare[-1], "sequence_number": 12})
    lost = numbered(CREATED, *text_item(0, "ab"), *item(1, call("{}")), end(output=[message_item("ab"), call("{}")]))
    with pytest.raises(errors.StreamProtocolError, match="events were lost"):
        outcome(*lost[:7], *lost[9:])


@pytest.mark.parametrize("place", range(len(PLAIN)))
def test_S18_repeated_event_counts_once(place: int) -> None:
    """If an event is sent twice, with its sequence number and content, the session drops the second one."""
    assert outcome(*PLAIN[: place + 1], *PLAIN[place:]).content == "ab"


def test_S18_events_with_one_number_and_different_contents_both_count() -> None:
    """Of two events with one sequence number and different contents, both count, and a doubt is noted."""
    result = outcome(*PLAIN[:4], *({**event, "sequence_number": event["sequence_number"] - 1} for event in PLAIN[4:]))
    assert (result.content, result.doubts) == ("ab", ("event 5: sequence_number is '3 after 3'",))


def test_session_accepts_absent_sequence_numbers_and_any_first_one() -> None:
    """A session accepts events without sequence numbers, and numbers that begin anywhere."""
    assert outcome(CREATED, *text_item(0, "ab"), end()).content == "ab"
    assert outcome(*({**event, "sequence_number": event["sequence_number"] + 7} for event in PLAIN)).content == "ab"


def test_S19_lost_delta_raises_protocol_error_when_the_whole_text_differs() -> None:
    """Without sequence numbers, a lost delta is an error, because the whole text of the part differs."""
    events = text_item(0, "a", "b", "c")
    with pytest.raises(errors.StreamProtocolError, match="deltas"):
        feed(ResponsesSession(), [CREATED, *events[:3], *events[4:]])


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_session_takes_missing_deltas_from_the_whole_text_of_a_part(kept: int) -> None:
    """If a server sends no or not all deltas, the rest of the text is taken from the finished part."""
    events = text_item(0, "a", "b")
    stream = [event for event in events if event["type"] != "response.output_text.delta"]
    stream[2:2] = [event for event in events if event["type"] == "response.output_text.delta"][:kept]
    assert outcome(CREATED, *stream, end()).content == "ab"


def test_session_takes_text_without_deltas_from_items_and_responses() -> None:
    """If no delta was sent, the session takes the text from the finished item or the finished response."""
    assert outcome(CREATED, *item(0, message_item("ab")), end(output=[message_item("ab")])).content == "ab"
    assert outcome(CREATED, end(output=[message_item("a"), message_item("b")])).content == "ab"
    assert outcome(CREATED, *text_item(0, "ab"), end(output=[])).content == "ab"


def test_content_joins_messages_without_a_separator() -> None:
    """Messages before and after a tool call are joined; the indexes of parts may begin at 1, as on Bedrock."""
    call = {"type": "web_search_call", "id": "ws", "status": "completed"}
    searching = {"type": "response.web_search_call.searching"}
    result = outcome(
        CREATED, *text_item(0, "a ", content_index=1), *item(1, call, searching), *text_item(2, "b"), end()
    )
    assert (result.content, result.unknown_events, result.tool_calls) == ("a b", 0, ())
    assert result.extra["output"][1] == call


def test_session_finds_items_by_index_and_then_by_id() -> None:
    """A session finds an event's item by its index, as Copilot changes ids, and without an index by its id."""
    events = text_item(0, "ab")
    for number, event in enumerate(events):
        event["item_id"] = f"changing-{number}"
    assert outcome(CREATED, *events, end()).content == "ab"
    by_id = [{**event, "item_id": "msg"} for event in text_item(0, "ab")]
    for event in by_id[1:]:
        del event["output_index"]
    assert outcome(CREATED, *by_id, end()).content == "ab"
    with pytest.raises(errors.StreamProtocolError, match="not added"):
        feed(ResponsesSession(), [CREATED, {**delta("x"), "item_id": "unknown"}])


def call(arguments: str, **fields: Any) -> dict[str, Any]:
    """Return a function call."""
    return {"type": "function_call", "id": "fc", "call_id": "call", "name": "f", "arguments": arguments, **fields}


def test_session_returns_tool_calls_from_deltas_or_finished_items() -> None:
    """Arguments are read from deltas, from the finished item, or from both; custom tools have text."""
    pieces = [{"type": "response.function_call_arguments.delta", "delta": piece} for piece in ('{"x"', ":1}")]
    whole = {"type": "response.function_call_arguments.done", "arguments": '{"x":1}'}
    expected = (ToolUse("call", "f", '{"x":1}'),)
    for between, done in ((pieces, ""), ([*pieces, whole], ""), ([whole], ""), ((), '{"x":1}'), (pieces, '{"x":1}')):
        result = outcome(CREATED, *item(0, call(done), *between), end())
        assert result.tool_calls == expected
        assert result.finish_reason == "tool_calls"
    custom = {"type": "custom_tool_call", "id": "c", "call_id": "call", "name": "sql", "input": "select 1"}
    typed = {"type": "response.custom_tool_call_input.delta", "delta": "select 1"}
    for finished in (custom, {**custom, "input": ""}):
        assert outcome(CREATED, *item(0, finished, typed), end()).tool_calls == (
            ToolUse("call", "sql", "select 1", "custom"),
        )


def test_outcome_has_the_partial_call_of_an_unfinished_response() -> None:
    """If a response breaks off in a tool call, the outcome has the call with its arguments so far."""
    session = ResponsesSession()
    started = item(0, call(""), {"type": "response.function_call_arguments.delta", "delta": '{"x'})[:-1]
    feed(session, [CREATED, *started])
    assert session.outcome().tool_calls == (ToolUse("call", "f", '{"x'),)
    assert session.outcome().finish_reason is None


def test_P4_incomplete_response_is_a_complete_answer_with_a_finish_reason() -> None:
    """`response.incomplete` ends an answer without an error, and its reason becomes the finish reason."""
    for word, reason in (("max_output_tokens", "length"), ("content_filter", "content_filter"), ("new", "new")):
        result = outcome(CREATED, *text_item(0, "ab"), end("incomplete", incomplete_details={"reason": word}))
        assert (result.content, result.finish_reason, result.provider_finish_reason) == ("ab", reason, word)
    assert outcome(CREATED, end("incomplete")).finish_reason == "incomplete"


@pytest.mark.parametrize("kind", ["failed", "cancelled"])
def test_P4_failed_response_raises_its_error_and_keeps_the_text(kind: str) -> None:
    """A failed or cancelled response raises the error of its code, else `ProviderError`; text and usage are kept."""
    session = ResponsesSession()
    error = {"code": "rate_limit_exceeded", "message": "slow down"}
    with pytest.raises(errors.RateLimitedError, match="slow down"):
        feed(session, [CREATED, *text_item(0, "ab"), end(kind, error=error)])
    assert session.outcome().content == "ab"
    assert session.outcome().usage is not None
    with pytest.raises(errors.ProviderError, match=kind):
        feed(ResponsesSession(), [CREATED, end(kind)])


@pytest.mark.parametrize(
    "payload",
    [
        {"type": "error", "code": "server_error", "message": "m", "param": None},
        {"type": "error", "error": {"type": "server_error", "message": "m"}},
        {"error": {"message": "m"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("place", range(len(PLAIN)))
def test_P3_error_event_raises_provider_error(payload: dict[str, Any], place: int) -> None:
    """An error event raises a ProviderError at any place, with or without an `error` key."""
    with pytest.raises(errors.ProviderError, match="m"):
        feed(ResponsesSession(), [*PLAIN[:place], payload])


def test_P10_refusal_is_a_complete_answer_with_its_text_in_refusal() -> None:
    """The refusal is read from its deltas or from the finished item, and the content is empty."""
    deltas = [{"type": "response.refusal.delta", "content_index": 0, "delta": piece} for piece in ("I can", "not")]
    for between in (deltas, ()):
        result = outcome(CREATED, *item(0, message_item("", refusal="I cannot"), *between), end())
        assert (result.content, result.refusal, result.finish_reason) == ("", "I cannot", "refusal")


def test_reasoning_is_the_summary_or_else_the_text() -> None:
    """Reasoning is the summary, from deltas or the finished item, or else the text; encrypted reasoning is not read."""
    done = {"type": "reasoning", "id": "rs", "summary": [{"text": "one"}, {"text": "two"}], "encrypted_content": "x"}
    summary = [
        {"type": "response.reasoning_summary_text.delta", "summary_index": i, "delta": piece}
        for i, piece in ((0, "o"), (0, "ne"), (1, "two"))
    ]
    text = [{"type": "response.reasoning_text.delta", "content_index": 0, "delta": "long thought"}]
    assert outcome(CREATED, *item(0, done, *summary), end()).reasoning == "one\n\ntwo"
    assert outcome(CREATED, *item(0, done, *text, *summary), end()).reasoning == "one\n\ntwo"
    assert outcome(CREATED, *item(0, done, *text), end()).reasoning == "long thought"
    assert outcome(CREATED, *item(0, done), end()).reasoning == "one\n\ntwo"
    result = outcome(CREATED, *item(0, {**done, "summary": []}), end())
    assert result.reasoning is None
    assert result.extra["output"] == [{**done, "summary": []}]


@pytest.mark.parametrize("place", range(1, len(PLAIN)))
def test_S22_unknown_events_and_keepalives_change_nothing(place: int) -> None:
    """An unknown event anywhere is counted, a keep-alive is an idle event, and neither changes the answer."""
    session = ResponsesSession()
    unnumbered = [{key: value for key, value in event.items() if key != "sequence_number"} for event in PLAIN]
    extra: list[dict[str, Any]] = [{"type": "keepalive"}, {"type": "response.brand_new.delta", "delta": "x"}]
    feed(session, [*unnumbered[:place], *extra, *unnumbered[place:]])
    assert session.close().content == "ab"
    assert (session.unknown_events, session.idle_events) == (1, 1)


@pytest.mark.parametrize(
    "bad",
    [
        {"type": "response.created"},
        {"type": "response.output_item.added", "output_index": 1},
        {"type": "response.output_item.added", "output_index": 0, "item": {}},
        {**delta("x"), "output_index": 5},
        b'{"type":"response.completed"',
        {**delta("x"), "output_index": 0, "delta": 5},
        {"type": "response.completed", "response": "done"},
        {"type": "response.completed"},
        ["text"],
    ],
    ids=str,
)
def test_S16_S24_misplaced_or_malformed_event_raises_protocol_error(bad: Any) -> None:
    """An event for an unknown item, with wrong types or malformed JSON is an error, and the text so far stays."""
    session = ResponsesSession()
    feed(session, [CREATED, *text_item(0, "ab")])
    with pytest.raises(errors.StreamProtocolError):
        feed(session, [bad])
    assert session.outcome().content == "ab"


def test_S20_session_ignores_events_after_the_end() -> None:
    """Events of a second stream, or malformed data, after the end of a response change nothing."""
    assert outcome(*PLAIN, *PLAIN, b"rubbish", b"[DONE]").content == "ab"


def test_S31_surrogate_halves_are_joined_across_deltas_and_lone_ones_replaced() -> None:
    """Surrogate halves in two deltas become one character, and lone halves U+FFFD, also in the whole text."""
    result = outcome(CREATED, *text_item(0, "a\ud83d", "\ude00b\ud83d"), *text_item(1, "c"), end())
    assert (result.content, result.lossy) == ("a\U0001f600b\ufffdc", True)
    assert not outcome(CREATED, *text_item(0, "a\ud83d", "\ude00b"), end()).lossy


def test_parse_returns_the_same_outcome_as_a_stream() -> None:
    """`parse` of a response's document gives the outcome that its stream gives."""
    output = [{"type": "reasoning", "id": "rs", "summary": [{"text": "t"}]}, message_item("ab"), call('{"x":1}')]
    body = {**response("completed"), "output": output, "usage": USAGE, "temperature": 1.0}
    parsed = ResponsesSession().parse(json.dumps(body).encode())
    reasoning, message, tool = output
    stream = [*item(0, reasoning), *item(1, message, delta("a"), delta("b")), *item(2, tool)]
    assert parsed == outcome(CREATED, *stream, {"type": "response.completed", "response": body})


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", errors.EmptyStreamError),
        (b"<html>", errors.StreamProtocolError),
        (b"{}", errors.StreamProtocolError),
        (json.dumps(response("in_progress")).encode(), errors.StreamTruncatedError),
        (json.dumps(response("failed", error={"code": "server_error", "message": "m"})).encode(), errors.ProviderError),
        (json.dumps(response("cancelled")).encode(), errors.ProviderError),
        (b'{"error":{"message":"m","code":"rate_limit_exceeded"}}', errors.RateLimitedError),
    ],
)
def test_S4_S30_parse_raises_an_error_when_a_body_is_no_answer(body: bytes, kind: type[errors.LLMError]) -> None:
    """`parse` raises the error of its kind for an empty body, a page, and a failed or unfinished response."""
    with pytest.raises(kind):
        ResponsesSession().parse(body)


# --- whole texts


@pytest.mark.parametrize(
    "indexes",
    [(7, 0, 0), (0, 7, 0), (0, 0, 7), (0, "1", 0), (0, 1, 2), (3, 2, 1), (1, 0, 1), (-1, 0, 5), (1, 1, 0)],
    ids=str,
)
@pytest.mark.parametrize("count", [False, True], ids=["plain", "numbered"])
def test_S36_text_is_read_once_with_any_content_index(indexes: tuple[Any, ...], count: bool) -> None:
    """The whole text of a part confirms its deltas, whatever the index of each event; an odd index is a doubt."""
    parts = [delta("a"), delta("b"), {"type": "response.output_text.done", "text": "ab"}]
    parts = [{**event, "content_index": index} for event, index in zip(parts, indexes, strict=True)]
    events = [CREATED, *item(0, message_item("ab"), *parts), end(output=[message_item("ab")])]
    result = outcome(*(numbered(*events) if count else events))
    assert result.content == "ab"
    assert any("content_index" in doubt for doubt in result.doubts)


def test_S36_parts_with_equal_content_indexes_stay_separate() -> None:
    """If all parts have index 0, the whole text of a part is compared to the deltas after the part before it."""
    done = {"type": "response.output_text.done", "content_index": 0}
    whole = message_item("ab")
    whole["content"] = message_item("a")["content"] + message_item("b")["content"]
    between = [delta("a"), {**done, "text": "a"}, delta("b"), {**done, "text": "b"}]
    assert outcome(CREATED, *item(0, whole, *between), end(output=[whole])).content == "ab"


@pytest.mark.parametrize("place", ["item", "response"])
@pytest.mark.parametrize(("whole", "content"), [("abc", "abc"), ("ac", None), ("b", None)])
def test_S19_whole_text_of_item_and_response_adds_lost_text_or_raises(
    place: str, whole: str, content: str | None
) -> None:
    """A text that lacks its end in the deltas is completed; one that differs from its deltas is an error."""
    events = [CREATED, *item(0, message_item(whole if place == "item" else "ab"), delta("a"), delta("b"))]
    events.append(end(output=[message_item(whole)] if place == "response" else []))
    if content is not None:
        assert outcome(*events).content == content
        return
    with pytest.raises(errors.StreamProtocolError, match=f"finished {place} differs from its deltas"):
        outcome(*events)


def test_S19_repeated_whole_texts_raise_protocol_error_when_they_double_the_text() -> None:
    """Whole texts of two parts, of which the item has only one, are an error; a repeated item adds nothing."""
    done = {"type": "response.output_text.done", "text": "ab"}
    doubled = [{**done, "content_index": index} for index in range(2)]
    with pytest.raises(errors.StreamProtocolError, match="differs"):
        outcome(CREATED, *item(0, message_item("ab"), *doubled), end(output=[]))
    events = item(0, message_item("ab"))
    assert outcome(CREATED, *events, events[-1], end(output=[])).content == "ab"


def test_S19_items_without_deltas_keep_their_order_when_all_begin_first() -> None:
    """Items without deltas that all begin before the first one ends give their texts in order, when they end."""
    pairs = [item(i, {**message_item(text), "id": text}) for i, text in enumerate("ab")]
    final = [message_item("a"), message_item("b")]
    result = outcome(CREATED, *(pair[0] for pair in pairs), *(pair[1] for pair in pairs), end(output=final))
    assert result.content == "ab"
