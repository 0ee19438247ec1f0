"""The state machine of chat completions: what OpenAI, Azure and their imitators send, and must not send."""

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
    """A chunk with these choices."""
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": list(choices), **fields}


def choice(content: Any = None, finish: str | None = None, index: int = 0, **delta: Any) -> dict[str, Any]:
    """A choice with this delta."""
    if content is not None:
        delta["content"] = content
    return {"index": index, "delta": delta, "finish_reason": finish}


STOP = chunk(choice(finish="stop"))
DONE = "[DONE]"


def feed(session: ChatSession, items: Iterable[Any]) -> str:
    """Feed JSON values, raw bytes or `[DONE]`; the deltas together."""
    datas = [
        item if isinstance(item, bytes) else DONE.encode() if item == DONE else json.dumps(item).encode()
        for item in items
    ]
    return "".join([session.feed(ServerSentEvent(data)) for data in datas])


def outcome(*items: Any, n: int | None = None) -> Outcome:
    """What a whole stream of these comes to."""
    session = ChatSession(n)
    text = feed(session, items)
    result = session.close()
    assert result.content == text
    return result


def test_a_plain_stream_gives_its_text_and_its_end() -> None:
    """Deltas make the content; id, model and finish reason are those of the chunks."""
    result = outcome(chunk(choice("", role="assistant")), chunk(choice("Hel")), chunk(choice("lo")), STOP, DONE)
    assert (result.content, result.finish_reason, result.id, result.model) == ("Hello", "stop", "c", "m")
    assert result.complete


@pytest.mark.parametrize("cut", range(4))
def test_S1_a_stream_that_ends_early_is_truncated_and_keeps_its_text(cut: int) -> None:
    """Without a finish reason or `[DONE]` there is no success, and the outcome so far is at hand."""
    session = ChatSession()
    text = feed(session, [chunk(choice("a")), chunk(choice("b")), chunk(choice("c"))][:cut])
    with pytest.raises(errors.StreamTruncatedError if cut else errors.EmptyStreamError):
        session.close()
    assert session.outcome().content == text == "abc"[:cut]
    assert not session.outcome().complete


def test_S2_a_finish_reason_without_done_is_complete() -> None:
    """Some servers leave `[DONE]` out."""
    assert outcome(chunk(choice("a")), STOP).complete


def test_S3_done_without_a_finish_reason_is_complete() -> None:
    """Ollama sends no finish reason at all with some models."""
    result = outcome(chunk(choice("a")), DONE)
    assert result.complete
    assert result.finish_reason is None


@pytest.mark.parametrize(
    "data", [b"{", b'{"choices":', b"nonsense", b"[DONE]xyz", b'"[DONE]"x', b'{"a":1}}', b"[" * 300, b"\xff"]
)
def test_S16_S21_malformed_json_is_a_protocol_error_that_names_the_event(data: bytes) -> None:
    """Also what only begins like `[DONE]` (S21), and nesting without end; the text before stays."""
    session = ChatSession()
    feed(session, [chunk(choice("kept"))])
    with pytest.raises(errors.StreamProtocolError, match="event 2"):
        feed(session, [data])
    assert session.outcome().content == "kept"


@pytest.mark.parametrize("value", ["text", ["text"], [None]])
def test_S17_json_that_may_hold_text_and_is_no_object_is_a_protocol_error(value: Any) -> None:
    """The session cannot know what of the answer a text or a list is."""
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
def test_S24_S32_wrong_types_and_numbers_that_are_none_are_protocol_errors(bad: Any) -> None:
    """A field the answer is built from must be what the API says, or the answer would be wrong without a word."""
    with pytest.raises(errors.StreamProtocolError):
        feed(ChatSession(2), [bad])


def test_S32_of_duplicate_keys_the_last_wins_and_nan_elsewhere_does_no_harm() -> None:
    """Log probabilities of some servers are minus infinity."""
    raw = b'{"choices":[{"index":0,"delta":{"content":"a","content":"b"},"logprobs":{"content":[-Infinity]}}]}'
    result = outcome(raw, STOP)
    assert result.content == "b"
    assert result.extra["logprobs"]["content"] == [float("-inf")]


def test_S20_what_comes_after_done_is_absorbed() -> None:
    """Two streams glued together are the first of them; rubbish after the end is nothing."""
    stream = [chunk(choice("once")), STOP, DONE]
    assert outcome(*stream, *stream, b"rubbish", {"error": {"message": "late"}}).content == "once"


@pytest.mark.parametrize("place", range(4))
def test_S22_unknown_chunks_are_counted_and_change_nothing(place: int) -> None:
    """Chunks without choices, or with choices null, say nothing about the text."""
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
def test_P2_an_error_object_anywhere_is_a_typed_error(payload: Any, kind: type, retryable: bool, place: int) -> None:
    """Its words decide the class, because the HTTP status was 200."""
    session = ChatSession()
    feed(session, [chunk(choice("a")), chunk(choice("b"))][:place])
    with pytest.raises(errors.LLMError) as caught:
        feed(session, [payload])
    assert type(caught.value) is kind
    assert (caught.value.retryable, caught.value.status) == (retryable, 200)
    assert session.outcome().content == "ab"[:place]


def test_P3_an_event_called_error_is_an_error_without_an_error_key_too() -> None:
    """The name of the event is enough."""
    with pytest.raises(errors.RateLimitedError, match="slow down"):
        ChatSession().feed(ServerSentEvent(b'{"message": "slow down", "code": "rate_limit_exceeded"}', "error"))


def test_P6_usage_comes_in_a_last_chunk_without_choices() -> None:
    """With `include_usage`; counts may be floats that are whole numbers."""
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


def test_of_several_usages_the_last_one_counts() -> None:
    """Compatible servers send running totals with every chunk, or under a name of their own."""
    running = [chunk(choice("a"), usage={"prompt_tokens": 1, "completion_tokens": i}) for i in range(3)]
    result = outcome(*running, STOP, DONE)
    assert result.usage is not None
    assert result.usage.output == 2
    groq = outcome(chunk(choice("a", finish="stop"), x_groq={"usage": {"prompt_tokens": 4}}), DONE)
    assert groq.usage is not None
    assert groq.usage.input == 4


def test_P7_azure_begins_with_an_empty_chunk_and_goes_on_after_the_end() -> None:
    """Its first chunk has empty strings for id and model; chunks of its asynchronous filter have no delta."""
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


def test_P8_P9_roles_and_deltas_may_be_missing_null_or_repeated() -> None:
    """Nothing of the text depends on them."""
    deltas: list[dict[str, Any]] = [
        {"index": 0, "delta": {"content": "a"}},
        {"index": 0, "delta": {"role": "assistant", "content": "b"}},
        {"index": 0, "delta": None},
        {"index": 0},
        {"delta": {"content": "c", "role": None}},
        {"index": 0, "delta": {"content": None}},
    ]
    assert outcome(*map(chunk, deltas), STOP, DONE).content == "abc"


def test_P10_a_refusal_is_a_complete_answer_with_a_text_of_its_own() -> None:
    """It is no error, and its words are not the content."""
    result = outcome(chunk(choice(refusal="I can")), chunk(choice(refusal="not")), STOP, DONE)
    assert (result.content, result.refusal, result.finish_reason) == ("", "I cannot", "refusal")
    assert result.provider_finish_reason == "stop"


CALLS = [("call_a", "f", ['{"x"', ":1}"]), ("call_b", "g", ["{}"]), ("call_c", "f", ["", '{"y"', ":2", "}"])]


def _fragments() -> list[list[dict[str, Any]]]:
    """For each call: its first fragment, with id and name, and the others."""
    return [
        [
            {"index": i, "id": id_, "type": "function", "function": {"name": name, "arguments": ""}},
            *({"index": i, "function": {"arguments": piece}} for piece in pieces),
        ]
        for i, (id_, name, pieces) in enumerate(CALLS)
    ]


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
@pytest.mark.parametrize("at_once", [False, True])
def test_P11_tool_calls_are_put_together_in_any_order_of_their_fragments(order: tuple[int, ...], at_once: bool) -> None:
    """Calls one after the other, interleaved, and several fragments in one chunk give the same calls."""
    queues = [list(fragments) for fragments in _fragments()]
    mixed = []
    while any(queues):
        mixed += [queues[i].pop(0) for i in order if queues[i]]
    chunks = [chunk(choice(tool_calls=mixed))] if at_once else [chunk(choice(tool_calls=[piece])) for piece in mixed]
    result = outcome(*chunks, chunk(choice(finish="tool_calls")), DONE)
    assert result.tool_calls == tuple(ToolUse(id_, name, "".join(pieces)) for id_, name, pieces in CALLS)
    assert result.finish_reason == "tool_calls"


@pytest.mark.parametrize("index", [0, None])
def test_P11_a_new_id_at_the_same_index_is_a_new_call(index: int | None) -> None:
    """Ollama gives every call index 0, Gemini none; some repeat the id in each fragment."""
    whole = [{"index": index, "id": id_, "function": {"name": name, "arguments": "".join(p)}} for id_, name, p in CALLS]
    for calls in ([chunk(choice(tool_calls=whole))], [chunk(choice(tool_calls=[call])) for call in whole]):
        result = outcome(*calls, STOP, DONE)
        assert [call.id for call in result.tool_calls] == ["call_a", "call_b", "call_c"]
    pieces = [{"index": index, "id": "call_a", "function": {"name": "f", "arguments": piece}} for piece in '{"x":1}']
    result = outcome(*(chunk(choice(tool_calls=[piece])) for piece in pieces), STOP, DONE)
    assert result.tool_calls == (ToolUse("call_a", "f", '{"x":1}'),)


def test_P11_calls_without_ids_and_indexes_are_told_apart_by_their_names() -> None:
    """A name begins a call; arguments null are no arguments."""
    calls = [{"function": {"name": name, "arguments": None}} for name in ("f", "g")]
    result = outcome(*(chunk(choice(tool_calls=[call])) for call in calls), STOP, DONE)
    assert result.tool_calls == (ToolUse("", "f", ""), ToolUse("", "g", ""))


def test_the_old_function_call_and_custom_tools_are_tool_calls_too() -> None:
    """`function_call` came before tool calls; a custom tool has text for arguments."""
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
def test_P13_the_finish_reason_is_normalised_and_the_providers_word_is_kept(word: str, reason: str) -> None:
    """A cut answer says so; a word nobody knows comes through as it is."""
    result = outcome(chunk(choice("a")), chunk(choice(finish=word)), DONE)
    assert (result.finish_reason, result.provider_finish_reason) == (reason, word)


def test_several_choices_are_kept_apart() -> None:
    """The content is choice 0; the others come in `choices`; it is complete when each has ended."""
    stream = [chunk(choice("a", index=i % 2)) for i in range(4)] + [chunk(choice(" x", index=1), choice(" y"))]
    ends = [chunk(choice(finish="stop", index=i)) for i in (1, 0)]
    result = outcome(*stream, *ends)
    assert result.content == "aa y"
    assert [(other.index, other.content, other.finish_reason) for other in result.choices] == [(1, "aa x", "stop")]
    with pytest.raises(errors.StreamTruncatedError):
        outcome(*stream, ends[0])
    with pytest.raises(errors.StreamTruncatedError):
        outcome(chunk(choice("a")), STOP, n=2)


def test_reasoning_comes_under_several_names_and_in_parts() -> None:
    """`reasoning_content`, `reasoning`, both with the same text, or typed parts of the content."""
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


def test_P12_what_else_the_provider_says_is_kept() -> None:
    """Lists grow, other unknown fields keep their last value, audio is joined, random letters (P12) are dropped."""
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


def test_signs_of_life_are_told_from_progress() -> None:
    """Empty deltas and empty chunks say that the server lives, not that the answer grows."""
    session = ChatSession()
    feed(session, [chunk(choice("", role="assistant")), chunk(), chunk(choice("a")), chunk(choice(""))])
    assert (session.events, session.idle_events) == (4, 3)
    feed(session, [chunk(choice(reasoning_content="hm")), chunk(usage={"prompt_tokens": 1})])
    assert session.idle_events == 3


# --- half characters


@given(text=st.text(st.sampled_from("ab\U0001f600\U0001f680é"), max_size=12), data=st.data())
def test_S31_surrogate_halves_are_joined_wherever_a_stream_cuts_them(text: str, data: st.DataObject) -> None:
    r"""JSON may spell a character as two escapes, and two deltas may have one each."""
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
def test_S31_halves_that_stay_alone_are_replaced_and_told(pieces: list[str]) -> None:
    """No text that comes out has half a character in it, and the message says that something was lost."""
    call = {"index": 0, "id": "i", "function": {"name": "f", "arguments": "".join(pieces)}}
    result = outcome(*(chunk(choice(piece)) for piece in pieces), chunk(choice(tool_calls=[call])), STOP, DONE)
    whole = "".join(pieces).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert (result.content, result.tool_calls[0].arguments) == (whole, whole)
    assert result.lossy == ("\ufffd" in whole)


# --- not streamed


def test_an_answer_in_one_piece_has_the_same_outcome() -> None:
    """`parse` and the stream agree on everything."""
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
def test_S4_S30_bodies_that_are_no_answer_are_typed_errors(body: bytes, kind: type[errors.LLMError]) -> None:
    """Nothing of the kind becomes an empty message."""
    with pytest.raises(kind):
        ChatSession().parse(body)
