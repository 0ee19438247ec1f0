"""Choices with unusual indexes, and failures that are reported inside of an answer."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from short_answers import DONE, changed, chunk, read, session_of

from miniagents import errors
from miniagents.ext.llm._failures import Retry
from miniagents.ext.llm._sessions import ChatSession, ToolUse
from miniagents.ext.llm.openai import create_openai_agent
from miniagents.ext.llm.sse import ServerSentEvent
from miniagents.miniagents import MiniAgents

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.ext.llm.conftest import Kit

CALL: dict[str, Any] = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}

# --- choices


@pytest.mark.parametrize("first", [0, 1, 5])
@pytest.mark.parametrize("n", [1, None])
def test_P21_chat_session_ignores_indexes_that_number_the_chunks(first: int, n: int | None) -> None:
    """If `n` is 1 or absent, chunks whose choice index rises with each chunk make one answer."""
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hm"},
        {"content": "Hel"},
        {"content": "lo"},
        {"tool_calls": [{"index": 0, **CALL}]},
        {},
    ]
    events = [chunk(index=first + i, delta=delta) for i, delta in enumerate(deltas)]
    events[-1]["choices"][0]["finish_reason"] = "tool_calls"
    outcome = read("chat", *events, n=n or 1)
    assert (outcome.content, outcome.reasoning, outcome.finish_reason) == ("Hello", "hm", "tool_calls")
    assert (outcome.tool_calls, outcome.choices) == ((ToolUse("c1", "f", '{"x":1}'),), ())
    assert len(outcome.doubts) == 1


def test_P21_chat_session_returns_one_choice_when_every_chunk_has_a_role() -> None:
    """Chunks with a role each and rising indexes make one answer, even if some chunks are empty."""
    for texts in (["Hel", "", "lo"], ["", "", "Hello"], [None, "Hel", None, "lo"]):
        events = [chunk(index=i, delta={"role": "assistant", "content": text}) for i, text in enumerate(texts)]
        assert read("chat", *events, chunk(finish="stop", index=9)).content == "Hello"
    pieces: list[dict[str, Any]] = [{**CALL, "index": 0}, {"index": 0, "function": {"arguments": " "}}]
    events = [chunk(index=i, delta={"role": "assistant", "tool_calls": [piece]}) for i, piece in enumerate(pieces)]
    assert read("chat", *events, chunk(finish="stop", index=2)).tool_calls == (ToolUse("c1", "f", '{"x":1} '),)


def test_P21_chat_session_separates_choices_when_n_is_not_1_or_a_role_begins_one() -> None:
    """Each index is a choice if `n` is unknown or above 1, or once a chunk with a role and no text begins another."""
    roles = [chunk(index=i, delta={"role": "assistant", "content": ""}) for i in range(2)]
    texts = [chunk(text, index=i % 2) for i, text in enumerate("adbe")]
    ends = [chunk(finish="stop", index=i) for i in range(2)]
    for n, events in ((2, texts), (1, [roles[0], texts[0], roles[1], *texts[1:]]), (None, texts)):
        outcome = read("chat", *events, *ends, n=n)
        assert (outcome.content, [choice.content for choice in outcome.choices]) == ("ab", ["de"])


def test_P21_chat_session_raises_protocol_error_for_a_negative_index() -> None:
    """If several choices were asked for, a chunk with the index -1 raises `StreamProtocolError`."""
    with pytest.raises(errors.StreamProtocolError, match="2 choices"):
        read("chat", chunk("a", index=-1), n=2)


ROLE: dict[str, Any] = {"delta": {"role": "assistant", "content": ""}}


@pytest.mark.parametrize(
    "events",
    [
        [chunk(**ROLE), chunk("Hel"), chunk(index=1, **ROLE), chunk("lo", index=1), chunk(finish="stop", index=1)],
        [chunk(**ROLE), chunk("Hel"), chunk(index=1, **ROLE), chunk("lo", "stop", index=2)],
        [chunk(**ROLE), chunk("Hel"), chunk("lo"), chunk(finish="stop", index=1, **ROLE)],
        [
            *(
                each
                for i, text in enumerate(["H", "el", "lo"])
                for each in (chunk(index=i, **ROLE), chunk(text, index=i))
            ),
            chunk(finish="stop", index=3),
        ],
    ],
    ids=["second role", "rising indexes", "role at the end", "role before each text"],
)
def test_P21_chat_session_joins_text_after_a_further_role_when_the_first_choice_does_not_go_on(events: Any) -> None:
    """If `n` is 1, text after a chunk with a further role belongs to the answer, unless the first choice goes on."""
    outcome = read("chat", *events, b"[DONE]")
    assert (outcome.content, outcome.finish_reason, outcome.choices) == ("Hello", "stop", ())
    assert len(outcome.doubts) == 1


def test_P21_chat_session_joins_fragments_of_a_call_after_a_further_role() -> None:
    """The fragments of one tool call stay one call if a further role begins another index before them."""
    pieces: list[dict[str, Any]] = [
        {"index": 0, "id": "c1", "function": {"name": "f", "arguments": '{"x"'}},
        {"index": 0, "function": {"arguments": ":1}"}},
    ]
    calls = [chunk(index=2 + i, delta={"tool_calls": [piece]}) for i, piece in enumerate(pieces)]
    events = [chunk(**ROLE), chunk("Hi"), chunk(index=1, **ROLE), *calls, chunk(finish="tool_calls", index=4)]
    outcome = read("chat", *events, b"[DONE]")
    assert (outcome.content, outcome.tool_calls) == ("Hi", (ToolUse("c1", "f", '{"x":1}'),))


def test_P21_chat_session_separates_choices_when_two_of_them_finish() -> None:
    """A further role begins another choice if both choices have a finish reason, or the first one had ended before."""
    second = [chunk(index=1, **ROLE), chunk("b", index=1)]
    ends = [chunk(finish="stop", index=i) for i in range(2)]
    for events in ([*second, *ends], [ends[0], *second, ends[1]]):
        outcome = read("chat", chunk(**ROLE), chunk("a"), *events, b"[DONE]")
        assert (outcome.content, [choice.content for choice in outcome.choices]) == ("a", ["b"])


def test_P21_parse_separates_choices_by_position_when_their_indexes_contradict() -> None:
    """Choices of a document are told apart by index, or by position if indexes contradict; choice 0 is the content."""
    for indexes, content in (
        ([0, 1], "a"),
        ([1, 0], "b"),
        ([0, 0], "a"),
        ([None, None], "a"),
        ([1, 2], "a"),
        ([5, "0"], "a"),
    ):
        messages = [
            {"index": index, "message": {"content": text}, "finish_reason": "stop"}
            for index, text in zip(indexes, "ab", strict=True)
        ]
        outcome = ChatSession(2).parse(json.dumps({"choices": messages}).encode())
        assert (outcome.content, len(outcome.choices)) == (content, 1)
    one = {"choices": [{"index": 7, "message": {"content": "a"}, "finish_reason": "stop"}]}
    assert ChatSession(1).parse(json.dumps(one).encode()).content == "a"


async def test_P21_agent_reads_n_from_its_arguments_and_from_extra_body(kit: Kit) -> None:
    """The agent expects as many choices as `n` or `extra_body` ask for; `None` counts as absent."""
    events = [
        *(chunk(text, index=i % 2) for i, text in enumerate("adbe")),
        chunk(finish="stop"),
        chunk(finish="stop", index=1),
    ]
    for options, content in (({"n": 2}, "ab"), ({"extra_body": {"n": 2}}, "ab"), ({}, "adbe"), ({"n": None}, "adbe")):
        client = kit.Wire(kit.Reply(kit.events(*events))).openai()
        async with MiniAgents():
            (message,) = await create_openai_agent("m", async_client=client, **options).trigger("Hello")
        assert message.content == content


# --- errors in places of their own

ERRORS: list[tuple[dict[str, Any], type[errors.LLMError]]] = [
    ({"code": 502, "message": "upstream is gone"}, errors.ProviderError),
    ({"code": 429, "message": "upstream is gone"}, errors.RateLimitedError),
    ({"type": "overloaded_error", "message": "upstream is gone"}, errors.ProviderOverloadedError),
    ({"code": "invalid_api_key", "message": "upstream is gone"}, errors.AuthenticationFailedError),
]


@pytest.mark.parametrize(("error", "kind"), ERRORS, ids=lambda value: str(getattr(value, "__name__", "")))
@pytest.mark.parametrize("where", ["choice", "delta", "message", "top", "finish reason"])
def test_P22_chat_session_raises_the_error_in_a_choice(where: str, error: Any, kind: Any) -> None:
    """An error in a choice, its delta or message, or beside the choices raises the class that it names.

    The finish reason "error" raises `ProviderError`.
    """
    last = chunk("lo", {"delta": None, "message": "stop"}.get(where, "error"), message={})
    (choice,) = last["choices"]
    holder = {"choice": choice, "delta": choice["delta"], "message": choice["message"], "top": last}
    holder.get(where, {})["error"] = error
    session = ChatSession(1)
    for event in ({**chunk("Hel", message={}), "error": None}, last):
        if event is last:
            with pytest.raises(kind if where != "finish reason" else errors.ProviderError) as caught:
                session.feed(ServerSentEvent(json.dumps(event).encode()))
            assert where == "finish reason" or "upstream is gone" in str(caught.value)
        else:
            assert session.feed(ServerSentEvent(json.dumps(event).encode())) == "Hel"
    assert session.withheld == ("" if where == "top" else "lo")
    assert not session.outcome().complete


def _raised(feed: Callable[[], Any]) -> errors.LLMError:
    """Return the error that this call raises."""
    with pytest.raises(errors.LLMError) as caught:
        feed()
    return caught.value


@pytest.mark.parametrize(("error", "kind"), ERRORS, ids=lambda value: str(getattr(value, "__name__", "")))
def test_P22_sessions_raise_errors_inside_the_objects_of_each_api(error: Any, kind: Any) -> None:
    """An error in a response, message, delta or document is raised in each API; the text beside it is in `withheld`."""
    for api, path in (
        ("responses", (0, "response")),
        ("responses", (6, "response")),
        ("responses", (5,)),
        ("responses", (2,)),  # text deltas
        ("responses", (3,)),
        ("messages", (2,)),
        ("messages", (3,)),
        ("messages", (3, "delta")),
        ("messages", (0, "message")),
        ("messages", (2, "delta")),
        ("messages", (5, "delta")),
        ("messages", (5,)),
    ):
        failure = _raised(partial(read, api, *changed(api, *path, "error", to=error)))
        assert type(failure) is kind
    session = session_of("messages")
    events = [ServerSentEvent(json.dumps(each).encode()) for each in changed("messages", 3, "delta", "error", to=error)]
    assert [session.feed(event) for event in events[:3]] == ["", "", "Hel"]
    assert type(_raised(partial(session.feed, events[3]))) is kind
    assert session.withheld == "lo"
    choice = {"index": 0, "message": {"content": "Hel"}, "finish_reason": "error"}
    for api, body in (
        ("chat", {"choices": [{**choice, "error": error}]}),
        ("chat", {"choices": [{**choice, "message": {"content": "Hel", "error": error}}]}),
        ("chat", {"choices": [{**choice, "message": None, "error": error}]}),
        ("responses", {"status": "failed", "output": [DONE], "error": error}),
        ("messages", {"content": [{"type": "text", "text": "Hel"}], "error": error}),
    ):
        session = session_of(api)
        failure = _raised(partial(session.parse, json.dumps(body).encode()))
        assert type(failure) is kind
        texts = ("Hello",) if api == "responses" else ("",) if "null" in json.dumps(body) else ("Hel",)
        assert session.withheld in texts


# --- a text in another place


WHOLE: dict[str, Any] = {"content": "Hello", "tool_calls": [CALL]}
START = {"id": "c", "model": "m", "stop_reason": "tool_use"}
USE = {"type": "tool_use", "id": "c1", "name": "f", "input": {"x": 1}}


@pytest.mark.parametrize(
    ("api", "events"),
    [
        ("chat", [{"choices": [{"index": 0, "message": WHOLE, "finish_reason": "tool_calls"}]}]),
        ("chat", [{"choices": [{"message": WHOLE}]}, {"choices": [{"message": WHOLE, "finish_reason": "tool_calls"}]}]),
        (
            "messages",
            [{"type": "message_start", "message": {**START, "content": [{"type": "text", "text": "Hello"}, USE]}}],
        ),
    ],
    ids=["message", "message twice", "message_start"],
)
def test_stream_with_a_whole_answer_in_one_event_has_its_text_and_calls(api: str, events: list[Any]) -> None:
    """A chunk with `message` in place of `delta`, and a `message_start` with content, are read as whole answers."""
    outcome = read(api, *events)
    assert (outcome.content, outcome.finish_reason) == ("Hello", "tool_calls")
    assert [(call.id, call.name, json.loads(call.arguments)) for call in outcome.tool_calls] == [("c1", "f", {"x": 1})]


def test_chunks_with_a_text_in_place_of_a_delta_are_joined() -> None:
    """The chunks of the older completions API, with `text`, add their texts to the answer."""
    texts = [{"choices": [{"index": 0, "text": text}]} for text in ("Hel", "lo")]
    assert read("chat", *texts, {"choices": [{"text": "", "finish_reason": "stop"}]}).content == "Hello"


def test_message_of_a_chunk_that_differs_from_the_deltas_raises_protocol_error() -> None:
    """A `message` after deltas must have their text, because otherwise a part of one of the two would be lost."""
    repeated = {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}
    assert read("chat", chunk("Hello"), repeated).content == "Hello"
    with pytest.raises(errors.StreamProtocolError, match="differs from the deltas"):
        read("chat", chunk("Bye"), repeated)


@pytest.mark.parametrize(
    ("api", "body"),
    [
        ("chat", {"choices": [{"delta": {"content": "Hello"}, "finish_reason": "stop"}]}),
        ("chat", {"choices": [{"text": "Hello", "finish_reason": "stop"}]}),
        ("messages", {"content": "Hello", "stop_reason": "end_turn"}),
        ("responses", {"status": "completed", "output": [{**DONE, "content": "Hello"}]}),
    ],
    ids=["delta", "text", "content of messages", "content of an item"],
)
def test_whole_answer_with_its_text_in_another_place_is_read(api: str, body: Any) -> None:
    """A document with `delta`, `text`, or a content that is a text in place of a list, has that text."""
    assert session_of(api).parse(json.dumps(body).encode()).content == "Hello"


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("model_length", "length"),
        ("MAX_TOKENS", "length"),
        ("max-tokens", "length"),
        ("STOP", "stop"),
        ("SAFETY", "content_filter"),
        ("sensitive", "content_filter"),
        ("tool_use", "tool_calls"),
        ("a new one", "a new one"),
    ],
)
def test_finish_reason_of_each_server_is_normalised(word: str, reason: str) -> None:
    """The words of Mistral, Gemini and others get one meaning; the answer also has the provider's own word."""
    for outcome in (
        read("chat", chunk("Hello"), chunk(finish=word)),
        read("messages", *changed("messages", 5, "delta", "stop_reason", to=word)),
    ):
        assert (outcome.finish_reason, outcome.provider_finish_reason) == (reason, word)


@pytest.mark.parametrize("word", ["insufficient_system_resource", "network_error", "ERROR"])
def test_finish_reason_of_a_server_that_broke_off_is_an_error(word: str) -> None:
    """A server that ends an answer because it failed has not completed the answer."""
    for api, events in (
        ("chat", [chunk("Hello"), chunk(finish=word)]),
        ("messages", changed("messages", 5, "delta", "stop_reason", to=word)),
    ):
        with pytest.raises(errors.LLMError, match=word):
            read(api, *events)


def test_usage_in_a_choice_is_read() -> None:
    """Moonshot sends the usage in the choice of the last chunk."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    outcome = read("chat", chunk("Hello", usage=None), chunk(finish="stop", usage=usage))
    assert outcome.usage is not None
    assert (outcome.usage.input, outcome.usage.output) == (3, 2)


@pytest.mark.parametrize("stream", [True, False])
async def test_P22_partial_message_has_the_text_beside_the_error(stream: bool, kit: Kit) -> None:
    """If an event has text and an error, the text is delivered before the error, unless the request is sent again."""
    error = {"code": 502, "message": "the upstream is gone"}
    last = chunk("lo", finish="error", error=error)
    whole = {"choices": [{"message": {"content": "Hello"}, "finish_reason": "error", "error": error}]}
    failing = kit.Reply(kit.events(chunk("Hel"), last)) if stream else kit.Reply.json(whole)
    async with MiniAgents():
        agent = create_openai_agent("m", async_client=kit.Wire(failing).openai(), retry=None, stream=stream)
        with pytest.raises(errors.ProviderError, match="the upstream is gone") as caught:
            await agent.trigger("Hi")
        assert caught.value.partial.content == "Hello"
        assert caught.value.delivered_any
        again = kit.Wire(kit.Reply(kit.events(last)), kit.Reply(kit.chat("Hello")))
        retry = Retry(first_wait=0)
        (message,) = await create_openai_agent("m", async_client=again.openai(), retry=retry).trigger("Hi")
    assert (message.content, len(again.requests)) == ("Hello", 2)
