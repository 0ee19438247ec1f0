"""The session of chat completions, which reads the chunks of OpenAI, Azure and compatible servers into an outcome."""

from __future__ import annotations

import json
from itertools import pairwise, permutations
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents import errors
from miniagents.ext.llm._sessions import ChatSession, Outcome, ToolUse
from miniagents.ext.llm.sse import ServerSentEvent

if TYPE_CHECKING:
    from collections.abc import Iterable


def chunk(*choices: dict[str, Any] | None, **fields: Any) -> dict[str, Any]:
    """Return a chunk with these choices."""
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": list(choices), **fields}


def choice(content: Any = None, finish: str | None = None, index: int = 0, **delta: Any) -> dict[str, Any]:
    """Return a choice with this delta."""
    if content is not None:
        delta["content"] = content
    return {"index": index, "delta": delta, "finish_reason": finish}


STOP = chunk(choice(finish="stop"))
DONE = "[DONE]"


def feed(session: ChatSession, items: Iterable[Any]) -> str:
    """Feed JSON values, raw bytes or `[DONE]`, and return the joined deltas."""
    datas = [
        item if isinstance(item, bytes) else DONE.encode() if item == DONE else json.dumps(item).encode()
        for item in items
    ]
    return "".join([session.feed(ServerSentEvent(data)) for data in datas])


def outcome(*items: Any, n: int | None = None) -> Outcome:
    """Return the outcome of a whole stream of these events."""
    session = ChatSession(n)
    text = feed(session, items)
    result = session.close()
    assert result.content == text
    return result


def test_session_returns_text_id_model_and_finish_reason_of_a_stream() -> None:
    """The outcome of a plain chat stream has its joined deltas, id, model and finish reason."""
    result = outcome(chunk(choice("", role="assistant")), chunk(choice("Hel")), chunk(choice("lo")), STOP, DONE)
    assert (result.content, result.finish_reason, result.id, result.model) == ("Hello", "stop", "c", "m")
    assert result.complete


@pytest.mark.parametrize("cut", range(4))
def test_S1_session_raises_truncated_error_when_a_stream_ends_early(cut: int) -> None:
    """A stream without a finish reason or `[DONE]` is an error, and the outcome has the text so far."""
    session = ChatSession()
    text = feed(session, [chunk(choice("a")), chunk(choice("b")), chunk(choice("c"))][:cut])
    with pytest.raises(errors.StreamTruncatedError if cut else errors.EmptyStreamError):
        session.close()
    assert session.outcome().content == text == "abc"[:cut]
    assert not session.outcome().complete


def test_S2_session_is_complete_after_a_finish_reason() -> None:
    """A finish reason completes an answer, because some servers send no `[DONE]`."""
    assert outcome(chunk(choice("a")), STOP).complete


def test_S3_session_is_complete_after_done() -> None:
    """`[DONE]` completes an answer, because Ollama sends no finish reason with some models."""
    result = outcome(chunk(choice("a")), DONE)
    assert result.complete
    assert result.finish_reason is None


@pytest.mark.parametrize(
    "data",
    [b"{", b'{"choices":', b"nonsense", b"[DONE]xyz", b"[DONE]{}", b'"[DONE]"x', b'{"a":1}}', b"[" * 300, b"\xff"],
)
def test_S16_S21_malformed_json_raises_protocol_error_with_the_event_number(data: bytes) -> None:
    """Malformed JSON, text after `[DONE]` and endless nesting are errors, and the text so far stays."""
    session = ChatSession()
    feed(session, [chunk(choice("kept"))])
    with pytest.raises(errors.StreamProtocolError, match="event 2"):
        feed(session, [data])
    assert session.outcome().content == "kept"


@pytest.mark.parametrize("value", ["text", ["text"], [None]])
def test_S17_string_or_list_raises_protocol_error(value: Any) -> None:
    """An event that is a string or a list is an error, because it may hold text of the answer."""
    with pytest.raises(errors.StreamProtocolError, match="not a JSON object"):
        feed(ChatSession(), [value])


@pytest.mark.parametrize(
    "bad",
    [
        chunk(choice(index=-1)),
        chunk({"index": 1.5, "delta": {}}),
        chunk({"index": True, "delta": {}}),
        chunk({"index": 0, "delta": "text"}),
        chunk({"index": 0, "delta": {"content": 5}}),
        chunk({"index": 0, "delta": {"refusal": 5}}),
        chunk({"index": 0, "delta": {}, "finish_reason": 1}),
        {"choices": {"index": 0}},
        b'{"choices":[{"index":NaN,"delta":{}}]}',
        chunk(choice(tool_calls=[5])),
        chunk(choice(tool_calls={"index": 0})),
        chunk(choice(tool_calls=[{"index": 0, "function": "f"}])),
    ],
    ids=str,
)
def test_S24_S32_wrong_type_in_a_chunk_raises_protocol_error(bad: Any) -> None:
    """A wrong type or number in a field that the answer is made of is an error."""
    with pytest.raises(errors.StreamProtocolError):
        feed(ChatSession(2), [bad])


def test_S32_last_of_equal_keys_counts_and_infinity_is_accepted() -> None:
    """The last of equal keys counts; infinite log probabilities, as some servers send them, are kept."""
    raw = b'{"choices":[{"index":0,"delta":{"content":"a","content":"b"},"logprobs":{"content":[-Infinity]}}]}'
    result = outcome(raw, STOP)
    assert result.content == "b"
    assert result.extra["logprobs"]["content"] == [float("-inf")]


def test_S20_session_ignores_events_after_done() -> None:
    """Chunks of a second stream, malformed data and errors after `[DONE]` change nothing."""
    stream = [chunk(choice("once")), STOP, DONE]
    assert outcome(*stream, *stream, b"rubbish", {"error": {"message": "late"}}).content == "once"


@pytest.mark.parametrize("place", range(4))
def test_S22_chunks_without_choices_change_nothing(place: int) -> None:
    """Unknown chunks, and chunks without choices, change neither text nor finish reason at any place."""
    stream: list[Any] = [chunk(choice("a")), chunk(choice("b")), STOP, DONE]
    for unknown in ({"object": "something.new", "x": 1}, chunk(choices=None), {}):
        result = outcome(*stream[:place], unknown, *stream[place:])
        assert (result.content, result.finish_reason) == ("ab", "stop")


@pytest.mark.parametrize(
    ("payload", "kind", "retryable"),
    [
        ({"error": {"message": "m", "type": "server_error"}}, errors.ProviderError, True),
        ({"error": {"message": "m", "code": "rate_limit_exceeded"}}, errors.RateLimitedError, True),
        ({"error": {"message": "m", "code": "insufficient_quota"}}, errors.RateLimitedError, False),
        ({"error": {"message": "m", "code": 429}}, errors.RateLimitedError, True),
        ({"error": {"message": "m", "code": 503}}, errors.ProviderOverloadedError, True),
        ({"error": {"message": "m", "type": "overloaded_error"}}, errors.ProviderOverloadedError, True),
        ({"error": {"message": "m", "type": "invalid_request_error"}}, errors.RequestRejectedError, False),
        ({"error": {"message": "m", "code": "invalid_api_key"}}, errors.AuthenticationFailedError, False),
        ({"error": "just a text"}, errors.ProviderError, True),
        ({"object": "error", "message": "m", "code": 400}, errors.RequestRejectedError, False),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_P2_error_object_raises_the_error_of_its_words(payload: Any, kind: type, retryable: bool, place: int) -> None:
    """An error object at any place raises the class that its type or code names, and the text so far stays."""
    session = ChatSession()
    feed(session, [chunk(choice("a")), chunk(choice("b"))][:place])
    with pytest.raises(errors.LLMError) as caught:
        feed(session, [payload])
    assert type(caught.value) is kind
    assert (caught.value.retryable, caught.value.status) == (retryable, 200)
    assert session.outcome().content == "ab"[:place]


def test_P3_event_named_error_raises_an_error_without_an_error_key() -> None:
    """An event with the name `error` raises an error, even if its data have no key `error`."""
    with pytest.raises(errors.RateLimitedError, match="slow down"):
        ChatSession().feed(ServerSentEvent(b'{"message": "slow down", "code": "rate_limit_exceeded"}', "error"))


def test_P6_session_reads_the_usage_of_a_chunk_without_choices() -> None:
    """The usage is read from a last chunk without choices, even if its counts are floats."""
    usage = {
        "prompt_tokens": 7,
        "completion_tokens": 3.0,
        "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    result = outcome(chunk(choice("a"), usage=None), chunk(choice(finish="stop"), usage=None), chunk(usage=usage), DONE)
    assert result.usage is not None
    tokens = result.usage
    assert (tokens.input, tokens.output, tokens.cached, tokens.reasoning, tokens.total) == (7, 3, 2, 1, 10)
    assert result.raw_usage == usage


def test_last_of_several_usages_counts() -> None:
    """If several chunks have a usage, the last one counts; a usage under `x_groq` is read, too."""
    running = [chunk(choice("a"), usage={"prompt_tokens": 1, "completion_tokens": i}) for i in range(3)]
    result = outcome(*running, STOP, DONE)
    assert result.usage is not None
    assert result.usage.output == 2
    groq = outcome(chunk(choice("a", finish="stop"), x_groq={"usage": {"prompt_tokens": 4}}), DONE)
    assert groq.usage is not None
    assert groq.usage.input == 4


def test_P7_session_reads_the_first_and_last_chunks_of_azure() -> None:
    """Azure's first chunk with empty strings, and its filter's chunks after the end, leave text and id unchanged."""
    filters = {"hate": {"filtered": False}}
    result = outcome(
        {
            "choices": [],
            "created": 0,
            "id": "",
            "model": "",
            "object": "",
            "prompt_filter_results": [{"prompt_index": 0}],
        },
        chunk(choice("a") | {"content_filter_results": {}}),
        STOP,
        {"choices": [{"index": 0, "finish_reason": None, "content_filter_results": filters}], "id": "", "model": ""},
        DONE,
    )
    assert (result.content, result.id, result.model, result.finish_reason) == ("a", "c", "m", "stop")
    assert result.extra["prompt_filter_results"] == [{"prompt_index": 0}]
    assert result.extra["content_filter_results"] == filters


def test_P8_P9_session_accepts_missing_null_and_repeated_roles_and_deltas() -> None:
    """Chunks with missing, null or repeated roles or deltas give the complete text."""
    deltas: list[dict[str, Any]] = [
        {"index": 0, "delta": {"content": "a"}},
        {"index": 0, "delta": {"role": "assistant", "content": "b"}},
        {"index": 0, "delta": None},
        {"index": 0},
        {"delta": {"content": "c", "role": None}},
        {"index": 0, "delta": {"content": None}},
    ]
    assert outcome(*map(chunk, deltas), STOP, DONE).content == "abc"


def test_P10_refusal_is_a_complete_answer_with_its_text_in_refusal() -> None:
    """A refusal is no error: its text is in `refusal`, the content is empty."""
    result = outcome(chunk(choice(refusal="I can")), chunk(choice(refusal="not")), STOP, DONE)
    assert (result.content, result.refusal, result.finish_reason) == ("", "I cannot", "refusal")
    assert result.provider_finish_reason == "stop"


CALLS = [("call_a", "f", ['{"x"', ":1}"]), ("call_b", "g", ["{}"]), ("call_c", "f", ["", '{"y"', ":2", "}"])]


def _fragments() -> list[list[dict[str, Any]]]:
    """Return the fragments of each call: the first with id and name, then the others."""
    return [
        [
            {"index": i, "id": id_, "type": "function", "function": {"name": name, "arguments": ""}},
            *({"index": i, "function": {"arguments": piece}} for piece in pieces),
        ]
        for i, (id_, name, pieces) in enumerate(CALLS)
    ]


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
@pytest.mark.parametrize("at_once", [False, True])
def test_P11_fragments_in_any_order_make_the_same_tool_calls(order: tuple[int, ...], at_once: bool) -> None:
    """Fragments of several calls, one call after the other, interleaved or in one chunk, make the same calls."""
    queues = [list(fragments) for fragments in _fragments()]
    mixed = []
    while any(queues):
        mixed += [queues[i].pop(0) for i in order if queues[i]]
    chunks = [chunk(choice(tool_calls=mixed))] if at_once else [chunk(choice(tool_calls=[piece])) for piece in mixed]
    result = outcome(*chunks, chunk(choice(finish="tool_calls")), DONE)
    assert result.tool_calls == tuple(ToolUse(id_, name, "".join(pieces)) for id_, name, pieces in CALLS)
    assert result.finish_reason == "tool_calls"


@pytest.mark.parametrize("index", [0, None])
def test_P11_new_id_with_the_same_index_begins_a_call(index: int | None) -> None:
    """If all fragments have index 0 or none, a new id begins a call, and a repeated id continues one."""
    whole = [{"index": index, "id": id_, "function": {"name": name, "arguments": "".join(p)}} for id_, name, p in CALLS]
    for calls in ([chunk(choice(tool_calls=whole))], [chunk(choice(tool_calls=[call])) for call in whole]):
        result = outcome(*calls, STOP, DONE)
        assert [call.id for call in result.tool_calls] == ["call_a", "call_b", "call_c"]
    pieces = [{"index": index, "id": "call_a", "function": {"name": "f", "arguments": piece}} for piece in '{"x":1}']
    result = outcome(*(chunk(choice(tool_calls=[piece])) for piece in pieces), STOP, DONE)
    assert result.tool_calls == (ToolUse("call_a", "f", '{"x":1}'),)


def test_P11_new_name_without_id_and_index_begins_a_call() -> None:
    """Without ids and indexes, a fragment with a name begins a call; null arguments count as empty."""
    calls = [{"function": {"name": name, "arguments": None}} for name in ("f", "g")]
    result = outcome(*(chunk(choice(tool_calls=[call])) for call in calls), STOP, DONE)
    assert result.tool_calls == (ToolUse("", "f", ""), ToolUse("", "g", ""))


def test_session_returns_function_call_and_custom_tools_as_tool_calls() -> None:
    """The older `function_call` field and calls of custom tools become `tool_calls` of the outcome."""
    old = [
        chunk(choice(function_call={"name": "f", "arguments": "{"})),
        chunk(choice(function_call={"arguments": "}"})),
    ]
    result = outcome(*old, chunk(choice(finish="function_call")), DONE)
    assert (result.tool_calls, result.finish_reason) == ((ToolUse("", "f", "{}"),), "tool_calls")
    custom = {"index": 0, "id": "c", "type": "custom", "custom": {"name": "sql", "input": "select 1"}}
    result = outcome(chunk(choice(tool_calls=[custom])), STOP, DONE)
    assert result.tool_calls == (ToolUse("c", "sql", "select 1", "custom"),)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("eos", "stop"),
        ("new_word", "new_word"),
    ],
)
def test_P13_finish_reason_is_normalised_and_the_providers_word_is_kept(word: str, reason: str) -> None:
    """A known finish reason is translated, an unknown one stays; `provider_finish_reason` has the provider's word."""
    result = outcome(chunk(choice("a")), chunk(choice(finish=word)), DONE)
    assert (result.finish_reason, result.provider_finish_reason) == (reason, word)


def test_session_separates_choices_and_needs_the_end_of_each() -> None:
    """Choice 0 is the content, `choices` holds the others, and a stream is complete when each choice has ended."""
    stream = [chunk(choice("a", index=i % 2)) for i in range(4)] + [chunk(choice(" x", index=1), choice(" y"))]
    ends = [chunk(choice(finish="stop", index=i)) for i in (1, 0)]
    result = outcome(*stream, *ends)
    assert result.content == "aa y"
    assert [(other.index, other.content, other.finish_reason) for other in result.choices] == [(1, "aa x", "stop")]
    with pytest.raises(errors.StreamTruncatedError):
        outcome(*stream, ends[0])
    with pytest.raises(errors.StreamTruncatedError):
        outcome(chunk(choice("a")), STOP, n=2)


def test_session_reads_reasoning_under_several_names_and_in_parts() -> None:
    """Reasoning is read once, by two names or from typed parts; text parts are joined, and unknown ones counted."""
    for delta in (
        {"reasoning_content": "think"},
        {"reasoning": "think"},
        {"reasoning": "think", "reasoning_content": "think"},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "think"}]}]},
        {"content": [{"type": "thinking", "thinking": "think"}]},
    ):
        result = outcome(
            chunk(choice(**delta)), chunk(choice(content_parts_follow=None)), chunk(choice("a")), STOP, DONE
        )
        assert (result.reasoning, result.content) == ("think", "a")
    parts = [{"type": "text", "text": "a"}, "b", {"type": "reference", "ids": [1]}]
    result = outcome(chunk(choice(parts)), STOP, DONE)
    assert (result.content, result.unknown_events) == ("ab", 1)


def test_P12_outcome_has_further_fields_without_obfuscation() -> None:
    """In `extra`, lists grow, texts in objects join, other fields keep the last value, and `obfuscation` is dropped."""
    result = outcome(
        chunk(choice("a", annotations=[1]), system_fingerprint="fp", obfuscation="xYz"),
        chunk(choice("b", annotations=[2], mood="calm"), citations=["u"], system_fingerprint="fp"),
        chunk(choice(audio={"id": "au", "data": "AA", "transcript": "he"})),
        chunk(choice(audio={"data": "BB", "transcript": "y"}, annotations=None)),
        chunk(choice("c") | {"logprobs": {"content": [1], "refusal": None}}),
        chunk(choice("d") | {"logprobs": {"content": [2]}}),
        chunk(choice(finish="stop"), service_tier="default", obfuscation="q"),
        DONE,
    )
    assert result.extra == {
        "annotations": [1, 2],
        "audio": {"id": "au", "data": "AABB", "transcript": "hey"},
        "citations": ["u"],
        "logprobs": {"content": [1, 2], "refusal": None},
        "mood": "calm",
        "service_tier": "default",
        "system_fingerprint": "fp",
    }


def test_session_counts_empty_deltas_and_chunks_as_idle_events() -> None:
    """Empty deltas and chunks are idle events; text, reasoning and usage are progress."""
    session = ChatSession()
    feed(session, [chunk(choice("", role="assistant")), chunk(), chunk(choice("a")), chunk(choice(""))])
    assert (session.events, session.idle_events) == (4, 3)
    feed(session, [chunk(choice(reasoning_content="hm")), chunk(usage={"prompt_tokens": 1})])
    assert session.idle_events == 3


# --- halves of surrogate pairs


@given(text=st.text(st.sampled_from("ab\U0001f600\U0001f680é"), max_size=12), data=st.data())
def test_S31_session_joins_surrogate_halves_of_different_deltas(text: str, data: st.DataObject) -> None:
    """A character that JSON writes as two escapes is whole, even if two deltas have one escape each."""
    units = text.encode("utf-16-le", "surrogatepass")
    halves = [units[i : i + 2].decode("utf-16-le", "surrogatepass") for i in range(0, len(units), 2)]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(halves)))))
    edges = [0, *cuts, len(halves)]
    pieces = ["".join(halves[start:end]) for start, end in pairwise(edges)]
    result = outcome(*(chunk(choice(piece, reasoning_content=piece)) for piece in pieces), STOP, DONE)
    assert result.content == text
    assert (result.reasoning or "") == text
    assert not result.lossy


@given(st.lists(st.text(st.sampled_from("a\ud83d\ude00é"), max_size=4), max_size=6))
def test_S31_lone_surrogates_are_replaced_and_set_lossy(pieces: list[str]) -> None:
    """The outcome has U+FFFD for each lone surrogate in content and arguments, and `lossy` is True only then."""
    call = {"index": 0, "id": "i", "function": {"name": "f", "arguments": "".join(pieces)}}
    result = outcome(*(chunk(choice(piece)) for piece in pieces), chunk(choice(tool_calls=[call])), STOP, DONE)
    whole = "".join(pieces).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert (result.content, result.tool_calls[0].arguments) == (whole, whole)
    assert result.lossy == ("\ufffd" in whole)


def test_S31_a_call_after_one_with_half_a_surrogate_pair_is_a_call_of_its_own() -> None:
    """A call without an id and an index begins after arguments that are whole, also with half a surrogate pair."""
    call = {"function": {"name": "f", "arguments": '{"a": "\ud83d"}'}}
    result = outcome(*(chunk(choice(tool_calls=[call])) for _ in range(2)), STOP, DONE)
    assert [call.arguments for call in result.tool_calls] == ['{"a": "\ufffd"}'] * 2


# --- not streamed


def test_parse_returns_the_same_outcome_as_a_stream() -> None:
    """`parse` of a document with two choices, a call and reasoning gives an outcome equal to that of its stream."""
    call = {"id": "i", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    messages = [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "a", "refusal": None, "tool_calls": [call]},
            "finish_reason": "stop",
        },
        {"index": 1, "message": {"role": "assistant", "content": None, "reasoning": "r"}, "finish_reason": "length"},
    ]
    body = {"id": "c", "model": "m", "object": "chat.completion", "choices": messages, "usage": usage}
    parsed = ChatSession().parse(json.dumps(body).encode())
    streamed = outcome(
        chunk(choice("a", tool_calls=[{"index": 0, **call}])),
        chunk(choice(reasoning="r", index=1)),
        chunk(choice(finish="stop"), choice(finish="length", index=1), usage=usage),
        DONE,
    )
    assert parsed == streamed


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", errors.EmptyStreamError),
        (b" \n", errors.EmptyStreamError),
        (b"<html>", errors.StreamProtocolError),
        (b"[]", errors.StreamProtocolError),
        (b"{}", errors.StreamProtocolError),
        (b'{"choices":[]}', errors.StreamProtocolError),
        (b'{"choices":[{"index":0}]}', errors.StreamProtocolError),
        (b'{"error":{"message":"m","type":"server_error"}}', errors.ProviderError),
    ],
)
def test_S4_S30_parse_raises_an_error_when_a_body_is_no_answer(body: bytes, kind: type[errors.LLMError]) -> None:
    """`parse` raises the error of its kind for an empty body, a page, another JSON value and an error document."""
    with pytest.raises(kind):
        ChatSession().parse(body)
