"""Persistence handlers get each message once, after the messages inside it (law 30)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from common import echo

from miniagents.errors import DeadlockError
from miniagents.messages import Message
from miniagents.miniagents import InteractionContext, MiniAgents, miniagent


class Store:
    """Persistence handler that fails a given number of times, and then keeps its messages."""

    def __init__(self, *, failures: int = 0) -> None:
        self.kept: list[Message] = []
        self.failures = failures
        self.calls = 0

    async def __call__(self, messages: tuple[Message, ...]) -> None:
        """Keep the messages, or fail."""
        self.calls += 1
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise OSError("disk full")
        self.kept.extend(messages)

    @property
    def texts(self) -> list[str]:
        """Texts of the kept messages, in the order in which they came."""
        return [str(message) for message in self.kept]


async def test_handler_gets_each_message_object_once() -> None:
    """A handler gets a message object once, however often it is sent, and also an equal message in another object."""
    store = Store()
    async with MiniAgents(on_persist_messages=[store]) as context:
        message = Message("once")
        for _ in range(3):
            await echo.trigger([message, message])
            await context.apersist_messages(message)
        await echo.trigger(Message("once"))
    assert store.texts == ["once", "once"]
    assert store.kept[0] is message


async def test_handler_gets_sub_messages_before_their_message() -> None:
    """A handler gets the messages inside a message before it, and a message inside two others only once."""
    store = Store()
    async with MiniAgents(on_persist_messages=[store]) as context:
        shared = Message("shared")
        left, right = Message("left", parts=[shared, {"deep": shared}]), Message("right", part=shared)
        await context.apersist_messages([Message("top", parts=[left, right, left]), right])
    assert store.texts == ["shared", "left", "right", "top"]


async def test_C26_failed_handler_gets_its_messages_again() -> None:
    """A handler that failed gets its messages again with the next ones, and the context raises the error at its end."""
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


async def test_failed_handler_gets_its_messages_again_at_the_end_of_the_context() -> None:
    """A handler that failed with the last message gets it once more when the context is left."""
    store = Store(failures=1)
    with pytest.raises(ExceptionGroup, match="1 error"):
        async with MiniAgents(on_persist_messages=[store]):
            await echo.trigger("only")
    assert store.texts == ["only"]
    assert store.calls == 2


async def test_apersist_messages_raises_the_error_of_the_handler() -> None:
    """If the handler fails, `apersist_messages` raises its error, and the next call stores the messages."""
    store = Store(failures=1)
    async with MiniAgents(on_persist_messages=[store], unobserved_errors="log") as context:
        message = Message("text")
        with pytest.raises(OSError, match="disk full"):
            await context.apersist_messages(message)
        assert store.kept == []
        await context.apersist_messages(message)
    assert store.kept == [message]


async def test_each_handler_has_its_own_record_of_persisted_messages() -> None:
    """If one of two handlers fails, only the failed one gets the message a second time."""
    good, bad = Store(), Store(failures=1)
    with pytest.raises(ExceptionGroup):
        async with MiniAgents(on_persist_messages=[good]) as context:
            context.on_persist_messages(bad)
            await echo.trigger("text")
    assert good.texts == bad.texts == ["text"]
    assert good.calls == 1


async def test_message_of_an_inner_context_goes_to_handlers_of_both_contexts() -> None:
    """Handlers of the inner and of the outer context each get a message of the inner context once."""
    outer, inner = Store(), Store()
    async with MiniAgents(on_persist_messages=[outer]):
        async with MiniAgents(on_persist_messages=[inner]):
            await echo.trigger("inner")
        await echo.trigger("outer")
    assert inner.texts == ["inner"]
    assert outer.texts == ["inner", "outer"]


async def test_overlapping_messages_are_persisted_without_a_deadlock() -> None:
    """If tasks persist messages with shared sub-messages, and the handler sends messages, each one is stored once."""
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
    """Persistence handler that waits until the event `gate` is set."""

    def __init__(self, *, failures: int = 0) -> None:
        super().__init__(failures=failures)
        self.gate = asyncio.Event()

    async def __call__(self, messages: tuple[Message, ...]) -> None:
        """Wait for the event, then keep the messages or fail."""
        await self.gate.wait()
        await super().__call__(messages)


@pytest.mark.parametrize("failures", [0, 1])
async def test_apersist_messages_waits_for_another_task_that_persists_the_message(failures: int) -> None:
    """`apersist_messages` waits while another task stores the message, and stores it itself if that task fails."""
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


async def test_apersist_messages_does_not_wait_for_other_messages() -> None:
    """A handler may wait for an agent that persists another message: the other message is stored first."""
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


async def test_handlers_that_wait_for_each_other_raise_deadlock_error() -> None:
    """If two calls of a handler each persist the other's message, one gets `DeadlockError`, and the other goes on."""
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


async def test_slow_handler_gets_waiting_messages_in_one_call() -> None:
    """Messages that come while a handler works, or after it failed, are given to its next call all together."""
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


async def test_handler_gets_no_failed_messages() -> None:
    """A message whose stream failed is not given to the persistence handler."""
    store = Store()

    async def streamer(_: dict[str, Any]) -> Any:
        yield "half"
        raise ValueError

    async with MiniAgents(on_persist_messages=[store], unobserved_errors="log"):
        with pytest.raises(ValueError):  # noqa: PT011 - it has no text
            await echo.trigger(Message.promise(message_token_streamer=streamer))
    assert store.kept == []


def test_context_refuses_a_handler_that_is_not_callable() -> None:
    """`MiniAgents(on_persist_messages=...)` raises `TypeError` for a handler that is not callable."""
    with pytest.raises(TypeError, match="persistence handler"):
        MiniAgents(on_persist_messages=["file.txt"])  # type: ignore[list-item]  # that is the mistake
