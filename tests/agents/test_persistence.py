"""Messages are handed to those who keep them, once and children first (law 30)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from miniagents.errors import DeadlockError
from miniagents.messages import Message
from miniagents.miniagents import InteractionContext, MiniAgents, miniagent


class Store:
    """A persistence handler that keeps what it gets, and fails a number of times first."""

    def __init__(self, *, failures: int = 0) -> None:
        self.kept: list[Message] = []
        self.failures = failures
        self.calls = 0

    async def __call__(self, messages: tuple[Message, ...]) -> None:
        """What `on_persist_messages` takes."""
        self.calls += 1
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise OSError("disk full")
        self.kept.extend(messages)

    @property
    def texts(self) -> list[str]:
        """What it keeps, in the order in which it came."""
        return [str(message) for message in self.kept]


@miniagent
async def echo(ctx: InteractionContext) -> None:
    """Replies what it was sent."""
    ctx.reply(ctx.message_promises)


async def test_each_message_object_is_persisted_once() -> None:
    """However often it is sent on and awaited; equal messages that are other objects are other messages."""
    store = Store()
    async with MiniAgents(on_persist_messages=[store]) as context:
        message = Message("once")
        for _ in range(3):
            await echo.trigger([message, message])
            await context.apersist_messages(message)
        await echo.trigger(Message("once"))
    assert store.texts == ["once", "once"]
    assert store.kept[0] is message


async def test_sub_messages_come_first() -> None:
    """Depth first, children before their parents, and what two messages share only once."""
    store = Store()
    async with MiniAgents(on_persist_messages=[store]) as context:
        shared = Message("shared")
        left, right = Message("left", parts=[shared, {"deep": shared}]), Message("right", part=shared)
        await context.apersist_messages([Message("top", parts=[left, right, left]), right])
    assert store.texts == ["shared", "left", "right", "top"]


async def test_C26_a_failing_handler_is_asked_again_and_its_error_is_not_lost() -> None:
    """A message counts as persisted only after a handler succeeded; the error is reported at the end."""
    store = Store(failures=1)
    with pytest.raises(ExceptionGroup) as caught:
        async with MiniAgents(on_persist_messages=[store]):
            await echo.trigger("first")
            for _ in range(5):
                await asyncio.sleep(0)
            assert store.texts == []
            await echo.trigger("second")
    assert [type(error) for error in caught.value.exceptions] == [OSError]
    assert sorted(store.texts) == ["first", "second"]


async def test_the_end_of_the_context_is_an_opportunity_too() -> None:
    """A handler that failed at the last message gets it once more."""
    store = Store(failures=1)
    with pytest.raises(ExceptionGroup, match="1 error"):
        async with MiniAgents(on_persist_messages=[store]):
            await echo.trigger("only")
    assert store.texts == ["only"]
    assert store.calls == 2


async def test_who_asks_for_persistence_gets_the_error() -> None:
    """`apersist_messages` raises what the handler failed with, and the next call tries again."""
    store = Store(failures=1)
    async with MiniAgents(on_persist_messages=[store], unobserved_errors="log") as context:
        message = Message("text")
        with pytest.raises(OSError, match="disk full"):
            await context.apersist_messages(message)
        assert store.kept == []
        await context.apersist_messages(message)
    assert store.kept == [message]


async def test_handlers_do_not_share_a_mark() -> None:
    """What one handler failed to take, another one has taken: each keeps its own account."""
    good, bad = Store(), Store(failures=1)
    with pytest.raises(ExceptionGroup):
        async with MiniAgents(on_persist_messages=[good]) as context:
            context.on_persist_messages(bad)
            await echo.trigger("text")
    assert good.texts == bad.texts == ["text"]
    assert good.calls == 1


async def test_outer_contexts_persist_as_well() -> None:
    """A message of an inner context goes to the handlers of both, once."""
    outer, inner = Store(), Store()
    async with MiniAgents(on_persist_messages=[outer]):
        async with MiniAgents(on_persist_messages=[inner]):
            await echo.trigger("inner")
        await echo.trigger("outer")
    assert inner.texts == ["inner"]
    assert outer.texts == ["inner", "outer"]


async def test_overlapping_messages_never_deadlock() -> None:
    """Many tasks persist messages that share parts, while the handler itself sends messages."""
    store = Store()

    async def handler(messages: tuple[Message, ...]) -> None:
        if not any(message.content == "note" for message in messages):
            await context.apersist_messages("note")
            await echo.trigger(messages[0])
        await store(messages)

    async with MiniAgents(on_persist_messages=[handler]) as context:
        shared = [Message(str(number)) for number in range(10)]
        tops = [Message("top", parts=shared[number : number + 3]) for number in range(8)]
        await asyncio.gather(*[context.apersist_messages([top, shared[0], top]) for top in tops])
    ids = [id(message) for message in store.kept]
    assert len(ids) == len(set(ids))
    assert {id(message) for message in (*shared, *tops)} <= set(ids)
    for top in tops:
        for part in top.parts:
            assert ids.index(id(part)) < ids.index(id(top))


class SlowStore(Store):
    """Takes nothing before its gate is open."""

    def __init__(self, *, failures: int = 0) -> None:
        super().__init__(failures=failures)
        self.gate = asyncio.Event()

    async def __call__(self, messages: tuple[Message, ...]) -> None:
        """What `on_persist_messages` takes."""
        await self.gate.wait()
        await super().__call__(messages)


@pytest.mark.parametrize("failures", [0, 1])
async def test_who_asks_for_persistence_waits_for_whoever_is_at_it(failures: int) -> None:
    """Another task hands the message, or a part of it, over; when that fails, it is handed over once more."""
    store = SlowStore(failures=failures)
    async with MiniAgents(on_persist_messages=[store], unobserved_errors="log") as context:
        part = Message("part")
        whole = Message("whole", part=part)
        first = asyncio.create_task(context.apersist_messages(part))
        await asyncio.sleep(0)
        others = [asyncio.create_task(context.apersist_messages(each)) for each in (part, whole, [part, whole])]
        for _ in range(10):
            await asyncio.sleep(0)
        assert not any(task.done() for task in (first, *others))
        store.gate.set()
        for other in others:
            await other
            assert store.texts == ["part", "whole"][: len(store.texts)]
            assert part in store.kept
        assert isinstance(first.exception(), OSError) == bool(failures)
    assert store.texts == ["part", "whole"]


async def test_what_has_nothing_in_common_is_not_waited_for() -> None:
    """A handler that waits for an agent, which persists messages of its own, gets on."""
    store = Store()
    pending: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

    async def handler(messages: tuple[Message, ...]) -> None:
        if all(message.content != "index entry" for message in messages):
            indexed = asyncio.get_running_loop().create_future()
            pending.put_nowait(indexed)
            await indexed
        await store(messages)

    @miniagent
    async def indexer(ctx: InteractionContext) -> None:
        indexed = await pending.get()
        await context.apersist_messages("index entry")
        indexed.set_result(None)

    async with MiniAgents(on_persist_messages=[handler]) as context:
        indexer.trigger()
        await context.apersist_messages("text")
    assert store.texts == ["index entry", "text"]


async def test_handlers_that_wait_for_each_other_are_reported() -> None:
    """Each persists, while it has one message in hand, the one that the other has in hand."""
    messages = [Message("zero"), Message("one")]
    store = Store()

    async def handler(batch: tuple[Message, ...]) -> None:
        await asyncio.sleep(0)
        if len(store.kept) == 0:
            await context.apersist_messages(messages[1 - messages.index(batch[0])])
        await store(batch)

    async with MiniAgents(on_persist_messages=[handler], unobserved_errors="log") as context:
        results = await asyncio.gather(*[context.apersist_messages(each) for each in messages], return_exceptions=True)
    assert sum(isinstance(result, DeadlockError) for result in results) == 1
    assert sorted(store.texts) == ["one", "zero"]


async def test_messages_that_come_meanwhile_are_handed_over_together() -> None:
    """A slow handler, or one that fails, is not asked again for each of them."""
    store = SlowStore(failures=1)
    with pytest.raises(ExceptionGroup, match="1 error"):
        async with MiniAgents(on_persist_messages=[store]) as context:
            for number in range(100):
                await echo.trigger(str(number))
            await asyncio.sleep(0)
            assert [task.get_name() for task in context.tasks] == ["persistence"] * 2
            store.gate.set()
    assert store.texts == [str(number) for number in range(100)]
    assert store.calls == 2


async def test_failed_messages_are_not_persisted() -> None:
    """There is no message to keep."""
    store = Store()

    async def streamer(_: dict[str, Any]) -> Any:
        yield "half"
        raise ValueError

    async with MiniAgents(on_persist_messages=[store], unobserved_errors="log"):
        with pytest.raises(ValueError):  # noqa: PT011 - it has no text
            await echo.trigger(Message.promise(message_token_streamer=streamer))
    assert store.kept == []


def test_a_handler_must_be_callable() -> None:
    """The mistake shows where it was made."""
    with pytest.raises(TypeError, match="persistence handler"):
        MiniAgents(on_persist_messages=["file.txt"])  # type: ignore[list-item]  # that is the mistake
