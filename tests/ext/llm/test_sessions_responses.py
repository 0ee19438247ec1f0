"""The state machine of OpenAI's Responses API."""

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
    """The object that goes around in lifecycle events."""
    return {"id": "resp", "object": "response", "model": "m", "status": status, "output": [], "usage": None, **fields}


CREATED = {"type": "response.created", "response": response()}


def message_item(text: str, *, refusal: str = "") -> dict[str, Any]:
    """A finished message."""
    parts = [{"type": "output_text", "text": text, "annotations": []}] if text else []
    parts += [{"type": "refusal", "refusal": refusal}] if refusal else []
    return {"type": "message", "id": "msg", "role": "assistant", "status": "completed", "content": parts}


def item(index: int, done: dict[str, Any], *between: dict[str, Any]) -> list[dict[str, Any]]:
    """An output item from `added` to `done`; the events between get its index."""
    start = {key: value for key, value in done.items() if key in ("type", "id", "name", "call_id")}
    return [
        {"type": "response.output_item.added", "output_index": index, "item": start},
        *({"output_index": index, **event} for event in between),
        {"type": "response.output_item.done", "output_index": index, "item": done},
    ]


def delta(text: str, content_index: int = 0) -> dict[str, Any]:
    """A text delta."""
    return {"type": "response.output_text.delta", "content_index": content_index, "delta": text}


def text_item(index: int, *texts: str, content_index: int = 0) -> list[dict[str, Any]]:
    """A message, told as often as the API does."""
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
    """The last event."""
    return {"type": f"response.{kind}", "response": response(kind, **{"usage": USAGE, **fields})}


def numbered(*events: dict[str, Any]) -> list[dict[str, Any]]:
    """With sequence numbers."""
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def feed(session: ResponsesSession, items: list[Any]) -> str:
    """Feed JSON values or raw bytes; the deltas together."""
    datas = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in items]
    return "".join([session.feed(ServerSentEvent(data)) for data in datas])


def outcome(*events: Any) -> Outcome:
    """What a whole stream of these comes to."""
    session = ResponsesSession()
    said = feed(session, list(events))
    result = session.close()
    assert result.content == said
    return result


PLAIN = numbered(CREATED, *text_item(0, "a", "b"), end(output=[message_item("ab")]))


def test_a_plain_stream_gives_its_text_once() -> None:
    """The API says it four times; the deltas count."""
    result = outcome(*PLAIN)
    assert (result.content, result.finish_reason, result.provider_finish_reason) == ("ab", "stop", "completed")
    assert (result.id, result.model, result.complete) == ("resp", "m", True)
    assert result.usage is not None
    tokens = result.usage
    assert (tokens.input, tokens.output, tokens.cached, tokens.reasoning, tokens.total) == (7, 5, 2, 1, 12)
    assert result.extra["output"] == [message_item("ab")]


@pytest.mark.parametrize("cut", range(len(PLAIN)))
def test_S1_without_its_last_event_a_response_is_truncated(cut: int) -> None:
    """Nothing but `completed` and `incomplete` ends a response well."""
    session = ResponsesSession()
    said = feed(session, [*PLAIN[:cut], b"[DONE]"][: cut or None] if cut else [])
    with pytest.raises(errors.StreamTruncatedError if cut else errors.EmptyStreamError):
        session.close()
    assert session.outcome().content == said == "ab"[: max(0, min(cut, 5) - 3)]


@pytest.mark.parametrize("place", range(len(PLAIN) - 1))
def test_S19_S37_a_missing_event_costs_the_answer_only_where_it_held_text(place: int) -> None:
    """The gap is told; what the whole text confirms is complete, and text that nothing confirms reaches no reader."""
    stream = PLAIN[:place] + PLAIN[place + 1 :]
    if place in (1, 3, 4):  # the item's beginning, and both deltas
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
def test_S19_S37_two_events_in_the_wrong_order_are_an_error_or_the_same_answer(place: int) -> None:
    """Text that changed places is never complete, and reaches no reader."""
    stream = list(PLAIN)
    stream[place], stream[place + 1] = stream[place + 1], stream[place]
    session = ResponsesSession()
    if place in (3, 4):
        with pytest.raises(errors.StreamProtocolError):
            feed(session, stream)
        assert "ab".startswith(session.outcome().content)
    else:
        assert feed(session, stream) == session.close().content == "ab"


def test_S37_text_behind_a_gap_waits_for_the_whole_text() -> None:
    """A gateway that keeps some events to itself leaves gaps; the text comes when its part is told whole."""
    stream = [event for event in PLAIN if event["type"] != "response.content_part.added"]
    session = ResponsesSession()
    assert [feed(session, [event]) for event in stream] == ["", "", "", "", "ab", "", "", ""]
    assert session.close().content == "ab"


@pytest.mark.parametrize("number", [0, -1, None, "x", 1.5, True, [], 10**30])
def test_S37_numbers_that_say_nothing_cost_nothing(number: Any) -> None:
    """The same in all events: text streams as ever, and one doubt is noted."""
    stream = [{**event, "sequence_number": number} for event in PLAIN]
    result = outcome(*stream)
    assert (result.content, len(result.doubts)) == ("ab", 1)
    session = ResponsesSession()
    assert [feed(session, [event]) for event in stream[:5]] == ["", "", "", "a", "b"]


@pytest.mark.parametrize("place", range(len(PLAIN)))
@pytest.mark.parametrize("number", [0, 50, -1, "7", None])
def test_S37_one_wrong_number_costs_nothing(place: int, number: Any) -> None:
    """Wherever it is, the numbers before and after it being right."""
    stream = list(PLAIN)
    stream[place] = {**stream[place], "sequence_number": number}
    assert outcome(*stream).content == "ab"


def test_S37_equal_events_count_each_where_numbers_are_no_numbers() -> None:
    """Only numbers that are right tell a repetition from a text that repeats itself."""
    stream = [CREATED, *text_item(0, "ha", "ha", "ha"), end(output=[message_item("hahaha")])]
    assert outcome(*({**event, "sequence_number": 3} for event in stream)).content == "hahaha"


@pytest.mark.parametrize("number", [0, 1, 99, -1, None, "x"])
@pytest.mark.parametrize("kind", ["error", "response.failed"])
def test_S37_an_error_with_a_wrong_number_is_that_error(kind: str, number: Any) -> None:
    """A gateway that makes it up does not know the number."""
    error = {"code": "rate_limit_exceeded", "message": "slow down"}
    event = {"type": kind, "sequence_number": number, "error": error, "response": response("failed", error=error)}
    with pytest.raises(errors.RateLimitedError, match="slow down"):
        feed(ResponsesSession(), [*PLAIN[:4], event])


def test_S37_numbers_are_missed_where_nothing_tells_the_whole() -> None:
    """An end without output cannot say whether an item was lost; without a gap it need not."""
    bare = [*PLAIN[:-1], {**PLAIN[-1], "response": response("completed")}]
    assert outcome(*bare).content == "ab"
    assert outcome(*bare[:2], *bare[3:]).content == "ab"  # an item has two events at least
    with pytest.raises(errors.StreamProtocolError, match="events were lost"):
        outcome(*bare[:-1], {**bare[-1], "sequence_number": 12})
    lost = numbered(CREATED, *text_item(0, "ab"), *item(1, call("{}")), end(output=[message_item("ab"), call("{}")]))
    with pytest.raises(errors.StreamProtocolError, match="events were lost"):
        outcome(*lost[:7], *lost[9:])


@pytest.mark.parametrize("place", range(len(PLAIN)))
def test_S18_an_event_that_comes_twice_counts_once(place: int) -> None:
    """The same number with the same content is the same event."""
    assert outcome(*PLAIN[: place + 1], *PLAIN[place:]).content == "ab"


def test_S18_two_events_with_one_number_are_two_events() -> None:
    """The same number with other content is a wrong number."""
    result = outcome(*PLAIN[:4], *({**event, "sequence_number": event["sequence_number"] - 1} for event in PLAIN[4:]))
    assert (result.content, result.doubts) == ("ab", ("event 5: sequence_number is '3 after 3'",))


def test_responses_without_sequence_numbers_are_fine() -> None:
    """Early recordings and other servers have none; numbers may begin anywhere."""
    assert outcome(CREATED, *text_item(0, "ab"), end()).content == "ab"
    assert outcome(*({**event, "sequence_number": event["sequence_number"] + 7} for event in PLAIN)).content == "ab"


def test_S19_lost_text_shows_where_the_whole_text_is_told() -> None:
    """Without numbers too: the deltas must make the text of the finished part."""
    events = text_item(0, "a", "b", "c")
    with pytest.raises(errors.StreamProtocolError, match="deltas"):
        feed(ResponsesSession(), [CREATED, *events[:3], *events[4:]])


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_text_that_came_without_deltas_is_taken_from_where_it_is_told(kept: int) -> None:
    """From the finished part, and only what was not said yet."""
    events = text_item(0, "a", "b")
    stream = [event for event in events if event["type"] != "response.output_text.delta"]
    stream[2:2] = [event for event in events if event["type"] == "response.output_text.delta"][:kept]
    assert outcome(CREATED, *stream, end()).content == "ab"


def test_text_of_items_and_responses_that_were_not_streamed_counts() -> None:
    """From the finished item, or from the finished response."""
    assert outcome(CREATED, *item(0, message_item("ab")), end(output=[message_item("ab")])).content == "ab"
    assert outcome(CREATED, end(output=[message_item("a"), message_item("b")])).content == "ab"
    assert outcome(CREATED, *text_item(0, "ab"), end(output=[])).content == "ab"


def test_several_messages_are_joined_with_nothing_and_content_indexes_may_begin_at_one() -> None:
    """Text between tool calls belongs to the answer; Bedrock counts parts from one."""
    call = {"type": "web_search_call", "id": "ws", "status": "completed"}
    searching = {"type": "response.web_search_call.searching"}
    result = outcome(
        CREATED, *text_item(0, "a ", content_index=1), *item(1, call, searching), *text_item(2, "b"), end()
    )
    assert (result.content, result.unknown_events, result.tool_calls) == ("a b", 0, ())
    assert result.extra["output"][1] == call


def test_items_are_found_by_index_whatever_their_ids() -> None:
    """Copilot changes ids on the way; where there is no index, the id has to do."""
    events = text_item(0, "ab")
    for number, event in enumerate(events):
        event["item_id"] = f"changing-{number}"
    assert outcome(CREATED, *events, end()).content == "ab"
    by_id = [{**event, "item_id": "msg"} for event in text_item(0, "ab")]
    for event in by_id[1:]:
        del event["output_index"]
    assert outcome(CREATED, *by_id, end()).content == "ab"
    with pytest.raises(errors.StreamProtocolError, match="not added"):
        feed(ResponsesSession(), [CREATED, {**delta("x"), "item_id": "nobody"}])


def call(arguments: str, **fields: Any) -> dict[str, Any]:
    """A function call."""
    return {"type": "function_call", "id": "fc", "call_id": "call", "name": "f", "arguments": arguments, **fields}


def test_function_calls_are_collected_whole() -> None:
    """From deltas, from the finished item, and both; custom tools have text."""
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


def test_calls_of_a_response_that_broke_off_are_known_as_far_as_they_came() -> None:
    """Nothing streamed is lost."""
    session = ResponsesSession()
    started = item(0, call(""), {"type": "response.function_call_arguments.delta", "delta": '{"x'})[:-1]
    feed(session, [CREATED, *started])
    assert session.outcome().tool_calls == (ToolUse("call", "f", '{"x'),)
    assert session.outcome().finish_reason is None


def test_P4_incomplete_is_a_complete_message_that_was_cut_by_a_limit() -> None:
    """Its reason is the finish reason."""
    for word, reason in (("max_output_tokens", "length"), ("content_filter", "content_filter"), ("new", "new")):
        result = outcome(CREATED, *text_item(0, "ab"), end("incomplete", incomplete_details={"reason": word}))
        assert (result.content, result.finish_reason, result.provider_finish_reason) == ("ab", reason, word)
    assert outcome(CREATED, end("incomplete")).finish_reason == "incomplete"


@pytest.mark.parametrize("kind", ["failed", "cancelled"])
def test_P4_failed_is_an_error_that_keeps_the_text(kind: str) -> None:
    """Its code decides the class; the usage is known too."""
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
def test_P3_an_error_event_anywhere_is_an_error(payload: dict[str, Any], place: int) -> None:
    """With and without an `error` key."""
    with pytest.raises(errors.ProviderError, match="m"):
        feed(ResponsesSession(), [*PLAIN[:place], payload])


def test_P10_a_refusal_is_a_complete_answer_with_a_text_of_its_own() -> None:
    """From its deltas, or from the finished item."""
    deltas = [{"type": "response.refusal.delta", "content_index": 0, "delta": piece} for piece in ("I can", "not")]
    for between in (deltas, ()):
        result = outcome(CREATED, *item(0, message_item("", refusal="I cannot"), *between), end())
        assert (result.content, result.refusal, result.finish_reason) == ("", "I cannot", "refusal")


def test_reasoning_is_its_summary_else_its_text() -> None:
    """As deltas, as a finished item, or encrypted and invisible; its items are kept for going back."""
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
def test_S22_unknown_events_and_keepalives_change_nothing_anywhere(place: int) -> None:
    """Unknown ones are counted, keep-alives are signs of life."""
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
def test_S16_S24_events_out_of_place_are_protocol_errors(bad: Any) -> None:
    """Unknown items, negative indexes, wrong types; the text before is at hand."""
    session = ResponsesSession()
    feed(session, [CREATED, *text_item(0, "ab")])
    with pytest.raises(errors.StreamProtocolError):
        feed(session, [bad])
    assert session.outcome().content == "ab"


def test_S20_what_comes_after_the_end_is_absorbed() -> None:
    """Two streams glued together are the first of them."""
    assert outcome(*PLAIN, *PLAIN, b"rubbish", b"[DONE]").content == "ab"


def test_S31_surrogate_halves_are_joined_across_deltas_and_replaced_where_alone() -> None:
    r"""The whole text at the end of a part has the same halves, and is no contradiction."""
    result = outcome(CREATED, *text_item(0, "a\ud83d", "\ude00b\ud83d"), *text_item(1, "c"), end())
    assert (result.content, result.lossy) == ("a\U0001f600b\ufffdc", True)
    assert not outcome(CREATED, *text_item(0, "a\ud83d", "\ude00b"), end()).lossy


def test_an_answer_in_one_piece_has_the_same_outcome() -> None:
    """`parse` and the stream agree."""
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
def test_S4_S30_bodies_that_are_no_answer_are_typed_errors(body: bytes, kind: type[errors.LLMError]) -> None:
    """Nothing of the kind becomes an empty message."""
    with pytest.raises(kind):
        ResponsesSession().parse(body)
