"""Promises of messages: their tokens, their errors, and when the source of tokens is stopped (laws 12, 13, 29)."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest
from common import steps

from miniagents.errors import FreezeError, LLMError, MiniAgentsError, PromiseCancelledError
from miniagents.messages import AssistantMessage, Message, MessagePromise, MessageSequence, UserMessage
from miniagents.messages._text import split_messages
from miniagents.miniagents import InteractionContext, MiniAgents, miniagent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

turn_into = MessageSequence.turn_into_sequence_promise


class Tokens:
    """Token streamer that counts its tokens and records its end."""

    def __init__(self, *tokens: Any, metadata: dict[str, Any] | None = None, error: Exception | None = None) -> None:
        self.tokens = tokens
        self.metadata = metadata or {}
        self.error = error
        self.closed = False
        self.given = 0

    async def __call__(self, metadata: dict[str, Any]) -> AsyncIterator[str]:
        """Set the metadata, yield the tokens, and raise the error if there is one."""
        try:
            metadata.update(self.metadata)
            for token in self.tokens:
                await asyncio.sleep(0)
                self.given += 1
                yield token
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True

    def promise(self, message_class: type[Message] = Message, **known: Any) -> MessagePromise:
        """Return a message promise of these tokens."""
        return message_class.promise(message_token_streamer=self, **known)


def endless() -> Tokens:
    """Return a source with more tokens than any of these tests reads."""
    return Tokens(*["x"] * 10_000)


# --- the message (law 29)


async def test_message_promise_resolves_to_tokens_and_fields() -> None:
    """A message promise resolves to its joined tokens and fields; the streamer's fields replace those given before."""
    async with MiniAgents():
        source = Tokens("Hel", "", "lo", metadata={"model": "gpt", "usage": {"input_tokens": 3}, "k": 2})
        promise = source.promise(AssistantMessage, k=1, size=[1, 2])
        assert promise.known_beforehand == {"k": 1, "size": (1, 2)}
        assert promise.message_class is AssistantMessage
        assert [token async for token in promise] == ["Hel", "", "lo"]
        message = await promise
        assert isinstance(message, AssistantMessage)
        assert (message.content, message.model, message.k, message.size) == ("Hello", "gpt", 2, (1, 2))
        assert message.usage is not None
        assert message.usage.input_tokens == 3
        assert await promise is message


async def test_known_beforehand_is_frozen_at_the_call() -> None:
    """`known_beforehand` is immutable and does not show later changes of a list that the caller gave."""
    async with MiniAgents():
        tags = ["a"]
        promise = Tokens("x").promise(tags=tags)
        tags.append("b")
        with pytest.raises(TypeError):
            promise.known_beforehand["tags"] = ()  # type: ignore[index]  # that is the mistake
        assert (await promise).tags == promise.known_beforehand["tags"] == ("a",)


async def test_message_promise_refuses_a_field_that_cannot_be_frozen() -> None:
    """`Message.promise` raises an error that names the field if a known field cannot be made immutable."""
    async with MiniAgents():
        with pytest.raises(FreezeError, match="tool"):
            Tokens("x").promise(tool=object())


@pytest.mark.parametrize(
    "metadata",
    [{"usage": "no usage"}, {"k": object()}, {1: "no name"}, {"content": "again"}],
    ids=["usage", "object", "key", "content"],
)
async def test_message_promise_fails_when_metadata_is_invalid(metadata: dict[Any, Any]) -> None:
    """If a streamer sets invalid metadata, readers get the tokens and then an error, which an await raises, too."""
    async with MiniAgents():
        promise = Tokens("a", "b", metadata=metadata).promise(AssistantMessage)
        seen = []
        with pytest.raises((TypeError, ValueError)):
            async for token in promise:
                seen.append(token)
        assert seen == ["a", "b"]
        with pytest.raises((TypeError, ValueError)):
            await promise


async def test_message_promise_fails_when_known_fields_are_invalid() -> None:
    """Invalid known fields raise `ValueError`; if the source fails too, its error has a plain `partial` message."""
    async with MiniAgents():
        for source in (Tokens("a"), Tokens("a", error=LLMError("broken"))):
            with pytest.raises((ValueError, LLMError)) as caught:
                await source.promise(AssistantMessage, usage="no usage", role=5)
            if isinstance(caught.value, LLMError):
                assert caught.value.partial == Message("a")


@pytest.mark.parametrize("wrong", [1, None, b"bytes", Message("x"), ["x"]], ids=repr)
async def test_message_promise_fails_when_a_token_is_no_text(wrong: Any) -> None:
    """If a streamer yields a value that is no text, readers get the tokens before it and then `TypeError`."""
    async with MiniAgents():
        source = Tokens("good", wrong, "never")
        promise = source.promise()
        with pytest.raises(TypeError, match="A token must be a str"):
            await promise
        seen = []
        with pytest.raises(TypeError):
            async for token in promise:
                seen.append(token)
        assert seen == ["good"]
        await steps()
        assert source.closed


async def test_as_promise_resolves_to_the_same_message() -> None:
    """`as_promise` works without a context, streams the text as one token, and resolves to the same message."""
    message = UserMessage("hello", k=1)
    promise = message.as_promise
    assert promise.is_done
    assert await promise is message
    assert [token async for token in promise] == ["hello"]
    assert promise.known_beforehand == {"role": "user", "k": 1}
    assert await Message.promise("hi") == Message("hi")


async def test_message_promise_refuses_wrong_arguments() -> None:
    """`Message.promise` raises `TypeError` for content with a streamer, and for a streamer that is not callable."""
    async with MiniAgents():
        with pytest.raises(TypeError, match="not both"):
            Message.promise("content", message_token_streamer=Tokens("x"))
        with pytest.raises(TypeError, match="async generator function"):
            Message.promise(message_token_streamer="tokens")  # type: ignore[arg-type]  # that is the mistake


# --- errors in the middle (law 12)


async def test_message_error_has_the_partial_message() -> None:
    """If a stream fails, the error's `partial` is a message of the promised class with text and metadata so far."""
    async with MiniAgents():
        error = LLMError("broken")
        promise = Tokens("Hel", "lo", metadata={"model": "gpt"}, error=error).promise(AssistantMessage, k=1)
        for _ in range(3):
            seen = []
            with pytest.raises(LLMError) as caught:
                async for token in promise:
                    seen.append(token)
            assert seen == ["Hel", "lo"]
            assert caught.value is error
        assert error.partial == AssistantMessage("Hello", model="gpt", k=1)
        with pytest.raises(LLMError):
            await promise


async def test_message_error_keeps_its_partial_message_when_passed_on() -> None:
    """The error of a joined message has the `partial` message of the member that failed."""
    async with MiniAgents():
        sequence = MessageSequence.turn_into_sequence_promise(
            ["before", Tokens("par", "tial", error=LLMError("broken")).promise()]
        )
        with pytest.raises(LLMError) as caught:
            await sequence.as_single_text_promise()
        assert caught.value.partial == Message("partial")


async def test_message_error_has_the_partial_text_when_metadata_is_invalid() -> None:
    """If a failed stream also set invalid metadata, `partial` has the text and leaves the metadata out."""
    async with MiniAgents():
        source = Tokens("text", metadata={"usage": "half"}, error=LLMError("broken"))
        with pytest.raises(LLMError) as caught:
            await source.promise(AssistantMessage)
        assert caught.value.partial == Message("text")


# --- when the source is stopped (law 13)


async def test_message_promise_cancel_closes_the_source() -> None:
    """`cancel` closes the source within a loop step; readers get an error with the partial message."""
    async with MiniAgents():
        source = endless()
        promise = source.promise()
        await steps(5)
        promise.cancel()
        await asyncio.sleep(0)
        assert source.closed
        with pytest.raises(PromiseCancelledError) as caught:
            await promise
        assert caught.value.partial == Message("x" * source.given)
        assert not isinstance(caught.value, asyncio.CancelledError)
        assert isinstance(caught.value, MiniAgentsError)


async def test_message_source_stops_when_the_promise_is_dropped() -> None:
    """A source is closed a loop step after the last reference to its promise is gone, read before or not."""
    async with MiniAgents():
        for start_soon in (True, False):
            source = endless()
            promise = source.promise(start_soon=start_soon)
            if not start_soon:
                async for _ in promise:
                    break
            await steps(5)
            assert source.given
            del promise
            await asyncio.sleep(0)
            assert source.closed


async def test_C1_message_source_stops_when_its_only_reader_breaks() -> None:
    """If the only reader breaks out of its loop and drops the promise, the source is closed."""
    async with MiniAgents():
        source = endless()
        async for _ in source.promise():
            break
        await asyncio.sleep(0)
        assert source.closed


async def test_message_source_continues_while_a_reader_waits() -> None:
    """A task that iterates or awaits keeps the source running, without another reference to the promise."""
    async with MiniAgents():
        source = Tokens(*["x"] * 50)
        assert [token async for token in source.promise()] == ["x"] * 50
        assert (await Tokens(*["x"] * 50).promise()).content == "x" * 50
        iterator = aiter(Tokens(*["x"] * 50).promise())
        gc.collect()
        await steps()
        assert len([token async for token in iterator]) == 50


async def test_message_source_stops_when_a_cycle_is_collected() -> None:
    """The source of a promise in a reference cycle stops when the garbage collector runs."""
    async with MiniAgents():
        source = endless()
        cycle: list[Any] = [source.promise()]
        cycle.append(cycle)
        await steps(5)
        del cycle
        gc.collect()
        await asyncio.sleep(0)
        assert source.closed


async def test_message_source_continues_when_one_of_two_readers_stops() -> None:
    """If one of two readers stops early, the other one still gets all tokens."""
    async with MiniAgents():
        shared = [Tokens(*["x"] * 100).promise()]

        async def read() -> int:
            return len([token async for token in shared[0]])

        reader = asyncio.create_task(read())
        await steps(5)
        async for _ in shared[0]:
            break
        await steps(5)
        assert await reader == 100


@pytest.mark.parametrize("passed_on", [0, 1, 5])
async def test_message_source_continues_while_a_sequence_holds_the_message(passed_on: int) -> None:
    """A stream goes on while a sequence, or one around it, is referenced; it stops when the outermost is dropped."""
    async with MiniAgents():
        source = endless()
        sequence = MessageSequence.turn_into_sequence_promise(["first", source.promise()])
        for _ in range(passed_on):
            sequence = MessageSequence.turn_into_sequence_promise([sequence, "more"])
        await steps(5)
        gc.collect()
        given = source.given
        await steps(5)
        assert source.given > given
        del sequence
        await asyncio.sleep(0)
        assert source.closed


@pytest.mark.parametrize("still_running", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
async def test_message_source_stops_when_replies_are_dropped(still_running: bool, depth: int) -> None:
    """If replies of nested agents are dropped, the stream among them is closed, and the agents work to their end."""
    source = endless()
    ended: list[int] = []

    @miniagent
    async def writer(ctx: InteractionContext, depth: int) -> None:
        ctx.reply(source.promise() if depth == 1 else writer.trigger(depth=depth - 1))
        if still_running:
            await steps(50)
            ctx.reply("dropped")
        ended.append(depth)

    async with MiniAgents():
        replies = writer.trigger(depth=depth)
        await steps(20)
        assert source.given
        async for promise in replies:
            async for _ in promise:
                break
            break
        del promise
        given = source.given
        await steps()
        assert source.given > given
        del replies
        await asyncio.sleep(0)
        assert source.closed
    assert sorted(ended) == list(range(1, depth + 1))


async def running(*makers: Any, ended: list[str]) -> AsyncIterator[Any]:
    """Yield the results of these functions, then wait for ever; note the end in `ended`."""
    try:
        for make in makers:
            yield make()
        await asyncio.Event().wait()
    finally:
        ended.append("closed")


@miniagent
async def replier(ctx: InteractionContext, make: Any) -> None:
    """Reply the result of the function."""
    ctx.reply(make())


@miniagent
async def unordered(ctx: InteractionContext, make: Any) -> None:
    """Reply the result of the function out of order, after an iterable that never yields."""
    ctx.reply(running(ended=[]))
    ctx.reply_out_of_order(make())


WAYS: dict[str, Any] = {
    "by an async iterable": lambda make, ended: running(make, ended=ended),
    "in a list by an async iterable": lambda make, ended: [["first"], [running(lambda: ["x", [make()]], ended=ended)]],
    "by an iterable in an iterable": lambda make, ended: running(
        lambda: running(lambda: running(make, ended=ended), ended=ended), ended=ended
    ),
    "by an iterator in an iterable": lambda make, ended: running(lambda: (make() for _ in "x"), ended=ended),
    "by an endless iterator": lambda make, ended: (make() if number == 0 else "x" for number in range(10_000_000)),
    "in a sequence by an iterable": lambda make, ended: running(
        lambda: turn_into([make(), "more"]), lambda: turn_into([running(ended=ended)]), ended=ended
    ),
    "by an agent by an iterable": lambda make, ended: running(
        lambda: replier.trigger(make=lambda: running(make, ended=ended)), ended=ended
    ),
    "out of order": lambda make, ended: unordered.trigger(make=make),
    "by an iterable out of order": lambda make, ended: unordered.trigger(make=lambda: running(make, ended=ended)),
    "by an agent out of order": lambda make, ended: unordered.trigger(
        make=lambda: replier.trigger(make=lambda: running(make, ended=ended))
    ),
    "by splitting": lambda make, ended: split_messages(running(make, ended=ended)),
}


@pytest.mark.parametrize("end", ["break", "drop", "cancel", "cancel and keep"])
@pytest.mark.parametrize("by_an_agent", [True, False])
@pytest.mark.parametrize("way", WAYS)
async def test_C29_message_source_stops_when_dropped_or_cancelled_however_it_was_sent(
    way: str, by_an_agent: bool, end: str
) -> None:
    """A stream sent in any way, and the iterables around it, are closed when its replies are dropped or cancelled."""
    source, ended = endless(), list[str]()
    kept: list[Any] = []

    async def use() -> None:
        def make() -> Any:
            return WAYS[way](source.promise, ended)

        replies = replier.trigger(make=make) if by_an_agent else turn_into(make())
        while not source.given:  # noqa: ASYNC110 - one loop step after the other
            await asyncio.sleep(0)
        if end == "break":
            async for promise in replies:
                async for _ in promise:
                    break
                break
        if end.startswith("cancel"):
            replies.cancel()
        if end == "cancel and keep" and by_an_agent:
            kept.append(replies)

    async with MiniAgents():
        await use()
        before = len(ended)
        await asyncio.sleep(0)
        if way == "by splitting":  # it reads the stream from outside, and lets go of it when its own task has ended
            await steps(4)
        elif end.startswith("cancel") and not by_an_agent:  # what agents make for it stops when it is dropped
            await steps(2)
        assert source.closed
        assert way.endswith(("iterator", "out of order", "splitting")) or len(ended) > before


async def test_async_iterable_continues_while_it_can_be_read() -> None:
    """An async iterable in a sequence goes on while a sequence, reader, await or persistence handler needs it."""
    kept: list[str] = []

    async def keep(messages: tuple[Message, ...]) -> None:
        kept.extend(map(str, messages))

    async def slowly() -> AsyncIterator[str]:
        for text in ("a", "b"):
            await steps(5)
            yield text

    async with MiniAgents():
        assert [str(message) for message in await turn_into(slowly())] == ["a", "b"]
        assert [str(await promise) async for promise in turn_into([slowly(), "c"])] == ["a", "b", "c"]
        outer = turn_into([turn_into(slowly()), "c"])
        gc.collect()
        assert len(await outer) == 3
        first = await anext(aiter(turn_into(slowly())))
        assert str(await first) == "a"
    async with MiniAgents(on_persist_messages=[keep]):
        replier.trigger(make=slowly)
        split_messages(slowly())
        gc.collect()
    assert sorted(kept) == ["a", "a", "a", "b", "b", "b"]


async def test_splitting_continues_to_the_end_of_a_part_that_is_read() -> None:
    """A reader that keeps only one part of a split message gets all of that part; then the splitting stops."""
    async with MiniAgents():
        source = Tokens(*["x", "y\n\n", *["z"] * 1000])
        part = await anext(aiter(split_messages(source.promise())))
        assert str(await part) == "xy"
        await steps(5)
        assert source.closed
        assert source.given < 20


async def test_cancelled_replies_stop_only_streams_of_their_agent() -> None:
    """Cancelling an agent's replies stops its own stream, and not those that the agent was sent or given."""
    own, theirs = endless(), endless()
    async with MiniAgents():
        given = theirs.promise()
        sent = turn_into(running(lambda: given, ended=[]))

        @miniagent
        async def passing(ctx: InteractionContext) -> None:
            ctx.reply([ctx.message_promises, given, own.promise()])

        replies = passing.trigger(sent)
        await steps(5)
        replies.cancel()
        await steps(5)
        assert own.closed
        assert not theirs.closed
        assert not sent.is_done
        sent.cancel()
        given.cancel()


async def test_agent_continues_when_replies_around_its_own_are_dropped_or_cancelled() -> None:
    """If outer replies are dropped or cancelled, the stream of an inner agent stops, but the agent works to its end."""
    log: list[str] = []
    source = endless()

    @miniagent
    async def worker(ctx: InteractionContext) -> None:
        ctx.reply(source.promise())
        await steps(30)
        log.append("done")

    @miniagent
    async def boss(ctx: InteractionContext) -> None:
        ctx.reply(running(worker.trigger, ended=[]))

    async with MiniAgents():
        for end in ("drop", "cancel"):
            source.closed = False
            replies = boss.trigger()
            await steps(10)
            if end == "cancel":
                replies.cancel()
            del replies
            await steps(3)
            assert source.closed
    assert log == ["done", "done"]


async def test_dropping_a_thousand_nested_iterables_needs_no_recursion() -> None:
    """If a thousand nested iterables are dropped, the stream inside the innermost stops in the next loop step."""
    source = endless()

    def nested(depth: int) -> Any:
        return source.promise() if depth == 0 else running(lambda: nested(depth - 1), ended=[])

    async with MiniAgents():
        sequence = turn_into(nested(1000))
        while not source.given:  # noqa: ASYNC110 - one loop step after the other
            await asyncio.sleep(0)
        del sequence
        await asyncio.sleep(0)
        assert source.closed


async def test_dropping_replies_of_a_thousand_nested_agents_needs_no_recursion() -> None:
    """If replies of a thousand nested agents are dropped, the innermost's stream stops in the next loop step."""
    source, stop = endless(), asyncio.Event()

    @miniagent
    async def link(ctx: InteractionContext, depth: int) -> None:
        ctx.reply(source.promise() if depth == 1 else link.trigger(depth=depth - 1))
        await stop.wait()

    async with MiniAgents():
        replies = link.trigger(depth=1000)
        while not source.given:  # noqa: ASYNC110 - one loop step after the other
            await asyncio.sleep(0)
        del replies
        await asyncio.sleep(0)
        assert source.closed
        stop.set()


async def test_message_source_continues_while_a_joined_message_reads_it() -> None:
    """A stream goes on while a joined message reads it, and stops soon after the joined message is dropped."""
    async with MiniAgents():
        source = endless()
        joined = MessageSequence.turn_into_sequence_promise(source.promise()).as_single_text_promise(start_soon=True)
        await steps(10)
        given = source.given
        await steps(5)
        assert source.given > given
        del joined
        await steps(3)  # first the pump of the joined message ends, then that of the source
        assert source.closed


async def test_message_source_continues_for_a_persistence_handler() -> None:
    """With a persistence handler, a dropped message streams to its end and is given to the handler."""
    kept: list[Message] = []

    async def keep(messages: tuple[Message, ...]) -> None:
        kept.extend(messages)

    async with MiniAgents(on_persist_messages=[keep]):
        Tokens("a", "b").promise()
        gc.collect()
    assert kept == [Message("ab")]


async def test_dropped_message_is_no_failure_of_the_context() -> None:
    """A context whose stream was dropped ends without an error, and without waiting for the source."""
    source = endless()
    async with MiniAgents():
        source.promise()
    assert source.given < 100


async def test_message_source_stops_when_another_thread_drops_the_promise() -> None:
    """The source is closed even if a thread other than the loop's drops the last reference to the promise."""
    async with MiniAgents():
        source = endless()
        box = [source.promise()]
        await steps(5)
        await asyncio.to_thread(box.clear)
        await steps(2)
        assert source.closed


async def test_promise_is_dropped_without_an_error_after_its_loop_was_closed() -> None:
    """A promise whose loop was closed is dropped without an error; if kept, it resolves in another loop."""

    async def main() -> MessagePromise:
        async with MiniAgents():
            promise = Tokens("a").promise()
        return promise

    promise = await asyncio.to_thread(asyncio.run, main())
    assert promise.is_done
    assert await promise == Message("a")
    del promise
    gc.collect()


async def test_pending_anext_keeps_the_promise() -> None:
    """A message or replies that only a pending `anext` refers to go on, and this `anext` returns their first item."""
    async with MiniAgents():
        gate = asyncio.Event()

        async def stream(_: dict[str, Any]) -> AsyncIterator[str]:
            await gate.wait()
            yield "token"

        @miniagent
        async def late(ctx: InteractionContext) -> None:
            await gate.wait()
            ctx.reply("reply")

        token = asyncio.ensure_future(anext(aiter(Message.promise(message_token_streamer=stream))))
        reply = asyncio.ensure_future(anext(aiter(late.trigger())))
        for _ in range(5):
            await asyncio.sleep(0)
        gate.set()
        assert await token == "token"
        assert str(await (await reply)) == "reply"
