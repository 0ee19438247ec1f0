"""The strategies themselves: what they draw is what it promises to be, and shrinks to what a person can read."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, find, given, settings
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
    """What the framework's decoder and session make of these pieces of a stream."""
    decoder, session = SSEDecoder(strict=True), SESSIONS[stream.api]()
    for piece in pieces:
        for event in decoder.feed(piece):
            session.feed(event)
    return session.close()


def as_message(stream: ProviderStream, outcome: Outcome) -> AssistantMessage:
    """A message with the fields that streams say something of."""
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
def test_a_provider_stream_says_what_is_expected_of_it_wherever_it_is_cut(
    stream: ProviderStream, data: st.DataObject
) -> None:
    """Encoders and decoder know nothing of each other, and agree on every API, dialect and cut."""
    pieces = data.draw(strategies.recuts(stream.response.body))
    assert b"".join(pieces) == stream.response.body
    assert stream.differences(as_message(stream, outcome(stream, pieces))) == []


@given(PROVIDER_STREAMS, st.integers(0, 1_000_000), st.booleans())
def test_a_provider_stream_is_whole_from_its_last_word_on(stream: ProviderStream, number: int, near: bool) -> None:
    """Not one byte earlier."""
    body = stream.response.body
    length = stream.complete_after - number % 2 if near else number % (len(body) + 1)
    if length >= stream.complete_after:
        assert outcome(stream, [body[:length]]).complete
    else:
        with pytest.raises((StreamTruncatedError, EmptyStreamError)):
            outcome(stream, [body[:length]])


@pytest.mark.parametrize(("api", "quirk"), [(api, quirk) for api in QUIRKS for quirk in QUIRKS[api]])
def test_every_quirk_makes_a_difference_on_the_wire_and_none_in_the_message(api: API, quirk: str) -> None:
    """Of an answer that has everything."""
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
    ("make", "what"),
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
def test_mistakes_are_errors_at_the_call(make: Callable[[], object], what: str) -> None:
    """Not when the first example is drawn."""
    with pytest.raises(ValueError, match=what):
        make()


def test_a_stream_without_events_has_no_faults() -> None:
    """That is said at the call as well."""
    stream = provider_stream("chat").response
    with pytest.raises(ValueError, match="no event"):
        strategies.stream_faults(Fault("none")(type(stream)()))


@given(PROVIDER_STREAMS, st.data())
def test_every_fault_strikes(stream: ProviderStream, data: st.DataObject) -> None:
    """It changes the stream, or the moment of a chunk; only a cut behind the last event changes nothing."""
    fault = data.draw(strategies.stream_faults(stream.response)).fresh()
    assert fault(stream.response) != stream.response


@given(strategies.token_splits(strategies.texts()), st.text(), st.data())
def test_tokens_are_a_text_in_pieces(tokens: list[str], text: str, data: st.DataObject) -> None:
    """Of a text that is drawn, or of one that is known."""
    assert all(isinstance(token, str) for token in tokens)
    assert "".join(data.draw(strategies.token_splits(text))) == text


class Note(Message, class_="note of the strategies"):
    """A class with a field that must be given."""

    colour: str

    if TYPE_CHECKING:

        def __init__(self, content: Any = None, /, **fields: Any) -> None: ...


@given(strategies.messages(classes=[Note], fields={"colour": st.sampled_from(["red", "blue"])}, max_fields=0))
def test_messages_may_be_of_ones_own_class(message: Message) -> None:
    """With strategies for the fields that it demands."""
    assert type(message) is Note
    assert message.colour in ("red", "blue")


def seen(strategy: st.SearchStrategy[Any], has: Callable[[Any], bool]) -> Any:
    """The plainest example for which this holds."""
    return find(strategy, has, settings=quick, random=Random(0))


def contains(value: Any, kind: type) -> bool:
    """Whether there is one of this kind in a value, at any depth."""
    items: Iterable[Any] = ()
    if isinstance(value, dict):
        items = value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        items = value
    elif isinstance(value, Frozen):
        items = (field for _, field in value)
    return isinstance(value, kind) or any(contains(item, kind) for item in items)


@pytest.mark.parametrize("kind", [bool, float, bytes, list, tuple, dict, set, Frozen, Message])
def test_values_are_of_all_kinds(kind: type) -> None:
    """Also those that can be changed afterwards."""
    seen(strategies.values(), lambda value: contains(value, kind))


@pytest.mark.parametrize("mark", ["\ud83d", "\x1b]52;c;aGk=\x07", "<!-- /miniagents -->", "```\n", "\r\n", "\x00"])
def test_texts_hold_what_has_broken_programs(mark: str) -> None:
    """Half characters, control characters, separators, fences, line ends."""
    assert seen(strategies.texts(), lambda text: mark in text) == mark


def test_sendables_are_of_every_kind() -> None:
    """All that `MessageType` allows, and what it does not."""
    kinds: set[str] = set()

    def collect(sendable: Sendable) -> None:
        kinds.add(sendable.kind)
        for inner in () if isinstance(sendable.content, str) else sendable.content:
            collect(inner)

    settings(quick, max_examples=300)(given(strategies.sendables())(collect))()
    assert kinds >= {"text", "message", "fields", "promise", "stream", "broken stream", "error", "wrong type"}
    assert kinds >= {"list", "tuple", "iterator", "async iterator", "sequence", "agent", "failing agent"}


@given(strategies.sendables(errors=False))
def test_without_errors_nothing_fails(sendable: Sendable) -> None:
    """For who tests something else."""
    assert Boom not in sendable.seen
    assert TypeError not in sendable.seen


def test_examples_shrink_to_what_a_person_can_read() -> None:
    """The plainest thing of its kind, shown as code that makes it."""
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
async def test_strategies_work_in_async_tests_on_one_loop(sendable: Sendable, tokens: list[str]) -> None:
    """What belongs to a loop is made in it, anew for each example."""

    async def streamer(metadata: dict[str, Any]) -> Any:
        for token in tokens:
            yield token

    async with MiniAgents():
        promise = Message.promise(message_token_streamer=streamer)
        sequence = MessageSequence.turn_into_sequence_promise([sendable.build(), promise])
        assert [str(message) for message in await sequence] == [*sendable.seen, "".join(tokens)]
