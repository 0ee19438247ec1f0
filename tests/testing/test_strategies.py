"""The strategies draw the values that they promise, and their examples shrink to readable ones."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from miniagents import AssistantMessage, Frozen, Message, MessageSequence, MiniAgents, SystemMessage, ToolCall
from miniagents.errors import EmptyStreamError, StreamTruncatedError
from miniagents.ext.llm._sessions import ChatSession, MessagesSession, Outcome, ResponsesSession
from miniagents.ext.llm.sse import SSEDecoder
from miniagents_testing import Step, strategies
from miniagents_testing._wire.dialects import QUIRKS, ProviderStream, provider_stream
from miniagents_testing.faults import Fault
from miniagents_testing.strategies import Boom, Sendable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from miniagents_testing._script import API

quick = settings(database=None, deadline=None, max_examples=2_000, suppress_health_check=list(HealthCheck))

SESSIONS: dict[API, Callable[[], ChatSession | ResponsesSession | MessagesSession]] = {
    "chat": ChatSession,
    "responses": ResponsesSession,
    "messages": MessagesSession,
}


def outcome(stream: ProviderStream, pieces: Iterable[bytes]) -> Outcome:
    """Feed pieces of a stream to the framework's decoder and session, and return the outcome."""
    decoder, session = SSEDecoder(strict=True), SESSIONS[stream.api]()
    for piece in pieces:
        for event in decoder.feed(piece):
            session.feed(event)
    return session.close()


def as_message(stream: ProviderStream, outcome: Outcome) -> AssistantMessage:
    """Return a message with the fields of an outcome."""
    calls = [ToolCall(id=call.id, name=call.name, arguments=call.arguments) for call in outcome.tool_calls]
    tokens = outcome.usage
    return AssistantMessage(
        outcome.content,
        finish_reason=outcome.finish_reason,
        reasoning=outcome.reasoning,
        refusal=outcome.refusal,
        tool_calls=calls,
        usage=None if tokens is None else {"input_tokens": tokens.input, "output_tokens": tokens.output},
        model=outcome.model,
    )


PROVIDER_STREAMS = strategies.provider_streams()


@given(PROVIDER_STREAMS, st.data())
def test_provider_streams_decode_to_their_expected_fields_for_all_cuts(
    stream: ProviderStream, data: st.DataObject
) -> None:
    """The framework decodes the expected fields from a drawn stream of any API, with any quirks, in any pieces."""
    pieces = data.draw(strategies.recuts(stream.response.body))
    assert b"".join(pieces) == stream.response.body
    assert stream.differences(as_message(stream, outcome(stream, pieces))) == []


@given(PROVIDER_STREAMS, st.integers(0, 1_000_000), st.booleans())
def test_provider_stream_is_complete_after_its_number_of_bytes(stream: ProviderStream, number: int, near: bool) -> None:
    """After `complete_after` bytes the decoder has a complete answer, and not one byte earlier."""
    body = stream.response.body
    length = stream.complete_after - number % 2 if near else number % (len(body) + 1)
    if length >= stream.complete_after:
        assert outcome(stream, [body[:length]]).complete
    else:
        with pytest.raises((StreamTruncatedError, EmptyStreamError)):
            outcome(stream, [body[:length]])


@pytest.mark.parametrize(("api", "quirk"), [(api, quirk) for api in QUIRKS for quirk in QUIRKS[api]])
def test_each_quirk_changes_the_bytes_and_not_the_message(api: API, quirk: str) -> None:
    """Each quirk of a provider changes the bytes of a scripted answer, but not the message that our decoder gets."""
    step = Step(
        ["one", " two 😀"],
        reasoning=["so", " so"],
        refusal=["no", "no"],
        tool_calls=[ToolCall(id=name, name=name, arguments='{"x": 1}') for name in "ab"],
    )
    plain, odd = provider_stream(api, step), provider_stream(api, step, quirks=[quirk])
    assert odd.response.body != plain.response.body
    assert odd.differences(as_message(odd, outcome(odd, [odd.response.body]))) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: provider_stream("grpc"), "api must be one of chat, responses, messages"),  # type: ignore[arg-type]  # the mistake
        (lambda: provider_stream("chat", quirks=["pings"]), "chat has no quirk 'pings'; it has: CRLF"),
        (lambda: provider_stream("chat", Step("x", then="reset")), "breaks off"),
        (lambda: provider_stream("chat", Step(tool_calls=[("f", {})])), "tool call without an id"),
        (lambda: strategies.provider_streams(apis=[]), "apis must be some of chat, responses, messages"),
        (lambda: strategies.stream_faults(provider_stream("chat").response, kinds=["refuse"]), "kinds must be some of"),
        (lambda: strategies.texts(pieces=[]), "at least one"),
        (lambda: strategies.messages(classes=[]), "at least one"),
        (lambda: strategies.cancellation_points(max_steps=-1), "max_steps"),
    ],
    ids=range(9),
)
def test_strategies_refuse_wrong_arguments_at_the_call(make: Callable[[], object], message: str) -> None:
    """A strategy raises a `ValueError` for a wrong argument when it is called, not when an example is drawn."""
    with pytest.raises(ValueError, match=message):
        make()


def test_stream_faults_refuses_a_stream_without_events() -> None:
    """`stream_faults` raises a `ValueError` for a stream without events when it is called."""
    stream = provider_stream("chat").response
    with pytest.raises(ValueError, match="no event"):
        strategies.stream_faults(Fault("none")(type(stream)()))


@given(PROVIDER_STREAMS, st.data())
def test_stream_faults_always_change_the_stream(stream: ProviderStream, data: st.DataObject) -> None:
    """Each fault that `stream_faults` draws changes the bytes, times or end of its stream."""
    fault = data.draw(strategies.stream_faults(stream.response)).fresh()
    assert fault(stream.response) != stream.response


@given(strategies.token_splits(strategies.texts()), st.text(), st.data())
def test_token_splits_join_to_the_text(tokens: list[str], text: str, data: st.DataObject) -> None:
    """Tokens that `token_splits` draws join to the text, whether the text is given or drawn."""
    assert all(isinstance(token, str) for token in tokens)
    assert "".join(data.draw(strategies.token_splits(text))) == text


class Note(Message, class_="note of the strategies"):
    """Message class with a required field."""

    colour: str

    if TYPE_CHECKING:

        def __init__(self, content: Any = None, /, **fields: Any) -> None: ...


@given(strategies.messages(classes=[Note], fields={"colour": st.sampled_from(["red", "blue"])}, max_fields=0))
def test_messages_draws_messages_of_a_given_class(message: Message) -> None:
    """`messages` draws messages of the given class, with drawn values of its required field."""
    assert type(message) is Note
    assert message.colour in ("red", "blue")


def seen(strategy: st.SearchStrategy[Any], has: Callable[[Any], bool]) -> Any:
    """Return the plainest example of a strategy for which `has` returns True."""
    return find(strategy, has, settings=quick, random=Random(0))


def assert_draws(strategy: st.SearchStrategy[Any], has: Callable[[Any], bool]) -> None:
    """Raise an error unless a strategy draws an example for which `has` returns True; look for no plainer one."""
    find(strategy, has, settings=settings(quick, phases=[Phase.generate]), random=Random(0))


def contains(value: Any, kind: type) -> bool:
    """Return True if a value is of this class, or has one in it at any depth."""
    items: Iterable[Any] = ()
    if isinstance(value, dict):
        items = value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        items = value
    elif isinstance(value, Frozen):
        items = (field for _, field in value)
    return isinstance(value, kind) or any(contains(item, kind) for item in items)


@pytest.mark.parametrize("kind", [bool, float, bytes, list, tuple, dict, set, Frozen, Message])
def test_values_draws_values_of_all_kinds(kind: type) -> None:
    """`values` draws values of each kind, mutable ones included."""
    assert_draws(strategies.values(), lambda value: contains(value, kind))


@pytest.mark.parametrize("mark", ["\ud83d", "\x1b]52;c;aGk=\x07", "<!-- /miniagents -->", "```\n", "\r\n", "\x00"])
def test_texts_draws_special_pieces(mark: str) -> None:
    """`texts` draws surrogates, control characters, separators, fences and line ends."""
    assert seen(strategies.texts(), lambda text: mark in text) == mark


@pytest.mark.parametrize(
    "kind",
    [
        *("text", "message", "fields", "promise", "stream", "broken stream", "error", "wrong type"),
        *("list", "tuple", "iterator", "async iterator", "sequence", "agent", "failing agent"),
    ],
)
def test_sendables_draws_every_kind(kind: str) -> None:
    """`sendables` draws every kind of `MessageType`, and values of wrong types."""

    def has(sendable: Sendable) -> bool:
        inner = () if isinstance(sendable.content, str) else sendable.content
        return sendable.kind == kind or any(map(has, inner))

    assert_draws(strategies.sendables(), has)


@given(strategies.sendables(errors=False))
def test_sendables_without_errors_draws_no_failing_source(sendable: Sendable) -> None:
    """A value that `sendables(errors=False)` draws can be read without an error."""
    assert Boom not in sendable.seen
    assert TypeError not in sendable.seen


def test_examples_shrink_to_readable_code() -> None:
    """The plainest example of each strategy is short, and shown as the code that makes it."""
    assert seen(strategies.token_splits("abcd"), lambda tokens: len(tokens) > 2) == ["", "", "abcd"]
    assert repr(seen(strategies.messages(), lambda message: isinstance(message, SystemMessage))) == (
        "SystemMessage(content='', role='system')"
    )
    assert repr(seen(PROVIDER_STREAMS, lambda stream: len(stream.step.deltas.text) > 1)) == (
        "provider_stream('chat', Step(['', ''], reasoning=(), refusal=()))"
    )
    nested = seen(strategies.sendables(), lambda each: len(each.seen) > 1 and each.seen[-1] is Boom)
    assert repr(nested) == "broken_iterator(text(''))"
    assert seen(strategies.schedule_seeds(), lambda seed: seed > 0) == 1
    assert seen(strategies.cancellation_points(), lambda step: step > 3) == 4


@given(strategies.sendables(errors=False, max_leaves=4), strategies.token_splits(strategies.texts(max_size=3)))
async def test_strategies_work_in_async_tests(sendable: Sendable, tokens: list[str]) -> None:
    """In an async test, drawn `Sendable` plans build their messages within the event loop of the test."""

    async def streamer(metadata: dict[str, Any]) -> Any:
        for token in tokens:
            yield token

    async with MiniAgents():
        promise = Message.promise(message_token_streamer=streamer)
        sequence = MessageSequence.turn_into_sequence_promise([sendable.build(), promise])
        assert [str(message) for message in await sequence] == [*sendable.seen, "".join(tokens)]
