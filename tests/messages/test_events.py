"""Events of messages: text, thoughts, refusals and calls in the order of arrival, for any number of readers."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miniagents import (
    AnswerFinished,
    AnswerRestarted,
    AssistantMessage,
    InteractionContext,
    LLMError,
    Message,
    MessagePromise,
    MiniAgents,
    ReasoningDelta,
    RefusalDelta,
    StreamedPromise,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallReady,
    miniagent,
)
from miniagents.ext.llm.openai import Retry
from miniagents_testing import Failure, ScriptedLLM, Step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CALL = ToolCall(id="c", name="f", arguments="{}")
PIECES: list[Any] = [
    ReasoningDelta("hm"),
    ReasoningDelta("m"),
    "Hel",
    ToolCallDelta(0, "c", "f", ""),
    "lo",
    "!",
    RefusalDelta("no"),
    ToolCallReady(CALL),
]


def promise_of(
    pieces: list[Any], *, error: Exception | None = None, wait: bool = True, **options: Any
) -> MessagePromise:
    """Return a promise whose source yields these tokens and events."""

    async def streamer(fields: dict[str, Any]) -> AsyncIterator[Any]:
        fields["kind"] = "test"
        for piece in pieces:
            if wait:
                await asyncio.sleep(0)
            yield piece
        if error is not None:
            raise error

    return AssistantMessage.promise(message_token_streamer=streamer, **options)


def as_events(pieces: list[Any]) -> list[Any]:
    """Return the pieces with a `TextDelta` for each token."""
    return [TextDelta(piece) if isinstance(piece, str) else piece for piece in pieces]


async def all_of(promise: MessagePromise) -> list[Any]:
    """Return all events."""
    return [event async for event in promise.events()]


@pytest.mark.parametrize("start_soon", [True, False])
@pytest.mark.parametrize("wait", [True, False])
async def test_events_come_in_the_order_of_arrival_for_each_reader_at_any_time(start_soon: bool, wait: bool) -> None:
    """Readers from the start, in the middle and after the end get the same events; readers of tokens see text only."""
    async with MiniAgents():
        promise = promise_of(PIECES, wait=wait, start_soon=start_soon)
        early = [asyncio.create_task(all_of(promise)) for _ in range(2)]
        tokens: list[str] = []
        async for token in promise:
            tokens.append(token)
            if len(tokens) == 2:
                early.append(asyncio.create_task(all_of(promise)))
        message = await promise
        expected = [*as_events(PIECES), AnswerFinished(message)]
        assert [await task for task in early] == [expected] * 3
        assert await all_of(promise) == expected
        assert tokens == ["Hel", "lo", "!"]
        assert [token for batch in [b async for b in promise.batches()] for token in batch] == tokens
        assert (message.content, message.kind) == ("Hello!", "test")


@pytest.mark.parametrize("start_soon", [True, False])
async def test_events_keep_their_order_in_a_long_message(start_soon: bool) -> None:
    """An event among 40,000 tokens keeps its place for a reader that reads along, and for one that comes later."""
    pieces = [*map(str, range(20_000)), ReasoningDelta("Hm"), *map(str, range(20_000))]
    async with MiniAgents():
        promise = promise_of(pieces, wait=False, start_soon=start_soon)
        live, late = await all_of(promise), await all_of(promise)
        message = await promise

    assert live == late == [*as_events(pieces), AnswerFinished(message)]


async def test_error_comes_at_its_place_among_the_events() -> None:
    """A message's failure is raised after the events before it, and there is no `AnswerFinished`."""
    async with MiniAgents():
        promise = promise_of(PIECES, error=LLMError("broken"))
        for _ in range(2):
            seen = []
            with pytest.raises(LLMError, match="broken"):
                async for event in promise.events():
                    seen.append(event)
            assert seen == as_events(PIECES)


async def test_event_does_not_wake_a_reader_of_tokens() -> None:
    """A reader that waits for a token keeps waiting on one future through three events, and gets the next token."""
    woken: list[str] = []
    go_on: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def streamer(fields: dict[str, Any]) -> AsyncIterator[Any]:
        yield "a"
        for _ in range(3):
            await asyncio.sleep(0)
            yield ReasoningDelta("r")
        await go_on
        yield "b"

    async with MiniAgents():
        promise = Message.promise(message_token_streamer=streamer)
        tokens, events = aiter(promise), promise.events()
        assert await anext(tokens) == "a"
        waiting = asyncio.ensure_future(anext(tokens))
        waiting.add_done_callback(lambda _: woken.append("token"))
        cell = promise._cell
        seen = [await anext(events) for _ in range(4)]
        assert seen == [TextDelta("a"), *[ReasoningDelta("r")] * 3]
        assert isinstance(cell.waiters, dict)
        assert len(cell.waiters) == 1, "the reader of tokens has waited on the same future all the time"
        assert woken == []
        go_on.set_result(None)
        assert await waiting == "b"


async def test_cancelled_reader_of_events_leaves_nothing_behind() -> None:
    """A cancelled reader takes no event from another reader, and leaves no waiting future behind."""
    async with MiniAgents():
        appender_promise = promise_of(PIECES)
        leaving = asyncio.create_task(all_of(appender_promise))
        staying = asyncio.create_task(all_of(appender_promise))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        leaving.cancel()
        assert (await staying)[:-1] == as_events(PIECES)
        assert not appender_promise._cell.event_waiters
        with pytest.raises(asyncio.CancelledError):
            await leaving


async def test_dropped_reader_of_events_stops_the_source() -> None:
    """If the only reader of a message's events breaks off, the token streamer of the message is closed."""
    ended: list[str] = []

    async def streamer(fields: dict[str, Any]) -> AsyncIterator[Any]:
        try:
            yield ReasoningDelta("r")
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    async with MiniAgents():

        async def read() -> None:
            async for _ in Message.promise(message_token_streamer=streamer).events():
                break

        await read()
        gc.collect()
        for _ in range(5):
            await asyncio.sleep(0)
        assert ended == ["ended"]


async def test_events_of_a_resolved_message_are_its_text() -> None:
    """The events of a resolved message are a `TextDelta` of its text, if it has any, and `AnswerFinished`."""
    async with MiniAgents():
        for message in (Message("hi"), AssistantMessage("")):
            texts = [TextDelta(str(message))] if str(message) else []
            assert await all_of(message.as_promise) == [*texts, AnswerFinished(message)]


@pytest.mark.parametrize("fails", [True, False])
async def test_events_pass_through_errors_as_messages_and_last(fails: bool) -> None:
    """A reply under `errors_as_messages`, and the promise `last`, have the events of the message that they pass on."""
    error = LLMError("broken") if fails else None

    @miniagent
    async def agent(ctx: InteractionContext) -> None:
        ctx.reply(promise_of(PIECES, error=error))

    async with MiniAgents():
        replies = [promise async for promise in agent.trigger(errors_as_messages=True)]
        message = await replies[0]
        assert await all_of(replies[0]) == [*as_events(PIECES), AnswerFinished(message)]
        assert len(replies) == 1 + fails
        if not fails:
            last = agent.trigger().last
            assert await all_of(last) == [*as_events(PIECES), AnswerFinished(await last)]


def test_events_match_by_position_and_cannot_change() -> None:
    """Events are immutable, and `match` reads their fields by position."""
    match TextDelta("x"), ToolCallReady(CALL):
        case TextDelta(text), ToolCallReady(call):
            assert (text, call) == ("x", CALL)
    with pytest.raises(AttributeError):
        TextDelta("x").text = "y"  # type: ignore[misc]  # the mistake
    assert TextDelta("x") == TextDelta("x")
    assert len({TextDelta("x"), TextDelta("x"), ReasoningDelta("x")}) == 2
    assert repr(TextDelta("x")) == "TextDelta(text='x')"


@given(
    st.lists(st.text(max_size=3) | st.builds(ReasoningDelta, st.text(max_size=3)), max_size=8),
    st.integers(0, 12),
    st.booleans(),
)
async def test_joined_text_deltas_are_the_content(pieces: list[Any], steps: int, start_soon: bool) -> None:
    """A reader that begins at any step gets all that a source yields in order, and its text is the content."""
    async with MiniAgents():
        promise = promise_of(pieces, wait=False, start_soon=start_soon)
        for _ in range(steps):
            await asyncio.sleep(0)
        events = await all_of(promise)
        assert events[:-1] == as_events(pieces)
        assert events[-1] == AnswerFinished(await promise)
        assert "".join(event.text for event in events if isinstance(event, TextDelta)) == (await promise).content


# --- models


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
async def test_events_of_a_model_are_the_parts_of_its_message(api: Any, stream: bool) -> None:
    """Thoughts, text and calls of an answer come as events, and joined they are the fields of the message."""
    calls: Any = [ToolCall(id="a", name="f", arguments='{"x": 1}'), ToolCall(id="b", name="g", arguments="{}")]
    step = Step("Let me see.", reasoning="Hm, well.", tool_calls=calls)
    async with MiniAgents():
        (promise,) = [each async for each in ScriptedLLM([step]).agent(api=api, stream=stream).trigger("q")]
        events = await all_of(promise)
        message: Any = await promise
    *rest, finished = events
    assert finished == AnswerFinished(message)
    assert "".join(event.text for event in rest if isinstance(event, TextDelta)) == message.content == "Let me see."
    assert "".join(event.text for event in rest if isinstance(event, ReasoningDelta)) == message.reasoning
    ready = [event.call for event in rest if isinstance(event, ToolCallReady)]
    assert ready == list(message.tool_calls)
    assert [(call.id, call.arguments) for call in ready] == [("a", '{"x": 1}'), ("b", "{}")]
    assert [type(event) for event in rest[-2:]] == [ToolCallReady] * 2
    assert isinstance(rest[0], ReasoningDelta)
    deltas = [event for event in rest if isinstance(event, ToolCallDelta)]
    if stream:
        for index, call in enumerate(calls):
            own = [event for event in deltas if event.index == index]
            assert (own[0].id, own[0].name) == (call.id, call.name)
            assert "".join(event.arguments for event in own) in (call.arguments, "")


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_refusal_of_a_model_comes_as_events(api: Any) -> None:
    """The text of a refusal comes as `RefusalDelta`s, and as a whole in the message's `refusal`."""
    async with MiniAgents():
        for stream in (True, False):
            llm = ScriptedLLM([Step("", refusal="I cannot do that.")])
            (promise,) = [each async for each in llm.agent(api=api, stream=stream).trigger("q")]
            deltas = [event.text for event in await all_of(promise) if isinstance(event, RefusalDelta)]
            assert "".join(deltas) == (await promise).refusal == "I cannot do that."


async def test_repetition_of_a_request_voids_the_events_before_it() -> None:
    """`AnswerRestarted` comes between the thoughts of a failed attempt and the events of the next one."""
    script: list[Any] = [Step("", reasoning="one", then="reset"), Failure(503), Step("text", reasoning="two")]
    async with MiniAgents():
        agent = ScriptedLLM(script).agent(retry=Retry(attempts=3, first_wait=0.0))
        (promise,) = [each async for each in agent.trigger("q")]
        events = await all_of(promise)
    assert [type(event).__name__ for event in events] == [
        "ReasoningDelta",
        "AnswerRestarted",
        "AnswerRestarted",
        "ReasoningDelta",
        "TextDelta",
        "AnswerFinished",
    ]
    assert events[1] == AnswerRestarted()


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
async def test_no_attempt_is_repeated_once_a_call_was_ready(api: Any) -> None:
    """If an answer breaks off in its calls, its request is repeated only as long as none of them was ready."""
    calls: Any = [("f", {"x": 1}), ("g", {"y": [1, 2, 3]})]
    async with MiniAgents():
        for after in range(4):
            llm = ScriptedLLM([Step("", tool_calls=calls, then="reset", after=after), Step("", tool_calls=calls)])
            agent = llm.agent(api=api, retry=Retry(attempts=2, first_wait=0.0))
            (promise,) = [each async for each in agent.trigger("q")]
            events = await all_of(promise)
            ready = [event.call.name for event in events if isinstance(event, ToolCallReady)]
            assert ready == ["f", "g"]
            restarts = [place for place, event in enumerate(events) if isinstance(event, AnswerRestarted)]
            assert len(restarts) == len(llm.calls) - 1
            assert not any(isinstance(event, ToolCallReady) for event in events[: max(restarts, default=0)])


# --- JSON while it grows


async def test_partial_json_gives_the_value_so_far_and_then_the_whole() -> None:
    """`partial_json` yields the value of the text so far, with unfinished strings and lists, and the whole one last."""
    tokens = ['{"city": "Ro', 'me", "days": [1', ", 2", '], "ok": tr', "ue}"]
    async with MiniAgents():
        promise = promise_of(tokens)
        values = [value async for value in promise.partial_json()]
        assert values[0] == {"city": "Ro"}
        assert values[1]["city"] == "Rome"
        assert values[-1] == {"city": "Rome", "days": [1, 2], "ok": True}
        assert [value async for value in promise.partial_json()][-1] == values[-1]


async def test_partial_json_raises_value_error_for_half_a_surrogate_pair() -> None:
    """A text that UTF-8 cannot encode is no JSON, and the error says so as for any other text."""

    async def tokens(fields: dict[str, Any]) -> AsyncIterator[str]:
        yield '{"name": "x'
        yield '\udcff"}'

    async with MiniAgents():
        with pytest.raises(ValueError, match="the text of the message is no JSON"):
            [value async for value in Message.promise(message_token_streamer=tokens).partial_json()]


async def test_partial_json_gives_a_value_for_each_two_percent_of_growth_at_most() -> None:
    """`partial_json` gives fewer than 400 growing values for a text of over 8000 tokens, and the whole value last."""
    text = "[" + ", ".join(f'"word {number}"' for number in range(800)) + "]"
    async with MiniAgents():
        values = [value async for value in promise_of(list(text)).partial_json()]
        assert values[-1] == [f"word {number}" for number in range(800)]
        sizes = [len(str(value)) for value in values]
        assert sizes == sorted(sizes)
        assert len(values) < 400 < len(text) / 20


async def test_partial_json_raises_for_a_text_that_is_no_json_and_for_a_failure() -> None:
    """`partial_json` raises `ValueError` if the whole text is no JSON, and the message's error if the message fails."""
    async with MiniAgents():
        for tokens in (["no", " json"], ['{"a": 1', "}}"], [], ['{"a": ']):
            with pytest.raises(ValueError, match="no JSON"):
                _ = [value async for value in promise_of(tokens).partial_json()]
        seen = []
        with pytest.raises(LLMError):
            async for value in promise_of(['{"a": 1', "2"], error=LLMError("broken")).partial_json():
                seen.append(value)
        assert seen[-1] == {"a": 12}


async def test_stream_of_other_pieces_has_events_among_its_pieces() -> None:
    """Only messages keep events and tokens apart: any other stream has events among its pieces, in order."""

    async def source() -> AsyncIterator[Any]:
        yield TextDelta("a")
        yield "b"

    async with MiniAgents():
        assert await StreamedPromise(source) == (TextDelta("a"), "b")
