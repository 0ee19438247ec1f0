"""Sequences of messages: nested values go in, and a flat row of messages comes out (laws 19-23)."""

from __future__ import annotations

import array
import asyncio
import collections
import gc
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from common import steps, streamed, texts
from pydantic import BaseModel

from miniagents._promising.context import PromisingContext
from miniagents._promising.freezing import FrozenDict
from miniagents._promising.promise import Promise
from miniagents.errors import CyclicValueError, DeadlockError, FreezeError, PromiseCancelledError
from miniagents.messages import Message, MessagePromise, MessageSequence, MessageSequencePromise, UserMessage
from miniagents.miniagents import InteractionContext, MiniAgents, miniagent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

turn_into = MessageSequence.turn_into_sequence_promise


async def asynchronously(*items: Any, wait: asyncio.Event | None = None) -> AsyncIterator[Any]:
    """Yield the items when `wait` is set, or at once; raise an exception among them."""
    if wait is not None:
        await wait.wait()
    for item in items:
        await asyncio.sleep(0)
        if isinstance(item, BaseException):
            raise item
        yield item


# --- flattening


async def test_sequence_flattens_everything_that_may_be_sent() -> None:
    """A sequence turns texts, promises, dicts, models, lists, iterators and async iterables into messages in order."""

    class Model(BaseModel):
        content: str
        size: int = 3

    async with MiniAgents():
        message = UserMessage("message")
        promise = Message.promise("promise")
        sent: list[Any] = [
            "text",
            message,
            [promise, (["deep"],)],
            {"content": "dict", "k": 1},
            FrozenDict({"content": "frozen dict"}),
            MappingProxyType({"content": "proxy"}),
            Model(content="model"),
            (text for text in ("lazy", ["nested in lazy"])),
            iter(["iterator"]),
            asynchronously("async", [{"content": "nested in async"}]),
            turn_into(["another", "sequence"]),
            collections.deque(["deque"]),
            [],
            "",
        ]
        sequence = turn_into(sent)
        assert await texts(sequence) == [
            "text", "message", "promise", "deep", "dict", "frozen dict", "proxy", "model", "lazy", "nested in lazy",
            "iterator", "async", "nested in async", "another", "sequence", "deque", "",
        ]  # fmt: skip
        messages = await sequence
        assert messages[1] is message
        assert [type(each) for each in messages[:2]] == [Message, UserMessage]
        assert (messages[5].content, messages[7].size) == ("frozen dict", 3)
        assert promise in [each async for each in sequence]


async def test_sequence_ignores_names_of_classes_in_dicts_and_models() -> None:
    """A dict or a model with `class_` that is sent becomes a plain message without that field."""

    class Model(BaseModel):
        content: str = "model"
        class_: str = "UserMessage"

    for message in await turn_into([{"content": "dict", "class_": "UserMessage"}, Model()]):
        assert type(message) is Message


async def test_C19_sequence_takes_100000_nested_lists() -> None:
    """Sending, reading, awaiting and freeing lists that are nested 100,000 deep needs no recursion."""
    nested: Any = "core"
    for _ in range(100_000):
        nested = [nested]
    sequence = turn_into(nested)
    assert await texts(sequence) == ["core"]
    assert [str(message) for message in await sequence] == ["core"]
    del sequence, nested


async def test_sequence_may_be_nested_100000_deep() -> None:
    """Reading, awaiting and freeing sequences inside each other needs no recursion."""
    sequence = turn_into(["core"])
    for number in range(100_000):
        outer = MessageSequence().open().append([sequence, "last"] if number == 0 else [sequence])
        outer.close()
        sequence = outer.sequence_promise
    assert await texts(sequence) == ["core", "last"]
    assert len(await sequence) == 2
    del sequence, outer
    gc.collect()


@pytest.mark.parametrize("kind", [list, collections.deque, collections.UserList])
async def test_C20_sequence_refuses_a_list_that_contains_itself(kind: Callable[[], Any]) -> None:
    """Appending a list that contains itself raises and sends nothing; a list may be sent twice."""
    cyclic = kind()
    cyclic.extend(["first", [cyclic]])
    twice = ["twice"]
    with MessageSequence() as sequence:
        with pytest.raises(CyclicValueError, match="contains itself"):
            sequence.append(cyclic)
        sequence.append([twice, [twice], twice])
    assert await texts(sequence.sequence_promise) == ["twice"] * 3


WRONG = [
    1, 1.5, True, None, b"bytes", bytearray(b"bytes"), memoryview(b"bytes"), {"a", "b"}, frozenset({"a"}), range(3),
    {"a": 1}.keys(), {"a": "b"}.values(), {"a": 1}.items(), object(), Message, str, array.array("i", [1]),
    KeyboardInterrupt(), asyncio.CancelledError(), len, {1: "no name"},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=[f"{type(wrong).__name__}{n}" for n, wrong in enumerate(WRONG)])
async def test_sequence_refuses_wrong_types_at_the_call(wrong: Any) -> None:
    """A wrong value, alone or inside a list, raises `TypeError`, and nothing of that list is sent."""
    with MessageSequence() as sequence:
        for item in (wrong, ["fine", wrong], ("fine", [[wrong]])):
            with pytest.raises(TypeError):
                sequence.append(item)
            with pytest.raises(TypeError):
                sequence.append_out_of_order(item)
        sequence.append("after")
    assert await texts(sequence.sequence_promise) == ["after"]


async def test_sequence_refuses_promises_of_other_values() -> None:
    """A sequence made of a promise of a text, or of a coroutine, raises `TypeError` with "Cannot send"."""
    async with PromisingContext():

        async def resolver() -> str:
            return "text"

        promise = Promise(resolver)
        coroutine = resolver()
        for wrong in (promise, coroutine):
            with pytest.raises(TypeError, match="Cannot send"):
                turn_into(wrong)  # type: ignore[arg-type]  # that is the mistake
        coroutine.close()


async def test_sequence_refuses_a_field_that_cannot_be_frozen() -> None:
    """A dict with a value that no message can hold raises an error that names the field."""
    with pytest.raises(FreezeError, match="meta"):
        turn_into([{"content": "hi", "meta": object()}])


async def test_wrong_item_of_an_iterable_is_a_failed_message_in_its_place() -> None:
    """A wrong item of a generator or async iterable is a failed message in its place, and items after it still come."""
    async with MiniAgents():
        cyclic: list[Any] = []
        cyclic.append(cyclic)
        mixed: list[Any] = ["a", 1, cyclic, ["b", {2}], "c"]
        sources: list[Any] = [iter(mixed), asynchronously(*mixed)]
        for items in sources:
            assert await texts(turn_into(items)) == ["a", "TypeError", "CyclicValueError", "TypeError", "c"]


async def test_sequence_lets_other_tasks_run_during_a_long_generator() -> None:
    """A reader gets the first message before a generator of 1,000 items has ended."""
    async with MiniAgents():
        sequence = turn_into(str(number) for number in range(1000))
        async for _ in sequence:
            break
        assert not sequence.is_done
        assert len(await sequence) == 1000


async def test_sequence_of_nothing_is_empty() -> None:
    """`None` and empty lists make no message; the empty text makes one."""
    nothings: list[Any] = [[], (), None, [[], ()], turn_into([])]
    for nothing in nothings:
        assert await turn_into(nothing) == ()
    assert [str(message) for message in await turn_into("")] == [""]


async def test_turn_into_sequence_promise_returns_a_sequence_promise_unchanged() -> None:
    """`turn_into_sequence_promise` returns a sequence promise, alone or alone in nested lists, as the same object."""
    sequence = turn_into(["a"])
    assert turn_into(sequence) is sequence
    assert turn_into([[sequence]]) is sequence


# --- errors in place


async def test_exception_in_a_sequence_is_a_failed_message_in_its_place() -> None:
    """An exception in a sequence does not stop iteration; awaiting its message or the sequence raises it."""
    error = ValueError("broken")
    sequence = turn_into(["before", error, ["after"]])
    promises = [promise async for promise in sequence]
    assert len(promises) == 3
    with pytest.raises(ValueError, match="broken") as caught:
        await promises[1]
    assert caught.value is error
    with pytest.raises(ValueError, match="broken"):
        async for _ in promises[1]:
            pass
    with pytest.raises(ValueError, match="broken"):
        await sequence
    assert await texts(sequence) == ["before", "ValueError", "after"]


async def test_error_of_an_iterable_ends_only_that_iterable() -> None:
    """If an iterable fails, items that were sent after the iterable still come (law 22)."""

    def broken() -> Iterator[str]:
        yield "from an iterator"
        raise KeyError

    async with MiniAgents():
        sequence = turn_into([broken(), asynchronously("from a stream", ValueError()), "later"])
        expected = ["from an iterator", "KeyError", "from a stream", "ValueError", "later"]
        assert await texts(sequence) == expected
        assert await texts(turn_into([sequence, turn_into([[sequence]])])) == expected * 2


async def test_awaited_sequence_raises_its_first_error_in_order() -> None:
    """Awaiting a sequence raises the first error by position; errors behind it become its notes."""
    async with MiniAgents():
        go_on = asyncio.Event()

        async def slow(_: dict[str, Any]) -> AsyncIterator[str]:
            await go_on.wait()
            yield "x"
            raise ValueError("first in order")

        sequence = turn_into([Message.promise(message_token_streamer=slow), KeyError("first in time"), "fine"])
        await asyncio.sleep(0)
        go_on.set()
        for _ in range(2):
            with pytest.raises(ValueError, match="first in order") as caught:
                await sequence
        assert [note for note in caught.value.__notes__ if "first in time" in note] == caught.value.__notes__


async def test_awaited_sequence_starts_all_members_before_it_waits() -> None:
    """Awaiting a sequence starts all members that work on demand at once: here each waits for the others."""
    async with MiniAgents(start_everything_soon_by_default=False):
        barrier: list[asyncio.Event] = [asyncio.Event() for _ in range(3)]

        async def member(number: int) -> AsyncIterator[str]:
            barrier[number].set()
            for event in barrier:
                await event.wait()
            yield str(number)

        def streamer(_: dict[str, Any]) -> AsyncIterator[str]:
            return member(2)

        sequence = turn_into([member(0), [member(1)], Message.promise(message_token_streamer=streamer)])
        assert [str(message) for message in await sequence] == ["0", "1", "2"]


async def test_cancelled_sequence_ends_with_a_cancelled_message() -> None:
    """A reader of a cancelled sequence gets one last message that failed as cancelled; awaiting the sequence raises."""
    async with MiniAgents():
        sequence = turn_into(asynchronously("a", *["more"] * 1000))
        async for _ in sequence:
            break
        sequence.cancel()
        result = await texts(sequence)
        assert result[-1] == "PromiseCancelledError"
        assert "PromiseCancelledError" not in result[:-1]
        with pytest.raises(PromiseCancelledError):
            await sequence


# --- order


async def test_sequence_keeps_the_order_of_sending() -> None:
    """Items sent after a slow item come after it, also if the slow item is in a nested list."""
    async with MiniAgents():
        late = asyncio.Event()
        with MessageSequence() as sequence:
            sequence.append([asynchronously("slow", wait=late), "fast"]).append("last")
        read = asyncio.create_task(texts(sequence.sequence_promise))
        await asyncio.sleep(0)
        late.set()
        assert await read == ["slow", "fast", "last"]


async def test_out_of_order_items_delay_no_others() -> None:
    """Items sent out of order come as soon as each is available, and delay no other item."""
    async with MiniAgents():
        late, later = asyncio.Event(), asyncio.Event()
        sequence = MessageSequence().open()
        sequence.append_out_of_order([asynchronously("later", wait=later), "at once"])
        sequence.append_out_of_order(asynchronously("late", wait=late)).append("in order")
        sequence.close()
        seen: list[str] = []

        async def read() -> None:
            async for promise in sequence.sequence_promise:
                seen.append(str(await promise))

        task = asyncio.create_task(read())
        for event, expected in ((late, "late"), (later, "later")):
            await asyncio.sleep(0)
            event.set()
            while expected not in seen:  # noqa: ASYNC110 - one loop step after the other
                await asyncio.sleep(0)
        await task
        assert seen == ["at once", "in order", "late", "later"]


async def test_error_comes_after_out_of_order_items_that_were_sent_before() -> None:
    """A sender's error comes to readers after the out-of-order items that were sent before it."""
    async with MiniAgents():
        late = asyncio.Event()
        with MessageSequence(capture_errors=True) as sequence:
            sequence.append_out_of_order(asynchronously("a", "b", wait=late)).append("in order")
            raise ValueError("broken")
        assert not sequence.promise.is_done
        late.set()
        assert await texts(sequence.sequence_promise) == ["in order", "a", "b", "ValueError"]


def ways_of_sending(*contents: str) -> dict[str, Callable[[], Any]]:
    """Return functions that make sendable values of the same messages, available at once or later."""
    return {
        "messages": lambda: [Message(text) for text in contents],
        "dicts in lists": lambda: [[{"content": text}] for text in contents],
        "promises": lambda: [streamed(text) for text in contents],
        "an async iterable": lambda: asynchronously(*contents),
        "an iterator": lambda: iter(contents),
        "a sequence": lambda: turn_into(list(contents)),
        "a sequence of an async iterable": lambda: turn_into([asynchronously(*contents[:1]), *contents[1:]]),
        "an async iterable of sequences": lambda: asynchronously(*(turn_into([text]) for text in contents)),
        "an agent": lambda: replying.trigger(contents=contents),
    }


@miniagent
async def replying(ctx: InteractionContext, contents: tuple[str, ...]) -> None:
    """Reply the texts one after the other."""
    for text in contents:
        await asyncio.sleep(0)
        ctx.reply(text)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("way", ways_of_sending())
async def test_C28_out_of_order_items_come_before_pending_items(way: str, nested: bool) -> None:
    """Available items sent out of order come before pending ones, in one order for all readers and outer sequences."""
    async with MiniAgents():
        late = asyncio.Event()
        pending: Any = asynchronously("pending", "pending too", wait=late)
        if nested:
            pending = turn_into([turn_into(["nested", asynchronously(turn_into([pending, "nested too"]))])])
        sequence = MessageSequence().open()
        outer = turn_into([sequence.sequence_promise, "outer"])
        sequence.append(["first", pending, "in order"])
        before = asyncio.create_task(texts(outer))
        await steps()
        sequence.append_out_of_order(ways_of_sending("early", "early too")[way]())
        sequence.append("last")
        await steps(20)
        seen: list[str] = []
        async for promise in sequence.sequence_promise:
            seen.append(str(await promise))
            if seen[-1] == "early too":
                break
        sequence.append_out_of_order(["x", "y"]).close()
        late.set()
        head, tail = (["nested"], ["nested too"]) if nested else ([], [])
        expected = [
            "first", *head, "early", "early too", "x", "y",
            "pending", "pending too", *tail, "in order", "last", "outer",
        ]  # fmt: skip
        assert seen == expected[: len(seen)]
        assert await before == await texts(outer) == expected
        assert [str(message) for message in await outer] == expected
        assert [str(message) for message in await sequence.sequence_promise] == expected[:-1]


async def test_out_of_order_message_comes_with_its_first_token() -> None:
    """A stream sent out of order takes its place when its first token comes, and is then read as its tokens come."""
    async with MiniAgents():
        slow, end = asyncio.Event(), asyncio.Event()

        async def slowly(_: dict[str, Any]) -> AsyncIterator[str]:
            await slow.wait()
            yield "slow"
            await end.wait()

        sequence = MessageSequence().open()
        sequence.append_out_of_order([Message.promise(message_token_streamer=slowly), streamed("fast")]).close()
        reader = aiter(sequence.sequence_promise)
        assert str(await (await anext(reader))) == "fast"
        slow.set()
        async for token in await anext(reader):
            assert token == "slow"
            end.set()


async def test_out_of_order_items_may_be_sent_before_a_loop_runs() -> None:
    """Items sent out of order before a loop runs come to the first reader before pending items."""
    pending, other = MessageSequence(), MessageSequence()
    sequence = MessageSequence().open()

    def fill() -> None:
        sequence.append(["first", pending.sequence_promise])
        sequence.append_out_of_order(["early", other.sequence_promise]).append("last").close()

    await asyncio.to_thread(fill)
    reader = asyncio.create_task(texts(sequence.sequence_promise))
    await steps()
    with other:
        other.append("other")
    await steps()
    with pending:
        pending.append("pending")
    assert await reader == ["first", "early", "other", "pending", "last"]


async def test_source_on_demand_begins_with_its_reader_beside_out_of_order_items() -> None:
    """An on-demand iterable sent in order does not begin before a reader comes, despite items out of order."""
    begun: list[str] = []

    async def source() -> AsyncIterator[str]:
        for text in ("one", "two", "three"):
            begun.append(text)
            yield text

    async with MiniAgents(start_everything_soon_by_default=False):
        sequence = MessageSequence().open()
        sequence.append(source()).append_out_of_order("early").close()
        await steps()
        assert begun == []
        assert await texts(sequence.sequence_promise) == ["early", "one", "two", "three"]


async def test_error_comes_after_pending_and_out_of_order_items() -> None:
    """If the sender fails, readers get items of `append_out_of_order`, then the pending item, and the error last."""
    async with MiniAgents():
        late = asyncio.Event()
        with MessageSequence(capture_errors=True) as sequence:
            sequence.append(asynchronously("pending", wait=late))
            sequence.append_out_of_order(asynchronously("early"))
            raise ValueError("broken")
        await steps()
        late.set()
        assert await texts(sequence.sequence_promise) == ["early", "pending", "ValueError"]


async def test_cancelled_sequence_ends_without_its_pending_items() -> None:
    """Readers of a cancelled sequence get the messages so far and the error at once, without pending items."""
    async with MiniAgents():
        never = MessageSequence().open()
        for out_of_order in (False, True):
            sequence = MessageSequence().open()
            sequence.append(["first", turn_into(["nested", never.sequence_promise]), "not yet"])
            if out_of_order:
                sequence.append_out_of_order("early")
            early = asyncio.create_task(texts(sequence.sequence_promise))
            await steps()
            sequence.promise.cancel()
            expected = ["first", "nested", *(["early"] if out_of_order else []), "PromiseCancelledError"]
            assert await texts(sequence.sequence_promise) == await early == expected
        never.close()


async def test_cancelled_sequence_drops_later_out_of_order_items() -> None:
    """Items that come out of order after a cancellation are dropped: `PromiseCancelledError` stays the last message."""
    async with MiniAgents():
        late = asyncio.Event()
        sequence = MessageSequence().open()
        sequence.append_out_of_order(asynchronously("late", wait=late)).append("in order")
        sequence.promise.cancel()
        late.set()
        for _ in range(10):
            await asyncio.sleep(0)
        assert await texts(sequence.sequence_promise) == ["in order", "PromiseCancelledError"]


async def test_pending_out_of_order_item_is_cancelled_with_the_context() -> None:
    """If the context fails, a pending out-of-order item and its sequence end with `PromiseCancelledError`."""
    with pytest.raises(KeyError):
        async with MiniAgents():
            with MessageSequence() as sequence:
                sequence.append_out_of_order(asynchronously("never", wait=asyncio.Event()))
            await asyncio.sleep(0)
            raise KeyError
    assert await texts(sequence.sequence_promise) == ["PromiseCancelledError"]


async def test_sequence_sent_into_itself_is_refused() -> None:
    """Sending a sequence into itself raises at once; sending it through others raises when it is read."""
    async with MiniAgents():
        one, two = MessageSequence().open(), MessageSequence().open()
        for append in (one.append, one.append_out_of_order):
            with pytest.raises(CyclicValueError, match="into itself"):
                append(["text", one.sequence_promise])
        one.append(["text", two.sequence_promise]).close()
        two.append(one.sequence_promise).close()
        for sequence in (one, two):
            with pytest.raises(DeadlockError, match="parts of each other: a sequence -> a sequence -> a sequence"):
                await sequence.sequence_promise
            with pytest.raises(DeadlockError):
                await texts(sequence.sequence_promise)


@pytest.mark.parametrize(
    "edges",
    [
        "a<b b<a",
        "a<b b<c c<a",
        "a<b b+a",
        "b+a a<b",
        "a<b b+c c<a",
        "a<b c<a b+c",
        "a<b b+c c<d d+a",
        "a<b c<d d+a b+c",
        "a<b c<d b+c d+a",
        "a+b b+c c<a",
    ],
)
@pytest.mark.parametrize("closed", [True, False])
async def test_sequences_sent_out_of_order_into_each_other_raise_deadlock_error(edges: str, closed: bool) -> None:
    """Sequences sent in a ring (`a<b` out of order, `a+b` in order) raise `DeadlockError` and stop copying messages."""
    async with MiniAgents(unobserved_errors="log") as context:
        sequences = {name: MessageSequence().open() for name in "abcd" if name in edges}
        for name, sequence in sequences.items():
            sequence.append(f"text of {name}")
        for edge in edges.split():
            into, out_of_order, branch = sequences[edge[0]], edge[1] == "<", sequences[edge[2]].sequence_promise
            (into.append_out_of_order if out_of_order else into.append)(branch)
        for sequence in sequences.values():
            if closed:
                sequence.close()
        for _ in range(100):
            await asyncio.sleep(0)
        assert not closed or not context.tasks
        assert all(len(sequence._cell.pieces) < 20 for sequence in sequences.values())
        for sequence in sequences.values():
            sequence.close()
        for sequence in sequences.values():
            with pytest.raises(DeadlockError, match="parts of each other: a sequence -> a sequence"):
                await sequence.sequence_promise


async def test_sequence_may_be_sent_out_of_order_along_several_paths() -> None:
    """A sequence sent to another along several paths, most of them out of order, arrives once for each path."""
    async with MiniAgents():
        late = asyncio.Event()
        source = turn_into(asynchronously("text", wait=late))
        left, right, top = (MessageSequence() for _ in range(3))
        for sequence, branches in ((left, [source, source]), (right, [source])):
            with sequence:
                for branch in branches:
                    sequence.append_out_of_order(branch)
        with top:
            top.append_out_of_order(left.sequence_promise).append_out_of_order(right.sequence_promise)
            top.append(right.sequence_promise)
        late.set()
        assert await texts(top.sequence_promise) == ["text"] * 4


async def test_batches_of_a_sequence_are_message_promises() -> None:
    """`batches()` of a sequence with nested sequences gives lists of message promises only, in order."""
    async with MiniAgents():
        sequence = turn_into([turn_into(["a", "b"]), "c"])
        batches = [batch async for batch in sequence.batches()]
        assert all(isinstance(leaf, MessagePromise) for batch in batches for leaf in batch)
        assert [str(await leaf) for batch in batches for leaf in batch] == ["a", "b", "c"]


async def test_sequence_gives_all_readers_the_same_promises() -> None:
    """Readers that come while a sequence grows, or after it has ended, get the same promise objects."""
    async with MiniAgents():
        sequence = MessageSequence().open()
        early = asyncio.create_task(_listed(sequence.sequence_promise))
        sequence.append(["a", asynchronously("b", "c")])
        middle = asyncio.create_task(_listed(sequence.sequence_promise))
        await asyncio.sleep(0)
        sequence.append("d").close()
        late = await _listed(sequence.sequence_promise)
        assert await early == await middle == late
        assert len(late) == 4


@pytest.mark.parametrize("first", ["iterates", "awaits"])
async def test_awaited_sequence_gives_messages_beside_a_reader_that_iterates(first: str) -> None:
    """`await sequence` gives messages, not promises, even if another task reads the promises during this wait."""
    async with MiniAgents():
        branch, outer = MessageSequence(), MessageSequence()
        outer.open().append([branch.promise, "b", Message("c")]).close()

        async def iterate() -> list[Message]:
            return [await promise async for promise in outer.promise]

        async def wait() -> list[Message]:
            return list(await outer.promise)

        readers = [
            asyncio.create_task(read()) for read in ((iterate, wait) if first == "iterates" else (wait, iterate))
        ]
        await steps(5)
        branch.open().close()
        assert await asyncio.gather(*readers) == [[Message("b"), Message("c")]] * 2


async def test_sequence_keeps_the_identity_of_sent_messages() -> None:
    """Awaiting, iterating and passing on a sequence give the sent message and promise objects themselves."""
    async with MiniAgents():
        message = Message("text")
        sequence = turn_into([message, "more"])
        assert (await sequence)[0] is message
        promises = await _listed(sequence)
        assert await promises[0] is message
        assert (await sequence)[0] is message
        for again in (sequence, turn_into([sequence]), turn_into([sequence, promises])):
            assert (await _listed(again))[:2] == promises
            assert (await again)[0] is message


async def _listed(sequence: MessageSequencePromise) -> list[MessagePromise]:
    """Return the promises that a reader of the sequence gets, as a list."""
    return [promise async for promise in sequence]
